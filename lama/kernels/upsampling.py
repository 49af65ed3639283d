"""The transposed convolutions of the decoder: 3x3, stride 2, padding 1, output padding 1, with bias and ReLU.

Output pixel 2i - 1 + k receives input pixel i through tap k, so an even output row sees one input row and an odd one
two: four phases (even or odd in y and x) of 1, 2, 2 and 4 taps, without the zeros between. A program computes both
phases of x, which share the pixels they read.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.convolution import relu
from lama.kernels.early_launch import early_options, wait_for_launches_before
from lama.kernels.tiles import Tile


@dataclass(frozen=True)
class RowUpsampling:
    """weight (9 I, O) float16, tap by tap; bias (O,) float32; I input channels."""

    weight: Tensor
    bias: Tensor
    inputs: int


def row_upsampling(convolution: Convolution, device: torch.device) -> RowUpsampling:
    """Lay out a transposed convolution (I, O, 3, 3) for the kernel."""
    inputs, outputs = convolution.weight.shape[:2]
    weight = convolution.weight.permute(2, 3, 0, 1).reshape(9 * inputs, outputs)
    return RowUpsampling(
        weight.to(device, torch.float16).contiguous(), convolution.bias.to(device, torch.float32), inputs
    )


def upsample(x: Tensor, upsampling: RowUpsampling, out: Tensor, *, tile: Tile, early: bool = False) -> None:
    """Write ReLU(transposed convolution + bias) of the first channels of `x` (B, H, W, Cx) to `out` (B, 2H, 2W, O).

    The pixels of a row of `x` are contiguous, its rows and images need not be. `early`: see `early_launch`.
    """
    batch, height, width, x_channels = x.shape
    outputs = out.shape[3]
    rows = batch * height * width
    grid = (triton.cdiv(rows, tile.rows) * (outputs // tile.columns), 2)
    _upsample_kernel[grid](
        x,
        upsampling.weight,
        upsampling.bias,
        out,
        rows,
        height,
        width,
        x.stride(0),
        x.stride(1),
        X_CHANNELS=x_channels,
        INPUTS=upsampling.inputs,
        OUTPUTS=outputs,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **early_options(x.device, early=early),
    )


def upsample_reference(x: Tensor, upsampling: RowUpsampling, out: Tensor) -> None:
    """The definition of `upsample`, computed in the type of `x`."""
    weight = upsampling.weight.to(x.dtype).view(3, 3, upsampling.inputs, -1).permute(2, 3, 0, 1)
    maps = x[..., : upsampling.inputs].permute(0, 3, 1, 2)
    bias = upsampling.bias.to(x.dtype)
    y = F.conv_transpose2d(maps, weight, bias, stride=2, padding=1, output_padding=1)
    out.copy_(y.relu().permute(0, 2, 3, 1))


@triton.jit(do_not_specialize=["rows", "height", "width"])
def _upsample_kernel(
    x,
    weight,
    bias,
    out,
    rows,
    height,
    width,
    image_stride,
    row_stride,
    X_CHANNELS: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    wait_for_launches_before(EARLY)
    column_tiles: tl.constexpr = OUTPUTS // BN
    tile = tl.program_id(0)
    odd_y = 1 - tl.program_id(1)  # the longer sums first: the short ones fill the end of the launch
    m = (tile // column_tiles) * BM + tl.arange(0, BM)
    n = (tile % column_tiles) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    pixel = tl.minimum(m, rows - 1)
    px = pixel % width
    line = pixel // width  # row of the whole batch
    py = line % height
    source = (line // height) * image_stride + py * row_stride + px * X_CHANNELS

    chunks: tl.constexpr = INPUTS // BK
    even = tl.zeros((BM, BN), dtype=tl.float32)
    odd = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range((1 + odd_y) * chunks):
        tap_y = step // chunks
        channel = (step % chunks) * BK
        # Even: tap 1 from the pixel itself. Odd: tap 0 from the next pixel, tap 2 from the pixel itself.
        dy = odd_y * (1 - tap_y)
        kernel_row = 1 - odd_y + 2 * odd_y * tap_y
        inside = py + dy < height
        here = x + ((source + dy * row_stride + channel)[:, None] + k[None, :])
        taps = weight + ((kernel_row * 3 * INPUTS + channel + k)[:, None] * OUTPUTS + n[None, :])
        a = tl.load(here, mask=inside[:, None], other=0.0)
        right = tl.load(here + X_CHANNELS, mask=(inside & (px + 1 < width))[:, None], other=0.0)
        even = tl.dot(a, tl.load(taps + INPUTS * OUTPUTS), even)
        odd = tl.dot(a, tl.load(taps + 2 * INPUTS * OUTPUTS), odd)
        odd = tl.dot(right, tl.load(taps), odd)

    shift = tl.load(bias + n)[None, :]
    target = (2 * line + odd_y) * (2 * width) + 2 * px
    pointers = out + (target[:, None] * OUTPUTS + n[None, :])
    mask = (m < rows)[:, None]
    tl.store(pointers, relu(even + shift).to(tl.float16), mask=mask)
    tl.store(pointers + OUTPUTS, relu(odd + shift).to(tl.float16), mask=mask)
