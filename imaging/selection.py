"""Masks in IOPaint's way: brightness alone counts, and what is sent back is a yellow selection on nothing.

Masks are (H, W) bool, True = hole. Unlike `masks.read_mask`, transparency is never looked at: white on transparent and
white on black are the same, and a mask drawn only in alpha is empty. The colour is IOPaint's own; sent back as a mask,
its brightness (195) counts as a hole.
"""

import io

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from imaging.decoding import Turn
from imaging.photo import Photo
from imaging.png import encode_png
from imaging.reading import open_to_look_at

SELECTED = (255, 203, 0, 186)  # RGBA
BRIGHT = 127  # above this is a hole
# Pixels of a mask times those of the ellipse: a second of a core. Beyond it distances are measured, in the same time
# for every radius; single pixels of the rim are others, as OpenCV rounds its ellipse. 1024 px took minutes.
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


def encode_gif(png: bytes, original: Photo, *, turn: Turn) -> bytes:
    """Return a repaired GIF, which is a PNG file, as a GIF of 256 colours, for who reads nothing else back.

    Args:
        png: the file, of the original's size.
        original: the GIF as it was; not modified. What was not repaired has its colours exactly.
        turn: what decoding waits for; see `open_photo`.

    Returns:
        The GIF.
    """
    buffer = io.BytesIO()
    with PngImagePlugin.PngImageFile(io.BytesIO(png)) as picture, turn(picture.width * picture.height, False):
        after = np.asarray(picture.convert("RGB"))
        hidden = np.zeros(after.shape[:2], bool) if original.alpha is None else original.alpha == 0
        before = _colour_codes(original.image)
        changed = (_colour_codes(after) != before) & ~hidden
        kept = np.unique(before[~changed & ~hidden])
        palette, room = kept, 256 - len(kept) - int(hidden.any())
        if changed.any():
            rows, columns = (np.flatnonzero(changed.any(axis=axis)) for axis in (1, 0))
            box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            inside = Image.fromarray(np.where(changed[box][..., None], after[box], after[changed][0]))
            if room > 0:
                fewer = np.asarray(inside.quantize(room, dither=Image.Dither.NONE).convert("RGB"))
                palette = np.union1d(kept, _colour_codes(fewer))
            colours = _palette_of(palette)
            nearest = np.asarray(inside.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG))
        indices = np.stack([np.searchsorted(palette, row).astype(np.uint8) for row in before])
        if changed.any():
            indices[box][changed[box]] = nearest[changed[box]]
        options = {}
        if hidden.any():
            indices[hidden], options = len(palette), {"transparency": len(palette)}
        result = Image.fromarray(indices)
        result.putpalette(_palette_of(palette).getpalette() or [])
        result.save(buffer, "GIF", **options)
    return buffer.getvalue()


def _colour_codes(image: np.ndarray) -> np.ndarray:
    """Return (H, W) uint32, one number for each colour of (H, W, 3) uint8."""
    codes = image[..., 0].astype(np.uint32)
    for channel in (1, 2):
        codes <<= 8
        codes |= image[..., channel]
    return codes


def _palette_of(codes: np.ndarray) -> Image.Image:
    """Return a picture that has the palette of at most 256 colour numbers."""
    colours = Image.new("P", (1, 1))
    colours.putpalette(np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8).tobytes())
    return colours
