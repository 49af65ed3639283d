"""Files written whole or not at all, and never over one that is there: the program's only way to write one.

A file is written beside its final name, synced and renamed, so that neither a kill nor a full disk leaves half a file
under a name that anybody reads. Part files are hidden and end in `.part`. Knows no file format.
"""

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

PART_SUFFIX = ".part"
PART_NAME = re.compile(r"\.[0-9a-f]{16}\.part")
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600
MAX_NAMES_PER_SECOND = 10_000


@contextmanager
def part_file(path: Path) -> Iterator[Path]:
    """Give the path of a new part file that becomes `path` when the block ends without an exception.

    Args:
        path: the final name; a file that has it is replaced. Its folder must exist.

    Yields:
        Where to write. The part file is synced and renamed afterwards, and removed when the block raises.

    Raises:
        OSError: the file cannot be written, synced or renamed; `path` is then as it was.
    """
    # A random name, not the final one with an ending: names of 255 bytes are allowed and leave no room for an ending.
    part = path.parent / f".{secrets.token_hex(8)}{PART_SUFFIX}"
    try:
        yield part
        _sync(part)
        part.replace(path)
    except BaseException as error:
        with suppress(OSError):  # where nothing can be written, nothing can be removed either
            part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(part):
            error.filename = str(path)  # what people know
        raise
    _sync_folder(path.parent)


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` to `path`, whole or not at all.

    Args:
        path: the final name; a file that has it is replaced. Its folder must exist.
        data: the file's bytes.
        mode: who may read it, from its first byte on; less what the umask takes.

    Raises:
        OSError: the file cannot be written; `path` is then as it was.
    """
    with part_file(path) as part:
        part.touch(mode, exist_ok=False)
        part.write_bytes(data)


def make_private_folder(folder: Path) -> None:
    """Make a folder that nobody else of the machine looks into; one that is there stays as it is.

    Args:
        folder: made with those above it.

    Raises:
        OSError: it cannot be made.
    """
    try:
        folder.mkdir(PRIVATE_FOLDER, parents=True, exist_ok=True)
    except FileExistsError:  # which says of a file that is there what people would take for good news
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def is_open_to_others(folder: Path) -> bool:
    """Tell whether somebody else of the machine, who is in no group of its owner, can look into a folder."""
    try:
        folder = Path(os.path.realpath(folder, strict=True))  # of links that lead round `resolve` raises something else
        is_open = folder.is_dir() and folder.stat().st_mode & 0o005
        return bool(is_open) and all(above.stat().st_mode & 0o001 for above in folder.parents)
    except OSError:  # there is none
        return False


def write_new_output(
    folder: Path,
    data: bytes,
    *,
    extension: str,
    now: datetime | None = None,
    on_name: Callable[[str], None] | None = None,
) -> Path:
    """Write `data` as `outputs_YYYYMMDDHHMMSS[_n]<extension>`, never over another file.

    Args:
        folder: where to; made if missing.
        data: the file's bytes.
        extension: the name's ending, with its dot.
        now: the time that the name tells; None = now.
        on_name: called with each name before it is tried, the last of them is the file's.

    Returns:
        The new file's path.

    Raises:
        OSError: the folder cannot be made or the file not be written; nothing is left behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"outputs_{now or datetime.now():%Y%m%d%H%M%S}"
    part = folder / f".{secrets.token_hex(8)}{PART_SUFFIX}"
    try:
        part.write_bytes(data)
        _sync(part)
        for number in range(1, MAX_NAMES_PER_SECOND):
            path = folder / f"{stem}{'' if number == 1 else f'_{number}'}{extension}"
            if path.exists():
                continue
            if on_name:
                on_name(path.name)
            try:
                _claim(part, path)
            except FileExistsError:
                continue
            _sync_folder(folder)
            return path
        raise FileExistsError(f"{folder}: no free name left beginning with {stem}")
    finally:
        part.unlink(missing_ok=True)


def remove_parts(folder: Path, *, age_s: float) -> None:
    """Remove the part files that a killed process left in a folder.

    Args:
        folder: where to look; it may be missing.
        age_s: part files changed within so many seconds stay, because another process may be writing them.
    """
    before_s = time.time() - age_s
    with suppress(OSError):  # a folder that is not there, or not ours, has nothing to remove
        for path in folder.iterdir():
            if PART_NAME.fullmatch(path.name) and path.stat().st_mtime <= before_s:
                path.unlink(missing_ok=True)


def _claim(part: Path, path: Path) -> None:
    # A hard link creates a name exclusively and with its whole content at once; where there are no links (exFAT) the
    # name is reserved first.
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        path.open("xb").close()
        part.replace(path)


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only when its folder is synced; Windows can't open folders.
    with suppress(OSError):
        _sync(folder)
