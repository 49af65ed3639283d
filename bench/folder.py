"""How near a folder of photos comes to the engine's own rate: files in, files out, beside arrays in, arrays out.

    python bench/folder.py [--count 500] [--size 1600x1200] [--hole 200] [--jobs 1,2] [--device auto] [--out FOLDER]

Makes a folder of JPEG photos (crops of those in tests/data, each other than the last) with a mask for each. Then, by
turns and in parts, so that a busy machine slows all alike: the engine alone on decoded arrays, one after another, and
`fftlama repair` of the same photos (`cli.batch.run_tasks`: reading, decoding, repairing, encoding at the photo's own
quality, syncing to disk) with each number of jobs. Columns: photos a second, ratio to the engine alone (median over the
parts, and its range), processor seconds a photo. Prints a table and one JSON line, writes them to
FOLDER/folder-DEVICE.md, and ends with 1 if a photo fails.
"""

import argparse
import itertools
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app import share_cores  # noqa: E402

share_cores()  # counts only before PyTorch is imported

import torch  # noqa: E402

from cli.batch import MAX_CPU_ENGINES, Limits, run_tasks  # noqa: E402
from cli.plan import Task, plan_tasks  # noqa: E402
from imaging import open_photo, read_mask  # noqa: E402
from inference import Inpainter  # noqa: E402

PHOTOS = ("pier.jpg", "skyline.jpg", "flower.png")
PARTS = 10
ENGINE_PHOTOS = 8  # of each part are repaired by the engine alone; it needs no files, so fewer tell its rate
JPEG_QUALITY = 92
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
    for number in range(count):
        source = sources[number % len(sources)]
        assert source is not None
        share = random.uniform(0.6, 1.0)
        rows, columns = (int(side * share) for side in source.shape[:2])
        top, left = (
            random.integers(0, side - part + 1) for side, part in zip(source.shape[:2], (rows, columns), strict=True)
        )
        photo = cv2.resize(source[top : top + rows, left : left + columns], (width, height))
        noise = random.normal(0, 3, (height, width, 1))  # grain, which a resized crop lacks and JPEG pays for
        photo = np.clip(photo + noise, 0, 255).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        center = [int(random.uniform(0.2, 0.8) * side) for side in (width, height)]
        cv2.ellipse(mask, center, (hole_px // 2, hole_px // 3), float(random.uniform(0, 180)), 0, 360, 255, -1)
        name = f"{number:04}"
        cv2.imwrite(str(folder / "photos" / f"{name}.jpg"), photo, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)


def time_engine(engine: Inpainter, tasks: list[Task], timing: Timing) -> None:
    """Repair some photos of a part, decoded beforehand."""
    pairs = []
    for task in tasks[:: max(1, len(tasks) // ENGINE_PHOTOS)]:
        assert task.mask is not None
        image = open_photo(task.photo.read_bytes()).image
        pairs.append((image, read_mask(task.mask.read_bytes(), image.shape[:2])))
    wall_s, processor_s = time.perf_counter(), time.process_time()
    for image, mask in pairs:
        _ = engine.repair(image, mask, **OPTIONS).image  # composed, as it is to be encoded
    timing.add(len(pairs), time.perf_counter() - wall_s, time.process_time() - processor_s)


def time_folder(engines: list[Inpainter], tasks: list[Task], jobs: int, timing: Timing) -> int:
    """Repair a part as the command does, with engines that were loaded before; return how many photos failed."""
    loaded = itertools.cycle(engines)
    limits = Limits(1 << 30, 1 << 30)
    wall_s, processor_s = time.perf_counter(), time.process_time()
    outcomes = list(run_tasks(tasks, lambda: next(loaded), options=OPTIONS, limits=limits, overwrite=True, jobs=jobs))
    timing.add(len(tasks), time.perf_counter() - wall_s, time.process_time() - processor_s)
    return sum(outcome.state != "repaired" for outcome in outcomes)


def main() -> int:
    """Measure, print and write, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--size", default="1600x1200")
    parser.add_argument("--hole", type=int, default=200, help="its length, pixels")
    parser.add_argument("--jobs", default="1,2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    parser.add_argument("--name", help="of the file written, without .md; default: folder-DEVICE")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    jobs = [int(number) for number in options.jobs.split(",")]
    load_before = os.getloadavg()[0]
    engine = Inpainter.load(None, device=options.device)
    engines = [engine]
    if engine.device == "cpu":
        engines += [Inpainter.load(None, device="cpu") for _ in range(min(max(jobs), MAX_CPU_ENGINES) - 1)]
    timings = {0: Timing(), **{number: Timing() for number in jobs}}
    failed = 0
    folder = Path(tempfile.mkdtemp())
    try:
        make_folder(folder, options.count, (width, height), options.hole)
        photo_kib = sum(path.stat().st_size for path in (folder / "photos").iterdir()) / options.count / 1024
        tasks = plan_tasks(folder / "photos", folder / "masks", folder / "out")
        part = -(-len(tasks) // PARTS)
        warm = tasks[: min(8, part)]
        time_engine(engine, warm, Timing())
        time_folder(engines, warm, max(jobs), Timing())
        for begin in range(0, len(tasks), part):
            time_engine(engine, tasks[begin : begin + part], timings[0])
            for number in jobs:
                failed += time_folder(engines, tasks[begin : begin + part], number, timings[number])
    finally:
        shutil.rmtree(folder)
    text = describe(engine, timings, options, photo_kib, load_before, failed)
    print(text)
    kind = "cpu" if engine.device == "cpu" else torch.cuda.get_device_name().split()[-1].lower()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name or f'folder-{kind}'}.md").write_text(text, encoding="utf-8")
    return 1 if failed else 0


def describe(
    engine: Inpainter,
    timings: dict[int, Timing],
    options: argparse.Namespace,
    photo_kib: float,
    load_before: float,
    failed: int,
) -> str:
    """Return the table and the JSON line."""
    alone = timings[0].rates()
    rows = []
    for number, timing in timings.items():
        ratios = [rate / own for rate, own in zip(timing.rates(), alone, strict=True)]
        rows.append(
            {
                "what": f"folder, {number} job{'s' * (number > 1)}" if number else "engine alone",
                "photos": sum(timing.photos),
                "per_second": sum(timing.photos) / sum(timing.wall_s),
                "ratio": statistics.median(ratios),
                "lowest": min(ratios),
                "highest": max(ratios),
                "processor_s": sum(timing.processor_s) / sum(timing.photos),
            }
        )
    device = platform.processor() or platform.machine()
    if engine.device != "cpu":
        device = torch.cuda.get_device_name()
    report = {
        "device": device, "cores": os.cpu_count(), "precision": engine.precision, "torch": torch.__version__,
        "weights": engine.weights_name, "count": options.count, "size": options.size, "hole_px": options.hole,
        "load_before": round(load_before, 1), "load_after": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"), "failed": failed, "rows": rows,
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
        json.dumps(report),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
