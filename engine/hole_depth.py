"""How deep a hole is: what decides whether the accurate or the crisp network fills it.

The accurate network is nearer to the photo in colour, and what it does not know it blurs, with a mesh of 8 px. The
crisp one makes up texture and edges instead: it is behind in thin holes, where the surroundings tell what is missing,
and looks more real in deep ones (docs/quality.md). Owns the depth from which on a hole is deep. Knows no network.
"""

from masks.boxes import box_size
from masks.crop_plan import Crop
from masks.dilation import DilatedMask

# In pixels of the network's input: of 41 photos' holes of half a picture's side all thin ones, text and blemishes are
# shallower, 90 % of the medium ones too, and 97 % of the large ones deeper (bench/results/quality-mixes.md).
DEEP_PX = 32.0


def is_deep_hole(crop: Crop) -> bool:
    """Tell whether some pixel of a crop's hole lies deep: 32 pixels of the network's input or more from a known one.

    Args:
        crop: from the plan. Its dilation does not count, nor does the image's edge, beyond which nothing is known.

    Returns:
        Whether the crisp network fills it better.
    """
    scale = max(box_size(crop.box)) / max(crop.scaled_size)
    depth_px = DEEP_PX * scale
    height, width = box_size(crop.patch_box)
    if not isinstance(crop.hole, DilatedMask) or max(height, width) < depth_px or min(height, width) < depth_px / 2:
        return False
    return crop.hole.depth_px(crop.patch_box) >= depth_px
