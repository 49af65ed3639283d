"""Own the four figures of merit of a repair, and the intervals around their differences.

Data contract: images are (H, W, 3) uint8 RGB, holes (H, W) bool, both of one size and not modified. *scored* is the
region a figure is taken over: the hole itself, or the dilated hole where the overlay's rim is to be judged too.

    psnr        dB over the scored pixels, higher is better
    ssim        structural similarity (Wang et al. 2004; 7x7 uniform window), channel mean over the scored pixels,
                higher is better
    perceptual  distance on SqueezeNet features, restricted to the scored region, lower is better (`PerceptualDistance`)
    seam        gradient mismatch along the rim in grey levels, lower is better (`seam_error`)

Knows nothing of protocols, peers or files other than the feature weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

PSNR_CEILING_DB = 100.0
SSIM_WINDOW_PX = 7
# One stage per scale plus the one between: strides 2, 4, 8, 8 and 16 px.
FEATURE_STAGES = ("conv1", "fire3", "fire5", "fire7", "fire9")
POOL_BEFORE = ("fire2", "fire5", "fire9")
SMALLEST_SIDE_PX = 48  # SqueezeNet needs 35 pixels to have a feature at stride 16
FEATURE_MEAN_BGR = (104.0, 117.0, 123.0)


@dataclass(frozen=True)
class Figures:
    """The figures of one repair.

    `perceptual` is NaN when no feature weights were given; the last three, of `quality_texture`, with no large hole.
    """

    psnr: float
    ssim: float
    perceptual: float
    seam: float
    texture: float = float("nan")
    periodic: float = float("nan")
    photo_periodic: float = float("nan")


FIGURE_NAMES = ("psnr", "ssim", "perceptual", "seam")
HIGHER_IS_BETTER = {"psnr": True, "ssim": True, "perceptual": False, "seam": False}


def hole_psnr(result: np.ndarray, original: np.ndarray, scored: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio over the scored pixels in dB, at most 100."""
    difference = result[scored].astype(np.float64) - original[scored]
    mean_square = float(np.mean(difference**2))
    if mean_square == 0.0:
        return PSNR_CEILING_DB
    return min(PSNR_CEILING_DB, 10.0 * float(np.log10(255.0**2 / mean_square)))


def hole_ssim(result: np.ndarray, original: np.ndarray, scored: np.ndarray) -> float:
    """Return the structural similarity, averaged over channels and scored pixels.

    The same numbers as `skimage.metrics.structural_similarity(..., channel_axis=2, full=True)`, an order of magnitude
    faster: the map is computed inside the scored region's bounds only, dilated by the window so that no value changes.
    """
    top, bottom, left, right = _dilated_bounds(scored, SSIM_WINDOW_PX)
    x = result[top:bottom, left:right].astype(np.float64)
    y = original[top:bottom, left:right].astype(np.float64)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (SSIM_WINDOW_PX, SSIM_WINDOW_PX), borderType=cv2.BORDER_REFLECT)

    samples = SSIM_WINDOW_PX**2
    unbiased = samples / (samples - 1)
    mean_x, mean_y = mean(x), mean(y)
    variance_x = unbiased * (mean(x * x) - mean_x**2)
    variance_y = unbiased * (mean(y * y) - mean_y**2)
    covariance = unbiased * (mean(x * y) - mean_x * mean_y)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    )
    return float(similarity[scored[top:bottom, left:right]].mean())


def seam_error(result: np.ndarray, original: np.ndarray, hole: np.ndarray, scored: np.ndarray | None = None) -> float:
    """Return the mean gradient mismatch along the rim in grey levels.

    The gradient is the difference of two neighbouring pixels (right and below), taken in the result and in the
    original; their absolute difference is averaged over channels and over the pairs on the rim. A pair is on the rim
    when it crosses the hole's border, or, where `scored` is larger than the hole, touches the ring between the two: a
    seam or a ghost of a method that grew the hole lies there. 0 for a result equal to the original.
    """
    ring = np.zeros_like(hole) if scored is None else scored & ~hole
    total, count = 0.0, 0
    for axis in (0, 1):
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        on_rim = (hole[first] != hole[second]) | ring[first] | ring[second]
        y, x = np.nonzero(on_rim)
        y_next, x_next = (y + 1, x) if axis == 0 else (y, x + 1)
        step_result = result[y_next, x_next].astype(np.int32) - result[y, x]
        step_original = original[y_next, x_next].astype(np.int32) - original[y, x]
        total += float(np.abs(step_result - step_original).sum())
        count += 3 * len(y)
    return total / count if count else 0.0


