"""Two hundred random repairs with the real weights: nothing may fail, and no known pixel may change.

Images from 1x1 to 3000x2000, 8 and 16 bit; masks empty, full, on the border, one pixel, a block, strokes, hundreds of
specks. Each is repaired with `dilate_px=0` and with the default. Prints one row per kind of mask, then a JSON line, and
exits 1 when anything is wrong. Usage: python bench/robustness.py [--count 200] [--weights FILE] [--device auto]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import torch

from inference import Inpainter
from masks.boxes import paste
from masks.shadows import dilate_in_photo

KINDS = ("empty", "full", "border", "pixel", "block", "stroke", "specks")
LARGEST = (2000, 3000)  # height, width


def main() -> int:
    """Run the repairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--device", default="auto")
    chosen = parser.parse_args()
    inpainter = Inpainter.load(chosen.weights, device=chosen.device)
    times_ms: dict[str, list[float]] = {kind: [] for kind in KINDS}
    faults: list[str] = []
    for number in range(chosen.count):
        kind = KINDS[number % len(KINDS)]
        rng = np.random.default_rng(number)
        size = draw_size(rng, number)
        mask = draw_mask(rng, kind, size)
        dtype = np.uint16 if number % 4 == 0 else np.uint8
        image = rng.integers(0, np.iinfo(dtype).max, (*size, 3), dtype=dtype, endpoint=True)
        for dilate_px in (0, None):
            started_s = time.perf_counter()
            fault = find_fault(inpainter, image, mask, dilate_px)
            times_ms[kind].append((time.perf_counter() - started_s) * 1000)
            if fault:
                faults.append(f"{number} ({kind}, {size[1]}x{size[0]} {dtype.__name__}, dilate {dilate_px}): {fault}")
    print("| mask | repairs | median ms | slowest ms |\n|---|---|---|---|")
    for kind, spent in times_ms.items():
        if spent:
            print(f"| {kind} | {len(spent)} | {statistics.median(spent):.0f} | {max(spent):.0f} |")
    for fault in faults:
        print("FAULT", fault)
    environment = {"machine": platform.platform(), "torch": torch.__version__, **inpainter.describe()}
    medians = {kind: round(statistics.median(spent), 1) for kind, spent in times_ms.items() if spent}
    print(json.dumps({"repairs": 2 * chosen.count, "faults": len(faults), "median_ms": medians, **environment}))
    return 1 if faults else 0


def draw_size(rng: np.random.Generator, number: int) -> tuple[int, int]:
    """A (height, width): tiny ones, then log-uniform up to the largest, which is among them."""
    narrow = ((2, 300), (300, 2), (1, 2000), (2000, 1))
    few = ((1, 1), (1, 7), (9, 1), (15, 17), *narrow, (16, 16), LARGEST)
    if number < len(few):
        return few[number]
    height, width = (int(np.exp(rng.uniform(0, np.log(side)))) for side in LARGEST)
    return height, width


def draw_mask(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> np.ndarray:
    """A mask of one kind."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    if kind == "full":
        mask[:] = 1
    elif kind == "border":
        mask[: max(1, height // 12)] = mask[:, -max(1, width // 12) :] = 1
    elif kind == "pixel":
        mask[y, x] = 1
    elif kind == "block":
        mask[y : y + 300, x : x + 300] = 1
    elif kind == "stroke":
        points = np.stack([rng.integers(0, width, 6), rng.integers(0, height, 6)], axis=1).astype(np.int32)
        cv2.polylines(mask, [points], False, 1, thickness=int(rng.integers(1, 25)))
    elif kind == "specks":
        mask[rng.integers(height, size=400), rng.integers(width, size=400)] = 1
    return mask.astype(np.bool_)


def find_fault(inpainter: Inpainter, image: np.ndarray, mask: np.ndarray, dilate_px: int | None) -> str:
    """Repair and compare with what must hold; an empty string when it does."""
    image_before, mask_before = image.copy(), mask.copy()
    try:
        result = inpainter.repair(image, mask, dilate_px=dilate_px)
    except Exception as error:  # any kind is a fault to be counted
        return f"{type(error).__name__}: {error}"
    got = result.image
    if got.shape != image.shape or got.dtype != image.dtype:
        return f"{got.shape} {got.dtype} came back"
    dilated = dilate_in_photo(mask, image, dilate_px=dilate_px)
    hole = mask if dilated is None else paste(dilated.missing, dilated.box, (0, 0, mask.shape[1], mask.shape[0]))
    if not np.array_equal(got[~hole], image[~hole]):
        return "the known region changed"
    if dilate_px == 0 and not np.array_equal(hole, mask):
        return "an unmasked pixel was missing"
    if not (np.array_equal(image, image_before) and np.array_equal(mask, mask_before)):
        return "the arguments were written to"
    return ""


if __name__ == "__main__":
    sys.exit(main())
