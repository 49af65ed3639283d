"""Page-locked memory of one fixed size, through which arrays go to the GPU and come back.

Copies through it run beside the host's work, and it never grows: a new piece of page-locked memory takes milliseconds
to get, so that every repair larger than those before would stutter. What is larger than the block goes through it in
strips of rows. An array is of any integer or bool type, uint16 travels as the bits of int16; on a CPU everything is a
plain copy. The caller holds the one lock on the GPU, and all copies are made in its current stream.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_BYTES = 32 << 20  # a batch of eight 512x512 crops and its patches, or the largest bucket in 16 bit
ALIGNMENT = 256
DTYPES = {np.dtype(name): getattr(torch, name) for name in ("bool", "uint8", "int16", "int64", "float32")}


class PinnedMemory:
    """Copies between the host and one device.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._block: Tensor | None = None  # (BLOCK_BYTES,) uint8, made when first needed
        self._used = 0
        self._arriving: list[tuple[NDArray, NDArray]] = []

    def to_device(self, array: NDArray) -> Tensor:
        """Copy an array to the device; it is not modified, and not referred to afterwards."""
        array = _as_signed(array)
        if self.device.type != "cuda":
            return torch.from_numpy(np.array(array, order="C")).to(self.device)  # a copy: it may be read-only
        tensor = torch.empty(array.shape, dtype=DTYPES[array.dtype], device=self.device)
        for rows in _strips(array):
            host = self._take(array[rows].shape, array.dtype)
            np.copyto(host.numpy(), array[rows])
            tensor[rows].copy_(host, non_blocking=True)
        return tensor

    def to_device_together(self, arrays: list[NDArray]) -> list[Tensor]:
        """As `to_device` for several arrays of uint8, in one copy where they fit into half the block together."""
        starts = [0]
        for array in arrays:
            starts.append(starts[-1] + _aligned(array.nbytes))
        if self.device.type != "cuda" or starts[-1] > BLOCK_BYTES // 2:
            return [self.to_device(array) for array in arrays]
        host = self._take((starts[-1],), np.dtype(np.uint8))
        bytes_on_host = host.numpy()
        for array, start in zip(arrays, starts, strict=False):
            np.copyto(bytes_on_host[start : start + array.nbytes].reshape(array.shape), array)
        tensor = host.to(self.device, non_blocking=True)
        return [
            tensor[start : start + array.nbytes].view(array.shape) for array, start in zip(arrays, starts, strict=False)
        ]

    def to_host(self, tensor: Tensor, out: NDArray) -> None:
        """Start copying a tensor into an array of its shape, which is whole once `synchronize` has returned."""
        out = _as_signed(out)
        if not tensor.is_cuda:
            np.copyto(out, tensor.numpy())
            return
        for rows in _strips(out):
            host = self._take(out[rows].shape, out.dtype)
            host.copy_(tensor[rows], non_blocking=True)
            self._arriving.append((out[rows], host.numpy()))

    def synchronize(self) -> None:
        """Wait until the device has done everything, and complete the arrays that `to_host` was given."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        for out, host in self._arriving:
            np.copyto(out, host)
        self._arriving.clear()
        self._used = 0

    def _take(self, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
        """Page-locked memory of a shape and type, free to use until the next `synchronize`."""
        if self._block is None:
            self._block = torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        if self._used + size > BLOCK_BYTES:
            self.synchronize()
        piece = self._block[self._used : self._used + size]
        self._used += _aligned(size)
        return piece.view(DTYPES[dtype]).view(shape)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _strips(array: NDArray) -> list[slice]:
    """Rows that fit into half the block, so that one strip is filled while the one before is on its way."""
    rows = max(1, BLOCK_BYTES // 2 // max(1, array[:1].nbytes))
    return [slice(start, start + rows) for start in range(0, len(array), rows)]


def _as_signed(array: NDArray) -> NDArray:
    """The same bits in a type that PyTorch computes with."""
    return array.view(np.int16) if array.dtype == np.uint16 else array
