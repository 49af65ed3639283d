"""The trunk's maps and weights as the Hopper kernels take them.

A map has side columns beside it: of every row, the eight pixels that a tile at the left border sees when it looks one
column to the left (1, 0, 1, ... 6), and those that a tile at the right border sees one to the right. So eight columns
lie side by side in memory also where they are mirrored.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution, FFCLayer
from lama.kernels.convolution import convolve, row_convolution
from lama.kernels.fourier import kernel_matrices
from lama.kernels.fp8 import FP8, layer_in_fp8, rounded, rounded_weights, scales
from lama.kernels.hopper_card import (
    COLUMNS,
    DEPTH,
    OUTPUTS,
    ROWS,
    tiles_of,
    trial_difference,
    tried,
    why_not_card,
    why_not_gluon,
)
from lama.kernels.hopper_path import enter_strips, has_entry, takes_strips
from lama.kernels.spectral_path import enter_rows
from lama.kernels.tiles import multiprocessors, tile_for

DEPTH8 = 2 * DEPTH
SIDE_COLUMNS = 16  # as in hopper_steps
MANY_TILES = 1.5
"""From this many tiles of a wide network's local convolution for each multiprocessor on, they are many."""
CROSS_SLOTS = 6
FEWEST_TILES, FEWEST_NARROW_TILES = 0.2, 0.7
"""Of the local convolution, for each multiprocessor: with fewer, the smaller tiles of the other kernels are faster. The
second number is for networks as narrow as the included one, whose tiles hold all outputs."""
TRIAL_SHAPE = (1, 128, 64)  # two tiles a program of the cross convolution, and every border


@dataclass(frozen=True)
class SidedMap:
    """A map (B, H, W, C), its side columns (B, H, 16, D), and both as the copy engine sees them.

    Attributes:
        pixels: the map.
        factors: what the convolutions multiply: `pixels`, or in FP8 (B, H, W, D) of 8 bits.
        side: side columns of `factors`.
        operands: boxes of 32 x 8 pixels and of 1 x 8, of `factors` and of `side`.
        state: the first of these boxes, of `pixels`.
        result: a tile's box of `pixels`.
    """

    pixels: Tensor
    factors: Tensor
    side: Tensor
    operands: tuple[Any, Any, Any, Any]
    state: Any
    result: Any


