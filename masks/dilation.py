"""The dilated hole and its feather: what the network shall see as missing, and how the composite fades out.

Works on NumPy arrays alone: a mask is (H, W) bool, True = hole; a box is (left, top, right, bottom), half-open, in
image pixels; alpha is float32 in [0, 1]. How far each hole grows is decided at once; the growing itself, a distance
transform, happens when somebody asks for it, and a GPU does it on its own from `dilation_map`. Knows no crops and no
tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from masks.boxes import (
    Box,
    box_size,
    expand_box,
    find_bounds,
    intersect,
    is_empty,
    paste,
    slices_inside,
    slices_of,
    stretch,
)
from masks.holes import connected_holes, depth_of_hole, seems_one_hole

MAX_DILATE_PX = 32
OUTWARDS = np.array([-1, -1, 1, 1])  # which way a box's edges move when it grows


@dataclass(frozen=True)
class CropRules:
    """The constants of the crop plan, of the default dilation and feather, together so that one sweep can vary them.

    Attributes:
        margin_ratio: context margin as a part of the hole box's longer side.
        min_margin_px: smallest context margin.
        max_margin_px: largest context margin; beyond it a big hole would only be scaled down further.
        scant_ratio: part of its margin, the smallest one included, that a hole can do with where all of it would take
            the next larger bucket.
        dilate_ratio: default dilation as a part of the hole's half thickness (distance transform maximum).
        dilate_extra_px: pixels added to that, for the antialiased rim every hand-painted mask leaves out.
        large_photo_px: a photo whose shorter side is as long gets one pixel more: what is drawn onto it has wider rims.
        feather_px: default width of the feather; what lies further in is replaced whole, as a rim left under
            half-transparent fill is the ghost that dilation is there to remove.
        forward_px: fixed cost of one more box, in model pixels; decides when two boxes are cheaper as one.
        cell_px: side of the grid cells that gather holes when there are very many.
        thin_px: a dilated hole no pixel of which is deeper than this may be cut into pieces when its box is too large.
        thin_cell_px: side of the grid cells it is cut by; with its margin a piece fits 512.
        shadow_px: most by which a thin hole is drawn out after a shadow or glow (`shadows.py`); 0 leaves them.
    """

    margin_ratio: float = 0.25
    min_margin_px: int = 40
    max_margin_px: int = 192
    scant_ratio: float = 0.85
    dilate_ratio: float = 0.12
    dilate_extra_px: int = 2
    large_photo_px: int = 900
    feather_px: int = 1
    forward_px: int = 150_000
    cell_px: int = 192
    thin_px: float = 40.0
    thin_cell_px: int = 320
    shadow_px: int = 6


@dataclass(frozen=True)
class HolePart:
    """Pixels that are dilated alike: a connected hole, several of them, or what a shadow beside them adds.

    Attributes:
        box: where it is.
        pixels: (box height, box width) bool; may be a view of the mask.
        dilate_px: by how much it grows.
        image_size: (height, width).
        is_drawn_out: whether it lies beside another part (`shadows.py`); all others have known pixels around them.
        measured_px: its depth, where that was measured already.
    """

    box: Box
    pixels: NDArray[np.bool_]
    dilate_px: int
    image_size: tuple[int, int]
    is_drawn_out: bool = False
    measured_px: float | None = None

    @cached_property
    def depth_px(self) -> float:
        """How deep it is, see `depth_px`."""
        return depth_of_hole(self.pixels, self.box, self.image_size) if self.measured_px is None else self.measured_px


@dataclass(frozen=True)
class DilatedMask:
    """The hole of a mask, dilated, and its feather, inside `box`; outside it there is none.

    Attributes:
        box: bounds of everything dilated, inside the image.
        parts: what it is made of; where they overlap, the one that reaches farther counts.
        feather_px: see `feather_alpha`.
        hole_boxes: (N, 4) int, the box of every connected hole, dilated.
        is_sampled: whether it was taken for one hole without all of it being read; see `overlooks_holes`.
    """

    box: Box
    parts: tuple[HolePart, ...]
    feather_px: int
    hole_boxes: NDArray[np.int64]
    is_sampled: bool = False

    def overlooks_holes(self) -> bool:
        """Tell whether several holes were taken for one. Reads the whole hole, unless it was read before."""
        hole = self.parts[0]
        return self.is_sampled and len(connected_holes(hole.pixels, hole.box)[0]) > 1

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(box height, box width) bool, True = the network sees this pixel as missing; made when first asked for."""
        return self._layers[0]

    @property
    def alpha(self) -> NDArray[np.float32]:
        """(box height, box width) float32, the composite's weight; made when first asked for."""
        return self._layers[1]

    @cached_property
    def dilation_map(self) -> NDArray[np.unsignedinteger]:
        """(box height, box width): for a pixel of the mask's hole by how much it grows, plus one, elsewhere 0."""
        most_px = max(part.dilate_px for part in self.parts) + 1
        dtype = np.uint8 if most_px <= np.iinfo(np.uint8).max else np.uint16
        dilation_map: NDArray[np.unsignedinteger] = np.zeros(box_size(self.box), dtype)
        for part in self.parts:
            inner = dilation_map[slices_inside(part.box, self.box)]
            np.maximum(inner, np.multiply(part.pixels, part.dilate_px + 1, dtype=dtype), out=inner)
        return dilation_map

    def depth_px(self, box: Box) -> float:
        """Return how deep the hole is in a box, without its dilation; see `largest_inside_px`."""
        there = [part for part in self.parts if not is_empty(intersect(part.box, box))]
        if all(intersect(part.box, box) == part.box and not part.is_drawn_out for part in there):
            return max((part.depth_px for part in there), default=0.0)
        hole = np.zeros(box_size(box), np.bool_)
        for part in there:
            shared = intersect(part.box, box)
            hole[slices_inside(shared, box)] |= part.pixels[slices_inside(shared, part.box)]
        return depth_of_hole(hole, box, there[0].image_size)

    def layers(self, box: Box) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """`missing` and `alpha` of any part of the image, (box height, box width) each."""
        missing, make_alpha = self.lazy_layers(box)
        return missing, make_alpha()

    def lazy_layers(self, box: Box) -> tuple[NDArray[np.bool_], Callable[[], NDArray[np.float32]]]:
        """Return `missing` of any part of the image, and what makes its `alpha`, which the input does not need."""
        missing = np.zeros(box_size(box), np.bool_)
        near: list[tuple[tuple[slice, slice], NDArray[np.float32], int]] = []  # where, distance, by how much it grows
        for part in self.parts:
            dilated = intersect(stretch(part.box, part.dilate_px), box)
            if is_empty(dilated):
                continue
            # Hole pixels farther away than they are dilated by change nothing in the box.
            window = intersect(stretch(dilated, part.dilate_px), intersect(stretch(part.box, part.dilate_px), self.box))
            hole = paste(part.pixels, part.box, window)
            if not hole.any():
                continue
            distance = _distance_px(~hole)[slices_inside(dilated, window)]
            inner = slices_inside(dilated, box)
            missing[inner] |= distance <= part.dilate_px
            near.append((inner, distance, part.dilate_px))

        def make_alpha() -> NDArray[np.float32]:
            alpha = np.zeros(box_size(box), np.float32)
            for inner, distance, dilate_px in near:
                feather = feather_alpha(distance, dilate_px=dilate_px, feather_px=self.feather_px)
                np.maximum(alpha[inner], feather, out=alpha[inner])
            return alpha

        return missing, make_alpha

    @cached_property
    def _layers(self) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        return self.layers(self.box)


