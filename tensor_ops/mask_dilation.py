"""The dilated hole of a box, made on the device in a tenth of a millisecond: the same as `masks/dilation.py` makes.

The host sends by how much each hole pixel grows, one byte a pixel; the device measures distances to them, exact as far
as holes grow. A box is (left, top, right, bottom) in image pixels. Knows no photos and no network.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from masks.boxes import Box, box_size, intersect, is_empty, slices_inside, stretch
from masks.dilation import DilatedMask, PreparedMask, feather_alpha
from tensor_ops.pinned_memory import PinnedMemory

FARTHEST_PX = 64  # holes that grow by more, or by more different values, are dilated on the host
MOST_VALUES = 4
SUMS_AT_ONCE = 1 << 24  # of squares, 64 MiB, when distances are measured on the device

Layers = Callable[[Box], tuple[Tensor, Callable[[], Tensor]]]


@dataclass(frozen=True)
class DeviceHole:
    """A hole that the device grows.

    Attributes:
        hole: where the hole is and by how much it grows.
        values_px: the different values it grows by, ascending.
        pinned: the way to the device.
    """

    hole: DilatedMask
    values_px: tuple[int, ...]
    pinned: PinnedMemory

    @property
    def array(self) -> tuple[Box, NDArray[np.unsignedinteger]]:
        """Where the hole's pixels are, and the array of them that travels: `codes` tell the values in it apart."""
        if len(self.hole.parts) == 1:
            return self.hole.parts[0].box, self.hole.parts[0].pixels.view(np.uint8)
        return self.hole.box, self.hole.dilation_map

    @property
    def codes(self) -> tuple[int, ...]:
        """What `array` holds in the pixels that grow by each of `values_px`: a lone hole's own bools need no map."""
        return (1,) if len(self.hole.parts) == 1 else tuple(value + 1 for value in self.values_px)

    def array_around(self, box: Box) -> tuple[Box, NDArray[np.unsignedinteger]]:
        """Return the window of `array` that may change something in `box`.

        Pixels farther from the box than the largest value do not.
        """
        outer, array = self.array
        window = intersect(stretch(box, self.values_px[-1]), outer)
        return window, array[slices_inside(window, outer)]

    def layers(self, box: Box) -> tuple[Tensor, Callable[[], Tensor]]:
        """Return what is missing in a part of the image and a function that makes its alpha.

        Alpha is built lazily: it is needed only after the prediction, so the CPU can queue it while the GPU predicts.
        Bool and float32, (box height, box width) each.
        """
        shared = intersect(box, self.hole.box)
        if is_empty(shared):
            nothing = torch.zeros(box_size(box), dtype=torch.bool, device=self.pinned.device)
            return nothing, nothing.float
        window = intersect(stretch(shared, self.values_px[-1]), self.hole.box)
        dilation_map = self.pinned.to_device(self.hole.dilation_map[slices_inside(window, self.hole.box)])
        inner = slices_inside(shared, window)
        squared = {value: squared_distance(dilation_map == value + 1, value)[inner] for value in self.values_px}
        near = [squares <= value**2 for value, squares in squared.items()]

        def make_alpha() -> Tensor:
            alphas = [
                feather_alpha(squares.sqrt(), dilate_px=value, feather_px=self.hole.feather_px)
                for value, squares in squared.items()
            ]
            return _place(torch.stack(alphas).amax(dim=0) if len(alphas) > 1 else alphas[0], shared, box)

        return _place(torch.stack(near).any(dim=0) if len(near) > 1 else near[0], shared, box), make_alpha


def layers_on_device(hole: DilatedMask | PreparedMask, pinned: PinnedMemory) -> Layers:
    """Return what gives `missing` and `alpha` of a box on the device: dilated there on a GPU, or else on the host."""
    on_device = dilate_on_device(hole, pinned) if pinned.device.type == "cuda" else None
    if on_device is not None:
        return on_device.layers

    def from_host(box: Box) -> tuple[Tensor, Callable[[], Tensor]]:
        missing, make_alpha = hole.lazy_layers(box)
        return pinned.to_device(missing), lambda: pinned.to_device(make_alpha())

    return from_host


def dilate_on_device(hole: DilatedMask | PreparedMask, pinned: PinnedMemory) -> DeviceHole | None:
    """Return the hole as the device grows it, or None if the host has to do it."""
    if not isinstance(hole, DilatedMask):
        return None
    values = tuple(sorted({part.dilate_px for part in hole.parts}))
    if len(values) > MOST_VALUES or values[-1] > FARTHEST_PX:
        return None
    return DeviceHole(hole, values, pinned)


def squared_distance(hole: Tensor, most_px: int) -> Tensor:
    """Return the squared distance of every pixel to the nearest hole pixel, exact where it is up to `most_px`.

    The square is a sum of squares along the two axes, so that one pass looks along the rows for the nearest hole pixel
    and a second along the columns for the row whose result plus its own distance is smallest.

    Args:
        hole: (height, width) bool; not modified.
        most_px: how far is looked along each axis.

    Returns:
        (height, width) float32, infinite or too large where no hole pixel is that near.
    """
    offsets = torch.arange(-most_px, most_px + 1, device=hole.device, dtype=torch.float32)
    penalty = (offsets * offsets)[:, None, None]
    squared = torch.where(hole, 0.0, torch.inf)
    rows = max(1, SUMS_AT_ONCE // (hole.shape[1] * len(penalty)))
    for axis, border in ((1, (most_px, most_px)), (0, (0, 0, most_px, most_px))):
        padded = F.pad(squared, border, value=math.inf)
        windows = padded.unfold(axis, len(penalty), 1).movedim(2, 0)  # (2 most_px + 1, height, width), a view
        strips = [(strip + penalty).amin(dim=0) for strip in windows.split(rows, dim=1)]
        squared = strips[0] if len(strips) == 1 else torch.cat(strips)
    return squared


def _place(x: Tensor, box: Box, outer: Box) -> Tensor:
    """Lay (box height, box width) into an array over `outer`, which holds the box, and zeros around it."""
    if box == outer:
        return x
    out = torch.zeros(box_size(outer), dtype=x.dtype, device=x.device)
    out[slices_inside(box, outer)] = x
    return out
