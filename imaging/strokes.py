"""Strokes of a brush and filled outlines to a mask: no anti-aliasing, in image coordinates, the same on every zoom.

The rule for a brush: pixel (x, y) is painted when its centre (x + 0.5, y + 0.5) lies within `radius` of the polyline,
the rim included. For an outline: when its centre lies inside by the even-odd rule, so that what an outline goes round
twice is outside. If no centre does (a tiny brush between four centres), the pixels that hold the stroke's points are
painted. Strokes are applied in order, and an erasing one clears what it covers.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imaging.errors import ImagingError

MAX_POINTS = 20_000
MAX_RADIUS_PX = 5_000.0
MAX_COORDINATE_PX = 1_000_000.0
SPANS_AT_ONCE = 500_000
MAX_SPANS = 10_000_000  # about five seconds of work


@dataclass(frozen=True)
class Stroke:
    """A polyline drawn with a round brush; points (x, y) in image pixels with pixel corners at integers."""

    points: tuple[tuple[float, float], ...]
    radius: float
    erase: bool = False


@dataclass(frozen=True)
class Polygon:
    """A closed outline and what lies inside it; corners (x, y) as a stroke's points, the last joined to the first."""

    points: tuple[tuple[float, float], ...]
    erase: bool = False


def parse_strokes(items: Any) -> list[Stroke | Polygon]:
    """Check strokes as JSON gives them and return them.

    Args:
        items: a list of {"points": [[x, y], ...], "radius": r, "erase": bool} for a brush and of
            {"polygon": [[x, y], ...], "erase": bool} for a filled outline; `erase` may be left out. Points may lie
            outside the image.

    Returns:
        The strokes in their order.

    Raises:
        ImagingError: `bad_strokes`, with the stroke's `index`, for anything else: other types, NaN or infinity, a
            radius outside (0, 5000], no point, less than three corners, or more than 20,000 points in all.
    """
    if not isinstance(items, list | tuple):
        raise _bad(None, "strokes must be a list")
    strokes: list[Stroke | Polygon] = []
    total = 0
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise _bad(index, "it must be an object with points and radius, or with polygon")
        is_polygon = "polygon" in item
        points, erase = item.get("polygon" if is_polygon else "points"), item.get("erase", False)
        if is_polygon and ("points" in item or "radius" in item):
            raise _bad(index, "it has a polygon or points and radius, not both")
        if is_polygon and (not isinstance(points, list | tuple) or len(points) < 3):
            raise _bad(index, "polygon must be a list of [x, y] with at least three corners")
        if not isinstance(points, list | tuple) or not points:
            raise _bad(index, "points must be a list of [x, y] with at least one point")
        total += len(points)
        if total > MAX_POINTS:
            raise _bad(index, f"there are more than {MAX_POINTS} points in all")
        if not isinstance(erase, bool):
            raise _bad(index, "erase must be true or false")
        radius = _number(item.get("radius"))
        if is_polygon:
            strokes.append(Polygon(tuple(_point(index, point) for point in points), erase))
        elif radius is None or not 0 < radius <= MAX_RADIUS_PX:
            raise _bad(index, f"radius must be a number over 0, at most {MAX_RADIUS_PX:g}")
        else:
            strokes.append(Stroke(tuple(_point(index, point) for point in points), radius, erase))
    return strokes


def _bad(index: int | None, what: str) -> ImagingError:
    where = "The strokes cannot be used" if index is None else f"Stroke {index + 1} cannot be used"
    return ImagingError("bad_strokes", f"{where}: {what}.", index=index, detail=what)


