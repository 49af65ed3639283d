"""Many at once have one memory: turns in order, a limit, and what was made is made once."""

import platform
import subprocess
import sys
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
from jobs.images import STEPS_AT_ONCE, ImageStore, step_bytes
from jobs.memory_budget import MIB, MemoryBudget
from jobs.one_shots import AT_ONCE
from jobs.queue import JobQueue
from tests.support.fake_engine import FakeEngine
from tests.support.serving import ROOT

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


def test_what_was_begun_comes_before_what_is_new_and_is_not_refused() -> None:
    """Of forty one-shots of 100 million pixels 36 were refused, many of them after their photo had been decoded."""
    budget = MemoryBudget(100, at_once=1, longest_wait_s=0.2)
    order: list[str] = []

    def new(name: str) -> None:
        try:
            with budget.reserve(10):
                order.append(name)
        except JobError as error:
            order.append(error.code)

    def begun(name: str) -> None:
        with budget.going_on(), budget.reserve(10):
            order.append(name)

    with held_by_another(budget, 100):
        threads = []
        for number, (work, name) in enumerate([(new, "late"), (begun, "1st"), (begun, "2nd")]):
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            wait_until(lambda: len(budget._line) + len(budget._begun_line) == number + 1)  # noqa: B023 (called at once)
        wait_until(lambda: order == ["busy"])
        budget._longest_wait_s = 30.0
        threads.append(threading.Thread(target=new, args=("new",)))
        threads[-1].start()
        wait_until(lambda: len(budget._line) == 1)
        threads.append(threading.Thread(target=begun, args=("3rd",)))
        threads[-1].start()
        wait_until(lambda: len(budget._begun_line) == 3)
    for thread in threads:
        thread.join(10)
    assert order == ["busy", "1st", "2nd", "3rd", "new"]


def test_who_waits_with_something_new_is_sent_away_when_the_server_stops() -> None:
    budget = MemoryBudget(100, at_once=1, longest_wait_s=60.0)
    codes: list[str] = []

    def ask() -> None:
        try:
            with budget.reserve(10):
                codes.append("had")
        except JobError as error:
            codes.append(error.code)

    with held_by_another(budget, 100):
        asking = threading.Thread(target=ask)
        asking.start()
        wait_until(lambda: len(budget._line) == 1)
        budget.close()
        asking.join(10)
    assert codes == ["interrupted"]


@pytest.mark.slow
def test_memory_goes_back_to_the_system_after_a_large_step() -> None:
    """Pillow's blocks stayed on the heaps of the threads: an idle server held 2.5 GiB. Read in a process of its own."""
    script = """
import io, threading
from pathlib import Path
from PIL import Image
from jobs.memory_budget import MIB, MemoryBudget

def held_mib():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024

file = io.BytesIO()
Image.new("RGB", (6000, 4000)).save(file, "PNG", compress_level=1)
budget = MemoryBudget(4096 * MIB, at_once=1)
kept = []

def step():
    with budget.reserve(500 * MIB):
        Image.open(file).load()
        kept.append(bytearray(100_000))  # lies above the blocks on the heap, which then does not shrink by itself

before_mib = held_mib()
for _ in range(6):
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
print(held_mib() - before_mib)
"""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another allocator than glibc's")
    grown_mib = float(subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, text=True))
    assert grown_mib < 40, f"{grown_mib:.0f} MiB of an 92 MiB picture stayed"


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


def test_files_of_one_shots_are_read_when_it_is_their_turn(queue: JobQueue) -> None:
    """Forty who wait with the files of 100 MiB in their hands are 8 GiB."""
    read: list[str] = []
    queue.one_shots._turns._longest_wait_s = 0.05

    def read_photo() -> bytes:
        read.append("photo")
        return PHOTO

    with ExitStack() as held:
        for _ in range(AT_ONCE):
            held.enter_context(held_by_another(queue.one_shots._turns, 0))
        with pytest.raises(JobError) as busy:
            queue.one_shots.repair(read_photo, lambda photo: MASK)
        assert busy.value.code == "busy" and not read
    queue.start()
    assert queue.one_shots.repair(read_photo, lambda photo: MASK).data and read == ["photo"]


def test_a_one_shot_that_was_let_in_is_not_refused_for_want_of_memory(queue: JobQueue) -> None:
    """Each waits for its photo's, its mask's, its repair's and its result's turn, longer than new work may wait."""
    queue.start()
    memory = queue.images.memory
    memory._longest_wait_s = 0.0
    ended = threading.Event()

    def take_turns() -> None:
        while not ended.is_set():
            with memory.patient(60.0), memory.reserve(memory.limit_bytes):
                time.sleep(0.01)

    others = [threading.Thread(target=take_turns) for _ in range(2)]
    for thread in others:
        thread.start()
    try:
        wait_until(lambda: memory._line)
        with pytest.raises(JobError):
            queue.add_image(PHOTO, "new.png")
        assert queue.one_shots.repair(PHOTO, MASK).data
    finally:
        ended.set()
        for thread in others:
            thread.join()


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


def test_an_edit_of_a_photo_that_left_the_cache_has_the_memory_for_opening_it(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its colour profile and transparency are the original's, which is opened again for them."""
    image, reserved = queue.add_image(PHOTO, "a.png"), []
    reserve = queue.images.memory.reserve

    def noted(need_bytes: int) -> Any:
        reserved.append(need_bytes)
        return reserve(need_bytes)

    monkeypatch.setattr(queue.images.memory, "reserve", noted)
    patch = np.zeros((2, 2, 3), np.uint8)
    queue.images.write_edit(image, [((0, 0, 2, 2), patch)])
    queue.images._cache.clear()
    queue.images.write_edit(image, [((0, 0, 2, 2), patch)])
    at_hand, opened, *inside = reserved
    assert opened == at_hand + step_bytes(image) and sum(inside) <= opened - at_hand


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
    queue.one_shots.repair(PHOTO, MASK)
    assert len(held) >= 3 and all(held), held
