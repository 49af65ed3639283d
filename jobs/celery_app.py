"""Celery as fftlama uses it: the settings of the app, and the task that a worker runs.

Only ids travel in messages; pixels lie in Redis beside them (`redis_messages.py`). The web process decides everything
that must not go wrong: it watches each attempt and makes a new one when a worker or Redis lost it
(`remote_engine.py`). So a message may be lost, or come twice, without harm. Knows no HTTP and no network of ours.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import redis
from celery import Celery

from jobs.errors import JobError, is_out_of_memory, kinds_of
from jobs.redis_messages import (
    PREFIX,
    SERVER_FACTS,
    SERVER_KEY,
    AttemptKeys,
    facts_from,
    pack,
    queue_name,
    server_key,
    unpack,
)
from jobs.windows import request_from
from notices import note_as_dict

TASK_NAME = "fftlama.repair"
# The same number in all three places (Celery's documentation of the Redis broker): the shortest of them wins. It only
# bounds how long Redis keeps a message that a dead worker took; the web process does not wait for it.
VISIBILITY_TIMEOUT_S = 900
ANSWER_KEPT_S = 600  # how long an answer waits for a web process that is being restarted
SOCKET_TIMEOUT_S = 10.0
# Seconds to wait before each further try to hand an answer to a Redis that is being restarted.
ANSWER_PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

log = logging.getLogger("fftlama.worker")


class RepairingEngine(Protocol):
    """What a worker needs of `inference.Inpainter`."""

    def describe(self) -> dict[str, Any]:
        """Say what runs; the memory it takes is among it."""

    def repair_many(self, requests: Sequence[Any], *, on_stage: Callable[[str], None] | None = None) -> Sequence[Any]:
        """Repair requests; each result has `patches`, `timings_ms` and `notes`."""


class AttemptEndedError(Exception):
    """Nobody waits for this attempt any more: it was cancelled, or its time is up."""


def connect(redis_url: str) -> redis.Redis:
    """Return a client of the Redis at `redis_url` (redis:// or rediss://, password and database included).

    Nothing is sent before the first command. The client reconnects by itself.
    """
    return redis.Redis.from_url(
        redis_url,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=25,
        # A blob of 12 MB in pieces of the default 64 KiB takes 48 ms of computing instead of 12.
        socket_read_size=4 << 20,
    )


def place_of(redis_url: str) -> str:
    """Return host, port and number of a Redis's address, for people and logs: no name, no password, no options."""
    return redis_url.partition("://")[2].partition("?")[0].rpartition("@")[2]


def create_celery(redis_url: str, fingerprint: str) -> Celery:
    """Return the Celery app for one Redis and one combination of version and weights.

    Args:
        redis_url: as for `connect`.
        fingerprint: from `remote_engine.fingerprint_of`; names the queues.

    Returns:
        The app; nothing is connected yet.
    """
    app = Celery("fftlama", broker=redis_url, set_as_current=False)
    transport = {
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        # The default takes turns between queues; a batch would slow down people who wait.
        "queue_order_strategy": "priority",
        "socket_keepalive": True,
        "socket_timeout": 30,
        "health_check_interval": 25,
        "global_keyprefix": f"{PREFIX}:celery:",
    }
    app.conf.update(
        broker_transport_options=transport,
        result_backend_transport_options={"visibility_timeout": VISIBILITY_TIMEOUT_S},
        visibility_timeout=VISIBILITY_TIMEOUT_S,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,  # the web process keeps the state of every job itself
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,  # a message stays in Redis until a worker is free, so a slow one hoards nothing
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,  # the answer is sent when Redis is back
        worker_soft_shutdown_timeout=20,
        task_default_queue=queue_name(fingerprint),
        task_publish_retry=False,  # the web process tries again itself, and can be cancelled meanwhile
    )
    if redis_url.startswith("rediss:"):
        app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    return app


@dataclass
class AttemptRunner:
    """Runs attempts on one engine for one worker.

    Attributes:
        engine: repairs.
        client: the Redis that holds the blobs.
        worker_id: the name this worker claims attempts with.
        busy_with: the attempt that runs now, for the heartbeat.
        done: how many attempts ended here.
        show: makes this worker known in Redis; called before an attempt is claimed. Whoever looks after the attempt
            takes a worker that is not known there for dead, which it would seem after Redis lost its data.
    """

    engine: RepairingEngine
    client: redis.Redis
    worker_id: str
    busy_with: str = ""
    done: int = 0
    show: Callable[[], None] = lambda: None

    def register(self, app: Celery) -> None:
        """Make the task known to `app`."""

        @app.task(name=TASK_NAME)
        def repair(attempt_id: str) -> None:
            self.run(attempt_id)

    def run(self, attempt_id: str) -> None:
        """Carry out one attempt and send its answer; do nothing when nobody waits for it or somebody else has it."""
        keys = AttemptKeys(attempt_id)
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.get(keys.request)
            pipeline.ttl(keys.request)
            blob, kept_s = pipeline.execute()
        if blob is None:
            log.info("attempt %s: nobody waits for it", attempt_id[:6])
            return
        self.show()
        # As long as the pixels: an attempt whose claim ends while it is worked on looks as if nobody had taken it.
        if not self.client.set(keys.claim, self.worker_id, nx=True, ex=max(1, kept_s)):
            log.info("attempt %s: another worker has it", attempt_id[:6])
            return
        self.busy_with = attempt_id
        try:
            self._send(keys, self._answer(keys, bytes(blob)))
        except AttemptEndedError:
            log.info("attempt %s: stopped, nobody waits for it", attempt_id[:6])
        finally:
            self.busy_with = ""
            self.done += 1

    def _answer(self, keys: AttemptKeys, blob: bytes) -> memoryview:
        """Repair what a blob holds; return the blob of the result, or of what went wrong."""
        began_s = time.monotonic()
        try:
            header, parts = unpack(blob)
            until_s = began_s + float(header["deadline_s"])  # a duration: clocks of two machines may differ

            def on_stage(stage: str) -> None:
                if time.monotonic() > until_s or not self._tell_stage(keys, stage):
                    raise AttemptEndedError

            request = request_from(parts, header)
            (result,) = self.engine.repair_many([request], on_stage=on_stage)
        except AttemptEndedError:
            raise
        except JobError as error:
            return pack({"kind": "error", **error.as_dict()})
        except Exception as error:
            log.exception("attempt %s failed", keys.attempt_id[:6])
            code = "out_of_memory" if is_out_of_memory(kinds_of(error)) else "server_error"
            return pack({"kind": "error", "error": code, "message": f"{type(error).__name__}: {error}", "params": {}})
        notes = [note_as_dict(note) for note in result.notes]
        boxes = [[int(edge) for edge in box] for box, _ in result.patches]
        timings_ms = {name: float(value) for name, value in result.timings_ms.items()}
        timings_ms["worker"] = (time.monotonic() - began_s) * 1e3
        header = {"kind": "result", "boxes": boxes, "timings_ms": timings_ms, "notes": notes, "worker": self.worker_id}
        return pack(header, [patch for _, patch in result.patches])

    def _tell_stage(self, keys: AttemptKeys, stage: str) -> bool:
        """Tell whoever waits which stage begins; return whether anybody still does, True while Redis is away."""
        try:
            if self.client.exists(keys.cancel):
                return False
            with self.client.pipeline() as pipeline:
                pipeline.rpush(keys.answer, pack({"kind": "stage", "stage": stage}))
                # Nobody may be left to take it, and this worker may end before it adds the answer.
                pipeline.expire(keys.answer, ANSWER_KEPT_S)
                pipeline.execute()
        except redis.RedisError as error:
            # The repair goes on: whoever watches misses a stage, and the answer is sent when Redis is back.
            log.info("attempt %s: its stage could not be told: %s", keys.attempt_id[:6], error)
        return True

    def _send(self, keys: AttemptKeys, answer: memoryview) -> None:
        """Append the answer; try again for half a minute when Redis is away, then leave it to a new attempt."""
        for pause_s in (*ANSWER_PAUSES_S, None):
            try:
                with self.client.pipeline() as pipeline:
                    pipeline.rpush(keys.answer, answer)
                    pipeline.expire(keys.answer, ANSWER_KEPT_S)
                    pipeline.execute()
                return
            except redis.RedisError as error:
                if pause_s is None:
                    log.error("attempt %s: its answer could not be sent: %s", keys.attempt_id[:6], error)
                    return
                time.sleep(pause_s)


def required_instead(client: redis.Redis, fingerprint: str) -> dict[str, Any] | None:
    """Return what web processes ask of workers where none of them takes a worker of this fingerprint.

    Args:
        client: Redis.
        fingerprint: of the worker.

    Returns:
        `SERVER_FACTS` of the one that spoke last; None when one takes it, or no web process is there yet.
    """
    asked = facts_from(cast("bytes | None", client.get(SERVER_KEY)), SERVER_FACTS)
    if not asked or asked["fingerprint"] == fingerprint or client.exists(server_key(fingerprint)):
        return None
    return asked
