"""Crop plan: which boxes of a photo a repair runs on, at which model size, and how each goes back into the photo.

Owns the boxes around holes, their context and merging, and the choice of bucket; the dilated holes come from
`dilation.py` and `shadows.py`. Works on NumPy arrays alone. Knows no tensors, no device and no network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from masks.boxes import Box, as_box, box_size, find_bounds, paste
from masks.dilation import (
    MAX_DILATE_PX,
    OUTWARDS,
    CropRules,
    DilatedMask,
    PreparedMask,
    default_dilate_px,
    rules_for,
)
from masks.holes import largest_inside_px
from masks.shadows import THIN_PX, dilate_in_photo

MODEL_STEP_PX = 8  # the network halves its input three times
TIGHT_STEP_PX = 32  # without buckets; a CPU prepares its convolutions anew for each size it has not met
MIN_MODEL_PX = 16  # reflection padding needs two feature pixels (16 / 8)
NO_CONTEXT_PASS_PX = 512  # a crop that runs at this or less sees enough by itself (`engine/context_pass.py`)
CONTEXT_MARGIN_PART = 1.5  # the margin of a context pass, as a part of the dilated hole's longer side
MANY_HOLES = 96  # beyond this many, small holes are first gathered by grid cell: merging is quadratic
IS_LOW_EDGE = np.array([True, True, False, False] * 2)  # of a span: a hole's box, then its box with context


@dataclass(frozen=True)
class Crop:
    """One box to run, and what of its prediction goes back.

    Attributes:
        box: the pixels the network sees, inside the image.
        patch_box: the pixels that may change, inside `box`; patch boxes of one plan never overlap.
        scaled_size: (height, width) `box` is resized to; its own size when it runs at full resolution.
        model_size: (height, width) of the network's input, `scaled_size` padded at the bottom and right.
        hole: the dilated hole with its feather, other boxes' holes included.
        sample_step: every how many rows and columns a scaled box is looked at; more than 1 only where nothing of the
            prediction goes back into the photo as it is.
    """

    box: Box
    patch_box: Box
    scaled_size: tuple[int, int]
    model_size: tuple[int, int]
    hole: DilatedMask | PreparedMask
    sample_step: int = 1

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(box height, box width) bool, the dilated hole inside `box`."""
        return self.hole.layers(self.box)[0]

    @property
    def alpha(self) -> NDArray[np.float32]:
        """(patch height, patch width) float32, 1 on the hole, falling to 0 across the ring dilation added."""
        return self.hole.layers(self.patch_box)[1]

    @property
    def is_scaled(self) -> bool:
        """Whether the box runs smaller than it is."""
        return self.scaled_size != box_size(self.box)


def plan_crops(
    mask: NDArray[np.bool_],
    *,
    image: NDArray | None = None,
    bounds: Box | None = None,
    buckets_px: tuple[int, ...],
    fixed_buckets: bool,
    dilate_px: int | None = None,
    feather_px: int | None = None,
    rules: CropRules | None = None,
    transparent: NDArray[np.bool_] | None = None,
) -> list[Crop]:
    """Choose the boxes a repair runs on.

    Holes keep a context margin in proportion to their size; boxes that touch are merged, others are when one forward
    is cheaper than two and neither loses resolution. A box larger than the largest bucket is scaled down to it, unless
    its hole is thin, which is cut into pieces instead.

    Args:
        mask: (H, W) bool, True = hole; not modified.
        image: (H, W, 3) uint8 or uint16 RGB, not modified; None leaves shadows standing (`shadows.py`).
        bounds: see `dilate_mask`.
        buckets_px: square model sides, ascending, multiples of 8.
        fixed_buckets: True runs every box at one of the buckets (captured graphs need that) and fills the bucket
            with more context; False runs little more than what is needed, which is cheaper without graphs.
        dilate_px: see `dilate_in_photo`.
        feather_px: see `feather_alpha`.
        rules: the plan's constants.
        transparent: (H, W) bool, pixels in which no shadow is looked for; not modified.

    Returns:
        Crops whose patch boxes are disjoint and together hold the whole dilated hole; empty for an empty mask.
    """
    rules = rules or CropRules()
    dilated = dilate_in_photo(
        mask, image, bounds=bounds, dilate_px=dilate_px, feather_px=feather_px, rules=rules, transparent=transparent
    )
    if dilated is None:
        return []
    size = (mask.shape[0], mask.shape[1])
    fitter = _Fitter(size, buckets_px, fixed_buckets, rules)
    spans = _merge(fitter.with_context(dilated.hole_boxes), fitter)
    return [fitter.crop(piece, dilated) for span in spans for piece in _split_thin(span, dilated, fitter)]


