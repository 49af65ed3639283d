"""JPEG: how a file was encoded, and the same encoding again after its pixels have changed.

Pillow's `quality="keep"` refuses a changed picture, so tables and subsampling are carried by hand. Metadata is put in
front of the encoded picture here: Pillow would count it into a buffer that must hold the whole file.
"""

import functools
import itertools
import os
import re
import struct
import tempfile
from io import BytesIO
from typing import IO

import numpy as np
from PIL import Image, JpegImagePlugin

from imaging.errors import truncated_image
from imaging.photo import JpegSettings

MAX_SEGMENT_BYTES = 65533
XMP_KEY = b"http://ns.adobe.com/xap/1.0/\0"
ICC_KEY = b"ICC_PROFILE\0"
IPTC_KEY = b"Photoshop 3.0\0"
EXIF_KEY = b"Exif\0\0"
APP1, APP2, APP13, COMMENT = 0xE1, 0xE2, 0xED, 0xFE
START_OF_SCAN, END_OF_IMAGE, HUFFMAN_TABLES = 0xDA, 0xD9, 0xC4
FRAMES = (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB)
JPEG_LS = 0xF7
UNREAD_FRAMES = (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF, JPEG_LS)
MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # in scans, FF is followed by 00 or by a restart, D0-D7
DEFAULT_QUALITY = 92
COARSE_COLOURS_UP_TO = 95
MAX_SEGMENTS = 20_000
MOST_HUFFMAN_TABLES = 8  # in front of a scan: four for DC, four for AC
MAX_METADATA_SEGMENTS = 2000  # 128 MB of profile in full segments
MAX_METADATA_BYTES = 16 << 20
MAX_CANDIDATES = 1000
PICTURES_OF_INDEX, PREVIEW = 0xB002, 1  # the tag of the list, and the class of those that show the first one smaller
MOST_INDEX_FIELDS, MOST_PICTURES = 32, 1000
MAX_MARKERS = 200_000
FILL = re.compile(rb"\xff+")  # any number may stand before a marker
LONG_FILL = b"\xff" * 65_536  # more than a segment can hold
LONG_FILLS = re.compile(LONG_FILL + rb"\xff*")
MAX_FILL_BYTES = 65_536  # in front of the first scan
MOST_PROFILE_TAGS = 100  # of which lcms reads a profile at all
CHAIN_TAG = re.compile(rb"D2B[0-3]|B2D[0-3]")
# Quantisation and Huffman tables, restart interval and start of frame: what a picture begins with.
PICTURE_SEGMENT = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcb\xcd-\xcf\xdb\xdd]\x00|\xff\xc4[\x00\x01]")


def settings_of(picture: JpegImagePlugin.JpegImageFile, data: bytes) -> JpegSettings:
    """Read from an opened JPEG, and the file it was opened from, how it was encoded."""
    layers = [(h, v, table) for _, h, v, table in picture.layer]
    tables = [tuple(picture.quantization[table]) for _, _, table in layers if table in picture.quantization]
    chroma_share = min((h * v for h, v, _ in layers), default=1) / max((h * v for h, v, _ in layers), default=1)
    halved_rows = len({v for _, v, _ in layers}) > 1
    # 4:4:0 and other rare kinds become the next finer one that the encoder has.
    subsampling = 0 if chroma_share > 0.5 or (chroma_share == 0.5 and halved_rows) else 1 if chroma_share == 0.5 else 2
    ids = [ident for ident, _, _, _ in picture.layer]
    transform = picture.info.get("adobe_transform")
    keep_rgb = len(layers) == 3 and (transform == 0 or (transform is None and ids == [82, 71, 66]))
    if len(layers) == 4 and transform == 2:
        tables = tables[:1]  # YCCK comes back as plain CMYK, where the chroma tables would be too coarse
    elif len(layers) == 3 and tables[1:2] == tables[2:3]:
        tables = tables[:2]
    comments = tuple(data for name, data in picture.applist if name == "COM")
    progressive = bool(picture.info.get("progressive"))
    optimized = not _huffman_tables(data) <= _usual_huffman_tables()
    return JpegSettings(tuple(tables), subsampling, progressive, keep_rgb, comments, optimized)


