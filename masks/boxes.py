"""Where in a mask the hole lies: reading every pixel once is most of what planning a repair of a large photo costs.

A mask of 12 megapixels that is not in the processor's cache takes a millisecond, half of what a GPU needs for all else.
So there is a guess from few rows besides, which is right unless something small lies apart from everything else, and
whether it was right can be read while the GPU works.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 64  # rows looked at together when the mask's last row is searched from below
GUESS_STEP = 16  # every how many rows a guess looks at: less than most strokes are thick

Box = tuple[int, int, int, int]  # left, top, right, bottom, half-open, in image pixels


def find_bounds(mask: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box that holds every hole pixel, or None when there is none.

    Reads the mask once, at memory speed: down to the first hole row, up to the last, columns between them only. More
    threads gain nothing where it is in the cache and lose half as much again where it is not.

    Args:
        mask: (H, W) bool, True = hole; not modified.
    """
    mask = np.ascontiguousarray(mask)
    bottom, width = mask.shape
    first = int(mask.argmax())  # row-major, stops at the first True
    top = first // width
    if not mask[top, first % width]:
        return None
    while not mask[max(0, bottom - BLOCK_ROWS) : bottom].any():
        bottom -= BLOCK_ROWS
    bottom = _last_row(mask, max(0, bottom - BLOCK_ROWS), bottom) + 1
    return _with_columns(mask, top, bottom)


def guess_bounds(mask: NDArray[np.bool_]) -> Box | None:
    """Return what `find_bounds` does unless `has_hole_beyond` it, from one row in sixteen and those of the hole.

    None when no hole pixel was seen, which says nothing.
    """
    seen = np.flatnonzero(np.logical_or.reduce(mask[GUESS_STEP // 2 :: GUESS_STEP], axis=1))
    if not len(seen):
        return None
    first, last = (int(row) * GUESS_STEP + GUESS_STEP // 2 for row in seen[[0, -1]])
    above = max(0, first - GUESS_STEP + 1)
    top = above + int(np.logical_or.reduce(mask[above : first + 1], axis=1).argmax())
    return _with_columns(mask, top, _last_row(mask, last, last + GUESS_STEP) + 1)


def has_hole_beyond(mask: NDArray[np.bool_], bounds: Box) -> bool:
    """Tell whether a hole pixel lies above or below bounds that were guessed."""
    # OpenCV counts a mask that is not in the cache in three quarters of the time that `any` takes.
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    return bool(cv2.countNonZero(pixels[: bounds[1]]) or cv2.countNonZero(pixels[bounds[3] :]))


def _last_row(mask: NDArray[np.bool_], top: int, bottom: int) -> int:
    """The last of these rows, or of those there are, with a hole pixel; there is one."""
    rows = np.logical_or.reduce(mask[top:bottom], axis=1)
    return top + len(rows) - 1 - int(rows[::-1].argmax())


def _with_columns(mask: NDArray[np.bool_], top: int, bottom: int) -> Box:
    columns = np.logical_or.reduce(mask[top:bottom], axis=0)
    return int(columns.argmax()), top, mask.shape[1] - int(columns[::-1].argmax()), bottom
