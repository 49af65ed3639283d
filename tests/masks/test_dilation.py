"""The dilated hole, its feather and the mask's bounds, against slow definitions written here."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from masks.boxes import Box, find_bounds, paste, rows_beyond, sample_bounds
from masks.dilation import MAX_DILATE_PX, CropRules, default_dilate_px, dilate_mask, feather_alpha

MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24)))


def distance_to_hole(mask: np.ndarray) -> np.ndarray:
    """Euclidean distance of each pixel to the nearest hole pixel, by comparing it with every one of them."""
    ys, xs = np.nonzero(mask)
    yy, xx = np.mgrid[: mask.shape[0], : mask.shape[1]]
    return np.sqrt(((yy[..., None] - ys) ** 2 + (xx[..., None] - xs) ** 2).min(axis=-1))


def dilated_in_full(
    mask: np.ndarray, dilate_px: int | None = None, feather_px: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What `dilate_mask` returns, laid into arrays of the mask's size."""
    dilated = dilate_mask(mask, dilate_px=dilate_px, feather_px=feather_px)
    assert dilated is not None
    whole = (0, 0, mask.shape[1], mask.shape[0])
    return paste(dilated.missing, dilated.box, whole), paste(dilated.alpha, dilated.box, whole)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_bounds_are_the_smallest_box_around_the_hole(mask: np.ndarray) -> None:
    ys, xs = np.nonzero(mask)
    expected = None if len(ys) == 0 else (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    assert find_bounds(mask) == expected


def test_bounds_are_found_in_tall_masks_and_views() -> None:
    mask = np.zeros((1000, 40), np.bool_)
    mask[[130, 641], [7, 31]] = True
    assert find_bounds(mask) == (7, 130, 32, 642)
    assert find_bounds(mask[::-1, ::-1]) == (8, 358, 33, 870)


@pytest.mark.parametrize("hole", [None, (0, 0), (1999, 1599), (1000, 3)])
def test_bounds_of_a_large_mask(hole: tuple[int, int] | None) -> None:
    mask = np.zeros((2000, 1600), np.bool_)
    if hole is None:
        assert find_bounds(mask) is None
        return
    mask[hole] = True
    mask[999, 5] = True
    rows, columns = sorted((hole[0], 999)), sorted((hole[1], 5))
    assert find_bounds(mask) == (columns[0], rows[0], columns[1] + 1, rows[1] + 1)


def has_hole_beyond(mask: np.ndarray, bounds: Box) -> bool:
    return any(rows.any() for rows in rows_beyond(mask, bounds))


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 69), st.integers(0, 9), st.integers(1, 30)), max_size=3), st.integers(1, 70))
def test_sampled_bounds_are_right_unless_there_is_a_hole_beyond(
    strokes: list[tuple[int, int, int]], height: int
) -> None:
    mask = np.zeros((height, 10), np.bool_)
    for row, column, thickness in strokes:
        mask[row : row + thickness, column] = True
    sampled = sample_bounds(mask)
    ys, xs = np.nonzero(mask)
    if sampled is None:
        assert not mask[8::16].any()
    else:
        is_beyond = ys.min() < sampled[1] or ys.max() >= sampled[3]
        assert has_hole_beyond(mask, sampled) == is_beyond
        if not is_beyond:
            assert sampled == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def test_bounds_are_sampled_of_a_thick_stroke_and_not_of_a_speck_apart() -> None:
    mask = np.zeros((4000, 60), np.bool_)
    mask[1001:1030, 20:40] = True
    assert sample_bounds(mask) == (20, 1001, 40, 1030)
    assert not has_hole_beyond(mask, (20, 1001, 40, 1030))
    for speck in (0, 900, 3010, 3999):
        mask[speck, 3] = True
        assert sample_bounds(mask) == (20, 1001, 40, 1030)
        assert has_hole_beyond(mask, (20, 1001, 40, 1030))
        assert has_hole_beyond(mask[:, ::-1], (20, 1001, 40, 1030))
        mask[speck, 3] = False


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 600), st.integers(8, 350)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 699), st.integers(0, 599), st.integers(1, 9)), max_size=3),
)
def test_a_sampled_hole_is_what_reading_all_finds_unless_it_overlooks_holes(
    discs: list[tuple[int, int, int]], specks: list[tuple[int, int, int]]
) -> None:
    mask, (y, x) = np.zeros((700, 600), np.bool_), np.ogrid[:700, :600]
    for row, column, radius in discs:
        mask |= (y - row) ** 2 + (x - column) ** 2 <= radius**2
    for row, column, side in specks:
        mask[row : row + side, column : column + side] = True
    bounds = find_bounds(mask)
    exact, sampled = dilate_mask(mask), dilate_mask(mask, bounds=bounds)
    assert exact is not None and sampled is not None and not exact.overlooks_holes()
    if sampled.overlooks_holes():
        assert sampled.is_sampled and len(exact.hole_boxes) > 1
        return
    assert sampled.box == exact.box
    np.testing.assert_array_equal(sampled.hole_boxes, exact.hole_boxes)
    for part, other in zip(sampled.parts, exact.parts, strict=True):
        assert (part.box, part.dilate_px) == (other.box, other.dilate_px)
        np.testing.assert_array_equal(part.pixels, other.pixels)


