"""What of a photo travels to an engine elsewhere, and what it has to be told beside that part."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.requests import RepairRequest
from jobs.windows import RemoteResult, options_of, parts_in, request_from, window_of
from masks.dilation import CropRules, rules_for


def test_part_of_a_16_bit_photo_is_shown_with_the_levels_of_all_of_it() -> None:
    """A dark corner of a 12-bit photo was stretched as if the photo were that dark."""
    image = np.full((2400, 2600, 3), 200, np.uint16)
    image[:, 2400:] = 4000
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[100:140, 100:160] = True
    window = window_of(mask)
    assert window[2] < 2400
    options = json.loads(json.dumps(options_of(RepairRequest(image, mask, 3, quality="high"))))
    there = request_from(parts_in(RepairRequest(image, mask), window), options)
    assert there.image.shape[:2] == there.mask.shape == (window[3] - window[1], window[2] - window[0])
    assert there.levels is not None and there.levels[0] < 200 and 4000 < there.levels[1] < 65535
    assert (there.dilate_px, there.feather_px, there.quality) == (3, None, "high")


def test_part_of_a_photo_with_all_levels_is_not_stretched_where_it_is_dark() -> None:
    image = np.full((2400, 2600, 3), 200, np.uint16)
    image[:, 2000:] = 65000
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[100:140, 100:160] = True
    assert options_of(RepairRequest(image, mask))["levels"] == (0, 65535)
    assert options_of(RepairRequest(image.astype(np.uint8), mask))["levels"] is None


def test_transparent_pixels_travel_with_their_part_and_patches_come_back_to_their_place() -> None:
    image = np.zeros((3000, 3000, 3), np.uint8)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[2000:2010, 2500:2510] = True
    request = RepairRequest(image, mask, transparent=mask)
    window = window_of(mask)
    there = request_from(parts_in(request, window), options_of(request))
    assert there.transparent is not None and there.transparent.sum() == 100
    top, left = np.argwhere(there.mask)[0]
    result = RemoteResult([((int(left), int(top), int(left) + 10, int(top) + 10), image[:10, :10])], {})
    result.move_to(window)
    assert result.patches[0][0] == (2500, 2000, 2510, 2010)


@pytest.mark.parametrize(
    ("width", "height", "left", "top"), [(4000, 3000, 2000, 2970), (4000, 3000, 5, 5), (4000, 700, 1, 1)]
)
def test_a_part_of_a_photo_is_large_where_the_photo_is(width: int, height: int, left: int, top: int) -> None:
    """A mark at the edge of a large photo was dilated by a pixel less when only its part travelled."""
    mask = np.zeros((height, width), np.bool_)
    mask[top : top + 20, left : left + 60] = True
    x, y, right, bottom = window_of(mask)
    assert 0 <= x <= left and 0 <= y <= top and left + 60 <= right <= width and top + 20 <= bottom <= height
    assert (right - x) * (bottom - y) < mask.size
    assert rules_for((bottom - y, right - x), CropRules()) == rules_for((height, width), CropRules())
