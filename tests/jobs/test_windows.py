"""What of a photo travels to an engine elsewhere, and what it has to be told beside that part."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.context_pass import plan_context
from engine.requests import RepairRequest
from jobs.card_run import Lane
from jobs.redis_messages import unpack
from jobs.remote_engine import Fleet, RemoteEngine
from jobs.windows import RemoteResult, options_of, parts_in, request_from, window_of
from masks.boxes import Box
from masks.crop_plan import plan_crops
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


LADDERS = [(256, 384, 512, 768, 1024), (512, 1024, 1536), (256,), (1024,)]


@pytest.mark.parametrize("seed", range(24))
def test_a_window_is_planned_as_the_whole_photo_is(seed: int) -> None:
    """Crops and context passes lie where they lie in the whole photo, whatever buckets the engine has."""
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(500, 2600, 2))
    mask = np.zeros((height, width), np.bool_)
    reach = int(rng.choice([60, 200, 500]))
    middle = rng.integers(0, (height, width))
    for _ in range(int(rng.choice([1, 1, 2, 9]))):
        top, left = np.clip(middle + rng.integers(-reach, reach, 2), 0, (height - 1, width - 1))
        tall, wide = rng.integers(1, reach, 2)
        mask[top : top + tall, left : left + wide] = True
    dilate_px = [None, None, None, 0, 300][seed % 5]
    ladder, fixed = LADDERS[seed % 4], bool(seed % 3)
    window = window_of(mask, dilate_px=dilate_px, ladders=[ladder])
    whole = (0, 0, width, height)
    assert planned(mask, window, ladder, fixed, dilate_px) == planned(mask, whole, ladder, fixed, dilate_px)


def test_many_specks_are_planned_in_a_part_as_in_the_whole_photo() -> None:
    """Beyond a number they are gathered by the cells of a grid, which lay elsewhere in a part: 13 crops, not 9."""
    rng = np.random.default_rng(18)
    height, width = (int(side) for side in rng.integers(1500, 3000, 2))
    mask = np.zeros((height, width), np.bool_)
    reach = int(rng.choice([200, 400]))
    middle = rng.integers(reach, (height - reach, width - reach))
    for _ in range(300):
        top, left = np.clip(middle + rng.integers(-reach, reach, 2), 0, (height - 9, width - 9))
        mask[top : top + rng.integers(1, 9), left : left + rng.integers(1, 9)] = True
    window = window_of(mask, dilate_px=0, ladders=[(256,)])
    whole = (0, 0, width, height)
    assert window != whole and planned(mask, window, (256,), False, 0) == planned(mask, whole, (256,), False, 0)


def test_a_context_pass_sees_as_much_around_a_dilated_hole() -> None:
    mask = np.zeros((2500, 6000), np.bool_)
    mask[1150:1350, 3000:3200] = True
    window = window_of(mask, dilate_px=200, ladders=[(1024,)])
    assert window[2] - window[0] == 2400, "no more than that is sent"
    plans = planned(mask, window, (1024,), True, 200)
    assert len(plans[0][0]) == 3 and plans == planned(mask, (0, 0, 6000, 2500), (1024,), True, 200)


def planned(
    mask: NDArray[np.bool_], window: Box, ladder: tuple[int, ...], fixed: bool, dilate_px: int | None
) -> list[tuple[Any, ...]]:
    """Plan a part of a photo; boxes are the photo's: crop, patch and, where there is one, context."""
    left, top, right, bottom = window
    part = mask[top:bottom, left:right]
    told: list[tuple[Any, ...]] = []
    for crop in plan_crops(part, buckets_px=ladder, fixed_buckets=fixed, dilate_px=dilate_px):
        context = plan_context(crop, (part.shape[0], part.shape[1]))
        boxes = [crop.box, crop.patch_box, *([] if context is None else [context.box])]
        moved = [(box[0] + left, box[1] + top, box[2] + left, box[3] + top) for box in boxes]
        told.append((moved, crop.model_size, crop.scaled_size, crop.missing.tobytes()))
    return sorted(told)


def test_a_hole_that_fits_a_small_bucket_sends_little() -> None:
    mask = np.zeros((3000, 4000), np.bool_)
    mask[1400:1700, 1900:2200] = True
    left, top, right, bottom = window_of(mask, ladders=[(512, 1024, 1536)])
    assert max(right - left, bottom - top) <= 900
    assert window_of(mask, ladders=[(512, 1024, 1536), (1536,)]) == window_of(mask, ladders=[(1536,)])
    wide = window_of(mask)
    assert wide[0] <= left and wide[1] <= top and wide[2] >= right and wide[3] >= bottom


def test_a_hole_that_is_dilated_far_sends_all_that_is_dilated() -> None:
    """What lay farther from the mark than the context was cut off."""
    mask = np.zeros((3000, 4000), np.bool_)
    mask[1500, 2000] = True
    left, top, right, bottom = window_of(mask, dilate_px=1024)
    assert (left, right) == (0, 4000) or (left <= 2000 - 1024 and right > 2000 + 1024)
    assert top <= 1500 - 1024 and bottom > 1500 + 1024


class _StoppedError(Exception):
    """The parts are on their way, and nothing else is tried."""


def test_workers_and_cards_are_sent_what_their_crops_can_reach(tmp_path: Path) -> None:
    image = np.zeros((2400, 2600, 3), np.uint8)
    mask = np.zeros(image.shape[:2], np.bool_)
    mask[1200:1300, 1300:1400] = True
    (tmp_path / "weights").write_bytes(b"")
    sides: list[int] = []

    def sent(parts: Any) -> Any:
        sides.append(parts[0].shape[0])
        raise _StoppedError

    fleet: Any = Fleet("redis://127.0.0.1:1", version="1", weights=tmp_path / "weights")
    fleet.client = SimpleNamespace(set=lambda key, blob, ex: sent(unpack(blob)[1]), delete=lambda *keys: None)
    lane: Any = Lane.__new__(Lane)
    lane._memory = SimpleNamespace(write=sent)
    for buckets_px in ([512, 1024], []):
        fleet.workers = [{"buckets_px": [256, 512]}, {"buckets_px": buckets_px}]
        lane._run = SimpleNamespace(ladders=fleet.ladders)
        with pytest.raises(_StoppedError):
            RemoteEngine(fleet, deadline_s=60).repair_many([RepairRequest(image, mask)])
        with pytest.raises(_StoppedError):
            lane.repair([RepairRequest(image, mask)], lambda stage: None, 60.0)
    assert sides[:2] == [900, 900] and min(sides[2:]) > 1700
