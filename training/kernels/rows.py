"""How the training kernels see memory: channels-last rows, taken in blocks."""

from __future__ import annotations

import torch

try:
    import triton
except ImportError:  # CPU builds carry no Triton
    triton = None

ROWS_BLOCK = 64  # rows a program takes at a time


def runs_on(x: torch.Tensor) -> bool:
    """Tell whether the kernels can run where `x` lies; otherwise the plain definitions do."""
    return triton is not None and x.is_cuda


def channel_block(channels: int) -> int:
    """Return how many channels a program takes: a power of two, 8 to 64."""
    return min(64, max(8, triton.next_power_of_2(channels)))


def channels_of(x: torch.Tensor) -> int:
    """Return C of (B, C, H, W) or (…, C)."""
    return x.shape[1 if x.dim() == 4 else -1]


def rows_of(x: torch.Tensor) -> int:
    """Return the number of rows of C values."""
    return x.numel() // channels_of(x)


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """Return the same values channels-last, (B, C, H, W) or (…, C); copies only when they lie otherwise."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()
