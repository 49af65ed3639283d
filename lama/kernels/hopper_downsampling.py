"""The first downsampling in one launch on a Hopper card, as `hopper_downsampling.cu` takes it.

A 3x3 convolution with a step of two pixels. Its input is seen as pairs of pixels: output x needs the odd pixel of the
pair before, and both of pair x. Weights stay in the registers of the warps that multiply.
"""

import math
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.convolution import convolve_reference, row_convolution
from lama.kernels.cuda_kernel import INTEGER, POINTER, STRUCTURE, tensor_map
from lama.kernels.hopper_card import keeps_at_work, trial_difference, tried, why_not_card
from lama.kernels.hopper_pieces import THREADS, in_registers, loaded, program
from lama.kernels.tiles import multiprocessors

SOURCE = Path(__file__).with_suffix(".cu")
CHANNELS, OUTPUTS, PIXELS = 64, 128, 64  # as in the kernel
PIXEL_BYTES = 2 * CHANNELS
TILE_BYTES = PIXELS * PIXEL_BYTES
SLOTS = 8  # input rows in flight and in use; there is no room for more
SHARED_BYTES = 3 * SLOTS * TILE_BYTES + 4 * TILE_BYTES + 8 * 2 * SLOTS  # of one program
NUMBERS = {"slots": SLOTS, "shared_bytes": SHARED_BYTES}
TRIAL_SHAPE, TRIAL_PROGRAMS = (1, 14, 6 * PIXELS, CHANNELS), 2
"""Runs that cross strips and use every slot again."""


@cache
def source() -> str:
    """Return the program to compile."""
    return program(SOURCE, numbers=NUMBERS, from_registers=(PIXELS,))


def downsampling_weights(weight: Tensor) -> Tensor:
    """Lay out weights (128, 64, 3, 3) as the threads hold them: (2, 36, 128, 8) float16.

    Of two groups of 64 outputs the terms are taps, row by row, and in each the channels.
    """
    return in_registers(weight.permute(0, 2, 3, 1).reshape(2, OUTPUTS // 2, 9 * CHANNELS)).half()


class HopperDownsampling:
    """A downsampling of 64 channels to 128 on a Hopper card.

    Args:
        convolution: weight (128, 64, 3, 3).
        device: where it runs.

    Attributes:
        weight: as `downsampling_weights` lays it out, on the device.
        bias: (128,) float32.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: Convolution, device: torch.device) -> None:
        self.weight = downsampling_weights(convolution.weight).to(device)
        self.bias = convolution.bias.to(device, torch.float32).contiguous()
        self._multiprocessors = multiprocessors(device)

    def takes(self, x: Tensor) -> bool:
        """Whether a map (B, H, W, C) has this kernel's channels, and pieces of 64 outputs that keep the card at work.

        The included network's 32 channels it does not take.
        """
        _, height, width, channels = x.shape
        if channels != CHANNELS or height % 2 or width % (2 * PIXELS):
            return False
        return keeps_at_work(units_of(x), self._multiprocessors)

    def downsample(self, x: Tensor, out: Tensor, *, programs: int | None = None) -> None:
        """Write ReLU(convolution + bias) of `x` to the first 128 channels of `out`.

        Args:
            x: (B, H, W, 64) float16, contiguous; H even, W a multiple of 128.
            out: (B, H/2, W/2, C) float16, contiguous; C a multiple of 8, at least 128.
            programs: that share the work; None: one for each multiprocessor.

        Raises:
            RuntimeError: the driver refuses.
        """
        batch, height, width, _ = x.shape
        row, pairs, units = width * CHANNELS, width // 2, units_of(x)
        sizes, strides = (CHANNELS, 2, pairs, batch * height), (CHANNELS, 2 * CHANNELS, row)
        maps = [
            tensor_map(x, sizes, strides, (CHANNELS, 1, pixels, 1), row_bytes=PIXEL_BYTES)
            for pixels in (PIXELS, 1, PIXELS - 1)
        ]
        out_pixels, out_channels = batch * (height // 2) * pairs, out.shape[-1]
        results = tensor_map(out, (OUTPUTS, out_pixels), (out_channels,), (OUTPUTS // 2, PIXELS), row_bytes=PIXEL_BYTES)
        kernel = loaded(source(), "downsample", SHARED_BYTES, x.device)
        kernel.launch(
            min(units, programs or self._multiprocessors),
            THREADS,
            (
                *maps,
                results,
                self.weight.data_ptr(),
                self.bias.data_ptr(),
                units,
                pairs // PIXELS,
                height // 2,
            ),
            (STRUCTURE, STRUCTURE, STRUCTURE, STRUCTURE, POINTER, POINTER, INTEGER, INTEGER, INTEGER),
            early=True,
        )


def units_of(x: Tensor) -> int:
    """Return how many units of work a map (B, H, W, C) has: 64 pixels of an output row each."""
    batch, height, width, _ = x.shape
    return batch * (height // 2) * (width // 2 // PIXELS)


def hopper_downsampling(convolution: Convolution, device: torch.device) -> tuple[HopperDownsampling | None, str]:
    """Build the form of a downsampling and try it on noise: (form, or None where the channels are others; obstacle)."""
    if obstacle := why_not_card(device):
        return None, obstacle
    if convolution.weight.shape != (OUTPUTS, CHANNELS, 3, 3):
        return None, ""

    def build() -> tuple[HopperDownsampling, float]:
        form = HopperDownsampling(convolution, device)
        return form, _trial_difference(form, convolution)

    return tried("downsampling", build)


def _trial_difference(form: HopperDownsampling, convolution: Convolution) -> float:
    """Run a form on noise: the relative difference from the definition on the CPU."""
    batch, height, width, _ = TRIAL_SHAPE
    x = torch.randn(TRIAL_SHAPE, generator=torch.Generator().manual_seed(0)).half()
    shape = (batch, height // 2, width // 2, OUTPUTS)
    out = torch.full(shape, math.nan, dtype=torch.float16, device=form.weight.device)
    form.downsample(x.to(form.weight.device), out, programs=TRIAL_PROGRAMS)
    expected = torch.empty(shape)
    convolve_reference(x.float(), row_convolution(convolution, torch.device("cpu"), stride=2), expected)
    return trial_difference(out.cpu(), expected)
