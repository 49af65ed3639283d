"""Many at once have one memory: turns in order, a limit, and what was made is made once."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import Settings
from imaging import encode_png
from jobs import encodings
from jobs.errors import JobError
from jobs.images import STEPS_AT_ONCE, ImageStore
from jobs.memory_budget import MIB, MemoryBudget
from jobs.queue import JobQueue
from tests.support.fake_engine import FakeEngine

DOT = [{"points": [[20.0, 20.0]], "radius": 5.0, "erase": False}]
PHOTO = encode_png(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8), fast=True)
MASK = encode_png(np.full((48, 64, 3), 255, np.uint8) * (np.arange(64) < 9)[:, None].astype(np.uint8), fast=True)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    made = JobQueue(Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs"), [FakeEngine()])
    yield made
    made.stop_waiting()


def wait_until(condition: Any) -> None:
    until_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def test_turns_come_in_order_and_never_exceed_the_limit() -> None:
    budget = MemoryBudget(100, at_once=10)
    order: list[int] = []
    peak_bytes = 0

    def step(number: int, size_bytes: int) -> None:
        nonlocal peak_bytes
        with budget.reserve(size_bytes):
            order.append(number)
            peak_bytes = max(peak_bytes, budget._taken_bytes)
            time.sleep(0.005)

    threads = []
    with budget.reserve(100):
        for number, size_bytes in enumerate([60, 60, 10, 100, 30, 30, 30]):
            threads.append(threading.Thread(target=step, args=(number, size_bytes)))
            threads[-1].start()
            wait_until(lambda: len(budget._line) == number + 1)  # noqa: B023 (called at once)
    for thread in threads:
        thread.join(10)
    assert order == sorted(order), "a small one does not overtake a large one, which would wait for ever"
    assert peak_bytes <= 100 and budget._taken_bytes == 0


@contextmanager
def held_by_another(budget: MemoryBudget, size_bytes: int) -> Iterator[None]:
    """Have another thread hold bytes while the block runs."""
    begun, ended = threading.Event(), threading.Event()

    def hold() -> None:
        with budget.reserve(size_bytes):
            begun.set()
            ended.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert begun.wait(60)
    try:
        yield
    finally:
        ended.set()
        holder.join()


def test_what_needs_more_than_there_is_runs_alone() -> None:
    budget = MemoryBudget(100, at_once=10, longest_wait_s=0.05)
    with held_by_another(budget, 500):
        with pytest.raises(JobError) as refused, budget.reserve(1):
            pass
        assert refused.value.code == "busy"
    with budget.reserve(1):
        pass


def test_masks_and_uploads_wait_for_their_turn_and_say_so(queue: JobQueue) -> None:
    image_id = queue.add_image(PHOTO, "a.png").image_id
    queue.images.memory._longest_wait_s = 0.05
    with ExitStack() as held:
        for _ in range(STEPS_AT_ONCE):
            held.enter_context(held_by_another(queue.images.memory, MIB))
        for refused in (
            lambda: queue.submit(image_id, "mask", [], MASK),
            lambda: queue.submit(image_id, "strokes", DOT),
            lambda: queue.add_image(PHOTO, "b.png"),
            lambda: queue.encodings.preview(queue.image(image_id), max_px=30, format="png"),
        ):
            with pytest.raises(JobError) as busy:
                refused()
            assert busy.value.code == "busy"
    assert queue.submit(image_id, "mask", [], MASK) and len(queue) == 1, "what was refused holds no place"


def test_sixty_who_ask_for_the_same_file_have_it_made_once(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    image = queue.add_image(PHOTO, "a.png")
    made: list[str] = []
    real = encodings.encode_photo

    def count(*arguments: Any, **options: Any) -> Any:
        made.append("file")
        return real(*arguments, **options)

    monkeypatch.setattr(encodings, "encode_photo", count)
    answers: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: answers.append(queue.encodings.whole(image, format="webp").data))
        for _ in range(60)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(answers) == 60 and len(set(answers)) == 1 and made == ["file"]
    kept = queue.encodings.whole(image, format="webp")
    assert (kept.media_type, kept.extension) == ("image/webp", ".webp")
    assert [note.code for note in kept.notes] == ["not_exact"], "what there is to say is kept too"
    assert made == ["file"] and not queue.encodings._making


def test_kept_files_stay_within_their_share(queue: JobQueue) -> None:
    image = queue.add_image(PHOTO, "a.png")
    queue.encodings._most_bytes = 100_000
    for side in range(20, 60):
        queue.encodings.preview(image, max_px=side, format="png")
    kept = [path.stat().st_size for path in queue.store.images_dir.glob("*.kept")]
    assert 5 < len(kept) < 40 and sum(kept) <= 100_000


def test_a_turn_inside_a_turn_takes_from_it() -> None:
    budget = MemoryBudget(100, at_once=1, longest_wait_s=0.0)
    with budget.reserve(80):
        with budget.reserve(50):
            pass
        other: list[str] = []

        def ask() -> None:
            try:
                with budget.reserve(30):
                    other.append("had")
            except JobError as error:
                other.append(error.code)

        asking = threading.Thread(target=ask)
        asking.start()
        asking.join()
        assert other == ["busy"], "the inner block gave back what the outer one holds"
    with budget.reserve(100):
        pass


def test_nobody_waits_for_a_turn_with_a_photo_in_their_hands(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty one-shots of 100 million pixels took 7.8 GiB: each had decoded its photo and waited for its mask's turn."""
    held: list[bool] = []
    pixels = ImageStore.pixels

    def noted(self: ImageStore, image: Any) -> Any:
        held.append(
            getattr(self.memory._mine, "is_held", False) or threading.current_thread().name.startswith("device")
        )
        return pixels(self, image)

    monkeypatch.setattr(ImageStore, "pixels", noted)
    queue.start()
    queue.repair_file(PHOTO, MASK)
    assert len(held) >= 3 and all(held), held
