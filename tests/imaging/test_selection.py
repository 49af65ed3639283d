"""Growing and shrinking selections, against OpenCV's own ellipse; a repaired GIF."""

import cv2
import numpy as np
import pytest

from imaging import selection
from imaging.reading import open_photo, open_to_look_at
from imaging.selection import adjust_selection, read_brightness


def by_opencv(mask: np.ndarray, operate: str, radius_px: int) -> np.ndarray:
    side_px = 2 * radius_px + 1
    ellipse = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side_px, side_px))
    work = cv2.dilate if operate == "expand" else cv2.erode
    return work(mask.astype(np.uint8), ellipse).astype(bool)


@pytest.mark.parametrize("operate", ["expand", "shrink"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.97, 1.0])
def test_selection_is_adjusted_as_the_whole_mask_by_opencv(
    operate: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(4)
    for radius_px in (0, 1, 2, 5, 13):
        for _ in range(6):
            mask = random.random(random.integers(1, 60, 2)) < share
            before = mask.copy()
            expected = by_opencv(mask, operate, radius_px)
            assert np.array_equal(adjust_selection(mask, operate, radius_px), expected)
            with monkeypatch.context() as patched:
                patched.setattr(selection, "LARGEST_WORK", 0)
                measured = adjust_selection(mask, operate, radius_px)
            least, most = (by_opencv(mask, operate, max(0, radius_px + more_px)) for more_px in (-1, 1))
            if operate == "shrink":
                least, most = most, least
            assert (least <= measured).all() and (measured <= most).all(), "further than a pixel from OpenCV's rim"
            assert np.array_equal(mask, before)


def test_no_mask_and_kernel_make_more_work_than_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 megapixels and a kernel of 1024 px held a turn of decoding for minutes."""
    done: list[float] = []

    def dilate(mask: np.ndarray, kernel: np.ndarray) -> np.ndarray:
        done.append(mask.size * float(kernel.sum()))
        return mask

    monkeypatch.setattr(cv2, "dilate", dilate)
    mask = np.ones((3000, 4000), bool)
    mask[0, 0] = False
    for radius_px in (5, 30, 1024):
        adjust_selection(mask, "expand", radius_px)
    assert len(done) == 2 and max(done) <= selection.LARGEST_WORK


def test_grey_is_read_as_its_value_and_photos_of_grey_can_be_written_to() -> None:
    values = np.random.default_rng(1).integers(0, 256, (9, 12), np.uint8)
    file = bytes(cv2.imencode(".png", values)[1])
    assert np.array_equal(read_brightness(file, max_bytes=1 << 20, max_px=1 << 20), values)
    deep = bytes(cv2.imencode(".png", values.astype(np.uint16) * 256 + 3)[1])
    assert np.array_equal(read_brightness(deep, max_bytes=1 << 20, max_px=1 << 20), values)
    photo = open_photo(file)
    photo.image[0, 0] = (1, 2, 3)
    assert tuple(photo.image[0, 0]) == (1, 2, 3)
    looked_at = open_to_look_at(file)
    assert np.array_equal(looked_at.image, np.repeat(values[..., None], 3, axis=2))
