"""Arrays to model input and back, on the model's device.

A crop's pixels travel as the integers they are: uint8 or uint16 up, the patch's integers down; floating point exists
only on the device and only for the crop. The input is (4, H, W) float32, RGB in [0, 1] with the grown hole zeroed, then
the mask; the composite mixes the prediction into the original integers in float32 and rounds, so that the known region
keeps its bytes. What a box is and where it lies is decided in `cropping.py`; the network is not known here.

Resizing is `torch.nn.functional.interpolate(antialias=True)`, the kernel under torchvision's `resize`: importing
torchvision for it would add 3.5 s to the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cropping import Crop, pad_indices
from holes import Box, box_size

SMALLEST_WEIGHT = 1e-3  # below it a scaled pixel has no known source to take its colour from


@dataclass(frozen=True)
class DeviceCrop:
    """A crop's arrays on the device.

    Attributes:
        pixels: (box height, box width, 3) uint8, or int16 holding the bits of uint16.
        missing: (box height, box width) bool.
        max_value: 255 or 65535.
    """

    pixels: Tensor
    missing: Tensor
    max_value: int


def upload(crop: Crop, image: NDArray, device: torch.device) -> DeviceCrop:
    """Copy what one crop needs of the photo to the device, through pinned memory when that is a GPU.

    Args:
        crop: from the plan of this image.
        image: (H, W, 3) uint8 or uint16; not modified, and not referred to afterwards.
        device: where the model is.
    """
    left, top, right, bottom = crop.box
    pixels = image[top:bottom, left:right]
    return DeviceCrop(
        _to_device(pixels.view(np.int16) if pixels.dtype == np.uint16 else pixels, device),
        _to_device(crop.missing, device),
        int(np.iinfo(image.dtype).max),
    )


def build_input(source: DeviceCrop, crop: Crop) -> Tensor:
    """Return the network's input for a crop: (4, model height, model width) float32.

    A box that is scaled down is averaged over its known pixels only, so that the object in the hole does not bleed
    into its rim, and every model pixel that a missing pixel falls on is missing.
    """
    known = (~source.missing).to(torch.float32)[None]  # (1, h, w)
    rgb = _as_float(source.pixels).permute(2, 0, 1) * (known / source.max_value)  # (3, h, w)
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
        fill = _resize(fill, box_size(crop.box), mode="bicubic").clamp(0, 1)
    left, top, right, bottom = _inside(crop.patch_box, crop.box)
    fill = fill[:, top:bottom, left:right].permute(1, 2, 0) * source.max_value
    original = source.pixels[top:bottom, left:right]
    known = _as_float(original)
    alpha = _to_device(crop.alpha, prediction.device)[..., None]  # while the prediction is still being made
    mixed = torch.lerp(known, fill, alpha).round().clamp(0, source.max_value)
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


def _inside(box: Box, outer: Box) -> Box:
    left, top = outer[0], outer[1]
    return box[0] - left, box[1] - top, box[2] - left, box[3] - top
