"""Rows and files: what is written whole, what is cleaned away, what survives."""

import errno
import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from imaging import atomic_write
from imaging.atomic_write import write_atomically, write_new_output
from jobs.errors import JobError
from jobs.images import ImageStore
from jobs.retention import DAY_S, MIB, Cleaner, clean_up, remove_history
from jobs.store import ImageRecord, JobStore, new_id


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "data")


def images_of(store: JobStore) -> ImageStore:
    return ImageStore(store, max_file_mib=1, max_image_mpx=1)


def add_photo(store: JobStore, *, age_days: float = 0.0, size_mib: float = 1.0, parent: str | None = None) -> str:
    """Add a photo (or an edit of `parent`) whose row says this age and size; its file is tiny."""
    image_id = new_id()
    root_id = store.image(parent).root_id if parent else image_id
    created_s = time.time() - age_days * DAY_S
    box = (0, 0, 1, 1) if parent else None
    record = ImageRecord(image_id, root_id, parent, 8, 8, "PNG", "a.png", (), box, created_s)
    path = store.patch_path(image_id) if parent else store.original_path(image_id)
    write_atomically(path, b"pixels")
    store.insert_image(record, size_bytes=int(size_mib * MIB))
    return image_id


def add_job(store: JobStore, image_id: str) -> str:
    job_id = new_id()
    store.insert_job(
        job_id, request_id=job_id, digest="d", image=store.image(image_id), request={}, packed_mask=b"mask"
    )
    return job_id


def is_there(store: JobStore, image_id: str) -> bool:
    in_files = store.original_path(image_id).exists() or store.patch_path(image_id).exists()
    try:
        in_rows = store.image(image_id).image_id == image_id
    except JobError as error:
        assert error.code == "unknown_image"
        in_rows = False
    assert in_files == in_rows, "a row and its file come and go together"
    return in_rows


def test_ids_cannot_be_guessed_and_are_never_paths(store: JobStore) -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", i) for i in ids), "22 characters of 6 bits hold 128 random bits"
    for wrong in ("", "../../etc/passwd", "a" * 22 + "\n", "a" * 21, "a" * 21 + "/", "." * 22, None, 7):
        with pytest.raises(JobError, match="not here") as refused:
            store.image(wrong)  # type: ignore[arg-type]
        assert refused.value.code == "unknown_image"
        with pytest.raises(JobError, match="not here"):
            store.job(wrong)  # type: ignore[arg-type]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "photo"
    write_atomically(path, b"first")

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_write.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"second")
    with pytest.raises(OSError, match="No space left"):
        write_new_output(tmp_path, b"third", extension=".png")
    assert [p.name for p in tmp_path.iterdir()] == ["photo"]
    assert path.read_bytes() == b"first"


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links, as exFAT"])
def test_outputs_of_one_second_never_collide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    if not has_links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(atomic_write.os, "link", refuse)
    now = datetime(2026, 3, 4, 5, 6, 7)
    (tmp_path / "outputs_20260304050607.jpg").write_bytes(b"somebody's own")
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda n: write_new_output(tmp_path, b"%d" % n, extension=".jpg", now=now), range(24)))
    assert (tmp_path / "outputs_20260304050607.jpg").read_bytes() == b"somebody's own"
    assert sorted(path.read_bytes() for path in paths) == sorted(b"%d" % n for n in range(24))
    assert len(list(tmp_path.iterdir())) == 25
    assert paths[0].name.startswith("outputs_20260304050607_")


def test_clean_up_by_age_takes_whole_histories(store: JobStore) -> None:
    old, fresh = add_photo(store, age_days=8), add_photo(store, age_days=6)
    old_edit = add_photo(store, age_days=8, parent=old)
    continued = add_photo(store, age_days=8)
    continued_edit = add_photo(store, age_days=1, parent=continued)
    assert clean_up(images_of(store), keep_days=7, keep_mib=1000) == 1
    assert not is_there(store, old) and not is_there(store, old_edit)
    assert is_there(store, fresh) and is_there(store, continued) and is_there(store, continued_edit)


