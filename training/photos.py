"""Holds the training photos and masks on the device and cuts batches out of them.

Photos lie as uint8 in one padded tensor, so that a batch is one gather and no byte crosses the bus. Photos are drawn
by source, not one by one: a folder of nine hundred similar landmarks shall not drown a folder of forty varied ones.
"""

from __future__ import annotations

import csv
import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from training.masks import MASK_PX

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
# A source with n photos is drawn in proportion to n ** 0.6; 1 would be photo by photo, 0 source by source.
SOURCE_EXPONENT = 0.6
LEAST_SCALE, LARGEST_SCALE = 0.7, 1.75  # window side / crop side: above 1 the photo is shrunk, below 1 enlarged
LARGEST_STRETCH = 1.2  # of one side against the other
TURNED_SHARE, LARGEST_TURN_DEGREES = 0.3, 12.0
EXCHANGED_SHARE = 0.2  # of the photos: red, green and blue change places


class UnusablePhotoError(ValueError):
    """There is no photo, or one of them can't be read."""


def find_photos(folder: Path) -> list[Path]:
    """Return the photos of a folder, searched recursively; UnusablePhotoError where there is none."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise UnusablePhotoError(f"no photos below {folder} ({' '.join(SUFFIXES)})")
    return paths


def read_photo(path: Path) -> np.ndarray:
    """Read one photo as (H, W, 3) uint8 RGB."""
    try:
        # Not `imread`: of a JPEG that was cut off it fills the rest with grey, which would be learnt with the photo.
        bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        bgr = None
    if bgr is None:
        raise UnusablePhotoError(f"{path} is not a readable photo; mend it or take it away")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_sources(table: Path) -> dict[str, str]:
    """Return each file's source from a table of the columns `file` and `source`. Raises ValueError for another."""
    try:
        with table.open(newline="", encoding="utf-8") as file:
            return {row["file"]: row["source"] for row in csv.DictReader(file)}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"{table} can't be read as a table: {error}") from error
    except KeyError as error:
        raise ValueError(f"{table} has no column {error}; it needs file and source") from error


def source_weights(names: list[str], table: Path | None) -> np.ndarray:
    """Return the probability of each photo, (n,) float64, from the table of sources."""
    source = {} if table is None else read_sources(table)
    sources = [source.get(name, "unknown") for name in names]
    counts = Counter(sources)
    weights = np.array([counts[s] ** (SOURCE_EXPONENT - 1.0) for s in sources])
    return weights / weights.sum()


