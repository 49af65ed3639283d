"""Masks in IOPaint's way: brightness alone counts, and what is sent back is a yellow selection on transparent.

Masks are (H, W) bool, True = hole. Unlike in `imaging.masks.read_mask`, transparency is never looked at: white on
transparent and white on black are the same, and a mask drawn only in alpha is empty. The colour is IOPaint's own; sent
back as a mask, its brightness (195) counts as a hole.
"""

import cv2
import numpy as np
from PIL import Image

from imaging.decoding import Turn
from imaging.png import encode_png
from imaging.reading import open_to_look_at

SELECTED = (255, 203, 0, 186)  # RGBA
BRIGHT = 127  # above this is a hole
# Pixels of a mask times those of the ellipse: a second of a core. Beyond it distances are measured, in the same time
# for every radius. Single pixels of the rim differ there, as OpenCV rounds its ellipse. 1024 px took minutes.
LARGEST_WORK = 4e10


def read_brightness(data: bytes, *, max_bytes: int, max_px: int, turn: Turn | None = None) -> np.ndarray:
    """Read any image file as brightness, upright, whatever its transparency.

    Args:
        data: the file.
        max_bytes: the largest file taken.
        max_px: the most pixels taken.
        turn: what decoding waits for; see `open_photo`.

    Returns:
        (H, W) uint8, by the weights of Pillow's mode L.
    """
    picture = open_to_look_at(data, max_bytes=max_bytes, max_px=max_px, turn=turn)
    image = picture.image[..., 0] if picture.source.stored == "grey" else picture.image
    shown = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    if shown.ndim == 2:
        return shown
    return np.asarray(Image.fromarray(shown).convert("L"))


def adjust_selection(mask: np.ndarray, operate: str, kernel_px: int) -> np.ndarray:
    """Grow, shrink or invert a mask.

    Args:
        mask: (H, W) bool; not modified.
        operate: "expand", "shrink" or "reverse".
        kernel_px: radius of the ellipse that "expand" and "shrink" work with.

    Returns:
        (H, W) bool.
    """
    if operate == "reverse":
        return ~mask
    adjusted = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size:
        # One row and column of what is not selected suffices to shrink from; more to grow into.
        margin_px = max(1, kernel_px)
        box = tuple(slice(max(0, line[0] - margin_px), line[-1] + 1 + margin_px) for line in (rows, columns))
        adjusted[box] = _adjusted(mask[box], grows=operate == "expand", radius_px=kernel_px)
    return adjusted


def _adjusted(mask: np.ndarray, *, grows: bool, radius_px: int) -> np.ndarray:
    if mask.size * 3.14 * radius_px**2 > LARGEST_WORK:
        nearest_px = cv2.distanceTransform((mask ^ grows).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return nearest_px <= radius_px if grows else nearest_px > radius_px
    side_px = 2 * radius_px + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side_px, side_px))
    work = cv2.dilate if grows else cv2.erode
    return work(mask.view(np.uint8), kernel).view(bool)


def widen_selection(mask: np.ndarray, side_px: int) -> np.ndarray:
    """Return (H, W) bool: `mask` widened by a square of `side_px`."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((side_px, side_px), np.uint8)).astype(bool)


def encode_selection(mask: np.ndarray) -> bytes:
    """Return a PNG of (H, W) bool: the selection in yellow, the rest transparent."""
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = SELECTED
    return encode_png(pixels, fast=True)
