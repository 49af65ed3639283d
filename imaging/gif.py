"""GIF: a file cut down to its first frame before it is decoded, and a repaired photo written as GIF.

The frame is found here and not by Pillow, which joins a long comment piece by piece: for 100 MB that takes hours.

Source: GIF89a specification (CompuServe, 1990).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

from imaging.errors import truncated_image
from imaging.photo import Photo

if TYPE_CHECKING:
    from imaging.decoding import Turn

EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, 0x3B
GRAPHIC_CONTROL = 0xF9
MAX_BLOCKS = 1_000_000  # a frame of 100 megapixels has some 400,000; a second of work


@dataclass(frozen=True)
class FirstFrame:
    """A GIF file that holds the first frame of another alone, and whether there were more."""

    data: bytes
    is_animated: bool


def first_frame(data: bytes) -> FirstFrame:
    """Cut a GIF down to its first frame.

    Args:
        data: the file, of which only the signature was looked at.

    Returns:
        The first frame with its palette and transparency; comments and other extensions are left out.

    Raises:
        ImagingError: `truncated_image` when there is no whole block structure up to the frame's end.
    """
    try:
        at = 13 + _table_bytes(data[10])
        head, control = data[:at], b""
        blocks_left = MAX_BLOCKS
        while data[at] == EXTENSION:
            stop, blocks_left = _after_blocks(data, at + 2, blocks_left)
            if data[at + 1] == GRAPHIC_CONTROL:
                control = data[at:stop]
            at = stop
        if data[at] != IMAGE:
            raise truncated_image("GIF")
        start = at
        at += 10 + _table_bytes(data[at + 9]) + 1  # descriptor, local palette, code size
        try:
            at, blocks_left = _after_blocks(data, at, blocks_left)
        except IndexError:
            at = len(data)  # cut off: the decoder says so, or shows what there is
    except IndexError as error:
        raise truncated_image("GIF") from error
    return FirstFrame(head + control + data[start:at] + bytes([TRAILER]), _has_more(data, at, blocks_left))


def _table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int, blocks_left: int) -> tuple[int, int]:
    """Return where a chain of sub-blocks ends, and how many blocks may still be looked at."""
    while data[at]:
        at += data[at] + 1
        blocks_left -= 1
        if blocks_left < 0:
            raise truncated_image("GIF")
    if blocks_left < 1:
        raise truncated_image("GIF")
    return at + 1, blocks_left - 1


def _has_more(data: bytes, at: int, blocks_left: int) -> bool:
    try:
        while data[at] == EXTENSION and blocks_left > 0:
            at, blocks_left = _after_blocks(data, at + 2, blocks_left)
        return data[at] == IMAGE
    except (IndexError, ValueError):  # cut off, or more blocks than anybody needs
        return False


def encode_gif(png: bytes, original: Photo, *, turn: Turn) -> bytes:
    """Return a repaired GIF, which is a PNG file, as a GIF of 256 colours, for clients that expect a GIF.

    Args:
        png: the file, of the original's size.
        original: the GIF as it was; not modified. What was not repaired has its colours exactly.
        turn: what decoding waits for; see `open_photo`.

    Returns:
        The GIF.
    """
    buffer = BytesIO()
    with PngImagePlugin.PngImageFile(BytesIO(png)) as picture, turn(picture.width * picture.height, False):
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
