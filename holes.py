"""The grown hole and its feather: what the network shall see as missing, and how the composite fades out.

Works on NumPy arrays alone: a mask is (H, W) bool, True = hole; a box is (left, top, right, bottom), half-open, in
image pixels; alpha is float32 in [0, 1]. Everything happens inside the mask's bounds, so that a small hole in a 12 MP
photo costs a millisecond or two; connected components over all of it would cost forty. Knows no crops and no tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]

MAX_DILATE_PX = 32
BOUNDS_ROWS = 64  # rows looked at together when the mask's last row is searched from below


@dataclass(frozen=True)
class CropRules:
    """The constants of the crop plan and of the default dilation, together so that one measurement can sweep them.

    Attributes:
        margin_ratio: context margin as a part of the hole box's longer side.
        min_margin_px: smallest context margin.
        max_margin_px: largest context margin; beyond it a big hole would only be scaled down further.
        dilate_ratio: default dilation as a part of the hole's half thickness (distance transform maximum).
        dilate_extra_px: pixels added to that, for the antialiased rim every hand-painted mask leaves out.
        forward_px: fixed cost of one more box, in model pixels; decides when two boxes are cheaper as one.
        cell_px: side of the grid cells that gather holes when there are very many.
    """

    margin_ratio: float = 0.25
    min_margin_px: int = 40
    max_margin_px: int = 192
    dilate_ratio: float = 0.12
    dilate_extra_px: int = 2
    forward_px: int = 120_000
    cell_px: int = 192


@dataclass(frozen=True)
class GrownHole:
    """The grown hole and its feather inside `box`; outside it there is none.

    Attributes:
        box: bounds of everything grown, inside the image.
        missing: (box height, box width) bool, True = the network sees this pixel as missing.
        alpha: (box height, box width) float32, the composite's weight.
        hole_boxes: (N, 4) int, the box of every connected hole, grown.
    """

    box: Box
    missing: NDArray[np.bool_]
    alpha: NDArray[np.float32]
    hole_boxes: NDArray[np.int64]


def box_size(box: Box) -> tuple[int, int]:
    """Return a box's (height, width)."""
    return box[3] - box[1], box[2] - box[0]


