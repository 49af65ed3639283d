"""A card is ready with the commonest size; the others follow while nobody asks, and end up as if made at once."""

import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import inference
from engine import repair_steps, tones
from engine.context_pass import plan_context
from engine.cuda_graphs import Shape, _Captured
from engine.device_turns import LOOK_S, DeviceTurns, is_preparing
from engine.devices import Placement
from engine.model_runner import DONE, ModelRunner
from engine.profiles import DEFAULT_LADDER_PX, Card, Profile, choose_profile
from engine.repair_steps import plan_repair
from engine.requests import RepairRequest
from inference import Inpainter, common_hole_px
from lama.generator import Generator
from masks.dilation import CropRules

ROOT = Path(__file__).resolve().parents[2]
BUCKETS_PX = (256, 512, 1024, 1536)
MOST_LOOKS = 1200  # a minute of them
ENDING = """
import threading
from engine.device_turns import DeviceTurns
begun = threading.Event()
def steps():
    for step in range(1_000_000):
        print(step, "begins", flush=True)
        begun.set()
        print(step, "ends", flush=True)
        yield
DeviceTurns().prepare(steps())
begun.wait()
"""


class Rehearsing(Inpainter):
    """An engine on a card, of which it is only told what it would repair before anybody asks."""

    def __init__(self, profile: Profile) -> None:
        runner: Any = SimpleNamespace(
            device=torch.device("cuda"), profile=profile, common_px=512, times_freed=0, warming_up=lambda: iter(())
        )
        super().__init__(runner, weights_name="", profile_reason="")
        self.repaired: list[tuple[int, int]] = []

    def _repair_dummy(self, side: int, hole_px: int) -> None:
        self.repaired.append((side, hole_px))

    def _take_step(self, steps: Iterator[None]) -> bool:
        return next(steps, DONE) is not DONE


class Recorded:
    """Stands in for what captures: which network's graphs of which shapes, in order, those with memory apart marked."""

    def __init__(self, runner: ModelRunner) -> None:
        self.captures: list[str] = []
        self.failure: Exception | None = None
        for name, one in (("accurate", runner), ("crisp", runner.for_hole(is_deep=True))):
            graphed = one._graphed
            assert graphed is not None
            graphed.mode = "on"
            # Not by `monkeypatch`, which would keep what is released.
            vars(graphed)["_record"] = lambda shape, *, apart, name=name: self._record(name, shape, apart)

    def _record(self, name: str, shape: Shape, apart: bool) -> _Captured:
        if self.failure is not None and not apart:
            raise self.failure
        self.captures.append(f"{name} {shape[0]}x{shape[1]}{' apart' if apart else ''}")
        graph: Any = SimpleNamespace(replay=lambda: None)
        batch, height, width = shape
        return _Captured(graph, torch.zeros(batch, 4, height, width), torch.zeros(batch, 3, height, width), apart)


@pytest.fixture
def runner() -> ModelRunner:
    profile = replace(choose_profile(Card("a processor"), name="cpu")[0], buckets_px=BUCKETS_PX)
    tiny = [Generator(width=4, blocks=1).eval() for _ in range(2)]
    return ModelRunner(tiny[0], crisp=tiny[1], device=torch.device("cpu"), precision="fp32", profile=profile)


@pytest.fixture
def recorded(runner: ModelRunner) -> Recorded:
    return Recorded(runner)


def test_the_common_size_of_both_networks_comes_first_and_the_largest_then(
    runner: ModelRunner, recorded: Recorded
) -> None:
    steps = runner.warming_up()
    next(steps)
    assert recorded.captures == ["accurate 1x512 apart", "crisp 1x512 apart"]
    assert runner.describe()["graphs"] == [[1, 512, 512]]
    taken = 0
    for taken, _ in enumerate(steps, 1):
        assert len(recorded.captures) == 2 + taken, "more than one capture in a step"
    sides = ["1536", "1024", "512", "256"]
    assert recorded.captures[2:] == [f"{name} 1x{side}" for name in ("accurate", "crisp") for side in sides]
    assert taken == 8 and runner._graphed is not None and runner._graphed.shapes_apart == []


