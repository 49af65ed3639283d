"""The queue in one process with a fake engine: order, places, cancelling, batches, time-outs, retries."""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from config import Settings
from imaging import decode_png, encode_png
from jobs.deadline import Deadline
from jobs.errors import JobError
from jobs.images import MIB, clean_name
from jobs.queue import ENDED, JobQueue
from masks.boxes import find_bounds
from tests.support.fake_engine import FAIL, KILL_BATCH, NO_MEMORY, SCALED, FakeEngine

DOT = [{"points": [[20.0, 20.0]], "radius": 5.0, "erase": False}]
GRADIENT = np.dstack([*np.meshgrid(np.arange(64), np.arange(48)), np.full((48, 64), 99)]).astype(np.uint8)
PHOTO = encode_png(GRADIENT, fast=True)


@pytest.fixture
def make_queue(tmp_path: Path) -> Iterator[Callable[..., JobQueue]]:
    made: list[JobQueue] = []

    def make(
        *, start: bool = True, batch_limit: int = 8, engine: FakeEngine | None = None, **settings: Any
    ) -> JobQueue:
        settings = {"data_dir": tmp_path / "data", "outputs_dir": tmp_path / "outputs", **settings}
        queue = JobQueue(Settings(**settings), [engine or FakeEngine()], batch_limit=batch_limit)
        made.append(queue)
        if start:
            queue.start()
        return queue

    yield make
    for queue in made:
        queue.stop_waiting()


def submit(queue: JobQueue, image_id: str, *, request_id: str | None = None, **options: Any) -> str:
    return queue.submit(image_id, request_id or f"r{time.monotonic_ns()}", DOT, None, options)


def wait_for(queue: JobQueue, job_id: str, *, until: str = "ended", limit_s: float = 10.0) -> dict[str, Any]:
    """Follow a job by long polls, as a page does, until it is in a state (or "saved" somewhere)."""
    until_s = time.monotonic() + limit_s
    view = queue.view(job_id)
    while time.monotonic() < until_s:
        ended = until == "ended" and view["state"] in ENDED
        if ended or view["state"] == until or (until == "saved" and view["saved"]):
            return view
        view = queue.view(job_id, wait_s=until_s - time.monotonic(), seen=view["version"])
    raise AssertionError(f"not {until} after {limit_s} s: {view}")


