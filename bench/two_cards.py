"""Throughput of several GPUs in one process, as `DEVICES=0,1` runs them: one engine each, one thread each, one queue.

    python bench/two_cards.py [--devices cuda:0,cuda:1] [--seconds 8] [--out FILE]

12 MP images with a small hole (300 px) and with a large one (2600 px). The same engines first take turns on the first
device alone, then all of them work. Prints a Markdown table and one JSON line. Needs no web framework.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from inference import Inpainter, RepairRequest

SIZE = (3000, 4000)
HOLES_PX = {"small, 300 px": 300, "large, 2600 px": 2600}
WARM_UP_REPAIRS = 4
ROUNDS = 3


def make_request(hole_px: int, seed: int) -> RepairRequest:
    """Return a repair of a 12 MP image of seeded noise with one round hole in its middle."""
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    mask = (rows - SIZE[0] / 2) ** 2 + (columns - SIZE[1] / 2) ** 2 < (hole_px / 2) ** 2
    return RepairRequest(image, mask)


def repairs_per_s(engines: list[Inpainter], requests: list[RepairRequest], seconds: float) -> float:
    """Let one thread per engine repair for so long; return repairs a second of all together."""
    counts = [0] * len(engines)
    ready = threading.Barrier(len(engines) + 1)
    until_s = [0.0]

    def work(number: int) -> None:
        for _ in range(WARM_UP_REPAIRS):
            engines[number].repair_many([requests[number]])
        ready.wait()
        while time.perf_counter() < until_s[0]:
            engines[number].repair_many([requests[number]])
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(engines))]
    for thread in threads:
        thread.start()
    until_s[0] = float("inf")
    ready.wait()
    began_s = time.perf_counter()
    until_s[0] = began_s + seconds
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - began_s)


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the exit code is 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "two-cards.md")
    options = parser.parse_args(argv)
    devices = options.devices.split(",")
    engines = [Inpainter.load(device=device) for device in devices]
    rows: list[dict[str, Any]] = []
    for name, hole_px in HOLES_PX.items():
        requests = [make_request(hole_px, seed) for seed in range(len(engines))]
        # In turns, so that a host which slows down slows both.
        ones, alls = [], []
        for _ in range(ROUNDS):
            ones.append(repairs_per_s(engines[:1], requests, options.seconds / ROUNDS))
            alls.append(repairs_per_s(engines, requests, options.seconds / ROUNDS))
        ratios = [together / alone for alone, together in zip(ones, alls, strict=True)]
        rows.append({
            "hole": name, "one_per_s": statistics.median(ones), "all_per_s": statistics.median(alls),
            "ratio": statistics.median(ratios), "ratios": ratios,
        })  # fmt: skip
    environment = {
        "devices": [torch.cuda.get_device_name(d) if d.startswith("cuda") else d for d in devices],
        "torch": torch.__version__, "python": platform.python_version(),
    }  # fmt: skip
    lines = [f"| hole | one device, repairs/s | {len(devices)} devices | ratio (least to most) |", "|---|---|---|---|"]
    lines += [
        f"| {row['hole']} | {row['one_per_s']:.1f} | {row['all_per_s']:.1f} "
        f"| {row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f}) |"
        for row in rows
    ]
    text = "\n".join(lines)
    line = json.dumps({"environment": environment, "rows": rows})
    print(text, line, sep="\n\n")
    options.out.write_text(f"# Several GPUs in one process (bench/two_cards.py)\n\n{text}\n\n```\n{line}\n```\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