@dataclass(frozen=True)
class PreparedMask:
    """A hole that is dilated already: what `DilatedMask` says of `box`, given as it shall be."""

    box: Box
    missing: NDArray[np.bool_]
    alpha: NDArray[np.float32]

    def layers(self, box: Box) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """As `DilatedMask.layers`."""
        return paste(self.missing, self.box, box), paste(self.alpha, self.box, box)

    def lazy_layers(self, box: Box) -> tuple[NDArray[np.bool_], Callable[[], NDArray[np.float32]]]:
        """As `DilatedMask.lazy_layers`."""
        return paste(self.missing, self.box, box), lambda: paste(self.alpha, self.box, box)


def default_dilate_px(thickness_px: float, *, rules: CropRules) -> int:
    """Return the dilation for a hole whose deepest pixel lies `thickness_px` from the known region."""
    return min(MAX_DILATE_PX, round(thickness_px * rules.dilate_ratio) + rules.dilate_extra_px)


@lru_cache(maxsize=64)
def rules_for(image_size: tuple[int, int], rules: CropRules) -> CropRules:
    """Return the constants for an image of (height, width): a large photo's rims are wider by a pixel."""
    if min(image_size) < rules.large_photo_px:
        return rules
    return replace(rules, dilate_extra_px=rules.dilate_extra_px + 1)


