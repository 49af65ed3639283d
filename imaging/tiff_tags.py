"""TIFF directories, which are also what EXIF is made of: read entries, and write them elsewhere.

Bytes in, bytes out; classic TIFF and BigTIFF are read, classic is written. Knows nothing of pixels.
Source: TIFF 6.0, section 2; EXIF 2.32, section 4.6.
"""

import struct
from collections.abc import Container
from dataclasses import dataclass, replace

import numpy as np

EXIF_IFD, GPS_IFD, INTEROP_IFD = 34665, 34853, 40965
SUB_DIRECTORIES = (EXIF_IFD, GPS_IFD, INTEROP_IFD)
SHORT, LONG, UNDEFINED, LONG8 = 3, 4, 7, 16
TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
SWAP_BYTES = {5: 4, 10: 4}  # rationals are pairs of 4-byte numbers
NUMBER_CODES = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}
MAX_ENTRIES = 4096  # of one directory
MAX_ENTRIES_IN_ALL = 10_000  # of a block with all its sub-directories and pages
MAX_DEPTH = 3
MAX_NUMBERS = 1024  # that `numbers` unpacks; longer lists are read as arrays
SMALL_VALUE_BYTES = 64


class TooManyEntriesError(ValueError):
    """A block has more tags than are looked at."""


class Visits:
    """What was read of one block: every directory is read once, and only so many entries in all."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._offsets: set[int] = set()
        self._entries_left = MAX_ENTRIES_IN_ALL

    def enter(self, offset: int, entries: int) -> None:
        """Note that a directory is read; ValueError when it was before, TooManyEntriesError when it is too much."""
        if offset in self._offsets:
            raise ValueError("the directory was read before")
        self._offsets.add(offset)
        self._entries_left -= entries
        if entries > MAX_ENTRIES or self._entries_left < 0:
            raise TooManyEntriesError("too many entries")


@dataclass(frozen=True)
class Entry:
    """One tag.

    Attributes:
        tag: its number.
        type: the number of its type.
        count: how many values of that type it has.
        data: its value in the block's byte order; a view of the block unless it is small, so that tags that name the
            same bytes cost nothing.
        value_at: where the value lies in the block.
        children: the entries of the sub-directory that it points at.
        children_end: where their tables end, those of their children included.
    """

    tag: int
    type: int
    count: int
    data: bytes | memoryview
    value_at: int = 0
    children: tuple["Entry", ...] | None = None
    children_end: int = 0


@dataclass(frozen=True)
class Directory:
    """A directory's entries, the block's byte order ("<" or ">"), and where the next directory and its pointer lie."""

    entries: tuple[Entry, ...]
    order: str
    next_at: int
    next_pointer_at: int
    end: int

    def numbers(self, tag: int) -> tuple[int, ...]:
        """Return an integer tag's first values, empty when it is absent or no integer."""
        for entry in self.entries:
            if entry.tag == tag and entry.type in NUMBER_CODES:
                return tuple(int(value) for value in self.array(tag)[:MAX_NUMBERS])
        return ()

    def array(self, tag: int) -> np.ndarray:
        """Return an integer tag's values as (count,) unsigned integers, empty when it is absent or no integer."""
        for entry in self.entries:
            if entry.tag == tag and entry.type in NUMBER_CODES:
                return np.frombuffer(entry.data, np.dtype(self.order + NUMBER_CODES[entry.type]))
        return np.zeros(0, np.uint32)

    @property
    def children_end(self) -> int:
        """Where the tables of all sub-directories end."""
        return max((entry.children_end for entry in self.entries), default=0)

    def number(self, tag: int, default: int) -> int:
        """Return the first value of an integer tag, or `default`."""
        values = self.numbers(tag)
        return values[0] if values else default


def read_directory(
    block: bytes, offset: int | None = None, *, depth: int = 0, visits: Visits | None = None
) -> Directory:
    """Read the directory at `offset` (None: the first) of a TIFF block, sub-directories included.

    Tags whose value lies outside the block are left out, and so is a sub-directory that was read before.

    Args:
        block: the bytes; referred to by the entries.
        offset: where the directory lies; None = the first.
        depth: how many directories this one lies below.
        visits: what was read of the block before; None = nothing.

    Returns:
        The directory.

    Raises:
        ValueError: the block is no TIFF, ends too early, or the directory was read before.
        TooManyEntriesError: there are more tags than are looked at.
    """
    try:
        return _read_directory(block, offset, depth, visits or Visits())
    except (struct.error, OverflowError) as error:  # the latter at an offset that no file reaches, as BigTIFF can tell
        raise ValueError("the directory is cut off") from error


