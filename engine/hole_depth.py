"""How deep a hole is: what decides whether the accurate or the crisp network fills it.

The accurate network is nearer to the photo in colour, and what it does not know it blurs, with a mesh of 8 px. The
crisp one makes up texture and edges instead: it is behind in thin holes, where the surroundings tell what is missing,
and looks more real in deep ones (docs/quality.md). Owns the depth from which on a hole is deep. Knows no network.
"""

import cv2
import numpy as np

from masks.boxes import box_size, slices_inside
from masks.crop_plan import Crop
from masks.dilation import DilatedMask

# In pixels of the network's input: of 41 photos' holes of half a picture's side all thin ones, text and blemishes are
# shallower, 90 % of the medium ones too, and 97 % of the large ones deeper (bench/results/quality-mixes.md).
DEEP_PX = 32.0
STEP_PX = 4  # of the grid that depth is measured on: a tenth of it is enough, and a click has no millisecond to spare


def is_deep_hole(crop: Crop) -> bool:
    """Tell whether some pixel of a crop's hole lies deep: 32 pixels of the network's input or more from a known one.

    Args:
        crop: from the plan. Its dilation does not count, nor does the image's edge, beyond which nothing is known.

    Returns:
        Whether the crisp network fills it better.
    """
    scale = max(box_size(crop.box)) / max(crop.scaled_size)
    depth_px = DEEP_PX * scale
    if isinstance(crop.hole, DilatedMask):
        hole = crop.hole.dilation_map[slices_inside(crop.patch_box, crop.hole.box)] > 0
    else:
        hole = crop.hole.missing[slices_inside(crop.patch_box, crop.hole.box)]
    if max(hole.shape) < depth_px or min(hole.shape) < depth_px / 2:
        return False
    step = max(1, int(STEP_PX * scale))
    # The patch's sides are known pixels, but not where the image ends there.
    left, top, right, bottom = (
        int(patch_edge != box_edge) for patch_edge, box_edge in zip(crop.patch_box, crop.box, strict=True)
    )
    grid = np.pad(hole[::step, ::step], ((top, bottom), (left, right)))
    if grid.all():
        return True
    depth = cv2.distanceTransform(grid.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_3).max()
    return float(depth) * step >= depth_px
