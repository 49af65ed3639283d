"""Which workers a server takes, and how both reach a Redis with password and TLS."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from engine.requests import RepairRequest
from jobs.celery_app import TASK_NAME, AttemptRunner, connect, create_celery
from jobs.celery_worker import STALLED_S, Heartbeat
from jobs.errors import EngineUnavailableError
from jobs.redis_messages import SERVER_KEY, WORKER_PREFIX, AttemptKeys, pack, queue_name, unpack
from jobs.remote_engine import WORKER_TTL_S, Fleet, RemoteEngine, _AttemptLostError, fingerprint_of
from jobs.windows import options_of
from tests.support.certificate import make_certificate
from tests.support.cluster import PHOTO, cluster
from tests.support.cuttable_proxy import CuttableProxy
from tests.support.fake_engine import FakeEngine
from tests.support.redis_server import FakeWorker, RedisServer, wait_for_workers
from tests.support.serve_worker import WEIGHTS
from tests.support.serving import (
    ROOT,
    RunningServer,
    ask_repair,
    clean_environment,
    follow,
    free_port,
    upload,
    wait_until,
)


def test_worker_of_another_version_is_refused() -> None:
    with cluster(workers=1) as made:
        other = made.add_worker(version="other")
        assert other.process is not None
        assert other.process.wait(60) == 2
        assert "This worker gets no repairs: the server runs version test with pyproject, this worker" in other.log
        assert "Install the same version and the same weights file here." in other.log


def test_worker_that_was_there_before_a_newer_server_gets_no_repairs(tmp_path: Path) -> None:
    redis_ = RedisServer(tmp_path / "redis").start()
    old = FakeWorker(redis_.url, tmp_path, version="old").start()
    web = RunningServer(tmp_path / "web", kind="celery", settings={"redis_url": redis_.url})
    try:
        wait_for_workers(redis_.client, 1)
        web.start()
        with web.client as client:
            image_id = upload(client, PHOTO.read_bytes())["image_id"]
            waiting = ask_repair(client, image_id)
            wait_until(lambda: "This worker gets no repairs" in old.log, {True}, limit_s=30.0)
            assert "gets no repairs: it runs version old" in web.log
            view = client.get(f"/api/v1/jobs/{waiting}").json()
            assert (view["state"], view["waiting_for"]) == ("queued", "workers")
            new = FakeWorker(redis_.url, tmp_path, number=1).start()
            assert follow(client, waiting, limit_s=60.0)["state"] == "done"
            # A hang-up had the program begun anew, as the script that `python -m` had found, which then found no other.
            assert new.process is not None
            new.process.send_signal(signal.SIGHUP)
            assert new.process.wait(20) == 0
            assert "INFO:fftlama.worker:worker: Warm shutdown" in new.log and "\nworker: " not in new.log, "in the log"
    finally:
        web.kill()
        old.kill()
        redis_.kill()


def test_worker_that_redis_forgot_is_known_again_before_it_claims(tmp_path: Path) -> None:
    """Otherwise the attempt is taken for lost with its worker; a second time, the repair is given up."""
    redis_ = RedisServer(tmp_path / "redis").start()
    known: list[bool] = []
    kept_s: list[Any] = []

    class LookingEngine(FakeEngine):
        def repair_many(self, requests: Any, *, on_stage: Any = None) -> Any:
            known.append(bool(redis_.client.exists(f"{WORKER_PREFIX}it")))
            on_stage("predict")
            kept_s.extend(redis_.client.ttl(key) for key in (keys.claim, keys.answer))
            return super().repair_many(requests, on_stage=on_stage)

    try:
        runner = AttemptRunner(LookingEngine(), redis_.client, "it")
        runner.show = Heartbeat(redis_.client, runner, {"fingerprint": "f"}).show
        runner.show()
        redis_.wipe()
        keys = AttemptKeys("attempt")
        request = RepairRequest(np.zeros((9, 9, 3), np.uint8), np.ones((9, 9), bool))
        header = {"deadline_s": 60, **options_of(request)}
        redis_.client.set(keys.request, pack(header, [request.image, request.mask]), ex=5000)
        runner.run(keys.attempt_id)
    finally:
        redis_.kill()
    assert known == [True]
    claim_s, answer_s = kept_s
    assert answer_s > 0, "of a worker that is killed now it would stay in Redis for good"
    assert claim_s > 4000, "a repair of half an hour was begun anew after each quarter"


def test_claim_that_nobody_works_on_is_given_up(tmp_path: Path) -> None:
    """The network was cut between a worker's claim and Redis's answer: the repair waited until its time was over."""
    redis_ = RedisServer(tmp_path / "redis").start()
    client, keys = redis_.client, AttemptKeys("attempt")
    engine = RemoteEngine(Fleet(redis_.url, version="test", weights=WEIGHTS), deadline_s=60)

    def check(busy_with: str, since_s: float) -> float:
        """Look after the attempt, which is claimed by "it"; return since when nobody works on it, seconds ago."""
        client.set(f"{WORKER_PREFIX}it", json.dumps({"busy_with": busy_with}))
        now_s = time.monotonic()
        return now_s - engine._check(keys, "queue", now_s - since_s, may_give_back=True)

    try:
        client.set(keys.request, b"pixels")
        client.set(keys.claim, "it")
        assert check("attempt", 100.0) < 1
        assert 2.9 < check("", 3.0) < 4, "its worker may say so in a moment"
        with pytest.raises(_AttemptLostError, match="works on something else"):
            check("other", WORKER_TTL_S + 1)
        client.rpush(keys.answer, b"answer")
        assert check("", WORKER_TTL_S + 1) < 1, "it has been answered"
    finally:
        redis_.kill()


@pytest.mark.parametrize("cause", ["full", "replica", "alone"])
def test_repairs_wait_for_a_redis_that_takes_nothing(cause: str, tmp_path: Path) -> None:
    """They failed, out of memory or with an error of the server, though the next look said that Redis is awaited."""
    redis_ = RedisServer(tmp_path / "redis").start()
    fleet = Fleet(redis_.url, version="test", weights=WEIGHTS)
    engine = RemoteEngine(fleet, deadline_s=60)
    try:
        fleet._look()
        if cause == "full":
            redis_.client.config_set("maxmemory", "1mb")
        elif cause == "replica":
            redis_.client.replicaof("127.0.0.1", "1")
        else:
            redis_.client.config_set("min-replicas-to-write", "1")
        with pytest.raises(EngineUnavailableError):
            engine.repair_many([request_of(64)])
        assert engine.waiting_for == "redis"
    finally:
        redis_.kill()


def test_a_repair_that_is_too_large_for_redis_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis takes what others send, so to wait for it would never end."""
    monkeypatch.setattr("jobs.remote_engine.FULL_S", 0.1)
    redis_ = RedisServer(tmp_path / "redis").start()
    client = redis_.client
    fleet = Fleet(redis_.url, version="test", weights=WEIGHTS)
    try:
        fleet._look()
        client.config_set("maxmemory", client.info("memory")["used_memory"] + (4 << 20))
        with pytest.raises(redis.OutOfMemoryError):
            RemoteEngine(fleet, deadline_s=60).repair_many([request_of(1600)])
        assert fleet.is_reachable
        monkeypatch.setattr("jobs.remote_engine.FULL_S", 60.0)
        with pytest.raises(InterruptedError):  # cancelled meanwhile
            RemoteEngine(fleet, deadline_s=60).repair_many([request_of(1600)], on_stage=cancel)
    finally:
        redis_.kill()


