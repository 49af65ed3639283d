"""Where what arrives lies until it is checked: below the data folder, not in the machine's own temporary folder.

There a name such as /tmp/gradio belongs to whoever came first, and a second user of the machine could not start. Counts
for the whole process; the data folder has one process at a time (`database.FolderLock`).
"""

import errno
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from imaging.atomic_write import make_private_folder

NAME = "tmp"
GRADIO_NAME = "gradio"
LEFTOVER_AGE_S = 3600.0  # nobody writes to a file that has not changed for so long
GRADIO_VARIABLE = "GRADIO_TEMP_DIR"  # read when Gradio's components are made


def use_temp_folder(data_dir: Path) -> None:
    """Have this process and Gradio in it keep temporary files below the data folder, which is made if it is missing.

    Args:
        data_dir: the data folder, absolute. One that can't be made is said where the queue opens it.
    """
    folder = data_dir / NAME
    with suppress(OSError):
        make_private_folder(data_dir)
        folder.mkdir(exist_ok=True)
    tempfile.tempdir = str(folder)  # no trial write: later the disk may be full
    os.environ[GRADIO_VARIABLE] = str(folder / GRADIO_NAME)


def clear_temp_folder(data_dir: Path) -> None:
    """Remove what an earlier run left; for the process that holds the data folder, before it takes anything.

    Args:
        data_dir: the data folder.
    """
    with suppress(OSError):
        for entry in (data_dir / NAME).iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)


def remove_leftovers(data_dir: Path) -> None:
    """Remove what Gradio 6.31 leaves while it runs, which has no other end than a start.

    That is the part of each upload that was cut off, two empty files of each call, and the folder of each file that it
    deleted. Files that it knows lie in folders, and it deletes them by itself.

    Args:
        data_dir: the data folder.
    """
    before_s = time.time() - LEFTOVER_AGE_S
    with suppress(OSError):  # nobody has used Gradio yet
        for entry in (data_dir / NAME / GRADIO_NAME).iterdir():
            with suppress(OSError):  # a folder that is not empty, or what went by itself
                if entry.stat().st_mtime < before_s:
                    (entry.rmdir if entry.is_dir() else entry.unlink)()


def check_room(size_bytes: int) -> None:
    """Say that the disk is full before it is, because what others are about to write would fail too.

    Args:
        size_bytes: what is yet to be written. Of a body that comes it is what has come, which is written again.

    Raises:
        OSError: less than that is free, or the folder is gone.
    """
    if shutil.disk_usage(tempfile.gettempdir()).free < size_bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def ensure_temp_folder() -> None:
    """Make the folder again where somebody emptied the data folder while the program runs.

    Raises:
        OSError: the data folder is gone or can't be written.
    """
    folder = Path(tempfile.gettempdir())
    if not folder.is_dir():
        folder.mkdir()  # without parents: a disk that is not mounted now is no reason to fill its mount point
