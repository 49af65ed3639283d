"""The context pass: for which holes it is taken, what of it comes into the fill, and what when it fails."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from engine.context_pass import (
    CONTEXT_PX,
    LEAST_SAMPLES,
    RAMP_PX,
    SEAM_PX,
    SIGMA_PX,
    plan_context,
    transfer_low_frequencies,
)
from engine.executor import CropTask, fill
from engine.stage_timer import StageTimer
from engine.tiled_refinement import hard_edged
from inference import Inpainter, RepairRequest
from lama.checkpoint import save_generator
from lama.generator import Generator
from masks.boxes import box_size, slices_inside
from masks.crop_plan import NO_CONTEXT_PASS_PX, Crop, plan_crops, shrink_crop
from masks.dilation import PreparedMask
from preprocess import build_input, upload
from tensor_ops.pinned_memory import PinnedMemory

CPU = PinnedMemory(torch.device("cpu"))
SIZE = (1200, 1600)


def plan(mask: np.ndarray, *, largest_px: int = 1024) -> Crop:
    buckets_px = tuple(px for px in (256, 512, 640, 768, 1024) if px <= largest_px)
    (crop,) = plan_crops(mask, buckets_px=buckets_px, fixed_buckets=True, dilate_px=3)
    return crop


def square_hole(side_px: int, size: tuple[int, int] = SIZE, corner: tuple[int, int] = (400, 500)) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[corner[0] : corner[0] + side_px, corner[1] : corner[1] + side_px] = True
    return mask


def context_crop_for(crop: Crop, mask: np.ndarray) -> Crop:
    low = plan_context(crop, (mask.shape[0], mask.shape[1]))
    assert low is not None
    return low


def context_of(low: Crop, rgb: np.ndarray) -> Tensor:
    """What `transfer_low_frequencies` is given when the context prediction is (model height, model width, 3)."""
    missing = build_input(upload(low, np.zeros((*SIZE, 3), np.uint8), CPU))[3:]
    return torch.cat([torch.from_numpy(rgb.astype(np.float32)).permute(2, 0, 1), missing])


def test_small_and_thin_holes_and_small_photos_need_no_context_pass() -> None:
    mask = square_hole(300)
    assert max(plan(mask).model_size) <= NO_CONTEXT_PASS_PX and plan_context(plan(mask), SIZE) is None
    for width_px in (6, 80):
        stroke = np.zeros(SIZE, np.bool_)
        stroke[600 : 600 + width_px, 300:1000] = True
        assert max(plan(stroke).model_size) > NO_CONTEXT_PASS_PX and plan_context(plan(stroke), SIZE) is None
    small = np.zeros((600, 700), np.bool_)
    small[100:500, 100:500] = True
    assert plan_context(plan(small), (600, 700)) is None


@pytest.mark.parametrize("largest_px", [512, 768, 1024])
def test_context_of_a_large_hole_sees_more_at_a_smaller_scale(largest_px: int) -> None:
    mask = square_hole(600)
    crop = plan(mask, largest_px=largest_px)
    low = plan_context(crop, SIZE)
    if largest_px <= CONTEXT_PX:  # a card that runs no larger input sees enough as it is
        assert low is None
        return
    assert low is not None
    assert low.patch_box == crop.patch_box and max(low.model_size) == CONTEXT_PX
    assert low.box[0] <= crop.box[0] and low.box[1] <= crop.box[1]
    assert low.box[2] >= crop.box[2] and low.box[3] >= crop.box[3]
    assert low.box[2] - low.box[0] > crop.box[2] - crop.box[0]


def test_a_context_is_made_from_no_more_of_the_photo_than_it_needs() -> None:
    """Bringing all of a large photo to the device took longer than everything else together."""
    mask = square_hole(1000, (3000, 4000), (900, 1500))
    low = context_crop_for(plan(mask), mask)
    scale = max(box_size(low.box)) / CONTEXT_PX
    assert scale > 6 and scale / 2 < low.sample_step <= scale / LEAST_SAMPLES
    assert plan(mask).sample_step == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("step", [2, 3])
def test_a_sampled_context_is_that_of_the_photo_without_the_pixels_between(dtype: type, step: int) -> None:
    """Against a photo that has only the sampled pixels, and the hole where they are missing."""
    mask = square_hole(600)
    low = replace(context_crop_for(plan(mask), mask), sample_step=step)
    image: np.ndarray = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*SIZE, 3), dtype=dtype)
    rows, columns = slices_inside(low.box, (0, 0, SIZE[1], SIZE[0]))
    photo = np.ascontiguousarray(image[rows, columns][step // 2 :: step, step // 2 :: step])
    missing = np.ascontiguousarray(low.missing[step // 2 :: step, step // 2 :: step])
    whole = (0, 0, missing.shape[1], missing.shape[0])
    alone = Crop(
        whole,
        whole,
        low.scaled_size,
        low.model_size,
        PreparedMask(whole, missing, missing.astype(np.float32)),
    )
    expected = build_input(upload(alone, photo, CPU))
    torch.testing.assert_close(build_input(upload(low, image, CPU)), expected, atol=1e-5, rtol=0)


HOLES = {
    "in the middle": (600, (400, 500), 1024),
    "at the photo's corner": (600, (0, 0), 1024),
    "off centre": (620, (570, 903), 1024),
    "scaled and padded": (1000, (100, 301), 768),
    "scaled below the context": (1000, (100, 301), 768),
}


def depth_px(missing: np.ndarray) -> np.ndarray:
    """How far each pixel of the patch lies from its rim, or from the patch's edge."""
    return cv2.distanceTransform(np.pad(missing, 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def slow_shift(fine: np.ndarray, broad: np.ndarray, crop: Crop, low: Crop) -> np.ndarray:
    """The definition, at the photo's own size and with OpenCV: what is added to each pixel of the patch."""

    def on_patch(prediction: np.ndarray, owner: Crop) -> np.ndarray:
        height, width = owner.scaled_size
        whole = cv2.resize(prediction[:height, :width], box_size(owner.box)[::-1], interpolation=cv2.INTER_LINEAR)
        return whole[slices_inside(owner.patch_box, owner.box)]

    missing = crop.missing[slices_inside(crop.patch_box, crop.box)].astype(np.float32)
    scale = max(box_size(low.box)) / max(low.scaled_size)
    difference = (on_patch(broad, low) - on_patch(fine, crop)) * missing[..., None]
    total, share = (
        cv2.GaussianBlur(x, (0, 0), SIGMA_PX * scale, borderType=cv2.BORDER_CONSTANT) for x in (difference, missing)
    )
    ramp = np.clip((depth_px(missing) / scale - SEAM_PX) / RAMP_PX, 0, 1)
    return np.asarray(total / np.maximum(share, 1e-3)[..., None] * ramp[..., None])


@pytest.mark.slow
@pytest.mark.parametrize("where", HOLES)
def test_shift_is_the_blurred_difference_wherever_the_hole_lies(where: str) -> None:
    side_px, corner, largest_px = HOLES[where]
    mask = square_hole(side_px, corner=corner)
    mask[corner[0] : corner[0] + 150, corner[1] : corner[1] + 200] = False  # not the same both ways
    crop = plan(mask, largest_px=largest_px)
    low = context_crop_for(crop, mask)
    assert crop.is_scaled == where.startswith("scaled")
    if where == "scaled below the context":  # as when memory is short
        crop = shrink_crop(crop, 256)
    random = np.random.default_rng(0)
    fine = cv2.resize(random.random((40, 40, 3), np.float32), crop.model_size[::-1], interpolation=cv2.INTER_CUBIC)
    broad = cv2.resize(random.random((9, 9, 3), np.float32), low.model_size[::-1], interpolation=cv2.INTER_CUBIC)
    kept = torch.from_numpy(fine).permute(2, 0, 1).contiguous()
    before = kept.clone()
    shifted = transfer_low_frequencies(kept, crop, context_of(low, broad), low)
    assert torch.equal(kept, before)
    height, width = crop.scaled_size
    got = (shifted - kept).permute(1, 2, 0).numpy()
    assert not got[height:].any() and not got[:, width:].any(), "what was padded is nobody's"
    got = cv2.resize(got[:height, :width], box_size(crop.box)[::-1], interpolation=cv2.INTER_LINEAR)
    got = got[slices_inside(crop.patch_box, crop.box)]
    expected = slow_shift(fine, broad, crop, low)
    depth = depth_px(crop.missing[slices_inside(crop.patch_box, crop.box)])
    deep = depth > (SEAM_PX + RAMP_PX + 2) * max(box_size(low.box)) / CONTEXT_PX
    assert deep.mean() > 0.3 and expected[deep].std() > 0.05
    assert np.abs(got - expected)[deep].max() < 0.02
    # Near the rim both grids show, and that of the context has pixels larger than the photo's.
    assert np.abs(got - expected).mean() < 0.006 and np.abs(got - expected).max() < 0.15


def test_colours_come_from_the_context_and_detail_stays() -> None:
    mask = square_hole(600)
    crop = plan(mask)
    low = context_crop_for(crop, mask)
    detail = torch.rand((3, *crop.model_size), generator=torch.Generator().manual_seed(0)) * 0.1
    prediction = 0.35 + detail
    shifted = transfer_low_frequencies(prediction, crop, context_of(low, np.full((*low.model_size, 3), 0.52)), low)
    shift = (shifted - prediction)[:, : crop.scaled_size[0], : crop.scaled_size[1]].numpy()
    assert np.abs(shift[:, ~crop.missing]).max() < 0.005, (
        "a pixel of the context that lies on the edge reaches beyond it"
    )
    top, left = 400 - crop.box[1], 500 - crop.box[0]
    middle = shift[:, top + 250 : top + 350, left + 250 : left + 350]
    assert abs(middle.mean() - 0.12) < 0.003 and middle.std() < 0.003, "all of the colour, none of the missing detail"
    assert np.abs(shift[:, top, left : left + 600]).max() < 0.005, "the rim stays, or there would be a seam"
    assert np.abs(np.diff(shift[:, top + 300])).max() <= 0.005, "no step on the way in"


def test_equal_contexts_change_nothing() -> None:
    mask = square_hole(600)
    crop = plan(mask)
    low = context_crop_for(crop, mask)
    prediction = torch.full((3, *crop.model_size), 0.4)
    context = context_of(low, np.full((*low.model_size, 3), 0.4))
    torch.testing.assert_close(transfer_low_frequencies(prediction, crop, context, low), prediction, atol=1e-6, rtol=0)


class Painter:
    """Predicts the grey that the photo has at its top left corner, and 51 levels more in a context pass.

    Like a replayed graph it gives its own memory away, which the next call overwrites.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[int, ...]] = []
        self._own: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, inputs: list[Tensor]) -> Tensor:
        x = torch.stack(inputs)
        self.asked.append(tuple(x.shape))
        own = self._own.setdefault(tuple(x.shape), torch.empty_like(x[:, :3]))
        broadly = max(x.shape[2:]) == CONTEXT_PX
        return own.copy_(x[:, :3, :1, :1].expand_as(own)).add_(0.2 if broadly else 0)


@pytest.fixture
def inpainter(tmp_path: Path) -> Inpainter:
    torch.manual_seed(0)
    save_generator(Generator(width=4, blocks=1).eval(), tmp_path / "tiny.safetensors")
    return Inpainter.load(tmp_path / "tiny.safetensors", device="cpu", precision="fp32", profile="cpu")


@pytest.fixture
def painter(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> Painter:
    painter = Painter()
    monkeypatch.setattr(inpainter._runner, "predict", painter)
    # The photos here are flat: of 16 bits they use one value, and would be shown stretched (`engine/tones.py`).
    monkeypatch.setattr("engine.repair_steps.shown_levels", lambda *arguments: None)
    return painter


def grey_request(level: int, mask: np.ndarray, dtype: type = np.uint8) -> RepairRequest:
    return RepairRequest(np.full((*mask.shape, 3), level * (np.iinfo(dtype).max // 255), dtype), mask, 0)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_each_photo_takes_the_colours_of_its_own_context(inpainter: Inpainter, painter: Painter, dtype: type) -> None:
    """Three at once, one without a low, through predictions that don't outlive the next one."""
    large = square_hole(600)
    masks = [large, square_hole(80), square_hole(1100, corner=(50, 300)), large]
    levels = [60, 20, 100, 140]
    requests = [grey_request(level, mask, dtype) for level, mask in zip(levels, masks, strict=True)]
    unit = np.iinfo(dtype).max // 255
    for request, level, mask, result in zip(requests, levels, masks, inpainter.repair_many(requests), strict=True):
        assert result.image.dtype == dtype and not {note.code for note in result.notes} - {"scaled"}
        np.testing.assert_array_equal(result.image[~mask], level * unit)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        middle = result.image[int(rows.mean()), int(columns.mean())] / unit
        assert np.abs(middle - level - (51 if mask.sum() > 10_000 else 0)).max() <= 0.6
        assert np.abs(result.image[rows[0], columns] / unit - level).max() <= 1.5, "the rim"
        alone = inpainter.repair(request.image, mask, dilate_px=0)
        np.testing.assert_array_equal(alone.image, result.image)
    assert (2, 4, 512, 512) in painter.asked, "contexts of one size are one batch"


def test_known_region_is_byte_exact_with_a_context_pass(inpainter: Inpainter, painter: Painter) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    mask = square_hole(600)
    result = inpainter.repair(image, mask, dilate_px=0)
    assert any(max(shape) == CONTEXT_PX for shape in painter.asked)
    np.testing.assert_array_equal(result.image[~mask], image[~mask])


def test_fill_that_is_refined_begins_with_the_colours_of_the_context(inpainter: Inpainter, painter: Painter) -> None:
    mask = square_hole(1000, corner=(100, 301))
    (crop,) = plan_crops(mask, buckets_px=(256, 768), fixed_buckets=False)
    low = context_crop_for(crop, mask)
    image = np.full((*SIZE, 3), 80, np.uint8)
    (coarse,) = fill([CropTask(image, hard_edged(crop), low)], inpainter._runner, StageTimer(torch.device("cpu")))
    middle = coarse.patch[coarse.patch.shape[0] // 2, coarse.patch.shape[1] // 2]
    assert np.abs(middle.astype(int) - 131).max() <= 1


def failing_context_pass(predict: Callable[[list[Tensor]], Tensor], failure: Exception | float) -> Callable:
    """`predict`, but that a context pass fails: with an error, or a value somewhere."""

    def wrapped(inputs: list[Tensor]) -> Tensor:
        prediction = predict(inputs)
        if max(inputs[0].shape) == CONTEXT_PX:
            if isinstance(failure, Exception):
                raise failure
            prediction[:, 1, 200, 250] = failure
        return prediction

    return wrapped


@pytest.mark.parametrize("host_has_memory", [True, False])
def test_context_without_memory_is_made_on_the_cpu_or_left_out_and_said(
    inpainter: Inpainter, painter: Painter, monkeypatch: pytest.MonkeyPatch, host_has_memory: bool
) -> None:
    freed: list[int] = []
    no_memory = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    fails = failing_context_pass(painter, no_memory)
    monkeypatch.setattr(inpainter._runner, "predict", fails)
    monkeypatch.setattr(inpainter._runner, "predict_on_cpu", painter if host_has_memory else fails)
    monkeypatch.setattr(inpainter._runner, "free_memory", lambda: freed.append(1))
    request = grey_request(60, square_hole(600))
    result = inpainter.repair(request.image, request.mask)
    assert freed == [1]
    if host_has_memory:
        (note,) = result.notes
        assert note.code == "out_of_memory" and "CPU" in note
        assert abs(int(result.image[700, 800, 1]) - 111) <= 1, "what was context did not come to the hole"
    else:
        assert [note.code for note in result.notes] == ["look_left_out"]
        np.testing.assert_array_equal(result.image, request.image)


def test_memory_that_neither_context_nor_box_has_is_said_once(
    inpainter: Inpainter, painter: Painter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(inputs: list[Tensor]) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(inpainter._runner, "predict", fails)
    monkeypatch.setattr(inpainter._runner, "predict_on_cpu", painter)
    request = grey_request(60, square_hole(600))
    result = inpainter.repair(request.image, request.mask)
    assert [note.code for note in result.notes] == ["out_of_memory"] and "the box" in result.notes[0]
    assert abs(int(result.image[700, 800, 1]) - 111) <= 1


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (3, 9000)])
def test_photo_a_few_pixels_high_has_a_context_too(
    inpainter: Inpainter, painter: Painter, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Of its rows every n-th was to be sampled, and there were fewer than n."""
    monkeypatch.setattr(inpainter._runner, "predict", painter)
    request = grey_request(60, np.ones(size, np.bool_))
    assert inpainter._plan(request)[0].model_size != size
    assert plan_context(inpainter._plan(request)[0], size) is not None
    assert inpainter.repair(request.image, request.mask).image.shape == (*size, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("also_in_float32", [False, True])
def test_context_that_is_not_finite_is_made_again_in_float32_or_left_out(
    inpainter: Inpainter, painter: Painter, monkeypatch: pytest.MonkeyPatch, value: float, also_in_float32: bool
) -> None:
    bad = failing_context_pass(painter, value)
    monkeypatch.setattr(inpainter._runner, "predict", bad)
    monkeypatch.setattr(inpainter._runner, "predict_float32", bad if also_in_float32 else painter)
    request = grey_request(60, square_hole(600))
    result = inpainter.repair(request.image, request.mask)
    codes = [note.code for note in result.notes]
    assert sorted(codes) == ["fp32_retry", "look_left_out"] if also_in_float32 else codes == ["fp32_retry"]
    assert abs(int(result.image[700, 800, 1]) - (60 if also_in_float32 else 111)) <= 1
