"""The engine of `QUEUE=celery`: hands each repair to a Celery worker through Redis and waits for its answer.

Shaped like `inference.Inpainter`, so the queue in front of it, its rows on disk, its order and its cancelling are the
same as with a model in this process. An attempt is one try at one repair. The web process watches it: when its worker
stopped living, or Redis lost the message or the pixels, a new attempt is made under a new id. So nothing depends on
Redis remembering anything. Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import kombu.exceptions
import redis

from jobs.celery_app import TASK_NAME, connect, create_celery
from jobs.errors import MOST_LOST_WORKERS, EngineUnavailableError, JobError, workers_lost
from jobs.redis_messages import (
    SERVER_KEY,
    WORKER_FACTS,
    WORKER_PREFIX,
    AttemptKeys,
    facts_from,
    ladder_from,
    pack,
    queue_name,
    server_key,
    unpack,
)
from jobs.windows import RemoteResult, options_of, parts_in, window_of
from notices import note_from_dict

POLL_S = 0.25  # how often an attempt is looked after: a cancelled one stops about so much later
HEARTBEAT_S = 2.0
WORKER_TTL_S = 8  # a worker that was not heard of for so long counts as lost
LOST_MESSAGE_S = 6.0  # so long an attempt may be neither in a queue nor claimed
ATTEMPTS_PER_WORKER = 2  # one that runs and one that waits in Redis, so that no worker waits for the web process
MOST_IN_FLIGHT = 64
BLOB_SPARE_S = 120  # blobs outlive the attempt's deadline by so much
FULL_S = 30.0  # so long pixels are sent again that Redis has no memory for, though it takes what is small
# A Redis that is there may refuse too: it is full, became a replica, or can't write to its disk.
UNAVAILABLE = (redis.RedisError, kombu.exceptions.OperationalError)

log = logging.getLogger("fftlama.jobs")


class _AttemptLostError(Exception):
    """Redis lost the attempt's message or pixels; the repair has not failed."""


class _WorkerLostError(Exception):
    """The worker that had claimed the attempt is gone."""


