"""BMP: the transparency that Pillow leaves out. Source: BITMAPV3INFOHEADER and later."""

import struct

import numpy as np

ALPHA_MASK_AT = 66  # in the file, from version 3 of the header on
HEADER_AT = 14
LEAST_HEADER_BYTES = ALPHA_MASK_AT + 4 - HEADER_AT
WITH_MASKS = 3  # of the compression: masks say which bits are what
ALPHA_MASK = 0x8000


def one_bit_alpha(data: bytes, width_px: int, height_px: int) -> np.ndarray | None:
    """Return the alpha of a BMP of 16 bits of which one is alpha.

    Args:
        data: a file that Pillow has decoded.
        width_px: its width.
        height_px: its height.

    Returns:
        (H, W) uint8, 0 or 255; None for every other kind, and where no pixel has the bit, which then means nothing.

    Raises:
        ValueError: the file is cut off.
    """
    if len(data) < ALPHA_MASK_AT + 4:
        return None
    pixels_at, header_bytes, _, height, _, bits, compression = struct.unpack_from("<IIiiHHI", data, HEADER_AT - 4)
    (mask,) = struct.unpack_from("<I", data, ALPHA_MASK_AT)
    if (bits, compression, mask) != (16, WITH_MASKS, ALPHA_MASK) or header_bytes < LEAST_HEADER_BYTES:
        return None
    row_bytes = (2 * width_px + 3) // 4 * 4
    rows = np.frombuffer(data, np.uint8, row_bytes * height_px, pixels_at).reshape(height_px, row_bytes)
    opaque = rows[:, 1 : 2 * width_px : 2] >> 7
    if height > 0:  # from the bottom upwards
        opaque = opaque[::-1]
    return opaque * np.uint8(255) if opaque.any() else None
