"""Context pass: a second, low-resolution prediction with more surroundings, which gives a large hole its colours.

At full resolution the network sees little of what surrounds a large hole, and the fill's colours drift towards the
middle. On a downscaled photo it sees more and drifts less, but has no detail. So the low frequencies of the second
prediction replace those of the first: their difference, blurred over the hole at the context's scale, is added to the
first. Owns which crops need a context (512 px, one more forward each) and the transfer, which runs on the device and
does not wait for it. `executor.py` makes the predictions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from masks.boxes import Box, box_size, expand_box
from masks.crop_plan import CONTEXT_MARGIN_PART, NO_CONTEXT_PASS_PX, Crop, shrink_crop
from masks.dilation import DilatedMask
from tensor_ops.mask_dilation import squared_distance
from tensor_ops.resampling import resize_rows, triangle_weights

CONTEXT_PX = 512  # side of the context pass's input
LEAST_SCALE = 1.5  # a context downscaled by less shows nothing new
# In pixels of the context, as all that follow.
LEAST_DEPTH_PX = 16.0  # a shallower hole keeps its colours by itself
LEAST_SAMPLES = 1.25  # at least so many of the photo's rows and columns are averaged into one; the rest are skipped
SIGMA_PX = 4.0  # standard deviation of the blur that leaves the low frequencies
SEAM_PX = 2.0  # the fill stays unchanged up to this depth
RAMP_PX = 8.0  # over this much more depth the change rises to the whole
SMALLEST_SHARE = 1e-3  # of a blurred pixel that is hole


def plan_context(crop: Crop, image_size: tuple[int, int]) -> Crop | None:
    """Plan the context pass of a crop.

    Args:
        crop: from the plan.
        image_size: (height, width).

    Returns:
        the crop of the context pass, or None where the hole is not large.
    """
    if max(crop.model_size) <= NO_CONTEXT_PASS_PX or not isinstance(crop.hole, DilatedMask):
        return None
    margin_px = math.ceil(CONTEXT_MARGIN_PART * max(box_size(crop.patch_box)))
    box = expand_box(crop.patch_box, margin_px, image_size)
    scale = max(box_size(box)) / CONTEXT_PX
    if scale < LEAST_SCALE or crop.hole.depth_px(crop.patch_box) < LEAST_DEPTH_PX * scale:
        return None
    step = max(1, min(int(scale / LEAST_SAMPLES), *box_size(box)))  # of a box a few pixels high one row is left
    return replace(shrink_crop(replace(crop, box=box), CONTEXT_PX), sample_step=step)


def transfer_low_frequencies(prediction: Tensor, crop: Crop, context: Tensor, context_crop: Crop) -> Tensor:
    """Return a prediction with the low frequencies of its context.

    Args:
        prediction: (3, model height, model width) float32 in [0, 1]; not modified.
        crop: what was predicted, scaled or not.
        context: (4, model height, model width) float32 on the same device, the context pass's prediction, then the mask
            from its input; not modified.
        context_crop: its crop, of the same patch box.

    Returns:
        A new prediction: the old one outside the patch box, outside the dilated hole and on its edge. Elsewhere values
        may lie a little outside [0, 1]. If one of the two has a value that is not finite, so has the result.
    """
    rows, columns = (_Span.of(crop, context_crop, axis) for axis in (0, 1))
    fine = prediction[:, rows.fine_slice, columns.fine_slice]  # (3, fine rows, fine columns), the patch
    down, across = rows.to_context(fine.device), columns.to_context(fine.device)
    low = context[:, rows.context_slice, columns.context_slice]
    missing = low[3:]  # (1, height, width), on the context grid, as is what follows
    difference = low[:3] - _resize(fine, down, across)
    # The blur must not mix in what the two predict of known pixels, so these have weight 0, and the sum of weights is
    # blurred with the rest, to be divided by.
    weighted = torch.cat([difference * missing, missing])
    blurred = _blur(len(rows.context), fine.device) @ weighted @ _blur(len(columns.context), fine.device)
    slow = blurred[:3] / blurred[3:].clamp_min(SMALLEST_SHARE) * _ramp(missing[0])  # (3, context rows, context columns)
    shifted = prediction.clone()
    up = rows.to_fine(fine.device), columns.to_fine(fine.device)
    shifted[:, rows.fine_slice, columns.fine_slice] += _resize(slow, *up)
    return shifted


def _resize(x: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(C, height, width) resized by the weights of its rows, then of its columns."""
    if x.is_cuda:
        return down @ x @ across.T
    return resize_rows(across, resize_rows(down, x).mT).mT


