"""How many repairs a second come through the program's queue where the model itself takes next to no time.

A card fills a hole of 300 pixels in about 2.5 ms; what surrounds it (masks, rows, files, patches, those who wait)
decides how many repairs one card does. Here an engine that sleeps stands in for the card: it holds one lock as
`inference.Inpainter` does and gives noise back, so that patches cost what a real one's do. 16 clients always have a
repair of a photo of 12 megapixels in the queue. With `--beside FOLDER` another checkout of the program is measured too,
by turns. Columns: repairs a second (median of the turns, and their range), the share of what the engine alone would do,
and processor milliseconds a repair.

    python bench/queue_rate.py [--holes 300,2600] [--engine-ms 2.5,24] [--seconds 4] [--turns 3] [--beside FOLDER]

Prints a table and one JSON line, and keeps both in bench/results/queue-rate.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "queue-rate.md"
CLIENTS = 16
SIZE = (4000, 3000)
MAX_BATCH = 8  # an H200's profile


class SleepingCard:
    """Shaped like `inference.Inpainter` on a card: one repair after another, each as long as it is told."""

    profile = SimpleNamespace(max_batch=MAX_BATCH)

    def __init__(self, engine_ms: float) -> None:
        self._engine_s = engine_ms / 1e3
        self._lock = threading.Lock()

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        return {"device": "cuda:0", "weights": "lama-compact"}

    def switch_weights(self, weights: Path | None) -> None:
        """Do nothing."""

    def repair_many(
        self, requests: Sequence[Any], *, on_stage: Callable[[str], None] | None = None
    ) -> list[SimpleNamespace]:
        """Sleep as long as the repairs take, and return each hole's box filled with noise."""
        report = on_stage or (lambda name: None)
        report("plan")
        boxes = [_box_of(request.mask) for request in requests]
        with self._lock:
            report("predict")
            time.sleep(self._engine_s * len(requests))
            report("composite")
        return [
            SimpleNamespace(patches=[(box, _noise(box))], timings_ms={"predict": self._engine_s * 1e3}, notes=[])
            for box in boxes
        ]