def test_all_at_once_captures_nothing_twice(runner: ModelRunner, recorded: Recorded) -> None:
    runner.warm_up()
    sides = ["1536", "1024", "512", "256"]
    assert recorded.captures == [f"{name} 1x{side}" for name in ("accurate", "crisp") for side in sides]


def test_what_is_asked_for_meanwhile_is_captured_apart_and_again(runner: ModelRunner, recorded: Recorded) -> None:
    steps = runner.warming_up()
    next(steps)
    for batch, side in ((1, 1024), (4, 256)):
        runner.predict([torch.zeros(4, side, side)] * batch)
    assert recorded.captures[2:] == ["accurate 1x1024 apart", "accurate 4x256 apart"]
    for _ in steps:
        pass
    again = [one for one in recorded.captures if one.startswith("accurate") and "apart" not in one]
    assert again == [f"accurate {one}" for one in ("1x1536", "1x1024", "1x512", "1x256", "4x256")]
    runner.predict([torch.zeros(4, 256, 256)] * 2)
    assert recorded.captures[-1] == "accurate 2x256", "still apart, though nothing larger is to come"


@pytest.mark.parametrize("is_deep", [False, True])
def test_memory_that_was_given_back_is_not_taken_again(
    runner: ModelRunner, recorded: Recorded, *, is_deep: bool
) -> None:
    steps = runner.warming_up()
    next(steps)
    next(steps)
    captures = list(recorded.captures)
    runner.for_hole(is_deep=is_deep).free_memory()
    assert [next(steps, "done") for _ in range(2)] == ["done", "done"]
    assert recorded.captures == captures
    runner.predict([torch.zeros(4, 256, 256)])
    assert recorded.captures == [*captures, "accurate 1x256"]


def test_a_runner_that_was_released_stays_so(runner: ModelRunner, recorded: Recorded) -> None:
    steps = runner.warming_up()
    next(steps)
    runner.release()
    assert list(steps) == []
    assert runner._fast is None and len(recorded.captures) == 2


def test_nothing_on_the_device_is_referred_to_between_two_steps(runner: ModelRunner, recorded: Recorded) -> None:
    """Other weights come onto it, or its settings are timed, while a step is still to be taken."""
    steps = runner.warming_up()
    for taken in range(3):
        next(steps)
        assert len(recorded.captures) == 2 + taken
    on_device = [weakref.ref(one._fast) for one in (runner, runner.for_hole(is_deep=True)) if one._fast is not None]
    runner.release()

    assert len(on_device) == 2 and [one() for one in on_device] == [None, None]
    runner.restore()
    assert list(steps) == [] and len(recorded.captures) == 4


