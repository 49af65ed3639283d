"""Several threads at one engine: one batch is loaded while another is computed and others are stored."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config import Settings
from imaging import encode_png
from jobs.clients import Client, current_client
from jobs.queue import ENDED, JobQueue
from jobs.watchers import Watchers
from jobs.worker import BATCHES_AT_ONCE, side_by_side
from tests.support.fake_engine import FAIL, KILL_BATCH, FakeEngine

PHOTO = encode_png(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), fast=True)
STORING = 3


class Card(FakeEngine):
    """A fake engine that computes one batch after another, and each only when it is told.

    `arrived` counts them, `order` holds every repair's feather_px as they came.
    """

    def __init__(self) -> None:
        super().__init__()
        self.may_compute = threading.Semaphore(0)
        self.arrived = 0
        self.order: list[int | None] = []
        self._turn = threading.Lock()

    def repair_many(self, requests: Sequence[Any], *, on_stage: Callable[[str], None] | None = None) -> list[Any]:
        self.order += [request.feather_px for request in requests]
        self.arrived += 1
        with self._turn:
            self.may_compute.acquire()
            return super().repair_many(requests, on_stage=on_stage)

    def describe(self) -> dict[str, Any]:
        """Say what runs."""
        return {**super().describe(), "device": "cuda:0"}

    def compute(self, batches: int) -> None:
        """Let so many more batches be computed."""
        self.may_compute.release(batches)


class Made(SimpleNamespace):
    """A queue over one card, and the photo that its jobs repair."""

    queue: JobQueue
    card: Card
    image_id: str

    def submit(self, number: int, **options: Any) -> str:
        dot = [{"points": [[10.0 + number, 20.0]], "radius": 5.0, "erase": False}]
        return self.queue.submit(self.image_id, f"r{number}", dot, None, options, save=False)

    def states(self, job_ids: Sequence[str]) -> list[str]:
        return [self.queue.view(job_id)["state"] for job_id in job_ids]

    def wait_until(self, is_so: Callable[[], bool], *, limit_s: float = 10.0) -> None:
        until_s = time.monotonic() + limit_s
        while not is_so():
            assert time.monotonic() < until_s, "it did not come about"
            time.sleep(0.005)

    def end_all(self, job_ids: Sequence[str]) -> list[dict[str, Any]]:
        self.card.compute(100)
        self.wait_until(lambda: set(self.states(job_ids)) <= ENDED)
        return [self.queue.view(job_id) for job_id in job_ids]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    card = Card()
    engines, _ = side_by_side([card])
    assert len(engines) == BATCHES_AT_ONCE == 2
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    queue = JobQueue(settings, engines, batch_limit=1, storing=STORING)
    queue.start()
    yield Made(queue=queue, card=card, image_id=queue.add_image(PHOTO, "a.png").image_id)
    card.compute(1000)
    assert queue.close(wait_s=10.0), "every thread came to rest"


def held_writes(made: Made, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], threading.Event]:
    """Have every edit's files wait for an event while they are written; return the threads that wait, and it."""
    writing: list[str] = []
    may_write, write = threading.Event(), made.queue.images.write_edit

    def write_edit(parent: Any, patches: Any, *, on_turn: Callable[[], None]) -> Any:
        written = write(parent, patches, on_turn=on_turn)
        writing.append(threading.current_thread().name)
        may_write.wait(10)
        return written

    monkeypatch.setattr(made.queue.images, "write_edit", write_edit)
    return writing, may_write


