"""What travels between the web process and Celery workers through Redis: names of keys, and arrays as bytes.

A Celery message holds an attempt's id and nothing else. Pixels lie beside it in Redis as blobs that expire: a JSON
header, then the arrays' raw bytes. No pickle is read or written anywhere. Knows no engine and no queue.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PREFIX = "fftlama"
SERVER_KEY = f"{PREFIX}:server"  # what the web process that spoke last asks of workers, as JSON
WORKER_PREFIX = f"{PREFIX}:worker:"  # one key per worker, refreshed while it lives
SERVER_FACTS = ("version", "weights", "fingerprint")
WORKER_FACTS = (*SERVER_FACTS, "name", "device")
MOST_BUCKET_PX = 1 << 14
HEADER_BYTES = 4  # length of the JSON header, big-endian
DTYPES = {"uint8": np.uint8, "uint16": np.uint16, "bool": np.bool_}


def queue_name(fingerprint: str, *, is_batch: bool = False) -> str:
    """Return the Celery queue of workers that run one version with one weights file.

    The fingerprint is part of the name, so a worker of another version or other weights never receives a repair.
    """
    return f"{PREFIX}.{fingerprint}.{'batch' if is_batch else 'interactive'}"


def server_key(fingerprint: str) -> str:
    """Return the key that is there while a web process of this fingerprint is; those of several may share a Redis."""
    return f"{SERVER_KEY}:{fingerprint}"


@dataclass(frozen=True)
class AttemptKeys:
    """The Redis keys of one attempt at one repair."""

    attempt_id: str

    @property
    def request(self) -> str:
        """Blob: what is to be repaired. Its absence means that nobody waits for this attempt any more."""
        return f"{PREFIX}:attempt:{self.attempt_id}:request"

    @property
    def claim(self) -> str:
        """Text: the worker that took the attempt. Written once."""
        return f"{PREFIX}:attempt:{self.attempt_id}:claim"

    @property
    def cancel(self) -> str:
        """Exists when the worker shall stop at the next stage."""
        return f"{PREFIX}:attempt:{self.attempt_id}:cancel"

    @property
    def answer(self) -> str:
        """List of blobs, oldest first: stages, then one result or error."""
        return f"{PREFIX}:attempt:{self.attempt_id}:answer"

    @property
    def all(self) -> tuple[str, ...]:
        """Every key of the attempt."""
        return self.request, self.claim, self.cancel, self.answer


def pack(header: Mapping[str, Any], arrays: Sequence[NDArray[Any]] = ()) -> memoryview:
    """Return a blob of a JSON header and arrays.

    Args:
        header: JSON-serialisable; must not use the key "arrays".
        arrays: uint8, uint16 or bool, any shape; not modified. A bool array takes one bit a pixel.

    Returns:
        The length of the header, the header, the arrays.
    """
    for array in arrays:
        if array.dtype.name not in DTYPES:
            raise ValueError(f"arrays in messages are {', '.join(DTYPES)}, got {array.dtype}")
    described = [{"shape": list(array.shape), "dtype": array.dtype.name} for array in arrays]
    text = json.dumps({**header, "arrays": described}).encode()
    # Each array is copied once, into its place: with three copies a part of 12 MB took 28 ms instead of 6.
    end = HEADER_BYTES + len(text)
    blob = bytearray(end + sum(_size_bytes(array.dtype, array.size) for array in arrays))
    blob[:end] = len(text).to_bytes(HEADER_BYTES, "big") + text
    for array in arrays:
        start, end = end, end + _size_bytes(array.dtype, array.size)
        if array.dtype == np.bool_:
            blob[start:end] = np.packbits(array).data
        else:
            np.frombuffer(blob, array.dtype, array.size, start).reshape(array.shape)[...] = array
    return memoryview(blob)


def unpack(blob: bytes | memoryview) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Return the header and the arrays of a blob from `pack`; ValueError when it is none, or was cut.

    The arrays are views of the blob and can't be written to.
    """
    try:
        end = HEADER_BYTES + int.from_bytes(blob[:HEADER_BYTES], "big")
        header = json.loads(bytes(blob[HEADER_BYTES:end]))
        arrays = []
        for described in header.pop("arrays"):
            shape, dtype = tuple(described["shape"]), DTYPES[described["dtype"]]
            count = math.prod(shape)
            if dtype is np.bool_:
                size_bytes = (count + 7) // 8
                bits = np.frombuffer(blob, np.uint8, size_bytes, end)
                array = np.unpackbits(bits, count=count).view(np.bool_)
            else:
                size_bytes = count * np.dtype(dtype).itemsize
                array = np.frombuffer(blob, dtype, count, end)
            arrays.append(array.reshape(shape))
            end += size_bytes
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a message in Redis can't be read: {error}") from error
    return header, arrays


def facts_from(text: bytes | str | None, names: Sequence[str]) -> dict[str, Any] | None:
    """Return what a key of a worker or of the server says.

    Args:
        text: what lies in Redis; None for nothing.
        names: what has to be told, as text.

    Returns:
        The facts, or None for what is none of ours: whoever else writes into Redis is not to end who looks there.
    """
    try:
        facts = json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
    told = isinstance(facts, dict) and all(isinstance(facts.get(name), str) for name in names)
    return facts if told else None


def ladder_from(facts: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the sides that a worker's network runs at, ascending; () where it does not say them."""
    told = facts.get("buckets_px")
    if not isinstance(told, list) or not all(type(px) is int and 0 < px <= MOST_BUCKET_PX for px in told):
        return ()
    return tuple(sorted(told))


def _size_bytes(dtype: np.dtype[Any], count: int) -> int:
    return (count + 7) // 8 if dtype == np.bool_ else count * dtype.itemsize
