"""The way out of one layer's spectral path and into the next layer's, in one launch.

Both go row by row: the next layer's first 1x1 reads of the map nothing but the row that this layer's last one has just
written. So one program keeps a row in registers from the inverse row transform to the next transform.

Neither the spectral path's C channels nor the O global ones are a power of two, but a third of them is: products are
taken by thirds of C. Layouts as in `fourier`.
"""

import triton
import triton.language as tl
from torch import Tensor

from lama.kernels.convolution import RowConvolution, relu
from lama.kernels.fourier import KernelMatrices
from lama.kernels.tiles import Tile


def leave_and_enter_rows(
    planes: Tensor,
    x: Tensor,
    leave: Tensor,
    before: Tensor,
    matrices: KernelMatrices,
    out: Tensor,
    enter: RowConvolution,
    next_planes: Tensor,
    *,
    to_channel: int,
    tile: Tile,
    add_to_out: bool = False,
) -> None:
    """Do what `leave_rows` and then, on `out`, `enter_rows` with the next layer's weights do, in one launch.

    A sum is rounded to float16 wherever those two store it, so the results are theirs.

    Arguments: `planes` (B, H, 2, K, C); `x` (B, H, W, Cx) with t in its last C channels, W and C such that
    `spectral_path.joins_layers`; `leave` (C, O) float16; `before` (B, H, W, O) float16, the sum so far with its bias;
    `out` (B, H, W, Cy), another map than `x`, written from `to_channel` on and, with the next layer's t, in its last C
    channels; `enter` from O channels to C; `next_planes` (B, H, 2, K, C), other memory than `planes`, whose parts that
    are always 0 are not written. With `add_to_out` what `out` holds is added after the first ReLU. All are contiguous.
    """
    batch, height, width, x_channels = x.shape
    channels, outputs = leave.shape
    _leave_and_enter_rows_kernel[(batch * height,)](
        planes,
        x,
        leave,
        before,
        matrices.row_inverse.values,
        out,
        enter.weight,
        enter.bias,
        matrices.row.values,
        next_planes,
        X_CHANNELS=x_channels,
        CHANNELS=channels,
        OUTPUTS=outputs,
        OUT_CHANNELS=out.shape[3],
        TO=to_channel,
        WIDTH=width,
        FREQUENCIES=matrices.frequencies,
        MATRIX_STRIDE=matrices.row.values.shape[1],
        ADD=add_to_out,
        THIRD=channels // 3,
        BN=tile.columns,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )


@triton.jit
def _leave_and_enter_rows_kernel(
    planes,
    x,
    leave,
    before,
    inverse_matrix,
    out,
    enter,
    enter_bias,
    matrix,
    next_planes,
    X_CHANNELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    TO: tl.constexpr,
    WIDTH: tl.constexpr,
    FREQUENCIES: tl.constexpr,
    MATRIX_STRIDE: tl.constexpr,
    ADD: tl.constexpr,
    THIRD: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
):
    line = tl.program_id(0).to(tl.int64)
    m = tl.arange(0, WIDTH)
    n = tl.arange(0, BN)
    k = tl.arange(0, THIRD)
    square = m[:, None] * MATRIX_STRIDE + m[None, :]
    row_of_planes = (line * (2 * FREQUENCIES) + m + (m >= FREQUENCIES).to(tl.int32))[:, None] * CHANNELS + k[None, :]
    pixel = line * WIDTH + m[:, None]
    state = x + (pixel * X_CHANNELS + (X_CHANNELS - CHANNELS) + k[None, :])
    sums = before + (pixel * OUTPUTS + n[None, :])
    target = out + (pixel * OUT_CHANNELS + TO + n[None, :])
    leave_rows = leave + (k[:, None] * OUTPUTS + n[None, :])
    enter_rows = enter + (n[:, None] * CHANNELS + k[None, :])

    inverse = tl.load(inverse_matrix + square)
    wave_0, state_0 = tl.load(planes + row_of_planes), tl.load(state)
    wave_1, state_1 = tl.load(planes + row_of_planes + THIRD), tl.load(state + THIRD)
    wave_2, state_2 = tl.load(planes + row_of_planes + 2 * THIRD), tl.load(state + 2 * THIRD)
    t_0 = (tl.dot(inverse, wave_0) + state_0.to(tl.float32)).to(tl.float16)
    t_1 = (tl.dot(inverse, wave_1) + state_1.to(tl.float32)).to(tl.float16)
    t_2 = (tl.dot(inverse, wave_2) + state_2.to(tl.float32)).to(tl.float16)
    next_0 = tl.zeros((WIDTH, THIRD), dtype=tl.float32)
    next_1 = tl.zeros((WIDTH, THIRD), dtype=tl.float32)
    next_2 = tl.zeros((WIDTH, THIRD), dtype=tl.float32)
    # The compiler copies what a step loads to shared memory, steps ahead. Written out as in `leave_rows`, steps would
    # load to registers, and those are full: on Hopper, big-lama's t and the next one take 144 of a thread's 255.
    for channel in tl.range(0, OUTPUTS, BN, num_stages=STAGES):
        acc = tl.load(sums + channel).to(tl.float32)
        acc = tl.dot(t_0, tl.load(leave_rows + channel), acc)
        acc = tl.dot(t_1, tl.load(leave_rows + (THIRD * OUTPUTS + channel)), acc)
        acc = tl.dot(t_2, tl.load(leave_rows + (2 * THIRD * OUTPUTS + channel)), acc)
        acc = relu(acc)
        if ADD:
            acc += tl.load(target + channel).to(tl.float32)
        features = acc.to(tl.float16)
        tl.store(target + channel, features)
        next_0 = tl.dot(features, tl.load(enter_rows + channel * CHANNELS), next_0)
        next_1 = tl.dot(features, tl.load(enter_rows + (channel * CHANNELS + THIRD)), next_1)
        next_2 = tl.dot(features, tl.load(enter_rows + (channel * CHANNELS + 2 * THIRD)), next_2)

    transform = tl.load(matrix + square)
    bias = enter_bias + k
    next_state = out + (pixel * OUT_CHANNELS + (OUT_CHANNELS - CHANNELS) + k[None, :])
    t_0 = relu(next_0 + tl.load(bias)[None, :]).to(tl.float16)
    t_1 = relu(next_1 + tl.load(bias + THIRD)[None, :]).to(tl.float16)
    t_2 = relu(next_2 + tl.load(bias + 2 * THIRD)[None, :]).to(tl.float16)
    tl.store(next_state, t_0)
    tl.store(next_state + THIRD, t_1)
    tl.store(next_state + 2 * THIRD, t_2)
    tl.store(next_planes + row_of_planes, tl.dot(transform, t_0).to(tl.float16))
    tl.store(next_planes + row_of_planes + THIRD, tl.dot(transform, t_1).to(tl.float16))
    tl.store(next_planes + row_of_planes + 2 * THIRD, tl.dot(transform, t_2).to(tl.float16))