@dataclass(frozen=True)
class SteppedConvolution:
    """Weights in the order of the kernels' steps.

    Attributes:
        weight: (rows, 32) float16: for every 32 input channels and column of taps the three taps' (O, 32); then, for
            every 32 tail channels, (O, 32). In FP8 64 input channels lie where 32 do otherwise.
        bias: (O,) float32.
        scale: (O,) float32: what sums in FP8 are multiplied by, as weights are divided by it; else `bias`.
        box: what one copy takes of the weights.
        tail: channels of the 1x1.
        steps: of the 3x3.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    box: Any
    tail: int
    steps: int

    @property
    def outputs(self) -> int:
        """O."""
        return self.bias.numel()


class HopperTrunk:
    """Both convolutions of every layer, from one map to another; whether `enter_strips` takes its spectral path.

    Args:
        layers: the folded FFC layers.
        device: where they run.
        fp8: they multiply in FP8, except by their tails; what they add to, and give, stays float16.
    """

    def __init__(self, layers: Sequence[FFCLayer], device: torch.device, *, fp8: bool = False) -> None:
        self.device = device
        self.fp8 = fp8
        self._channels = layers[0].local.weight.shape[1]
        self._local = [stepped_convolution(layer.local, device, fp8=fp8) for layer in layers]
        self._cross = [stepped_convolution(layer.cross, device, tail=layer.leave, fp8=fp8) for layer in layers]
        self._has_entry = has_entry(layers[0].enter)
        self._multiprocessors = multiprocessors(device)

    def enters(self, x: Tensor) -> bool:
        """Whether the spectral path of a map of this shape (B, H, W, C) begins with `hopper_path.enter_strips`."""
        return self._has_entry and takes_strips(x)

    def takes(self, x: Tensor) -> bool:
        """Whether maps of this shape (B, H, W, C) divide into tiles, and into enough of them."""
        batch, height, width, _ = x.shape
        if height % ROWS or width % COLUMNS:
            return False
        outputs = self._local[0].outputs
        fewest = FEWEST_TILES if outputs > OUTPUTS else FEWEST_NARROW_TILES
        return tiles_of(batch, height, width, outputs) >= fewest * self._multiprocessors

    def sided(self, x: Tensor, *, filled: bool) -> SidedMap:
        """Give a map its side columns, computed if `filled`, else to be written by the convolutions that fill it."""
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        from lama.kernels.hopper_steps import OPERAND_BOX, RESULT_BOX

        factors = x
        if self.fp8:
            shape = (*x.shape[:3], self._channels)
            factors = rounded(x[..., : self._channels]) if filled else x.new_empty(shape, dtype=FP8)
        side_shape = (*x.shape[:2], SIDE_COLUMNS, self._channels)
        side = side_columns(factors, self._channels) if filled else factors.new_empty(side_shape)
        shapes = ([1, ROWS, COLUMNS, DEPTH], [1, 1, COLUMNS, DEPTH])
        # The copy engine takes two numbers of 8 bits for one of 16.
        words, side_words = (values.view(torch.float16) for values in (factors, side))
        boxes = [
            TensorDescriptor.from_tensor(values, shape, OPERAND_BOX.value)
            for values in (words, side_words)
            for shape in shapes
        ]
        state = TensorDescriptor.from_tensor(x, shapes[0], OPERAND_BOX.value)
        result = TensorDescriptor.from_tensor(x, [1, ROWS, COLUMNS, OUTPUTS], RESULT_BOX.value)
        return SidedMap(x, factors, side, (boxes[0], boxes[1], boxes[2], boxes[3]), state, result)

    def convolve_local(self, layer: int, x: SidedMap, out: SidedMap, *, add: bool, beside: bool = True) -> None:
        """Write ReLU(local convolution) of all network channels of `x` into the first channels of `out`, or add it.

        Args:
            layer: whose convolution.
            x: the map to read.
            out: the map to write.
            add: to what `out` holds.
            beside: it waits for nothing of the spectral path, whose programs are to fit beside it.
        """
        from lama.kernels.hopper_convolution import convolve_tile

        weights = self._local[layer]
        batch, height, width, _ = x.pixels.shape
        tiles = tiles_of(batch, height, width, weights.outputs)
        is_many = weights.outputs > OUTPUTS and tiles >= MANY_TILES * self._multiprocessors
        convolve_tile[(tiles,)](
            *x.operands,
            weights.box,
            out.result,
            weights.bias,
            weights.scale,
            out.factors,
            out.side,
            height,
            width,
            STEPS=weights.steps,
            TO=0,
            ALL_OUTPUTS=weights.outputs,
            ALL_CHANNELS=self._channels,
            ADD=add,
            FP8=self.fp8,
            SLOTS=local_slots(is_many=is_many, enters_strips=self.enters(x.pixels), beside=beside),
            num_warps=4,
        )

    def convolve_cross(self, layer: int, x: SidedMap, out: SidedMap, *, add: bool) -> None:
        """The same for the cross convolution and its tail: from the first channels and the last, into the others."""
        from lama.kernels.hopper_convolution import convolve_tiles

        weights = self._cross[layer]
        batch, height, width, channels = x.pixels.shape
        tiles = tiles_of(batch, height, width, weights.outputs)
        convolve_tiles[(min(tiles, self._multiprocessors),)](
            *x.operands,
            weights.box,
            x.state,
            out.result,
            weights.bias,
            weights.scale,
            out.factors,
            out.side,
            height,
            width,
            tiles,
            STEPS=weights.steps,
            TAIL_FROM=channels - weights.tail,
            TAIL=weights.tail,
            TO=self._local[layer].outputs,
            ALL_OUTPUTS=weights.outputs,
            ALL_CHANNELS=self._channels,
            ADD=add,
            SLOTS=CROSS_SLOTS,
            FP8=self.fp8,
            num_warps=4,
        )


def local_slots(*, is_many: bool, enters_strips: bool, beside: bool) -> int:
    """Choose how many steps of the local convolution are in flight.

    Args:
        is_many: there are many tiles, so that steps in flight are worth more than places beside them.
        enters_strips: the spectral path begins with `enter_strips`, which leaves no place beside it.
        beside: the local convolution waits for nothing of the spectral path.

    Returns:
        3: 87 or 97 KB, beside which programs of the spectral path fit; 4 or 5 where they would not be there.
    """
    if is_many:
        return 5 if enters_strips else 4
    return 3 if beside else 4


def hopper_trunk(
    layers: Sequence[FFCLayer], device: torch.device, *, fp8: bool = False
) -> tuple[HopperTrunk | None, str]:
    """Build the Hopper form and try its first layer, or say why not.

    Args:
        layers: the folded FFC layers.
        device: where they run.
        fp8: multiply in FP8 where that can be; else in float16.

    Returns:
        The form or None, and what keeps it, or FP8, from running.
    """

    def build(*, fp8: bool) -> tuple[HopperTrunk, float]:
        form = HopperTrunk(layers, device, fp8=fp8)
        return form, _trial_difference(form, layers[0])

    obstacle = why_not_hopper(layers[0], device)
    if obstacle:
        return None, obstacle
    if fp8 and not (obstacle := why_not_fp8(layers[0])):
        form, obstacle = tried("convolutions in FP8", partial(build, fp8=True))
        if form is not None:
            return form, ""
    form, failure = tried("convolutions", partial(build, fp8=False))
    return form, failure or obstacle


def why_not_fp8(layer: FFCLayer) -> str:
    """Say what keeps the convolutions from multiplying in FP8, or return an empty string."""
    sums = (layer.local.weight.shape[1], layer.cross.weight.shape[1])
    if any(channels % DEPTH8 for channels in sums):
        return f"FP8: sums over {', '.join(map(str, sums))} channels are no multiples of {DEPTH8}"
    return ""


def why_not_hopper(layer: FFCLayer, device: torch.device) -> str:
    """Say what keeps the Hopper kernels from running, or return an empty string."""
    if obstacle := why_not_card(device) or why_not_gluon():
        return obstacle
    sums = (layer.local.weight.shape[1], layer.cross.weight.shape[1], layer.leave.shape[1])
    if any(channels % DEPTH for channels in sums):
        return f"sums over {', '.join(map(str, sums))} channels are no multiples of {DEPTH}"
    if layer.local.bias.numel() % OUTPUTS or layer.cross.bias.numel() % OUTPUTS:
        return f"the outputs are no multiples of {OUTPUTS}"
    return ""


def stepped_convolution(
    convolution: Convolution, device: torch.device, *, tail: Tensor | None = None, fp8: bool = False
) -> SteppedConvolution:
    """Lay out a convolution for the kernels.

    Args:
        convolution: (O, I, 3, 3), I a multiple of 32, of 64 in FP8.
        device: where it runs.
        tail: (O, T, 1, 1), a 1x1 whose sums are added, T a multiple of 32.
        fp8: the 3x3 multiplies in FP8; its tail does in float16.

    Returns:
        Its weights.
    """
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from lama.kernels.hopper_steps import OPERAND

    weight, depth = convolution.weight, DEPTH
    outputs, inputs = weight.shape[:2]
    scale = bias = convolution.bias
    if fp8:
        scale, depth = scales(weight, tail), DEPTH8
        weight, tail = rounded_weights(weight, scale), None if tail is None else tail / scale.view(-1, 1, 1, 1)
    taps = weight.view(outputs, inputs // depth, depth, 3, 3).permute(1, 4, 3, 0, 2).reshape(-1, depth)
    rows = taps.to(device).view(torch.float16) if fp8 else taps.to(device, torch.float16)
    if tail is not None:
        tail_rows = tail.view(outputs, -1, DEPTH).transpose(0, 1).reshape(-1, DEPTH)
        rows = torch.cat([rows, tail_rows.to(device, torch.float16)])
    rows = rows.contiguous()
    return SteppedConvolution(
        weight=rows,
        bias=bias.to(device, torch.float32),
        scale=scale.to(device, torch.float32),
        box=TensorDescriptor.from_tensor(rows, [OUTPUTS, DEPTH], OPERAND.value),
        tail=0 if tail is None else tail.shape[1],
        steps=3 * (inputs // depth),
    )


def side_columns(x: Tensor, channels: int) -> Tensor:
    """(B, H, W, C) -> (B, H, 16, `channels`): what tiles at the left and the right border see one column further."""
    x = x[..., :channels]
    return torch.cat([x[:, :, 1:2], x[:, :, :7], x[:, :, -7:], x[:, :, -2:-1]], dim=2)


def _trial_difference(trunk: HopperTrunk, layer: FFCLayer) -> float:
    """Run a layer's kernels on noise: the largest relative difference from the other kernels, infinite for NaN."""
    device = trunk.device
    channels, tail = layer.local.weight.shape[1], layer.leave.shape[1]
    random = torch.Generator(device).manual_seed(0)
    x = torch.randn(*TRIAL_SHAPE, channels + tail, generator=random, device=device).half()
    largest = max(_trial_of_convolutions(trunk, layer, x, random, add=add) for add in (False, True))
    return max(largest, _trial_of_entry(layer, x)) if has_entry(layer.enter) else largest


