"""Find the same mark again: at other places, sizes and angles, on this photo or another.

What is compared is how each pixel differs from its surroundings, so that a mark is the same on another background and
when it lets the photo shine through. A masked normalised cross-correlation looks for the mark everywhere in a reduced
photo in several sizes and angles; the best places are then fitted more closely at a finer level of the pyramid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.found import (
    Detection,
    DetectionError,
    GoOn,
    Region,
    as_uint8,
    check_sensitivity,
    outline_of,
    without_end,
)
from masks.boxes import find_bounds

COARSE_PX = 26  # longer side of the mark where all places are looked at
FINE_PX = 88  # and where the best ones are fitted
KEPT_PX = 4 * FINE_PX  # of the mark as it is kept: it is scaled some 1,700 times, which of a large one took most time
MOST_COARSE_PX = 1400  # longer side of the reduced photo, also for small marks
LEAST_MARK_PX = 4  # of the mark there
SCALES = tuple(1.16**i for i in range(-3, 4))  # 0.64 to 1.56
ANGLES = (0.0, -8.0, 8.0, -16.0, 16.0, -24.0, 24.0)
RIM_SHARE = 0.08  # of the mark's size around it that is compared too: its outline
COARSE_SCORE = 0.42  # a place that is less like the mark is not looked at again
MOST_PLACES = 60
SCORE_AT_ENDS = (0.8, 0.4)  # the least likeness at sensitivity 0 and at 1
LARGEST_DIFFERENCE = 60.0  # grey levels; more does not count for more
OVERLAP = 0.35  # of the mark's size: two places closer than this are one

Field = NDArray[Any]  # float32


@dataclass(frozen=True)
class _Place:
    """Where the mark may be: its middle in the level's pixels, how large and how turned."""

    x: float
    y: float
    scale: float
    angle: float
    score: float


@dataclass(frozen=True)
class _Template:
    """The mark and its rim cut out of a photo.

    Attributes:
        mask: (h, w) uint8, 255 = the mark.
        small_pixels: (h', w', 3) uint8, the photo there, no side longer than `KEPT_PX`.
        small_mask: (h', w') uint8, the mask at that size.
        middle: (x, y) of the mark's box in the photo.
    """

    mask: NDArray[np.uint8]
    small_pixels: NDArray[np.uint8]
    small_mask: NDArray[np.uint8]
    middle: tuple[float, float]


def find_repeats(
    image: NDArray,
    mask: NDArray[np.bool_],
    *,
    other: NDArray | None = None,
    sensitivity: float = 0.5,
    go_on: GoOn = without_end,
) -> Detection:
    """Find a mark again.

    Args:
        image: (H, W, 3) uint8 or uint16 RGB, the photo with the mark; not modified.
        mask: (H, W) bool, the mark; not modified.
        other: the photo to look in, of any size; None looks in `image`, whose own mark is then the first region.
        sensitivity: 0 takes only what is the same, 1 what is somewhat like it; more never finds less.
        go_on: called between steps; what it raises ends the search.

    Returns:
        The mark's mask moved to every place, and a region for each.

    Raises:
        DetectionError: for an empty mask, one of another size, or a mark as large as the photo.
    """
    pixels = as_uint8(image)
    least = SCORE_AT_ENDS[0] + (SCORE_AT_ENDS[1] - SCORE_AT_ENDS[0]) * check_sensitivity(sensitivity)
    if mask.shape != pixels.shape[:2]:
        raise DetectionError(f"The mask is {mask.shape[::-1]}, the photo {pixels.shape[1::-1]}: they must be alike.")
    where = as_uint8(other) if other is not None else pixels
    template = _take(pixels, mask)
    found = [place for place in _search(template, where, go_on) if place.score >= least]
    result = np.zeros(where.shape[:2], np.bool_)
    regions: list[Region] = []
    if other is None:
        result |= mask
        regions = [Region(outline, 1.0) for outline in outline_of(mask)[:1]]
    for place in found:
        if other is None and np.hypot(place.x - template.middle[0], place.y - template.middle[1]) < OVERLAP * max(
            template.mask.shape
        ):
            continue
        regions.append(_lay(template, place, result))
    return Detection(result, tuple(regions))


