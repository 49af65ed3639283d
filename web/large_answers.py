"""Answers that are large go out piece by piece from the disk.

Who reads slowly, or not at all, holds a piece in memory and not a whole photo, and is seen to read on: of what
goes out whole a connection only tells when nearly all of it is gone (`connections.py`).
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO

import anyio.to_thread
from fastapi import Response
from fastapi.responses import StreamingResponse

from jobs.temp_folder import check_room, ensure_temp_folder
from web.uploads import IN_MEMORY_BYTES

PIECE_BYTES = 256 << 10


def answer_with(
    data: bytes, *, media_type: str, headers: dict[str, str] | None = None, is_asked_only: bool = False
) -> Response:  # fmt: skip
    """Return the answer that sends a file, in a thread: a large one is written to the disk.

    Args:
        data: the file's bytes.
        media_type: what they are.
        headers: further ones.
        is_asked_only: whether only the headers are sent, as to HEAD, by which the page asks how large a file is.

    Returns:
        The answer.
    """
    if is_asked_only or len(data) <= IN_MEMORY_BYTES:
        return Response(data, media_type=media_type, headers=headers)
    headers = {**(headers or {}), "Content-Length": str(len(data))}
    return StreamingResponse(pieces_of(put_aside(data)), media_type=media_type, headers=headers)


def put_aside(data: bytes) -> IO[bytes]:
    """Return bytes as a file to be read from its beginning; one on the disk where they are many and it has room."""
    if len(data) > IN_MEMORY_BYTES:
        with suppress(OSError):
            ensure_temp_folder()
            check_room(2 * len(data))  # the last of it is for photos and results
            file = TemporaryFile()  # noqa: SIM115 (it ends when nobody reads it any more)
            file.write(data)
            file.seek(0)
            return file
    return BytesIO(data)


async def pieces_of(file: IO[bytes]) -> AsyncIterator[bytes]:
    """Give a file's bytes, and close it."""
    with file:
        while piece := await anyio.to_thread.run_sync(file.read, PIECE_BYTES):
            yield piece
