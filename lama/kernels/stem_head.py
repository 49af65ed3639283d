"""The two 7x7 convolutions at full resolution, 4 to width channels and width to 3, where memory traffic is the cost.

Stem: the input becomes a reflect-padded (B, H + 6, W + 8, 4) float16 map. In a line of it, two neighbouring output
pixels see 8 pixels of 4 channels: 32 neighbouring numbers. A row of the matrix product holds these numbers of 7 lines,
filled up to 8, and its columns are the outputs of both pixels. Each of the two sees only 7 of the 8 pixels, so its
weight for the other one is zero. As many programs as fit the card keep the weights in shared memory and load the next
pairs while they compute.

Head: a program walks down the rows of a strip and reads every row once. A row contributes to seven output rows: one
product has the columns of all vertical taps, and seven sums are held and handed on by one at each step; each sum has
the 7 horizontal taps x 3 colours as its columns. These go to memory as planes (B, H, 21, W), and a second launch adds
the seven shifted ones and applies the sigmoid.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.convolution import reflected, relu
from lama.kernels.tiles import Tile, multiprocessors

TAPS = 7
BORDER_PX = TAPS // 2
INPUT_CHANNELS = 4
COLOURS = 3
STEM_DEPTH = 32  # the 8 taps a pair of pixels sees in a row x 4 channels
HEAD_COLUMNS = 32  # 7 taps x 3 colours, filled up
ROW_TAPS = 8  # vertical taps, filled up
PADDED_COLUMNS = 2 * BORDER_PX + 2  # two columns more than the border, so that rows start at multiples of 16 bytes


@dataclass(frozen=True)
class StemWeights:
    """weight (8 x 32, 2 O) float16, the left pixel's outputs, then the right one's; bias (2 O,) float32, O twice."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class HeadWeights:
    """weight (I, 8 x 32) float16: channel, vertical tap, horizontal tap x colour; bias (3,) float32."""

    weight: Tensor
    bias: Tensor


def stem_weights(convolution: Convolution, device: torch.device) -> StemWeights:
    """Lay out the first convolution (O, 4, 7, 7) for the kernel."""
    outputs = convolution.bias.numel()
    rows = convolution.weight.permute(2, 3, 1, 0).reshape(TAPS, TAPS * INPUT_CHANNELS, outputs)
    spare = STEM_DEPTH - TAPS * INPUT_CHANNELS
    pair = torch.cat([F.pad(rows, (0, 0, 0, spare)), F.pad(rows, (0, 0, spare, 0))], dim=2).reshape(-1, 2 * outputs)
    bias = convolution.bias.repeat(2)
    pair = F.pad(pair, (0, 0, 0, (ROW_TAPS - TAPS) * STEM_DEPTH))
    return StemWeights(pair.to(device, torch.float16).contiguous(), bias.to(device, torch.float32))


def head_weights(convolution: Convolution, device: torch.device) -> HeadWeights:
    """Lay out the last convolution (3, I, 7, 7) for the kernel."""
    inputs = convolution.weight.shape[1]
    columns = convolution.weight.permute(2, 1, 3, 0).reshape(TAPS, inputs, TAPS * COLOURS)
    columns = F.pad(columns, (0, HEAD_COLUMNS - TAPS * COLOURS, 0, 0, 0, ROW_TAPS - TAPS)).transpose(0, 1).flatten(1)
    return HeadWeights(columns.to(device, torch.float16).contiguous(), convolution.bias.to(device, torch.float32))


def pad_input(x: Tensor, padded: Tensor) -> None:
    """Write `x` (B, 4, H, W), any float type and strides, reflect-padded to `padded` (B, H + 6, W + 8, 4) float16."""
    batch, _, height, width = x.shape
    block = 256
    grid = (triton.cdiv((height + 2 * BORDER_PX) * (width + PADDED_COLUMNS), block), batch)
    _pad_input_kernel[grid](x, padded, height, width, *x.stride(), BLOCK=block, num_warps=4)


def pad_input_reference(x: Tensor, padded: Tensor) -> None:
    """The definition of `pad_input`; what the last two columns hold does not matter as long as it is finite."""
    border = F.pad(x, (BORDER_PX,) * 4, mode="reflect").permute(0, 2, 3, 1)
    padded.copy_(F.pad(border, (0, 0, 0, PADDED_COLUMNS - 2 * BORDER_PX)))


