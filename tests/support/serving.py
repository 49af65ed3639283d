"""Real server processes for tests: start, ask, kill, start again."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support import zygote

ROOT = Path(__file__).resolve().parents[2]
START_S = 180.0  # on a machine that many share
STOP_S = 15.0


def free_port() -> int:
    """Return a port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment() -> dict[str, str]:
    """Return the environment without settings of the person who runs the tests."""
    from config import PLAIN_ENVIRONMENT  # here: the engine's tests run where the settings' libraries are missing

    kept = {name: value for name, value in os.environ.items() if not name.startswith("FFTLAMA_")}
    return {name: value for name, value in kept.items() if name not in PLAIN_ENVIRONMENT}


def run_script(command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    """Start a script of this checkout with Python; its output goes to the end of the log."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=stream, stderr=stream
        )  # fmt: skip


def run_support_script(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], *, log: Path, is_forked: bool
) -> "subprocess.Popen[bytes] | zygote.Forked":
    """Start one of the scripts that `zygote` knows, by it or anew."""
    if is_forked and zygote.CAN_FORK:
        return zygote.fork(name, arguments, environment=environment, log=log)
    return run_script([f"tests/support/{name}.py", *arguments], environment=environment, log=log)


@dataclass
class RunningServer:
    """One server process with folders of its own; `kind` is one of `serve_fake.py`'s, or "real" for `app.py`.

    The fake ones are forked by `zygote`, unless `is_forked` is False: for who looks at the start itself, or at memory.
    """

    folder: Path
    kind: str = "api"
    settings: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    environment: dict[str, str] = field(default_factory=dict)
    is_forked: bool = True
    process: subprocess.Popen[bytes] | zygote.Forked | None = None

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data_dir(self) -> Path:
        """Where it keeps photos and jobs."""
        return self.folder / "data"

    @property
    def outputs_dir(self) -> Path:
        """Where it writes results."""
        return self.folder / "outputs"

    @property
    def log(self) -> str:
        """All it has printed."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")

    @property
    def client(self) -> httpx.Client:
        """A new HTTP client for it.

        Without TLS there is nothing to verify, and to read the certificates takes sixteen milliseconds each time.
        """
        return httpx.Client(base_url=self.url, timeout=30.0, trust_env=False, verify=False)

    def start(self, *, wait: bool = True) -> "RunningServer":
        """Start the process, on the same port and folders as before, and wait until /health answers 200."""
        settings = {"data_dir": self.data_dir, "outputs_dir": self.outputs_dir, "port": self.port, **self.settings}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        self.folder.mkdir(parents=True, exist_ok=True)
        environment, log = {**clean_environment(), **self.environment}, self.folder / "server.log"
        if self.kind == "real":
            self.process = run_script(["app.py", *arguments], environment=environment, log=log)
        else:
            words = [self.kind, *arguments]
            self.process = run_support_script("serve_fake", words, environment, log=log, is_forked=self.is_forked)
        if wait:
            try:
                self.wait_until_healthy()
            except BaseException:
                self.kill()  # who asked for it never gets it to end it
                raise
        return self

    def wait_until_healthy(self) -> None:
        """Wait until /health answers 200; fail with the log when the process dies instead."""
        assert self.process is not None
        until_s = time.monotonic() + START_S
        with self.client as client:
            while time.monotonic() < until_s:
                assert self.process.poll() is None, f"the server died:\n{self.log}"
                with contextlib.suppress(httpx.TransportError):
                    if client.get("/health").status_code == 200:
                        return
                time.sleep(0.05)
        raise AssertionError(f"the server did not answer within {START_S} s:\n{self.log}")

    def kill(self) -> None:
        """End the process as kill -9 does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self) -> int:
        """Ask the process to end and return its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the server did not stop within {STOP_S} s:\n{self.log}") from None


def follow(client: httpx.Client, job_id: str, *, until: str = "ended", limit_s: float = 20.0) -> dict[str, Any]:
    """Long-poll a job until it is in a state, "ended", "saved", or "written" (saved, or said why not).

    Args:
        client: of the server.
        job_id: which job.
        until: what is waited for.
        limit_s: how long.

    Returns:
        Its last view.
    """
    until_s = time.monotonic() + limit_s
    parameters: dict[str, Any] = {}
    while time.monotonic() < until_s:
        answer = client.get(f"/api/v1/jobs/{job_id}", params=parameters)
        assert answer.status_code == 200, answer.text
        view: dict[str, Any] = answer.json()
        ended = until == "ended" and view["state"] in ("done", "failed", "cancelled")
        if ended or view["state"] == until or (until in ("saved", "written") and view["saved"]):
            return view
        if until == "written" and any(note["code"] == "not_saved" for note in view["notes"]):
            return view
        parameters = {"wait_s": 2, "seen": view["version"]}
    raise AssertionError(f"not {until} after {limit_s} s: {view}")


def upload(client: httpx.Client, data: bytes, name: str = "photo.png") -> dict[str, Any]:
    """Upload a photo and return the answer."""
    answer = client.post("/api/v1/images", files={"file": (name, data)})
    assert answer.status_code == 201, answer.text
    image: dict[str, Any] = answer.json()
    return image


def ask_repair(client: httpx.Client, image_id: str, request_id: str | None = None, **options: Any) -> str:
    """Send a repair of a dot at (20, 20) and return the job's id."""
    body = {
        "image_id": image_id,
        "request_id": request_id or f"r{time.monotonic_ns()}",
        "strokes": [{"points": [[20, 20]], "radius": 5, "erase": False}],
        "options": options,
    }
    answer = client.post("/api/v1/repairs", json=body)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


def wait_until(ask: Callable[[], object], wanted: set[object], limit_s: float = 20.0) -> object:
    """Ask until the answer is one of those wanted; return the last one."""
    until_s = time.monotonic() + limit_s
    while (answer := ask()) not in wanted and time.monotonic() < until_s:
        time.sleep(0.1)
    return answer
