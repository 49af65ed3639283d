"""Draws photos with holes one by one, for what is fitted on a CPU after training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from training.masks import MASK_PX, draw_mask
from training.photos import UnusablePhotoError, find_photos, read_photo

SIDE_PX = 384
Example = tuple[torch.Tensor, torch.Tensor]


def draw_photos(folder: Path, count: int, seed: int) -> list[Path]:
    """Return up to `count` photos of a folder, searched recursively, drawn by a seed.

    Raises UnusablePhotoError where there is none.
    """
    photos = find_photos(folder)
    return [photos[index] for index in np.random.default_rng(seed).permutation(len(photos))[:count]]


def draw_examples(
    photos: list[Path], seed: int, kind_shares: Mapping[str, float], least_hole_px: int = 1
) -> Iterator[Example]:
    """Yield a crop and a hole for each photo that has room for both.

    Args:
        photos: files; what is no photo is passed over, and what is smaller than a crop.
        seed: of crops and masks.
        kind_shares: of masks, as `draw_mask` takes them.
        least_hole_px: pixels that are missing at least; other crops are passed over.

    Yields:
        The photo, (1, 3, SIDE_PX, SIDE_PX) float32 in [0, 1], and its mask, (1, 1, SIDE_PX, SIDE_PX) float32.
    """
    random = np.random.default_rng(seed)
    start = (MASK_PX - SIDE_PX) // 2
    for path in photos:
        mask = draw_mask(int(random.integers(1 << 30)), kind_shares)[start : start + SIDE_PX, start : start + SIDE_PX]
        try:
            photo = read_photo(path)
        except UnusablePhotoError:
            continue
        if min(photo.shape[:2]) < SIDE_PX or mask.sum() < least_hole_px:
            continue
        top, left = (int(random.integers(length - SIDE_PX + 1)) for length in photo.shape[:2])
        crop = np.ascontiguousarray(photo[top : top + SIDE_PX, left : left + SIDE_PX])
        yield torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255, torch.from_numpy(mask)[None, None].float()
