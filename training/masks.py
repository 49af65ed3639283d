"""Draws training masks like those people paint: strokes, silhouettes, text and blemishes.

A mask is a (side, side) uint8 array, 1 = hole. Sizes are given for a photo of about 512 px, which is what the network
sees most often; the loop takes smaller windows out of these masks, never resized ones, so that a stroke keeps its width
in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import cv2
import numpy as np

MASK_PX = 512
KIND_SHARES = {"thin": 0.19, "medium": 0.13, "thick": 0.21, "object": 0.22, "text": 0.20, "blemish": 0.05}


def draw_strokes(mask: np.ndarray, rng: np.random.Generator, width_px: tuple[int, int], count: tuple[int, int]) -> None:
    """Draw broken lines whose joints are round and whose segments turn at random."""
    side = mask.shape[0]
    for _ in range(rng.integers(*count)):
        width = int(rng.integers(*width_px))
        point = rng.integers(0, side, 2).astype(float)
        angle = rng.uniform(0, 2 * math.pi)
        for _ in range(rng.integers(1, 7)):
            angle += rng.uniform(-2.2, 2.2) if rng.random() < 0.8 else rng.uniform(-0.3, 0.3)
            following = point + rng.uniform(20, 150) * np.array([math.cos(angle), math.sin(angle)])
            ends = [(int(x), int(y)) for x, y in (point, following)]
            cv2.line(mask, ends[0], ends[1], 1, width)
            if width > 6:
                cv2.circle(mask, ends[1], width // 2, 1, -1)
            point = following


def draw_silhouettes(mask: np.ndarray, rng: np.random.Generator) -> None:
    """Draw blobs with a wavy or a cornered outline, now and then two that overlap."""
    side = mask.shape[0]
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(18, 110)
        centre = rng.uniform(0, side, 2)
        corners = int(rng.integers(5, 24))
        angles = np.linspace(0, 2 * math.pi, corners, endpoint=False) + rng.uniform(0, 0.3, corners)
        radii = radius * rng.uniform(0.6, 1.1, corners)
        if corners > 12:
            radii = np.convolve(np.concatenate([radii[-2:], radii, radii[:2]]), np.ones(5) / 5, "valid")
        stretch = np.array([rng.uniform(0.6, 1.5), 1.0])
        outline = centre + stretch * np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
        cv2.fillPoly(mask, [outline.astype(np.int32)], 1)
        if rng.random() < 0.25:
            size = rng.uniform(20, 160, 2)
            low, high = (centre - size / 2).astype(int), (centre + size / 2).astype(int)
            cv2.rectangle(mask, (int(low[0]), int(low[1])), (int(high[0]), int(high[1])), 1, -1)


def draw_text(mask: np.ndarray, rng: np.random.Generator) -> None:
    """Write lines of letters, straight or turned, some grown by the outline a watermark has."""
    side = mask.shape[0]
    for _ in range(rng.integers(1, 6)):
        letters = "".join(chr(c) for c in rng.integers(48, 123, rng.integers(3, 16)))
        font, scale = int(rng.integers(0, 8)), float(rng.uniform(0.4, 2.0))
        thickness = max(1, round(scale * rng.uniform(0.7, 2.2)))
        place = (int(rng.integers(-60, side - 60)), int(rng.integers(10, side)))
        layer = np.zeros_like(mask)
        cv2.putText(layer, letters, place, font, scale, 1, thickness, cv2.LINE_8)
        if rng.random() < 0.3:
            turn = cv2.getRotationMatrix2D(place, float(rng.uniform(-45, 45)), 1.0)
            layer = cv2.warpAffine(layer, turn, (side, side), flags=cv2.INTER_NEAREST)
        if rng.random() < 0.5:
            layer = cv2.dilate(layer, np.ones((3, 3), np.uint8))
        mask |= layer


def draw_blemishes(mask: np.ndarray, rng: np.random.Generator) -> None:
    """Scatter small ellipses: dust, spots, birds in a sky."""
    side = mask.shape[0]
    for _ in range(rng.integers(8, 60)):
        axes = tuple(int(a) for a in rng.integers(1, 12, 2))
        place = (int(rng.integers(0, side)), int(rng.integers(0, side)))
        cv2.ellipse(mask, place, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)


def draw_mask(seed: int, kind_shares: Mapping[str, float] = KIND_SHARES) -> np.ndarray:
    """Draw one mask, (MASK_PX, MASK_PX) uint8, of a kind drawn by its share; the same seed gives the same mask."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((MASK_PX, MASK_PX), np.uint8)
    shares = np.array(list(kind_shares.values()))
    kind = rng.choice(list(kind_shares), p=shares / shares.sum())
    if kind == "thin":
        draw_strokes(mask, rng, (1, 13), (2, 12))
    elif kind == "medium":
        draw_strokes(mask, rng, (12, 48), (2, 8))
    elif kind == "thick":
        draw_strokes(mask, rng, (45, 120), (1, 4))
    elif kind == "object":
        draw_silhouettes(mask, rng)
    elif kind == "text":
        draw_text(mask, rng)
    else:
        draw_blemishes(mask, rng)
    return mask


def draw_bank(count: int, seed: int, workers: int, kind_shares: Mapping[str, float] = KIND_SHARES) -> np.ndarray:
    """Draw `count` masks in `workers` processes: (count, MASK_PX, MASK_PX) uint8."""
    with ProcessPoolExecutor(workers) as pool:
        seeds = range(seed, seed + count)
        return np.stack(list(pool.map(partial(draw_mask, kind_shares=kind_shares), seeds, chunksize=64)))
