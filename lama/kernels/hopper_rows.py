"""The spectral path's first launch on maps of 128 columns on a Hopper card, as `hopper_rows.cu` takes it.

A program takes a row of the map and all channels. Maps of other sizes have `hopper_path` or `spectral_path`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from lama.dft import dft_matrices
from lama.fold_batchnorm import FFCLayer
from lama.kernels.convolution import RowConvolution, convolve_reference, row_convolution
from lama.kernels.cuda_kernel import INTEGER, POINTER, STRUCTURE, tensor_map
from lama.kernels.fourier import KernelMatrices, kernel_matrices, multiply_reference
from lama.kernels.hopper_card import trial_difference, tried, why_not_card
from lama.kernels.hopper_pieces import PIECE, ROW_BYTES, THREADS, in_pieces, loaded, program
from lama.kernels.tiles import multiprocessors

SOURCE = Path(__file__).with_suffix(".cu")
WIDTH = 128  # as in the kernel
TRIAL_HEIGHT = 2


@dataclass(frozen=True)
class RowPlan:
    """How the kernel divides its work; there these are constants, their names in capitals.

    Attributes:
        inputs: channels that the 1x1 takes, a multiple of 32.
        channels: C, which it gives.
        slots: steps of 32 inputs in flight.
    """

    inputs: int
    channels: int
    slots: int

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one program."""
        piece = WIDTH * ROW_BYTES
        steps = self.slots * (piece + self.channels * ROW_BYTES)
        state = self.channels // PIECE * piece
        return steps + state + WIDTH // PIECE * piece + 8 * (1 + 2 * self.slots)

    @cached_property
    def source(self) -> str:
        """The program to compile."""
        numbers = {"inputs": self.inputs, "channels": self.channels, "slots": self.slots}
        numbers["shared_bytes"] = self.shared_bytes
        columns = (self.channels,)
        return program(SOURCE, numbers=numbers, outside=columns, inside=columns)


PLANS = (RowPlan(384, 192, slots=7), RowPlan(192, 96, slots=6))


class HopperRows:
    """The first 1x1 convolutions of all layers' spectral paths, with the row transforms, on a Hopper card."""

    def __init__(self, layers: Sequence[FFCLayer], device: torch.device) -> None:
        self.device = device
        rows = [row_convolution(layer.enter, device) for layer in layers]
        self._plan = plan_for(rows[0])
        self._weights = [in_pieces(row.weight.t()) for row in rows]
        self._biases = [row.bias for row in rows]
        matrices = kernel_matrices(dft_matrices(TRIAL_HEIGHT, WIDTH), device)  # the height does not change a row's
        self._matrix = in_pieces(matrices.row.values[:, :WIDTH])
        self._frequencies = matrices.frequencies
        self._multiprocessors = multiprocessors(device)

    def takes(self, x: Tensor) -> bool:
        """Whether a map of this shape (B, H, W, C) has that width, and no more rows than there are multiprocessors."""
        batch, height, width, _ = x.shape
        return width == WIDTH and batch * height <= self._multiprocessors

    def enter(self, layer: int, x: Tensor, planes: Tensor, *, from_channel: int) -> None:
        """Do what `spectral_path.enter_rows` does, for a map that `takes` says it takes.

        Args:
            layer: whose 1x1 convolution.
            x: (B, H, 128, channels) float16, contiguous; t goes to its last C channels.
            planes: (B, H, 2, K, C) float16, contiguous, for the transform.
            from_channel: of `x`, where the 1x1's inputs begin.
        """
        assert self._plan is not None
        plan, (batch, height, _, x_channels) = self._plan, x.shape
        pixels = tensor_map(x, (x_channels, batch * height * WIDTH), (x_channels,), (PIECE, WIDTH))
        loaded(plan.source, "enter_rows", plan.shared_bytes, x.device).launch(
            batch * height,
            THREADS,
            (
                pixels,
                self._weights[layer].data_ptr(),
                self._matrix.data_ptr(),
                self._biases[layer].data_ptr(),
                x.data_ptr(),
                planes.data_ptr(),
                from_channel,
                x_channels - plan.channels,
                x_channels,
                self._frequencies,
            ),
            (STRUCTURE, *(POINTER,) * 5, *(INTEGER,) * 4),
        )


def plan_for(enter: RowConvolution) -> RowPlan | None:
    """Choose the plan for a 1x1's channels, or none where there is none."""
    for plan in PLANS:
        if (plan.inputs, plan.channels) == (enter.inputs, enter.outputs):
            return plan
    return None


def hopper_rows(layers: Sequence[FFCLayer], device: torch.device) -> tuple[HopperRows | None, str]:
    """Build the form of all layers and try it on noise: (form, or None where the channels are others; obstacle)."""
    if obstacle := why_not_card(device):
        return None, obstacle
    cpu = torch.device("cpu")
    enter = row_convolution(layers[0].enter, cpu)
    if plan_for(enter) is None:
        return None, ""

    def build() -> tuple[HopperRows, float]:
        form = HopperRows(layers, device)
        return form, _trial_difference(form, enter)

    return tried("rows", build)


def _trial_difference(form: HopperRows, enter: RowConvolution) -> float:
    """Run a form's first layer: the largest relative difference from the definition on the CPU, infinite for NaN."""
    cpu, height = torch.device("cpu"), TRIAL_HEIGHT
    random = torch.Generator().manual_seed(0)
    x = torch.randn(1, height, WIDTH, enter.inputs + enter.outputs, generator=random).half()
    matrices = kernel_matrices(dft_matrices(height, WIDTH), cpu)
    state, expected = enter_reference(x[..., : enter.inputs].float(), enter, matrices)
    x[..., enter.inputs :] = math.nan
    there = x.to(form.device)
    planes = torch.zeros(expected.shape, dtype=torch.float16, device=form.device)
    form.enter(0, there, planes, from_channel=0)
    actual = there[..., enter.inputs :].cpu()
    return max(trial_difference(actual, state), trial_difference(planes.cpu(), expected))


def enter_reference(x: Tensor, enter: RowConvolution, matrices: KernelMatrices) -> tuple[Tensor, Tensor]:
    """The definition of `HopperRows.enter` from channel 0 on, computed in the type of `x`: (t, planes)."""
    batch, height, width, _ = x.shape
    state = x.new_empty(batch, height, width, enter.outputs)
    convolve_reference(x, enter, state)
    planes = x.new_zeros(batch, height, 2, matrices.frequencies, enter.outputs)
    rows = planes.view(batch, height, 2 * matrices.frequencies, enter.outputs)
    multiply_reference(matrices.row, state, rows, columns=enter.outputs, out_gap=matrices.frequencies)
    return state, planes
