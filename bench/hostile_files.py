"""Small pictures of every readable format and what damages them: files for `bench/hostile.py`, seeded.

Nothing here knows how the program reads them. A mutation takes a file and a generator and returns other bytes.
"""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

DATA = Path(__file__).resolve().parents[1] / "tests" / "data"
SIZE = (48, 36)
TELLING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
Mutation = Callable[[bytes, random.Random], bytes]


def originals() -> dict[str, list[bytes]]:
    """Return sound files by format, each format in the kinds that its readers tell apart, metadata included."""
    with Image.open(DATA / "flower.png") as file:
        colours = file.convert("RGB").resize(SIZE)
    clear = colours.copy()
    clear.putalpha(colours.convert("L"))
    exif, icc = _exif(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    icc = icc[:24] + bytes(12) + icc[36:]  # without the moment it was made, or no seed gives the same file again
    told = {"exif": exif.tobytes(), "icc_profile": icc}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a b="c">text</a></x:xmpmeta>'
    deep = (np.asarray(colours).astype(np.uint16) << 8) + 7
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a title")
    text.add_itxt("XML:com.adobe.xmp", xmp.decode(), zip=True)
    frames = {"save_all": True, "append_images": [colours.rotate(90)]}
    return {
        "PNG": [
            _saved(colours, "PNG", pnginfo=text, dpi=(72, 72), **told),
            _saved(colours.quantize(16), "PNG", transparency=3), _saved(clear, "PNG"),
            _saved(colours.convert("1"), "PNG"), _deep_png(deep), _saved(colours, "PNG", **frames),
        ],
        "JPEG": [
            _saved(colours, "JPEG", quality=90, xmp=xmp, comment=b"hello", **told),
            _saved(colours, "JPEG", progressive=True, restart_marker_blocks=2), _saved(colours.convert("L"), "JPEG"),
            _saved(colours.convert("CMYK"), "JPEG"), _saved(colours, "JPEG", subsampling=0, optimize=True),
        ],
        "WEBP": [
            _saved(colours, "WEBP", xmp=xmp, **told), _saved(clear, "WEBP", lossless=True),
            _saved(colours, "WEBP", **frames), _saved(colours, "WEBP", quality=10),
        ],
        "TIFF": [
            _saved(colours, "TIFF", **told), _saved(colours, "TIFF", compression="tiff_lzw"),
            _saved(colours, "TIFF", compression="jpeg"), _saved(colours, "TIFF", compression="tiff_adobe_deflate"),
            _saved(clear, "TIFF"), _saved(colours.convert("1"), "TIFF", compression="group4"),
            _saved(colours, "TIFF", **frames), _deep_tiff(deep), _deep_tiff(deep, compression="zlib", predictor=True),
            _deep_tiff(deep, tile=(16, 16)), _deep_tiff(deep, byteorder=">", bigtiff=True),
        ],
        "BMP": [_saved(colours, "BMP"), _saved(colours.quantize(16), "BMP"), _saved(clear, "BMP")],
        "AVIF": [_saved(colours, "AVIF", **told), _saved(clear, "AVIF", quality=40)],
        "HEIC": [(DATA / "flower.heic").read_bytes()],
        "GIF": [
            _saved(colours.quantize(32), "GIF", comment=b"hello"), _saved(colours.quantize(8), "GIF", transparency=1),
            _saved(colours, "GIF", duration=80, loop=0, **frames),
        ],
    }  # fmt: skip


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "Maker", 72.0
    exif.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    exif.get_ifd(0x8825)[2] = (52.0, 31.0, 12.5)
    return exif


def _saved(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def _deep_png(pixels: np.ndarray) -> bytes:
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _deep_tiff(pixels: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    bigtiff, byteorder = options.pop("bigtiff", False), options.pop("byteorder", "<")
    with tifffile.TiffWriter(file, bigtiff=bool(bigtiff), byteorder=str(byteorder)) as writer:  # type: ignore[arg-type]
        writer.write(pixels, photometric="rgb", metadata=None, **options)  # type: ignore[arg-type]
    return file.getvalue()


def flip_bits(data: bytes, chance: random.Random) -> bytes:
    """Turn around one to twenty bits anywhere."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 20)):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def write_number(data: bytes, chance: random.Random) -> bytes:
    """Put numbers that programs stumble over where lengths and offsets stand: mostly near the beginning."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        size, order = chance.choice((1, 2, 4, 8)), chance.choice(("little", "big"))
        value = chance.choice((*TELLING, len(data), len(data) - 1, chance.getrandbits(32))) & ((1 << 8 * size) - 1)
        near = chance.random() < 0.8
        at = chance.randrange(max(1, min(len(data), 400 if near else len(data)) - size))
        changed[at : at + size] = value.to_bytes(size, order)  # type: ignore[arg-type]
    return bytes(changed)


def cut_off(data: bytes, chance: random.Random) -> bytes:
    """Leave out the end."""
    return data[: chance.randrange(len(data))]


def cut_out(data: bytes, chance: random.Random) -> bytes:
    """Leave out a part in the middle."""
    at = chance.randrange(len(data))
    return data[:at] + data[at + chance.randint(1, 200) :]


def put_in(data: bytes, chance: random.Random) -> bytes:
    """Put in noise, zeros, or a part of the file itself, once or very often."""
    at, size = chance.randrange(len(data)), chance.randint(1, 300)
    part = chance.choice((chance.randbytes(size), bytes(size), data[max(0, at - size) : at] or b"\0"))
    return data[:at] + part * chance.choice((1, 1, 1, 3, 500)) + data[at:]


def swap(data: bytes, chance: random.Random) -> bytes:
    """Let two parts change places."""
    first, second = sorted(chance.sample(range(len(data)), 2))
    size = chance.randint(1, max(1, min(64, second - first)))
    left, right = data[first : first + size], data[second : second + size]
    return data[:first] + right + data[first + size : second] + left + data[second + size :]


def change_behind_checksum(data: bytes, chance: random.Random) -> bytes:
    """Damage one chunk of a PNG and give it the right checksum, so that the damage reaches its reader."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    number = chance.randrange(len(chunks))
    kind, body = chunks[number]
    if kind == b"IDAT" and chance.random() < 0.7:  # its stream too
        raw = zlib.decompress(body)
        body = zlib.compress(chance.choice((flip_bits, cut_off, put_in))(raw, chance))
    elif body:
        body = chance.choice((flip_bits, write_number, cut_off, put_in))(body, chance)
    chunks[number] = (kind, body)
    if chance.random() < 0.3:
        chunks.insert(chance.randrange(len(chunks)), chance.choice(chunks))
    return data[:8] + b"".join(_chunk(*one) for one in chunks)


MUTATIONS: tuple[Mutation, ...] = (flip_bits, write_number, write_number, cut_off, cut_out, put_in, swap)


def mutated_files(count: int, seed: int, formats: Sequence[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Give format and bytes of damaged files: every format in its turn.

    Args:
        count: how many.
        seed: the same seed gives the same files.
        formats: only these; empty for all.

    Yields:
        Format and bytes of one file after another.
    """
    sound = originals()
    names = list(formats or sound)
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        name = names[number % len(names)]
        data = chance.choice(sound[name])
        if name == "PNG" and chance.random() < 0.5:
            yield name, change_behind_checksum(data, chance)
            continue
        if chance.random() < 0.05:  # the head of one and the body of another
            other = chance.choice(sound[chance.choice(list(sound))])
            at = chance.randrange(4, 64)
            data = data[:at] + other[at:]
        for _ in range(chance.choice((1, 1, 2, 3))):
            data = chance.choice(MUTATIONS)(data, chance) or b"\0"
        yield name, data