def _huffman_tables(data: bytes) -> set[bytes]:
    """Return the Huffman tables in front of a JPEG's first scan: kind and number, 16 counts, and the symbols."""
    tables: set[bytes] = set()
    at, read = 2, 0
    for _ in range(MAX_SEGMENTS):
        if (segment := segment_at(data, at)) is None or segment[0] == START_OF_SCAN:
            break
        kind, stop = segment
        if kind == HUFFMAN_TABLES:
            start = data.index(HUFFMAN_TABLES, at) + 3
            while stop - start >= 17:
                if (read := read + 1) > MOST_HUFFMAN_TABLES:
                    return tables
                size = 17 + sum(data[start + 1 : start + 17])
                tables.add(data[start : min(start + size, stop)])
                start += size
        at = stop
    return tables


@functools.cache
def _usual_huffman_tables() -> frozenset[bytes]:
    """Return the tables of ITU-T T.81, annex K, which cameras and encoders use unless told otherwise."""
    return frozenset(_huffman_tables(save(Image.new("RGB", (16, 16)), {"quality": DEFAULT_QUALITY})))


def without_excess(data: bytes) -> tuple[bytes, bool]:
    """Leave metadata and fill bytes out of a JPEG that has far more of them than files have.

    Pillow goes over every segment and fill byte in Python and joins segments of one kind piece by piece, and begins
    anew with all fill bytes in the picture for each piece that it reads: minutes for a hundred megabytes of either.

    Args:
        data: the file.

    Returns:
        The file, the very same bytes unless there is too much, and whether metadata was left out.

    Raises:
        ImagingError: `truncated_image` when the picture's own segments can't be found among the others.
    """
    if LONG_FILL in data:
        data = LONG_FILLS.sub(b"\xff", data)
    kept, left_out = [data[:2]], False
    at, metadata_bytes, fill_bytes = 2, 0, 0
    for number in range(MAX_SEGMENTS):
        begin, at = at, _without_fill(data, at)
        fill_bytes += at - begin
        if (segment := segment_at(data, at)) is None:
            return data, False  # damaged: the decoder says how
        kind, stop = segment
        is_metadata = kind == COMMENT or 0xE0 <= kind <= 0xEF
        metadata_bytes += stop - at if is_metadata else 0
        if is_metadata and (number >= MAX_METADATA_SEGMENTS or metadata_bytes > MAX_METADATA_BYTES):
            left_out = True
        else:
            kept.append(data[at:stop])
        at = stop
        if kind == START_OF_SCAN:
            is_too_much = left_out or fill_bytes > MAX_FILL_BYTES
            return b"".join([*kept, data[at:]]) if is_too_much else data, left_out
    for candidate in itertools.islice(PICTURE_SEGMENT.finditer(data, at), MAX_CANDIDATES):
        if _leads_to_scan(data, candidate.start()):
            return b"".join([*kept, data[candidate.start() :]]), True
    raise truncated_image("JPEG")


def segment_at(data: bytes, at: int) -> tuple[int, int] | None:
    """Return the kind of the segment at an offset and where it ends, None where there is none."""
    at = _without_fill(data, at)
    if at + 4 > len(data) or data[at] != 0xFF:
        return None
    return data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")


def _without_fill(data: bytes, at: int) -> int:
    """Return where the last fill byte in a row lies, the marker's own; the same place for none."""
    fill = FILL.match(data, at)
    return fill.end() - 1 if fill else at


def _leads_to_scan(data: bytes, at: int) -> bool:
    for _ in range(MAX_METADATA_SEGMENTS):
        segment = segment_at(data, at)
        if segment is None:
            return False
        kind, at = segment
        if kind == START_OF_SCAN:
            return True
    return False


