"""TIFF pixels at both depths, written again with the compression they had.

Pillow reads 8 bits and writes every compression; it cuts 16-bit colour to 8 bits, so OpenCV reads and writes those.
(tifffile was tried for them: without imagecodecs it reads no LZW, which most editors write.)
Layouts that neither reads (separate planes, grey with alpha at 16 bits) are described to the decoder as the plain grey
pictures that they are made of. Arrays are (H, W, C) with C = 1 grey, 2 grey + alpha, 3 RGB, 4 RGBA. Source: TIFF 6.0.
"""

import struct
import zlib
from dataclasses import replace
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from imaging import tiff_tags
from imaging.errors import not_an_image, truncated_image
from imaging.metadata import DESCRIPTIVE_TAGS, ORIENTATION, RESOLUTION_TAGS
from imaging.photo import TiffSettings
from imaging.tiff_tags import LONG, LONG8, SHORT, Directory, Entry, entry_of_bytes, entry_of_numbers

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = 273, 277, 278, 279, 284
PREDICTOR, TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT = 317, 324, 325, 338, 339
TILE_WIDTH, TILE_HEIGHT = 322, 323
XMP, IPTC, PHOTOSHOP, ICC = 700, 33723, 34377, 34675
LAYERS, LAYERS_MARK = 37724, b"Adobe Photoshop Document Data Block\0"
NEW_SUBFILE_TYPE, SUB_DIRECTORIES, DNG_VERSION = 254, 330, 50706
SENSOR_PHOTOMETRICS = (32803, 34892)  # colour filter array, linear raw
LABS = (8, 9, 10)  # of PHOTOMETRIC
SIGNED, FLOATING = 2, 3  # of SAMPLE_FORMAT
ROWS_AT_ONCE = 256  # that are divided by their alpha, in four bytes a number
ASSOCIATED, PLAIN_ALPHA = 1, 2  # of EXTRA_SAMPLES; colours are multiplied by an associated alpha
# What a decoder needs of a directory. The rest is kept from it: libtiff, Pillow and OpenCV each copy every value they
# find, and some turn the picture by themselves where others do not.
PIXEL_TAGS = frozenset(
    {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR}
    | {PREDICTOR, TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT}
    | {TILE_WIDTH, TILE_HEIGHT}
    | {266, 292, 293, 320, 332, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532}
)
COMPRESSIONS = {
    34661: "JBIG", 34712: "JPEG 2000", 34887: "LERC", 34892: "JPEG", 34925: "LZMA", 50000: "Zstandard", 50001: "WebP",
    50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip
SHORT_LIST_TAGS = (BITS, SAMPLE_FORMAT, EXTRA_SAMPLES)
MAX_SAMPLES = 64
MOST_PLAIN_PIECES = 200_000  # of what is not packed, which Pillow takes one by one in 1.6 s; libtiff takes the rest
NONE, LZW, OLD_JPEG, JPEG, ADOBE_DEFLATE, PACKBITS, DEFLATE = 1, 5, 6, 7, 8, 32773, 32946
FAX = (2, 3, 4)
# Read by every build of the libraries; what else a decoder gives up on may be sound.
READ_EVERYWHERE = (NONE, *FAX, LZW, OLD_JPEG, JPEG, ADOBE_DEFLATE, PACKBITS, DEFLATE)
PILLOW_NAMES = {NONE: None, LZW: "tiff_lzw", JPEG: "jpeg", PACKBITS: "packbits", ADOBE_DEFLATE: "tiff_adobe_deflate"}


def is_deep(first: Directory) -> bool:
    """Say whether a TIFF holds 16-bit grey or RGB numbers, with or without alpha."""
    bits = first.numbers(BITS)
    plain = set(first.numbers(SAMPLE_FORMAT)) <= {1} and first.number(PHOTOMETRIC, 1) in (0, 1, 2)
    return bool(bits) and set(bits) == {16} and plain and first.number(SAMPLES, 1) <= 4


def is_raw(first: Directory) -> bool:
    """Say whether a file is a camera's raw file: DNG says so; of the others the first picture is a reduced one."""
    tags = {entry.tag for entry in first.entries}
    is_reduced = bool(first.number(NEW_SUBFILE_TYPE, 0) & 1) and SUB_DIRECTORIES in tags
    return DNG_VERSION in tags or is_reduced or first.number(PHOTOMETRIC, 1) in SENSOR_PHOTOMETRICS


def has_layers(first: Directory) -> bool:
    """Say whether a TIFF holds Photoshop's layers beside the picture that they make."""
    return any(entry.tag == LAYERS and bytes(entry.data[: len(LAYERS_MARK)]) == LAYERS_MARK for entry in first.entries)


def why_unreadable(first: Directory) -> str:
    """Say what of a TIFF's numbers nothing here reads, or return an empty string."""
    formats, bits = first.numbers(SAMPLE_FORMAT), first.numbers(BITS)
    if FLOATING in formats:
        return "this TIFF holds floating-point numbers. Export it with 16 bits per channel"
    if SIGNED in formats:
        return "this TIFF holds signed numbers. Export it with 8 or 16 bits per channel"
    if max(bits, default=1) > 16:
        return f"this TIFF holds {max(bits)} bits per channel. Export it with 16"
    if first.number(PHOTOMETRIC, 1) in LABS:
        return "this TIFF holds Lab colours. Export it as RGB"
    pieces = max(len(first.array(STRIP_OFFSETS)), len(first.array(TILE_OFFSETS)))
    if pieces > MOST_PLAIN_PIECES and first.number(COMPRESSION, NONE) == NONE and not is_deep(first):
        return f"this TIFF is cut into {pieces} pieces. Export it with LZW or ZIP, or as PNG"
    return ""


def unread_compression(first: Directory) -> str:
    """Say what of a TIFF's compression a decoder may have lacked, or return an empty string."""
    compression = first.number(COMPRESSION, NONE)
    if compression in READ_EVERYWHERE:
        return ""
    name = COMPRESSIONS.get(compression, f"number {compression}")
    return f"this TIFF is damaged, or its compression, {name}, is not supported. Export it with LZW, ZIP or none"


def unknown_channels(first: Directory) -> str:
    """Say which mixture of channels a TIFF has that nothing here reads."""
    samples, bits = first.number(SAMPLES, 1), max(first.numbers(BITS), default=1)
    return (
        f"this TIFF has {samples} channels of {bits} bits in a mixture that is not supported. Export it as RGB or grey"
    )


def is_associated(first: Directory, channels: int) -> bool:
    """Say whether the last of the decoded `channels` is an alpha that the others are multiplied by."""
    return channels in (2, 4) and first.number(EXTRA_SAMPLES, 2) == ASSOCIATED


def straight(pixels: np.ndarray) -> np.ndarray:
    """Divide the colours of (H, W, 2 or 4) pixels by their alpha; where it is 0 they stay as they are."""
    divided = pixels.copy()
    most = np.uint32(np.iinfo(pixels.dtype).max)
    for top in range(0, len(pixels), ROWS_AT_ONCE):
        part = divided[top : top + ROWS_AT_ONCE]
        alpha = part[..., -1:].astype(np.uint32)
        colours = (part[..., :-1] * most + alpha // 2) // np.maximum(alpha, 1)
        part[..., :-1] = np.where(alpha > 0, np.minimum(colours, most), part[..., :-1])
    return divided


def multiplied(pixels: np.ndarray) -> np.ndarray:
    """Multiply the colours of (N, 2 or 4) pixels by their alpha; where it is 0 they stay as they are."""
    alpha = pixels[:, -1:].astype(np.uint32)
    most = np.uint32(np.iinfo(pixels.dtype).max)
    colours = np.where(alpha > 0, (pixels[:, :-1] * alpha + most // 2) // most, pixels[:, :-1])
    return np.concatenate([colours.astype(pixels.dtype), pixels[:, -1:]], axis=1)


def largest_size(first: Directory) -> tuple[int, int]:
    """Return the (width, height) of a page, or of its tiles where one has more pixels: a decoder holds all of a tile.

    Raises ImagingError `truncated_image` where a tile's size is of a type that no writer gives it, but decoders read.
    """
    sides = [entry.type for entry in first.entries if entry.tag in (TILE_WIDTH, TILE_HEIGHT)]
    if not set(sides) <= {SHORT, LONG, LONG8}:
        raise truncated_image("TIFF")
    page, tile = ((first.number(w, 0), first.number(h, 0)) for w, h in ((WIDTH, HEIGHT), (TILE_WIDTH, TILE_HEIGHT)))
    return page if page[0] * page[1] >= tile[0] * tile[1] or not all(page) else tile


def check_strips(data: bytes, first: Directory) -> None:
    """Raise ImagingError `truncated_image` when strips or tiles lie outside the file, or are more than there can be."""
    rows = first.number(HEIGHT, 0) * max(1, first.number(SAMPLES, 1))
    most_tiles = rows * max(1, first.number(WIDTH, 0)) // 64 + 64  # the smallest tiles there are have 8 x 8 pixels
    for offsets, sizes, most in ((STRIP_OFFSETS, STRIP_BYTES, rows), (TILE_OFFSETS, TILE_BYTES, most_tiles)):
        at, size = first.array(offsets), first.array(sizes)
        shared = min(len(at), len(size))
        ends = at[:shared].astype(np.uint64) + size[:shared].astype(np.uint64)
        if max(len(at), len(size)) > most or (ends > len(data)).any():
            raise truncated_image("TIFF")


def bare(data: bytes, first: Directory) -> bytes:
    """Return the file with only what a decoder needs of its first page, for a decoder."""
    long_lists = {e.tag for e in first.entries if e.tag in SHORT_LIST_TAGS and e.count > MAX_SAMPLES}
    return tiff_tags.with_tags(data, first, PIXEL_TAGS - long_lists)


def bare_for_pillow(data: bytes, first: Directory) -> bytes:
    """Return `bare` with an alpha called plain: Pillow would divide colours by it, and reads no grey with another."""
    plain = bytearray(bare(data, first))
    entry = next((e for e in tiff_tags.read_directory(bytes(plain)).entries if e.tag == EXTRA_SAMPLES), None)
    if entry is not None and entry.type == SHORT and is_associated(first, first.number(SAMPLES, 1)):
        struct.pack_into(first.order + "H", plain, entry.value_at, PLAIN_ALPHA)
    return bytes(plain)


def decode_deep(data: bytes, first: Directory) -> np.ndarray:
    """Decode 16-bit grey or RGB, with or without alpha, to (H, W, C) uint16, not turned upright."""
    samples = first.number(SAMPLES, 1)
    data = bare(data, first)
    if samples > 1 and first.number(PLANAR, 1) == 2:
        pixels = np.concatenate([_read(_plane(data, first, k, samples)) for k in range(samples)], axis=2)
    elif samples == 2:
        pixels = _read_pairs(data, first)
    else:
        pixels = _read(data)
        if samples >= 3:
            pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    if pixels.shape[2] != samples:
        raise not_an_image("this kind of 16-bit TIFF is not supported")
    if first.number(PHOTOMETRIC, 1) == 0:  # white is zero
        pixels = np.concatenate([65535 - pixels[..., :1], pixels[..., 1:]], axis=2)
    if samples == 4 and not first.number(EXTRA_SAMPLES, 0):
        pixels = pixels[..., :3]  # a fourth channel of no stated meaning
    return np.ascontiguousarray(pixels)


def _read(data: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise truncated_image("TIFF")
    return np.atleast_3d(pixels)


def _redirected(data: bytes, first: Directory, *changes: Entry) -> bytes:
    """Return a little-endian classic TIFF with its pixels described otherwise; others are refused."""
    if first.order != "<" or data[2] != 42:
        raise not_an_image("this kind of 16-bit TIFF is not supported")
    entries = {entry.tag: entry for entry in first.entries if entry.tag in PIXEL_TAGS} | {
        entry.tag: entry for entry in changes
    }
    return tiff_tags.with_directory(data, tuple(entries.values()))


def _plane(data: bytes, first: Directory, plane: int, planes: int) -> bytes:
    changes = [
        entry_of_numbers(BITS, SHORT, 16),
        entry_of_numbers(SAMPLES, SHORT, 1),
        entry_of_numbers(PHOTOMETRIC, SHORT, 1),
    ]
    changes += [entry_of_numbers(PLANAR, SHORT, 1), entry_of_numbers(SAMPLE_FORMAT, SHORT, 1)]
    for tag in (STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES):
        values = first.array(tag)
        if len(values):
            share = len(values) // planes
            changes.append(entry_of_numbers(tag, LONG, *values[plane * share : (plane + 1) * share].tolist()))
    return _redirected(
        data, replace(first, entries=tuple(e for e in first.entries if e.tag != EXTRA_SAMPLES)), *changes
    )


def _read_pairs(data: bytes, first: Directory) -> np.ndarray:
    """Read (grey, alpha) pairs as one grey picture of twice the width; the predictor is undone here, pair by pair."""
    if first.numbers(TILE_OFFSETS):
        raise not_an_image("tiled 16-bit grey TIFF with transparency is not supported")
    width, height = first.number(WIDTH, 0), first.number(HEIGHT, 0)
    changes = [
        entry_of_numbers(BITS, SHORT, 16),
        entry_of_numbers(SAMPLES, SHORT, 1),
        entry_of_numbers(PREDICTOR, SHORT, 1),
    ]
    changes += [
        entry_of_numbers(WIDTH, LONG, 2 * width),
        entry_of_numbers(PHOTOMETRIC, SHORT, 1),
        entry_of_numbers(SAMPLE_FORMAT, SHORT, 1),
    ]
    bare = replace(first, entries=tuple(e for e in first.entries if e.tag != EXTRA_SAMPLES))
    pairs = _read(_redirected(data, bare, *changes)).reshape(height, width, 2)
    return np.cumsum(pairs, axis=1, dtype=np.uint16) if first.number(PREDICTOR, 1) == 2 else pairs


def encode(pixels: np.ndarray, settings: TiffSettings | None, *, cmyk: bool = False) -> bytes:
    """Encode (H, W, C) uint8 or uint16 to a little-endian TIFF without metadata; inks when `cmyk`."""
    wanted = settings.compression if settings else ADOBE_DEFLATE
    wanted = {DEFLATE: ADOBE_DEFLATE}.get(wanted, wanted)
    if wanted not in PILLOW_NAMES:
        wanted = ADOBE_DEFLATE  # fax codes are for one bit; the rest are not in every build of the libraries
    deep, channels = pixels.dtype == np.uint16, pixels.shape[2]
    if deep and channels == 2:
        return _deflated(pixels)
    if deep:
        order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
        compression = ADOBE_DEFLATE if wanted == JPEG else wanted
        done, data = cv2.imencode(
            ".tiff", np.ascontiguousarray(pixels[..., order]), (cv2.IMWRITE_TIFF_COMPRESSION, compression)
        )
        assert done, "OpenCV encodes every uint16 array"
        return data.tobytes()
    if wanted == JPEG and channels in (2, 4) and not cmyk:
        wanted = ADOBE_DEFLATE  # JPEG would change the alpha channel
    mode = "CMYK" if cmyk else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    picture = Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), np.ascontiguousarray(pixels).tobytes())
    file = BytesIO()
    options = (
        {"quality": 95} if wanted == JPEG else {"tiffinfo": {PREDICTOR: 2}} if wanted in (LZW, ADOBE_DEFLATE) else {}
    )
    picture.save(file, "TIFF", compression=PILLOW_NAMES[wanted], **options)
    return file.getvalue()


def _deflated(pixels: np.ndarray) -> bytes:
    """Encode 16-bit grey + alpha as one Deflate strip with horizontal differences."""
    height, width, channels = pixels.shape
    differences = np.diff(pixels, axis=1, prepend=np.zeros_like(pixels[:, :1])).astype("<u2")
    strip = zlib.compress(differences.tobytes(), 6)
    entries = (
        entry_of_numbers(WIDTH, LONG, width),
        entry_of_numbers(HEIGHT, LONG, height),
        entry_of_numbers(BITS, SHORT, *[16] * channels),
        entry_of_numbers(COMPRESSION, SHORT, ADOBE_DEFLATE),
        entry_of_numbers(PHOTOMETRIC, SHORT, 1),
        entry_of_numbers(STRIP_OFFSETS, LONG, 8),
        entry_of_numbers(SAMPLES, SHORT, channels),
        entry_of_numbers(ROWS_PER_STRIP, LONG, height),
        entry_of_numbers(STRIP_BYTES, LONG, len(strip)),
        entry_of_numbers(PREDICTOR, SHORT, 2),
    )
    return tiff_tags.with_directory(b"II*\0" + bytes(4) + strip, entries)


def with_metadata(
    data: bytes,
    *,
    exif: bytes | None,
    xmp: bytes | None,
    icc: bytes | None,
    iptc: bytes | None,
    dpi: tuple[float, float] | None,
    alpha_kind: int | None,
) -> bytes:
    """Return a TIFF of `encode` with metadata in its directory; `alpha_kind` 1 or 2 says what the last channel is."""
    entries = {entry.tag: entry for entry in tiff_tags.read_directory(data).entries if entry.tag not in RESOLUTION_TAGS}
    if exif:
        try:
            block = tiff_tags.read_directory(exif)
            wanted = tuple(e for e in block.entries if e.tag in DESCRIPTIVE_TAGS)
            described = tiff_tags.little_endian(wanted, block.order)
            entries |= {entry.tag: entry for entry in described}
        except ValueError:
            pass  # EXIF that cannot be read cannot be moved into a TIFF either
    entries[ORIENTATION] = entry_of_numbers(ORIENTATION, SHORT, 1)
    for tag, blob in ((XMP, xmp), (PHOTOSHOP, iptc), (ICC, icc)):
        if blob:
            entries[tag] = entry_of_bytes(tag, blob)
    if dpi:
        for tag, value in ((0x011A, dpi[0]), (0x011B, dpi[1])):
            entries[tag] = Entry(tag, 5, 1, struct.pack("<II", round(value * 1000), 1000))
        entries[0x0128] = entry_of_numbers(0x0128, SHORT, 2)
    if alpha_kind is not None:
        entries[EXTRA_SAMPLES] = entry_of_numbers(EXTRA_SAMPLES, SHORT, alpha_kind)
    return tiff_tags.with_directory(data, tuple(entries.values()))
