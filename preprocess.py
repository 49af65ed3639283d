"""Arrays to model input and back, on the model's device.

A crop's pixels travel as the integers they are: uint8 or uint16 up, the patch's integers down; floating point exists
only on the device and only for the crop. The input is (4, H, W) float32, RGB in [0, 1] with the grown hole zeroed, then
the mask; the composite mixes the prediction into the original integers in float32 and rounds, so that the known region
keeps its bytes. What a box is and where it lies is decided in `cropping.py`; the network is not known here.

Resizing is `torch.nn.functional.interpolate(antialias=True)`, the kernel under torchvision's `resize`: importing
torchvision for it would add 3.5 s to the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cropping import Crop, pad_indices
from holes import Box, GrownHole, box_size, feather_alpha, intersect, slices_inside

SMALLEST_WEIGHT = 1e-3  # below it a scaled pixel has no known source to take its colour from
FARTHEST_PX = 64  # holes that grow by more, or by more different values, are grown on the host
MOST_VALUES = 4
SUMS_AT_ONCE = 1 << 24  # of squares, 64 MiB, when distances are measured on the device


@dataclass(frozen=True)
class DeviceHole:
    """The grown hole on the device.

    Attributes:
        box: what it covers, in image pixels; at least the part of the crop that is missing.
        squared: for every value that holes grow by, (box height, box width) float32: the squared distance to the
            nearest pixel that grows by it, exact up to the value.
        feather_px: see `feather_alpha`.
    """

    box: Box
    squared: dict[int, Tensor]
    feather_px: int | None

    def missing(self, box: Box) -> Tensor:
        """(box height, box width) bool, as `Crop.missing`."""
        shared = intersect(self.box, box)
        grown = [squared[slices_inside(shared, self.box)] <= reach_px**2 for reach_px, squared in self.squared.items()]
        return _place(torch.stack(grown).any(dim=0) if len(grown) > 1 else grown[0], shared, box)

    def alpha(self, box: Box) -> Tensor:
        """(box height, box width) float32, as `Crop.alpha`."""
        shared = intersect(self.box, box)
        alphas = [
            feather_alpha(
                squared[slices_inside(shared, self.box)].sqrt(), dilate_px=reach_px, feather_px=self.feather_px
            )
            for reach_px, squared in self.squared.items()
        ]
        return _place(torch.stack(alphas).amax(dim=0) if len(alphas) > 1 else alphas[0], shared, box)


@dataclass(frozen=True)
class DeviceCrop:
    """A crop's arrays on the device.

    Attributes:
        pixels: (box height, box width, 3) uint8, or int16 holding the bits of uint16.
        missing: (box height, box width) bool.
        max_value: 255 or 65535.
        hole: what `missing` was made from, or None where the host made it.
    """

    pixels: Tensor
    missing: Tensor
    max_value: int
    hole: DeviceHole | None = None


def upload(crop: Crop, image: NDArray, device: torch.device) -> DeviceCrop:
    """Copy what one crop needs of the photo to the device, through pinned memory when that is a GPU.

    Args:
        crop: from the plan of this image.
        image: (H, W, 3) uint8 or uint16; not modified, and not referred to afterwards.
        device: where the model is.
    """
    left, top, right, bottom = crop.box
    pixels = image[top:bottom, left:right]
    max_value = int(np.iinfo(image.dtype).max)
    on_device = _to_device(pixels.view(np.int16) if pixels.dtype == np.uint16 else pixels, device)
    hole = grow_on_device(crop, device) if device.type == "cuda" else None
    missing = _to_device(crop.missing, device) if hole is None else hole.missing(crop.box)
    return DeviceCrop(on_device, missing, max_value, hole)


def grow_on_device(crop: Crop, device: torch.device) -> DeviceHole | None:
    """Grow a crop's hole on the device, where that costs a tenth of a millisecond; None if the host has to do it."""
    hole = crop.hole
    if not isinstance(hole, GrownHole):
        return None
    values = sorted({part.dilate_px for part in hole.parts})
    if len(values) > MOST_VALUES or values[-1] > FARTHEST_PX:
        return None
    left, top, right, bottom = crop.box
    most_px = values[-1]
    box = intersect((left - most_px, top - most_px, right + most_px, bottom + most_px), hole.box)
    reach = hole.reach_px.view(np.int16)[slices_inside(box, hole.box)]
    reach_px = _to_device(reach, device)
    squared = {value: squared_distance(reach_px == value + 1, value) for value in values}
    return DeviceHole(box, squared, hole.feather_px)


