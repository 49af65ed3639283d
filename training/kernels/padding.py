"""Reflection padding of several maps at once, also in depth form.

It puts its inputs side by side, so that no concatenation is written.

A map in depth form (space to depth) is (B, 4 C, H / 2, W / 2), channels in the order (row parity, column parity, C): in
memory the four pixels of a square lie next to each other. Convolutions with few channels run several times faster so.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from training.kernels.rows import ROWS_BLOCK, as_rows, channel_block, runs_on

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
    def _pixel_at(r, height, width, DEPTH: tl.constexpr):
        """Image, row and column of the r-th pixel in memory."""
        if DEPTH:
            square = r // 4
            across = width // 2
            column = (square % across) * 2 + r % 2
            row = ((square // across) % (height // 2)) * 2 + (r // 2) % 2
        else:
            column = r % width
            row = (r // width) % height
        return r // (width * height), row, column

    @triton.jit
    def _place_of(image, row, column, height, width, DEPTH: tl.constexpr):
        """Which pixel in memory lies at a row and column; the inverse of `_pixel_at`."""
        if DEPTH:
            square = (image * (height // 2) + row // 2) * (width // 2) + column // 2
            return square * 4 + (row % 2) * 2 + column % 2
        return (image * height + row) * width + column

    @triton.jit
    def _pad_kernel(
        x,
        y,
        height,
        width,
        channels,
        before,
        after,
        cells,
        wide_channels,
        offset,
        FROM_DEPTH: tl.constexpr,
        TO_DEPTH: tl.constexpr,
        BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        keep = (r < cells)[:, None] & (c < channels)[None, :]
        image, row, column = _pixel_at(r, height + before + after, width + before + after, TO_DEPTH)
        row = _reflect(row - before, height)
        column = _reflect(column - before, width)
        source = _place_of(image, row, column, height, width, FROM_DEPTH)
        value = tl.load(x + source[:, None].to(tl.int64) * channels + c[None, :], mask=keep, other=0.0)
        tl.store(y + r[:, None].to(tl.int64) * wide_channels + offset + c[None, :], value, mask=keep)

    @triton.jit
    def _pad_gradient_kernel(
        dy,
        dx,
        height,
        width,
        channels,
        before,
        after,
        cells,
        wide_channels,
        offset,
        FROM_DEPTH: tl.constexpr,
        TO_DEPTH: tl.constexpr,
        BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = r < cells
        wide, tall = width + before + after, height + before + after
        image, row, column = _pixel_at(r, height, width, FROM_DEPTH)
        total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        # A pixel is read at its own place and, near an edge, once more through each mirror: three candidates along
        # each axis.
        for j in tl.static_range(3):
            if j == 0:
                py = row + before
                ok_y = inside
            elif j == 1:
                py = before - row
                ok_y = inside & (row >= 1) & (row <= before)
            else:
                py = 2 * height - 2 - row + before
                ok_y = inside & (row <= height - 2) & (row >= height - 1 - after)
            for k in tl.static_range(3):
                if k == 0:
                    px = column + before
                    ok = ok_y
                elif k == 1:
                    px = before - column
                    ok = ok_y & (column >= 1) & (column <= before)
                else:
                    px = 2 * width - 2 - column + before
                    ok = ok_y & (column <= width - 2) & (column >= width - 1 - after)
                cell = _place_of(image, py, px, tall, wide, TO_DEPTH)
                place = cell[:, None].to(tl.int64) * wide_channels + offset + c[None, :]
                total += tl.load(dy + place, mask=ok[:, None] & (c < channels)[None, :], other=0.0).to(tl.float32)
        keep = inside[:, None] & (c < channels)[None, :]
        tl.store(dx + r[:, None].to(tl.int64) * channels + c[None, :], total.to(dx.dtype.element_ty), mask=keep)


class _ReflectPad(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, before: int, after: int, from_depth: bool, to_depth: bool, *parts: torch.Tensor
    ) -> torch.Tensor:
        parts = tuple(as_rows(part) for part in parts)
        images, height, width = parts[0].shape[0], *_pixels_of(parts[0], from_depth)
        ctx.forms = {"FROM_DEPTH": from_depth, "TO_DEPTH": to_depth}
        ctx.shapes, ctx.size, ctx.pads = [part.shape for part in parts], (images, height, width), (before, after)
        ctx.channels = [part.shape[1] // (4 if from_depth else 1) for part in parts]
        tall, wide, total = height + before + after, width + before + after, sum(ctx.channels)
        size = (images, 4 * total, tall // 2, wide // 2) if to_depth else (images, total, tall, wide)
        y = torch.empty(size, device=parts[0].device, dtype=parts[0].dtype, memory_format=torch.channels_last)
        cells, offset = images * tall * wide, 0
        for part, channels in zip(parts, ctx.channels, strict=True):
            block = channel_block(channels)
            sizes = (height, width, channels, before, after, cells, total, offset)
            _pad_kernel[(-(-cells // ROWS_BLOCK), -(-channels // block))](
                part, y, *sizes, **ctx.forms, BLOCK_R=ROWS_BLOCK, BLOCK_C=block
            )
            offset += channels
        return y

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dy = as_rows(dy)
        images, height, width = ctx.size
        cells, offset, gradients = images * height * width, 0, []
        for shape, channels in zip(ctx.shapes, ctx.channels, strict=True):
            block = channel_block(channels)
            dx = torch.empty(shape, device=dy.device, dtype=dy.dtype, memory_format=torch.channels_last)
            sizes = (height, width, channels, *ctx.pads, cells, sum(ctx.channels), offset)
            _pad_gradient_kernel[(-(-cells // ROWS_BLOCK), -(-channels // block))](
                dy, dx, *sizes, **ctx.forms, BLOCK_R=ROWS_BLOCK, BLOCK_C=block
            )
            gradients.append(dx)
            offset += channels
        return None, None, None, None, *gradients


def _pixels_of(x: torch.Tensor, in_depth: bool) -> tuple[int, int]:
    """Height and width of a map in pixels."""
    scale = 2 if in_depth else 1
    return scale * x.shape[2], scale * x.shape[3]


def reflect_pad(
    pad: int | tuple[int, int], *parts: torch.Tensor, from_depth: bool = False, to_depth: bool = False
) -> torch.Tensor:
    """Put parts side by side and mirror pixels around each edge.

    (B, C_i, H, W) parts become (B, sum C_i, H + pads, W + pads), channels-last. `pad` is for every edge, or (above and
    left, below and right).

    `from_depth` and `to_depth` say that the parts are, and the result shall be, in depth form.
    """
    before, after = (pad, pad) if isinstance(pad, int) else pad
    if runs_on(parts[0]):
        return _ReflectPad.apply(before, after, from_depth, to_depth, *parts)
    return reflect_pad_plain(before, after, from_depth, to_depth, *parts)


def reflect_pad_plain(before: int, after: int, from_depth: bool, to_depth: bool, *parts: torch.Tensor) -> torch.Tensor:
    """Define `reflect_pad` by PyTorch's own operators."""
    x = torch.cat([space_form(part) if from_depth else part for part in parts], 1)
    x = F.pad(x, (before, after, before, after), mode="reflect")
    return depth_form(x) if to_depth else x


def depth_form(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W) -> (B, 4 C, H / 2, W / 2)."""
    batch, channels, height, width = x.shape
    squares = x.reshape(batch, channels, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return squares.reshape(batch, 4 * channels, height // 2, width // 2)


def space_form(x: torch.Tensor) -> torch.Tensor:
    """(B, 4 C, H / 2, W / 2) -> (B, C, H, W), the inverse of `depth_form`."""
    batch, channels, height, width = x.shape
    squares = x.reshape(batch, 2, 2, channels // 4, height, width).permute(0, 3, 4, 1, 5, 2)
    return squares.reshape(batch, channels // 4, 2 * height, 2 * width)
