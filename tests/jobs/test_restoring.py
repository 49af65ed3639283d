"""Bringing the original back: byte for byte where marked, at once, as a round like any other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Settings
from imaging import encode_png
from imaging.strokes import parse_strokes, rasterize
from jobs.errors import JobError
from jobs.queue import JobQueue
from tests.support.fake_engine import FakeEngine

WIDTH, HEIGHT = 64, 48
HOLE = [{"polygon": [[10, 10], [50, 10], [50, 40], [10, 40]]}]
BACK = [{"points": [[20.0, 20.0], [30.0, 25.0]], "radius": 5.0}]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    made = JobQueue(Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs"), [FakeEngine()])
    made.start()
    yield made
    made.stop_waiting()


def ended(queue: JobQueue, job_id: str) -> dict[str, Any]:
    view = queue.view(job_id)
    while view["state"] not in ("done", "failed"):
        view = queue.view(job_id, wait_s=10.0, seen=view["version"])
    assert view["state"] == "done", view
    return view


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_original_comes_back_where_marked_and_nowhere_else(queue: JobQueue, dtype: type) -> None:
    random = np.random.default_rng(3)
    pixels: np.ndarray = random.integers(0, np.iinfo(dtype).max, (HEIGHT, WIDTH, 3)).astype(dtype)
    photo = queue.add_image(encode_png(pixels, fast=True), "a.png")
    first = ended(queue, queue.submit(photo.image_id, "one", HOLE))
    second = ended(queue, queue.submit(first["image_id"], "two", [{"points": [[60.0, 44.0]], "radius": 3.0}]))
    repaired = queue.images.pixels(queue.image(second["image_id"]))
    # Two rounds later, while a long repair runs.
    slow = queue.submit(photo.image_id, "slow", HOLE, None, {"feather_px": 300})
    job_id = queue.submit(second["image_id"], "three", BACK, None, {"restore": True})
    view = queue.view(job_id)
    assert view["state"] == "done" and queue.view(slow)["state"] != "done"
    queue.cancel(slow)
    result = queue.images.pixels(queue.image(view["image_id"]))
    back = rasterize(parse_strokes(BACK), (HEIGHT, WIDTH))
    original = queue.images.original(photo).image
    assert (result[back] == original[back]).all() and (result[~back] == repaired[~back]).all()
    assert (result != repaired).any()
    assert queue.submit(second["image_id"], "three", BACK, None, {"restore": True}) == job_id
    while not (view := queue.view(job_id, wait_s=10.0, seen=view["version"]))["saved"]:
        pass
    assert (queue._settings.outputs_dir / Path(view["saved"]).name).exists()


def test_what_cannot_be_brought_back_is_a_sentence(queue: JobQueue) -> None:
    photo = queue.add_image(encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8), fast=True), "a.png")
    with pytest.raises(JobError) as refused:
        queue.submit(photo.image_id, "one", BACK, None, {"restore": True})
    assert refused.value.code == "nothing_to_restore"
    with pytest.raises(JobError) as wrong:
        queue.submit(photo.image_id, "two", BACK, None, {"restore": "yes"})
    assert wrong.value.code == "bad_options"
    done = ended(queue, queue.submit(photo.image_id, "three", HOLE))
    with pytest.raises(JobError) as empty:
        queue.submit(done["image_id"], "four", [], None, {"restore": True})
    assert empty.value.code == "empty_mask"
    everything = encode_png(np.full((HEIGHT, WIDTH, 3), 255, np.uint8), fast=True)
    ended(queue, queue.submit(done["image_id"], "five", None, everything, {"restore": True}))  # nothing is filled


def test_a_restore_that_a_stop_interrupted_is_done_at_the_next_start_without_the_model(queue: JobQueue) -> None:
    photo = queue.add_image(encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8), fast=True), "a.png")
    done = ended(queue, queue.submit(photo.image_id, "one", HOLE))
    calls = len(queue._workers[0].engine.calls)  # type: ignore[attr-defined]
    # As if the process had ended between the row and the work.
    carry_out, queue._workers[0].restore = queue._workers[0].restore, lambda job_id: None  # type: ignore[method-assign]
    job_id = queue.submit(done["image_id"], "two", BACK, None, {"restore": True})
    assert queue.view(job_id)["state"] == "queued"
    carry_out.__self__._run_batch([job_id])  # type: ignore[attr-defined]
    assert queue.view(job_id)["state"] == "done"
    assert len(queue._workers[0].engine.calls) == calls  # type: ignore[attr-defined]
