"""The memory that decoding, rasterising, composing and encoding share, and whose turn it is.

Each step is bounded alone; a hundred at once are not. So each says how many bytes it needs at most and waits until they
are free, in the order of asking, after the later steps of what was begun. The bytes per pixel stand where they are
asked for (`images.py`, `request_parsing.py`); bench/step_memory.py measures them.
"""

import ctypes
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from jobs.errors import JobError

MIB = 1 << 20
LONGEST_WAIT_S = 30.0
LONGEST_WAIT_HALFWAY_S = 3600.0
TRIMMED_BYTES = 64 * MIB  # a step that took more has the allocator give back what is free


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
        self._is_closed = False
        self._line: deque[object] = deque()
        self._begun_line: deque[object] = deque()
        self._news = threading.Condition()
        self._mine = threading.local()  # whether this thread holds a turn, and how it waits for one

    @contextmanager
    def patient(self, wait_s: float, *, goes_on: bool = False) -> Iterator[None]:
        """Have this thread wait longer in the block.

        What was accepted is not refused half way: its work would be lost, and a new try begins from the start. New work
        comes after it; let in between, it would only add to what waits.

        Args:
            wait_s: the longest wait for a turn.
            goes_on: whether what is asked for goes on with what was begun, and comes before all that is new.

        Yields:
            Nothing.
        """
        before = self._manner
        self._mine.manner = (wait_s, goes_on)
        try:
            yield
        finally:
            self._mine.manner = before

    def going_on(self) -> AbstractContextManager[None]:
        """Have what this thread asks for in the block come before all that is new, and wait as long as it takes."""
        return self.patient(LONGEST_WAIT_HALFWAY_S, goes_on=True)

    @property
    def _manner(self) -> tuple[float, bool]:
        manner: tuple[float, bool] = getattr(self._mine, "manner", (self._longest_wait_s, False))
        return manner

    @contextmanager
    def reserve(self, size_bytes: int) -> Iterator[None]:
        """Hold bytes while the block runs.

        A block inside another of the same thread takes its bytes from that one's, which has to ask for both: two that
        each hold a part and wait for more would wait for ever.

        Args:
            size_bytes: the most that the block takes. A block larger than the whole budget waits until it is alone.

        Yields:
            Nothing, when it is this caller's turn.

        Raises:
            JobError: `busy` when the turn did not come in time, `interrupted` for what is new after `close`.
        """
        if getattr(self._mine, "is_held", False):
            yield
            return
        wait_s, goes_on = self._manner
        self._take(size_bytes, wait_s, self._begun_line if goes_on else self._line)
        self._mine.is_held = True
        try:
            yield
        finally:
            self._mine.is_held = False
            if size_bytes >= TRIMMED_BYTES:
                return_freed_memory()
            with self._news:
                self._taken_bytes -= size_bytes
                self._running -= 1
                self._news.notify_all()

    def close(self) -> None:
        """Send away who waits with something new: the server stops."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()

    def _take(self, size_bytes: int, wait_s: float, line: deque[object]) -> None:
        until_s = time.monotonic() + wait_s
        ticket = object()
        with self._news:
            line.append(ticket)
            try:
                while not self._fits(ticket, size_bytes):
                    if self._is_closed and line is self._line:
                        raise JobError("interrupted", "The server is stopping; try again in a moment.")
                    remaining_s = until_s - time.monotonic()
                    if remaining_s <= 0:
                        raise JobError("busy", "The server is busy with other large pictures. Try again soon.")
                    self._news.wait(remaining_s)
                self._taken_bytes += size_bytes
                self._running += 1
            finally:
                line.remove(ticket)
                self._news.notify_all()

    def _fits(self, ticket: object, size_bytes: int) -> bool:
        if (self._begun_line or self._line)[0] is not ticket:
            return False
        return not self._running or (
            self._running < self._at_once and self._taken_bytes + size_bytes <= self.limit_bytes
        )


def return_freed_memory() -> None:
    """Give memory that was freed back to the system, where the allocator is glibc's, which keeps it otherwise.

    Decoders take a picture in blocks of 16 MiB or less. Those come from the heap of the thread that asks, and stay
    there when they are freed: after six one-shots of 100 million pixels an idle process held 2.5 GiB, now 0.3.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
