"""What is to be repaired in a photo of a folder: a mask file by the rules that were asked for, or what is found in it.

Knows no paths and no engine.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.plan import BatchError
from imaging import Photo, open_photo, read_mask

Find = Literal["text"]
FINDS: tuple[Find, ...] = ("text",)
MOST_STRETCH = 1.02  # of one side against the other: rounding of small sides, and no other proportions


@dataclass(frozen=True)
class HoleRules:
    """How a hole is had.

    Attributes:
        invert: a mask's black is the hole.
        fit: a mask of another size is brought to its photo's.
        sensitivity: of what is looked for, from 0, only what is certain, to 1.
        max_bytes: largest mask file allowed.
        max_px: most pixels of a mask allowed.
    """

    invert: bool = False
    fit: bool = False
    sensitivity: float = 0.5
    max_bytes: int = 1 << 30
    max_px: int = 1 << 30


def hole_of_mask(data: bytes, photo: Photo, rules: HoleRules) -> NDArray[np.bool_]:
    """Read the hole from a mask file.

    Args:
        data: The file's bytes.
        photo: What is to be repaired, (H, W).
        rules: How.

    Returns:
        (H, W), True is the hole.

    Raises:
        ImagingError: It is no mask, or of another size.
        BatchError: It has other proportions than the photo.
    """
    size = (photo.image.shape[0], photo.image.shape[1])
    is_layer = False
    if rules.invert or rules.fit:
        mask = open_photo(data, max_bytes=rules.max_bytes, max_px=rules.max_px)
        pixels: NDArray = _eight_bits(mask.image)[..., ::-1]
        if mask.alpha is not None:
            alpha = _eight_bits(mask.alpha)
            is_layer = bool((alpha < 255).any())
            pixels = np.dstack([pixels, alpha])
        if rules.fit and pixels.shape[:2] != size:
            _check_proportions((pixels.shape[0], pixels.shape[1]), size)
            pixels = cv2.resize(np.ascontiguousarray(pixels), size[::-1], interpolation=cv2.INTER_NEAREST)
        if rules.invert and not is_layer:
            pixels = 255 - pixels[..., :3]
        # As a file again, so that one place decides what is a mask and what is a picture.
        data = cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()
    hole = read_mask(data, size, max_bytes=rules.max_bytes, max_px=rules.max_px, photo=photo.image)
    return ~hole if rules.invert and is_layer else hole


def hole_of_found(find: Find, photo: Photo, rules: HoleRules) -> NDArray[np.bool_]:
    """Find the hole in the photo itself.

    Args:
        find: What to look for.
        photo: (H, W).
        rules: How.

    Returns:
        (H, W), True is the hole; empty where nothing was found.

    Raises:
        DetectionError: What looks for it is not installed.
    """
    assert find == "text", "the only thing that is looked for without being shown"
    from detection.text import find_text  # heavy, and only used where asked for

    return find_text(photo.image).select(rules.sensitivity).mask


def _eight_bits(values: NDArray) -> NDArray[np.uint8]:
    return (values >> 8 * (values.itemsize - 1)).astype(np.uint8)


def _check_proportions(mask: tuple[int, int], photo: tuple[int, int]) -> None:
    stretch = (mask[0] / photo[0]) / (mask[1] / photo[1])
    if max(stretch, 1 / stretch) > MOST_STRETCH:
        raise BatchError(
            f"The mask is {mask[1]} x {mask[0]} pixels, the photo {photo[1]} x {photo[0]}: other proportions, so that "
            "it can't be brought to the photo's size"
        )
