"""An 8-bit crop that runs smaller than it is, in four kernels: distances, alpha, averaged model input, composite.

What `mask_dilation.py`, `resampling.py` and `preprocess.py` do in strips with some four hundred launches, and by
bringing the pixels to the device twice; those are the definition and what runs wherever these do not. Here the crop's
pixels stay on the device between input and patch. Positions are compared as whole numbers, so that they are exact in
the largest photo, and sizes are runtime numbers, so that nothing is compiled anew for another. Knows no photos and no
network.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lama.devices import on_card
from tensor_ops.kernels.crop import Seeds, row_distances

BLOCK_PX = 256
FAR = tl.constexpr(1 << 20)  # a squared distance that is more than holes grow by


@triton.jit(
    do_not_specialize=["width", "hole_height", "first", "step", "values", "count", "feather"],
    do_not_specialize_on_alignment=["distance", "alpha"],
)
def _alpha_kernel(
    distance, alpha, width, hole_height, first, step, values, count, feather, block: tl.constexpr
):  # fmt: skip
    """alpha[i, k] of the row `first + i * step` of the hole's array, or beside it, and column k of `distance`."""
    i = tl.program_id(0)
    y = first + i * step
    k = tl.program_id(1) * block + tl.arange(0, block)
    inside = k < width
    weight = tl.zeros((block,), tl.float32)
    for index in range(count):
        value = (values >> (8 * index)) & 255
        nearest = tl.full((block,), FAR, tl.int32)
        for row in range(tl.maximum(y - value, 0), tl.minimum(y + value + 1, hole_height)):
            across = tl.load(distance + (index * hole_height + row) * width + k, mask=inside, other=255).to(tl.int32)
            nearest = tl.minimum(nearest, across * across + (row - y) * (row - y))
        ring = tl.where(feather < 0, value, tl.minimum(feather, value))
        ramp = (value + 1 - tl.sqrt(nearest.to(tl.float32))) * (1.0 / (ring + 1).to(tl.float32))
        ramp = tl.minimum(tl.maximum(ramp, 0.0), 1.0)
        weight = tl.maximum(weight, tl.where(nearest <= value * value, (3 - 2 * ramp) * ramp * ramp, 0.0))
    tl.store(alpha + i * width + k, weight, mask=inside)


@triton.jit
def _reflected(at, length):
    """What `pad_indices` says of a position."""
    period = tl.maximum(2 * (length - 1), 1)
    phase = at % period
    return tl.where(phase < length, phase, period - phase)