def feather_alpha(distance_px: Any, *, dilate_px: int, feather_px: int | None = None) -> Any:
    """Return the composite's weight at a distance from the hole (0 = on it).

    1 on the hole, 0 beyond `dilate_px`, and a smoothstep between them over the outermost `feather_px` pixels of the
    ring (None: over all of it; 0: a hard edge at the dilated hole's rim). `distance_px` is a float32 array, of NumPy or
    whatever computes like it; the result is of its kind.
    """
    ring_px = dilate_px if feather_px is None else min(feather_px, dilate_px)
    ramp = ((dilate_px + 1 - distance_px) * (1 / (ring_px + 1))).clip(0, 1)
    return (3 - 2 * ramp) * ramp * ramp * (distance_px <= dilate_px)


def dilate_mask(
    mask: NDArray[np.bool_],
    *,
    bounds: Box | None = None,
    dilate_px: int | None = None,
    feather_px: int | None = None,
    rules: CropRules | None = None,
) -> DilatedMask | None:
    """Dilate every hole by a Euclidean disc and lay its feather.

    Args:
        mask: (H, W) bool, True = hole; not modified.
        bounds: the hole's box from `sample_bounds`: then what is in it is sampled too if it is large. None reads all.
        dilate_px: the disc's radius for all holes; None gives each hole its own, in proportion to its thickness.
        feather_px: see `feather_alpha`; None takes the rules'.
        rules: constants of the default dilation and feather.

    Returns:
        the dilated mask, or None when the mask is empty.
    """
    rules = rules or CropRules()
    is_sampled = bounds is not None and seems_one_hole(mask[slices_of(bounds)])
    bounds = bounds or find_bounds(mask)
    if bounds is None:
        return None
    size = (mask.shape[0], mask.shape[1])
    hole = mask[slices_of(bounds)]
    boxes, holes = (np.array([bounds]), [(bounds, hole)]) if is_sampled else connected_holes(hole, bounds)
    if dilate_px is not None and _are_shared(boxes, bounds, dilate_px, size):
        holes = [(bounds, hole)]
    rules_here = rules_for(size, rules)
    parts = tuple(_part(pixels, box, size, dilate_px, rules_here) for box, pixels in holes)
    values = [part.dilate_px for part in parts]
    box = expand_box(bounds, max(values), size)
    if len(boxes) == 1:
        hole_boxes = np.array([box], np.int64)
    else:
        grow = np.array(values if len(parts) == len(boxes) else values * len(boxes))[:, None]
        hole_boxes = np.clip(boxes + grow * OUTWARDS, 0, np.array([size[1], size[0]] * 2))
    feather_px = rules.feather_px if feather_px is None else int(feather_px)
    return DilatedMask(box, parts, feather_px, hole_boxes, is_sampled)


def _are_shared(boxes: NDArray[np.int64], bounds: Box, dilate_px: int, image_size: tuple[int, int]) -> bool:
    """Tell whether holes that all grow alike, each looked at by itself, are more pixels than all of them at once.

    They come to the same. With 2400 specks that grew by 256 px, a repair was half a minute and gigabytes before it ran.
    """
    grown = np.clip(boxes + dilate_px * OUTWARDS, 0, np.array([image_size[1], image_size[0]] * 2))
    height, width = box_size(expand_box(bounds, dilate_px, image_size))
    return int(((grown[:, 2] - grown[:, 0]) * (grown[:, 3] - grown[:, 1])).sum()) > height * width


def _part(
    pixels: NDArray[np.bool_], box: Box, image_size: tuple[int, int], dilate_px: int | None, rules: CropRules
) -> HolePart:
    if dilate_px is not None:
        return HolePart(box, pixels, int(dilate_px), image_size)
    depth_px = depth_of_hole(pixels, box, image_size)
    return HolePart(box, pixels, default_dilate_px(depth_px, rules=rules), image_size, measured_px=depth_px)


def _distance_px(known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Exact Euclidean distance of each pixel to the nearest False one."""
    distance = cv2.distanceTransform(known.view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Intel's root in OpenCV is off by a last bit that depends on the array's address. What it is the root of is whole.
    squared = np.square(distance, dtype=np.float32)
    np.rint(squared, out=squared)
    return np.sqrt(squared, out=squared)
