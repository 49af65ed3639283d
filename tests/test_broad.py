"""The broad look: for which holes it is taken, and what of it comes into the fill."""

import numpy as np
import pytest

from broad import BROAD_PX, broad_crop, take_colours
from cropping import Crop, plan_crops


def plan(mask: np.ndarray, *, largest_px: int = 1024) -> Crop:
    buckets_px = tuple(px for px in (256, 512, 768, 1024) if px <= largest_px)
    (crop,) = plan_crops(mask, buckets_px=buckets_px, fixed_buckets=True, dilate_px=3)
    return crop


def square_hole(side_px: int, size: tuple[int, int] = (1200, 1600)) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[400 : 400 + side_px, 500 : 500 + side_px] = True
    return mask


def test_small_and_thin_holes_and_small_photos_need_no_broad_look() -> None:
    mask = square_hole(200)
    assert broad_crop(plan(mask), mask.shape) is None
    wire = np.zeros((1200, 1600), np.bool_)
    wire[600:606, 300:1000] = True
    assert max(plan(wire).model_size) > BROAD_PX and broad_crop(plan(wire), wire.shape) is None
    small = np.zeros((600, 700), np.bool_)
    small[100:500, 100:500] = True
    assert broad_crop(plan(small), small.shape) is None


@pytest.mark.parametrize("largest_px", [512, 1024])
def test_broad_look_of_a_large_hole_sees_more_at_a_smaller_scale(largest_px: int) -> None:
    mask = square_hole(600)
    crop = plan(mask, largest_px=largest_px)
    look = broad_crop(crop, mask.shape)
    if largest_px <= BROAD_PX:  # a card that runs no larger input looks broadly as it is
        assert look is None
        return
    assert look is not None
    assert look.patch_box == crop.patch_box and max(look.model_size) == BROAD_PX
    assert look.box[0] <= crop.box[0] and look.box[1] <= crop.box[1]
    assert look.box[2] >= crop.box[2] and look.box[3] >= crop.box[3]
    assert look.box[2] - look.box[0] > crop.box[2] - crop.box[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_come_from_the_broad_look_and_detail_stays(dtype: type) -> None:
    mask = square_hole(600)
    look = broad_crop(plan(mask), mask.shape)
    assert look is not None
    unit = int(np.iinfo(dtype).max) // 255
    left, top, right, bottom = look.patch_box
    detail = np.random.default_rng(0).integers(-9, 10, (bottom - top, right - left, 3))
    patch: np.ndarray = ((100 + detail) * unit).astype(dtype)
    before = patch.copy()
    broad_patch = np.full_like(patch, 130 * unit)
    merged = take_colours(patch, broad_patch, look)
    assert merged.dtype == dtype and np.array_equal(patch, before)
    hole = mask[top:bottom, left:right]
    assert np.array_equal(merged[~hole], patch[~hole])
    shift = (merged.astype(float) - patch) / unit
    middle = shift[250:350, 250:350]
    assert abs(middle.mean() - 30) < 1 and middle.std() < 1, "all of the colour, none of the missing detail"
    rim = np.argwhere(hole).min(axis=0)
    assert np.abs(shift[rim[0], rim[1] :]).max() < 2, "the rim stays, or there would be a seam"
    assert np.diff(shift[300, :292, 0]).max() <= 2, "no step on the way in"


def test_equal_looks_change_nothing() -> None:
    mask = square_hole(600)
    look = broad_crop(plan(mask), mask.shape)
    assert look is not None
    left, top, right, bottom = look.patch_box
    patch = np.random.default_rng(1).integers(0, 256, (bottom - top, right - left, 3), dtype=np.uint8)
    assert np.array_equal(take_colours(patch, patch, look), patch)
