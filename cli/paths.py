"""What people name on a command line: a path that says something, what it leads to, a folder that can be written.

Whatever a path is, nothing here raises but what it says: pathlib raises for names that are too long and for links that
lead round, in the middle of a folder whose other photos are fine.
"""

import argparse
import os.path
import tempfile
from pathlib import Path

from cli.errors import EXIT_USAGE, CommandError


def named_path(text: str) -> Path:
    """Return an argument's path; an empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def is_file(path: Path) -> bool:
    """Tell whether a path leads to a file; a pipe is none, as it might be waited for without end."""
    return os.path.isfile(path)  # noqa: PTH113 - see above


def is_folder(path: Path) -> bool:
    """Tell whether a path leads to a folder."""
    return os.path.isdir(path)  # noqa: PTH112 - see above


def real_path(path: Path) -> Path:
    """Return where a path leads, as far as it leads anywhere."""
    return Path(os.path.realpath(path))


def make_writable_folder(folder: Path, option: str) -> None:
    """Make a folder where it is missing, and try that a file can be made in it.

    Args:
        folder: The folder.
        option: What named it, for the sentence.

    Raises:
        CommandError: It can't be, with the exit code of what is refused before anything ran.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(f"{option}: {folder} can't be written: {error.strerror}", EXIT_USAGE) from error
