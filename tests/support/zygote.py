"""Processes with the fake engine that start in a moment: forked by one that has imported the program already.

Importing it takes one to three seconds of a core, and the tests start a hundred servers and workers. What is forked is
a process of its own, with its own port, threads, files, environment and signals, as the script's is that it stands for
(`serve_fake.py`, `serve_worker.py`, `read_photo.py`); only what happens while a program is imported can't be seen in
it. The zygote ends when the process that started it ends, and takes along what it forked. The workers of one run of
the tests share one (`share`), since each would import the same; what a worker has asked for ends with that worker.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
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
SHARED = "SHARED_ZYGOTE"  # the variable with the address of the one that workers share
SERVING = (
    "anyio._backends._asyncio", "app", "encodings.idna", "engine.device_turns", "fastapi", "pydantic.v1", "uvicorn",
    "uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.lifespan.on", "tests.support.serve_fake",
    "jobs.queue", "web.connections", "web.gate", "web.iopaint", "web.json_log", "web.lama_cleaner", "web.metrics",
    "web.openapi", "web.operators", "web.routes", "web.startup",
)  # fmt: skip
PAGE = ("gradio", "web.gradio_routes", "web.page", "web.page_document", "web.page_files")
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
    """The process that forks, as seen by one that asks it."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        """Ask the one that is shared, if there is one, else start one, which answers those too who ask the listener."""
        self._process: subprocess.Popen[bytes] | None = None
        if listener is None and SHARED in os.environ:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(os.environ[SHARED])
        else:
            self._socket, theirs = socket.socketpair()
            with theirs:
                numbers = [one.fileno() for one in (theirs, listener) if one is not None]
                command = [sys.executable, str(Path(__file__)), *map(str, numbers)]
                self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=numbers)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
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
        """End all that was asked for here, and the zygote if it was started here."""
        self._stream.close()
        self._socket.close()
        if self._process is not None:
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
        atexit.register(close)  # for who runs no tests
    asked = {"script": script, "arguments": list(arguments), "environment": dict(environment), "log": str(log)}
    return Forked(_running[0], _running[0].ask(**asked))


def share() -> None:
    """Start one for the processes that this one is going to start: they find its address in the environment."""
    folder = tempfile.mkdtemp(prefix="zygote-")  # for this user alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with socket.socket(socket.AF_UNIX) as listener:
        os.environ[SHARED] = f"{folder}/socket"
        listener.bind(os.environ[SHARED])
        listener.listen()
        _running.append(Zygote(listener))


def close() -> None:
    """End the zygote of this process, if there is one, and all that was asked for here."""
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
    """Be the script, in the process that was forked for it.

    In the end what it shares with all others is not taken apart: each page of it would have to be copied for that.
    """
    from notices import run_and_exit

    signal.signal(signal.SIGINT, signal.default_int_handler)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [f"{script}.py", *arguments]
    main: Callable[[Sequence[str]], int] = importlib.import_module(f"tests.support.{script}").main
    run_and_exit(functools.partial(main, arguments))


class Asker:
    """One that asks, and what was forked for it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.stream = connection.makefile("rw", encoding="utf-8")
        self.children: set[int] = set()

    def answer(self, line: str, *, close_others: Callable[[], None]) -> None:
        """Do what is asked; in a process that is forked for it, never come back."""
        asked = json.loads(line)
        if "look" in asked:
            answer = look(asked["look"])
            self.children -= set() if answer is None else {asked["look"]}
        else:
            import_all(asked["script"], asked["arguments"])
            gc.freeze()  # or each fork's collections copy and walk over what all of them share
            answer = os.fork()
            if not answer:
                close_others()
                run(**asked)
            self.children.add(answer)
        self.stream.write(json.dumps(answer) + "\n")
        self.stream.flush()

    def end(self) -> None:
        """Kill what was forked for it."""
        self.close()
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def close(self) -> None:
        """Close the connection."""
        self.stream.close()
        self.connection.close()


def serve(owner: socket.socket, listener: socket.socket | None) -> None:
    """Fork for the owner and for those that connect, until the owner asks no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who presses Ctrl+C means the tests, which end what they started
    askers = [Asker(owner)]

    def close_all() -> None:
        for asker in askers:
            asker.close()
        selector.close()
        if listener is not None:
            listener.close()

    with selectors.DefaultSelector() as selector:
        selector.register(owner, selectors.EVENT_READ, askers[0])
        if listener is not None:
            selector.register(listener, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is None:
                    assert listener is not None
                    askers.append(Asker(listener.accept()[0]))
                    selector.register(askers[-1].connection, selectors.EVENT_READ, askers[-1])
                elif line := key.data.stream.readline():  # a whole one: nobody asks before they have their answer
                    key.data.answer(line, close_others=close_all)
                elif key.data is askers[0]:
                    for asker in askers:
                        asker.end()
                    return
                else:
                    selector.unregister(key.data.connection)
                    askers.remove(key.data)
                    key.data.end()


if __name__ == "__main__":
    given = [socket.socket(fileno=int(number)) for number in sys.argv[1:]]
    serve(given[0], given[1] if len(given) > 1 else None)
