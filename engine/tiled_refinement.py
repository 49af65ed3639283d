"""Refine a hole larger than the largest bucket: a coarse fill at bucket size, then tiles at the photo's resolution.

The coarse fill decides what is where. Each tile then fills its core again; its context is the sharp known region, the
tiles refined before it, and the coarse fill. Tiles are ordered from the hole's edge inwards, so that texture continues
from the known region, and are blended where they overlap. Owns the tiles; `executor.py` makes the predictions.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from engine.executor import CropTask, Filled, fill
from engine.model_runner import ModelRunner
from engine.stage_timer import StageTimer
from masks.boxes import Box, find_bounds
from masks.crop_plan import Crop
from masks.dilation import PreparedMask

TILE_PX = 512  # near the network's training crops; larger tiles lose texture, smaller ones context
CORE_PART = 2  # a tile's core is its side divided by this; the rest is context
OVERLAP_PART = 4  # a core divided by this overlaps the next one


def hard_edged(crop: Crop) -> Crop:
    """Return the crop without feather, its whole dilated hole replaced: the coarse fill that tiles start from."""
    missing = crop.hole.missing
    return replace(crop, hole=PreparedMask(crop.hole.box, missing, missing.astype(np.float32)))


def refine(task: CropTask, coarse: NDArray, runner: ModelRunner, timer: StageTimer) -> Filled:
    """Fill a task's crop at full resolution.

    Args:
        task: the image, not modified, and the crop with its feather.
        coarse: the patch that `hard_edged(task.crop)` gave.
        runner: see `executor.fill`.
        timer: enters "refine" for every tile, which includes the tile's own stages.

    Returns:
        The patch, feathered, and the notes of all tiles.
    """
    left, top, right, bottom = task.crop.box
    original = task.image[top:bottom, left:right]
    canvas = original.copy()
    _inside(canvas, task.crop)[...] = coarse
    hidden = None if task.transparent is None else task.transparent[top:bottom, left:right]
    tiled = CropTask(canvas, task.crop, transparent=hidden, levels=task.levels, is_deep=task.is_deep)
    notes = []
    for tile in plan_tiles(task.crop.missing, runner.profile.buckets_px):
        timer.enter("refine")
        (done,) = fill([replace(tiled, crop=tile)], runner, StageTimer(runner.device))
        canvas[tile.patch_box[1] : tile.patch_box[3], tile.patch_box[0] : tile.patch_box[2]] = done.patch
        notes += done.notes
    alpha = task.crop.alpha[..., None]
    known, filled = _inside(original, task.crop), _inside(canvas, task.crop)
    mixed = np.rint(known + alpha * (filled.astype(np.float32) - known)).astype(canvas.dtype)
    return Filled(np.where(alpha > 0, mixed, known), notes)


def plan_tiles(missing: NDArray[np.bool_], buckets_px: tuple[int, ...]) -> list[Crop]:
    """Cover the hole of a box with overlapping tiles, ordered from its edge inwards.

    Args:
        missing: (height, width) bool, the dilated hole in the box; not modified.
        buckets_px: square model sides, ascending; a tile is the largest up to 512.

    Returns:
        Crops in the box's coordinates; each tile's core alone is missing in it. Their cores cover the hole.
    """
    bounds = find_bounds(missing)
    if bounds is None:
        return []
    side = max((px for px in buckets_px if px <= TILE_PX), default=buckets_px[0])
    core_px = side // CORE_PART
    overlap_px = core_px // OVERLAP_PART
    depth = cv2.distanceTransform(np.pad(missing, 1).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3)[1:-1, 1:-1]
    tiles: list[tuple[float, Crop]] = []
    for top in range(bounds[1] - overlap_px, bounds[3], core_px - overlap_px):
        for left in range(bounds[0] - overlap_px, bounds[2], core_px - overlap_px):
            tile = _plan_tile(missing, (left, top), core_px, overlap_px, side)
            if tile is not None:
                x0, y0, x1, y1 = tile.patch_box
                tiles.append((float(depth[y0:y1, x0:x1].max()), tile))
    return [tile for _, tile in sorted(tiles, key=lambda pair: pair[0])]


def _plan_tile(
    missing: NDArray[np.bool_], corner: tuple[int, int], core_px: int, overlap_px: int, side: int
) -> Crop | None:
    """Return the tile whose core begins at `corner` (left, top), perhaps outside the box; None without a hole there."""
    height, width = missing.shape
    left, top = max(0, corner[0]), max(0, corner[1])
    right, bottom = min(width, corner[0] + core_px), min(height, corner[1] + core_px)
    core = missing[top:bottom, left:right]
    if not core.any():
        return None
    tile_w, tile_h = min(side, width), min(side, height)
    x = min(max((left + right - tile_w) // 2, 0), width - tile_w)
    y = min(max((top + bottom - tile_h) // 2, 0), height - tile_h)
    box: Box = (x, y, x + tile_w, y + tile_h)
    missing_core = np.zeros((tile_h, tile_w), np.bool_)
    missing_core[top - y : bottom - y, left - x : right - x] = core
    steps = np.arange(core_px) + 0.5
    ramp = np.clip(np.minimum(steps, core_px - steps) / overlap_px, 0, 1).astype(np.float32)
    rows = ramp[top - corner[1] : bottom - corner[1]]
    columns = ramp[left - corner[0] : right - corner[0]]
    alpha = np.zeros((tile_h, tile_w), np.float32)
    alpha[top - y : bottom - y, left - x : right - x] = core * rows[:, None] * columns[None, :]
    return Crop(box, (left, top, right, bottom), (tile_h, tile_w), (side, side), PreparedMask(box, missing_core, alpha))


def _inside(array: NDArray, crop: Crop) -> NDArray:
    """Return the view of the patch box in an array over the crop's box."""
    left, top = crop.box[:2]
    x0, y0, x1, y1 = crop.patch_box
    return array[y0 - top : y1 - top, x0 - left : x1 - left]