class PhotoStore:
    """Photos and masks on one device; `batch` returns what a training step takes."""

    def __init__(
        self, folder: Path, table: Path | None, bank: np.ndarray, device: torch.device, seed: int, threads: int
    ) -> None:
        paths = find_photos(folder)
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

    def windows(self, count: int, side_px: int, *, plain: bool) -> torch.Tensor:
        """Cut (count, 3, side_px, side_px) float32 windows in [0, 1].

        Plain ones are mirrored and slightly recoloured. The others are scaled and stretched, a batch alike, then
        turned, mirrored and recoloured one by one, so that few photos show more.
        """
        window_height, window_width = (min(side_px, self.largest_px),) * 2 if plain else self._window(side_px)
        fits = (self.sizes[:, 0] >= window_height) & (self.sizes[:, 1] >= window_width)
        pick = torch.multinomial(torch.where(fits, self.weights, 0), count, replacement=True, generator=self.random)
        height, width = self.sizes[pick, 0], self.sizes[pick, 1]
        top = (self._uniform(count) * (height - window_height + 1)).long()
        left = (self._uniform(count) * (width - window_width + 1)).long()
        rows = top[:, None, None] + torch.arange(window_height, device=self.device)[:, None]
        columns = left[:, None, None] + torch.arange(window_width, device=self.device)
        image = self.photos[pick[:, None, None], rows, columns].permute(0, 3, 1, 2).float() / 255
        if (window_height, window_width) != (side_px, side_px):
            mode = "bilinear" if min(window_height, window_width) > side_px else "bicubic"
            image = F.interpolate(image, (side_px, side_px), mode=mode, antialias=True, align_corners=False)
        image = torch.where(self._chance(count, 0.5), image.flip(3), image)
        if plain:
            return self._exposed(image.clamp(0, 1), tint=0.1)
        image = self._turned(image)
        image = torch.where(self._chance(count, 0.1), image.flip(2), image)
        image = torch.where(self._chance(count, 0.2), image.transpose(2, 3), image)
        return self._exposed(self._recoloured(image.clamp(0, 1)), tint=0.15)

    def _window(self, side_px: int) -> tuple[int, int]:
        """Return height and width of a varied batch's windows in pixels."""
        # Photos that are only a little larger than the crop still are shrunk as far as they go.
        largest = min(LARGEST_SCALE, self.largest_px / side_px)
        scale = math.exp(self.choice.uniform(math.log(LEAST_SCALE), math.log(max(LEAST_SCALE, largest))))
        stretch = LARGEST_STRETCH ** self.choice.uniform(-0.5, 0.5)
        sides = (round(side_px * scale * stretch), round(side_px * scale / stretch))
        return min(sides[0], self.largest_px), min(sides[1], self.largest_px)

    def _turned(self, image: torch.Tensor) -> torch.Tensor:
        """Turn some of the photos by a few degrees, enlarged so that no corner is empty."""
        count = len(image)
        angle = (2 * self._uniform(count) - 1) * math.radians(LARGEST_TURN_DEGREES)
        zoom = 1 / (angle.cos() + angle.sin().abs())
        cosine, sine = angle.cos() * zoom, angle.sin() * zoom
        nothing = torch.zeros_like(angle)
        turn = torch.stack([torch.stack([cosine, -sine, nothing], 1), torch.stack([sine, cosine, nothing], 1)], 1)
        places = F.affine_grid(turn, list(image.shape), align_corners=False)
        turned = F.grid_sample(image, places, mode="bicubic", padding_mode="border", align_corners=False)
        return torch.where(self._chance(count, TURNED_SHARE), turned, image)

    def _recoloured(self, image: torch.Tensor) -> torch.Tensor:
        """Change brightness, saturation and, in some photos, which channel is which."""
        count = len(image)
        order = torch.rand(count, 3, device=self.device, generator=self.random).argsort(1)
        exchanged = image.gather(1, order.view(-1, 3, 1, 1).expand_as(image))
        image = torch.where(self._chance(count, EXCHANGED_SHARE), exchanged, image)
        image = image.clamp_min(1e-4) ** (0.5 * self._signed(count)).exp()
        grey = image.mean(1, keepdim=True)
        return (grey + (image - grey) * (1 + 0.6 * self._signed(count))).clamp(0, 1)

    def _exposed(self, image: torch.Tensor, *, tint: float) -> torch.Tensor:
        """Change contrast, by up to half of `tint` the channels' shares, and black."""
        count = len(image)
        gain, tints = 1 + 0.3 * self._signed(count), 1 + tint * self._signed(count, 3)
        return (image * gain * tints + 0.1 * self._signed(count)).clamp(0, 1)

    def _signed(self, count: int, channels: int = 1) -> torch.Tensor:
        """Numbers from -0.5 to 0.5, (count, channels, 1, 1)."""
        return self._uniform(count * channels).view(-1, channels, 1, 1) - 0.5

    def _chance(self, count: int, share: float) -> torch.Tensor:
        """True for a `share` of the photos, (count, 1, 1, 1)."""
        return self._uniform(count).view(-1, 1, 1, 1) < share

    def holes(self, count: int, side_px: int) -> torch.Tensor:
        """Cut (count, 1, side_px, side_px) float32 masks, 1 = hole.

        Each has a hole and leaves at least half of the window known.
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
        mask = torch.where(self._chance(count, 0.5), mask.flip(3), mask)
        mask = torch.where(self._chance(count, 0.5), mask.flip(2), mask)
        return torch.where(self._chance(count, 0.3), mask.transpose(2, 3), mask)

    def batch(self, count: int, side_px: int, *, plain: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (image, mask) of one step, channels-last; a share `plain` of the batches is of plain windows."""
        is_plain = self.choice.random() < plain
        image = self.windows(count, side_px, plain=is_plain).contiguous(memory_format=torch.channels_last)
        return image, self.holes(count, side_px)
