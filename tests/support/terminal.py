"""Programs on a terminal of their own, for what they only show where somebody looks."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from pathlib import Path
from typing import Any

SIZE = (24, 80)  # lines and columns


def on_terminal(command: list[str], *, cwd: Path, **options: Any) -> tuple[str, int]:
    """Run a program whose output and errors go to a terminal of 80 columns; return what it showed and its exit code."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment, **options
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return shown.decode(errors="replace"), process.wait()
