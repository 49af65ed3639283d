"""The order in which jobs wait, and which of them go to a device together.

In rounds by client, interactive jobs before batch jobs.

One who hands in thirty repairs gets one turn a round, as does one who hands in a single repair. Within one client the
order is first come, first served. Not thread-safe: the queue's lock is held around every call.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from jobs.errors import JobError
from jobs.store import JobStore

BATCH_MPX = 48  # images of one batch are in memory together


class FairLine:
    """Job ids in the order they will be taken."""

    def __init__(self) -> None:
        # Priority 0 is interactive, 1 is batch. A client's deque is removed when it is empty, so a client who comes
        # back joins at the end of the round.
        self._rounds: tuple[OrderedDict[str, deque[str]], OrderedDict[str, deque[str]]] = (OrderedDict(), OrderedDict())
        self._place: dict[str, tuple[int, str]] = {}
        self._places: dict[str, int] | None = None

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._place

    def __iter__(self) -> Iterator[str]:
        return iter(self.places())

    def append(self, job_id: str, *, client: str, is_batch: bool = False) -> None:
        """Put a job at the end of its client's line.

        Args:
            job_id: not in the line yet.
            client: `Client.key`.
            is_batch: whether it waits until no interactive job does.
        """
        self._add(job_id, client, is_batch).append(job_id)

    def put_back(self, job_id: str, *, client: str, is_batch: bool = False) -> None:
        """Put a job that was taken at the head of everything again."""
        self._add(job_id, client, is_batch).appendleft(job_id)
        self._rounds[is_batch].move_to_end(client, last=False)

    def first(self) -> str:
        """Return the job that is next; IndexError when nobody waits."""
        for job_id in self.places():
            return job_id
        raise IndexError("nobody waits")

    def popleft(self) -> str:
        """Take the next job; its client's turn is over. IndexError when nobody waits."""
        job_id = self.first()
        priority, client = self._place[job_id]
        self.remove(job_id)
        if client in self._rounds[priority]:
            self._rounds[priority].move_to_end(client)
        return job_id

    def remove(self, job_id: str) -> None:
        """Take a job out of the line; KeyError when it is not in it."""
        priority, client = self._place.pop(job_id)
        line = self._rounds[priority][client]
        line.remove(job_id)
        if not line:
            del self._rounds[priority][client]
        self._places = None

    def position(self, job_id: str) -> int:
        """Return a job's place, 1 for the next one; 0 when it does not wait."""
        return self.places().get(job_id, 0)

    def waiting_of(self, client: str) -> int:
        """Return how many jobs of one client wait."""
        return sum(len(round_.get(client, ())) for round_ in self._rounds)

    def waiting_by_kind(self) -> dict[str, int]:
        """Return how many jobs wait, by kind."""
        counts = [sum(map(len, round_.values())) for round_ in self._rounds]
        return {"interactive": counts[0], "batch": counts[1]}

    def _add(self, job_id: str, client: str, is_batch: bool) -> deque[str]:
        self._place[job_id] = (int(is_batch), client)
        self._places = None
        return self._rounds[is_batch].setdefault(client, deque())

    def places(self) -> dict[str, int]:
        """Return every job's place from 1 on, in order; not to be written to.

        Kept until something changes, because everybody who waits asks for a place.
        """
        if self._places is None:
            order: list[str] = []
            for round_ in self._rounds:
                lines = [list(line) for line in round_.values()]
                for turn in range(max(map(len, lines), default=0)):
                    order += [line[turn] for line in lines if turn < len(line)]
            self._places = {job_id: place for place, job_id in enumerate(order, 1)}
        return self._places


def take_batch(store: JobStore, waiting: FairLine, *, limit: int) -> list[str]:
    """Take the next jobs that fit one batch off the front of `waiting`.

    Args:
        store: where the jobs are read.
        waiting: the line; those taken, and those that are not there any more, are removed.
        limit: most jobs of one batch.

    Returns:
        The ids taken, in order.
    """
    batch: list[str] = []
    left_px = BATCH_MPX * 1_000_000
    while waiting and len(batch) < limit:
        try:
            job = store.job(waiting.first())
            image = store.image(job.image_id)
        except JobError as error:
            if error.code not in ("unknown_job", "unknown_image"):
                raise
            waiting.popleft()
            continue
        left_px -= image.width * image.height
        # A job that ran when the process died may be why: it runs alone, so that it can't take others along. So does a
        # slow one, which the others would wait for.
        is_alone = job.attempt > 0 or job.request["options"].get("quality") == "high"
        if batch and (left_px < 0 or is_alone):
            break
        batch.append(waiting.popleft())
        if is_alone:
            break
    return batch
