"""A lone 8-bit crop's way to the device as one packet: numbers, hole and pixels in page-locked memory of its own.

What `preprocess.py` does with a copy, two launches and nine tensors, for a host that needs longer for them than the
device: here all memory is there beforehand, and only its content differs, so that a captured graph can be replayed for
any hole. Crops of one size share a packet, one at a time; others go the ordinary way. Knows no photos and no network.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from lama.devices import on_card
from tensor_ops.host_copies import copy_rows
from tensor_ops.mask_dilation import MOST_VALUES, DeviceHole

LARGEST_PACKET_PX = 640  # side of the largest crop that has one; for a larger one the device needs longer than the host
HEAD_BYTES = 256  # the numbers, and what keeps the rest aligned


class CropPacket:
    """The memory that square crops of one size are brought to the device in.

    Args:
        side: of the crop in pixels.
        device: where it goes.
        kernels: `tensor_ops.kernels.crop`.
    """

    def __init__(self, side: int, device: torch.device, kernels: ModuleType) -> None:
        area = side * side
        self.side = side
        self.is_free = True  # whether nothing of it is on its way
        self.replay: Callable[[], None] | None = None  # does what `launch` does, where that was captured
        self._device = device
        self._kernels = kernels
        size = HEAD_BYTES + 4 * area
        self._on_host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
        host = self._on_host.numpy()
        self._numbers = host[: 4 * len(kernels.NUMBERS)].view(np.int32)
        self._hole = host[HEAD_BYTES : HEAD_BYTES + area]
        self._pixels = host[HEAD_BYTES + area :].reshape(side, side, 3)
        self._on_device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._device_numbers = self._on_device[: 4 * len(kernels.NUMBERS)].view(torch.int32)
        self._device_hole = self._on_device[HEAD_BYTES : HEAD_BYTES + area]
        self._distance = torch.zeros((MOST_VALUES, side, side), dtype=torch.uint8, device=device)
        self.pixels = self._on_device[HEAD_BYTES + area :].view(side, side, 3)
        self.alpha = torch.zeros((side, side), dtype=torch.float32, device=device)
        # (1, 4, side, side), see `preprocess.build_input`
        self.model_input = torch.zeros((1, 4, side, side), dtype=torch.float32, device=device)
        self._masked = (self.pixels, self.model_input[0], self.alpha)

    def holds(self, hole: NDArray) -> bool:
        """Tell whether a hole's array has room in it."""
        return hole.size <= self._hole.size and hole.shape[0] <= self.side

    def bring(
        self, pixels: NDArray, hole: NDArray, corner: tuple[int, int], dilated: DeviceHole
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Bring a crop to the device.

        Args:
            pixels: (side, side, 3) uint8; not modified, and not referred to afterwards. So is `hole`.
            hole: (height, width) uint8, what `DeviceHole.array_around` gives.
            corner: its (top, left) in the crop, negative where it begins outside.
            dilated: the hole.

        Returns:
            Its pixels, model input (4, side, side) and alpha on the device, valid until the next crop.
        """
        seeds = self._kernels.Seeds(self._device_hole, dilated.values_px, dilated.codes, dilated.hole.feather_px)
        self._numbers[:] = (*hole.shape, *corner, *seeds.packed(), seeds.feather)
        np.copyto(self._hole[: hole.size].reshape(hole.shape), hole)
        copy_rows(self._pixels, pixels)
        self.is_free = False
        with on_card(self._device):
            (self.replay or self.launch)()
        return self._masked

    def launch(self) -> None:
        """Copy it to the device and run the kernels."""
        self._on_device.copy_(self._on_host, non_blocking=True)
        self._kernels.mask_and_dilate_numbered(
            self._device_numbers, self._device_hole, self.pixels, self._distance, self._masked[1], self.alpha
        )
