"""Select what was clicked on: an object or a coloured region, up to its edges.

Three steps, each on no more pixels than it needs. The region that belongs to a click grows in colour distance until its
rim lies on the strongest edges (at most 320 px large). A graph cut (GrabCut, Rother 2004) straightens it with colour
models of both sides. Its rim is then found at full size by a guided filter (He 2010), whose coefficients are smooth and
so are taken at reduced size, in those blocks only that the rim crosses. The same clicks always give the same mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.found import Detection, DetectionError, Region, as_uint8, check_sensitivity, cut_box, outline_of
from masks.boxes import Box, find_bounds

WORK_PX = 320  # longer side at which regions grow
CUT_PX = 160  # and at which the graph is cut
GUIDE_PX = 480  # and at which the guided filter's coefficients are taken
FINEST = 4  # a pixel of what is looked at is the mean of so many rows and columns
SMALL_SHARE = 1 / 5  # a region smaller than this share of what was looked at is looked at again from nearer
NEARER = 4.0  # how many times the region's size is looked at then
DISTANCES = np.geomspace(5.0, 70.0, 16)  # colour distances (CIELAB) that a region may reach to
TYPICAL_AT_ENDS = (5.0, 36.0)  # the distance that is preferred at sensitivity 0 and at 1
PREFERENCE = 0.6  # how strongly: the standard deviation, as a factor's logarithm
SAMPLE_PX = 2  # around a click whose colour counts
CUT_ROUNDS = 2
BLOCK_PX = 96
RIM_PX = 5  # of the cut: how far the rim may lie from where the cut has it
LEAST_OF_BOX = 0.01  # what a cut leaves of a box, else it has found nothing
MOST_POINTS = 200

Point = tuple[float, float, bool]  # x, y in image pixels, True = add, False = take away
Mask = NDArray[np.bool_]
Field = NDArray[Any]  # float32, but for photos


@dataclass(frozen=True)
class _View:
    """A part of the photo at reduced size, and where it lies."""

    box: Box
    scale: float  # pixels of the view for one of the photo
    pixels: NDArray[np.uint8]

    def place(self, x: float, y: float) -> tuple[int, int]:
        """Where a point of the photo lies in the view, x and y, cut to it."""
        height, width = self.pixels.shape[:2]
        column, row = int((x - self.box[0]) * self.scale), int((y - self.box[1]) * self.scale)
        return min(max(column, 0), width - 1), min(max(row, 0), height - 1)


def select_object(
    image: NDArray, points: Sequence[Point] = (), *, box: Box | None = None, sensitivity: float = 0.5
) -> Detection:
    """Select what was clicked on, or what a box was drawn around.

    Args:
        image: (H, W, 3) uint8 or uint16 RGB, not modified.
        points: clicks as x, y, keep: True adds what is there, False takes it away. Later ones win.
        box: what to select lies in here; without clicks that add, it is the object in its middle.
        sensitivity: 0 takes only what looks just like the clicked place, 1 much around it.

    Returns:
        The selection, and its parts' outlines.

    Raises:
        DetectionError: without anything to select, or for points or a box outside the image.
    """
    pixels = as_uint8(image)
    height, width = pixels.shape[:2]
    check_sensitivity(sensitivity)
    if len(points) > MOST_POINTS:
        raise DetectionError(f"At most {MOST_POINTS} points can be given, not {len(points)}.")
    for x, y, _ in points:
        if not (0 <= x < width and 0 <= y < height):
            raise DetectionError(f"The point {x:g}, {y:g} lies outside the image, {width} wide and {height} high.")
    if box is None and not any(keep for _, _, keep in points):
        raise DetectionError("Nothing to select: give a point to add, or a box around the object.")
    inside = cut_box(box, (height, width)) if box is not None else None
    view = _look(pixels, inside and _widen(inside, 0.25, (height, width)))
    added, taken = _grow_all(view, points, inside, sensitivity)
    bounds = find_bounds(added)
    if bounds is not None and inside is None:
        span = max(bounds[2] - bounds[0], bounds[3] - bounds[1])
        if span < SMALL_SHARE * max(added.shape) and view.scale < 1:
            view = _look(pixels, _nearer(bounds, view, (height, width)))
            added, taken = _grow_all(view, points, inside, sensitivity)
    cut = _cut(view, added, taken, points, inside)
    if inside is not None and not any(keep for _, _, keep in points) and _is_lost(cut, added):
        # As like its surroundings as that is to itself: then what lies in the middle of the box counts.
        middle = ((inside[0] + inside[2]) / 2, (inside[1] + inside[3]) / 2, True)
        grown, taken = _grow_all(view, [middle, *points], inside, sensitivity)
        cut = _cut(view, grown & added, taken, [middle, *points], inside) & added
        points = [middle, *points]
    mask = _refine(pixels, view, cut)
    for x, y, keep in points:  # whatever the cut says
        mask[int(y), int(x)] = keep
    outlines = outline_of(mask)
    regions = tuple(Region(outline, 1.0) for outline in outlines[:50] if len(outline) > 2)
    return Detection(mask, regions)


def _look(pixels: NDArray[np.uint8], box: Box | None) -> _View:
    left, top, right, bottom = box or (0, 0, pixels.shape[1], pixels.shape[0])
    part: Field = pixels[top:bottom, left:right]
    scale = min(1.0, WORK_PX / max(part.shape[:2]))
    if scale < 1:
        size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
        part = cv2.resize(_sampled(part, scale), size, interpolation=cv2.INTER_AREA)
    return _View((left, top, right, bottom), scale, np.ascontiguousarray(part))


def _sampled(part: Field, scale: float) -> Field:
    """Leave out rows and columns of what is scaled down: reading all of a large photo would take most of the time."""
    step = max(1, int(1 / scale / FINEST))
    # From the middle of the first step; a photo may have fewer rows or columns than that.
    first_row, first_column = (min(step, side) // 2 for side in part.shape[:2])
    return np.ascontiguousarray(part[first_row::step, first_column::step])


def _widen(box: Box, share: float, size: tuple[int, int]) -> Box:
    margin = round(share * max(box[2] - box[0], box[3] - box[1])) + 8
    return cut_box((box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin), size)


def _nearer(bounds: Box, view: _View, size: tuple[int, int]) -> Box:
    """The part of the photo around a region of the view."""
    left, top, right, bottom = (value / view.scale for value in bounds)
    x, y = view.box[0] + (left + right) / 2, view.box[1] + (top + bottom) / 2
    half = max(NEARER * max(right - left, bottom - top), 96.0) / 2
    return cut_box((int(x - half), int(y - half), int(x + half), int(y + half)), size)


def _is_lost(cut: Mask, added: Mask) -> bool:
    """Tell whether the cut has left next to nothing of a box."""
    return bool(cut.sum() < LEAST_OF_BOX * added.sum())


def _grow_all(view: _View, points: Sequence[Point], inside: Box | None, sensitivity: float) -> tuple[Mask, Mask]:
    """The regions of all clicks that add, and of all that take away, (h, w) bool each."""
    smooth = cv2.bilateralFilter(view.pixels, 5, 24, 3)
    lab = cv2.cvtColor(smooth.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    edges = _edges(lab)
    shape = lab.shape[:2]
    added, taken = np.zeros(shape, np.bool_), np.zeros(shape, np.bool_)
    if inside is not None and not any(keep for _, _, keep in points):
        left, top = view.place(inside[0], inside[1])
        right, bottom = view.place(inside[2], inside[3])
        added[top : bottom + 1, left : right + 1] = True
    for x, y, keep in points:
        region = _grow(lab, edges, view.place(x, y), sensitivity)
        added, taken = (added | region, taken & ~region) if keep else (added & ~region, taken | region)
    return added, taken


def _edges(lab: Field) -> Field:
    """How much the colour changes at each pixel, (h, w) float32."""
    across = [cv2.Sobel(lab, cv2.CV_32F, 1, 0, scale=0.25), cv2.Sobel(lab, cv2.CV_32F, 0, 1, scale=0.25)]
    return np.asarray(np.sqrt(sum((part**2).sum(axis=2) for part in across)), np.float32)


def _grow(lab: Field, edges: Field, at: tuple[int, int], sensitivity: float) -> Mask:
    """The region around a click, out to the distance at which its rim lies on the strongest edges."""
    x, y = at
    sample = lab[max(0, y - SAMPLE_PX) : y + SAMPLE_PX + 1, max(0, x - SAMPLE_PX) : x + SAMPLE_PX + 1].reshape(-1, 3)
    color = np.median(sample, axis=0)
    spread = float(np.median(np.linalg.norm(sample - color, axis=1)))
    # Light and shade change lightness more than colour, so it counts for less.
    distance = np.sqrt((((lab - color) * (0.7, 1.2, 1.2)) ** 2).sum(axis=2))
    at_0, at_1 = TYPICAL_AT_ENDS
    preferred = at_0 * (at_1 / at_0) ** sensitivity + spread
    best, best_worth = np.zeros(distance.shape, np.bool_), -1.0
    kernel = np.ones((3, 3), np.uint8)
    before = -1
    for reach in DISTANCES + spread:
        near = (distance < reach).astype(np.uint8)
        near[y, x] = 1
        _, labels, stats, _ = cv2.connectedComponentsWithStats(near, connectivity=4)
        label = labels[y, x]
        area = int(stats[label, cv2.CC_STAT_AREA])
        if area == before:
            continue
        before = area
        region = (labels == label).astype(np.uint8)
        if area > 0.9 * region.size:
            break
        rim = cv2.morphologyEx(region, cv2.MORPH_GRADIENT, kernel).view(np.bool_)
        worth = float(edges[rim].mean()) * np.exp(-((np.log(reach / preferred) / PREFERENCE) ** 2) / 2)
        if area < 12:
            worth *= area / 12
        if worth > best_worth:
            best, best_worth = region.view(np.bool_), worth
    return best


def _cut(view: _View, added: Mask, taken: Mask, points: Sequence[Point], inside: Box | None) -> Mask:
    """Straighten the regions by a graph cut; (h, w) bool in the view."""
    bounds = find_bounds(added)
    if bounds is None:
        return added
    height, width = added.shape
    part = _widen(bounds, 0.3, (height, width))
    left, top, right, bottom = part
    crop = view.pixels[top:bottom, left:right]
    scale = min(1.0, CUT_PX / max(crop.shape[:2]))
    size = (max(2, round(crop.shape[1] * scale)), max(2, round(crop.shape[0] * scale)))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    yes, no = (
        cv2.resize(m[top:bottom, left:right].view(np.uint8), size, interpolation=cv2.INTER_AREA) > 0
        for m in (added, taken)
    )
    drawn = inside is not None and not any(keep for _, _, keep in points)
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RIM_PX + 1, 2 * RIM_PX + 1))
    near = cv2.dilate(yes.view(np.uint8), reach).view(np.bool_)
    core = cv2.erode(yes.view(np.uint8), np.ones((5, 5), np.uint8)).view(np.bool_)
    state = np.full(yes.shape, cv2.GC_BGD, np.uint8)
    state[near] = cv2.GC_PR_BGD
    state[yes] = cv2.GC_PR_FGD
    if drawn:
        state[near & ~yes] = cv2.GC_BGD
    else:
        state[core] = cv2.GC_FGD
    state[no] = cv2.GC_BGD
    for x, y, keep in points:
        column, row = view.place(x, y)
        at = (int((column - left) * scale), int((row - top) * scale))
        if 0 <= at[0] < size[0] and 0 <= at[1] < size[1]:
            cv2.circle(state, at, 1, cv2.GC_FGD if keep else cv2.GC_BGD, -1)
    if not (np.isin(state, (cv2.GC_BGD, cv2.GC_PR_BGD)).any() and np.isin(state, (cv2.GC_FGD, cv2.GC_PR_FGD)).any()):
        return added
    cv2.setRNGSeed(0)  # GrabCut starts from k-means
    try:
        cv2.grabCut(small, state, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), CUT_ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # a side with hardly a pixel has no colour model
        return added
    found = ((state == cv2.GC_FGD) | (state == cv2.GC_PR_FGD)).astype(np.float32)
    if drawn:
        found = _largest_part(found)
    result = np.zeros((height, width), np.bool_)
    result[top:bottom, left:right] = cv2.resize(found, crop.shape[1::-1], interpolation=cv2.INTER_LINEAR) > 0.5
    return result


def _largest_part(found: Field) -> Field:
    """Without specks: the largest connected part, and those at least a tenth as large."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    return (areas >= max(1.0, areas.max() / 10))[labels].astype(np.float32)


