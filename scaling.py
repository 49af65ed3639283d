"""Which rows a row of a resized image is made from, and with what weights, so that one can resize in strips of rows.

The weights are those of `torch.nn.functional.interpolate(antialias=True)`: a triangle as wide as two source rows'
distance in the target when it shrinks, Keys' cubic with a = -0.5 when it grows (Keys, "Cubic convolution interpolation
for digital image processing", 1981). Works on numbers alone; row r spans r to r + 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

KEYS_A = -0.5


def rows_needed(rows: range, *, target: int, source: int) -> range:
    """Return the source rows that `rows` of the resized image are made from, whichever weights are used.

    Args:
        rows: of the resized image.
        target: its height.
        source: the source's height.
    """
    scale = source / target
    reach = 2 * max(scale, 1.0)
    first = int(np.floor((rows.start + 0.5) * scale - reach))
    last = int(np.ceil((rows.stop - 0.5) * scale + reach))
    return range(max(0, first), min(source, last))


def average_weights(rows: range, needed: range, *, target: int, source: int) -> NDArray[np.float32]:
    """Return (rows, needed) float32: the antialiased bilinear average, each row's sum 1."""
    scale = source / target
    distance = np.abs(_distance(rows, needed, scale)) / max(scale, 1.0)
    return _normalised(np.maximum(0, 1 - distance))


def cubic_weights(rows: range, needed: range, *, target: int, source: int) -> NDArray[np.float32]:
    """Return (rows, needed) float32: antialiased cubic interpolation, each row's sum 1."""
    scale = source / target
    x = np.abs(_distance(rows, needed, scale)) / max(scale, 1.0)
    near = ((KEYS_A + 2) * x - (KEYS_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * KEYS_A - 4 * KEYS_A
    return _normalised(np.where(x < 1, near, np.where(x < 2, far, 0)))


def covers(rows: range, needed: range, *, target: int, source: int) -> NDArray[np.float32]:
    """Return (rows, needed) float32: 1 where a row of the resized image and a source row overlap, as adaptive pooling
    has it."""
    index, row = np.asarray(rows)[:, None], np.asarray(needed)[None]
    first, last = index * source // target, -(-(index + 1) * source // target)
    return ((row >= first) & (row < last)).astype(np.float32)


def _distance(rows: range, needed: range, scale: float) -> NDArray[np.float64]:
    """From the middle of each row of the resized image to that of each source row, in source rows."""
    return np.asarray(needed)[None] + 0.5 - (np.asarray(rows)[:, None] + 0.5) * scale


def _normalised(weights: NDArray[np.float64]) -> NDArray[np.float32]:
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
