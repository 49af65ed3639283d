"""What the page adds to the model: from a click to the patch on the screen, and twenty photos one after another.

    python -m bench.page_clicks [--only clicks,many] [--clicks 15] [--photos 20] [--out FOLDER]

clicks   Repair on photos of 1, 12 and 48 MP, a hole about 300 px across, each round somewhere else. The model's time is
         taken out by a model that takes none: the server fills with the mean colour. Everything else is there: strokes
         to mask, the queue, files, the patch's encoding, its way and its picture. The clock is the page's, from the
         click event to the moment that Chromium gives for the patch's first appearance (Element Timing). Bars: 60, 150
         and 400 ms for the median. A second table says where the time goes, from Chromium's own times of the requests.
many     Twenty photos of 12 MP are chosen at once, the first is painted on, "Repair the same place" is pressed: photos
         per second from the press to the last one done, against the engine's own rate: the same photos and mask, in
         arrays, through `Inpainter.repair` in this process, before and after. The real program with the embedded
         weights, on whatever this machine has. Bar: 0.8.

Prints Markdown, and keeps it in bench/results/page-PARTS.md. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from bench.clicks import photo_bytes, table
from bench.many_at_once import MeanEngine
from bench.page import PHOTO, machine, visitor
from imaging.strokes import parse_strokes, rasterize
from inference import Inpainter
from tests.support.page_driver import Person
from tests.support.serving import ROOT, RunningServer

RESULTS = Path(__file__).parent / "results"
SIZES = {"1024 x 1024": (1024, 1024, 60.0), "4000 x 3000": (4000, 3000, 150.0), "8000 x 6000": (8000, 6000, 400.0)}
SPOTS = ((0.5, 0.5), (0.3, 0.35), (0.68, 0.4), (0.4, 0.66), (0.62, 0.62), (0.35, 0.5), (0.55, 0.3))
REACH_PX, RADIUS_PX = 100.0, 50.0
MANY_SIZE, RATE_BAR = (4000, 3000), 0.8
PATIENCE_MS = 600_000
PAUSE_S = 0.3

WATCH = """() => {
  const watch = (window.patchWatch = {});
  addEventListener("click", (event) => (watch.clicked = event.timeStamp), { capture: true, once: true });
  new MutationObserver((changes, observer) => {
    const added = changes.flatMap(({ addedNodes }) => [...addedNodes]).find((node) => node.matches?.(".fft-patch"));
    if (!added) return;
    observer.disconnect();
    added.setAttribute("elementtiming", "patch"); // before its first frame
  }).observe(document.querySelector(".fft-world"), { childList: true });
  new PerformanceObserver((list, observer) => {
    observer.disconnect();
    watch.seen = list.getEntries()[0].renderTime;
  }).observe({ type: "element" });
}"""
PHASES = """() => {
  const { clicked, seen } = window.patchWatch;
  const entries = performance.getEntriesByType("resource").filter(({ startTime }) => startTime >= clicked);
  const named = (part) => entries.filter(({ name, responseEnd }) => name.includes(part) && responseEnd <= seen);
  const [post, jobs, patches] = [named("/repairs")[0], named("/jobs/"), named("/patch")];
  const told = jobs.at(-1)?.responseEnd ?? post.responseEnd;
  const fetched = patches.at(-1)?.responseEnd ?? told;
  performance.clearResourceTimings();
  const times = [clicked, post.startTime, post.responseEnd, told, fetched, seen];
  return [...times.slice(1).map((time, i) => time - times[i]), jobs.length];
}"""
PHASE_NAMES = ("to the request", "the request", "until it is known to be done", "the patch", "to its frame")
SET_RADIUS = """(radius) => {
  const slider = document.querySelector(".fft-size");
  for (let step = 0; step <= 1000; step += 1) {
    slider.value = step / 10;
    slider.dispatchEvent(new Event("input"));
    const diameter = parseFloat(document.querySelector('[data-part="size-value"]').textContent);
    if (diameter >= 2 * radius) break;
    slider.step = "any";
  }
}"""


class MeanPage(RunningServer):
    """The program with its page and an engine that takes no time."""

    def start(self, *, wait: bool = True) -> MeanPage:
        """Start the process and wait until it answers."""
        settings = {"data_dir": self.data_dir, "outputs_dir": self.outputs_dir, "port": self.port, **self.settings}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "bench.page_clicks", "--serve", *arguments]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        if wait:
            self.wait_until_healthy()
        return self


def serve(arguments: list[str]) -> int:
    """Run the server in this process."""
    import app

    app.load_engine = lambda settings: MeanEngine()
    return app.main(arguments)


def main() -> int:
    """Measure, print, keep; 0 when every bar is met."""
    if sys.argv[1:2] == ["--serve"]:
        return serve(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="clicks,many")
    parser.add_argument("--clicks", type=int, default=15)
    parser.add_argument("--photos", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    reports: list[tuple[list[str], list[str]]] = []
    with tempfile.TemporaryDirectory(prefix="fftlama-page-") as folder:
        if "clicks" in options.only:
            reports.append(clicks(Path(folder) / "clicks", options.clicks))
        if "many" in options.only:
            reports.append(many(Path(folder) / "many", options.photos))
    missed = [name for _, names in reports for name in names]
    head = ["# What the page adds to the model", "", f"`python -m bench.page_clicks --only {options.only}`", ""]
    lines = [*head, *(f"- {name}: {value}" for name, value in machine(load_before).items())]
    lines += [line for report, _ in reports for line in ("", *report)]
    text = "\n".join([*lines, "", f"Missed: {', '.join(missed) or 'none'}.", ""])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"page-{options.only.replace(',', '-')}.md").write_text(text, encoding="utf-8")
    return 1 if missed else 0


def clicks(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """Return the table of clicks at each size, and which bars were missed."""
    rows, phase_rows, missed = [], [], []
    server = MeanPage(folder).start()
    try:
        for name, (width, height, bar_ms) in SIZES.items():
            with visitor(server) as person:
                person.open(jpeg(width, height))
                person.page.evaluate(SET_RADIUS, RADIUS_PX)
                looks = [click_once(person, width, height, SPOTS[i % len(SPOTS)]) for i in range(count + 1)][1:]
            waits_ms = [wait_ms for wait_ms, _ in looks]
            median_ms = statistics.median(waits_ms)
            phases_ms = np.median([phases for _, phases in looks], axis=0).tolist()
            phase_rows.append([name, *(f"{ms:.0f}" for ms in phases_ms[:-1]), f"{phases_ms[-1]:.0f}"])
            rows.append([name, f"{median_ms:.0f}", f"{min(waits_ms):.0f} - {max(waits_ms):.0f}", f"{bar_ms:.0f}"])
            if median_ms > bar_ms:
                missed.append(f"click at {name}")
    finally:
        server.stop()
    report = table(["click to visible, the model's time out, ms", "median", "fastest - slowest", "bar"], rows)
    report += ["", *table(["medians of its parts, ms", *PHASE_NAMES, "questions how it is"], phase_rows)]
    return report, missed


def jpeg(width: int, height: int, name: str = "photo.jpg") -> dict[str, Any]:
    """Return a photo of this size as Playwright takes files."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": photo_bytes(PHOTO, width, height)}


