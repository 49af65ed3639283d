"""Which photos of a batch the perceptual term looks at, and on which grid, in tensors that a captured step reads.

Photos come with the deepest holes first. There the term decides, so all of the first share are looked at, of the others
every n-th for its neighbours too. Each step looks at them shifted by a few pixels: the strides of features and network
fall on the same pixels otherwise, and what the features' gradient has of a pattern in that grid becomes a mesh in the
fills.
"""

from __future__ import annotations

import numpy as np
import torch

GRID_PX = 8  # the coarsest stride that the network and the features' early stages share


class Looks:
    """The choice for one stage; all tensors keep their places, so that a captured step can be replayed.

    `times` is (n,) float32: how often each of the chosen photos counts; their mean over the batch is 1.

    Args:
        batch: photos in a step.
        side_px: side of a crop.
        share: of the batch, from its start, whose photos always count.
        every: of the rest, one in so many counts, for all of them.
        device: where the tensors lie.
    """

    def __init__(self, batch: int, side_px: int, *, share: float, every: int, device: torch.device) -> None:
        first = round(batch * share)
        rest = range(first, batch, every)
        times = torch.ones(first + len(rest))
        times[first:] = (batch - first) / max(1, len(rest))
        self.times = (times * len(times) / batch).to(device)
        self._some = torch.tensor([*range(first), *rest], device=device)
        steps = torch.arange(side_px, device=device)
        self._shifted = torch.stack([(steps - shift).abs() for shift in range(GRID_PX)])
        self._rows, self._columns = steps.clone(), steps.clone()

    def shift(self, choice: np.random.Generator) -> None:
        """Look at another grid from now on."""
        for indices in (self._rows, self._columns):
            indices.copy_(self._shifted[int(choice.integers(GRID_PX))])

    def pick(self, values: torch.Tensor) -> torch.Tensor:
        """Return the chosen photos' part of (B, …) values."""
        return values.index_select(0, self._some)

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """Return the chosen ones of (B, C, H, W) images as this step sees them, mirrored at the edge."""
        return self.pick(images).index_select(2, self._rows).index_select(3, self._columns)
