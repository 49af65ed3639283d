"""A thread of one device: takes what waits, has the engine repair it, stores what comes out.

Jobs that wait together go to the engine together; when that fails, each is tried alone, so one bad job fails alone. A
job that outlives its time is failed at once and, because a running engine can't be stopped, its thread is given up and
another takes over; whatever the old one still returns is dropped.

Several threads may serve one engine: one loads the next jobs while another's are computed, and others store. Each
takes jobs only when it has a seat at the engine, and leaves it when the memory to store its results is there, so that
nobody's job is taken long before its turn and results do not pile up.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.requests import RepairRequest
from jobs.deadline import Deadline
from jobs.errors import MOST_LOST_WORKERS, EngineUnavailableError, JobError, is_out_of_memory, kinds_of
from jobs.images import STEPS_AT_ONCE, ImageStore
from jobs.observer import EndedJob, Observer
from jobs.output_writer import OutputWriter
from jobs.packed_mask import packed_bounds, unpack_mask
from jobs.request_parsing import Options
from jobs.restoring import restore_original
from jobs.store import ImageRecord, JobRecord
from notices import note_as_dict

TAKE_AGAIN_S = 1.0
BATCHES_AT_ONCE = 2  # of one card: one is computed and one is loaded
MOST_STORING = 8  # threads

log = logging.getLogger("fftlama.jobs")


class Engine(Protocol):
    """What repairs: `inference.Inpainter`, or anything shaped like it."""

    def repair_many(
        self, requests: Sequence[RepairRequest], *, on_stage: Callable[[str], None] | None = None
    ) -> Sequence[Any]:
        """Repair several images; results have `patches`, `timings_ms` and `notes`."""

    def describe(self) -> dict[str, Any]:
        """Say which device, precision, profile and weights are used."""

    def switch_weights(self, weights: Path | None) -> None:
        """Go over to other weights; see `jobs.model_switch`."""


class JobSource(Protocol):
    """What a worker needs of the queue it works for."""

    images: ImageStore
    output_writer: OutputWriter
    job_timeout_s: float
    observer: Observer

    def take(self) -> list[str]:
        """Wait for jobs and hand out the next ones; an empty list ends the worker."""

    def ended(self, job_ids: Sequence[str]) -> None:
        """Say that a worker has nothing more to do with these jobs."""

    def put_back(self, job_ids: Sequence[str]) -> None:
        """Put running jobs back to the head of the queue, because their engine can't be reached."""

    def changed(self, job_ids: Sequence[str]) -> None:
        """Tell those who wait for these jobs that they changed."""

    def is_lost(self, job_id: str) -> bool:
        """Tell whether `lost` was called for a job."""

    def lost(self, job_id: str, error: JobError) -> None:
        """Remember a failure that could not be written to the store."""

    def replace(self, worker: "DeviceWorker") -> bool:
        """Start another worker on the same engine, because this one is stuck in it; False when that was not done."""


@dataclass(frozen=True)
class _Task:
    """A started job with what the engine needs for it, and when its parts began (time.monotonic)."""

    job: JobRecord
    parent: ImageRecord
    request: RepairRequest
    started_s: float
    loaded_s: float


class _Seat:
    """A place at an engine, left once, by whoever comes first: its worker or the timer that gave it up."""

    def __init__(self, admission: AbstractContextManager[bool]) -> None:
        self._admission = admission
        self._leaving = threading.Lock()
        self.is_given = admission.__enter__()  # waits

    def leave(self) -> None:
        """Give the place to the next."""
        if self._leaving.acquire(blocking=False):
            self._admission.__exit__(None, None, None)


class _NobodyWaitsError(Exception):
    """Every job of the batch was cancelled or timed out: the engine may stop here."""


def side_by_side(engines: Sequence[Engine]) -> tuple[Sequence[Engine], int]:
    """Have a card compute one batch while the next is loaded and others are stored.

    It computes a small hole in 2.5 ms, and what surrounds that takes several times as long. A CPU that computes has no
    time for it, and workers on other machines have their own.

    Args:
        engines: one per device, or one for each batch that may be under way at once.

    Returns:
        The engines, each as often as it takes batches at once, and how many threads more each has to store results.
    """
    if not str(engines[0].describe().get("device")).startswith("cuda"):
        return engines, 0
    if len(set(engines)) == len(engines):
        engines = [engine for engine in engines for _ in range(BATCHES_AT_ONCE)]
    return engines, min(MOST_STORING, STEPS_AT_ONCE)