def cancel(stage: str) -> None:
    """End a repair at its next stage."""
    raise InterruptedError(stage)


def request_of(size_px: int) -> RepairRequest:
    """Return a request of noise, all of which is needed, as so much of it is marked."""
    image = np.random.default_rng(0).integers(0, 256, (size_px, size_px, 3), np.uint8)
    mask = np.zeros((size_px, size_px), bool)
    mask[: size_px - 8, : size_px - 8] = True
    return RepairRequest(image, mask, None, None, "fast")


def test_worker_takes_people_who_wait_before_a_batch_that_came_first(tmp_path: Path) -> None:
    redis_ = RedisServer(tmp_path / "redis").start()
    worker = FakeWorker(redis_.url, tmp_path)
    fingerprint = fingerprint_of("test", WEIGHTS)
    sending = create_celery(redis_.url, fingerprint)
    image, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), bool)
    mask[8:12, 8:12] = True
    request = RepairRequest(image, mask, None, 20)  # it takes a fifth of a second
    names = ["batch-0", "batch-1", "person-0", "person-1"]
    try:
        for name in names:
            blob = pack({"deadline_s": 60, **options_of(request)}, [image, mask])
            redis_.client.set(AttemptKeys(name).request, bytes(blob))
            queue = queue_name(fingerprint, is_batch=name.startswith("batch"))
            sending.send_task(TASK_NAME, [name], task_id=name, queue=queue, retry=False)
        worker.start()
        claimed: list[str] = []
        wanted = [*names[2:], *names[:2]]  # of those that are seen together nobody knows which was first
        until_s = time.monotonic() + 60
        while len(claimed) < len(names) and time.monotonic() < until_s:
            # All at one moment: where this process stood still between two questions, the last one was seen first.
            there = redis_.client.mget([AttemptKeys(one).claim for one in wanted])
            claimed += [one for one, claim in zip(wanted, there, strict=True) if claim and one not in claimed]
            time.sleep(0.01)
        assert claimed == wanted
        log = worker.log_path.read_text()
        assert "is ready for repairs" in log
        assert "[queues]" not in log, "Celery's banner, which is no JSON either"
    finally:
        worker.kill()
        redis_.kill()


