"""Workers of pytest-xdist that are forked by a process that has imported all tests, which each would import anew.

To import them takes four to eight seconds of a core. xdist starts a worker as `PYTHON -c ...` and speaks to it over its
standard input and output; here it is given this script in the place of PYTHON (`ForkedWorkers.command`). The script
hands its input, output, errors and environment to the process that forks, and lasts as long as the worker forked
for it. The process that forks is itself forked by the one that runs pytest, before that has threads, so it rewrites
assertions as that one does.
"""

import atexit
import functools
import gc
import json
import os
import select
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn


def import_tests(files: Sequence[Path], root: Path) -> None:
    """Import modules of tests as pytest does, which finds them imported when it collects.

    Args:
        files: the modules; what fails in one of them is left to who collects it.
        root: of the tests' names, as pytest's `rootpath`.
    """
    import pytest  # here: the script that asks for a worker does without
    from _pytest.pathlib import import_path

    gc.disable()
    for file in files:
        try:
            import_path(file, mode="importlib", root=root, consider_namespace_packages=False)
        except (Exception, pytest.skip.Exception):
            half = [name for name, module in sys.modules.items() if getattr(module, "__file__", None) == str(file)]
            for name in half:  # or pytest would find the tests that stand above what failed, and no failure
                del sys.modules[name]
    gc.enable()
    gc.freeze()  # or each worker's collections copy and walk over what all of them share


class ForkedWorkers:
    """The process that forks, as seen by the one that runs pytest."""

    def __init__(self, import_all: Callable[[], None], *, patience_s: float = 10.0) -> None:
        """Fork it; it imports, then forks a worker for each script that asks.

        Args:
            import_all: done once, before the first worker is forked.
            patience_s: how long workers may take to end when all is over; then they are killed.
        """
        folder = tempfile.mkdtemp(prefix="workers-")  # for this user alone
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        address = f"{folder}/socket"
        # A command line, as xdist takes it in the place of Python's path.
        self.command = shlex.join([sys.executable, str(Path(__file__)), address])
        self._owner, theirs = socket.socketpair()
        with theirs, socket.socket(socket.AF_UNIX) as listener:
            listener.bind(address)
            listener.listen()
            self._pid = os.fork()
            if not self._pid:
                self._owner.close()
                _be(functools.partial(_fork_workers, import_all, theirs, listener, patience_s))

    def close(self) -> None:
        """Wait until all workers have ended, and it too."""
        self._owner.close()
        os.waitpid(self._pid, 0)


def _be(what: Callable[[], None]) -> NoReturn:
    """Do something in a forked process and end it; what the process that forked it does at its end is not done."""
    atexit.register(os._exit, 0)  # what is registered later is done before
    try:
        what()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        os._exit(1)


def _fork_workers(
    import_all: Callable[[], None], owner: socket.socket, listener: socket.socket, patience_s: float
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who presses Ctrl+C means the tests
    import_all()
    workers = []
    while owner not in select.select([owner, listener], [], [])[0]:
        connection, _ = listener.accept()
        workers.append(os.fork())
        if not workers[-1]:
            owner.close()
            listener.close()
            _be(functools.partial(_work, connection))
        connection.close()
    listener.close()
    until_s = time.monotonic() + patience_s
    for pid in workers:  # waited for, or nobody knows how much time they took
        while not os.waitpid(pid, os.WNOHANG)[0]:
            if time.monotonic() > until_s:  # xdist has given it up, and could end only the script
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)


def _work(connection: socket.socket) -> None:
    """Be the Python that the script stands for, until its worker has ended; the connection ends with this process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    size, numbers, _, _ = socket.recv_fds(connection, 8, 3)
    for number, standard in zip(numbers, (0, 1, 2), strict=True):
        os.dup2(number, standard)
        os.close(number)
    environment = b""
    while len(environment) < int(size):
        environment += connection.recv(1 << 16)
    os.environ.clear()
    os.environ.update(json.loads(environment))
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", 1), open(2, "w", 1)  # noqa: SIM115
    exec(eval(sys.stdin.readline()), {"__name__": "__main__"})  # what xdist would have Python do


def main(address: str) -> int:
    """Ask for a worker and last as long as it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # which the worker gets too
    environment = json.dumps(dict(os.environ)).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        socket.send_fds(connection, [b"%8d" % len(environment)], [0, 1, 2])
        connection.sendall(environment)
        for number in (0, 1):  # the worker's alone, so that its end is seen
            os.close(number)
        return len(connection.recv(1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
