"""A mark that is tiled over a photo is found; a caption where something else repeats is none."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detection.tiling import find_tiled_mark

DATA = Path(__file__).resolve().parents[1] / "data"
FONT = cv2.FONT_HERSHEY_DUPLEX


def sky(height: int) -> NDArray[np.uint8]:
    """A gradient in whole grey levels: its bands repeat as regularly as anything."""
    rows, columns = np.mgrid[0:height, 0:640]
    return np.stack([150 + rows // 8, 180 + columns // 20, 205 + rows // 16], axis=2).astype(np.uint8)


def bricks() -> NDArray[np.uint8]:
    """A wall with joints, each brick a little different."""
    random = np.random.default_rng(0)
    image = np.full((400, 640, 3), 170, np.uint8)
    for row, top in enumerate(range(0, 400, 48)):
        for left in range(-(row % 2) * 48, 640, 96):
            color = tuple(int(value) for value in random.integers((140, 70, 50), (160, 90, 70)))
            cv2.rectangle(image, (left + 3, top + 3), (left + 92, top + 44), color, -1)
    return np.clip(image + random.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("text", ["12:45 NOON", "Harbour 2026", "Sale"])
@pytest.mark.parametrize("photo", [sky(280), sky(360), bricks()], ids=["low sky", "sky", "bricks"])
def test_one_caption_is_no_tiled_mark(photo: NDArray[np.uint8], text: str) -> None:
    """In the average of all cells it could be read, and the whole sky was found with it."""
    image = photo.copy()
    cv2.putText(image, text, (90, image.shape[0] * 2 // 3), FONT, 1.2, (20, 20, 20), 2, cv2.LINE_AA)
    assert find_tiled_mark(image, (0, 0)) == []


@pytest.mark.slow
@pytest.mark.parametrize("opacity", [0.6, 0.3])
def test_a_tiled_mark_is_found_in_each_cell(opacity: float) -> None:
    photo = np.asarray(Image.open(DATA / "pier.jpg").convert("RGB"))
    alpha = np.zeros(photo.shape[:2], np.uint8)
    for top in range(50, photo.shape[0], 75):
        for left in range(-40 - top, photo.shape[1], 150):
            cv2.putText(alpha, "sample", (left, top), FONT, 0.9, 255, 2, cv2.LINE_AA)
    weight = opacity * alpha[..., None] / 255
    image = (photo * (1 - weight) + 255 * weight).round().astype(np.uint8)
    found = np.zeros(alpha.shape, np.bool_)
    for _, letters in find_tiled_mark(image, (7, 5)):
        left, top, right, bottom = letters.box
        found[top - 5 : bottom - 5, left - 7 : right - 7] |= letters.mask
    marked = alpha > 128
    assert (found & marked).sum() > 0.7 * marked.sum()
    assert (found & (cv2.dilate(alpha, np.ones((9, 9))) == 0)).sum() < 0.1 * found.sum()
