"""Selecting by a click: shapes whose outline is known, drawn on real photos."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detection.click import select_object
from detection.found import DetectionError

DATA = Path(__file__).resolve().parents[1] / "data"


def photo(name: str, scale: int = 1) -> NDArray[np.uint8]:
    image = np.asarray(Image.open(DATA / name).convert("RGB"))
    return np.asarray(cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC), np.uint8)


def with_shape(image: NDArray[np.uint8], color: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Draw a seven-cornered star with soft edges in the middle; return the image and where it is."""
    height, width = image.shape[:2]
    angles = np.arange(14) * np.pi / 7
    radii = np.where(np.arange(14) % 2, 0.16, 0.3) * height
    corners = np.stack([width / 2 + radii * np.cos(angles), height / 2 + radii * np.sin(angles)], 1)
    shape = np.zeros((height, width), np.uint8)
    cv2.fillPoly(shape, [corners.astype(np.int32)], 255)
    alpha = cv2.GaussianBlur(shape, (0, 0), 0.8)[..., None] / 255
    drawn = image * (1 - alpha) + np.array(color) * alpha
    return drawn.round().astype(np.uint8), shape > 0


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


@pytest.mark.parametrize("scale", [1, 4])
def test_one_click_selects_a_coloured_shape_to_its_edge(scale: int) -> None:
    image, truth = with_shape(photo("pier.jpg", scale), (230, 40, 60))
    height, width = truth.shape
    found = select_object(image, [(width / 2, height / 2, True)])
    assert overlap(found.mask, truth) > 0.95
    assert found.mask.shape == truth.shape and found.mask.dtype == np.bool_
    assert len(found.regions) >= 1 and found.regions[0].polygon.shape[1] == 2


def test_a_small_thing_in_a_large_photo_is_looked_at_from_nearer() -> None:
    image = photo("skyline.jpg", 6)
    truth = np.zeros(image.shape[:2], np.uint8)
    cv2.circle(truth, (600, 400), 22, 1, -1)
    image = np.where(truth[..., None] > 0, np.array([250, 220, 0], np.uint8), image).astype(np.uint8)
    assert overlap(select_object(image, [(600, 400, True)]).mask, truth > 0) > 0.9


@pytest.mark.parametrize("size", [(1, 6000), (9000, 3)], ids=str)
def test_a_click_on_a_photo_of_a_few_rows_selects_up_to_its_edge(size: tuple[int, int]) -> None:
    """What it is scaled down from was every tenth row, from the fifth: of three rows none, and an error of OpenCV's."""
    image = np.zeros((*size, 3), np.uint8)
    longer = max(size)
    part = image.reshape(longer, -1, 3) if size[0] == longer else image[0][:, None]
    part[longer // 3 : longer // 2] = (230, 40, 60)
    at = longer * 2 // 5
    x, y = (0, at) if size[0] == longer else (at, 0)
    assert overlap(select_object(image, [(x, y, True)]).mask, image[..., 0] > 0) > 0.95
    assert select_object(image, box=(0, 0, size[1], size[0])).mask.any()


def test_more_clicks_add_and_take_away() -> None:
    image = photo("skyline.jpg", 2)
    cv2.rectangle(image, (100, 150), (300, 300), (220, 30, 30), -1)
    cv2.rectangle(image, (301, 150), (500, 300), (30, 30, 220), -1)
    red, both = [(200.0, 220.0, True)], [(200.0, 220.0, True), (400.0, 220.0, True)]
    one, two = select_object(image, red).mask, select_object(image, both).mask
    less = select_object(image, [*both, (200.0, 220.0, False)]).mask
    assert one[160:290, 110:290].mean() > 0.97 and one[160:290, 310:490].mean() < 0.03
    assert two[160:290, 110:290].mean() > 0.97 and two[160:290, 310:490].mean() > 0.97
    assert less[160:290, 110:290].mean() < 0.1 and less[160:290, 310:490].mean() > 0.9


def test_a_box_selects_the_object_inside_it() -> None:
    image, truth = with_shape(photo("skyline.jpg", 2), (240, 120, 20))
    rows, columns = np.nonzero(truth)
    box = (int(columns.min()) - 15, int(rows.min()) - 15, int(columns.max()) + 15, int(rows.max()) + 15)
    found = select_object(image, box=box).mask
    assert overlap(found, truth) > 0.85
    assert not found[: box[1] - 1].any() and not found[:, box[2] + 1 :].any()


def test_the_same_click_gives_the_same_mask_and_leaves_the_photo_alone() -> None:
    image = photo("pier.jpg")
    before = image.copy()
    first, again = (select_object(image, [(300, 120, True)]).mask for _ in range(2))
    assert np.array_equal(first, again) and np.array_equal(image, before)


def test_sixteen_bits_select_what_eight_bits_do() -> None:
    image, _ = with_shape(photo("pier.jpg"), (230, 40, 60))
    deep = image.astype(np.uint16) * 257
    assert np.array_equal(select_object(image, [(256, 192, True)]).mask, select_object(deep, [(256, 192, True)]).mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (40, 1), (3, 3), (8, 200)])
def test_tiny_photos_are_selected_in_without_a_fault(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    assert select_object(image, [(size[1] - 1, size[0] - 1, True)]).mask[size[0] - 1, size[1] - 1]


@pytest.mark.parametrize(
    ("points", "box", "sensitivity"),
    [
        ([], None, 0.5),
        ([(5, 5, False)], None, 0.5),
        ([(512, 5, True)], None, 0.5),
        ([(-1, 5, True)], None, 0.5),
        ([], (600, 0, 700, 50), 0.5),
        ([(5, 5, True)], None, 1.5),
        ([(5, 5, True)] * 201, None, 0.5),
        ([(float("nan"), 5, True)], None, 0.5),
    ],
)
def test_what_selects_nothing_is_refused(points: list, box: tuple | None, sensitivity: float) -> None:
    with pytest.raises(DetectionError):
        select_object(photo("pier.jpg"), points, box=box, sensitivity=sensitivity)


@pytest.mark.slow
def test_a_box_on_what_is_like_its_surroundings_selects_what_lies_in_its_middle() -> None:
    """Of 160 boxes drawn anywhere on photos the cut left nothing in 126, and people were told to try another place."""
    image = photo("pier.jpg")
    found = 0
    random = np.random.default_rng(3)
    for _ in range(20):
        left, top = int(random.integers(0, 350)), int(random.integers(0, 250))
        box = (left, top, left + 120, top + 100)
        mask = select_object(image, box=box).mask
        found += int(mask.sum() > 100)
        assert not mask[: max(0, top - 8)].any() and not mask[:, left + 128 :].any()
    assert found >= 19
