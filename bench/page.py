"""How the page feels in a real Chromium: frames while painting, the tab's memory over fifty rounds, the first load.

    python -m bench.page [--only paint,memory,load] [--seconds 3] [--rounds 50] [--out FOLDER]

Headless Chromium on this machine, without a GPU, so that every pixel is drawn by the cores that run everything else;
the server fills with the mean colour, because what is measured is the page.

paint    On a photo of 12 and of 48 MP, with ten strokes there already, the brush scribbles for three seconds, fitted
         and at 100 %. The time between frames is that between requestAnimationFrame's calls: 16.7 ms is every frame of
         a 60 Hz screen. Bars: median 16.7 ms and none above 50 ms; twice that is allowed where no GPU draws. A row each
         has the pointer moving and nothing painted, under the same bars. From Chromium's trace:
         the processor time of the page's main thread per frame and of its longest task, which other programs on the
         machine do not lengthen as they do the time between frames.
memory   Fifty repairs of about 300 px across, each somewhere else, on 12 MP. The memory is the tab's own process's
         (PSS), after collecting garbage. Most of it is pictures that Chromium keeps decoded in shared memory until
         somebody needs the room, so at the beginning and at the end it is read again after Chromium was told that
         memory is short. That is what the page itself holds: every round's patch, for undoing. Bar: it grows by at
         most 2 MiB a round.
load     From opening the address with an empty cache to the running page, and the processor time of browser and server
         meanwhile; bytes over the wire, by file, of what is our own: all under /page/ and what we write into the
         document. Gradio's own scripts begin when nobody has touched the page for four seconds; a row says when
         they have made the canvas's place.
         Bars: 1.5 s, 150 kB.

Prints Markdown, and keeps it in bench/results/page-PARTS.md. Exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from playwright.sync_api import Browser

from bench.clicks import photo_bytes, table
from tests.support.page_driver import Person, launch_chromium, open_browser
from tests.support.serving import ROOT, RunningServer
from web.page_document import spoken_canvas
from web.words import load_strings

RESULTS = Path(__file__).parent / "results"
PHOTO = ROOT / "tests" / "data" / "pier.jpg"
LARGE = {"12 MP": (4000, 3000), "48 MP": (8000, 6000)}
FRAME_BAR_MS, WORST_FRAME_BAR_MS, SOFTWARE = 16.7, 50.0, 2.0
GROWTH_BAR_MIB = 2.0
LETTING_GO_MS = 1500
LOAD_BAR_S, WEIGHT_BAR_BYTES = 1.5, 150_000
LOADS = 5
STROKES_BEFORE = 10
PATIENCE_MS = 120_000

COUNT_FRAMES = """() => {
  const frames = (window.benchFrames = []);
  let last = 0;
  const count = (now) => {
    if (last) frames.push(now - last);
    last = now;
    if (window.benchFrames === frames) requestAnimationFrame(count);
  };
  requestAnimationFrame(count);
}"""
STOP_FRAMES = "() => { const frames = window.benchFrames; window.benchFrames = null; return frames; }"
LOADED = """() => {
  const entries = [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")];
  return entries.map(({ name, transferSize, encodedBodySize }) => [new URL(name).pathname, encodedBodySize]);
}"""


def main() -> int:
    """Measure, print, keep; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="paint,memory,load")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    parts = {
        "load": lambda server: first_load(server),
        "paint": lambda server: painting(server, options.seconds),
        "memory": lambda server: memory(server, options.rounds),
    }
    wanted = [part for part in parts if part in options.only.split(",")]
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="fftlama-page-") as folder:
        server = RunningServer(Path(folder), kind="page").start()
        try:
            reports = [parts[part](server) for part in wanted]
        finally:
            server.stop()
    with launch_chromium() as browser:
        version = browser.version
    environment = {
        **machine(load_before), "browser": f"Chromium {version}, headless, no GPU",
    }  # fmt: skip
    missed = [name for _, names in reports for name in names]
    head = ["# The page in Chromium", "", f"`python -m bench.page --only {','.join(wanted)}`", ""]
    lines = [*head, *(f"- {name}: {value}" for name, value in environment.items())]
    lines += [line for report, _ in reports for line in ("", *report)]
    text = "\n".join([*lines, "", f"Missed: {', '.join(missed) or 'none'}.", ""])
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"page-{'-'.join(wanted)}.md").write_text(text, encoding="utf-8")
    return 1 if missed else 0


