"""What a fill is judged by in training: colour, structure, features and their statistics, and a mesh's share.

Images are (B, 3, H, W) in [0, 1], masks (B, 1, H, W) with 1 = hole. Every term is a mean over images, each normalised
by its own hole, so that a hair-thin hole counts as much as a thick one. Colour decides how a thin hole looks; in the
middle of a thick one nobody can know the colour, and texture decides: by `depth` such photos' texture terms weigh more.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from training.kernels.distance import feature_distance
from training.kernels.padding import reflect_pad
from training.looks import GRID_PX
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
NEAR_STEP_PX = 4
WINDOW_PX = 7  # of structural similarity; one window is looked at, then the next that shares no pixel with it
CONTRAST_WINDOWS_PX = (32, 48, 64)  # of the picture as it is, halved, and quartered
CONTRAST_FLOOR = (1.5 / 255) ** 2  # of energy: what is fainter can't be seen
STEADY_MEAN, STEADY_VARIANCE = 0.01**2, 0.03**2


def hole_colour(
    prediction: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, near: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return how far colours are off, pixel by pixel.

    The logarithm weighs every photo's relative improvement alike, as a mean of decibels does. The rim is the hole's
    outermost pixel: an error there is a visible seam.

    Args:
        prediction: what the network gives.
        image: the photo.
        mask: the hole.
        near: (B, 1, H, W), how much each pixel of the hole counts (`nearness`); all alike if left out.

    Returns:
        Mean absolute error in the hole, mean log of its squared error, mean absolute error along the hole's rim, mean
        absolute error outside; scalars.
    """
    difference = prediction - image
    absolute = difference.abs()
    counted = mask if near is None else mask * near
    rim = mask * F.max_pool2d(1 - mask, 3, 1, 1)
    squared = _over(difference.square(), counted)
    outside = (absolute * (1 - mask)).mean()
    return _over(absolute, counted).mean(), (squared + 2e-4).log().mean(), _over(absolute, rim).mean(), outside