def overlooks_holes(crops: list[Crop]) -> bool:
    """Read the whole hole of a plan from sampled bounds, and tell whether it is several that were taken for one."""
    return any(isinstance(crop.hole, DilatedMask) and crop.hole.overlooks_holes() for crop in crops[:1])


def most_dilate_px(
    bounds: Box, image_size: tuple[int, int], *, dilate_px: int | None = None, rules: CropRules | None = None
) -> int:
    """Tell how far a plan may dilate holes of which only the bounds are known.

    Args:
        bounds: (left, top, right, bottom) of all holes.
        image_size: (height, width).
        dilate_px: as for `plan_crops`.
        rules: the plan's constants.

    Returns:
        The most pixels, shadows included.
    """
    if dilate_px is not None:
        return dilate_px
    rules = rules_for(image_size, rules or CropRules())
    if bounds[0] == 0 or bounds[1] == 0 or bounds[2] == image_size[1] or bounds[3] == image_size[0]:
        return MAX_DILATE_PX + rules.shadow_px  # nothing is known beyond the photo's edge, so a hole there is thicker
    thickness_px = min(box_size(bounds)) / 2 + 1
    thin_px = default_dilate_px(min(thickness_px, THIN_PX), rules=rules) + rules.shadow_px
    return max(default_dilate_px(thickness_px, rules=rules), thin_px)


@lru_cache(maxsize=4096)
def most_crop_px(longer_px: int, buckets_px: tuple[int, ...], rules: CropRules | None = None) -> int:
    """Tell how large a crop may become, whatever the holes in it are.

    Args:
        longer_px: longer side of the box that all dilated holes lie in, be they one or several.
        buckets_px: as for `plan_crops`, fixed or not.
        rules: the plan's constants.

    Returns:
        Its longest side in pixels.
    """
    rules = rules or CropRules()
    # Of several holes in one crop each has a margin of its own, and a smaller one's may be the larger.
    with_most_margin = min(longer_px, math.ceil(rules.max_margin_px / rules.margin_ratio))
    margin_px = max(_margin_px(side, buckets_px, rules) for side in range(1, with_most_margin + 1))
    needed_px = longer_px + 2 * margin_px
    return max(next((px for px in buckets_px if px >= needed_px), needed_px), _round_up(needed_px, TIGHT_STEP_PX))


def shrink_crop(crop: Crop, bucket_px: int) -> Crop:
    """Return the same crop run at most `bucket_px` large: the way down when memory is short."""
    scaled, model = _fit(box_size(crop.box), bucket_px, square=crop.model_size[0] == crop.model_size[1])
    return replace(crop, scaled_size=scaled, model_size=model)


