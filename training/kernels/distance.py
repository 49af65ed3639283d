"""The distance of unit-length feature vectors, the inner part of the perceptual term."""

from __future__ import annotations

from typing import Any

import torch

from training.kernels.rows import as_rows, rows_of, runs_on

try:
    import triton
    import triton.language as tl
except ImportError:  # CPU builds carry no Triton
    triton = None

FEATURE_EPSILON = 1e-4
DISTANCE_ROWS = 16  # a program holds whole vectors, up to 512 channels

if triton is not None:

    @triton.jit
    def _distance_kernel(
        got,
        want,
        distance,
        rows,
        channels: tl.constexpr,
        EPS: tl.constexpr,
        BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.arange(0, BLOCK_C)
        keep = (r < rows)[:, None] & (c < channels)[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        g = tl.load(got + place, mask=keep, other=0.0).to(tl.float32)
        w = tl.load(want + place, mask=keep, other=0.0).to(tl.float32)
        g = g / tl.sqrt(tl.sum(g * g, 1) + EPS)[:, None]
        w = w / tl.sqrt(tl.sum(w * w, 1) + EPS)[:, None]
        tl.store(distance + r, tl.sum((g - w) * (g - w), 1), mask=r < rows)

    @triton.jit
    def _distance_gradient_kernel(
        got,
        want,
        slope,
        gradient,
        rows,
        channels: tl.constexpr,
        EPS: tl.constexpr,
        BLOCK_R: tl.constexpr,
        BLOCK_C: tl.constexpr,
    ):
        r = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
        c = tl.arange(0, BLOCK_C)
        keep = (r < rows)[:, None] & (c < channels)[None, :]
        place = r[:, None].to(tl.int64) * channels + c[None, :]
        g = tl.load(got + place, mask=keep, other=0.0).to(tl.float32)
        w = tl.load(want + place, mask=keep, other=0.0).to(tl.float32)
        length = (1.0 / tl.sqrt(tl.sum(g * g, 1) + EPS))[:, None]
        unit = g * length
        w = w / tl.sqrt(tl.sum(w * w, 1) + EPS)[:, None]
        pull = 2 * (unit - w) * tl.load(slope + r, mask=r < rows, other=0.0)[:, None]
        out = length * (pull - unit * tl.sum(pull * unit, 1)[:, None])
        tl.store(gradient + place, out.to(gradient.dtype.element_ty), mask=keep)


class _FeatureDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
        got, want = as_rows(got), as_rows(want)
        rows, channels = rows_of(got), got.shape[1]
        distance = torch.empty(got.shape[0], 1, *got.shape[2:], device=got.device, dtype=torch.float32)
        block = triton.next_power_of_2(channels)
        _distance_kernel[(-(-rows // DISTANCE_ROWS),)](
            got, want, distance, rows, channels, EPS=FEATURE_EPSILON, BLOCK_R=DISTANCE_ROWS, BLOCK_C=block
        )
        ctx.save_for_backward(got, want)
        return distance

    @staticmethod
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        got, want = ctx.saved_tensors
        rows, channels = rows_of(got), got.shape[1]
        gradient = torch.empty_like(got)
        block = triton.next_power_of_2(channels)
        _distance_gradient_kernel[(-(-rows // DISTANCE_ROWS),)](
            got,
            want,
            slope.contiguous(),
            gradient,
            rows,
            channels,
            EPS=FEATURE_EPSILON,
            BLOCK_R=DISTANCE_ROWS,
            BLOCK_C=block,
        )
        return gradient, None


def feature_distance_plain(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """Define `feature_distance`: the same result from PyTorch's own operators."""
    got, want = got.float(), want.float()
    got = got * torch.rsqrt(got.square().sum(1, keepdim=True) + FEATURE_EPSILON)
    want = want * torch.rsqrt(want.square().sum(1, keepdim=True) + FEATURE_EPSILON)
    return (got - want).square().sum(1, keepdim=True)


def feature_distance(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of unit-length feature vectors.

    (B, C, H, W), (B, C, H, W) -> (B, 1, H, W) float32; no gradient flows to `want`.
    """
    if runs_on(got):
        return _FeatureDistance.apply(got, want)
    return feature_distance_plain(got, want)