@dataclass(frozen=True)
class _Span:
    """The patch along one axis, on the grids of the crop and of its context.

    Attributes:
        fine: rows (or columns) of the crop's prediction that lie on the patch.
        context: those of the context.
        fine_begin: where the crop's box begins, in image pixels.
        fine_step: how many image pixels one of the prediction's rows is.
        context_begin: the same of the context_crop.
        context_step: the same of the context_crop.
    """

    fine: range
    context: range
    fine_begin: int
    fine_step: float
    context_begin: int
    context_step: float

    @classmethod
    def of(cls, crop: Crop, context_crop: Crop, axis: int) -> _Span:
        """Return the span of a crop and its context along rows (0) or columns (1)."""
        fine, fine_begin, fine_step = _grid(crop, axis)
        context, context_begin, context_step = _grid(context_crop, axis)
        return cls(fine, context, fine_begin, fine_step, context_begin, context_step)

    @property
    def fine_slice(self) -> slice:
        return slice(self.fine.start, self.fine.stop)

    @property
    def context_slice(self) -> slice:
        return slice(self.context.start, self.context.stop)

    def to_context(self, device: torch.device) -> Tensor:
        """(context rows, fine rows) float32: makes the context rows from the prediction's."""
        first, step = (self.context_begin - self.fine_begin) / self.fine_step, self.context_step / self.fine_step
        return triangle_weights(self.context, self.fine, first=first, step=step, device=device)

    def to_fine(self, device: torch.device) -> Tensor:
        """(fine rows, context rows) float32: makes the prediction's rows from the context."""
        first, step = (self.fine_begin - self.context_begin) / self.context_step, self.fine_step / self.context_step
        return triangle_weights(self.fine, self.context, first=first, step=step, device=device)


def _grid(crop: Crop, axis: int) -> tuple[range, int, float]:
    """Rows (axis 0) or columns of a crop's prediction on its patch, where its box begins, and image pixels per row."""
    begin, end = _edges(crop.box, axis)
    step = (end - begin) / crop.scaled_size[axis]
    low, high = ((edge - begin) / step for edge in _edges(crop.patch_box, axis))
    return range(math.floor(low), min(math.ceil(high), crop.scaled_size[axis])), begin, step


def _edges(box: Box, axis: int) -> tuple[int, int]:
    return box[1 - axis], box[3 - axis]


def _blur(length: int, device: torch.device) -> Tensor:
    """(length, length) float32, symmetric: a Gaussian, with zeros around what it blurs."""
    places = torch.arange(length, device=device, dtype=torch.float32) / SIGMA_PX
    return torch.exp((places - places[:, None]).square_() / -2) / (SIGMA_PX * math.sqrt(2 * math.pi))


def _ramp(missing: Tensor) -> Tensor:
    """(height, width) float32: 0 at the edge of what is missing in the patch, 1 deep inside."""
    # Outside the patch there is nothing to fade into: beyond its edge counts as known.
    known = F.pad(missing, (1, 1, 1, 1)) < 0.5
    depth = squared_distance(known, math.ceil(SEAM_PX + RAMP_PX)).sqrt_()[1:-1, 1:-1]
    return ((depth - SEAM_PX) / RAMP_PX).clamp_(0, 1)