def nearness(mask: torch.Tensor) -> torch.Tensor:
    """Return 1 within 16 px of a known pixel, falling to 0 at 32 px: (B, 1, H, W).

    Further in nobody can know a pixel's colour. A term that asks for it there is answered best by the mean of all that
    could be, which is blur.
    """
    known = F.max_pool2d(1 - mask, NEAR_STEP_PX, ceil_mode=True)
    steps = range(DEEP_PX // NEAR_STEP_PX, 2 * DEEP_PX // NEAR_STEP_PX)
    reached = torch.stack([F.max_pool2d(known, 2 * step + 1, 1, step) for step in steps]).mean(0)
    whole = F.interpolate(reached, scale_factor=NEAR_STEP_PX, mode="nearest")
    return whole[..., : mask.shape[2], : mask.shape[3]]


def coarse_colour(
    composite: torch.Tensor, target: torch.Tensor, mask: torch.Tensor, near: torch.Tensor, coarse_px: int = 17
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the error of averaged colours in the deep part of each hole, absolute and as a logarithm.

    They hold the colour there and leave the texture alone.

    Args:
        composite: fills put into photos.
        target: the photos, or others with the colours wanted.
        mask: the holes.
        near: (B, 1, H, W), 1 where the term is not wanted (`nearness`).
        coarse_px: odd side of the squares that are averaged; they overlap by half.

    Returns:
        The mean absolute error, and the mean log of the squared error; scalars.
    """
    half = coarse_px // 2
    difference = F.avg_pool2d(composite - target, coarse_px, half, half, count_include_pad=False)
    deep = F.avg_pool2d(mask * (1 - near), half, ceil_mode=True)
    deep = deep[..., : difference.shape[2], : difference.shape[3]]
    return _over(difference.abs(), deep).mean(), (_over(difference.square(), deep) + 2e-4).log().mean()


def fine_part(images: torch.Tensor) -> torch.Tensor:
    """Return grey (B, 1, H, W) minus its mean over 5x5 pixels: what is called texture here."""
    grey = images.mean(1, keepdim=True)
    return grey - F.avg_pool2d(F.pad(grey, (2, 2, 2, 2), mode="reflect"), 5, 1)


def mesh_share(composite: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return which part of the texture's energy repeats every 8 px, beyond what chance gives: (B,).

    In windows of 64 px, over the cells of 8 px that lie in the hole as a whole: energy of their mean over energy.
    Windows with fewer than a third of such cells do not count. Sides are multiples of 8.
    """
    cells = F.pixel_unshuffle(fine_part(composite), GRID_PX)
    whole = (F.pixel_unshuffle(mask, GRID_PX).amin(1, keepdim=True) > 0).float()
    count = F.avg_pool2d(whole, 8, 4) * 64
    mean = F.avg_pool2d(cells * whole, 8, 4) * 64 / (count + 1e-3)
    energy = F.avg_pool2d(cells.square() * whole, 8, 4).mean(1, keepdim=True) * 64 / (count + 1e-3)
    repeated = mean.square().mean(1, keepdim=True) - energy / (count + 1e-3)
    share = repeated.clamp_min(0) / (energy + (1 / 255) ** 2)
    counts = (count >= 64 / 3).float()
    return (share * counts).sum((1, 2, 3)) / (counts.sum((1, 2, 3)) + 1e-3)


def contrast_gap(composite: torch.Tensor, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return how far the contrast in each photo's hole is from the photo's, in three bands of detail: (B,).

    Contrast is the energy of `fine_part`, of the picture and of it halved and quartered, over windows of 32, 48 and
    64 px that lie in the hole by half or more; how far is the mean of |log(fill's / photo's)|. A critic says whether
    texture could be a photo's. This says how much of it is right where it stands: too little looks like fog, too much
    like a stain on an even surface. Sides are multiples of 4.
    """
    gaps, windows = composite.new_zeros(len(composite)), composite.new_zeros(len(composite))
    for level, window_px in enumerate(CONTRAST_WINDOWS_PX):
        parts = (composite, image, mask)
        fill, photo, hole = (F.avg_pool2d(part, 1 << level) if level else part for part in parts)
        cells = window_px >> level
        share = F.avg_pool2d(hole, cells, cells // 2)
        fills, photos = (
            F.avg_pool2d(fine_part(part).square() * hole, cells, cells // 2) / (share + 1e-3) for part in (fill, photo)
        )
        counted = (share >= 0.5).float()
        gap = ((fills + CONTRAST_FLOOR) / (photos + CONTRAST_FLOOR)).log().abs()
        gaps = gaps + (gap * counted).sum((1, 2, 3)) / (counted.sum((1, 2, 3)) + 1e-3)
        windows = windows + counted.sum((1, 2, 3)).clamp_max(1)
    return gaps / windows.clamp_min(1)


def _over(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, 3, H, W) values over each photo's mask: (B,)."""
    return (values * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)) + 1.0)


def depth(mask: torch.Tensor) -> torch.Tensor:
    """Return which share of each photo's hole is deep: (B,) from 0 for a thin hole to 1."""
    deep = 1 - F.max_pool2d(1 - mask, 2 * DEEP_PX + 1, DEEP_STRIDE_PX, DEEP_PX)
    return (deep.mean((1, 2, 3)) / (mask.mean((1, 2, 3)) + 1e-4)).clamp_max(1.0)


def dissimilarity(
    composite: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, near: torch.Tensor | None = None
) -> torch.Tensor:
    """Return 1 - structural similarity over each photo's hole: (B,).

    Wang et al. 2004, equation 13, with 7x7 windows and channels apart. `near` (`nearness`) is each pixel's weight.
    """
    counted = mask if near is None else mask * near
    x, y = composite.contiguous(), image.contiguous()
    mean_x, square_x, product = F.avg_pool2d(torch.cat([x, x * x, x * y], 1), WINDOW_PX).chunk(3, 1)
    mean_y, square_y = F.avg_pool2d(torch.cat([y, y * y], 1), WINDOW_PX).chunk(2, 1)
    unbiased = WINDOW_PX**2 / (WINDOW_PX**2 - 1)
    spread = unbiased * (square_x - mean_x * mean_x + square_y - mean_y * mean_y)
    together = unbiased * (product - mean_x * mean_y)
    numerator = (2 * mean_x * mean_y + STEADY_MEAN) * (2 * together + STEADY_VARIANCE)
    denominator = (mean_x * mean_x + mean_y * mean_y + STEADY_MEAN) * (spread.clamp_min(0) + STEADY_VARIANCE)
    middles = counted[..., WINDOW_PX // 2 :: WINDOW_PX, WINDOW_PX // 2 :: WINDOW_PX]
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
    """Return the squared distance of unit-length feature vectors over each photo's hole, summed over layers: (B,).

    After arXiv:1801.03924.
    """
    return perceptual_and_style(features, composite, image, mask, with_style=False)[0]


def perceptual_and_style(
    features: SqueezeFeatures, composite: torch.Tensor, image: torch.Tensor, mask: torch.Tensor, *, with_style: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the perceptual distance, and the distance of the features' statistics, summed over layers.

    Statistics are the second moments of a layer's channels over the hole, about the photo's mean there (after
    arXiv:1505.07376): they tell which textures there are, not where. Each layer's distance is a part of both lengths.

    Args:
        features: the network whose features are compared.
        composite: fills put into photos.
        image: the photos.
        mask: the holes.
        with_style: whether the second is wanted; zeros otherwise.

    Returns:
        Two tensors, (B,).
    """
    with torch.no_grad():
        wanted = features(image)
    total, style = composite.new_zeros(len(composite)), composite.new_zeros(len(composite))
    for got, want in zip(features(composite), wanted, strict=True):
        where = F.interpolate(mask, got.shape[-2:], mode="area")
        distance = feature_distance(got, want)
        size = where.sum((1, 2, 3))
        total = total + (distance * where).sum((1, 2, 3)) / (size + 0.1)
        if with_style:
            share = where / (size.view(-1, 1, 1, 1) + 0.1)
            mean = (want.float() * share).sum((2, 3), keepdim=True)
            ours, theirs = _moments(got, mean, share), _moments(want, mean, share)
            lengths = (ours.detach().flatten(1).norm(dim=1) + theirs.flatten(1).norm(dim=1)).clamp_min(1e-3)
            style = style + (ours - theirs).flatten(1).norm(dim=1) / lengths
    return total, style


def _moments(values: torch.Tensor, mean: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Return the (B, C, C) second moments of (B, C, h, w) values about `mean`, weighted by `share`."""
    centred = values.float() - mean
    return (centred * share).flatten(2) @ centred.flatten(2).mT
