"""A JPEG that lacks nothing but the marker of its end, as some cameras leave it: told from one that was cut off.

Viewers show both; of the second one the decoder fills what is missing with grey.
"""

from io import BytesIO

from PIL import Image, JpegImagePlugin

from imaging.jpeg import END_OF_IMAGE, MAX_SEGMENTS, START_OF_SCAN, scan_count, segment_at

END = bytes([0xFF, END_OF_IMAGE])
# Of small files that lack 1 to 6 bytes of pixels one in 20,000 goes on alike with all three, with two one in 1,000.
NOISES = tuple(bytes([byte]) * 64 for byte in (0xA9, 0x7F, 0x0F))
RESTARTS = [bytes([0xFF, 0xD0 + n]) for n in range(8)]
RESTART_INTERVAL = 0xDD


def is_missing(data: bytes) -> bool:
    """Tell whether a JPEG has no end: it was cut off, or what was not downloaded is zeros, which decode to pixels."""
    return data.find(END, _before_scan(data)[0]) < 0


def decode_without_end(data: bytes, opened: JpegImagePlugin.JpegImageFile) -> Image.Image | None:
    """Decode a JPEG that has no end.

    What does not need the bytes behind it comes out the same whatever they are, so three noises are tried.

    Args:
        data: the file, of which `is_missing` is true.
        opened: the picture in it; its header is looked at.

    Returns:
        The loaded picture; None when some of it is missing, or when that cannot be told: of a progressive one whole
        passes may be missing.

    Raises:
        OSError: it is damaged besides.
    """
    data = _without_filler(data)
    if opened.info.get("progressive") or scan_count(data) != 1 or not _has_all_restarts(data, opened):
        return None
    first: Image.Image | None = None
    pixels = b""
    for noise in NOISES:
        picture = JpegImagePlugin.JpegImageFile(BytesIO(data + noise + END))
        picture.load()
        if first is None:
            first, pixels = picture, picture.tobytes()
        elif picture.tobytes() != pixels:
            return None
    return first


def _without_filler(data: bytes) -> bytes:
    """Return a JPEG without the zeros that stand for what is missing; what it may have too much changes no pixel."""
    bare = data.rstrip(b"\0")
    if bare.endswith(b"\xff"):
        return bare + b"\0"  # a byte of pixels, which a zero follows, or half of the end
    return data if len(data) - len(bare) <= len(END) else bare  # as few are pixels, or stand for the end alone


def _has_all_restarts(data: bytes, opened: JpegImagePlugin.JpegImageFile) -> bool:
    """Tell whether a scan has as many restart markers as its size asks for: one that ends before one is not told."""
    scan_at, interval = _before_scan(data)
    if not interval:
        return True
    across, down = (8 * max(layer[n] for layer in opened.layer) for n in (1, 2)) if opened.layers > 1 else (8, 8)
    blocks = -(-opened.width // across) * -(-opened.height // down)
    return sum(data.count(restart, scan_at) for restart in RESTARTS) == -(-blocks // interval) - 1


def _before_scan(data: bytes) -> tuple[int, int]:
    """Return where the first scan begins, and how many blocks lie between two restart markers; 0 = there are none."""
    at, interval = 2, 0
    for _ in range(MAX_SEGMENTS):
        if (segment := segment_at(data, at)) is None or segment[0] == START_OF_SCAN:
            break
        if segment[0] == RESTART_INTERVAL:
            interval = int.from_bytes(data[segment[1] - 2 : segment[1]], "big")
        at = segment[1]
    return at, interval
