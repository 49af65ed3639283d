"""In what order a layer's launches go, by the size of the maps and the kernels that there are.

Each rule was measured on Hopper cards (bench/NOTES.md). Knows no tensors.
"""

from dataclasses import dataclass
from typing import Literal

from lama.kernels.spectral_path import FUSED_WIDTHS

Awaited = Literal["", "entry", "columns"]
MANY_ROWS = 128 * 128  # of the trunk's maps: from here on the local convolution waits until the spectral path has begun
FEW_ROWS = 2 * 64 * 64  # up to here the cross convolution runs beside the spectral path
NARROW_OUTPUTS, NARROW_GAIN = 64, 2
"""A network with so few local channels, as the included one, takes maps of up to 64 columns with so many times the rows
for few, where the spectral path's columns are one launch."""


@dataclass(frozen=True)
class Schedule:
    """The order of a layer's launches.

    Attributes:
        cross_beside: the cross convolution runs beside the spectral path, whose last launch brings both together;
            otherwise it follows the path.
        local_after: what of the spectral path the local convolution waits for: nothing, its first launch, or that of
            the columns.
        chain_early: the launches of a layer but for the columns begin early (`kernels.early_launch`).
        columns_early: those of the columns do.
    """

    cross_beside: bool
    local_after: Awaited
    chain_early: bool
    columns_early: bool


def schedule_for(
    rows: int, width: int, *, local_outputs: int, columns_are_one_launch: bool, enters_whole: bool
) -> Schedule:
    """Choose the order for maps of one size.

    Args:
        rows: B H W of the maps.
        width: W of the maps.
        local_outputs: channels that the local convolution gives.
        columns_are_one_launch: of the spectral path (`hopper_columns`), not three.
        enters_whole: the path begins with a launch that takes whole multiprocessors (`hopper_rows`).

    Returns:
        The schedule.
    """
    is_narrow = columns_are_one_launch and local_outputs <= NARROW_OUTPUTS
    few_rows = FEW_ROWS * NARROW_GAIN if is_narrow and width <= 64 else FEW_ROWS
    cross_beside = rows <= few_rows and width in FUSED_WIDTHS
    local_after: Awaited = "entry" if rows >= MANY_ROWS else ""
    if columns_are_one_launch:
        # That launch takes whole multiprocessors, so that the local convolution only runs before or after it.
        local_after = "columns" if is_narrow else "entry" if enters_whole else ""
    return Schedule(
        cross_beside=cross_beside,
        local_after=local_after,
        chain_early=cross_beside and columns_are_one_launch,
        # One launch that begins early takes multiprocessors that others would have had until then. Only a narrow
        # network's few small maps leave some free.
        columns_early=not columns_are_one_launch or (is_narrow and rows <= FEW_ROWS),
    )
