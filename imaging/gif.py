"""GIF down to its first frame, found here: Pillow joins a long comment piece by piece, in hours for 100 MB.

Source: GIF89a specification (CompuServe, 1990).
"""

from dataclasses import dataclass

from imaging.errors import truncated_image

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
