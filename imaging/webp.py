"""WebP at the level of its container: size, animation, and whether it is lossless.

Read before any decoder is made, because the decoder allocates the whole canvas that the header asks for.
Source: RFC 9649 (container, VP8L), RFC 6386 (VP8 frame header, section 9).
"""

import struct
from dataclasses import dataclass

from imaging.errors import not_an_image, truncated_image

MAX_CHUNKS = 10_000  # the picture's own are a handful; every frame of an animation is one
PICTURE_KINDS = (b"VP8 ", b"VP8L", b"ANMF")
ALPHA = b"ALPH"  # lies right before a lossy picture
HAS_ALPHA = 0x10  # among the flags of the extended header


@dataclass(frozen=True)
class WebpFile:
    """What the container says.

    `metadata` has ICCP, EXIF and "XMP " among the first chunk of each type; `left_out` says whether there were more
    chunks than are kept.
    """

    width_px: int
    height_px: int
    animated: bool
    lossless: bool
    metadata: dict[bytes, bytes]
    left_out: bool = False


def parse(data: bytes) -> WebpFile:
    """Read the container; raises ImagingError `not_an_image` or `truncated_image`. Nothing is decoded."""
    chunks = _chunks(data, 12, min(len(data), 8 + struct.unpack_from("<I", data, 4)[0]))
    if 8 + struct.unpack_from("<I", data, 4)[0] > len(data) + 1:
        raise truncated_image("WebP")
    first: dict[bytes, bytes] = {}
    for kind, payload in chunks:
        first.setdefault(kind, payload)
    picture = dict(first)
    animated = b"ANMF" in first
    if animated:
        picture |= dict(reversed(_chunks(first[b"ANMF"], 16, len(first[b"ANMF"]))))
    lossless = b"VP8L" in picture and b"VP8 " not in picture
    try:
        if b"VP8X" in first:
            canvas = first[b"VP8X"]
            width_px = 1 + int.from_bytes(canvas[4:7], "little")
            height_px = 1 + int.from_bytes(canvas[7:10], "little")
        elif lossless:
            (bits,) = struct.unpack_from("<I", picture[b"VP8L"], 1)
            width_px, height_px = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        else:
            width_px, height_px = (value & 0x3FFF for value in struct.unpack_from("<HH", picture[b"VP8 "], 6))
    except (KeyError, struct.error) as error:
        raise not_an_image("its WebP header is missing") from error
    if not width_px or not height_px:
        raise not_an_image("its WebP header makes no sense")
    return WebpFile(width_px, height_px, animated, lossless, first, left_out=len(chunks) > MAX_CHUNKS)


def picture_alone(file: WebpFile) -> bytes:
    """Return a file with the chunks of a still picture and no others, which cost the decoder 40 bytes each."""
    body = b"WEBP"
    for kind, payload in file.metadata.items():
        if kind == b"VP8X":
            payload = bytes([payload[0] & HAS_ALPHA]) + payload[1:]
        if kind in (b"VP8X", ALPHA, b"VP8 ", b"VP8L"):
            body += kind + struct.pack("<I", len(payload)) + payload + b"\0" * (len(payload) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _chunks(data: bytes, at: int, end: int) -> list[tuple[bytes, bytes]]:
    """Return the chunks between two offsets; past `MAX_CHUNKS` of them only the next picture's."""
    chunks: list[tuple[bytes, bytes]] = []
    while at + 8 <= end:
        if len(chunks) > MAX_CHUNKS and (chunks[-1][0] != ALPHA or len(chunks) > MAX_CHUNKS + 1):
            return chunks
        if len(chunks) == MAX_CHUNKS:
            found = [where for kind in (*PICTURE_KINDS, ALPHA) if (where := data.find(kind, at, end)) >= 0]
            if not found or any(kind in PICTURE_KINDS for kind, _ in chunks):
                return [*chunks, (b"", b"")]
            at = min(found)
        (size,) = struct.unpack_from("<I", data, at + 4)
        chunks.append((bytes(data[at : at + 4]), data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return chunks