def _refine(pixels: NDArray[np.uint8], view: _View, cut: Mask) -> Mask:
    """The mask at full size, its rim on the photo's own edges; (H, W) bool."""
    mask = np.zeros(pixels.shape[:2], np.bool_)
    bounds = find_bounds(cut)
    if bounds is None:
        return mask
    height, width = cut.shape
    margin = 2 * RIM_PX
    part = cut_box((bounds[0] - margin, bounds[1] - margin, bounds[2] + margin, bounds[3] + margin), (height, width))
    left, top = (round(view.box[i] + part[i] / view.scale) for i in (0, 1))
    right, bottom = (min(view.box[i], round(view.box[i - 2] + part[i] / view.scale)) for i in (2, 3))
    soft = cut[part[1] : part[3], part[0] : part[2]].astype(np.float32)
    full = pixels[top:bottom, left:right]
    scale = min(1.0, GUIDE_PX / max(full.shape[:2]))
    size = (max(2, round(full.shape[1] * scale)), max(2, round(full.shape[0] * scale)))
    guide = cv2.resize(_sampled(full, scale), size, interpolation=cv2.INTER_AREA)
    level = cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR)
    radius = max(2, round(1.5 * scale / view.scale))
    near = cv2.blur(level, (2 * radius + 1, 2 * radius + 1))
    at_rim = (near > 0.02) & (near < 0.98)
    if not at_rim.any():
        mask[top:bottom, left:right] = bool(level[0, 0] > 0.5)
        return mask
    telling = _telling_apart(guide[at_rim].astype(np.float32), level[at_rim] > 0.5)
    fields = _guide(cv2.transform(guide.astype(np.float32), telling), level, radius)
    for y in range(0, full.shape[0], BLOCK_PX):
        for x in range(0, full.shape[1], BLOCK_PX):
            _fill_block(full, mask[top:bottom, left:right], (fields, level, at_rim), telling, scale, (x, y))
    return mask


