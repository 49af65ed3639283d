"""Masks that people upload: any image file to (H, W) bool, True = hole."""

import numpy as np

from imaging.errors import ImagingError
from imaging.reading import MAX_BYTES, MAX_PX, open_photo

ROWS_AT_ONCE = 64  # wider integers than the file's are never held for the whole mask
LUMA_WEIGHTS = (299, 587, 114)
LEAST_BRIGHT = 127_500  # weighted sum of the first brightness that rounds to 128


def read_mask(data: bytes, size: tuple[int, int], *, max_bytes: int = MAX_BYTES, max_px: int = MAX_PX) -> np.ndarray:
    """Read a mask file of the photo's own size (height, width) and return (H, W) bool, True = hole.

    A pixel is a hole where its brightness is over 127 (of 255; over half for 16 bits) and it is not transparent (alpha
    over 127). If the visible pixels all have one colour and others are transparent, as in a layer of an editor with
    strokes of any colour, the visible pixels are the hole.
    Raises ImagingError: `mask_size` for another size, and what `open_photo` raises.
    """
    mask = open_photo(data, max_bytes=max_bytes, max_px=max_px)
    height, width = mask.image.shape[:2]
    if (height, width) != tuple(size):
        message = f"The mask is {width} x {height} pixels, the photo {size[1]} x {size[0]}; they must be the same size."
        raise ImagingError(
            "mask_size", message, width=width, height=height, expected_width=size[1], expected_height=size[0]
        )
    shift = 8 * (mask.image.itemsize - 1)
    bright = _is_bright(mask.image, shift)
    if mask.alpha is None:
        return bright
    visible = mask.alpha >> shift > 127
    shown = mask.image[visible] >> shift
    if visible.all() or not len(shown) or (shown != shown[0]).any():
        return bright & visible
    return visible


def _is_bright(image: np.ndarray, shift: int) -> np.ndarray:
    """Return (H, W) bool: where the brightness of (H, W, 3) pixels, `shift` bits lower, rounds to more than 127."""
    bright = np.empty(image.shape[:2], bool)
    for top in range(0, len(image), ROWS_AT_ONCE):
        rows = (image[top : top + ROWS_AT_ONCE] >> shift).astype(np.uint32)
        weighted = sum(rows[..., channel] * weight for channel, weight in enumerate(LUMA_WEIGHTS))
        bright[top : top + ROWS_AT_ONCE] = weighted >= LEAST_BRIGHT
    return bright
