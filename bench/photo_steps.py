"""What opening a photo, reading its mask, encoding and writing the result takes of one core, step by step.

A card repairs a photo of 2 megapixels in 2 ms, so these steps decide how fast a folder goes (bench/folder.py). A mask
that serves all photos is read again and again; what that takes is a step of its own. With `--beside FOLDER` another
checkout of the program is measured too, by turns, each in a process of its own.

    python bench/photo_steps.py [--size 1600x1200] [--turns 5] [--beside FOLDER]

Prints a table of medians (ms of the processor) and one JSON line, and keeps both in bench/results/photo-steps.md.
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
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results" / "photo-steps.md"
PHOTO = ROOT / "tests" / "data" / "pier.jpg"
STEPS = ("open the photo", "read the mask", "read it again", "encode", "write")
ROUNDS = 12
JPEG_QUALITY = 92


def photo_and_mask(width: int, height: int) -> tuple[bytes, bytes]:
    """Return a JPEG with grain, which a resized picture lacks and JPEG pays for, and a PNG of a mask."""
    source = cv2.imread(str(PHOTO))
    assert source is not None
    grain = np.random.default_rng(0).normal(0, 3, (height, width, 1))
    photo = np.clip(cv2.resize(source, (width, height)) + grain, 0, 255).astype(np.uint8)
    mask = np.zeros((height, width), np.uint8)
    cv2.ellipse(mask, (width // 2, height // 2), (100, 66), 30, 0, 360, 255, -1)
    jpeg = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    return jpeg.tobytes(), cv2.imencode(".png", mask)[1].tobytes()


def time_steps(data: bytes, mask: bytes, folder: Path, rounds: int = ROUNDS) -> dict[str, float]:
    """Return the median milliseconds of processor time that each step takes."""
    from cli.holes import HoleRules, hole_of_mask
    from imaging import encode_photo, open_photo
    from imaging.atomic_write import write_atomically

    found: dict[str, list[float]] = {name: [] for name in STEPS}
    for number in range(rounds + 2):
        marks = [time.process_time()]
        photo = open_photo(data)
        marks.append(time.process_time())
        own = mask + bytes([number])  # another file for each photo; one that serves all is the next step
        hole = hole_of_mask(own, photo, HoleRules())
        marks.append(time.process_time())
        hole_of_mask(own, photo, HoleRules())
        marks.append(time.process_time())
        image = photo.image.copy()
        image[hole] = 7
        begun = time.process_time()
        encoded = encode_photo(photo, image)
        marks.append(marks[-1] + time.process_time() - begun)
        begun = time.process_time()
        write_atomically(folder / "step.jpg", encoded.data)
        marks.append(marks[-1] + time.process_time() - begun)
        if number >= 2:
            for name, begin, end in zip(STEPS, marks, marks[1:], strict=False):
                found[name].append((end - begin) * 1e3)
    return {name: round(statistics.median(took), 2) for name, took in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="1600x1200")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--beside", type=Path, help="a folder with an older checkout of the program")
    parser.add_argument("--code", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.code:
        sys.path.insert(0, str(options.code))
        width, height = map(int, options.size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(time_steps(*photo_and_mask(width, height), Path(folder))))
        return 0
    if options.beside and not (options.beside / "app.py").is_file():
        parser.error(f"{options.beside} is no checkout of fftlama: it has no app.py")
    sides = {**({"before": options.beside} if options.beside else {}), "now": ROOT}
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    load_before = os.getloadavg()[0]
    for _ in range(options.turns):
        for name, code in sides.items():
            command = [sys.executable, __file__, "--code", str(code), "--size", options.size]
            turns[name].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    medians = {
        name: {step: statistics.median(turn[step] for turn in told) for step in STEPS} for name, told in turns.items()
    }
    lines = [f"| {options.size}, ms of one core | {' | '.join(sides)} |", f"|---|{'---|' * len(sides)}"]
    lines += [f"| {step} | {' | '.join(f'{medians[name][step]:.1f}' for name in sides)} |" for step in STEPS]
    together = [f"**{sum(of.values()) - of['read it again']:.1f}**" for of in medians.values()]
    lines.append(f"| together, each photo with its own mask | {' | '.join(together)} |")
    environment = {
        "python": platform.python_version(), "cpus": os.cpu_count(), "turns": options.turns, "rounds": ROUNDS,
        "load_before": round(load_before, 1), "load_after": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    text = "\n".join([*lines, "", str(environment)])
    line = json.dumps({"environment": environment, "turns": turns})
    print(text, line, sep="\n\n")
    RESULTS.write_text(
        f"# Opening and writing a photo (bench/photo_steps.py)\n\n{text}\n\n```\n{line}\n```\n", encoding="utf-8"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
