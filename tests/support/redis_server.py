"""A real Redis and real Celery workers for tests: start, pause, kill, wipe, start again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.support import zygote
from tests.support.serving import clean_environment, free_port, run_support_script

START_S = 20.0
CLOCK_VARIABLE = "CLOCK_AHEAD_S"  # of serve_worker.py


@dataclass
class RedisServer:
    """One `redis-server` process without persistence, on a free port of this machine.

    With `password` and `certificate` (a PEM file of certificate and key) it takes TLS connections with that password.
    """

    folder: Path
    password: str = ""
    certificate: Path | None = None
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address for clients."""
        scheme = "rediss" if self.certificate else "redis"
        return f"{scheme}://{':' + self.password + '@' if self.password else ''}127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A new client."""
        trusted = {"ssl_ca_certs": str(self.certificate)} if self.certificate else {}
        return redis.Redis.from_url(self.url, socket_timeout=5, **trusted)

    def start(self) -> RedisServer:
        """Start with no data, and wait until it answers."""
        program = shutil.which("redis-server")
        assert program, "redis-server is needed: on Debian, apt-get install redis-server"
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [program, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        if self.certificate:
            file = str(self.certificate)
            command += ["--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no"]
            command += ["--tls-cert-file", file, "--tls-key-file", file, "--tls-ca-cert-file", file]
        else:
            command += ["--port", str(self.port)]
        if self.password:
            command += ["--requirepass", self.password]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            try:
                if self.client.ping():
                    return self
            except redis.RedisError:
                time.sleep(0.05)
        raise AssertionError("redis-server did not answer")

    def kill(self) -> None:
        """End it as kill -9 does; all its data is lost."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open and nothing is answered."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def wipe(self) -> None:
        """Delete every key."""
        self.client.flushall()

    def resume(self) -> None:
        """Go on after `pause`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@dataclass
class FakeWorker:
    """One process of `serve_worker.py`."""

    redis_url: str
    folder: Path
    number: int = 0
    version: str = "test"
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | zygote.Forked | None = None

    def start(self) -> FakeWorker:
        """Start the process; it is not ready yet when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {**clean_environment(), "OMP_NUM_THREADS": "1", **self.environment}
        is_forked = CLOCK_VARIABLE not in environment  # which counts before the imports
        words = [self.redis_url, self.version]
        self.process = run_support_script("serve_worker", words, environment, log=self.log_path, is_forked=is_forked)
        return self

    @property
    def log_path(self) -> Path:
        """Where its output goes."""
        return self.folder / f"worker-{self.number}.log"

    @property
    def log(self) -> str:
        """All it has printed."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, limit_s: float = 30.0) -> int:
        """Send SIGTERM and return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(limit_s)


def wait_for_workers(client: redis.Redis, count: int, limit_s: float = 60.0) -> None:
    """Wait until so many workers have a live entry in Redis."""
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        if len(list(client.scan_iter("fftlama:worker:*"))) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"{count} workers did not appear within {limit_s} s (pid {os.getpid()})")
