"""Large JSON bodies: on the disk while they come and while their files wait, a few in memory."""

import asyncio
import base64
import io
import json
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image
from starlette.requests import Request
from starlette.types import Message

from jobs.errors import JobError
from tests.support.iopaint_clients import data_url, file_of
from tests.support.serving import RunningServer
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
