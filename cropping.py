"""Crop plan: which boxes of a photo a repair runs on, at which model size, and how each goes back into the photo.

Owns the boxes around holes, their context and merging, and the choice of bucket; the holes themselves, grown, come from
`holes.py`. Works on NumPy arrays alone. Knows no tensors, no device and no network.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from holes import Box, CropRules, GrownHole, box_size, grow_hole

MODEL_STEP_PX = 8  # the network halves its input three times
MIN_MODEL_PX = 16  # reflection padding needs two feature pixels (16 / 8)
MANY_HOLES = 96  # beyond this many, small holes are first gathered by grid cell: merging is quadratic


@dataclass(frozen=True)
class Crop:
    """One box to run, and what of its prediction goes back.

    Attributes:
        box: the pixels the network sees, inside the image.
        patch_box: the pixels that may change, inside `box`; patch boxes of one plan never overlap.
        scaled_size: (height, width) `box` is resized to; its own size when it runs at full resolution.
        model_size: (height, width) of the network's input, `scaled_size` padded at the bottom and right.
        missing: (box height, box width) bool, the grown hole inside `box`, other boxes' holes included.
        alpha: (patch height, patch width) float32, 1 on the hole, falling to 0 across the ring dilation added.
    """

    box: Box
    patch_box: Box
    scaled_size: tuple[int, int]
    model_size: tuple[int, int]
    missing: NDArray[np.bool_]
    alpha: NDArray[np.float32]

    @property
    def is_scaled(self) -> bool:
        """Whether the box runs smaller than it is."""
        return self.scaled_size != box_size(self.box)


def plan_crops(
    mask: NDArray[np.bool_],
    *,
    buckets_px: tuple[int, ...],
    fixed_buckets: bool,
    dilate_px: int | None = None,
    feather_px: int | None = None,
    rules: CropRules | None = None,
) -> list[Crop]:
    """Choose the boxes a repair runs on.

    Holes keep a context margin in proportion to their size; boxes that touch are merged, others are when one forward
    is cheaper than two and neither loses resolution; a box larger than the largest bucket is scaled down to it.

    Args:
        mask: (H, W) bool, True = hole; not modified.
        buckets_px: square model sides, ascending, multiples of 8.
        fixed_buckets: True runs every box at one of the buckets (captured graphs need that) and fills the bucket
            with more context; False runs the exact multiple of 8, which is cheaper without graphs.
        dilate_px: see `grow_hole`.
        feather_px: see `feather_alpha`.
        rules: the plan's constants.

    Returns:
        Crops whose patch boxes are disjoint and together hold the whole grown hole; empty for an empty mask.
    """
    rules = rules or CropRules()
    grown = grow_hole(mask, dilate_px=dilate_px, feather_px=feather_px, rules=rules)
    if grown is None:
        return []
    size = (mask.shape[0], mask.shape[1])
    fitter = _Fitter(size, buckets_px, fixed_buckets, rules)
    return [fitter.crop((box[0], box[1], box[2], box[3]), grown) for box in _merge(grown.hole_boxes, fitter).tolist()]


def shrink_crop(crop: Crop, bucket_px: int) -> Crop:
    """Return the same crop run at most `bucket_px` large: the way down when memory is short."""
    scaled, model = _fit(box_size(crop.box), bucket_px, square=crop.model_size[0] == crop.model_size[1])
    return replace(crop, scaled_size=scaled, model_size=model)


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

    def needed_size(self, boxes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Heights and widths of hole boxes (..., 4) with their context margin, no larger than the image."""
        height, width = boxes[..., 3] - boxes[..., 1], boxes[..., 2] - boxes[..., 0]
        rules = self.rules
        margin = np.maximum(height, width) * rules.margin_ratio
        margin = np.ceil(np.clip(margin, rules.min_margin_px, rules.max_margin_px)).astype(np.int64)
        return (
            np.minimum(height + 2 * margin, self.image_size[0]),
            np.minimum(width + 2 * margin, self.image_size[1]),
        )

    def cost_px(self, boxes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Model pixels that hole boxes (..., 4) cost, the fixed part included, and the scale they run at."""
        height, width = self.needed_size(boxes)
        largest = self.buckets_px[-1]
        longer = np.maximum(height, width)
        scale = np.minimum(1.0, largest / longer)
        if self.fixed_buckets:
            buckets = np.array(self.buckets_px, np.int64)
            side = buckets[np.minimum(np.searchsorted(buckets, longer), len(buckets) - 1)]
            return side * side + self.rules.forward_px, scale
        area = np.maximum(height * scale, MIN_MODEL_PX) * np.maximum(width * scale, MIN_MODEL_PX)
        return area.astype(np.int64) + self.rules.forward_px, scale

    def crop(self, hole_box: Box, grown: GrownHole) -> Crop:
        """The crop for one hole box."""
        needed_h, needed_w = (int(side) for side in self.needed_size(np.array(hole_box, np.int64)))
        largest = self.buckets_px[-1]
        if self.fixed_buckets:
            longer = max(needed_h, needed_w)
            side = next((bucket for bucket in self.buckets_px if bucket >= longer), longer)
            wanted = (side, side)
            bucket = min(side, largest)
        else:
            wanted = (_round_up(needed_h), _round_up(needed_w))
            bucket = largest
        box = _place(hole_box, wanted, self.image_size)
        scaled, model = _fit(box_size(box), bucket, square=self.fixed_buckets)
        patch = _paste(grown.alpha, grown.box, hole_box, np.float32)
        return Crop(box, hole_box, scaled, model, _paste(grown.missing, grown.box, box, np.bool_), patch)


def _fit(size: tuple[int, int], bucket_px: int, *, square: bool) -> tuple[tuple[int, int], tuple[int, int]]:
    """(scaled size, model size) for a box of `size` that must fit a bucket; `square` pads to the bucket itself."""
    longer = max(size)
    scaled = size
    if longer > bucket_px:
        scaled = (max(1, round(size[0] * bucket_px / longer)), max(1, round(size[1] * bucket_px / longer)))
    if square:
        return scaled, (bucket_px, bucket_px)
    return scaled, (max(MIN_MODEL_PX, _round_up(scaled[0])), max(MIN_MODEL_PX, _round_up(scaled[1])))


def _merge(boxes: NDArray[np.int64], fitter: _Fitter) -> NDArray[np.int64]:
    """Unite boxes that touch, and pairs that are cheaper as one, best first."""
    if len(boxes) > MANY_HOLES:
        boxes = _gather(boxes, fitter.rules.cell_px)
    boxes = boxes.copy()
    cost, scale = fitter.cost_px(boxes)
    gain = np.full((len(boxes), len(boxes)), -np.inf)
    alive = np.ones(len(boxes), np.bool_)

    def update(index: int) -> None:
        union = _unite(boxes, boxes[index])
        union_cost, union_scale = fitter.cost_px(union)
        saved = (cost + cost[index] - union_cost).astype(np.float64)
        saved[union_scale < np.minimum(scale, scale[index])] = -np.inf
        saved[_touches(boxes, boxes[index])] = np.inf
        saved[~alive] = -np.inf
        saved[index] = -np.inf
        gain[index], gain[:, index] = saved, saved

    for index in range(len(boxes)):
        update(index)
    while len(boxes) > 1:
        kept, gone = np.unravel_index(int(gain.argmax()), gain.shape)
        if gain[kept, gone] < 0:
            break
        boxes[kept] = _unite(boxes[kept], boxes[gone])
        alive[gone] = False
        gain[gone], gain[:, gone] = -np.inf, -np.inf
        cost[kept], scale[kept] = fitter.cost_px(boxes[kept])
        update(int(kept))
    return boxes[alive]


def _gather(boxes: NDArray[np.int64], cell_px: int) -> NDArray[np.int64]:
    """Unite boxes smaller than a grid cell with those whose centre lies in the same cell."""
    small = (boxes[:, 2] - boxes[:, 0] <= cell_px) & (boxes[:, 3] - boxes[:, 1] <= cell_px)
    cells = (boxes[small, :2] + boxes[small, 2:]) // (2 * cell_px)
    _, group = np.unique(cells, axis=0, return_inverse=True)
    group = group.reshape(-1)
    united = np.empty((int(group.max()) + 1 if len(group) else 0, 4), np.int64)
    united[:, :2], united[:, 2:] = np.iinfo(np.int64).max, 0
    np.minimum.at(united[:, :2], group, boxes[small, :2])
    np.maximum.at(united[:, 2:], group, boxes[small, 2:])
    return np.concatenate([united, boxes[~small]])


def _unite(boxes: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(
        [np.minimum(boxes[..., :2], other[..., :2]), np.maximum(boxes[..., 2:], other[..., 2:])], axis=-1
    )


def _touches(boxes: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.bool_]:
    overlap: NDArray[np.bool_] = ((boxes[:, :2] < other[2:]) & (other[:2] < boxes[:, 2:])).all(axis=1)
    return overlap


def _place(hole_box: Box, wanted: tuple[int, int], image_size: tuple[int, int]) -> Box:
    """A box of the wanted (height, width) centred on the hole, moved and, where it must, cut to lie in the image."""
    height, width = min(wanted[0], image_size[0]), min(wanted[1], image_size[1])
    left = (hole_box[0] + hole_box[2] - width) // 2
    top = (hole_box[1] + hole_box[3] - height) // 2
    left = min(max(left, 0), image_size[1] - width)
    top = min(max(top, 0), image_size[0] - height)
    return left, top, left + width, top + height


def _paste(source: NDArray, source_box: Box, box: Box, dtype: type) -> NDArray:
    """The part of `source` inside `box`, zero where it has none."""
    height, width = box_size(box)
    out: NDArray = np.zeros((height, width), dtype)
    left, top = max(box[0], source_box[0]), max(box[1], source_box[1])
    right, bottom = min(box[2], source_box[2]), min(box[3], source_box[3])
    out[top - box[1] : bottom - box[1], left - box[0] : right - box[0]] = source[
        top - source_box[1] : bottom - source_box[1], left - source_box[0] : right - source_box[0]
    ]
    return out


def _round_up(length: int) -> int:
    return -(-length // MODEL_STEP_PX) * MODEL_STEP_PX
