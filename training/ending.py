"""What ends a stretch of training: the clock that all cards go by, and the signals that ask for the end."""

from __future__ import annotations

import signal

import torch
import torch.distributed as dist

ASK_CLOCK_EVERY = 8  # steps between two looks at the first card's clock


class SharedClock:
    """The first card's times, which every card goes by: all must take the same turn at the same step."""

    def __init__(self, world: int, device: torch.device) -> None:
        self._world, self._device, self._reads = world, device, 0
        self._times: tuple[float, ...] = ()

    def read(self, *times_s: float) -> tuple[float, ...]:
        """Return the times of this card, of several the first one's as of at most `ASK_CLOCK_EVERY` - 1 reads ago."""
        if self._world == 1:
            return times_s
        if self._reads % ASK_CLOCK_EVERY == 0:
            shared = torch.tensor(times_s, device=self._device, dtype=torch.float64)
            dist.broadcast(shared, 0)
            self._times = tuple(shared.tolist())
        self._reads += 1
        return self._times


class Stopping:
    """Whether Ctrl+C or SIGTERM has asked for the end; a second signal ends at once, without a save."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.signal(number, self._ask) for number in self.SIGNALS}

    def _ask(self, _number: int, _frame: object) -> None:
        self.asked = True
        self.end()

    def end(self) -> None:
        """Let the signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
