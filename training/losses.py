"""What a fill is judged by in training: colour, features, and a critic of the hole.

Images are (B, 3, H, W) in [0, 1], masks (B, 1, H, W) with 1 = hole. Every term is a mean over images, each normalised
by its own hole, so that a hair-thin hole counts as much as a thick one. Colour decides how a thin hole looks; in the
middle of a thick one nobody can know the colour, and texture decides: by `depth` such photos' texture terms weigh more.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import torch
import torch.nn.functional as F

from training.kernels.distance import feature_distance
from training.kernels.padding import reflect_pad
from training.network import strided_depth_weight

PLANES = (
    (96, 16, 64),
    (128, 16, 64),
    (128, 32, 128),
    (256, 32, 128),
    (256, 48, 192),
    (384, 48, 192),
    (384, 64, 256),
    (512, 64, 256),
)
BLUE_GREEN_RED = (104.0, 117.0, 123.0)
DEEP_PX, DEEP_STRIDE_PX = 16, 8  # a hole is deep where known pixels are further away than this; looked at in steps
WINDOW_PX = 7  # of structural similarity; one window is looked at, then the next that shares no pixel with it
STEADY_MEAN, STEADY_VARIANCE = 0.01**2, 0.03**2


def hole_colour(
    prediction: torch.Tensor, image: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (mean absolute error in the hole, mean log of its squared error, mean absolute error along the hole's rim,
    mean absolute error outside).

    The logarithm weighs every photo's relative improvement alike, as a mean of decibels does. The rim is the hole's
    outermost pixel: an error there is a visible seam.
    """
    difference = prediction - image
    absolute = difference.abs()
    rim = mask * F.max_pool2d(1 - mask, 3, 1, 1)
    squared = _over(difference.square(), mask)
    outside = (absolute * (1 - mask)).mean()
    return _over(absolute, mask).mean(), (squared + 2e-4).log().mean(), _over(absolute, rim).mean(), outside


def _over(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, 3, H, W) values over each photo's mask: (B,)."""
    return (values * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)) + 1.0)


def depth(mask: torch.Tensor) -> torch.Tensor:
    """Return which share of each photo's hole is deep: (B,) from 0 for a thin hole to 1."""
    deep = 1 - F.max_pool2d(1 - mask, 2 * DEEP_PX + 1, DEEP_STRIDE_PX, DEEP_PX)
    return (deep.mean((1, 2, 3)) / (mask.mean((1, 2, 3)) + 1e-4)).clamp_max(1.0)


