"""The queue inside this process: takes images and repairs, knows everybody's place, hands work to the devices.

Order is in rounds by client (`fair_line.py`). A condition wakes the workers, an event each who waits for a job
(`watchers.py`); nothing is written and no disk is waited for while the condition is held. Knows nothing of HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.clients import current_client
from jobs.database import FolderLock
from jobs.encodings import Encodings
from jobs.errors import JobError
from jobs.fair_line import FairLine, take_batch
from jobs.images import ImageStore, step_bytes
from jobs.keyed_locks import KeyedLocks
from jobs.model_switch import ModelSwitch
from jobs.observer import EndedJob, NoObserver, Observer
from jobs.one_shots import OneShots
from jobs.output_writer import OutputWriter
from jobs.request_parsing import (
    Options,
    check_request_id,
    digest_of,
    mask_bytes,
    pack_hole,
    parse_options,
    read_strokes,
)
from jobs.retention import Cleaner, remove_history, remove_orphans
from jobs.store import ImageRecord, JobRecord, JobStore, new_id
from jobs.views import ENDED, job_view, obstacles, worker_views
from jobs.watchers import Watchers
from jobs.weights_fetch import WeightsFetch, is_offered
from jobs.worker import DeviceWorker, Engine

if TYPE_CHECKING:
    from config import Settings

MOST_STUCK_WORKERS = 4  # beyond that a hanging device would only collect threads and memory

log = logging.getLogger("fftlama.jobs")


class JobQueue:
    """A bounded queue over a store, with a worker thread or more per engine (one engine per device)."""

    def __init__(
        self, settings: Settings, engines: Sequence[Engine], *, batch_limit: int = 8, storing: int = 0,
        observer: Observer | None = None,
    ) -> None:  # fmt: skip
        """Open the data folder; nothing runs before `start`.

        Args:
            settings: folders and limits.
            engines: what repairs, one per device; one that takes several batches at once as often as it does.
            batch_limit: most jobs that go to an engine together.
            storing: how many threads more each engine has, so that others load and compute while some store.
            observer: told of every job that ends and of every batch.

        Raises:
            JobError: `data_dir_in_use`, `storage_unavailable` or `disk_full`.
        """
        self._folder_lock = FolderLock(Path(settings.data_dir))
        self.store = JobStore(Path(settings.data_dir))
        self.images = ImageStore(
            self.store, max_file_mib=settings.max_file_mib, max_image_mpx=settings.max_image_mpx,
            memory_mib=settings.work_memory_mib,
        )  # fmt: skip
        self._watchers = Watchers()
        self.encodings = Encodings(self.images, keep_mib=settings.keep_mib)
        self.output_writer = OutputWriter(
            self.images, self.encodings, Path(settings.outputs_dir), changed=self._watchers.tell
        )  # fmt: skip
        self.job_timeout_s = float(settings.job_timeout_s)
        self._settings = settings
        self._batch_limit = max(1, batch_limit)
        self.observer = observer or NoObserver()
        self._news = threading.Condition()  # for workers
        self._waiting = FairLine()
        self._suspects: set[str] = set()  # jobs that ran when the process died: one of them may be why
        self._positions: Mapping[str, int] = {}  # in it as of now, for those who only look
        self._submitting = KeyedLocks()
        self.one_shots = OneShots(self)
        self._coming: Counter[str] = Counter()  # jobs that have a place and are not in the line yet, by client
        self._closing = False
        self._places = len(engines)
        self._workers = self._make_workers(engines, storing)
        self._stuck: list[DeviceWorker] = []
        self._lost: dict[str, JobError] = {}
        self._cleaner = Cleaner(
            self.images, keep_days=settings.keep_days, keep_mib=settings.keep_mib,
            outputs_dir=Path(settings.outputs_dir), also=self._store_lost,
        )  # fmt: skip
        self.models = ModelSwitch(
            engines, folder=Path(settings.weights_dir), weights=settings.weights, news=self._news,
            timeout_s=self.job_timeout_s,
        )  # fmt: skip
        self.weights_fetch = WeightsFetch(
            folder=Path(settings.weights_dir), mirrors=settings.mirrors, is_offered=is_offered(settings)
        )

    def _make_workers(self, engines: Sequence[Engine], storing: int) -> list[DeviceWorker]:
        workers: list[DeviceWorker] = []
        for number, (engine, places) in enumerate(Counter(engines).items()):
            seats = threading.Semaphore(places)
            workers += [
                DeviceWorker(engine, self, name=f"device-{number}", seats=seats) for _ in range(places + storing)
            ]
        return workers

    def start(self) -> None:
        """Take up what the last run left, and start the workers."""
        for root_id in self.store.give_up_one_shots():
            remove_history(self.images, root_id)
        waiting, unsaved = self.store.recover()
        # Nobody uploads yet, so every file without a row is left from a stop.
        remove_orphans(self.store, time.time(), age_s=0.0)
        if waiting or unsaved:
            log.info("taking up %d waiting repairs and %d unsaved results of the last run", len(waiting), len(unsaved))
        jobs = [self.store.job(job_id) for job_id in waiting]
        with self._moving() as line:
            self._suspects = {job.job_id for job in jobs if job.attempt}
            for job in jobs:
                if job.job_id not in line:  # else it was handed in before the start
                    line.append(job.job_id, client=_client_of(job), is_batch=job.kind == "batch")
        for engine in dict.fromkeys(worker.engine for worker in self._workers):
            if hasattr(engine, "start"):  # one that hands repairs to other processes watches them
                engine.start(self._watchers.tell_everybody)
        self.output_writer.start()
        for job_id in unsaved:
            self.output_writer.add(job_id)
        for worker in self._workers:
            worker.start()
        self._cleaner.start()

    def close(self, *, wait_s: float = 3.0) -> bool:
        """Stop taking work, let running repairs end, give the others back; False when threads are still busy."""
        until_s = time.monotonic() + wait_s
        self.stop_waiting()
        for worker in self._workers:
            worker.join(max(0.0, until_s - time.monotonic()))
        for worker in self._workers:
            for job_id in worker.busy_with:
                with suppress(JobError):  # a store that is gone: the next start finds the job as it was
                    if self.store.requeue(job_id):
                        log.info("job %s: goes back to the queue for the next start", job_id[:6])
        saved = self.output_writer.stop(wait_s=max(0.1, until_s - time.monotonic()))
        idle = saved and not any(worker.is_alive() for worker in [*self._workers, *self._stuck])
        if idle:  # else the end of the process gives the folder free
            self._folder_lock.release()
        return idle

    def stop_waiting(self) -> None:
        """Wake everybody who waits in `view` or `take`; nothing waits from now on."""
        self._cleaner.stop()
        self.weights_fetch.close()
        self.one_shots.close()
        self.images.memory.close()
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._watchers.tell_everybody()
        for engine in dict.fromkeys(worker.engine for worker in self._workers):
            if hasattr(engine, "close"):
                engine.close()

    # Images

    def add_image(self, data: bytes, filename: str) -> ImageRecord:
        """Check and keep an uploaded image; JobError says what is wrong with it."""
        return self.images.add(data, filename)

    def image(self, image_id: str) -> ImageRecord:
        """Return an original's or edit's row and count it as used; JobError `unknown_image`."""
        image = self.store.image(image_id)
        with suppress(JobError):  # a full disk: it can be looked at all the same
            self.store.touch(image.root_id)
        return image

    # Jobs

    def submit(
        self, image_id: str, request_id: str, strokes: Any, mask_png: bytes | None = None, options: Any = None, *,
        save: bool = True,
    ) -> str:  # fmt: skip
        """Queue a repair; the same request again returns the same job.

        Args:
            image_id: the original or edit to repair.
            request_id: the caller's own name for this request.
            strokes: as JSON gives them, drawn over the mask file.
            mask_png: a mask file of the image's size.
            options: as JSON gives them.
            save: whether the result is written to the outputs folder.

        Returns:
            The job's id.

        Raises:
            JobError: unknown_image, empty_mask, bad_strokes, mask_size, bad_mask, bad_options, queue_full, busy,
                disk_full, storage_unavailable, nothing_to_restore, and request_conflict when `request_id` came before
                with another content.
        """
        request_id = _own_request_id(check_request_id(request_id))
        checked = parse_options(options)
        digest = digest_of(image_id, strokes=strokes, mask_png=mask_png, options=checked)
        # A client that retries at once finds the job that its first try is still making.
        with self._submitting.hold(request_id):
            if known := self.store.job_of_request(request_id):
                return _same_request(known, digest)
            image = self.image(image_id)
            if checked.restore:
                return self._restore(image, request_id, digest, strokes, mask_png, checked, save)
            client = current_client.get().key
            self._hold_place(client)
            try:
                job_id = self._insert(image, request_id, digest, strokes, mask_png, checked, save)
            except BaseException:
                with self._news:
                    self._give_place_back(client)
                raise
            with self._moving() as waiting:
                self._give_place_back(client)
                waiting.append(job_id, client=client, is_batch=checked.priority == "batch")
            return job_id

    def _restore(
        self, image: ImageRecord, request_id: str, digest: str, strokes: Any, mask_png: bytes | None, options: Options,
        save: bool,
    ) -> str:  # fmt: skip
        """Bring the original back at once: this needs no model, so it does not wait behind repairs."""
        if image.parent_id is None:
            raise JobError("nothing_to_restore", "This is the photo as it was: nothing in it was repaired.")
        job_id = self._insert(image, request_id, digest, strokes, mask_png, options, save)
        self._workers[0].restore(job_id)
        return job_id

    def _insert(
        self, image: ImageRecord, request_id: str, digest: str, strokes: Any, mask_png: bytes | None, options: Options,
        save: bool,
    ) -> str:  # fmt: skip
        has_file, drawn = mask_png is not None, read_strokes(strokes)
        # The photo is taken inside the turn: forty who wait with a photo of 300 MB each in their hands are 12 GB.
        need_bytes = mask_bytes(image, drawn, has_file=has_file) + (step_bytes(image) if has_file else 0)
        with self.images.memory.reserve(need_bytes):
            pixels = self.images.pixels(image) if has_file else None
            packed = pack_hole(drawn, mask_png, image=image, pixels=pixels, is_filled=not options.restore)
            del pixels
        job_id = new_id()
        request = {"options": asdict(options), "save": save, "client": current_client.get().key}
        self.store.insert_job(
            job_id, request_id=request_id, digest=digest, image=image, request=request, packed_mask=packed
        )
        return job_id

    def _hold_place(self, client: str) -> None:
        """Count a job that is about to come, so that checking it and writing its row needs no lock."""
        limit = self._settings.queue_limit
        with self._news:
            if len(self._waiting) + self._coming.total() >= limit:
                raise JobError("queue_full", f"{limit} repairs are waiting already. Try again soon.", {"limit": limit})
            own_limit = self._settings.client_waiting_jobs
            if own_limit and self._waiting.waiting_of(client) + self._coming[client] >= own_limit:
                sentence = f"{own_limit} of your repairs are waiting already. Try again when one is done."
                raise JobError("client_queue_full", sentence, {"limit": own_limit})
            self._coming[client] += 1

    def _give_place_back(self, client: str) -> None:
        self._coming[client] -= 1
        self._coming += Counter()  # drops those at zero

    def view(
        self, job_id: str, *, wait_s: float = 0.0, seen: int | None = None, settle_s: float = 0.0
    ) -> dict[str, Any]:
        """Return what clients see of a job.

        Args:
            job_id: the job's.
            wait_s: how long to wait for a change at most.
            seen: the version that differs from what is waited for; None = a change from now on counts, and a job that
                ended is returned at once.
            settle_s: how long a change is held back in case the job ends meanwhile, so that one that takes a moment is
                told once and not stage by stage.

        Returns:
            The object that `GET /api/v1/jobs/{id}` answers with.

        Raises:
            JobError: `unknown_job`.
        """
        until_s = time.monotonic() + wait_s
        settling = False
        with self._watchers.watch(job_id) as news:
            while True:
                news.clear()
                view = self._view(self.store.job(job_id))
                if seen is None:
                    seen = -1 if view["state"] in ENDED else view["version"]
                remaining_s = until_s - time.monotonic()
                if (view["state"] in ENDED and view["version"] != seen) or remaining_s <= 0 or self._closing:
                    return view
                if view["version"] != seen and not settling:
                    if settle_s <= 0:
                        return view
                    settling, remaining_s = True, min(remaining_s, settle_s)
                    until_s = time.monotonic() + remaining_s
                news.wait(remaining_s)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: a waiting one leaves its place, a running one's result is dropped; return its view."""
        job = self.store.job(job_id)
        cancelled = self.store.cancel(job_id)  # first: when the disk is full the job keeps its place
        with self._moving() as waiting, suppress(KeyError):
            waiting.remove(job_id)
        self.changed([job_id])
        if cancelled:
            self.observer.job_ended(EndedJob("cancelled", job.kind))
        return self._view(self.store.job(job_id))

    def __len__(self) -> int:
        return len(self._waiting)

    def describe(self) -> dict[str, Any]:
        """Say what the (first) engine runs on, and how many repairs wait."""
        return {**self._workers[0].engine.describe(), "weights": self.models.active, "queue_length": len(self)}

    def status(self) -> dict[str, Any]:
        """Return what an operator wants to know: who waits by kind, what runs, who repairs, what repairs wait for."""
        with self._news:
            waiting, stuck = self._waiting.waiting_by_kind(), list(self._stuck)
        running = sum(len(worker.busy_with) for worker in self._workers)
        workers = worker_views(self._workers, stuck)
        return {"waiting": waiting, "running": running, "workers": workers, "waiting_for": self.obstacles()}

    def obstacles(self) -> list[str]:
        """Return what keeps every repair from running: some of "storage", "redis" and "workers"."""
        return obstacles(self.store, self._workers)

    # For the workers

    def take(self) -> list[str]:
        """Wait for jobs and hand out the next ones that fit one batch; an empty list when the queue closes.

        A change of model that is due is carried out first, by the thread that asks.
        """
        while True:
            with self._news:
                while not self._closing and (
                    self.models.is_running
                    or not (self._waiting or self.models.is_due)
                    or (self._is_held() and not self.models.is_due)
                ):
                    self._news.wait()
                worker = threading.current_thread()
                if self._closing or worker in self._stuck:
                    return []
                if not self.models.is_due:
                    # One device takes no more than its share, or the others would have nothing to do.
                    share = -(-len(self._waiting) // self._places)
                    with self._moving() as waiting:
                        batch = take_batch(self.store, waiting, limit=min(self._batch_limit, share))
                    if batch:
                        if isinstance(worker, DeviceWorker):
                            worker.busy_with = tuple(batch)  # under the lock: the next who takes looks at it
                        return batch
                    continue
                self.models.begin()
            assert isinstance(worker, DeviceWorker), "workers take"
            self.models.carry_out(on_stuck=partial(self.replace, worker))

    def _is_held(self) -> bool:
        """Tell whether a job that may have killed the process must not run beside others, which would die again."""
        if not self._suspects:
            return False
        running = {job_id for worker in self._workers if worker.shares_process for job_id in worker.busy_with}
        if not running:
            return False
        return bool(running & self._suspects) or (bool(self._waiting) and self._waiting.first() in self._suspects)

    def ended(self, job_ids: Sequence[str]) -> None:
        """Let those take jobs again who were held because of these."""
        with self._news:
            if self._suspects:
                self._suspects.difference_update(job_ids)
                self._news.notify_all()

    def put_back(self, job_ids: Sequence[str]) -> None:
        """Put running jobs back to the head of the queue, because their engine can't be reached."""
        back = [self.store.job(job_id) for job_id in reversed(job_ids) if self.store.requeue(job_id)]
        with self._moving() as waiting:
            for job in back:
                waiting.put_back(job.job_id, client=_client_of(job), is_batch=job.kind == "batch")

    @contextmanager
    def _moving(self) -> Iterator[FairLine]:
        """Hold the lock over a change of the line, then wake the workers and those whose place has changed."""
        before = after = self._positions
        try:
            with self._news:
                before = self._waiting.places()
                try:
                    yield self._waiting
                finally:
                    after = self._positions = self._waiting.places()
                    self._news.notify_all()
        finally:
            self._watchers.tell([job_id for job_id, _ in before.items() ^ after.items()])

    def changed(self, job_ids: Sequence[str]) -> None:
        """Wake those who wait for a change of one of these jobs."""
        self._watchers.tell(job_ids)

    def lost(self, job_id: str, error: JobError) -> None:
        """Remember a failure that the store could not take, so that nobody waits for the job."""
        self._lost[job_id] = error

    def replace(self, worker: DeviceWorker) -> bool:
        """Put another worker in the place of one that is stuck in its engine; False when it has to stay."""
        with self._news:
            self._stuck = [stuck for stuck in self._stuck if stuck.is_alive()]
            if self._closing or worker not in self._workers:
                return False
            if len(self._stuck) >= MOST_STUCK_WORKERS:
                log.error("%d repairs hang in the engine; waiting for one of them to return", len(self._stuck))
                return False
            self._stuck.append(worker)
            fresh = DeviceWorker(worker.engine, self, name=worker.name, seats=worker.seats)
            self._workers[self._workers.index(worker)] = fresh
        worker.leave_seat()
        fresh.start()
        return True

    def is_lost(self, job_id: str) -> bool:
        """Tell whether a job failed in a way that the store could not take yet."""
        return job_id in self._lost

    def _store_lost(self) -> None:
        """Write failures that the store could not take before."""
        for job_id, error in list(self._lost.items()):
            with suppress(JobError):
                self.store.fail(job_id, error)
                del self._lost[job_id]

    def _waiting_for(self, state: str) -> str | None:
        """Return what keeps every repair from running: "redis", "workers", or None."""
        engine = self._workers[0].engine
        return getattr(engine, "waiting_for", None) if state == "queued" else None

    def _view(self, job: JobRecord) -> dict[str, Any]:
        position = self._positions.get(job.job_id, 0)
        waiting_for = self._waiting_for(job.state)
        return job_view(
            self.store, job, position=position, lost=self._lost.get(job.job_id), waiting_for=waiting_for,
            root_path=self._settings.root_path,
        )  # fmt: skip


def _same_request(job: JobRecord, digest: str) -> str:
    if job.digest != digest:
        raise JobError("request_conflict", "This request_id was used for another repair before; use a new one.")
    return job.job_id


def _own_request_id(request_id: str) -> str:
    """Return a request's id with its owner's name before it: two people may each call a request "1"."""
    owner = current_client.get().owner
    return request_id if owner is None else f"{owner}\n{request_id}"


def _client_of(job: JobRecord) -> str:
    return str(job.request.get("client", ""))
