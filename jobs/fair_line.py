"""The order in which jobs wait, and which of them go to a device together.

Clients take turns in rounds, and interactive jobs go before batch jobs. In a round each client has one turn, whether it
has thirty repairs waiting or one. A client that comes while a round is under way still has a turn in it, before those
that have had theirs: a newcomer waits for the repairs that are under way, and not for more of a client that always has
some waiting. Within one client the order is first come, first served. Not thread-safe: the queue's lock is held around
every call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from jobs.errors import JobError
from jobs.store import JobStore

BATCH_MPX = 48  # images of one batch are in memory together
NEWCOMERS_A_ROUND = 16  # those beyond them join the next round


@dataclass
class _Client:
    """One client's jobs of one priority.

    Attributes:
        round: the round in which its first job has its turn; each of the others follows a round later.
        jobs: ids in their order.
        served: when the client had a turn last or came, counted in turns of everybody; below 0 when a turn was undone.
    """

    round: int
    jobs: deque[str] = field(default_factory=deque)
    served: int = 0


class _Rounds:
    """The clients of one priority (start-time fair queueing, Goyal et al. 1996, with every job of weight 1)."""

    def __init__(self) -> None:
        self.clients: dict[str, _Client] = {}
        self._round = 0  # of the job that was taken last
        self._joined = 0  # newcomers of that round
        self._turns = 0

    def client(self, name: str) -> _Client:
        """Return a client; one who has nothing waiting joins the round under way, unless it had its turn in it."""
        client = self.clients.get(name)
        if client is None or (not client.jobs and client.round < self._round):
            # Without the limit an endless row of newcomers would make one round last for good.
            is_late = self._joined >= NEWCOMERS_A_ROUND
            client = self.clients[name] = _Client(self._round + is_late, served=self._turns)
            self._joined += 1
        return client

    def end_turn(self, name: str) -> None:
        """Count a client's turn, after its first job was taken out."""
        client = self.clients[name]
        self._turns += 1
        if client.round > self._round:
            self._round, self._joined = client.round, 0
        client.round, client.served = client.round + 1, self._turns
        # A client with nothing waiting and no turn in the round under way counts as a newcomer.
        for gone in [key for key, kept in self.clients.items() if not kept.jobs and kept.round <= self._round]:
            del self.clients[gone]

    def put_back(self, job_id: str, name: str) -> None:
        """Put a job at the head of everything, as if its client had not had that turn."""
        client = self.clients[name]
        waiting = [other for other in self.clients.values() if other.jobs]
        client.round = min([client.round - 1, *(other.round for other in waiting)])
        client.served = min([0, *(other.served for other in waiting)]) - 1
        client.jobs.appendleft(job_id)

    def in_order(self) -> list[str]:
        """Return every job in the order of leaving."""
        turns = [
            (client.round + index, client.served, job_id)
            for client in self.clients.values()
            for index, job_id in enumerate(client.jobs)
        ]
        # Sorting is stable: of two who came after the same turn, the one who came first goes first.
        return [job_id for _, _, job_id in sorted(turns, key=lambda turn: turn[:2])]


class FairLine:
    """Job ids in the order they will be taken."""

    def __init__(self) -> None:
        self._rounds = (_Rounds(), _Rounds())  # priority 0 is interactive, 1 is batch
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
        self._add(job_id, client, is_batch).jobs.append(job_id)

    def put_back(self, job_id: str, *, client: str, is_batch: bool = False) -> None:
        """Put a job that was taken at the head of everything again."""
        self._add(job_id, client, is_batch)
        self._rounds[is_batch].put_back(job_id, client)

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
        self._rounds[priority].end_turn(client)
        return job_id

    def remove(self, job_id: str) -> None:
        """Take a job out of the line; KeyError when it is not in it."""
        priority, client = self._place.pop(job_id)
        self._rounds[priority].clients[client].jobs.remove(job_id)
        self._places = None

    def position(self, job_id: str) -> int:
        """Return a job's place, 1 for the next one; 0 when it does not wait."""
        return self.places().get(job_id, 0)

    def waiting_of(self, client: str) -> int:
        """Return how many jobs of one client wait."""
        owners = [rounds.clients.get(client) for rounds in self._rounds]
        return sum(len(owner.jobs) for owner in owners if owner)

    def waiting_by_kind(self) -> dict[str, int]:
        """Return how many jobs wait, by kind."""
        counts = [sum(len(client.jobs) for client in rounds.clients.values()) for rounds in self._rounds]
        return {"interactive": counts[0], "batch": counts[1]}

    def _add(self, job_id: str, client: str, is_batch: bool) -> _Client:
        self._place[job_id] = (int(is_batch), client)
        self._places = None
        return self._rounds[is_batch].client(client)

    def places(self) -> dict[str, int]:
        """Return every job's place from 1 on, in order; not to be written to.

        Kept until something changes, because everybody who waits asks for a place.
        """
        if self._places is None:
            order = [job_id for rounds in self._rounds for job_id in rounds.in_order()]
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
        except Exception as error:
            if isinstance(error, JobError) and error.code in ("unknown_job", "unknown_image"):
                waiting.popleft()
                continue
            if batch:
                break  # these are in no line any more, so they have to go; who asks next meets the error
            raise
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
