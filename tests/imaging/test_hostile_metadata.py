"""Small files whose metadata costs minutes or gigabytes to read naively: the photo opens, and what is too much goes.

Every file is opened and written again in a process of its own, whose processor time and memory are bounded.
"""

import json
import os
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaging import open_photo
from tests.support.imaging_files import saved, smooth
from tests.support.serving import run_support_script

MIB = 1 << 20
CPU_LIMIT_S = 12  # what takes two seconds on an idle core may take longer beside others; a hang takes for ever
MEMORY_LIMIT_MIB = 200
LIMIT_S = 300.0  # by the clock, on a machine that many share
PICTURE = Image.fromarray(smooth(60, 80))


def tiff_block(directories: list[list[tuple[int, int, int, int]]], tail: bytes = b"") -> bytes:
    """Lay out little-endian directories of (tag, type, count, value or offset), one after another, then `tail`."""
    block = b"II*\0" + struct.pack("<I", 8)
    for entries in directories:
        table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        block += struct.pack("<H", len(entries)) + table + bytes(4)
    return block + tail


def looping_exif(directories: int = 20, pointers: int = 60) -> bytes:
    """Directories whose sub-directory tags all point at the directories, themselves included."""
    size = 2 + 12 * pointers + 4
    tags = (34665, 34853, 40965)
    tables = [
        sorted((tags[k % 3], 4, 1, 8 + size * ((n + k) % directories)) for k in range(pointers))
        for n in range(directories)
    ]
    return tiff_block(tables)


def overlapping_exif() -> bytes:
    """4,000 tags that all name the same megabyte."""
    entries = [(tag, 7, MIB, 0) for tag in range(1, 4001)]
    at = 8 + 2 + 12 * len(entries) + 4
    return tiff_block([[(tag, kind, count, at) for tag, kind, count, _ in entries]], bytes(MIB))


def overlapping_sub_directory() -> bytes:
    inner = [(tag, 7, MIB, 0) for tag in range(1, 4001)]
    inner_at = 8 + 2 + 12 + 4
    at = inner_at + 2 + 12 * len(inner) + 4
    return tiff_block([[(34665, 4, 1, inner_at)], [(t, k, c, at) for t, k, c, _ in inner]], bytes(MIB))


XMP_BACKTRACK = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>" + b"<xmp:Thumbnails " * 16000 + b"xmpNote:HasExtendedXMP=" * 300
    + b"tiff:Orientation" + b" " * 5000 + b"</x:xmpmeta>"
)  # fmt: skip
EXIFS: dict[str, Callable[[], bytes]] = {
    "loops": looping_exif,
    "loops, small": lambda: looping_exif(1, 60),
    "overlapping": overlapping_exif,
    "overlapping below": overlapping_sub_directory,
}


def jpeg_segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def jpeg_with(segments: bytes) -> bytes:
    data = saved(PICTURE, "JPEG", quality=90)
    return b"".join((data[:2], segments, data[2:]))  # not by +, which copies a flood twice


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(chunks: bytes) -> bytes:
    data = saved(PICTURE, "PNG")
    return b"".join((data[:33], chunks, data[33:]))


def webp_with(*chunks: tuple[bytes, bytes], count: int = 1) -> bytes:
    data = saved(PICTURE, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", xmp=b"<x/>")
    extra = b"".join(
        kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2) for kind, body in chunks
    ) * count  # fmt: skip
    # After the first chunk, the extended header, which says that there is metadata; the first chunk of a kind counts.
    size = len(data) - 8 + len(extra)
    return b"".join((b"RIFF", struct.pack("<I", size), data[8:30], extra, data[30:]))


def tiff_with(entries: list[tuple[int, int, int]], tail: bytes) -> bytes:
    """Add (tag, type, count) entries to an uncompressed TIFF, all with their value at `tail`."""
    data = saved(PICTURE, "TIFF")
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    old = [data[at + 2 + 12 * n : at + 14 + 12 * n] for n in range(count)]
    tail_at = len(data)
    table_at = tail_at + len(tail) + len(tail) % 2
    new = [struct.pack("<HHII", tag, kind, number, tail_at) for tag, kind, number in entries]
    ordered = sorted([*old, *new], key=lambda record: bytes(reversed(record[:2])))
    table = struct.pack("<H", len(ordered)) + b"".join(ordered) + bytes(4)
    return b"".join((data[:4], struct.pack("<I", table_at), data[8:], tail, b"\0" * (len(tail) % 2), table))


