"""Arrays to model input and back: depth, masking, scaling, padding and the composite's rounding."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import preprocess
from masks.boxes import Box, slices_inside
from masks.crop_plan import Crop, plan_crops
from masks.dilation import PreparedMask
from preprocess import build_input, composite, pad_to_model, unpad, upload
from tensor_ops import mask_dilation
from tensor_ops.mask_dilation import dilate_on_device, squared_distance
from tensor_ops.pinned_memory import PinnedMemory
from tensor_ops.resampling import average_weights, covers, cubic_weights, resize_rows

CPU = PinnedMemory(torch.device("cpu"))


def whole_crop(height: int, width: int, missing: np.ndarray, alpha: np.ndarray | None = None) -> Crop:
    """A crop that is the whole image, hard-edged unless its weights are given."""
    box = (0, 0, width, height)
    hole = PreparedMask(box, missing, missing.astype(np.float32) if alpha is None else alpha)
    return Crop(box, box, (height, width), (height, width), hole)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_input_is_the_masked_image_in_unit_range_then_the_mask(dtype: type) -> None:
    rng = np.random.default_rng(0)
    top = np.iinfo(dtype).max
    image: np.ndarray = rng.integers(0, top, (24, 32, 3), dtype=dtype, endpoint=True)
    missing = rng.random((24, 32)) < 0.3
    crop = whole_crop(24, 32, missing)
    x = build_input(upload(crop, image, CPU)).numpy()
    assert x.shape == (4, 24, 32) and x.dtype == np.float32
    np.testing.assert_allclose(x[:3].transpose(1, 2, 0), image / top * ~missing[..., None], atol=1e-6)
    np.testing.assert_array_equal(x[3], missing)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_survives_the_composite(dtype: type) -> None:
    """A prediction that is the original itself, at alpha 1, must give all levels back; truncating would not."""
    top = np.iinfo(dtype).max
    levels: np.ndarray = np.arange(top + 1, dtype=dtype).reshape(16, -1)
    image = np.repeat(levels[..., None], 3, axis=2)
    crop = whole_crop(16, levels.shape[1], np.ones(levels.shape, np.bool_))
    source = upload(crop, image, CPU)
    prediction = torch.from_numpy((image / top).astype(np.float32)).permute(2, 0, 1)
    patch = composite(prediction, source)
    assert patch.dtype == dtype
    np.testing.assert_array_equal(patch, image)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_composite_mixes_on_the_original_integers(dtype: type) -> None:
    rng = np.random.default_rng(1)
    top = np.iinfo(dtype).max
    image: np.ndarray = rng.integers(0, top, (40, 40, 3), dtype=dtype, endpoint=True)
    alpha = rng.random((40, 40)).astype(np.float32)
    alpha[rng.random((40, 40)) < 0.3] = 0
    crop = whole_crop(40, 40, alpha > 0, alpha)
    prediction = rng.random((3, 40, 40)).astype(np.float32)
    patch = composite(torch.from_numpy(prediction), upload(crop, image, CPU))
    exact = image + alpha[..., None].astype(np.float64) * (prediction.transpose(1, 2, 0) * top - image)
    assert np.abs(patch - exact).max() <= 0.51
    np.testing.assert_array_equal(patch[alpha == 0], image[alpha == 0])


def test_alpha_zero_keeps_the_original_even_under_nan() -> None:
    image = np.random.default_rng(2).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    crop = whole_crop(16, 16, np.ones((16, 16), np.bool_), np.zeros((16, 16), np.float32))
    patch = composite(torch.full((3, 16, 16), float("nan")), upload(crop, image, CPU))
    np.testing.assert_array_equal(patch, image)


@pytest.mark.parametrize("shift_px", range(5))
def test_object_in_the_hole_does_not_bleed_when_scaled_down(shift_px: int) -> None:
    """A white object on grey, scaled to a quarter: plain resizing would leave a light rim around the hole."""
    image = np.full((400, 400, 3), 100, np.uint8)
    mask = np.zeros((400, 400), np.bool_)
    mask[101 : 298 + shift_px, 103:301] = True
    image[mask] = 255
    (crop,) = plan_crops(mask, buckets_px=(104,), fixed_buckets=True, dilate_px=0)
    x = build_input(upload(crop, image, CPU)).numpy()
    known = x[3] == 0
    assert crop.is_scaled and known.any()
    np.testing.assert_allclose(x[:3, known], 100 / 255, atol=1e-3)
    assert (x[:3, ~known] == 0).all() and set(np.unique(x[3])) == {0, 1}


def test_scaled_fill_comes_back_at_full_size() -> None:
    mask = np.zeros((300, 500), np.bool_)
    mask[20:280, 30:470] = True
    (crop,) = plan_crops(mask, buckets_px=(128,), fixed_buckets=True, dilate_px=0)
    source = upload(crop, np.zeros((300, 500, 3), np.uint8), CPU)
    ramp = torch.linspace(0, 1, crop.scaled_size[1]).expand(3, crop.scaled_size[0], -1)
    patch = composite(pad_to_model(ramp, crop.model_size, CPU), source)
    assert patch.shape == (260, 440, 3)
    expected = (np.arange(30, 470) + 0.5) / 500 * 255  # pixel centres keep their place
    assert np.abs(patch[130, :, 0] - expected).max() < 2.5


@pytest.mark.parametrize("feather_px", [None, 0, 3])
@pytest.mark.parametrize("dilate_px", [None, 0, 9])
def test_device_grows_holes_as_the_host_does(dilate_px: int | None, feather_px: int | None) -> None:
    """Three holes of different thickness, one cut by the image's corner, in boxes that see parts of each other."""
    mask = np.zeros((300, 420), np.bool_)
    mask[:70, :80] = True
    mask[120:124, 60:300] = True
    mask[200:203, 250:330] = True
    crops = plan_crops(mask, buckets_px=(128, 256), fixed_buckets=True, dilate_px=dilate_px, feather_px=feather_px)
    assert len(crops) > 1 and any(crop.missing.sum() > (crop.alpha > 0).sum() for crop in crops)
    for crop in crops:
        dilated = dilate_on_device(crop.hole, CPU)
        assert dilated is not None and len(dilated.values_px) == (2 if dilate_px is None else 1)
        missing, make_alpha = dilated.layers(crop.box)
        np.testing.assert_array_equal(missing.numpy(), crop.missing)
        inner = slices_inside(crop.patch_box, crop.box)
        np.testing.assert_allclose(make_alpha()[inner].numpy(), crop.alpha, atol=1e-6)