def test_clean_up_by_size_takes_the_least_recently_used_first(store: JobStore) -> None:
    first = add_photo(store, age_days=3, size_mib=40)
    second = add_photo(store, age_days=2, size_mib=40)
    third = add_photo(store, age_days=1, size_mib=40)
    store.touch(first)
    assert clean_up(images_of(store), keep_days=7, keep_mib=80) == 1
    assert [is_there(store, i) for i in (first, second, third)] == [True, False, True]
    assert clean_up(images_of(store), keep_days=7, keep_mib=80) == 0


def test_clean_up_leaves_what_is_used_while_it_goes_on(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It removed what had been old when it began: a photo that somebody had opened since was gone."""
    first, second = add_photo(store, age_days=9), add_photo(store, age_days=8)
    images = images_of(store)
    monkeypatch.setattr(images, "forget", lambda image_ids: store.touch(second))
    assert clean_up(images, keep_days=7, keep_mib=1000) == 1
    assert [is_there(store, photo) for photo in (first, second)] == [False, True]


def test_clean_up_counts_what_was_encoded_of_a_photo_as_gone_with_it(store: JobStore) -> None:
    photos = [add_photo(store, age_days=9 - n, size_mib=10) for n in range(6)]
    with store.transaction() as database:
        database.execute(
            "INSERT INTO encodings VALUES (?, 'png', 'image/png', '.png', '[]', ?, ?)",
            (photos[0], 30 * MIB, time.time()),
        )
    assert clean_up(images_of(store), keep_days=99, keep_mib=55) == 1
    assert [is_there(store, photo) for photo in photos] == [False] + [True] * 5


@pytest.mark.parametrize("state", ["queued", "running", "done but not saved"])
def test_clean_up_never_takes_what_a_live_job_needs(store: JobStore, state: str) -> None:
    photo = add_photo(store, age_days=100, size_mib=500)
    job_id = add_job(store, photo)
    if state != "queued":
        assert store.start([job_id])
    if state.startswith("done"):
        result = ImageRecord(new_id(), photo, photo, 8, 8, "PNG", "a.png", (), (0, 0, 1, 1), time.time() - 100 * DAY_S)
        write_atomically(store.patch_path(result.image_id), b"pixels")
        assert store.finish(job_id, result, size_bytes=10, timings_ms={}, notes=[], save=True)
    assert clean_up(images_of(store), keep_days=7, keep_mib=100) == 0
    assert remove_history(images_of(store), photo) is False, "not even when the job came after clean-up had looked"
    assert is_there(store, photo)
    if state.startswith("done"):
        store.set_saved(job_id, "outputs/a.png", notes=())
    else:
        store.cancel(job_id)
    assert clean_up(images_of(store), keep_days=7, keep_mib=100) == 1
    assert not is_there(store, photo)


def test_clean_up_takes_files_without_a_row(store: JobStore) -> None:
    orphan, young = store.patch_path(new_id()), store.patch_path(new_id())
    for path in (orphan, young):
        path.write_bytes(b"pixels")
    known = add_photo(store)
    clean_up(images_of(store), keep_days=7, keep_mib=100, now_s=time.time() + 1)
    assert orphan.exists(), "a file is there a moment before its row"
    clean_up(images_of(store), keep_days=7, keep_mib=100, now_s=time.time() + 7200)
    assert not orphan.exists() and not young.exists() and is_there(store, known)


@pytest.mark.parametrize("set_by_days", [30, -30])
def test_photos_keep_their_age_when_the_clock_is_set(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_by_days: int
) -> None:
    """A clock that was set forward, as after a start without its battery, had every photo deleted."""
    cleaner = Cleaner(images_of(store), keep_days=7, keep_mib=1000, outputs_dir=tmp_path, also=lambda: None)
    old, fresh = add_photo(store, age_days=6.5), add_photo(store, age_days=0.5)
    clock = time.time
    monkeypatch.setattr("time.time", lambda: clock() + set_by_days * DAY_S)
    by_new_clock = add_photo(store, age_days=0)
    assert cleaner._follow_clock() is False and cleaner._follow_clock() is True
    cleaner._clean()
    assert all(is_there(store, photo) for photo in (old, fresh, by_new_clock))
    monkeypatch.setattr("time.time", clock)
    assert cleaner._follow_clock() is False, "it is set right again"
    cleaner._clock_s += DAY_S
    cleaner._clean()
    assert [is_there(store, photo) for photo in (old, fresh, by_new_clock)] == [False, True, True]


def test_clean_up_takes_what_gradio_leaves(store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each upload that was cut off, up to 200 MiB, lay there until the next start, and two empty files of each call."""
    folder = store.data_dir / "tmp" / "gradio"
    for name in ("tmp_part", "tmp_new", "hash_of_a_photo/photo.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"pixels")
    (folder / "hash_of_a_deleted_one").mkdir()
    for path in folder.rglob("*"):
        if path.name != "tmp_new":
            os.utime(path, (0, 0))
    cleaner = Cleaner(images_of(store), keep_days=7, keep_mib=100, outputs_dir=tmp_path, also=lambda: None)
    monkeypatch.setattr(cleaner._stopping, "wait", lambda timeout: cleaner.stop())
    cleaner.run()
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert left == {"tmp_new", "hash_of_a_photo", "hash_of_a_photo/photo.png"}


def test_a_full_database_is_said_and_changes_nothing(store: JobStore) -> None:
    photo = add_photo(store)
    pages = store.connection().execute("PRAGMA page_count").fetchone()[0]
    store.connection().execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JobError) as refused:
        for _ in range(200):
            store.insert_job(
                new_id(),
                request_id=new_id(),
                digest="d" * 500,
                image=store.image(photo),
                request={"s": "x" * 5000},
                packed_mask=b"mask",
            )
    assert refused.value.code == "disk_full"
    store.connection().execute("PRAGMA max_page_count = 100000")
    assert store.job(add_job(store, photo)).state == "queued"


def test_a_job_is_run_again_once_after_a_crash(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    photo = add_photo(store)
    first, second = add_job(store, photo), add_job(store, photo)
    assert store.start([first])
    store = JobStore(tmp_path)
    assert store.recover() == ([first, second], []), "the interrupted one comes first, as it did before"
    assert store.start([first])
    assert JobStore(tmp_path).recover() == ([second], [])
    job = store.job(first)
    assert job.state == "failed" and job.error is not None and job.error["error"] == "interrupted"


def test_a_job_given_back_at_shutdown_has_not_used_its_attempt(store: JobStore) -> None:
    job_id = add_job(store, add_photo(store))
    for _ in range(5):
        assert store.start([job_id]) and store.requeue(job_id)
    assert store.recover() == ([job_id], [])


@pytest.mark.parametrize("end", ["cancel", "fail"])
def test_a_job_that_begins_or_is_given_back_while_it_is_ended_has_ended(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """It was looked for among those that wait and among those that run, and missed by both when it moved in between."""
    job_id = add_job(store, add_photo(store))
    if end == "cancel":
        assert store.start([job_id])
    transaction = store.transaction

    @contextmanager
    def moving_on() -> Iterator[Any]:
        with transaction() as database:
            yield database
            database.execute(
                "UPDATE jobs SET state = iif(state = 'running', 'queued', 'running')"
                " WHERE state IN ('queued', 'running')"
            )

    monkeypatch.setattr(store, "transaction", moving_on)
    assert store.cancel(job_id) if end == "cancel" else store.fail(job_id, JobError("timed_out", "too long"))


def test_threads_write_side_by_side(store: JobStore) -> None:
    photo = add_photo(store)
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: add_job(store, photo), range(80)))
        assert all(pool.map(lambda job_id: store.start([job_id]), ids))
    assert {store.job(job_id).state for job_id in ids} == {"running"}


def test_a_result_that_comes_after_the_end_makes_no_edit(store: JobStore) -> None:
    photo = add_photo(store)
    for end in (store.cancel, lambda job_id: store.fail(job_id, JobError("timed_out", "too long"))):
        job_id = add_job(store, photo)
        assert store.start([job_id]) and end(job_id)
        result = ImageRecord(new_id(), photo, photo, 8, 8, "PNG", "a.png", (), (0, 0, 1, 1), time.time())
        assert store.finish(job_id, result, size_bytes=10, timings_ms={}, notes=[], save=True) is False
        assert store.job(job_id).state in ("cancelled", "failed") and store.job(job_id).result_id is None
        with pytest.raises(JobError):
            store.image(result.image_id)
