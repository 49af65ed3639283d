"""Finding a mark again, at other places, sizes and angles, and on another photo."""

import tracemalloc
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detection.found import DetectionError
from detection.repeat import KEPT_PX, _take, find_repeats

DATA = Path(__file__).resolve().parents[1] / "data"


def photo(name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(DATA / name).convert("RGB")).copy()


def stamp(
    image: NDArray[np.uint8], at: tuple[int, int], *, scale: float = 1.0, angle: float = 0.0
) -> NDArray[np.bool_]:
    """Draw a logo (a disc with an arrow in it) in place and return where it is."""
    side = round(52 * scale)
    logo = np.zeros((side * 4, side * 4, 3), np.uint8)
    ground = np.zeros(logo.shape[:2], np.uint8)
    cv2.circle(ground, (side * 2, side * 2), round(side * 1.9), 255, -1)
    logo[:] = (240, 240, 235)
    arrow = np.array([[0.5, 0.15], [0.8, 0.5], [0.6, 0.5], [0.6, 0.85], [0.4, 0.85], [0.4, 0.5], [0.2, 0.5]]) * side * 4
    cv2.fillPoly(logo, [arrow.astype(np.int32)], (180, 30, 40))
    turn = cv2.getRotationMatrix2D((side * 2, side * 2), angle, 1.0)
    small = cv2.resize(cv2.warpAffine(logo, turn, logo.shape[1::-1], borderValue=(240, 240, 235)), (side, side))
    alpha = cv2.resize(ground, (side, side), interpolation=cv2.INTER_AREA)[..., None] / 255
    x, y = at
    place = image[y : y + side, x : x + side]
    place[:] = (place * (1 - alpha) + small * alpha).round()
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[y : y + side, x : x + side] = alpha[..., 0] > 0.1
    return mask


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.slow
def test_the_same_mark_is_found_at_all_its_places() -> None:
    image = photo("pier.jpg")
    first = stamp(image, (30, 40))
    others = [stamp(image, at) for at in ((400, 60), (220, 250), (60, 300))]
    found = find_repeats(image, first)
    assert len(found.regions) == 4 and found.regions[0].score == 1.0
    assert overlap(found.mask, np.logical_or.reduce([first, *others])) > 0.9


@pytest.mark.slow
def test_other_sizes_and_angles_are_found() -> None:
    image = photo("pier.jpg")
    first = stamp(image, (30, 40))
    others = [stamp(image, (380, 60), scale=1.4, angle=14), stamp(image, (220, 250), scale=0.75, angle=-18)]
    found = find_repeats(image, first)
    for other in others:
        assert (found.mask & other).sum() > 0.9 * other.sum()
    assert found.mask.sum() < 1.25 * (first | others[0] | others[1]).sum()


def test_a_mark_over_most_of_a_photo_takes_what_the_route_waits_for() -> None:
    """Cut out as float32 it took 20 bytes for each pixel of the photo, where `web/detect.py` counts with 12."""
    image, mask = np.zeros((900, 1200, 3), np.uint8), np.zeros((900, 1200), np.bool_)
    mask[100:700] = True
    tracemalloc.start()
    try:
        template = _take(image, mask)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 12 * mask.size
    assert template.mask.shape[1] > 1200 and template.small_mask.shape == template.small_pixels.shape[:2] == (200, 352)


def test_a_large_mark_is_scaled_from_a_small_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of some 1,700 sizes and angles was scaled from the mark as it is: of 3000 px that took nearly all of 9 s."""
    image = np.asarray(cv2.resize(photo("pier.jpg"), (1600, 1200), interpolation=cv2.INTER_CUBIC), np.uint8)
    first = stamp(image, (30, 40), scale=10)
    there = stamp(image, (900, 500), scale=10)
    resize = cv2.resize
    large: list[tuple[int, ...]] = []

    def scaled(source: NDArray[np.uint8], *size: Any, **how: Any) -> Any:
        large.extend([source.shape] * (source.size > 3 * KEPT_PX**2))
        return resize(source, *size, **how)

    monkeypatch.setattr(cv2, "resize", scaled)
    found = find_repeats(image, first)
    assert overlap(found.mask, first | there) > 0.95
    assert len(large) == 3  # the photo for each of the two looks, and the mark's pixels


def test_the_mark_is_found_on_another_photo() -> None:
    image, other = photo("pier.jpg"), photo("skyline.jpg")
    first = stamp(image, (30, 40))
    there = stamp(other, (300, 150))
    found = find_repeats(image, first, other=other)
    assert found.mask.shape == other.shape[:2] and len(found.regions) == 1
    assert overlap(found.mask, there) > 0.85


@pytest.mark.slow
def test_a_photo_without_the_mark_has_none() -> None:
    image = photo("pier.jpg")
    first = stamp(image, (30, 40))
    assert not find_repeats(image, first, other=photo("skyline.jpg"), sensitivity=0.3).regions


@pytest.mark.slow
def test_more_sensitive_never_finds_less() -> None:
    image = photo("pier.jpg")[:200, :320].copy()
    first = stamp(image, (30, 40))
    stamp(image, (200, 60), angle=20)
    masks = [find_repeats(image, first, sensitivity=s).mask for s in (0.0, 0.5, 1.0)]
    assert not (masks[0] & ~masks[1]).any() and not (masks[1] & ~masks[2]).any()
    assert (masks[0] & first).sum() == first.sum() < masks[2].sum()


def test_an_empty_mask_another_size_and_a_mark_as_large_as_the_photo_are_refused() -> None:
    image = photo("pier.jpg")
    for mask in (np.zeros(image.shape[:2], np.bool_), np.ones((10, 10), np.bool_), np.ones(image.shape[:2], np.bool_)):
        with pytest.raises(DetectionError):
            find_repeats(image, mask)
