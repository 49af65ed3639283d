"""An 8-bit crop that runs at its own size, in three kernels: distances along rows, model input and alpha, composite.

What `mask_dilation.py` and `preprocess.py` do with fifty launches, for a GPU whose host needs longer to launch them
than the GPU to run them. Those are the definition and what runs wherever these do not: without Triton, for 16 bit,
crops that are scaled or padded, and holes that the host grows. Sizes are runtime numbers, so that nothing is compiled
anew for another photo; the first two kernels also come in a form that reads them from the device, for a graph that is
replayed for other holes (`crop_packet.py`). Knows no photos and no network.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from lama.devices import on_card

BLOCK_PX = 256
NO_HOLE = 255  # a distance along a row that means none within reach
# What kernels read from the device: the hole array's size, its corner in the crop, then `Seeds.packed` and feather.
NUMBERS = ("height", "width", "top", "left", "values", "codes", "count", "feather")


@dataclass(frozen=True)
class Seeds:
    """A hole on the device, which grows there.

    Attributes:
        hole: (height, width) uint8, contiguous.
        values_px: up to four values by which holes grow, each up to 64.
        codes: for each of them, what `hole` holds in the pixels that grow by it.
        feather_px: see `feather_alpha`.
    """

    hole: Tensor
    values_px: tuple[int, ...]
    codes: tuple[int, ...]
    feather_px: int | None

    @property
    def feather(self) -> int:
        """The feather as a number, -1 for all of the ring."""
        return -1 if self.feather_px is None else self.feather_px

    def packed(self) -> tuple[int, int, int]:
        """Return values and codes, a byte each, and how many there are."""
        return pack(self.values_px), pack(self.codes), len(self.values_px)


@lru_cache(maxsize=256)
def pack(numbers: tuple[int, ...]) -> int:
    """Return up to four numbers from 0 to 127 as one of 32 bits, a byte each."""
    return sum(number << 8 * index for index, number in enumerate(numbers))


@triton.jit
def _write_row_distances(
    hole, distance, y, k, x, height, width, out_width, values, codes, count, none: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """distance[i, y, k] uint8: columns from column x, that of k, to row y's nearest pixel of the i-th code."""
    for index in range(count):
        value = (values >> (8 * index)) & 255
        code = (codes >> (8 * index)) & 255
        nearest = tl.full((block,), none, tl.int32)
        for offset in range(-value, value + 1):
            column = x + offset
            inside = (column >= 0) & (column < width)
            found = tl.load(hole + y * width + column, mask=inside, other=0).to(tl.int32)
            nearest = tl.minimum(nearest, tl.where(found == code, tl.abs(column - x), none))
        tl.store(distance + (index * height + y) * out_width + k, nearest.to(tl.uint8), mask=k < out_width)


@triton.jit
def _write_input(
    pixels, distance, model_input, alpha, y, x, plane, width, hole_height, top, values, count, feather,
    block: tl.constexpr,
):  # fmt: skip
    """Row y of the model input (4, height, width) and of alpha; in row `top` of the crop the hole's rows begin."""
    in_crop = x < width
    missing = tl.zeros((block,), tl.int32)
    weight = tl.zeros((block,), tl.float32)
    for index in range(count):
        value = (values >> (8 * index)) & 255
        nearest = tl.full((block,), 1 << 20, tl.int32)
        for offset in range(-value, value + 1):
            row = y + offset - top + tl.zeros((block,), tl.int32)
            inside = in_crop & (row >= 0) & (row < hole_height)
            at = (index * hole_height + row) * width + x
            across = tl.load(distance + at, mask=inside, other=255).to(tl.int32)
            nearest = tl.minimum(nearest, across * across + offset * offset)
        dilated = nearest <= value * value
        ring = tl.where(feather < 0, value, tl.minimum(feather, value))
        ramp = (value + 1 - tl.sqrt(nearest.to(tl.float32))) * (1.0 / (ring + 1).to(tl.float32))
        ramp = tl.minimum(tl.maximum(ramp, 0.0), 1.0)
        weight = tl.maximum(weight, tl.where(dilated, (3 - 2 * ramp) * ramp * ramp, 0.0))
        missing = tl.where(dilated, 1, missing)
    at = y * width + x
    tl.store(alpha + at, weight, mask=in_crop)
    tl.store(model_input + 3 * plane + at, missing.to(tl.float32), mask=in_crop)
    for channel in tl.static_range(3):
        level = tl.load(pixels + at * 3 + channel, mask=in_crop, other=0).to(tl.float32)
        tl.store(model_input + channel * plane + at, tl.where(missing == 1, 0.0, level * (1.0 / 255)), mask=in_crop)


