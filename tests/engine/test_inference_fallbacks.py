"""What happens when memory does not suffice, a prediction is not finite, or weights can't be loaded."""

import dataclasses
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from engine import autotune
from engine.autotune import AutotuneRow
from engine.model_runner import ModelRunner
from engine.profiles import Card, Profile, choose_profile
from inference import Inpainter, RepairError, RepairRequest, autotune_profile
from lama.checkpoint import CheckpointError, save_generator
from lama.generator import Generator
from tests.engine.test_inference_repair import block, noise

IMAGE, MASK = noise((400, 400)), block((400, 400), 50, 50, 300)


@pytest.fixture
def weights(tmp_path: Path) -> list[Path]:
    """Two weight files of one shape."""
    paths = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        save_generator(Generator(width=4, blocks=1).eval(), path)
    return paths


@pytest.fixture
def inpainter(weights: list[Path]) -> Inpainter:
    return Inpainter.load(weights[0], device="cpu", precision="fp32", profile="cpu")


class ShortOfMemory:
    """A `predict` that has room only for batches and sides up to a limit, and counts what it was asked."""

    def __init__(self, runner: ModelRunner, *, batch: int = 8, side_px: int = 10_000, failures: int = 10_000) -> None:
        self.predict, self.batch, self.side_px, self.failures = runner.predict, batch, side_px, failures
        self.asked: list[tuple[int, int]] = []

    def __call__(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        self.asked.append((len(inputs), max(inputs[0].shape[1:])))
        if self.failures and (len(inputs) > self.batch or self.asked[-1][1] > self.side_px):
            self.failures -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.predict(inputs)


def codes(notes: list) -> list[str]:
    return [note.code for note in notes]


def test_out_of_memory_once_is_retried_as_it_was(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = inpainter.repair(IMAGE, MASK).image
    freed: list[int] = []
    short = ShortOfMemory(inpainter._runner, side_px=0, failures=1)
    monkeypatch.setattr(inpainter._runner, "predict", short)
    monkeypatch.setattr(inpainter._runner, "free_memory", lambda: freed.append(1))
    result = inpainter.repair(IMAGE, MASK)
    np.testing.assert_array_equal(result.image, expected)
    assert codes(result.notes) == ["out_of_memory"] and freed == [1] and len(short.asked) == 2


def test_next_smaller_bucket_is_tried_and_said(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ShortOfMemory(inpainter._runner, side_px=256)
    monkeypatch.setattr(inpainter._runner, "predict", short)
    result = inpainter.repair(IMAGE, MASK, dilate_px=0)
    assert codes(result.notes) == ["out_of_memory"] and "256 px" in result.notes[0]
    assert [side for _, side in short.asked] == [400, 400, 384, 256]
    np.testing.assert_array_equal(result.image[~MASK], IMAGE[~MASK])
    assert (result.image[MASK] != IMAGE[MASK]).any()


def test_cpu_is_the_last_resort(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = inpainter.repair(IMAGE, MASK).image
    monkeypatch.setattr(inpainter._runner, "predict", ShortOfMemory(inpainter._runner, side_px=0))
    result = inpainter.repair(IMAGE, MASK)
    assert codes(result.notes) == ["out_of_memory"] and "CPU" in result.notes[0]
    np.testing.assert_array_equal(result.image, expected)


def test_batch_too_large_is_run_one_by_one(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [RepairRequest(noise((60, 60), seed), block((60, 60), 20, 20, 9)) for seed in range(4)]
    expected = [inpainter.repair(request.image, request.mask).image for request in requests]
    short = ShortOfMemory(inpainter._runner, batch=1)
    monkeypatch.setattr(inpainter._runner, "predict", short)
    for result, image in zip(inpainter.repair_many(requests), expected, strict=True):
        np.testing.assert_array_equal(result.image, image)
    assert [batch for batch, _ in short.asked] == [4, 1, 1, 1, 1]


def test_libraries_own_words_for_no_memory_are_understood(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cuBLAS and cuDNN raise a plain RuntimeError when they find no room for a workspace."""

    def fail(inputs: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(inpainter._runner, "predict", fail)
    assert codes(inpainter.repair(IMAGE, MASK).notes) == ["out_of_memory"]


def test_memory_of_the_cpu_goes_down_the_same_ladder(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's CPU allocator raises a plain RuntimeError; here the real one, for a size that no machine has."""
    predict, sides = inpainter._runner.predict, []

    def short(inputs: list[torch.Tensor]) -> torch.Tensor:
        sides.append(max(inputs[0].shape[1:]))
        if sides[-1] > 256:
            torch.empty(1 << 58, dtype=torch.uint8)
        return predict(inputs)

    monkeypatch.setattr(inpainter._runner, "predict", short)
    result = inpainter.repair(IMAGE, MASK, dilate_px=0)
    assert codes(result.notes) == ["out_of_memory"] and "256 px" in result.notes[0] and sides == [400, 400, 384, 256]
    np.testing.assert_array_equal(result.image[~MASK], IMAGE[~MASK])


def test_memory_that_never_suffices_is_said_in_a_sentence(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.empty(1 << 58, dtype=torch.uint8)

    monkeypatch.setattr(inpainter._runner, "predict", fail)
    monkeypatch.setattr(inpainter._runner, "predict_on_cpu", fail)
    with pytest.raises(MemoryError, match="mark a smaller area"):
        inpainter.repair(IMAGE, MASK)


def test_other_errors_are_not_taken_for_out_of_memory(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(inputs: list[torch.Tensor]) -> torch.Tensor:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(inpainter._runner, "predict", fail)
    with pytest.raises(RuntimeError, match="illegal"):
        inpainter.repair(IMAGE, MASK)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_prediction_that_is_not_finite_is_made_again_in_float32(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """Half precision can overflow on weights it was not made for; only the spoilt repair of a batch is repeated."""
    requests = [RepairRequest(noise((60, 60), seed), block((60, 60), 20, 20, 9)) for seed in range(2)]
    expected = [inpainter.repair(request.image, request.mask).image for request in requests]
    predict = inpainter._runner.predict

    def spoil_the_second(inputs: list[torch.Tensor]) -> torch.Tensor:
        prediction = predict(inputs).clone()
        prediction[1, 0, 3, 3] = value
        return prediction

    monkeypatch.setattr(inpainter._runner, "predict", spoil_the_second)
    results = inpainter.repair_many(requests)
    assert [codes(result.notes) for result in results] == [[], ["fp32_retry"]]
    for result, image in zip(results, expected, strict=True):
        assert np.abs(result.image.astype(int) - image).max() <= 1


def test_weights_are_switched_without_two_models_at_once(inpainter: Inpainter, weights: list[Path]) -> None:
    first, before = inpainter.repair(IMAGE, MASK).image, inpainter._runner
    inpainter.switch_weights(weights[1])
    assert inpainter.weights_name == inpainter.describe()["weights"] == "second"
    assert before._fast is None, "the old model is still held"
    assert (inpainter.repair(IMAGE, MASK).image != first).any()
    inpainter.switch_weights(weights[0])
    np.testing.assert_array_equal(inpainter.repair(IMAGE, MASK).image, first)


def test_weights_that_fail_leave_the_old_ones_in_use(
    inpainter: Inpainter, weights: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = inpainter.repair(IMAGE, MASK).image
    with pytest.raises(CheckpointError):
        inpainter.switch_weights(tmp_path / "missing.safetensors")

    def fail(self: ModelRunner) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "warm_up", fail)
        with pytest.raises(RepairError, match="can't be put onto cpu"):
            inpainter.switch_weights(weights[1])
    assert inpainter.weights_name == "first"
    np.testing.assert_array_equal(inpainter.repair(IMAGE, MASK).image, expected)


def test_nothing_of_weights_that_failed_stays_behind(
    inpainter: Inpainter, weights: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card with room for one model has none for one that waits for the garbage collector."""
    failed: list[weakref.ref] = []

    def fail(self: ModelRunner) -> None:
        failed.append(weakref.ref(self))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ModelRunner, "warm_up", fail)
    gc.disable()
    try:
        with pytest.raises(RepairError):
            inpainter.switch_weights(weights[1])
        assert [reference() for reference in failed] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("still_fails", [False, True])
def test_weights_that_can_not_be_put_back_are_tried_again_by_the_next_repair(
    inpainter: Inpainter, weights: list[Path], monkeypatch: pytest.MonkeyPatch, still_fails: bool
) -> None:
    """Another program had taken the memory meanwhile, and the engine was left without weights for good."""
    expected = inpainter.repair(IMAGE, MASK).image

    def fail(self: ModelRunner, *, kernels: str = "auto") -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "restore", fail)
        with pytest.raises(RepairError, match="second can't be put onto cpu"):
            inpainter.switch_weights(weights[1])
        assert inpainter.describe()["kernels"] == "none"
        if still_fails:
            result = inpainter.repair(IMAGE, MASK)
            np.testing.assert_array_equal(result.image, expected)
            assert codes(result.notes) == ["out_of_memory"] and "CPU" in result.notes[0]
    result = inpainter.repair(IMAGE, MASK)
    np.testing.assert_array_equal(result.image, expected)
    assert result.notes == [] and inpainter.weights_name == "first"


@pytest.mark.slow
def test_measured_profile_is_written_and_wins(
    inpainter: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.autotune.LADDER_PX", (64, 128))
    monkeypatch.setattr("engine.autotune.REFERENCE_PX", 64)
    measured = autotune_profile(inpainter, folder=tmp_path)
    assert all(row.forward_ms and row.forward_ms > 0 for row in measured.rows)
    (row,) = yaml.safe_load(measured.path.read_text())["profiles"]
    assert row["name"].startswith("measured-cpu")
    (name,) = row["match"]
    profile, reason = choose_profile(Card(name), folder=tmp_path)
    assert profile == measured.profile and measured.path.name in reason
    assert inpainter.repair(IMAGE, MASK).patches, "the engine does not work after measuring"


def test_what_is_fast_and_wrong_is_not_measured_as_best(
    inpainter: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some cards compute half precision fast and wrongly; here bfloat16 is made to."""
    monkeypatch.setattr("engine.autotune.LADDER_PX", (64,))
    monkeypatch.setattr("engine.autotune.REFERENCE_PX", 64)
    monkeypatch.setattr("engine.autotune.cpu_supports_bf16", lambda: True)
    monkeypatch.setattr("engine.autotune.TIMED_RUNS", 1)
    predict = ModelRunner.predict

    def wrong(self: ModelRunner, inputs: list[torch.Tensor]) -> torch.Tensor:
        return torch.full((len(inputs), 3, 64, 64), torch.nan) if self.precision == "bf16" else predict(self, inputs)

    monkeypatch.setattr(ModelRunner, "predict", wrong)
    measured = autotune_profile(inpainter, folder=tmp_path)
    assert measured.profile.precision == "fp32"
    assert [row.failure for row in measured.rows if row.precision == "bf16"] == ["wrong"]
    monkeypatch.setattr(ModelRunner, "predict", lambda self, inputs: torch.zeros(len(inputs), 3, 64, 64))
    with pytest.raises(RepairError, match="wrong"):
        autotune_profile(inpainter, folder=tmp_path)


@pytest.mark.parametrize(("in_use", "written"), [("on", "on"), ("verify", "verify"), ("off", "verify")])
def test_graphs_that_the_profile_distrusts_are_written_to_be_verified(
    inpainter: Inpainter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_use: str, written: str
) -> None:
    def timed(_generator: object, _device: object, profile: Profile, side: int, batch: int, *_: object) -> AutotuneRow:
        forward_ms = (1.0 if profile.cuda_graph == "on" else 2.0) * side * batch
        return AutotuneRow(profile.precision, profile.cuda_graph, side, batch, forward_ms, None)

    monkeypatch.setattr(autotune, "_time_one", timed)
    monkeypatch.setattr(autotune, "_probes", lambda *_: [])
    monkeypatch.setattr(autotune, "_time_fp8", lambda *_: None)
    start = dataclasses.replace(inpainter.profile, cuda_graph=in_use)
    generator = inpainter._runner.generator
    measured = autotune.autotune_card(generator, Card("NVIDIA L4"), torch.device("cuda"), start, folder=tmp_path)
    assert measured.profile.cuda_graph == written


@pytest.mark.parametrize("before", ["off", "on"])
@pytest.mark.parametrize(
    ("forward_ms", "noise", "written", "failure"),
    [(94.0, 0.0, "on", ""), (96.0, 0.0, None, ""), (50.0, 0.2, None, "costs "), (None, 0.0, None, None)],
    ids=["faster", "hardly faster", "costs too much", "no FP8 here"],
)
def test_fp8_is_written_where_it_is_faster_and_costs_nothing(
    inpainter: Inpainter,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forward_ms: float | None,
    noise: float,
    written: str | None,
    failure: str | None,
    before: str,
) -> None:
    """Card and times are made up; predictions are a CPU's, those in FP8 made worse by noise.

    What the profile in use says of FP8 does not count: it may have been measured with other weights.
    """
    on_cpu, make_probes = inpainter._runner, autotune._probes

    class Runner:
        """Of a card that has FP8 where the case has a time for it."""

        has_fp8 = forward_ms is not None

        def __init__(self, _generator: object, *, profile: Profile, **_: object) -> None:
            self.noise = noise if profile.fp8 == "on" else 0.0

        def predict(self, inputs: list[torch.Tensor]) -> torch.Tensor:
            random = torch.Generator().manual_seed(1)
            prediction = on_cpu.predict(inputs)
            return prediction + self.noise * torch.randn(prediction.shape, generator=random)

        def release(self) -> None:
            pass

    def timed(_generator: object, _device: object, profile: Profile, side: int, batch: int, *_: object) -> AutotuneRow:
        each_ms = forward_ms if profile.fp8 == "on" else 100.0
        return AutotuneRow(profile.precision, profile.cuda_graph, side, batch, each_ms, None)

    monkeypatch.setattr(autotune, "LADDER_PX", (64,))
    monkeypatch.setattr(autotune, "REFERENCE_PX", 64)
    monkeypatch.setattr(autotune, "ModelRunner", Runner)
    monkeypatch.setattr(autotune, "_time_one", timed)
    monkeypatch.setattr(
        autotune, "_probes", lambda generator, _, images: make_probes(generator, torch.device("cpu"), images)
    )
    card, start = Card("NVIDIA H200", (9, 0), 140_000), dataclasses.replace(inpainter.profile, fp8=before)
    measured = autotune.autotune_card(on_cpu.generator, card, torch.device("cuda"), start, folder=tmp_path)
    (row,) = yaml.safe_load(measured.path.read_text())["profiles"]
    assert row.get("fp8") == written and measured.profile.fp8 == (written or "off")
    failures = [each.failure for each in measured.rows if each.precision == "fp8"]
    assert len(failures) == (failure is not None) and all(each.startswith(failure or "") for each in failures)
    assert choose_profile(card, folder=tmp_path)[0] == measured.profile


@pytest.mark.slow
def test_a_card_without_room_for_the_weights_leaves_the_work_to_the_cpu(
    weights: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    restore, tries = ModelRunner.restore, []

    def full_once(self: ModelRunner) -> None:
        tries.append(str(self.device))
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        restore(self)

    monkeypatch.setattr(ModelRunner, "restore", full_once)
    inpainter = Inpainter.load(weights[0])
    assert inpainter.repair(IMAGE, MASK).patches
    assert inpainter.device == "cpu" and "no room for the weights" in inpainter.profile_reason
    assert inpainter.weights_name == "first"
    tries.clear()
    with pytest.raises(RepairError, match="no room for the weights"):
        Inpainter.load(weights[0], device="cpu")


def test_kernels_that_fail_at_a_size_give_way_to_plain_pytorch(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Block shapes that ask for more shared memory than there is passed a trial at 64 px, then stopped the start."""
    runner = inpainter._runner
    assert runner._fast is not None
    runner._fast.uses_triton = True
    failures = ["out of resource: shared memory, Required: 327680, Hardware limit: 232448"]
    predict = runner.predict

    def failing(inputs: list[torch.Tensor]) -> torch.Tensor:
        if failures:
            raise ValueError(failures.pop())
        return predict(inputs)

    monkeypatch.setattr(runner, "predict", failing)
    runner.warm_up()
    assert "shared memory" in caplog.text and "plain PyTorch" in str(inpainter.describe()["kernels"])
    assert codes(inpainter.repair(IMAGE, MASK).notes) == []
    asked_for = []
    monkeypatch.setattr("engine.model_runner.FastGenerator", lambda *_, **options: asked_for.append(options["kernels"]))
    runner.release()
    runner.restore()
    assert asked_for == ["torch"], "kernels that failed are tried again"


def test_a_failure_that_is_not_the_kernels_is_not_hidden(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(inputs: list[torch.Tensor]) -> torch.Tensor:
        raise ValueError("broken")

    monkeypatch.setattr(inpainter._runner, "predict", failing)
    with pytest.raises(ValueError, match="broken"):
        inpainter._runner.warm_up()
