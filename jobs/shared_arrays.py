"""Arrays in memory that two processes share, so that pixels are copied once and not sent.

The memory is a file without a name that lies in no folder (Linux: memfd), so nothing is left of it when both processes
are gone, however they end, and no small /dev/shm of a container bounds it. One side writes, says in a message where,
and touches nothing until the other has answered.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 64  # bytes; a cache line
KEPT_BYTES = 160 << 20  # a photo of 12 MP with its mask and result; what is larger is given back after use
CAN_SHARE = hasattr(os, "memfd_create")

Placed = list[tuple[list[int], str, int]]  # of each array: shape, dtype, first byte


class SharedArrays:
    """One side's view of memory that grows when it has to.

    Args:
        descriptor: the file, from `os.memfd_create` or from the other process; closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None

    def write(self, arrays: Sequence[NDArray[Any]], *, start: int = 0) -> tuple[Placed, int]:
        """Copy arrays into the memory.

        Args:
            arrays: of any shape and strides; not modified.
            start: the first byte to use.

        Returns:
            Where they lie, as JSON, and the size of the memory in bytes.

        Raises:
            MemoryError: there is not so much.
        """
        placed: Placed = []
        end = start
        for array in arrays:
            first = -(-end // ALIGNMENT) * ALIGNMENT
            placed.append((list(array.shape), array.dtype.name, first))
            end = first + array.nbytes
        if self._map is None or len(self._map) < end:
            size = -(-max(end, 1) // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
            try:
                os.posix_fallocate(self.descriptor, 0, size)  # too little memory is an error here, later it is a SIGBUS
            except OSError as error:
                raise MemoryError(f"no {size >> 20} MiB of shared memory: {error}") from error
            self._map = mmap.mmap(self.descriptor, size)
        for view, array in zip(self.read(placed, len(self._map)), arrays, strict=True):
            view[...] = array
        return placed, len(self._map)

    def read(self, placed: Placed, size: int) -> list[NDArray[Any]]:
        """Return views of the arrays that lie there; they are valid until the other side writes again.

        Args:
            placed: from `write`, of this side or the other.
            size: of the memory, from the same call.

        Returns:
            The arrays.
        """
        if self._map is None or len(self._map) != size:
            self._map = mmap.mmap(self.descriptor, size)
        return [
            np.frombuffer(self._map, dtype, int(np.prod(shape, dtype=np.int64)), first).reshape(shape)
            for shape, dtype, first in placed
        ]

    @staticmethod
    def end_of(placed: Placed) -> int:
        """Return the first byte behind arrays that lie there: an answer begins there, or the memory would grow."""
        return max((first + np.dtype(dtype).itemsize * math.prod(shape) for shape, dtype, first in placed), default=0)

    def trim(self) -> None:
        """Give memory back that an unusually large photo took; nobody may read or write just now."""
        if self._map is not None and len(self._map) > KEPT_BYTES:
            self._map = None
            os.ftruncate(self.descriptor, 0)

    def close(self) -> None:
        """Close the file; the memory is free once the other side has done so too."""
        self._map = None
        os.close(self.descriptor)
