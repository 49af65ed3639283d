"""The decoder's transposed convolutions as the Hopper kernels take them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.hopper_card import (
    COLUMNS,
    DEPTH,
    OUTPUTS,
    ROWS,
    keeps_at_work,
    tiles_of,
    trial_difference,
    tried,
    why_not_card,
    why_not_gluon,
)
from lama.kernels.tiles import multiprocessors, tile_for
from lama.kernels.upsampling import row_upsampling, upsample

SLOTS = 5
STEPS = (
    (((2, 2), (0, 2), (1, 2)), ((2, 0), (0, 0), (1, 0))),
    (((2, 1), (0, 1), (1, 1)),),
)
"""Taps in the order of the kernel's steps. For odd output columns, of the pixels and of those one column to the right;
for even ones, of the pixels. Of each three the first two are for odd output rows, of a pixel and of that below it."""
TRIAL_SHAPE = (2, 2 * ROWS, 2 * COLUMNS)


class HopperUpsampling:
    """A transposed convolution on a Hopper card.

    Args:
        convolution: weight (I, O, 3, 3), I a multiple of 32, O of 64.
        device: where it runs.

    Attributes:
        weight: (rows, 32) float16: for every 32 input channels the taps of odd output columns, then for every 32 those
            of even ones, (O, 32) each.
        bias: (O,) float32.
        inputs: I.
    """

    weight: Tensor
    bias: Tensor
    inputs: int

    def __init__(self, convolution: Convolution, device: torch.device) -> None:
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        from lama.kernels.hopper_steps import OPERAND

        self.inputs, outputs = convolution.weight.shape[:2]
        chunks = convolution.weight.view(self.inputs // DEPTH, DEPTH, outputs, 3, 3).transpose(1, 2)
        rows = [
            torch.stack([chunks[..., y, x] for taps in steps for y, x in taps], dim=1).reshape(-1, DEPTH)
            for steps in STEPS
        ]
        self.weight = torch.cat(rows).to(device, torch.float16).contiguous()
        self.bias = convolution.bias.to(device, torch.float32)
        self._box: Any = TensorDescriptor.from_tensor(self.weight, [OUTPUTS, DEPTH], OPERAND.value)
        self._multiprocessors = multiprocessors(device)

    def takes(self, x: Tensor) -> bool:
        """Whether a map of this shape (B, H, W, C) divides into tiles, and those among the multiprocessors."""
        _, height, width, _ = x.shape
        if height % ROWS or width % COLUMNS:
            return False
        return keeps_at_work(self._tiles(x), self._multiprocessors)

    def upsample(self, x: Tensor, out: Tensor) -> None:
        """Write ReLU(transposed convolution + bias) of the first I channels of `x` to `out`.

        Args:
            x: (B, H, W, C) float16, the pixels of a row contiguous.
            out: (B, 2 H, 2 W, O) float16, contiguous.
        """
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        from lama.kernels.hopper_steps import OPERAND_BOX, RESULT_BOX
        from lama.kernels.hopper_upsampling import upsample_tiles

        batch, height, width, _ = x.shape
        outputs, tiles = self.bias.numel(), self._tiles(x)
        by_parity = out.view(batch * height, 2, width, 2 * outputs)
        upsample_tiles[(min(tiles, self._multiprocessors),)](
            TensorDescriptor.from_tensor(x, [1, ROWS, COLUMNS, DEPTH], OPERAND_BOX.value),
            TensorDescriptor.from_tensor(x, [1, 1, COLUMNS, DEPTH], OPERAND_BOX.value),
            self._box,
            TensorDescriptor.from_tensor(by_parity, [ROWS, 1, COLUMNS, OUTPUTS], RESULT_BOX.value),
            self.bias,
            height,
            width,
            tiles,
            INPUTS=self.inputs,
            ALL_OUTPUTS=outputs,
            SLOTS=SLOTS,
            num_warps=4,
        )

    def _tiles(self, x: Tensor) -> int:
        batch, height, width, _ = x.shape
        return tiles_of(batch, height, width, self.bias.numel())


def hopper_upsamplings(
    convolutions: Sequence[Convolution], device: torch.device
) -> tuple[list[HopperUpsampling | None], str]:
    """Build the Hopper form of those that have one, and try the first: (forms, None for the others; obstacle)."""
    none: list[HopperUpsampling | None] = [None] * len(convolutions)
    if obstacle := why_not_card(device) or why_not_gluon():
        return none, obstacle

    def build() -> tuple[list[HopperUpsampling | None], float]:
        forms = [HopperUpsampling(each, device) if is_whole(each) else None for each in convolutions]
        for form, convolution in zip(forms, convolutions, strict=True):
            if form is not None:
                return forms, _trial_difference(form, convolution)
        return forms, 0.0

    forms, obstacle = tried("upsampling", build)
    return forms or none, obstacle


def is_whole(convolution: Convolution) -> bool:
    """Whether its channels divide into the kernel's steps and tiles."""
    inputs, outputs = convolution.weight.shape[:2]
    return inputs % DEPTH == 0 and outputs % OUTPUTS == 0


def _trial_difference(form: HopperUpsampling, convolution: Convolution) -> float:
    """Run a form on noise: the relative difference from the other kernel."""
    device, (batch, height, width) = form.weight.device, TRIAL_SHAPE
    random = torch.Generator(device).manual_seed(0)
    x = torch.randn(*TRIAL_SHAPE, form.inputs, generator=random, device=device).half()
    out = torch.full((batch, 2 * height, 2 * width, form.bias.numel()), math.nan, dtype=torch.float16, device=device)
    expected = torch.empty_like(out)
    form.upsample(x, out)
    tile = tile_for("up", batch * height * width, columns=form.bias.numel(), depth=form.inputs, device=device)
    upsample(x, row_upsampling(convolution, device), expected, tile=tile)
    return trial_difference(out, expected)
