"""What the queue does when its store refuses for a moment, and when many send large masks at once."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Settings
from imaging import encode_png
from jobs.errors import JobError
from jobs.images import DECODERS
from jobs.queue import ENDED, JobQueue
from tests.support.fake_engine import FakeEngine

DOT = [{"points": [[20.0, 20.0]], "radius": 5.0, "erase": False}]
PHOTO = encode_png(np.full((48, 64, 3), 99, np.uint8), fast=True)
MASK = encode_png(np.full((48, 64, 3), 255, np.uint8), fast=True)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    made = JobQueue(Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs"), [FakeEngine()])
    yield made
    made.stop_waiting()


def end_of(queue: JobQueue, job_id: str) -> dict[str, Any]:
    until_s = time.monotonic() + 10
    while (view := queue.view(job_id, wait_s=0.5))["state"] not in ENDED:
        assert time.monotonic() < until_s, view
    return view


def test_a_store_that_fails_for_a_moment_does_not_end_the_worker(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is locked, or a disk's read error: one job fails, the next is served."""
    monkeypatch.setattr("jobs.worker.TAKE_AGAIN_S", 0.01)
    failing = [(queue, "_next_batch"), (queue.store, "start"), (queue.store, "fail")]
    real = [getattr(owner, name) for owner, name in failing]

    def locked(*_: Any) -> None:
        owner, name = failing.pop(0)
        monkeypatch.setattr(owner, name, real.pop(0))
        raise sqlite3.OperationalError("database is locked")

    for owner, name in failing:
        monkeypatch.setattr(owner, name, locked)
    queue.start()
    image = queue.add_image(PHOTO, "a.png")
    assert end_of(queue, queue.submit(image.image_id, "first", DOT))["error"]["error"] == "server_error"
    assert not failing
    assert end_of(queue, queue.submit(image.image_id, "second", DOT))["state"] == "done"


def test_a_cancel_that_a_full_disk_refuses_leaves_the_job_its_place(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> bool:
        raise JobError("disk_full", "The disk is full.")

    job_id = queue.submit(queue.add_image(PHOTO, "a.png").image_id, "only", DOT)
    monkeypatch.setattr(queue.store, "cancel", full)
    with pytest.raises(JobError):
        queue.cancel(job_id)
    assert queue.view(job_id)["position"] == 1


def test_masks_take_turns_with_photos_and_strokes_do_not_wait(queue: JobQueue) -> None:
    image_id = queue.add_image(PHOTO, "a.png").image_id
    with_mask = threading.Thread(target=queue.submit, args=(image_id, "mask", [], MASK), daemon=True)
    with ExitStack() as decoding:
        for _ in range(DECODERS):
            decoding.enter_context(queue.images.decoding)
        with_mask.start()
        queue.submit(image_id, "strokes", DOT)
        with_mask.join(0.3)
        assert with_mask.is_alive()
    with_mask.join(10)
    assert len(queue) == 2
