"""Shadows and glows of lettering: found where they were drawn, to the side they were drawn, and nowhere else."""

import functools
from collections.abc import Mapping

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from masks import shadows
from masks.boxes import paste
from masks.clusters import group_holes
from masks.crop_plan import plan_crops
from masks.dilation import CropRules, DilatedMask, dilate_mask
from masks.rays import DIRECTIONS, RAY_PX, Rays, cast_rays, off_line
from masks.shadows import dilate_in_photo, find_kernel

SIZE = (220, 480)  # height, width
NAMES = ["right", "down right", "down", "down left", "left", "up left", "up", "up right"]


def scene(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Something like a photo, float32: structure at every scale up to a fifth of it, and grain."""
    return drawn(seed, size).copy()


@functools.cache
def drawn(seed: int, size: tuple[int, int]) -> np.ndarray:
    """A scene, which most tests here ask for again."""
    rng = np.random.default_rng(seed)
    picture = np.full((*size, 3), 150, np.float32)
    for blur_px in (2, 8, 40):
        layer = cv2.GaussianBlur(rng.standard_normal((*size, 3)).astype(np.float32), (0, 0), blur_px)
        picture += layer / layer.std() * 8
    return picture + rng.standard_normal(picture.shape).astype(np.float32)


def lettering(size: tuple[int, int] = SIZE, *, top: int = 40, lines: int = 2) -> np.ndarray:
    """(H, W) bool, True = ink: lines of text."""
    sheet = Image.new("L", (size[1], size[0]))
    for line in range(lines):
        font = ImageFont.load_default(size=44)
        ImageDraw.Draw(sheet).text((40, top + 64 * line), "Proof copy 2024", fill=255, font=font)
    return np.asarray(sheet) > 127


def darkened(ink: np.ndarray, offset: tuple[int, int], *, blur_px: float = 1.5, opacity: float = 0.4) -> np.ndarray:
    """(H, W) float32, the alpha of a shadow of the ink."""
    return opacity * cv2.GaussianBlur(shifted(ink, offset).astype(np.float32), (0, 0), blur_px)


def shifted(mask: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    return np.roll(np.roll(mask, offset[0], axis=1), offset[1], axis=0)


def photo(seed: int, alpha: np.ndarray, ink: np.ndarray, shade: float = 0) -> np.ndarray:
    """(H, W, 3) uint8: a scene, a shadow or glow over it, white letters on top."""
    picture = scene(seed, (ink.shape[0], ink.shape[1]))
    picture += alpha[..., None] * (shade - picture)
    picture[ink] = 245
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def in_full(dilated: DilatedMask | None, size: tuple[int, int] = SIZE) -> np.ndarray:
    """What is missing, laid into an array of the mask's size."""
    assert dilated is not None
    return paste(dilated.missing, dilated.box, (0, 0, size[1], size[0]))


@pytest.mark.parametrize("direction", DIRECTIONS, ids=NAMES)
def test_hole_is_drawn_out_over_a_shadow_and_to_no_other_side(direction: tuple[int, int]) -> None:
    """Whatever side a shadow lies on: hardly any of it is left standing, and the hole is nowhere else larger."""
    ink = lettering()
    step = 3 if 0 in direction else 2
    alpha = darkened(ink, (step * direction[0], step * direction[1]))
    image = photo(1, alpha, ink)
    before, after = in_full(dilate_mask(ink)), in_full(dilate_in_photo(ink, image))
    assert (alpha[~before] > 0.06).sum() > 400, "there was nothing to find"
    assert (alpha[~after] > 0.06).sum() < 20
    assert not (before & ~after).any()
    within_px = np.add.outer(np.arange(-2, 3) ** 2, np.arange(-2, 3) ** 2) <= 4
    allowed = before.copy()
    for reach in range(1, 7):
        allowed |= shifted(before, (reach * direction[0], reach * direction[1]))
    assert not (after & ~allowed).any()
    assert not (after & ~cv2.dilate(before.astype(np.uint8), within_px.astype(np.uint8), iterations=3).view(bool)).any()


@pytest.mark.parametrize("contrast", [1, 4])
@pytest.mark.parametrize("seed", range(16))
def test_hole_without_a_shadow_grows_as_ever(seed: int, contrast: float) -> None:
    ink = lettering(lines=1)
    picture = 150 + contrast * (scene(seed) - 150)
    picture[ink] = 245
    image = np.clip(picture, 0, 255).astype(np.uint8)
    assert np.array_equal(in_full(dilate_in_photo(ink, image)), in_full(dilate_mask(ink)))


def test_shadow_that_falls_far_is_followed_to_its_end() -> None:
    ink = lettering()
    alpha = darkened(ink, (4, 4), blur_px=2, opacity=0.6)
    before, after = in_full(dilate_mask(ink)), in_full(dilate_in_photo(ink, photo(10, alpha, ink)))
    assert (alpha[~after] > 0.1).sum() < 0.1 * (alpha[~before] > 0.1).sum()


def test_hole_is_drawn_out_all_around_over_a_glow() -> None:
    ink = lettering()
    alpha = np.minimum(1.6 * darkened(ink, (0, 0), blur_px=3, opacity=1), 0.8)
    alpha[ink] = 0
    dilated = in_full(dilate_in_photo(ink, photo(2, alpha, ink, shade=255)))
    rows, columns = np.nonzero(dilated)
    before = np.nonzero(in_full(dilate_mask(ink)))
    for after_px, before_px in ((rows, before[0]), (columns, before[1])):
        assert after_px.min() < before_px.min() and after_px.max() > before_px.max()


def test_line_of_text_keeps_its_neighbours_shadow_to_itself() -> None:
    """Two lines far apart, one with a shadow: the other grows as ever."""
    size = (420, 480)
    upper, lower = lettering(size, top=40, lines=1), lettering(size, top=300, lines=1)
    ink = upper | lower
    dilated = in_full(dilate_in_photo(ink, photo(3, darkened(upper, (2, 2)), ink)), size)
    before = in_full(dilate_mask(ink), size)
    assert (dilated & ~before)[:210].any() and not (dilated & ~before)[210:].any()


def test_shadow_of_words_is_found_although_others_stand_between_them() -> None:
    """Words down a diagonal throw shadows; between them, in the same bounds, stand more words that throw none."""
    size = (420, 640)
    sheets = Image.new("L", (size[1], size[0])), Image.new("L", (size[1], size[0]))
    font = ImageFont.load_default(size=40)
    for step in range(8):
        ImageDraw.Draw(sheets[0]).text((20 + 66 * step, 10 + 46 * step), "copy", fill=255, font=font)
    for top, left in ((10, 370), (80, 450), (260, 10), (340, 10)):
        ImageDraw.Draw(sheets[1]).text((left, top), "sample sample"[: 11 if left == 370 else 7], fill=255, font=font)
    diagonal, others = (np.asarray(sheet) > 127 for sheet in sheets)
    ink = diagonal | others
    alpha = darkened(diagonal, (2, 2))
    before, after = in_full(dilate_mask(ink), size), in_full(dilate_in_photo(ink, photo(3, alpha, ink)), size)
    assert (alpha[~after] > 0.06).sum() < 0.1 * (alpha[~before] > 0.06).sum()
    near_others = cv2.dilate(others.astype(np.uint8), np.ones((21, 21), np.uint8)).view(bool)
    assert not (after & ~before)[near_others].any()


@pytest.mark.parametrize("below_px", [4, 6, 9])
def test_edge_that_runs_along_the_text_is_no_shadow(below_px: int) -> None:
    """A dark floor that begins below the letters darkens everything below, not what lies beside their edges."""
    ink = lettering(lines=1)
    picture = scene(4)
    picture[np.nonzero(ink)[0].max() + below_px :] -= 60
    picture[ink] = 245
    image = np.clip(picture, 0, 255).astype(np.uint8)
    assert np.array_equal(in_full(dilate_in_photo(ink, image)), in_full(dilate_mask(ink)))


def rays_that_deviate(by_levels: Mapping[int, float], noise_levels: float = 3) -> Rays:
    """Two hundred rays a direction; the first pixels of some deviate, fading within three pixels."""
    direction = np.repeat(np.arange(len(DIRECTIONS)), 200)
    levels = np.random.default_rng(1).normal(120, noise_levels, (len(direction), RAY_PX))
    for index, by in by_levels.items():
        levels[direction == index, :3] += by * np.array([1, 0.6, 0.2])
    return Rays(levels.astype(np.float32), direction)


def test_shadow_has_one_side_and_three_directions_of_it() -> None:
    down_right = find_kernel(rays_that_deviate({0: -10, 1: -12, 2: -10}), most_px=6)
    assert down_right is not None
    dot = np.zeros((15, 15), np.uint8)
    dot[7, 7] = 1
    assert [(x - 7, y - 7) for y, x in np.argwhere(cv2.dilate(dot, down_right))] == [(0, 0), (1, 1), (2, 2)]
    two_sided = {0: -10, 1: -12, 2: -10, 4: -6, 5: -8, 6: -6}
    one_direction = {1: -30}
    contradictory = {0: -20, 1: -20, 2: 20}
    for deviations in ({}, two_sided, one_direction, contradictory):
        assert find_kernel(rays_that_deviate(deviations), most_px=6) is None, deviations


def test_rays_come_from_their_own_group() -> None:
    """Two groups, one within the other's bounds, on white and black ground: the rays of each see its own alone."""
    mask = np.zeros((300, 300), bool)
    for step in range(0, 260, 12):  # dots down a diagonal, and a cluster inside their bounds
        mask[10 + step : 18 + step, 10 + step : 18 + step] = True
    mask[40:60, 220:240] = mask[40:60, 244:264] = True
    image = np.zeros((300, 300, 3), np.uint8)
    image[:100, 180:] = 255
    dilated = dilate_mask(mask)
    assert dilated is not None
    groups = group_holes(dilated.hole_boxes, np.ones(len(dilated.hole_boxes), bool))
    cluster, diagonal = (int(groups.at(np.array(x), np.array(y))) for x, y in ((230, 50), (14, 14)))
    assert cluster != diagonal
    for label, level in ((cluster, 255), (diagonal, 0)):
        seen = cast_rays(mask, image, groups, label, 2).levels
        assert len(seen) > 50 and (seen == level).all()


def test_rays_are_compared_with_the_line_through_their_far_pixels() -> None:
    rng = np.random.default_rng(0)
    levels = rng.uniform(0, 255, (20, RAY_PX)).astype(np.float32)
    off = off_line(Rays(levels, np.zeros(20, np.int64)), (4, 9))
    for ray, got in zip(levels, off, strict=True):
        line = np.polyval(np.polyfit(np.arange(4, 9), ray[4:9], 1), np.arange(RAY_PX))
        np.testing.assert_allclose(got, ray - line, atol=1e-2)


@pytest.mark.parametrize("slope", [(1.5, 0.0), (0.0, -1.5), (1.0, 1.0)])
def test_smooth_slope_is_no_shadow(slope: tuple[float, float]) -> None:
    """A sky that brightens evenly is darker on one side of every letter."""
    ink = lettering()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    picture = 120 + slope[0] * (x - x.mean()) / 4 + slope[1] * (y - y.mean()) / 2
    image = np.clip(picture, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert np.array_equal(in_full(dilate_in_photo(ink, image)), in_full(dilate_mask(ink)))


def test_watermark_all_over_a_photo_is_looked_at_as_one() -> None:
    """Its many small groups would each say too little."""
    size = (600, 900)
    sheet = Image.new("L", (size[1], size[0]))
    for top in range(20, size[0], 80):
        for left in range(20, size[1], 180):
            ImageDraw.Draw(sheet).text((left, top), "stock", fill=255, font=ImageFont.load_default(size=26))
    ink = np.asarray(sheet) > 127
    alpha = darkened(ink, (2, 2))
    left_standing = [
        (alpha[~in_full(dilated, size)] > 0.06).sum()
        for dilated in (dilate_mask(ink), dilate_in_photo(ink, photo(5, alpha, ink)))
    ]
    assert left_standing[1] < 0.1 * left_standing[0]


def test_sixteen_bit_photo_has_the_same_shadows() -> None:
    ink = lettering()
    image = photo(6, darkened(ink, (2, 2)), ink)
    deep = image.astype(np.uint16) * 257
    assert np.array_equal(in_full(dilate_in_photo(ink, image)), in_full(dilate_in_photo(ink, deep)))


def test_what_a_caller_asks_for_is_what_he_gets() -> None:
    ink = lettering()
    image = photo(7, darkened(ink, (2, 2)), ink)
    for dilate_px in (0, 3):
        asked = in_full(dilate_in_photo(ink, image, dilate_px=dilate_px))
        assert np.array_equal(asked, in_full(dilate_mask(ink, dilate_px=dilate_px)))
    left = dilate_in_photo(ink, image, rules=CropRules(shadow_px=0))
    assert np.array_equal(in_full(left), in_full(dilate_mask(ink)))
    short = dilate_in_photo(ink, image, rules=CropRules(shadow_px=1))
    assert np.array_equal(in_full(short), in_full(dilate_mask(ink)) | shifted(in_full(dilate_mask(ink)), (1, 1)))


def test_thick_holes_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A disc's repair pays nothing for shadows."""
    monkeypatch.setattr(shadows, "cast_rays", lambda *_: pytest.fail("looked for a shadow"))
    y, x = np.mgrid[:700, :700]
    assert dilate_in_photo((x - 350) ** 2 + (y - 350) ** 2 < 150**2, np.zeros((700, 700, 3), np.uint8)) is not None


@pytest.mark.parametrize("place", ["left", "right", "top", "bottom"])
def test_lettering_at_the_image_s_edge_is_grown_without_a_fault(place: str) -> None:
    ink = lettering()
    top, left = (int(rim.min()) + 5 for rim in np.nonzero(ink))
    bottom, right = (int(rim.max()) - 5 for rim in np.nonzero(ink))
    cuts: dict[str, tuple[slice, slice]] = {
        "left": np.s_[:, left:],
        "right": np.s_[:, :right],
        "top": np.s_[top:, :],
        "bottom": np.s_[:bottom, :],
    }
    cut = cuts[place]
    image = photo(8, darkened(ink, (2, 2)), ink)[cut]
    image.setflags(write=False)
    dilated = dilate_in_photo(ink[cut], image)
    assert dilated is not None
    left, top, right, bottom = dilated.box
    assert 0 <= left < right <= image.shape[1] and 0 <= top < bottom <= image.shape[0]


def test_crop_plan_holds_a_shadow_whole() -> None:
    """Every pixel the hole was drawn out over lies in exactly one patch, and the device is told of it."""
    ink = lettering()
    image = photo(9, darkened(ink, (2, 2)), ink)
    dilated = dilate_in_photo(ink, image)
    missing = in_full(dilated)
    assert (missing & ~in_full(dilate_mask(ink))).any()
    held = np.zeros(SIZE, int)
    for crop in plan_crops(ink, image=image, buckets_px=(64, 128), fixed_buckets=True):
        left, top, right, bottom = crop.patch_box
        held[top:bottom, left:right] += 1
        assert np.array_equal(crop.alpha > 0, missing[top:bottom, left:right])
    assert held.max() == 1 and (held[missing] == 1).all()
    assert dilated is not None
    covered = np.zeros(SIZE, int)
    for part in dilated.parts:
        covered += paste(part.pixels, part.box, (0, 0, SIZE[1], SIZE[0]))
    assert covered.max() == 1 and (covered[ink] == 1).all()
    reach = paste(dilated.dilation_map, dilated.box, (0, 0, SIZE[1], SIZE[0])).astype(int)
    assert not (ink & (reach == 0)).any()
    by_dilation = np.zeros(SIZE, bool)
    for value in np.unique(reach[reach > 0]):
        known = (reach != value).astype(np.uint8)
        by_dilation |= cv2.distanceTransform(known, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= value - 1
    assert np.array_equal(by_dilation, missing)


def test_crop_plan_holds_a_shadow_whole_where_letters_grow_by_different_amounts() -> None:
    """What is drawn out grew by as much as most of the letters: more than the box of a thinner one allowed."""
    sheet = Image.new("L", (720, 300))
    font = ImageFont.load_default(size=60)
    ImageDraw.Draw(sheet).text((60, 90), "SAMPLE COPY 2024", fill=255, font=font, stroke_width=4)
    ink = np.asarray(sheet) > 127
    for left in (80, 260, 440):
        ink[172:175, left : left + 120] = True
    image = photo(3, darkened(ink, (4, 4)), ink)
    dilated = dilate_in_photo(ink, image)
    assert dilated is not None and len({part.dilate_px for part in dilated.parts}) > 1
    assert in_full(dilated, ink.shape).sum() > in_full(dilate_mask(ink), ink.shape).sum(), "no shadow was found"
    outside = in_full(dilated, ink.shape)
    for crop in plan_crops(ink, image=image, buckets_px=(256, 512, 768), fixed_buckets=True):
        left, top, right, bottom = crop.patch_box
        outside[top:bottom, left:right] = False
    assert not outside.any()


def test_no_shadow_is_seen_in_transparent_pixels() -> None:
    """Colours beside letters that nobody sees are no shadow of theirs."""
    ink = lettering()
    alpha = darkened(ink, (3, 3))
    image, hidden = photo(1, alpha, ink), (alpha > 0.01) & ~ink
    before = in_full(dilate_mask(ink))
    assert in_full(dilate_in_photo(ink, image)).sum() > before.sum(), "there was nothing to find"
    np.testing.assert_array_equal(in_full(dilate_in_photo(ink, image, transparent=hidden)), before)
