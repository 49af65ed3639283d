"""Lines of text in a map of probabilities: polygons, each with its score (differentiable binarisation, Liao 2020).

The network marks only the core of a line, shrunk by its area over its perimeter; what is found is grown back.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pyclipper
from numpy.typing import NDArray

from detection.found import Region

CORE_PROBABILITY = 0.25  # a pixel above is the core of a line
LEAST_SCORE = 0.25  # mean probability in a core; what is less sure is nothing, at any sensitivity
GROW = 1.7  # of area / perimeter
LEAST_SIDE_PX = 3.0  # of a core
BENT = 1.15  # times the hull is how long the outline of a line of text is at most: 1.02 to 1.13 were measured
RAGGED = 3.0  # to this power counts what is longer; windows, hair and leaves have 1.2 to 4
STRAIGHT_FILL = 0.75  # a core that fills its rectangle so far is a straight line


def find_lines(probability: NDArray[np.float32], scale: float = 1.0, offset: tuple[int, int] = (0, 0)) -> list[Region]:
    """Return the lines of text in a map.

    Args:
        probability: (H, W) float32, of the core of a line; not modified.
        scale: pixels of the image for one of the map.
        offset: where the map's corner lies in the image, x, y.

    Returns:
        The lines, in the image's pixels.
    """
    core = (probability > CORE_PROBABILITY).astype(np.uint8)
    found, _ = cv2.findContours(core, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    lines = []
    for contour in map(np.asarray, found):
        if cv2.contourArea(contour, oriented=True) > 0:  # a hole's contour runs the other way round
            continue
        rectangle = cv2.minAreaRect(contour)
        if min(rectangle[1]) < LEAST_SIDE_PX:
            continue
        score = _mean_inside(probability, contour) * _smoothness(contour)
        if score < LEAST_SCORE:
            continue
        filled = cv2.contourArea(contour) / max(rectangle[1][0] * rectangle[1][1], 1.0)
        corners = cv2.boxPoints(rectangle) if filled > STRAIGHT_FILL else contour.reshape(-1, 2).astype(np.float32)
        grown = _grow(corners)
        if grown is not None:
            lines.append(Region((grown * scale + offset).astype(np.float32), score))
    return lines


def _smoothness(contour: NDArray[Any]) -> float:
    """1 for lines, straight or bent; less for ragged cores, which windows, leaves and fences have."""
    around_hull = cv2.arcLength(cv2.convexHull(contour), True)
    return min(1.0, (BENT * around_hull / max(cv2.arcLength(contour, True), 1.0)) ** RAGGED)


def _mean_inside(probability: NDArray[np.float32], contour: NDArray[Any]) -> float:
    left, top, width, height = cv2.boundingRect(contour)
    inside = np.zeros((height, width), np.uint8)
    cv2.drawContours(inside, [contour], -1, 1, cv2.FILLED, offset=(-left, -top))
    return float(cv2.mean(probability[top : top + height, left : left + width], inside)[0])


def _grow(corners: NDArray[Any]) -> NDArray[np.float32] | None:
    """The polygon grown by what the network shrank it, or None when nothing is left of it."""
    area, around = cv2.contourArea(corners), cv2.arcLength(corners, True)
    if not area or not around:
        return None
    precision = 16.0  # Clipper works on integers
    offsetter = pyclipper.PyclipperOffset(2.0, 0.5 * precision)
    offsetter.AddPath(
        (corners * precision).round().astype(int).tolist(), pyclipper.JT_MITER, pyclipper.ET_CLOSEDPOLYGON
    )
    grown = offsetter.Execute(GROW * area / around * precision)
    if not grown:
        return None
    outer = max(grown, key=lambda path: abs(pyclipper.Area(path)))
    return np.asarray(np.asarray(outer, np.float32) / precision, np.float32)
