"""A server process with the fake engine that starts in a moment: forked from one that has imported everything.

For what kills servers often. It is a process of its own with its own threads, files and sockets, as `app.py`'s is.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from typing import cast

from tests.support.serving import RunningServer

IMPORTED = [
    "app", "fastapi", "uvicorn", "uvicorn.protocols.http.auto", "uvicorn.lifespan.on", "tests.support.fake_engine",
    "jobs.queue", "web.gate", "web.iopaint", "web.lama_cleaner", "web.metrics", "web.openapi", "web.operators",
    "web.routes", "web.startup",
]  # fmt: skip


def serve(arguments: list[str], log: str) -> None:
    """Serve without a page until killed, in the process that was forked for it."""
    import app
    from tests.support.fake_engine import FakeEngine

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    app.create_app = lambda settings: app.create_api(settings, FakeEngine())  # type: ignore[assignment,misc]
    sys.exit(app.main(arguments))


class Forked:
    """A forked process, shaped like `subprocess.Popen` as far as `RunningServer` needs it."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self.kill, self.terminate = process.kill, process.terminate

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("server", timeout or 0.0)
        return self._process.exitcode


@dataclass
class ForkedServer(RunningServer):
    """A `RunningServer` of the kind "api" that is forked."""

    def start(self, *, wait: bool = True) -> ForkedServer:
        """Start the process, on the same port and folders as before, and wait until /health answers 200."""
        settings = {"data_dir": self.data_dir, "outputs_dir": self.outputs_dir, "port": self.port, **self.settings}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        self.folder.mkdir(parents=True, exist_ok=True)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        process = context.Process(target=serve, args=(arguments, str(self.folder / "server.log")), daemon=True)
        process.start()
        self.process = cast("subprocess.Popen[bytes]", Forked(process))
        if wait:
            self.wait_until_healthy()
        return self
