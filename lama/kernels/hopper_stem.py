"""The first 7x7 convolution with bias and ReLU on a Hopper card, as `hopper_stem.cu` takes it.

It reads what `pad_input` wrote as it lies, 128 pixels of a line at a time, and keeps the weights in registers. A pixel
that is not finite makes one column of outputs more NaN than the 7x7 convolution itself would, four pixels to its left
or right: there it is multiplied by a weight of zero.
"""

import math
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.cuda_kernel import INTEGER, POINTER, STRUCTURE, tensor_map
from lama.kernels.hopper_card import trial_difference, tried, why_not_card
from lama.kernels.hopper_pieces import in_registers, loaded, program
from lama.kernels.stem_head import (
    BORDER_PX,
    INPUT_CHANNELS,
    PADDED_COLUMNS,
    TAPS,
    convolve_stem_reference,
    stem_weights,
)
from lama.kernels.tiles import multiprocessors

SOURCE = Path(__file__).with_suffix(".cu")
GROUPS, THREADS = 4, 512  # as in the kernel
LEAST_HEIGHT = 4  # lines of a turn, at most; a map has as many where it is reflected at its borders
ROWS, PIXELS = 64, 128  # outputs and pixels of a product
WINDOW = TAPS + 1  # pixels of a line that a pair of them sees
LINE_BYTES = (PIXELS + TAPS - 1) * INPUT_CHANNELS * 2
STREAM_BYTES = 40
TRIAL_SHAPE, TRIAL_PROGRAMS = (2, 25, 2 * PIXELS), 3


@dataclass(frozen=True)
class StemPlan:
    """What the kernel is compiled for; there these are constants, their names in capitals.

    Attributes:
        outputs: channels that it gives, 32 or 64.
        lines: of the padded map in shared memory, a power of two.
        buffers: results of 64 pairs of pixels that a group of warps has under way to memory.
    """

    outputs: int
    lines: int = 32
    buffers: int = 4

    @property
    def parities(self) -> int:
        """How many groups of warps share a line: with 64 outputs one takes its even pixels and one its odd ones."""
        return 2 * self.outputs // ROWS

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one program."""
        results = GROUPS * self.buffers * PIXELS // 2 * ROWS * 2
        turns = self.lines * self.parities // GROUPS
        return results + self.lines * LINE_BYTES + 8 * (self.lines + turns) + STREAM_BYTES

    @cached_property
    def source(self) -> str:
        """The program to compile."""
        numbers = {field.name: getattr(self, field.name) for field in fields(self)}
        numbers["shared_bytes"] = self.shared_bytes
        return program(SOURCE, numbers=numbers, from_registers=(PIXELS // 2,))


PLANS = (StemPlan(64), StemPlan(32))


def stem_rows(convolution: Convolution) -> Tensor:
    """Lay out the weights as the product's rows.

    Args:
        convolution: weight (O, 4, 7, 7), O 32 or 64.

    Returns:
        (O / 32, 64, 7 x 8 x 4): of the even, then of the odd pixel of a pair the outputs; line, pixel of the eight that
        the pair sees and channel. The pixel that only the other one of the pair sees has zeros.
    """
    taps = convolution.weight.permute(0, 2, 3, 1)  # (output, line, pixel, channel)
    even, odd = taps.new_zeros(2, len(taps), TAPS, WINDOW, INPUT_CHANNELS)
    even[:, :, :TAPS], odd[:, :, 1:] = taps, taps
    return torch.stack([even, odd]).reshape(-1, ROWS, TAPS * WINDOW * INPUT_CHANNELS)


class HopperStem:
    """The first convolution on a Hopper card.

    Args:
        convolution: weight (O, 4, 7, 7), O 32 or 64.
        device: where it runs.
        programs: that run at once at most; None: as many as there are multiprocessors.
    """

    def __init__(self, convolution: Convolution, device: torch.device, *, programs: int | None = None) -> None:
        self.device = device
        self.plan = next(plan for plan in PLANS if plan.outputs == convolution.bias.numel())
        self._weights = in_registers(stem_rows(convolution)).to(device, torch.float16)
        self._bias = convolution.bias.repeat(2 // self.plan.parities).to(device, torch.float32)
        self._programs = programs or multiprocessors(device)

    def takes(self, out: Tensor) -> bool:
        """Whether an output of this shape (B, H, W, O) divides into the kernel's columns of pixels."""
        _, height, width, _ = out.shape
        return height >= LEAST_HEIGHT and width % PIXELS == 0

    def convolve(self, padded: Tensor, out: Tensor) -> None:
        """Do what `convolve_stem` does.

        Args:
            padded: (B, H + 6, W + 8, 4) float16, contiguous, as `pad_input` writes it.
            out: (B, H, W, O) float16, contiguous, which `takes` takes, of fewer than 2^31 numbers.
        """
        batch, height, width, _ = out.shape
        columns, pairs = width // PIXELS, batch * height * width // 2
        lines = batch * columns * height
        # (64 numbers, parity, pair): with 32 outputs the numbers are those of both pixels.
        parities = self.plan.parities
        boxes = tensor_map(out, (ROWS, parities, pairs), (ROWS, parities * ROWS), (ROWS, 1, PIXELS // 2), row_bytes=128)
        kernel = loaded(self.plan.source, "convolve_stem", self.plan.shared_bytes, out.device)
        kernel.launch(
            min(self._programs, lines),
            THREADS,
            (
                boxes,
                padded.data_ptr(),
                self._weights.data_ptr(),
                self._bias.data_ptr(),
                height,
                columns,
                lines,
            ),
            (STRUCTURE, POINTER, POINTER, POINTER, INTEGER, INTEGER, INTEGER),
            early=True,
        )


def hopper_stem(convolution: Convolution, device: torch.device) -> tuple[HopperStem | None, str]:
    """Build the form and try it on noise: (form, or None where it has another number of outputs; obstacle)."""
    if obstacle := why_not_card(device):
        return None, obstacle
    if not any(plan.outputs == convolution.bias.numel() for plan in PLANS):
        return None, ""

    def build() -> tuple[HopperStem, float]:
        form = HopperStem(convolution, device)
        return form, _trial_difference(convolution, device)

    return tried("stem", build)


def _trial_difference(convolution: Convolution, device: torch.device) -> float:
    """Run few programs over two columns of two images: the relative difference from the definition on the CPU.

    Each goes through all slots and on into another column, one of them into another image.
    """
    batch, height, width = TRIAL_SHAPE
    random = torch.Generator().manual_seed(0)
    shape = (batch, height + 2 * BORDER_PX, width + PADDED_COLUMNS, INPUT_CHANNELS)
    padded = torch.randn(shape, generator=random).half()
    out = torch.full((*TRIAL_SHAPE, convolution.bias.numel()), math.nan, dtype=torch.float16, device=device)
    HopperStem(convolution, device, programs=TRIAL_PROGRAMS).convolve(padded.to(device), out)
    expected = torch.empty(out.shape)
    convolve_stem_reference(padded.float(), stem_weights(convolution, torch.device("cpu")), expected)
    return trial_difference(out.cpu(), expected)
