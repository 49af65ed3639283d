"""Shadows and glows of lettering: which way a thin hole has to reach beyond what its thickness alone says.

A mask of letters leaves their soft shadow out, and what is left of it beside the hole is drawn on into the fill: a
ghost that can still be read. One letter's surroundings say nothing, as photos are full of edges; but the rim of a line
of letters passes over hundreds of places, and what deviates there on the same side, by the same amount and at the same
distance is not the photo's. So rays are cast from the rims of a group of holes in eight directions, every ray's first
pixels beyond the dilated hole are compared with the straight line through its farther ones, and where their means are
clear of zero, to one side (a shadow) or all around (a glow), the hole is drawn out that way as far as they are.

An image is (H, W, 3) uint8 or uint16 RGB, a mask (H, W) bool, True = hole; a box is (left, top, right, bottom),
half-open. Works on NumPy arrays, at the holes alone. Knows no crops and no tensors. What was measured to choose the
constants stands in bench/results/quality-notes.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from masks.boxes import Box, box_size, expand_box, paste, slices_inside, unite
from masks.clusters import MOST_GROUPS, HoleGroups, group_holes
from masks.dilation import CropRules, DilatedMask, HolePart, default_dilate_px, dilate_mask, rules_for

DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))  # (x, y), around the compass
UNITS = np.array(DIRECTIONS) / np.linalg.norm(DIRECTIONS, axis=1)[:, None]  # (8, 2)
HARMONICS = np.concatenate([np.ones((len(DIRECTIONS), 1)), UNITS], axis=1)  # (8, 3): all around, and to one side

THIN_PX = 20.0  # a hole with a deeper pixel is no lettering and is not looked at
RAY_PX = 12  # a ray's length beyond the dilated hole, in steps along its direction
MOST_RAYS = 256  # of a group and a direction; more of them say little that is new
FEWEST_RAYS = 24
# Of a group's box, a pattern's as of MOST_GROUPS; in a larger one every n-th row alone is searched.
SCANNED_PX = 1 << 16

ROUGHNESS_LEVELS = 4.0  # rays over smooth ground count for more, down to this deviation from their own mean
CLIP = 3.0  # in units of its roughness, the most that a ray is taken to deviate by
ALIKE = 4.0  # neighbouring rays cross the same things: as many of them count as one
LEAST_ERROR_LEVELS = 0.5  # however many rays there are

MORE_STRAIGHT = 1.5  # times as clear has a shadow straight to a side to be: horizons run along lines of text
LEAST_LEVELS = 2.5  # grey levels; what deviates by less is not seen, and not worth a wider hole
GLOW_CLEAR = 6.0  # standard errors that a glow's mean has to be clear of zero by
LEAST_GLOW_LEVELS = 2.0  # in every direction


@dataclass(frozen=True)
class Rays:
    """What is seen along rays, from the first pixel beyond the dilated hole on.

    Attributes:
        levels: (N, RAY_PX) float32, grey levels from 0 to 255.
        direction: (N,) int, index into DIRECTIONS.
    """

    levels: NDArray[np.float32]
    direction: NDArray[np.int64]


@dataclass(frozen=True)
class Comparison:
    """What of a ray is compared with what, and how clearly it has to differ for a shadow.

    Attributes:
        near: so many pixels from the dilated hole on are compared,
        far: with the line through these; half-open.
        least_levels: grey levels, mean over the side a shadow lies on.
        clear: standard errors that separate that side from the other.
        clear_each: standard errors that separate each of its directions from zero.
        other_side: part of its deviation that may be found on the other side.
    """

    near: int
    far: tuple[int, int]
    least_levels: float
    clear: float
    clear_each: float
    other_side: float


NARROW = Comparison(1, (2, 8), least_levels=LEAST_LEVELS, clear=3.0, clear_each=1.5, other_side=0.35)
WIDE = Comparison(2, (6, 12), least_levels=4.0, clear=5.0, clear_each=2.0, other_side=0.2)
TAILS = ((3, 9), (5, 12))  # lines that tell how far a shadow reaches: the second where it reaches into the first


def dilate_in_photo(
    mask: NDArray[np.bool_],
    image: NDArray | None,
    *,
    bounds: Box | None = None,
    dilate_px: int | None = None,
    feather_px: int | None = None,
    rules: CropRules | None = None,
    transparent: NDArray[np.bool_] | None = None,
) -> DilatedMask | None:
    """Grow the hole as `dilate_mask` does and, where nobody says by how much, draw it out over shadows and glows.

    Args:
        mask: (H, W) bool, True = hole; not modified.
        image: (H, W, 3) uint8 or uint16 RGB, not modified; None looks for no shadows.
        bounds: the hole's box, if known.
        dilate_px: see `dilate_mask`.
        feather_px: see `feather_alpha`.
        rules: constants; `shadow_px` is the most that a hole is drawn out by.
        transparent: (H, W) bool, pixels whose colours nobody sees: no shadow is looked for in them; not modified.

    Returns:
        the dilated mask, or None when the mask is empty.
    """
    rules = rules or CropRules()
    dilated = dilate_mask(mask, bounds=bounds, dilate_px=dilate_px, feather_px=feather_px, rules=rules)
    if dilated is None or image is None or dilate_px is not None or rules.shadow_px == 0:
        return dilated
    return _take_in_shadows(dilated, mask, image, rules, transparent)


def find_kernel(rays: Rays, *, most_px: int) -> NDArray[np.uint8] | None:
    """Return what the holes that the rays come from are to be dilated by, or None if by nothing.

    Args:
        rays: of one group of holes.
        most_px: how far the kernel may reach.

    Returns:
        (2 reach + 1, 2 reach + 1) uint8 for `cv2.dilate`: a stroke from the middle, which draws holes out towards a
        shadow, or a disc.
    """
    means = _Means(rays)
    for compared in (NARROW, WIDE):
        level, error = means.of(off_line(rays, compared.far)[:, : compared.near].mean(axis=1))
        if not np.isfinite(level).all():
            return None
        towards = _shadow_side(level, error, compared)
        if compared is NARROW and _is_glow(level, error):
            dilation_map = _dilation_map(rays, means, np.sign(level) / error**2, most_px)
            kernel = _disc(dilation_map)
        elif towards is not None:
            facing = _facing(towards)
            weight = np.zeros(len(DIRECTIONS))
            weight[facing] = np.sign(level[facing]) / error[facing] ** 2
            dilation_map = _dilation_map(rays, means, weight, most_px)
            kernel = _stroke(DIRECTIONS[towards], dilation_map)
        else:
            continue
        if dilation_map:
            return kernel
    return None


def off_line(rays: Rays, far: tuple[int, int]) -> NDArray[np.float32]:
    """Return by how much every pixel of every ray is off the line through the ray's far ones, (N, RAY_PX)."""
    line = np.stack([np.ones(RAY_PX), np.arange(RAY_PX)], axis=1)  # (RAY_PX, 2): level and slope
    through = slice(*far)
    fitted = (line @ np.linalg.pinv(line[through])).astype(np.float32)  # (RAY_PX, number of far pixels)
    return np.asarray(rays.levels - rays.levels[:, through] @ fitted.T)


