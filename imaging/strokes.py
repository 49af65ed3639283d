"""Strokes of a brush to a mask: no anti-aliasing, in image coordinates, the same on every zoom.

The rule: pixel (x, y) is painted when its centre (x + 0.5, y + 0.5) lies within `radius` of the polyline, the rim
included. If no centre does (a tiny brush between four centres), the pixels that hold the stroke's points are painted.
Strokes are applied in order, and an erasing stroke clears what it covers.
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


def parse_strokes(items: Any) -> list[Stroke]:
    """Check strokes as JSON gives them, [{"points": [[x, y], ...], "radius": r, "erase": bool}, ...], and return them.

    Points may lie outside the image. Raises ImagingError `bad_strokes`, with the stroke's `index`, for anything else:
    other types, NaN or infinity, a radius outside (0, 5000], no point, or more than 20,000 points in all.
    """
    if not isinstance(items, list | tuple):
        raise _bad(None, "strokes must be a list")
    strokes: list[Stroke] = []
    total = 0
    for index, item in enumerate(items):
        if not isinstance(item, dict):
            raise _bad(index, "it must be an object with points and radius")
        points, erase = item.get("points"), item.get("erase", False)
        if not isinstance(points, list | tuple) or not points:
            raise _bad(index, "points must be a list of [x, y] with at least one point")
        total += len(points)
        if total > MAX_POINTS:
            raise _bad(index, f"there are more than {MAX_POINTS} points in all")
        radius = _number(item.get("radius"))
        if radius is None or not 0 < radius <= MAX_RADIUS_PX:
            raise _bad(index, f"radius must be a number over 0, at most {MAX_RADIUS_PX:g}")
        if not isinstance(erase, bool):
            raise _bad(index, "erase must be true or false")
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
    raise _bad(index, "every point must be [x, y] with two finite numbers")


def rasterize(strokes: Iterable[Stroke], size: tuple[int, int]) -> np.ndarray:
    """Paint strokes onto an empty mask of (height, width) and return (H, W) bool, True = hole.

    Raises ImagingError `bad_strokes` when they are too many for so thick a brush: over ten million rows of segments.
    """
    height, width = size
    mask = np.zeros((height, width), bool)
    flat = mask.reshape(-1)
    spans_left = MAX_SPANS
    for index, stroke in enumerate(strokes):
        painted = False
        points = np.asarray(stroke.points, np.float64)
        first, count = _rows(points, stroke.radius, height)
        spans_left -= int(count.sum())
        if spans_left < 0:
            raise _bad(index, "the strokes are too long for so thick a brush; repair in several steps")
        for rows, starts, stops in _spans(points, stroke.radius, first, count, width):
            painted = True
            for start, stop in _merged(rows * width + starts, rows * width + stops):
                flat[start:stop] = not stroke.erase
        if not painted:
            for x, y in np.floor(points).astype(np.int64).tolist():
                if 0 <= x < width and 0 <= y < height:
                    mask[y, x] = not stroke.erase
    return mask


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