@pytest.mark.parametrize("is_batch", [False, True])
def test_repairs_that_pass_an_idle_worker_by_renew_its_connection(tmp_path: Path, is_batch: bool) -> None:
    """Only those of people who wait were looked for: a batch waited for ever on a connection that had died."""
    redis_ = RedisServer(tmp_path / "redis").start()
    renewed: list[bool] = []
    try:
        runner = AttemptRunner(FakeEngine(), connect(redis_.url), "it")
        about = {"fingerprint": "f", "version": "v", "weights": "w"}
        heartbeat = Heartbeat(runner.client, runner, about, lambda: renewed.append(True))
        heartbeat._idle_since_s -= STALLED_S + 1
        heartbeat.beat()
        assert not renewed, "nothing waits"
        redis_.client.rpush(f"fftlama:celery:{queue_name('f', is_batch=is_batch)}", "message")
        heartbeat.beat()
        assert not renewed, "it has not waited for long"
        heartbeat._idle_since_s -= STALLED_S + 1
        heartbeat.beat()
        assert renewed == [True]
    finally:
        redis_.kill()


def test_a_stage_that_cannot_be_told_does_not_fail_the_repair(tmp_path: Path) -> None:
    """The network to Redis is away while the engine works; the answer is sent when it is back."""
    redis_ = RedisServer(tmp_path / "redis").start()
    network = CuttableProxy(redis_.port)

    class CutOffEngine(FakeEngine):
        def repair_many(self, requests: Any, *, on_stage: Any = None) -> Any:
            network.cut()
            on_stage("predict")
            network.heal()
            return super().repair_many(requests, on_stage=on_stage)

    keys = AttemptKeys("attempt")
    mask = np.zeros((9, 9), bool)
    mask[3:6, 3:6] = True
    request = RepairRequest(np.zeros((9, 9, 3), np.uint8), mask)
    try:
        header = {"deadline_s": 60, **options_of(request)}
        redis_.client.set(keys.request, pack(header, [request.image, request.mask]))
        AttemptRunner(CutOffEngine(), connect(network.url), "it").run(keys.attempt_id)
        blobs: Any = redis_.client.lrange(keys.answer, 0, -1)
        told = [unpack(blob)[0] for blob in blobs]
    finally:
        network.close()
        redis_.kill()
    assert told[-1]["kind"] == "result", told
    assert "predict" not in [answer.get("stage") for answer in told[:1]], "the first one was lost with the network"


def test_command_of_another_version_ends_with_status_2_and_a_sentence(tmp_path: Path) -> None:
    redis_ = RedisServer(tmp_path / "redis").start()
    asked = {"version": "0.0.1", "weights": "big-lama", "fingerprint": "0123456789abcdef"}
    redis_.client.set(SERVER_KEY, json.dumps(asked))
    command = [sys.executable, "-m", "cli.main", "worker", "--redis", redis_.url, "--device", "cpu"]
    try:
        ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120)
    finally:
        redis_.kill()
    assert ended.returncode == 2, ended.stdout + ended.stderr
    (sentence,) = ended.stderr.splitlines()[-1:]
    assert sentence.startswith("fftlama: This worker gets no repairs: the server runs version 0.0.1 with big-lama")


@pytest.mark.parametrize("url", ["http://127.0.0.1", "127.0.0.1:6379", "redis://"])
def test_address_that_is_no_redis_is_refused_at_once(url: str) -> None:
    command = [sys.executable, "-m", "cli.main", "worker", "--redis", url, "--device", "cpu"]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2 and "redis_url" in ended.stderr and "Traceback" not in ended.stderr


def test_command_says_that_redis_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "worker", "--redis", f"redis://127.0.0.1:{free_port()}/0"]
    command += ["--device", "cpu"]
    ended = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1 and "Redis can't be reached" in ended.stderr and "Traceback" not in ended.stderr


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of 127.0.0.1 that nobody but its owner trusts, with its key."""
    return make_certificate(tmp_path_factory.mktemp("certificate") / "redis.pem")


@pytest.mark.parametrize("where", ["the address", "SSL_CERT_FILE"])
def test_redis_with_password_and_tls(where: str, certificate: Path, tmp_path: Path) -> None:
    redis_ = RedisServer(tmp_path / "redis", password="very-secret", certificate=certificate).start()
    url = redis_.url + (f"?ssl_ca_certs={certificate}" if where == "the address" else "")
    environment = {} if where == "the address" else {"SSL_CERT_FILE": str(certificate)}
    worker = FakeWorker(url, tmp_path, environment=environment).start()
    web = RunningServer(tmp_path / "web", kind="celery", settings={"redis_url": url}, environment=environment)
    try:
        wait_for_workers(redis_.client, 1)
        web.start()
        with web.client as client:
            image_id = upload(client, PHOTO.read_bytes())["image_id"]
            assert follow(client, ask_repair(client, image_id), limit_s=60.0)["state"] == "done"
            assert "very-secret" not in client.get("/health").text
        assert "very-secret" not in web.log + worker.log, "a password is no business of the log"
    finally:
        web.kill()
        worker.kill()
        redis_.kill()


def test_redis_whose_certificate_is_not_trusted_is_refused(certificate: Path, tmp_path: Path) -> None:
    redis_ = RedisServer(tmp_path / "redis", certificate=certificate).start()
    worker = FakeWorker(redis_.url, tmp_path).start()
    assert worker.process is not None
    try:
        assert worker.process.wait(60) == 1
        assert "certificate verify failed" in worker.log
    finally:
        worker.kill()
        redis_.kill()
