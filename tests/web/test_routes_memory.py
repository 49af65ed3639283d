"""Whatever decodes, looks at or encodes a picture for a request does so in a turn of the one memory that all share."""

import base64
import gc
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from pydantic import ValidationError

import web.detect
import web.iopaint
import web.iopaint_files
import web.iopaint_plugins
import web.lama_cleaner
from app import create_api
from config import Settings
from imaging import ImagingError
from jobs.errors import JobError, without_frames
from jobs.memory_budget import MemoryBudget
from jobs.queue import JobQueue
from tests.support.fake_engine import FakeEngine
from tests.support.iopaint_clients import data_url, file_of
from tests.support.serving import wait_until
from web.iopaint_files import Gallery
from web.iopaint_plugins import Plugins

PIXELS = np.random.default_rng(0).integers(0, 120, (90, 120, 3), np.uint8)
PIXELS[30:60, 40:80] = (220, 40, 40)
PHOTO = file_of(Image.fromarray(PIXELS))
MASK = file_of(Image.fromarray((np.arange(120) < 20) * np.full((90, 1), 255, np.uint8)))
BLACK = file_of(Image.new("L", (120, 90)))


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "a.png").write_bytes(PHOTO)
    settings = Settings(
        data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs", input_path=tmp_path / "input",
        client_requests_per_minute=0,
    )  # fmt: skip
    with TestClient(create_api(settings, FakeEngine()), base_url="http://127.0.0.1") as client:
        yield client


def queue_of(client: TestClient) -> JobQueue:
    queue: JobQueue = client.app.state.queue  # type: ignore[attr-defined]
    return queue


def detect(client: TestClient, kind: str, **fields: Any) -> Any:
    image_id = queue_of(client).add_image(PHOTO, "a.png").image_id
    queue_of(client).images.forget([image_id])  # it has to be decoded again
    return client.post("/api/v1/detect", json={"image_id": image_id, "kind": kind, **fields})


def inpaint(client: TestClient, mask: bytes, photo: bytes = PHOTO) -> Any:
    return client.post("/api/v1/inpaint", json={"image": data_url(photo), "mask": data_url(mask)})


