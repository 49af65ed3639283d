"""What is to be repaired in a photo of a folder: a mask file by the rules that were asked for, or what is found in it.

Knows no paths and no engine.
"""

import threading
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.plan import BatchError
from imaging import ImagingError, Photo
from imaging.masks import check_enough_is_left, hole_of_picture
from imaging.reading import open_to_look_at
from imaging.selection import BRIGHT

LARGEST_KEPT = 36_000_000  # values of a mask, 12 megapixels: a larger one is not kept for the next photo
MOST_STRETCH = 1.02  # of one side against the other: rounding of small sides, and no other proportions

_last = threading.local()  # the mask that each thread opened last


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
    mask = _opened(data, rules.max_bytes, rules.max_px)
    if rules.fit and mask.image.shape[:2] != size:
        _check_proportions((mask.image.shape[0], mask.image.shape[1]), size)
        alpha = None if mask.alpha is None else _resized(mask.alpha, size)
        mask = replace(mask, image=_resized(mask.image, size), alpha=alpha)
    hole = _marked(mask, photo, size, invert=rules.invert)
    check_enough_is_left(hole, hole.size)
    return hole


def _marked(mask: Photo, photo: Photo, size: tuple[int, int], *, invert: bool) -> NDArray[np.bool_]:
    if not invert:
        return hole_of_picture(mask, size, photo=photo.image)
    if mask.alpha is not None and bool((_eight_bits(mask.alpha) < 255).any()):
        return ~hole_of_picture(mask, size, photo=photo.image)
    return hole_of_picture(_inverted(mask, size), size, photo=photo.image)


def _inverted(mask: Photo, size: tuple[int, int]) -> Photo:
    """Return an opaque mask with black and white exchanged; of dark labels alone, black labels on white."""
    if cv2.cvtColor(_eight_bits(mask.image), cv2.COLOR_RGB2GRAY).max() > BRIGHT:
        return replace(mask, image=np.iinfo(mask.image.dtype).max - mask.image, alpha=None)
    around = np.where(hole_of_picture(mask, size), 0, 255).astype(np.uint8)
    return replace(mask, image=cv2.cvtColor(around, cv2.COLOR_GRAY2RGB), alpha=None)


def _opened(data: bytes, max_bytes: int, max_px: int) -> Photo:
    """Open a mask file, or return the last that was opened, if it is the same: one may serve thousands of photos."""
    if getattr(_last, "asked", None) != (data, max_bytes, max_px):
        _last.asked = None
        _last.mask = open_to_look_at(data, max_bytes=max_bytes, max_px=max_px)
        _last.asked = (data, max_bytes, max_px)
    mask: Photo = _last.mask
    if mask.image.size > LARGEST_KEPT:
        _last.asked = _last.mask = None
    return mask


def _resized(pixels: NDArray, size: tuple[int, int]) -> NDArray:
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size[::-1], interpolation=cv2.INTER_NEAREST))


def hole_of_text(photo: Photo, rules: HoleRules) -> NDArray[np.bool_]:
    """Find the text in the photo itself, which is then the hole.

    Args:
        photo: (H, W).
        rules: How.

    Returns:
        (H, W), True is the hole; empty where nothing was found.

    Raises:
        DetectionError: What looks for it is not installed.
        BatchError: Nearly all of the photo is found to be text.
    """
    from detection.text import find_text  # heavy, and only used where asked for

    hole = find_text(photo.shown).select(rules.sensitivity).mask
    try:
        check_enough_is_left(hole, hole.size)
    except ImagingError as error:  # whose sentence is about a mask file, and nobody gave one
        text = "nearly all of it was taken for text, which leaves nothing to fill it from; give a lower --sensitivity"
        raise BatchError(text) from error
    return hole


def _eight_bits(values: NDArray) -> NDArray[np.uint8]:
    return (values >> 8 * (values.itemsize - 1)).astype(np.uint8)


def _check_proportions(mask: tuple[int, int], photo: tuple[int, int]) -> None:
    stretch = (mask[0] / photo[0]) / (mask[1] / photo[1])
    if max(stretch, 1 / stretch) > MOST_STRETCH:
        raise BatchError(
            f"The mask is {mask[1]} x {mask[0]} pixels, the photo {photo[1]} x {photo[0]}: other proportions, so that "
            "it can't be brought to the photo's size"
        )
