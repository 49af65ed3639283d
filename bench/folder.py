"""How near a folder of photos comes to the engine's own rate: files in, files out, beside arrays in, arrays out.

    python bench/folder.py [--count 500] [--size 1600x1200] [--hole 200] [--jobs 1,2] [--device auto] [--out FOLDER]
    PYTHONPATH=. python bench/folder.py --jobs 4,16     # on a card; needs what the engine needs, and Pillow
    python bench/folder.py --fake-ms 2 --jobs 2         # what surrounds a card, without one: an engine that sleeps

Makes a folder of JPEG photos (crops of those in tests/data, each other than the last) with a mask for each. Then, by
turns and in parts (on a card all of them three times), so that a busy machine slows all alike: the engine alone on
decoded arrays, one after another, and `fftlama repair` of the same photos (`cli.batch`: reading, decoding, repairing,
encoding at the photo's own quality, syncing to disk) with each number of jobs; 0 is what the command chooses. Models
and processes were started before, and what processes took to start is told. Columns: photos a second, ratio to the
engine alone (median over the parts, and its range), processor seconds a photo, the processes' included. A second
table tells what the steps around the engine take of one core. Prints the tables and one JSON line, writes them to
FOLDER/folder-DEVICE.md, and ends with 1 if a photo fails.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# As `app.share_cores` has it, which needs the libraries of a server; counts only before PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import torch  # noqa: E402

from bench.photo_steps import time_steps  # noqa: E402
from cli.batch import MAX_CPU_ENGINES, Crew, Limits, Work, repair_with  # noqa: E402
from cli.plan import Task, plan_tasks  # noqa: E402
from engine.profiles import DEFAULT_LADDER_PX  # noqa: E402
from engine.requests import RepairRequest, RepairResult  # noqa: E402
from imaging import open_photo, read_mask  # noqa: E402
from inference import Inpainter  # noqa: E402
from masks.boxes import find_bounds  # noqa: E402

PHOTOS = ("pier.jpg", "skyline.jpg", "flower.png")
PARTS = 10
CARD_TURNS = 3
ENGINE_PHOTOS = 8  # of each part are repaired by the engine alone; it needs no files, so fewer tell its rate
CARD_ROUNDS = 25  # of these, on a card
GRAIN_FIELDS = 7
JPEG_QUALITY = 92
LIMITS = Limits(100 << 20, 100_000_000)
OPTIONS: dict[str, Any] = {"dilate_px": None, "feather_px": None, "quality": "fast"}


@dataclass
class Timing:
    """Seconds of each part, wall clock and processor, and how many photos it had."""

    photos: list[int] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)

    def add(self, photos: int, wall_s: float, processor_s: float) -> None:
        self.photos.append(photos)
        self.wall_s.append(wall_s)
        self.processor_s.append(processor_s)

    def rates(self) -> list[float]:
        return [photos / wall_s for photos, wall_s in zip(self.photos, self.wall_s, strict=True)]


def make_folder(folder: Path, count: int, size: tuple[int, int], hole_px: int) -> None:
    """Write photos/NNN.jpg and masks/NNN.png."""
    width, height = size
    random = np.random.default_rng(0)
    sources = [cv2.imread(str(ROOT / "tests" / "data" / name)) for name in PHOTOS]
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    # Grain, which a resized crop lacks and JPEG pays for.
    grain = [random.normal(0, 3, (height, width, 1)).astype(np.float32) for _ in range(GRAIN_FIELDS)]

    def make(number: int) -> None:
        random = np.random.default_rng(number)
        source = sources[number % len(sources)]
        assert source is not None
        share = random.uniform(0.6, 1.0)
        rows, columns = (int(side * share) for side in source.shape[:2])
        top, left = (
            random.integers(0, side - part + 1) for side, part in zip(source.shape[:2], (rows, columns), strict=True)
        )
        photo = cv2.resize(source[top : top + rows, left : left + columns], (width, height))
        photo = np.clip(photo + grain[number % GRAIN_FIELDS], 0, 255).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        center = [int(random.uniform(0.2, 0.8) * side) for side in (width, height)]
        cv2.ellipse(mask, center, (hole_px // 2, hole_px // 3), float(random.uniform(0, 180)), 0, 360, 255, -1)
        name = f"{number:04}"
        cv2.imwrite(str(folder / "photos" / f"{name}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, range(count)))


class SleepingCard:
    """Stands in for a card's engine: sleeps as long as a repair takes, and gives the hole's box inverted."""

    device, precision, weights_name = "cuda:0", "none", "an engine that sleeps"
    profile = SimpleNamespace(buckets_px=DEFAULT_LADDER_PX)

    def __init__(self, repair_ms: float) -> None:
        self._repair_s, self._turn = repair_ms / 1e3, threading.Lock()

    def repair(self, image: np.ndarray, mask: np.ndarray, **options: Any) -> RepairResult:
        """Repair one image."""
        return self.repair_many([RepairRequest(image, mask)])[0]

    def repair_many(self, requests: list[RepairRequest]) -> list[RepairResult]:
        """Repair images one after another."""
        with self._turn:
            time.sleep(self._repair_s * len(requests))
        results = []
        for request in requests:
            left, top, right, bottom = find_bounds(request.mask) or (0, 0, 1, 1)
            patch = 255 - request.image[top:bottom, left:right]
            results.append(RepairResult(request.image, [((left, top, right, bottom), patch)]))
        return results


def time_engine(engine: Inpainter | SleepingCard, tasks: list[Task], timing: Timing) -> None:
    """Repair some photos of a part, decoded beforehand."""
    pairs = []
    for task in tasks[:: max(1, len(tasks) // ENGINE_PHOTOS)]:
        assert task.mask is not None
        image = open_photo(task.photo.read_bytes()).image
        pairs.append((image, read_mask(task.mask.read_bytes(), image.shape[:2])))
    pairs *= 1 if engine.device == "cpu" else CARD_ROUNDS
    wall_s, processor_s = time.perf_counter(), time.process_time()
    for image, mask in pairs:
        _ = engine.repair(image, mask, **OPTIONS).image  # composed, as it is to be encoded
    timing.add(len(pairs), time.perf_counter() - wall_s, time.process_time() - processor_s)


def computed_s() -> float:
    """Return the processor seconds of this process and of those that it started and that live (Linux)."""
    total_s = time.process_time()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended just now
            continue
        if int(fields[1]) == os.getpid():
            total_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total_s


def time_folder(crew: Crew, tasks: list[Task], timing: Timing) -> int:
    """Repair a part as the command does, with engines that were loaded before; return how many photos failed."""
    wall_s, processor_s = time.perf_counter(), computed_s()
    outcomes = list(repair_with(tasks, lambda: crew, overwrite=True))
    timing.add(len(tasks), time.perf_counter() - wall_s, computed_s() - processor_s)
    return sum(outcome.state != "repaired" for outcome in outcomes)


def parts_of(tasks: list[Task], *, on_card: bool) -> Iterator[list[Task]]:
    """Yield what is repaired in turns."""
    if on_card:  # a part would be over in a tenth of a second
        yield from [tasks] * CARD_TURNS
        return
    part = -(-len(tasks) // PARTS)
    for begin in range(0, len(tasks), part):
        yield tasks[begin : begin + part]


def main() -> int:
    """Measure, print and write, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--size", default="1600x1200")
    parser.add_argument("--hole", type=int, default=200, help="its length, pixels")
    parser.add_argument("--jobs", default="1,2", help="0 = as many as the command chooses")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--fake-ms", type=float, help="how long an engine that sleeps takes for a repair")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--name", help="of the file written, without .md; default: folder-DEVICE")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    jobs = [int(number) for number in options.jobs.split(",")]
    load_before = os.getloadavg()[0]
    engine = SleepingCard(options.fake_ms) if options.fake_ms else Inpainter.load(None, device=options.device)
    on_card = engine.device != "cpu"
    engines: list[Any] = [engine]
    if not on_card:
        engines += [Inpainter.load(None, device="cpu") for _ in range(min(max(jobs), MAX_CPU_ENGINES) - 1)]
    timings = {"engine alone": Timing()}
    failed = 0
    folder = Path(tempfile.mkdtemp())
    try:
        make_folder(folder, options.count, (width, height), options.hole)
        photo_kib = sum(path.stat().st_size for path in (folder / "photos").iterdir()) / options.count / 1024
        tasks = plan_tasks(folder / "photos", folder / "masks", folder / "out")
        assert tasks[0].mask is not None
        steps_ms = time_steps(tasks[0].photo.read_bytes(), tasks[0].mask.read_bytes(), folder)
        starts_s: dict[str, float] = {}
        with ExitStack() as hired:
            crews: dict[str, Crew] = {}
            for number in jobs:
                loaded = iter(engines)
                work = Work(OPTIONS, LIMITS)
                crew = Crew(lambda: next(loaded), work, jobs=number or None, photos=len(tasks))  # noqa: B023
                name = f"folder, {crew.jobs} job{'s' * (crew.jobs > 1)}"
                crews[name], timings[name] = hired.enter_context(crew), Timing()
                began_s = time.perf_counter()
                time_folder(crew, tasks[: max(8, crew.jobs)], Timing())  # processes are started by it
                starts_s[name] = round(time.perf_counter() - began_s, 2)
            time_engine(engine, tasks, Timing())
            for part in parts_of(tasks, on_card=on_card):
                time_engine(engine, part, timings["engine alone"])
                for name, crew in crews.items():
                    failed += time_folder(crew, part, timings[name])
    finally:
        shutil.rmtree(folder)
    text = describe(engine, timings, options, photo_kib, load_before, failed, steps_ms, starts_s)
    print(text)
    if isinstance(engine, SleepingCard):
        kind = "asleep"
    else:
        kind = "cpu" if engine.device == "cpu" else torch.cuda.get_device_name().split()[-1].lower()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name or f'folder-{kind}'}.md").write_text(text, encoding="utf-8")
    return 1 if failed else 0


