"""The residual blocks in Triton kernels: float16, channels-last, three chains of launches side by side.

The trunk lives in two maps (B, H/8, W/8, D + C): the network's D channels and, after them, the C channels in which each
layer's spectral path keeps its state, so that the last 1x1 of that path is a few more steps of the 3x3 convolution
whose output it shares. A block goes from the first map to the second and back, adding to what is there. The local
convolution and the spectral path do not depend on each other and run on two streams: one keeps the matrix units busy
while the other, a chain of short launches, waits for memory.

Where maps are too small to fill the card, what counts is the chain from one layer to the next. There the cross
convolution, which only looks at the local channels, runs on a third stream beside the spectral path, and the path's
last launch brings both together.

Memory is allocated per call, in the same order every time: under a CUDA graph's capture that happens once.
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lama.dft import dft_matrices
from lama.fold_batchnorm import FFCLayer
from lama.kernels.convolution import RowConvolution, SplitScratch, convolve, row_convolution, split_scratch
from lama.kernels.fourier import (
    KernelMatrices,
    add_inverse_rows,
    invert_columns,
    kernel_matrices,
    transform_columns,
    transform_rows,
)
from lama.kernels.hopper_columns import ColumnPlan, hopper_columns
from lama.kernels.hopper_path import enter_strips
from lama.kernels.hopper_rows import hopper_rows
from lama.kernels.hopper_trunk import SidedMap, hopper_trunk
from lama.kernels.spectral_path import (
    FUSED_WIDTHS,
    SpectrumConvolution,
    convolve_spectrum,
    enter_rows,
    leave_rows,
    spectrum_convolution,
)
from lama.kernels.tiles import Tile, tile_for
from lama.trunk_schedule import Schedule, schedule_for


@dataclass(frozen=True)
class _Layer:
    """One FFC layer's weights; `cross` has the spectral path's last 1x1 as its tail, (C, O) `leave` alone."""

    local: RowConvolution
    cross: RowConvolution
    enter: RowConvolution
    spectrum: SpectrumConvolution

    @property
    def leave(self) -> Tensor:
        """The tail's rows of the cross convolution's weight."""
        return self.cross.weight[-self.cross.tail :]


@dataclass(frozen=True)
class _Shared:
    """What the layers share at one size: tiles, the transform, and memory that every layer uses again."""

    tiles: dict[str, Tile]
    matrices: KernelMatrices
    planes: Tensor
    spectrum: Tensor
    convolved: Tensor | None
    columns: ColumnPlan | None
    scratch: SplitScratch | None
    schedule: Schedule
    sums: tuple[Tensor, Tensor] | None
    """Of the cross convolution where it runs beside the spectral path, of one layer and of the next."""


class TritonTrunk:
    """The residual blocks on a device.

    Args:
        layers: the folded FFC layers, two to a block.
        device: CUDA, or the CPU in Triton's interpreter.
        fp8: the Hopper kernels' 3x3 convolutions multiply in FP8.

    Attributes:
        inner_channels: C, which the maps have besides the network's channels.
        why_not_hopper: what keeps Hopper kernels from running, or nothing: the convolutions, the columns, and the rows
            of the spectral path.
    """

    inner_channels: int
    why_not_hopper: tuple[str, str, str]

    def __init__(self, layers: Sequence[FFCLayer], *, device: torch.device, fp8: bool = False) -> None:
        self._device = device
        self._layers = [_layer_weights(layer, device) for layer in layers]
        self.inner_channels = layers[0].enter.bias.numel()
        self._hopper, why_not_convolutions = hopper_trunk(layers, device, fp8=fp8)
        self._columns, why_not_columns = hopper_columns(layers, device)
        self._rows, why_not_rows = hopper_rows(layers, device)
        self.why_not_hopper = (why_not_convolutions, why_not_columns, why_not_rows)
        self._matrices: dict[tuple[int, int], KernelMatrices] = {}
        # The spectral path is the longer chain: its launches go first where both streams have one ready.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._cross_stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def has_fp8(self) -> bool:
        """Whether convolutions multiply in FP8 where the Hopper kernels take a map."""
        return self._hopper is not None and self._hopper.fp8

    @property
    def has_hopper(self) -> bool:
        """Whether any of the trunk's Hopper kernels runs."""
        return any(form is not None for form in (self._hopper, self._columns, self._rows))

    def matrices(self, height: int, width: int) -> KernelMatrices:
        """The transform for (height, width) features, built once."""
        if (height, width) not in self._matrices:
            self._matrices[height, width] = kernel_matrices(dft_matrices(height, width), self._device)
        return self._matrices[height, width]

    def run(self, x: Tensor) -> Tensor:
        """Run the residual blocks; the result is `x`, written in place.

        Args:
            x: (B, H/8, W/8, D + C) float16, of which the first D channels are filled.

        Returns:
            `x`.
        """
        shared = self._share(x)
        y = torch.empty_like(x)
        if shared.sums is not None:
            self._run_layers_beside(x, y, shared, shared.sums)
            return x
        # Gaps and side columns are made while the first layer's spectral path begins, which does not look at them.
        _wait(self._stream, torch.cuda.current_stream() if self._stream is not None else None)
        _fill_gaps(shared.planes)
        there, back = self._sided(x, y)
        # A block is two layers: the first writes `y`, the second adds to `x`, which is the block's shortcut.
        for index in range(0, len(self._layers), 2):
            self._run_layer(index, x, y, shared, sided=there, add=False)
            self._run_layer(index + 1, y, x, shared, sided=back, add=True)
        return x

    def _sided(self, x: Tensor, y: Tensor) -> tuple[tuple[SidedMap, SidedMap] | None, tuple[SidedMap, SidedMap] | None]:
        """Return the maps as the Hopper kernels take them, from `x` to `y` and back, or None where those do not run."""
        if self._hopper is None or not self._hopper.takes(x):
            return None, None
        here, there = self._hopper.sided(x, filled=True), self._hopper.sided(y, filled=False)
        return (here, there), (there, here)

    def _run_layer(
        self,
        index: int,
        x: Tensor,
        out: Tensor,
        shared: _Shared,
        *,
        sided: tuple[SidedMap, SidedMap] | None,
        add: bool,
    ) -> None:
        layer, tiles = self._layers[index], shared.tiles
        main = torch.cuda.current_stream() if self._stream is not None else None
        if index > 0:
            _wait(self._stream, main)  # until the layer before has written what this one reads
        with torch.cuda.stream(self._stream) if main is not None else contextlib.nullcontext():
            self._enter_spectral_path(index, x, shared)
            awaited = _event() if main is not None and shared.schedule.local_after == "entry" else None
            if index == 0:
                _wait(self._stream, main)  # until gaps and side columns are filled
            self._convolve_spectra(index, shared)
            awaited = _event() if main is not None and shared.schedule.local_after == "columns" else awaited
            add_inverse_rows(shared.spectrum, shared.matrices, x, tile=tiles["rows"])
            if self._hopper is not None and sided is not None:
                self._hopper.convolve_cross(index, *sided, add=add)
            else:
                convolve(
                    x,
                    layer.cross,
                    out,
                    tile=tiles["global"],
                    tail_channel=x.shape[3] - self.inner_channels,
                    to_channel=layer.local.outputs,
                    add_to_out=add,
                )
        if main is not None and awaited is not None:
            main.wait_event(awaited)
        if self._hopper is not None and sided is not None:
            self._hopper.convolve_local(index, *sided, add=add, beside=not shared.schedule.local_after)
        else:
            convolve(x, layer.local, out, tile=tiles["local"], add_to_out=add, scratch=shared.scratch)
        if main is not None and self._stream is not None:
            main.wait_stream(self._stream)

    def _run_layers_beside(self, x: Tensor, y: Tensor, shared: _Shared, sums: tuple[Tensor, Tensor]) -> None:
        """Run all layers, each with its cross convolution beside its spectral path, from `x` to `y` and back.

        A layer's cross convolution waits for the local convolution before it, its spectral path for the one before it,
        its local convolution for both, and the spectral path's last launch for the cross convolution. Sums are kept in
        turn, as the next layer's are begun before this layer's are read. Not by the Hopper kernels: their few large
        tiles would hold up the spectral path on some of the multiprocessors, and it waits for the slowest.
        """
        path, cross = self._stream, self._cross_stream
        main = torch.cuda.current_stream() if path is not None else None
        tiles, early = shared.tiles, shared.schedule.chain_early
        _wait(path, main)
        _fill_gaps(shared.planes)
        for index, layer in enumerate(self._layers):
            source, target = (x, y) if index % 2 == 0 else (y, x)
            add, before = index % 2 == 1, sums[index % 2]
            _wait(cross, main)
            with _on(cross):
                taps = layer.cross.without_tail()
                convolve(source, taps, before, tile=tiles["cross_taps"], rectify=False, early=early)
            if index > 0:
                _wait(main, path)
            with _on(path):
                self._enter_spectral_path(index, source, shared)
                if index == 0:
                    _wait(path, main)  # until the gaps are filled
                self._convolve_spectra(index, shared)
                _wait(path, cross)
                leave_rows(
                    shared.spectrum,
                    source,
                    layer.leave,
                    before,
                    shared.matrices,
                    target,
                    to_channel=layer.local.outputs,
                    tile=tiles["leave_rows"],
                    add_to_out=add,
                    early=early,
                )
            convolve(
                source, layer.local, target, tile=tiles["local"], add_to_out=add, scratch=shared.scratch, early=early
            )
        _wait(main, path)

    def _enter_spectral_path(self, index: int, x: Tensor, shared: _Shared) -> None:
        """Leave t = ReLU(1x1 of the global channels) in the last C channels of `x`, its row transform in the planes."""
        layer, tiles, matrices = self._layers[index], shared.tiles, shared.matrices
        from_channel = layer.local.outputs
        if self._rows is not None and self._takes_rows(x):
            self._rows.enter(index, x, shared.planes, from_channel=from_channel)
        elif self._hopper is not None and self._hopper.enters(x):
            enter_strips(x, layer.enter, matrices, shared.planes, from_channel=from_channel)
        elif x.shape[2] in FUSED_WIDTHS:
            tile, early = tiles["enter_rows"], shared.schedule.chain_early
            enter_rows(x, layer.enter, matrices, shared.planes, from_channel=from_channel, tile=tile, early=early)
        else:
            to_channel = x.shape[3] - self.inner_channels
            convolve(x, layer.enter, x, tile=tiles["enter"], from_channel=from_channel, to_channel=to_channel)
            transform_rows(x, matrices, shared.planes, tile=tiles["rows"])

    def _convolve_spectra(self, index: int, shared: _Shared) -> None:
        """Write to `shared.spectrum` what the inverse row transform makes the Fourier unit of t from."""
        layer, tiles, matrices = self._layers[index], shared.tiles, shared.matrices
        if self._columns is not None and shared.columns is not None:
            planes, early = shared.planes, shared.schedule.columns_early
            self._columns.convolve(index, planes, matrices, shared.spectrum, shared.columns, early=early)
            return
        assert shared.convolved is not None
        spectrum, tile, early = shared.spectrum, tiles["columns"], shared.schedule.columns_early
        transform_columns(shared.planes, matrices, spectrum, tile=tile, early=early)
        convolve_spectrum(
            spectrum, layer.spectrum, matrices.spectrum_gain, shared.convolved, tile=tiles["spectrum"], early=early
        )
        # The spectrum has been read: its memory takes the inverse planes.
        invert_columns(shared.convolved, matrices, spectrum, tile=tile, early=early)

    def _share(self, x: Tensor) -> _Shared:
        batch, height, width, _ = x.shape
        rows, frequencies, inner = batch * height * width, width // 2 + 1, self.inner_channels
        layer = self._layers[0]
        tiles = {
            "local": self._tile("local", rows, columns=layer.local.outputs, depth=layer.local.inputs),
            "global": self._tile(
                "global", rows, columns=layer.cross.outputs, depth=math.gcd(layer.cross.inputs, layer.cross.tail)
            ),
            "enter": self._tile("enter", rows, columns=inner, depth=layer.enter.inputs),
            "enter_rows": self._tile(
                "enter_rows" if width > 64 else "enter_short_rows", rows, columns=inner, depth=layer.enter.inputs
            ),
            "cross_taps": self._tile("cross_taps", rows, columns=layer.cross.outputs, depth=layer.cross.inputs),
            "leave_rows": self._tile("leave_rows", rows, columns=layer.cross.outputs, depth=inner),
            "rows": self._tile("rows", width, columns=inner),
            "columns": self._tile("columns", 2 * height),
            "spectrum": self._tile("spectrum", batch * height * frequencies, columns=2 * inner, depth=inner),
        }
        shape = (batch, height, 2, frequencies, inner)
        planes = self._empty(*shape)
        columns = None if self._columns is None else self._columns.plan(planes)
        schedule = schedule_for(
            rows,
            width,
            local_outputs=layer.local.outputs,
            columns_are_one_launch=columns is not None,
            enters_whole=self._takes_rows(x),
        )
        sums = None
        if schedule.cross_beside:
            sums_shape = (batch, height, width, layer.cross.outputs)
            sums = (self._empty(*sums_shape), self._empty(*sums_shape))
        return _Shared(
            tiles=tiles,
            matrices=self.matrices(height, width),
            planes=planes,
            spectrum=self._empty(*shape),
            convolved=self._empty(*shape) if columns is None else None,
            columns=columns,
            scratch=split_scratch(rows, layer.local.outputs, tile=tiles["local"], device=self._device),
            schedule=schedule,
            sums=sums,
        )

    def _takes_rows(self, x: Tensor) -> bool:
        """Whether the spectral path of this map begins with a launch that takes whole multiprocessors."""
        return self._rows is not None and self._rows.takes(x)

    def _tile(self, kernel: str, rows: int, *, columns: int = 0, depth: int = 0) -> Tile:
        return tile_for(kernel, rows, columns=columns, depth=depth, device=self._device)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float16, device=self._device)


def _fill_gaps(planes: Tensor) -> None:
    """Write the imaginary parts of (B, H, 2, K, C) that are always 0 and that no kernel writes."""
    planes[:, :, 1, :: max(1, planes.shape[3] - 1)] = 0


def _layer_weights(layer: FFCLayer, device: torch.device) -> _Layer:
    return _Layer(
        local=row_convolution(layer.local, device),
        cross=row_convolution(layer.cross, device, tail=layer.leave),
        enter=row_convolution(layer.enter, device),
        spectrum=spectrum_convolution(layer.spectrum, device),
    )


def _event() -> torch.cuda.Event:
    """Mark what has been launched so far on the current stream."""
    return torch.cuda.current_stream().record_event()


def _on(stream: torch.cuda.Stream | None) -> contextlib.AbstractContextManager[object]:
    """Launch on `stream`; None: where launches go anyway."""
    return torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext()


def _wait(stream: torch.cuda.Stream | None, other: torch.cuda.Stream | None) -> None:
    """Let `stream` wait for what has been launched on `other`; where everything runs on one stream there are none."""
    if stream is not None and other is not None:
        stream.wait_stream(other)