def _take(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> _Template:
    bounds = find_bounds(mask)
    if bounds is None:
        raise DetectionError("The mask is empty: mark what should be found again.", "nothing_marked")
    left, top, right, bottom = bounds
    if right - left > 0.7 * image.shape[1] and bottom - top > 0.7 * image.shape[0]:
        raise DetectionError("The mark is as large as the photo: there is no room for another one.", "too_large")
    pad = max(2, round(RIM_SHARE * max(right - left, bottom - top)))
    rows = np.clip(np.arange(top - pad, bottom + pad), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left - pad, right + pad), 0, image.shape[1] - 1)
    part = image[np.ix_(rows, columns)]
    marked = np.pad(mask[top:bottom, left:right].astype(np.uint8) * np.uint8(255), pad)
    shrink = min(1.0, KEPT_PX / max(marked.shape))
    size = (max(1, round(marked.shape[1] * shrink)), max(1, round(marked.shape[0] * shrink)))
    if shrink == 1:
        return _Template(marked, part, marked, ((left + right) / 2, (top + bottom) / 2))
    small = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    small_mask = np.asarray(cv2.resize(marked, size, interpolation=cv2.INTER_AREA), np.uint8)
    return _Template(marked, small, small_mask, ((left + right) / 2, (top + bottom) / 2))


def _search(template: _Template, image: NDArray[np.uint8], go_on: GoOn) -> list[_Place]:
    """All places like the mark, the best first, in the photo's pixels."""
    longer = max(template.mask.shape)
    factor = min(1.0, COARSE_PX / longer, MOST_COARSE_PX / max(image.shape[:2]))
    if longer * factor < LEAST_MARK_PX:
        text = f"The mark is too small to be found again in so large a photo: {longer} pixels."
        raise DetectionError(text, "too_small")
    coarse = _differences(_scaled(image, factor), longer * factor)
    squares = (coarse**2).sum(axis=2)
    places: list[_Place] = []
    for scale in SCALES:
        for angle in ANGLES:
            go_on()
            places += _peaks(coarse, squares, template, factor, scale, angle)
    fine = min(1.0, FINE_PX / longer)
    field = _differences(_scaled(image, fine), longer * fine)
    fitted: list[_Place] = []
    for place in _apart(places, longer * factor)[:MOST_PLACES]:
        go_on()
        up = fine / factor
        start = _Place((place.x + 0.5) * up - 0.5, (place.y + 0.5) * up - 0.5, place.scale, place.angle, -1.0)
        fitted.append(_fit(field, template, fine, start, reach_px=2 * up + 2))
    return [
        _Place((p.x + 0.5) / fine - 0.5, (p.y + 0.5) / fine - 0.5, p.scale, p.angle, p.score)
        for p in _apart(fitted, longer * fine)
    ]


def _scaled(image: NDArray[np.uint8], factor: float) -> Field:
    if factor == 1:
        return image.astype(np.float32)
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _differences(image: Field, mark_px: float) -> Field:
    """How each pixel differs from its surroundings, (h, w, 3), limited."""
    behind = cv2.GaussianBlur(image, (0, 0), max(1.0, mark_px / 4))
    return np.clip(image - behind, -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)


