"""Which rows a row of a resized image is made from, and with what weights, so that one can resize in strips of rows.

The weights are those of `torch.nn.functional.interpolate(antialias=True)`: a triangle as wide as two source rows'
distance in the target when it shrinks, Keys' cubic with a = -0.5 when it grows (Keys, "Cubic convolution interpolation
for digital image processing", 1981). They are made on the device that uses them: a host needs milliseconds for a large
table, and longer to send it. Row r spans r to r + 1; columns are weighted in the same way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

KEYS_A = -0.5
ROWS_AT_ONCE = 32  # on a CPU


def rows_needed(rows: range, *, target: int, source: int) -> range:
    """Find the source rows that some rows of the resized image are made from, whichever weights are used.

    Args:
        rows: of the resized image.
        target: its height.
        source: the source's height.

    Returns:
        the rows, within the source.
    """
    scale = source / target
    reach = 2 * max(scale, 1.0)
    first = math.floor((rows.start + 0.5) * scale - reach)
    last = math.ceil((rows.stop - 0.5) * scale + reach)
    return range(max(0, first), min(source, last))


def resize_rows(weights: Tensor, x: Tensor) -> Tensor:
    """Return weights @ x, where each row has weights for few source rows, which its neighbours mostly share.

    A GPU's product of everything is quicker than several launches; a CPU leaves out what is multiplied by 0.

    Args:
        weights: (rows, source rows), from one of the functions below; not modified.
        x: (C, source rows, width) of any strides; not modified.

    Returns:
        (C, rows, width).
    """
    if x.is_cuda or len(weights) <= ROWS_AT_ONCE:
        return torch.matmul(weights, x)
    parts = []
    for some in weights.split(ROWS_AT_ONCE):
        used = some.any(dim=0).nonzero()
        first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
        parts.append(torch.matmul(some[:, first:end], x[:, first:end]))
    return torch.cat(parts, dim=1)


def average_weights(rows: range, needed: range, *, target: int, source: int, device: torch.device) -> Tensor:
    """Return (rows, needed) float32: the antialiased bilinear average, each row's sum 1."""
    scale = source / target
    return triangle_weights(rows, needed, first=0.0, step=scale, device=device)


def triangle_weights(rows: range, needed: range, *, first: float, step: float, device: torch.device) -> Tensor:
    """Return (rows, needed) float32: the same for an image that begins at source row `first`, `step` rows apart.

    A row whose middle lies outside the needed ones is made from the nearest of them. Each row's sum is 1.
    """
    middles = (_numbers(rows, device) + 0.5).mul_(step).add_(first).clamp_(needed.start + 0.5, needed.stop - 0.5)
    distance = (_numbers(needed, device) + 0.5 - middles[:, None]).abs_()
    return _normalised(distance.mul_(-1 / max(step, 1.0)).add_(1).clamp_(min=0))


def cubic_weights(rows: range, needed: range, *, target: int, source: int, device: torch.device) -> Tensor:
    """Return (rows, needed) float32: antialiased cubic interpolation, each row's sum 1."""
    scale = source / target
    middles = (_numbers(rows, device) + 0.5) * scale
    x = (_numbers(needed, device) + 0.5 - middles[:, None]).abs_() / max(scale, 1.0)
    near = ((KEYS_A + 2) * x - (KEYS_A + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * KEYS_A - 4 * KEYS_A
    return _normalised(torch.where(x < 1, near, torch.where(x < 2, far, 0.0)))


def covers(rows: range, needed: range, *, target: int, source: int, device: torch.device) -> Tensor:
    """Return (rows, needed) float32: 1 where a resized row and a source row overlap, by adaptive pooling's rule."""
    index = torch.arange(rows.start, rows.stop, device=device)[:, None]
    row = torch.arange(needed.start, needed.stop, device=device)
    return ((row >= index * source // target) & (row < -(-(index + 1) * source // target))).float()


def _numbers(rows: range, device: torch.device) -> Tensor:
    return torch.arange(rows.start, rows.stop, dtype=torch.float64, device=device)


def _normalised(weights: Tensor) -> Tensor:
    return (weights / weights.sum(dim=1, keepdim=True)).float()
