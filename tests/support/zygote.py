"""Processes with the fake engine that start in a moment: forked by one that has imported the program already.

Importing it takes one to three seconds of a core, and the tests start a hundred servers and workers. What is forked is
a process of its own, with its own port, threads, files, environment and signals, as the script's is that it stands for
(`serve_fake.py`, `serve_worker.py`, `read_photo.py`); only what happens while a program is imported can't be seen in
it. The zygote ends when the process that asked it ends, and takes along what it forked.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
# Elsewhere, libraries of the system do not stand a fork without exec.
CAN_FORK = sys.platform == "linux"
POLL_S = 0.01
SERVING = (
    "app", "fastapi", "uvicorn", "uvicorn.protocols.http.auto", "uvicorn.lifespan.on", "tests.support.serve_fake",
    "jobs.queue", "web.gate", "web.iopaint", "web.lama_cleaner", "web.metrics", "web.openapi", "web.operators",
    "web.routes", "web.startup",
)  # fmt: skip
PAGE = ("gradio", "web.gradio_routes", "web.page", "web.page_files")
SCRIPTS: dict[str, tuple[str, ...]] = {
    "serve_fake": SERVING,
    "read_photo": ("tests.support.read_photo",),
    "serve_worker": ("tests.support.serve_worker", "celery.worker.worker", "celery.concurrency.solo"),
}


class Forked:
    """A forked process, shaped like `subprocess.Popen` as far as the tests need it."""

    def __init__(self, zygote: Zygote, pid: int) -> None:
        self._zygote = zygote
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._zygote.ask(look=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended and return its exit code."""
        until_s = time.monotonic() + (float("inf") if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until_s:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(POLL_S)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it is known to have ended."""
        if self.poll() is None:  # until it is asked for, its id is nobody else's
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The process that forks, as seen by the one that asks it."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, str(Path(__file__)), str(theirs.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[theirs.fileno()])
        self._socket = ours
        self._stream = ours.makefile("rw", encoding="utf-8")
        self._lock = threading.Lock()

    def ask(self, **request: Any) -> Any:
        """Send one request and return the answer."""
        with self._lock:
            self._stream.write(json.dumps(request) + "\n")
            self._stream.flush()
            answer = self._stream.readline()
        assert answer, "the zygote died"
        return json.loads(answer)

    def close(self) -> None:
        """End it and all that it forked."""
        self._stream.close()
        self._socket.close()
        self._process.wait()


_running: list[Zygote] = []


def fork(script: str, arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> Forked:
    """Run one of `SCRIPTS` in a process of its own.

    Args:
        script: its name, without .py.
        arguments: of its command line.
        environment: all of it.
        log: where its output goes, after what is there.

    Returns:
        The process.
    """
    if not _running:
        _running.append(Zygote())
        atexit.register(close)
    asked = {"script": script, "arguments": list(arguments), "environment": dict(environment), "log": str(log)}
    return Forked(_running[0], _running[0].ask(**asked))


def close() -> None:
    """End the zygote of this process, if there is one, and all that it forked."""
    while _running:
        _running.pop().close()


def import_all(script: str, arguments: Sequence[str]) -> None:
    """Import what a script will need, so that the next one need not."""
    for name in SCRIPTS[script]:
        importlib.import_module(name)
    if script == "serve_fake" and "page" in arguments[0] and "gradio" not in sys.modules:
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # as app.py does it
        from web.stubs import without_stubs

        with without_stubs():
            for name in PAGE:
                importlib.import_module(name)


def look(pid: int) -> int | None:
    """Return the exit code of a child, or None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def run(script: str, arguments: Sequence[str], environment: Mapping[str, str], log: str) -> NoReturn:
    """Be the script, in the process that was forked for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [f"{script}.py", *arguments]
    main: Callable[[Sequence[str]], int] = importlib.import_module(f"tests.support.{script}").main
    sys.exit(main(arguments))


def serve(asker: socket.socket) -> None:
    """Fork until nobody asks any more."""
    children: set[int] = set()
    stream = asker.makefile("rw", encoding="utf-8")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who presses Ctrl+C means the tests, which end what they started
    for line in stream:
        asked = json.loads(line)
        if "look" in asked:
            answer = look(asked["look"])
            children -= set() if answer is None else {asked["look"]}
        else:
            import_all(asked["script"], asked["arguments"])
            gc.freeze()  # or each fork's collections copy and walk over what all of them share
            answer = os.fork()
            if not answer:
                stream.close()
                asker.close()
                run(**asked)
            children.add(answer)
        stream.write(json.dumps(answer) + "\n")
        stream.flush()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as asker:
        serve(asker)