@given(
    st.integers(1, 12), st.integers(1, 12), st.integers(0, 9), st.integers(0, 2**32 - 1), st.sampled_from([40, 1 << 24])
)
def test_squared_distance_is_exact_within_reach(height: int, width: int, most_px: int, seed: int, at_once: int) -> None:
    hole = np.random.default_rng(seed).random((height, width)) < 0.1
    ys, xs = np.nonzero(hole)
    yy, xx = np.mgrid[:height, :width]
    far = np.full((*hole.shape, 1), 1e9)
    squares = np.square(yy[..., None] - ys) + np.square(xx[..., None] - xs)
    exact = np.asarray(np.concatenate([far, squares], axis=-1).min(axis=-1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_dilation, "SUMS_AT_ONCE", at_once)  # in strips of one row, and in one piece
        squared = squared_distance(torch.from_numpy(hole), most_px).numpy()
    near = exact <= most_px**2
    np.testing.assert_array_equal(squared[near], exact[near])
    assert (squared[~near] > most_px**2).all()


def test_holes_that_grow_by_many_values_or_far_are_left_to_the_host() -> None:
    mask = np.zeros((200, 1200), np.bool_)
    for index, side in enumerate((4, 30, 60, 90, 120, 150)):
        mask[20 : 20 + side, 200 * index : 200 * index + side] = True
    for dilate_px in (None, 65):
        crop = plan_crops(mask, buckets_px=(256,), fixed_buckets=True, dilate_px=dilate_px)[0]
        assert dilate_on_device(crop.hole, CPU) is None


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 90), st.integers(0, 90))
def test_unpad_undoes_padding(height: int, width: int, more_h: int, more_w: int) -> None:
    x = torch.arange(3.0 * height * width).view(3, height, width)
    padded = pad_to_model(x, (height + more_h, width + more_w), CPU)
    assert padded.shape == (3, height + more_h, width + more_w)
    assert torch.equal(unpad(padded, (height, width)), x)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_strips_give_what_one_piece_does(monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    """Input and patch of a scaled crop, against resizing all of it at once, which needs ten times the photo's bytes."""
    rng = np.random.default_rng(3)
    top = np.iinfo(dtype).max
    image: np.ndarray = rng.integers(0, top, (331, 467, 3), dtype=dtype, endpoint=True)
    mask = np.zeros((331, 467), np.bool_)
    mask[40:300, 60:430] = True
    mask[5, 3] = True
    (crop,) = plan_crops(mask, buckets_px=(96,), fixed_buckets=True)
    assert crop.is_scaled and crop.box == (0, 0, 467, 331)
    monkeypatch.setattr(preprocess, "STRIP_PX", 467 * 21)
    source = upload(crop, image, CPU)
    known = torch.from_numpy(~crop.missing).float()[None]
    rgb = torch.from_numpy((image / top).astype(np.float32)).permute(2, 0, 1) * known
    mixed = F.interpolate(torch.cat([rgb, known])[None], crop.scaled_size, mode="bilinear", antialias=True)[0]
    expected = mixed[:3] / mixed[3:].clamp_min(1e-3)
    missing = F.adaptive_max_pool2d(1 - known[None], crop.scaled_size)[0]
    got = unpad(build_input(source), crop.scaled_size)
    assert torch.equal(got[3:], missing) and 0 < missing.mean() < 1
    torch.testing.assert_close(got[:3], expected.clamp(0, 1) * (1 - missing), atol=1e-5, rtol=0)
    prediction = torch.rand(3, *crop.model_size, generator=torch.Generator().manual_seed(0))
    full = F.interpolate(unpad(prediction, crop.scaled_size)[None], (331, 467), mode="bicubic", antialias=True)[0]
    left, upper, right, lower = crop.patch_box
    original = image[upper:lower, left:right].astype(np.float64)
    fill = full.clamp(0, 1)[:, upper:lower, left:right].permute(1, 2, 0).numpy() * top
    patch = composite(prediction, source)
    assert np.abs(patch - (original + crop.alpha[..., None] * (fill - original))).max() <= 0.5 + top * 1e-5


@given(st.integers(1, 150), st.integers(1, 150), st.sampled_from([average_weights, cubic_weights, covers]))
def test_rows_resized_in_groups_are_those_of_one_product(target: int, source: int, make_weights: Any) -> None:
    weights = make_weights(range(target), range(source), target=target, source=source, device=torch.device("cpu"))
    x = torch.rand(2, source, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_rows(weights, x), weights @ x, atol=1e-5, rtol=0)
    torch.testing.assert_close(resize_rows(weights, x.mT.contiguous().mT), weights @ x, atol=1e-5, rtol=0)


def test_no_more_than_a_strip_of_a_large_crop_is_worked_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full mask over 100 megapixels took 8.75 GB, in float32 copies of the whole crop."""
    monkeypatch.setattr(preprocess, "STRIP_PX", 30_000)
    strips: list[int] = []
    bring = preprocess._bring

    def watched(box: Box, *others: Any) -> preprocess.Strip:
        strips.append((box[2] - box[0]) * (box[3] - box[1]))
        return bring(box, *others)

    monkeypatch.setattr(preprocess, "_bring", watched)
    image = np.random.default_rng(0).integers(0, 256, (1500, 300, 3), dtype=np.uint8)
    (crop,) = plan_crops(np.ones((1500, 300), np.bool_), buckets_px=(256,), fixed_buckets=True)
    source = upload(crop, image, CPU)
    assert strips == []
    composite(build_input(source)[:3], source)
    assert sum(strips) >= 2 * 1500 * 300 and max(strips) <= 30_000 + 8 * 300 * 1500 // 256
