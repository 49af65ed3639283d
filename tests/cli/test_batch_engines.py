"""Which engine repairs which photo of a folder: side by side on a CPU, by turns on a GPU."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli.batch import MAX_CPU_ENGINES, PHOTOS_PER_ENGINE, Limits, run_tasks
from cli.plan import plan_tasks

MEETING_S = 20
COUNT = 3 * PHOTOS_PER_ENGINE


class Engine:
    """Waits in a repair until another engine repairs too, where that is asked for; tells of two photos at once."""

    def __init__(self, device: str, meeting: threading.Barrier | None) -> None:
        self.device, self._meeting, self._busy = device, meeting, threading.Lock()
        self.repairs = 0

    def repair(self, image: np.ndarray, mask: np.ndarray, **options: Any) -> SimpleNamespace:
        if self.device == "cpu":
            assert self._busy.acquire(blocking=False), "two photos in one engine"
        if self._meeting is not None and self.repairs == 0:
            self._meeting.wait(MEETING_S)
        self.repairs += 1
        if self.device == "cpu":
            self._busy.release()
        return SimpleNamespace(image=image, patches=[1], notes=[])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(COUNT):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(tmp_path / "photos" / f"{number:02}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:2, :2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return tmp_path


def repair_folder(folder: Path, device: str, jobs: int, meeting: threading.Barrier | None = None) -> list[Engine]:
    loaded: list[Engine] = []

    def load() -> Any:
        loaded.append(Engine(device, meeting))
        return loaded[-1]

    tasks = plan_tasks(folder / "photos", folder / "mask.png", folder / "out")
    limits = Limits(1 << 20, 1 << 20)
    outcomes = list(run_tasks(tasks, load, options={}, limits=limits, overwrite=True, jobs=jobs))
    assert [outcome.error for outcome in outcomes] == [""] * COUNT
    assert sum(engine.repairs for engine in loaded) == COUNT
    return loaded


def test_engines_on_a_cpu_repair_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.batch.os.cpu_count", lambda: 2)
    assert len(repair_folder(folder, "cpu", 3, threading.Barrier(2))) == 2


def test_there_are_no_more_engines_than_pay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.batch.os.cpu_count", lambda: 64)
    assert len(repair_folder(folder, "cpu", 64)) == min(MAX_CPU_ENGINES, 1 + COUNT // PHOTOS_PER_ENGINE)


def test_one_job_has_one_engine(folder: Path) -> None:
    assert len(repair_folder(folder, "cpu", 1)) == 1


def test_a_gpu_is_loaded_once(folder: Path) -> None:
    assert len(repair_folder(folder, "cuda", 4)) == 1
