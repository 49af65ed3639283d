"""Holds the training photos and masks on the device and cuts batches out of them.

Photos lie as uint8 in one padded tensor, so that a batch is one gather and no byte crosses the bus. Photos are drawn
by source, not one
by one: a folder of nine hundred similar landmarks shall not drown a folder of forty varied ones.
"""

from __future__ import annotations

import csv
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from training.masks import MASK_PX

SOURCE_EXPONENT = (
    0.6  # a source with n photos is drawn in proportion to n ** 0.6; 1 would be photo by photo, 0 source by source
)
SCALES = (1.0, 1.0, 1.0, 1.25, 1.5, 0.8)  # window side / crop side: above 1 the photo is shrunk, below 1 enlarged


def read_photo(path: Path) -> np.ndarray:
    """Read one photo as (H, W, 3) uint8 RGB."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise ValueError(f"{path} is not a readable photo")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def source_weights(names: list[str], table: Path | None) -> np.ndarray:
    """Return the probability of each photo, (n,) float64, from the table of sources (columns `file` and `source`)."""
    source = {}
    if table is not None:
        with table.open(newline="", encoding="utf-8") as file:
            source = {row["file"]: row["source"] for row in csv.DictReader(file)}
    sources = [source.get(name, "unknown") for name in names]
    counts = Counter(sources)
    weights = np.array([counts[s] ** (SOURCE_EXPONENT - 1.0) for s in sources])
    return weights / weights.sum()


class PhotoStore:
    """Photos and masks on one device; `batch` returns what a training step takes."""

    def __init__(
        self, folder: Path, table: Path | None, bank: np.ndarray, device: torch.device, seed: int, threads: int
    ) -> None:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp"})
        if not paths:
            raise ValueError(f"no photos below {folder}")
        with ThreadPoolExecutor(threads) as pool:
            photos = list(pool.map(read_photo, paths))
        sizes = np.array([photo.shape[:2] for photo in photos])
        store = torch.zeros(len(photos), int(sizes[:, 0].max()), int(sizes[:, 1].max()), 3, dtype=torch.uint8)
        for row, photo in zip(store, photos, strict=True):
            row[: photo.shape[0], : photo.shape[1]] = torch.from_numpy(photo)
        self.count, self.device = len(photos), device
        self.photos = store.to(device)
        self.sizes = torch.from_numpy(sizes).to(device)
        self.largest_px = int(sizes.min(1).max())
        self.weights = torch.from_numpy(source_weights([str(p.relative_to(folder)) for p in paths], table)).to(device)
        self.bank = torch.from_numpy(bank).to(device)
        self.random = torch.Generator(device).manual_seed(seed)
        self.choice = np.random.default_rng(seed)

    def _uniform(self, count: int) -> torch.Tensor:
        return torch.rand(count, device=self.device, generator=self.random)

    def windows(self, count: int, side_px: int) -> torch.Tensor:
        """Cut (count, 3, side_px, side_px) float32 windows in [0, 1], scaled, turned, mirrored and slightly
        recoloured.
        """
        window = min(round(side_px * float(self.choice.choice(SCALES))), self.largest_px)
        weights = torch.where(self.sizes.amin(1) >= window, self.weights, 0)
        pick = torch.multinomial(weights, count, replacement=True, generator=self.random)
        height, width = self.sizes[pick, 0], self.sizes[pick, 1]
        top = (self._uniform(count) * (height - window + 1)).long()
        left = (self._uniform(count) * (width - window + 1)).long()
        steps = torch.arange(window, device=self.device)
        rows, columns = (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None, :]
        image = self.photos[pick[:, None, None], rows, columns].permute(0, 3, 1, 2).float() / 255
        if window != side_px:
            image = F.interpolate(image, (side_px, side_px), mode="bilinear", antialias=True, align_corners=False)
        image = torch.where(self._uniform(count).view(-1, 1, 1, 1) < 0.5, image.flip(3), image)
        image = torch.where(self._uniform(count).view(-1, 1, 1, 1) < 0.15, image.transpose(2, 3), image)
        gain = 1 + 0.3 * (self._uniform(count).view(-1, 1, 1, 1) - 0.5)
        tint = 1 + 0.1 * (self._uniform(3 * count).view(-1, 3, 1, 1) - 0.5)
        shift = 0.1 * (self._uniform(count).view(-1, 1, 1, 1) - 0.5)
        return (image * gain * tint + shift).clamp(0, 1)

    def holes(self, count: int, side_px: int) -> torch.Tensor:
        """Cut (count, 1, side_px, side_px) float32 masks, 1 = hole; each has a hole and leaves at least half of the
        window known.
        """
        tries = 4 * count
        pick = torch.randint(len(self.bank), (tries,), device=self.device, generator=self.random)
        span = MASK_PX - side_px + 1
        top = (self._uniform(tries) * span).long()
        left = (self._uniform(tries) * span).long()
        steps = torch.arange(side_px, device=self.device)
        rows, columns = (top[:, None] + steps)[:, :, None], (left[:, None] + steps)[:, None, :]
        mask = self.bank[pick[:, None, None], rows, columns].float()[:, None]
        share = mask.mean((1, 2, 3))
        # The best of four tries: those within bounds first, in the order drawn.
        order = torch.argsort(((share < 0.003) | (share > 0.5)).int(), stable=True)[:count]
        mask = mask[order]
        mask = torch.where(self._uniform(count).view(-1, 1, 1, 1) < 0.5, mask.flip(3), mask)
        mask = torch.where(self._uniform(count).view(-1, 1, 1, 1) < 0.5, mask.flip(2), mask)
        return torch.where(self._uniform(count).view(-1, 1, 1, 1) < 0.3, mask.transpose(2, 3), mask)

    def batch(self, count: int, side_px: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (image, mask) of one step, channels-last."""
        image = self.windows(count, side_px).contiguous(memory_format=torch.channels_last)
        return image, self.holes(count, side_px)