def cast_rays(
    mask: NDArray[np.bool_],
    image: NDArray,
    groups: HoleGroups,
    label: int,
    own_px: int,
    avoided: NDArray[np.bool_] | None = None,
) -> Rays:
    """Cast rays from the rims of a group's holes, as many as meet no other hole, at most MOST_RAYS a direction.

    Args:
        mask: (H, W) bool; not modified.
        image: (H, W, 3) uint8 or uint16 RGB; not modified.
        groups: of the mask's holes.
        label: the group.
        own_px: by how much its holes grow.
        avoided: (H, W) bool, the mask and whatever else no ray may meet; not modified. None = the mask.

    Returns:
        the rays, by direction.
    """
    left, top, right, bottom = groups.box(label)
    height, width = mask.shape
    holes = (mask if avoided is None else avoided).reshape(-1)
    length = own_px + RAY_PX
    scanned_px = SCANNED_PX * (MOST_GROUPS if groups.is_pattern else 1)
    every = -(-(right - left) * (bottom - top) // scanned_px)
    starts = []
    for dx, dy in DIRECTIONS:
        # Rays end inside the image.
        x0, x1 = max(left, length * (dx < 0)), min(right, width - length * (dx > 0))
        y0, y1 = max(top, length * (dy < 0)), min(bottom, height - length * (dy > 0))
        if x0 >= x1 or y0 >= y1:
            starts.append(np.zeros((0, length), np.int64))
            continue
        beside = mask[y0 + dy : y1 + dy : every, x0 + dx : x1 + dx]
        at = np.flatnonzero(mask[y0:y1:every, x0:x1] > beside)
        y, x = at // (x1 - x0) * every + y0, at % (x1 - x0) + x0
        rim = (y * width + x)[groups.at(x, y) == label]
        rim = _thin_out(rim, 4 * MOST_RAYS)
        along = rim[:, None] + np.arange(1, length + 1) * (dy * width + dx)
        starts.append(_thin_out(along[~holes[along].any(axis=1)], MOST_RAYS))
    at = np.concatenate(starts)[:, own_px:]
    seen = image[at // width, at % width]  # (N, RAY_PX, 3)
    grey = seen.astype(np.float32) @ np.array([0.25, 0.5, 0.25], np.float32)
    direction = np.repeat(np.arange(len(DIRECTIONS)), [len(rays) for rays in starts])
    return Rays(grey if image.dtype == np.uint8 else grey / 257, direction)


def _take_in_shadows(
    dilated: DilatedMask,
    mask: NDArray[np.bool_],
    image: NDArray,
    rules: CropRules,
    transparent: NDArray[np.bool_] | None,
) -> DilatedMask:
    size = (mask.shape[0], mask.shape[1])
    # Thickness has been measured already, and is told by how much a hole grows.
    thin_dilate_px = default_dilate_px(THIN_PX, rules=rules_for(size, rules))
    if min(part.dilate_px for part in dilated.parts) > thin_dilate_px:
        return dilated
    dilate_px = np.broadcast_to([part.dilate_px for part in dilated.parts], len(dilated.hole_boxes))
    thin, least_rim_px = dilate_px <= thin_dilate_px, FEWEST_RAYS * len(DIRECTIONS)
    sides = dilated.hole_boxes[thin, 2:] - dilated.hole_boxes[thin, :2]
    if 2 * sides.sum() <= least_rim_px:
        return dilated  # a speck, for which grouping takes longer than all else
    groups = group_holes(dilated.hole_boxes, thin)
    avoided = mask if transparent is None else mask | transparent
    box, hole_boxes, added = dilated.box, dilated.hole_boxes.copy(), []
    for label in groups.with_rims(least_rim_px):
        members = groups.labels == label
        own_px = int(dilate_px[members].min())  # around thicker letters a shadow may be gone that stands around these
        kernel = find_kernel(cast_rays(mask, image, groups, label, own_px, avoided), most_px=rules.shadow_px)
        if kernel is None:
            continue
        part = _draw_out(mask, dilated.hole_boxes[members], kernel, own_px)
        added.append(part)
        dilation_map = kernel.shape[0] // 2
        hole_boxes[members] += np.array([-dilation_map, -dilation_map, dilation_map, dilation_map])
        box = unite(box, expand_box(part.box, own_px, size))
    if not added:
        return dilated
    inside = np.clip(hole_boxes, 0, np.array([size[1], size[0]] * 2))
    return replace(dilated, box=box, parts=(*dilated.parts, *added), hole_boxes=inside)


class _Means:
    """Means over the rays of each direction, in which those count for most that cross smooth ground."""

    def __init__(self, rays: Rays) -> None:
        self._direction = rays.direction
        self._rough = np.sqrt(rays.levels[:, slice(*NARROW.far)].var(axis=1) + ROUGHNESS_LEVELS**2)
        self._weight = self._rough**-2.0
        self._total = self._sums(self._weight)
        self._few = self._sums(np.ones(len(self._weight))) < FEWEST_RAYS

    def of(self, values: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return means (8,) of values (N,) and their standard errors; NaN where there are too few rays."""
        mean = np.zeros(len(DIRECTIONS))
        with np.errstate(invalid="ignore", divide="ignore"):
            for _ in range(4):  # the clipped mean moves by next to nothing after that
                off = np.clip(values - mean[self._direction], -CLIP * self._rough, CLIP * self._rough)
                mean = np.where(self._few, 0, mean + self._sums(self._weight * off) / self._total)
            squares = self._sums((self._weight * off) ** 2) / self._total**2
        error = np.sqrt(ALIKE * squares + LEAST_ERROR_LEVELS**2)
        return np.where(self._few, np.nan, mean), np.where(self._few, np.nan, error)

    def _sums(self, values: NDArray) -> NDArray[np.float64]:
        return np.bincount(self._direction, values, minlength=len(DIRECTIONS)).astype(np.float64)


def _dilation_map(rays: Rays, means: _Means, weight: NDArray[np.float64], most_px: int) -> int:
    """How many pixels beyond the dilated hole deviate, in the mean over directions of these weights (8,) and signs."""
    for tail in TAILS:
        off = off_line(rays, tail)
        seen_px = min(most_px, RAY_PX)
        profile = np.array([weight @ means.of(off[:, at])[0] for at in range(seen_px)]) / np.abs(weight).sum()
        ends = np.flatnonzero(profile < LEAST_LEVELS)
        dilation_map = int(ends[0]) if len(ends) else seen_px
        if dilation_map < tail[0]:
            break
    return dilation_map


def _is_glow(level: NDArray[np.float64], error: NDArray[np.float64]) -> bool:
    """Whether levels (8,) deviate alike in all directions."""
    weight = error**-2
    mean = np.average(level, weights=weight)
    least = max(LEAST_LEVELS, GLOW_CLEAR * weight.sum() ** -0.5)
    return bool((level * np.sign(mean)).min() > LEAST_GLOW_LEVELS and abs(mean) > least)


def _shadow_side(level: NDArray[np.float64], error: NDArray[np.float64], compared: Comparison) -> int | None:
    """The direction, an index, on whose side levels (8,) deviate and on whose other side they do not."""
    weight = error**-2
    covariance = np.linalg.inv(HARMONICS.T @ (HARMONICS * weight[:, None]))
    side = (covariance @ (HARMONICS.T @ (level * weight)))[1:]
    # Darker to the right may be a dark shadow on the right or a bright one on the left.
    ends = [int(np.argmax(UNITS @ side)), int(np.argmin(UNITS @ side))]
    weak, strong = sorted(ends, key=lambda end: abs(level[_facing(end)].mean()))
    facing = _facing(strong)
    clear = compared.clear * (MORE_STRAIGHT if strong % 2 == 0 else 1)
    mean = level[facing].mean()
    is_shadow = (
        side @ np.linalg.solve(covariance[1:, 1:], side) > clear**2
        and abs(mean) > compared.least_levels
        and abs(level[_facing(weak)].mean()) < compared.other_side * abs(mean)
        and (level[facing] * np.sign(mean) > compared.clear_each * error[facing]).all()
    )
    return strong if is_shadow else None


def _facing(direction: int) -> NDArray[np.int64]:
    """A direction and its two neighbours, indices."""
    return np.arange(direction - 1, direction + 2) % len(DIRECTIONS)


def _draw_out(mask: NDArray[np.bool_], boxes: NDArray[np.int64], kernel: NDArray[np.uint8], dilate_px: int) -> HolePart:
    """What dilation by the kernel adds to the holes in these boxes (N, 4), to be dilated as they are.

    Another hole that lies in one of the boxes is drawn out with them.
    """
    size, dilation_map = (mask.shape[0], mask.shape[1]), kernel.shape[0] // 2
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    outer = expand_box((int(left), int(top), int(right), int(bottom)), dilation_map, size)
    drawn = np.zeros(box_size(outer), np.bool_)
    for left, top, right, bottom in boxes.tolist():
        box = left, top, right, bottom
        wide = expand_box(box, dilation_map, size)
        hole = paste(mask[top:bottom, left:right], box, wide)
        drawn[slices_inside(wide, outer)] |= cv2.dilate(hole.view(np.uint8), kernel).view(np.bool_)
    left, top, right, bottom = outer
    return HolePart(outer, drawn & ~mask[top:bottom, left:right], dilate_px)


def _stroke(direction: tuple[int, int], dilation_map: int) -> NDArray[np.uint8]:
    """A kernel that draws out towards a direction; `cv2.dilate` looks the other way."""
    kernel = np.zeros((2 * dilation_map + 1, 2 * dilation_map + 1), np.uint8)
    steps = np.arange(dilation_map + 1)
    kernel[dilation_map - steps * direction[1], dilation_map - steps * direction[0]] = 1
    return kernel


def _disc(dilation_map: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-dilation_map : dilation_map + 1, -dilation_map : dilation_map + 1]
    return (x * x + y * y <= dilation_map * dilation_map).astype(np.uint8)


def _thin_out(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Every n-th of them, so that no more than so many are left."""
    return rows[:: max(1, -(-len(rows) // most))]