def _number(value: object) -> float | None:
    """Return a finite number as float, None for everything else; true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _point(index: int, point: object) -> tuple[float, float]:
    if isinstance(point, list | tuple) and len(point) == 2:
        x, y = _number(point[0]), _number(point[1])
        if x is not None and y is not None and max(abs(x), abs(y)) <= MAX_COORDINATE_PX:
            return x, y
    raise _bad(
        index, f"every point must be [x, y] with two numbers from -{MAX_COORDINATE_PX:.0f} to {MAX_COORDINATE_PX:.0f}"
    )


def bounds_of(strokes: Iterable[Stroke | Polygon], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return a box that holds every pixel that strokes paint or erase.

    Args:
        strokes: what is painted.
        size: (height, width) of the mask.

    Returns:
        (left, top, right, bottom), half-open, inside the mask and never empty.
    """
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for stroke in strokes:
        points = np.asarray(stroke.points, np.float64)
        reach = 1.0 if isinstance(stroke, Polygon) else stroke.radius + 1.0
        low, high = np.minimum(low, points.min(axis=0) - reach), np.maximum(high, points.max(axis=0) + reach)
    limits = np.array(size[::-1])
    low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    if (low >= high).any():
        return 0, 0, 1, 1
    left, top = np.floor(low).astype(int).tolist()
    right, bottom = np.ceil(high).astype(int).tolist()
    return left, top, right, bottom


