"""How long a person waits: from start to healthy, and from a click on Repair to the patch on the screen.

    python bench/clicks.py [--photo FILE] [--rounds 12] [--starts 5] [--sizes 1024x1024,4000x3000] [--out FOLDER]

The real program with the embedded weights, in a process of its own with folders of its own, driven by a headless
Chromium on the same machine, as a person drives it: choose the photo (cropped and scaled to each size, as JPEG),
scribble over a hole about 300 px across, each round somewhere else, click. The clock runs in the page: from the click
event to the end of the first frame in which the patch stands in the document. The first click at a size is told apart.
The columns of the second table are one after another in every click:

    send      click -> the server has taken the strokes; with what follows where its answer brings the patch along
    server    -> the page knows that the repair is done; its own account of that time is the third table
    fetch     -> the patch's bytes are here
    draw      -> decoded and on the screen

Peak memory is the server process's VmHWM after everything. Saves FOLDER/click-DEVICE.md and .json (default: $OUT, else
bench/results). Bars are for two cores.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.support.page_driver import Person, launch_chromium, open_browser  # noqa: E402
from tests.support.serving import RunningServer  # noqa: E402

RESULTS = Path(__file__).parent / "results"
PARTS = ("send", "server", "fetch", "draw")
STAGES = ("queued", "load", "plan", "wait", "upload", "predict", "composite", "store")
HOLE_PX = 300
BRUSH_RADIUS_PX = 50.0
MOST_RADIUS_PX = 400.0  # of the page's slider, which is logarithmic
START_BAR_S = 12.0
CLICK_BARS_MS = {"1024x1024": 1000.0, "4000x3000": 1200.0}
BODY_BAR_BYTES = 2000
PEAK_BAR_MIB = 2560
SPOTS = ((0.5, 0.5), (0.3, 0.35), (0.68, 0.4), (0.4, 0.66), (0.62, 0.62), (0.35, 0.5), (0.55, 0.3))
TIMES_OUT_MS = 60_000
PREPARED_S = 300.0
PAUSE_S = 0.3  # between rounds: nobody clicks faster

WATCH = """() => {
  const watch = (window.clickWatch = {});
  performance.clearResourceTimings();
  addEventListener("click", (event) => (watch.clicked = event.timeStamp), { capture: true, once: true });
  const seen = new Set(document.querySelectorAll(".fft-patch"));
  new MutationObserver((_, observer) => {
    if ([...document.querySelectorAll(".fft-patch")].every((patch) => seen.has(patch))) return;
    observer.disconnect();
    // The first callback runs before the frame with the patch is painted, the second after it.
    requestAnimationFrame(() => requestAnimationFrame(() => (watch.drawn = performance.now())));
  }).observe(document.querySelector(".fft-world"), { childList: true });
}"""
READ = """() => {
  const { clicked, drawn } = window.clickWatch;
  const calls = performance.getEntriesByType("resource").filter((call) => call.startTime >= clicked);
  const of = (part) => calls.filter(({ name }) => name.includes("/api/v1/") && name.includes(part));
  const sent = of("/repairs")[0].responseEnd;
  // A small patch that is made soon comes with the answer; what is drawn then was sent, made and fetched in one.
  const all = { click: drawn - clicked, send: sent - clicked, server: 0, fetch: 0, draw: drawn - sent };
  if (!of("/patch").length) return all;
  const { startTime: asked, responseEnd: fetched } = of("/patch")[0];
  const done = Math.max(...of("/jobs/").map(({ responseEnd }) => responseEnd).filter((end) => end <= asked));
  return {
    click: drawn - clicked, send: sent - clicked, server: done - sent, fetch: fetched - done, draw: drawn - fetched,
  };
}"""


def main() -> int:
    """Measure, print, save; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photo", type=Path, default=ROOT / "tests" / "data" / "pier.jpg")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--sizes", default="1024x1024,4000x3000")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fftlama-click-") as folder:
        load_before = os.getloadavg()[0]
        starts_s = measure_starts(Path(folder), options.starts)
        server = RunningServer(Path(folder) / "clicks", kind="real").start()
        try:
            with server.client as client:
                health = client.get("/health").json()
            wait_until_prepared(server, health["device"])
            sizes = {
                size: measure_size(server, options.photo, size, options.rounds) for size in options.sizes.split(",")
            }
            peak_mib = peak_memory_mib(server)
        finally:
            server.stop()
    report = {
        "environment": describe_environment(health, load_before),
        "starts_s": [round(seconds, 2) for seconds in starts_s],
        "sizes": sizes,
        "peak_mib": peak_mib,
    }
    missed = missed_bars(report)
    text = as_markdown(report, missed)
    line = json.dumps(report | {"missed": missed})
    print(text, line, sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    stem = f"click-{health['device'].split(':')[0]}"
    (options.out / f"{stem}.md").write_text(text, encoding="utf-8")
    (options.out / f"{stem}.json").write_text(line + "\n", encoding="utf-8")
    return 1 if missed else 0


def measure_starts(folder: Path, count: int) -> list[float]:
    """Seconds from making the process to the first 200 of /health, each with empty data folders."""
    starts_s = []
    for number in range(count):
        server = RunningServer(folder / f"start-{number}", kind="real")
        began_s = time.perf_counter()
        server.start()
        starts_s.append(time.perf_counter() - began_s)
        server.stop()
    return starts_s


def wait_until_prepared(server: RunningServer, device: str) -> None:
    """Wait until a card is prepared for all sizes, which takes long after the very first start, ready as it is."""
    until_s = time.perf_counter() + PREPARED_S
    while device.startswith("cuda") and "all sizes are prepared" not in server.log:
        assert time.perf_counter() < until_s, server.log
        time.sleep(PAUSE_S)


def measure_size(server: RunningServer, photo: Path, size: str, rounds: int) -> dict[str, Any]:
    """Open the photo at one size in a fresh browser and repair it `rounds` times; the first click is kept apart."""
    width, height = map(int, size.split("x"))
    with launch_chromium() as browser:
        person = Person(open_browser(browser), server.url)
        person.page.set_default_timeout(TIMES_OUT_MS)
        data = photo_bytes(photo, width, height)
        began_s = time.perf_counter()
        person.open({"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": data})
        opened_ms = (time.perf_counter() - began_s) * 1000
        slider = 100 * math.log(BRUSH_RADIUS_PX) / math.log(MOST_RADIUS_PX)
        person.page.locator(".fft-size").fill(str(round(slider, 1)))
        clicks = [click_once(person, width, height, SPOTS[number % len(SPOTS)]) for number in range(rounds + 1)]
        bodies = person.posts("/api/v1/repairs")
        person.close()
    return {
        "photo_bytes": len(data),
        "opened_ms": opened_ms,
        "hole_px": hole_across(bodies[0]),
        "body_bytes": max(map(len, bodies)),
        "first": clicks[0],
        "rounds": clicks[1:],
    }


def click_once(person: Person, width: int, height: int, spot: tuple[float, float]) -> dict[str, Any]:
    """Scribble around `spot`, click Repair, and return the parts of the wait and the server's account of it, in ms."""
    reach_px = HOLE_PX / 2 - BRUSH_RADIUS_PX
    ring = [(reach_px * math.cos(turn / 8 * math.tau), reach_px * math.sin(turn / 8 * math.tau)) for turn in range(9)]
    scribble = [*ring, (0.0, 0.0)]
    person.paint(*[(spot[0] + x / width, spot[1] + y / height) for x, y in scribble])
    person.page.evaluate(WATCH)
    person.press("repair")
    person.page.wait_for_function("window.clickWatch.drawn")
    parts: dict[str, Any] = person.page.evaluate(READ)
    person.page.locator(".fft-status", has_text="outputs/").wait_for()  # written; the next click finds the cores free
    parts["stages"] = {name: spent_ms for name, spent_ms in person.rounds[-1]["times_ms"].items() if name in STAGES}
    time.sleep(PAUSE_S)
    return parts


def photo_bytes(photo: Path, width: int, height: int) -> bytes:
    """Return a photo, cropped to the proportions and scaled to the size, as a JPEG like a camera's."""
    with Image.open(photo) as image:
        scaled = ImageOps.fit(image.convert("RGB"), (width, height), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    scaled.save(data, "JPEG", quality=92, subsampling="4:2:0")
    return data.getvalue()


def hole_across(body: bytes) -> int:
    """Width of what a request's strokes cover, in pixels of the photo."""
    strokes = json.loads(body)["strokes"]
    reaches = [(x - stroke["radius"], x + stroke["radius"]) for stroke in strokes for x, _ in stroke["points"]]
    return round(max(right for _, right in reaches) - min(left for left, _ in reaches))


def peak_memory_mib(server: RunningServer) -> int:
    """Most memory the process ever held (Linux)."""
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def describe_environment(health: dict[str, Any], load_before: float) -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "load before": round(load_before, 2),
        "load after": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "device": f"{health['device']}, {health['precision']}",
        "weights": health["weights"],
        "kernels": health.get("kernels", ""),
        "date": time.strftime("%Y-%m-%d"),
    }


def missed_bars(report: dict[str, Any]) -> list[str]:
    """Name the bars that the medians miss."""
    missed = []
    if report["starts_s"] and statistics.median(report["starts_s"]) > START_BAR_S:
        missed.append("start")
    for size, measured in report["sizes"].items():
        bar_ms = CLICK_BARS_MS.get(size)
        if bar_ms and statistics.median(click["click"] for click in measured["rounds"]) > bar_ms:
            missed.append(f"click {size}")
        if measured["body_bytes"] > BODY_BAR_BYTES:
            missed.append(f"body {size}")
    return missed + (["memory"] if report["peak_mib"] > PEAK_BAR_MIB else [])


def as_markdown(report: dict[str, Any], missed: list[str]) -> str:
    """Return environment and tables."""
    lines = [f"- {name}: {value}" for name, value in report["environment"].items()]
    lines += ["", *table(["", "median", "fastest - slowest", "first", "bar"], figures(report))]
    parts, stages = [], []
    for size, measured in report["sizes"].items():
        rounds = measured["rounds"]
        parts.append([size, *(f"{statistics.median(r[part] for r in rounds):.0f}" for part in PARTS)])
        medians = (statistics.median(r["stages"].get(stage, 0.0) for r in rounds) for stage in STAGES)
        stages.append([size, *(f"{median:.0f}" for median in medians)])
    lines += ["", *table(["median ms in the page", *PARTS], parts)]
    lines += ["", *table(["median ms in the server", *STAGES], stages)]
    return "\n".join([*lines, "", f"Missed: {', '.join(missed) or 'none'}.", ""])


def figures(report: dict[str, Any]) -> list[list[str]]:
    """Rows of the first table."""
    rows = []
    if starts_s := report["starts_s"]:
        spread = f"{min(starts_s):.1f} - {max(starts_s):.1f}"
        rows.append(["start to healthy, s", f"{statistics.median(starts_s):.1f}", spread, "", f"{START_BAR_S:.0f}"])
    for size, measured in report["sizes"].items():
        clicks = [click["click"] for click in measured["rounds"]]
        spread = f"{min(clicks):.0f} - {max(clicks):.0f}"
        bar = f"{CLICK_BARS_MS[size]:.0f}" if size in CLICK_BARS_MS else ""
        first = f"{measured['first']['click']:.0f}"
        rows.append([f"click to visible at {size}, ms", f"{statistics.median(clicks):.0f}", spread, first, bar])
    for size, measured in report["sizes"].items():
        what = f"body of a click at {size}, hole {measured['hole_px']} px across, bytes"
        rows.append([what, str(measured["body_bytes"]), "", "", str(BODY_BAR_BYTES)])
    return [*rows, ["peak memory, MiB", str(report["peak_mib"]), "", "", str(PEAK_BAR_MIB)]]


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


if __name__ == "__main__":
    sys.exit(main())
