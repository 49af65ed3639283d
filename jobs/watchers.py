"""Those who wait for a job to change, each woken for its own job alone.

With one condition for everybody each of 16 clients read the store at each change of anybody's job, while the worker
stood in line for the interpreter: half of what a repair took (bench/queue_rate.py).
"""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Watchers:
    """Events by job. Safe to call from several threads."""

    def __init__(self) -> None:
        self._events: dict[str, list[threading.Event]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def watch(self, job_id: str) -> Iterator[threading.Event]:
        """Give an event that is set whenever the job changes in the block.

        Args:
            job_id: of the job.

        Yields:
            The event. Whoever waits clears it before looking at the job, so that no change is missed.
        """
        event = threading.Event()
        with self._lock:
            self._events.setdefault(job_id, []).append(event)
        try:
            yield event
        finally:
            with self._lock:
                self._events[job_id].remove(event)
                if not self._events[job_id]:
                    del self._events[job_id]

    def tell(self, job_ids: Iterable[str]) -> None:
        """Wake whoever waits for one of these jobs."""
        with self._lock:
            for job_id in job_ids:
                for event in self._events.get(job_id, ()):
                    event.set()

    def tell_everybody(self) -> None:
        """Wake whoever waits for any job."""
        with self._lock:
            for events in self._events.values():
                for event in events:
                    event.set()
