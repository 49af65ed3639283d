"""What memory one step over a whole picture takes: the figures behind `STEP_BYTES_PER_PX` of jobs/images.py.

Every step runs in a process of its own, on a photo of 12 and one of 50 million pixels; counted is the peak of the
process's memory above what it held before the step, for each pixel. HEIC is decoded in a process of its own, whose
peak above that of a small picture is added; its largest photo here has 18 million pixels (`large_heic.py`). What a step
needs beyond its budget would be missing when many run at once (bench/many_at_once.py).

    python -m bench.step_memory [--mpx 12 50] [--kinds AVIF HEIC]

Prints Markdown, and keeps it in bench/results/step-memory.md.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from PIL import Image

from bench.large_heic import grid_heic
from imaging import FORMATS, encode_photo, encode_png, encode_preview, open_photo
from jobs.images import AVIF_STEP_BYTES_PER_PX, DEEP_STEP_BYTES_PER_PX, STEP_BYTES_PER_PX, bytes_per_px

RESULTS = Path(__file__).parent / "results"
STEPS = ("decode", "encode", "preview", "png of it")
KINDS = ("JPEG", "PNG", "PNG with alpha", "PNG 16 bit", "TIFF", "WEBP", "AVIF", "HEIC")
LARGEST_HEIC_MPX = 18.0
TO_MIB = 1024.0


def file_of(kind: str, mpx: float) -> bytes:
    """Return the file of a smooth photo with some grain."""
    width = int((mpx * 1e6 * 1.5) ** 0.5)
    height = int(mpx * 1e6 / width)
    if kind == "HEIC":
        return grid_heic(width, height)
    tile = np.random.default_rng(0).integers(90, 110, (256, 256, 3), dtype=np.uint8)
    array = np.tile(tile, (height // 256 + 1, width // 256 + 1, 1))[:height, :width]
    if kind == "PNG 16 bit":
        return cv2.imencode(".png", array.astype(np.uint16) * 257, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    if kind == "PNG with alpha":
        array = np.dstack([array, np.full(array.shape[:2], 200, np.uint8)])
    data = io.BytesIO()
    name = kind.split()[0]
    options = {"PNG": {"compress_level": 1}, "AVIF": {"speed": 10}}
    Image.fromarray(array).save(data, name, **options.get(name, {}))
    return data.getvalue()


def held_mib(name: str) -> float:
    """Return what this process holds now ("VmRSS"), or held at most ("VmHWM")."""
    return int(Path("/proc/self/status").read_text(encoding="ascii").split(f"{name}:")[1].split()[0]) / TO_MIB


def measure(step: str, kind: str, mpx: float) -> float:
    """Carry out one step and return the bytes per pixel of its peak."""
    data = file_of(kind, mpx)
    photo = open_photo(data) if step != "decode" else open_photo(file_of(kind, 0.01))
    work: dict[str, Callable[[], object]] = {
        "decode": lambda: open_photo(data),
        "encode": lambda: encode_photo(photo, photo.image.copy()),
        "preview": lambda: encode_preview(
            photo.image, max_px=2048, format="jpeg", alpha=photo.alpha, white=photo.white
        ),
        "png of it": lambda: encode_png(photo.image, fast=True),
    }
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before_mib, children_before_mib = held_mib("VmRSS"), children_mib()
    work[step]()
    peak_mib = held_mib("VmHWM") - before_mib
    if step == "decode":
        peak_mib += children_mib() - children_before_mib
    return peak_mib * 1024 * 1024 / (mpx * 1e6)


def children_mib() -> float:
    """Return what the largest process that this one started and waited for held at most."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / TO_MIB


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mpx", type=float, nargs="+", default=[12, 50])
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step:
        print(measure(asked.step[0], asked.step[1], float(asked.step[2])))
        return 0
    deep = ", ".join(name for name, row in FORMATS.items() if row.deep)
    lines = [
        "# Memory of one step over a whole picture",
        "",
        f"`python -m bench.step_memory`: bytes per pixel at the peak. The budget counts {STEP_BYTES_PER_PX}, or",
        f"{DEEP_STEP_BYTES_PER_PX} for a format that can hold 16 bits ({deep}), {AVIF_STEP_BYTES_PER_PX} for AVIF;"
        f" {os.cpu_count()} cores.",
        "",
        f"| file | million pixels | {' | '.join(STEPS)} | budget |",
        "|---|---|" + "---|" * (len(STEPS) + 1),
    ]
    for kind in asked.kinds:
        budget = bytes_per_px(kind.split()[0])
        for mpx in sorted({min(mpx, LARGEST_HEIC_MPX) for mpx in asked.mpx} if kind == "HEIC" else asked.mpx):
            command = [sys.executable, "-m", "bench.step_memory", "--step"]
            peaks = [
                float(subprocess.check_output([*command, step, kind, str(mpx)], text=True).splitlines()[-1])
                for step in STEPS
            ]
            row = " | ".join(f"{peak:.1f}{'' if peak <= budget else ' (over)'}" for peak in peaks)
            lines.append(f"| {kind} | {mpx:g} | {row} | {budget} |")
            print(lines[-1], flush=True)
    (RESULTS / "step-memory.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
