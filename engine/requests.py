"""What a repair is asked with, what it gives, and what is refused.

An image is (H, W, 3) uint8 or uint16 RGB, a mask (H, W) bool, True = hole. Knows no model and no device.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from masks.boxes import Box
from notices import Note

QUALITIES = ("fast", "high")
MAX_ASKED_PX = 1024  # largest dilate_px and feather_px taken from a caller


class RepairError(ValueError):
    """Arguments that no repair can be made from; the text says what, what was got, and what is allowed."""


class UnavailableError(RepairError):
    """This machine does not have the requested device, precision or profile."""


@dataclass(frozen=True)
class RepairRequest:
    """One repair to make; see `Inpainter.repair` for the arguments.

    The engine does not look at `priority`, "interactive" or "batch": it is for the queues in front of it. `levels` are
    the values of a 16-bit photo that the network sees as 0 and 1, for an image that is a part of one; None = they are
    told from the image. `bounds` are what `masks.boxes.find_bounds` returns for the mask, where that is known, and
    are trusted: with a GPU, a large mask and quality "fast" what lies outside is not read; None = they are found.
    """

    image: NDArray
    mask: NDArray[np.bool_]
    dilate_px: int | None = None
    feather_px: int | None = None
    quality: str = "fast"
    priority: str = "interactive"
    transparent: NDArray[np.bool_] | None = None
    levels: tuple[int, int] | None = None
    bounds: Box | None = None


@dataclass
class RepairResult:
    """What a repair changed.

    Attributes:
        original: the image as given; referred to, not copied, so leave it alone until `image` was read.
        patches: (box, pixels) of everything that changed; boxes are disjoint, pixels of the image's dtype.
        timings_ms: milliseconds of plan, wait (for the device), upload, predict, composite, and total.
        notes: what a person should know, each with a stable code.
    """

    original: NDArray = field(repr=False)
    patches: list[tuple[Box, NDArray]] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)

    @cached_property
    def image(self) -> NDArray:
        """The whole repaired image, composed on first access; a copy, even when nothing changed."""
        image = self.original.copy()
        for (left, top, right, bottom), pixels in self.patches:
            image[top:bottom, left:right] = pixels
        return image


def check_request(request: RepairRequest) -> None:
    """Raise RepairError unless a repair can be made from the request."""
    image, mask = request.image, request.mask
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise RepairError(f"image must be an array (height, width, 3) of at least one pixel, got {_shape_of(image)}")
    if image.dtype not in (np.uint8, np.uint16):
        is_swapped = image.dtype.newbyteorder("=") == np.uint16  # as readers give what a file stores, TIFF's "MM"
        hint = (
            "image.astype(np.uint16) has this machine's order of bytes" if is_swapped else "scaled to the whole range"
        )
        raise RepairError(f"image must be uint8 or uint16, got {image.dtype}; convert it, {hint}")
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        got = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise RepairError(f"mask must be a bool array, got {got}; for a file's grey levels use mask > 127")
    if mask.shape != image.shape[:2]:
        raise RepairError(f"mask must be of the image's size {image.shape[:2]}, got {mask.shape}")
    _check_transparent(request)
    _check_bounds(request)
    for name, value in (("dilate_px", request.dilate_px), ("feather_px", request.feather_px)):
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (is_whole and 0 <= value <= MAX_ASKED_PX):
            raise RepairError(f"{name} must be None or a whole number from 0 to {MAX_ASKED_PX}, got {value!r}")
    if request.quality not in QUALITIES:
        raise RepairError(f"quality must be one of {', '.join(QUALITIES)}, got {request.quality!r}")


def _check_transparent(request: RepairRequest) -> None:
    transparent = request.transparent
    if transparent is None:
        return
    if not isinstance(transparent, np.ndarray) or transparent.dtype != np.bool_:
        got = transparent.dtype if isinstance(transparent, np.ndarray) else type(transparent).__name__
        raise RepairError(f"transparent must be None or a bool array, got {got}; for a file's alpha use alpha == 0")
    if transparent.shape != request.image.shape[:2]:
        raise RepairError(f"transparent must be of the image's size {request.image.shape[:2]}, got {transparent.shape}")


def _check_bounds(request: RepairRequest) -> None:
    if request.bounds is None:
        return
    left, top, right, bottom = request.bounds
    height, width = request.mask.shape
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise RepairError(f"bounds must be a box inside the mask of {width} x {height} pixels, got {request.bounds}")


def _shape_of(value: object) -> str:
    return f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