class DeviceWorker(threading.Thread):
    """Runs batches from a queue on `engine` until told to stop; `seats` are what all its threads share."""

    def __init__(self, engine: Engine, queue: JobSource, *, name: str, seats: threading.Semaphore) -> None:
        super().__init__(name=name, daemon=True)
        self.engine = engine
        self.seats = seats
        self.busy_with: tuple[str, ...] = ()
        self.shares_process = not hasattr(engine, "admission")  # else its jobs run in a process of their own
        self._seat: _Seat | None = None
        self._queue = queue
        self._store = queue.images.store
        self._given_up = False

    def run(self) -> None:
        """Work until the queue hands out nothing more, or until this thread was replaced."""
        with self._queue.images.memory.going_on():  # who has waited for a device is not refused for want of memory
            self._work()

    def _work(self) -> None:
        while not self._given_up:
            seat = self._seat = _Seat(self._admission())
            try:
                if not seat.is_given or not (job_ids := self._take()):
                    return
                self.busy_with = tuple(job_ids)
                try:
                    self._run_batch(job_ids)
                except Exception as error:  # the worker must outlive anything a single batch does
                    log.exception("a batch of repairs failed")
                    for job_id in job_ids:
                        self._fail(job_id, error)
                self.busy_with = ()
                self._queue.ended(job_ids)
            finally:
                seat.leave()

    @contextmanager
    def _admission(self) -> Iterator[bool]:
        """Wait for a seat and, where the engine is elsewhere, until it has room for one more batch."""
        admission = getattr(self.engine, "admission", None)
        with self.seats, admission() if admission else nullcontext(True) as is_admitted:
            yield is_admitted

    def _take(self) -> list[str]:
        """Ask for the next jobs until there is an answer: a store that fails to read now may do so in a moment."""
        while True:
            try:
                return self._queue.take()
            except Exception:
                log.exception("the next repairs could not be read; trying again")
                time.sleep(TAKE_AGAIN_S)

    def _run_batch(self, job_ids: Sequence[str]) -> None:
        with self._deadline(job_ids) as deadline:
            began_s = time.monotonic()
            tasks = [task for job_id in self._store.start(job_ids) if (task := self._prepare(job_id, began_s))]
            self._queue.changed(job_ids)
            if len(tasks) > 1 and self._repair(tasks, deadline):
                return
        for number, task in enumerate(tasks, 1):
            with self._deadline([task.job.job_id]) as deadline:
                self._repair([task], deadline, is_last=number == len(tasks))

    def _prepare(self, job_id: str, started_s: float) -> _Task | None:
        """Load what a job that was started needs; None when it failed here or needs no device."""
        try:
            job = self._store.job(job_id)
            parent = self._store.image(job.image_id)
            packed = self._store.packed_mask(job_id)
            mask = unpack_mask(packed)
            options = Options(**job.request["options"])
            if options.restore:
                self._restore(job, parent, mask, started_s)
                return None
            pixels = self._queue.images.pixels(parent)
            transparent = self._queue.images.transparent(parent)
        except Exception as error:
            self._fail(job_id, error)
            return None
        request = RepairRequest(
            pixels, mask, options.dilate_px, options.feather_px, options.quality, options.priority, transparent,
            bounds=packed_bounds(packed),
        )  # fmt: skip
        return _Task(job, parent, request, started_s, time.monotonic())

    def leave_seat(self) -> None:
        """Give this thread's place at the engine to another, because it hangs there."""
        if self._seat:
            self._seat.leave()

    def restore(self, job_id: str) -> None:
        """Carry out a queued job of the option `restore`, on the thread that asks."""
        try:
            started = self._store.start([job_id])
        except Exception as error:
            self._fail(job_id, error)
        else:
            for started_id in started:
                self._prepare(started_id, time.monotonic())

    def _restore(self, job: JobRecord, parent: ImageRecord, mask: NDArray[np.bool_], started_s: float) -> None:
        request = RepairRequest(self._queue.images.pixels(parent), mask)
        task = _Task(job, parent, request, started_s, time.monotonic())
        result = restore_original(self._queue.images, parent, mask)
        self._deliver(task, result, time.monotonic())

    def _repair(self, tasks: Sequence[_Task], deadline: Deadline, *, is_last: bool = True) -> bool:
        """Repair `tasks` in one call and deliver; False when the call failed and each is to be tried alone.

        After the last call of a batch the seat at the engine is free for the next while its results are stored.
        """
        job_ids = [task.job.job_id for task in tasks]
        on_turn = self.leave_seat if is_last else lambda: None
        # What waits for a worker somewhere else waits for the end of another repair, which has its own time; so does
        # what has lost its worker and is back in its first stage.
        is_in_line = True
        turns_left = 2 * MOST_LOST_WORKERS - 1 if getattr(self.engine, "lines_up", False) else 0

        def on_stage(name: str) -> None:
            nonlocal is_in_line, turns_left
            if not self._store.set_stage(job_ids, name):
                raise _NobodyWaitsError
            if turns_left and is_in_line != (name == "plan"):
                is_in_line, turns_left = not is_in_line, turns_left - 1
                deadline.begin_anew()
            self._queue.changed(job_ids)

        try:
            on_stage("plan")
            self._queue.observer.batch_began(len(tasks))
            results = self.engine.repair_many([task.request for task in tasks], on_stage=on_stage)
        except _NobodyWaitsError:
            return True
        except EngineUnavailableError:
            self._queue.put_back(job_ids)
            return True
        except Exception as error:
            if len(tasks) > 1:
                log.warning("a batch of %d repairs failed (%s); each is tried alone", len(tasks), error)
                return False
            self._fail(job_ids[0], error)
            return True
        computed_s = time.monotonic()
        try:
            running = self._store.set_stage(job_ids, "store")
        except Exception as error:
            for job_id in job_ids:
                self._fail(job_id, error)
            return True
        for task, result in zip(tasks, results, strict=True):
            # A failure that the store could not take is a failure all the same: nobody is shown a result after it.
            if task.job.job_id not in running or self._queue.is_lost(task.job.job_id):
                continue
            try:
                self._deliver(task, result, computed_s, on_turn)
            except Exception as error:
                self._fail(task.job.job_id, error)
        return True

    def _deliver(self, task: _Task, result: Any, computed_s: float, on_turn: Callable[[], None] = lambda: None) -> None:
        """Store a result's patches as an edit and move the job to done."""
        job_id = task.job.job_id
        record, size_bytes = self._queue.images.write_edit(task.parent, result.patches, on_turn=on_turn)
        now_s = time.monotonic()
        timings_ms = {
            "queued": max(0.0, (time.time() - task.job.created_s - (now_s - task.started_s)) * 1e3),
            "load": (task.loaded_s - task.started_s) * 1e3,
            **result.timings_ms,
            "store": (now_s - computed_s) * 1e3,
            "total": (now_s - task.started_s) * 1e3,
        }
        timings_ms = {name: round(float(value), 2) for name, value in timings_ms.items()}
        notes = [note_as_dict(note) for note in result.notes]
        save = bool(task.job.request["save"])
        try:
            kept = self._store.finish(
                job_id, record, size_bytes=size_bytes, timings_ms=timings_ms, notes=notes, save=save
            )
        except BaseException:
            self._queue.images.drop_edit(record.image_id)
            raise
        if not kept:
            self._queue.images.drop_edit(record.image_id)
            return
        log.info("job %s: done in %.0f ms (box %s)", job_id[:6], timings_ms["total"], record.box)
        self._queue.observer.job_ended(EndedJob("done", task.job.kind, timings_ms, notes))
        self._queue.changed([job_id])
        if save:
            self._queue.output_writer.add(job_id)

    def _fail(self, job_id: str, error: Exception) -> None:
        """Move a running job to failed with a sentence for people; the traceback goes to the log."""
        if isinstance(error, JobError):
            reason = error
        elif is_out_of_memory(kinds_of(error)):
            reason = JobError("out_of_memory", "There is not enough memory for this repair. Mark a smaller area.")
        else:
            reason = JobError("server_error", "The repair failed inside the server; its log says why.")
        log.error("job %s: %s (%s)", job_id[:6], reason.code, error, exc_info=error if reason is not error else None)
        if self._end(job_id, reason):
            self._queue.observer.job_ended(EndedJob("failed", error=reason.code))
            self._queue.changed([job_id])

    def _end(self, job_id: str, reason: JobError) -> bool:
        """Move a job to failed, in the store or, when that can't be written, beside it; False when it had ended."""
        try:
            return self._store.fail(job_id, reason)
        except Exception:
            # Not even the failure can be written (disk full): clients see it now, and clean-up writes it later.
            log.exception("job %s: its failure could not be kept", job_id[:6])
            self._queue.lost(job_id, reason)
            return True

    def _deadline(self, job_ids: Sequence[str]) -> Deadline:
        """Fail those of `job_ids` that still run after the time-out, and give this thread up then."""
        return Deadline(self._queue.job_timeout_s, partial(self._time_out, list(job_ids)))

    def _time_out(self, job_ids: Sequence[str]) -> None:
        limit_s = self._queue.job_timeout_s
        error = JobError(
            "timed_out", f"The repair took longer than {limit_s:g} seconds and was given up.", {"limit_s": limit_s}
        )
        failed = [job_id for job_id in job_ids if self._end(job_id, error)]
        if failed:
            for job_id in failed:
                log.error("job %s: timed out after %g s", job_id[:6], limit_s)
                self._queue.observer.job_ended(EndedJob("failed", error=error.code))
            self._queue.changed(failed)
            self._given_up = self._queue.replace(self)
