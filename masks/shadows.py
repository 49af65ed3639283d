"""Shadows and glows of lettering: how far, and which way, a thin hole is dilated beyond what its thickness says.

A mask of letters leaves their soft shadow out. What is left of it beside the hole continues into the fill: a ghost that
can still be read. The surroundings of one letter prove nothing, as photos are full of edges. But a line of letters has
hundreds of places along its rim, and a deviation that is on the same side, by the same amount and at the same distance
in all of them does not come from the photo. So:

1. Rays are cast from the rims of a group of holes in eight directions (`masks.rays`).
2. The first pixels of each ray are compared with the straight line through its farther ones.
3. Where the means of that are clear of zero, on one side (a shadow) or all around (a glow), the hole is dilated so.

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
from masks.clusters import group_holes
from masks.dilation import CropRules, DilatedMask, HolePart, default_dilate_px, dilate_mask, rules_for
from masks.rays import DIRECTIONS, FEWEST_RAYS, RAY_PX, ROUGH_PART, RayMeans, Rays, cast_rays, off_line

UNITS = np.array(DIRECTIONS) / np.linalg.norm(DIRECTIONS, axis=1)[:, None]  # (8, 2)
HARMONICS = np.concatenate([np.ones((len(DIRECTIONS), 1)), UNITS], axis=1)  # (8, 3): all around, and to one side

THIN_PX = 20.0  # a hole with a deeper pixel is no lettering and is not looked at

MORE_STRAIGHT = 1.5  # times as clear has a shadow straight to a side to be: horizons run along lines of text
LEAST_LEVELS = 2.5  # grey levels; what deviates by less is not seen, and not worth a wider hole
GLOW_CLEAR = 6.0  # standard errors that a glow's mean has to be clear of zero by
LEAST_GLOW_LEVELS = 2.0  # in every direction


@dataclass(frozen=True)
class Comparison:
    """What of a ray is compared with what, and how clearly it has to differ for a shadow.

    Attributes:
        near: how many pixels, counted from the dilated hole, are compared with a line through farther ones.
        far: the pixels which that line goes through, counted likewise; half-open.
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


NARROW = Comparison(1, ROUGH_PART, least_levels=LEAST_LEVELS, clear=3.0, clear_each=1.5, other_side=0.35)
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
    """Dilate the hole as `dilate_mask` does, and over shadows and glows too where nobody says by how much.

    Args:
        mask: (H, W) bool, True = hole; not modified.
        image: (H, W, 3) uint8 or uint16 RGB, not modified; None looks for no shadows.
        bounds: see `dilate_mask`.
        dilate_px: see `dilate_mask`.
        feather_px: see `feather_alpha`.
        rules: constants; `shadow_px` is the most that a hole is dilated further by.
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
        (2 reach + 1, 2 reach + 1) uint8 for `cv2.dilate`: a stroke from the middle, which dilates holes towards a
        shadow, or a disc.
    """
    means = RayMeans(rays)
    for compared in (NARROW, WIDE):
        level, error = means.of(off_line(rays, compared.far)[:, : compared.near].mean(axis=1))
        if not np.isfinite(level).all():
            return None
        towards = _shadow_side(level, error, compared)
        if compared is NARROW and _is_glow(level, error):
            extent_px = _shadow_extent_px(rays, means, np.sign(level) / error**2, most_px)
            kernel = _disc(extent_px)
        elif towards is not None:
            facing = _facing(towards)
            weight = np.zeros(len(DIRECTIONS))
            weight[facing] = np.sign(level[facing]) / error[facing] ** 2
            extent_px = _shadow_extent_px(rays, means, weight, most_px)
            kernel = _stroke(DIRECTIONS[towards], extent_px)
        else:
            continue
        if extent_px:
            return kernel
    return None


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
        part = _dilate_towards(mask, dilated.hole_boxes[members], kernel, own_px)
        added.append(part)
        extent_px = kernel.shape[0] // 2
        hole_boxes[members] += np.array([-extent_px, -extent_px, extent_px, extent_px])
        box = unite(box, expand_box(part.box, own_px, size))
    if not added:
        return dilated
    inside = np.clip(hole_boxes, 0, np.array([size[1], size[0]] * 2))
    return replace(dilated, box=box, parts=(*dilated.parts, *added), hole_boxes=inside)


def _shadow_extent_px(rays: Rays, means: RayMeans, weight: NDArray[np.float64], most_px: int) -> int:
    """How many pixels beyond the dilated hole deviate, in the mean over directions of these weights (8,) and signs."""
    for tail in TAILS:
        off = off_line(rays, tail)
        seen_px = min(most_px, RAY_PX)
        profile = np.array([weight @ means.of(off[:, at])[0] for at in range(seen_px)]) / np.abs(weight).sum()
        ends = np.flatnonzero(profile < LEAST_LEVELS)
        extent_px = int(ends[0]) if len(ends) else seen_px
        if extent_px < tail[0]:
            break
    return extent_px


def _is_glow(level: NDArray[np.float64], error: NDArray[np.float64]) -> bool:
    """Whether levels (8,) deviate alike in all directions."""
    weight = error**-2
    mean = np.average(level, weights=weight)
    least = max(LEAST_LEVELS, GLOW_CLEAR * weight.sum() ** -0.5)
    return bool((level * np.sign(mean)).min() > LEAST_GLOW_LEVELS and abs(mean) > least)


def _shadow_side(level: NDArray[np.float64], error: NDArray[np.float64], compared: Comparison) -> int | None:
    """Return the index of the direction towards which levels (8,) deviate, while they do not on the opposite side."""
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


def _dilate_towards(
    mask: NDArray[np.bool_], boxes: NDArray[np.int64], kernel: NDArray[np.uint8], dilate_px: int
) -> HolePart:
    """Return what dilation by the kernel adds to the holes in these boxes (N, 4), as a part that is dilated like them.

    Another hole that lies in one of the boxes is dilated with them.
    """
    size, extent_px = (mask.shape[0], mask.shape[1]), kernel.shape[0] // 2
    (left, top), (right, bottom) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    outer = expand_box((int(left), int(top), int(right), int(bottom)), extent_px, size)
    drawn = np.zeros(box_size(outer), np.bool_)
    for left, top, right, bottom in boxes.tolist():
        box = left, top, right, bottom
        wide = expand_box(box, extent_px, size)
        hole = paste(mask[top:bottom, left:right], box, wide)
        drawn[slices_inside(wide, outer)] |= cv2.dilate(hole.view(np.uint8), kernel).view(np.bool_)
    left, top, right, bottom = outer
    return HolePart(outer, drawn & ~mask[top:bottom, left:right], dilate_px, size, is_drawn_out=True)


def _stroke(direction: tuple[int, int], extent_px: int) -> NDArray[np.uint8]:
    """A kernel that dilates towards a direction; `cv2.dilate` looks the other way."""
    kernel = np.zeros((2 * extent_px + 1, 2 * extent_px + 1), np.uint8)
    steps = np.arange(extent_px + 1)
    kernel[extent_px - steps * direction[1], extent_px - steps * direction[0]] = 1
    return kernel


def _disc(extent_px: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[-extent_px : extent_px + 1, -extent_px : extent_px + 1]
    return (x * x + y * y <= extent_px * extent_px).astype(np.uint8)
