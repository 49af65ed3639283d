"""An 8-bit crop that runs at its own size, in three kernels: distances along rows, model input and alpha, composite.

What `device_holes.py` and `preprocess.py` do with fifty launches, for a GPU whose host needs longer to launch them than
the GPU to run them. Those are the definition and what runs wherever these do not: without Triton, for 16 bit, crops
that are scaled or padded, and holes that the host grows. Sizes are runtime numbers, so that nothing is compiled anew
for another photo. Knows no photos and no network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lama.devices import on_card

BLOCK_PX = 256
NO_HOLE = 255  # a distance along a row that means none within reach


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
        values, codes = (
            sum(number << 8 * index for index, number in enumerate(numbers)) for numbers in (self.values_px, self.codes)
        )
        return values, codes, len(self.values_px)


@triton.jit(
    do_not_specialize=["height", "width", "out_width", "first", "step", "values", "codes", "count"],
    do_not_specialize_on_alignment=["hole", "distance"],
)
def _row_distance_kernel(
    hole, distance, height, width, out_width, first, step, values, codes, count, none: tl.constexpr, block: tl.constexpr
):  # fmt: skip
    """distance[i, y, k] uint8: columns from column `first + k * step` to row y's nearest pixel of the i-th code."""
    y = tl.program_id(0)
    k = tl.program_id(1) * block + tl.arange(0, block)
    x = first + k * step
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


@triton.jit(
    do_not_specialize=["width", "hole_height", "top", "values", "count", "feather"],
    do_not_specialize_on_alignment=["pixels", "distance"],
)
def _input_kernel(
    pixels, distance, model_input, alpha, plane, width, hole_height, top, values, count, feather, block: tl.constexpr
):  # fmt: skip
    """Model input (4, height, width) and alpha of a crop in whose row `top` the rows of the hole begin."""
    y = tl.program_id(0)
    x = tl.program_id(1) * block + tl.arange(0, block)
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
