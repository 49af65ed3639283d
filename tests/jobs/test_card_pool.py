"""`DEVICES=0,1`: engines in processes of their own, which are real ones here: results, cancelling, ends, weights."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Settings
from engine.requests import RepairRequest, UnavailableError
from imaging import encode_png
from jobs import card_pool, card_run
from jobs.card_pool import CardPool
from jobs.card_run import CardPlan, only_card
from jobs.errors import EngineUnavailableError, JobError
from jobs.queue import ENDED, JobQueue
from jobs.windows import window_of
from lama.checkpoint import save_generator
from tests.support.card_engines import HANG, KILL_PROCESS, load_real
from tests.support.fake_engine import FAIL, LITTLE_MEMORY, NO_MEMORY, UNTIL_STOPPED
from tests.support.networks import live_generator

ROOT = Path(__file__).resolve().parents[2]
FAKE = "tests.support.card_engines:load_fake"
DOT = [{"points": [[20.0, 20.0]], "radius": 5.0, "erase": False}]


def make_pool(count: int = 2, *, loader: str = FAKE, deadline_s: float = 60.0, **arguments: Any) -> CardPool:
    pool = CardPool([CardPlan(f"cpu-{n}", loader, arguments) for n in range(count)], deadline_s=deadline_s)
    pool.load()
    return pool


@pytest.fixture
def pool() -> Iterator[CardPool]:
    made = make_pool()
    yield made
    made.close()


def request_of(seed: int = 0, size: tuple[int, int] = (90, 120), **options: Any) -> RepairRequest:
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (*size, 3), np.uint8)
    mask = np.zeros(size, np.bool_)
    top, left = random.integers(0, size[0] // 2), random.integers(0, size[1] // 2)
    mask[top : top + 9, left : left + 13] = True
    return RepairRequest(image, mask, **options)


def pids(pool: CardPool) -> list[int]:
    return [card.run.pid for card in pool.cards if card.run]


def wait_until(is_so: Callable[[], bool], limit_s: float = 30.0) -> None:
    until_s = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < until_s, "it did not come to that"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.slow
def test_results_are_those_of_an_engine_in_this_process(tmp_path: Path) -> None:
    """Small and large holes, 8 and 16 bits, few levels of 16, transparent pixels, several at once, high quality."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[0:1000, 0:1400]  # of less, all would travel with a small hole
    waves = (128 + 100 * np.sin(x / 31) * np.cos(y / 23)).astype(np.uint8)
    photo = np.dstack([waves, waves // 2, random.integers(0, 256, waves.shape, np.uint8)])
    small, large = np.zeros(waves.shape, np.bool_), np.zeros(waves.shape, np.bool_)
    small[100:114, 66:97] = True
    large[34:367, 300:700] = True  # more than the largest bucket
    few_levels = photo.astype(np.uint16) * 3
    few_levels[:, 1000:] += 900  # what the network is shown depends on these, far from the hole
    window = window_of(small, ladders=[(128, 256)])
    assert window[2:] <= (1000, 900), "what the card gets of the photo is a part"
    requests = [
        [RepairRequest(photo, small), RepairRequest(photo, large, 3, 2)],
        [RepairRequest(few_levels, small)],
        [RepairRequest(photo, small, quality="high", transparent=(x + y) % 7 == 0)],
        [RepairRequest(photo, np.zeros(waves.shape, np.bool_))],
    ]
    weights = str(tmp_path / "tiny.safetensors")
    save_generator(live_generator(8, 1), weights)
    here = load_real(weights)
    pool = make_pool(1, loader="tests.support.card_engines:load_real", weights=weights)
    try:
        run = pool.cards[0].run
        assert run is not None and run.ladders == [here.profile.buckets_px]
        for together in requests:
            stages: list[str] = []
            there = pool.repair_many(together, on_stage=stages.append)
            for expected, got in zip(here.repair_many(together), there, strict=True):
                assert [box for box, _ in got.patches] == [box for box, _ in expected.patches]
                for (_, wanted), (_, found) in zip(expected.patches, got.patches, strict=True):
                    assert found.dtype == wanted.dtype
                    np.testing.assert_array_equal(found, wanted)
                assert [note.code for note in got.notes] == [note.code for note in expected.notes]
                assert set(expected.timings_ms) <= set(got.timings_ms)
            assert "plan" in stages
    finally:
        pool.close()


def test_each_card_has_a_process_and_repairs_go_to_the_free_one(pool: CardPool) -> None:
    """Two repairs at once are on two cards, although each card has room for two."""
    both = threading.Barrier(3, timeout=20)
    states: list[list[str]] = []

    def meet(stage: str) -> None:
        if stage == "predict":
            both.wait()
            both.wait()

    threads = [
        threading.Thread(target=pool.repair_many, args=([request_of(n)],), kwargs={"on_stage": meet}) for n in (1, 2)
    ]
    for thread in threads:
        thread.start()
    both.wait()
    states.append([row["state"] for row in pool.worker_views()])
    both.wait()
    for thread in threads:
        thread.join()
    assert states == [["busy", "busy"]]
    assert len({os.getpid(), *pids(pool)}) == 3
    assert [row["device"] for row in pool.worker_views()] == ["cpu-0", "cpu-1"]
    assert pool.describe()["memory_mib"] == 12.5
    assert pool.profile.max_batch == 8 and len(pool.lanes()) == 4


def test_notes_and_failures_come_back(pool: CardPool) -> None:
    (result,) = pool.repair_many([request_of(dilate_px=LITTLE_MEMORY)])
    assert result.notes[0].code == "out_of_memory" and result.notes[0].params == {"how": "it is fake"}
    with pytest.raises(MemoryError):
        pool.repair_many([request_of(dilate_px=NO_MEMORY)])
    with pytest.raises(RuntimeError, match="told to fail"):
        pool.repair_many([request_of(dilate_px=FAIL)])


def test_repair_that_nobody_waits_for_stops_at_its_next_stage(pool: CardPool) -> None:
    class NobodyWaits(Exception):  # noqa: N818
        pass

    def leave(stage: str) -> None:
        if stage == "predict":
            raise NobodyWaits

    before = pids(pool)
    with pytest.raises(NobodyWaits):
        pool.repair_many([request_of(dilate_px=UNTIL_STOPPED)], on_stage=leave)
    assert [row["state"] for row in pool.worker_views()] == ["idle", "idle"]
    pool.repair_many([request_of()])
    assert pids(pool) == before


def test_repair_goes_on_in_another_process_when_its_own_is_killed(pool: CardPool) -> None:
    killed: list[int] = []

    def kill_once(stage: str) -> None:
        if stage == "predict" and not killed:
            killed.append(next(card.run.pid for card in pool.cards if card.run and not card.run.is_idle))
            os.kill(killed[0], signal.SIGKILL)

    request = request_of(feather_px=50)
    (result,) = pool.repair_many([request], on_stage=kill_once)
    expected = request.image.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    (((left, top, _, _), patch),) = result.patches
    assert (patch[0, 0] == expected).all() and request.mask[top, left]
    wait_until(lambda: len(pids(pool)) == 2)
    assert killed[0] not in pids(pool)


def test_repair_that_takes_two_processes_down_is_given_up_and_takes_no_other_along(pool: CardPool) -> None:
    """The neighbour on the same card loses its process once; with the poison beside it again it would be given up."""
    ended: list[Any] = []

    def repair(**options: Any) -> None:
        try:
            ended.append(pool.repair_many([request_of(feather_px=40, **options)]))
        except EngineUnavailableError:  # both are starting again: the queue waits, and asks again
            time.sleep(0.1)
            repair(**options)
        except JobError as error:
            ended.append(error.code)

    threads = [threading.Thread(target=repair) for _ in range(3)]
    for thread in threads:
        thread.start()
    threads.append(threading.Thread(target=repair, kwargs={"dilate_px": KILL_PROCESS}))
    threads[-1].start()
    for thread in threads:
        thread.join(60)
    assert [one for one in ended if isinstance(one, str)] == ["workers_lost"]
    assert len(ended) == 4


def test_repairs_together_that_lose_their_process_can_be_tried_alone(pool: CardPool) -> None:
    with pytest.raises(RuntimeError, match="ended"):
        pool.repair_many([request_of(), request_of(dilate_px=KILL_PROCESS)])


@pytest.mark.slow
def test_repair_that_hangs_has_its_process_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_run, "STOP_S", 0.2)
    pool = make_pool(1, deadline_s=0.5)
    try:
        (before,) = pids(pool)
        with pytest.raises(TimeoutError):
            pool.repair_many([request_of(dilate_px=HANG)])
        wait_until(lambda: pids(pool) not in ([], [before]))
        pool.repair_many([request_of()])
    finally:
        pool.close()


def test_without_any_process_repairs_wait_in_the_queue(pool: CardPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(card_pool, "PAUSES_S", (1.5, 1.5))
    assert pool.waiting_for is None
    for pid in pids(pool):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not pids(pool))
    assert pool.waiting_for == "workers" and [row["state"] for row in pool.worker_views()] == ["starting"] * 2
    with pytest.raises(EngineUnavailableError):
        pool.repair_many([request_of()])
    with pool.admission() as is_open:
        assert is_open and pool.waiting_for is None


def test_weights_change_on_every_card_and_stay_changed_in_a_new_process(pool: CardPool) -> None:
    for card in pool.cards:
        card.switch_weights(Path("other.ckpt"))
    with pytest.raises(ValueError, match="damaged"):
        pool.cards[0].switch_weights(Path("broken.ckpt"))
    assert [row["weights"] for row in pool.worker_views()] == ["other", "other"]
    first = pids(pool)[0]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(pids(pool)) == 2 and first not in pids(pool))
    assert [row["weights"] for row in pool.worker_views()] == ["other", "other"]


