"""Repairs a second on one card and on two: threads of one process, as `DEVICES=0,1` has them, and a process per card.

12 MP photos with a small and with a large hole, arrays in and patches out, each card as busy as it can be. The turns of
one and two cards alternate, so that a host that slows down slows both. Needs what the engine needs, and no web server.

    python -m bench.two_cards [--devices cuda:0,cuda:1] [--seconds 4] [--turns 3]
    OMP_NUM_THREADS=1 python -m bench.two_cards --devices cpu,cpu --size 640x480 --holes 60    # two cores stand in

Prints a Markdown table and one JSON line, and keeps both in bench/results/two-cards.md.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

RESULTS = Path(__file__).parent / "results"
WARM_UP = 3  # repairs of each kind before the first turn
WANTED = 1.9

Repair = Callable[[], None]
Turn = Callable[[int, int], float]  # width of the hole in pixels, number of cards -> repairs a second


@dataclass(frozen=True)
class Plan:
    """What is repaired, and for how long.

    Attributes:
        width_px: of the photo.
        height_px: of the photo.
        holes_px: how wide the holes are; one in a photo.
        seconds: the length of a turn.
        turns: how many, with one card and with all.
    """

    width_px: int
    height_px: int
    holes_px: tuple[int, ...]
    seconds: float
    turns: int


def photo_and_hole(plan: Plan, hole_px: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return a photo with waves and grain, and a disc in its middle."""
    height_px, width_px = plan.height_px, plan.width_px
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:height_px, 0:width_px].astype(np.float32)
    waves = 128 + 80 * np.sin(x / 97)[..., None] * np.cos(y / 61)[..., None] * np.array([1.0, 0.7, 0.4], np.float32)
    image = np.clip(waves + random.integers(-8, 9, (height_px, width_px, 1)), 0, 255).astype(np.uint8)
    return image, (x - width_px / 2) ** 2 + (y - height_px / 2) ** 2 <= (hole_px / 2) ** 2


def load_repairs(device: str, plan: Plan) -> tuple[dict[int, Repair], dict[str, Any]]:
    """Load a model onto a device; return what repairs one photo of each kind there, and what runs."""
    from inference import Inpainter

    inpainter = Inpainter.load(device=device)

    def make(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Repair:
        def repair() -> None:
            patches = inpainter.repair(image, mask).patches
            assert patches

        return repair

    repairs = {hole_px: make(*photo_and_hole(plan, hole_px)) for hole_px in plan.holes_px}
    for repair in repairs.values():
        for _ in range(WARM_UP):
            repair()
    return repairs, inpainter.describe()


def repair_for(repair: Repair, seconds: float) -> float:
    """Repair at least so long; return repairs a second."""
    began_s, count = time.monotonic(), 0
    while (elapsed_s := time.monotonic() - began_s) < seconds or not count:
        repair()
        count += 1
    return count / elapsed_s


class Threads:
    """All cards in this process, one thread each."""

    def __init__(self, devices: Sequence[str], plan: Plan) -> None:
        self._seconds = plan.seconds
        loaded = [load_repairs(device, plan) for device in devices]
        self._repairs = [repairs for repairs, _ in loaded]
        self.described = loaded[0][1]

    def turn(self, hole_px: int, cards: int) -> float:
        """Return how many repairs a second the first cards do together."""
        rates: queue.SimpleQueue[float] = queue.SimpleQueue()
        threads = [
            threading.Thread(target=lambda repair=repairs[hole_px]: rates.put(repair_for(repair, self._seconds)))
            for repairs in self._repairs[:cards]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(rates.get() for _ in threads)

    def close(self) -> None:
        """Do nothing: the models go with the process."""


def _serve(device: str, plan: Plan, pipe: Any) -> None:
    repairs, _ = load_repairs(device, plan)
    pipe.send(None)
    while (asked := pipe.recv()) is not None:
        pipe.send(repair_for(repairs[asked], plan.seconds))


class Processes:
    """Each card in a process of its own, as `fftlama worker` has them."""

    def __init__(self, devices: Sequence[str], plan: Plan) -> None:
        self._seconds = plan.seconds
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in devices]
        self._pipes = [ours for ours, _ in pairs]
        self._processes = [
            context.Process(target=_serve, args=(device, plan, theirs), daemon=True)
            for device, (_, theirs) in zip(devices, pairs, strict=True)
        ]
        for process in self._processes:
            process.start()
        for pipe in self._pipes:
            pipe.recv()

    def turn(self, hole_px: int, cards: int) -> float:
        """Return how many repairs a second the first cards do together."""
        for pipe in self._pipes[:cards]:
            pipe.send(hole_px)
        return sum(pipe.recv() for pipe in self._pipes[:cards])

    def close(self) -> None:
        """End the processes."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(30)


def measure(turn: Turn, plan: Plan, *, cards: int) -> dict[int, dict[str, float]]:
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
    """Measure; the exit code is 1 where the better of the two modes is below 1.9 times one card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="cuda:0,cuda:1")
    parser.add_argument("--size", default="4000x3000", help="of the photo, width x height")
    parser.add_argument("--holes", default="300,2600", help="how wide the holes are, pixels")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--only", choices=("threads", "processes"))
    parser.add_argument("--out", type=Path, default=RESULTS / "two-cards.md")
    options = parser.parse_args(argv)
    import torch

    devices = options.devices.split(",")
    width_px, height_px = (int(side) for side in options.size.split("x"))
    holes_px = tuple(int(hole) for hole in options.holes.split(","))
    plan = Plan(width_px, height_px, holes_px, options.seconds, options.turns)
    results: dict[str, Any] = {}
    described: dict[str, Any] = {}
    modes: dict[str, type[Threads] | type[Processes]] = {
        "threads of one process": Threads, "a process per card": Processes,
    }  # fmt: skip
    for mode, kind in modes.items():
        if options.only and options.only not in (kind.__name__.lower(),):
            continue
        cards = kind(devices, plan)
        results[mode] = measure(cards.turn, plan, cards=len(devices))
        cards.close()
        described = getattr(cards, "described", described)
        print(table({mode: results[mode]}, len(devices)), flush=True)
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
    best = [max(rows[hole_px]["ratio"] for rows in results.values()) for hole_px in holes_px]
    return 0 if min(best) >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
