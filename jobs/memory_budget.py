"""The memory that decoding, rasterising, composing and encoding share, and whose turn it is.

Each step is bounded alone; a hundred at once are not. So each says how many bytes it needs at most and waits until they
are free, in the order of asking. The bytes per pixel stand where they are asked for (`images.py`,
`request_parsing.py`); bench/step_memory.py measures them.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import JobError

MIB = 1 << 20
LONGEST_WAIT_S = 30.0


class MemoryBudget:
    """A number of bytes, handed out in order and given back."""

    def __init__(self, limit_bytes: int, *, at_once: int, longest_wait_s: float = LONGEST_WAIT_S) -> None:
        """Make the budget.

        Args:
            limit_bytes: what all steps may take together.
            at_once: how many steps may run at a time, because more of them than cores only slow each other down.
            longest_wait_s: how long a caller waits for its turn unless it asks otherwise, seconds.
        """
        self.limit_bytes = limit_bytes
        self._at_once = at_once
        self._longest_wait_s = longest_wait_s
        self._taken_bytes = 0
        self._running = 0
        self._line: deque[object] = deque()
        self._news = threading.Condition()
        self._mine = threading.local()  # whether this thread holds a turn

    @contextmanager
    def reserve(self, size_bytes: int, *, wait_s: float | None = None) -> Iterator[None]:
        """Hold bytes while the block runs.

        A block inside another of the same thread takes its bytes from that one's, which has to ask for both: two that
        each hold a part and wait for more would wait for ever.

        Args:
            size_bytes: the most that the block takes. More than there is in all is had by whoever is alone.
            wait_s: the longest wait for the turn; None = the budget's own.

        Yields:
            Nothing, when it is this caller's turn.

        Raises:
            JobError: `busy` when the turn did not come in time.
        """
        if getattr(self._mine, "is_held", False):
            yield
            return
        self._take(size_bytes, self._longest_wait_s if wait_s is None else wait_s)
        self._mine.is_held = True
        try:
            yield
        finally:
            self._mine.is_held = False
            with self._news:
                self._taken_bytes -= size_bytes
                self._running -= 1
                self._news.notify_all()

    def _take(self, size_bytes: int, wait_s: float) -> None:
        until_s = time.monotonic() + wait_s
        ticket = object()
        with self._news:
            self._line.append(ticket)
            try:
                while not self._fits(ticket, size_bytes):
                    remaining_s = until_s - time.monotonic()
                    if remaining_s <= 0:
                        raise JobError("busy", "The server is busy with other large pictures. Try again soon.")
                    self._news.wait(remaining_s)
                self._taken_bytes += size_bytes
                self._running += 1
            finally:
                self._line.remove(ticket)
                self._news.notify_all()

    def _fits(self, ticket: object, size_bytes: int) -> bool:
        if self._line[0] is not ticket:
            return False
        return not self._running or (
            self._running < self._at_once and self._taken_bytes + size_bytes <= self.limit_bytes
        )