def test_a_large_disc_is_sampled_and_a_speck_beside_it_is_seen_later() -> None:
    mask, (y, x) = np.zeros((700, 900), np.bool_), np.ogrid[:700, :900]
    mask |= (y - 350) ** 2 + (x - 400) ** 2 <= 300**2
    bounds = find_bounds(mask)
    disc = dilate_mask(mask, bounds=bounds)
    assert disc is not None and disc.is_sampled and not disc.overlooks_holes()
    mask[60:63, 110:113] = True
    with_speck = dilate_mask(mask, bounds=bounds)
    assert with_speck is not None and with_speck.is_sampled and with_speck.overlooks_holes()
    small = dilate_mask(mask[:, :600], bounds=(100, 50, 600, 177))
    assert small is not None and not small.is_sampled


@settings(max_examples=80, deadline=None)
@given(MASKS.filter(lambda mask: mask.any()), st.integers(0, 9), st.none() | st.integers(0, 12))
def test_grown_hole_and_feather_follow_their_definition(
    mask: np.ndarray, dilate_px: int, feather_px: int | None
) -> None:
    missing, alpha = dilated_in_full(mask, dilate_px=dilate_px, feather_px=feather_px)
    distance = distance_to_hole(mask)
    np.testing.assert_array_equal(missing, distance <= dilate_px)
    assert (alpha[mask] == 1).all()
    assert (alpha[distance > dilate_px] == 0).all()
    ring = min(CropRules().feather_px if feather_px is None else feather_px, dilate_px)
    ramp = np.clip((dilate_px + 1 - distance) / (ring + 1), 0, 1)
    expected = np.where(missing, ramp * ramp * (3 - 2 * ramp), 0)
    np.testing.assert_allclose(alpha, expected, atol=1e-5)


def test_feather_falls_steadily_and_leaves_no_step() -> None:
    distance = np.arange(0, 14, dtype=np.float32)
    alpha = feather_alpha(distance, dilate_px=12)
    assert alpha[0] == 1 and alpha[13] == 0
    assert (np.diff(alpha[:13]) < 0).all()
    assert np.abs(np.diff(alpha)).max() < 0.13


def test_narrow_feather_replaces_the_inner_ring_whole() -> None:
    """A rim left under half-transparent fill is the ghost that dilation is there to remove."""
    alpha = feather_alpha(np.arange(0, 12, dtype=np.float32), dilate_px=10, feather_px=3)
    assert (alpha[:8] == 1).all() and (alpha[8:11] < 1).all() and (alpha[8:11] > 0).all() and alpha[11] == 0


