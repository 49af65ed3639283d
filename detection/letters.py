"""The letters' own pixels inside a line of text: strokes, outlines and shadows, not the box around them.

Letters differ from what lies around them in one direction: lighter, darker, or in some colour. So what lies behind is
estimated from the pixels that are no stroke, and how far each pixel has moved from there in the letters' direction says
whether it is one. That holds for letters that let the photo shine through, whose colour alone would not tell them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from masks.boxes import Box

WORK_HEIGHT_PX = 96  # a line is looked at no larger than this high
KERNEL_SHARE = 0.36  # of a line's height: no stroke is thicker
BLUR_SHARE = 0.3  # of a line's height: what lies behind is smooth over so much
REDUCED_SIGMA_PX = 8.0  # standard deviation of a blur at reduced size, at least: what it leaves out is nothing there
RIM = 0.28  # of the letters' typical strength: a pixel that has moved so far is one, if it touches a sure one
SURE = 0.5
NOISE = 2.5  # times the background's own spread: less is no letter
OUTLINE = 0.35  # of the letters' typical strength, in any direction: an outline or a shadow, if it touches a letter
OUTLINE_REACH = 0.16  # of a line's height
MOST_SHARE = 0.75  # of a line; more than this is not letters but a failure to tell them
LEAST_SHARE = 0.02

Gray = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Letters:
    """Letters of one line: where `mask` (h, w) bool lies in the image."""

    box: Box
    mask: NDArray[np.bool_]


def find_letters(image: NDArray[np.uint8], polygon: NDArray[np.float32]) -> Letters:
    """Return the pixels of the letters in a line of text.

    Args:
        image: (H, W, 3) uint8 RGB, not modified.
        polygon: (N, 2) float32, the line's outline, x and y.

    Returns:
        The letters, or the whole outline where they cannot be told from what lies behind.
    """
    line_px = max(4.0, min(cv2.minAreaRect(polygon)[1]))
    box = _around(polygon, round(0.7 * line_px), image.shape[:2])
    left, top, right, bottom = box
    crop = image[top:bottom, left:right]
    scale = min(1.0, WORK_HEIGHT_PX / line_px)
    small = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else crop
    inside = np.zeros(small.shape[:2], np.uint8)
    placed = ((polygon - (left, top)) * scale).round().astype(np.int32)
    cv2.fillPoly(inside, [placed], 1)
    letters = _segment(small.astype(np.float32), inside.view(np.bool_), line_px * scale)
    if letters is None:
        letters = inside.view(np.bool_)
    if scale < 1:
        soft = cv2.resize(letters.astype(np.float32), crop.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        letters = soft > 0.4
    return Letters(box, letters)


def _segment(image: Gray, inside: Mask, line_px: float) -> Mask | None:
    """(h, w) bool letters in (h, w, 3) float32, or None when they cannot be told."""
    ring = ~inside
    if not ring.any():
        return None
    first = min(
        (_first_guess(image, inside, line_px, light) for light in (True, False)),
        key=lambda guess: _unlike_outside(image, guess, inside, ring),
    )
    letters, moved, background = first, image, image
    for spread in (0.04, 0.1):
        if not letters.any():
            return None
        background = _fill_behind(image, _dilate(letters, max(1.0, spread * line_px)), BLUR_SHARE * line_px)
        moved = image - background
        direction = moved[letters].mean(axis=0)
        length = float(np.linalg.norm(direction))
        if length < 1.0:
            return None
        strength = moved @ (direction / length)
        typical = float(np.median(strength[letters]))
        noise = _spread(strength[ring])
        sure = strength > max(SURE * typical, NOISE * noise)
        letters = _touching(inside & (strength > max(RIM * typical, 0.6 * NOISE * noise)), sure & inside)
    if not letters.any():
        return None
    letters = letters | _outlines(moved, letters, inside, ring, line_px, typical)
    share = np.count_nonzero(letters & inside) / np.count_nonzero(inside)
    if not LEAST_SHARE <= share <= MOST_SHARE:
        return None
    return _dilate(letters, max(1.0, line_px / 40))


def _first_guess(image: Gray, inside: Mask, line_px: float, light: bool) -> Mask:
    """Strokes that are lighter, or darker, than what is next to them."""
    size = max(3, round(KERNEL_SHARE * line_px) | 1)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    operation = cv2.MORPH_TOPHAT if light else cv2.MORPH_BLACKHAT
    hat = cv2.morphologyEx(image, operation, kernel).mean(axis=2)
    levels = np.clip(hat[inside], 0, 255).astype(np.uint8).reshape(-1, 1)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return np.asarray(inside & (hat > max(threshold, 2.0)))


def _unlike_outside(image: Gray, letters: Mask, inside: Mask, ring: Mask) -> float:
    """How unlike the surroundings the gaps that a guess leaves are, less how unlike its letters are."""
    between = inside & ~_dilate(letters, 1)
    if not letters.any() or not between.any():
        return np.inf
    outside = image[ring].mean(axis=0)
    return float(np.linalg.norm(image[between].mean(axis=0) - outside)) - float(
        np.linalg.norm(image[letters].mean(axis=0) - outside)
    )


def _fill_behind(image: Gray, missing: Mask, sigma_px: float) -> Gray:
    """The image, blurred, without the missing pixels: from near ones where there are some, else from farther ones."""
    known = (~missing).astype(np.float32)
    total = np.zeros_like(image)
    weight = np.zeros_like(known)
    for factor, share in ((1.0, 1.0), (3.0, 1e-2), (10.0, 1e-4)):
        sigma = max(1.0, sigma_px * factor)
        total += share * _blurred(image * known[..., None], sigma)
        weight += share * _blurred(known, sigma)
    return np.asarray(total / np.maximum(weight, 1e-9)[..., None], np.float32)


def _blurred(field: Gray, sigma_px: float) -> Gray:
    """A Gaussian blur; a wide one at reduced size, as at full size it takes as many products as it is wide."""
    reduced = max(1, int(sigma_px / REDUCED_SIGMA_PX))
    height, width = field.shape[:2]
    size = (-(-width // reduced), -(-height // reduced))
    small = cv2.resize(field, size, interpolation=cv2.INTER_AREA)
    blurred = cv2.GaussianBlur(small, (0, 0), sigma_px * size[0] / width, sigmaY=sigma_px * size[1] / height)
    return np.asarray(cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def _outlines(moved: Gray, letters: Mask, inside: Mask, ring: Mask, line_px: float, typical: float) -> Mask:
    """Outlines and shadows: what differs from behind next to a letter, in whatever direction."""
    distance = np.linalg.norm(moved, axis=2)
    noise = float(np.median(distance[ring])) + NOISE * _spread(distance[ring])
    reach = _dilate(letters, max(2.0, OUTLINE_REACH * line_px)) & _dilate(inside, OUTLINE_REACH * line_px)
    beside = reach & (distance > max(OUTLINE * typical, noise))
    return _touching(beside | letters, letters)


def _touching(pixels: Mask, seeds: Mask) -> Mask:
    """Those connected parts of `pixels` that hold a seed."""
    _, labels = cv2.connectedComponents(pixels.astype(np.uint8), connectivity=8)
    wanted = np.zeros(int(labels.max()) + 1, np.bool_)
    wanted[labels[seeds & pixels]] = True
    wanted[0] = False
    return np.asarray(wanted[labels])


def _dilate(mask: Mask, radius_px: float) -> Mask:
    size = 2 * max(1, round(radius_px)) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.dilate(mask.astype(np.uint8), kernel).view(np.bool_)


def _spread(values: NDArray[np.float32]) -> float:
    """A standard deviation that outliers do not move."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _around(polygon: NDArray[np.float32], margin_px: int, size: tuple[int, int]) -> Box:
    left, top = np.floor(polygon.min(axis=0)).astype(int) - margin_px
    right, bottom = np.ceil(polygon.max(axis=0)).astype(int) + margin_px + 1
    return max(0, int(left)), max(0, int(top)), min(size[1], int(right)), min(size[0], int(bottom))