@triton.jit(
    do_not_specialize=[
        "step", "row_width", "height", "width", "top", "left", "alpha_height", "alpha_width", "scaled_height",
        "scaled_width", "model_height", "model_width",
    ],
    do_not_specialize_on_alignment=["pixels", "alpha"],
)  # fmt: skip
def _average_kernel(
    pixels, alpha, model_input, step, row_width, height, width, top, left, alpha_height, alpha_width, scaled_height,
    scaled_width, model_height, model_width, smallest: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """One row of the model input: known pixels averaged by triangles, and what covers a missing one is missing.

    Sizes are in looked-at pixels; alpha begins at (top, left) of them.
    """
    model_y = tl.program_id(0)
    model_x = tl.program_id(1) * block + tl.arange(0, block)
    y = _reflected(model_y, scaled_height)
    x = _reflected(model_x, scaled_width)
    # A triangle reaches as far as two of the resized pixels are apart. Distances are in halves of 1 / scaled size.
    reach_y, reach_x = 2 * tl.maximum(height, scaled_height), 2 * tl.maximum(width, scaled_width)
    middle_y, middle_x = (2 * y + 1) * height, (2 * x + 1) * width
    first_row = tl.maximum(middle_y - reach_y, 0) // (2 * scaled_height)
    end_row = tl.minimum((middle_y + reach_y) // (2 * scaled_height) + 1, height)
    first_column = tl.maximum(middle_x - reach_x, 0) // (2 * scaled_width)
    columns = 2 * reach_x // (2 * scaled_width) + 2
    first_covered_row, end_covered_row = y * height // scaled_height, ((y + 1) * height - 1) // scaled_height + 1
    first_covered = x * width // scaled_width
    end_covered = ((x + 1) * width - 1) // scaled_width + 1
    red = tl.zeros((block,), tl.float32)
    green = tl.zeros((block,), tl.float32)
    blue = tl.zeros((block,), tl.float32)
    known_weight = tl.zeros((block,), tl.float32)
    whole_weight = tl.zeros((block,), tl.float32)
    missing = tl.zeros((block,), tl.int32)
    for row in range(first_row, end_row):
        off_y = tl.abs((2 * row + 1) * scaled_height - middle_y)
        weight_y = tl.maximum(1 - off_y.to(tl.float32) / reach_y.to(tl.float32), 0.0)
        is_covered_row = (row >= first_covered_row) & (row < end_covered_row)
        alpha_row = row - top + tl.zeros((block,), tl.int32)
        in_alpha_rows = (alpha_row >= 0) & (alpha_row < alpha_height)
        for offset in range(columns):
            column = first_column + offset
            inside = column < width
            off_x = tl.abs((2 * column + 1) * scaled_width - middle_x)
            weight = weight_y * tl.maximum(1 - off_x.to(tl.float32) / reach_x.to(tl.float32), 0.0)
            weight = tl.where(inside, weight, 0.0)
            alpha_column = column - left
            in_alpha = inside & in_alpha_rows & (alpha_column >= 0) & (alpha_column < alpha_width)
            hidden = tl.load(alpha + alpha_row * alpha_width + alpha_column, mask=in_alpha, other=0.0) > 0
            is_covered = is_covered_row & (column >= first_covered) & (column < end_covered)
            missing = tl.where(hidden & is_covered, 1, missing)
            known = tl.where(hidden, 0.0, weight)
            at = (row * row_width + column * step + step // 2) * 3
            red += known * tl.load(pixels + at, mask=inside, other=0).to(tl.float32)
            green += known * tl.load(pixels + at + 1, mask=inside, other=0).to(tl.float32)
            blue += known * tl.load(pixels + at + 2, mask=inside, other=0).to(tl.float32)
            known_weight += known
            whole_weight += weight
    # 255 levels, and no known pixel that is worth the name gives black.
    share = (1.0 / 255) / tl.maximum(known_weight, smallest * whole_weight)
    share = tl.where(missing == 1, 0.0, share)
    in_model = model_x < model_width
    plane = model_height * model_width
    at = model_y * model_width + model_x
    tl.store(model_input + at, tl.minimum(red * share, 1.0), mask=in_model)
    tl.store(model_input + plane + at, tl.minimum(green * share, 1.0), mask=in_model)
    tl.store(model_input + 2 * plane + at, tl.minimum(blue * share, 1.0), mask=in_model)
    tl.store(model_input + 3 * plane + at, missing.to(tl.float32), mask=in_model)


@triton.jit
def _keys(off, unit):
    """Keys' cubic with a = -0.5 at `off / unit` pixels from its middle."""
    x = tl.abs(off).to(tl.float32) / unit.to(tl.float32)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((x - 5) * x + 8) * x * -0.5 + 2
    return tl.where(x < 1, near, tl.where(x < 2, far, 0.0))


@triton.jit(
    do_not_specialize=[
        "plane", "model_width", "scaled_height", "scaled_width", "height", "width", "top", "left", "alpha_width",
        "alpha_top", "alpha_left", "patch_width",
    ],
    do_not_specialize_on_alignment=["prediction", "pixels", "alpha", "patch"],
)  # fmt: skip
def _composite_kernel(
    prediction, pixels, alpha, patch, plane, model_width, scaled_height, scaled_width, height, width, top, left,
    alpha_width, alpha_top, alpha_left, patch_width, block: tl.constexpr,
):  # fmt: skip
    """A row of the patch whose corner is (top, left) of the crop: pixels with the resized prediction laid over them.

    The patch's corner is (alpha_top, alpha_left) of alpha.
    """
    patch_y = tl.program_id(0)
    patch_x = tl.program_id(1) * block + tl.arange(0, block)
    inside = patch_x < patch_width
    y, x = patch_y + top, patch_x + left
    weight = tl.load(alpha + (patch_y + alpha_top) * alpha_width + patch_x + alpha_left, mask=inside, other=0.0)
    is_filled = inside & (weight > 0)
    # Of the four rows and columns that the cubic weighs, the first. Distances are in halves of 1 / crop size.
    middle_y, middle_x = (2 * y + 1) * scaled_height, (2 * x + 1) * scaled_width
    first_row = (middle_y + height) // (2 * height) - 2
    first_column = (middle_x + width) // (2 * width) - 2
    red = tl.zeros((block,), tl.float32)
    green = tl.zeros((block,), tl.float32)
    blue = tl.zeros((block,), tl.float32)
    whole_y = tl.zeros((block,), tl.float32)
    whole_x = tl.zeros((block,), tl.float32)
    for row_offset in tl.static_range(4):
        row = first_row + row_offset + tl.zeros((block,), tl.int32)
        in_rows = (row >= 0) & (row < scaled_height)
        weight_y = tl.where(in_rows, _keys((2 * row + 1) * height - middle_y, 2 * height), 0.0)
        whole_y += weight_y
        for column_offset in tl.static_range(4):
            column = first_column + column_offset
            in_columns = (column >= 0) & (column < scaled_width)
            weight_x = tl.where(in_columns, _keys((2 * column + 1) * width - middle_x, 2 * width), 0.0)
            if row_offset == 0:
                whole_x += weight_x
            there = is_filled & in_columns & in_rows
            share = weight_y * weight_x
            at = row * model_width + column
            red += share * tl.load(prediction + at, mask=there, other=0.0)
            green += share * tl.load(prediction + plane + at, mask=there, other=0.0)
            blue += share * tl.load(prediction + 2 * plane + at, mask=there, other=0.0)
    whole = whole_y * whole_x
    source = pixels + (y * width + x) * 3
    out = patch + (patch_y * patch_width + patch_x) * 3
    tl.store(out, _mixed(red / whole, tl.load(source, mask=inside, other=0), weight), mask=inside)
    tl.store(out + 1, _mixed(green / whole, tl.load(source + 1, mask=inside, other=0), weight), mask=inside)
    tl.store(out + 2, _mixed(blue / whole, tl.load(source + 2, mask=inside, other=0), weight), mask=inside)


@triton.jit
def _mixed(fill, pixel, weight):
    """A pixel with a fill in [0, 1] laid over it, rounded to even."""
    level = pixel.to(tl.float32)
    fill = tl.minimum(tl.maximum(fill, 0.0), 1.0) * 255
    mixed = tl.where(weight < 0.5, level + weight * (fill - level), fill - (fill - level) * (1 - weight))
    # Beyond 2**23 there are no fractions in float32: adding and taking away rounds, halves to even.
    rounded = (mixed + 12582912.0) - 12582912.0
    rounded = tl.minimum(tl.maximum(rounded, 0.0), 255.0)
    return tl.where(weight > 0, rounded, level).to(tl.uint8)


def dilate(seeds: Seeds, rows: range, columns: range) -> Tensor:
    """Return alpha, which is more than 0 exactly where a pixel is missing.

    Args:
        seeds: every hole pixel which they may come from.
        rows: of the hole's array, also such as lie beside it: those that are looked at.
        columns: the same along the other axis.

    Returns:
        (rows, columns) float32.
    """
    distance = row_distances(seeds, columns)
    alpha = torch.empty((len(rows), len(columns)), dtype=torch.float32, device=distance.device)
    values, _, count = seeds.packed()
    with on_card(distance.device):
        _alpha_kernel[(len(rows), -(-len(columns) // BLOCK_PX))](
            distance, alpha, len(columns), len(seeds.hole), rows.start, rows.step, values, count, seeds.feather,
            BLOCK_PX,
        )  # fmt: skip
    return alpha


def scale_down(
    pixels: Tensor,
    alpha: Tensor,
    corner: tuple[int, int],
    *,
    step: int,
    scaled_size: tuple[int, int],
    model_size: tuple[int, int],
    smallest_weight: float,
) -> Tensor:
    """Return a crop's model input, see `build_input`.

    Args:
        pixels: (looked-at rows, width, 3) uint8, contiguous; not modified.
        alpha: of looked-at rows and columns, float32, contiguous; not modified.
        corner: the (top, left) of alpha among looked-at rows and columns.
        step: of the columns, the middle one of every so many is looked at.
        scaled_size: (height, width) that the crop is resized to.
        model_size: (height, width) that it is padded to by reflection.
        smallest_weight: a pixel whose known part weighs less is no more than that part of its colour.

    Returns:
        (4, model height, model width) float32.
    """
    height, row_width = pixels.shape[:2]
    width = len(range(step // 2, row_width, step))
    model_input = torch.empty((4, *model_size), dtype=torch.float32, device=pixels.device)
    with on_card(pixels.device):
        _average_kernel[(model_size[0], -(-model_size[1] // BLOCK_PX))](
            pixels, alpha, model_input, step, row_width, height, width, *corner, *alpha.shape, *scaled_size,
            *model_size, smallest_weight, BLOCK_PX,
        )  # fmt: skip
    return model_input


def lay_over(
    prediction: Tensor,
    pixels: Tensor,
    alpha: Tensor,
    *,
    scaled_size: tuple[int, int],
    corner: tuple[int, int],
    alpha_corner: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Compose the patch of a crop.

    Args:
        prediction: (3, model height, model width) float32, contiguous; not modified.
        pixels: (crop height, crop width, 3) uint8, contiguous; not modified.
        alpha: (height, width) float32, contiguous, not modified; where it is 0 the pixels are kept.
        scaled_size: (height, width) of the prediction that are the crop.
        corner: the patch's (top, left) in the crop.
        alpha_corner: the patch's (top, left) in alpha.
        size: the patch's (height, width).

    Returns:
        (height, width, 3) uint8, the patch.
    """
    patch = torch.empty((*size, 3), dtype=torch.uint8, device=pixels.device)
    model_height, model_width = prediction.shape[1:]
    with on_card(pixels.device):
        _composite_kernel[(size[0], -(-size[1] // BLOCK_PX))](
            prediction, pixels, alpha, patch, model_height * model_width, model_width, *scaled_size,
            *pixels.shape[:2], *corner, alpha.shape[1], *alpha_corner, size[1], BLOCK_PX,
        )  # fmt: skip
    return patch


def try_out(device: torch.device) -> None:
    """Compile the kernels, or raise whatever keeps them from running."""
    pixels = torch.zeros((24, 40, 3), dtype=torch.uint8, device=device)
    seeds = Seeds(torch.zeros((5, 7), dtype=torch.uint8, device=device), (2, 5), (3, 6), None)
    alpha = dilate(seeds, range(-2, 7), range(-3, 9))
    size = {"scaled_size": (12, 20), "model_size": (24, 24)}
    model_input = scale_down(pixels, alpha, (3, 4), step=1, smallest_weight=1e-3, **size)
    lay_over(model_input[:3], pixels, alpha, scaled_size=(12, 20), corner=(4, 5), alpha_corner=(1, 1), size=(6, 7))
