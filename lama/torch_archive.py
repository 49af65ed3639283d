"""Read tensors out of files that PyTorch wrote, without running anything they say.

Three layouts: the zip archive of `torch.save` (since PyTorch 1.6), the zip archive of `torch.jit.save` (TorchScript,
whose code is never looked at), and the older stream of pickles. In all three a pickle describes the objects
(`safe_unpickle` interprets it) and the numbers lie beside it.

Sizes are checked against the file before memory is taken. Tensors are read one at a time, on demand, to the CPU.
Knows nothing of LaMa. Layouts after torch/serialization.py and torch/csrc/jit/serialization of PyTorch.
"""

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from lama.safe_unpickle import (
    LONGEST_PICKLE_BYTES,
    TOO_LONG,
    CheckpointError,
    Storage,
    TensorRecord,
    named_tensors,
    unpickle,
)

LONGEST_DIRECTORY_BYTES = 4 * 2**20  # a training checkpoint's list of records is about 300 kB
LONGEST_BYTE_ORDER = 16
# What zipfile raises for damaged archives: its own error, and those of reading names, sizes and records.
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    RuntimeError,
    ValueError,
)
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001


@dataclass(frozen=True)
class Span:
    """Where a storage lies in the file, in bytes, and its checksum if the layout keeps one."""

    offset: int
    size: int
    crc32: int | None = None


class TorchFile:
    """The tensors of one file by name, read on demand.

    `records` maps dotted names to descriptions; `read` fetches the numbers. `kind` says which layout it is, for people.
    """

    def __init__(self, path: Path, kind: str, records: dict[str, TensorRecord], spans: dict[str, Span]) -> None:
        self.path = path
        self.kind = kind
        self.records = records
        self._spans = spans
        self._last_read: tuple[str, bytearray] | None = None  # a storage is often shared by the next tensor

    def read(self, name: str) -> torch.Tensor:
        """Return the tensor `name` in its own dtype, contiguous, on the CPU. CheckpointError if it is damaged."""
        record = self.records[name]
        storage = record.storage
        data = self._read_storage(storage)
        flat = torch.frombuffer(data, dtype=storage.dtype, count=storage.length)
        return flat.as_strided(record.shape, record.stride, record.offset).contiguous()

    def _read_storage(self, storage: Storage) -> bytearray:
        if self._last_read is not None and self._last_read[0] == storage.key:
            return self._last_read[1]
        span = self._spans.get(storage.key)
        needed = storage.length * storage.dtype.itemsize
        if span is None or span.size < needed or needed == 0:
            has = "nothing" if span is None else f"{span.size} bytes"
            raise CheckpointError(f"is damaged: {has} where {needed} bytes of weights should be")
        with self.path.open("rb") as file:
            file.seek(span.offset)
            data = bytearray(span.size)
            if file.readinto(data) != span.size:
                raise CheckpointError("is truncated")
        if span.crc32 is not None and zlib.crc32(data) != span.crc32:
            raise CheckpointError("is damaged: a checksum inside it does not match; download or copy it again")
        self._last_read = (storage.key, data)
        return data


def open_zip(path: Path) -> TorchFile:
    """Read the description of a `torch.save` or `torch.jit.save` archive. Raises CheckpointError."""
    file_size = path.stat().st_size
    try:
        _refuse_long_directory(path)
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = {entry.filename: entry for entry in archive.infolist()}
            description = next((n for n in entries if n.count("/") == 1 and n.endswith("/data.pkl")), None)
            if description is None:
                raise CheckpointError(_describe_foreign_zip(list(entries)))
            folder = description.removesuffix("data.pkl")
            if entries[description].file_size > LONGEST_PICKLE_BYTES:
                raise CheckpointError(TOO_LONG)
            order = entries.get(f"{folder}byteorder")
            if order and order.file_size > LONGEST_BYTE_ORDER:
                raise CheckpointError(f"names a byte order of {order.file_size} bytes, which no weight file has")
            if order and archive.read(order) != b"little":
                raise CheckpointError("was written on a big-endian machine, which is not supported")
            spans = {
                name.removeprefix(f"{folder}data/"): _entry_span(file, entry, file_size)
                for name, entry in entries.items()
                if name.startswith(f"{folder}data/")
            }
            with archive.open(description) as stream:
                root, _ = unpickle(stream)
            scripted = any(name.startswith(f"{folder}code/") for name in entries)
    except CheckpointError:
        raise
    except ZIP_ERRORS as error:
        raise CheckpointError("is a damaged or truncated PyTorch archive; download or copy it again") from error
    return TorchFile(path, "TorchScript archive" if scripted else "PyTorch checkpoint", named_tensors(root), spans)


def _refuse_long_directory(path: Path) -> None:
    """Raise CheckpointError for an archive of more records than a weight file has, before a list of them is made."""
    with path.open("rb") as file:
        end = zipfile._EndRecData(file)  # type: ignore[attr-defined]  # None where the file is no archive
    if end and end[zipfile._ECD_SIZE] > LONGEST_DIRECTORY_BYTES:  # type: ignore[attr-defined]
        raise CheckpointError("lists more records than any weight file has")


def _entry_span(file: IO[bytes], entry: zipfile.ZipInfo, file_size: int) -> Span:
    if entry.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError("has compressed weights, which PyTorch never writes; repack it with PyTorch")
    file.seek(entry.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    offset = entry.header_offset + 30 + name_length + extra_length
    if offset + entry.file_size > file_size:
        raise CheckpointError("is damaged: it claims more weights than the file has bytes")
    return Span(offset, entry.file_size, entry.CRC)


def _describe_foreign_zip(names: list[str]) -> str:
    inside = next((name for name in names if name.endswith((".ckpt", ".pth", ".pt", ".safetensors"))), None)
    if inside is not None:
        return f"is a zip file with {inside} inside: unpack it and give that file"
    return "is a zip file, but none that PyTorch wrote"


def open_legacy(path: Path) -> TorchFile:
    """Read the description of a file in PyTorch's layout before 1.6: pickles, then numbers. Raises CheckpointError."""
    file_size = path.stat().st_size
    spans: dict[str, Span] = {}
    with path.open("rb") as file:
        if unpickle(file)[0] != LEGACY_MAGIC:
            raise CheckpointError("is a Python pickle, but none that PyTorch wrote")
        if unpickle(file)[0] != LEGACY_PROTOCOL:
            raise CheckpointError("is in a PyTorch layout of before 2017, which is not supported")
        unpickle(file)  # byte order and type sizes of the machine that wrote it
        root, storages = unpickle(file)
        keys, _ = unpickle(file)
        if not isinstance(keys, list):
            raise CheckpointError("is damaged: its list of weights can't be read")
        for key in map(str, keys):
            length_field = file.read(8)
            if len(length_field) < 8:
                raise CheckpointError("is truncated")
            if key not in storages:
                break  # of a type we don't know, so where the next one starts isn't known either
            size = struct.unpack("<q", length_field)[0] * storages[key].dtype.itemsize
            if size < 0 or file.tell() + size > file_size:
                raise CheckpointError("is truncated: it ends in the middle of the weights")
            spans[key] = Span(file.tell(), size)
            file.seek(size, 1)
    return TorchFile(path, "PyTorch checkpoint (older layout)", named_tensors(root), spans)
