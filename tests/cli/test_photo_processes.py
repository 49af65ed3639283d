"""On a card, files are opened and written by processes beside the one that has the model."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cli.batch
import cli.photo_processes
from cli.batch import STEP_BYTES_PER_PX, Crew, Limits, Outcome, Work, run_tasks
from cli.plan import Task, plan_tasks
from engine.requests import RepairRequest, RepairResult
from imaging import encode_png, open_photo
from masks.boxes import find_bounds
from notices import Note
from tests.support.serving import ROOT

LIMITS = Limits(1 << 24, 1 << 22)
WIDTH, HEIGHT = 2400, 400  # wide enough for a part of it to travel
random = np.random.default_rng(0)


class Card:
    """An engine that inverts the hole's box; `plays` may do something else first."""

    device = "cuda:0"
    profile = SimpleNamespace(buckets_px=(512, 1024, 1536))

    def __init__(self, plays: Any = None) -> None:
        self.asked: list[RepairRequest] = []
        self.threads: set[str] = set()
        self._plays = plays

    def repair(self, image: np.ndarray, mask: np.ndarray, **options: Any) -> RepairResult:
        options.pop("transparent", None)
        return self.repair_many([RepairRequest(image, mask, **options)])[0]

    def repair_many(self, requests: list[RepairRequest]) -> list[RepairResult]:
        (request,) = requests
        self.asked.append(request)
        self.threads.add(threading.current_thread().name)
        if self._plays:
            self._plays(len(self.asked), request)
        bounds = find_bounds(request.mask)
        if bounds is None:
            return [RepairResult(request.image, notes=[Note("Nothing is marked.", code="empty_mask")])]
        left, top, right, bottom = bounds
        patch = np.iinfo(request.image.dtype).max - request.image[top:bottom, left:right]
        return [RepairResult(request.image, [(bounds, patch)], notes=[Note("It is fake.", code="scaled")])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos of several kinds with a mask for each, the last one empty."""
    for name in ("photos", "masks"):
        (tmp_path / name).mkdir()
    squares = random.integers(0, 255, (HEIGHT // 8, WIDTH // 8, 3), np.uint8)
    colours = squares.repeat(8, 0).repeat(8, 1)  # noise takes seconds to compress
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "Maker", 6
    Image.fromarray(colours).save(tmp_path / "photos" / "a.jpg", exif=exif, quality=88)
    alpha = np.dstack([colours, np.where(np.arange(WIDTH) < 900, 0, 255)[None].repeat(HEIGHT, 0).astype(np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "photos" / "b.png")
    (tmp_path / "photos" / "c.png").write_bytes(encode_png(colours.astype(np.uint16) * 3 + 9, fast=True))
    Image.fromarray(colours[..., 0]).save(tmp_path / "photos" / "d.tif")
    Image.fromarray(colours).save(tmp_path / "photos" / "e.webp", lossless=True)
    for name in "abcde":
        size = (WIDTH, HEIGHT) if name == "a" else (HEIGHT, WIDTH)
        mask = np.zeros(size, np.uint8)
        if name != "e":
            mask[300:340, 200:280] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def tasks_of(folder: Path, out: str = "out") -> list[Task]:
    return plan_tasks(folder / "photos", folder / "masks", folder / out)


def repair(folder: Path, card: Card, jobs: int | None, out: str = "out") -> list[Outcome]:
    options = {"dilate_px": 3, "feather_px": None, "quality": "fast"}
    tasks = tasks_of(folder, out)
    load: Any = lambda: card  # noqa: E731
    return list(run_tasks(tasks, load, options=options, limits=LIMITS, overwrite=True, jobs=jobs))


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes that were started, for few photos too; none is left."""
    monkeypatch.setattr(cli.batch, "FEWEST_FOR_PROCESSES", 1)
    made: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        made.append(popen(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(cli.photo_processes.subprocess, "Popen", start)
    yield made
    assert all(process.poll() is not None for process in made), "a process was left"


def test_processes_write_the_same_files_as_threads_and_send_what_a_repair_needs_and_no_more(
    folder: Path, started: list[Any]
) -> None:
    here, beside = Card(), Card()
    expected = repair(folder, here, 1, "here")
    assert not started
    outcomes = repair(folder, beside, 2)
    assert len(started) == 2 and [outcome.state for outcome in outcomes] == ["repaired"] * 4 + ["unchanged"]
    for one, other in zip(expected, outcomes, strict=True):
        assert one.result is not None and other.result is not None
        assert one.result.read_bytes() == other.result.read_bytes()
        assert [(note.code, str(note)) for note in one.notes] == [(note.code, str(note)) for note in other.notes]
    assert all(len(thread) > 1 for thread in beside.threads)
    untouched = folder / "photos" / "e.webp"
    assert (folder / "out" / "e.webp").read_bytes() == untouched.read_bytes(), "an empty mask changes nothing"
    deep = open_photo((folder / "out" / "c.png").read_bytes())
    assert deep.image.dtype == np.uint16
    asked = {request.image.dtype.name: request for request in beside.asked if request.mask.any()}
    assert max(asked["uint8"].image.shape) <= 900 < WIDTH, "the part of the photo that this engine's crops can reach"
    assert asked["uint16"].levels is not None, "what only the whole photo tells"
    assert {request.dilate_px for request in beside.asked} == {3}
    assert sum(request.transparent is not None for request in beside.asked) == 1


def test_an_engine_that_fails_fails_one_photo_with_its_sentence(folder: Path) -> None:
    def fail_once(number: int, request: RepairRequest) -> None:
        if number == 2:
            raise RuntimeError("CUDA error: fake\nwith a second line")

    outcomes = repair(folder, Card(fail_once), 2)
    assert sorted(outcome.state for outcome in outcomes) == ["failed"] + ["repaired"] * 3 + ["unchanged"]
    assert [outcome.error for outcome in outcomes if outcome.error] == ["CUDA error: fake"]


def test_a_process_that_is_killed_fails_its_photo_alone(folder: Path, started: list[Any]) -> None:
    """The system ends one when memory runs out, and a decoder may crash."""

    def kill_once(number: int, request: RepairRequest) -> None:
        if number == 1:
            for process in list(started):
                process.send_signal(signal.SIGKILL)
                process.wait()

    outcomes = repair(folder, Card(kill_once), 2)
    failed = [outcome for outcome in outcomes if outcome.state == "failed"]
    assert 1 <= len(failed) <= 2
    assert all("the process that read or wrote it ended" in outcome.error for outcome in failed)
    assert all(outcome.state in ("repaired", "unchanged") for outcome in outcomes if outcome not in failed)
    assert len(started) > 2, "another took its place"
    again = repair(folder, Card(), 1)
    assert {outcome.state for outcome in again} == {"repaired", "unchanged"}


def test_a_run_that_is_stopped_leaves_no_process_and_no_half_file(folder: Path) -> None:
    may_go = threading.Event()
    load: Any = lambda: Card(lambda number, request: may_go.wait(10) if number > 1 else None)  # noqa: E731
    outcomes = run_tasks(tasks_of(folder), load, options={}, limits=LIMITS, overwrite=True, jobs=2)
    assert next(outcomes).state == "repaired"
    threading.Timer(0.2, may_go.set).start()
    outcomes.close()  # type: ignore[attr-defined]
    assert all(path.suffix != ".part" for path in (folder / "out").iterdir())


def test_processes_end_with_the_one_that_started_them(folder: Path) -> None:
    program = f"""
import os, signal, sys, threading
sys.path.insert(0, {str(ROOT)!r})
import cli.batch, cli.photo_processes
from tests.cli.test_photo_processes import Card, repair
from pathlib import Path
cli.batch.FEWEST_FOR_PROCESSES = 1
popen, together = cli.photo_processes.subprocess.Popen, threading.Barrier(2)
def start(*arguments, **options):
    process = popen(*arguments, **options)
    os.write(1, b"%d\\n" % process.pid)  # at once, by two threads
    return process
cli.photo_processes.subprocess.Popen = start
def die(number, request):
    together.wait(20)
    os.kill(os.getpid(), signal.SIGKILL)
repair(Path({str(folder)!r}), Card(die), 2)
"""
    run = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert run.returncode == -signal.SIGKILL, run.stderr
    pids = [int(line) for line in run.stdout.split()]
    assert len(pids) == 2
    until_s = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < until_s, "a process outlives the one that started it"
        time.sleep(0.05)


@pytest.mark.parametrize("why", ["a CPU computes", "few photos", "one job", "text is looked for"])
def test_there_are_processes_only_where_they_pay(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card()
    card.device = "cpu" if why.startswith("a CPU") else "cuda:0"
    monkeypatch.setattr(cli.batch, "FEWEST_FOR_PROCESSES", 64)
    photos, jobs = 10 if why == "few photos" else 100, 1 if why == "one job" else None
    load: Any = lambda: card  # noqa: E731
    with Crew(load, Work({}, LIMITS), jobs=jobs, photos=photos, finds=why.startswith("text")) as crew:
        assert crew._processes is None and crew.jobs <= cli.batch.USUAL_JOBS


@pytest.mark.parametrize(("cores", "memory_gib", "expected"), [(16, 128, 16), (16, 8, 2), (2, 128, 2), (128, 512, 32)])
def test_there_are_as_many_processes_as_cores_and_memory_allow(
    cores: int, memory_gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": memory_gib * 2**30 // 4096}
    monkeypatch.setattr(cli.batch.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(cli.batch.os, "sysconf", pages.__getitem__)
    load: Any = Card
    with Crew(load, Work({}, Limits(1, 100_000_000)), jobs=None, photos=500) as crew:
        assert crew.jobs == expected
    assert STEP_BYTES_PER_PX * 100_000_000 < 3 * 2**30 and os.cpu_count() == cores