def test_what_is_captured_after_an_error_shares_its_memory(
    runner: ModelRunner, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.failure = ValueError("broken")
    turns = DeviceTurns()
    turns.prepare(runner.warming_up())
    turns.wait_until_prepared()
    assert "broken" in caplog.text
    recorded.failure = None
    for one in (runner, runner.for_hole(is_deep=True)):
        one.predict([torch.zeros(4, 256, 256)])
    assert recorded.captures[2:] == ["accurate 1x256", "crisp 1x256"]


def test_memory_that_does_not_suffice_for_one_network_ends_its_captures_only(
    runner: ModelRunner, recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    recorded.failure = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", lambda _device: None)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        assert list(runner.warming_up()) == [None]
    assert caplog.text.count("captured when needed") == 2
    assert recorded.captures == ["accurate 1x512 apart", "crisp 1x512 apart"]
    recorded.failure = None
    runner.predict([torch.zeros(4, 256, 256)])
    assert recorded.captures[2:] == ["accurate 1x256"]


def test_kernels_that_fail_at_a_later_size_give_way_to_plain_pytorch(
    runner: ModelRunner, recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for one in (runner, runner.for_hole(is_deep=True)):
        assert one._fast is not None
        one._fast.uses_triton = True
    recorded.failure = ValueError("out of resource: shared memory")
    warmed: list[str] = []
    monkeypatch.setattr(ModelRunner, "warm_up", lambda self: warmed.append(self.kernels))
    for _ in runner.warming_up():
        pass
    assert "shared memory" in caplog.text and warmed == ["torch"]
    assert "plain PyTorch" in str(runner.describe()["kernels"])


def test_page_locked_memory_that_is_short_is_no_fault_of_the_kernels(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They went for good, since the driver says it in other words than PyTorch."""

    def fail(*_: object) -> Iterator[None]:
        raise RuntimeError("CUDA error: out of memory\nAdvice for programmers")
        yield

    assert runner._fast is not None
    runner._fast.uses_triton = True
    monkeypatch.setattr(ModelRunner, "_capture_common", fail)
    assert list(runner.warming_up()) == [None]
    assert "captured when needed: CUDA error: out of memory" in caplog.text and "Advice" not in caplog.text
    assert runner.kernels == "auto"


@pytest.mark.parametrize("photo_px", [512, 2048])
@pytest.mark.parametrize("buckets_px", [(256, 512, 1024, 1280, 1536), DEFAULT_LADDER_PX])
def test_the_hole_that_makes_a_card_ready_needs_the_common_size_only(
    buckets_px: tuple[int, ...], photo_px: int
) -> None:
    """One of 320 px had a graph of 1024 captured for it, and a context pass, before a card was ready."""
    side = common_hole_px(512)
    mask = np.zeros((photo_px, photo_px), np.bool_)
    first = (photo_px - side) // 2
    mask[first : first + side, first : first + side] = True
    runner: Any = SimpleNamespace(device=torch.device("cuda"), profile=SimpleNamespace(buckets_px=buckets_px))
    request = RepairRequest(np.zeros((photo_px, photo_px, 3), np.uint8), mask)
    (crop,) = plan_repair(request, runner, CropRules())
    assert crop.model_size == (512, 512)
    assert plan_context(crop, (photo_px, photo_px)) is None


def test_every_size_is_rehearsed_after_what_makes_a_card_ready() -> None:
    inpainter = Rehearsing(replace(choose_profile(Card("a processor"), name="cpu")[0], buckets_px=BUCKETS_PX))
    steps = inpainter._warming_up()
    next(steps)
    next(steps)
    assert inpainter.repaired == [(512, common_hole_px(512))] + [(2048, common_hole_px(512))] * 3
    assert len(list(steps)) == len(inpainter.repaired) - 4
    assert [hole for _, hole in inpainter.repaired[4:9]] == [160, 320, 640, 960, 3072]


def test_what_is_rehearsed_goes_the_way_of_a_large_photo_in_colours(
    runner: ModelRunner, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A black photo, its bounds read in full, left code to be run first by the first repair that somebody waits for."""
    told: list[object] = []

    def listen(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            answer = function(*arguments)
            told.append((name, answer))
            return answer

        return call

    inpainter = Inpainter(runner, weights_name="", profile_reason="")
    inpainter._samples_bounds = True
    graphed = runner._graphed
    assert graphed is not None
    graphed.dropped = "replay differed"
    monkeypatch.setattr(inference, "sample_bounds", listen("bounds", inference.sample_bounds))
    monkeypatch.setattr(inference, "is_any_set", listen("beyond", inference.is_any_set))
    monkeypatch.setattr(repair_steps, "find_line", listen("line", repair_steps.find_line))
    monkeypatch.setattr(tones.ColourLine, "through", Mock(side_effect=AssertionError("through colours")))
    monkeypatch.setattr(runner, "predict", lambda inputs: [torch.zeros(3, *one.shape[-2:]) for one in inputs])
    side, hole_px = inference.LARGE_PHOTO_PX, common_hole_px(512)

    inpainter._repair_dummy(side, hole_px)
    first = (side - hole_px) // 2
    assert told[0] == ("bounds", (first, first, first + hole_px, first + hole_px))
    assert ("line", None) in told and told.count(("beyond", False)) == 2
    assert runner.take_dropped() == "replay differed"


@pytest.mark.parametrize("what", ["memory given back", "other weights"])
def test_nothing_is_rehearsed_once_it_would_be_captured_smallest_first(what: str) -> None:
    inpainter = Rehearsing(replace(choose_profile(Card("a processor"), name="cpu")[0], buckets_px=BUCKETS_PX))
    steps = inpainter._warming_up()
    for _ in range(3):
        next(steps)
    before = list(inpainter.repaired)
    if what == "other weights":
        inpainter._runner = Rehearsing(inpainter.profile)._runner
    else:
        inpainter._runner.times_freed += 1
    assert list(steps) == [] and inpainter.repaired == before


def test_whoever_asks_comes_before_the_next_step() -> None:
    turns, order = DeviceTurns(), []
    is_taken, may_end = threading.Event(), threading.Event()

    def steps() -> Iterator[None]:
        for step in range(3):
            with turns.turn():
                is_taken.set()
                assert may_end.wait(60)
                order.append(f"step {step}")
            yield

    def ask() -> None:
        with turns.turn():
            order.append("asked")

    assert not is_preparing()
    turns.prepare(steps())
    assert is_taken.wait(60) and is_preparing()
    asking = threading.Thread(target=ask)
    asking.start()
    for _ in range(MOST_LOOKS):
        if turns._asking:
            break
        time.sleep(LOOK_S)
    may_end.set()
    turns.wait_until_prepared()
    asking.join()
    assert order == ["step 0", "asked", "step 1", "step 2"] and not is_preparing()


def test_a_step_that_fails_leaves_the_device_to_whoever_asks(caplog: pytest.LogCaptureFixture) -> None:
    turns = DeviceTurns()

    def steps() -> Iterator[None]:
        with turns.turn():
            yield from ()
            raise ValueError("broken")

    turns.prepare(steps())
    turns.wait_until_prepared()
    assert "broken" in caplog.text
    with turns.turn():
        pass


@pytest.mark.process
def test_a_program_ends_after_the_step_that_is_being_taken() -> None:
    done = subprocess.run([sys.executable, "-c", ENDING], cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and done.stderr == ""
    assert lines[-1].endswith("ends") and len(lines) < 2_000_000


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True])
def test_only_an_early_engine_leaves_something_to_a_thread(monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    """By a card that is none: what is taken before `load` returns, and what is handed to the thread."""
    taken, handed = [], []

    def steps(_inpainter: Inpainter) -> Iterator[None]:
        for step in range(5):
            taken.append(step)
            yield

    class Runner:
        def __init__(self, _generator: object, *, device: torch.device, **_named: object) -> None:
            self.device = device

    chosen = Placement(torch.device("cuda"), "fp16", None, "")  # type: ignore[arg-type]
    monkeypatch.setattr(inference, "choose_placement", lambda *_arguments: chosen)
    monkeypatch.setattr(inference, "ModelRunner", Runner)
    monkeypatch.setattr(Inpainter, "_warming_up", steps)
    monkeypatch.setattr(Inpainter, "describe", lambda _inpainter: {})
    monkeypatch.setattr(DeviceTurns, "prepare", lambda _turns, rest: handed.append(rest))
    Inpainter.load(early=early)
    assert taken == (list(range(2)) if early else list(range(5)))
    assert len(handed) == early


def test_the_programs_engine_is_early(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    monkeypatch.setattr(Inpainter, "load", lambda *_arguments, **named: asked.append(named))
    settings = SimpleNamespace(weights="", weights_dir=ROOT / "weights", device="cpu", precision="auto", profile="auto")
    inference.load_inpainter(settings)
    assert [named["early"] for named in asked] == [True]
