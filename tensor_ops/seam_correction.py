"""Seam correction: measure the error on the known ring, spread it smoothly into the hole, subtract it.

The network also predicts the known pixels it was given. Where its prediction of the ring around the hole differs from
the photo, it is off by as much just inside. A pyramid averages the differences on the ring down and fills them back up
(after Gortler et al., "The Lumigraph", 1996, section 3.4), and they are subtracted, so that the fill meets the photo
without a step. Then the outermost missing pixels move onto a thin plate through their neighbours, known pixels on one
side and filled ones on the other, so that no edge is left: no linear estimate from 7x7 pixels that was fitted to photos
is better. Works on the model's input and output, (B, C, H, W) float32 on the device. Knows no photos, crops or masks of
the photo's size.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tensor_ops.kernels import seam_kernels

COARSEST_PX = 2  # shorter side of the pyramid's top
SMALLEST_WEIGHT = 1e-6
WINDOW_STEP_PX = 32  # of what is looked at on a CPU
PLATE_REACH_PX = 2
# The biharmonic equation's stencil, divided by its middle: how far a pixel is from the plate through its neighbours.
PLATE = (
    (0, 0, 1 / 20, 0, 0),
    (0, 2 / 20, -8 / 20, 2 / 20, 0),
    (1 / 20, -8 / 20, 1, -8 / 20, 1 / 20),
    (0, 2 / 20, -8 / 20, 2 / 20, 0),
    (0, 0, 1 / 20, 0, 0),
)


def correct_seam(prediction: Tensor, model_input: Tensor) -> Tensor:
    """Return the prediction with its missing pixels shifted so that they meet the known ring without a step or edge.

    Args:
        prediction: (B, 3, H, W) float32 in [0, 1]; not modified.
        model_input: (B, 4, H, W) float32, what it was predicted from: RGB with the hole zeroed, then the mask, which is
            1 where a pixel is missing; not modified.

    Returns:
        (B, 3, H, W) float32 in [0, 1]. Known pixels are the prediction's, and all are where there is no ring because
        everything is missing. Where the prediction equals the photo on the ring, only the outermost missing pixels
        differ from it.
    """
    if prediction.device.type != "cpu":
        kernels = seam_kernels(prediction.device)
        if kernels is not None:
            return kernels.correct_and_smooth(prediction, model_input)
        return smooth_seam(_match(prediction, model_input), model_input)
    matched = prediction.clone()
    for index in range(len(prediction)):  # each in its own window, so that a batch gives what one by one does
        rows, columns = _window(model_input[index, 3])
        place = (slice(index, index + 1), slice(None), rows, columns)
        matched[place] = _smooth_few(_match(prediction[place], model_input[place]), model_input[place])
    return matched


def _match(prediction: Tensor, model_input: Tensor) -> Tensor:
    rgb, missing = model_input[:, :3], model_input[:, 3:]
    ring = F.max_pool2d(missing, 3, stride=1, padding=1) - missing  # (B, 1, H, W): known pixels that touch the hole
    difference = spread(torch.cat([(rgb - prediction) * ring, ring], dim=1))  # (B, 3, H, W), smooth
    return torch.addcmul(prediction, difference, missing).clamp_(0, 1)


def smooth_seam(fill: Tensor, model_input: Tensor) -> Tensor:
    """Move the missing pixels that touch a known one onto a thin plate through their neighbours.

    One Jacobi step of the biharmonic equation, with the photo outside the hole and the fill inside it.

    Args:
        fill: (B, 3, H, W) float32 in [0, 1]; not modified.
        model_input: as in `correct_seam`.

    Returns:
        (B, 3, H, W) float32, the smoothed fill.
    """
    rgb, missing = model_input[:, :3], model_input[:, 3:]
    outermost = F.max_pool2d(1 - missing, 3, stride=1, padding=1) * missing  # (B, 1, H, W): missing, touch a known one
    # Replicated, because beyond the crop's edge there is no photo here, and zeros would be an edge to smooth.
    mixed = F.pad(torch.addcmul(rgb, fill, missing), (PLATE_REACH_PX,) * 4, mode="replicate")
    from_plate = F.conv2d(mixed, _plate(fill.device), groups=3)
    return torch.addcmul(fill, from_plate, outermost, value=-1).clamp_(0, 1)


def _smooth_few(fill: Tensor, model_input: Tensor) -> Tensor:
    """What `smooth_seam` gives of one image on a CPU, where a stencil over all of it takes half the seam's time.

    A GPU would have to wait to be told which pixels touch a known one. The fill is overwritten with the result.
    """
    rgb, missing = model_input[0, :3], model_input[0, 3]
    height, width = missing.shape
    is_missing = missing.numpy() > 0
    # For `cv2.erode`, as for a pooling, what lies beyond the edge is nothing.
    is_deep = cv2.erode(is_missing.view(np.uint8), np.ones((3, 3), np.uint8))
    y, x = (torch.from_numpy(places) for places in np.nonzero(is_missing & (is_deep == 0)))
    off = torch.zeros((3, len(y)))
    for row, weights in enumerate(PLATE, -PLATE_REACH_PX):
        for column, weight in enumerate(weights, -PLATE_REACH_PX):
            if weight:
                near_y, near_x = (y + row).clamp_(0, height - 1), (x + column).clamp_(0, width - 1)
                off += weight * (rgb[:, near_y, near_x] + fill[0, :, near_y, near_x] * missing[near_y, near_x])
    fill[0, :, y, x] = (fill[0, :, y, x] - off).clamp_(0, 1)
    return fill


@lru_cache(maxsize=8)
def _plate(device: torch.device) -> Tensor:
    """PLATE for three channels, (3, 1, 5, 5); kept, as a graph that is being captured can't have it copied."""
    return torch.tensor(PLATE, device=device).repeat(3, 1, 1, 1)


