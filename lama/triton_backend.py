"""The inference form with Triton kernels: float16, channels-last rows from the first pixel to the last.

The trunk lives in two maps (B, H/8, W/8, D + C): the network's D channels and, after them, the C channels in which each
layer's spectral path keeps its state, so that the last 1x1 of that path is a few more steps of the 3x3 convolution
whose output it shares. A block goes from the first map to the second and back, adding to what is there. The local
convolution and the spectral path do not depend on each other and run on two streams: one keeps the matrix units busy
while the other, a chain of five short launches, waits for memory.

Where maps are too small to fill the card, what counts is the chain from one layer to the next. There the cross
convolution, which only looks at the local channels, runs on a third stream beside the spectral path, and the path's
last launch brings both together.

Memory is allocated per call, in the same order every time: under a CUDA graph's capture that happens once.
"""

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lama.dft import dft_matrices
from lama.fold_batchnorm import FFCLayer, FoldedNetwork
from lama.kernels.convolution import RowConvolution, SplitScratch, convolve, row_convolution, split_scratch
from lama.kernels.fourier import (
    KernelMatrices,
    add_inverse_rows,
    invert_columns,
    kernel_matrices,
    transform_columns,
    transform_rows,
)
from lama.kernels.hopper_trunk import SidedMap, hopper_trunk
from lama.kernels.spectral_path import (
    FUSED_WIDTHS,
    SpectrumConvolution,
    convolve_spectrum,
    enter_rows,
    leave_rows,
    spectrum_convolution,
)
from lama.kernels.stem_head import (
    BORDER_PX,
    COLOURS,
    INPUT_CHANNELS,
    PADDED_COLUMNS,
    TAPS,
    convolve_head,
    convolve_stem,
    head_weights,
    pad_input,
    stem_weights,
)
from lama.kernels.tiles import Tile, tile_for
from lama.kernels.upsampling import row_upsampling, upsample

LARGEST_INDEX = 2**31 - 1  # the kernels count in 32 bits
MANY_ROWS = 128 * 128  # of the trunk's maps: from here on the local convolution waits until the spectral path has begun
FEW_ROWS = 2 * 64 * 64  # up to here the cross convolution runs beside the spectral path


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
class _Trunk:
    """What the trunk's layers share at one size: tiles, the transform, and memory that every layer uses again."""

    tiles: dict[str, Tile]
    matrices: KernelMatrices
    planes: Tensor
    spectrum: Tensor
    convolved: Tensor
    scratch: SplitScratch | None
    local_after_enter: bool
    sums: tuple[Tensor, Tensor] | None
    """Of the cross convolution where it runs beside the spectral path, of one layer and of the next."""


