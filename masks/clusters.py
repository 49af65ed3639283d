"""Holes that lie close together, as the letters of a line do, and so are likely to have been drawn alike.

Works on the holes' boxes alone: (N, 4) int, each (left, top, right, bottom), half-open, in image pixels. Two holes are
in one group when their boxes touch neighbouring cells of a grid about half a hole wide. Knows no images.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from masks.boxes import Box

CELL_PX = (8, 256)  # limits of the side of the grid's cells
MOST_GROUPS = 8  # more of them are a pattern, as a watermark all over a photo is, and count as one


@dataclass(frozen=True)
class HoleGroups:
    """The groups of a mask's holes.

    Attributes:
        boxes: (N, 4) int, of every hole.
        labels: (N,) int, each hole's group; 0 for those that are in none.
        grid: (rows, columns) int32, each cell's group.
        corner: (x, y) of the grid in the image.
        cell_px: side of its cells.
        is_pattern: whether there are so many that they count as one.
    """

    boxes: NDArray[np.int64]
    labels: NDArray[np.int64]
    grid: NDArray[np.int32]
    corner: tuple[int, int]
    cell_px: int
    is_pattern: bool

    def with_rims(self, least_px: int) -> list[int]:
        """Return the labels of the groups whose boxes' perimeters add up to more than `least_px`."""
        around_px = 2.0 * (self.boxes[:, 2:] - self.boxes[:, :2]).sum(axis=1)
        rims_px = np.bincount(self.labels, around_px)
        rims_px[0] = 0
        return [int(label) for label in np.flatnonzero(rims_px > least_px)]

    def box(self, label: int) -> Box:
        """Return the bounds of a group."""
        boxes = self.boxes[self.labels == label]
        left, top = boxes[:, :2].min(axis=0)
        right, bottom = boxes[:, 2:].max(axis=0)
        return int(left), int(top), int(right), int(bottom)

    def at(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return in whose cells pixels lie."""
        cells = (y - self.corner[1]) // self.cell_px, (x - self.corner[0]) // self.cell_px
        return np.asarray(self.grid[cells])


def group_holes(boxes: NDArray[np.int64], chosen: NDArray[np.bool_]) -> HoleGroups:
    """Group those holes that are chosen, at least one.

    Args:
        boxes: (N, 4) int, of all holes; not modified.
        chosen: (N,) bool.

    Returns:
        the groups; holes that are not chosen are in none.
    """
    seen = boxes[chosen]
    cell_px = int(np.clip(np.median((seen[:, 2:] - seen[:, :2]).max(axis=1)) // 2, *CELL_PX))
    x0, y0 = seen[:, :2].min(axis=0).tolist()
    cells = (seen - np.array([x0, y0, x0 + 1, y0 + 1])) // cell_px  # first and last column and row of each
    taken = np.zeros((cells[:, 3].max() + 1, cells[:, 2].max() + 1), np.uint8)
    for left, top, right, bottom in cells.tolist():
        taken[top : bottom + 1, left : right + 1] = 1
    grid = cv2.connectedComponents(taken, connectivity=8, ltype=cv2.CV_32S)[1].astype(np.int32, copy=False)
    labels = np.zeros(len(boxes), np.int64)
    labels[chosen] = grid[cells[:, 1], cells[:, 0]]
    is_pattern = bool(grid.max() > MOST_GROUPS)
    if is_pattern:
        grid, labels = np.minimum(grid, 1), np.minimum(labels, 1)
    return HoleGroups(boxes, labels, grid, (x0, y0), cell_px, is_pattern)