def fingerprint_of(version: str, weights: Path) -> str:
    """Return a short name for a version of the program with a weights file; equal on every machine."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(version.encode())
    return digest.hexdigest()[:16]


class Fleet:
    """What is known of Redis and of the workers: asked every two seconds by a thread of its own.

    Args:
        redis_url: where the workers meet.
        version: this program's version.
        weights: the weights file that workers must have.
    """

    def __init__(self, redis_url: str, *, version: str, weights: Path) -> None:
        self.version, self.weights_name = version, weights.stem
        self.fingerprint = fingerprint_of(version, weights)
        self.client = connect(redis_url)
        self.celery = create_celery(redis_url, self.fingerprint)
        self.workers: list[dict[str, Any]] = []
        self.refused: list[dict[str, Any]] = []
        self.error = "Redis was not asked yet."
        self.on_change: Callable[[], None] = lambda: None  # the queue's, when workers or Redis come or go
        self._slots = threading.Condition()
        self._taken = 0
        self._closing = threading.Event()
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)

    def start(self) -> None:
        """Begin to watch; the first look is made before this returns."""
        self._look()
        self._thread.start()

    def close(self) -> None:
        """Stop watching, and let nobody wait for a slot any more."""
        self._closing.set()
        with self._slots:
            self._slots.notify_all()

    @property
    def is_reachable(self) -> bool:
        """Whether Redis answered last time."""
        return not self.error

    @property
    def capacity(self) -> int:
        """How many attempts may be under way: two per worker, none without one."""
        return min(MOST_IN_FLIGHT, ATTEMPTS_PER_WORKER * len(self.workers)) if self.is_reachable else 0

    @property
    def ladders(self) -> set[tuple[int, ...]]:
        """The buckets of each worker, for `window_of`: any of them may take the next attempt."""
        ladders = {ladder_from(worker) for worker in self.workers}
        return set() if () in ladders else ladders

    @contextmanager
    def slot(self) -> Iterator[bool]:
        """Wait for a free place among the attempts under way; yields False when the fleet is being closed."""
        with self._slots:
            while self._taken >= self.capacity and not self._closing.is_set():
                self._slots.wait(1.0)
            has_slot = not self._closing.is_set()
            self._taken += has_slot
        try:
            yield has_slot
        finally:
            with self._slots:
                self._taken -= has_slot
                self._slots.notify()

    def lose_redis(self, error: Exception) -> None:
        """Note that Redis did not answer, or refused; the watching thread says when it is back."""
        if not self.error:
            what = "takes nothing" if isinstance(error, redis.ResponseError) else "is not reachable"
            log.warning("Redis %s, so repairs wait: %s", what, error)
            self.error = str(error) or type(error).__name__
            self.on_change()

    def _watch(self) -> None:
        while not self._closing.wait(HEARTBEAT_S):
            self._look()

    def announce(self) -> None:
        """Write into Redis what is asked of workers.

        Raises:
            redis.RedisError: Redis is away, or takes nothing.
        """
        asked = {"version": self.version, "weights": self.weights_name, "fingerprint": self.fingerprint}
        for key in (SERVER_KEY, server_key(self.fingerprint)):
            self.client.set(key, json.dumps(asked), ex=int(HEARTBEAT_S * 30))

    def _look(self) -> None:
        try:
            self.announce()
            names = list(self.client.scan_iter(f"{WORKER_PREFIX}*", count=1000))
            texts = self.client.mget(names) if names else []
            seen = [facts for text in texts if (facts := facts_from(text, WORKER_FACTS))]
            others = {worker["fingerprint"] for worker in seen} - {self.fingerprint}
            # Workers of another server that shares this Redis are no business of this one's.
            alone = {fingerprint for fingerprint in others if not self.client.exists(server_key(fingerprint))}
        except redis.RedisError as error:
            self.lose_redis(error)
            return
        fitting = [worker for worker in seen if worker["fingerprint"] == self.fingerprint]
        is_news = bool(self.error) or len(fitting) != len(self.workers)
        if self.error:
            log.info("Redis is reachable; %d workers are there", len(fitting))
        self.error = ""
        self.workers = sorted(fitting, key=lambda worker: worker["name"])
        self.refused = [worker for worker in seen if worker["fingerprint"] in alone]
        for worker in self.refused:
            if worker["name"] not in self._told:
                self._told.add(worker["name"])
                log.warning(
                    "worker %s gets no repairs: it runs version %s with %s, this server version %s with %s",
                    worker["name"], worker["version"], worker["weights"], self.version, self.weights_name,
                )  # fmt: skip
        with self._slots:
            self._slots.notify_all()
        if is_news:
            self.on_change()


class RemoteEngine:
    """Repairs by whichever worker of a fleet is free. Safe to call from several threads at once."""

    profile = SimpleNamespace(max_batch=1)
    lines_up = True  # a repair stays in its first stage while its worker has another

    def __init__(self, fleet: Fleet, *, deadline_s: float) -> None:
        self.fleet = fleet
        self._deadline_s = deadline_s

    @classmethod
    def lanes(cls, fleet: Fleet, *, deadline_s: float) -> list[RemoteEngine]:
        """Return one engine for each repair that may be under way at once; all of them are the same one."""
        return [cls(fleet, deadline_s=deadline_s)] * MOST_IN_FLIGHT

    def start(self, on_change: Callable[[], None]) -> None:
        """Begin to watch the fleet; `on_change` is called when workers or Redis come or go."""
        self.fleet.on_change = on_change
        self.fleet.start()

    def close(self) -> None:
        """Let nobody wait for a worker any more."""
        self.fleet.close()

    def admission(self) -> Any:
        """Return a context that waits until the fleet has room for one more repair; see `Fleet.slot`."""
        return self.fleet.slot()

    @property
    def waiting_for(self) -> str | None:
        """What keeps every repair from running: "redis", "workers", or None."""
        if not self.fleet.is_reachable:
            return "redis"
        return None if self.fleet.workers else "workers"

    def describe(self) -> dict[str, Any]:
        """Return what runs, for `/health`."""
        devices = sorted({worker["device"] for worker in self.fleet.workers})
        count = len(self.fleet.workers)
        return {
            "device": "celery", "precision": "the workers'", "profile": "the workers'",
            "profile_reason": f"{count} worker{'s' * (count != 1)} on {', '.join(devices) or 'no device'}.",
            "weights": self.fleet.weights_name, "memory_mib": None, "workers": count,
            "redis": "ok" if self.fleet.is_reachable else "unreachable",
        }  # fmt: skip

    def worker_views(self) -> list[dict[str, Any]]:
        """Return the workers, those refused included; see `jobs.views.worker_views`."""
        told = ("name", "device", "weights", "profile", "memory_mib", "version", "done")
        fleet = self.fleet
        rows = [(worker, "busy" if worker.get("busy_with") else "idle") for worker in fleet.workers]
        rows += [(worker, "refused") for worker in fleet.refused]
        return [{**{name: worker.get(name) for name in told}, "state": state} for worker, state in rows]

    def switch_weights(self, weights: Path | None) -> None:
        """Refuse with a ValueError: every worker has the weights it was started with."""
        raise ValueError("With QUEUE=celery the weights are chosen where the workers are started.")

    def repair_many(
        self, requests: Sequence[Any], *, on_stage: Callable[[str], None] | None = None
    ) -> list[RemoteResult]:
        """Repair requests one after another, each by the next free worker.

        Args:
            requests: shaped like `engine.requests.RepairRequest`; not modified.
            on_stage: called with a stage's name when it begins, and again every quarter of a second; its exceptions
                end the attempt and the worker's work on it.

        Returns:
            One result per request, in order.

        Raises:
            JobError: the worker refused the repair, or two workers were lost over it.
            redis.OutOfMemoryError: Redis has no memory for the pixels of this repair, though for what is small.
            EngineUnavailableError: Redis or every worker is away; the repair can be tried again as if it had not begun.
        """
        return [self._repair(request, on_stage or (lambda stage: None)) for request in requests]

    def _repair(self, request: Any, on_stage: Callable[[str], None]) -> RemoteResult:
        lost_workers, refused_since_s = 0, float("inf")
        while True:
            keys = AttemptKeys(secrets.token_urlsafe(16))
            try:
                # An image that took a worker down is not given back to the queue, which would forget that.
                return self._attempt(keys, request, on_stage, may_give_back=not lost_workers)
            except _AttemptLostError as error:
                log.warning("attempt %s is made again: %s", keys.attempt_id[:6], error)
            except _WorkerLostError as error:
                lost_workers += 1
                log.warning("attempt %s is made again: %s", keys.attempt_id[:6], error)
                if lost_workers >= MOST_LOST_WORKERS:
                    raise workers_lost(lost_workers) from error
            except UNAVAILABLE as error:
                refused_since_s = min(refused_since_s, time.monotonic())
                if not self._refuses_these_alone(error):
                    self.fleet.lose_redis(error)
                    raise EngineUnavailableError("Redis is not reachable, so the repair waits.") from error
                if time.monotonic() - refused_since_s >= FULL_S:
                    raise
                on_stage("plan")
            finally:
                self._forget(keys)

    def _refuses_these_alone(self, error: Exception) -> bool:
        """Tell whether Redis takes what is small, but these pixels do not fit beside what lies there at the moment."""
        if not isinstance(error, redis.OutOfMemoryError):
            return False
        # A connection keeps a buffer as large as what came on it last, which counts as memory in use.
        self.fleet.client.connection_pool.disconnect(inuse_connections=False)
        time.sleep(POLL_S)
        try:
            self.fleet.announce()
        except redis.RedisError:
            return False
        return True

    def _attempt(
        self, keys: AttemptKeys, request: Any, on_stage: Callable[[str], None], *, may_give_back: bool
    ) -> RemoteResult:
        began_s = time.perf_counter()
        ladders = self.fleet.ladders
        window = window_of(request.mask, request.bounds, dilate_px=request.dilate_px, ladders=ladders)
        blob = pack({"deadline_s": self._deadline_s, **options_of(request)}, parts_in(request, window))
        client = self.fleet.client
        # The whole time of the repair before it, and then its own.
        client.set(keys.request, blob, ex=2 * int(self._deadline_s) + BLOB_SPARE_S)
        is_batch = getattr(request, "priority", "interactive") == "batch"
        queue = queue_name(self.fleet.fingerprint, is_batch=is_batch)
        self.fleet.celery.send_task(TASK_NAME, [keys.attempt_id], task_id=keys.attempt_id, queue=queue, retry=False)
        sent_ms = (time.perf_counter() - began_s) * 1e3
        try:
            result = self._wait(keys, queue, on_stage, may_give_back=may_give_back)
        except BaseException:
            with suppress(redis.RedisError):
                client.set(keys.cancel, 1, ex=int(self._deadline_s) + BLOB_SPARE_S)
            raise
        result.check_fits(window, request.image)
        result.move_to(window)
        total_ms = (time.perf_counter() - began_s) * 1e3
        result.timings_ms = {**result.timings_ms, "send": sent_ms, "total": total_ms}
        return result

    def _wait(
        self, keys: AttemptKeys, queue: str, on_stage: Callable[[str], None], *, may_give_back: bool
    ) -> RemoteResult:
        """Follow an attempt until its result is there."""
        client = self.fleet.client
        stage, unclaimed_since_s = "plan", time.monotonic()
        while True:
            answer = client.blpop([keys.answer], timeout=POLL_S)
            if answer is None:
                on_stage(stage)
                unclaimed_since_s = self._check(keys, queue, unclaimed_since_s, may_give_back=may_give_back)
                continue
            header, arrays = unpack(cast(bytes, answer[1]))
            if header["kind"] == "stage":
                stage = header["stage"]
                on_stage(stage)
            elif header["kind"] == "error":
                raise JobError(header["error"], header["message"], header["params"])
            else:
                boxes = [(int(a), int(b), int(c), int(d)) for a, b, c, d in header["boxes"]]
                notes = [note_from_dict(note) for note in header["notes"]]
                return RemoteResult(list(zip(boxes, arrays, strict=True)), header["timings_ms"], notes)

    def _check(self, keys: AttemptKeys, queue: str, unclaimed_since_s: float, *, may_give_back: bool) -> float:
        """Raise when an attempt can't come to an end any more; return since when it is neither queued nor worked on."""
        client = self.fleet.client
        with client.pipeline(transaction=False) as pipeline:
            pipeline.exists(keys.request)
            pipeline.get(keys.claim)
            pipeline.llen(f"{self.fleet.celery.conf.broker_transport_options['global_keyprefix']}{queue}")
            has_request, claim, queued = pipeline.execute()
        if not has_request:
            raise _AttemptLostError("Redis lost its pixels")
        now_s = time.monotonic()
        if claim is not None:
            facts = cast(bytes | None, client.get(WORKER_PREFIX + claim.decode()))
            if (facts_from(facts, ()) or {}).get("busy_with") == keys.attempt_id:
                return now_s
            if client.exists(keys.answer):
                return now_s
            if not facts:
                if not client.exists(keys.request):
                    raise _AttemptLostError("Redis lost its pixels")  # and the worker's key with them, just now
                raise _WorkerLostError(f"worker {claim.decode()} is gone")
            # A connection that breaks between a claim and its answer leaves a claim that nobody works on.
            if now_s - unclaimed_since_s > WORKER_TTL_S:
                raise _AttemptLostError(f"worker {claim.decode()} has claimed it and works on something else")
            return unclaimed_since_s
        if may_give_back and not self.fleet.workers:
            raise EngineUnavailableError("Every worker is gone, so the repair waits.")
        if queued:
            return now_s
        if now_s - unclaimed_since_s > LOST_MESSAGE_S:
            raise _AttemptLostError("its message is in no queue and no worker has it")
        return unclaimed_since_s

    def _forget(self, keys: AttemptKeys) -> None:
        """Free what an attempt left in Redis, except the flag that tells a worker to stop."""
        with suppress(redis.RedisError):
            self.fleet.client.delete(keys.request, keys.claim, keys.answer)
