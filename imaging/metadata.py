"""Metadata made true for the upright, repaired picture: EXIF, XMP and IPTC.

What would show the picture as it was before the repair (thumbnails, previews) is removed, whatever tag it hides in,
and the orientation that has been applied to the pixels is reset. EXIF is patched in place, because makers' notes hold
offsets that break when they are moved. What cannot be understood is dropped; what is too much raises OverBudgetError,
and the caller says so.
"""

import re
import struct
from collections.abc import Iterator

from imaging import tiff_tags
from imaging.tiff_tags import Entry

ORIENTATION = 0x0112
MAX_PROFILE_BYTES = 16 << 20  # of one blob of metadata
MAX_RESOURCES = 10_000
MAX_VALUE_BYTES = 200  # of an XMP property that is looked at
THUMBNAIL_AT, THUMBNAIL_BYTES = 0x0201, 0x0202  # of a JPEG; a thumbnail in strips has these two instead:
THUMBNAIL_STRIP_OFFSETS, THUMBNAIL_STRIP_BYTES = 0x0111, 0x0117
WIDTH_TAGS, HEIGHT_TAGS = (0x0100, 0xA002), (0x0101, 0xA003)
# Tags that describe the picture and not the way its pixels are stored: description, make, model, software, date,
# artist, host, copyright, rating, the Windows title/comment/author/keywords/subject, the sub-directories, and where on
# the earth it lies (GeoTIFF 1.1, and GDAL's remarks).
DESCRIPTIVE_TAGS = {
    *(0x010D, 0x010E, 0x010F, 0x0110, 0x011D, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298),
    *(0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F, tiff_tags.EXIF_IFD, tiff_tags.GPS_IFD),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),
}
X_RESOLUTION, Y_RESOLUTION, RATIONAL = 0x011A, 0x011B, 5
RESOLUTION_TAGS = {X_RESOLUTION, Y_RESOLUTION, 0x0128}
IPTC_RESOURCES = (0x0404, 0x040A, 0x040B)  # IPTC record, copyright flag, URL; the rest are previews and editor state
# Pointers to pictures and films appended to the file (gain maps, motion photos), which a re-encoded file no longer has.
FILM = re.compile(rb"""Camera:(?:MotionPhoto|MicroVideo)(?:\s*=\s*["']|>)\s*1\b""")
APPENDED_MEDIA = (b"hdrgm:", b"Container:Directory", b"GCamera:", b"apdi:")


def orientation_of(exif: bytes | None) -> int:
    """Return the EXIF orientation 1-8, 1 where there is none or it makes no sense."""
    try:
        value = tiff_tags.read_directory(exif or b"").number(ORIENTATION, 1)
    except ValueError:
        return 1
    return value if 1 <= value <= 8 else 1


def bare_exif(exif: bytes | None) -> bytes | None:
    r"""Return the TIFF block of an EXIF payload, without the `Exif\0\0` that some containers put before it."""
    if exif is None:
        return None
    block = exif.removeprefix(b"Exif\0\0")
    return block if block[:4] in (b"II*\0", b"MM\0*") else None


class OverBudgetError(ValueError):
    """Metadata that is too large, or made to cost time or memory, and is left out whole."""


def within_budget(blob: bytes | None) -> bytes | None:
    """Return a blob of metadata that is not too large; OverBudgetError for others."""
    if blob is not None and len(blob) > MAX_PROFILE_BYTES:
        raise OverBudgetError
    return blob