def machine(load_before: float) -> dict[str, Any]:
    """What the figures were taken on."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return {
        "cpu": next((line.split(":")[1].strip() for line in info if line.startswith("model name")), ""),
        "cores": len(os.sched_getaffinity(0)),
        "load before and after": f"{load_before:.1f}, {os.getloadavg()[0]:.1f} (other programs ran beside it)",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


@contextmanager
def visitor(server: RunningServer, browser: Browser | None = None) -> Iterator[Person]:
    """Somebody with the page open in a Chromium of their own, or in a fresh profile of this one."""
    if browser is None:
        with launch_chromium() as own, visitor(server, own) as person:
            yield person
        return
    person = Person(open_browser(browser), server.url)
    person.page.set_default_timeout(PATIENCE_MS)
    yield person
    person.close()
    person.context.close()


def photo_file(size: tuple[int, int]) -> dict[str, Any]:
    """Return a photo of this size as Playwright takes files."""
    return {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo_bytes(PHOTO, *size)}


@dataclass
class Frames:
    """What three seconds were like: ms between frames, and ms of the main thread's processor time by task."""

    apart_ms: list[float]
    tasks_ms: list[float]


def scribble(person: Person, seconds: float, *, paints: bool) -> Frames:
    """Scribble over the middle of the photo, or move the pointer likewise."""
    turns = iter(np.linspace(0, 60 * np.pi, int(seconds * 2000)))
    browser = person.context.browser
    assert browser is not None
    browser.start_tracing(page=person.page, categories=["toplevel"])
    person.page.evaluate(COUNT_FRAMES)
    person.page.mouse.move(*person.stage_point(0.5, 0.5))
    box = person.page.locator(".fft-stage").bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until_s = time.perf_counter() + seconds
    if paints:
        person.page.mouse.down()
    while time.perf_counter() < until_s:
        turn = next(turns)
        reach = 0.3 * min(box["width"], box["height"])
        person.page.mouse.move(middle[0] + reach * np.cos(turn * 1.3), middle[1] + reach * np.sin(turn))
    apart_ms: list[float] = person.page.evaluate(STOP_FRAMES)
    if paints:
        person.page.mouse.up()
    return Frames(apart_ms[1:], main_thread_ms(json.loads(browser.stop_tracing())["traceEvents"]))


def main_thread_ms(events: list[dict[str, Any]]) -> list[float]:
    """Processor time of each task of the busiest renderer's main thread, from Chromium's trace."""
    mains = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    by_thread: dict[tuple[int, int], list[float]] = {thread: [] for thread in mains}
    for event in events:
        # Tasks within tasks are part of the outer ones.
        if event.get("ph") == "X" and event["name"].endswith("RunTask") and (event["pid"], event["tid"]) in mains:
            by_thread[event["pid"], event["tid"]].append(event.get("tdur", 0) / 1000)
    return max(by_thread.values(), key=sum)


def painting(server: RunningServer, seconds: float) -> tuple[list[str], list[str]]:
    """Return the table of frames, and which bars were missed."""
    rows, missed = [], []
    for name, size in LARGE.items():
        with visitor(server) as person:
            person.open(photo_file(size))
            for number in range(STROKES_BEFORE):
                y = 0.1 + 0.08 * number
                person.paint((0.1, y), (0.4, y + 0.04), (0.7, y), (0.9, y + 0.03))
            for zoom, key in (("fitted", "0"), ("100 %", "1")):
                person.key(key)
                person.page.wait_for_timeout(500)
                for paints in (False, True):
                    frames = scribble(person, seconds, paints=paints)
                    label = f"{name}, {zoom}, {'painting' if paints else 'pointer only'}"
                    rows.append([label, *frame_figures(frames)])
                    if is_slow(frames):
                        missed.append(label)
    head = ["", "frames", "median ms", "95 % ms", "worst ms", "above 50 ms", "main thread ms/frame", "longest task ms"]
    return table(head, rows), missed


def frame_figures(frames: Frames) -> list[str]:
    """Return a row's cells."""
    apart_ms, tasks_ms = frames.apart_ms, frames.tasks_ms
    late = sum(ms > WORST_FRAME_BAR_MS for ms in apart_ms)
    return [
        str(len(apart_ms)), f"{statistics.median(apart_ms):.1f}", f"{np.percentile(apart_ms, 95):.1f}",
        f"{max(apart_ms):.1f}", str(late), f"{sum(tasks_ms) / len(apart_ms):.1f}", f"{max(tasks_ms):.1f}",
    ]  # fmt: skip


def is_slow(frames: Frames) -> bool:
    """Tell whether a bar is missed, by the clock."""
    is_late = max(frames.apart_ms) > SOFTWARE * WORST_FRAME_BAR_MS
    return is_late or statistics.median(frames.apart_ms) > SOFTWARE * FRAME_BAR_MS


def tab_memory_mib(person: Person, *, is_short: bool = False) -> float:
    """Return what the largest renderer process of this person's browser holds, its share of what it shares included.

    Args:
        person: whose tab.
        is_short: tell Chromium before that memory is short.

    Returns:
        MiB.
    """
    session = person.context.new_cdp_session(person.page)
    session.send("HeapProfiler.collectGarbage")
    if is_short:
        session.send("Memory.simulatePressureNotification", {"level": "critical"})
        person.page.wait_for_timeout(LETTING_GO_MS)
    session.detach()
    assert person.context.browser is not None
    browser = person.context.browser.new_browser_cdp_session()
    processes = browser.send("SystemInfo.getProcessInfo")["processInfo"]
    browser.detach()
    shares = []
    for process in processes:
        if process["type"] == "renderer":
            lines = Path(f"/proc/{process['id']}/smaps_rollup").read_text(encoding="ascii").splitlines()
            shares.append(next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024)
    return max(shares)