def test_a_card_computes_while_results_are_stored(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread loaded, computed and stored in turn: a card did 31 repairs a second that could do 380."""
    writing, may_write = held_writes(made, monkeypatch)
    jobs = [made.submit(number) for number in range(4)]
    made.card.compute(3)
    made.wait_until(lambda: len(writing) == 3)
    made.wait_until(lambda: made.card.arrived == 4)
    may_write.set()
    assert [view["state"] for view in made.end_all(jobs)] == ["done"] * 4
    assert made.card.calls == [1, 1, 1, 1], "each was computed once"


def test_nobody_is_taken_long_before_the_engine_is_free(made: Made) -> None:
    """Who is taken has lost the place to somebody more urgent, who would then wait for all that were taken."""
    jobs = [made.submit(number, priority="batch", feather_px=number) for number in range(5)]
    made.wait_until(lambda: made.card.arrived == 2)
    time.sleep(0.1)
    assert made.states(jobs) == ["running", "running", "queued", "queued", "queued"]
    urgent = made.submit(9, feather_px=9)
    assert made.queue.view(urgent)["position"] == 1
    made.card.compute(1)
    made.wait_until(lambda: made.card.arrived == 3)
    assert made.states([urgent, *jobs[2:]]) == ["running", "queued", "queued", "queued"]
    made.end_all([*jobs, urgent])


def test_clients_take_turns_at_several_threads_too(made: Made) -> None:
    for name, numbers in (("greedy", range(6)), ("modest", range(6, 8))):
        token = current_client.set(Client(key=name))
        jobs = [made.submit(number, feather_px=number) for number in numbers]
        current_client.reset(token)
    for arrived in range(2, 8):  # one at a time: who of two that are let go comes back first is chance
        made.wait_until(lambda: made.card.arrived == arrived)  # noqa: B023
        made.card.compute(1)
    made.end_all(jobs)
    assert made.card.order.index(6) <= 3 and made.card.order.index(7) <= 5


def test_results_wait_with_the_engine_when_there_is_no_memory_to_store_them(made: Made) -> None:
    """Else every thread would hold a large result in its hands."""
    memory = made.queue.images.memory
    jobs = [made.submit(number) for number in range(6)]
    made.card.compute(6)
    with memory.going_on(), memory.reserve(memory.limit_bytes):
        made.wait_until(lambda: made.card.arrived == 2)
        time.sleep(0.1)
        assert made.card.arrived == 2 and made.states(jobs).count("queued") == 4
    assert {view["state"] for view in made.end_all(jobs)} == {"done"}


def test_a_cancel_while_the_result_is_stored_keeps_nothing_of_it(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, may_write = held_writes(made, monkeypatch)
    job = made.submit(0)
    made.card.compute(1)
    made.wait_until(lambda: len(writing) == 1)
    assert made.queue.cancel(job)["state"] == "cancelled"
    may_write.set()
    made.wait_until(lambda: len(list(made.queue.store.images_dir.iterdir())) == 1)
    assert made.queue.view(job)["state"] == "cancelled"


def test_a_repair_that_hangs_does_not_keep_its_place_at_the_engine(made: Made) -> None:
    made.queue.job_timeout_s = 0.3
    hanging = [made.submit(number) for number in range(2)]
    made.wait_until(lambda: made.card.arrived == 2)
    made.wait_until(lambda: made.states(hanging) == ["failed", "failed"])
    made.queue.job_timeout_s = 10.0
    following = made.submit(2)
    made.wait_until(lambda: made.card.arrived == 3)
    assert made.end_all([following])[0]["state"] == "done"


def test_a_batch_that_fails_leaves_the_engine_after_its_last_repair(tmp_path: Path) -> None:
    engine = FakeEngine()
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    queue = JobQueue(settings, [engine, engine], batch_limit=4, storing=1)
    image_id = queue.add_image(PHOTO, "a.png").image_id
    made = Made(queue=queue, card=Card(), image_id=image_id)
    kinds = [None, KILL_BATCH, FAIL, None, KILL_BATCH, None]
    jobs = [made.submit(number, dilate_px=kind) for number, kind in enumerate(kinds)]
    queue.start()
    views = made.end_all(jobs)
    assert [view["state"] for view in views] == ["done", "done", "failed", "done", "done", "done"]
    again = [made.submit(number) for number in range(10, 14)]
    assert {view["state"] for view in made.end_all(again)} == {"done"}
    assert queue.close(wait_s=10.0)


def test_one_card_is_one_row_for_operators_however_many_threads_it_has(made: Made) -> None:
    assert [(row["name"], row["state"]) for row in made.queue.status()["workers"]] == [("device-0", "idle")]
    job = made.submit(0)
    made.wait_until(lambda: made.card.arrived == 1)
    assert [(row["name"], row["state"]) for row in made.queue.status()["workers"]] == [("device-0", "busy")]
    made.end_all([job])


def test_a_cpu_and_workers_elsewhere_have_one_thread_a_place() -> None:
    for device in ("cpu", "celery"):
        engine = SimpleNamespace(describe=lambda device=device: {"device": device})
        assert side_by_side([engine]) == ([engine], 0)


def test_who_waits_is_woken_for_the_own_job_alone(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody looked at the store for everybody's every change, which took the interpreter from the worker."""
    first, second, third = (made.submit(number) for number in range(3))
    made.wait_until(lambda: made.card.arrived == 2)
    looks: list[str] = []
    job = made.queue.store.job

    def counted(job_id: str) -> Any:
        if threading.current_thread().name == "waits":
            looks.append(job_id)
        return job(job_id)

    monkeypatch.setattr(made.queue.store, "job", counted)
    seen = made.queue.view(third)["version"]
    views: list[dict[str, Any]] = []
    waiting = threading.Thread(
        target=lambda: views.append(made.queue.view(third, wait_s=10.0, seen=seen)), name="waits"
    )
    waiting.start()
    made.wait_until(lambda: looks == [third])
    for stage in ("one", "two", "three"):
        made.queue.store.set_stage([first, second], stage)
        made.queue.changed([first, second])
    last = made.submit(3)
    made.queue.cancel(last)
    time.sleep(0.1)
    assert looks == [third], "neither those before it nor one after it change what is told of it"
    made.card.compute(1)
    waiting.join(10)
    assert len(views) == 1 and views[0]["version"] != seen
    made.end_all([first, second, third])


def test_a_change_between_the_look_and_the_wait_is_not_missed() -> None:
    watchers = Watchers()
    with watchers.watch("a") as news, watchers.watch("a") as other, watchers.watch("b") as unconcerned:
        news.clear()
        watchers.tell(["a", "unknown"])
        assert news.wait(0) and other.is_set() and not unconcerned.is_set()
        watchers.tell_everybody()
        assert unconcerned.is_set()
    assert not watchers._events


def test_what_may_have_killed_the_process_runs_beside_nothing(tmp_path: Path) -> None:
    """Two seats at a card took a repair that kills the process and its neighbour together again: both were lost."""
    card = Card()
    engines, _ = side_by_side([card])
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    queue = JobQueue(settings, engines, batch_limit=2, storing=STORING)
    made = Made(queue=queue, card=card, image_id=queue.add_image(PHOTO, "a.png").image_id)
    jobs = [made.submit(number) for number in range(4)]
    with queue.store.transaction() as database:
        database.execute("UPDATE jobs SET attempt = 1 WHERE job_id IN (?, ?)", jobs[:2])
    queue.start()
    for arrived in (1, 2):
        made.wait_until(lambda: card.arrived == arrived)  # noqa: B023 (called at once)
        time.sleep(0.1)
        assert card.arrived == arrived and made.states(jobs).count("running") == 1
        card.compute(1)
    made.wait_until(lambda: card.arrived > 2)
    made.end_all(jobs)
    assert made.states(jobs) == ["done"] * 4
    assert queue.close(wait_s=10.0)
