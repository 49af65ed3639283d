"""A candidate: the spectral path's first and last launch on a Hopper card where maps are small, in CUDA C++.

Nothing of the program uses it: it has been compiled, and not run on a card. `bench/hopper_kernels.py` compares and
times both launches, `bench/speed.py --only model --peers "ours rows in CUDA"` the forward. What proves right and faster
moves to `lama/kernels`, beside `hopper_columns`.

`rows_enter.cu` and `rows_leave.cu` compute them. A program takes a row of the map and a share of the channels: with few
rows that is about as many programs as there are multiprocessors. `hopper_entry` is for maps that fill the card.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lama.fold_batchnorm import FFCLayer
from lama.kernels.convolution import RowConvolution, convolve_reference, row_convolution
from lama.kernels.cuda_kernel import INTEGER, POINTER, STRUCTURE, tensor_map
from lama.kernels.fourier import KernelMatrices, KernelMatrix, multiply_reference
from lama.kernels.hopper_pieces import PIECE, ROW_BYTES, THREADS, in_pieces, loaded, program
from lama.kernels.spectral_path import enter_rows, leave_rows
from lama.kernels.tiles import Tile, multiprocessors
from lama.triton_trunk import TritonTrunk

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class EnterPlan:
    """How the first launch divides its work; the names in capitals are the kernel's.

    Attributes:
        width: W of the map, 64 or 128.
        inputs: channels that the 1x1 takes, a multiple of 32.
        channels: C, which it gives.
        outputs: channels of a group of warps, of which a program has two where W is 64.
        slots: steps of 32 inputs in flight.
    """

    width: int
    inputs: int
    channels: int
    outputs: int
    slots: int

    @property
    def sides(self) -> int:
        """Groups of warps that have channels of their own."""
        return 128 // self.width

    @property
    def programs_of_line(self) -> int:
        """Programs that share a row of the map."""
        return self.channels // (self.outputs * self.sides)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one program."""
        piece = self.width * ROW_BYTES
        steps = self.slots * (piece + self.sides * self.outputs * ROW_BYTES)
        state = self.sides * -(-self.outputs // PIECE) * piece
        return steps + state + self.width // PIECE * piece + 8 * (1 + 2 * self.slots)

    @cached_property
    def source(self) -> str:
        """The program to compile."""
        outputs = (self.outputs,)
        return program(*_files("rows_enter.cu"), numbers=_numbers(self), outside=outputs, inside=outputs)


@dataclass(frozen=True)
class LeavePlan:
    """How the last launch divides its work; the names in capitals are the kernel's.

    Attributes:
        width: W of the map, 64.
        channels: C, which the 1x1 takes.
        all_outputs: channels that it gives.
        outputs: channels of a group of warps, of which a program has two.
    """

    width: int
    channels: int
    all_outputs: int
    outputs: int

    @property
    def programs_of_line(self) -> int:
        """Programs that share a row of the map."""
        return self.all_outputs // (2 * self.outputs)

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one program."""
        piece, pieces = self.width * ROW_BYTES, self.channels // PIECE
        sides = 2 * -(-self.outputs // PIECE) * piece
        weights = pieces * 2 * self.outputs * ROW_BYTES
        return 2 * pieces * piece + 2 * sides + self.width // PIECE * piece + weights + 16

    @cached_property
    def source(self) -> str:
        """The program to compile."""
        return program(*_files("rows_leave.cu"), numbers=_numbers(self), outside=(PIECE,), inside=(self.outputs,))


ENTER_PLANS = (
    EnterPlan(64, 384, 192, outputs=48, slots=12),
    EnterPlan(128, 384, 192, outputs=192, slots=7),
    EnterPlan(64, 192, 96, outputs=24, slots=6),
    EnterPlan(128, 192, 96, outputs=96, slots=6),
)
LEAVE_PLANS = (LeavePlan(64, 192, 384, outputs=96), LeavePlan(64, 96, 192, outputs=48))


def _files(name: str) -> tuple[Path, Path]:
    return FOLDER / "rows_pieces.cuh", FOLDER / name


def _numbers(plan: EnterPlan | LeavePlan) -> dict[str, int]:
    return {field.name: getattr(plan, field.name) for field in fields(plan)} | {"shared_bytes": plan.shared_bytes}


class HopperRows:
    """The spectral paths' first and last 1x1 convolutions of all layers with the row transforms, on a Hopper card."""

    def __init__(self, layers: Sequence[FFCLayer], device: torch.device) -> None:
        self.device = device
        rows = [row_convolution(layer.enter, device) for layer in layers]
        self._enters = [in_pieces(row.weight.t()) for row in rows]
        self._biases = [row.bias for row in rows]
        self._leaves = [in_pieces(layer.leave.flatten(1).to(device, torch.float16)) for layer in layers]
        self._sizes = (rows[0].inputs, rows[0].outputs, layers[0].leave.shape[0])
        self._matrices: dict[tuple[int, str], Tensor] = {}
        self._multiprocessors = multiprocessors(device)

    def enter_plan(self, x: Tensor) -> EnterPlan | None:
        """Choose the first launch's plan for a map (B, H, W, C), or none where other kernels take it."""
        batch, height, width, _ = x.shape
        for plan in ENTER_PLANS:
            if (plan.width, plan.inputs, plan.channels) == (width, *self._sizes[:2]):
                return plan if batch * height * plan.programs_of_line <= self._multiprocessors else None
        return None

    def leave_plan(self, x: Tensor) -> LeavePlan | None:
        """The same for the last launch."""
        batch, height, width, _ = x.shape
        for plan in LEAVE_PLANS:
            if (plan.width, plan.channels, plan.all_outputs) == (width, *self._sizes[1:]):
                return plan if batch * height * plan.programs_of_line <= self._multiprocessors else None
        return None

    def enter(
        self, layer: int, x: Tensor, matrices: KernelMatrices, planes: Tensor, plan: EnterPlan, *, from_channel: int
    ) -> None:
        """Do what `spectral_path.enter_rows` does, for a contiguous `x`, with what `enter_plan` chose."""
        batch, height, width, x_channels = x.shape
        pixels = tensor_map(x, (x_channels, batch * height * width), (x_channels,), (PIECE, width))
        loaded(plan.source, "enter_lines", plan.shared_bytes, x.device).launch(
            batch * height * plan.programs_of_line,
            THREADS,
            (
                pixels,
                self._enters[layer].data_ptr(),
                self._matrix(width, "enter", matrices.row).data_ptr(),
                self._biases[layer].data_ptr(),
                x.data_ptr(),
                planes.data_ptr(),
                from_channel,
                x_channels - plan.channels,
                x_channels,
                matrices.frequencies,
            ),
            (STRUCTURE, *(POINTER,) * 5, *(INTEGER,) * 4),
        )

    def leave(
        self,
        layer: int,
        planes: Tensor,
        x: Tensor,
        before: Tensor,
        matrices: KernelMatrices,
        out: Tensor,
        plan: LeavePlan,
        *,
        to_channel: int,
        add_to_out: bool,
    ) -> None:
        """Do what `spectral_path.leave_rows` does, with what `leave_plan` chose."""
        batch, height, width, x_channels = x.shape
        loaded(plan.source, "leave_lines", plan.shared_bytes, x.device).launch(
            batch * height * plan.programs_of_line,
            THREADS,
            (
                planes.data_ptr(),
                x.data_ptr(),
                self._leaves[layer].data_ptr(),
                self._matrix(width, "leave", matrices.row_inverse).data_ptr(),
                before.data_ptr(),
                out.data_ptr(),
                x_channels - plan.channels,
                x_channels,
                to_channel,
                out.shape[3],
                matrices.frequencies,
                int(add_to_out),
            ),
            (*(POINTER,) * 6, *(INTEGER,) * 6),
        )

    def _matrix(self, width: int, way: str, matrix: KernelMatrix) -> Tensor:
        if (width, way) not in self._matrices:
            self._matrices[width, way] = in_pieces(matrix.values[:, :width])
        return self._matrices[width, way]


def rows_launches(trunk: TritonTrunk, layers: Sequence[FFCLayer]) -> dict[str, Any]:
    """Return what takes the place of a trunk's `enter_rows` and `leave_rows`, wherever there is a plan."""
    form = HopperRows(layers, trunk._device)
    enters = {id(layer.enter): number for number, layer in enumerate(trunk._layers)}
    leaves = {layer.leave.data_ptr(): number for number, layer in enumerate(trunk._layers)}
    if trunk._hopper is not None:
        enters_strips = trunk._hopper.enters
        trunk._hopper.enters = lambda x: form.enter_plan(x) is None and enters_strips(x)  # type: ignore[method-assign]

    def enter(
        x: Tensor, weights: RowConvolution, matrices: KernelMatrices, planes: Tensor, *, from_channel: int, tile: Tile
    ) -> None:
        if plan := form.enter_plan(x):
            form.enter(enters[id(weights)], x, matrices, planes, plan, from_channel=from_channel)
        else:
            enter_rows(x, weights, matrices, planes, from_channel=from_channel, tile=tile)

    def leave(
        planes: Tensor,
        x: Tensor,
        weights: Tensor,
        before: Tensor,
        matrices: KernelMatrices,
        out: Tensor,
        *,
        to_channel: int,
        tile: Tile,
        add_to_out: bool = False,
    ) -> None:
        sources = (planes, x, before)
        if plan := form.leave_plan(x):
            number = leaves[weights.data_ptr()]
            form.leave(number, *sources, matrices, out, plan, to_channel=to_channel, add_to_out=add_to_out)
        else:
            leave_rows(
                planes, x, weights, before, matrices, out, to_channel=to_channel, tile=tile, add_to_out=add_to_out
            )

    return {"enter_rows": enter, "leave_rows": leave}


def enter_reference(x: Tensor, enter: RowConvolution, matrices: KernelMatrices) -> tuple[Tensor, Tensor]:
    """The definition of `HopperRows.enter` from channel 0 on, computed in the type of `x`: (t, planes)."""
    batch, height, width, _ = x.shape
    state = x.new_empty(batch, height, width, enter.outputs)
    convolve_reference(x, enter, state)
    planes = x.new_zeros(batch, height, 2, matrices.frequencies, enter.outputs)
    rows = planes.view(batch, height, 2 * matrices.frequencies, enter.outputs)
    multiply_reference(matrices.row, state, rows, columns=enter.outputs, out_gap=matrices.frequencies)
    return state, planes


def leave_reference(planes: Tensor, x: Tensor, leave: Tensor, before: Tensor, matrices: KernelMatrices) -> Tensor:
    """The definition of `HopperRows.leave`, computed in the type of `x`: what goes to `out`, or is added to it."""
    state = x[..., -leave.shape[0] :].clone()
    rows = planes.flatten(2, 3)
    multiply_reference(matrices.row_inverse, rows, state, columns=leave.shape[0], x_gap=matrices.frequencies, add=True)
    return (before + state @ leave.to(x.dtype)).relu()
