"""HEIC through a process of its own: a damaged file can bring the decoder down, and must not bring the server down.

Found by feeding pi-heif 1.4.0 damaged files: it crashes while reading their metadata. Starting the child costs 0.2 s.
Run as a script, this file is that child: the photo on standard input, what `decode` needs on standard output.
"""

import json
import struct
import subprocess
import sys
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

TIME_LIMIT_S = 60
BLOBS = ("exif", "icc_profile", "xmp")
ISPE = b"ispe"
HEVC_SETTINGS, LUMA_BITS_AT = b"hvcC", 17  # ISO/IEC 14496-15, 8.3.3.1: the byte that says how many more than 8
MOST_PICTURES = 10_000  # what is behind so many is not looked at


@dataclass(frozen=True)
class HeicFile:
    """A decoded HEIC.

    Attributes:
        pixels: (H, W, C) uint8, turned as the container says; None where there are more than `max_px`.
        images: how many pictures the file has.
        metadata: those of BLOBS that it has, by name.
    """

    pixels: np.ndarray | None
    images: int
    metadata: dict[str, bytes]


def stated_size(data: bytes) -> tuple[int, int]:
    """Return the (width, height) that the largest picture in a file states; raises ValueError where none does.

    Each picture's `ispe` says its size, that of the whole and those of its tiles and previews. Nothing is decoded.
    """
    sizes: list[tuple[int, int]] = []
    at = data.find(ISPE)
    while 0 <= at <= len(data) - 16 and len(sizes) < MOST_PICTURES:
        sizes.append(struct.unpack_from(">II", data, at + 8))  # behind version and flags
        at = data.find(ISPE, at + 1)
    return max(sizes, key=lambda size: size[0] * size[1])


def stated_bits(data: bytes) -> int:
    """Return how many bits a channel of a file's first picture has as it states; 8 where it states none."""
    at = data.find(HEVC_SETTINGS) + len(HEVC_SETTINGS) + LUMA_BITS_AT
    return 8 + (data[at] & 7) if HEVC_SETTINGS in data and at < len(data) else 8


def decode(data: bytes, *, max_px: int) -> HeicFile:
    """Decode a HEIC in a child process; raises OSError when the file is damaged or takes longer than a minute."""
    command = [sys.executable, "-I", str(Path(__file__).resolve()), str(max_px)]
    try:
        child = subprocess.run(command, input=data, capture_output=True, timeout=TIME_LIMIT_S, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise OSError("the HEIC decoder gave up") from error
    at = child.stdout.index(b"\n") + 1
    header = json.loads(child.stdout[:at])
    metadata = {}
    for name, size in header["blobs"].items():
        metadata[name] = child.stdout[at : at + size]
        at += size
    shape = (header["height"], header["width"], header["channels"])
    pixels = np.frombuffer(child.stdout, np.uint8, offset=at).reshape(shape) if header["channels"] else None
    return HeicFile(pixels, header["images"], metadata)


def _answer(data: bytes, max_px: int) -> bytes:
    """Return a line of JSON, the metadata and the pixels; zero channels and no pixels when there are too many."""
    import pi_heif  # only in the child

    container = pi_heif.open_heif(BytesIO(data))
    primary = container[container.primary_index]
    width, height = primary.size
    blobs = {name: bytes(primary.info[name]) for name in BLOBS if primary.info.get(name)}
    header = {"width": width, "height": height, "images": len(container), "channels": 0, "blobs": {}}
    if width * height > max_px:
        return json.dumps(header).encode() + b"\n"
    picture = primary.to_pillow()
    if picture.mode not in ("L", "RGB", "RGBA"):
        picture = picture.convert("RGBA" if "a" in picture.mode.lower() else "RGB")
    header |= {"width": picture.width, "height": picture.height, "channels": len(picture.getbands())}
    header["blobs"] = {name: len(blob) for name, blob in blobs.items()}
    return b"".join([json.dumps(header).encode(), b"\n", *blobs.values(), picture.tobytes()])


if __name__ == "__main__":
    sys.stdout.buffer.write(_answer(sys.stdin.buffer.read(), int(sys.argv[1])))
