"""Large answers go out piece by piece from the disk, small ones as they are."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi.responses import StreamingResponse

import web.large_answers
from web.large_answers import PIECE_BYTES, answer_with
from web.uploads import IN_MEMORY_BYTES

LARGE = bytes(range(256)) * (IN_MEMORY_BYTES // 256 + 1)


def pieces(answer: Any) -> list[bytes]:
    """Read an answer's body, in a thread of its own: beside the browser's tests an event loop runs in this one."""
    came: list[bytes] = []

    async def read(body: AsyncIterator[bytes]) -> None:
        async for piece in body:
            came.append(piece)

    thread = threading.Thread(target=lambda: asyncio.run(read(answer.body_iterator)))
    thread.start()
    thread.join()
    return came


def test_a_large_file_goes_out_in_pieces_and_is_not_held() -> None:
    """Thirty clients that did not read held 1.9 GB, and who read slowly for two minutes was taken for gone."""
    data = LARGE + b"end"
    before = sys.getrefcount(data)
    answer = answer_with(data, media_type="image/bmp", headers={"X-Name": "value"})
    assert isinstance(answer, StreamingResponse) and sys.getrefcount(data) == before
    assert (answer.headers["content-length"], answer.headers["x-name"]) == (str(len(data)), "value")
    assert answer.headers["content-type"] == "image/bmp"
    came = pieces(answer)
    assert b"".join(came) == data and max(map(len, came)) <= PIECE_BYTES


def test_a_small_file_is_answered_at_once() -> None:
    answer = answer_with(LARGE[:IN_MEMORY_BYTES], media_type="image/png")
    assert answer.body == LARGE[:IN_MEMORY_BYTES] and answer.headers["content-type"] == "image/png"


def test_a_full_disk_keeps_no_large_file_from_going_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(web.large_answers, "TemporaryFile", full)
    assert b"".join(pieces(answer_with(LARGE, media_type="image/bmp"))) == LARGE
