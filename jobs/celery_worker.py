"""A Celery worker process: one engine, one repair at a time, and a heartbeat that says so in Redis.

It shares nothing with the web process but Redis, and may come and go. SIGTERM lets the running repair end and leaves
the others to other workers. Knows no HTTP; the engine is handed in.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import celery.apps.worker
import redis
from celery.signals import setup_logging

from jobs.celery_app import AttemptRunner, RepairingEngine, connect, create_celery, place_of, required_instead
from jobs.redis_messages import WORKER_PREFIX, queue_name
from jobs.remote_engine import HEARTBEAT_S, WORKER_TTL_S

STALLED_S = 30.0  # a message may lie in a queue so long while this worker is idle; then its consumer is renewed
TELL_EVERY_S = 60.0  # how often the log repeats that this worker gets no repairs

log = logging.getLogger("fftlama.worker")


class WorkerRefusedError(RuntimeError):
    """This worker may not work for the server that is there: another version or other weights."""


class Heartbeat(threading.Thread):
    """Says every two seconds that the worker lives, what it is and what it does.

    Args:
        client: Redis.
        runner: what the worker does.
        about: JSON-serialisable facts: version, weights, fingerprint, device, profile, buckets_px.
        on_stall: called when repairs wait in Redis although this worker has been idle for half a minute.
    """

    def __init__(
        self, client: redis.Redis, runner: AttemptRunner, about: dict[str, Any], on_stall: Any = lambda: None
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._client, self._runner, self._about, self._on_stall = client, runner, about, on_stall
        self._ended = threading.Event()
        self._idle_since_s = time.monotonic()
        self._told_s = float("-inf")

    def run(self) -> None:
        """Beat until `stop`."""
        while not self._ended.wait(HEARTBEAT_S):
            try:
                self.beat()
            except redis.RedisError as error:
                log.warning("Redis is not reachable: %s", error)

    def beat(self) -> None:
        """Refresh this worker's key, and look whether work passes it by.

        Raises:
            redis.RedisError: Redis is away.
        """
        runner = self._runner
        self.show()
        asked = required_instead(self._client, self._about["fingerprint"])
        now_s = time.monotonic()
        if asked and now_s - self._told_s > TELL_EVERY_S:
            self._told_s = now_s
            log.error("%s", refusal(asked, self._about))
        queues = [queue_name(self._about["fingerprint"], is_batch=is_batch) for is_batch in (False, True)]
        waiting = any(self._client.llen(f"fftlama:celery:{queue}") for queue in queues)
        if runner.busy_with or not waiting:
            self._idle_since_s = now_s
        elif now_s - self._idle_since_s > STALLED_S:
            self._idle_since_s = now_s
            log.error("repairs wait in Redis and this worker gets none; its connection is renewed")
            self._on_stall()

    def show(self) -> None:
        """Refresh this worker's key.

        Raises:
            redis.RedisError: Redis is away.
        """
        runner = self._runner
        facts = {**self._about, "name": runner.worker_id, "busy_with": runner.busy_with, "done": runner.done}
        facts["memory_mib"] = runner.engine.describe().get("memory_mib")
        self._client.set(WORKER_PREFIX + runner.worker_id, json.dumps(facts), ex=WORKER_TTL_S)

    def stop(self) -> None:
        """Stop beating and take the worker off the list at once."""
        self._ended.set()
        try:
            self._client.delete(WORKER_PREFIX + self._runner.worker_id)
        except redis.RedisError as error:
            log.info("the worker's entry in Redis ends by itself: %s", error)


def refusal(asked: dict[str, Any], about: dict[str, Any]) -> str:
    """Return the sentence that says why a worker gets no repairs from a server."""
    return (
        f"This worker gets no repairs: the server runs version {asked['version']} with {asked['weights']}, this worker "
        f"version {about['version']} with {about['weights']}. Install the same version and the same weights file here."
    )


def _keep_logging(**_: object) -> None:
    """Take the place of Celery's own set-up of logging, which raises the level of every logger to its own."""
    for chatty in ("celery", "kombu"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _say(text: str, *_: object) -> None:
    """Take the place of what Celery writes past the log when it is told to end."""
    log.info("%s", text)


def _install_signals(install: Callable[[Any], None], worker: Any) -> None:
    """Have Celery install its signals, but end at a hang-up as at SIGTERM, or not at all where nohup said so.

    Celery would begin the program anew, with words that `python -m` was not called by, so that it did not start.
    """
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    install(worker)
    signal.signal(signal.SIGHUP, signal.SIG_IGN if is_ignored else signal.getsignal(signal.SIGTERM))


def check_server(redis_url: str, about: dict[str, Any]) -> redis.Redis:
    """Look whether the server that is there would give a worker repairs.

    Args:
        redis_url: redis:// or rediss://.
        about: version, weights, fingerprint of the worker.

    Returns:
        A connection to Redis.

    Raises:
        WorkerRefusedError: the server runs another version or other weights.
        redis.RedisError: Redis can't be reached.
    """
    client = connect(redis_url)
    if asked := required_instead(client, about["fingerprint"]):
        raise WorkerRefusedError(refusal(asked, about))
    return client


def work(engine: RepairingEngine, *, redis_url: str, about: dict[str, Any], name: str = "") -> None:
    """Work until SIGTERM or Ctrl+C.

    Args:
        engine: repairs; used by one thread at a time.
        redis_url: redis:// or rediss://.
        about: version, weights, fingerprint, device, profile, buckets_px.
        name: shown to operators; default: the machine's name.

    Raises:
        WorkerRefusedError, redis.RedisError: as `check_server`.
    """
    client = check_server(redis_url, about)
    # Unguessable and new in every process: a worker that was started again is not the one that claimed an attempt.
    worker_id = f"{name or socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    app = create_celery(redis_url, about["fingerprint"])
    runner = AttemptRunner(engine, client, worker_id)
    runner.register(app)
    setup_logging.connect(_keep_logging)
    celery.apps.worker.safe_say = _say
    fingerprint = about["fingerprint"]
    worker = app.Worker(
        pool="threads",
        concurrency=1,
        queues=[queue_name(fingerprint), queue_name(fingerprint, is_batch=True)],
        hostname=worker_id,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loglevel="WARNING",
        quiet=True,  # its banner is no line of our log, and no JSON
    )

    worker.install_platform_tweaks = partial(_install_signals, worker.install_platform_tweaks)

    def renew() -> None:
        worker.consumer.connection.collect()  # the consumer's loop notices and connects again

    heartbeat = Heartbeat(client, runner, about, on_stall=renew)
    runner.show = heartbeat.show
    heartbeat.beat()
    heartbeat.start()
    log.info("worker %s is ready for repairs from %s", worker_id, place_of(redis_url))
    try:
        worker.start()
    finally:
        heartbeat.stop()