def why_unreadable(data: bytes) -> str:
    """Name the coding of a JPEG that no decoder here reads, or return an empty string."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        if (segment := segment_at(data, at)) is None or segment[0] == START_OF_SCAN:
            break
        kind, stop = segment
        if kind in UNREAD_FRAMES:
            name = "JPEG-LS" if kind == JPEG_LS else "a hierarchical JPEG"
            return f"it is {name}, which is not supported. Save it as an ordinary JPEG or as PNG"
        if kind in FRAMES:
            bits = data[data.index(kind, at) + 3]
            if 8 < bits <= 16:
                return f"this JPEG holds {bits} bits per channel. Save it with 8, or as PNG or TIFF"
            break
        at = stop
    return ""


def scan_count(data: bytes) -> int:
    """Count the scans up to the end-of-image marker; films and pictures appended behind it do not count.

    A file with more markers than any encoder writes counts as one with that many scans.
    """
    scans, at, markers = 0, 2, 0
    while marker := MARKER.search(data, at):
        markers += 1
        if markers > MAX_MARKERS:
            return MAX_MARKERS
        kind, at = data[marker.start() + 1], marker.end()
        if kind == END_OF_IMAGE:
            break
        scans += kind == START_OF_SCAN
        if kind not in (0x01, 0xD8):
            at += int.from_bytes(data[at : at + 2], "big")
    return scans


def claims_too_much(data: bytes, picture: JpegImagePlugin.JpegImageFile) -> bool:
    """Say whether the header claims more blocks than the file can hold: the decoder would fill the rest with grey.

    A block of 8 x 8 costs at least one bit, the code of its DC value (ITU-T T.81, F.1.2).
    """
    shares = [h * v for _, h, v, _ in picture.layer]
    blocks = picture.width * picture.height / 64 * sum(shares) / max(shares, default=1)
    return 8 * len(data) < blocks and not any(mark in data for mark in (b"\xff\xc9\0", b"\xff\xca\0"))  # arithmetic


def iptc_of(picture: JpegImagePlugin.JpegImageFile) -> bytes | None:
    """Return the Photoshop image resources of an opened JPEG, its segments joined."""
    parts = [data for name, data in picture.applist if name == "APP13"]
    return b"".join(part.removeprefix(IPTC_KEY) for part in parts if part.startswith(IPTC_KEY)) or None


def pictures_in(picture: JpegImagePlugin.JpegImageFile) -> int:
    """Return how many pictures an opened JPEG says that its file holds, previews of the first one not counted.

    Others are a second eye, parts of a panorama, or what a screen with high dynamic range adds. Their list is that of
    CIPA DC-007; one that can't be read counts as a list of one.
    """
    index = picture.info.get("mp", b"")
    # By hand: Pillow's directory asks for what a damaged one says it holds.
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(index[:4])
    if order is None or len(index) > MAX_SEGMENT_BYTES:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}L", index, 4)
        (fields,) = struct.unpack_from(f"{order}H", index, at)
        for n in range(min(fields, MOST_INDEX_FIELDS)):
            tag, _, size, where = struct.unpack_from(f"{order}HHLL", index, at + 2 + 12 * n)
            if tag == PICTURES_OF_INDEX:
                kinds = [
                    struct.unpack_from(f"{order}L", index, where + 16 * entry)[0] & 0xFFFFFF
                    for entry in range(min(size // 16, MOST_PICTURES))
                ]
                return 1 + sum(kind >> 16 != PREVIEW for kind in kinds[1:])
    except struct.error:
        pass  # it is damaged, and the first picture may not be
    return 1


def encode(
    picture: Image.Image,
    settings: JpegSettings | None,
    dpi: tuple[float, float] | None,
    *,
    quality: int | None = None,
) -> bytes:
    """Encode an L, RGB or CMYK picture with these settings, or at a quality with 4:2:0; no metadata but DPI.

    The colours of a quality above 95 are as fine as the brightness (4:4:4).
    """
    options: dict[str, object] = {"dpi": dpi} if dpi else {}
    if settings is None or not settings.tables:
        quality = DEFAULT_QUALITY if quality is None else quality
        subsampling = 0 if quality > COARSE_COLOURS_UP_TO else 2
        options |= {"quality": quality, "subsampling": subsampling if picture.mode == "RGB" else -1}
    else:
        tables = settings.tables if picture.mode != "L" else settings.tables[:1]
        options["qtables"] = [list(table) for table in tables]
        if picture.mode == "RGB":
            options |= {"subsampling": settings.subsampling, "keep_rgb": settings.keep_rgb}
    progressive = settings is not None and settings.progressive
    if settings is not None and not (settings.optimized or progressive):
        return save(picture, options)
    try:
        return save(picture, options | {"optimize": True, "progressive": progressive})
    except OSError:
        # Pillow guesses the buffer that these two need; noise at a high quality does not fit. Without them it streams.
        return save(picture, options)


def save(picture: Image.Image, options: dict[str, object]) -> bytes:
    """Encode a picture with Pillow's options for JPEG, and let other threads run meanwhile."""
    # Pillow encodes into a file with a descriptor without the interpreter's lock, into any other while it holds it:
    # 80 ms for 4 megapixels, in which nobody else in the process is served.
    with _file_in_memory() as file:
        picture.save(file, "JPEG", **options)
        file.seek(0)
        return file.read()


