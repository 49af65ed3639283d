"""The crop plan: where boxes lie, what they hold, and what they cost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masks.boxes import box_size, paste
from masks.crop_plan import MIN_MODEL_PX, Crop, _Fitter, pad_indices, plan_crops, shrink_crop
from masks.dilation import dilate_mask

BUCKETS = (256, 384, 512, 640, 768, 1024)


@st.composite
def masks(draw: st.DrawFn) -> np.ndarray:
    """Masks from 1x1 to 900x900 with up to forty blocks of any size."""
    height, width = draw(st.integers(1, 900)), draw(st.integers(1, 900))
    mask = np.zeros((height, width), np.bool_)
    for _ in range(draw(st.integers(0, 40))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        side = draw(st.sampled_from([1, 2, 7, 30, 200]))
        mask[top : top + side, left : left + draw(st.sampled_from([1, 5, side]))] = True
    return mask


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(masks(), st.booleans(), st.sampled_from([(64,), (256, 512), BUCKETS]), st.sampled_from([None, 0, 6]))
def test_plan_covers_every_hole_once(
    mask: np.ndarray, fixed: bool, buckets: tuple[int, ...], dilate_px: int | None
) -> None:
    crops = plan_crops(mask, buckets_px=buckets, fixed_buckets=fixed, dilate_px=dilate_px)
    dilated = dilate_mask(mask, dilate_px=dilate_px)
    if dilated is None:
        assert crops == []
        return
    whole = (0, 0, mask.shape[1], mask.shape[0])
    missing, alpha = paste(dilated.missing, dilated.box, whole), paste(dilated.alpha, dilated.box, whole)
    patches = np.zeros(mask.shape, np.int64)
    for crop in crops:
        left, top, right, bottom = crop.patch_box
        patches[top:bottom, left:right] += 1
        check_crop(crop, missing, alpha, fixed, buckets)
    assert patches.max() == 1, "patch boxes overlap"
    assert (patches[missing] == 1).all(), "a missing pixel lies in no patch"


def check_crop(crop: Crop, missing: np.ndarray, alpha: np.ndarray, fixed: bool, buckets: tuple[int, ...]) -> None:
    left, top, right, bottom = crop.box
    patch = crop.patch_box
    assert 0 <= left <= patch[0] < patch[2] <= right <= missing.shape[1]
    assert 0 <= top <= patch[1] < patch[3] <= bottom <= missing.shape[0]
    np.testing.assert_array_equal(crop.missing, missing[top:bottom, left:right])
    np.testing.assert_array_equal(crop.alpha, alpha[patch[1] : patch[3], patch[0] : patch[2]])
    assert all(scaled <= model for scaled, model in zip(crop.scaled_size, crop.model_size, strict=True))
    assert all(side % 8 == 0 and MIN_MODEL_PX <= side <= buckets[-1] for side in crop.model_size)
    if fixed:
        assert crop.model_size[0] == crop.model_size[1] in buckets
    if not crop.is_scaled:
        assert crop.scaled_size == box_size(crop.box)


def test_small_hole_in_a_big_photo_runs_at_640_or_less() -> None:
    mask = np.zeros((3000, 4000), np.bool_)
    mask[1350:1650, 1850:2150] = True
    for fixed in (True, False):
        (crop,) = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=fixed)
        assert max(crop.model_size) <= 640 and not crop.is_scaled


def test_bucket_is_filled_with_context_where_the_image_has_room() -> None:
    mask = np.zeros((600, 2000), np.bool_)
    mask[0:20, 0:20] = True
    (crop,) = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=True)
    assert crop.box == (0, 0, 256, 256) and crop.model_size == (256, 256)


def test_hundreds_of_letters_become_few_boxes() -> None:
    """The watermark of 100 letters that others run as 100 forwards."""
    mask = np.zeros((1200, 1600), np.bool_)
    for row in range(5):
        for column in range(40):
            mask[500 + 30 * row : 518 + 30 * row, 400 + 18 * column : 412 + 18 * column] = True
    for fixed in (True, False):
        assert len(plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=fixed)) <= 2


def test_specks_all_over_a_photo_are_not_scaled() -> None:
    rng = np.random.default_rng(3)
    mask = np.zeros((2000, 3000), np.bool_)
    for y, x in zip(rng.integers(0, 1990, 400), rng.integers(0, 2990, 400), strict=True):
        mask[y : y + 5, x : x + 7] = True
    for fixed in (True, False):
        crops = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=fixed)
        assert len(crops) <= 80 and not any(crop.is_scaled for crop in crops)


def test_wire_across_a_photo_keeps_its_resolution() -> None:
    mask = np.zeros((2400, 3200), np.bool_)
    for row in range(2400):
        mask[row, row : row + 8] = True
    crops = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=True)
    assert 2 < len(crops) < 20 and not any(crop.is_scaled for crop in crops)


def test_hole_larger_than_the_largest_bucket_is_scaled_to_it() -> None:
    mask = np.zeros((1500, 2500), np.bool_)
    mask[100:1400, 200:2200] = True
    (crop,) = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=True)
    assert crop.is_scaled and crop.model_size == (1024, 1024) and max(crop.scaled_size) == 1024
    (tight,) = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=False)
    assert tight.is_scaled and max(tight.model_size) == 1024 and min(tight.model_size) < 1024


def test_context_gives_way_before_resolution_does() -> None:
    mask = np.zeros((2000, 2000), np.bool_)
    mask[500:1400, 500:1400] = True
    for fixed in (True, False):
        (crop,) = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=fixed, dilate_px=0)
        assert crop.model_size == (1024, 1024) and not crop.is_scaled


@pytest.mark.parametrize("fixed", [True, False])
def test_shrunk_crop_fits_the_smaller_bucket(fixed: bool) -> None:
    mask = np.zeros((700, 900), np.bool_)
    mask[100:500, 200:700] = True
    (crop,) = plan_crops(mask, buckets_px=BUCKETS, fixed_buckets=fixed)
    small = shrink_crop(crop, 256)
    assert max(small.model_size) == 256 and small.box == crop.box and small.is_scaled
    assert (small.model_size[0] == small.model_size[1]) or not fixed


@given(st.integers(1, 70), st.integers(1, 400))
def test_padding_reflects_like_numpy(length: int, extra: int) -> None:
    expected = np.pad(np.arange(length), (0, extra), mode="reflect")
    np.testing.assert_array_equal(pad_indices(length, length + extra), expected)


@pytest.mark.parametrize(("hole_px", "side_px"), [(341, 512), (357, 512), (360, 640)])
def test_a_little_less_context_is_better_than_the_next_bucket(hole_px: int, side_px: int) -> None:
    """A disc of 300 px grows to 342 and missed the bucket of 512 px by two pixels: twice the work, and a broad look."""
    mask = np.zeros((1500, 2000), np.bool_)
    mask[500 : 500 + hole_px, 700 : 700 + hole_px] = True
    (crop,) = plan_crops(mask, buckets_px=(256, 512, 640, 1024), fixed_buckets=True, dilate_px=0)
    assert crop.model_size == (side_px, side_px)
    context_px = min(700 - crop.box[0], 500 - crop.box[1], crop.box[2] - 700 - hole_px, crop.box[3] - 500 - hole_px)
    assert context_px >= 0.84 * 0.25 * hole_px


def test_specks_that_grow_into_each_other_are_not_merged_two_by_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of all pairs of 12,000 was a gigabyte, and a minute to fill."""
    mask = np.zeros((600, 800), np.bool_)
    mask[::20, ::20] = True
    compared: list[int] = []
    whole = _Fitter.cost_px

    def noted(fitter: _Fitter, spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        compared.append(spans.ndim)
        return whole(fitter, spans)

    monkeypatch.setattr(_Fitter, "cost_px", noted)
    crops = plan_crops(mask, buckets_px=(256, 512), fixed_buckets=False, dilate_px=150)
    assert len(compared) < np.count_nonzero(mask) / 3
    assert len(crops) == 1 and crops[0].missing.all()