def _telling_apart(colors: Field, inside: Mask) -> Field:
    """The direction (1, 3) in colour space that tells both sides of the rim apart best (Fisher)."""
    if inside.all() or not inside.any():
        return np.full((1, 3), 1 / 3, np.float32)
    apart = colors[inside].mean(axis=0) - colors[~inside].mean(axis=0)
    within = sum(np.cov(side, rowvar=False) if len(side) > 1 else 0 for side in (colors[inside], colors[~inside]))
    direction = np.linalg.solve(within + 30.0 * np.eye(3), apart)
    return np.asarray(direction / max(np.abs(direction).sum(), 1e-9), np.float32)[None]


def _fill_block(
    full: NDArray[np.uint8],
    place: Mask,
    fields: tuple[NDArray, NDArray, NDArray],
    telling: Field,
    scale: float,
    at: tuple[int, int],
) -> None:
    """Write one block of the mask at full size from (coefficients, level, where the rim is) at reduced size."""
    coefficients, level, at_rim = fields
    x, y = at
    height, width = min(BLOCK_PX, full.shape[0] - y), min(BLOCK_PX, full.shape[1] - x)
    rows = slice(int(y * scale), int((y + height) * scale) + 2)
    columns = slice(int(x * scale), int((x + width) * scale) + 2)
    block = place[y : y + height, x : x + width]
    if not at_rim[rows, columns].any():
        block[:] = bool(level[rows, columns].mean() > 0.5)
        return
    # From the block's pixels to the fields' pixels, centres on centres.
    onto = np.array([[scale, 0, (x + 0.5) * scale - 0.5], [0, scale, (y + 0.5) * scale - 0.5]], np.float32)
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    here = cv2.warpAffine(coefficients, onto, (width, height), flags=how, borderMode=cv2.BORDER_REPLICATE)
    shown = cv2.transform(full[y : y + height, x : x + width].astype(np.float32), telling)
    block[:] = shown * here[..., 0] + here[..., 1] > 0.5


def _guide(guide: Field, level: Field, radius: int) -> Field:
    """The guided filter's coefficients (h, w, 2): the level is about the guide times the first plus the second."""
    side = (2 * radius + 1, 2 * radius + 1)
    mean, mean_level = cv2.blur(guide, side), cv2.blur(level, side)
    together = cv2.blur(guide * level, side) - mean * mean_level
    squares = cv2.blur(guide * guide, side) - mean * mean
    slope = together / (squares + 20.0)  # grey levels squared: less contrast than this is no edge
    return np.asarray(cv2.blur(np.dstack([slope, mean_level - slope * mean]), side), np.float32)
