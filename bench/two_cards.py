"""Repairs a second on one card and on two, as `DEVICES=0` and `DEVICES=0,1` have them, and what bounds them.

12 MP photos with a small and with a large hole, each card as busy as it can be. Four ways:

- the program's queue: 16 clients hand in repairs and wait until the result is stored; the model is in this process for
  one card, in a process per card for all (`jobs/card_pool.py`);
- the program's engine: the same without queue and disk, arrays in and patches out;
- a process per card, each with a photo of its own: the most that cards can do;
- threads of one process, which share its interpreter: how the program did it before.

The turns of one and two cards alternate, so that a host that slows down slows both. Needs what the engine needs, and no
web server.

    python -m bench.two_cards [--devices cuda:0,cuda:1] [--seconds 4] [--turns 3] [--only queue,engine]
    OMP_NUM_THREADS=1 python -m bench.two_cards --devices cpu,cpu --size 640x480 --holes 60    # two cores stand in

Prints a Markdown table and one JSON line, and keeps both in bench/results/two-cards.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.card_ways import Cards, Engine, Plan, Processes, Queue, Threads

RESULTS = Path(__file__).parent / "results"
MODES = ("queue", "engine", "processes", "threads")
WANTED = 1.9


def measure(turn: Callable[[int, int], float], plan: Plan, *, cards: int) -> dict[int, dict[str, float]]:
    """Return repairs a second with one card and with all, and their ratio, by kind of hole; medians over the turns."""
    rows = {}
    for hole_px in plan.holes_px:
        pairs = [(turn(hole_px, 1), turn(hole_px, cards)) for _ in range(plan.turns)]
        one, many = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratios = sorted(two / single for single, two in pairs)
        rows[hole_px] = {
            "one": round(one, 3), "all": round(many, 3), "ratio": round(statistics.median(ratios), 3),
            "lowest_ratio": round(ratios[0], 3), "highest_ratio": round(ratios[-1], 3),
        }  # fmt: skip
    return rows


def table(results: dict[str, dict[int, dict[str, float]]], cards: int) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"| | hole, px | one card, repairs/s | {cards} cards, repairs/s | times as many | lowest to highest |",
        "|---|---|---|---|---|---|",
    ]
    for mode, rows in results.items():
        lines += [
            f"| {mode} | {hole_px} | {row['one']:g} | {row['all']:g} | **{row['ratio']:.2f}** "
            f"| {row['lowest_ratio']:.2f} to {row['highest_ratio']:.2f} |"
            for hole_px, row in rows.items()
        ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure; the exit code is 1 where the program's queue is below 1.9 times one card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    parser.add_argument("--size", default="4000x3000", help="of the photo, width x height")
    parser.add_argument("--holes", default="300,2600", help="how wide the holes are, pixels")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", default=",".join(MODES), help=f"some of {','.join(MODES)}")
    parser.add_argument("--out", type=Path, default=RESULTS / "two-cards.md")
    options = parser.parse_args(argv)
    import torch

    devices = options.devices.split(",")
    width_px, height_px = (int(side) for side in options.size.split("x"))
    holes_px = tuple(int(hole) for hole in options.holes.split(","))
    plan = Plan(width_px, height_px, holes_px, options.seconds, options.turns)
    results: dict[str, Any] = {}
    described: dict[str, Any] = {}
    kinds: dict[str, tuple[str, Callable[[Sequence[str], Plan], Cards]]] = {
        "queue": ("the program's queue", Queue), "engine": ("the program's engine", Engine),
        "processes": ("a process per card", Processes), "threads": ("threads of one process", Threads),
    }  # fmt: skip
    for mode in options.only.split(","):
        name, kind = kinds[mode]
        cards = kind(devices, plan)
        results[name] = measure(cards.turn, plan, cards=len(devices))
        cards.close()
        described = cards.described or described
        print(table({name: results[name]}, len(devices)), flush=True)
        del cards
    names = [torch.cuda.get_device_name(one) if one.startswith("cuda") else one for one in devices]
    environment = {
        "devices": names, "torch": torch.__version__, "python": platform.python_version(), "cpus": os.cpu_count(),
        "described": described, "plan": asdict(plan),
    }  # fmt: skip
    line = json.dumps({"environment": environment, "results": results}, default=str)
    where = f"Photos of {options.size}; {', '.join(names)}; PyTorch {torch.__version__}; {os.cpu_count()} CPU cores"
    text = f"{table(results, len(devices))}\n\n{where}\n"
    print(text, line, sep="\n")
    options.out.write_text(f"# One card and two (bench/two_cards.py)\n\n{text}\n```\n{line}\n```\n", encoding="utf-8")
    program = next(iter(results.values()))
    return 0 if min(program[hole_px]["ratio"] for hole_px in holes_px) >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