def rasterize(
    strokes: Iterable[Stroke | Polygon], size: tuple[int, int], *, box: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """Paint strokes onto an empty mask.

    Args:
        strokes: in their order.
        size: (height, width) of the mask.
        box: the part of it that is returned, that of `bounds_of` or more; None = all.

    Returns:
        (H, W) bool of the mask or the box, True = hole.

    Raises:
        ImagingError: `bad_strokes` when they are too many for so thick a brush: over ten million rows of segments.
    """
    height, width = size
    left, top, right, bottom = box or (0, 0, width, height)
    mask = np.zeros((bottom - top, right - left), bool)
    row_px = right - left
    flat = mask.reshape(-1)
    spans_left = MAX_SPANS
    for index, stroke in enumerate(strokes):
        painted = False
        points = np.asarray(stroke.points, np.float64)
        if isinstance(stroke, Polygon):
            first, count = _edge_rows(points, height)
            spans = _inside(points, first, count, size)
        else:
            first, count = _rows(points, stroke.radius, height)
            spans = _spans(points, stroke.radius, first, count, width)
        spans_left -= int(count.sum())
        if spans_left < 0:  # the spans are generators: nothing has been painted for this stroke yet
            raise _bad(index, "the strokes are too long for so thick a brush; repair in several steps")
        for rows, starts, stops in spans:
            painted = True
            first_px = (rows - top) * row_px - left
            for start, stop in _merged(first_px + starts, first_px + stops):
                flat[start:stop] = not stroke.erase
        if not painted:
            for x, y in np.floor(points).astype(np.int64).tolist():
                if 0 <= x < width and 0 <= y < height:
                    mask[y - top, x - left] = not stroke.erase
    return mask


def count_spans(strokes: Iterable[Stroke | Polygon], height: int) -> int:
    """Return how many rows of segments `rasterize` paints, which is what it takes memory and time for.

    Args:
        strokes: what is painted.
        height: of the mask, pixels.

    Returns:
        The number.
    """
    total = 0
    for stroke in strokes:
        points = np.asarray(stroke.points, np.float64)
        if isinstance(stroke, Polygon):
            _, count = _edge_rows(points, height)
        else:
            _, count = _rows(points, stroke.radius, height)
        total += int(count.sum())
    return total


def _edge_rows(corners: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of centres that each edge of an outline crosses, and how many, within the image."""
    # Half-open, so that a corner on a row of centres is crossed once: by the one of its edges that goes on downwards.
    ends = np.roll(corners, -1, axis=0)
    low, high = np.minimum(corners[:, 1], ends[:, 1]), np.maximum(corners[:, 1], ends[:, 1])
    first, stop = (np.clip(np.ceil(y - 0.5), 0, height).astype(np.int64) for y in (low, high))
    return first, stop - first


def _inside(
    corners: np.ndarray, first: np.ndarray, count: np.ndarray, size: tuple[int, int]
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rows, first columns, columns past the last) of what lies inside an outline, in bands of rows.

    A row of centres is inside between the first and the second crossing of the outline, the third and the fourth, and
    so on: the even-odd rule. OpenCV's fillPoly paints the outline itself too, up to a pixel outwards, and
    needs 25 s for 20,000 corners.
    """
    height, width = size
    ends = np.roll(corners, -1, axis=0)
    crossings = np.zeros(height + 1, np.int64)
    np.add.at(crossings, first, 1)
    np.add.at(crossings, first + count, -1)
    band_of = np.cumsum(np.cumsum(crossings)[:height]) // SPANS_AT_ONCE
    for band in np.unique(band_of):
        top, bottom = np.searchsorted(band_of, [band, band + 1])
        begin = np.clip(first, top, bottom)
        rows_here = np.clip(first + count, top, bottom) - begin
        edge = np.repeat(np.flatnonzero(rows_here), rows_here[rows_here > 0])
        offset = np.arange(len(edge)) - np.repeat(np.cumsum(rows_here) - rows_here, rows_here)
        rows = begin[edge] + offset
        (ax, ay), (bx, by) = corners[edge].T, ends[edge].T
        x = ax + (bx - ax) * ((rows + 0.5 - ay) / (by - ay))
        order = np.lexsort((x, rows))
        columns = np.clip(np.ceil(x[order] - 0.5), 0, width).astype(np.int64)
        starts, stops = columns[::2], columns[1::2]
        covers = stops > starts
        if covers.any():
            yield rows[order][::2][covers], starts[covers], stops[covers]


def _rows(points: np.ndarray, radius: float, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first row of centres that each segment's capsule meets, and how many, within the image."""
    starts, stops = _segments(points)
    low, high = np.minimum(starts[:, 1], stops[:, 1]) - radius, np.maximum(starts[:, 1], stops[:, 1]) + radius
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    return first, np.maximum(np.clip(np.floor(high - 0.5) + 1, 0, height).astype(np.int64) - first, 0)


def _segments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (points[:-1], points[1:]) if len(points) > 1 else (points, points)


def _spans(
    points: np.ndarray, radius: float, first: np.ndarray, count: np.ndarray, width: int
) -> Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (rows, first columns, columns past the last) of all rows of all capsules of a polyline, in batches.

    A capsule (a segment's points within the radius) is convex, so it meets a row of centres in one interval.
    """
    starts, stops = _segments(points)
    batch_of = np.cumsum(count) // SPANS_AT_ONCE
    for batch in np.unique(batch_of[count > 0]):
        chosen = np.flatnonzero((batch_of == batch) & (count > 0))
        segment = np.repeat(chosen, count[chosen])
        offset = np.arange(len(segment)) - np.repeat(np.cumsum(count[chosen]) - count[chosen], count[chosen])
        rows = first[segment] + offset
        left, right = _interval(starts[segment], stops[segment], rows + 0.5, radius)
        columns = np.clip(np.ceil(left - 0.5), 0, width), np.clip(np.floor(right - 0.5) + 1, 0, width)
        begin, end = (np.nan_to_num(column, nan=0.0).astype(np.int64) for column in columns)
        inside = end > begin
        if inside.any():
            yield rows[inside], begin[inside], end[inside]


def _interval(start: np.ndarray, stop: np.ndarray, y: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the leftmost and rightmost x at height y within `radius` of each segment; NaN where there is none.

    The rim is two circles and two straight sides, so the extremes are among where those meet the height.
    """
    lefts, rights = [], []
    for end in (start, stop):
        half_squared = radius * radius - (y - end[:, 1]) ** 2
        half = np.sqrt(np.where(half_squared >= 0, half_squared, np.nan))
        lefts.append(end[:, 0] - half)
        rights.append(end[:, 0] + half)
    along = stop - start
    length = np.hypot(along[:, 0], along[:, 1])
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = np.stack([-along[:, 1], along[:, 0]], axis=1) * (radius / length)[:, None]
        for side in (start + normal, start - normal):
            share = (y - side[:, 1]) / along[:, 1]
            x = np.where((share >= 0) & (share <= 1), side[:, 0] + share * along[:, 0], np.nan)
            lefts.append(x)
            rights.append(x)
    return np.fmin.reduce(lefts), np.fmax.reduce(rights)


def _merged(starts: np.ndarray, stops: np.ndarray) -> Sequence[tuple[int, int]]:
    """Return disjoint intervals with the same union: a brush covers most pixels many times over."""
    order = np.argsort(starts, kind="stable")
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    fresh = np.flatnonzero(np.concatenate([[True], starts[1:] > stops[:-1]]))
    ends = stops[np.concatenate([fresh[1:] - 1, [len(stops) - 1]])]
    return list(zip(starts[fresh].tolist(), ends.tolist(), strict=True))
