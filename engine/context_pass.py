"""The broad look: the colours of a large hole from a second prediction, made at a smaller scale with more around it.

At full resolution a network sees little of what surrounds a large hole, and its colours drift towards the middle; on a
photo made smaller it sees more and drifts less, but has no detail. So detail is taken from the one and what varies
slowly from the other: their difference, blurred over the hole at the broad look's scale, is added to the prediction
before that goes into the photo. The rim stays as it is. A crop that takes a broad look runs two forwards, the second of
512 px. Owns which holes take one and how two predictions become one, on the device, without waiting for it; predictions
are made by `filling.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from masks.boxes import Box, box_size, expand_box, slices_inside
from masks.crop_plan import Crop, shrink_crop
from masks.dilation import DilatedMask, largest_inside_px
from tensor_ops.mask_dilation import squared_distance
from tensor_ops.resampling import triangle_weights

CONTEXT_PX = 512  # side of the broad look's input
NO_CONTEXT_PASS_PX = 512  # a crop that runs at this or less sees enough by itself
MARGIN_PART = 1.5  # its context, as a part of the hole box's longer side
LEAST_SCALE = 1.5  # a look that makes the photo smaller by less tells nothing new
LEAST_DEPTH_PX = 16.0  # a hole less deep keeps its colours by itself; in pixels of the broad look, as all that follows
LEAST_SAMPLES = 1.25  # rows and columns of the photo that one of the look's is made from; more of them are left out
SIGMA_PX = 4.0  # what varies slowly: the blur's standard deviation
RIM_PX = 2.0  # so deep the fill stays as it is
RAMP_PX = 8.0  # so much deeper the colours are taken whole
SMALLEST_SHARE = 1e-3  # of a blurred pixel that is hole


def context_crop(crop: Crop, image_size: tuple[int, int]) -> Crop | None:
    """Return the crop of the broad look for a crop of a large hole; None where the hole is not large.

    Args:
        crop: from the plan.
        image_size: (height, width).
    """
    if max(crop.model_size) <= NO_CONTEXT_PASS_PX or not isinstance(crop.hole, DilatedMask):
        return None
    margin_px = math.ceil(MARGIN_PART * max(box_size(crop.patch_box)))
    box = expand_box(crop.patch_box, margin_px, image_size)
    scale = max(box_size(box)) / CONTEXT_PX
    asked_for = crop.hole.dilation_map[slices_inside(crop.patch_box, crop.hole.box)] > 0
    if scale < LEAST_SCALE or largest_inside_px(asked_for) < LEAST_DEPTH_PX * scale:
        return None
    step = max(1, min(int(scale / LEAST_SAMPLES), *box_size(box)))  # of a box a few pixels high one row is left
    return replace(shrink_crop(replace(crop, box=box), CONTEXT_PX), sample_step=step)


def transfer_low_frequencies(prediction: Tensor, crop: Crop, seen: Tensor, look: Crop) -> Tensor:
    """Return a prediction with the slowly varying colours of its broad look.

    Args:
        prediction: (3, model height, model width) float32 in [0, 1]; not modified.
        crop: what was predicted, scaled or not.
        seen: (4, model height, model width) float32 on the same device, the look's prediction and, from its input, what
            is missing; not modified.
        look: its crop, of the same patch box.

    Returns:
        A new prediction: the old one outside the patch box, outside the dilated hole and on its rim. Elsewhere values
        may lie a little outside [0, 1]. Where one of the two is not finite, neither is all of it.
    """
    rows, columns = (_Span.of(crop, look, axis) for axis in (0, 1))
    fine = prediction[:, rows.fine_slice, columns.fine_slice]
    down, across = rows.to_broad(fine.device), columns.to_broad(fine.device)
    there = seen[:, rows.broad_slice, columns.broad_slice]
    missing = there[3:]  # (1, height, width), on the look's grid, as is what follows
    difference = there[:3] - down @ fine @ across.T
    weighted = torch.cat([difference * missing, missing])
    blurred = _blur(len(rows.broad), fine.device) @ weighted @ _blur(len(columns.broad), fine.device)
    slow = blurred[:3] / blurred[3:].clamp_min(SMALLEST_SHARE) * _ramp(missing[0])
    shifted = prediction.clone()
    shifted[:, rows.fine_slice, columns.fine_slice] += rows.to_fine(fine.device) @ slow @ columns.to_fine(fine.device).T
    return shifted


@dataclass(frozen=True)
class _Span:
    """The patch along one axis, on the grids of the crop and of its broad look.

    Attributes:
        fine: rows (or columns) of the crop's prediction that lie on the patch.
        broad: those of the look's.
        fine_begin: where the crop's box begins, in image pixels.
        fine_step: how many image pixels one of the prediction's rows is.
        broad_begin: the same of the look.
        broad_step: the same of the look.
    """

    fine: range
    broad: range
    fine_begin: int
    fine_step: float
    broad_begin: int
    broad_step: float

    @classmethod
    def of(cls, crop: Crop, look: Crop, axis: int) -> _Span:
        """The span of a crop and its look along rows (0) or columns (1)."""
        fine, fine_begin, fine_step = _grid(crop, axis)
        broad, broad_begin, broad_step = _grid(look, axis)
        return cls(fine, broad, fine_begin, fine_step, broad_begin, broad_step)

    @property
    def fine_slice(self) -> slice:
        return slice(self.fine.start, self.fine.stop)

    @property
    def broad_slice(self) -> slice:
        return slice(self.broad.start, self.broad.stop)

    def to_broad(self, device: torch.device) -> Tensor:
        """(broad rows, fine rows) float32: makes the look's rows from the prediction's."""
        first, step = (self.broad_begin - self.fine_begin) / self.fine_step, self.broad_step / self.fine_step
        return triangle_weights(self.broad, self.fine, first=first, step=step, device=device)

    def to_fine(self, device: torch.device) -> Tensor:
        """(fine rows, broad rows) float32: makes the prediction's rows from the look's."""
        first, step = (self.fine_begin - self.broad_begin) / self.broad_step, self.fine_step / self.broad_step
        return triangle_weights(self.fine, self.broad, first=first, step=step, device=device)


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
    """(height, width) float32: 0 at the rim of what is missing in the patch, 1 where its colours are taken whole."""
    # Outside the patch there is nothing to fade into: beyond its edge counts as known.
    known = F.pad(missing, (1, 1, 1, 1)) < 0.5
    depth = squared_distance(known, math.ceil(RIM_PX + RAMP_PX)).sqrt_()[1:-1, 1:-1]
    return ((depth - RIM_PX) / RAMP_PX).clamp_(0, 1)
