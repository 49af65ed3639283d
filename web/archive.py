"""Several images in one zip file: a body that is made while it is sent, so that memory holds one image at a time."""

from __future__ import annotations

import time
import zipfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import PurePath
from typing import IO, cast

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from jobs.errors import JobError
from jobs.queue import JobQueue
from jobs.store import ImageRecord
from web.image_files import attachment, check_format, check_sizes, download_name, encode_whole
from web.large_answers import pieces_of, put_aside

MOST_IMAGES = 500
NAME = "fftlama.zip"


class _Sink:
    """A file that can only be written to; `take` returns what was written since the last call."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        """Keep bytes until they are taken."""
        self._parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def take(self) -> bytes:
        """Return and forget what was written."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def add_archive_route(router: APIRouter, queue: JobQueue, *, pictures: anyio.CapacityLimiter) -> None:
    """Add `GET /api/v1/archive`.

    Args:
        router: modified.
        queue: where the images come from.
        pictures: the threads that encode.
    """

    @router.get("/api/v1/archive")
    async def get_archive(
        request: Request,
        image: list[str] = Query(),  # noqa: B008 (FastAPI reads it from here)
        format: str | None = None,
        quality: int | None = None,
    ) -> StreamingResponse:
        if len(image) > MOST_IMAGES:
            raise JobError("bad_request", f"An archive holds at most {MOST_IMAGES} images, not {len(image)}.")

        def look() -> list[ImageRecord]:
            images = [queue.image(image_id) for image_id in dict.fromkeys(image)]
            # Looked at before the answer begins, so that what is wrong with the request still has a status: the sizes
            # of all, and the first is made.
            check_format(format)
            check_sizes(images, format)
            encode_whole(queue, images[0], format=format, quality=quality)
            return images

        images = await anyio.to_thread.run_sync(look, limiter=pictures)
        is_asked_only = request.method == "HEAD"  # no body is sent, so the others need not be made
        parts = iter(()) if is_asked_only else _zip(queue, images, format=format, quality=quality)
        return StreamingResponse(_made(parts, pictures), media_type="application/zip", headers=attachment(NAME))


async def _made(parts: Iterator[IO[bytes]], pictures: anyio.CapacityLimiter) -> AsyncIterator[bytes]:
    """Give the parts of a body, each made by one of the threads that encode."""
    while (part := await anyio.to_thread.run_sync(next, parts, None, limiter=pictures)) is not None:
        async for piece in pieces_of(part):
            yield piece


def _zip(
    queue: JobQueue, images: Sequence[ImageRecord], *, format: str | None, quality: int | None
) -> Iterator[IO[bytes]]:
    sink = _Sink()
    taken: set[str] = set()
    # Stored: photos are compressed already. The stubs ask more of a file than writing takes.
    with zipfile.ZipFile(cast("IO[bytes]", sink), "w", zipfile.ZIP_STORED) as archive:
        for image in images:
            encoded = encode_whole(queue, image, format=format, quality=quality)
            name = _free_name(download_name(image, encoded), taken)
            archive.writestr(zipfile.ZipInfo(name, time.localtime(image.created_s)[:6]), encoded.data)
            del encoded  # while its file goes out
            yield put_aside(sink.take())
    yield put_aside(sink.take())


def _free_name(name: str, taken: set[str]) -> str:
    """Return a name that no file of the archive has yet, and note it; some systems take A and a for the same."""
    path, number = PurePath(name), 1
    while name.casefold() in taken:
        number += 1
        name = f"{path.stem} ({number}){path.suffix}"
    taken.add(name.casefold())
    return name
