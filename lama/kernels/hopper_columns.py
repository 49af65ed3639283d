"""The spectral path between its row transforms, in one launch on a Hopper card, as `hopper_columns.cu` takes it.

A program takes one or two columns of the spectrum: it transforms them, multiplies them by the 1x1 convolution's weights
for its share of the output channels, and transforms these back. Programs that share columns each do the first transform
for themselves, which costs less than handing it on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor

from lama.dft import dft_matrices
from lama.fold_batchnorm import FFCLayer
from lama.kernels.cuda_kernel import FLOAT, INTEGER, POINTER, STRUCTURE, tensor_map
from lama.kernels.fourier import KernelMatrices, kernel_matrices, multiply_reference
from lama.kernels.hopper_card import trial_difference, tried, why_not_card
from lama.kernels.hopper_pieces import PIECE, ROW_BYTES, THREADS, in_pieces, loaded, program, swizzled
from lama.kernels.spectral_path import SpectrumConvolution, convolve_spectrum_reference, spectrum_convolution
from lama.kernels.tiles import multiprocessors

SOURCE = Path(__file__).with_suffix(".cu")
GROUP_CHANNELS = 96  # as in the kernel
TRIAL_COLUMNS = 3


@dataclass(frozen=True)
class ColumnPlan:
    """How the kernel divides its work; there these are constants, their names in capitals.

    Attributes:
        height: H of the map, 64 or 128.
        channels: C, a multiple of 96.
        groups_of_rows: 2: a program's groups of warps share a product's columns and have 64 rows each (parts, or two
            columns of the spectrum), 1: they share its rows and have channels of their own.
        outputs: channels that a group computes.
        slots: steps of weights in flight.
    """

    height: int
    channels: int
    groups_of_rows: int
    outputs: int
    slots: int

    @property
    def columns(self) -> int:
        """Columns of the spectrum in one program."""
        return 64 * self.groups_of_rows // self.height

    @property
    def programs_of_column(self) -> int:
        """Programs that share their columns."""
        return self.channels // (self.outputs * 2 // self.groups_of_rows)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one program."""
        sides = 2 // self.groups_of_rows
        piece = 2 * 64 * self.groups_of_rows * ROW_BYTES
        pieces = max(self.channels // PIECE, sides * -(-self.outputs // PIECE))
        matrices = (4 if self.height == 128 else 2) * 128 * ROW_BYTES
        weights = self.slots * sides * 2 * self.outputs * ROW_BYTES
        shifts = 8 * self.channels // self.programs_of_column
        barriers = 8 * (1 + self.channels // GROUP_CHANNELS + 2 * self.slots)
        return pieces * piece + matrices + weights + shifts + barriers

    @cached_property
    def source(self) -> str:
        """The program to compile."""
        numbers = {field.name: getattr(self, field.name) for field in fields(self)}
        numbers["shared_bytes"] = self.shared_bytes
        return program(SOURCE, numbers=numbers, outside=(GROUP_CHANNELS, self.outputs), inside=(2 * self.outputs,))


PLANS = (
    (ColumnPlan(128, 192, groups_of_rows=2, outputs=96, slots=4), 12.6),
    (ColumnPlan(64, 192, groups_of_rows=1, outputs=48, slots=8), 6.7),
    (ColumnPlan(64, 192, groups_of_rows=1, outputs=96, slots=4), 10.9),
    (ColumnPlan(128, 96, groups_of_rows=2, outputs=48, slots=6), 7.7),
    (ColumnPlan(64, 96, groups_of_rows=1, outputs=24, slots=6), 4.8),
    (ColumnPlan(64, 96, groups_of_rows=1, outputs=48, slots=6), 5.9),
    (ColumnPlan(64, 96, groups_of_rows=2, outputs=96, slots=4), 9.6),
)
"""Each with the microseconds that its programs take on an H200, at most one for each multiprocessor."""


def plan_for(height: int, channels: int, columns: int, programs: int) -> ColumnPlan | None:
    """Choose the fastest plan for so many columns of the spectrum, all images together.

    Args:
        height: H of the map.
        channels: C.
        columns: of all images.
        programs: that run at once: the card's multiprocessors.

    Returns:
        The plan, or None where the map has another size or where programs would wait for others: eight images of
        512x512 in big-lama's width took 7.28 ms so and 7.21 ms with three launches.
    """
    choices = [
        (us, plan)
        for plan, us in PLANS
        if (plan.height, plan.channels) == (height, channels)
        and -(-columns // plan.columns) * plan.programs_of_column <= programs
    ]
    return min(choices, key=lambda choice: choice[0])[1] if choices else None


def column_weights(convolution: SpectrumConvolution) -> Tensor:
    """Lay out the 1x1's weights: for every 96 outputs, step, part and output the step's 32 terms, swizzled."""
    channels = convolution.bias.numel() // 2
    groups, pieces = channels // GROUP_CHANNELS, GROUP_CHANNELS // PIECE
    terms = convolution.weight.view(2, groups, pieces, PIECE, 2, groups, GROUP_CHANNELS)
    # (part, group, piece, term, part out, block, output) -> (block, group, part, piece, part out, output, term)
    ordered = terms.permute(5, 1, 0, 2, 4, 6, 3).reshape(-1, 2 * GROUP_CHANNELS, PIECE)
    return swizzled(ordered).contiguous()


def column_matrices(height: int, device: torch.device) -> Tensor:
    """Cosines and sines of half a column transform: of even terms, then of odd ones (64, 64) each, swizzled.

    For 128 rows these are the cosines of both, then the sines of both; for 64 both in one matrix, real parts first.
    """
    half = height // 2
    angles = [
        torch.outer(torch.arange(half), 2 * torch.arange(half) + parity) % height * (2 * math.pi / height)
        for parity in (0, 1)
    ]
    cosines, sines = [angle.double().cos() for angle in angles], [angle.double().sin() for angle in angles]
    if height == 128:
        matrices = [*cosines, *sines]
    else:
        matrices = [
            torch.cat([torch.cat([c, s], dim=1), torch.cat([-s, c], dim=1)])
            for c, s in zip(cosines, sines, strict=True)
        ]
    return in_pieces(torch.stack(matrices).half()).to(device)


class HopperColumns:
    """The 1x1 convolutions of all layers' spectra between their column transforms, on a Hopper card."""

    def __init__(self, layers: Sequence[FFCLayer], device: torch.device) -> None:
        self.device = device
        convolutions = [spectrum_convolution(layer.spectrum, device) for layer in layers]
        self._weights = [column_weights(convolution) for convolution in convolutions]
        self._biases = [convolution.bias for convolution in convolutions]
        self._multiprocessors = multiprocessors(device)

    def plan(self, planes: Tensor) -> ColumnPlan | None:
        """Choose the plan for planes (B, H, 2, K, C), or none where other kernels are faster."""
        batch, height, _, frequencies, channels = planes.shape
        return plan_for(height, channels, batch * frequencies, self._multiprocessors)

    def convolve(
        self,
        layer: int,
        planes: Tensor,
        matrices: KernelMatrices,
        out: Tensor,
        plan: ColumnPlan,
        *,
        early: bool = False,
    ) -> None:
        """Do what `transform_columns`, `convolve_spectrum` and `invert_columns` do, from `planes` to `out`.

        Args:
            layer: whose 1x1 convolution.
            planes: (B, H, 2, K, C) float16, contiguous.
            matrices: of the transform, whose gain the bias needs.
            out: as `planes`; other memory.
            plan: what `plan` chose.
            early: as in `CudaKernel.launch`.
        """
        batch, height, _, frequencies, channels = planes.shape
        half, line, columns = height // 2, frequencies * channels, batch * frequencies
        pieces = tensor_map(
            planes,
            (channels, batch * half, 2, 2, frequencies),
            (4 * line, line, 2 * line, channels),
            (PIECE, half, 2, 2, 1),
        )
        kernel = loaded(plan.source, "convolve_columns", plan.shared_bytes, planes.device)
        kernel.launch(
            -(-columns // plan.columns) * plan.programs_of_column,
            THREADS,
            (
                pieces,
                _matrices(height, planes.device).data_ptr(),
                self._weights[layer].data_ptr(),
                self._biases[layer].data_ptr(),
                out.data_ptr(),
                matrices.spectrum_gain,
                2 / height,
                frequencies,
                columns,
                early,
            ),
            (STRUCTURE, POINTER, POINTER, POINTER, POINTER, FLOAT, FLOAT, INTEGER, INTEGER, INTEGER),
            early=early,
        )


def hopper_columns(layers: Sequence[FFCLayer], device: torch.device) -> tuple[HopperColumns | None, str]:
    """Build the form of all layers and try it on noise: (form, or None where the channels are others; obstacle)."""
    if obstacle := why_not_card(device):
        return None, obstacle
    channels = layers[0].spectrum.bias.numel() // 2
    if not any(plan.channels == channels for plan, _ in PLANS):
        return None, ""

    def build() -> tuple[HopperColumns, float]:
        form = HopperColumns(layers, device)
        return form, _trial_difference(form, layers[0])

    return tried("columns", build)


def _trial_difference(form: HopperColumns, layer: FFCLayer) -> float:
    """Run a form's first layer by each of its plans: the largest relative difference from the definition on the CPU."""
    cpu, differences = torch.device("cpu"), []
    convolution = spectrum_convolution(layer.spectrum, cpu)
    channels = convolution.bias.numel() // 2
    for plan, _ in PLANS:
        if plan.channels != channels:
            continue
        matrices = kernel_matrices(dft_matrices(plan.height, 2 * TRIAL_COLUMNS - 2), cpu)
        random = torch.Generator().manual_seed(0)
        planes = torch.randn(1, plan.height, 2, TRIAL_COLUMNS, channels, generator=random).half()
        out = torch.full_like(planes, math.nan, device=form.device)
        form.convolve(0, planes.to(form.device), matrices, out, plan)
        expected = columns_reference(planes.float(), convolution, matrices)
        differences.append(trial_difference(out.cpu(), expected))
    return max(differences)


def columns_reference(planes: Tensor, convolution: SpectrumConvolution, matrices: KernelMatrices) -> Tensor:
    """The definition of `HopperColumns.convolve`, computed in the type of `planes`."""
    batch, height, _, frequencies, channels = planes.shape
    flat = (1, batch, 2 * height, frequencies * channels)
    spectrum, convolved, out = (torch.empty_like(planes) for _ in range(3))
    multiply_reference(matrices.column, planes.view(flat), spectrum.view(flat), columns=flat[3])
    convolve_spectrum_reference(spectrum, convolution, matrices.spectrum_gain, convolved)
    multiply_reference(matrices.column_inverse, convolved.view(flat), out.view(flat), columns=flat[3])
    return out


@cache
def _matrices(height: int, device: torch.device) -> Tensor:
    return column_matrices(height, device)
