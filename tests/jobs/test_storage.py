"""A data folder in trouble: used twice, damaged, removed, read-only."""

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from config import Settings
from imaging import encode_png
from imaging.atomic_write import is_open_to_others
from jobs.database import Database, FolderLock
from jobs.errors import JobError
from jobs.queue import JobQueue
from jobs.store import JobStore
from jobs.temp_folder import use_temp_folder
from tests.support.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parents[2]
DOT = [{"points": [[20.0, 20.0]], "radius": 5.0, "erase": False}]
PHOTO = encode_png(np.full((48, 64, 3), 99, np.uint8), fast=True)


def make_queue(folder: Path) -> JobQueue:
    return JobQueue(Settings(data_dir=folder / "data", outputs_dir=folder / "outputs"), [FakeEngine()])


def test_a_second_instance_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    """It took over the jobs that waited in the first."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.jobs.test_storage import make_queue\n"
        "queue = make_queue(Path(sys.argv[1]))\nprint('ready', flush=True)\nsys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "ready\n"
        with pytest.raises(JobError, match=rf"in use by another fftlama \(process {first.pid}\)") as refused:
            make_queue(tmp_path)
        assert refused.value.code == "data_dir_in_use"
        first.kill()
        first.wait()
    make_queue(tmp_path)._folder_lock.release()


@pytest.mark.parametrize("damage", ["noise", "truncated", "another file", "empty"])
def test_a_damaged_database_is_set_aside_and_the_program_starts(tmp_path: Path, damage: str) -> None:
    before = make_queue(tmp_path)
    image = before.add_image(PHOTO, "a.png")
    for n in range(300):
        before.store.insert_job(
            f"{n:022d}", request_id=f"r{n}", digest="", image=image, request={"x": "y" * 300}, packed_mask=b""
        )
    before.store.connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before._folder_lock.release()
    path = tmp_path / "data" / "jobs.sqlite3"
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[4096:] = np.random.default_rng(0).bytes(len(whole) - 4096)
    contents = {
        "noise": bytes(damaged),
        "truncated": whole[: len(whole) // 2],
        "another file": b"x" * 9000,
        "empty": b"",
    }
    path.unlink()
    for leftover in path.parent.glob("jobs.sqlite3-*"):
        leftover.unlink()
    path.write_bytes(contents[damage])
    queue = make_queue(tmp_path)
    queue.start()
    queue.stop_waiting()
    assert queue.store.image(queue.add_image(PHOTO, "b.png").image_id).name == "b.png"
    asides = list((tmp_path / "data").glob("damaged-*"))
    if damage == "empty":  # a file that was made and never written to
        return
    assert (asides[0] / "images" / f"{image.image_id}.photo").read_bytes() == PHOTO, "images on disk are kept"
    assert (asides[0] / "jobs.sqlite3").read_bytes() == contents[damage]


@pytest.mark.parametrize("make", [JobStore, FolderLock, use_temp_folder])
def test_nobody_else_of_the_machine_looks_into_the_data_folder(
    tmp_path: Path, make: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """Photos, also those of people with a login, were everybody's to read there."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    kept = make(tmp_path / "new" / "data")
    assert (tmp_path / "new" / "data").stat().st_mode & 0o777 == 0o700
    del kept


@pytest.mark.parametrize("make", [JobStore, FolderLock])
def test_a_data_folder_that_is_a_file_is_said(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """It was said that the file exists."""
    (tmp_path / "data").write_bytes(b"")
    with pytest.raises(JobError, match=r"data folder cannot be used \(Not a directory\)"):
        make(tmp_path / "data")


@pytest.mark.parametrize(
    ("home", "data", "is_open"), [(0o755, 0o755, True), (0o755, 0o750, False), (0o750, 0o755, False)]
)
def test_a_data_folder_that_others_look_into_is_said(home: int, data: int, is_open: bool) -> None:
    """One that was there before is left as it is, and nobody heard of that."""
    with tempfile.TemporaryDirectory(dir="/tmp") as made:  # pytest's own folder is shut to others
        folder = Path(made) / "data"
        folder.mkdir()
        folder.chmod(data)
        Path(made).chmod(home)
        assert is_open_to_others(folder) is is_open
        assert not is_open_to_others(folder / "nowhere")
        (folder / "file").write_bytes(b"")
        (folder / "round").symlink_to("round")
        assert not is_open_to_others(folder / "file") and not is_open_to_others(folder / "round")


def test_a_removed_data_folder_is_said_and_it_recovers(tmp_path: Path) -> None:
    """Writes went to the removed file and were lost without a word."""
    queue = make_queue(tmp_path)
    image = queue.add_image(PHOTO, "a.png")
    (tmp_path / "data").rename(tmp_path / "away")
    for attempt in (
        lambda: queue.add_image(PHOTO, "b.png"),
        lambda: queue.submit(image.image_id, "r", DOT),
        lambda: queue.image(image.image_id),
    ):
        with pytest.raises(JobError) as refused:
            attempt()
        assert refused.value.code == "storage_unavailable", refused.value.message
    (tmp_path / "away").rename(tmp_path / "data")
    assert queue.image(image.image_id) == image
    assert queue.submit(image.image_id, "r", DOT)


def test_an_emptied_data_folder_is_used_afresh(tmp_path: Path) -> None:
    queue = make_queue(tmp_path)
    image = queue.add_image(PHOTO, "a.png")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "data").mkdir()
    with pytest.raises(JobError) as refused:
        queue.image(image.image_id)
    assert refused.value.code == "unknown_image"
    assert queue.image(queue.add_image(PHOTO, "a.png").image_id).width == 64


def test_a_read_only_data_folder_is_said_and_it_recovers(tmp_path: Path) -> None:
    code = """
        import os, sys
        from pathlib import Path
        from jobs.errors import JobError
        from tests.jobs.test_storage import PHOTO, make_queue
        queue = make_queue(Path(sys.argv[1]))
        image = queue.add_image(PHOTO, "a.png")
        folders = [queue.store.images_dir, queue.store.data_dir]
        for folder in folders:
            folder.chmod(0o555)
        try:
            queue.add_image(PHOTO, "b.png")
        except JobError as error:
            print(error.code)
        print(queue.image(image.image_id).name)
        for folder in folders:
            folder.chmod(0o755)
        print(queue.add_image(PHOTO, "b.png").name)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    if os.geteuid() == 0:  # root writes where nobody may, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv cannot be kept from writing")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner", *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["storage_unavailable", "a.png", "b.png"], done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EROFS, "storage_unavailable"), (errno.EDQUOT, "disk_full"), (0, "disk_full")]
)
def test_a_write_that_sqlite_fails_in_is_told_by_what_the_disk_says(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that the system had made read-only was called full; SQLite names a quota and that alike."""
    database = Database(tmp_path)
    failed = sqlite3.OperationalError("disk I/O error")
    failed.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE

    def write(path: Path, data: bytes) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(JobError) as told, database.transaction():
        raise failed
    assert told.value.code == code
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("trial")) == []