def _trial_of_convolutions(
    trunk: HopperTrunk, layer: FFCLayer, x: Tensor, random: torch.Generator, *, add: bool
) -> float:
    device, outputs = trunk.device, layer.local.bias.numel()
    channels, tail = layer.local.weight.shape[1], layer.leave.shape[1]
    source = trunk.sided(x, filled=True)
    if trunk.fp8:
        layer, x = layer_in_fp8(layer), x.clone()
        x[..., :channels] = source.factors.half()
    local, cross = row_convolution(layer.local, device), row_convolution(layer.cross, device, tail=layer.leave)
    rows = x[..., 0].numel()
    tile = tile_for("local", rows, columns=outputs, depth=channels, device=device)
    cross_tile = tile_for("global", rows, columns=cross.outputs, depth=math.gcd(outputs, tail), device=device)
    start = torch.randn(x.shape, generator=random, device=device).half()
    out, expected = trunk.sided(start.clone(), filled=False), start.clone()
    out.side.fill_(math.nan)
    trunk.convolve_local(0, source, out, add=add)
    trunk.convolve_cross(0, source, out, add=add)
    convolve(x, local, expected, tile=tile, add_to_out=add)
    convolve(x, cross, expected, tile=cross_tile, tail_channel=channels, to_channel=outputs, add_to_out=add)
    difference = trial_difference(out.pixels, expected)
    if trunk.fp8:
        return max(difference, _trial_of_factors(out))
    return max(difference, trial_difference(out.side, side_columns(expected, channels)))


