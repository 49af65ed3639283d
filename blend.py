"""The fill's colour at the rim: what the prediction gets wrong just outside the hole, taken back inside it.

The network also predicts the known pixels it was given. Where its prediction of the ring around the hole differs from
the photo, it is as far off just inside: the difference is carried into the hole by a membrane (a pyramid that averages
the ring down and fills back up, after Gortler et al., "The Lumigraph", 1996, section 3.4) and subtracted there, so that
the fill meets the photo without a step. Works on the model's input and output, (B, C, H, W) float32 on the device.
Knows no photos, crops or masks of the photo's size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

COARSEST_PX = 2  # shorter side of the pyramid's top
SMALLEST_WEIGHT = 1e-6
WINDOW_STEP_PX = 32  # of what is looked at on a CPU


def match_rim(prediction: Tensor, model_input: Tensor) -> Tensor:
    """Return the prediction with its missing pixels shifted so that they meet the known ring without a step.

    Args:
        prediction: (B, 3, H, W) float32 in [0, 1]; not modified.
        model_input: (B, 4, H, W) float32, what it was predicted from: RGB with the hole zeroed, then the mask, which is
            1 where a pixel is missing; not modified.

    Returns:
        (B, 3, H, W) float32 in [0, 1]. Known pixels are the prediction's, and all are where it equals the photo on the
        ring or where there is no ring because everything is missing.
    """
    if prediction.device.type != "cpu":
        return _match(prediction, model_input)
    matched = prediction.clone()
    for index in range(len(prediction)):  # each in its own window, so that a batch gives what one by one does
        rows, columns = _window(model_input[index, 3])
        place = (slice(index, index + 1), slice(None), rows, columns)
        matched[place] = _match(prediction[place], model_input[place])
    return matched


def _match(prediction: Tensor, model_input: Tensor) -> Tensor:
    rgb, missing = model_input[:, :3], model_input[:, 3:]
    ring = F.max_pool2d(missing, 3, stride=1, padding=1) - missing  # (B, 1, H, W): known pixels that touch the hole
    difference = spread(torch.cat([(rgb - prediction) * ring, ring], dim=1))
    return torch.addcmul(prediction, difference, missing).clamp_(0, 1)


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
    total = weighted.sum(dim=(2, 3), keepdim=True)
    values = total[:, :-1] / (total[:, -1:] + SMALLEST_WEIGHT)  # (B, C, 1, 1)
    for level in reversed(levels):
        below = F.interpolate(values, size=level.shape[2:], mode="bilinear", align_corners=False)
        values = level[:, :-1] + torch.addcmul(below, below, level[:, -1:], value=-1)
    return values


def _window(missing: Tensor) -> tuple[slice, slice]:
    """Rows and columns that hold every missing pixel of (H, W) and the ring; a GPU would have to wait for them.

    They begin and end at multiples of 32, so that the pyramid's squares lie where those of the whole image do.
    """
    spans = []
    for axis in (1, 0):
        where = missing.amax(dim=axis).nonzero()
        first, last = (int(where[0]), int(where[-1])) if len(where) else (0, 0)
        spans.append(slice(max(0, first - 1) // WINDOW_STEP_PX * WINDOW_STEP_PX, _round_up(last + 2)))
    return spans[0], spans[1]


def _round_up(length: int) -> int:
    return -(-length // WINDOW_STEP_PX) * WINDOW_STEP_PX
