"""The spectral path's first launch as the Hopper kernel takes it."""

from typing import Any

from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.convolution import RowConvolution
from lama.kernels.fourier import KernelMatrices
from lama.kernels.hopper_card import keeps_at_work
from lama.kernels.tiles import multiprocessors

STRIP_PX, HALF_PX, STEP = 128, 64, 64  # as in hopper_entry, which not every Triton can import
SLOTS = 3
WIDTHS = (64, 128)
NARROW = (32, 64)
"""A third of the channels that the kernel computes: a product's number of columns has to be a power of two."""


def has_entry(enter: Convolution) -> bool:
    """Whether the kernel computes a 1x1 with these channels."""
    outputs, inputs = enter.weight.shape[:2]
    return outputs % 3 == 0 and outputs // 3 in NARROW and inputs % STEP == 0


def takes_strips(x: Tensor) -> bool:
    """Whether a map of this shape (B, H, W, C) divides into strips, and those among the multiprocessors."""
    batch, height, width, _ = x.shape
    if width not in WIDTHS or height * width % STRIP_PX:
        return False
    return keeps_at_work(batch * height * width // STRIP_PX, multiprocessors(x.device))


def enter_strips(
    x: Tensor, enter: RowConvolution, matrices: KernelMatrices, planes: Tensor, *, from_channel: int
) -> None:
    """Do what `spectral_path.enter_rows` does, for a contiguous `x` that `takes_strips`."""
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    from lama.kernels import hopper_entry

    batch, height, width, x_channels = x.shape
    strips = batch * height * width // STRIP_PX
    programs = min(strips, multiprocessors(x.device))
    narrow = enter.outputs // 3
    wide = 2 * narrow
    pixels = x.view(-1, x_channels)

    def boxes(values: Tensor, rows: int, columns: int) -> Any:
        layout = hopper_entry.LAYOUT if columns >= HALF_PX else hopper_entry.NARROW_LAYOUT
        return TensorDescriptor.from_tensor(values, [rows, columns], layout.value)

    hopper_entry.enter_strips[(programs,)](
        boxes(pixels, HALF_PX, STEP),
        boxes(pixels, HALF_PX, wide),
        boxes(pixels, HALF_PX, narrow),
        boxes(enter.weight, STEP, wide),
        boxes(enter.weight, STEP, narrow),
        boxes(matrices.row.values, HALF_PX, HALF_PX),
        enter.bias,
        planes,
        strips,
        FROM=from_channel,
        TO=x_channels - enter.outputs,
        INPUTS=enter.inputs,
        WIDTH=width,
        FREQUENCIES=matrices.frequencies,
        SLOTS=SLOTS,
        num_warps=4,
    )
