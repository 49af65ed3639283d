"""Weight files that claim much: what each is made to cost its reader, and a word of the refusal that it gets.

A hole in a file takes no disk and shows that its stated length was enough to refuse it.
"""

import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

RECORD_BYTES = 3 << 30
TENSORS = 1_500_000


def archive_of(path: Path, pickled: bytes, storage: bytes = bytes(64)) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)


def named_byte_order(path: Path) -> None:
    """Write zeros that are deflated once and repeated, since each run of them stands for itself after a full flush."""
    packer = zlib.compressobj(wbits=-15)
    run = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    record = zipfile.ZipInfo("archive/byteorder")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr(record, run * (RECORD_BYTES >> 24) + packer.flush())
        # As the directory at the file's end has it, by which it is read. Its checksum is looked at after all of it.
        record.compress_type, record.file_size = zipfile.ZIP_DEFLATED, RECORD_BYTES


def header_of_tensors(path: Path) -> None:
    with path.open("wb") as file:
        header = b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(TENSORS))
        file.write(struct.pack("<Q", len(header) + 2) + b"{" + header + b"}")


def shorter_header_of_tensors(path: Path) -> None:
    header = (
        b"{" + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(110_000)) + b"}"
    )
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def list_of_records(path: Path) -> None:
    names = [b"archive/data/%09d" % number for number in range(80_000)]
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, len(names[0]), 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + name for name in names)
    path.write_bytes(b"PK\3\4" + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0, 0, len(directory), 4, 0))


def instructions(path: Path) -> None:
    archive_of(path, b"\x80\x02" + b"]0" * (1 << 20) + b"N.")


def instructions_in_a_frame(path: Path) -> None:
    body = b"]0" * (1 << 20) + b"N."
    archive_of(path, b"\x80\x04\x95" + struct.pack("<Q", len(body)) + body)


def long_text_of_the_older_layout(path: Path) -> None:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    with path.open("wb") as file:
        file.write(magic + b"\x80\x02X" + struct.pack("<I", 2 << 30))
        file.truncate(RECORD_BYTES)


ATTACKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a record of 3 GiB": (named_byte_order, "byte order"),
    "1.5 million tensors": (header_of_tensors, "a header of"),
    "110,000 tensors in a header of usual length": (shorter_header_of_tensors, "110000 tensors"),
    "80,000 records": (list_of_records, "more records than"),
    "a million instructions": (instructions, "more objects than"),
    "a million instructions in a frame": (instructions_in_a_frame, "more objects than"),
    "a text of 2 GiB in the older layout": (long_text_of_the_older_layout, "16 MiB"),
}
