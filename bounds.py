"""Where in a mask the hole lies: reading every pixel once is most of what planning a repair of a large photo costs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from numpy.typing import NDArray

LARGE_PX = 1 << 21  # a mask is read by two threads from here on
BLOCK_ROWS = 64  # rows looked at together when the mask's last row is searched from below


def find_bounds(mask: NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
    """Return the smallest box (left, top, right, bottom) that holds every hole pixel, or None when there is none.

    Reads the mask once, at memory speed: down to the first hole row, up to the last, columns between them only.

    Args:
        mask: (H, W) bool, True = hole; not modified.
    """
    mask = np.ascontiguousarray(mask)
    width = mask.shape[1]
    from_below = _assistant().submit(_last_row, mask) if mask.size > LARGE_PX else None
    first = int(mask.argmax())  # row-major, stops at the first True
    if not mask[first // width, first % width]:
        return None
    top = first // width
    bottom = (from_below.result() if from_below else _last_row(mask)) + 1
    columns: NDArray[np.bool_] = np.logical_or.reduce(mask[top:bottom], axis=0)
    return int(columns.argmax()), top, width - int(columns[::-1].argmax()), bottom


def _last_row(mask: NDArray[np.bool_]) -> int:
    """The last row with a hole, or -1."""
    bottom = mask.shape[0]
    while bottom > 0 and not mask[max(0, bottom - BLOCK_ROWS) : bottom].any():
        bottom -= BLOCK_ROWS
    rows: NDArray[np.bool_] = np.logical_or.reduce(mask[max(0, bottom - BLOCK_ROWS) : max(0, bottom)], axis=1)
    return bottom - 1 - int(rows[::-1].argmax()) if len(rows) else -1


@cache
def _assistant() -> ThreadPoolExecutor:
    """A second thread for large masks: one alone reads memory at half the speed or less."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_assistant.cache_clear)  # a forked process has the pool without its thread
    return ThreadPoolExecutor(1, "mask-bounds")