def dissimilarity(composite: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return 1 - structural similarity (Wang et al. 2004, equation 13, 7x7 windows, channels apart) over each photo's
    hole: (B,).
    """
    x, y = composite.contiguous(), image.contiguous()
    mean_x, square_x, product = F.avg_pool2d(torch.cat([x, x * x, x * y], 1), WINDOW_PX).chunk(3, 1)
    mean_y, square_y = F.avg_pool2d(torch.cat([y, y * y], 1), WINDOW_PX).chunk(2, 1)
    unbiased = WINDOW_PX**2 / (WINDOW_PX**2 - 1)
    spread = unbiased * (square_x - mean_x * mean_x + square_y - mean_y * mean_y)
    together = unbiased * (product - mean_x * mean_y)
    numerator = (2 * mean_x * mean_y + STEADY_MEAN) * (2 * together + STEADY_VARIANCE)
    denominator = (mean_x * mean_x + mean_y * mean_y + STEADY_MEAN) * (spread.clamp_min(0) + STEADY_VARIANCE)
    middles = mask[..., WINDOW_PX // 2 :: WINDOW_PX, WINDOW_PX // 2 :: WINDOW_PX]
    return _over(1 - numerator / denominator, middles[..., : mean_x.shape[2], : mean_x.shape[3]])


class SqueezeFeatures(torch.nn.Module):
    """SqueezeNet 1.0 (arXiv:1602.07360) up to its last fire module, in the Caffe model's convention; frozen.

    The first convolution reads squares of four pixels as one with 16 channels, every fourth of them 0: the same result
    in a third of the time. Sides are even.
    """

    mean: torch.Tensor
    conv1_in_depth: torch.Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.conv1 = torch.nn.Conv2d(3, PLANES[0][0], 7, 2)
        for i, (into, squeeze, expand) in enumerate(PLANES):
            fire = torch.nn.ModuleDict(
                {
                    "a": torch.nn.Conv2d(into, squeeze, 1),
                    "b": torch.nn.Conv2d(squeeze, expand, 1),
                    "c": torch.nn.Conv2d(squeeze, expand, 3, padding=1),
                }
            )
            self.add_module(f"fire{i + 2}", fire)
        self.load_state_dict({k: v for k, v in state.items() if not k.startswith("conv10")})
        self.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(BLUE_GREEN_RED).view(1, 3, 1, 1), persistent=False)
        in_depth = strided_depth_weight(F.pad(self.conv1.weight, (0, 1, 0, 1, 0, 1)))
        self.register_buffer("conv1_in_depth", in_depth, persistent=False)

    def _fire(self, index: int, x: torch.Tensor) -> torch.Tensor:
        fire = self.get_submodule(f"fire{index}")
        assert isinstance(fire, torch.nn.ModuleDict)
        x = F.relu(fire["a"](x))
        return torch.cat([F.relu(fire["b"](x)), F.relu(fire["c"](x))], 1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = image.flip(1) * 255 - self.mean
        x = F.pad(x.to(self.conv1.weight.dtype), (0, 0, 0, 0, 0, 1))
        x = F.relu(F.conv2d(reflect_pad(0, x, to_depth=True), self.conv1_in_depth, self.conv1.bias))
        features = [x]
        for index in range(2, 10):
            if index in (2, 5, 9):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = self._fire(index, x)
            if index % 2:
                features.append(x)
        return features


def perceptual(
    features: SqueezeFeatures, composite: torch.Tensor, image: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Return the squared distance of unit-length feature vectors over each photo's hole, summed over layers: (B,)
    (after arXiv:1801.03924).
    """
    with torch.no_grad():
        wanted = features(image)
    total = composite.new_zeros(len(composite))
    for got, want in zip(features(composite), wanted, strict=True):
        where = F.interpolate(mask, got.shape[-2:], mode="area")
        distance = feature_distance(got, want)
        total = total + (distance * where).sum((1, 2, 3)) / (where.sum((1, 2, 3)) + 0.1)
    return total


def critic_tensors(seed: int, base: int = 64) -> list[tuple[str, torch.Tensor, bool]]:
    """Return a fresh patch critic's weights (name, value, False): five 4x4 convolutions on RGB and mask."""
    random = torch.Generator().manual_seed(seed)
    tensors: list[tuple[str, torch.Tensor, bool]] = []
    planes = (4, base, 2 * base, 4 * base, 8 * base, 8 * base, 1)
    for i, (into, out) in enumerate(itertools.pairwise(planes)):
        size = 3 if out == 1 else 4
        value = torch.randn(out, into, size, size, generator=random) * (2 / (into * size * size)) ** 0.5
        tensors += [(f"critic{i}", value, False), (f"critic{i}.bias", torch.zeros(out), False)]
    return tensors


def critic(
    weights: dict[str, torch.Tensor], image: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Judge (B, 3, H, W) images: logits (B, 1, h, w), > 0 = a photo, and the features of each layer. No
    normalisation: R1 keeps it tame.
    """
    dtype = weights["critic0"].dtype
    x = torch.cat([image * 2 - 1, mask], 1).to(dtype).contiguous(memory_format=torch.channels_last)
    features = []
    last = 5
    for i in range(last):
        stride = 2 if i < 4 else 1
        x = F.conv2d(x, weights[f"critic{i}"], weights[f"critic{i}.bias"].to(dtype), stride=stride, padding=1)
        x = F.leaky_relu(x, 0.2)
        features.append(x)
    logits = F.conv2d(x, weights[f"critic{last}"], weights[f"critic{last}.bias"].to(dtype), padding=1)
    return logits.float(), features


def over_hole(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, 1, h, w) values over the cells that see the hole, photo by photo: (B,)."""
    where = (F.adaptive_max_pool2d(mask, values.shape[-2:]) > 0).float()
    return (values * where).sum((1, 2, 3)) / (where.sum((1, 2, 3)) + 1e-3)
