"""What every detector gives back, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from masks.boxes import Box

GoOn = Callable[[], None]
"""What a search calls between its steps; it raises where nobody waits for the result any more."""


def without_end() -> None:
    """Let a search run to its end."""


class DetectionError(ValueError):
    """Arguments that nothing can be found with; the text says what, what was got, and what is allowed.

    `why` tells those apart that a person has to be told otherwise of: of a mark "nothing_marked", "too_large" and
    "too_small"; else it is empty.
    """

    def __init__(self, text: str, why: str = "") -> None:
        super().__init__(text)
        self.why = why


class DetectorMissingError(DetectionError):
    """The text detector is not installed."""


@dataclass(frozen=True)
class Region:
    """One thing that was found.

    Attributes:
        polygon: (N, 2) float32, its outline's corners as x, y in image pixels.
        score: 0 to 1, how sure the detector is.
    """

    polygon: NDArray[np.float32]
    score: float


@dataclass(frozen=True)
class Detection:
    """Everything that was found.

    Attributes:
        mask: (H, W) bool, True = found; the pixels themselves, not the outlines around them.
        regions: what the mask is made of, the surest first.
    """

    mask: NDArray[np.bool_]
    regions: tuple[Region, ...]


def as_uint8(image: NDArray) -> NDArray[np.uint8]:
    """Return the image at 8 bits a channel; the same array when it already is."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype not in (np.uint8, np.uint16):
        raise DetectionError(f"The image must be (height, width, 3) uint8 or uint16, not {image.shape} {image.dtype}.")
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)


def cut_box(box: Box | None, size: tuple[int, int]) -> Box:
    """Return the part of a box that lies in an image of `size` (height, width); the whole image for None."""
    height, width = size
    if box is None:
        return 0, 0, width, height
    left, top, right, bottom = box
    inside = max(0, left), max(0, top), min(width, right), min(height, bottom)
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise DetectionError(f"The box {tuple(box)} holds no pixel of an image {width} wide and {height} high.")
    return inside


def check_sensitivity(sensitivity: float) -> float:
    """Return the sensitivity, or raise when it is not from 0 to 1."""
    if not 0.0 <= sensitivity <= 1.0:
        raise DetectionError(f"sensitivity must be from 0 to 1, not {sensitivity}.")
    return float(sensitivity)


def outline_of(mask: NDArray[np.bool_], offset: tuple[int, int] = (0, 0)) -> list[NDArray[np.float32]]:
    """Return the outer outlines of a mask's parts as (N, 2) float32 polygons, the largest first."""
    contours, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE, offset=offset)
    contours = sorted(contours, key=cv2.contourArea, reverse=True)
    tolerance_px = max(1.0, max(mask.shape) / 1000)
    return [cv2.approxPolyDP(c, tolerance_px, True).reshape(-1, 2).astype(np.float32) for c in contours]
