"""WebP at the level of its container: size, animation, lossless or not, and the quality it was written at.

Read before any decoder is made, because the decoder allocates the whole canvas that the header asks for.
Source: RFC 9649 (container, VP8L), RFC 6386 (VP8 frame header, sections 9 and 19.2, and its boolean decoder, section
7).
"""

import struct
from dataclasses import dataclass

from imaging.errors import not_an_image, truncated_image

FALLBACK_QUALITY = 85
SMALLEST_QUALITY = 50


@dataclass(frozen=True)
class WebpFile:
    """What the container says; `quality` is None for lossless files; `metadata` maps ICCP, EXIF and "XMP " to bytes."""

    width_px: int
    height_px: int
    animated: bool
    lossless: bool
    quality: int | None
    metadata: dict[bytes, bytes]


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
    quality = None if lossless else quality_of(picture.get(b"VP8 ", b""))
    return WebpFile(width_px, height_px, animated, lossless, quality, first)


def _chunks(data: bytes, at: int, end: int) -> list[tuple[bytes, bytes]]:
    chunks = []
    while at + 8 <= end:
        (size,) = struct.unpack_from("<I", data, at + 4)
        chunks.append((bytes(data[at : at + 4]), data[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    return chunks


class _BooleanDecoder:
    """The arithmetic decoder of RFC 6386, section 7.3, for bits of even odds only: all that the frame header needs."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.value = int.from_bytes(data[:2], "big")
        self.at, self.range, self.shifted = 2, 255, 0

    def bit(self) -> int:
        split = 1 + (((self.range - 1) * 128) >> 8)
        one = self.value >= split << 8
        if one:
            self.range -= split
            self.value -= split << 8
        else:
            self.range = split
        while self.range < 128:
            self.value <<= 1
            self.range <<= 1
            self.shifted += 1
            if self.shifted == 8:
                self.shifted = 0
                self.value |= self.data[self.at] if self.at < len(self.data) else 0
                self.at += 1
        return int(one)

    def number(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            value = value << 1 | self.bit()
        return value

    def signed(self, bits: int) -> int:
        value = self.number(bits)
        return -value if self.bit() else value


def quality_of(frame: bytes) -> int:
    """Estimate the encoder quality, 50 to 100, from the quantiser in a VP8 key frame's header.

    libwebp derives the quantiser from the quality as q = 127 (1 - cbrt(c)), c = 2/3 Q below Q = 0.75 and 2 Q - 1 above,
    and then lets segments differ; the mean over segments is turned back.
    """
    if len(frame) < 32 or frame[0] & 1:
        return FALLBACK_QUALITY
    bits = _BooleanDecoder(frame[10:])
    bits.number(2)  # colour space, clamping
    segment_steps: list[int] = []
    absolute = False
    if bits.bit():
        update_map, update_data = bits.bit(), bits.bit()
        if update_data:
            absolute = bool(bits.bit())
            segment_steps = [bits.signed(7) if bits.bit() else 0 for _ in range(4)]
            for _ in range(4):
                _ = bits.signed(6) if bits.bit() else 0
        if update_map:
            for _ in range(3):
                _ = bits.number(8) if bits.bit() else 0
    bits.number(1 + 6 + 3)  # loop filter: type, level, sharpness
    if bits.bit() and bits.bit():
        for _ in range(8):
            _ = bits.signed(6) if bits.bit() else 0
    bits.number(2)  # partitions
    base = bits.number(7)
    used = [step if absolute else base + step for step in segment_steps] or [base]
    quantiser = sum(used) / len(used)
    linear = max(0.0, 1 - quantiser / 127) ** 3
    quality = 100 * (1.5 * linear if linear < 0.5 else (1 + linear) / 2)
    return max(SMALLEST_QUALITY, min(100, round(quality)))
