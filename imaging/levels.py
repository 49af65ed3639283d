"""Which of its values a 16-bit photo uses, and its 8 bits for people and for formats that hold no more.

Cameras, scanners and microscopes write 10 or 12 bits into 16: shown as they are, such photos are black. Arrays in,
arrays out; knows no files.
"""

import numpy as np

FEW_LEVELS = 1 << 14  # of 65536: a photo that uses fewer is stretched
OUTLIERS = 0.001  # part of the values that may lie beyond: hot pixels, a scale bar drawn into the picture
SAMPLED_PX = 1 << 20


def sample_step(image: np.ndarray) -> int:
    """Return every how many rows and columns tell enough of a photo's levels."""
    return max(1, int((image.shape[0] * image.shape[1] / SAMPLED_PX) ** 0.5))


def white_level(image: np.ndarray, hidden: np.ndarray | None = None) -> int | None:
    """Find the value that is shown as white.

    Args:
        image: (H, W, 3) uint8 or uint16; not modified.
        hidden: (H, W) bool, pixels that nobody sees and that do not count; not modified.

    Returns:
        The value, or None where it is the largest of the type.
    """
    if image.dtype != np.uint16:
        return None
    step = sample_step(image)
    values = image[::step, ::step]
    if hidden is not None:
        values = values[~hidden[::step, ::step]]
    if not values.size:
        return None
    brightest = int(np.ceil(np.quantile(values, 1 - OUTLIERS)))
    return max(1, brightest) if brightest < FEW_LEVELS else None


def eight_bits(values: np.ndarray, white: int | None = None) -> np.ndarray:
    """Bring values to 8 bits.

    Args:
        values: uint8 or uint16, any shape; not modified.
        white: the value shown as white, None for the largest of the type.

    Returns:
        uint8 values of that shape: 16 bits divided by 257, or so that `white` becomes 255, and rounded.
    """
    if values.dtype == np.uint8:
        return values
    if white is None:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.minimum((values.astype(np.uint32) * 255 + white // 2) // white, 255).astype(np.uint8)