def scribble(width: int, height: int, spot: tuple[float, float]) -> list[tuple[float, float]]:
    """Return a loop about 200 px across round a spot, in fractions of the photo."""
    turns = np.linspace(0, 2 * np.pi, 9)
    return [(spot[0] + REACH_PX * np.cos(t) / width, spot[1] + REACH_PX * np.sin(t) / height) for t in turns]


def click_once(person: Person, width: int, height: int, spot: tuple[float, float]) -> tuple[float, list[float]]:
    """Paint, click Repair, and return the ms until the patch is seen, and of its parts."""
    person.paint(*scribble(width, height, spot))
    person.page.evaluate(WATCH)
    person.press("repair")
    person.page.wait_for_function("window.patchWatch.seen")
    wait_ms: float = person.page.evaluate("window.patchWatch.seen - window.patchWatch.clicked")
    phases_ms: list[float] = person.page.evaluate(PHASES)
    person.page.locator(".fft-status", has_text="outputs/").wait_for()  # written; the next click finds the cores free
    time.sleep(PAUSE_S)
    return wait_ms, phases_ms


def many(folder: Path, count: int) -> tuple[list[str], list[str]]:
    """Return the table of the page's rate against the engine's, and whether the bar was missed."""
    width, height = MANY_SIZE
    file = jpeg(width, height)
    files: list[Any] = [{**file, "name": f"{number}.jpg"} for number in range(count)]
    server = RunningServer(folder, kind="real").start()
    try:
        with visitor(server) as person:
            person.page.set_default_timeout(PATIENCE_MS)
            began_s = time.perf_counter()
            person.page.locator(".fft-file").first.set_input_files(files)
            strip = '[data-part="strip-list"] [data-stage=""] img[src], [data-part="strip-list"] img[src]'
            person.page.wait_for_function(
                f"document.querySelectorAll(`{strip}`).length === {count}", timeout=PATIENCE_MS
            )
            uploads_s = time.perf_counter() - began_s
            person.page.evaluate(SET_RADIUS, RADIUS_PX)
            person.paint(*scribble(width, height, SPOTS[0]))
            strokes = person.strokes
            own_s = engine_seconds(file["buffer"], strokes, count)
            began_s = time.perf_counter()
            person.press("batch-mask")
            person.page.wait_for_function(
                f"document.querySelectorAll('[data-part=strip-list] [data-stage=done]').length === {count}",
                timeout=PATIENCE_MS,
            )
            page_s = time.perf_counter() - began_s
            own_s = (own_s + engine_seconds(file["buffer"], strokes, count)) / 2
    finally:
        server.stop()
    ratio = own_s / page_s
    rows = [
        ["through the page", f"{page_s:.1f}", f"{count / page_s:.2f}"],
        ["the engine alone", f"{own_s:.1f}", f"{count / own_s:.2f}"],
        ["ratio, bar 0.8", "", f"{ratio:.2f}"],
        ["uploading them, before", f"{uploads_s:.1f}", ""],
    ]
    return table([f"{count} photos of 12 MP", "s", "photos per s"], rows), ["many photos"] if ratio < RATE_BAR else []


def engine_seconds(data: bytes, strokes: list[dict[str, Any]], count: int) -> float:
    """Repair the photo `count` times with the engine alone and return the seconds; loading and a first run aside."""
    with Image.open(io.BytesIO(data)) as photo:
        image = np.asarray(photo.convert("RGB"))
    mask = rasterize(parse_strokes(json.loads(json.dumps(strokes))), image.shape[:2])
    engine = Inpainter.load()
    engine.repair(image, mask)
    began_s = time.perf_counter()
    for _ in range(count):
        engine.repair(image, mask)
    return time.perf_counter() - began_s


if __name__ == "__main__":
    sys.exit(main())