class PerceptualDistance:
    """Distance between two images on the features of an ImageNet SqueezeNet 1.0, restricted to a region.

    After LPIPS (Zhang et al. 2018, equation 1) without its learned channel weights. The image (BGR, 0 to 255, minus
    the Caffe mean) runs through the network once, whole; after each of the five stages conv1, fire3, fire5, fire7 and
    fire9 (past their ReLU) the feature vector of every position is scaled to unit length, and d(y, x) is the squared
    Euclidean distance between the two images' vectors there (0 to 2, as features are not negative). A stage's distance
    is the mean of d weighted by the share of each feature cell that the region covers (area average of the mask at the
    stage's size); the result is the mean over the five stages. 0 for equal images.
    """

    def __init__(self, features_file: Path, *, device: str = "cpu") -> None:
        state = torch.load(features_file, map_location=device, weights_only=True)
        self._weights: dict[str, torch.Tensor] = {name: value.float() for name, value in state.items()}
        self._mean = torch.tensor(FEATURE_MEAN_BGR, device=device).view(1, 3, 1, 1)
        self._device = device

    @torch.inference_mode()
    def features(self, image: np.ndarray) -> list[torch.Tensor]:
        """Return the unit-length features of one image: five tensors (1, C, h, w)."""
        bgr = torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1])).to(self._device)
        x = bgr.permute(2, 0, 1)[None].float() - self._mean
        # Smaller images are repeated at the border.
        pad = (0, max(0, SMALLEST_SIDE_PX - x.shape[3]), 0, max(0, SMALLEST_SIDE_PX - x.shape[2]))
        x = F.pad(x, pad, mode="replicate")
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # or the figures would depend on the card
            return self._stages(x if x.is_cuda else x.contiguous(memory_format=torch.channels_last))

    def _stages(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = F.conv2d(x, self._weights["conv1.weight"], self._weights["conv1.bias"], stride=2).relu_()
        stages = [_unit_length(x)]
        for number in range(2, 10):
            name = f"fire{number}"
            if name in POOL_BEFORE:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            x = self._fire(x, name)
            if name in FEATURE_STAGES:
                stages.append(_unit_length(x))
        return stages

    @torch.inference_mode()
    def distance(self, result: np.ndarray, reference: Sequence[torch.Tensor], scored: np.ndarray) -> float:
        """Return the distance of an image to the features of the original (from `features`) over the scored region."""
        padding = [(0, max(0, SMALLEST_SIDE_PX - side)) for side in scored.shape]
        region = np.pad(scored, padding)
        distances = []
        for ours, theirs in zip(self.features(result), reference, strict=True):
            weight = torch.from_numpy(covered_share(region, (ours.shape[2], ours.shape[3]))).to(self._device)
            # In place, as these features are nobody else's: at 96 x 253 x 253 a temporary costs as much as the sum.
            squared = torch.linalg.vector_norm(ours.sub_(theirs), dim=1, keepdim=True).square()
            distances.append(float((squared[0, 0] * weight).sum() / weight.sum()))
        return float(np.mean(distances))

    def _fire(self, x: torch.Tensor, name: str) -> torch.Tensor:
        w = self._weights
        squeezed = F.conv2d(x, w[f"{name}.a.weight"], w[f"{name}.a.bias"]).relu_()
        expanded_1x1 = F.conv2d(squeezed, w[f"{name}.b.weight"], w[f"{name}.b.bias"])
        expanded_3x3 = F.conv2d(squeezed, w[f"{name}.c.weight"], w[f"{name}.c.bias"], padding=1)
        return torch.cat([expanded_1x1, expanded_3x3], 1).relu_()


def covered_share(region: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the share of every cell of a (height, width) grid that a (H, W) bool region covers, float32.

    The cells are those of adaptive average pooling: a cell that begins or ends inside a pixel has the whole pixel.
    """
    total = cv2.integral(region.astype(np.uint8))
    (top, bottom), (left, right) = (
        (np.arange(cells) * pixels // cells, -(-(np.arange(cells) + 1) * pixels // cells))
        for pixels, cells in zip(region.shape, size, strict=True)
    )
    inside = total[bottom][:, right] - total[top][:, right] - total[bottom][:, left] + total[top][:, left]
    return (inside / np.outer(bottom - top, right - left)).astype(np.float32)


def paired_bootstrap(
    ours: Sequence[float] | np.ndarray, peer: Sequence[float] | np.ndarray, *, resamples: int = 4000, seed: int = 0
) -> tuple[float, float, float]:
    """Return (mean difference ours - peer, lower, upper) with the 95 % percentile interval over resampled photos.

    The two sequences hold the same photos in the same order; a resample draws photos with replacement and keeps the
    pairs together (Efron and Tibshirani 1993, chapter 13). Deterministic.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(peer, np.float64)
    draws = np.random.default_rng(seed).integers(0, len(difference), (resamples, len(difference)))
    low, high = np.percentile(difference[draws].mean(1), (2.5, 97.5))
    return float(difference.mean()), float(low), float(high)


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    return features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min_(1e-8)


def _dilated_bounds(region: np.ndarray, margin_px: int) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    height, width = region.shape
    return (
        max(0, int(rows[0]) - margin_px),
        min(height, int(rows[-1]) + 1 + margin_px),
        max(0, int(columns[0]) - margin_px),
        min(width, int(columns[-1]) + 1 + margin_px),
    )
