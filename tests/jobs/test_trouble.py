"""What the queue does when its store refuses for a moment, and when many send large masks at once."""

import os
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import jobs.queue
from config import Settings
from imaging import encode_png
from jobs.errors import JobError
from jobs.packed_mask import pack_mask, packed_bounds, unpack_mask
from jobs.queue import ENDED, JobQueue
from jobs.retention import remove_history
from masks.boxes import find_bounds
from tests.support.fake_engine import FakeEngine

DOT = [{"points": [[20.0, 20.0]], "radius": 5.0, "erase": False}]
PHOTO = encode_png(np.full((48, 64, 3), 99, np.uint8), fast=True)
MASK = encode_png(np.repeat(np.arange(64) < 9, 48).reshape(64, 48).T[..., None].repeat(3, 2) * np.uint8(255), fast=True)


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
    failing = [(jobs.queue, "take_batch"), (queue.store, "start"), (queue.store, "fail")]
    real = [getattr(owner, name) for owner, name in failing]

    def locked(*_: Any, **__: Any) -> None:
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


def fail_when_written(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> bool:
        raise JobError("disk_full", "The disk is full.")

    monkeypatch.setattr(queue.store, "fail", full)


def test_a_time_out_on_a_full_disk_ends_the_job_and_replaces_the_worker(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure could not be written, the timer's thread died of that, and the queue stood still for ever."""
    queue.job_timeout_s = 0.2
    queue.start()
    image_id = queue.add_image(PHOTO, "a.png").image_id
    with monkeypatch.context() as full_disk:
        fail_when_written(queue, full_disk)
        stuck = queue.submit(image_id, "stuck", DOT, None, {"feather_px": 150})
        assert end_of(queue, stuck)["error"]["error"] == "timed_out"
        assert end_of(queue, queue.submit(image_id, "next", DOT))["state"] == "done"
    queue._store_lost()
    assert queue.store.job(stuck).state == "failed" and not queue._lost, "there is room again: it is written"


def test_a_model_switch_behind_a_stuck_repair_ends_and_the_queue_goes_on(tmp_path: Path) -> None:
    """`choose` waited for ever, and no repair could begin while it did."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    engine = FakeEngine()
    engine.weights = "one"
    release, real = threading.Event(), engine.switch_weights

    def behind_a_stuck_repair(weights: Path | None) -> None:
        release.wait(20)
        real(weights)

    engine.switch_weights = behind_a_stuck_repair  # type: ignore[method-assign]
    settings = Settings(data_dir=tmp_path / "d", outputs_dir=tmp_path / "o", weights_dir=tmp_path, weights="one")
    queue = JobQueue(settings, [engine])
    queue.models._timeout_s = 0.2
    queue.start()
    try:
        with pytest.raises(JobError, match=r"could not be changed within 0\.2 seconds; one stays in use") as refused:
            queue.models.choose("two", wait_s=10)
        assert refused.value.code == "bad_weights" and queue.models.view()["switching"] is None
        job_id = queue.submit(queue.add_image(PHOTO, "a.png").image_id, "after", DOT)
        assert end_of(queue, job_id)["state"] == "done"
        release.set()
        until_s = time.monotonic() + 10
        while queue.models.active != "two" and time.monotonic() < until_s:
            time.sleep(0.01)
        assert queue.models.active == "two", "what the engine runs in the end is what is said"
    finally:
        release.set()
        queue.stop_waiting()


def test_clean_up_runs_though_somebody_is_always_waiting(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ran in the worker, between jobs, when nobody waited."""
    cleaned = threading.Event()
    monkeypatch.setattr("jobs.retention.clean_up", lambda *_, **__: cleaned.set())
    image_id = queue.add_image(PHOTO, "a.png").image_id
    for n in range(6):
        queue.submit(image_id, f"r{n}", DOT, None, {"feather_px": 50, "quality": "high"})
    queue.start()
    assert cleaned.wait(10) and len(queue) > 0


def test_nothing_waits_for_the_disk_while_the_lock_is_held(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody who asks for a job's state needs the lock; a slow disk made all of them wait for one."""
    held: list[str] = []

    def notice(name: str) -> None:
        if queue._news._is_owned():  # type: ignore[attr-defined]
            held.append(name)

    real_transaction, real_sync = queue.store.transaction, os.fsync

    def transaction() -> Any:
        notice("transaction")
        return real_transaction()

    def sync(descriptor: int) -> None:
        notice("fsync")
        real_sync(descriptor)

    monkeypatch.setattr(queue.store, "transaction", transaction)
    monkeypatch.setattr(os, "fsync", sync)
    queue.start()
    image_id = queue.add_image(PHOTO, "a.png").image_id
    first = queue.submit(image_id, "first", [], MASK, {"feather_px": 30})
    second = queue.submit(image_id, "second", DOT)
    assert queue.cancel(second)["state"] == "cancelled" and end_of(queue, first)["state"] == "done"
    assert held == []


def test_removed_images_leave_the_cache(queue: JobQueue) -> None:
    image = queue.add_image(PHOTO, "a.png")
    assert image.image_id in queue.images._cache
    assert remove_history(queue.images, image.image_id)
    assert not queue.images._cache


def test_a_round_that_others_push_out_of_the_cache_is_not_the_original(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was found at hand, then looked for again, and was gone: who asked got the photo as it was before."""
    photo = queue.add_image(PHOTO, "a.png")
    patch = np.full((8, 8, 3), 200, np.uint8)
    edit, size_bytes = queue.images.write_edit(photo, [((0, 0, 8, 8), patch)])
    queue.store.insert_image(edit, size_bytes=size_bytes)
    expected = queue.images.pixels(edit)
    asked: list[str] = []

    def cached_for_a_moment(image_id: str) -> Any:
        asked.append(image_id)
        if len(asked) == 1:
            return None  # others compose it just now
        found = queue.images._cache.get(image_id)
        queue.images.forget([image_id])
        return found

    monkeypatch.setattr(queue.images, "_cached", cached_for_a_moment)
    np.testing.assert_array_equal(queue.images.pixels(edit), expected)


def test_a_patch_that_is_cleaned_away_while_it_is_read_is_not_here(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a look whether it is there and the reading it went: a fault of the server, said the answer."""
    photo = queue.add_image(PHOTO, "a.png")
    edit, size_bytes = queue.images.write_edit(photo, [((0, 0, 8, 8), np.full((8, 8, 3), 200, np.uint8))])
    queue.store.insert_image(edit, size_bytes=size_bytes)
    assert remove_history(queue.images, photo.image_id)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    with pytest.raises(JobError, match="not here"):
        queue.images.patch(edit)


def test_more_edits_on_one_image_than_calls_may_nest_work(queue: JobQueue) -> None:
    """Each edit was composed by a call within the call for the next: Python's recursion limit ended that."""
    parent = queue.add_image(PHOTO, "a.png")
    pixels = queue.images.pixels(parent).copy()
    for n in range(400):
        patch = np.full((1, 1, 3), n % 251, np.uint8)
        y, x = divmod(n, 64)
        record, size_bytes = queue.images.write_edit(parent, [((x, y, x + 1, y + 1), patch)])
        queue.store.insert_image(record, size_bytes=size_bytes)
        pixels[y, x] = n % 251
        parent = record
    queue.images._cache.clear()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(300)
    try:
        assert np.array_equal(queue.images.pixels(parent), pixels)
        assert remove_history(queue.images, parent.root_id)
    finally:
        sys.setrecursionlimit(limit)
    assert not list(queue.store.images_dir.iterdir())


def test_a_mask_is_rasterised_once_and_survives_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    first = JobQueue(settings, [FakeEngine()])
    job_id = first.submit(first.add_image(PHOTO, "a.png").image_id, "only", DOT)
    first._folder_lock.release()
    monkeypatch.setattr("jobs.request_parsing.rasterize", None)
    second = JobQueue(settings, [FakeEngine()])
    second.start()
    try:
        assert end_of(second, job_id)["patch"]["box"] == [15, 15, 25, 25]
        assert not second.store.connection().execute("SELECT 1 FROM masks").fetchall(), "it goes with the job's end"
    finally:
        second.stop_waiting()


@pytest.mark.slow
@given(st.data())
@hypothesis_settings(max_examples=60, deadline=None, derandomize=True)
def test_packed_masks_come_back(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    size_bytes = -(-height * width // 8)  # drawn as bytes, each of which costs as much as a single bit would
    drawn = np.frombuffer(data.draw(st.binary(min_size=size_bytes, max_size=size_bytes)), np.uint8)
    mask = np.unpackbits(drawn, count=height * width).reshape(height, width).astype(bool)
    if mask.any():
        assert np.array_equal(unpack_mask(pack_mask(mask)), mask)
        assert packed_bounds(pack_mask(mask)) == find_bounds(mask)
    else:
        with pytest.raises(JobError):
            pack_mask(mask)


def test_a_part_of_a_mask_is_packed_as_the_whole() -> None:
    size = (30, 40)
    mask = np.zeros(size, bool)
    mask[11:17, 9:24] = np.random.default_rng(0).random((6, 15)) < 0.5
    packed = pack_mask(mask[5:25, 8:30], at=(8, 5), size=size)
    assert packed == pack_mask(mask)
    assert np.array_equal(unpack_mask(packed), mask)