def spread(weighted: Tensor) -> Tensor:
    """Return values everywhere that are smooth and equal the given ones where their weight is 1.

    Args:
        weighted: (B, C + 1, H, W) float32, C channels multiplied by their weight, then the weight in [0, 1].

    Returns:
        (B, C, H, W) float32; zero when no pixel has a weight.
    """
    levels = []
    while min(weighted.shape[2:]) > COARSEST_PX:
        levels.append(weighted)
        weighted = F.avg_pool2d(weighted, 2, ceil_mode=True, count_include_pad=False)
        # A ring is a line, of which each level has half as much: it keeps its weight on the way down.
        weighted = weighted * weighted[:, -1:].reciprocal().clamp_(max=2)
    levels.append(weighted)
    total = weighted.sum(dim=(2, 3), keepdim=True)  # (B, C + 1, 1, 1)
    values = total[:, :-1] / (total[:, -1:] + SMALLEST_WEIGHT)  # (B, C, 1, 1)
    for level in reversed(levels):
        # Where a level knows little, what the coarser one says counts for the rest.
        below = F.interpolate(values, size=level.shape[2:], mode="bilinear", align_corners=False)
        values = level[:, :-1] + torch.addcmul(below, below, level[:, -1:], value=-1)
    return values


def _window(missing: Tensor) -> tuple[slice, slice]:
    """Rows and columns that hold every missing pixel of (H, W) and what is read around it.

    A GPU would have to wait for them, and does without. They begin and end at multiples of 32, so that the pyramid's
    squares lie where those of the whole image do.
    """
    spans = []
    for axis in (1, 0):
        where = missing.amax(dim=axis).nonzero()
        first, last = (int(where[0]), int(where[-1])) if len(where) else (0, 0)
        low, high = max(0, first - PLATE_REACH_PX), last + 1 + PLATE_REACH_PX
        spans.append(slice(low // WINDOW_STEP_PX * WINDOW_STEP_PX, _round_up(high)))
    return spans[0], spans[1]


def _round_up(length: int) -> int:
    return -(-length // WINDOW_STEP_PX) * WINDOW_STEP_PX
