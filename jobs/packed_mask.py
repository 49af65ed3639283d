"""A mask as few bytes, so that it is rasterised once and waits with its job, over a restart too.

Only the hole's box is kept, one bit per pixel, compressed: a stroke on 12 megapixels takes some hundred bytes.
"""

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from jobs.errors import JobError
from masks.boxes import Box, find_bounds

HEADER = struct.Struct("<6I")  # height, width of the mask; left, top, right, bottom of the box


def pack_mask(mask: NDArray[np.bool_], *, at: tuple[int, int] = (0, 0), size: tuple[int, int] | None = None) -> bytes:
    """Pack a mask.

    Args:
        mask: (H, W) bool, True = hole, all of it or the part that holds the hole; not modified.
        at: (left, top) of that part.
        size: (height, width) of the whole mask; None = that of `mask`.

    Returns:
        Bytes for `unpack_mask`.

    Raises:
        JobError: `empty_mask` when nothing is marked.
    """
    box = find_bounds(mask)
    if box is None:
        raise JobError("empty_mask", "Nothing is marked: paint over what should go first.")
    left, top, right, bottom = box
    bits = np.packbits(mask[top:bottom, left:right]).tobytes()
    header = HEADER.pack(*(size or mask.shape), left + at[0], top + at[1], right + at[0], bottom + at[1])
    # Level 1: masks are long runs, where more effort gains little.
    return header + zlib.compress(bits, 1)


def packed_bounds(packed: bytes) -> Box:
    """Return the smallest box that holds every hole pixel of a packed mask."""
    _, _, left, top, right, bottom = HEADER.unpack_from(packed)
    return left, top, right, bottom


def unpack_mask(packed: bytes) -> NDArray[np.bool_]:
    """Return the (H, W) bool mask that was packed."""
    height, width, left, top, right, bottom = HEADER.unpack_from(packed)
    bits = np.frombuffer(zlib.decompress(packed[HEADER.size :]), np.uint8)
    mask = np.zeros((height, width), np.bool_)
    size = (bottom - top, right - left)
    mask[top:bottom, left:right] = np.unpackbits(bits, count=size[0] * size[1]).reshape(size)
    return mask
