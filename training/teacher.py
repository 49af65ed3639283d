"""What a teacher shows: the fill of frozen weights, with more contrast where it has detail and less of a mesh.

Weights between an accurate and a crisp network know more than either and are dull, and a filter brings the contrast
back for less perceptual distance than training does (training/LOG.md, run 18). The student learns weights and filter
as one network, so that a repair takes no longer. Images are (B, 3, H, W) in [0, 1], masks (B, 1, H, W) with 1 = hole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from training.looks import GRID_PX
from training.losses import fine_part
from training.network import FrozenNetwork

CELLS_SIGMA = 2.0  # of the Gaussian over cells of 8 px by which the mesh is found
LEAST_CELL_SHARE = 0.02
MESH_RIM_PX = 5  # over which the mesh's removal rises from the hole's rim inwards
LEAST_AMPLITUDE = 1e-3
LEAST_CHANGE, LARGEST_CHANGE = -0.6, 1.5  # of the detail that is added


@dataclass(frozen=True)
class Showing:
    """How a teacher's fill is changed before it is shown.

    Attributes:
        gain: of the detail where it is as strong as in the hole as a whole.
        expansion: exponent by which stronger detail gets more of it and fainter less.
        sigma_px: of the Gaussian within which its strength is measured.
        mesh: the share of what repeats every 8 px that is taken away.
    """

    gain: float = 1.13
    expansion: float = 0.3
    sigma_px: float = 8.0
    mesh: float = 0.4


class Teacher:
    """Shows how holes shall be filled.

    Args:
        network: whose fills are changed.
        showing: how.
    """

    def __init__(self, network: FrozenNetwork, showing: Showing) -> None:
        self._network, self._showing = network, showing

    @torch.no_grad()
    def show(self, image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Return photos with their holes filled as a student shall fill them, (B, 3, H, W); sides multiples of 8."""
        filled = self._network.fill(image, mask).contiguous()
        filled = filled - self._showing.mesh * mesh_of(filled, mask)
        return (filled + expanded(filled, mask, self._showing)).clamp(0, 1)


def mesh_of(filled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return what of each channel's detail repeats every 8 px in the hole, as far as neighbouring cells of 8 px agree.

    (B, 3, H, W), 0 outside and rising over the first pixels of the hole.
    """
    fine = torch.cat([fine_part(channel) for channel in filled.split(1, 1)], 1)
    cells = F.pixel_unshuffle(fine * mask, GRID_PX)
    inside = F.pixel_unshuffle(mask, GRID_PX).repeat(1, filled.shape[1], 1, 1)
    mean = gaussian(cells, CELLS_SIGMA) / gaussian(inside, CELLS_SIGMA).clamp_min(LEAST_CELL_SHARE)
    rise = torch.stack([1 - F.max_pool2d(1 - mask, 2 * px + 1, 1, px) for px in range(1, MESH_RIM_PX)]).mean(0)
    return F.pixel_shuffle(mean, GRID_PX) * rise


def expanded(filled: torch.Tensor, mask: torch.Tensor, showing: Showing) -> torch.Tensor:
    """Return the grey detail, (B, 1, H, W), that a fill is to be given beside what it has; 0 outside the hole."""
    fine = fine_part(filled)
    amplitude = gaussian(fine.square(), showing.sigma_px).sqrt() + LEAST_AMPLITUDE
    size = mask.sum((2, 3), keepdim=True).clamp_min(1)
    whole = ((amplitude.square() * mask).sum((2, 3), keepdim=True) / size).sqrt()
    change = showing.gain * (amplitude / whole.clamp_min(LEAST_AMPLITUDE)) ** showing.expansion - 1
    return fine * change.clamp(LEAST_CHANGE, LARGEST_CHANGE) * mask


def gaussian(values: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return (B, C, H, W) values blurred; what lies beyond the edge counts as 0."""
    radius = round(4 * sigma)
    steps = torch.arange(-radius, radius + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    batch, channels, height, width = values.shape
    flat = values.reshape(batch * channels, 1, height, width)
    flat = F.conv2d(flat, kernel.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(flat, kernel.view(1, 1, -1, 1), padding=(radius, 0)).view(values.shape)
