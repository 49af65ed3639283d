"""The inference form with Triton kernels: float16, channels-last rows from the first pixel to the last.

Stem and downsamplings, then the residual blocks (`triton_trunk`), then upsamplings and head. Memory is allocated per
call, in the same order every time: under a CUDA graph's capture that happens once.
"""

import torch
from torch import Tensor, nn

from lama.devices import on_card
from lama.fold_batchnorm import FoldedNetwork
from lama.kernels.convolution import convolve, row_convolution
from lama.kernels.hopper_decoder import hopper_upsamplings
from lama.kernels.hopper_downsampling import hopper_downsampling
from lama.kernels.hopper_head import hopper_head
from lama.kernels.hopper_stem import hopper_stem
from lama.kernels.stem_head import (
    BORDER_PX,
    COLOURS,
    INPUT_CHANNELS,
    PADDED_COLUMNS,
    TAPS,
    convolve_head,
    convolve_stem,
    head_weights,
    pad_input,
    stem_weights,
)
from lama.kernels.tiles import Tile, tile_for
from lama.kernels.upsampling import row_upsampling, upsample
from lama.triton_trunk import TritonTrunk

LARGEST_INDEX = 2**31 - 1  # the kernels count in 32 bits


class TritonBackend(nn.Module):
    """The folded network on a device.

    Args:
        network: as published, batch-norms folded.
        device: CUDA, or the CPU in Triton's interpreter.
        fp8: the trunk's 3x3 convolutions multiply in FP8 where Hopper kernels run.
    """

    def __init__(self, network: FoldedNetwork, *, device: torch.device, fp8: bool = False) -> None:
        super().__init__()
        self.device = device
        self._stem = stem_weights(network.stem, device)
        self._hopper_stem, why_not_stem = hopper_stem(network.stem, device)
        self._downs = [row_convolution(down, device, stride=2) for down in network.downs]
        self._hopper_down, why_not_down = hopper_downsampling(network.downs[0], device)
        self.trunk = TritonTrunk(network.layers, device=device, fp8=fp8)
        self._ups = [row_upsampling(up, device) for up in network.ups]
        self._hopper_ups, why_not_ups = hopper_upsamplings(network.ups, device)
        self._head = head_weights(network.head, device)
        self._hopper_head, why_not_head = hopper_head(network.head, device)
        self._width = network.stem.bias.numel()
        forms = (self._hopper_stem, self._hopper_down, *self._hopper_ups, self._hopper_head)
        self._has_hopper = self.trunk.has_hopper or any(form is not None for form in forms)
        obstacles = (why_not_stem, why_not_down, *self.trunk.why_not_hopper, why_not_ups, why_not_head)
        self._obstacles = "; ".join(dict.fromkeys(why for why in obstacles if why))

    @property
    def has_fp8(self) -> bool:
        """Whether large maps are multiplied in FP8."""
        return self.trunk.has_fp8

    @property
    def hopper_kernels(self) -> str:
        """Which of the Hopper kernels run, in a few words, and what keeps others from it."""
        if not self._has_hopper:
            return f"no Hopper kernels: {self._obstacles}"
        fp8 = ", FP8 in the 3x3 convolutions of large maps" if self.has_fp8 else ""
        return f"Hopper kernels{fp8}" + (f" but for some: {self._obstacles}" if self._obstacles else "")

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, 3, H, W) float32 in [0, 1]; `x` is not modified."""
        batch, _, height, width = x.shape
        images = max(1, LARGEST_INDEX // (height * width * self._width))
        with on_card(self.device):
            if batch <= images:
                return self._predict(x)
            return torch.cat([self._predict(part) for part in x.split(images)])

    def _predict(self, x: Tensor) -> Tensor:
        features = self._encode(x)
        features = self.trunk.run(features)
        return self._decode(features)

    def _encode(self, x: Tensor) -> Tensor:
        """(B, 4, H, W) -> (B, H/8, W/8, D + C), of which the first D channels are filled."""
        batch, _, height, width = x.shape
        padded = self._empty(batch, height + 2 * BORDER_PX, width + PADDED_COLUMNS, INPUT_CHANNELS)
        pad_input(x, padded)
        y = self._empty(batch, height, width, self._width)
        if self._hopper_stem is not None and self._hopper_stem.takes(y):
            self._hopper_stem.convolve(padded, y)
        else:
            tile = self._tile("stem", batch * height * width // 2, columns=2 * self._width)
            convolve_stem(padded, self._stem, y, tile=tile)
        del padded
        for step, down in enumerate(self._downs):
            extra_channels = self.trunk.inner_channels if step == len(self._downs) - 1 else 0
            height, width = height // 2, width // 2
            out = self._empty(batch, height, width, down.outputs + extra_channels)
            if step == 0 and self._hopper_down is not None and self._hopper_down.takes(y):
                self._hopper_down.downsample(y, out)
            else:
                tile = self._tile("down", batch * height * width, columns=down.outputs, depth=down.inputs)
                convolve(y, down, out, tile=tile, early=True)
            y = out
        return y

    def _decode(self, x: Tensor) -> Tensor:
        """(B, H/8, W/8, D + C) -> (B, 3, H, W) float32."""
        for up, hopper_up in zip(self._ups, self._hopper_ups, strict=True):
            batch, height, width, _ = x.shape
            outputs = up.bias.numel()
            out = self._empty(batch, 2 * height, 2 * width, outputs)
            if hopper_up is not None and hopper_up.takes(x):
                hopper_up.upsample(x, out)
            else:
                tile = self._tile("up", batch * height * width, columns=outputs, depth=up.inputs)
                upsample(x, up, out, tile=tile, early=True)
            x = out
        batch, height, width, _ = x.shape
        image = torch.empty((batch, COLOURS, height, width), dtype=torch.float32, device=self.device)
        if self._hopper_head is not None and self._hopper_head.takes(x):
            self._hopper_head.convolve(x, image, self._hopper_head.plan(x))
            return image
        planes = self._empty(batch, height, TAPS * COLOURS, width)
        convolve_head(x, self._head, planes, image, tile=self._tile("head", batch * height * width))
        return image

    def _tile(self, kernel: str, rows: int, *, columns: int = 0, depth: int = 0) -> Tile:
        return tile_for(kernel, rows, columns=columns, depth=depth, device=self.device)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float16, device=self.device)