Ask = Callable[[TestClient], Any]
CLICKS = [[60, 45, 1]]
ROUTES: dict[str, tuple[Ask, list[tuple[Any, str]]]] = {
    "click": (
        lambda client: detect(client, "click", points=[[60, 45, True]]),
        [(web.detect, "select_object"), (web.detect, "_encode_mask")],
    ),
    "text": (lambda client: detect(client, "text"), [(web.detect, "find_text"), (web.detect, "_encode_mask")]),
    "repeat": (
        lambda client: detect(client, "repeat", mask_png=base64.b64encode(MASK).decode()),
        [(web.detect, "build_mask"), (web.detect, "find_repeats"), (web.detect, "_encode_mask")],
    ),
    "IOPaint's repair": (
        lambda client: inpaint(client, MASK), [(web.iopaint, "read_brightness"), (web.iopaint, "encode_png")]
    ),
    "IOPaint's repair of nothing": (
        lambda client: inpaint(client, BLACK), [(web.iopaint, "read_brightness"), (web.iopaint, "open_photo")]
    ),
    "IOPaint's masks": (
        lambda client: client.post("/api/v1/adjust_mask", json={"mask": data_url(MASK), "operate": "expand"}),
        [(web.iopaint, "adjust_selection"), (web.iopaint, "encode_selection")],
    ),
    "IOPaint's clicks": (
        lambda client: client.post(
            "/api/v1/run_plugin_gen_mask",
            json={"name": "InteractiveSeg", "image": data_url(PHOTO), "clicks": CLICKS},
        ),
        [(web.iopaint_plugins, "select_object"), (web.iopaint_plugins, "encode_selection")],
    ),
    "IOPaint's thumbnails": (
        lambda client: client.get("/api/v1/media_thumbnail_file?tab=input&filename=a.png"),
        [(web.iopaint_files, "encode_preview")],
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUTES)
def test_what_works_on_a_picture_holds_a_turn(
    client: TestClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Masks of IOPaint's clients, previews of its folder and what was found were made beside the budget."""
    ask, steps = ROUTES[name]
    memory = queue_of(client).images.memory
    held: dict[str, bool] = {}

    def noting(step: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            if step in ("read_brightness", "open_photo"):  # takes its turn itself, and has to keep it
                result = work(*arguments, **options)
                held[step] = getattr(memory._mine, "is_held", False)
                return result
            held[step] = getattr(memory._mine, "is_held", False)
            return work(*arguments, **options)

        return noted

    for module, step in steps:
        monkeypatch.setattr(module, step, noting(step, getattr(module, step)))
    answer = ask(client)
    assert answer.status_code == 200 or answer.json()["error"] == "detector_missing", answer.text
    if answer.status_code == 200:
        assert held == dict.fromkeys([step for _, step in steps], True)
    assert not memory._taken_bytes and not memory._running, "a turn was not given back"


@contextmanager
def taken(memory: MemoryBudget) -> Iterator[None]:
    """Have two other threads hold all turns that there are at a time."""
    begun, ended = threading.Barrier(3), threading.Event()

    def hold() -> None:
        with memory.reserve(1):
            begun.wait(60)
            ended.wait(60)

    holders = [threading.Thread(target=hold) for _ in range(2)]
    for holder in holders:
        holder.start()
    begun.wait(60)
    try:
        yield
    finally:
        ended.set()
        for holder in holders:
            holder.join()


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in ROUTES if "repair" not in name])
def test_who_gets_no_turn_is_told_when_to_come_again(
    client: TestClient, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    ask, _ = ROUTES[name]
    queue = queue_of(client)
    image = queue.add_image(PHOTO, "a.png")
    queue.images.forget([image.image_id])
    monkeypatch.setattr(queue, "add_image", lambda *file: image)
    queue.images.memory._longest_wait_s = 0.05
    with taken(queue.images.memory):
        answer = ask(client)
    assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5"), answer.text
    assert "busy" in answer.text


def test_who_waits_for_memory_leaves_threads_for_what_is_answered_at_once(client: TestClient) -> None:
    """Forty downloads in line had all threads: /health came after them, and a container was taken for dead."""
    queue = queue_of(client)
    image_id = queue.add_image(PHOTO, "a.png").image_id
    drawn, mask = [{"points": [[60, 45]], "radius": 9}], base64.b64encode(MASK).decode()
    job_id = queue.submit(image_id, "r", drawn)
    while queue.view(job_id, wait_s=1)["state"] != "done":
        pass
    memory = queue.images.memory
    memory._longest_wait_s = 30.0
    address = f"/api/v1/images/{image_id}"
    asked: list[Ask] = [
        lambda client: client.get(f"{address}?max_px=50"), lambda client: client.get(f"{address}?format=webp"),
        lambda client: client.get(f"/api/v1/archive?image={image_id}&format=png"),
        lambda client: client.get("/api/v1/media_thumbnail_file?tab=input&filename=a.png"),
        lambda client: client.get("/media_thumbnail/input/a.png"), ROUTES["IOPaint's masks"][0],
        lambda client: client.post("/api/v1/repairs", json={"image_id": image_id, "request_id": "m", "mask_png": mask}),
        lambda client: client.post("/api/v1/repairs", json={"image_id": image_id, "request_id": "s", "strokes": drawn}),
    ]  # fmt: skip
    assert client.portal is not None
    limiter = client.portal.call(anyio.to_thread.current_default_thread_limiter)
    limiter.total_tokens = 1
    with ThreadPoolExecutor(len(asked)) as pool:
        with taken(memory):
            waiting = [pool.submit(ask, client) for ask in asked]
            assert wait_until(lambda: len(memory._line), {len(asked)}, 10.0) == len(asked)
            looked = [
                client.get(path) for path in ("/health", "/ready", "/status", "/metrics", f"/api/v1/jobs/{job_id}")
            ]
            assert client.delete(f"/api/v1/jobs/{job_id}").status_code == 202
            assert [answer.status_code for answer in looked] == [200] * 5 and len(memory._line) == len(asked)
        assert [answer.result().status_code for answer in waiting] == [200] * 6 + [202] * 2
    # Whatever else has all threads, those who look have some of their own.
    begun, ended = threading.Event(), threading.Event()

    def occupy() -> None:
        begun.set()
        ended.wait(10)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(client.portal.call, anyio.to_thread.run_sync, occupy)
        assert begun.wait(10)
        assert [client.get(path).status_code for path in ("/health", "/ready", "/status", "/metrics")] == [200] * 4
        assert limiter.borrowed_tokens == 1, "what has the threads has ended by itself"
        ended.set()


def test_a_photo_is_read_when_it_is_its_turn_to_be_clicked_on(client: TestClient) -> None:
    """Eighteen that waited held 233 MiB each: 20 requests took 5 GiB."""
    plugins, reads, ended = Plugins(queue_of(client), Settings()), threading.Semaphore(0), threading.Event()

    def read() -> bytes:
        reads.release()
        assert ended.wait(20)
        return PHOTO

    assert client.portal is not None
    select = partial(plugins.select, "InteractiveSeg", read, [[60.0, 45.0, 1.0]])
    tasks = [client.portal.start_task_soon(select) for _ in range(3)]
    assert reads.acquire(timeout=20) and reads.acquire(timeout=20)
    assert wait_until(lambda: plugins._running.statistics().tasks_waiting, {1}) == 1
    assert not reads.acquire(blocking=False)
    ended.set()
    assert all(task.result().startswith(PHOTO[:4]) for task in tasks)


@pytest.mark.parametrize("path", ["/api/v1/gen-info", "/api/v1/save_image", "/save_image"])
def test_few_uploads_are_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Thirty of 95 MiB each that came at the same moment took 3 GiB."""
    begun, ended = threading.Semaphore(0), threading.Event()

    def hold(*_: Any) -> dict[str, str]:
        begun.release()
        assert ended.wait(20)
        return {}

    for module in (web.iopaint, web.lama_cleaner):
        monkeypatch.setattr(module, "UPLOADS_AT_ONCE", 1)
    monkeypatch.setattr(web.iopaint, "generation_info", hold)
    monkeypatch.setattr(Gallery, "save", hold)
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    api = create_api(settings, FakeEngine())
    with TestClient(api, base_url="http://127.0.0.1") as client, ThreadPoolExecutor(2) as pool:
        files = {"image": ("a.png", PHOTO), "file": ("a.png", PHOTO)}
        answers = [pool.submit(client.post, path, files=files) for _ in range(2)]
        assert begun.acquire(timeout=20)
        assert not begun.acquire(timeout=0.5)
        ended.set()
        assert [answer.result().status_code for answer in answers] == [200] * 2


GIF = file_of(Image.fromarray(PIXELS), "GIF")


@pytest.mark.parametrize(("step", "mask"), [("open_photo", BLACK), ("encode_gif", MASK)], ids=["for nothing", "as GIF"])
def test_who_has_a_photo_opened_again_leaves_threads_for_all_else(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, step: str, mask: bytes
) -> None:  # fmt: skip
    begun, ended = threading.Event(), threading.Event()
    work = getattr(web.iopaint, step)

    def waiting(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert ended.wait(10)
        return work(*arguments, **options)

    monkeypatch.setattr(web.iopaint, step, waiting)
    assert client.portal is not None
    client.portal.call(anyio.to_thread.current_default_thread_limiter).total_tokens = 1
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(inpaint, client, mask, GIF)
        assert begun.wait(20)
        assert client.get("/api/v1/models").status_code == 200
        ended.set()
        assert answer.result().status_code == 200


DAMAGED = PHOTO[:40]
REFUSED: dict[str, Ask] = {
    "a photo": lambda client: client.post("/api/v1/images", files={"file": DAMAGED}),
    "one shot": lambda client: client.post("/api/v1/repair", files={"image": DAMAGED, "mask": MASK}),
    "IOPaint's repair": lambda client: inpaint(client, MASK, DAMAGED),
    "IOPaint's fields": lambda client: client.post("/api/v1/inpaint", json={"image": data_url(PHOTO), "mask": 5}),
    "lama-cleaner's repair": lambda client: client.post("/inpaint", files={"image": DAMAGED, "mask": MASK}),
}  # fmt: skip


def errors_in_memory() -> list[Any]:
    return [one for one in gc.get_objects() if isinstance(one, JobError | ImagingError | ValidationError)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_let_go_at_once(client: TestClient, name: str) -> None:
    """30 refused photos of 95 MiB were 3 GiB until Python looked for garbage: each error held who had read the file."""
    gc.collect()
    gc.freeze()  # what is there is not looked at: other tests' errors, and a million other things
    gc.disable()
    try:
        assert REFUSED[name](client).status_code == 422
        # Its thread may still be on the way out of what has answered.
        held = wait_until(lambda: tuple(repr(one) for one in errors_in_memory()), {()})
    finally:
        gc.enable()
    assert held == ()


def test_errors_that_led_to_each_other_are_gone_through_once() -> None:
    """One that is raised again where another was made of it leads to itself; going on from there would never end."""
    forgotten: list[None] = []

    class NotedError(JobError):
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "__traceback__":
                forgotten.append(value)
                assert len(forgotten) < 3
            super().__setattr__(name, value)

    with pytest.raises(NotedError) as raised:
        try:
            raise NotedError("busy", "")
        except NotedError as first:
            try:
                raise ValueError from first
            except ValueError:
                raise first  # noqa: B904
    without_frames(raised.value)
    assert len(forgotten) == 1 and raised.value.__context__ is not None


def test_a_gif_goes_through_the_same_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    images = queue_of(client).images
    turn = images.turn

    def noted(px: int, deep: bool) -> Any:
        sizes.append(px)
        return turn(px, deep)

    monkeypatch.setattr(images, "turn", noted)
    answer = inpaint(client, MASK, file_of(Image.fromarray(PIXELS), "GIF"))
    assert answer.status_code == 200 and answer.content[:4] == b"GIF8", answer.text
    assert sizes == [90 * 120] * 4, "the photo, its mask, the photo again for its colours, and the result as a GIF"
