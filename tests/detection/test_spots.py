"""Finding dust, specks and scratches, and leaving alone what is no spot."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detection.found import DetectionError
from detection.spots import MOST_OUTLINES, TILE_PX, FoundSpots, find_spots

DATA = Path(__file__).resolve().parents[1] / "data"


def sky(height: int = 600, width: int = 800) -> NDArray[np.uint8]:
    """A gradient with grain."""
    rows, columns = np.mgrid[0:height, 0:width]
    clean = np.stack([120 + rows * 60 / height, 150 + columns * 40 / width, np.full(rows.shape, 190)], axis=2)
    return (clean + np.random.default_rng(0).normal(0, 2, clean.shape)).round().clip(0, 255).astype(np.uint8)


def specks(image: NDArray[np.uint8], places: list[tuple[int, int]], level: int, radius: int = 2) -> NDArray[np.bool_]:
    """Draw specks in place and return where they are."""
    mask = np.zeros(image.shape[:2], np.uint8)
    for place in places:
        cv2.circle(mask, place, radius, 1, -1)
    image[mask > 0] = level
    return mask > 0


PLACES = [(60, 80), (300, 200), (700, 90), (420, 510), (90, 400), (1, 300), (799, 599)]


@pytest.mark.parametrize("level", [20, 245])
def test_specks_are_found_and_little_else(level: int) -> None:
    image = sky()
    drawn = specks(image, PLACES, level)
    found = find_spots(image).select()
    assert found.mask[drawn].all()
    near = cv2.dilate(drawn.view(np.uint8), np.ones((5, 5), np.uint8)) > 0
    assert not found.mask[~near].any()
    assert len(found.regions) == len(PLACES) and all(region.score > 0.6 for region in found.regions)


def test_a_scratch_is_found_all_along_and_a_thick_line_is_not() -> None:
    image = sky()
    drawn = np.zeros(image.shape[:2], np.uint8)
    cv2.line(drawn, (100, 100), (500, 330), 1, 1)
    image[drawn > 0] = 240
    cv2.line(image, (100, 400), (700, 500), (30, 30, 30), 20)
    found = find_spots(image).select().mask
    assert found[drawn > 0].mean() > 0.95
    assert not found[380:].any()


def test_edges_and_corners_of_large_things_are_no_spots() -> None:
    image = sky()
    cv2.rectangle(image, (100, 100), (400, 300), (200, 30, 30), -1)
    cv2.circle(image, (600, 350), 120, (20, 40, 30), -1)
    assert find_spots(image).select().mask.mean() < 0.0005


def test_the_same_speck_counts_in_a_smooth_place_and_not_in_a_pattern() -> None:
    image = sky()
    image[:, 400:] = np.random.default_rng(1).integers(60, 220, (600, 400, 1), np.uint8)
    specks(image, [(200, 300), (600, 300)], 235)
    found = find_spots(image).select(0.25).mask
    assert found[300, 200] and not found[290:310, 590:610].any()


def test_more_sensitivity_never_finds_less() -> None:
    image = np.asarray(Image.open(DATA / "pier.jpg").convert("RGB"))
    found = find_spots(image)
    masks = [found.select(sensitivity).mask for sensitivity in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for less, more in pairwise(masks):
        assert not (less & ~more).any()
    assert masks[-1].sum() > masks[0].sum()


def test_a_box_limits_the_search_and_16_bits_find_the_same() -> None:
    image = sky()
    drawn = specks(image, PLACES, 20)
    box = (250, 150, 500, 560)
    found = find_spots(image, box=box).select().mask
    inside = np.zeros_like(drawn)
    inside[150:560, 250:500] = True
    assert found[drawn & inside].all() and not found[~inside].any()
    deep = image.astype(np.uint16) * 257
    assert np.array_equal(find_spots(deep, box=box).select().mask, found)


def test_specks_on_the_seams_of_tiles_are_found_whole_and_once() -> None:
    image = sky(1100, 1300)
    places = [(TILE_PX, 500), (TILE_PX - 1, 700), (300, TILE_PX), (TILE_PX, TILE_PX)]
    drawn = specks(image, places, 20, radius=3)
    found = find_spots(image).select()
    assert found.mask[drawn].all() and len(found.regions) == len(places)


def test_nothing_is_found_in_one_colour_and_the_image_is_left_alone() -> None:
    image = np.full((40, 50, 3), 130, np.uint8)
    before = image.copy()
    found = find_spots(image).select(1.0)
    assert not found.mask.any() and found.regions == () and np.array_equal(image, before)


def test_what_cannot_be_searched_is_refused() -> None:
    with pytest.raises(DetectionError, match="uint8 or uint16"):
        find_spots(np.zeros((4, 4), np.uint8))
    with pytest.raises(DetectionError, match="holds no pixel"):
        find_spots(sky(), box=(900, 0, 950, 10))
    with pytest.raises(DetectionError, match="sensitivity"):
        find_spots(sky()).select(1.5)


def test_of_a_texture_taken_for_dust_the_largest_spots_get_outlines() -> None:
    """All of them are in the mask, and each outline costs time at every move of the slider."""
    mask = np.zeros((300, 300), np.bool_)
    mask[::3, ::3] = True
    mask[60:70, 60:90] = True
    places = np.flatnonzero(mask).astype(np.uint32)
    found = FoundSpots(mask.shape, places, np.full(len(places), 255, np.uint8)).select(0.5)
    assert (found.mask == mask).all()
    assert len(found.regions) == MOST_OUTLINES < mask[::3, ::3].sum()
    assert max(np.ptp(region.polygon[:, 0]) for region in found.regions) >= 29