def squared_distance(hole: Tensor, reach_px: int) -> Tensor:
    """Return the squared distance of every pixel to the nearest hole pixel, exact where it is up to `reach_px`.

    The square is a sum of squares along the two axes, so that one pass looks along the rows for the nearest hole pixel
    and a second along the columns for the row whose result plus its own distance is smallest.

    Args:
        hole: (height, width) bool; not modified.
        reach_px: how far is looked along each axis.

    Returns:
        (height, width) float32, infinite or too large where no hole pixel is within reach.
    """
    offsets = torch.arange(-reach_px, reach_px + 1, device=hole.device, dtype=torch.float32)
    penalty = (offsets * offsets)[:, None, None]
    squared = torch.where(hole, 0.0, torch.inf)
    rows = max(1, SUMS_AT_ONCE // (hole.shape[1] * len(penalty)))
    for axis, border in ((1, (reach_px, reach_px)), (0, (0, 0, reach_px, reach_px))):
        padded = F.pad(squared, border, value=math.inf)
        windows = padded.unfold(axis, len(penalty), 1).movedim(2, 0)  # (2 reach_px + 1, height, width), a view
        strips = [(strip + penalty).amin(dim=0) for strip in windows.split(rows, dim=1)]
        squared = strips[0] if len(strips) == 1 else torch.cat(strips)
    return squared


def build_input(source: DeviceCrop, crop: Crop) -> Tensor:
    """Return the network's input for a crop: (4, model height, model width) float32.

    A box that is scaled down is averaged over its known pixels only, so that the object in the hole does not bleed
    into its rim, and every model pixel that a missing pixel falls on is missing.
    """
    known = (~source.missing).to(torch.float32)[None]  # (1, h, w)
    rgb = _as_float(source.pixels).permute(2, 0, 1).mul_(known / source.max_value)  # (3, h, w)
    if crop.is_scaled:
        weight = _resize(known, crop.scaled_size)
        rgb = _resize(rgb, crop.scaled_size) / weight.clamp_min(SMALLEST_WEIGHT)
        missing = F.adaptive_max_pool2d(1 - known[None], crop.scaled_size)[0]
        known = 1 - missing
        rgb = rgb.clamp(0, 1) * known
    return pad_to_model(torch.cat([rgb, 1 - known]), crop.model_size)


def pad_to_model(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Reflect (C, h, w) at the bottom and right up to `size`; any ratio, one pixel included."""
    for axis in (1, 2):
        length, wanted = x.shape[axis], size[axis - 1]
        if wanted != length:
            x = x.index_select(axis, _to_device(pad_indices(length, wanted), x.device))
    return x


def unpad(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (C, H, W) back to the `size` that `pad_to_model` was given."""
    return x[:, : size[0], : size[1]]


def composite(prediction: Tensor, source: DeviceCrop, crop: Crop) -> Tensor:
    """Mix a prediction into a crop's original pixels.

    Args:
        prediction: (3, model height, model width) float in [0, 1], on the device.
        source: the crop as uploaded; not modified.
        crop: the crop.

    Returns:
        (patch height, patch width, 3) of the pixels' own integer type: the patch. Pixels of alpha 0 are the original's.
    """
    fill = unpad(prediction.to(torch.float32), crop.scaled_size)
    if crop.is_scaled:
        fill = _resize(fill, box_size(crop.box), mode="bicubic").clamp_(0, 1)
    rows, columns = slices_inside(crop.patch_box, crop.box)
    fill = fill[:, rows, columns].permute(1, 2, 0) * source.max_value
    original = source.pixels[rows, columns]
    known = _as_float(original)
    # Made while the device is still busy with the prediction.
    alpha = _to_device(crop.alpha, prediction.device) if source.hole is None else source.hole.alpha(crop.patch_box)
    alpha = alpha[..., None]
    mixed = torch.lerp(known, fill, alpha).round_().clamp_(0, source.max_value)
    changed = alpha > 0
    return torch.where(changed, mixed.to(torch.int32).to(original.dtype), original)


def download(patches: Sequence[Tensor]) -> list[NDArray]:
    """Start copying patches back to the host; on a GPU they are whole once its stream is synchronised."""
    arrays = []
    for patch in patches:
        host = patch
        if patch.is_cuda:
            host = torch.empty(patch.shape, dtype=patch.dtype, pin_memory=True).copy_(patch, non_blocking=True)
        array = host.numpy()
        arrays.append(array.view(np.uint16) if array.dtype == np.int16 else array)
    return arrays


def _to_device(array: NDArray, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return torch.from_numpy(np.array(array, order="C")).to(device)  # a copy: the caller's array may be read-only
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    pinned = torch.empty(array.shape, dtype=dtype, pin_memory=True)
    np.copyto(pinned.numpy(), array)
    return pinned.to(device, non_blocking=True)


def _as_float(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.int16:
        return (pixels.to(torch.int32) & 0xFFFF).to(torch.float32)
    return pixels.to(torch.float32)


def _resize(x: Tensor, size: tuple[int, int], *, mode: str = "bilinear") -> Tensor:
    """Resize (C, H, W), antialiased when it shrinks."""
    return F.interpolate(x[None], size=size, mode=mode, antialias=True, align_corners=False)[0]


def _place(x: Tensor, box: Box, outer: Box) -> Tensor:
    """Lay (box height, box width) into an array over `outer`, which holds the box, and zeros around it."""
    if box == outer:
        return x
    out = torch.zeros(box_size(outer), dtype=x.dtype, device=x.device)
    out[slices_inside(box, outer)] = x
    return out