def _file_in_memory() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("jpeg"), "w+b")
    return tempfile.TemporaryFile()


def with_metadata(
    data: bytes,
    *,
    exif: bytes | None = None,
    xmp: bytes | None = None,
    icc: bytes | None = None,
    iptc: bytes | None = None,
    comments: tuple[bytes, ...] = (),
) -> bytes:
    """Return the JPEG with metadata segments after its first one; what is too long for a segment is left out."""
    segments = []
    if exif:
        segments.append((APP1, EXIF_KEY + exif))
    if xmp:
        segments.append((APP1, XMP_KEY + xmp))
    if iptc:
        segments.append((APP13, IPTC_KEY + iptc))
    room = MAX_SEGMENT_BYTES - len(ICC_KEY) - 2
    parts = [icc[at : at + room] for at in range(0, len(icc), room)] if icc else []
    if len(parts) < 256:
        segments += [(APP2, ICC_KEY + bytes([i + 1, len(parts)]) + part) for i, part in enumerate(parts)]
    segments += [(COMMENT, comment) for comment in comments]
    extra = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload
        for marker, payload in segments
        if len(payload) <= MAX_SEGMENT_BYTES
    )
    after_jfif = 2 + (2 + struct.unpack_from(">H", data, 4)[0] if data[2:4] == b"\xff\xe0" else 0)
    return data[:after_jfif] + extra + data[after_jfif:]


def cmyk_to_rgb(inks: np.ndarray, icc: bytes | None) -> np.ndarray:
    """Return (H, W, 3) uint8 for inks (H, W, 4) uint8, through the file's profile when it has a usable one."""
    return _convert_inks(Image.fromarray(inks, "CMYK"), icc, "RGB")


def rgb_to_cmyk(colours: np.ndarray, icc: bytes | None) -> np.ndarray:
    """Return inks (H, W, 4) uint8 for colours (H, W, 3) uint8: the approximate inverse of `cmyk_to_rgb`."""
    return _convert_inks(Image.fromarray(colours), icc, "CMYK")


def _tables_of(icc: bytes) -> bytes:
    """Return a profile without its chains of elements (multiProcessElementsType), which few programs read.

    They may be as long as the file and are gone through for each colour: 41 kB took a core for half a minute.
    """
    plain = bytearray(icc)
    count = min(int.from_bytes(icc[128:132], "big"), MOST_PROFILE_TAGS)
    for at in range(132, min(132 + 12 * count, len(icc) - 3), 12):
        if CHAIN_TAG.match(icc, at):
            plain[at : at + 1] = b"x"  # no name that is looked for, and no other's
    return bytes(plain)


def _convert_inks(picture: Image.Image, icc: bytes | None, mode: str) -> np.ndarray:
    from PIL import ImageCms  # loads a shared library that few photos need

    if icc:
        try:
            inks, srgb = ImageCms.ImageCmsProfile(BytesIO(_tables_of(icc))), ImageCms.createProfile("sRGB")
            pair = (inks, srgb) if mode == "RGB" else (srgb, inks)
            converted = ImageCms.profileToProfile(picture, pair[0], pair[1], outputMode=mode)
            return np.array(converted)
        except (ImageCms.PyCMSError, OSError, ValueError):
            pass  # a damaged profile: fall through to the plain formula, as viewers without colour management do
    return np.array(picture.convert(mode))
