"""What travels to an engine outside this process: the part of a photo that a repair needs, and what comes back.

Arrays are as in `engine.requests`; boxes (left, top, right, bottom). Knows no way to travel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.requests import RepairRequest
from engine.tones import ALL_LEVELS, shown_levels
from masks.boxes import Box, box_size, expand_box, find_bounds
from masks.crop_plan import CONTEXT_MARGIN_PART, NO_CONTEXT_PASS_PX, most_crop_px, most_dilate_px
from masks.dilation import CropRules
from notices import Note

MARGIN_PX = 832  # around the dilated hole, for an engine whose buckets are not known: half the largest, and some
WHOLE_SHARE = 0.7  # a crop that is more than this share of the photo is not worth cutting out


@dataclass
class RemoteResult:
    """What came back; shaped like `engine.requests.RepairResult`."""

    patches: list[tuple[Box, NDArray[Any]]]
    timings_ms: dict[str, float]
    notes: list[Note] = field(default_factory=list)

    def check_fits(self, window: Box, image: NDArray[Any]) -> None:
        """Raise ValueError for patches that the photo could not be composed of any more.

        Args:
            window: what the patches belong to.
            image: the photo, (H, W, 3) uint8 or uint16.
        """
        height, width = box_size(window)
        for (left, top, right, bottom), patch in self.patches:
            is_inside = 0 <= left < right <= width and 0 <= top < bottom <= height
            if not is_inside or patch.shape != (bottom - top, right - left, 3) or patch.dtype != image.dtype:
                raise ValueError("what came back does not fit the photo")

    def move_to(self, window: Box) -> None:
        """Say where the patches of a window lie in its photo."""
        left, top = window[:2]
        self.patches = [
            ((box[0] + left, box[1] + top, box[2] + left, box[3] + top), patch) for box, patch in self.patches
        ]


def window_of(
    mask: NDArray[np.bool_],
    bounds: Box | None = None,
    *,
    dilate_px: int | None = None,
    ladders: Iterable[tuple[int, ...]] = (),
) -> Box:
    """Return the part of a photo that an engine needs: the hole's bounds with enough context, or all of it.

    Args:
        mask: (H, W) bool, True = hole, not empty; not modified.
        bounds: the hole's, where they are known.
        dilate_px: of the request.
        ladders: the buckets of each engine that may get it; none where they are not known.

    Returns:
        A box (left, top, right, bottom) inside the photo.
    """
    size = (mask.shape[0], mask.shape[1])
    whole = (0, 0, size[1], size[0])
    bounds = bounds or find_bounds(mask)
    if bounds is None:
        return whole
    dilated_px = most_dilate_px(bounds, size, dilate_px=dilate_px)
    longer_px = max(box_size(bounds)) + 2 * dilated_px
    crop_px = max((most_crop_px(longer_px, ladder) for ladder in ladders), default=2 * MARGIN_PX)
    context_px = math.ceil(CONTEXT_MARGIN_PART * longer_px) if crop_px > NO_CONTEXT_PASS_PX else 0
    # A crop lies around the middle of its hole, dilated or not; a context's margin is counted from the dilated hole.
    window = expand_box(bounds, max(-(-crop_px // 2), dilated_px + context_px), size)
    # At the photo's edge all of a crop may lie on one side of its hole. Besides, rules go by a photo's size.
    window = _as_large_as(window, size, max(crop_px, CropRules().large_photo_px))
    height, width = box_size(window)
    return whole if height * width > WHOLE_SHARE * mask.size else window


def _as_large_as(window: Box, size: tuple[int, int], least_px: int) -> Box:
    """Return a window grown to so many pixels a side where the photo has them."""
    height_px, width_px = (min(least_px, side) for side in size)
    left, top = min(window[0], size[1] - width_px), min(window[1], size[0] - height_px)
    return left, top, max(window[2], left + width_px), max(window[3], top + height_px)


def parts_in(request: Any, window: Box) -> list[NDArray[Any]]:
    """Return image, mask and, where there is one, the transparent pixels of a request inside a window, as views."""
    left, top, right, bottom = window
    parts = [request.image, request.mask, *([] if request.transparent is None else [request.transparent])]
    return [part[top:bottom, left:right] for part in parts]


def options_of(request: Any) -> dict[str, Any]:
    """Return what a request says besides its arrays, and what only the whole photo tells, as JSON."""
    levels = None
    if request.image.dtype == np.uint16:
        levels = shown_levels(request.image, request.mask, request.transparent) or ALL_LEVELS
    return {
        "dilate_px": request.dilate_px, "feather_px": request.feather_px, "quality": request.quality,
        "levels": levels, "has_transparent": request.transparent is not None,
    }  # fmt: skip


def request_from(parts: Sequence[NDArray[Any]], options: Mapping[str, Any]) -> RepairRequest:
    """Return the request that `parts_in` and `options_of` were made of, for its window.

    Args:
        parts: image, mask and, where the options say so, transparent pixels; not copied.
        options: from JSON.

    Returns:
        What an engine repairs.
    """
    levels = options["levels"]
    return RepairRequest(
        parts[0], parts[1], options["dilate_px"], options["feather_px"], options["quality"],
        transparent=parts[2] if options["has_transparent"] else None,
        levels=(int(levels[0]), int(levels[1])) if levels else None,
    )  # fmt: skip
