"""The pages of a TIFF: how many there are, one of them put first, and several files joined to one of several pages.

Bytes in, bytes out. Thumbnails, which say of themselves that they are a reduced picture, are no pages.
"""

import struct
from collections.abc import Iterator, Sequence

import numpy as np

from imaging import tiff_tags
from imaging.tiff_tags import LONG, Directory, entry_of_numbers

NEW_SUBFILE_TYPE, COMPRESSION, OLD_JPEG = 254, 259, 6
PIECES = ((273, 279), (324, 325))  # offsets and sizes of strips, and of tiles
POINTERS = (330, 513)  # to further pictures in the file, which are not taken along
MOST_PAGES = 1000
MAX_BYTES = (1 << 32) - 1  # of a classic TIFF, whose offsets have 32 bits


def page_offsets(data: bytes, first: Directory) -> list[int]:
    """List where the pages' directories lie, the first page's included.

    Args:
        data: the file.
        first: its first directory.

    Returns:
        Offsets in the file, at most 1000.
    """
    return [_first_offset(data), *(at for at, _ in _further_pages(data, first))]


def count_pages(data: bytes) -> int:
    """Return how many pages a file has, at most 1000; 1 for what is no TIFF."""
    try:
        return len(page_offsets(data, tiff_tags.read_directory(data)))
    except ValueError:
        return 1


def page_of(data: bytes, page: int) -> bytes:
    """Return a file whose first page is another one of it, counted from 1, without those before it.

    Args:
        data: the file; anything but a TIFF has one page.
        page: up to `count_pages`.

    Returns:
        A file of the same size.
    """
    if page == 1:
        return data
    offsets = page_offsets(data, tiff_tags.read_directory(data))
    is_big = _is_big(data)
    word = ("<" if data[:2] == b"II" else ">") + ("Q" if is_big else "I")
    at = 8 if is_big else 4
    return data[:at] + struct.pack(word, offsets[page - 1]) + data[at + struct.calcsize(word) :]


def can_join(data: bytes) -> bool:
    """Say whether the first page of a TIFF can be taken into another file as it is, with nothing decoded.

    Args:
        data: the file.

    Returns:
        Whether it is one for `join_pages`.
    """
    if not data.startswith(b"II*\0"):
        return False
    try:
        page = tiff_tags.read_directory(data)
    except ValueError:
        return False
    pieces = [(page.array(at), page.array(size)) for at, size in PIECES]
    are_whole = all(
        len(at) == len(size) and (at.astype(np.uint64) + size.astype(np.uint64) <= len(data)).all()
        for at, size in pieces
    )
    return are_whole and sum(len(at) for at, _ in pieces) > 0 and page.number(COMPRESSION, 1) != OLD_JPEG


def join_pages(files: Sequence[bytes]) -> bytes:
    """Return one file of several pages.

    Args:
        files: TIFFs whose first pages are taken, as `tiff.encode` writes them or such that `can_join` is true.

    Returns:
        A classic TIFF with the pages in this order.

    Raises:
        ValueError: the pages are too large for one file.
    """
    joined = bytearray(b"II*\0" + bytes(4))
    pointer_at = 4
    for data in files:
        page = tiff_tags.read_directory(data)
        entries = {entry.tag: entry for entry in page.entries if entry.tag not in POINTERS}
        for offsets_tag, sizes_tag in PIECES:
            offsets = []
            for at, size in zip(page.array(offsets_tag).tolist(), page.array(sizes_tag).tolist(), strict=True):
                offsets.append(len(joined))
                joined += data[at : at + size]
                joined += bytes(len(joined) % 2)
            if offsets:
                entries[offsets_tag] = entry_of_numbers(offsets_tag, LONG, *offsets)
        if len(joined) > MAX_BYTES:
            raise ValueError("the pages are larger than 4 GiB together")
        struct.pack_into("<I", joined, pointer_at, len(joined))
        directory = tiff_tags.pack_directory(tuple(entries.values()), len(joined))
        (count,) = struct.unpack_from("<H", directory)
        pointer_at = len(joined) + 2 + 12 * count
        joined += directory
        joined += bytes(len(joined) % 2)
    return bytes(joined)


def _further_pages(data: bytes, first: Directory) -> Iterator[tuple[int, Directory]]:
    at, pages = first.next_at, 1
    visits = tiff_tags.Visits()
    while at and pages < MOST_PAGES:
        try:
            page = tiff_tags.read_directory(data, at, visits=visits)
        except ValueError:
            return
        if not page.number(NEW_SUBFILE_TYPE, 0) & 1:
            pages += 1
            yield at, page
        at = page.next_at


def _is_big(data: bytes) -> bool:
    return data[2:4] in (b"\x2b\0", b"\0\x2b")


def _first_offset(data: bytes) -> int:
    is_big = _is_big(data)
    word = ("<" if data[:2] == b"II" else ">") + ("Q" if is_big else "I")
    return int(struct.unpack_from(word, data, 8 if is_big else 4)[0])
