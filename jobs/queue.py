"""The queue inside this process: takes photos and repairs, knows everybody's place, hands work to the devices.

What clients see of a job is `JobQueue.view`, read from the store; a condition wakes those who wait for a change. Order
is first come, first served. Knows nothing of HTTP.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config import Settings
from imaging import Encoded
from imaging.atomic_write import write_atomically
from jobs.errors import JobError, disk_full_as_job_error
from jobs.images import ImageStore
from jobs.model_switch import ModelSwitch
from jobs.output_writer import OutputWriter
from jobs.request_parsing import build_mask, check_request_id, digest_of, parse_options
from jobs.retention import clean_up, remove_history
from jobs.store import ImageRecord, JobRecord, JobStore, new_id
from jobs.worker import DeviceWorker, Engine

ENDED = frozenset({"done", "failed", "cancelled"})
CLEAN_EVERY_S = 600.0
MOST_STUCK_WORKERS = 4  # beyond that a hanging device would only collect threads and memory
BATCH_MPX = 48  # photos of one batch are in memory together
ONE_SHOT_POLL_S = 30.0

log = logging.getLogger("fftlama.jobs")


class JobQueue:
    """A bounded queue over a store, with one worker thread per engine (one engine per device)."""

    def __init__(
        self, settings: Settings, engines: Sequence[Engine], *, batch_limit: int = 8,
        on_ended: Callable[[str, dict[str, float]], None] | None = None,
    ) -> None:  # fmt: skip
        self.store = JobStore(Path(settings.data_dir))
        self.images = ImageStore(self.store, max_file_mib=settings.max_file_mib, max_image_mpx=settings.max_image_mpx)
        self.output_writer = OutputWriter(self.images, Path(settings.outputs_dir), changed=self.changed)
        self.job_timeout_s = float(settings.job_timeout_s)
        self._settings = settings
        self._batch_limit = max(1, batch_limit)
        self._on_ended = on_ended
        self._news = threading.Condition()
        self._waiting: deque[str] = deque()
        self._closing = False
        self._cleaned_s = 0.0
        self._workers = [DeviceWorker(engine, self, name=f"device-{n}") for n, engine in enumerate(engines)]
        self._stuck: list[DeviceWorker] = []
        self._lost: dict[str, JobError] = {}
        self.models = ModelSwitch(
            engines, folder=Path(settings.weights_dir), weights=settings.weights, news=self._news
        )  # fmt: skip

    def start(self) -> None:
        """Take up what the last run left, and start the workers."""
        waiting, unsaved = self.store.recover()
        if waiting or unsaved:
            log.info("taking up %d waiting repairs and %d unsaved results of the last run", len(waiting), len(unsaved))
        with self._news:
            self._waiting = deque(waiting)
        for engine in dict.fromkeys(worker.engine for worker in self._workers):
            if hasattr(engine, "start"):  # one that hands repairs to other machines watches them
                engine.start(self.changed)
        self.output_writer.start()
        for job_id in unsaved:
            self.output_writer.add(job_id)
        for worker in self._workers:
            worker.start()

    def close(self, *, wait_s: float = 3.0) -> bool:
        """Stop taking work, let running repairs end, give the others back; False when threads are still busy."""
        until_s = time.monotonic() + wait_s
        self.stop_waiting()
        for worker in self._workers:
            worker.join(max(0.0, until_s - time.monotonic()))
        for worker in self._workers:
            for job_id in worker.busy_with:
                if self.store.requeue(job_id):
                    log.info("job %s: goes back to the queue for the next start", job_id[:6])
        saved = self.output_writer.stop(wait_s=max(0.1, until_s - time.monotonic()))
        return saved and not any(worker.is_alive() for worker in [*self._workers, *self._stuck])

    def stop_waiting(self) -> None:
        """Wake everybody who waits in `view` or `take`; nothing waits from now on."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        for engine in dict.fromkeys(worker.engine for worker in self._workers):
            if hasattr(engine, "close"):
                engine.close()

    # Photos

    def add_image(self, data: bytes, filename: str) -> ImageRecord:
        """Check and keep an uploaded photo; JobError says what is wrong with it."""
        return self.images.add(data, filename)

    def image(self, image_id: str) -> ImageRecord:
        """Return a photo's or round's row and count it as used; JobError `unknown_image`."""
        image = self.store.image(image_id)
        self.store.touch(image.root_id)
        return image

    # Jobs

    def submit(
        self, image_id: str, request_id: str, strokes: Any, mask_png: bytes | None = None, options: Any = None, *,
        save: bool = True,
    ) -> str:  # fmt: skip
        """Queue a repair of `image_id` and return its job id; the same request again returns the same job.

        Raises JobError: unknown_image, empty_mask, bad_strokes, mask_size, bad_options, queue_full, disk_full, and
        request_conflict when `request_id` came before with another content.
        """
        check_request_id(request_id)
        checked = parse_options(options)
        digest = digest_of(image_id, strokes=strokes, mask_png=mask_png, options=checked)
        if known := self.store.job_of_request(request_id):
            return _same_request(known, digest)
        image = self.image(image_id)
        with self.images.decoding if mask_png is not None else nullcontext():
            build_mask(strokes, mask_png, image=image)
        job_id = new_id()
        request = {
            "strokes": strokes or [], "options": asdict(checked), "has_mask_file": mask_png is not None, "save": save,
        }  # fmt: skip
        with self._news:
            if known := self.store.job_of_request(request_id):
                return _same_request(known, digest)
            if len(self._waiting) >= self._settings.queue_limit:
                limit = self._settings.queue_limit
                raise JobError("queue_full", f"{limit} repairs are waiting already. Try again soon.", {"limit": limit})
            mask_path = self.store.mask_path(job_id)
            try:
                if mask_png is not None:
                    with disk_full_as_job_error():
                        write_atomically(mask_path, mask_png)
                self.store.insert_job(job_id, request_id=request_id, digest=digest, image=image, request=request)
            except BaseException:
                mask_path.unlink(missing_ok=True)
                raise
            self._waiting.append(job_id)
            self._news.notify_all()
        return job_id

    def view(self, job_id: str, *, wait_s: float = 0.0, seen: int | None = None) -> dict[str, Any]:
        """Return what clients see of a job; with `wait_s`, when it differs from version `seen`, or after that time.

        Without `seen` a change from now on counts, and a job that ended is returned at once. JobError `unknown_job`.
        """
        until_s = time.monotonic() + wait_s
        with self._news:
            while True:
                view = self._view(self.store.job(job_id))
                if seen is None:
                    seen = -1 if view["state"] in ENDED else view["version"]
                remaining_s = until_s - time.monotonic()
                if view["version"] != seen or remaining_s <= 0 or self._closing:
                    return view
                self._news.wait(remaining_s)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job: a waiting one leaves its place, a running one's result is dropped; return its view."""
        with self._news:
            self.store.job(job_id)
            cancelled = self.store.cancel(job_id)  # first: when the disk is full the job keeps its place
            if job_id in self._waiting:
                self._waiting.remove(job_id)
                self._moved_up()
            view = self._view(self.store.job(job_id))
            self._news.notify_all()
        if cancelled:
            self.ended("cancelled", {})
        return view

    def repair_file(self, image: bytes, mask: bytes, options: Any = None, filename: str = "photo") -> Encoded:
        """Repair one file and return the whole result; waits its turn and keeps nothing afterwards."""
        parse_options(options)
        record = self.add_image(image, filename)
        try:
            job_id = self.submit(record.image_id, secrets.token_urlsafe(), [], mask, options, save=False)
            view = self.view(job_id)
            while view["state"] not in ENDED:
                if self._closing:
                    raise JobError("interrupted", "The server is stopping; send the photo again.")
                view = self.view(job_id, wait_s=ONE_SHOT_POLL_S, seen=view["version"])
            if view["state"] == "failed":
                raise JobError(view["error"]["error"], view["error"]["message"], view["error"]["params"])
            if view["state"] == "cancelled":
                raise JobError("interrupted", "The repair was cancelled.")
            return self.images.encode(self.store.image(view["image_id"]))
        finally:
            with suppress(JobError):  # a disk too full to delete rows: clean-up takes them later
                remove_history(self.store, record.image_id)

    def __len__(self) -> int:
        return len(self._waiting)

    def describe(self) -> dict[str, Any]:
        """Say what the (first) engine runs on, and how many repairs wait."""
        return {**self._workers[0].engine.describe(), "weights": self.models.active, "queue_length": len(self)}

    # For the workers

    def take(self) -> list[str]:
        """Wait for jobs and hand out the next ones that fit one batch; an empty list when the queue closes.

        A change of model that is due is carried out first, by the thread that asks.
        """
        while True:
            with self._news:
                idle = self.models.is_running or not (self._waiting or self.models.is_due)
                if idle and not self._closing:
                    self._news.wait(self._clean_in_s())
                if self._closing:
                    return []
                if switching := self.models.is_due:
                    self.models.begin()
                elif self._waiting and not self.models.is_running:
                    batch = self._next_batch()
                    self._moved_up()
                    return batch
            if switching:
                self.models.carry_out()
            self._clean_if_due()

    def put_back(self, job_ids: Sequence[str]) -> None:
        """Put running jobs back to the head of the queue, because their engine can't be reached."""
        with self._news:
            for job_id in reversed(job_ids):
                if self.store.requeue(job_id):
                    self._waiting.appendleft(job_id)
            self._moved_up()

    def changed(self) -> None:
        """Wake everybody who waits for a change."""
        with self._news:
            self._news.notify_all()

    def ended(self, state: str, timings_ms: dict[str, float]) -> None:
        """Report a job that came to its end to who counts them."""
        if self._on_ended:
            self._on_ended(state, timings_ms)

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
            fresh = DeviceWorker(worker.engine, self, name=worker.name)
            self._workers[self._workers.index(worker)] = fresh
        fresh.start()
        return True

    def _moved_up(self) -> None:
        """Tell those who wait in line that their place changed."""
        # With a full disk the new place is seen at the next poll only; the queue goes on.
        with suppress(JobError):
            self.store.bump_waiting()
        self._news.notify_all()

    def _next_batch(self) -> list[str]:
        batch: list[str] = []
        left_px = BATCH_MPX * 1_000_000
        while self._waiting and len(batch) < self._batch_limit:
            job = self.store.job(self._waiting[0])
            image = self.store.image(job.image_id)
            left_px -= image.width * image.height
            # A job that ran when the process died may be why: it runs alone, so that it can't take others along. So
            # does a slow one, which the others would wait for.
            is_alone = job.attempt > 0 or job.request["options"].get("quality") == "high"
            if batch and (left_px < 0 or is_alone):
                break
            batch.append(self._waiting.popleft())
            if is_alone:
                break
        return batch

    def _clean_in_s(self) -> float:
        return max(0.0, self._cleaned_s + CLEAN_EVERY_S - time.monotonic()) if self._cleaned_s else 0.0

    def _clean_if_due(self) -> None:
        with self._news:
            if self._clean_in_s() > 0:
                return
            self._cleaned_s = time.monotonic()
        try:
            clean_up(self.store, keep_days=self._settings.keep_days, keep_mib=self._settings.keep_mib)
        except Exception:
            log.exception("clean-up failed; it is tried again in %.0f minutes", CLEAN_EVERY_S / 60)

    def _waiting_for(self, state: str) -> str | None:
        """Return what keeps every repair from running: "redis", "workers", or None."""
        engine = self._workers[0].engine
        return getattr(engine, "waiting_for", None) if state == "queued" else None

    def _view(self, job: JobRecord) -> dict[str, Any]:
        position = self._waiting.index(job.job_id) + 1 if job.job_id in self._waiting else 0
        patch = None
        if job.result_id:
            box = self.store.image(job.result_id).box
            patch = {"url": f"/api/v1/images/{job.result_id}/patch", "box": list(box or ())}
        state, error, version = job.state, job.error, job.version
        if state not in ENDED and (lost := self._lost.get(job.job_id)):
            state, error, version = "failed", lost.as_dict(), version + 1
        return {
            "job_id": job.job_id, "state": state, "position": position, "stage": job.stage,
            "timings_ms": job.timings_ms, "image_id": job.result_id, "patch": patch, "notes": job.notes,
            "saved": job.saved, "error": error, "version": version, "waiting_for": self._waiting_for(state),
        }  # fmt: skip


def _same_request(job: JobRecord, digest: str) -> str:
    if job.digest != digest:
        raise JobError("request_conflict", "This request_id was used for another repair before; use a new one.")
    return job.job_id
