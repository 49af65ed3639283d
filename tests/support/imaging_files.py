"""Files for the tests of imaging, by writers and readers that share no code with it."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from imaging import Photo

DATA = Path(__file__).parents[1] / "data"
BOX = np.s_[8:20, 10:30]


def noise(*shape: int, depth: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**depth, shape).astype(np.uint8 if depth == 8 else np.uint16)


def smooth(height: int, width: int) -> np.ndarray:
    photo = Image.open(DATA / "pier.jpg").convert("RGB").resize((width, height), Image.Resampling.BOX)
    return np.array(photo)


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def raw_png(pixels: np.ndarray, colour_type: int, depth: int, *extra: tuple[bytes, bytes]) -> bytes:
    """Write a PNG by hand: filter 0, one IDAT."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2" if depth == 16 else "u1").reshape(height, -1)
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *extra, (b"IDAT", stream), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def unfiltered_png(data: bytes) -> np.ndarray:
    """Decode a non-interlaced 8- or 16-bit PNG in plain Python: the reference that shares no code with any library."""
    at, stream, header = 8, b"", b""
    while at < len(data):
        (size,), kind = struct.unpack_from(">I", data, at), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        header = body if kind == b"IHDR" else header
        stream += body if kind == b"IDAT" else b""
        at += 12 + size
    width, height, depth, colour_type = struct.unpack(">IIBB", header[:10])
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    step = channels * depth // 8
    raw, rows, previous = zlib.decompress(stream), [], bytes(width * step)
    for y in range(height):
        filtering, *line = raw[y * (1 + width * step) : (y + 1) * (1 + width * step)]
        for i in range(len(line)):
            left, up = line[i - step] if i >= step else 0, previous[i]
            corner = previous[i - step] if i >= step else 0
            guess = left + up - corner
            paeth = min((left, up, corner), key=lambda value: abs(guess - value))
            line[i] = (line[i] + (0, left, up, (left + up) // 2, paeth)[filtering]) % 256
        previous = bytes(line)
        rows.append(previous)
    pixels = np.frombuffer(b"".join(rows), ">u2" if depth == 16 else "u1")
    return pixels.reshape(height, width, channels).astype(np.uint16 if depth == 16 else np.uint8)


def decoded_by_opencv(data: bytes) -> np.ndarray:
    """Decode a colour file, with its alpha where it has one."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None and pixels.ndim == 3
    return pixels[..., np.array([2, 1, 0, 3])[: pixels.shape[2]]]


def repaired(photo: Photo) -> np.ndarray:
    image = photo.image.copy()
    image[BOX] = noise(*image[BOX].shape, depth=8 * image.itemsize, seed=9)
    return image


def codes(notes: tuple) -> list[str]:
    return [note.code for note in notes]
