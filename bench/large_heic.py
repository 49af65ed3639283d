"""Large HEIC photos for measurements, as telephones write them: a grid whose tiles are all the same small picture.

The tile is tests/data/flower.heic; no encoder is needed. Source: ISO/IEC 23008-12 (HEIF), 6.6.2.3 (image grid).
"""

import math
import struct
from pathlib import Path

TILE = Path(__file__).resolve().parents[1] / "tests" / "data" / "flower.heic"
TILE_SIZE = (120, 160)  # as stored; the file turns it
FILE_TYPE = b"heic" + bytes(4) + b"mif1heic"
GRID = 1  # its item id; the tiles have those that follow
MOST_TILES = 999  # of decoders that limit what a file refers to


def grid_heic(width_px: int, height_px: int) -> bytes:
    """Return a HEIC file of this size, of 19 million pixels at most."""
    tile = TILE.read_bytes()
    columns, rows = math.ceil(width_px / TILE_SIZE[0]), math.ceil(height_px / TILE_SIZE[1])
    assert columns * rows <= MOST_TILES, "larger than any decoder takes"
    picture = _first_item(tile)
    grid = struct.pack(">BBBBII", 0, 1, rows - 1, columns - 1, width_px, height_px)
    decoder_at = tile.index(b"hvcC") - 4
    decoder = tile[decoder_at : decoder_at + int.from_bytes(tile[decoder_at : decoder_at + 4], "big")]
    properties = decoder + _full(b"ispe", struct.pack(">II", *TILE_SIZE))
    properties += _full(b"ispe", struct.pack(">II", width_px, height_px))
    tiles = range(GRID + 1, GRID + 1 + columns * rows)
    of_items = struct.pack(">IHBB", 1 + len(tiles), GRID, 1, 3)  # numbers of properties; 0x80 = essential
    of_items += b"".join(struct.pack(">HBBB", item, 2, 0x81, 2) for item in tiles)
    entries = [
        _full(b"infe", struct.pack(">HH4sB", item, 0, b"grid" if item == GRID else b"hvc1", 0), version=2)
        for item in (GRID, *tiles)
    ]
    parts = [
        _full(b"hdlr", bytes(4) + b"pict" + bytes(13)),
        _full(b"pitm", struct.pack(">H", GRID)),
        _full(b"iinf", struct.pack(">H", len(entries)) + b"".join(entries)),
        _full(b"iref", _box(b"dimg", struct.pack(f">HH{len(tiles)}H", GRID, len(tiles), *tiles))),
        _box(b"iprp", _box(b"ipco", properties) + _full(b"ipma", of_items)),
    ]
    head = _box(b"ftyp", FILE_TYPE)

    def meta_of(at: int) -> bytes:
        """Where each item lies: offsets and lengths of four bytes, one extent each; all tiles are the same bytes."""
        places = struct.pack(">BBHHHHII", 0x44, 0, 1 + len(tiles), GRID, 0, 1, at, len(grid))
        places += b"".join(struct.pack(">HHHII", item, 0, 1, at + len(grid), len(picture)) for item in tiles)
        return _full(b"meta", b"".join(parts) + _full(b"iloc", places))

    return head + meta_of(len(head) + len(meta_of(0)) + 8) + _box(b"mdat", grid + picture)


def _first_item(file: bytes) -> bytes:
    """Return the data of the tile's own picture, by the first entry of its `iloc`."""
    at = file.index(b"iloc") + 8  # behind version and flags
    assert file[at : at + 2] == b"\x44\x40", "offsets, lengths and a base of four bytes: the test file's layout"
    _, _, base, _, offset, length = struct.unpack_from(">HHIHII", file, at + 4)
    return file[base + offset : base + offset + length]


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, body: bytes, *, version: int = 0) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]) + body)