def test_feather_is_the_same_wherever_its_array_lies_in_memory() -> None:
    """OpenCV's root was off by a last bit that depended on the address, so one repair could come out in two ways."""
    mask = np.zeros((61, 61), np.bool_)
    mask[30, 30] = True
    dilated = dilate_mask(mask, dilate_px=20)
    assert dilated is not None
    offsets = np.arange(-20, 21)
    distance_px = np.sqrt((offsets**2 + offsets[:, None] ** 2).astype(np.float32))
    np.testing.assert_array_equal(
        dilated.alpha, feather_alpha(distance_px, dilate_px=20, feather_px=dilated.feather_px)
    )


def test_no_dilation_leaves_no_feather() -> None:
    mask = np.zeros((20, 20), np.bool_)
    mask[5:9, 6:14] = True
    missing, alpha = dilated_in_full(mask, dilate_px=0, feather_px=5)
    np.testing.assert_array_equal(missing, mask)
    np.testing.assert_array_equal(alpha, mask.astype(np.float32))


def test_default_dilation_is_in_proportion_and_bounded() -> None:
    rules = CropRules()
    values = [default_dilate_px(thickness, rules=rules) for thickness in (1, 5, 20, 80, 200, 5000)]
    assert values == sorted(values) and values[0] >= 1 and values[-1] == MAX_DILATE_PX


@pytest.mark.parametrize(("shorter_px", "more_px"), [(899, 0), (900, 1)])
def test_holes_of_a_large_photo_grow_by_a_pixel_more(shorter_px: int, more_px: int) -> None:
    mask = np.zeros((shorter_px, 1000), np.bool_)
    mask[400, 500] = True
    dilated = dilate_mask(mask)
    assert dilated is not None
    assert dilated.parts[0].dilate_px == default_dilate_px(1, rules=CropRules()) + more_px


def test_each_hole_is_grown_by_its_own_thickness() -> None:
    mask = np.zeros((300, 400), np.bool_)
    mask[50:250, 30:230] = True
    mask[150, 350] = True
    missing, _ = dilated_in_full(mask)
    around_big, around_speck = missing[150, 230:300].sum(), missing[150, 351:400].sum()
    assert abs(around_big - default_dilate_px(100, rules=CropRules())) <= 1  # thickness is measured within 5 %
    assert around_speck == default_dilate_px(1, rules=CropRules())
    assert around_speck < around_big


def test_holes_in_large_bounds_are_told_apart_on_a_coarser_grid() -> None:
    """Each is dilated whole and by its own thickness, though only every fourth pixel of its inside was looked at."""
    mask = np.zeros((1201, 1603), np.bool_)
    mask[3:403, 5:405] = True
    mask[1000:1003, 1100:1500] = True
    mask[700, 1200] = True
    mask[1198:, 1600:] = True
    dilated = dilate_mask(mask)
    assert dilated is not None and sorted(part.dilate_px for part in dilated.parts) == [3, 3, 3, 26]
    expected = np.zeros_like(mask)
    for part in dilated.parts:
        left, top, right, bottom = part.box
        whole = np.zeros_like(mask)
        whole[top:bottom, left:right] = part.pixels
        expected |= whole
    np.testing.assert_array_equal(expected, mask)
    missing, _ = dilated_in_full(mask)
    assert missing[403:440, 200].sum() == 26 and missing[200, 405:440].sum() == 26
    assert missing[1003:1010, 1300].sum() == 3 and missing[701:710, 1200].sum() == 3


@pytest.mark.parametrize("side", [40, 200, 640])
def test_thickness_at_the_image_border_counts_from_the_known_side_only(side: int) -> None:
    """Beyond the image nothing is known, so the middle of a hole at the border is no shallower than at its rim."""
    mask = np.zeros((700, 900), np.bool_)
    mask[:side, :side] = True
    dilated = dilate_mask(mask)
    assert dilated is not None
    assert abs(dilated.parts[0].dilate_px - default_dilate_px(side, rules=CropRules())) <= 1


