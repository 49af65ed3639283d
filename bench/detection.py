"""How much of a mark detection/ finds, pixel for pixel, and what it costs.

    python bench/detection.py --photos FOLDER [--count 10] [--only KIND] [--overlays FOLDER] [--out FOLDER]

Text and marks are drawn on photos without text of their own (bench/detection_cases.py), so the true mask is known:
every pixel that the drawing changed by more than three grey levels. Pixel precision, recall and IoU are means over the
photos, at three sensitivities; "found" is in how many photos at least half of the true pixels are. Clicks are on drawn
shapes and timed at 12 megapixels. Saves FOLDER/detection-cpu.md and .json (default: $OUT, else bench/results); with
`--only spots` the rows of spots alone, as detection-spots-cpu.md.

Needs the fonts DejaVu and Noto CJK (Debian: fonts-dejavu, fonts-noto-cjk) for the drawing alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench import given  # noqa: E402
from bench.detection_cases import Case, all_kinds, dirt, logos  # noqa: E402
from bench.quality_protocols import list_photos, read_rgb  # noqa: E402
from bench.speed_report import render  # noqa: E402
from detection.click import select_object  # noqa: E402
from detection.repeat import find_repeats  # noqa: E402
from detection.spots import find_spots  # noqa: E402
from detection.text import find_text  # noqa: E402
from detection.text_network import find_weights  # noqa: E402

SENSITIVITIES = (0.25, 0.5, 0.75)
# Photos of the evaluation set in which no text was seen, of every difficulty: skies, faces, grass, wool, stone, food.
WITHOUT_TEXT = (
    "00001", "00007", "kodim23", "00028", "00031", "kodim01", "00016", "00049", "kodim13", "00005",
    "kodim07", "00017", "00012", "kodim22", "00052", "00023",
)  # fmt: skip
LARGE_PX = (3000, 4000)
SPOTS = "spots"
SMOOTH_LEVELS = (3.0, 8.0)  # a photo that varies by less, by more, and by much more
AROUND_PX = 15
CLICK_BAR_MS = 200
RUNTIME_CODE = """
import os, sys, time, resource, numpy as np
name, path, side = sys.argv[1], sys.argv[2], int(sys.argv[3])
image = np.random.default_rng(0).random((1, 3, side, side), np.float32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.process_time()
if name == "onnxruntime":
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_cpu_mem_arena = 2, False
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    run = lambda: session.run(None, {session.get_inputs()[0].name: image})
else:
    import cv2
    net = cv2.dnn.readNetFromONNX(path)
    def run():
        net.setInput(image)
        return net.forward()
loaded = time.process_time()
run()
first = time.process_time()
run()
second = time.process_time()
run()
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
print(loaded - began, first - loaded, min(second - first, time.process_time() - second), peak)
"""


def main() -> None:
    """Draw, find, compare, print and save."""
    parser = argparse.ArgumentParser(description="How much of a mark is found, pixel for pixel.")
    parser.add_argument("--photos", type=given.folder, required=True, help="a folder of photos without text")
    parser.add_argument("--count", type=int, default=10, help="how many of them")
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument(
        "--overlays", type=Path, help="a folder for pictures of what was found: green right, red missed"
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "bench" / "results")))
    options = parser.parse_args()
    photos = read_photos(options.photos, options.count)
    kinds: dict[str, Callable[..., Case]] = {} if options.only == SPOTS else dict(all_kinds())
    kinds["logo, the same again"] = lambda photo, rng: logos(photo, rng, opacity=0.9)
    kinds["logo, other sizes and angles"] = lambda photo, rng: logos(photo, rng, opacity=0.9, varied=True)
    kinds["logo, half transparent"] = lambda photo, rng: logos(photo, rng, opacity=0.5)
    kinds["spots: dust and hairs"] = dirt
    if not any(options.only in kind for kind in kinds):
        parser.error(f"no kind has {options.only!r} in its name; there are: {'; '.join(kinds)}")
    rows = []
    for kind, draw in kinds.items():
        if options.only in kind:
            rows.append(measure(kind, draw, photos, options.overlays))
            print(json.dumps(rows[-1]), flush=True)
    report: dict[str, Any] = {"what is found": rows}
    if options.only in ("", SPOTS):
        report["specks and hairs found, by what the photo varies by around them"] = by_smoothness(photos)
        report["taken for spots where nothing is drawn"] = false_alarms(photos, find_spots)
        report["time of looking for spots"] = spot_times(photos[0][1])
    if not options.only:
        report["taken for text where nothing is drawn"] = false_alarms(photos, find_text)
        report["a click"] = clicks(photos[0][1])
        report["time"] = times(photos[0][1])
        report["what runs the text network, 960x960, seconds of processor"] = runtimes()
    report["environment"] = environment(len(photos))
    text = render(report).replace("# Speed", "# Detection", 1)
    print(text)
    print(json.dumps(report))
    if options.only in ("", SPOTS):
        name = f"detection-{SPOTS}-cpu" if options.only else "detection-cpu"
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"{name}.md").write_text(text, encoding="utf-8")
        (options.out / f"{name}.json").write_text(json.dumps(report) + "\n", encoding="utf-8")


def read_photos(folder: Path, count: int) -> list[tuple[str, NDArray[np.uint8]]]:
    """Return (name, image) of the photos known to hold no text, or of all when the folder has none of them.

    SystemExit with a sentence where the folder has no photos, or one of them can't be read.
    """
    files = {path.stem: path for path in list_photos(folder)}
    chosen = [name for name in WITHOUT_TEXT if name in files] or list(files)
    return [(name, read_rgb(files[name])) for name in chosen[: max(1, count)]]


def find(case: Case) -> Callable[[float], NDArray[np.bool_]]:
    """Look once, and return what is found at a sensitivity."""
    if case.template is None:
        found = find_spots(case.image) if case.kind == "dust and hairs" else find_text(case.image)
        return lambda sensitivity: found.select(sensitivity).mask
    template = case.template
    return lambda sensitivity: find_repeats(case.image, template, sensitivity=sensitivity).mask


def measure(
    kind: str, draw: Callable[..., Case], photos: list[tuple[str, NDArray[np.uint8]]], overlays: Path | None
) -> dict[str, Any]:
    """Return a row: precision, recall and IoU at each sensitivity, means over the photos."""
    figures, found_in, tiles = [], 0, []
    for index, (name, photo) in enumerate(photos):
        case = draw(photo, np.random.default_rng(1000 + index))
        look = find(case)
        masks = [look(sensitivity) for sensitivity in SENSITIVITIES]
        # A given template is no find: it counts for nothing on either side.
        counted = np.ones_like(case.mask) if case.template is None else ~case.template
        figures.append([compare(mask & counted, case.mask & counted) for mask in masks])
        found_in += figures[-1][1][1] >= 0.5
        if overlays:
            tiles.append(overlay(name, case, masks[1], figures[-1][1]))
    if overlays:
        overlays.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.vstack(tiles)).save(overlays / f"{kind.replace(' ', '-').replace(',', '')}.jpg")
    means = np.array(figures).mean(axis=0)
    row: dict[str, Any] = {"kind": kind}
    for sensitivity, (precision, recall, iou) in zip(SENSITIVITIES, means.tolist(), strict=True):
        row |= {f"P {sensitivity}": f"{precision:.2f}", f"R {sensitivity}": f"{recall:.2f}"}
        row |= {f"IoU {sensitivity}": f"{iou:.2f}"}
    return row | {"found at 0.5": f"{found_in} of {len(photos)}"}


def compare(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return (precision, recall, IoU); precision is 1 where nothing is found."""
    both = int(np.count_nonzero(found & truth))
    of_found, of_truth = int(np.count_nonzero(found)), int(np.count_nonzero(truth))
    return both / of_found if of_found else 1.0, both / of_truth, both / (of_found + of_truth - both)


def overlay(name: str, case: Case, mask: NDArray[np.bool_], figures: tuple[float, float, float]) -> NDArray[np.uint8]:
    """Return the case beside what was found in it: green right, red missed, violet wrong."""
    shown = case.image.copy()
    shown[mask & case.mask], shown[mask & ~case.mask], shown[~mask & case.mask] = (
        (0, 255, 0),
        (255, 0, 255),
        (255, 0, 0),
    )
    height = round(600 * shown.shape[0] / shown.shape[1])
    pair = np.hstack([cv2.resize(part, (600, height), interpolation=cv2.INTER_AREA) for part in (case.image, shown)])
    text = f"{name} P {figures[0]:.2f} R {figures[1]:.2f} IoU {figures[2]:.2f}"
    return np.asarray(cv2.putText(pair, text, (8, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1), np.uint8)


def false_alarms(
    photos: list[tuple[str, NDArray[np.uint8]]], look: Callable[[NDArray[np.uint8]], Any]
) -> list[dict[str, Any]]:
    """Return, for each sensitivity, in how many photos something is found that is not there, and how much of them."""
    found = [look(photo) for _, photo in photos]
    rows = []
    for sensitivity in SENSITIVITIES:
        shares = [100 * float(text.select(sensitivity).mask.mean()) for text in found]
        row = {"sensitivity": str(sensitivity), "photos": f"{sum(s > 0 for s in shares)} of {len(shares)}"}
        rows.append(row | {"mean share, %": statistics.fmean(shares), "largest share, %": max(shares)})
    return rows


def by_smoothness(photos: list[tuple[str, NDArray[np.uint8]]]) -> list[dict[str, Any]]:
    """Return, by how smooth the photo is there, how many specks and hairs have half their pixels found."""
    of_all, found_of = np.zeros(3, int), np.zeros((len(SENSITIVITIES), 3), int)
    for index, (_, photo) in enumerate(photos):
        case = dirt(photo, np.random.default_rng(1000 + index))
        gray = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY).astype(np.float32)
        window = (AROUND_PX, AROUND_PX)
        spread = np.sqrt(np.maximum(0, cv2.blur(gray * gray, window) - cv2.blur(gray, window) ** 2))
        count, labels = cv2.connectedComponents(case.mask.view(np.uint8))
        labels_of_dirt = np.asarray(labels[case.mask], np.int32)
        size = np.bincount(labels_of_dirt, minlength=count)[1:]
        around = np.bincount(labels_of_dirt, weights=spread[case.mask], minlength=count)[1:] / size
        kinds = np.digitize(around, SMOOTH_LEVELS)
        of_all += np.bincount(kinds, minlength=3)
        spots = find_spots(case.image)
        for row, sensitivity in enumerate(SENSITIVITIES):
            hit = case.mask & spots.select(sensitivity).mask
            found = np.bincount(np.asarray(labels[hit], np.int32), minlength=count)[1:] >= size / 2
            found_of[row] += np.bincount(kinds[found], minlength=3)
    low, high = SMOOTH_LEVELS
    names = (f"below {low:g} levels", f"{low:g} to {high:g}", f"above {high:g}")
    return [
        {"the photo varies by": name, "drawn": str(of_all[kind])}
        | {
            f"found at {sensitivity}": f"{found_of[row, kind] / max(1, of_all[kind]):.0%}"
            for row, sensitivity in enumerate(SENSITIVITIES)
        }
        for kind, name in enumerate(names)
    ]


def spot_times(photo: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Return rows of what looking for spots costs by size."""
    rows = []
    for size in ((1024, 1024), LARGE_PX):
        image = np.asarray(cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        began, used = time.perf_counter(), time.process_time()
        found = find_spots(image)
        row: dict[str, Any] = {"photo": f"{size[1]}x{size[0]}", "s": time.perf_counter() - began}
        row["s of processor"] = time.process_time() - used
        began = time.perf_counter()
        found.select(0.6)
        rows.append(row | {"another sensitivity, s": time.perf_counter() - began})
    return rows


def clicks(photo: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Return rows of one click on a drawn shape at 12 megapixels: time, and how well it is met."""
    image = np.asarray(cv2.resize(photo, LARGE_PX[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    rows = []
    for name, radius in (("large star", 700), ("star", 300), ("small star", 60)):
        angles = np.arange(14) * np.pi / 7
        radii = np.where(np.arange(14) % 2, 0.55, 1.0) * radius
        corners = np.stack([2000 + radii * np.cos(angles), 1400 + radii * np.sin(angles)], 1).astype(np.int32)
        shape = np.zeros(LARGE_PX, np.uint8)
        cv2.fillPoly(shape, [corners], 255)
        drawn = image.copy()
        drawn[shape > 0] = (215, 60, 50)
        drawn = np.asarray(cv2.GaussianBlur(drawn, (0, 0), 1.0), np.uint8)
        wall, processor, found = [], [], None
        for _ in range(9):
            began, used = time.perf_counter(), time.process_time()
            found = select_object(drawn, [(2000, 1400, True)])
            wall.append(1000 * (time.perf_counter() - began))
            processor.append(1000 * (time.process_time() - used))
        assert found is not None
        _, _, iou = compare(found.mask, shape > 0)
        rows.append(
            {
                "click on": f"a {name}, {2 * radius} px", "median ms": statistics.median(wall[1:]),
                "fastest - slowest": f"{min(wall[1:]):.0f} - {max(wall[1:]):.0f}", "bar": CLICK_BAR_MS,
                "processor ms": statistics.median(processor[1:]), "IoU": f"{iou:.3f}",
            }
        )  # fmt: skip
    return rows


def times(photo: NDArray[np.uint8]) -> list[dict[str, Any]]:
    """Return rows of what finding costs by size, the network loaded."""
    rows = []
    for size in ((1024, 1024), LARGE_PX):
        image = np.asarray(cv2.resize(photo, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        case = logos(image, np.random.default_rng(0))
        assert case.template is not None
        looked = find_text(image)
        row: dict[str, Any] = {"photo": f"{size[1]}x{size[0]}"}
        for name, run in (
            ("text, s", lambda image=image: find_text(image)),
            ("another sensitivity, s", lambda looked=looked: looked.select(0.6)),
            ("the same mark again, s", lambda case=case: find_repeats(case.image, case.template)),
        ):
            began, used = time.perf_counter(), time.process_time()
            run()
            row |= {name: time.perf_counter() - began, f"{name} of processor": time.process_time() - used}
        rows.append(row)
    return rows


def runtimes() -> list[dict[str, Any]]:
    """Return rows of OpenCV's DNN and onnxruntime with the text network, each in a process of its own."""
    rows = []
    for name in ("onnxruntime", "opencv"):
        command = [sys.executable, "-c", RUNTIME_CODE, name, str(find_weights()), "960"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        load, first, later, peak = map(float, lines[-4:])
        rows.append({"runtime": name, "import and load": load, "first": first, "later": later, "peak MiB": peak})
    return rows


def environment(photos: int) -> dict[str, Any]:
    """Return where and with what this was measured."""
    packages = {name: version(name) for name in ("numpy", "opencv-python-headless", "onnxruntime", "rapidocr")}
    return {
        "photos": photos, "cores": os.cpu_count(), "load": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(), **packages, "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


if __name__ == "__main__":
    main()