def _read_directory(block: bytes, offset: int | None, depth: int, visits: Visits) -> Directory:
    order = {b"II": "<", b"MM": ">"}.get(bytes(block[:2]))
    if order is None:
        raise ValueError("no byte order mark")
    (magic,) = struct.unpack_from(order + "H", block, 2)
    if magic not in (42, 43):
        raise ValueError("no TIFF")
    big = magic == 43
    word, width = (order + "Q", 8) if big else (order + "I", 4)
    if offset is None:
        (offset,) = struct.unpack_from(word, block, 8 if big else 4)
    counter = order + ("Q" if big else "H")
    (count,) = struct.unpack_from(counter, block, offset)
    visits.enter(offset, count)
    at = offset + struct.calcsize(counter)
    entries = []
    view = memoryview(block)
    for _ in range(count):
        tag, kind = struct.unpack_from(order + "HH", block, at)
        (values,) = struct.unpack_from(word, block, at + 4)
        size = TYPE_BYTES.get(kind, 0) * values
        value_at = at + 4 + width
        if size > width:
            (value_at,) = struct.unpack_from(word, block, value_at)
        at += 4 + 2 * width
        if size and value_at + size <= len(block):
            value = view[value_at : value_at + size]
            entry = Entry(tag, kind, values, bytes(value) if size <= SMALL_VALUE_BYTES else value, value_at)
            entries.append(_with_children(block, entry, order, depth, visits))
    (next_at,) = struct.unpack_from(word, block, at)
    return Directory(tuple(entries), order, next_at, at, at + width)


def _with_children(block: bytes, entry: Entry, order: str, depth: int, visits: Visits) -> Entry:
    if entry.tag not in SUB_DIRECTORIES or entry.type not in (LONG, 13) or depth >= MAX_DEPTH:
        return entry
    try:
        offset = struct.unpack(order + "I", entry.data[:4])[0]
        child = read_directory(block, offset, depth=depth + 1, visits=visits)
    except TooManyEntriesError:
        raise
    except ValueError:
        return entry
    return replace(entry, children=child.entries, children_end=max(child.end, child.children_end))


def entry_of_numbers(tag: int, kind: int, *values: int) -> Entry:
    """Make a little-endian entry of SHORT or LONG values."""
    return Entry(tag, kind, len(values), np.asarray(values, np.dtype(NUMBER_CODES[kind]).newbyteorder("<")).tobytes())


def entry_of_bytes(tag: int, data: bytes) -> Entry:
    """Make an UNDEFINED entry that holds `data`."""
    return Entry(tag, UNDEFINED, len(data), data)


def little_endian(entries: tuple[Entry, ...], order: str) -> tuple[Entry, ...]:
    """Return the entries with their values in little-endian order; UNDEFINED blobs are kept as they are."""
    if order == "<":
        return entries
    swapped = []
    for entry in entries:
        step = SWAP_BYTES.get(entry.type, TYPE_BYTES[entry.type])
        data = entry.data if step == 1 else np.frombuffer(entry.data, f">u{step}").astype(f"<u{step}").tobytes()
        children = None if entry.children is None else little_endian(entry.children, order)
        swapped.append(replace(entry, data=data, children=children))
    return tuple(swapped)


def pack_directory(entries: tuple[Entry, ...], at: int) -> bytes:
    """Lay little-endian entries out as a classic directory whose first byte will lie at offset `at` (even).

    Sub-directories follow it; a sub-directory tag that could not be read is left out.
    """
    kept = {e.tag: e for e in entries if e.tag not in SUB_DIRECTORIES or e.children is not None}
    ordered = [kept[tag] for tag in sorted(kept)]
    tail_at = at + 2 + 12 * len(ordered) + 4
    table, tail = bytearray(struct.pack("<H", len(ordered))), bytearray()
    for entry in ordered:
        here = tail_at + len(tail)
        if entry.children is not None:
            table += struct.pack("<HHII", entry.tag, LONG, 1, here)
            data = pack_directory(entry.children, here)
        elif len(entry.data) <= 4:
            table += struct.pack("<HHI", entry.tag, entry.type, entry.count) + bytes(entry.data).ljust(4, b"\0")
            continue
        else:
            table += struct.pack("<HHII", entry.tag, entry.type, entry.count, here)
            data = bytes(entry.data)
        tail += data + b"\0" * (len(data) % 2)
    return bytes(table + bytes(4) + tail)


def pack_block(entries: tuple[Entry, ...]) -> bytes:
    """Make a little-endian TIFF block that holds one directory, as EXIF is stored in other formats."""
    return b"II*\0" + struct.pack("<I", 8) + pack_directory(entries, 8)


def with_tags(block: bytes, first: Directory, kept: Container[int]) -> bytes:
    """Return a TIFF whose first directory has only some of its tags and is the last one; nothing else moves.

    Args:
        block: the file.
        first: its first directory.
        kept: the tags that stay.

    Returns:
        A file of the same size.
    """
    big = block[2:4] in (b"\x2b\0", b"\0\x2b")
    word, counter, size = (
        (first.order + "Q", first.order + "Q", 20) if big else (first.order + "I", first.order + "H", 12)
    )
    (at,) = struct.unpack_from(word, block, 8 if big else 4)
    table_at = at + struct.calcsize(counter)
    count = (first.next_pointer_at - table_at) // size
    records = [block[table_at + n * size : table_at + (n + 1) * size] for n in range(count)]
    records = [record for record in records if struct.unpack_from(first.order + "H", record)[0] in kept]
    table = struct.pack(counter, len(records)) + b"".join(records) + bytes(struct.calcsize(word))
    return block[:at] + table + block[at + len(table) :]


def with_directory(tiff: bytes, entries: tuple[Entry, ...]) -> bytes:
    """Return a little-endian TIFF file with `entries` as its first directory; the pixels stay where they are."""
    padded = tiff + b"\0" * (len(tiff) % 2)
    return padded[:4] + struct.pack("<I", len(padded)) + padded[8:] + pack_directory(entries, len(padded))
