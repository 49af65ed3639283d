"""Where in a mask the hole lies: reading every pixel once is most of what planning a repair of a large photo costs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 64  # rows looked at together when the mask's last row is searched from below


def find_bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return the smallest box (left, top, right, bottom) that holds every hole pixel, or None when there is none.

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
    rows: NDArray[np.bool_] = np.logical_or.reduce(mask[max(0, bottom - BLOCK_ROWS) : bottom], axis=1)
    bottom -= int(rows[::-1].argmax())
    columns: NDArray[np.bool_] = np.logical_or.reduce(mask[top:bottom], axis=0)
    return int(columns.argmax()), top, width - int(columns[::-1].argmax()), bottom
