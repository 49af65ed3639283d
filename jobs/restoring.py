"""Bringing the original back over a repaired place: a job that needs no device, only the original and a mask."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jobs.errors import JobError
from jobs.images import ImageStore, Pixels
from jobs.store import ImageRecord
from masks.boxes import Box, find_bounds, slices_of
from notices import Note


@dataclass(frozen=True)
class Restored:
    """What a repair's result is made of, without a repair."""

    patches: list[tuple[Box, Pixels]]
    timings_ms: dict[str, float] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)


def restore_original(images: ImageStore, edit: ImageRecord, mask: NDArray[np.bool_]) -> Restored:
    """Return the original's pixels where the mask is, as a patch on an edit.

    Args:
        images: where both come from.
        edit: the round to bring the original back in.
        mask: (H, W) bool, True = original.

    Returns:
        One patch, the mask's bounds, at the photo's own depth; byte for byte the original on the mask and the edit
        beside it.

    Raises:
        JobError: `empty_mask`, or `unknown_image` when a file is gone.
    """
    box = find_bounds(mask)
    if box is None:
        raise JobError("empty_mask", "Nothing is marked. Paint over what should come back.")
    inside = slices_of(box)
    patch: Pixels = images.pixels(edit)[inside].copy()
    marked = mask[inside]
    patch[marked] = images.original(edit).image[inside][marked]
    return Restored([(box, patch)])