def test_entangled_holes_are_grown_like_one() -> None:
    """Fifty diagonals each have the whole box; looking at them one by one would cost fifty times its area."""
    yy, xx = np.indices((120, 120))
    mask = (yy + xx) % 12 == 0
    missing, _ = dilated_in_full(mask, dilate_px=2)
    np.testing.assert_array_equal(missing, distance_to_hole(mask) <= 2)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (40, 30)])
def test_full_mask_grows_to_itself(shape: tuple[int, int]) -> None:
    missing, alpha = dilated_in_full(np.ones(shape, np.bool_))
    assert missing.all() and (alpha == 1).all()


def test_mask_is_not_modified() -> None:
    mask = np.zeros((30, 30), np.bool_)
    mask[3:9, 4:8] = True
    mask.setflags(write=False)
    dilate_mask(mask)
    assert dilate_mask(np.zeros((4, 4), np.bool_)) is None


@settings(max_examples=100, deadline=None)
@given(MASKS.filter(lambda mask: mask.any() and not mask.all()))
def test_depth_of_a_hole_is_the_distance_to_the_nearest_known_pixel(mask: np.ndarray) -> None:
    dilated = dilate_mask(mask)
    assert dilated is not None
    whole = (0, 0, mask.shape[1], mask.shape[0])
    exact = (distance_to_hole(~mask) * mask).max()
    assert dilated.depth_px(whole) == pytest.approx(exact, rel=0.06)
    assert dilated.depth_px((0, 0, 0, 0)) == 0


def test_depth_of_a_part_of_a_hole_ends_where_the_box_does() -> None:
    mask = np.zeros((300, 400), np.bool_)
    mask[100:200, 50:350] = True
    mask[40:60, 20:40] = True
    dilated = dilate_mask(mask)
    assert dilated is not None
    assert dilated.depth_px((0, 0, 400, 300)) == pytest.approx(50, rel=0.08)
    assert dilated.depth_px((0, 0, 45, 70)) == pytest.approx(10, rel=0.1)
    assert dilated.depth_px((100, 0, 140, 300)) == pytest.approx(20, rel=0.1)


def test_the_first_look_at_a_large_hole_says_what_a_finer_one_does() -> None:
    """A disc, and the same with a known cross through its middle, which makes four shallow ones of it."""
    y, x = np.ogrid[:2000, :2400]
    disc = (x - 1200) ** 2 + (y - 1000) ** 2 <= 900**2
    for known_px, depth_px in ((0, 900.0), (40, 900 * (2**0.5 - 1) - 8)):
        hole = disc.copy()
        hole[1000 - known_px // 2 : 1000 + known_px // 2] = False
        hole[:, 1200 - known_px // 2 : 1200 + known_px // 2] = False
        dilated = dilate_mask(hole)
        assert dilated is not None
        assert dilated.depth_px((0, 0, 2400, 2000)) == pytest.approx(depth_px, rel=0.06)


@pytest.mark.parametrize("dilate_px", [0, 3, 40])
def test_holes_that_grow_into_each_other_are_dilated_at_once(dilate_px: int) -> None:
    """Each of 2400 specks had a window of 512 x 512 px of its own, held together: gigabytes for one repair."""
    mask = np.zeros((200, 240), np.bool_)
    mask[10::30, 10::30] = True
    dilated = dilate_mask(mask, dilate_px=dilate_px)
    assert dilated is not None and len(dilated.hole_boxes) == np.count_nonzero(mask)
    assert (len(dilated.parts) == 1) == (dilate_px == 40)
    rows, columns = np.nonzero(mask)
    y, x = np.indices(mask.shape)
    nearest_px = np.min([np.hypot(y - row, x - column) for row, column in zip(rows, columns, strict=True)], axis=0)
    missing, alpha = dilated.layers((0, 0, 240, 200))
    np.testing.assert_array_equal(missing, nearest_px <= dilate_px)
    expected = feather_alpha(nearest_px.astype(np.float32), dilate_px=dilate_px, feather_px=dilated.feather_px)
    np.testing.assert_allclose(alpha, expected, atol=1e-6)