def test_what_cannot_be_loaded_is_said_with_the_card(pool: CardPool) -> None:
    plans = [
        CardPlan("cuda:0", FAKE, {}),
        CardPlan("cuda:7", "tests.support.card_engines:load_nothing", {"message": "there is no such card"}),
    ]
    broken = CardPool(plans, deadline_s=10.0)
    with pytest.raises(UnavailableError, match="cuda:7: there is no such card"):
        broken.load()
    wait_until(lambda: not pids(broken))


@pytest.mark.slow
def test_close_lets_what_runs_end_and_leaves_no_process() -> None:
    pool = make_pool()
    there = pids(pool)
    began = threading.Event()
    results: list[Any] = []

    def repair() -> None:
        results.append(pool.repair_many([request_of(feather_px=60)], on_stage=lambda stage: began.set()))

    thread = threading.Thread(target=repair)
    thread.start()
    assert began.wait(20)
    pool.close()
    thread.join(20)
    assert len(results) == 1
    with pool.admission() as is_open:
        assert not is_open
    wait_until(lambda: not any(map(lives, there)))


PARENT = """
import sys, threading
sys.path.insert(0, {root!r})
from tests.jobs.test_card_pool import make_pool, pids, request_of
from tests.support.fake_engine import UNTIL_STOPPED
pool = make_pool()
print(*pids(pool), flush=True)
pool.repair_many([request_of(dilate_px=UNTIL_STOPPED)])
"""


