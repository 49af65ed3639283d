"""The stages of a repair, timed by a clock that the test turns."""

from types import SimpleNamespace

import pytest
import torch

from engine import stage_timer
from engine.stage_timer import StageTimer


def test_every_stage_gets_the_time_until_the_next_and_the_total_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr(stage_timer, "time", SimpleNamespace(perf_counter=lambda: clock.now_s))
    reported: list[str] = []
    timer = StageTimer(torch.device("cpu"), reported.append)
    for after_s, stage in ((0.5, "plan"), (1.0, "predict"), (2.0, "composite"), (0.25, "predict"), (4.0, "")):
        clock.now_s += after_s
        timer.enter(stage)
    clock.now_s += 8.0
    assert timer.timings_ms() == {"plan": 1000.0, "predict": 6000.0, "composite": 250.0, "total": 15750.0}
    assert reported == ["plan", "predict", "composite"], "each once"
