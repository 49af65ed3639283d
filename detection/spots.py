"""Find spots: dust, specks, hairs and scratches, as the pixels that stick out of a place that is smooth otherwise.

What is thinner than a square and lighter or darker than all around it is what a top-hat or black-hat transform leaves
(Serra, Image Analysis and Mathematical Morphology, 1982, chapter XII). Each such spot is then compared with a ring
around it: how far it stands out, measured in what the ring itself varies by, is how surely it does not belong there. So
a speck on a cheek counts and the same speck in grass does not.

A photo is looked at in tiles, so that a large one takes no more memory than a small one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.found import Detection, GoOn, Region, as_uint8, check_sensitivity, cut_box, outline_of, without_end
from masks.boxes import Box

TILE_PX = 1024
THICKNESS_SHARE = 0.011  # of the photo's shorter side: no spot is thicker
THICKNESS_PX = (7, 43)  # and in no case less or more
LEAST_LEVELS = 9  # a fainter spot is grain
LEAST_GRAIN = 3.0  # times what all pixels around stand out on average: less is grain too
GRAIN_WINDOW = 8  # times a spot's thickness is around
SEED_SHARE = 0.4  # of a spot's own strength: pixels that stand out so much belong to it
RING_GAP_PX = 2  # the spot's soft rim, which is neither
RING_PX = 3
RING_LEVELS = 2.5  # added to what a ring varies by: in a sky without grain everything would stand out
MOST_SHARE = 0.5  # of a ring that other candidates take: more, and it is one of a pattern
LONG = 3.0  # times a spot's largest thickness is long: a hair or a scratch, which is thin
THIN_SHARE = 0.35  # of the largest thickness is as thick as a hair is; poles and wires are thicker
RIM_PX = 1  # by which a spot is grown: its soft rim
SURE = 18.0  # as many times the ring's own spread is score 1
LEAST_SCORE = 2.5 / SURE
MOST_OUTLINES = 2000  # as many as the route sends (`web/detect.py`)
SCORE_AT_ENDS = (0.72, 0.16)  # the least score at sensitivity 0 and at 1

Levels = NDArray[np.float32]


@dataclass(frozen=True)
class FoundSpots:
    """All that sticks out of a photo, before a sensitivity chooses.

    Attributes:
        size: (height, width) of the photo.
        places: (N,) uint32, the pixels of all spots, as indices into the flat photo, rising.
        scores: (N,) uint8, 255 = the surest.
    """

    size: tuple[int, int]
    places: NDArray[np.uint32]
    scores: NDArray[np.uint8]

    def select(self, sensitivity: float = 0.5) -> Detection:
        """Return what is sure enough.

        Args:
            sensitivity: 0 keeps only what sticks out far, 1 everything that might be a spot; more never finds less.

        Returns:
            The spots' mask, and the outline of each.
        """
        at_0, at_1 = SCORE_AT_ENDS
        least = 255 * (at_0 + (at_1 - at_0) * check_sensitivity(sensitivity))
        chosen = self.scores >= least
        mask = np.zeros(self.size, np.bool_)
        mask.reshape(-1)[self.places[chosen]] = True
        scores = np.zeros(self.size, np.uint8)
        scores.reshape(-1)[self.places[chosen]] = self.scores[chosen]
        # The largest first: of a texture taken for dust there are hundreds of thousands, and nobody looks at them all.
        regions = [Region(outline, _score_in(scores, outline)) for outline in outline_of(mask)[:MOST_OUTLINES]]
        return Detection(mask, tuple(sorted(regions, key=lambda region: -region.score)))


def find_spots(image: NDArray, *, box: Box | None = None, go_on: GoOn = without_end) -> FoundSpots:
    """Find everything that may be dust, a speck, a hair or a scratch in a photo, or in a part of it.

    Args:
        image: (H, W, 3) uint8 or uint16 RGB, not modified.
        box: look only in here.
        go_on: called between steps; what it raises ends the search.

    Returns:
        All candidates, for `FoundSpots.select` to choose from.

    Raises:
        DetectionError: for a wrong image or a box outside of it.
    """
    pixels = as_uint8(image)
    size = (pixels.shape[0], pixels.shape[1])
    thickness_px = int(np.clip(THICKNESS_SHARE * min(size), *THICKNESS_PX)) | 1
    places, scores = [], []
    for left, top, right, bottom in _tiles(cut_box(box, size)):
        go_on()
        around = 2 * thickness_px
        first_x, first_y = max(0, left - around), max(0, top - around)
        part = pixels[first_y : bottom + around, first_x : right + around]
        # Mirrored at the photo's edge, where half a ring would be too little to judge by.
        mirrored = np.asarray(cv2.copyMakeBorder(part, *4 * (thickness_px,), cv2.BORDER_REFLECT), np.uint8)
        seen = _scores_in(mirrored, thickness_px)[thickness_px:-thickness_px, thickness_px:-thickness_px]
        seen = seen[top - first_y : bottom - first_y, left - first_x : right - first_x]
        y, x = np.nonzero(seen)
        places.append(((y + top) * size[1] + (x + left)).astype(np.uint32))
        scores.append(seen[y, x])
    where = np.concatenate(places)
    order = np.argsort(where)
    return FoundSpots(size, where[order], np.concatenate(scores)[order])


def _tiles(box: Box) -> Iterator[Box]:
    """The tiles that a box consists of."""
    left, top, right, bottom = box
    for y in range(top, bottom, TILE_PX):
        for x in range(left, right, TILE_PX):
            yield x, y, min(right, x + TILE_PX), min(bottom, y + TILE_PX)


def _scores_in(part: NDArray[np.uint8], thickness_px: int) -> NDArray[np.uint8]:
    """(h, w) uint8 how surely each pixel of (h, w, 3) belongs to a spot, 0 for no spot."""
    square = np.ones((thickness_px, thickness_px), np.uint8)
    scores = np.zeros(part.shape[:2], np.uint8)
    # A light spot and a dark one side by side are two.
    for way in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        risen = cv2.morphologyEx(part, way, square, borderType=cv2.BORDER_REPLICATE)
        strength = np.asarray(risen.max(axis=2), np.uint8)
        np.maximum(scores, _judged(part, strength, thickness_px), out=scores)
    return scores


def _judged(part: NDArray[np.uint8], strength: NDArray[np.uint8], thickness_px: int) -> NDArray[np.uint8]:
    """Score each pixel, (h, w) uint8, from how far it stands out against thicker structures, (h, w) uint8."""
    # The strongest near a pixel decides what of its surroundings is the same spot.
    strongest = cv2.dilate(strength, np.ones((thickness_px, thickness_px), np.uint8))
    grain = cv2.blur(strength, 2 * (GRAIN_WINDOW * thickness_px,), borderType=cv2.BORDER_REFLECT)
    least = np.maximum(LEAST_GRAIN * grain, SEED_SHARE * strongest)
    candidates = (strength >= LEAST_LEVELS) & (strength >= least)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(candidates.view(np.uint8), connectivity=8)
    if count < 2:
        return np.zeros(strength.shape, np.uint8)
    outer = _grown(labels, RING_GAP_PX + RING_PX)
    ring = (outer > 0) & (_grown(labels, RING_GAP_PX) == 0)
    residual = part.astype(np.float32) - _behind(part, candidates, thickness_px)
    around = _Statistics(outer[ring], residual[ring], count)
    own = _Statistics(labels[candidates], residual[candidates], count)
    apart = np.abs(own.mean - around.mean) / (around.spread + RING_LEVELS)
    score = np.clip(apart.max(axis=1) / SURE, 0, 1)
    # What other candidates lie close around is one of a pattern: its ring has little left.
    full = _ring_px(stats)
    score *= np.clip(around.number / (MOST_SHARE * full), 0, 1)
    score *= _slenderness(stats, thickness_px)
    score[(around.number == 0) | (score < LEAST_SCORE)] = 0
    score[0] = 0
    kept = np.where(score[labels] > 0, labels, 0).astype(np.int32)
    grown = _grown(kept, RIM_PX)
    return (255 * score[grown]).round().astype(np.uint8)


def _ring_px(stats: NDArray[np.int32]) -> NDArray[np.float64]:
    """How many pixels the ring around each component's box has, its corners round."""
    sides = stats[:, cv2.CC_STAT_WIDTH] + stats[:, cv2.CC_STAT_HEIGHT]
    corners = np.pi * ((RING_GAP_PX + RING_PX) ** 2 - RING_GAP_PX**2)
    return np.asarray(2 * RING_PX * sides + corners, np.float64)