class TritonBackend(nn.Module):
    """The folded network on `device` (CUDA, or the CPU in Triton's interpreter).

    `overlap`, `fuse_enter`, `use_hopper`, `local_after_enter` and `cross_beside` exist to be measured: several streams
    instead of one, the first 1x1 of the spectral path in one launch with the row transform where the width allows it,
    the trunk's 3x3 convolutions by the Hopper kernels where they run, the local convolution after the spectral path's
    first launch (None: where maps are large) instead of beside it, and the cross convolution beside the spectral path
    (None: where maps are small) instead of after it; `why_not_hopper` says what keeps those kernels from running, or
    nothing.
    """

    def __init__(self, network: FoldedNetwork, *, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.overlap = device.type == "cuda"
        self.fuse_enter = True
        self.use_hopper = True
        self.local_after_enter: bool | None = None
        self.cross_beside: bool | None = None
        self._stem = stem_weights(network.stem, device)
        self._downs = [row_convolution(down, device, stride=2) for down in network.downs]
        self._layers = [_layer_weights(layer, device) for layer in network.layers]
        self._ups = [row_upsampling(up, device) for up in network.ups]
        self._head = head_weights(network.head, device)
        self._width = network.stem.bias.numel()
        self._inner_channels = network.layers[0].enter.bias.numel()
        self._hopper, self.why_not_hopper = hopper_trunk(network.layers, device)
        self._matrices: dict[tuple[int, int], KernelMatrices] = {}
        # The spectral path is the longer chain: its launches go first where both streams have one ready.
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._cross_stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, 3, H, W) float32 in [0, 1]; `x` is not modified."""
        batch, _, height, width = x.shape
        images = max(1, LARGEST_INDEX // (height * width * self._width))
        with torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext():
            if batch <= images:
                return self._predict(x)
            return torch.cat([self._predict(part) for part in x.split(images)])

    def matrices(self, height: int, width: int) -> KernelMatrices:
        """The transform for (height, width) features, built once."""
        if (height, width) not in self._matrices:
            self._matrices[height, width] = kernel_matrices(dft_matrices(height, width), self.device)
        return self._matrices[height, width]

    def _predict(self, x: Tensor) -> Tensor:
        features = self._encode(x)
        features = self._transform(features)
        return self._decode(features)

    def _encode(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, H/8, W/8, D + C), of which the first D channels are filled."""
        batch, _, height, width = x.shape
        padded = self._empty(batch, height + 2 * BORDER_PX, width + PADDED_COLUMNS, INPUT_CHANNELS)
        pad_input(x, padded)
        y = self._empty(batch, height, width, self._width)
        tile = self._tile("stem", batch * height * width // 2, columns=2 * self._width)
        convolve_stem(padded, self._stem, y, tile=tile)
        del padded
        for step, down in enumerate(self._downs):
            extra_channels = self._inner_channels if step == len(self._downs) - 1 else 0
            height, width = height // 2, width // 2
            out = self._empty(batch, height, width, down.outputs + extra_channels)
            tile = self._tile("down", batch * height * width, columns=down.outputs, depth=down.inputs)
            convolve(y, down, out, tile=tile)
            y = out
        return y

    def _transform(self, x: Tensor) -> Tensor:
        """Run the residual blocks; the result is `x`, written in place."""
        trunk = self._trunk(x)
        y = torch.empty_like(x)
        if trunk.sums is not None:
            self._run_layers_beside(x, y, trunk, trunk.sums)
            return x
        there, back = self._sided(x, y)
        for index in range(0, len(self._layers), 2):
            self._run_layer(index, x, y, trunk, sided=there, add=False)
            self._run_layer(index + 1, y, x, trunk, sided=back, add=True)
        return x

    def _decode(self, x: Tensor) -> Tensor:
        """(B, H/8, W/8, D + C) -> (B, 3, H, W) float32."""
        for up in self._ups:
            batch, height, width, _ = x.shape
            outputs = up.bias.numel()
            out = self._empty(batch, 2 * height, 2 * width, outputs)
            tile = self._tile("up", batch * height * width, columns=outputs, depth=up.inputs)
            upsample(x, up, out, tile=tile)
            x = out
        batch, height, width, _ = x.shape
        planes = self._empty(batch, height, TAPS * COLOURS, width)
        image = torch.empty((batch, COLOURS, height, width), dtype=torch.float32, device=self.device)
        convolve_head(x, self._head, planes, image, tile=self._tile("head", batch * height * width))
        return image

    def _sided(self, x: Tensor, y: Tensor) -> tuple[tuple[SidedMap, SidedMap] | None, tuple[SidedMap, SidedMap] | None]:
        """Return the maps as the Hopper kernels take them, from `x` to `y` and back, or None where those do not run."""
        if self._hopper is None or not self.use_hopper or not self._hopper.takes(x):
            return None, None
        here, there = self._hopper.sided(x, filled=True), self._hopper.sided(y, filled=False)
        return (here, there), (there, here)

    def _run_layer(
        self,
        index: int,
        x: Tensor,
        out: Tensor,
        trunk: _Trunk,
        *,
        sided: tuple[SidedMap, SidedMap] | None,
        add: bool,
    ) -> None:
        layer, tiles = self._layers[index], trunk.tiles
        main = torch.cuda.current_stream() if self._stream is not None and self.overlap else None
        if main is not None and self._stream is not None:
            self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream) if main is not None else contextlib.nullcontext():
            self._enter_spectral_path(layer, x, trunk)
            is_awaited = main is not None and trunk.local_after_enter
            entered = torch.cuda.current_stream().record_event() if is_awaited else None
            self._convolve_spectra(layer, trunk)
            add_inverse_rows(trunk.spectrum, trunk.matrices, x, tile=tiles["rows"])
            if self._hopper is not None and sided is not None:
                self._hopper.convolve_cross(index, *sided, add=add)
            else:
                convolve(
                    x,
                    layer.cross,
                    out,
                    tile=tiles["global"],
                    tail_channel=x.shape[3] - self._inner_channels,
                    to_channel=layer.local.outputs,
                    add_to_out=add,
                )
        if main is not None and entered is not None:
            main.wait_event(entered)
        if self._hopper is not None and sided is not None:
            self._hopper.convolve_local(index, *sided, add=add)
        else:
            convolve(x, layer.local, out, tile=tiles["local"], add_to_out=add, scratch=trunk.scratch)
        if main is not None and self._stream is not None:
            main.wait_stream(self._stream)

    def _run_layers_beside(self, x: Tensor, y: Tensor, trunk: _Trunk, sums: tuple[Tensor, Tensor]) -> None:
        """Run all layers, each with its cross convolution beside its spectral path, from `x` to `y` and back.

        A layer's cross convolution waits for the local convolution before it, its spectral path for the one before it,
        its local convolution for both, and the spectral path's last launch for the cross convolution. Sums are kept in
        turn, as the next layer's are begun before this layer's are read. Not by the Hopper kernels: their few large
        tiles would hold up the spectral path on some of the multiprocessors, and it waits for the slowest.
        """
        main = torch.cuda.current_stream() if self.overlap else None
        path, cross = (self._stream, self._cross_stream) if self.overlap else (None, None)
        tiles = trunk.tiles
        _wait(path, main)
        for index, layer in enumerate(self._layers):
            source, target = (x, y) if index % 2 == 0 else (y, x)
            add, before = index % 2 == 1, sums[index % 2]
            _wait(cross, main)
            with _on(cross):
                taps = layer.cross.without_tail()
                convolve(source, taps, before, tile=tiles["cross_taps"], rectify=False)
            if index > 0:
                _wait(main, path)
            with _on(path):
                self._enter_spectral_path(layer, source, trunk)
                self._convolve_spectra(layer, trunk)
                _wait(path, cross)
                leave_rows(
                    trunk.spectrum,
                    source,
                    layer.leave,
                    before,
                    trunk.matrices,
                    target,
                    to_channel=layer.local.outputs,
                    tile=tiles["leave_rows"],
                    add_to_out=add,
                )
            convolve(source, layer.local, target, tile=tiles["local"], add_to_out=add, scratch=trunk.scratch)
        _wait(main, path)

    def _enter_spectral_path(self, layer: _Layer, x: Tensor, trunk: _Trunk) -> None:
        """Leave t = ReLU(1x1 of the global channels) in the last C channels of `x`, its row transform in the planes."""
        tiles, matrices = trunk.tiles, trunk.matrices
        from_channel = layer.local.outputs
        if self.fuse_enter and x.shape[2] in FUSED_WIDTHS:
            enter_rows(x, layer.enter, matrices, trunk.planes, from_channel=from_channel, tile=tiles["enter_rows"])
        else:
            to_channel = x.shape[3] - self._inner_channels
            convolve(x, layer.enter, x, tile=tiles["enter"], from_channel=from_channel, to_channel=to_channel)
            transform_rows(x, matrices, trunk.planes, tile=tiles["rows"])

    def _convolve_spectra(self, layer: _Layer, trunk: _Trunk) -> None:
        """Take the planes to what the inverse row transform makes the Fourier unit of t of, in `trunk.spectrum`."""
        tiles, matrices = trunk.tiles, trunk.matrices
        transform_columns(trunk.planes, matrices, trunk.spectrum, tile=tiles["columns"])
        convolve_spectrum(
            trunk.spectrum, layer.spectrum, matrices.spectrum_gain, trunk.convolved, tile=tiles["spectrum"]
        )
        # The spectrum has been read: its memory takes the inverse planes.
        invert_columns(trunk.convolved, matrices, trunk.spectrum, tile=tiles["columns"])

    def _trunk(self, x: Tensor) -> _Trunk:
        batch, height, width, _ = x.shape
        rows, frequencies, inner = batch * height * width, width // 2 + 1, self._inner_channels
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
        is_beside = rows <= FEW_ROWS if self.cross_beside is None else self.cross_beside
        sums = None
        if is_beside and width in FUSED_WIDTHS:
            sums_shape = (batch, height, width, layer.cross.outputs)
            sums = (self._empty(*sums_shape), self._empty(*sums_shape))
        return _Trunk(
            tiles=tiles,
            matrices=self.matrices(height, width),
            planes=torch.zeros(shape, dtype=torch.float16, device=self.device),
            spectrum=self._empty(*shape),
            convolved=self._empty(*shape),
            scratch=split_scratch(rows, layer.local.outputs, tile=tiles["local"], device=self.device),
            local_after_enter=rows >= MANY_ROWS if self.local_after_enter is None else self.local_after_enter,
            sums=sums,
        )

    def _tile(self, kernel: str, rows: int, *, columns: int = 0, depth: int = 0) -> Tile:
        return tile_for(kernel, rows, columns=columns, depth=depth, device=self.device)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float16, device=self.device)


def _layer_weights(layer: FFCLayer, device: torch.device) -> _Layer:
    return _Layer(
        local=row_convolution(layer.local, device),
        cross=row_convolution(layer.cross, device, tail=layer.leave),
        enter=row_convolution(layer.enter, device),
        spectrum=spectrum_convolution(layer.spectrum, device),
    )


def _on(stream: torch.cuda.Stream | None) -> contextlib.AbstractContextManager[object]:
    """Launch on `stream`; None: where launches go anyway."""
    return torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext()


def _wait(stream: torch.cuda.Stream | None, other: torch.cuda.Stream | None) -> None:
    """Let `stream` wait for what has been launched on `other`; where everything runs on one stream there are none."""
    if stream is not None and other is not None:
        stream.wait_stream(other)
