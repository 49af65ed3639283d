"""The three 1x1 convolutions of the spectral path.

The first is fused with the row transform, the second works on the spectrum, the third is fused with the inverse row
transform.

Layouts as in `fourier`.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.convolution import RowConvolution, relu
from lama.kernels.early_launch import early_options, wait_for_launches_before
from lama.kernels.fourier import KernelMatrices
from lama.kernels.tiles import Tile

FUSED_WIDTHS = (16, 32, 64, 128)  # map widths that `enter_rows` and `leave_rows` take: one tile holds a whole row


def enter_rows(
    x: Tensor,
    enter: RowConvolution,
    matrices: KernelMatrices,
    planes: Tensor,
    *,
    from_channel: int,
    tile: Tile,
    early: bool = False,
) -> None:
    """Write t = ReLU(1x1 convolution) to the last channels of `x`, and its row transform to `planes`, in one launch.

    The pixels of a row of `x` are contiguous, its rows and images need not be. Its width must be one of FUSED_WIDTHS.
    `convolve` and `transform_rows` do the same for any width. `early`: see `early_launch`.
    """
    batch, height, width, x_channels = x.shape
    _enter_rows_kernel[(batch * height, enter.outputs // tile.columns)](
        x,
        enter.weight,
        enter.bias,
        matrices.row.values,
        planes,
        height,
        x.stride(0),
        x.stride(1),
        X_CHANNELS=x_channels,
        FROM=from_channel,
        INPUTS=enter.inputs,
        OUTPUTS=enter.outputs,
        WIDTH=width,
        FREQUENCIES=matrices.frequencies,
        MATRIX_STRIDE=matrices.row.values.shape[1],
        BN=tile.columns,
        BK=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **early_options(x.device, early=early),
    )


def leave_rows(
    planes: Tensor,
    x: Tensor,
    leave: Tensor,
    before: Tensor,
    matrices: KernelMatrices,
    out: Tensor,
    *,
    to_channel: int,
    tile: Tile,
    add_to_out: bool = False,
    early: bool = False,
) -> None:
    """Write ReLU(`before` + 1x1 convolution of (t + inverse row transform of `planes`)) to channels of `out`.

    `add_inverse_rows` and a tail of `convolve` do the same in two launches; here t is only read, and what is waited for
    is one short launch instead of a whole 3x3 convolution. All tensors are contiguous.

    Args:
        planes: (B, H, 2, K, C).
        x: (B, H, W, Cx) with t in its last C channels, W one of FUSED_WIDTHS.
        leave: (C, O) float16, the 1x1's weights.
        before: (B, H, W, O) float16, the sum so far with its bias.
        matrices: of the Fourier transform.
        out: (B, H, W, Cy).
        to_channel: where the result starts in `out`.
        tile: the block's shape, as `tile_for` chooses it.
        add_to_out: the result is added to what `out` holds, after the ReLU.
        early: the launch may begin early (`early_launch`).
    """
    batch, height, width, x_channels = x.shape
    channels, outputs = leave.shape
    _leave_rows_kernel[(batch * height, outputs // tile.columns)](
        planes,
        x,
        leave,
        before,
        matrices.row_inverse.values,
        out,
        X_CHANNELS=x_channels,
        CHANNELS=channels,
        OUTPUTS=outputs,
        OUT_CHANNELS=out.shape[3],
        TO=to_channel,
        WIDTH=width,
        FREQUENCIES=matrices.frequencies,
        MATRIX_STRIDE=matrices.row_inverse.values.shape[1],
        ADD=add_to_out,
        BN=tile.columns,
        BK=tile.depth,
        num_warps=tile.warps,
        **early_options(x.device, early=early),
    )


@dataclass(frozen=True)
class SpectrumConvolution:
    """weight (2C, 2C) float16, inputs first, real parts before imaginary ones; bias (2C,) float32."""

    weight: Tensor
    bias: Tensor


def spectrum_convolution(convolution: Convolution, device: torch.device) -> SpectrumConvolution:
    """Lay out the Fourier unit's 1x1 convolution (2C, 2C, 1, 1) for the kernel."""
    weight = convolution.weight.flatten(1).t()
    return SpectrumConvolution(
        weight.to(device, torch.float16).contiguous(), convolution.bias.to(device, torch.float32)
    )


