"""Boxes: (left, top, right, bottom), half-open, in image pixels; their arithmetic, and the bounds of a mask's hole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK_ROWS = 64  # rows read together when the mask's last hole row is searched from below
SAMPLE_STEP_PX = 16  # every how many rows `sample_bounds` reads: less than most strokes are thick

Box = tuple[int, int, int, int]  # left, top, right, bottom


def find_bounds(mask: NDArray[np.bool_]) -> Box | None:
    """Find the smallest box that holds every hole pixel.

    Args:
        mask: (H, W) bool, True = hole; not modified.

    Returns:
        the box, or None when the mask is empty.
    """
    # Each pixel is read once, which for 12 megapixels in no cache takes a millisecond: down to the first hole row, up
    # to the last, columns between them only. More threads gain nothing in the cache and lose half as much beside it.
    mask = np.ascontiguousarray(mask)
    bottom, width = mask.shape
    first = int(mask.argmax())  # row-major, stops at the first True
    top = first // width
    if not mask[top, first % width]:
        return None
    while not mask[max(0, bottom - BLOCK_ROWS) : bottom].any():
        bottom -= BLOCK_ROWS
    return _with_columns(mask, top, _last_hole_row(mask, max(0, bottom - BLOCK_ROWS), bottom) + 1)


def sample_bounds(mask: NDArray[np.bool_]) -> Box | None:
    """Return the hole's bounds from one row in sixteen and the rows around the first and last of those with a hole.

    It is what `find_bounds` returns unless `rows_beyond` it hold a hole. Reading all of a 12 megapixel mask takes a
    millisecond, half of what a GPU needs for everything else; the rest can be read while the GPU works.

    Args:
        mask: (H, W) bool, True = hole; not modified.

    Returns:
        A box, or None when no row that was read has a hole, which says nothing.
    """
    hits = np.flatnonzero(np.logical_or.reduce(mask[SAMPLE_STEP_PX // 2 :: SAMPLE_STEP_PX], axis=1))
    if not len(hits):
        return None
    first, last = (int(row) * SAMPLE_STEP_PX + SAMPLE_STEP_PX // 2 for row in hits[[0, -1]])
    above = max(0, first - SAMPLE_STEP_PX + 1)
    top = above + int(np.logical_or.reduce(mask[above : first + 1], axis=1).argmax())
    return _with_columns(mask, top, _last_hole_row(mask, last, last + SAMPLE_STEP_PX) + 1)


def rows_beyond(mask: NDArray[np.bool_], bounds: Box) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the mask's rows above and below bounds from `sample_bounds`, which are right unless these hold a hole.

    Args:
        mask: (H, W) bool, True = hole; not modified.
        bounds: the box.

    Returns:
        Two arrays (rows, W) uint8, 1 = hole; views of a mask that is contiguous.
    """
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    return pixels[: bounds[1]], pixels[bounds[3] :]


def box_size(box: Box) -> tuple[int, int]:
    """Return a box's (height, width)."""
    return box[3] - box[1], box[2] - box[0]


def expand_box(box: Box, by_px: int, image_size: tuple[int, int]) -> Box:
    """Return a box expanded on every side, cut to the image of (height, width)."""
    height, width = image_size
    return intersect(stretch(box, by_px), (0, 0, width, height))


def stretch(box: Box, by_px: int) -> Box:
    """Return a box expanded on every side, beyond the image too."""
    return box[0] - by_px, box[1] - by_px, box[2] + by_px, box[3] + by_px


def intersect(box: Box, other: Box) -> Box:
    """Return what two boxes share; where they share nothing, it is empty or inside out."""
    return max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3])


def unite(box: Box, other: Box) -> Box:
    """Return the smallest box that holds two."""
    return min(box[0], other[0]), min(box[1], other[1]), max(box[2], other[2]), max(box[3], other[3])


def is_empty(box: Box) -> bool:
    """Tell whether a box holds no pixel."""
    return box[0] >= box[2] or box[1] >= box[3]


def as_box(edges: NDArray[np.int64]) -> Box:
    """Return an array (4,) of left, top, right, bottom as a box."""
    left, top, right, bottom = edges.tolist()
    return left, top, right, bottom


def slices_of(box: Box) -> tuple[slice, slice]:
    """Return the rows and columns of a box in an array over the image."""
    return slice(box[1], box[3]), slice(box[0], box[2])


def slices_inside(box: Box, outer: Box) -> tuple[slice, slice]:
    """Return the rows and columns of `box` in an array over `outer`, which holds it."""
    return slice(box[1] - outer[1], box[3] - outer[1]), slice(box[0] - outer[0], box[2] - outer[0])


def paste(source: NDArray, source_box: Box, box: Box) -> NDArray:
    """Return the part of `source`, which fills `source_box`, that lies inside `box`; zero where it has none."""
    out: NDArray = np.zeros(box_size(box), source.dtype)
    shared = intersect(source_box, box)
    out[slices_inside(shared, box)] = source[slices_inside(shared, source_box)]
    return out


def _last_hole_row(mask: NDArray[np.bool_], top: int, bottom: int) -> int:
    """Return the last of these rows, or of those there are, with a hole pixel; there is one."""
    rows = np.logical_or.reduce(mask[top:bottom], axis=1)
    return top + len(rows) - 1 - int(rows[::-1].argmax())


def _with_columns(mask: NDArray[np.bool_], top: int, bottom: int) -> Box:
    columns = np.logical_or.reduce(mask[top:bottom], axis=0)
    return int(columns.argmax()), top, mask.shape[1] - int(columns[::-1].argmax()), bottom
