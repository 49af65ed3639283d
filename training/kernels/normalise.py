"""Batch-norm in training mode (arXiv:1502.03167), ReLU and the residual as one operator.

It reads the convolution's output twice and writes once, where separate operators pass over it five times.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from training.kernels.rows import ROWS_BLOCK, as_rows, channel_block, channels_of, rows_of, runs_on

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds carry no Triton
    triton = None

EPSILON = 1e-5
PARTS = 1056  # most programs along the rows when summing: eight for each multiprocessor of a large card
BLOCKS_A_PART = 4  # fewest blocks of rows for each of them, as each ends in one atomic addition per channel

if triton is not None:

    @triton.jit
    def _sums_kernel(x, sums, rows, channels: tl.constexpr, per_part, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
        part = tl.program_id(0)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        keep_c = c < channels
        total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        squares = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        first = part * per_part
        for start in range(first, min(first + per_part, rows), BLOCK_R):
            r = start + tl.arange(0, BLOCK_R)
            keep = (r < min(first + per_part, rows))[:, None] & keep_c[None, :]
            value = tl.load(x + r[:, None].to(tl.int64) * channels + c[None, :], mask=keep, other=0.0).to(tl.float32)
            total += value
            squares += value * value
        tl.atomic_add(sums + c, tl.sum(total, 0), mask=keep_c)
        tl.atomic_add(sums + channels + c, tl.sum(squares, 0), mask=keep_c)

    @triton.jit
    def _finish_kernel(
        sums, weight, bias, moments, rows, channels: tl.constexpr, EPS: tl.constexpr, BLOCK_C: tl.constexpr
    ):
        c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
        keep = c < channels
        mean = tl.load(sums + c, mask=keep, other=0.0) / rows
        variance = tl.maximum(tl.load(sums + channels + c, mask=keep, other=0.0) / rows - mean * mean, 0.0)
        inverse = 1.0 / tl.sqrt(variance + EPS)
        scale = tl.load(weight + c, mask=keep, other=0.0) * inverse
        tl.store(moments + c, mean, mask=keep)
        tl.store(moments + channels + c, variance, mask=keep)
        tl.store(moments + 2 * channels + c, inverse, mask=keep)
        tl.store(moments + 3 * channels + c, scale, mask=keep)
        tl.store(moments + 4 * channels + c, tl.load(bias + c, mask=keep, other=0.0) - mean * scale, mask=keep)

    @triton.jit
    def _normalise_kernel(
        x,
        residual,
        y,
        scale,
        shift,
        rows,
        channels: tl.constexpr,
        RESIDUAL: tl.constexpr,
        BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        keep = (r < rows)[:, None] & (c < channels)[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        value = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
        a = tl.load(scale + c, mask=c < channels, other=0.0)[None, :]
        b = tl.load(shift + c, mask=c < channels, other=0.0)[None, :]
        out = tl.maximum(value * a + b, 0.0)
        if RESIDUAL:
            out += tl.load(residual + place, mask=keep, other=0.0).to(tl.float32)
        tl.store(y + place, out.to(y.dtype.element_ty), mask=keep)

    @triton.jit
    def _gradient_sums_kernel(
        x,
        dy,
        scale,
        shift,
        mean,
        inverse,
        sums,
        rows,
        channels: tl.constexpr,
        per_part,
        BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):
        part = tl.program_id(0)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        keep_c = c < channels
        a = tl.load(scale + c, mask=keep_c, other=0.0)[None, :]
        b = tl.load(shift + c, mask=keep_c, other=0.0)[None, :]
        m = tl.load(mean + c, mask=keep_c, other=0.0)[None, :]
        i = tl.load(inverse + c, mask=keep_c, other=0.0)[None, :]
        total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        along = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
        first = part * per_part
        for start in range(first, min(first + per_part, rows), BLOCK_R):
            r = start + tl.arange(0, BLOCK_R)
            keep = (r < min(first + per_part, rows))[:, None] & keep_c[None, :]
            place = r[:, None].to(tl.int64) * channels + c[None, :]
            value = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
            slope = tl.load(dy + place, mask=keep, other=0.0).to(tl.float32)
            slope = tl.where(value * a + b > 0, slope, 0.0)
            total += slope
            along += slope * (value - m) * i
        tl.atomic_add(sums + c, tl.sum(total, 0), mask=keep_c)
        tl.atomic_add(sums + channels + c, tl.sum(along, 0), mask=keep_c)

    @triton.jit
    def _gradient_kernel(
        x,
        dy,
        dx,
        scale,
        shift,
        mean,
        inverse,
        total,
        along,
        rows,
        channels: tl.constexpr,
        BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        keep_c = c < channels
        keep = (r < rows)[:, None] & keep_c[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        a = tl.load(scale + c, mask=keep_c, other=0.0)[None, :]
        b = tl.load(shift + c, mask=keep_c, other=0.0)[None, :]
        m = tl.load(mean + c, mask=keep_c, other=0.0)[None, :]
        i = tl.load(inverse + c, mask=keep_c, other=0.0)[None, :]
        t = tl.load(total + c, mask=keep_c, other=0.0)[None, :]
        g = tl.load(along + c, mask=keep_c, other=0.0)[None, :]
        value = tl.load(x + place, mask=keep, other=0.0).to(tl.float32)
        slope = tl.load(dy + place, mask=keep, other=0.0).to(tl.float32)
        slope = tl.where(value * a + b > 0, slope, 0.0)
        out = a * (slope - (t + (value - m) * i * g) / rows)
        tl.store(dx + place, out.to(dx.dtype.element_ty), mask=keep)


def _column_sums(kernel: Any, x: torch.Tensor, extra: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Run a kernel that sums over the rows: (2, C) float32."""
    channels, rows = channels_of(x), rows_of(x)
    block = channel_block(channels)
    parts = min(PARTS, -(-rows // (BLOCKS_A_PART * ROWS_BLOCK)))
    per_part = -(-rows // parts)
    sums = torch.zeros(2, channels, device=x.device, dtype=torch.float32)
    kernel[(parts, -(-channels // block))](x, *extra, sums, rows, channels, per_part, BLOCK_R=ROWS_BLOCK, BLOCK_C=block)
    return sums


class _BatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = as_rows(x)
        channels, rows = channels_of(x), rows_of(x)
        sums = _column_sums(_sums_kernel, x, ())
        block = channel_block(channels)
        moments = torch.empty(5, channels, device=x.device, dtype=torch.float32)
        _finish_kernel[(-(-channels // block),)](
            sums, weight, bias, moments, rows, channels, EPS=EPSILON, BLOCK_C=block
        )
        mean, variance, inverse, scale, shift = moments.unbind(0)
        y = torch.empty_like(x)
        extra = as_rows(residual) if residual is not None else x
        _normalise_kernel[(-(-rows // ROWS_BLOCK), -(-channels // block))](
            x, extra, y, scale, shift, rows, channels, RESIDUAL=residual is not None, BLOCK_R=ROWS_BLOCK, BLOCK_C=block
        )
        ctx.save_for_backward(x, scale, shift, mean, inverse)
        ctx.residual = residual is not None
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(
        ctx: Any, dy: torch.Tensor, _mean: torch.Tensor, _variance: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        x, scale, shift, mean, inverse = ctx.saved_tensors
        dy = as_rows(dy)
        channels, rows = channels_of(x), rows_of(x)
        block = channel_block(channels)
        sums = _column_sums(_gradient_sums_kernel, x, (dy, scale, shift, mean, inverse))
        dx = torch.empty_like(x)
        _gradient_kernel[(-(-rows // ROWS_BLOCK), -(-channels // block))](
            x, dy, dx, scale, shift, mean, inverse, sums[0], sums[1], rows, channels, BLOCK_R=ROWS_BLOCK, BLOCK_C=block
        )
        return dx, sums[1], sums[0], dy if ctx.residual else None


def batch_norm_relu_plain(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Define `batch_norm_relu`: the same result from PyTorch's own operators."""
    over = (0, 2, 3) if x.dim() == 4 else tuple(range(x.dim() - 1))
    shape = (1, -1, 1, 1) if x.dim() == 4 else (-1,)
    wide = x.float()
    variance, mean = torch.var_mean(wide, over, correction=0)
    y = F.relu(
        (wide - mean.view(shape)) * torch.rsqrt(variance + EPSILON).view(shape) * weight.view(shape) + bias.view(shape)
    )
    y = y.to(x.dtype)
    return (y if residual is None else y + residual), mean.detach(), variance.detach()


def batch_norm_relu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalise over all but the channels, scale, shift, ReLU, then add the residual.

    x: (B, C, H, W) channels-last or (…, C), any float type; weight, bias: (C,) float32. Returns (y like x, mean
    (C,), biased variance (C,)).
    """
    if runs_on(x):
        return _BatchNormReLU.apply(x, weight, bias, residual)
    return batch_norm_relu_plain(x, weight, bias, residual)