def _turned(template: _Template, factor: float, scale: float, angle: float) -> tuple[Field, Field]:
    """The mark's differences, weighted, and the weights, at a size and an angle: (h, w, 3) and (h, w), odd sides."""
    height, width = template.mask.shape
    total = factor * scale
    radians = np.deg2rad(angle)
    cos, sin = abs(np.cos(radians)), abs(np.sin(radians))
    new_w = 2 * round((width * cos + height * sin) * total / 2) + 1
    new_h = 2 * round((height * cos + width * sin) * total / 2) + 1
    # Scaled down by area first: a warp alone would skip pixels.
    small_size = (max(1, round(width * total)), max(1, round(height * total)))
    how = cv2.INTER_AREA if total < 1 else cv2.INTER_LINEAR
    pixels: Field = cv2.resize(template.small_pixels, small_size, interpolation=how).astype(np.float32)
    mask: Field = cv2.resize(template.small_mask, small_size, interpolation=how).astype(np.float32) / 255
    turn = cv2.getRotationMatrix2D(((small_size[0] - 1) / 2, (small_size[1] - 1) / 2), angle, 1.0)
    turn[:, 2] += ((new_w - small_size[0]) / 2, (new_h - small_size[1]) / 2)
    pixels = cv2.warpAffine(pixels, turn, (new_w, new_h), borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(mask, turn, (new_w, new_h))
    rim = max(1, round(RIM_SHARE * max(small_size)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * rim + 1, 2 * rim + 1))
    weights = cv2.dilate(mask, kernel)
    return _differences(pixels, max(height, width) * factor), weights


def _likeness(field: Field, squares: Field, mark: Field, weights: Field) -> Field:
    """The masked normalised cross-correlation at all places where the mark fits, (h, w)."""
    dot = cv2.matchTemplate(field, mark * weights[..., None], cv2.TM_CCORR)
    energy = cv2.matchTemplate(squares, weights, cv2.TM_CCORR)
    own = float((weights[..., None] * mark**2).sum())
    least = 9.0 * float(weights.sum())  # nearly flat places are like nothing
    return dot / np.sqrt(np.maximum(energy, least) * max(own, least))


def _peaks(
    field: Field, squares: Field, template: _Template, factor: float, scale: float, angle: float
) -> list[_Place]:
    mark, weights = _turned(template, factor, scale, angle)
    height, width = weights.shape
    # Marks that the photo's edge cuts are found too: outside, nothing is like the mark.
    pad_x, pad_y = width // 4, height // 4
    field = cv2.copyMakeBorder(field, pad_y, pad_y, pad_x, pad_x, cv2.BORDER_CONSTANT)
    squares = cv2.copyMakeBorder(squares, pad_y, pad_y, pad_x, pad_x, cv2.BORDER_CONSTANT)
    if field.shape[0] < height or field.shape[1] < width:
        return []
    likeness = _likeness(field, squares, mark, weights)
    top = cv2.dilate(likeness, np.ones((5, 5), np.uint8))
    rows, columns = np.nonzero((likeness >= top) & (likeness > COARSE_SCORE))
    return [
        _Place(float(x + width // 2 - pad_x), float(y + height // 2 - pad_y), scale, angle, float(likeness[y, x]))
        for y, x in zip(rows.tolist(), columns.tolist(), strict=True)
    ]


def _apart(places: list[_Place], mark_px: float) -> list[_Place]:
    """The best of all places that lie close together."""
    kept: list[_Place] = []
    for place in sorted(places, key=lambda p: -p.score):
        if all(np.hypot(place.x - p.x, place.y - p.y) > OVERLAP * mark_px * p.scale for p in kept):
            kept.append(place)
            if len(kept) > 4 * MOST_PLACES:
                break
    return kept


def _fit(field: Field, template: _Template, factor: float, start: _Place, reach_px: float) -> _Place:
    """Fit size, angle and place by halving steps, each tried at all places near the last."""
    best, scale_step, angle_step = start, 1.08, 4.0
    reach = reach_px
    for _ in range(3):
        centre = best
        for scale in (centre.scale / scale_step, centre.scale, centre.scale * scale_step):
            for angle in (centre.angle - angle_step, centre.angle, centre.angle + angle_step):
                found = _best_near(field, template, factor, _Place(centre.x, centre.y, scale, angle, -1.0), reach)
                if found.score > best.score:
                    best = found
        scale_step, angle_step, reach = scale_step**0.5, angle_step / 2, 2.5
    return best


def _best_near(field: Field, template: _Template, factor: float, at: _Place, reach: float) -> _Place:
    mark, weights = _turned(template, factor, at.scale, at.angle)
    height, width = weights.shape
    left, top = round(at.x - width // 2 - reach), round(at.y - height // 2 - reach)
    right, bottom = left + width + 2 * round(reach), top + height + 2 * round(reach)
    part = np.zeros((bottom - top, right - left, 3), np.float32)
    inside = (max(0, left), max(0, top), min(field.shape[1], right), min(field.shape[0], bottom))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        return at
    part[inside[1] - top : inside[3] - top, inside[0] - left : inside[2] - left] = field[
        inside[1] : inside[3], inside[0] : inside[2]
    ]
    likeness = _likeness(part, (part**2).sum(axis=2), mark, weights)
    y, x = np.unravel_index(int(likeness.argmax()), likeness.shape)
    return _Place(float(left + x + width // 2), float(top + y + height // 2), at.scale, at.angle, float(likeness[y, x]))


def _lay(template: _Template, place: _Place, mask: NDArray[np.bool_]) -> Region:
    """Add the mark's mask at a place, one pixel larger for what the fit leaves open, and return its outline."""
    height, width = template.mask.shape
    move = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), place.angle, place.scale)
    move[:, 2] += (place.x - (width - 1) / 2, place.y - (height - 1) / 2)
    corners = cv2.transform(np.array([[[0, 0], [width, 0], [width, height], [0, height]]], np.float64), move)[0]
    left, top = (max(0, int(v)) for v in np.floor(corners.min(axis=0)))
    right, bottom = np.ceil(corners.max(axis=0)).astype(int) + 1
    right, bottom = min(mask.shape[1], int(right)), min(mask.shape[0], int(bottom))
    outline = corners.astype(np.float32)
    if left < right and top < bottom:
        move[:, 2] -= (left, top)
        moved = cv2.warpAffine(template.mask, move, (right - left, bottom - top)) > 0.4 * 255
        slack = 2 * max(1, round(max(height, width) / FINE_PX / 2)) + 1
        grown = cv2.dilate(moved.view(np.uint8), np.ones((slack, slack), np.uint8)).view(np.bool_)
        mask[top:bottom, left:right] |= grown
        outlines = outline_of(np.ascontiguousarray(grown), (left, top))
        if len(outlines) == 1 and len(outlines[0]) > 2:
            outline = outlines[0]
    return Region(outline, min(1.0, place.score))
