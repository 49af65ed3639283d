"""Seam correction (`seam_correction.py`: pyramid and thin plate) with one launch a level instead of seven.

They compute what `seam_correction._match` and `smooth_seam` do, which run wherever these kernels can't. Tensors are
float32 and contiguous: (B, C, height, width). A level's four channels are the weighted differences of red, green and
blue, then the weight. The ring and the difference on it are not stored: each launch that reads them computes them
again. Comparisons are written so that NaN stays NaN. Sizes are runtime numbers, so that nothing is compiled anew for
another bucket.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lama.devices import on_card

BLOCK_PX = 128
COARSEST_PX = 2  # as in seam_correction.py
SMALLEST_WEIGHT = 1e-6  # as in seam_correction.py


@triton.jit
def _ring(missing, y, x, height, width, inside):
    """1 on known pixels that touch the hole, else 0, for pixels (y, x) of the mask (height, width)."""
    here = tl.load(missing + y * width + x, mask=inside, other=0.0)
    most = here
    for dy in tl.static_range(-1, 2):
        for dx in tl.static_range(-1, 2):
            near = inside & (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
            most = tl.maximum(most, tl.load(missing + (y + dy) * width + x + dx, mask=near, other=0.0))
    return most - here


@triton.jit
def _between(below, y, x, height, width, low_height, low_width, inside):
    """(low_height, low_width) at pixels (y, x) of (height, width), bilinear between the middles of pixels."""
    from_y = tl.maximum((y.to(tl.float32) + 0.5) * (low_height * 1.0 / height) - 0.5, 0.0)
    from_x = tl.maximum((x.to(tl.float32) + 0.5) * (low_width * 1.0 / width) - 0.5, 0.0)
    y0, x0 = from_y.to(tl.int32), from_x.to(tl.int32)
    y1, x1 = tl.minimum(y0 + 1, low_height - 1), tl.minimum(x0 + 1, low_width - 1)
    down, right = from_y - y0.to(tl.float32), from_x - x0.to(tl.float32)
    top_left = tl.load(below + y0 * low_width + x0, mask=inside, other=0.0)
    top_right = tl.load(below + y0 * low_width + x1, mask=inside, other=0.0)
    bottom_left = tl.load(below + y1 * low_width + x0, mask=inside, other=0.0)
    bottom_right = tl.load(below + y1 * low_width + x1, mask=inside, other=0.0)
    top = top_left * (1 - right) + top_right * right
    return top * (1 - down) + (bottom_left * (1 - right) + bottom_right * right) * down


@triton.jit(do_not_specialize=["height", "width", "low_height", "low_width"])
def _down_first_kernel(prediction, model_input, low, height, width, low_height, low_width, block: tl.constexpr):
    """The first level below the image's size, from the difference on the ring."""
    image = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < low_height * low_width
    y, x = (at // low_width) * 2, (at % low_width) * 2
    plane, low_plane = height * width, low_height * low_width
    model_input += image * 4 * plane
    prediction += image * 3 * plane
    low += image * 4 * low_plane
    red = tl.zeros((block,), tl.float32)
    green = tl.zeros((block,), tl.float32)
    blue = tl.zeros((block,), tl.float32)
    weight = tl.zeros((block,), tl.float32)
    for dy in tl.static_range(2):
        for dx in tl.static_range(2):
            here = inside & (y + dy < height) & (x + dx < width)
            ring = _ring(model_input + 3 * plane, y + dy, x + dx, height, width, here)
            source = (y + dy) * width + x + dx
            weight += ring
            known = tl.load(model_input + source, mask=here, other=0.0)
            red += (known - tl.load(prediction + source, mask=here, other=0.0)) * ring
            known = tl.load(model_input + plane + source, mask=here, other=0.0)
            green += (known - tl.load(prediction + plane + source, mask=here, other=0.0)) * ring
            known = tl.load(model_input + 2 * plane + source, mask=here, other=0.0)
            blue += (known - tl.load(prediction + 2 * plane + source, mask=here, other=0.0)) * ring
    pixels = tl.minimum(height - y, 2) * tl.minimum(width - x, 2)
    mean = weight / pixels.to(tl.float32)
    factor = tl.where(mean > 0.5, 1 / mean, 2.0)
    share = factor / pixels.to(tl.float32)
    tl.store(low + at, red * share, mask=inside)
    tl.store(low + low_plane + at, green * share, mask=inside)
    tl.store(low + 2 * low_plane + at, blue * share, mask=inside)
    tl.store(low + 3 * low_plane + at, mean * factor, mask=inside)


@triton.jit(do_not_specialize=["height", "width", "low_height", "low_width"])
def _down_kernel(level, low, height, width, low_height, low_width, block: tl.constexpr):
    """The next level: means of two by two, their weight doubled up to 1."""
    image = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < low_height * low_width
    y, x = (at // low_width) * 2, (at % low_width) * 2
    plane, low_plane = height * width, low_height * low_width
    level += image * 4 * plane
    low += image * 4 * low_plane
    pixels = tl.minimum(height - y, 2) * tl.minimum(width - x, 2)
    factor = tl.zeros((block,), tl.float32)
    for channel in tl.static_range(3, -1, -1):
        total = tl.zeros((block,), tl.float32)
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                here = inside & (y + dy < height) & (x + dx < width)
                total += tl.load(level + channel * plane + (y + dy) * width + x + dx, mask=here, other=0.0)
        mean = total / pixels.to(tl.float32)
        if channel == 3:
            factor = tl.where(mean > 0.5, 1 / mean, 2.0)
        tl.store(low + channel * low_plane + at, mean * factor, mask=inside)


@triton.jit(do_not_specialize=["plane"])
def _top_kernel(level, values, plane, smallest, block: tl.constexpr):
    """values (B, 3): the weighted mean of the coarsest level, all of it."""
    level += tl.program_id(0) * 4 * plane
    weight = tl.zeros((block,), tl.float32)
    for start in range(0, plane, block):
        at = start + tl.arange(0, block)
        weight += tl.load(level + 3 * plane + at, mask=at < plane, other=0.0)
    whole = tl.sum(weight, axis=0) + smallest
    for channel in tl.static_range(3):
        total = tl.zeros((block,), tl.float32)
        for start in range(0, plane, block):
            at = start + tl.arange(0, block)
            total += tl.load(level + channel * plane + at, mask=at < plane, other=0.0)
        tl.store(values + tl.program_id(0) * 3 + channel, tl.sum(total, axis=0) / whole)


@triton.jit(do_not_specialize=["height", "width", "low_height", "low_width"])
def _up_kernel(below, level, values, height, width, low_height, low_width, block: tl.constexpr):
    """A level's own values where it has weight, those from below where it has none."""
    image = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < height * width
    y, x = at // width, at % width
    plane, low_plane = height * width, low_height * low_width
    level += image * 4 * plane
    weight = tl.load(level + 3 * plane + at, mask=inside, other=0.0)
    for channel in tl.static_range(3):
        low = below + (image * 3 + channel) * low_plane
        smooth = _between(low, y, x, height, width, low_height, low_width, inside)
        own = tl.load(level + channel * plane + at, mask=inside, other=0.0)
        tl.store(values + (image * 3 + channel) * plane + at, own + smooth * (1 - weight), mask=inside)


@triton.jit(do_not_specialize=["height", "width", "low_height", "low_width"])
def _up_last_kernel(
    below, prediction, model_input, matched, height, width, low_height, low_width, block: tl.constexpr
):  # fmt: skip
    """The prediction with the difference added where a pixel is missing, in [0, 1]."""
    image = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < height * width
    y, x = at // width, at % width
    plane, low_plane = height * width, low_height * low_width
    missing = tl.load(model_input + (image * 4 + 3) * plane + at, mask=inside, other=0.0)
    for channel in tl.static_range(3):
        low = below + (image * 3 + channel) * low_plane
        smooth = _between(low, y, x, height, width, low_height, low_width, inside)
        predicted = tl.load(prediction + (image * 3 + channel) * plane + at, mask=inside, other=0.0)
        # Missing pixels are never on the ring, so that what they take is smooth.
        value = predicted + smooth * missing
        value = tl.where(value < 0, 0.0, tl.where(value > 1, 1.0, value))
        tl.store(matched + (image * 3 + channel) * plane + at, value, mask=inside)


@triton.jit
def _mixed(fill, rgb, missing, y, x, height, width, inside):
    """The photo with the fill in its hole at pixels (y, x), of the nearest ones where they lie outside."""
    y, x = tl.minimum(tl.maximum(y, 0), height - 1), tl.minimum(tl.maximum(x, 0), width - 1)
    at = y * width + x
    known = tl.load(rgb + at, mask=inside, other=0.0)
    return known + tl.load(fill + at, mask=inside, other=0.0) * tl.load(missing + at, mask=inside, other=0.0)


@triton.jit(do_not_specialize=["height", "width"])
def _smooth_kernel(fill, model_input, smooth, height, width, block: tl.constexpr):
    """The fill with the missing pixels that touch a known one moved onto a thin plate through their neighbours."""
    image = tl.program_id(1)
    at = tl.program_id(0) * block + tl.arange(0, block)
    inside = at < height * width
    y, x = at // width, at % width
    plane = height * width
    rgb = model_input + image * 4 * plane
    missing = rgb + 3 * plane
    is_missing = tl.load(missing + at, mask=inside, other=0.0)
    least = is_missing
    for dy in tl.static_range(-1, 2):
        for dx in tl.static_range(-1, 2):
            near = inside & (y + dy >= 0) & (y + dy < height) & (x + dx >= 0) & (x + dx < width)
            least = tl.minimum(least, tl.load(missing + (y + dy) * width + x + dx, mask=near, other=1.0))
    outermost = inside & (is_missing > 0) & (least < 1)
    for channel in tl.static_range(3):
        own, known = fill + (image * 3 + channel) * plane, rgb + channel * plane
        value = tl.load(own + at, mask=inside, other=0.0)
        off = _mixed(own, known, missing, y, x, height, width, outermost)
        for sign in tl.static_range(-1, 2, 2):
            straight = _mixed(own, known, missing, y + sign, x, height, width, outermost)
            straight += _mixed(own, known, missing, y, x + sign, height, width, outermost)
            slanted = _mixed(own, known, missing, y + sign, x - 1, height, width, outermost)
            slanted += _mixed(own, known, missing, y + sign, x + 1, height, width, outermost)
            far = _mixed(own, known, missing, y + 2 * sign, x, height, width, outermost)
            far += _mixed(own, known, missing, y, x + 2 * sign, height, width, outermost)
            off += slanted * (2 / 20) + far * (1 / 20) - straight * (8 / 20)
        moved = value - off
        moved = tl.where(moved < 0, 0.0, tl.where(moved > 1, 1.0, moved))
        value = tl.where(outermost, moved, value)
        tl.store(smooth + (image * 3 + channel) * plane + at, value, mask=inside)


def correct_and_smooth(prediction: Tensor, model_input: Tensor) -> Tensor:
    """Return what `seam_correction.correct_seam` does.

    Args:
        prediction: (B, 3, H, W), on a GPU.
        model_input: (B, 4, H, W), on the same.

    Returns:
        (B, 3, H, W), the prediction with the seam corrected and smoothed.
    """
    prediction, model_input = prediction.contiguous(), model_input.contiguous()
    with on_card(prediction.device):
        matched = match(prediction, model_input)
        batch, _, height, width = matched.shape
        smooth = torch.empty_like(matched)
        _smooth_kernel[_grid((height, width), batch)](matched, model_input, smooth, height, width, BLOCK_PX)
    return smooth


def match(prediction: Tensor, model_input: Tensor) -> Tensor:
    """Return what `seam_correction._match` does."""
    batch, _, height, width = prediction.shape
    sizes = [(height, width)]
    levels = [prediction]  # the first stands for the image's own size
    while min(sizes[-1]) > COARSEST_PX:
        (above_height, above_width), size = sizes[-1], (-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2))
        low = prediction.new_empty((batch, 4, *size))
        if len(levels) == 1:
            _down_first_kernel[_grid(size, batch)](
                prediction, model_input, low, above_height, above_width, *size, BLOCK_PX
            )
        else:
            _down_kernel[_grid(size, batch)](levels[-1], low, above_height, above_width, *size, BLOCK_PX)
        sizes.append(size)
        levels.append(low)
    values = prediction.new_empty((batch, 3, 1, 1))
    _top_kernel[(batch,)](levels[-1], values, sizes[-1][0] * sizes[-1][1], SMALLEST_WEIGHT, BLOCK_PX)
    low_size = (1, 1)
    for size, level in zip(reversed(sizes[1:]), reversed(levels[1:]), strict=True):
        out = prediction.new_empty((batch, 3, *size))
        _up_kernel[_grid(size, batch)](values, level, out, *size, *low_size, BLOCK_PX)
        values, low_size = out, size
    matched = torch.empty_like(prediction)
    _up_last_kernel[_grid((height, width), batch)](
        values, prediction, model_input, matched, height, width, *low_size, BLOCK_PX
    )
    return matched


def try_out(device: torch.device) -> None:
    """Compile the kernels, or raise whatever keeps them from running."""
    correct_and_smooth(torch.zeros(1, 3, 16, 16, device=device), torch.zeros(1, 4, 16, 16, device=device))


def _grid(size: tuple[int, int], batch: int) -> tuple[int, int]:
    return -(-size[0] * size[1] // BLOCK_PX), batch
