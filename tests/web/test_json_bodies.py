"""Large JSON bodies: on the disk while they come and while their files wait, a few in memory."""

import asyncio
import base64
import io
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.types import Message

from jobs.errors import JobError, storage_as_job_error
from tests.support.iopaint_clients import data_url, file_of
from tests.support.serving import RunningServer
from web.gradio_routes import _Exchange
from web.json_bodies import kept_aside, read_json_then

MIB = 1 << 20


def read_slowly(body: bytes, *, held_bytes: list[int]) -> int:
    """Read a body that comes in pieces of 64 KiB; note what is held before the last, return its text's length."""
    pieces = [body[at : at + (64 << 10)] for at in range(0, len(body), 64 << 10)]

    async def receive() -> Message:
        if len(pieces) == 1:
            held_bytes.append(tracemalloc.get_traced_memory()[0])
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    async def read() -> int:
        request = Request({"type": "http", "method": "POST", "headers": []}, receive)
        return await read_json_then(request, max_file_mib=16, then=lambda fields: len(fields["text"]))

    with ThreadPoolExecutor(1) as pool:  # a browser's event loop may run in this thread
        return pool.submit(lambda: asyncio.run(read())).result()


def test_a_body_that_comes_slowly_does_not_fill_the_memory() -> None:
    """Of six clients that had sent all but the last MiB the server held 1.6 GiB, as long as they liked."""
    body, held_bytes = json.dumps({"text": "a" * (8 * MIB)}).encode(), list[int]()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        # Its own pieces are 8 MiB at first, and one is left.
        assert read_slowly(body, held_bytes=held_bytes) == 8 * MIB
    finally:
        tracemalloc.stop()
    assert held_bytes[0] - before < 2 * MIB
    with pytest.raises(JobError, match="more than 200000 values"):
        read_slowly(json.dumps({"text": [0] * 500_000}).encode(), held_bytes=[])


@pytest.mark.parametrize(("way", "takes_mib"), [("told", 0), ("not told", 5), ("Gradio's", 5)])
def test_what_comes_does_not_fill_the_disk(way: str, takes_mib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken until the disk's last byte: results and photos of others could not be written meanwhile.

    Each body is written a second time, as a photo.
    """
    taken_bytes, free_bytes = 0, 8 * MIB
    monkeypatch.setattr("jobs.temp_folder.shutil.disk_usage", lambda _: SimpleNamespace(free=free_bytes - taken_bytes))
    monkeypatch.setattr("web.uploads.DISCARD_FOR_S", 0.0)
    pieces = [bytes(64 << 10)] * (6 * 16)
    length = [(b"content-length", b"%d" % sum(map(len, pieces)))] if way == "told" else []

    async def receive() -> Message:
        nonlocal taken_bytes
        taken_bytes += len(pieces[0])
        return {"type": "http.request", "body": pieces.pop(), "more_body": bool(pieces)}

    async def read() -> int:
        if way == "Gradio's":
            exchange = _Exchange(receive, None, 16 * MIB)  # type: ignore[arg-type]
            with storage_as_job_error():
                while (await exchange.receive())["more_body"]:
                    pass
            raise JobError("bad_request", "not JSON")
        scope = {"type": "http", "method": "POST", "headers": length}
        return await read_json_then(Request(scope, receive), max_file_mib=16, then=len)

    with ThreadPoolExecutor(1) as pool, pytest.raises(JobError, match="disk of the server is full"):
        pool.submit(lambda: asyncio.run(read())).result()
    assert taken_bytes // MIB == takes_mib
    free_bytes = 80 * MIB
    with ThreadPoolExecutor(1) as pool, pytest.raises(JobError, match="not JSON"):
        pool.submit(lambda: asyncio.run(read())).result()


def test_a_file_that_waits_lies_on_the_disk() -> None:
    data = np.random.default_rng(2).bytes(4 * MIB)
    with ExitStack() as held:
        tracemalloc.start()
        try:
            read = kept_aside(data, held)
            assert tracemalloc.get_traced_memory()[0] < MIB
        finally:
            tracemalloc.stop()
        assert read() == data == read()


def test_a_large_photo_in_json_is_repaired(api_server: RunningServer) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (600, 800, 3), np.uint8)
    hole = np.zeros((600, 800), np.uint8)
    hole[100:120, 100:120] = 255
    photo = file_of(Image.fromarray(pixels))
    assert len(base64.b64encode(photo)) > MIB
    body = {"image": data_url(photo), "mask": data_url(file_of(Image.fromarray(hole)))}
    with api_server.client as client:
        after = np.asarray(Image.open(io.BytesIO(client.post("/api/v1/inpaint", json=body).content)))
    assert np.array_equal(after[hole == 0], pixels[hole == 0]) and not np.array_equal(after, pixels)