def test_a_repair_changes_the_hole_and_nothing_else(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue()
    photo = queue.add_image(PHOTO, "a.png")
    view = wait_for(queue, submit(queue, photo.image_id, dilate_px=SCALED))
    assert view["state"] == "done" and view["position"] == 0 and view["stage"] is None and view["error"] is None
    assert [note["code"] for note in view["notes"]] == ["scaled"]
    assert {"queued", "load", "plan", "predict", "store", "total"} <= set(view["timings_ms"])
    left, top, right, bottom = view["patch"]["box"]
    assert (left, top, right, bottom) == (15, 15, 25, 25)
    result = queue.image(view["image_id"])
    pixels = queue.images.pixels(result)
    hole = np.hypot(*np.meshgrid(np.arange(64) - 19.5, np.arange(48) - 19.5)) <= 5
    assert np.array_equal(pixels != GRADIENT, (hole & True)[..., None] & (pixels != GRADIENT))
    assert (pixels[hole] == pixels[20, 20]).all()
    patch = decode_png(queue.images.patch(result))
    assert np.array_equal(patch, pixels[top:bottom, left:right])
    assert np.array_equal(queue.images.pixels(queue.image(photo.image_id)), GRADIENT), "the photo stays as it was"


def test_the_engine_is_told_where_the_hole_lies(make_queue: Callable[..., JobQueue]) -> None:
    """A GPU computes 300 px of 12 megapixels in a millisecond, and the whole mask took as long to read."""

    class Listening(FakeEngine):
        """Notes the requests."""

        def repair_many(self, requests: Sequence[Any], **how: Any) -> list[Any]:
            told.extend(requests)
            return super().repair_many(requests, **how)

    told: list[Any] = []
    queue = make_queue(engine=Listening())
    photo = queue.add_image(PHOTO, "a.png")
    speck = np.zeros((48, 64, 1), np.uint8)
    speck[40:43, 50:61] = 255
    mask_file = encode_png(speck, fast=True)
    for strokes, mask_png in ((DOT, None), ([], mask_file), (DOT, mask_file)):
        job_id = queue.submit(photo.image_id, f"r{time.monotonic_ns()}", strokes, mask_png, {})
        wait_for(queue, job_id)
    assert [request.bounds for request in told] == [find_bounds(request.mask) for request in told]
    assert [request.bounds for request in told] == [(15, 15, 25, 25), (50, 40, 61, 43), (15, 15, 61, 43)]


def test_edits_stay_lossless_and_each_can_be_undone(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue()
    jpeg = io.BytesIO()
    Image.fromarray(GRADIENT).save(jpeg, "JPEG", quality=60)
    photo = queue.add_image(jpeg.getvalue(), "a.jpg")
    before = queue.images.pixels(photo).copy()
    image_id = photo.image_id
    chain = [image_id]
    for x in (5.0, 30.0, 50.0):
        stroke = [{"points": [[x, 10.0]], "radius": 3.0, "erase": False}]
        image_id = wait_for(queue, queue.submit(image_id, f"r{x}", stroke))["image_id"]
        chain.append(image_id)
    queue.images._cache.clear()
    last = queue.images.pixels(queue.image(chain[-1]))
    changed_columns = np.flatnonzero((last != before).any(axis=(0, 2)))
    assert set(changed_columns) <= {*range(2, 9), *range(27, 34), *range(47, 54)}
    assert np.array_equal(queue.images.pixels(queue.image(chain[0])), before)
    assert [queue.image(i).parent_id for i in chain] == [None, *chain[:-1]]


def test_sixteen_bit_edits_are_kept_at_full_depth(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue()
    deep = GRADIENT.astype(np.uint16) * 1000 + 7
    photo = queue.add_image(encode_png(deep, fast=True), "deep.png")
    result = queue.image(wait_for(queue, submit(queue, photo.image_id))["image_id"])
    assert queue.images.pixels(result).dtype == np.uint16
    assert decode_png(queue.images.patch(result)).dtype == np.uint8, "browsers are sent 8 bit"
    assert np.array_equal(queue.images.pixels(result)[:10], deep[:10])
    assert decode_png(queue.encodings.whole(result).data).dtype == np.uint16


def test_jobs_run_in_order_and_everybody_sees_the_place(make_queue: Callable[..., JobQueue]) -> None:
    engine = FakeEngine()
    queue = make_queue(batch_limit=1, engine=engine)
    photo = queue.add_image(PHOTO, "a.png")
    feathers = [13, 11, 12, 10]
    jobs = [submit(queue, photo.image_id, feather_px=feather_px) for feather_px in feathers]
    wait_for(queue, jobs[0], until="running")
    assert [queue.view(job)["position"] for job in jobs] == [0, 1, 2, 3]
    seen: list[list[int]] = [[] for _ in jobs]

    def follow(n: int) -> None:
        view = queue.view(jobs[n])
        while view["state"] not in ENDED:
            seen[n].append(view["position"])
            view = queue.view(jobs[n], wait_s=10, seen=view["version"])

    followers = [threading.Thread(target=follow, args=(n,)) for n in range(4)]
    for thread in followers:
        thread.start()
    for thread in followers:
        thread.join(10)
    assert engine.feathers == feathers and {queue.view(job)["state"] for job in jobs} == {"done"}
    for n, positions in enumerate(seen):
        assert positions == sorted(positions, reverse=True) and set(positions) == set(range(n + 1))


def test_cancel_while_queued_frees_the_place(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue(batch_limit=1, queue_limit=2)
    photo = queue.add_image(PHOTO, "a.png")
    running = submit(queue, photo.image_id, feather_px=30)
    wait_for(queue, running, until="running")
    first, second = submit(queue, photo.image_id), submit(queue, photo.image_id)
    with pytest.raises(JobError) as full:
        submit(queue, photo.image_id)
    assert full.value.code == "queue_full"
    assert queue.cancel(first)["state"] == "cancelled"
    assert queue.view(second)["position"] == 1
    third = submit(queue, photo.image_id)
    assert [wait_for(queue, job)["state"] for job in (running, second, third)] == ["done"] * 3
    assert queue.view(first)["state"] == "cancelled" and queue.view(first)["image_id"] is None


@pytest.mark.parametrize("limit", ["queue_limit", "client_waiting_jobs"])
def test_repairs_that_come_at_once_are_counted(
    make_queue: Callable[..., JobQueue], monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """A client's own limit counted those in the line alone: who sent forty at the same moment had forty waiting."""
    queue = make_queue(start=False, **{limit: 1})
    photo = queue.add_image(PHOTO, "a.png")
    insert = queue.store.insert_job

    def while_another_comes(*names: Any, **values: Any) -> None:
        with pytest.raises(JobError, match="are waiting already"):
            submit(queue, photo.image_id)
        insert(*names, **values)

    monkeypatch.setattr(queue.store, "insert_job", while_another_comes)
    assert queue.cancel(submit(queue, photo.image_id))["state"] == "cancelled"
    assert queue.cancel(submit(queue, photo.image_id))["state"] == "cancelled", "the place is free again"


def test_cancelling_a_running_job_drops_its_result(make_queue: Callable[..., JobQueue], tmp_path: Path) -> None:
    queue = make_queue()
    photo = queue.add_image(PHOTO, "a.png")
    job = submit(queue, photo.image_id, feather_px=20)
    wait_for(queue, job, until="running")
    assert queue.cancel(job)["state"] == "cancelled"
    assert wait_for(queue, submit(queue, photo.image_id), until="saved")["state"] == "done"
    assert queue.view(job)["state"] == "cancelled"
    assert len(list((tmp_path / "outputs").iterdir())) == 1
    assert len(list(queue.store.images_dir.iterdir())) == 2, "the photo and the one edit that was wanted"


def test_cancelling_what_is_done_changes_nothing(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue()
    job = submit(queue, queue.add_image(PHOTO, "a.png").image_id)
    done = wait_for(queue, job, until="saved")
    assert queue.cancel(job) == done


def test_jobs_that_wait_together_run_together(make_queue: Callable[..., JobQueue]) -> None:
    engine = FakeEngine()
    queue = make_queue(start=False, engine=engine, batch_limit=3)
    photo = queue.add_image(PHOTO, "a.png")
    jobs = [submit(queue, photo.image_id) for _ in range(5)]
    queue.start()
    assert [wait_for(queue, job)["state"] for job in jobs] == ["done"] * 5
    assert engine.calls == [3, 2]


def test_nobody_waits_for_a_slow_repair_that_came_later(make_queue: Callable[..., JobQueue]) -> None:
    engine = FakeEngine()
    queue = make_queue(start=False, engine=engine)
    photo = queue.add_image(PHOTO, "a.png")
    jobs = [submit(queue, photo.image_id, quality=quality) for quality in ("fast", "fast", "high", "fast", "fast")]
    queue.start()
    assert [wait_for(queue, job)["state"] for job in jobs] == ["done"] * 5
    assert engine.calls == [2, 1, 2]


def test_a_failing_job_does_not_fail_the_others(make_queue: Callable[..., JobQueue]) -> None:
    engine = FakeEngine()
    queue = make_queue(start=False, engine=engine)
    photo = queue.add_image(PHOTO, "a.png")
    dilations = [None, FAIL, KILL_BATCH, NO_MEMORY, None]
    jobs = [submit(queue, photo.image_id, dilate_px=dilate_px) for dilate_px in dilations]
    queue.start()
    views = [wait_for(queue, job) for job in jobs]
    assert [view["state"] for view in views] == ["done", "failed", "done", "failed", "done"]
    assert engine.calls == [5, 1, 1, 1, 1, 1]
    assert views[1]["error"]["error"] == "server_error" and "fake" not in views[1]["error"]["message"]
    assert views[3]["error"]["error"] == "out_of_memory"


def test_two_requests_do_not_mix(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue(start=False)
    jobs = []
    for level in (10, 100, 200):
        photo = queue.add_image(encode_png(np.full((40, 40 + level, 3), level, np.uint8), fast=True), f"{level}.png")
        jobs.append((level, submit(queue, photo.image_id)))
    queue.start()
    for level, job in jobs:
        result = queue.image(wait_for(queue, job)["image_id"])
        assert (result.width, result.name) == (40 + level, f"{level}.png")
        assert (queue.images.pixels(result) == level).all()


@pytest.mark.slow
def test_a_job_that_takes_too_long_fails_and_the_next_is_served(make_queue: Callable[..., JobQueue]) -> None:
    engine = FakeEngine()
    queue = make_queue(batch_limit=1, engine=engine)
    queue.job_timeout_s = 0.3
    photo = queue.add_image(PHOTO, "a.png")
    stuck, following = submit(queue, photo.image_id, feather_px=150), submit(queue, photo.image_id)
    view = wait_for(queue, stuck)
    assert view["state"] == "failed" and view["error"]["error"] == "timed_out"
    assert view["error"]["params"] == {"limit_s": 0.3}
    assert wait_for(queue, following)["state"] == "done"
    assert engine.running, "the next one does not wait for the stuck one"
    while engine.running:
        time.sleep(0.02)
    assert queue.view(stuck)["state"] == "failed", "what the stuck engine returns in the end is dropped"
    assert wait_for(queue, submit(queue, photo.image_id))["state"] == "done"


@pytest.mark.parametrize("lines_up", [True, False])
def test_the_wait_for_a_worker_elsewhere_is_not_the_time_of_a_repair(
    make_queue: Callable[..., JobQueue], monkeypatch: pytest.MonkeyPatch, lines_up: bool
) -> None:
    """Of two repairs of 200 s on one Celery worker the second was given up after 300: it had waited for the first.

    One whose worker was lost waited for the next within the time that had begun at the lost one.
    """
    begun: list[str] = []

    class LiningUp(FakeEngine):
        stage = "load"

        def repair_many(self, requests: Sequence[Any], *, on_stage: Any = None) -> Any:
            def report(stage: str) -> None:
                self.stage = stage
                on_stage(stage)

            for again in (
                "predict",
                "plan",
                "predict",
                "plan",
            ) * 2:  # workers lost again and again are no way out of time
                report(again)
            return super().repair_many(requests, on_stage=report)

    class NotedDeadline(Deadline):
        def begin_anew(self) -> None:
            begun.append(engine.stage)
            super().begin_anew()

    monkeypatch.setattr("jobs.worker.Deadline", NotedDeadline)
    engine = LiningUp()
    engine.lines_up = lines_up  # type: ignore[attr-defined]
    queue = make_queue(engine=engine)
    view = wait_for(queue, submit(queue, queue.add_image(PHOTO, "a.png").image_id, quality="high"))
    assert view["state"] == "done" and begun == ["load", "load"] + ["predict", "plan", "predict"] * lines_up


def test_a_retry_returns_the_same_job_and_another_body_is_refused(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue(queue_limit=1)
    photo = queue.add_image(PHOTO, "a.png")
    job = submit(queue, photo.image_id, request_id="click 1")
    wait_for(queue, job)
    with pytest.raises(JobError) as conflict:
        submit(queue, photo.image_id, request_id="click 1", quality="high")
    assert conflict.value.code == "request_conflict"
    answers: list[str] = []
    together = [
        threading.Thread(target=lambda: answers.append(submit(queue, photo.image_id, request_id="click 2")))
        for _ in range(8)
    ]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert len(answers) == 8 and len(set(answers)) == 1
    assert submit(queue, photo.image_id, request_id="click 1") == job


def test_a_mask_file_and_strokes_work_together(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue()
    photo = queue.add_image(PHOTO, "a.png")
    mask = np.zeros((48, 64, 3), np.uint8)
    mask[10:20, 10:40] = 255
    strokes = [
        {"points": [[38.0, 15.0]], "radius": 9.0, "erase": True},
        {"points": [[50.0, 30.0]], "radius": 4.0, "erase": False},
        {"polygon": [[10, 10], [14, 10], [14, 20], [10, 20]], "erase": True},
    ]
    view = wait_for(queue, queue.submit(photo.image_id, "both", strokes, encode_png(mask, fast=True)))
    assert view["state"] == "done"
    assert view["patch"]["box"] == [14, 10, 54, 34]
    pixels = queue.images.pixels(queue.image(view["image_id"]))
    assert np.array_equal(pixels[15, 32:38], GRADIENT[15, 32:38]), "the eraser takes from the mask file too"
    # A file that marks everything, as an inverted empty mask does, was refused before anything was erased from it.
    queue.submit(photo.image_id, "erased", strokes, encode_png(np.full_like(mask, 255), fast=True))


def test_one_shot_repairs_leave_nothing_behind(make_queue: Callable[..., JobQueue], tmp_path: Path) -> None:
    queue = make_queue()
    mask = np.zeros((48, 64, 3), np.uint8)
    mask[10:20, 10:20] = 255
    encoded = queue.one_shots.repair(PHOTO, encode_png(mask, fast=True), {"dilate_px": 0}, "a.png")
    assert (encoded.media_type, encoded.extension) == ("image/png", ".png")
    assert np.array_equal(decode_png(encoded.data)[:10], GRADIENT[:10])
    with pytest.raises(JobError) as refused:
        queue.one_shots.repair(PHOTO, encode_png(mask * 0, fast=True), None, "a.png")
    assert refused.value.code == "empty_mask"
    with pytest.raises(JobError) as failed:
        queue.one_shots.repair(PHOTO, encode_png(mask, fast=True), {"dilate_px": FAIL}, "a.png")
    assert failed.value.code == "server_error"
    assert not list(queue.store.images_dir.iterdir())
    assert not queue.store.connection().execute("SELECT 1 FROM masks").fetchall()
    assert not (tmp_path / "outputs").exists()


def test_waiting_views_return_when_something_changes_and_not_before(
    make_queue: Callable[..., JobQueue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue()
    job = submit(queue, queue.add_image(PHOTO, "a.png").image_id)
    done = wait_for(queue, job, until="saved")
    waits_s: list[float] = []
    wait = threading.Event.wait

    def noted_wait(event: threading.Event, seconds: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            waits_s.append(seconds or 0.0)
        return wait(event, seconds)

    monkeypatch.setattr(threading.Event, "wait", noted_wait)
    assert queue.view(job, wait_s=5.0) == done, "an ended job is returned at once"
    assert queue.view(job, wait_s=5.0, seen=done["version"] - 1) == done
    assert waits_s == []
    assert queue.view(job, wait_s=0.3, seen=done["version"]) == done
    assert waits_s and waits_s[0] <= 0.3


@pytest.mark.slow
def test_closing_gives_running_jobs_back(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue()
    photo = queue.add_image(PHOTO, "a.png")
    job = submit(queue, photo.image_id, feather_px=100)
    wait_for(queue, job, until="running")
    assert queue.close(wait_s=0.1) is False
    assert queue.view(job)["state"] == "queued"
    assert queue.close(wait_s=5.0) is True
    assert queue.view(job)["state"] == "queued", "what the engine returned after that is dropped"
    again = make_queue()
    assert wait_for(again, job)["state"] == "done"


def test_decoded_photos_stay_within_their_bytes(make_queue: Callable[..., JobQueue]) -> None:
    queue = make_queue(start=False)
    queue.images._cache_bytes = 3 * MIB
    ids = []
    for level in range(6):
        photo = queue.add_image(encode_png(np.full((512, 600, 3), level, np.uint8), fast=True), "a.png")
        ids.append(photo.image_id)
    assert len(queue.images._cache) == 3
    for level, image_id in enumerate(ids):
        assert (queue.images.pixels(queue.image(image_id)) == level).all()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("C:\\Users\\me\\café.jpg", "café.jpg"),
        ("../../etc/passwd", "passwd"),
        ("a\r\nSet-Cookie: x.png", "aSet-Cookie: x.png"),
        ("", "photo"),
        ("...", "photo"),
        ("x" * 500 + ".jpeg", "x" * 115 + ".jpeg"),
    ],
)
def test_names_of_clients_are_made_harmless(given: str, kept: str) -> None:
    assert clean_name(given) == kept


@pytest.mark.slow
def test_many_rounds_on_one_photo_leave_the_originals_of_others_at_hand(make_queue: Callable[..., JobQueue]) -> None:
    """Each round left its whole picture in the cache, until every other photo had to be decoded again."""
    queue = make_queue()
    other = queue.add_image(PHOTO, "other.png")
    image_id = queue.add_image(PHOTO, "a.png").image_id
    queue.images._cache_bytes = 5 * GRADIENT.nbytes
    for _ in range(6):
        image_id = wait_for(queue, submit(queue, image_id), until="saved")["image_id"]
        queue.images.pixels(queue.image(image_id))
    assert other.image_id in queue.images._cache
    last = queue.image(image_id)
    expected = queue.images.pixels(last).copy()
    queue.images._cache.clear()
    np.testing.assert_array_equal(queue.images.pixels(last), expected)


def test_a_result_that_was_written_before_a_kill_is_not_written_again(
    make_queue: Callable[..., JobQueue], tmp_path: Path
) -> None:
    """The file was there and its name not yet recorded: the next start wrote a second one."""
    queue = make_queue()
    job_id = submit(queue, queue.add_image(PHOTO, "a.png").image_id)
    wait_for(queue, job_id, until="saved")
    outputs = tmp_path / "outputs"
    (path,) = outputs.iterdir()

    def write_again() -> None:
        with queue.store.transaction() as database:
            database.execute("UPDATE jobs SET saved = NULL, save_pending = 1")
        queue.store.plan_output(job_id, path.name)
        queue.output_writer.add(job_id)
        wait_for(queue, job_id, until="saved")

    write_again()
    assert list(outputs.iterdir()) == [path]
    path.write_bytes(b"somebody else's, who took the name before ours came")
    write_again()
    assert len(list(outputs.iterdir())) == 2 and path.read_bytes().startswith(b"somebody")
