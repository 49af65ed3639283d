"""The inpainter: one model, its captured graphs, `repair()`, and the one lock on the GPU.

An image is (H, W, 3) uint8 or uint16 RGB, a mask (H, W) bool, True = hole. What comes back is what changed: patches,
each a box (left, top, right, bottom) and its pixels in the image's own integers. The known region is the original's,
byte for byte. Repairs that are handed in together run as one batch wherever their boxes share a bucket. Knows no files
and no HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from config import Note, Profile
from cropping import Crop, plan_crops
from filling import Task, fill
from holes import Box, CropRules
from lama.checkpoint import EMBEDDED_WEIGHTS, load_generator
from runner import (
    SMALL_PX,
    ModelRunner,
    RunnerError,
    choose_device,
    choose_precision,
    describe_card,
    pick_profile,
)
from stages import OnStage, StageClock

logger = logging.getLogger(__name__)

QUALITIES = ("fast", "high")
MAX_ASKED_PX = 1024  # largest dilate_px and feather_px taken from a caller

EMPTY_MASK = Note("The mask is empty, nothing was changed.", code="empty_mask")
SCALED = Note("The hole is larger than the model's input, so it was filled at a smaller scale.", code="scaled")


class RepairError(ValueError):
    """Arguments that no repair can be made from; the text says what, what was got, and what is allowed."""


@dataclass(frozen=True)
class RepairRequest:
    """One repair to make; see `Inpainter.repair` for the arguments."""

    image: NDArray
    mask: NDArray[np.bool_]
    dilate_px: int | None = None
    feather_px: int | None = None
    quality: str = "fast"


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


class Inpainter:
    """A LaMa model on one device that repairs photos; safe to call from several threads, which take turns."""

    def __init__(self, runner: ModelRunner, *, weights_name: str, profile_reason: str) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self.weights_name = weights_name
        self.profile_reason = profile_reason
        self.crop_rules = CropRules()

    @classmethod
    def load(
        cls,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        profile: Profile | str | None = None,
    ) -> Inpainter:
        """Load weights, choose how to run them, and warm up.

        Args:
            weights: a file, or None for the embedded ones.
            device: "auto", "cpu", "cuda" or "cuda:N".
            precision: "auto" (the profile's, or what the CPU is fast at), "fp16", "bf16" or "fp32".
            profile: a profile, the name of one, or None for the card's own.

        Raises:
            RepairError: this machine has no such device, precision or profile.
            CheckpointError: the weights can't be read.
        """
        try:
            chosen = choose_device(device)
            chosen_profile, reason = pick_profile(describe_card(chosen), profile)
            chosen_precision = choose_precision(precision, chosen_profile, chosen)
        except RunnerError as error:
            raise RepairError(str(error)) from error
        if chosen.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(chosen_profile.memory_fraction, chosen)
        runner = ModelRunner(load_generator(weights), device=chosen, precision=chosen_precision, profile=chosen_profile)
        inpainter = cls(runner, weights_name=Path(weights or EMBEDDED_WEIGHTS).stem, profile_reason=reason)
        inpainter._warm_up()
        return inpainter

    @property
    def device(self) -> str:
        """Where the model is: "cpu" or "cuda:0"."""
        return str(self._runner.device)

    @property
    def precision(self) -> str:
        """What it computes in: "fp16", "bf16" or "fp32"."""
        return self._runner.precision

    @property
    def profile(self) -> Profile:
        """The profile in use; `profile_reason` says why."""
        return self._runner.profile

    def describe(self) -> dict[str, object]:
        """Return what runs, for `/health`: device, precision, profile and reason, weights, kernels, graphs."""
        return {
            "device": self.device,
            "precision": self.precision,
            "profile": self.profile.name,
            "profile_reason": self.profile_reason,
            "weights": self.weights_name,
            **self._runner.describe(),
        }

    def repair(
        self,
        image: NDArray,
        mask: NDArray[np.bool_],
        *,
        dilate_px: int | None = None,
        feather_px: int | None = None,
        quality: str = "fast",
        on_stage: OnStage | None = None,
    ) -> RepairResult:
        """Fill the hole of one image.

        Args:
            image: (H, W, 3) uint8 or uint16 RGB; not modified.
            mask: (H, W) bool, True = hole; not modified. An empty one gives the image back with a note.
            dilate_px: how far the hole grows, 0 to 1024; None = in proportion to its thickness.
            feather_px: width of the soft edge, within the ring that dilation added; None = all of it.
            quality: "fast", or "high": holes larger than the largest bucket are refined at full resolution.
            on_stage: called with "plan", "predict", "composite" as each begins.

        Raises:
            RepairError: an argument is not as described.
        """
        request = RepairRequest(image, mask, dilate_px, feather_px, quality)
        return self.repair_many([request], on_stage=on_stage)[0]

    def repair_many(self, requests: Sequence[RepairRequest], *, on_stage: OnStage | None = None) -> list[RepairResult]:
        """Repair several images, boxes that share a bucket as one batch; results are those of one by one.

        Batched and single predictions differ by the rounding of the precision, at most 2 of 255 in fp16.

        Raises:
            RepairError: one of the requests is not as `repair` describes; nothing has run then.
        """
        for request in requests:
            check_request(request)
        clock = StageClock(self._runner.device, on_stage)
        clock.enter("plan")
        plans = [self._plan(request) for request in requests]
        clock.enter("wait")
        with self._device_turn():
            filled = iter(
                fill(
                    [
                        Task(request.image, crop)
                        for request, crops in zip(requests, plans, strict=True)
                        for crop in crops
                    ],
                    self._runner,
                    clock,
                )
            )
            clock.enter("")
            dropped = self._runner.take_dropped()
            timings_ms = clock.timings_ms()
        results = []
        for request, crops in zip(requests, plans, strict=True):
            result = RepairResult(request.image, timings_ms=dict(timings_ms))
            notes = [*_plan_notes(crops)]
            for crop in crops:
                done = next(filled)
                result.patches.append((crop.patch_box, done.patch))
                notes += done.notes
            if dropped:
                notes.append(Note(f"CUDA graphs are off: {dropped}.", code="graph_dropped"))
            result.notes = list({note.code: note for note in notes}.values())
            results.append(result)
        return results

    def _plan(self, request: RepairRequest) -> list[Crop]:
        return plan_crops(
            request.mask,
            buckets_px=self.profile.buckets_px,
            fixed_buckets=self._runner.device.type == "cuda",
            dilate_px=request.dilate_px,
            feather_px=request.feather_px,
            rules=self.crop_rules,
        )

    @contextlib.contextmanager
    def _device_turn(self) -> Iterator[None]:
        """Hold the device: one thread at a time, on the model's own card, without gradients."""
        device = self._runner.device
        on_card = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
        with self._lock, on_card, torch.inference_mode():
            yield

    def _warm_up(self) -> None:
        """Load kernels and capture graphs, then repair something small, plain and scaled, as requests will."""
        started_s = time.perf_counter()
        with self._device_turn():
            self._runner.warm_up()
        for side in (SMALL_PX,) if self._runner.device.type == "cpu" else (SMALL_PX, self.profile.input_px + 64):
            mask = np.zeros((side, side), np.bool_)
            mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
            self.repair(np.zeros((side, side, 3), np.uint8), mask)
        logger.info("ready on %s after %.1f s: %s", self.device, time.perf_counter() - started_s, self.describe())


def check_request(request: RepairRequest) -> None:
    """Raise RepairError unless a repair can be made from the request."""
    image, mask = request.image, request.mask
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise RepairError(f"image must be an array (height, width, 3) of at least one pixel, got {_shape_of(image)}")
    if image.dtype not in (np.uint8, np.uint16):
        raise RepairError(f"image must be uint8 or uint16, got {image.dtype}; convert it, scaled to the whole range")
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        got = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise RepairError(f"mask must be a bool array, got {got}; for a file's grey levels use mask > 127")
    if mask.shape != image.shape[:2]:
        raise RepairError(f"mask must be of the image's size {image.shape[:2]}, got {mask.shape}")
    for name, value in (("dilate_px", request.dilate_px), ("feather_px", request.feather_px)):
        is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not (is_whole and 0 <= value <= MAX_ASKED_PX):
            raise RepairError(f"{name} must be None or a whole number from 0 to {MAX_ASKED_PX}, got {value!r}")
    if request.quality not in QUALITIES:
        raise RepairError(f"quality must be one of {', '.join(QUALITIES)}, got {request.quality!r}")


def _shape_of(value: object) -> str:
    return f"shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _plan_notes(crops: list[Crop]) -> list[Note]:
    if not crops:
        return [EMPTY_MASK]
    return [SCALED] if any(crop.is_scaled for crop in crops) else []