def clean_exif(exif: bytes | None, *, width_px: int, height_px: int, is_turned: bool = False) -> bytes | None:
    """Return the EXIF block for the upright picture: orientation 1, its size, no thumbnail, no embedded JPEG.

    Args:
        exif: a TIFF block, or None.
        width_px: of the upright picture.
        height_px: of the upright picture.
        is_turned: whether width and height were swapped for it, and with them the resolutions.

    Returns:
        A block of the same layout, None when it can't be read.

    Raises:
        OverBudgetError: it is too large, has too many tags, or tags whose values overlap by far.
    """
    if within_budget(exif) is None:
        return None
    assert exif is not None
    try:
        first = tiff_tags.read_directory(exif)
    except ValueError as error:
        if isinstance(error, tiff_tags.TooManyEntriesError):
            raise OverBudgetError from error
        return None
    entries = list(_all_entries(first.entries))
    # Values lie side by side in a block that a program wrote; a small block whose values add up to gigabytes is a trap
    # for whoever copies them.
    if value_bytes(first.entries) > len(exif):
        raise OverBudgetError
    block = bytearray(exif)
    end = max(first.end, first.children_end)
    for entry in entries:
        end = max(end, entry.value_at + len(entry.data))
        if entry.type in (tiff_tags.SHORT, tiff_tags.LONG) and entry.count == 1:
            code = first.order + ("H" if entry.type == tiff_tags.SHORT else "I")
            limit = 0xFFFF if entry.type == tiff_tags.SHORT else 0xFFFFFFFF
            for tags, value in (((ORIENTATION,), 1), (WIDTH_TAGS, width_px), (HEIGHT_TAGS, height_px)):
                if entry.tag in tags:
                    struct.pack_into(code, block, entry.value_at, min(value, limit))
    across, down = (_rational_at(first.entries, tag) for tag in (X_RESOLUTION, Y_RESOLUTION))
    if is_turned and across and down:
        block[across : across + 8], block[down : down + 8] = block[down : down + 8], block[across : across + 8]
    if first.next_at:
        struct.pack_into(first.order + "I", block, first.next_pointer_at, 0)
        _blank_thumbnail(block, first.next_at)
        # The thumbnail is normally the last thing in the block, so cutting here gives its bytes back.
        del block[end:]
    _blank_embedded_jpegs(block)
    return bytes(block)


def _rational_at(entries: tuple[Entry, ...], tag: int) -> int:
    """Return where the value of a tag of one rational number lies, 0 where there is none."""
    return next((e.value_at for e in entries if e.tag == tag and e.type == RATIONAL and e.count == 1), 0)


def _all_entries(entries: tuple[Entry, ...]) -> Iterator[Entry]:
    for entry in entries:
        yield entry
        if entry.children is not None:
            yield from _all_entries(entry.children)


def value_bytes(entries: tuple[Entry, ...]) -> int:
    """Return how many bytes the values of all entries, sub-directories included, add up to."""
    return sum(len(entry.data) for entry in _all_entries(entries))


def _blank_thumbnail(block: bytearray, directory_at: int) -> None:
    try:
        thumbnail = tiff_tags.read_directory(bytes(block), directory_at)
    except ValueError:
        return
    start, size = thumbnail.number(THUMBNAIL_AT, 0), thumbnail.number(THUMBNAIL_BYTES, 0)
    offsets, sizes = thumbnail.numbers(THUMBNAIL_STRIP_OFFSETS), thumbnail.numbers(THUMBNAIL_STRIP_BYTES)
    for at, length in [(start, size), *zip(offsets, sizes, strict=False)]:
        length = max(0, min(length, len(block) - at))
        if at > 8:
            block[at : at + length] = bytes(length)


def _blank_embedded_jpegs(block: bytearray) -> None:
    """Overwrite whole JPEG streams, as makers' notes and odd tags keep previews of the unrepaired picture."""
    start = block.find(b"\xff\xd8\xff")
    while start >= 0:
        stop = block.find(b"\xff\xd9", start)
        stop = len(block) if stop < 0 else stop + 2
        block[start:stop] = bytes(stop - start)
        start = block.find(b"\xff\xd8\xff", stop)


def has_film(xmp: bytes | None) -> bool:
    """Say whether an XMP packet tells of a film behind the photo, as phones take one with each."""
    return xmp is not None and len(xmp) <= MAX_PROFILE_BYTES and FILM.search(xmp) is not None