def memory(server: RunningServer, rounds: int) -> tuple[list[str], list[str]]:
    """Return the table of the tab's memory round by round, and whether it grew by more than its patches."""
    width, height = LARGE["12 MP"]
    held_mib = []
    with visitor(server) as person:
        person.open(photo_file((width, height)))
        empty_mib, needed_before_mib = tab_memory_mib(person), tab_memory_mib(person, is_short=True)
        for number in range(rounds):
            x, y = 0.08 + 0.084 * (number % 10), 0.15 + 0.16 * (number // 10 % 5)
            person.paint((x, y), (x + 200 / width, y + 200 / height))
            person.repair()
            held_mib.append(tab_memory_mib(person))
        needed_mib = tab_memory_mib(person, is_short=True)
    growth_mib = (needed_mib - needed_before_mib) / rounds
    steps = [number for number in (1, 10, 20, 30, 40) if number < rounds]
    rows = [["photo open", f"{empty_mib:.0f}", f"{needed_before_mib:.0f}"]]
    rows += [[f"round {step}", f"{held_mib[step - 1]:.0f}", ""] for step in steps]
    rows += [[f"round {rounds}", f"{held_mib[-1]:.0f}", f"{needed_mib:.0f}"]]
    rows += [["growth per round", f"{(held_mib[-1] - empty_mib) / rounds:.2f}", f"{growth_mib:.2f}"]]
    head = ["12 MP", "the tab's MiB", "when memory is short"]
    return table(head, rows), ["memory"] if growth_mib > GROWTH_BAR_MIB else []


def first_load(server: RunningServer) -> tuple[list[str], list[str]]:
    """Return the tables of times and of bytes by file, and which bars were missed."""
    seconds, gradio_s, processor_s, sizes = [], [], [], {}
    with launch_chromium() as browser:
        for number in range(LOADS + 1):
            context = open_browser(browser)
            page = context.new_page()
            before = processor_times(server, browser)
            began_s = time.perf_counter()
            page.goto(server.url, wait_until="commit")
            page.locator('[data-part="status"]:not([hidden])').wait_for(timeout=PATIENCE_MS)
            seconds.append(time.perf_counter() - began_s)
            after = processor_times(server, browser)
            processor_s.append(sum(spent - before.get(process, 0.0) for process, spent in after.items()))
            page.locator("#fftlama .fft").wait_for(timeout=PATIENCE_MS)
            gradio_s.append(time.perf_counter() - began_s)
            page.wait_for_load_state("networkidle")
            sizes = dict(page.evaluate(LOADED))
            context.close()
            if number == 0:
                del seconds[:], gradio_s[:], processor_s[:]  # the browser's own first page
    own = {path.rsplit("/", 1)[-1]: size for path, size in sizes.items() if "/page/" in path and size}
    own["in the document"] = document_bytes()
    foreign = sum(size for path, size in sizes.items() if "/page/" not in path)
    median_s, weight = statistics.median(seconds), sum(own.values())
    rows = [["first load, s", f"{median_s:.2f}", f"{min(seconds):.2f} - {max(seconds):.2f}", f"{LOAD_BAR_S}"]]
    rows.append(["processor time of it, s", f"{statistics.median(processor_s):.2f}", "", ""])
    rows.append(["Gradio has come (asked for after 4 s), s", f"{statistics.median(gradio_s):.2f}", "", ""])
    rows.append(["our own bytes over the wire", str(weight), f"{len(own)} files", str(WEIGHT_BAR_BYTES)])
    rows.append(["Gradio's bytes over the wire", str(foreign), "", ""])
    missed = [
        name
        for name, is_missed in (("first load", median_s > LOAD_BAR_S), ("weight", weight > WEIGHT_BAR_BYTES))
        if is_missed
    ]
    files = [[name, str(size)] for name, size in sorted(own.items(), key=lambda item: -item[1])]
    return [*table(["", "median", "", "bar"], rows), "", *table(["file", "bytes"], files)], missed


def processor_times(server: RunningServer, browser: Browser) -> dict[int, float]:
    """Return the seconds of processor time by process: the browser's and the server's."""
    session = browser.new_browser_cdp_session()
    told = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    assert server.process is not None
    fields = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    own_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return {**{process["id"]: process["cpuTime"] for process in told}, server.process.pid: own_s}


def document_bytes() -> int:
    """Return what our markup and the script in it add to the compressed document."""
    return len(gzip.compress(spoken_canvas(load_strings()["en"]).encode(), 6))


if __name__ == "__main__":
    sys.exit(main())
