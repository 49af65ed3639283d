"""Reflection padding that also puts its inputs side by side, so that no concatenation is written."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from training.kernels.rows import ROWS_BLOCK, as_rows, channel_block, rows_of, runs_on

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds carry no Triton
    triton = None

if triton is not None:

    @triton.jit
    def _reflect(position, length):
        position = tl.abs(position)
        return tl.where(position >= length, 2 * length - 2 - position, position)

    @triton.jit
    def _pad_kernel(
        x, y, height, width, channels, pad, cells, wide_channels, offset, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        keep = (r < cells)[:, None] & (c < channels)[None, :]
        wide, tall = width + 2 * pad, height + 2 * pad
        column = _reflect(r % wide - pad, width)
        row = _reflect((r // wide) % tall - pad, height)
        source = ((r // (wide * tall)) * height + row) * width + column
        value = tl.load(x + source[:, None].to(tl.int64) * channels + c[None, :], mask=keep, other=0.0)
        tl.store(y + r[:, None].to(tl.int64) * wide_channels + offset + c[None, :], value, mask=keep)

    @triton.jit
    def _pad_gradient_kernel(
        dy, dx, height, width, channels, pad, cells, wide_channels, offset, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = r < cells
        wide, tall = width + 2 * pad, height + 2 * pad
        column = r % width
        row = (r // width) % height
        image = r // (width * height)
        total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        # A pixel is read at its own place and, near an edge, once more through each mirror: three candidates along
        # each axis.
        for j in tl.static_range(3):
            if j == 0:
                py = row + pad
                ok_y = inside
            elif j == 1:
                py = pad - row
                ok_y = inside & (row >= 1) & (row <= pad)
            else:
                py = 2 * height - 2 - row + pad
                ok_y = inside & (row <= height - 2) & (row >= height - 1 - pad)
            for k in tl.static_range(3):
                if k == 0:
                    px = column + pad
                    ok = ok_y
                elif k == 1:
                    px = pad - column
                    ok = ok_y & (column >= 1) & (column <= pad)
                else:
                    px = 2 * width - 2 - column + pad
                    ok = ok_y & (column <= width - 2) & (column >= width - 1 - pad)
                place = ((image * tall + py) * wide + px)[:, None].to(tl.int64) * wide_channels + offset + c[None, :]
                total += tl.load(dy + place, mask=ok[:, None] & (c < channels)[None, :], other=0.0).to(tl.float32)
        keep = inside[:, None] & (c < channels)[None, :]
        tl.store(dx + r[:, None].to(tl.int64) * channels + c[None, :], total.to(dx.dtype.element_ty), mask=keep)


class _ReflectPad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pad: int, *parts: torch.Tensor) -> torch.Tensor:
        parts = tuple(as_rows(part) for part in parts)
        images, _, height, width = parts[0].shape
        ctx.channels, ctx.pad, ctx.size = [part.shape[1] for part in parts], pad, (images, height, width)
        size = (images, sum(ctx.channels), height + 2 * pad, width + 2 * pad)
        y = torch.empty(size, device=parts[0].device, dtype=parts[0].dtype, memory_format=torch.channels_last)
        cells, offset = rows_of(y), 0
        for part in parts:
            channels = part.shape[1]
            block = channel_block(channels)
            _pad_kernel[(-(-cells // ROWS_BLOCK), -(-channels // block))](
                part, y, height, width, channels, pad, cells, size[1], offset, BLOCK_R=ROWS_BLOCK, BLOCK_C=block
            )
            offset += channels
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy = as_rows(dy)
        images, height, width = ctx.size
        cells, offset, gradients = images * height * width, 0, []
        for channels in ctx.channels:
            size, block = (images, channels, height, width), channel_block(channels)
            dx = torch.empty(size, device=dy.device, dtype=dy.dtype, memory_format=torch.channels_last)
            _pad_gradient_kernel[(-(-cells // ROWS_BLOCK), -(-channels // block))](
                dy, dx, height, width, channels, ctx.pad, cells, dy.shape[1], offset, BLOCK_R=ROWS_BLOCK, BLOCK_C=block
            )
            gradients.append(dx)
            offset += channels
        return None, *gradients


def reflect_pad(pad: int, *parts: torch.Tensor) -> torch.Tensor:
    """Put (B, C_i, H, W) parts side by side and mirror `pad` pixels around each edge: (B, sum C_i, H + 2 pad, W + 2
    pad) channels-last.
    """
    if runs_on(parts[0]):
        return _ReflectPad.apply(pad, *parts)
    return F.pad(torch.cat(parts, 1), (pad,) * 4, mode="reflect")
