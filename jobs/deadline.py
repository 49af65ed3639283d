"""The time that a batch of repairs may take, watched from a thread of its own; it may begin anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType


class Deadline:
    """A context that calls back once when its block takes too long.

    Args:
        limit_s: what the block may take, seconds.
        on_late: called from another thread.
    """

    def __init__(self, limit_s: float, on_late: Callable[[], object]) -> None:
        self._limit_s = limit_s
        self._on_late = on_late
        self._ended = threading.Event()
        self._until_s = 0.0

    def __enter__(self) -> Deadline:
        """Begin to watch."""
        self.begin_anew()
        threading.Thread(target=self._watch, name="deadline", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Watch no more."""
        self._ended.set()

    def begin_anew(self) -> None:
        """Give the block its whole time again from now on."""
        self._until_s = time.monotonic() + self._limit_s

    def _watch(self) -> None:
        while (left_s := self._until_s - time.monotonic()) > 0:
            if self._ended.wait(left_s):
                return
        self._on_late()
