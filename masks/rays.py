"""What is seen along rays from the rims of holes, and its mean in each of eight directions.

A ray begins at a rim, passes the ring that dilation adds, and is looked at for RAY_PX steps beyond it. One ray says
little, as photos are full of edges; the mean over hundreds of them is clear of chance.

An image is (H, W, 3) uint8 or uint16 RGB, a mask (H, W) bool, True = hole; a box is (left, top, right, bottom),
half-open. Knows nothing of shadows: `masks.shadows` draws the conclusions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from masks.clusters import MOST_GROUPS, HoleGroups

DIRECTIONS = ((1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1))  # (x, y), around the compass

RAY_PX = 12  # a ray's length beyond the dilated hole, in steps along its direction
MOST_RAYS = 256  # of a group and a direction; more of them say little that is new
FEWEST_RAYS = 24
# Of a group's box, a pattern's as of MOST_GROUPS; in a larger one every n-th row alone is searched.
SCANNED_PX = 1 << 16

ROUGH_PART = (2, 8)  # the pixels of a ray, half-open, whose deviation tells how rough the ground is that it crosses
ROUGHNESS_LEVELS = 4.0  # rays over smooth ground count for more, down to this deviation from their own mean
CLIP = 3.0  # in units of its roughness, the most that a ray is taken to deviate by
ALIKE = 4.0  # neighbouring rays cross the same things: as many of them count as one
LEAST_ERROR_LEVELS = 0.5  # however many rays there are


@dataclass(frozen=True)
class Rays:
    """What is seen along rays, from the first pixel beyond the dilated hole on.

    Attributes:
        levels: (N, RAY_PX) float32, grey levels from 0 to 255.
        direction: (N,) int, index into DIRECTIONS.
    """

    levels: NDArray[np.float32]
    direction: NDArray[np.int64]


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
        # The rim on this side: hole pixels whose neighbour in the direction is none.
        beside = mask[y0 + dy : y1 + dy : every, x0 + dx : x1 + dx]
        at = np.flatnonzero(mask[y0:y1:every, x0:x1] > beside)
        y, x = at // (x1 - x0) * every + y0, at % (x1 - x0) + x0
        rim = (y * width + x)[groups.at(x, y) == label]
        rim = _thin_out(rim, 4 * MOST_RAYS)  # more than are wanted, as some will meet another hole
        along = rim[:, None] + np.arange(1, length + 1) * (dy * width + dx)
        starts.append(_thin_out(along[~holes[along].any(axis=1)], MOST_RAYS))
    at = np.concatenate(starts)[:, own_px:]  # (N, RAY_PX) flat indices, beyond what dilation adds anyway
    seen = image[at // width, at % width]  # (N, RAY_PX, 3)
    grey = seen.astype(np.float32) @ np.array([0.25, 0.5, 0.25], np.float32)
    direction = np.repeat(np.arange(len(DIRECTIONS)), [len(rays) for rays in starts])
    return Rays(grey if image.dtype == np.uint8 else grey / 257, direction)


class RayMeans:
    """Means over the rays of each direction; rays that cross smooth ground have the largest weights."""

    def __init__(self, rays: Rays) -> None:
        self._direction = rays.direction
        self._rough = np.sqrt(rays.levels[:, slice(*ROUGH_PART)].var(axis=1) + ROUGHNESS_LEVELS**2)
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


def _thin_out(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Every n-th of them, so that no more than so many are left."""
    return rows[:: max(1, -(-len(rows) // most))]
