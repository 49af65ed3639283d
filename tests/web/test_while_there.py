"""Clients that leave while something is looked for: the search ends, and who has not begun leaves the line."""

import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, cast

import anyio
import numpy as np
import pytest
from fastapi import APIRouter, FastAPI, Request

from detection.found import GoOn
from jobs.errors import JobError
from jobs.queue import JobQueue
from web import detect
from web.while_there import work_while_there


class Client:
    """One request by hand: its body, and the moment when its connection closes."""

    def __init__(self, body: bytes = b"") -> None:
        self.left = anyio.Event()
        self._messages: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop(0)
        await self.left.wait()
        return {"type": "http.disconnect"}

    def request(self) -> Request:
        return Request({"type": "http", "method": "POST", "headers": []}, cast(Any, self.receive))


def run(main: Callable[[], Awaitable[None]]) -> None:
    """Run it in a thread of its own: a browser's tests leave a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(anyio.run, main).result()


def test_work_gives_its_result_and_its_own_error() -> None:
    async def main() -> None:
        limiter = anyio.CapacityLimiter(1)
        assert await work_while_there(Client().request(), lambda: 3, limiter=limiter, on_leave=pytest.fail) == 3
        with pytest.raises(ZeroDivisionError):
            await work_while_there(Client().request(), lambda: 1 // 0, limiter=limiter, on_leave=pytest.fail)

    run(main)


def test_who_leaves_before_its_turn_leaves_the_line() -> None:
    """The one who works is not waited for, and what the other wanted is never begun."""

    async def main() -> None:
        limiter, release, second = anyio.CapacityLimiter(1), threading.Event(), Client()
        begun: list[object] = []
        refusals = []

        async def wait_in_line() -> None:
            try:
                await work_while_there(
                    second.request(), lambda: begun.append(2), limiter=limiter, on_leave=lambda: begun.append("left")
                )
            except JobError as error:
                refusals.append(error.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: anyio.to_thread.run_sync(release.wait, limiter=limiter))
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(wait_in_line)
            await anyio.wait_all_tasks_blocked()
            assert limiter.statistics().tasks_waiting == 1
            second.left.set()
            with anyio.fail_after(10):
                while not refusals:
                    await anyio.sleep(0.01)
            assert limiter.statistics().tasks_waiting == 0
            release.set()
        assert begun == ["left"] and refusals == ["interrupted"]

    run(main)


@pytest.mark.parametrize("kind", ["text", "spots", "repeat"])
def test_a_search_whose_client_leaves_ends(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the route, with a search that would never end."""
    ended = threading.Event()

    def search(*_: object, go_on: GoOn, **__: object) -> None:
        try:
            until_s = time.monotonic() + 30
            while time.monotonic() < until_s:
                go_on()
                time.sleep(0.005)
        except JobError:
            ended.set()
            raise

    for name in ("find_text", "find_spots", "find_repeats"):
        monkeypatch.setattr(detect, name, search)
    image = SimpleNamespace(image_id="photo", width=32, height=24, channels=3, depth=8)
    memory = SimpleNamespace(reserve=lambda _bytes: nullcontext())
    images = SimpleNamespace(memory=memory, shown=lambda _image: np.zeros((24, 32, 3), np.uint8))
    queue = cast(JobQueue, SimpleNamespace(image=lambda _id: image, images=images))
    monkeypatch.setattr(detect, "step_bytes", lambda _image: 0)
    monkeypatch.setattr(detect, "mask_bytes", lambda *_args, **_named: 0)
    app, router = FastAPI(), APIRouter()
    detect.add_detect_route(router, queue, max_file_mib=1)
    app.include_router(router)

    async def main() -> None:
        body = {"image_id": "photo", "kind": kind} | ({"box": [2, 2, 9, 9]} if kind == "repeat" else {})
        client = Client(json.dumps(body).encode())
        scope = {
            "type": "http", "method": "POST", "path": "/api/v1/detect", "raw_path": b"/api/v1/detect", "root_path": "",
            "query_string": b"", "headers": [(b"content-type", b"application/json")], "http_version": "1.1",
            "scheme": "http", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        refusals = []

        async def ask() -> None:
            async def send(_message: object) -> None:
                return

            try:
                await app(cast(Any, scope), cast(Any, client.receive), cast(Any, send))
            except JobError as error:  # the real router answers it
                refusals.append(error.code)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await anyio.sleep(0.2)
            assert not ended.is_set()
            client.left.set()
            with anyio.fail_after(20):
                while not refusals:
                    await anyio.sleep(0.01)
        assert ended.is_set() and refusals == ["interrupted"]

    run(main)
