"""3x3 and 1x1 convolutions as implicit matrix products, with reflection in the addressing.

One kernel serves the trunk's convolutions and the downsamplings. Its epilogue adds the bias, applies the ReLU and adds
the block's shortcut. An optional 1x1 on further channels of the same pixel takes extra steps of the same sum. Where the
map is too small to fill the card, several programs share the sum over channels and taps. On cards with a copy engine
for boxes of memory (TMA), that engine fetches the weights.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from lama.fold_batchnorm import Convolution
from lama.kernels.early_launch import early_options, wait_for_launches_before
from lama.kernels.tiles import Tile, copies_boxes


@dataclass(frozen=True)
class RowConvolution:
    """Weights of a convolution over rows.

    weight    (taps I + T, O) float16: for every tap, row by row, the I input channels; then the T tail channels
    bias      (O,) float32
    inputs, tail, kernel_px, stride: I, T, the side of the kernel and the step between output pixels
    """

    weight: Tensor
    bias: Tensor
    inputs: int
    tail: int
    kernel_px: int
    stride: int

    @property
    def outputs(self) -> int:
        """O."""
        return self.bias.numel()

    def without_tail(self) -> "RowConvolution":
        """The convolution alone, in the same memory."""
        return replace(self, weight=self.weight[: self.kernel_px**2 * self.inputs], tail=0)


def row_convolution(
    convolution: Convolution, device: torch.device, *, tail: Tensor | None = None, stride: int = 1
) -> RowConvolution:
    """Lay out a convolution (O, I, k, k), k 1 or 3, and a 1x1 `tail` (O, T, 1, 1) for the kernel."""
    outputs, inputs, kernel_px, _ = convolution.weight.shape
    rows = convolution.weight.permute(2, 3, 1, 0).reshape(-1, outputs)  # (k k I, O)
    if tail is not None:
        rows = torch.cat([rows, tail.flatten(1).t()])
    return RowConvolution(
        weight=rows.to(device, torch.float16).contiguous(),
        bias=convolution.bias.to(device, torch.float32),
        inputs=inputs,
        tail=0 if tail is None else tail.shape[1],
        kernel_px=kernel_px,
        stride=stride,
    )


def convolve(
    x: Tensor,
    convolution: RowConvolution,
    out: Tensor,
    *,
    tile: Tile,
    from_channel: int = 0,
    tail_channel: int = 0,
    to_channel: int = 0,
    add_to_out: bool = False,
    rectify: bool = True,
    scratch: "SplitScratch | None" = None,
    early: bool = False,
) -> None:
    """Write ReLU(convolution + bias) of channels of `x` into channels of `out`, or the sum itself without `rectify`.

    Args:
        x: (B, H, W, Cx), contiguous.
        convolution: its weights and bias.
        out: (B, H', W', Cy), contiguous, H' = ceil(H / stride) and W' likewise.
        tile: the block's shape, as `tile_for` chooses it.
        from_channel: where the input channels start in `x`.
        tail_channel: where the tail's channels start in `x`.
        to_channel: where the output channels start in `out`.
        add_to_out: the result is added to what `out` holds, after the ReLU.
        rectify: apply the ReLU.
        scratch: memory for the parts of the sum; needed where the tile splits it.
        early: the launch may begin early (`early_launch`).

    Raises:
        ValueError: the tile splits the sum and there is no scratch memory.
    """
    batch, height, width, x_channels = x.shape
    _, out_height, out_width, out_channels = out.shape
    rows = batch * out_height * out_width
    grid = (triton.cdiv(rows, tile.rows) * (convolution.outputs // tile.columns), tile.split)
    if tile.split > 1 and scratch is None:
        raise ValueError("a tile that splits the sum needs scratch memory")
    boxes = copies_boxes(x.device)
    _convolve_kernel[grid](
        x,
        _weight_argument(convolution, tile.depth, tile.columns, boxes=boxes),
        convolution.bias,
        out,
        x if scratch is None else scratch.partial_sums,
        x if scratch is None else scratch.arrivals,
        rows,
        height,
        width,
        out_height,
        out_width,
        X_CHANNELS=x_channels,
        FROM=from_channel,
        INPUTS=convolution.inputs,
        TAIL_FROM=tail_channel,
        TAIL=convolution.tail,
        OUT_CHANNELS=out_channels,
        TO=to_channel,
        OUTPUTS=convolution.outputs,
        KERNEL_PX=convolution.kernel_px,
        STRIDE=convolution.stride,
        ADD=add_to_out,
        RECTIFY=rectify,
        SPLIT=tile.split,
        BOXES=boxes,
        # A tile within one row of the image has one y, which leaves arithmetic of scalars.
        WITHIN_ROW=out_width % tile.rows == 0,
        BM=tile.rows,
        BN=tile.columns,
        BK=tile.depth,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **early_options(x.device, early=early),
    )


def _weight_argument(
    convolution: RowConvolution, depth: int, columns: int, *, boxes: bool
) -> Tensor | TensorDescriptor:
    """Return the weights as boxes (depth, columns) for the copy engine, or as they are."""
    if not boxes:
        return convolution.weight
    return TensorDescriptor.from_tensor(convolution.weight, [depth, columns])


def convolve_reference(
    x: Tensor,
    convolution: RowConvolution,
    out: Tensor,
    *,
    from_channel: int = 0,
    tail_channel: int = 0,
    to_channel: int = 0,
    add_to_out: bool = False,
    rectify: bool = True,
) -> None:
    """The definition of `convolve`, computed in the type of `x`."""
    kernel_px, inputs = convolution.kernel_px, convolution.inputs
    taps = convolution.weight[: kernel_px**2 * inputs].to(x.dtype)
    weight = taps.view(kernel_px, kernel_px, inputs, -1).permute(3, 2, 0, 1)
    maps = x.permute(0, 3, 1, 2)
    border_px = kernel_px // 2
    padded = F.pad(maps[:, from_channel : from_channel + inputs], (border_px,) * 4, mode="reflect")
    y = F.conv2d(padded, weight, convolution.bias.to(x.dtype), convolution.stride).permute(0, 2, 3, 1)
    if convolution.tail:
        tail = x[..., tail_channel : tail_channel + convolution.tail]
        y = y + tail @ convolution.weight[kernel_px**2 * inputs :].to(x.dtype)
    target = out[..., to_channel : to_channel + convolution.outputs]
    y = y.relu() if rectify else y
    target.copy_(y + target if add_to_out else y)


@dataclass(frozen=True)
class SplitScratch:
    """Memory for split sums: float32 partial sums (split, rows, O) and an int32 count per tile, zero between uses."""

    partial_sums: Tensor
    arrivals: Tensor


def split_scratch(rows: int, outputs: int, *, tile: Tile, device: torch.device) -> SplitScratch | None:
    """Allocate what `convolve` needs with `tile` for `rows` output pixels, or None where nothing is split."""
    if tile.split == 1:
        return None
    tiles = triton.cdiv(rows, tile.rows) * (outputs // tile.columns)
    partial_sums = torch.empty((tile.split, rows, outputs), dtype=torch.float32, device=device)
    return SplitScratch(partial_sums, torch.zeros(tiles, dtype=torch.int32, device=device))


@triton.jit
def reflected(i, n):
    """Index i of a row of n pixels, mirrored at both ends without repeating the edge (one border's width at most)."""
    i = tl.abs(i)
    return tl.where(i >= n, 2 * n - 2 - i, i)


@triton.jit
def relu(x):
    """NaN stays NaN, as in PyTorch: the caller's check for finite results relies on it."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _finish(
    acc, bias, out, m, n, rows, OUT_CHANNELS: tl.constexpr, TO: tl.constexpr, ADD: tl.constexpr, RECTIFY: tl.constexpr
):
    acc += tl.load(bias + n)[None, :]
    if RECTIFY:
        acc = relu(acc)
    pointers = out + (m[:, None] * OUT_CHANNELS + TO + n[None, :])
    mask = (m < rows)[:, None]
    if ADD:
        acc += tl.load(pointers, mask=mask, other=0.0).to(tl.float32)
    tl.store(pointers, acc.to(tl.float16), mask=mask)


@triton.jit
def _pick(step, before, here, after):
    """What belongs to a tap's step of -1, 0 or 1 pixel."""
    return tl.where(step == 0, here, tl.where(step < 0, before, after))


@triton.jit
def _load_weight(weight, row, column, OUTPUTS: tl.constexpr, BOXES: tl.constexpr, BK: tl.constexpr, BN: tl.constexpr):
    if BOXES:
        return weight.load([row, column])
    else:
        k, n = tl.arange(0, BK), tl.arange(0, BN)
        return tl.load(weight + ((row + k)[:, None] * OUTPUTS + (column + n)[None, :]))


@triton.jit(do_not_specialize=["rows", "height", "width", "out_height", "out_width"])
def _convolve_kernel(
    x,
    weight,
    bias,
    out,
    partial_sums,
    arrivals,
    rows,
    height,
    width,
    out_height,
    out_width,
    X_CHANNELS: tl.constexpr,
    FROM: tl.constexpr,
    INPUTS: tl.constexpr,
    TAIL_FROM: tl.constexpr,
    TAIL: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    TO: tl.constexpr,
    OUTPUTS: tl.constexpr,
    KERNEL_PX: tl.constexpr,
    STRIDE: tl.constexpr,
    ADD: tl.constexpr,
    RECTIFY: tl.constexpr,
    SPLIT: tl.constexpr,
    BOXES: tl.constexpr,
    WITHIN_ROW: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    EARLY: tl.constexpr = False,
):
    wait_for_launches_before(EARLY)
    # Programs that share rows of x run next to each other, so that the second finds them in the L2 cache.
    column_tiles: tl.constexpr = OUTPUTS // BN
    tile = tl.program_id(0)
    first_row = (tile // column_tiles) * BM
    first_column = (tile % column_tiles) * BN
    m = first_row + tl.arange(0, BM)
    n = first_column + tl.arange(0, BN)
    k = tl.arange(0, BK)
    pixel = tl.minimum(m, rows - 1)
    at = first_row if WITHIN_ROW else pixel
    px = (pixel % out_width) * STRIDE
    py = ((at // out_width) % out_height) * STRIDE
    image = (at // (out_width * out_height)) * (height * width)
    # Where the rows and columns of pixels begin that the taps reach: a step only picks one of three each.
    here = px * X_CHANNELS
    left = reflected(px - 1, width) * X_CHANNELS
    right = reflected(px + 1, width) * X_CHANNELS
    level = (image + py * width) * X_CHANNELS
    above = (image + reflected(py - 1, height) * width) * X_CHANNELS
    below = (image + reflected(py + 1, height) * width) * X_CHANNELS

    chunks: tl.constexpr = INPUTS // BK
    conv_steps: tl.constexpr = KERNEL_PX * KERNEL_PX * chunks
    steps: tl.constexpr = conv_steps + TAIL // BK
    steps_each: tl.constexpr = (steps + SPLIT - 1) // SPLIT
    first = tl.program_id(1) * steps_each
    last = tl.minimum(first + steps_each, steps)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(first, last):
        tap = step // chunks
        channel = FROM + (step % chunks) * BK
        dy = tap // KERNEL_PX - KERNEL_PX // 2
        dx = tap % KERNEL_PX - KERNEL_PX // 2
        if TAIL > 0:
            in_tail = step >= conv_steps
            channel = tl.where(in_tail, TAIL_FROM + (step - conv_steps) * BK, channel)
            dy = tl.where(in_tail, 0, dy)
            dx = tl.where(in_tail, 0, dx)
        source = _pick(dx, left, here, right) + (_pick(dy, above, level, below) + channel)
        # Channels come in multiples of 16; the compiler loses sight of it above and would load them one by one.
        source = tl.multiple_of(source, 8)
        a = tl.load(x + (source[:, None] + k[None, :]))
        b = _load_weight(weight, step * BK, first_column, OUTPUTS, BOXES, BK, BN)
        acc = tl.dot(a, b, acc)

    if SPLIT == 1:
        _finish(acc, bias, out, m, n, rows, OUT_CHANNELS, TO, ADD, RECTIFY)
    else:
        offsets = m[:, None] * OUTPUTS + n[None, :]
        mask = (m < rows)[:, None]
        tl.store(partial_sums + (tl.program_id(1) * rows * OUTPUTS + offsets), acc, mask=mask)
        # All of the program's partial sums must be out before its arrival is: barrier, then release.
        tl.debug_barrier()
        arrived = tl.atomic_add(arrivals + tile, 1, sem="acq_rel")
        if arrived == SPLIT - 1:
            total = tl.zeros((BM, BN), dtype=tl.float32)
            for part in range(SPLIT):  # in order, so that results do not depend on who came last
                pointers = partial_sums + (part * rows * OUTPUTS + offsets)
                total += tl.load(pointers, mask=mask, other=0.0, cache_modifier=".cg")
            _finish(total, bias, out, m, n, rows, OUT_CHANNELS, TO, ADD, RECTIFY)
            tl.store(arrivals + tile, 0)
