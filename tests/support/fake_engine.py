"""An engine for tests of everything around it: fills holes with the mean colour, and misbehaves on demand.

What it does is asked for through options of the repair itself, so that a test says it where it sends the job:
`feather_px` = n waits n hundredths of a second, `dilate_px` = one of the constants below. Weights are asked by name:
"slow…" take a moment to switch to, "broken…" can't be used. High quality goes through the stage "refine" too.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from notices import Note

FAIL = 1001  # raises an error no engine should raise
NO_MEMORY = 1002  # raises MemoryError
KILL_BATCH = 1003  # raises when it is not alone
SCALED = 1004  # adds a note
LITTLE_MEMORY = 1005  # adds the note of a repair that took a way with less memory
UNTIL_STOPPED = 1006  # predicts until it is cancelled
WAIT_STEP_S = 0.01
SWITCH_S = 0.6


@dataclass
class FakeResult:
    """Shaped like `inference.RepairResult`."""

    patches: list[tuple[tuple[int, int, int, int], np.ndarray]]
    timings_ms: dict[str, float]
    notes: list[Note] = field(default_factory=list)


class FakeEngine:
    """Shaped like `inference.Inpainter`.

    `calls` holds every batch's size, `feathers` every repair's feather_px in the order they ran, by which tests tell
    them apart, and `switches` weights and repairs at once.
    """

    profile = SimpleNamespace(max_batch=8)

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.feathers: list[int | None] = []
        self.weights = "none"
        self.running = 0
        self.switches: list[tuple[str, int]] = []
        self.interrupted = threading.Event()

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        return {
            "device": "fake", "precision": "fp32", "profile": "fake", "profile_reason": "This is a test.",
            "weights": self.weights, "memory_mib": 12.5,
        }  # fmt: skip

    def switch_weights(self, weights: Path | None) -> None:
        """Take the name of a file as the weights' own."""
        name = weights.stem if weights else "lama-compact"
        self.switches.append((name, self.running))
        time.sleep(SWITCH_S if name.startswith("slow") else 0)
        if name.startswith("broken"):
            raise ValueError(f"{name} is damaged.")
        self.weights = name

    def repair_many(
        self, requests: Sequence[Any], *, on_stage: Callable[[str], None] | None = None
    ) -> list[FakeResult]:
        """Fill every hole with the mean of its box's known pixels, as one patch."""
        self.calls.append(len(requests))
        self.feathers += [request.feather_px for request in requests]
        report = on_stage or (lambda name: None)
        report("plan")
        for request in requests:
            if request.dilate_px == FAIL:
                raise RuntimeError("the fake engine was told to fail")
            if request.dilate_px == NO_MEMORY:
                raise MemoryError
            if request.dilate_px == KILL_BATCH and len(requests) > 1:
                raise RuntimeError("the fake engine was told to fail in company")
        report("predict")
        while any(request.dilate_px == UNTIL_STOPPED for request in requests):
            time.sleep(WAIT_STEP_S)
            report("predict")
        self.running += 1
        time.sleep(max(request.feather_px or 0 for request in requests) * WAIT_STEP_S)
        self.running -= 1
        report("composite")
        if any(request.quality == "high" for request in requests):
            report("refine")
            time.sleep(max(request.feather_px or 0 for request in requests) * WAIT_STEP_S)
        return [self._fill(request) for request in requests]

    def _fill(self, request: Any) -> FakeResult:
        rows, columns = np.nonzero(request.mask)
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        patch = request.image[top:bottom, left:right].copy()
        hole = request.mask[top:bottom, left:right]
        patch[hole] = request.image.reshape(-1, 3).mean(axis=0).astype(patch.dtype)
        notes = [Note("The fake engine says so.", code="scaled")] if request.dilate_px == SCALED else []
        if request.dilate_px == LITTLE_MEMORY:
            notes = [Note("Memory did not suffice: it is fake.", code="out_of_memory", how="it is fake")]
        timings_ms = {"plan": 1.0, "predict": 2.0, **({"refine": 3.0} if request.quality == "high" else {})}
        return FakeResult([((int(left), int(top), int(right), int(bottom)), patch)], timings_ms, notes)
