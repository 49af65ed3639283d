"""Repairs one after another and after rests, by wall clock, in one process that is done in half a minute."""

import statistics
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.speed_repair import disc, photo_and_hole


def rest_rows(weights: str | None, *, rounds: int = 40) -> list[dict[str, Any]]:
    """Time repairs in a row, the first apart, then those that follow a rest of 0.3 s and of 10 s.

    The row of 300 px comes twice: what the first of them begins after is the making of photos, the second's a line
    that is printed.
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
        "300 of 12 MP": (image, mask),
        "300 again": (image, mask),
        "300 of 1 MP": small,
        "1200 of 12 MP": (image, disc(3000, 4000, 1200)),
        "2600 of 12 MP": (image, disc(3000, 4000, 2600)),
    }
    for name, case in cases.items():
        walls, stages = _in_a_row(inpainter, case, rounds + 1)
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
    for rest_s, times in ((0.3, 6), (10.0, 2)):
        firsts, first_stages, then = [], [], []
        for _ in range(times):
            time.sleep(rest_s)
            walls, stages = _in_a_row(inpainter, (image, mask), 6)
            firsts.append(round(walls[0], 2))
            first_stages.append(stages[0])
            then.append(walls[-1])
        medians = {
            stage: round(statistics.median(each[stage] for each in first_stages), 2) for stage in first_stages[0]
        }
        rows.append(
            {"rest_s": rest_s, "firsts_ms": firsts, "sixth_ms": statistics.median(then), "first_stages_ms": medians}
        )
        print(rows[-1], flush=True)
    return rows


def _in_a_row(
    inpainter: Any, case: tuple[NDArray, NDArray], repairs: int
) -> tuple[list[float], list[dict[str, float]]]:
    walls, stages = [], []
    for _ in range(repairs):
        began_s = time.perf_counter()
        result = inpainter.repair(*case)
        walls.append((time.perf_counter() - began_s) * 1e3)
        stages.append(result.timings_ms)
    return walls, stages


def _reserved_mib() -> int:
    return torch.cuda.memory_reserved() >> 20 if torch.cuda.is_available() else 0