def _slenderness(stats: NDArray[np.int32], thickness_px: int) -> NDArray[np.float64]:
    """What each component's score is worth by its form: 1 for a speck and a hair, less for what is long and thick."""
    length = np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    thick = stats[:, cv2.CC_STAT_AREA] / np.maximum(length, 1)
    worth = np.clip(THIN_SHARE * thickness_px / np.maximum(thick, 1e-3), 0, 1)
    return np.where(length > LONG * thickness_px, worth, 1.0)


class _Statistics:
    """How many pixels each label has, and the mean and spread of their three channels."""

    def __init__(self, labels: NDArray[np.int32], values: Levels, count: int) -> None:
        self.number = np.bincount(labels, minlength=count)
        number = np.maximum(self.number, 1)[:, None]
        sums = [np.bincount(labels, weights=values[:, c], minlength=count) for c in range(3)]
        squares = [np.bincount(labels, weights=values[:, c] ** 2, minlength=count) for c in range(3)]
        self.mean = np.stack(sums, axis=1) / number
        self.spread = np.sqrt(np.maximum(0, np.stack(squares, axis=1) / number - self.mean**2))


def _behind(part: NDArray[np.uint8], candidates: NDArray[np.bool_], thickness_px: int) -> Levels:
    """Estimate what lies behind the candidates, (h, w, 3): the mean of the other pixels in a window of two spots."""
    window = (2 * thickness_px + 1, 2 * thickness_px + 1)
    known = (~candidates).astype(np.float32)
    share = cv2.blur(known, window)[..., None]
    mean = cv2.blur(part * known[..., None], window)
    return np.asarray(mean / np.maximum(share, 1e-3), np.float32)


def _grown(labels: NDArray[np.int32], px: int) -> NDArray[np.int32]:
    """Labels grown by so many pixels; where two meet the higher one stays."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * px + 1, 2 * px + 1))
    # A float32 holds every whole number up to 2 ** 24, more than a tile has pixels.
    return cv2.dilate(labels.astype(np.float32), disc).astype(np.int32)


def _score_in(scores: NDArray[np.uint8], outline: NDArray[np.float32]) -> float:
    left, top, width, height = cv2.boundingRect(outline)
    return float(scores[max(0, top) : top + height, max(0, left) : left + width].max(initial=0)) / 255