@pytest.mark.slow
def test_process_killed_with_9_leaves_no_process_of_a_card() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(root=str(ROOT))], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2 and all(map(lives, children))
        # Ctrl+C and a service manager's SIGTERM reach every process of the group; what runs shall come to its end.
        for child in children:
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGINT)
        time.sleep(0.5)
        assert all(map(lives, children))
        parent.kill()
        parent.wait()
        wait_until(lambda: not any(map(lives, children)), 10.0)
    finally:
        parent.kill()


@pytest.mark.slow
def test_queue_over_two_cards_ends_every_job_once_while_processes_are_killed(tmp_path: Path) -> None:
    pool = make_pool()
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs", queue_limit=500)
    queue = JobQueue(settings, pool.lanes(), batch_limit=4)
    queue.start()
    try:
        image = queue.add_image(encode_png(request_of().image, fast=True), "photo.png")
        options = {"feather_px": 5}
        jobs = [queue.submit(image.image_id, f"r{n}", DOT, None, options, save=False) for n in range(80)]
        random = np.random.default_rng(2)
        for _ in range(6):
            time.sleep(float(random.uniform(0.1, 0.5)))
            if there := pids(pool):
                os.kill(there[random.integers(len(there))], signal.SIGKILL)
        views = []
        for job_id in jobs:
            view = queue.view(job_id)
            while view["state"] not in ENDED:
                view = queue.view(job_id, wait_s=30.0, seen=view["version"])
            views.append(view)
        # Two kills of the few there are may meet one job; it says so then.
        codes = {view["error"]["error"] for view in views if view["state"] == "failed"}
        assert codes <= {"workers_lost"}
        done = [view for view in views if view["state"] == "done"]
        assert len(done) >= 74 and len({view["image_id"] for view in done}) == len(done)
        assert [row["name"] for row in queue.status()["workers"]] == ["device-0", "device-1"]
        wait_until(lambda: len(pids(pool)) == 2)
        assert queue.models.choose("lama-compact", wait_s=20) and queue.models.active == "lama-compact"
    finally:
        there = pids(pool)
        assert queue.close(wait_s=10.0)
    wait_until(lambda: not any(map(lives, there)))


@pytest.mark.parametrize(
    ("visible", "number", "shown"), [(None, 1, "1"), ("3,5", 1, "5"), ("3, 5", 0, "3"), ("3,5", 2, "")]
)
def test_process_sees_the_card_that_has_the_number_here(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, number: int, shown: str
) -> None:
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert only_card(number) == {"CUDA_VISIBLE_DEVICES": shown}