def convolve_spectrum(
    spectrum: Tensor,
    convolution: SpectrumConvolution,
    gain: float,
    out: Tensor,
    *,
    tile: Tile,
    early: bool = False,
) -> None:
    """Write ReLU(1x1 convolution + gain bias) of `spectrum` to `out`, both (B, H, 2, K, C).

    `early`: see `early_launch`.
    """
    batch, height, _, frequencies, channels = spectrum.shape
    rows = batch * height * frequencies
    _spectrum_kernel[(triton.cdiv(rows, tile.rows) * (2 * channels // tile.columns),)](
        spectrum,
        convolution.weight,
        convolution.bias,
        out,
        gain,
        rows,
        frequencies,
        CHANNELS=channels,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **early_options(spectrum.device, early=early),
    )


def convolve_spectrum_reference(spectrum: Tensor, convolution: SpectrumConvolution, gain: float, out: Tensor) -> None:
    """The definition of `convolve_spectrum`, computed in the type of `spectrum`."""
    dtype = spectrum.dtype
    z = spectrum.transpose(2, 3).flatten(3)  # (B, H, K, 2C)
    z = (z @ convolution.weight.to(dtype) + gain * convolution.bias.to(dtype)).relu()
    out.copy_(z.unflatten(3, (2, -1)).transpose(2, 3))


@triton.jit(do_not_specialize=["height"])
def _enter_rows_kernel(
    x,
    weight,
    bias,
    matrix,
    planes,
    height,
    image_stride,
    row_stride,
    X_CHANNELS: tl.constexpr,
    FROM: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    WIDTH: tl.constexpr,
    FREQUENCIES: tl.constexpr,
    MATRIX_STRIDE: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    wait_for_launches_before(EARLY)
    line = tl.program_id(0)
    m = tl.arange(0, WIDTH)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    x += (line // height) * image_stride + (line % height) * row_stride
    pixels = x + m[:, None] * X_CHANNELS
    acc = tl.zeros((WIDTH, BN), dtype=tl.float32)
    for channel in range(0, INPUTS, BK):
        a = tl.load(pixels + (FROM + channel + k)[None, :])
        rows = weight + (channel + k)[:, None] * OUTPUTS
        acc = tl.dot(a, tl.load(rows + n[None, :]), acc)
    state = pixels + (X_CHANNELS - OUTPUTS)
    transform = tl.load(matrix + (m[:, None] * MATRIX_STRIDE + m[None, :]))
    target = planes + (line * (2 * FREQUENCIES) + m + (m >= FREQUENCIES).to(tl.int32))[:, None] * OUTPUTS
    t = relu(acc + tl.load(bias + n)[None, :]).to(tl.float16)
    tl.store(state + n[None, :], t)
    tl.store(target + n[None, :], tl.dot(transform, t).to(tl.float16))


@triton.jit
def _leave_rows_kernel(
    planes,
    x,
    weight,
    before,
    matrix,
    out,
    X_CHANNELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    TO: tl.constexpr,
    WIDTH: tl.constexpr,
    FREQUENCIES: tl.constexpr,
    MATRIX_STRIDE: tl.constexpr,
    ADD: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    line = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, WIDTH)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    frequency = m + (m >= FREQUENCIES).to(tl.int32)
    plane = planes + ((line * (2 * FREQUENCIES) + frequency[:, None]) * CHANNELS + k[None, :])
    state = x + ((line * WIDTH + m[:, None]) * X_CHANNELS + (X_CHANNELS - CHANNELS) + k[None, :])
    rows = weight + (k[:, None] * OUTPUTS + n[None, :])
    inverse = tl.load(matrix + (m[:, None] * MATRIX_STRIDE + m[None, :]))
    wait_for_launches_before(EARLY)
    # Few steps, written out, each with its numbers asked for a step ahead: a loop would wait for them every time.
    wave, t, w = tl.load(plane), tl.load(state), tl.load(rows)
    acc = tl.load(before + ((line * WIDTH + m[:, None]) * OUTPUTS + n[None, :])).to(tl.float32)
    for step in tl.static_range(CHANNELS // BK):
        plane += BK
        state += BK
        rows += BK * OUTPUTS
        if (step + 1) * BK < CHANNELS:
            next_wave, next_t, next_w = tl.load(plane), tl.load(state), tl.load(rows)
        t = (tl.dot(inverse, wave) + t.to(tl.float32)).to(tl.float16)
        acc = tl.dot(t, w, acc)
        if (step + 1) * BK < CHANNELS:
            wave, t, w = next_wave, next_t, next_w
    acc = relu(acc)
    pointers = out + ((line * WIDTH + m[:, None]) * OUT_CHANNELS + TO + n[None, :])
    if ADD:
        acc += tl.load(pointers).to(tl.float32)
    tl.store(pointers, acc.to(tl.float16))


@triton.jit(do_not_specialize=["rows", "frequencies"])
def _spectrum_kernel(
    spectrum,
    weight,
    bias,
    out,
    gain,
    rows,
    frequencies,
    CHANNELS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    wait_for_launches_before(EARLY)
    column_tiles: tl.constexpr = 2 * CHANNELS // BN
    tile = tl.program_id(0)
    m = (tile // column_tiles) * BM + tl.arange(0, BM)
    n = (tile % column_tiles) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    row = tl.minimum(m, rows - 1)
    real = (row // frequencies) * (2 * frequencies) + row % frequencies  # the imaginary part is `frequencies` further
    chunks: tl.constexpr = CHANNELS // BK
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(2 * chunks):
        source = real + (step // chunks) * frequencies
        a = tl.load(spectrum + ((source * CHANNELS + (step % chunks) * BK)[:, None] + k[None, :]))
        b = tl.load(weight + ((step * BK + k)[:, None] * (2 * CHANNELS) + n[None, :]))
        acc = tl.dot(a, b, acc)
    acc = relu(acc + gain * tl.load(bias + n)[None, :])
    channel = n % CHANNELS
    target = (real * CHANNELS)[:, None] + ((n // CHANNELS) * frequencies * CHANNELS + channel)[None, :]
    tl.store(out + target, acc.to(tl.float16), mask=(m < rows)[:, None])