@triton.jit(
    do_not_specialize=["height", "width", "out_width", "first", "step", "values", "codes", "count"],
    do_not_specialize_on_alignment=["hole", "distance"],
)
def _row_distance_kernel(
    hole, distance, height, width, out_width, first, step, values, codes, count, none: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """distance[i, y, k] uint8: columns from column `first + k * step` to row y's nearest pixel of the i-th code."""
    k = tl.program_id(1) * block + tl.arange(0, block)
    _write_row_distances(
        hole, distance, tl.program_id(0), k, first + k * step, height, width, out_width, values, codes, count, none,
        block,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["width", "hole_height", "top", "values", "count", "feather"],
    do_not_specialize_on_alignment=["pixels", "distance"],
)
def _input_kernel(
    pixels, distance, model_input, alpha, plane, width, hole_height, top, values, count, feather, block: tl.constexpr
):  # fmt: skip
    """Model input (4, height, width) and alpha of a crop in whose row `top` the rows of the hole begin."""
    x = tl.program_id(1) * block + tl.arange(0, block)
    _write_input(
        pixels, distance, model_input, alpha, tl.program_id(0), x, plane, width, hole_height, top, values, count,
        feather, block,
    )  # fmt: skip


@triton.jit(do_not_specialize=["side"])
def _numbered_row_distance_kernel(numbers, hole, distance, side, none: tl.constexpr, block: tl.constexpr):
    """As `_row_distance_kernel` for every column of a crop (side, side), with the NUMBERS read from the device."""
    y = tl.program_id(0)
    k = tl.program_id(1) * block + tl.arange(0, block)
    height, width, left = tl.load(numbers), tl.load(numbers + 1), tl.load(numbers + 3)
    count = tl.where(y < height, tl.load(numbers + 6), 0)
    _write_row_distances(
        hole, distance, y, k, k - left, height, width, side, tl.load(numbers + 4), tl.load(numbers + 5), count, none,
        block,
    )  # fmt: skip


@triton.jit(do_not_specialize=["side"])
def _numbered_input_kernel(numbers, pixels, distance, model_input, alpha, side, block: tl.constexpr):
    """As `_input_kernel` for a crop (side, side), with the NUMBERS read from the device."""
    x = tl.program_id(1) * block + tl.arange(0, block)
    _write_input(
        pixels, distance, model_input, alpha, tl.program_id(0), x, side * side, side, tl.load(numbers),
        tl.load(numbers + 2), tl.load(numbers + 4), tl.load(numbers + 6), tl.load(numbers + 7), block,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["width", "top", "left", "patch_width"],
    do_not_specialize_on_alignment=["prediction", "pixels"],
)
def _composite_kernel(
    prediction, pixels, alpha, patch, plane, width, top, left, patch_width, block: tl.constexpr
):  # fmt: skip
    """The patch whose corner is (top, left) of the crop: pixels with the prediction laid over them, rounded to even."""
    y = tl.program_id(0)
    x = tl.program_id(1) * block + tl.arange(0, block)
    inside = x < patch_width
    at = (y + top) * width + x + left
    weight = tl.load(alpha + at, mask=inside, other=0.0)
    for channel in tl.static_range(3):
        level = tl.load(pixels + at * 3 + channel, mask=inside, other=0).to(tl.float32)
        fill = tl.load(prediction + channel * plane + at, mask=inside, other=0.0) * 255
        mixed = tl.where(weight < 0.5, level + weight * (fill - level), fill - (fill - level) * (1 - weight))
        # Beyond 2**23 there are no fractions in float32: adding and taking away rounds, halves to even.
        rounded = (mixed + 12582912.0) - 12582912.0
        rounded = tl.minimum(tl.maximum(rounded, 0.0), 255.0)
        result = tl.where(weight > 0, rounded, level)
        tl.store(patch + (y * patch_width + x) * 3 + channel, result.to(tl.uint8), mask=inside)


def row_distances(seeds: Seeds, columns: range) -> Tensor:
    """Return how far the nearest hole pixel in the same row is: the first half of the distance to the nearest one.

    Args:
        seeds: the hole.
        columns: of the hole's array, also such as lie beside it: those that are looked at.

    Returns:
        (number of values, hole height, columns) uint8; NO_HOLE where it is farther than the hole grows by.
    """
    height, width = seeds.hole.shape
    distance = torch.empty((len(seeds.values_px), height, len(columns)), dtype=torch.uint8, device=seeds.hole.device)
    grid = (height, -(-len(columns) // BLOCK_PX))
    with on_card(seeds.hole.device):
        _row_distance_kernel[grid](
            seeds.hole, distance, height, width, len(columns), columns.start, columns.step, *seeds.packed(), NO_HOLE,
            BLOCK_PX,
        )  # fmt: skip
    return distance


def mask_and_dilate(pixels: Tensor, seeds: Seeds, corner: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a crop's model input and alpha.

    Args:
        pixels: (height, width, 3) uint8, contiguous; not modified.
        seeds: every hole pixel which the crop's missing pixels may come from.
        corner: the (top, left) of the hole's array in the crop, negative where it begins outside.

    Returns:
        (4, height, width) float32, see `build_input`, and (height, width) float32.
    """
    height, width = pixels.shape[:2]
    model_input = torch.empty((4, height, width), dtype=torch.float32, device=pixels.device)
    alpha = torch.empty((height, width), dtype=torch.float32, device=pixels.device)
    distance = row_distances(seeds, range(-corner[1], width - corner[1]))
    values, _, count = seeds.packed()
    with on_card(pixels.device):
        _input_kernel[(height, -(-width // BLOCK_PX))](
            pixels, distance, model_input, alpha, height * width, width, len(seeds.hole), corner[0], values, count,
            seeds.feather, BLOCK_PX,
        )  # fmt: skip
    return model_input, alpha


def mask_and_dilate_numbered(
    numbers: Tensor, hole: Tensor, pixels: Tensor, distance: Tensor, model_input: Tensor, alpha: Tensor
) -> None:
    """Make what `mask_and_dilate` returns in memory that is there, all that differs between crops read on the device.

    Args:
        numbers: (8,) int32, the NUMBERS.
        hole: (side * side,) uint8, of which the first height * width are the hole's array; not modified.
        pixels: (side, side, 3) uint8; not modified.
        distance: (values, side, side) uint8 for as many values as there may be; what is left in it says nothing.
        model_input: (4, side, side) float32, overwritten.
        alpha: (side, side) float32, overwritten.
    """
    side = pixels.shape[0]
    grid = (side, -(-side // BLOCK_PX))
    with on_card(pixels.device):
        _numbered_row_distance_kernel[grid](numbers, hole, distance, side, NO_HOLE, BLOCK_PX)
        _numbered_input_kernel[grid](numbers, pixels, distance, model_input, alpha, side, BLOCK_PX)


def lay_over(
    prediction: Tensor, pixels: Tensor, alpha: Tensor, *, corner: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Compose the patch of a crop.

    Args:
        prediction: (3, crop height, crop width) float32 in [0, 1], contiguous; not modified.
        pixels: (crop height, crop width, 3) uint8, contiguous; not modified.
        alpha: (crop height, crop width) float32, contiguous; not modified. Where it is 0 the pixels are kept.
        corner: the patch's place in the crop.
        size: the patch's (height, width).

    Returns:
        (height, width, 3) uint8, the patch.
    """
    height, width = alpha.shape
    patch = torch.empty((*size, 3), dtype=torch.uint8, device=pixels.device)
    grid = (size[0], -(-size[1] // BLOCK_PX))
    with on_card(pixels.device):
        _composite_kernel[grid](prediction, pixels, alpha, patch, height * width, width, *corner, size[1], BLOCK_PX)
    return patch


def try_out(device: torch.device) -> None:
    """Compile the kernels, or raise whatever keeps them from running."""
    pixels = torch.zeros((16, 16, 3), dtype=torch.uint8, device=device)
    seeds = Seeds(torch.zeros((5, 7), dtype=torch.uint8, device=device), (2, 5), (3, 6), None)
    model_input, alpha = mask_and_dilate(pixels, seeds, (3, -2))
    lay_over(model_input[:3], pixels, alpha, corner=(1, 2), size=(5, 6))
    distance = torch.zeros((len(seeds.values_px), 16, 16), dtype=torch.uint8, device=device)
    numbers = torch.tensor([5, 7, 3, -2, *seeds.packed(), seeds.feather], dtype=torch.int32, device=device)
    hole = torch.zeros(256, dtype=torch.uint8, device=device)
    mask_and_dilate_numbered(numbers, hole, pixels, distance, model_input, alpha)
