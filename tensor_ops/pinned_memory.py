"""Page-locked memory of one fixed size, through which arrays go to the GPU and come back.

Copies through it run beside the host's work, and it never grows: a new piece of page-locked memory takes milliseconds
to get, so that every repair larger than those before would stutter. What is larger than a strip goes through it in
strips of rows: one is filled while the one before is on its way. It is used as a ring, each piece again when its own
copy is done. An array is of any integer or bool type, uint16 travels as the bits of int16; on a CPU everything is a
plain copy. The caller holds the one lock on the GPU, and all copies are made in its current stream.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tensor_ops.host_copies import copy_rows, touch_pages

if TYPE_CHECKING:  # a packet's hole comes through here
    from tensor_ops.crop_packet import CropPacket

BLOCK_BYTES = 32 << 20  # a batch of eight 512x512 crops and its patches, or the largest bucket in 16 bit
STRIP_BYTES = 8 << 20  # a strip costs the host as much as copying half a megabyte, and the last one is waited for
ALIGNMENT = 256
DTYPES = {np.dtype(name): getattr(torch, name) for name in ("bool", "uint8", "int16", "int64", "float32")}


@dataclass
class _Piece:
    """A part of the block that a copy uses.

    Attributes:
        start: its first byte.
        stop: the byte after its last.
        memory: its bytes as the array that is copied.
        out: where an array from the device goes in the end, or None on the way to the device.
        done: recorded behind the copy; None where an error came between, then only waiting for the whole stream tells.
    """

    start: int
    stop: int
    memory: Tensor
    out: NDArray | None = None
    done: torch.cuda.Event | None = None

    def overlaps(self, start: int, stop: int) -> bool:
        """Tell whether it shares bytes with another part of the block."""
        return self.start < stop and start < self.stop


class PinnedMemory:
    """Copies between the host and one device.

    Args:
        device: where the model is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.packets: dict[int, CropPacket] = {}  # of lone crops, by side
        self._block: Tensor | None = None  # (BLOCK_BYTES,) uint8, made when first needed
        self._next = 0  # byte of the block
        self._pieces: deque[_Piece] = deque()  # in the order of their copies
        self._spare_events: list[torch.cuda.Event] = []
        self._sent: list[tuple[NDArray, Tensor]] = []

    def to_device(self, array: NDArray) -> Tensor:
        """Copy an array to the device; it is not modified, and not referred to afterwards."""
        array = _as_signed(array)
        if self.device.type != "cuda":
            return torch.from_numpy(np.array(array, order="C")).to(self.device)  # a copy: it may be read-only
        tensor = torch.empty(array.shape, dtype=DTYPES[array.dtype], device=self.device)
        for rows in _strips(array):
            piece = self._take(array[rows].shape, array.dtype)
            copy_rows(piece.memory.numpy(), array[rows])
            tensor[rows].copy_(piece.memory, non_blocking=True)
            self._mark(piece)
        return tensor

    def to_device_once(self, array: NDArray) -> Tensor:
        """As `to_device`; until `synchronize` the same array is not copied again. The result must not be modified."""
        for sent, tensor in self._sent:
            if sent is array:
                return tensor
        self._sent.append((array, self.to_device(array)))
        return self._sent[-1][1]

    def to_device_together(self, arrays: list[NDArray]) -> list[Tensor]:
        """As `to_device` for several arrays of uint8, in one copy where they make up no more than a strip together."""
        starts = [0]
        for array in arrays:
            starts.append(starts[-1] + _aligned(array.nbytes))
        if self.device.type != "cuda" or starts[-1] > _strip_bytes():
            return [self.to_device(array) for array in arrays]
        piece = self._take((starts[-1],), np.dtype(np.uint8))
        bytes_on_host = piece.memory.numpy()
        for array, start in zip(arrays, starts, strict=False):
            copy_rows(bytes_on_host[start : start + array.nbytes].reshape(array.shape), array)
        tensor = piece.memory.to(self.device, non_blocking=True)
        self._mark(piece)
        return [
            tensor[start : start + array.nbytes].view(array.shape) for array, start in zip(arrays, starts, strict=False)
        ]

    def free_packet(self, size: tuple[int, int]) -> CropPacket | None:
        """Return the packet for a lone crop of (height, width) unless there is none or it is on its way."""
        packet = self.packets.get(size[0]) if size[0] == size[1] else None
        return packet if packet is not None and packet.is_free else None

    def to_host(self, tensor: Tensor, out: NDArray) -> None:
        """Start copying a tensor into an array of its shape, which is whole once `synchronize` has returned."""
        out = _as_signed(out)
        if not tensor.is_cuda:
            np.copyto(out, tensor.numpy())
            return
        for rows in _strips(out):
            piece = self._take(out[rows].shape, out.dtype)
            piece.memory.copy_(tensor[rows], non_blocking=True)
            piece.out = out[rows]
            self._mark(piece)

    def touch_arriving(self) -> None:
        """Have the system give memory to the arrays that `to_host` was given: work for while the device is busy."""
        for piece in self._pieces:
            if piece.out is not None:
                touch_pages(piece.out)

    def synchronize(self) -> None:
        """Wait until the device has done everything, and complete the arrays that `to_host` was given."""
        self._sent.clear()
        while self._pieces:
            piece = self._pieces.popleft()
            if piece.out is not None:
                self._finish(piece)
            elif piece.done is not None:
                self._spare_events.append(piece.done)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        self._next = 0
        for packet in self.packets.values():
            packet.is_free = True

    def _take(self, shape: tuple[int, ...], dtype: np.dtype) -> _Piece:
        """Page-locked memory of a shape and type, free to use until the next `synchronize`."""
        if self._block is None:
            self._block = torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=True)
        size = math.prod(shape) * dtype.itemsize
        start = self._next if self._next + size <= BLOCK_BYTES else 0
        last_in_the_way = max(
            (turn for turn, piece in enumerate(self._pieces, 1) if piece.overlaps(start, start + size)), default=0
        )
        for _ in range(last_in_the_way):
            self._finish(self._pieces.popleft())
        self._next = start + _aligned(size)
        memory = self._block[start : start + size].view(DTYPES[dtype]).view(shape)
        self._pieces.append(_Piece(start, start + size, memory))
        return self._pieces[-1]

    def _mark(self, piece: _Piece) -> None:
        """Have a piece tell when its copy, the last thing in the stream, is done."""
        piece.done = self._spare_events.pop() if self._spare_events else torch.cuda.Event()
        piece.done.record()

    def _finish(self, piece: _Piece) -> None:
        """Wait for a piece's copy, and bring what arrived where it goes."""
        if piece.done is None:
            torch.cuda.current_stream(self.device).synchronize()
        else:
            piece.done.synchronize()
            self._spare_events.append(piece.done)
        if piece.out is not None:
            copy_rows(piece.out, piece.memory.numpy())


def _strip_bytes() -> int:
    return min(STRIP_BYTES, BLOCK_BYTES // 2)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _strips(array: NDArray) -> list[slice]:
    """Rows in groups of no more bytes than a strip has; at least one row."""
    rows = max(1, _strip_bytes() // max(1, array[:1].nbytes))
    return [slice(start, start + rows) for start in range(0, len(array), rows)]


def _as_signed(array: NDArray) -> NDArray:
    """The same bits in a type that PyTorch computes with."""
    return array.view(np.int16) if array.dtype == np.uint16 else array
