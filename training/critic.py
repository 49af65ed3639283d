"""The critic: tells a photo from a fill, cell by cell of 16 px, each with a view of about 110 px around it.

Images are (B, 3, H, W) in [0, 1], masks (B, 1, H, W) with 1 = hole; logits (B, 1, h, w), above 0 for a photo.

Filters are drawn from N(0, 1) and each is divided by its length when it is used (arXiv:1912.04958, arXiv:2312.02696).
A step then changes every filter by the same small part, however wide its layer is. With plain filters one step of Adam
at 1e-4 changed a wide layer's response by a tenth, and the critic never got better than chance. The layers between the
first and the last are stepped by Muon, which learns in a third of Adam's steps here.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F

CELL_PX = 16
STRIDED = 4  # convolutions of stride 2; one of stride 1 and the judgement follow
SLOPE, GAIN = 0.2, 1.4  # of the leaky ReLU; the gain keeps the features' variance from layer to layer
FINE_GAIN = 4.0  # of the fine part of the image, which is small beside the image
Tensors = list[tuple[str, torch.Tensor, bool]]


def critic_tensors(seed: int, base: int = 64) -> Tensors:
    """Return a new critic's weights.

    Args:
        seed: of their random values.
        base: channels of the first layer; later ones have up to six times as many.

    Returns:
        (name, value, whether Muon steps it) for every tensor, those that Muon steps first, as `FlatParameters` takes
        them.
    """
    random = torch.Generator().manual_seed(seed)
    tensors: Tensors = []
    planes = (7, base, 2 * base, 4 * base, 6 * base, 6 * base, 1)
    for layer, (into, out) in enumerate(itertools.pairwise(planes)):
        size = 4 if layer < STRIDED else 3
        value = torch.randn(out, into, size, size, generator=random)
        inner = 0 < layer < len(planes) - 2
        tensors += [(f"critic{layer}", value, inner), (f"critic{layer}.bias", torch.zeros(out), False)]
    return sorted(tensors, key=lambda tensor: not tensor[2])


def critic(
    weights: dict[str, torch.Tensor], image: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Judge images.

    Args:
        weights: tensors by name, as `critic_tensors` names them.
        image: photos, or fills put into photos.
        mask: where they are judged.

    Returns:
        The logits, float32, and the features of each layer, in the weights' dtype.
    """
    dtype = weights["critic0"].dtype
    fine = image - F.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    x = torch.cat([image * 2 - 1, FINE_GAIN * fine, mask], 1).to(dtype).contiguous(memory_format=torch.channels_last)
    features = []
    last = STRIDED + 1
    for layer in range(last):
        x = _filtered(weights, layer, x, stride=2 if layer < STRIDED else 1)
        x = F.leaky_relu(x, SLOPE) * GAIN
        features.append(x)
    return _filtered(weights, last, x, stride=1).float(), features


def _filtered(weights: dict[str, torch.Tensor], layer: int, x: torch.Tensor, *, stride: int) -> torch.Tensor:
    filters = weights[f"critic{layer}"].float()
    filters = filters / (filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-4)
    filters = filters.to(x.dtype).contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, filters, weights[f"critic{layer}.bias"].to(x.dtype), stride=stride, padding=1)


def over_hole(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, 1, h, w) values over the cells of each photo's hole: (B,); 0 for a hole without one."""
    where = hole_cells(values, mask)
    return (values * where).sum((1, 2, 3)) / (where.sum((1, 2, 3)) + 1e-3)


def over_all_holes(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of (B, 1, h, w) values over the cells of all holes, a scalar."""
    where = hole_cells(values, mask)
    return (values * where).sum() / (where.sum() + 1e-3)


def hole_cells(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return which cells of (B, 1, h, w) values lie in the hole by half or more: 1.0 or 0.0.

    A cell that the hole only touches is a photo's for the most part, whoever filled the rest.
    """
    return (F.adaptive_avg_pool2d(mask, (values.shape[2], values.shape[3])) >= 0.5).float()


class CriticView:
    """What the critic sees of a batch: shifted by up to a cell and exposed anew each step, photo and fill alike.

    The critic's strides fall on other pixels each time, so it can't ask for a pattern in their grid, and it sees every
    photo in more ways than there are photos. All tensors keep their places, so that a captured step can be replayed.
    """

    def __init__(self, batch: int, side_px: int, device: torch.device) -> None:
        steps = torch.arange(side_px, device=device)
        self._shifted = torch.stack([(steps - shift).abs() for shift in range(CELL_PX)])
        self._rows, self._columns = steps.clone(), steps.clone()
        self._gain = torch.ones(batch, 1, 1, 1, device=device)
        self._offset = torch.zeros(batch, 3, 1, 1, device=device)

    def change(self, choice: np.random.Generator) -> None:
        """Look in another way from now on."""
        for indices in (self._rows, self._columns):
            indices.copy_(self._shifted[int(choice.integers(CELL_PX))])
        gain = choice.uniform(0.8, 1.2, tuple(self._gain.shape))
        offset = choice.uniform(-0.1, 0.1, tuple(self._offset.shape))
        self._gain.copy_(torch.from_numpy(gain).float(), non_blocking=True)
        self._offset.copy_(torch.from_numpy(offset).float(), non_blocking=True)

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 3, H, W) images, n at most the batch, as this step sees them."""
        count = len(images)
        return self.place((images - 0.5) * self._gain[:count] + 0.5 + self._offset[:count])

    def place(self, maps: torch.Tensor) -> torch.Tensor:
        """Return (n, C, H, W) maps shifted alike, mirrored at the edge."""
        return maps.index_select(2, self._rows).index_select(3, self._columns)
