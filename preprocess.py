"""Arrays to model input and back, on the model's device.

A crop's pixels travel as the integers they are: uint8 or uint16 up, the patch's integers down; floating point exists
only on the device. The input is (4, H, W) float32, RGB in [0, 1] with the dilated hole zeroed, then the mask; the
composite mixes the prediction into the original integers in float32 and rounds, so that the known region keeps its
bytes. A crop that is scaled down goes to the device and back in strips of rows, so that memory is bounded whatever its
size. `masks/crop_plan.py` decides where a crop lies and how it is scaled; the network is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from masks.boxes import Box, box_size, intersect, slices_inside, slices_of
from masks.crop_plan import Crop, middle_of_every, pad_indices
from tensor_ops.crop_packet import CropPacket
from tensor_ops.kernels import crop_kernels, scaled_crop_kernels
from tensor_ops.mask_dilation import Layers, dilate_on_device, layers_on_device
from tensor_ops.pinned_memory import PinnedMemory
from tensor_ops.resampling import average_weights, covers, cubic_weights, resize_rows, rows_needed

SMALLEST_WEIGHT = 1e-3  # below it a scaled pixel has no known source to take its colour from
STRIP_PX = 1 << 20  # of a scaled crop, worked on at once: 12 MiB for RGB in float32
MOST_WHOLE_PX = 1 << 24  # of a scaled crop that kernels of our own work on as a whole: 128 MiB with its alpha


@dataclass(frozen=True)
class Strip:
    """A part of a crop on the device.

    Attributes:
        box: where it lies, in image pixels.
        pixels: (box height, box width, 3) uint8, or int16 holding the bits of uint16; of a crop that is sampled, the
            pixels that are looked at. So is `missing`.
        missing: (box height, box width) bool.
        make_alpha: gives (box height, box width) float32.
    """

    box: Box
    pixels: Tensor
    missing: Tensor
    make_alpha: Callable[[], Tensor]

    def cut(self, box: Box) -> Strip:
        """Return the part of it that lies in `box`, which it holds; views."""
        inner = slices_inside(box, self.box)
        return Strip(box, self.pixels[inner], self.missing[inner], lambda: self.make_alpha()[inner])


@dataclass(frozen=True)
class ScaledCrop:
    """A scaled crop as a whole on the device, for kernels of our own.

    Attributes:
        pixels: (rows that are looked at, crop width, 3) uint8.
        alpha: (rows, columns) float32 of those looked at that the dilated hole may reach.
        corner: where it begins among those looked at, (row, column).
    """

    pixels: Tensor
    alpha: Tensor
    corner: tuple[int, int]


@dataclass(frozen=True)
class DeviceCrop:
    """A crop's way to the device.

    Attributes:
        crop: the crop.
        image: (H, W, 3) uint8 or uint16, not modified.
        pinned: the way to the device.
        levels: the image's values that the network sees as 0 and 1.
        transparent: (H, W) bool, pixels that the network sees as missing besides the hole, or None; not modified.
        whole: the whole crop on the device, or None when it is scaled and comes in strips.
        masked: pixels, model input and alpha, where kernels of our own made them at once (`tensor_ops.kernels.crop`).
        scaled: a scaled crop, where kernels of our own work on it (`tensor_ops.kernels.scaled_crop`).
    """

    crop: Crop
    image: NDArray
    pinned: PinnedMemory
    levels: tuple[int, int]
    transparent: NDArray[np.bool_] | None = None
    whole: Strip | None = None
    masked: tuple[Tensor, Tensor, Tensor] | None = None
    scaled: ScaledCrop | None = None

    @cached_property
    def layers(self) -> Layers:
        """What gives `missing` of a box, and what makes its alpha."""
        return layers_on_device(self.crop.hole, self.pinned)

    def strip(self, box: Box) -> Strip:
        """Return a part of the crop, brought to the device unless it is there."""
        if self.whole:
            return self.whole.cut(box)
        return _bring(box, self)


def upload(
    crop: Crop,
    image: NDArray,
    pinned: PinnedMemory,
    *,
    transparent: NDArray[np.bool_] | None = None,
    levels: tuple[int, int] | None = None,
    packet: CropPacket | None = None,
) -> DeviceCrop:
    """Bring what one crop needs of the photo to the device; of one that is scaled, nothing yet.

    Args:
        crop: from the plan of this image.
        image: (H, W, 3) uint8 or uint16; not modified, referred to until the patch is composed.
        pinned: the way to the device.
        transparent: (H, W) bool, pixels that the network sees as missing besides the hole; not modified.
        levels: the values that the network sees as 0 and 1, the first smaller; None = 0 and the largest of the type.
        packet: a free one of the model's size, taken if the crop fits it; None = there is none.

    Returns:
        the crop with its tensors, some of which may still be under way to the device.
    """
    if transparent is not None and not transparent[slices_of(crop.box)].any():
        transparent = None
    is_plain = not levels and transparent is None and image.dtype == np.uint8
    levels = levels or (0, 255 if image.dtype == np.uint8 else 65535)
    if crop.is_scaled:
        scaled = _scale_by_kernels(crop, image, pinned) if is_plain else None
        return DeviceCrop(crop, image, pinned, levels, transparent, scaled=scaled)
    masked = _mask_by_kernels(crop, image, pinned, packet) if is_plain else None
    source = DeviceCrop(crop, image, pinned, levels, transparent, masked=masked)
    return source if masked is not None else replace(source, whole=_bring(crop.box, source))


def build_input(source: DeviceCrop) -> Tensor:
    """Return the network's input for a crop: (4, model height, model width) float32.

    A box that is scaled down is averaged over its known pixels only, so that the object in the hole does not bleed
    into its rim, and every model pixel that a missing pixel falls on is missing.
    """
    crop = source.crop
    if source.masked is not None:
        return source.masked[1]
    if source.scaled is not None:
        kernels = scaled_crop_kernels(source.pinned.device)
        assert kernels is not None  # they made its alpha
        model_input: Tensor = kernels.scale_down(
            source.scaled.pixels,
            source.scaled.alpha,
            source.scaled.corner,
            step=crop.sample_step,
            scaled_size=crop.scaled_size,
            model_size=crop.model_size,
            smallest_weight=SMALLEST_WEIGHT,
        )
        return model_input
    if not crop.is_scaled:
        return pad_to_model(_masked(source.strip(crop.box), source.levels), crop.model_size, source.pinned)
    left, top, right, bottom = crop.box
    height, width = crop.scaled_size
    step, device = crop.sample_step, source.pinned.device
    sampled = len(range(bottom - top)[middle_of_every(step)])
    parts = []
    # In strips of rows, so that memory on the device does not grow with the photo.
    for rows in _strips(range(height), STRIP_PX * height // (sampled * (right - left))):
        needed = rows_needed(rows, target=height, source=sampled)
        strip = source.strip((left, top + needed.start * step, right, min(top + needed.stop * step, bottom)))
        masked = _masked(strip, source.levels)  # (4, needed, sampled width)
        missing = F.adaptive_max_pool2d(masked[3:], (len(needed), width))  # (1, needed, width)
        covered = covers(rows, needed, target=height, source=sampled, device=device)
        missing = resize_rows(covered, missing).clamp_(max=1)
        # From here the fourth channel is the weight of a pixel, 1 where it is known: RGB is zero elsewhere.
        masked[3:] = 1 - masked[3:]
        narrow = _resize(masked, (len(needed), width), mode="bilinear")
        averaged = resize_rows(average_weights(rows, needed, target=height, source=sampled, device=device), narrow)
        rgb = averaged[:3] / averaged[3:].clamp_min(SMALLEST_WEIGHT)  # (3, rows, width), mean of the known pixels
        parts.append(torch.cat([rgb.clamp_(0, 1) * (1 - missing), missing]))
    return pad_to_model(torch.cat(parts, dim=1), crop.model_size, source.pinned)


def pad_to_model(x: Tensor, size: tuple[int, int], pinned: PinnedMemory) -> Tensor:
    """Reflect (C, h, w) at the bottom and right up to `size`; any ratio, one pixel included."""
    for axis in (1, 2):
        length, wanted = x.shape[axis], size[axis - 1]
        if wanted != length:
            x = x.index_select(axis, pinned.to_device(pad_indices(length, wanted)))
    return x


def unpad(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (C, H, W) back to the `size` that `pad_to_model` was given."""
    return x[:, : size[0], : size[1]]


