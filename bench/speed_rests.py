"""Repairs one after another and after rests, by wall clock, in one process that is done in half a minute."""

import statistics
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.speed_repair import disc, photo_and_hole
from masks.boxes import Box, find_bounds


def rest_rows(weights: str | None, *, rounds: int = 40) -> list[dict[str, Any]]:
    """Time repairs in a row, the first apart, then those that follow a rest of 0.3 s and of 10 s.

    The row of 300 px comes first with its hole's bounds, as the page's clicks do, then twice with the mask alone: what
    the first begins after is the making of photos, the others' a line that is printed. After a rest a mask comes alone
    and with its bounds in turns.
    """
    from inference import Inpainter

    began_s = time.perf_counter()
    inpainter = Inpainter.load(weights)
    rows: list[dict[str, Any]] = [
        {"loaded_s": round(time.perf_counter() - began_s, 2), "reserved_mib": _reserved_mib()}
    ]
    print(rows[0], flush=True)
    image, mask = photo_and_hole(3000, 4000, 300)
    small = photo_and_hole(1024, 1024, 300)
    cases = {
        "300 of 12 MP, bounds known": (image, mask, find_bounds(mask)),
        "300 of 12 MP": (image, mask, None),
        "300 again": (image, mask, None),
        "300 of 1 MP": (*small, None),
        "1200 of 12 MP": (image, disc(3000, 4000, 1200), None),
        "2600 of 12 MP": (image, disc(3000, 4000, 2600), None),
    }
    for name, (photo, hole, bounds) in cases.items():
        walls, stages = _in_a_row(inpainter, (photo, hole), rounds + 1, bounds)
        medians = {stage: round(statistics.median(each[stage] for each in stages[1:]), 3) for stage in stages[0]}
        rows.append(
            {
                "repair": name,
                "first_ms": round(walls[0], 2),
                "median_ms": round(statistics.median(walls[1:]), 3),
                "p95_ms": round(float(np.quantile(walls[1:], 0.95)), 2),
                "stages_ms": medians,
            }
        )
        print(rows[-1], flush=True)
    ways = {"mask alone": None, "bounds known": find_bounds(mask)}
    for rest_s, times in ((0.3, 12), (10.0, 3)):
        firsts: dict[str, list[float]] = {way: [] for way in ways}
        first_stages: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        then: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(times):
            for way, bounds in ways.items():
                time.sleep(rest_s)
                walls, stages = _in_a_row(inpainter, (image, mask), 6, bounds)
                firsts[way].append(round(walls[0], 2))
                first_stages[way].append(stages[0])
                then[way].append(walls[-1])
        for way in ways:
            rows.append(
                {
                    "rest_s": rest_s,
                    "way": way,
                    "first_ms": round(statistics.median(firsts[way]), 2),
                    "firsts_ms": firsts[way],
                    "sixth_ms": round(statistics.median(then[way]), 2),
                    "first_stages_ms": {
                        stage: round(statistics.median(each[stage] for each in first_stages[way]), 2)
                        for stage in first_stages[way][0]
                    },
                }
            )
            print(rows[-1], flush=True)
    return rows


def _in_a_row(
    inpainter: Any, case: tuple[NDArray, NDArray], repairs: int, bounds: Box | None = None
) -> tuple[list[float], list[dict[str, float]]]:
    from inference import RepairRequest

    walls, stages = [], []
    for _ in range(repairs):
        began_s = time.perf_counter()
        (result,) = inpainter.repair_many([RepairRequest(*case, bounds=bounds)])
        walls.append((time.perf_counter() - began_s) * 1e3)
        stages.append(result.timings_ms)
    return walls, stages


def _reserved_mib() -> int:
    return torch.cuda.memory_reserved() >> 20 if torch.cuda.is_available() else 0
