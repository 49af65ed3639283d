"""The choice of model in the queue: between jobs, the last choice counts, and a failure leaves the model before."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import Settings
from jobs.errors import JobError
from jobs.queue import JobQueue
from tests.jobs.test_queue import PHOTO, submit, wait_for
from tests.support.fake_engine import SWITCH_S, FakeEngine

NAMES = ("one", "slow", "broken", "three")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    """A queue whose engine runs "one" of four files."""
    for name in NAMES:
        (tmp_path / f"{name}.safetensors").write_bytes(name.encode())
    engine = FakeEngine()
    engine.weights = "one"
    settings = Settings(
        data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs", weights_dir=tmp_path, weights="one"
    )  # fmt: skip
    running = JobQueue(settings, [engine], batch_limit=1)
    running.start()
    yield running
    running.stop_waiting()


def engine_of(queue: JobQueue) -> FakeEngine:
    engine = queue._workers[0].engine
    assert isinstance(engine, FakeEngine)
    return engine


def test_the_models_there_are_and_the_one_in_use(queue: JobQueue) -> None:
    view = queue.models.view()
    assert (view["active"], view["switching"], view["error"]) == ("one", None, None)
    installed = {model["name"]: model for model in view["models"] if model["name"] in NAMES}
    assert set(installed) == set(NAMES) and installed["slow"]["size"] == 4
    assert [name for name, model in installed.items() if model["active"]] == ["one"]
    assert queue.models.choose("three", wait_s=5)
    assert queue.models.active == queue.describe()["weights"] == engine_of(queue).weights == "three"


@pytest.mark.slow
def test_a_change_waits_for_the_running_job_and_goes_before_those_that_wait(queue: JobQueue) -> None:
    image = queue.add_image(PHOTO, "a.png")
    first = submit(queue, image.image_id, feather_px=30)
    second = submit(queue, image.image_id)
    wait_for(queue, first, until="running")
    assert queue.models.choose("slow") is False, "it did not wait for the job"
    assert queue.models.view()["switching"] == "slow"
    assert wait_for(queue, first)["state"] == "done"
    assert queue.models.active == "one"
    assert queue.view(second)["state"] == "queued", "it started while the weights change"
    assert wait_for(queue, second)["state"] == "done"
    assert queue.models.active == "slow"
    assert engine_of(queue).switches == [("slow", 0)], "no repair ran while the weights changed"


def test_weights_that_cannot_be_used_leave_the_ones_before(queue: JobQueue) -> None:
    with pytest.raises(JobError, match=r"broken is damaged; one stays in use\.") as refusal:
        queue.models.choose("broken", wait_s=5)
    assert refusal.value.code == "bad_weights"
    view = queue.models.view()
    assert (view["active"], view["switching"], view["error"]["error"]) == ("one", None, "bad_weights")
    assert queue.models.choose("three", wait_s=5) and queue.models.view()["error"] is None


@pytest.mark.parametrize(
    ("name", "code"), [("nobody", "unknown_model"), ("../one", "unknown_model"), ("big-lama", "model_missing")]
)
def test_what_is_not_there_cannot_be_chosen(queue: JobQueue, name: str, code: str) -> None:
    with pytest.raises(JobError) as refusal:
        queue.models.choose(name, wait_s=5)
    assert refusal.value.code == code and name in str(refusal.value.params)


@pytest.mark.slow
def test_the_last_choice_counts_and_the_one_before_is_told(queue: JobQueue) -> None:
    assert queue.models.choose("slow") is False
    while not queue.models.is_running:
        time.sleep(0.01)
    refused: list[str] = []

    def choose_three() -> None:
        try:
            queue.models.choose("three", wait_s=5)
        except JobError as error:
            refused.append(error.code)

    other = threading.Thread(target=choose_three)
    other.start()
    while queue.models.view()["switching"] != "three":
        time.sleep(0.01)
    assert queue.models.choose("one", wait_s=SWITCH_S + 5)
    other.join(5)
    assert refused == ["model_conflict"]
    assert queue.models.active == "one" and [name for name, _ in engine_of(queue).switches] == ["slow", "one"]
