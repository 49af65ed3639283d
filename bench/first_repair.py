"""The first repair after a start beside those that follow, each time in a fresh process, here and in another checkout.

    python bench/first_repair.py [--before FOLDER] [--turns 6] [--out FOLDER] [--name first-repair-h200]

A process makes a photo of 4000x3000 with a hole of 300 px, loads the engine as a library does and repairs ten times in
a row. The two checkouts take turns; the other one needs the weights in its folder. Prints Markdown, milliseconds, and
writes it with the environment to FOLDER/NAME.md (default: bench/results).
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import given
from bench.speed import environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
REPAIRS = 10
CODE = f"""
import json, os, sys, time
from bench.speed_repair import photo_and_hole
from inference import Inpainter
image, mask = photo_and_hole(3000, 4000, 300)
inpainter, walls = Inpainter.load(None), []
for _ in range({REPAIRS}):
    started = time.perf_counter()
    inpainter.repair(image, mask).patches
    walls.append((time.perf_counter() - started) * 1e3)
print(json.dumps(walls), flush=True)
os._exit(0)  # what the interpreter takes to end is not asked for
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=given.checkout, help="another checkout")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--name", default="first-repair-h200")
    options = parser.parse_args()
    folders = {"before": options.before, "now": ROOT} if options.before else {"now": ROOT}
    lines = [", ".join(f"{key} {value}" for key, value in environment().items()), ""]
    lines += ["| checkout | first | second | median of ten | first / median |", "|---|---|---|---|---|"]
    ratios: dict[str, list[float]] = {name: [] for name in folders}
    for _ in range(options.turns):
        for name, folder in folders.items():
            walls = in_a_fresh_process(folder)
            median = statistics.median(walls)
            ratios[name].append(walls[0] / median)
            lines.append(f"| {name} | {walls[0]:.2f} | {walls[1]:.2f} | {median:.2f} | {walls[0] / median:.2f} |")
            print(lines[-1], flush=True)
    for name, each in ratios.items():
        lines.append(f"| {name}, median of {len(each)} | | | | {statistics.median(each):.2f} |")
        print(lines[-1], flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.name}.md").write_text("\n".join(lines) + "\n")


def in_a_fresh_process(folder: Path) -> list[float]:
    """Return the milliseconds of ten repairs in a row; SystemExit with what the process said if it failed."""
    child = subprocess.run([sys.executable, "-c", CODE], cwd=folder, capture_output=True, text=True)
    if child.returncode:
        raise SystemExit(child.stderr[-500:])
    return list(json.loads(child.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