def _trial_of_factors(out: SidedMap) -> float:
    """Return how far the 8-bit map and its side columns are from the map that they are to be rounded from."""
    factors = rounded(out.pixels[..., : out.factors.shape[3]])
    side = side_columns(factors, factors.shape[3])
    return max(trial_difference(out.factors, factors), trial_difference(out.side, side))


def _trial_of_entry(layer: FFCLayer, x: Tensor) -> float:
    batch, height, width, _ = x.shape
    enter, matrices = row_convolution(layer.enter, x.device), kernel_matrices(dft_matrices(height, width), x.device)
    from_channel = layer.local.bias.numel()
    results = []
    for kernel in ("strips", "rows"):
        out = x.clone()
        out[..., -enter.outputs :] = math.nan
        shape = (batch, height, 2, matrices.frequencies, enter.outputs)
        planes = torch.zeros(shape, dtype=torch.float16, device=x.device)
        if kernel == "strips":
            enter_strips(out, enter, matrices, planes, from_channel=from_channel)
        else:
            tile = tile_for(
                "enter_short_rows", batch * height * width, columns=enter.outputs, depth=enter.inputs, device=x.device
            )
            enter_rows(out, enter, matrices, planes, from_channel=from_channel, tile=tile)
        results.append((out, planes))
    return max(trial_difference(*pair) for pair in zip(*results, strict=True))