def gif_with(extension: bytes) -> bytes:
    data = saved(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE), "GIF")
    table = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return b"".join((data[:table], extension, data[table:]))


def exif_in_jpeg(make: Callable[[], bytes]) -> bytes:
    return jpeg_with(jpeg_segment(0xE1, b"Exif\0\0" + make()[:65000]))


def exif_in_png(make: Callable[[], bytes]) -> bytes:
    return png_with(png_chunk(b"eXIf", make()))


def exif_in_webp(make: Callable[[], bytes]) -> bytes:
    return webp_with((b"EXIF", make()))


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    **{f"{kind}, EXIF: {name}": (partial(put, make), f"{kind.lower()},tiff")
       for name, make in EXIFS.items()
       for kind, put in (("JPEG", exif_in_jpeg), ("PNG", exif_in_png), ("WebP", exif_in_webp))},
    "AVIF, EXIF that loops": (lambda: saved(PICTURE, "AVIF", exif=looping_exif()), "avif,tiff"),
    "TIFF, overlapping tags": (lambda: tiff_with([(tag, 7, MIB) for tag in range(20000, 24000)], bytes(MIB)), "tiff"),
    "TIFF, overlapping descriptions": (lambda: tiff_with([(0x010E, 2, MIB)] * 4000, b"x" * MIB), "tiff"),
    "TIFF, twenty million numbers": (lambda: tiff_with([(50000, 4, 20_000_000)], bytes(80_000_000)), "tiff"),
    "TIFF, twenty million sample sizes": (
        lambda: tiff_with([(339, 3, 20_000_000)], b"\1\0" * 20_000_000), "tiff"),
    "JPEG, XMP that backtracks": (
        lambda: jpeg_with(jpeg_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP_BACKTRACK[:65000])), "jpeg"),
    "PNG, XMP that backtracks": (
        lambda: png_with(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP_BACKTRACK)), "png"),
    "WebP, XMP that backtracks": (lambda: webp_with((b"XMP ", XMP_BACKTRACK)), "webp"),
    "TIFF, XMP that backtracks": (lambda: tiff_with([(700, 1, len(XMP_BACKTRACK))], XMP_BACKTRACK), "tiff"),
    "JPEG, empty segments": (lambda: jpeg_with(b"\xff\xee\0\2" * (95 * MIB // 4)), "jpeg"),
    "JPEG, small comments": (lambda: jpeg_with(jpeg_segment(0xFE, b"abc") * (95 * MIB // 7)), "jpeg"),
    "JPEG, EXIF in many segments": (
        lambda: jpeg_with(jpeg_segment(0xE1, b"Exif\0\0" + bytes(65000)) * 1450), "jpeg"),
    "JPEG, fill bytes": (lambda: jpeg_with(b"\xff" * (95 * MIB)), "jpeg"),
    "JPEG, fill bytes before each comment": (
        lambda: jpeg_with((b"\xff" * 60_000 + jpeg_segment(0xFE, b"abc")) * (95 * MIB // 60_007)), "jpeg"),
    "JPEG, fill bytes before its end": (
        lambda: saved(PICTURE, "JPEG", quality=90)[:-2] + b"\xff" * (95 * MIB) + b"\xff\xd9", "jpeg"),
    "JPEG, fill bytes and no end": (
        lambda: saved(PICTURE, "JPEG", quality=90)[:-2] + b"\xff" * (95 * MIB), "jpeg"),
    "PNG, empty chunks": (lambda: png_with(png_chunk(b"teSt", b"") * (95 * MIB // 12)), "png"),
    "PNG, empty texts": (lambda: png_with(png_chunk(b"tEXt", b"a\0b") * (95 * MIB // 15)), "png"),
    "WebP, empty chunks": (lambda: webp_with((b"TeSt", b""), count=95 * MIB // 8), "webp"),
    "GIF, a long comment": (lambda: gif_with(b"!\xfe" + (b"\xff" + b"c" * 255) * (95 * MIB // 256) + b"\0"), "png"),
    "GIF, empty comments": (lambda: gif_with(b"!\xfe\0" * (95 * MIB // 3)), "png"),
}  # fmt: skip


REFUSED = ("GIF, empty comments",)  # thirty million of them, and no way to tell where the picture begins


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_hostile_metadata_costs_little_and_the_photo_opens(name: str, tmp_path: Path) -> None:
    make, formats = FILES[name]
    hostile, plain = tmp_path / "hostile", tmp_path / "plain"
    hostile.write_bytes(make())
    plain.write_bytes(saved(PICTURE, {"JPEG": "JPEG", "PNG": "PNG"}.get(name.split(",")[0], "PNG")))
    words = [str(hostile), str(plain), str(CPU_LIMIT_S), formats]
    reader = run_support_script("read_photo", words, os.environ, log=tmp_path / "log", is_forked=True)
    code, told = reader.wait(LIMIT_S), (tmp_path / "log").read_text(encoding="utf-8")
    assert code == 0, told[-600:] or f"ended by signal {-code}"
    said = json.loads(told.splitlines()[-1])  # before it, what libraries warn of
    if name in REFUSED:
        assert said["refused"] == "truncated_image"
        return
    assert said["size"] == [60, 80, 3]
    assert said["mib"] < MEMORY_LIMIT_MIB, said


@pytest.mark.parametrize("options", [{"quality": 80}, {"lossless": True}], ids=str)
def test_a_picture_behind_more_chunks_than_are_read_keeps_its_transparency(options: dict[str, int]) -> None:
    pixels = np.dstack([smooth(60, 80), smooth(60, 80)[::-1, ::-1, 0]])
    plain = saved(Image.fromarray(pixels), "WEBP", exact=True, **options)
    if plain[12:16] != b"VP8X":  # a file without the extended header has no place for other chunks
        plain = plain[:12] + b"VP8X" + struct.pack("<II", 10, 0x10) + b"\x4f\0\0\x3b\0\0" + plain[12:]
    flooded = plain[:30] + b"TeSt\0\0\0\0" * 10_001 + plain[30:]
    wanted, got = (open_photo(b"RIFF" + struct.pack("<I", len(one) - 8) + one[8:]) for one in (plain, flooded))
    assert np.array_equal(got.image, wanted.image)
    assert wanted.alpha is not None and got.alpha is not None and np.array_equal(got.alpha, wanted.alpha)
    assert [note.code for note in got.notes] == ["metadata_left_out"] and not wanted.notes


D50 = (63190, 65536, 54061)  # XYZ, of 65536


def profile_of_a_chain(elements: int) -> bytes:
    """Return a profile of inks that are converted by so many matrices, one after the other, and by nothing else."""
    matrix, last = (
        b"matf" + struct.pack(f">4xHH{4 * rows}f{rows}f", 4, rows, *np.eye(rows, 4).ravel(), *[0.0] * rows)
        for rows in (4, 3)
    )
    at = 16 + 8 * (elements + 1)  # all but the last are one matrix in the file
    chain = b"mpet" + struct.pack(">4xHHI", 4, 3, elements + 1) + struct.pack(">II", at, len(matrix)) * elements
    chain += struct.pack(">II", at + len(matrix), len(last)) + matrix + last
    white = b"XYZ " + struct.pack(">4x3i", *D50)
    begins = 132 + 2 * 12
    tags = struct.pack(">I4sII4sII", 2, b"D2B0", begins + len(white), len(chain), b"wtpt", begins, len(white))
    size = begins + len(white) + len(chain)
    header = struct.pack(">I4xI4s4s4s12x4s28x3i", size, 0x04300000, b"prtr", b"CMYK", b"Lab ", b"acsp", *D50)
    return header.ljust(128, b"\0") + tags + white + chain


def test_a_chain_of_matrices_in_a_profile_is_not_gone_through() -> None:
    """Such a profile of 41 kB, a photo of 16 x 16 pixels: half a minute of a core, and 16 MiB would take hours."""
    inks = Image.fromarray(np.dstack([smooth(60, 80), smooth(60, 80)[..., 0]]), "CMYK")
    photo, plain = (
        open_photo(saved(inks, "JPEG", **told)) for told in ({"icc_profile": profile_of_a_chain(2)}, {})
    )  # fmt: skip
    assert np.array_equal(photo.image, plain.image) and photo.source.icc