def clean_xmp(xmp: bytes | None) -> bytes | None:
    """Return the XMP packet with orientation 1 and without thumbnails.

    Every step looks for fixed words from left to right, so that the time is in proportion to the size, whatever is in
    the packet.

    Args:
        xmp: the packet as the file has it, or None.

    Returns:
        The packet; None when it points at media that are gone, or is damaged.

    Raises:
        OverBudgetError: it is too large.
    """
    if not within_budget(xmp) or any(mark in xmp for mark in APPENDED_MEDIA):  # type: ignore[operator]
        return None
    assert xmp is not None
    for prefix in (b"xmp", b"xap"):
        without = _without_elements(xmp, prefix + b":Thumbnails")
        if without is None:
            return None
        xmp = without
    xmp = _with_values(xmp, b"tiff:Orientation", b"1")
    return _with_values(xmp, b"xmpNote:HasExtendedXMP", None)


def _without_elements(xmp: bytes, name: bytes) -> bytes | None:
    """Remove every element of a name with all that is in it; None when one does not end."""
    parts, at = [], 0
    while (start := xmp.find(b"<" + name, at)) >= 0:
        stop = xmp.find(b"</" + name + b">", start)
        if stop < 0:
            return None
        parts.append(xmp[at:start])
        at = stop + len(name) + 3
    return b"".join([*parts, xmp[at:]])


def _with_values(xmp: bytes, name: bytes, value: bytes | None) -> bytes:
    """Give a property another value wherever it stands, as attribute or element; None removes the attribute."""
    parts, at = [], 0
    while (start := xmp.find(name, at)) >= 0:
        stop = start + len(name)
        near = xmp[stop : stop + MAX_VALUE_BYTES]  # no longer look, or many names would each look far
        after = near.lstrip()
        if after[:1] == b"=" and (quoted := after[1:].lstrip())[:1] in (b'"', b"'"):
            value_at = stop + len(near) - len(quoted) + 1
            value_end = xmp.find(quoted[:1], value_at, value_at + MAX_VALUE_BYTES)
            if value_end >= 0:
                parts += [xmp[at:start]] if value is None else [xmp[at:value_at], value]
                at = value_end + (1 if value is None else 0)
                continue
        elif near[:1] == b">" and value is not None:
            value_end = xmp.find(b"<", stop, stop + MAX_VALUE_BYTES)
            if value_end >= 0 and xmp[stop + 1 : value_end].strip().isdigit():
                parts += [xmp[at : stop + 1], value]
                at = value_end
                continue
        parts.append(xmp[at:stop])
        at = stop
    return b"".join([*parts, xmp[at:]])


def clean_iptc(resources: bytes | None) -> bytes | None:
    """Return Photoshop image resources reduced to captions, keywords and copyright (previews live beside them)."""
    kept, at = bytearray(), 0
    resources = within_budget(resources) or b""
    count = 0
    while resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        count += 1
        if count > MAX_RESOURCES:
            raise OverBudgetError
        (kind,) = struct.unpack_from(">H", resources, at + 4)
        name_bytes = 1 + resources[at + 6]
        body = at + 6 + name_bytes + name_bytes % 2
        if body + 4 > len(resources):
            break
        (size,) = struct.unpack_from(">I", resources, body)
        data = resources[body + 4 : body + 4 + size]
        if kind in IPTC_RESOURCES and len(data) == size:
            kept += b"8BIM" + struct.pack(">HHI", kind, 0, size) + data + b"\0" * (size % 2)
        at = body + 4 + size + size % 2
    return bytes(kept) or None


def profile_for(icc: bytes | None, stored: str) -> bytes | None:
    """Return the ICC profile if it describes the colours that are written ("grey", "rgb", "cmyk"), else None."""
    space = {"grey": b"GRAY", "rgb": b"RGB ", "cmyk": b"CMYK"}[stored]
    return icc if icc and len(icc) <= MAX_PROFILE_BYTES and icc[16:20] == space else None


def plausible_dpi(dpi: object) -> tuple[float, float] | None:
    """Return a (horizontal, vertical) resolution in dots per inch if it is one, else None."""
    try:
        x, y = (float(value) for value in dpi)  # type: ignore[attr-defined]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None
    return (x, y) if 1 <= x < 65535 and 1 <= y < 65535 else None
