"""The broad look: the colours of a large hole from a second prediction, made at a smaller scale with more around it.

At full resolution a network sees little of what surrounds a large hole, and its colours drift towards the middle; on a
photo made smaller it sees more and drifts less, but has no detail. So detail is taken from the one and what varies
slowly from the other. The rim stays as it is. A crop that takes a broad look runs two forwards, the second of 512 px.
Owns when a hole is large enough and how two patches become one; predictions are made by `filling.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cropping import Crop, shrink_crop
from filling import Filled, Task
from holes import GrownHole, box_size, expand_box, largest_inside_px, paste

BROAD_PX = 512  # side of the broad look's input
MARGIN_PART = 1.5  # its context, as a part of the hole box's longer side
LEAST_SCALE = 1.5  # a look that makes the photo smaller by less tells nothing new
SIGMA_BROAD_PX = 4.0  # what varies slowly: the blur's standard deviation, in pixels of the broad look
RAMP_SIGMAS = 2.0  # so far from the rim its colours are taken whole
COARSE_STEP = 4  # colours are blurred on a grid of every fourth pixel


def find_looks(tasks: Sequence[Task]) -> list[tuple[int, Task]]:
    """Return the broad looks that tasks need, each with its task's number."""
    looks = [(number, task, broad_crop(task.crop, task.image.shape[:2])) for number, task in enumerate(tasks)]
    return [(number, Task(task.image, crop)) for number, task, crop in looks if crop is not None]


def settle_looks(done: Sequence[Filled], looks: Sequence[tuple[int, Task]]) -> list[Filled]:
    """Return what became of the tasks.

    Args:
        done: what became of the tasks, then of their looks.
        looks: from `find_looks`.
    """
    count = len(done) - len(looks)
    filled = list(done[:count])
    for (number, look), seen in zip(looks, done[count:], strict=True):
        patch = take_colours(filled[number].patch, seen.patch, look.crop)
        filled[number] = Filled(patch, filled[number].notes + seen.notes)
    return filled


def broad_crop(crop: Crop, image_size: tuple[int, int]) -> Crop | None:
    """Return the crop of the broad look for a crop of a large hole; None where the hole is not large.

    Args:
        crop: from the plan.
        image_size: (height, width).
    """
    if max(crop.model_size) <= BROAD_PX or not isinstance(crop.hole, GrownHole):
        return None
    margin_px = math.ceil(MARGIN_PART * max(box_size(crop.patch_box)))
    box = expand_box(crop.patch_box, margin_px, image_size)
    scale = max(box_size(box)) / BROAD_PX
    if scale < LEAST_SCALE or largest_inside_px(_hole(crop)) < SIGMA_BROAD_PX * scale:
        return None
    return shrink_crop(replace(crop, box=box), BROAD_PX)


def take_colours(patch: NDArray, broad_patch: NDArray, broad: Crop) -> NDArray:
    """Return a patch with the slowly varying colours of the broad look's patch.

    Args:
        patch: (patch height, patch width, 3) uint8 or uint16; not modified.
        broad_patch: the same of the broad look, not modified.
        broad: its crop.

    Returns:
        A new patch: the old one outside the hole that was asked for, and on its rim.
    """
    hole = _hole(broad)
    height, width = hole.shape
    sigma_px = SIGMA_BROAD_PX * max(box_size(broad.box)) / max(broad.scaled_size)
    size = (-(-width // COARSE_STEP), -(-height // COARSE_STEP))
    eight_bit = patch.dtype == np.uint8
    inside = hole.view(np.uint8)
    # In 16 bits where they suffice: these are the only steps at full size.
    difference = cv2.subtract(broad_patch, patch, mask=inside, dtype=cv2.CV_16S if eight_bit else cv2.CV_32F)
    sigma = sigma_px / COARSE_STEP
    small_weight = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    small_difference = cv2.resize(difference, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    total = cv2.GaussianBlur(small_difference, (0, 0), sigma)
    share = cv2.GaussianBlur(small_weight, (0, 0), sigma)
    # Outside the hole there is nothing to fade into: beyond the patch's edge counts as known.
    covered = np.pad((small_weight > 0).view(np.uint8), 1)
    depth_px = COARSE_STEP * cv2.distanceTransform(covered, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    ramp = np.clip((depth_px - 2 * COARSE_STEP) / (RAMP_SIGMAS * sigma_px), 0, 1)
    slow = (total / np.maximum(share, 1e-3)[..., None] * ramp[..., None]).astype(np.float32)
    shift = cv2.resize(slow, (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.add(patch, shift, dst=patch.copy(), mask=inside, dtype=cv2.CV_8U if eight_bit else cv2.CV_16U)


def _hole(crop: Crop) -> NDArray[np.bool_]:
    """(patch height, patch width) bool: what was asked for in the patch, before it grew."""
    assert isinstance(crop.hole, GrownHole)
    return paste(crop.hole.reach_px, crop.hole.box, crop.patch_box) > 0
