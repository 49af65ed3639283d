"""Published weights from a file that is on this machine already: checked against the catalogue, then copied.

For machines without network, and for people who have the file or the authors' archive of several networks. The file
that is given stays as it is. Knows nothing of torch and prints nothing.
"""

import hashlib
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from lama.catalogue import (
    WEIGHTS_FOLDER,
    DownloadError,
    Weights,
    check_disk,
    is_there,
    only_one,
    published,
)

CHUNK_BYTES = 4 * 2**20


def take_file(
    weights: Weights | str,
    file: Path,
    *,
    folder: Path = WEIGHTS_FOLDER,
    on_progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Put published weights into the folder from a file: the weights themselves, or a zip archive that holds them.

    Args:
        weights: An entry of the catalogue or its name.
        file: Not modified.
        folder: Where the weights go; made if missing.
        on_progress: Called with the bytes there are, the bytes of the whole file, and the given file's name.

    Returns:
        The checked file in the folder.

    Raises:
        DownloadError: The file is not there, is not or does not hold the published weights, or can't be copied.
    """
    weights = published(weights) if isinstance(weights, str) else weights
    target = folder / weights.filename
    report = on_progress or (lambda done, total, name: None)
    try:
        if is_there(weights, folder):
            return target
        if not file.is_file():
            raise DownloadError(f"{file} {'is no file' if file.exists() else 'does not exist'}")
        folder.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        with only_one(part):
            _copy_from(file, weights, part, report)
            part.replace(target)
            part.with_name(f"{part.name}.json").unlink(missing_ok=True)  # of a download that was begun before
    except OSError as error:
        raise DownloadError(f"{file} can't be copied to {target}: {error.strerror or error}") from error
    return target


def _copy_from(file: Path, weights: Weights, part: Path, report: Callable[[int, int, str], None]) -> None:
    """Write the checked weights to `part`; without them there is no part afterwards."""
    size_bytes = file.stat().st_size
    if size_bytes == weights.size_bytes:
        with file.open("rb") as source:
            if _copy(source, weights, part, lambda done: report(done, weights.size_bytes, file.name)):
                return
        raise DownloadError(f"{file} is as long as the published {weights.name}, but its sha256 differs")
    members: list[zipfile.ZipInfo] = []
    try:
        # A TorchScript or a training checkpoint is a zip archive too; none of its members has the weights' size.
        with zipfile.ZipFile(file) as archive:
            members = [one for one in archive.infolist() if one.file_size == weights.size_bytes]
            for member in members:
                with archive.open(member) as source:
                    if _copy(source, weights, part, lambda done: report(done, weights.size_bytes, file.name)):
                        return
    except zipfile.BadZipFile as error:
        if members:
            raise DownloadError(f"{file} is a damaged archive: {error}") from error
    except RuntimeError as error:  # a password, a method that Python does not know
        raise DownloadError(f"{file} can't be unpacked: {error}") from error
    raise DownloadError(
        f"{file} neither is nor holds the published {weights.name} ({weights.size_bytes} bytes, sha256 "
        f"{weights.sha256[:12]}…). Any LaMa checkpoint can be used from where it lies: --weights FILE"
    )


def _copy(source: IO[bytes], weights: Weights, part: Path, report: Callable[[int], None]) -> bool:
    """Copy to `part` and tell whether it is the published file; where it is not, or copying stops, none is left."""
    check_disk(part, weights.size_bytes)
    digest = hashlib.sha256()
    is_right = False
    try:
        with part.open("wb") as copy:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
                report(copy.tell())
            copy.flush()
            os.fsync(copy.fileno())
        is_right = digest.hexdigest() == weights.sha256
    finally:
        if not is_right:
            part.unlink(missing_ok=True)
    return is_right
