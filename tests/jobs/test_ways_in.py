"""What a network does not do by itself comes out right by every way in: jobs, rounds on rounds, one-shots, CLI, Celery.

A real engine with a tiny network of random weights, whose fill has every colour.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cli import main as cli
from config import Settings
from imaging import encode_png, open_photo
from inference import Inpainter, RepairRequest
from jobs.celery_app import AttemptRunner
from jobs.queue import ENDED, JobQueue
from jobs.redis_messages import AttemptKeys, unpack
from jobs.remote_engine import RemoteEngine
from jobs.windows import RemoteResult
from lama.checkpoint import save_generator
from lama.generator import Generator
from tests.support.redis_server import RedisServer

SIZE = (96, 128)
HOLE = np.s_[30:60, 40:80]
Way = Callable[[bytes, bytes], np.ndarray]


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_generator(Generator(width=4, blocks=1).eval(), path)
    return path


@pytest.fixture(scope="session")
def inpainter(weights: Path) -> Inpainter:
    return Inpainter.load(weights, device="cpu", precision="fp32", profile="cpu")


@pytest.fixture
def queue(inpainter: Inpainter, tmp_path: Path) -> Iterator[JobQueue]:
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    queue = JobQueue(settings, [inpainter])
    queue.start()
    yield queue
    queue.close()


def by_job(queue: JobQueue, photo: bytes, mask: bytes, *, rounds: int = 1) -> np.ndarray:
    image_id = queue.add_image(photo, "photo.png").image_id
    for number in range(rounds):
        view = queue.view(queue.submit(image_id, f"{image_id}-{number}", [], mask))
        while view["state"] not in ENDED:
            view = queue.view(view["job_id"], wait_s=10, seen=view["version"])
        assert view["state"] == "done", view["error"]
        image_id = view["image_id"]
        queue.images.forget([image_id])
    return open_photo(queue.encodings.whole(queue.image(image_id)).data).image


def by_celery(inpainter: Inpainter, redis: RedisServer, photo: bytes, mask: bytes) -> np.ndarray:
    """The web process's half and the worker's half, with a real Redis between them."""
    sent: list[str] = []
    runner = AttemptRunner(inpainter, redis.client, "worker")
    celery = SimpleNamespace(send_task=lambda name, arguments, **more: sent.extend(arguments))
    fleet: Any = SimpleNamespace(client=redis.client, celery=celery, fingerprint="f", ladders=())
    engine = RemoteEngine(fleet, deadline_s=60)
    opened, hole = open_photo(photo), open_photo(mask).image[..., 0] > 127
    request = RepairRequest(opened.image, hole, transparent=opened.transparent)

    def follow(keys: AttemptKeys, name: str, on_stage: Any, **more: Any) -> Any:
        worker = threading.Thread(target=runner.run, args=(keys.attempt_id,))
        worker.start()
        worker.join()
        header, patches = unpack(redis.client.lrange(keys.answer, -1, -1)[0])  # type: ignore[arg-type]
        assert header["kind"] == "result", header
        return RemoteResult(list(zip(header["boxes"], patches, strict=True)), {})

    engine._wait = follow  # type: ignore[method-assign, assignment]
    result = opened.image.copy()
    for (left, top, right, bottom), patch in engine.repair_many([request])[0].patches:
        result[top:bottom, left:right] = patch
    return result


@pytest.fixture(params=["job", "second round", "one-shot", "command line", "celery"])
def way(request: pytest.FixtureRequest, inpainter: Inpainter, weights: Path, tmp_path: Path) -> Iterator[Way]:
    """Photo and mask files in, (H, W, 3) out."""
    if request.param == "command line":

        def by_command(photo: bytes, mask: bytes) -> np.ndarray:
            paths = [tmp_path / name for name in ("photo.png", "mask.png", "out.png")]
            paths[0].write_bytes(photo)
            paths[1].write_bytes(mask)
            settings = ["--device", "cpu", "--precision", "fp32", "--weights", str(weights)]
            assert cli.main(["repair", *map(str, paths), *settings, "--overwrite"]) == 0
            return open_photo(paths[2].read_bytes()).image

        yield by_command
        return
    if request.param == "celery":
        redis = RedisServer(tmp_path / "redis").start()
        yield lambda photo, mask: by_celery(inpainter, redis, photo, mask)
        redis.kill()
        return
    queue: JobQueue = request.getfixturevalue("queue")
    if request.param == "one-shot":
        yield lambda photo, mask: open_photo(queue.one_shots.repair(photo, mask).data).image
    else:
        rounds = 2 if request.param == "second round" else 1
        yield lambda photo, mask: by_job(queue, photo, mask, rounds=rounds)


def mask_file() -> bytes:
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[HOLE] = 255
    return encode_png(mask, fast=True)


def test_hidden_colours_do_not_come_into_the_visible_fill(way: Way) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), dtype=np.uint8)
    picture[..., 3] = 255
    picture[:, 50:58, 3] = 0
    picture[20:34, :, 3] = 0
    hidden = picture[..., 3] == 0
    results = []
    for colour in [(255, 0, 255), (0, 80, 0)]:
        picture[hidden, :3] = colour
        result = way(encode_png(picture, fast=True), mask_file())
        np.testing.assert_array_equal(result[hidden], picture[hidden, :3])
        results.append(result[~hidden])
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != picture[~hidden, :3]).any()


def test_grey_stays_grey(way: Way) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (*SIZE, 1), dtype=np.uint8).repeat(3, axis=2)
    result = way(encode_png(grey, fast=True), mask_file())
    assert np.ptp(result, axis=2).max() == 0 and (result[HOLE] != grey[HOLE]).any()


def test_patches_are_shown_as_the_photo_is(queue: JobQueue) -> None:
    """Few levels are stretched in both by the same rule; where the photo is transparent the patch is."""
    rng = np.random.default_rng(3)
    few = rng.integers(300, 900, (*SIZE, 4), dtype=np.uint16)
    few[..., 3] = 65535
    few[40:50, 50:58, 3] = 0
    image = queue.add_image(encode_png(few, fast=True), "few.png")
    view = queue.view(queue.submit(image.image_id, "r", [], mask_file()))
    while view["state"] not in ENDED:
        view = queue.view(view["job_id"], wait_s=10, seen=view["version"])
    edit = queue.image(view["image_id"])
    left, top, right, bottom = view["patch"]["box"]
    patch = open_photo(queue.images.patch(edit))
    whole = open_photo(queue.encodings.preview(edit, max_px=None, format="png"))
    hidden = few[top:bottom, left:right, 3] == 0
    assert patch.alpha is not None and whole.alpha is not None and patch.image.dtype == np.uint8
    np.testing.assert_array_equal(patch.alpha == 0, hidden)
    np.testing.assert_array_equal(patch.image[~hidden], whole.image[top:bottom, left:right][~hidden])
    assert patch.image[~hidden].mean() > 100, "black, as browsers show it"
    np.testing.assert_array_equal(queue.images.pixels(edit)[..., 0][few[..., 3] == 0], few[..., 0][few[..., 3] == 0])