def middle_of_every(step: int) -> slice:
    """Return which rows of a box, or columns, are looked at when every `step`-th is."""
    return slice(step // 2, None, step)


def pad_indices(length: int, padded_length: int) -> NDArray[np.int64]:
    """Return, for each of `padded_length` positions, the source index that reflection at both ends gives.

    Unlike a padding layer it takes any ratio of the two, down to a single pixel, which is repeated.
    """
    period = max(1, 2 * (length - 1))
    phase = np.arange(padded_length) % period
    return np.where(phase < length, phase, period - phase)


@dataclass(frozen=True)
class _Fitter:
    """Turns hole boxes into crops of one image."""

    image_size: tuple[int, int]
    buckets_px: tuple[int, ...]
    fixed_buckets: bool
    rules: CropRules

    def with_context(self, boxes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Spans (N, 8): hole boxes (N, 4), then the same with their context margin, cut to the image."""
        longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1).tolist()
        margin = np.array([_margin_px(side, self.buckets_px, self.rules) for side in longer])[:, None]
        height, width = self.image_size
        context = np.minimum(np.maximum(boxes + margin * OUTWARDS, 0), np.array([width, height, width, height]))
        return np.concatenate([boxes, context], axis=1)

    def cost_px(self, spans: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Model pixels that spans (..., 8) cost, the fixed part included, and the scale they run at."""
        height, width = spans[..., 7] - spans[..., 5], spans[..., 6] - spans[..., 4]
        largest = self.buckets_px[-1]
        longer = np.maximum(height, width)
        scale = np.minimum(1.0, largest / longer)
        if self.fixed_buckets:
            # A captured graph runs its whole bucket, however little of it the box needs.
            buckets = np.array(self.buckets_px, np.int64)
            side = buckets[np.minimum(np.searchsorted(buckets, longer), len(buckets) - 1)]
            return side * side + self.rules.forward_px, scale
        area = np.maximum(height * scale, MIN_MODEL_PX) * np.maximum(width * scale, MIN_MODEL_PX)
        return area.astype(np.int64) + self.rules.forward_px, scale

    def crop(self, span: NDArray[np.int64], dilated: DilatedMask) -> Crop:
        """The crop for one span (8,)."""
        hole_box, context = as_box(span[:4]), as_box(span[4:])
        needed_h, needed_w = box_size(context)
        largest = self.buckets_px[-1]
        if self.fixed_buckets:
            longer = max(needed_h, needed_w)
            side = next((bucket for bucket in self.buckets_px if bucket >= longer), longer)
            wanted = (side, side)
            bucket = min(side, largest)
        else:
            # Without graphs nothing is gained by more context than is needed.
            wanted = (_round_up(needed_h, TIGHT_STEP_PX), _round_up(needed_w, TIGHT_STEP_PX))
            bucket = largest
        box = _place(context, wanted, self.image_size)
        scaled, model = _fit(box_size(box), bucket, square=self.fixed_buckets)
        return Crop(box, hole_box, scaled, model, dilated)


@lru_cache(maxsize=4096)
def _margin_px(longer: int, buckets_px: tuple[int, ...], rules: CropRules) -> int:
    """The context margin of a hole's box of this longer side."""
    largest = buckets_px[-1]
    margin = math.ceil(min(max(longer * rules.margin_ratio, rules.min_margin_px), rules.max_margin_px))
    # Less context is better than less resolution, as long as some is left.
    if longer + 2 * rules.min_margin_px <= largest:
        margin = min(margin, (largest - longer) // 2)
    # A little less context is also better than the next bucket, or than a context pass (`engine/context_pass.py`).
    scant = longer + 2 * math.ceil(margin * rules.scant_ratio)
    if scant <= largest:
        margin = min(margin, (next(bucket for bucket in buckets_px if bucket >= scant) - longer) // 2)
    return margin


def _fit(size: tuple[int, int], bucket_px: int, *, square: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """(scaled size, model size) for a box of `size` that must fit a bucket; `square` pads to the bucket itself."""
    longer = max(size)
    scaled = size
    if longer > bucket_px:
        scaled = (max(1, round(size[0] * bucket_px / longer)), max(1, round(size[1] * bucket_px / longer)))
    if square:
        return scaled, (bucket_px, bucket_px)
    return scaled, (max(MIN_MODEL_PX, _round_up(scaled[0])), max(MIN_MODEL_PX, _round_up(scaled[1])))


def _merge(spans: NDArray[np.int64], fitter: _Fitter) -> NDArray[np.int64]:
    """Unite spans whose holes' boxes touch, and pairs that are cheaper as one, best first."""
    if len(spans) == 1:
        return spans
    if len(spans) > MANY_HOLES:
        spans = _gather(spans, fitter.rules.cell_px)
    spans = spans.copy()
    cost, scale = fitter.cost_px(spans)
    # (N, N) model pixels saved by running two spans as one: inf where their holes touch, which must be one, and -inf
    # where they may not be.
    gain = np.full((len(spans), len(spans)), -np.inf)
    alive = np.ones(len(spans), np.bool_)

    def update(index: int) -> None:
        union_cost, union_scale = fitter.cost_px(_unite(spans, spans[index]))
        saved = (cost + cost[index] - union_cost).astype(np.float64)
        # Two small crops are sharper than one that has to be scaled down.
        saved[union_scale < np.minimum(scale, scale[index])] = -np.inf
        saved[_touches(spans, spans[index])] = np.inf
        saved[~alive] = -np.inf
        saved[index] = -np.inf
        gain[index], gain[:, index] = saved, saved

    for index in range(len(spans)):
        update(index)
    while len(spans) > 1:
        kept, gone = (int(index) for index in np.unravel_index(int(gain.argmax()), gain.shape))
        if gain[kept, gone] < 0:
            break
        # The union of two may touch a third, which then belongs to it; so its cost is known only now.
        union, members = _closure(spans, alive, _unite(spans[kept], spans[gone]))
        union_cost, union_scale = fitter.cost_px(union)
        is_worse = union_cost > cost[members].sum() or union_scale < scale[members].min()
        if is_worse and np.isfinite(gain[kept, gone]):
            gain[kept, gone] = gain[gone, kept] = -np.inf
            continue
        alive[members] = False
        gain[members], gain[:, members] = -np.inf, -np.inf
        alive[kept] = True
        spans[kept], cost[kept], scale[kept] = union, union_cost, union_scale
        update(kept)
    return spans[alive]


def _closure(
    spans: NDArray[np.int64], alive: NDArray[np.bool_], union: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Grow a union until its hole's box touches no other's; returns it and which spans it holds."""
    while True:
        members = _touches(spans, union) & alive
        dilated = _bounds(spans[members])
        if (dilated == union).all():
            return union, members
        union = dilated


def _split_thin(span: NDArray[np.int64], dilated: DilatedMask, fitter: _Fitter) -> NDArray[np.int64]:
    """Cut the span of a hole that is large but thin into the pieces of it that lie in each cell of a grid.

    A wire across a whole photo would otherwise be scaled down to the largest bucket, and its fill up again, unsharp.
    Neighbouring pieces see each other's part as missing and meet along a seam only as long as the hole is thick.
    """
    largest = fitter.buckets_px[-1]
    if max(box_size(as_box(span[4:]))) <= largest:
        return span[None]
    hole_box = as_box(span[:4])
    if dilated.depth_px(hole_box) > fitter.rules.thin_px:
        return span[None]  # thick before it grew
    missing = paste(dilated.missing, dilated.box, hole_box)
    if largest_inside_px(missing) > fitter.rules.thin_px:
        return span[None]
    # Five eighths of the bucket leave room for the margin on both sides.
    cell_px = min(fitter.rules.thin_cell_px, largest * 5 // 8)
    pieces = []
    for top in range(0, missing.shape[0], cell_px):
        for left in range(0, missing.shape[1], cell_px):
            piece = find_bounds(missing[top : top + cell_px, left : left + cell_px])
            if piece is not None:
                x, y = hole_box[0] + left, hole_box[1] + top
                pieces.append((x + piece[0], y + piece[1], x + piece[2], y + piece[3]))
    return _merge(fitter.with_context(np.array(pieces, np.int64)), fitter)


def _gather(spans: NDArray[np.int64], cell_px: int) -> NDArray[np.int64]:
    """Unite spans whose holes are smaller than a grid cell with those whose centre lies in the same cell.

    Those that are larger both ways too: with centres so near, they touch. Of 12,000 specks that grew by 256 px the
    merging was a minute and a gigabyte.
    """
    origin = spans[:, :2].min(axis=0)  # of the holes, so that a part of a photo is planned as the whole of it
    sides = spans[:, 2:4] - spans[:, :2]
    small, large = (sides <= cell_px).all(axis=1), (sides > cell_px).all(axis=1)
    alike = [_one_for_each_cell(spans[chosen], origin, cell_px) for chosen in (small, large)]
    return np.concatenate([*alike, spans[~small & ~large]])


def _one_for_each_cell(spans: NDArray[np.int64], origin: NDArray[np.int64], cell_px: int) -> NDArray[np.int64]:
    if not len(spans):
        return spans
    cells = (spans[:, :2] + spans[:, 2:4] - 2 * origin) // (2 * cell_px)
    _, group = np.unique(cells, axis=0, return_inverse=True)
    # Sorted by cell, so that each cell is one run, and split where the next run starts.
    order = np.argsort(group.reshape(-1), kind="stable")
    starts = np.flatnonzero(np.diff(group.reshape(-1)[order], prepend=-1))
    return np.concatenate([_bounds(cell)[None] for cell in np.split(spans[order], starts[1:])])


def _unite(spans: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(IS_LOW_EDGE, np.minimum(spans, other), np.maximum(spans, other))


def _bounds(spans: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(IS_LOW_EDGE, spans.min(axis=0), spans.max(axis=0))


def _touches(spans: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(((spans[:, :2] < other[2:4]) & (other[:2] < spans[:, 2:4])).all(axis=1))


def _place(inner: Box, wanted: tuple[int, int], image_size: tuple[int, int]) -> Box:
    """A box of the wanted (height, width) around the middle of another, moved or cut to lie in the image."""
    height, width = min(wanted[0], image_size[0]), min(wanted[1], image_size[1])
    left = (inner[0] + inner[2] - width) // 2
    top = (inner[1] + inner[3] - height) // 2
    left = min(max(left, 0), image_size[1] - width)
    top = min(max(top, 0), image_size[0] - height)
    return left, top, left + width, top + height


def _round_up(length: int, step_px: int = MODEL_STEP_PX) -> int:
    return -(-length // step_px) * step_px
