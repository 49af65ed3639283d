"""Deep holes go to the crisp network, all others to the accurate one; both keep what is outside the hole."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import inference
from engine.hole_depth import DEEP_PX, is_deep_hole
from engine.model_runner import ModelRunner
from engine.profiles import Card, choose_profile
from inference import Inpainter, RepairError, RepairRequest
from lama.checkpoint import save_generator
from lama.generator import Generator
from masks.crop_plan import Crop, plan_crops

ACCURATE, CRISP = 0.2, 0.8  # what the two networks paint, as parts of white
SIZE = (320, 400)


class Painter:
    """A runner's prediction: one grey everywhere, and how many it was asked for."""

    def __init__(self, grey: float) -> None:
        self.grey = grey
        self.batches: list[int] = []

    def __call__(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        self.batches.append(len(inputs))
        return torch.full((len(inputs), 3, *inputs[0].shape[1:]), self.grey)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> tuple[Inpainter, Painter, Painter]:
    """An engine of two tiny networks whose predictions are painted."""
    profile, _ = choose_profile(Card("a processor"), name="cpu")
    tiny = [Generator(width=4, blocks=1).eval() for _ in range(2)]
    runner = ModelRunner(tiny[0], crisp=tiny[1], device=torch.device("cpu"), precision="fp32", profile=profile)
    painters = Painter(ACCURATE), Painter(CRISP)
    for one, painter in zip((runner, runner.for_hole(is_deep=True)), painters, strict=True):
        monkeypatch.setattr(one, "predict", painter)
    return Inpainter(runner, weights_name="tiny", profile_reason=""), *painters


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)


def square(side_px: int, top: int = 100, left: int = 150) -> np.ndarray:
    mask = np.zeros(SIZE, np.bool_)
    mask[top : top + side_px, left : left + side_px] = True
    return mask


def plan(mask: np.ndarray, *, dilate_px: int | None = 0, bucket_px: int = 512) -> Crop:
    (crop,) = plan_crops(mask, buckets_px=(bucket_px,), fixed_buckets=False, dilate_px=dilate_px)
    return crop


@pytest.mark.parametrize("dilate_px", [0, 20, None])
def test_a_hole_is_deep_by_itself_not_by_its_dilation(dilate_px: int | None) -> None:
    deep, shallow = round(2 * DEEP_PX * 1.2), round(2 * DEEP_PX * 0.8)
    assert is_deep_hole(plan(square(deep), dilate_px=dilate_px))
    assert not is_deep_hole(plan(square(shallow), dilate_px=dilate_px))


def test_a_long_thin_hole_is_not_deep_and_the_images_edge_is_no_known_pixel() -> None:
    line = np.zeros(SIZE, np.bool_)
    line[150:180, 20:380] = True
    assert not is_deep_hole(plan(line))
    at_the_edge = square(round(DEEP_PX * 1.3), top=0, left=0)
    assert is_deep_hole(plan(at_the_edge))


def test_depth_counts_in_pixels_of_the_networks_input() -> None:
    """The same hole in a box that runs at a fraction of its size is that much shallower."""
    mask = np.zeros((1200, 1200), np.bool_)
    mask[500:620, 500:620] = True
    crop = plan(mask, bucket_px=2048)
    smaller = plan(mask, bucket_px=64)
    assert is_deep_hole(crop)
    assert smaller.is_scaled
    assert not is_deep_hole(smaller)


def test_deep_holes_are_crisp_others_accurate_and_the_rest_stays(engine: tuple[Inpainter, Painter, Painter]) -> None:
    inpainter, accurate, crisp = engine
    image = photo()
    for mask, grey in ((square(100), CRISP), (square(20), ACCURATE)):
        result = inpainter.repair(image, mask, dilate_px=0).image
        assert np.abs(result[mask].astype(int) - round(255 * grey)).max() <= 1
        assert np.array_equal(result[~mask], image[~mask])
    assert (accurate.batches, crisp.batches) == ([1], [1])


def test_repairs_of_both_kinds_together_are_those_of_one_by_one(engine: tuple[Inpainter, Painter, Painter]) -> None:
    inpainter, _, _ = engine
    requests = [RepairRequest(photo(), square(side), dilate_px=0) for side in (100, 20, 110, 24)]
    together = inpainter.repair_many(requests)
    for request, result in zip(requests, together, strict=True):
        assert np.array_equal(result.image, inpainter.repair(request.image, request.mask, dilate_px=0).image)


def test_a_prediction_that_is_not_finite_is_made_again_by_the_same_network(
    engine: tuple[Inpainter, Painter, Painter], monkeypatch: pytest.MonkeyPatch
) -> None:
    inpainter, _, crisp = engine
    crisp.grey = float("nan")
    again = Painter(0.5)
    monkeypatch.setattr(inpainter._runner.for_hole(is_deep=True), "predict_float32", again)
    mask = square(100)
    result = inpainter.repair(photo(), mask, dilate_px=0)
    assert [note.code for note in result.notes] == ["fp32_retry"]
    assert np.abs(result.image[mask].astype(int) - 128).max() <= 1


def test_memory_is_given_back_by_both_networks(engine: tuple[Inpainter, Painter, Painter]) -> None:
    runner = engine[0]._runner
    crisp = runner.for_hole(is_deep=True)
    for asked in (runner, crisp):
        for one in (runner, crisp):
            one.predict_float32([torch.zeros(4, 32, 32)])
            assert one._float32 is not None
        asked.free_memory()
        assert runner._float32 is crisp._float32 is None
    runner.release()
    assert runner._fast is crisp._fast is None
    runner.warm_up()
    assert runner._fast is not None
    assert crisp._fast is not None


def test_only_the_embedded_weights_have_a_crisp_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Generator(width=4, blocks=1).eval()
    save_generator(base, tmp_path / "tiny.safetensors")
    asked: list[Path] = []

    def apply(generator: Generator, path: Path) -> Generator:
        asked.append(path)
        return generator

    monkeypatch.setattr(inference, "load_generator", lambda path: base)
    monkeypatch.setattr(inference, "apply_difference", apply)
    how: dict[str, Any] = {"device": "cpu", "precision": "fp32", "profile": "cpu"}
    assert Inpainter.load(**how)._runner.has_crisp
    assert Inpainter.load(inference.EMBEDDED_WEIGHTS, **how)._runner.has_crisp
    assert not Inpainter.load(large_holes="accurate", **how)._runner.has_crisp
    inpainter = Inpainter.load(tmp_path / "tiny.safetensors", **how)
    assert not inpainter._runner.has_crisp
    inpainter.switch_weights(None)
    assert inpainter._runner.has_crisp
    assert asked == [inference.CRISP_WEIGHTS] * 3
    with pytest.raises(RepairError, match="large_holes"):
        Inpainter.load(large_holes="fuzzy", **how)


def test_a_checkout_without_the_crisp_weights_repairs_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = Generator(width=4, blocks=1).eval()
    monkeypatch.setattr(inference, "load_generator", lambda path: base)
    monkeypatch.setattr(inference, "CRISP_WEIGHTS", tmp_path / "missing.safetensors")
    settings = SimpleNamespace(weights="", weights_dir=tmp_path, device="cpu", precision="fp32", profile="cpu")
    inpainter = inference.load_inpainter(settings)  # of a program that knows no `large_holes`
    assert not inpainter._runner.has_crisp
    assert "softly" in caplog.text
    assert inpainter.repair(photo(), square(100)).patches
