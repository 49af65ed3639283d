"""Named stages of a repair, timed where they run: CUDA events on a GPU, which add no wait, else the clock."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

ON_HOST = ("plan", "wait")  # stages that use no device
REPORTED = ("plan", "predict", "composite")  # `on_stage` is called once for each
REPEATED = ("refine",)  # called for every tile: the one stage that lasts long enough to be cancelled

_spare_events: dict[torch.device, list[torch.cuda.Event]] = {}  # appending and popping are atomic

OnStage = Callable[[str], None]


class StageTimer:
    """Times the stages of one call; `timings_ms` adds up stages that were entered more than once.

    Args:
        device: where the work runs.
        on_stage: called with a stage's name when it is first entered, "refine" every time; its exceptions end the call.
    """

    def __init__(self, device: torch.device, on_stage: OnStage | None = None) -> None:
        self._device = device
        self._on_stage = on_stage
        self._announced: set[str] = set()
        self._started_s = time.perf_counter()
        self._marks: list[tuple[str, float, torch.cuda.Event | None]] = []

    def enter(self, stage: str) -> None:
        """End the previous stage and begin this one; the empty name only ends. Nothing is begun that is under way."""
        if self._marks and self._marks[-1][0] == stage and stage not in REPEATED:
            return
        event = None
        if self._device.type == "cuda" and stage not in ON_HOST:
            event = _take_event(self._device)
            event.record()
        self._marks.append((stage, time.perf_counter(), event))
        is_reported = stage in REPEATED or (stage in REPORTED and stage not in self._announced)
        if self._on_stage is not None and is_reported:
            self._announced.add(stage)
            self._on_stage(stage)

    def timings_ms(self) -> dict[str, float]:
        """Return milliseconds per stage, and the `total` up to now; waits for the last stage's end. Ends the timer."""
        timings: dict[str, float] = {}
        for _, _, event in self._marks[-1:]:
            if event is not None:
                event.synchronize()
        for (stage, start_s, start), (_, end_s, end) in zip(self._marks, self._marks[1:], strict=False):
            if stage:
                spent_ms = start.elapsed_time(end) if start and end else (end_s - start_s) * 1000
                timings[stage] = timings.get(stage, 0.0) + spent_ms
        timings["total"] = (time.perf_counter() - self._started_s) * 1000
        _spare_events.setdefault(self._device, []).extend(event for _, _, event in self._marks if event is not None)
        self._marks.clear()
        return timings


def _take_event(device: torch.device) -> torch.cuda.Event:
    """Return a spare event of this device, or a new one, which costs as much as a few kernel launches."""
    try:
        return _spare_events[device].pop()
    except (KeyError, IndexError):
        return torch.cuda.Event(enable_timing=True)
