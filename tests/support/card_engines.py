"""What processes of cards load in tests: the real engine on the CPU, and fake ones that take their process down.

`dilate_px` = `KILL_PROCESS` ends the process that has the repair, `HANG` has it never come to another stage.
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from typing import Any

from tests.support.fake_engine import FakeEngine

KILL_PROCESS = 1000
HANG = 999


class CardFakeEngine(FakeEngine):
    """The fake engine, which can take its process down, and hang."""

    def repair_many(self, requests: Any, *, on_stage: Any = None) -> Any:
        """Fill holes with the mean colour."""
        if any(request.dilate_px == KILL_PROCESS for request in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        if any(request.dilate_px == HANG for request in requests):
            threading.Event().wait()
        return super().repair_many(requests, on_stage=on_stage)


def load_fake() -> CardFakeEngine:
    """Return a fake engine."""
    return CardFakeEngine()


def load_real(weights: str) -> Any:
    """Return the real engine with these weights, on the CPU; its largest bucket is 256 px, for small photos."""
    from engine.profiles import Card, choose_profile
    from inference import Inpainter

    profile = replace(choose_profile(Card("CPU"))[0], buckets_px=(128, 256))
    return Inpainter.load(weights, device="cpu", profile=profile, large_holes="accurate")


def load_nothing(message: str) -> Any:
    """Fail as a machine without the card does."""
    from engine.requests import UnavailableError

    raise UnavailableError(message)