def _box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask[:, SIZE[0] // 2]), np.flatnonzero(mask[SIZE[1] // 2])
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


_TEXTURE: NDArray[np.uint8] = np.empty(0, np.uint8)


def _noise(box: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    return _TEXTURE[top:bottom, left:right].copy()


def texture() -> NDArray[np.uint8]:
    """Return a photo with waves and grain, (3000, 4000, 3) uint8."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]].astype(np.float32)
    waves = 128 + 80 * np.sin(x / 97)[..., None] * np.cos(y / 61)[..., None] * np.array([1.0, 0.7, 0.4], np.float32)
    return np.clip(waves + random.integers(-8, 9, (SIZE[1], SIZE[0], 1)), 0, 255).astype(np.uint8)


def make_queue(folder: Path, engine_ms: float) -> Any:
    """Return the queue over one card as `app.create_api` makes it."""
    from jobs import worker
    from jobs.queue import JobQueue

    engines: Sequence[Any] = [SleepingCard(engine_ms)]
    more: dict[str, Any] = {}
    if hasattr(worker, "side_by_side"):  # else an older checkout
        engines, more["storing"] = worker.side_by_side(engines)
    return JobQueue(_settings(folder), engines, batch_limit=MAX_BATCH, **more)


def measure(photo: bytes, hole_px: int, engine_ms: float, seconds: float) -> dict[str, float]:
    """Return what comes out of the queue while every client always has a repair in it.

    As `card_ways.py` has it too: nothing of `bench` is imported here, since another checkout may stand in front of it.
    """
    with tempfile.TemporaryDirectory() as folder:
        queue = make_queue(Path(folder), engine_ms)
        queue.start()
        image_id = queue.add_image(photo, "photo.png").image_id
        strokes = [{"points": [[SIZE[0] / 2, SIZE[1] / 2]], "radius": hole_px / 2, "erase": False}]
        ended_s: list[float] = []
        is_over = threading.Event()

        def be_client(number: int) -> None:
            count = 0
            while not is_over.is_set():
                job_id = queue.submit(image_id, f"{number}-{count}", strokes, save=False)
                view = queue.view(job_id)
                while view["state"] not in ("done", "failed"):
                    view = queue.view(job_id, wait_s=30.0, seen=view["version"])
                assert view["state"] == "done", view
                ended_s.append(time.monotonic())
                queue.images.drop_edit(view["image_id"])  # or large patches fill the disk
                count += 1

        threads = [threading.Thread(target=be_client, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while len(ended_s) < CLIENTS:
            time.sleep(0.01)
        began_s, computed_s = time.monotonic(), time.process_time()
        time.sleep(seconds)
        computed_s = time.process_time() - computed_s
        is_over.set()
        for thread in threads:
            thread.join()
        within = sorted(one for one in ended_s if began_s <= one <= began_s + seconds)
        queue.close(wait_s=10.0)
    rate = (len(within) - 1) / (within[-1] - within[0])
    return {"per_second": rate, "processor_ms": 1e3 * computed_s / len(within)}


def _settings(folder: Path) -> Any:
    """Return the default settings that a queue reads, without the library that reads settings from files."""
    return SimpleNamespace(
        data_dir=folder / "data", outputs_dir=folder / "outputs", weights_dir=Path("weights"), weights="", mirrors="",
        fetch_weights="page", queue="local", queue_limit=32, client_waiting_jobs=0, job_timeout_s=300, keep_days=7,
        keep_mib=4096, max_file_mib=100, max_image_mpx=100, work_memory_mib=2048, root_path="",
    )  # fmt: skip


def measure_here(code: Path, holes_px: Sequence[int], engine_ms: Sequence[float], seconds: float) -> None:
    """Measure the program that lies in a folder and print a line of JSON for each kind of hole."""
    global _TEXTURE
    sys.path.insert(0, str(code))
    from imaging import encode_png

    _TEXTURE = texture()
    photo = encode_png(_TEXTURE, fast=True)
    for hole_px, ms in zip(holes_px, engine_ms, strict=True):
        print(json.dumps({"hole_px": hole_px, "engine_ms": ms, **measure(photo, hole_px, ms, seconds)}), flush=True)


def table(found: dict[str, dict[int, list[dict[str, float]]]]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| | hole, px | repairs/s | lowest to highest | of the engine's own rate | processor ms a repair |",
        "|---|---|---|---|---|---|",
    ]
    for name, kinds in found.items():
        for hole_px, turns in kinds.items():
            rates = sorted(turn["per_second"] for turn in turns)
            rate = statistics.median(rates)
            computed_ms = statistics.median(turn["processor_ms"] for turn in turns)
            lines.append(
                f"| {name} | {hole_px} | **{rate:.1f}** | {rates[0]:.1f} to {rates[-1]:.1f}"
                f" | {rate * turns[0]['engine_ms'] / 1e3:.2f} | {computed_ms:.1f} |"
            )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--holes", default="300,2600")
    parser.add_argument("--engine-ms", default="2.5,24")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--beside", type=Path, help="a folder with an older checkout of the program")
    parser.add_argument("--code", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    holes = [int(hole) for hole in options.holes.split(",")]
    engine_ms = [float(ms) for ms in options.engine_ms.split(",")]
    if options.code:
        measure_here(options.code, holes, engine_ms, options.seconds)
        return 0
    if options.beside and not (options.beside / "app.py").is_file():
        parser.error(f"{options.beside} is no checkout of fftlama: it has no app.py")
    sides = {**({"before": options.beside} if options.beside else {}), "now": ROOT}
    found: dict[str, dict[int, list[dict[str, float]]]] = {name: {hole: [] for hole in holes} for name in sides}
    load_before = os.getloadavg()[0]
    shared = ["--holes", options.holes, "--engine-ms", options.engine_ms, "--seconds", str(options.seconds)]
    for _ in range(options.turns):
        for name, folder in sides.items():
            command = [sys.executable, __file__, "--code", str(folder), *shared]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            for row in map(json.loads, told.splitlines()):
                found[name][row["hole_px"]].append(row)
    environment = {
        "python": platform.python_version(), "cpus": os.cpu_count(), "clients": CLIENTS, "size": SIZE,
        "seconds": options.seconds, "turns": options.turns,
        "load_before": round(load_before, 1), "load_after": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    text = f"{table(found)}\n\n{environment}"
    line = json.dumps({"environment": environment, "found": found})
    print(text, line, sep="\n\n")
    RESULTS.write_text(
        f"# A card's repairs through the queue (bench/queue_rate.py)\n\n{text}\n\n```\n{line}\n```\n", encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