def find_bounds(mask: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box that holds every hole pixel, or None when there is none.

    Reads the mask once, at memory speed: down to the first hole row, up to the last, columns between them only.
    """
    mask = np.ascontiguousarray(mask)
    height, width = mask.shape
    first = int(mask.argmax())  # row-major, stops at the first True
    if not mask[first // width, first % width]:
        return None
    top, bottom = first // width, height
    while not mask[max(top, bottom - BOUNDS_ROWS) : bottom].any():
        bottom -= BOUNDS_ROWS
    rows: NDArray[np.bool_] = mask[max(top, bottom - BOUNDS_ROWS) : bottom].any(axis=1)
    bottom -= int(rows[::-1].argmax())
    columns: NDArray[np.bool_] = np.logical_or.reduce(mask[top:bottom], axis=0)
    return int(columns.argmax()), top, width - int(columns[::-1].argmax()), bottom


def default_dilate_px(thickness_px: NDArray[np.float32] | float, *, rules: CropRules) -> NDArray[np.int64]:
    """Return the dilation for holes whose deepest pixel lies `thickness_px` from the known region.

    Above 6 px only even values are used, so that many holes of about one thickness are grown in one pass.
    """
    wanted = np.rint(np.asarray(thickness_px) * rules.dilate_ratio + rules.dilate_extra_px)
    wanted = np.clip(wanted, 0, MAX_DILATE_PX).astype(np.int64)
    return np.where(wanted > 6, wanted // 2 * 2, wanted)


def feather_alpha(
    distance_px: NDArray[np.float32], *, dilate_px: int, feather_px: int | None = None
) -> NDArray[np.float32]:
    """Return the composite's weight at a distance from the hole (0 = on it).

    1 on the hole, 0 beyond `dilate_px`, and a smoothstep between them over the outermost `feather_px` pixels of the
    ring (None: over all of it; 0: a hard edge at the grown hole's rim).
    """
    ring_px = dilate_px if feather_px is None else min(feather_px, dilate_px)
    ramp = np.clip((dilate_px + 1 - distance_px) / np.float32(ring_px + 1), 0, 1)
    alpha = ramp * ramp * (3 - 2 * ramp)
    alpha[distance_px > dilate_px] = 0
    return alpha.astype(np.float32, copy=False)


def grow_hole(
    mask: NDArray[np.bool_],
    *,
    dilate_px: int | None = None,
    feather_px: int | None = None,
    rules: CropRules | None = None,
) -> GrownHole | None:
    """Dilate every hole by a Euclidean disc and lay its feather; None when the mask is empty.

    Args:
        mask: (H, W) bool, True = hole; not modified.
        dilate_px: the disc's radius for all holes; None gives each hole its own, in proportion to its thickness.
        feather_px: see `feather_alpha`.
        rules: constants of the default dilation.
    """
    rules = rules or CropRules()
    bounds = find_bounds(mask)
    if bounds is None:
        return None
    height, width = mask.shape
    reach = MAX_DILATE_PX if dilate_px is None else dilate_px
    region = _expand_inside(bounds, max(reach, 1), (height, width))
    hole = np.ascontiguousarray(mask[region[1] : region[3], region[0] : region[2]]).view(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(hole, connectivity=8, ltype=cv2.CV_32S)
    if dilate_px is None:
        dilate_of_label = default_dilate_px(_thickness_px(hole, np.asarray(labels), count), rules=rules)
    else:
        dilate_of_label = np.full(count, dilate_px, np.int64)

    missing = np.zeros(hole.shape, np.bool_)
    alpha = np.zeros(hole.shape, np.float32)
    values = np.unique(dilate_of_label[1:])
    for value in values.tolist():
        known = (hole == 0) if len(values) == 1 else ~(dilate_of_label == value)[labels] | (hole == 0)
        distance = _distance_px(known)
        missing |= distance <= value
        np.maximum(alpha, feather_alpha(distance, dilate_px=value, feather_px=feather_px), out=alpha)

    left, top = stats[1:, cv2.CC_STAT_LEFT] + region[0], stats[1:, cv2.CC_STAT_TOP] + region[1]
    right, bottom = left + stats[1:, cv2.CC_STAT_WIDTH], top + stats[1:, cv2.CC_STAT_HEIGHT]
    grow = dilate_of_label[1:]
    hole_boxes = np.stack([left - grow, top - grow, right + grow, bottom + grow], axis=1).astype(np.int64)
    hole_boxes = np.clip(hole_boxes, 0, np.array([width, height, width, height]))
    return GrownHole(region, missing, alpha, hole_boxes)


def _expand_inside(box: Box, by_px: int, image_size: tuple[int, int]) -> Box:
    height, width = image_size
    return max(0, box[0] - by_px), max(0, box[1] - by_px), min(width, box[2] + by_px), min(height, box[3] + by_px)


def _distance_px(known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Exact Euclidean distance of each pixel to the nearest False one."""
    distance = cv2.distanceTransform(known.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance, np.float32)


def _thickness_px(hole: NDArray[np.uint8], labels: NDArray, count: int) -> NDArray[np.float32]:
    """Largest distance to the known region inside each labelled hole; label 0 is the known region itself."""
    if hole.all():  # nothing known at all: as thick as can be
        return np.full(count, float(max(hole.shape)), np.float32)
    distance = cv2.distanceTransform(hole, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    thickness = np.zeros(count, np.float32)
    if count == 2:
        thickness[1] = distance.max()
    else:
        inside = hole.view(np.bool_)
        np.maximum.at(thickness, labels[inside], distance[inside])
    return thickness
