"""Large answers go out piece by piece from the disk, small ones as they are."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

import web.large_answers
from app import create_api
from config import Settings
from imaging import encode_png
from tests.support.fake_engine import FakeEngine
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


@pytest.mark.parametrize("free_bytes", [0, len(LARGE) + 1])
def test_a_full_disk_keeps_no_large_file_from_going_out(monkeypatch: pytest.MonkeyPatch, free_bytes: int) -> None:
    """Nor does an answer take the disk's last room, in which photos and results of others could not be written then."""
    made: list[Any] = []
    monkeypatch.setattr(web.large_answers, "TemporaryFile", lambda: made.append(1))
    monkeypatch.setattr("jobs.temp_folder.shutil.disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    assert b"".join(pieces(answer_with(LARGE, media_type="image/bmp"))) == LARGE and not made


def test_who_asks_how_large_a_file_is_has_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page asks before each download, and the whole file was written to the disk and read again for that."""
    made: list[int] = []

    def note(data: bytes) -> BytesIO:
        made.append(len(data))
        return BytesIO(data)

    monkeypatch.setattr(web.large_answers, "put_aside", note)
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    pixels = np.random.default_rng(1).integers(0, 256, (700, 700, 3), np.uint8)
    with TestClient(create_api(settings, FakeEngine()), base_url="http://127.0.0.1") as client:
        photo = client.app.state.queue.add_image(encode_png(pixels, fast=True), "a.png")  # type: ignore[attr-defined]
        for query in ("", "?max_px=700&format=png"):
            told, answer = (client.request(how, f"/api/v1/images/{photo.image_id}{query}") for how in ("HEAD", "GET"))
            assert told.headers == answer.headers and not told.content
            assert made == [len(answer.content)]
            made.clear()