def composite(prediction: Tensor, source: DeviceCrop) -> NDArray:
    """Mix a prediction into a crop's original pixels.

    Args:
        prediction: (3, model height, model width) float32 in [0, 1], on the device.
        source: the crop as uploaded; not modified.

    Returns:
        (patch height, patch width, 3) of the image's dtype: the patch, whole once `PinnedMemory.synchronize` has
        returned. Pixels of alpha 0 are the original's.
    """
    crop = source.crop
    assert crop.sample_step == 1, "pixels that were left out can't be mixed into"
    left, top, right, bottom = crop.patch_box
    patch: NDArray = np.empty((bottom - top, right - left, 3), source.image.dtype)
    if source.masked is not None:
        pixels, _, alpha = source.masked
        corner = (top - crop.box[1], left - crop.box[0])
        kernels = crop_kernels(source.pinned.device)
        assert kernels is not None  # they made `masked`
        made = kernels.lay_over(prediction, pixels, alpha, corner=corner, size=patch.shape[:2])
        source.pinned.to_host(made, patch)
        return patch
    if source.scaled is not None:
        kernels = scaled_crop_kernels(source.pinned.device)
        assert kernels is not None  # they made its alpha
        corner = (top - crop.box[1], left - crop.box[0])
        made = kernels.lay_over(
            prediction,
            source.scaled.pixels,
            source.scaled.alpha,
            scaled_size=crop.scaled_size,
            corner=corner,
            alpha_corner=(corner[0] - source.scaled.corner[0], corner[1] - source.scaled.corner[1]),
            size=patch.shape[:2],
        )
        source.pinned.to_host(made, patch)
        return patch
    fill = unpad(prediction, crop.scaled_size)
    if not crop.is_scaled:
        rows, columns = slices_inside(crop.patch_box, crop.box)
        source.pinned.to_host(_mixed(fill[:, rows, columns], source.strip(crop.patch_box), source.levels), patch)
        return patch
    height, width = box_size(crop.box)
    low_height, device = crop.scaled_size[0], source.pinned.device
    for rows_of_box in _strips(range(top - crop.box[1], bottom - crop.box[1]), STRIP_PX // width):
        needed = rows_needed(rows_of_box, target=height, source=low_height)
        low = fill[:, needed.start : needed.stop]
        weights = cubic_weights(rows_of_box, needed, target=height, source=low_height, device=device)
        tall = resize_rows(weights, low)  # (3, rows of the box, scaled width)
        full = _resize(tall, (len(rows_of_box), width), mode="bicubic").clamp_(0, 1)
        box = (left, crop.box[1] + rows_of_box.start, right, crop.box[1] + rows_of_box.stop)
        part = _mixed(full[:, :, left - crop.box[0] : right - crop.box[0]], source.strip(box), source.levels)
        source.pinned.to_host(part, patch[box[1] - top : box[3] - top])
    return patch


def _mask_by_kernels(
    crop: Crop, image: NDArray, pinned: PinnedMemory, packet: CropPacket | None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Pixels, model input and alpha of an 8-bit crop by `crop_kernels`, or None where they can't make them."""
    kernels = crop_kernels(pinned.device)
    dilated = dilate_on_device(crop.hole, pinned) if kernels is not None else None
    if kernels is None or dilated is None or crop.model_size != box_size(crop.box):
        return None
    left, top, right, bottom = crop.box
    window, hole_on_host = dilated.array_around(crop.box)
    pixels_on_host, corner = image[top:bottom, left:right], (window[1] - top, window[0] - left)
    if packet is not None and packet.holds(hole_on_host):
        return packet.bring(pixels_on_host, hole_on_host, corner, dilated)
    pixels, hole = pinned.to_device_together([pixels_on_host, hole_on_host])
    seeds = kernels.Seeds(hole, dilated.values_px, dilated.codes, dilated.hole.feather_px)
    return pixels, *kernels.mask_and_dilate(pixels, seeds, corner)


def _scale_by_kernels(crop: Crop, image: NDArray, pinned: PinnedMemory) -> ScaledCrop | None:
    """A scaled 8-bit crop as `scaled_crop_kernels` work on it, or None where they can't."""
    kernels = scaled_crop_kernels(pinned.device)
    dilated = dilate_on_device(crop.hole, pinned) if kernels is not None else None
    if kernels is None or dilated is None:
        return None
    looked_at = middle_of_every(crop.sample_step)
    # Whole rows travel: to pick columns out of them takes a host longer than to send them.
    on_host = image[slices_of(crop.box)][looked_at]
    rows, columns = range(crop.box[1], crop.box[3])[looked_at], range(crop.box[0], crop.box[2])[looked_at]
    # Of what is looked at, the part that the dilated hole may reach.
    x0, y0, x1, y1 = intersect(dilated.hole.box, crop.box)
    near_rows, near_columns = _between(rows, y0, y1), _between(columns, x0, x1)
    if not near_rows or not near_columns or on_host.shape[0] * on_host.shape[1] > MOST_WHOLE_PX:
        return None
    (left, top, _, _), array = dilated.array
    seeds = kernels.Seeds(pinned.to_device_once(array), dilated.values_px, dilated.codes, dilated.hole.feather_px)
    alpha = kernels.dilate(seeds, _shifted(near_rows, -top), _shifted(near_columns, -left))
    return ScaledCrop(pinned.to_device(on_host), alpha, (rows.index(near_rows[0]), columns.index(near_columns[0])))


def _bring(box: Box, source: DeviceCrop) -> Strip:
    """Bring a part of the image; of a crop that is sampled, the middle row and column of each step."""
    here = slices_of(box)
    missing, make_alpha = source.layers(box)
    if source.transparent is not None:
        missing = missing | source.pinned.to_device(source.transparent[here])
    every = middle_of_every(source.crop.sample_step)
    # Whole rows travel: to pick columns out of them takes a host longer than to send them.
    pixels = source.pinned.to_device(source.image[here][every])[:, every]
    return Strip(box, pixels, missing[every, every], make_alpha)


def _masked(strip: Strip, levels: tuple[int, int]) -> Tensor:
    """(4, height, width) float32: RGB in [0, 1], zero where it is missing, then the mask."""
    black, white = levels
    masked = torch.empty((4, *strip.missing.shape), dtype=torch.float32, device=strip.missing.device)
    scale = torch.where(strip.missing, 0.0, 1 / (white - black))
    pixels = _as_number(strip.pixels)
    # Only a photo of few levels has values outside them.
    pixels = pixels.clamp(black, white) - black if _are_part(levels, strip.pixels) else pixels
    torch.mul(pixels.permute(2, 0, 1), scale, out=masked[:3])
    masked[3] = strip.missing
    return masked


def _are_part(levels: tuple[int, int], pixels: Tensor) -> bool:
    """Return whether levels are not all the values that pixels of this type can have."""
    return pixels.dtype != torch.uint8 and levels != (0, 65535)


def _mixed(fill: Tensor, strip: Strip, levels: tuple[int, int]) -> Tensor:
    """The strip's pixels with (3, height, width) in [0, 1] laid over them, in their own type."""
    alpha = strip.make_alpha()[..., None]
    known = _as_number(strip.pixels).to(torch.float32)
    black, white = levels
    filled = fill.permute(1, 2, 0) * (white - black) + black
    # Levels may be few of all values; what was known and lies outside them is mixed as it is.
    most = 255 if strip.pixels.dtype == torch.uint8 else 65535
    mixed = torch.lerp(known, filled, alpha).round_().clamp_(0, most)
    whole = mixed.to(torch.uint8) if strip.pixels.dtype == torch.uint8 else mixed.to(torch.int32).to(torch.int16)
    return torch.where(alpha > 0, whole, strip.pixels)


def _between(positions: range, start: int, stop: int) -> range:
    """Return those of ascending positions that lie from `start` up to, not including, `stop`."""
    first = max(0, -(-(start - positions.start) // positions.step))
    end = max(0, -(-(stop - positions.start) // positions.step))
    return positions[first:end]


def _shifted(positions: range, by: int) -> range:
    return range(positions.start + by, positions.stop + by, positions.step)


def _strips(rows: range, at_once: int) -> list[range]:
    step = max(1, at_once)
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _as_number(pixels: Tensor) -> Tensor:
    """The pixels as PyTorch counts: uint8, or int32 for what was uint16."""
    return pixels.to(torch.int32) & 0xFFFF if pixels.dtype == torch.int16 else pixels


def _resize(x: Tensor, size: tuple[int, int], *, mode: str) -> Tensor:
    """Resize (C, H, W), antialiased when it shrinks.

    The kernel under torchvision's `resize`: importing torchvision for it would add 3.5 s to the start.
    """
    return F.interpolate(x[None], size=size, mode=mode, antialias=True, align_corners=False)[0]
