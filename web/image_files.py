"""Images as files for people: which format and quality may be asked for, and what a download is called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from urllib.parse import quote

from imaging import Encoded, ImagingError, check_size
from imaging.formats import PREVIEW_FORMATS
from jobs.errors import JobError
from jobs.queue import JobQueue
from jobs.store import ImageRecord

ENCODINGS = ("original", *(name.lower() for name in PREVIEW_FORMATS))
WITH_QUALITY = ("jpeg", "webp")


def encode_whole(queue: JobQueue, image: ImageRecord, *, format: str | None, quality: int | None) -> Encoded:
    """Return an image's whole file.

    Args:
        queue: where the image is.
        image: an original or an edit.
        format: one of `ENCODINGS`; None = "original", the photo's own.
        quality: 1 to 100, with one of `WITH_QUALITY`; None = a high one, or the photo's own.

    Returns:
        The encoded file.

    Raises:
        JobError: `bad_request` for another format or quality, and what `Encodings.whole` raises.
    """
    check_format(format)
    check_quality(format, quality)
    other = None if format in (None, "original") else format
    return queue.encodings.whole(image, format=other, quality=quality)


def check_format(format: str | None) -> None:
    """Raise JobError `bad_request` for a format that is not one of `ENCODINGS` or None."""
    if format is not None and format not in ENCODINGS:
        raise JobError("bad_request", f"format must be one of {', '.join(ENCODINGS)}, not {format[:20]!r}.")


def check_quality(format: str | None, quality: int | None) -> None:
    """Raise JobError `bad_request` for a quality from outside 1 to 100, or of a format not among `WITH_QUALITY`."""
    if quality is not None and (format not in WITH_QUALITY or not 1 <= quality <= 100):
        raise JobError("bad_request", f"quality is from 1 to 100, with format={' or '.join(WITH_QUALITY)}.")


def check_sizes(images: Iterable[ImageRecord], format: str | None) -> None:
    """Raise JobError `too_large_for_format`, with its name, for the first image that a format cannot hold."""
    if format in (None, "original"):
        return  # each came in its own
    for image in images:
        try:
            check_size(format, image.width, image.height)
        except ImagingError as error:
            raise JobError(
                error.code, f"{image.name}: {error.message}", {"name": image.name, **error.params}
            ) from error


def download_name(image: ImageRecord, encoded: Encoded) -> str:
    """Return the name of an image's file: the photo's own, marked when it was repaired."""
    return f"{PurePath(image.name).stem}{'_repaired' if image.parent_id else ''}{encoded.extension}"


def attachment(name: str) -> dict[str, str]:
    """Return the header that names a download, for old clients in ASCII and for the others in full (RFC 6266)."""
    ascii_name = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%' else "_" for c in name)
    return {"Content-Disposition": f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''{quote(name, safe='')}"}
