"""Files of the job room: written whole or not at all, and never over one that is there.

A file is written beside its final name, synced and renamed, so that neither a kill nor a full disk leaves half a file
under a name anybody reads. Knows nothing of photos or jobs.
"""

import os
import secrets
from contextlib import suppress
from datetime import datetime
from pathlib import Path

PART_SUFFIX = ".part"
MOST_NAMES_PER_SECOND = 10_000


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that the file is there whole or not at all; OSError when it can't be written."""
    part = _write_part(path.parent, data)
    try:
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_new_output(folder: Path, data: bytes, *, extension: str, now: datetime | None = None) -> Path:
    """Write `data` as `outputs_YYYYMMDDHHMMSS[_n]<extension>` in `folder` (made if missing), never over another file.

    `extension` has its dot. Returns the path. A hard link is what creates a name exclusively and with its whole
    content at once; file systems without links (exFAT) get the name reserved first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"outputs_{now or datetime.now():%Y%m%d%H%M%S}"
    part = _write_part(folder, data)
    try:
        for number in range(1, MOST_NAMES_PER_SECOND):
            path = folder / f"{stem}{'' if number == 1 else f'_{number}'}{extension}"
            try:
                _claim(part, path)
            except FileExistsError:
                continue
            _sync_folder(folder)
            return path
        raise FileExistsError(f"{folder}: no free name left beginning with {stem}")
    finally:
        part.unlink(missing_ok=True)


def _claim(part: Path, path: Path) -> None:
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        path.open("xb").close()
        part.replace(path)


def _write_part(folder: Path, data: bytes) -> Path:
    """Write `data` to a new hidden file in `folder` and sync it; nothing is left behind on failure."""
    part = folder / f".{secrets.token_hex(8)}{PART_SUFFIX}"
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def _sync_folder(folder: Path) -> None:
    # A rename survives a power cut only when its folder is synced; Windows can't open folders.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