def describe(
    engine: Inpainter | SleepingCard,
    timings: dict[str, Timing],
    options: argparse.Namespace,
    photo_kib: float,
    load_before: float,
    failed: int,
    steps_ms: dict[str, float],
    starts_s: dict[str, float],
) -> str:
    """Return the tables and the JSON line."""
    alone = timings["engine alone"].rates()
    rows = []
    for name, timing in timings.items():
        ratios = [rate / own for rate, own in zip(timing.rates(), alone, strict=True)]
        rows.append(
            {
                "what": name,
                "photos": sum(timing.photos),
                "per_second": sum(timing.photos) / sum(timing.wall_s),
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "processor_s": sum(timing.processor_s) / sum(timing.photos),
            }
        )
    device = platform.processor() or platform.machine()
    if isinstance(engine, SleepingCard):
        device = f"{options.fake_ms:g} ms of sleep"
    elif engine.device != "cpu":
        device = torch.cuda.get_device_name()
    report = {
        "device": device, "cores": os.cpu_count(), "precision": engine.precision, "torch": torch.__version__,
        "weights": engine.weights_name, "count": options.count, "size": options.size, "hole_px": options.hole,
        "load_before": round(load_before, 1), "load_after": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"), "failed": failed, "rows": rows,
        "steps_ms": steps_ms, "first_photos_s": starts_s,
    }  # fmt: skip
    lines = [
        "# A folder of photos beside the engine alone",
        "",
        f"`python bench/folder.py --count {options.count} --size {options.size} --hole {options.hole}`: "
        f"{options.count} JPEG photos of {options.size} pixels ({photo_kib:.0f} KiB), hole {options.hole} px; "
        f"{engine.weights_name} on {device}, {engine.precision}, {os.cpu_count()} cores, load {load_before:.1f} before "
        f"and {report['load_after']} after, {report['date']}. {failed} failed.",
        "",
        "| | photos | photos a second | of the engine's rate (range over parts) | processor seconds a photo |",
        "|---|---|---|---|---|",
        *(
            f"| {row['what']} | {row['photos']} | {row['per_second']:.2f} | {row['ratio']:.2f} "
            f"({row['lowest']:.2f} – {row['highest']:.2f}) | {row['processor_s']:.3f} |"
            for row in rows
        ),
        "",
        "The first photos, which processes were started for: "
        + ", ".join(f"{name} {start_s:g} s" for name, start_s in starts_s.items())
        + ".",
        "",
        "| step | ms of one core, median |",
        "|---|---|",
        *(f"| {name} | {ms:.1f} |" for name, ms in steps_ms.items()),
        "",
        json.dumps(report),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
