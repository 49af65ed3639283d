"""Note: a sentence for a person with a stable code, from anywhere in the program; and the streams that people read.

The streams are made ready when a process begins and flushed when it ends.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))  # in the order of their descriptors


class Note(str):
    """A sentence for people with a stable `code` for programs and the `params` that translations fill in."""

    code: str
    params: dict[str, Any]

    def __new__(cls, sentence: str, /, *, code: str, **params: Any) -> Note:
        """Make a note. It must be `__new__`, because a str is complete before `__init__` runs."""
        note = super().__new__(cls, sentence)
        note.code = code
        note.params = params
        return note

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {"code": self.code, **self.params}


def note_as_dict(note: Note) -> dict[str, Any]:
    """Return a note as it is stored, and sent to clients and between processes."""
    return {"code": note.code, "message": str(note), "params": note.params}


def note_from_dict(value: Mapping[str, Any]) -> Note:
    """Return the note that `note_as_dict` wrote."""
    return Note(value["message"], code=value["code"], **value["params"])


def ready_streams() -> None:
    """Have all three there, and take every letter: what a stream's encoding lacks is escaped, an emoji in GBK for one.

    Where the caller closed one (`>&-`), Python has None in its place, and the next file that is opened gets its number:
    what C libraries say on standard error would be written into it.
    """
    for name, mode in STREAMS:
        stream = getattr(sys, name)
        if stream is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            setattr(sys, name, os.fdopen(descriptor, mode, encoding="utf-8"))
        elif mode == "w" and isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def run_and_exit(main: Callable[[], int]) -> NoReturn:
    """Run a program's main function and end this process with its exit code, without taking its libraries apart.

    Python would free all that was ever imported: for PyTorch and Gradio that takes most of a second of a core, in which
    nobody gets anything. Threads are waited for as ever, and what was registered with `atexit` since is done.

    Args:
        main: Returns the exit code. What it raises ends the process in Python's own way.
    """
    code: list[int] = []
    atexit.register(_exit_at_once, code)  # before the others, so that it is done after them
    code.append(main())
    sys.exit(code[0])


def _exit_at_once(code: list[int]) -> None:
    if not code:
        return
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):  # Python tries again, says so and ends with 120
        return
    os._exit(code[0])