def convolve_stem(padded: Tensor, stem: StemWeights, out: Tensor, *, tile: Tile) -> None:
    """Write ReLU(7x7 convolution + bias) of the padded input to `out` (B, H, W, O), W even.

    A row of the product is a pair of pixels; a program computes `tile.rows` pairs of one line at a time.
    """
    batch, height, width, outputs = out.shape
    if width % 2:
        raise ValueError(f"a map {width} pixels wide has no whole number of pairs")
    line_tiles = triton.cdiv(width // 2, tile.rows)
    tiles = batch * height * line_tiles
    _stem_kernel[(min(tiles, 2 * multiprocessors(out.device)),)](
        padded,
        stem.weight,
        stem.bias,
        out,
        height,
        width // 2,
        line_tiles,
        tiles,
        OUTPUTS=2 * outputs,
        BM=tile.rows,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def convolve_stem_reference(padded: Tensor, stem: StemWeights, out: Tensor) -> None:
    """The definition of `convolve_stem`, computed in the type of `padded`."""
    outputs = out.shape[3]
    rows = stem.weight.view(ROW_TAPS, STEM_DEPTH, -1)[:TAPS, : TAPS * INPUT_CHANNELS, :outputs]
    weight = rows.reshape(TAPS, TAPS, INPUT_CHANNELS, -1).permute(3, 2, 0, 1).to(padded.dtype)
    maps = padded[:, :, : out.shape[2] + 2 * BORDER_PX].permute(0, 3, 1, 2)
    out.copy_(F.conv2d(maps, weight, stem.bias[:outputs].to(padded.dtype)).relu().permute(0, 2, 3, 1))


def convolve_head(x: Tensor, head: HeadWeights, planes: Tensor, out: Tensor, *, tile: Tile) -> None:
    """Write sigmoid(7x7 convolution + bias) of `x` (B, H, W, I) to `out` (B, 3, H, W) float32.

    `planes` (B, H, 21, W) float16 is scratch memory. `tile.rows` is the number of pixels across a strip,
    `tile.depth` that of the rows it walks down.
    """
    batch, height, width, inputs = x.shape
    grid = (triton.cdiv(width, tile.rows), triton.cdiv(height, tile.depth), batch)
    _head_rows_kernel[grid](
        x,
        head.weight,
        planes,
        height,
        width,
        INPUTS=inputs,
        STRIP=tile.depth,
        BM=tile.rows,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
    block = 256
    _head_sum_kernel[(triton.cdiv(width, block), height, batch)](
        planes, head.bias, out, height, width, BLOCK=block, num_warps=4
    )


def convolve_head_reference(x: Tensor, head: HeadWeights, out: Tensor) -> None:
    """The definition of `convolve_head`, computed in the type of `x`."""
    rows = head.weight.unflatten(1, (ROW_TAPS, HEAD_COLUMNS))[:, :TAPS, : TAPS * COLOURS]
    weight = rows.unflatten(2, (TAPS, COLOURS)).permute(3, 0, 1, 2).to(x.dtype)
    padded = F.pad(x.permute(0, 3, 1, 2), (BORDER_PX,) * 4, mode="reflect")
    out.copy_(F.conv2d(padded, weight, head.bias.to(x.dtype)).sigmoid())


@triton.jit(do_not_specialize=["height", "width", "batch_stride", "channel_stride", "row_stride", "column_stride"])
def _pad_input_kernel(
    x, padded, height, width, batch_stride, channel_stride, row_stride, column_stride, BLOCK: tl.constexpr
):
    pixel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    padded_width = width + 8
    pixels = (height + 6) * padded_width
    y = reflected(tl.minimum(pixel // padded_width, height + 5) - 3, height)
    column = reflected(tl.minimum(pixel % padded_width, width + 5) - 3, width)
    channel = tl.arange(0, 4)
    source = (y * row_stride + column * column_stride)[:, None] + (channel * channel_stride)[None, :]
    image = tl.program_id(1)
    value = tl.load(x + image.to(tl.int64) * batch_stride + source)
    target = padded + (image.to(tl.int64) * pixels * 4 + (pixel[:, None] * 4 + channel[None, :]))
    tl.store(target, value.to(tl.float16), mask=(pixel < pixels)[:, None])


@triton.jit
def _stem_rows(padded, tile, height, pairs, line_tiles, BM: tl.constexpr):
    """The numbers that the BM pairs of a tile see: rows 0 to 3 and 4 to 7 of the kernel, (BM, 128) each."""
    k = tl.arange(0, 128)
    pair = tl.minimum((tile % line_tiles) * BM + tl.arange(0, BM), pairs - 1)
    line = tile // line_tiles
    row_numbers = (pairs + 4) * 8
    start = padded + (line // height * (height + 6) + line % height) * row_numbers + (pair * 8)[:, None]
    upper = tl.load(start + (k // 32 * row_numbers + k % 32)[None, :])
    # The eighth row has no weights: it only has to exist.
    lower = tl.load(start + (tl.minimum(4 + k // 32, 6) * row_numbers + k % 32)[None, :])
    return upper, lower


@triton.jit(do_not_specialize=["height", "pairs", "line_tiles", "tiles"])
def _stem_kernel(padded, weight, bias, out, height, pairs, line_tiles, tiles, OUTPUTS: tl.constexpr, BM: tl.constexpr):
    m = tl.arange(0, BM)
    n = tl.arange(0, OUTPUTS)
    taps = weight + (tl.arange(0, 128)[:, None] * OUTPUTS + n[None, :])
    upper_weight = tl.load(taps)
    lower_weight = tl.load(taps + 128 * OUTPUTS)
    shift = tl.load(bias + n)[None, :]
    next_upper, next_lower = _stem_rows(padded, tl.program_id(0), height, pairs, line_tiles, BM)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        upper = next_upper
        lower = next_lower
        following = tl.minimum(tile + tl.num_programs(0), tiles - 1)
        next_upper, next_lower = _stem_rows(padded, following, height, pairs, line_tiles, BM)
        acc = tl.dot(upper, upper_weight)
        acc = relu(tl.dot(lower, lower_weight, acc) + shift)
        first = (tile % line_tiles) * BM
        target = out + (tile // line_tiles * pairs + first) * OUTPUTS
        tl.store(target + (m[:, None] * OUTPUTS + n[None, :]), acc.to(tl.float16), mask=(first + m < pairs)[:, None])


@triton.jit
def _bounded(x):
    """Far beyond where the sigmoid is 0 or 1, inside float16; NaN stays NaN."""
    return tl.where(x > 60000.0, 60000.0, tl.where(x < -60000.0, -60000.0, x))


@triton.jit
def _source_row(y, height):
    """Row `y` by reflection. Past a border's width below the map it only has to exist: its sums are not stored."""
    return tl.maximum(tl.minimum(reflected(y, height), height - 1), 0)


@triton.jit(do_not_specialize=["height"])
def _head_rows_kernel(x, weight, planes, height, width, INPUTS: tl.constexpr, STRIP: tl.constexpr, BM: tl.constexpr):
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    top = tl.program_id(1) * STRIP
    image = tl.program_id(2) * height
    k = tl.arange(0, INPUTS)
    n = tl.arange(0, 32)
    taps = tl.load(weight + (k[:, None] * 256 + tl.arange(0, 256)[None, :]))
    s0 = tl.zeros((BM, 32), dtype=tl.float32)
    s1 = tl.zeros((BM, 32), dtype=tl.float32)
    s2 = tl.zeros((BM, 32), dtype=tl.float32)
    s3 = tl.zeros((BM, 32), dtype=tl.float32)
    s4 = tl.zeros((BM, 32), dtype=tl.float32)
    s5 = tl.zeros((BM, 32), dtype=tl.float32)
    pixels = tl.minimum(m, width - 1)[:, None] * INPUTS + k[None, :]
    for step in range(STRIP + 6):
        row = tl.load(x + ((image + _source_row(top + step - 3, height)) * width * INPUTS + pixels))
        # One product for all vertical taps; its 8 x 32 columns part without leaving their registers.
        parts = tl.permute(tl.reshape(tl.dot(row, taps), (BM, 2, 2, 2, 32)), (0, 4, 1, 2, 3))
        even, odd = tl.split(parts)
        even0, even2 = tl.split(even)
        odd1, odd3 = tl.split(odd)
        p0, p4 = tl.split(even0)
        p2, p6 = tl.split(even2)
        p1, p5 = tl.split(odd1)
        p3, _ = tl.split(odd3)
        # Vertical tap d of this row belongs to output row top + step - d, whose sum so far is in s(d - 1).
        done = s5 + p6
        s5 = s4 + p5
        s4 = s3 + p4
        s3 = s2 + p3
        s2 = s1 + p2
        s1 = s0 + p1
        s0 = p0
        y = top + step - 6
        target = planes + (((image + y) * 21 + n)[None, :] * width + m[:, None])
        columns = tl.where((y >= top) & (y < height), 21, 0)
        mask = (n < columns)[None, :] & (m < width)[:, None]
        tl.store(target, _bounded(done).to(tl.float16), mask=mask)


@triton.jit(do_not_specialize=["height"])
def _head_sum_kernel(planes, bias, out, height, width, BLOCK: tl.constexpr):
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    y = tl.program_id(1)
    image = tl.program_id(2)
    inside = m < width
    planes += (image * height + y) * 21 * width
    for colour in tl.static_range(3):
        total = tl.zeros((BLOCK,), dtype=tl.float32) + tl.load(bias + colour)
        for tap in tl.static_range(7):
            source = reflected(tl.minimum(m, width - 1) + tap - 3, width)
            total += tl.load(planes + (tap * 3 + colour) * width + source).to(tl.float32)
        tl.store(out + ((image * 3 + colour) * height + y) * width + m, 1 / (1 + tl.exp(-total)), mask=inside)
