"""The inpainter: one model, its captured graphs, `repair()`, and the one lock on the GPU.

An image is (H, W, 3) uint8 or uint16 RGB, a mask (H, W) bool, True = hole. What comes back is what changed: patches,
each a box (left, top, right, bottom) and its pixels in the image's own integers. The known region is the original's,
byte for byte. Repairs that are handed in together run as one batch wherever their boxes share a bucket. Knows no files
and no HTTP.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from engine.autotune import AutotunedProfile, autotune_card
from engine.context_pass import context_crop
from engine.cuda_graphs import is_out_of_memory
from engine.executor import Filled, Task, fill
from engine.model_runner import (
    SMALL_PX,
    ModelRunner,
    RunnerError,
    choose_device,
    choose_precision,
    describe_card,
    few_threads,
    pick_profile,
)
from engine.profiles import Profile
from engine.requests import RepairError, RepairRequest, RepairResult, check_request
from engine.stage_timer import OnStage, StageTimer
from engine.tiled_refinement import hard_edged, refine
from lama.catalogue import find_weights
from lama.checkpoint import EMBEDDED_WEIGHTS, load_generator
from lama.generator import Generator
from masks.boxes import Box, guess_bounds, has_hole_beyond
from masks.crop_plan import Crop, plan_crops
from masks.dilation import CropRules
from notices import Note

__all__ = ["Inpainter", "RepairError", "RepairRequest", "RepairResult", "autotune_profile"]

logger = logging.getLogger(__name__)

LARGE_PHOTO_PX = 2048  # side of the photo that the host of a GPU rehearses with, and from which it guesses bounds
VAST_PHOTO_PX = 4096  # and of the one that leaves memory at hand for the largest holes
STEADY_STATE_REPAIRS = 10

EMPTY_MASK = Note("The mask is empty, nothing was changed.", code="empty_mask")
SCALED = Note("The hole is larger than the model's input, so it was filled at a smaller scale.", code="scaled")


class Inpainter:
    """A LaMa model on one device that repairs photos; safe to call from several threads, which take turns."""

    def __init__(self, runner: ModelRunner, *, weights_name: str, profile_reason: str) -> None:
        self._runner = runner
        self._lock = threading.Lock()
        self._guesses_bounds = runner.device.type == "cuda"  # nobody waits for a CPU with nothing to do
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
            weights: a file, the name of weights that were fetched (`downloads.find_weights`), or None for the
                embedded ones.
            device: "auto", "cpu", "cuda" or "cuda:N".
            precision: "auto" (the profile's, or what the CPU is fast at), "fp16", "bf16" or "fp32".
            profile: a profile, the name of one, or None for the card's own.

        Raises:
            RepairError: this machine has no such device, precision or profile.
            CheckpointError: the weights can't be read.
            DownloadError: weights of that name have not been fetched.
        """
        path = _weights_path(weights)
        try:
            chosen = choose_device(device)
            chosen_profile, reason = pick_profile(describe_card(chosen), profile)
            chosen_precision = choose_precision(precision, chosen_profile, chosen)
        except RunnerError as error:
            raise RepairError(str(error)) from error
        try:
            if chosen.type == "cuda":
                logger.info("loading onto %s; kernels are compiled at the first start, for about a minute", chosen)
                torch.cuda.set_per_process_memory_fraction(chosen_profile.memory_fraction, chosen)
            with few_threads():
                generator = load_generator(path)
                runner = ModelRunner(generator, device=chosen, precision=chosen_precision, profile=chosen_profile)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if device != "auto":
                raise RepairError(f"{chosen} has no room for the weights: {error}") from error
            logger.warning("%s has no room for the weights, so the CPU computes, which is slower: %s", chosen, error)
            inpainter = cls.load(weights, device="cpu", precision="fp32" if precision == "fp32" else "auto")
            inpainter.profile_reason = f"{chosen} has no room for the weights. {inpainter.profile_reason}"
            return inpainter
        inpainter = cls(runner, weights_name=_weights_name(path), profile_reason=reason)
        started_s = time.perf_counter()
        with few_threads() if chosen.type == "cuda" else contextlib.nullcontext():
            inpainter._warm_up()
        # What was loaded stays: a full collection over it would stop a repair for 50 ms.
        gc.collect()
        gc.freeze()
        atexit.register(gc.unfreeze)  # or extensions tell people at the end what of theirs is left
        inpainter._reach_steady_state()
        logger.info(
            "ready on %s after %.1f s: %s", inpainter.device, time.perf_counter() - started_s, inpainter.describe()
        )
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
            "memory_mib": torch.cuda.memory_reserved(self._runner.device) >> 20 if self.device != "cpu" else None,
            **self._runner.describe(),
        }

    def switch_weights(self, weights: str | Path | None) -> None:
        """Go over to other weights without a restart; two models are never on the device at once.

        Repairs wait meanwhile. When it fails, the weights before are in use again.

        Args:
            weights: as in `load`.

        Raises:
            CheckpointError: the weights can't be read.
            DownloadError: weights of that name have not been fetched.
            RepairError: the device has no room for them.
        """
        path = _weights_path(weights)
        with few_threads():
            generator = load_generator(path)
        with self._device_turn(), few_threads() if self._runner.device.type == "cuda" else contextlib.nullcontext():
            before = self._runner
            before.release()
            failure = self._take_over(generator)
            if not failure:
                self.weights_name = _weights_name(path)
                return
            try:
                before.restore()
            except Exception as error:  # whatever it was, the next repair tries again, and has the CPU to fall back on
                logger.error("%s can't be put back onto %s: %s", self.weights_name, self.device, error)
        raise RepairError(f"{_weights_name(path)} can't be put onto {self.device}: {failure}")

    def _take_over(self, generator: Generator) -> str:
        """Run `generator` from now on, or say why that fails; by then nothing of it is on the device any more."""
        before = self._runner
        try:
            runner = ModelRunner(generator, device=before.device, precision=before.precision, profile=before.profile)
            runner.warm_up()
        except Exception as error:  # whatever it was, the model before has to come back
            failure = str(error) or type(error).__name__
        else:
            self._runner = runner
            return ""
        # Not in the handler, whose traceback holds the new model's tensors.
        runner = None  # type: ignore[assignment]
        if before.device.type == "cuda":
            torch.cuda.empty_cache()
        return failure

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
            dilate_px: how far the hole grows, 0 to 1024; None = in proportion to its thickness, at most 32, the drop
                shadow of lettering taken in.
            feather_px: width of the soft edge, within the ring that dilation added; None = one pixel.
            quality: "fast", or "high": holes larger than the largest bucket are refined at full resolution.
            on_stage: called with "plan", "predict", "composite" as each begins, with "refine" for each tile of it.

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
        timer = StageTimer(self._runner.device, on_stage)
        timer.enter("plan")
        is_short = all(request.quality == "fast" for request in requests)  # or making it again would take seconds
        guesses = [self._guess(request) if is_short else None for request in requests]
        plans = [self._plan(request, guess) for request, guess in zip(requests, guesses, strict=True)]
        overlooked: list[bool] = []

        def read_on() -> None:
            overlooked.extend(
                has_hole_beyond(request.mask, guess)
                for request, guess in zip(requests, guesses, strict=True)
                if guess is not None
            )

        timer.enter("wait")
        with self._device_turn():
            filled = iter(self._fill(requests, plans, timer, read_on))
            if any(overlooked):
                timer.enter("plan")
                plans = [self._plan(request) for request in requests]
                filled = iter(self._fill(requests, plans, timer))
            timer.enter("")
            dropped = self._runner.take_dropped()
            timings_ms = timer.timings_ms()
        results = []
        for request, crops in zip(requests, plans, strict=True):
            result = RepairResult(request.image, timings_ms=dict(timings_ms))
            notes = _plan_notes(crops, request.quality)
            for crop in crops:
                done = next(filled)
                result.patches.append((crop.patch_box, done.patch))
                notes += done.notes
            if dropped:
                notes.append(Note(f"CUDA graphs are off: {dropped}.", code="graph_dropped"))
            result.notes = list({note.code: note for note in notes}.values())
            results.append(result)
        return results

    def _fill(
        self,
        requests: Sequence[RepairRequest],
        plans: list[list[Crop]],
        timer: StageTimer,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Filled]:
        """Fill the crops of all requests, those to be refined coarsely first; `meanwhile` is called once."""
        tasks: list[Task] = []
        refined: list[tuple[int, Task]] = []
        for request, crops in zip(requests, plans, strict=True):
            for crop in crops:
                look = context_crop(crop, request.mask.shape)
                if request.quality == "high" and crop.is_scaled:
                    refined.append((len(tasks), Task(request.image, crop)))
                    crop = hard_edged(crop)
                tasks.append(Task(request.image, crop, look))
        filled = fill(tasks, self._runner, timer, meanwhile)
        for index, task in refined:
            done = refine(task, filled[index].patch, self._runner, timer)
            filled[index] = Filled(done.patch, filled[index].notes + done.notes)
        return filled

    def _guess(self, request: RepairRequest) -> Box | None:
        """The bounds of a large mask's hole from few rows of it, where the rest is read while the device works."""
        is_large = request.mask.size >= LARGE_PHOTO_PX**2
        return guess_bounds(request.mask) if self._guesses_bounds and is_large else None

    def _plan(self, request: RepairRequest, bounds: Box | None = None) -> list[Crop]:
        return plan_crops(
            request.mask,
            image=request.image,
            bounds=bounds,
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
        """Load kernels and capture graphs, then repair at every bucket and once scaled, as requests will.

        A GPU then has kernels and memory of every size at hand, each of which takes a millisecond to get.
        """
        with self._device_turn():
            self._runner.warm_up()
        if self._runner.device.type == "cpu":
            self._repair_dummy(SMALL_PX, SMALL_PX * 5 // 8)
            return
        for side in self.profile.buckets_px:
            self._repair_dummy(side, side * 5 // 8)
        self._repair_dummy(VAST_PHOTO_PX, VAST_PHOTO_PX * 3 // 4)  # scaled, in full strips, with a broad look

    def _reach_steady_state(self) -> None:
        """Repair a large photo some times, until a GPU's timer and its host's allocator and threads are as they stay.

        It comes last, so that the first repair takes what the next do.
        """
        if self._runner.device.type == "cuda":
            for turn in range(STEADY_STATE_REPAIRS):
                side = self.profile.buckets_px[turn % len(self.profile.buckets_px)]
                self._repair_dummy(LARGE_PHOTO_PX, side * 5 // 8)

    def _repair_dummy(self, side: int, hole_px: int) -> None:
        """Repair a square hole in the middle of a square photo, for nobody."""
        mask = np.zeros((side, side), np.bool_)
        first = (side - hole_px) // 2
        mask[first : first + hole_px, first : first + hole_px] = True
        request = RepairRequest(np.zeros((side, side, 3), np.uint8), mask)
        plan = self._plan(request, self._guess(request))
        with self._device_turn():  # not `repair`, which would take the note of a dropped graph
            self._fill([request], [plan], StageTimer(self._runner.device))

    def _measure(self, folder: Path | None) -> AutotunedProfile:
        """See `autotune_profile`."""
        with self._device_turn():
            runner = self._runner
            runner.release()
            try:
                card = describe_card(runner.device)
                return autotune_card(
                    runner.generator, card, runner.device, runner.profile, folder=folder, kernels=runner.kernels
                )
            except RunnerError as error:
                raise RepairError(str(error)) from error
            finally:
                runner.restore()


def _plan_notes(crops: list[Crop], quality: str) -> list[Note]:
    if not crops:
        return [EMPTY_MASK]
    return [SCALED] if quality == "fast" and any(crop.is_scaled for crop in crops) else []


def _weights_path(weights: str | Path | None) -> Path | None:
    return find_weights(weights) if isinstance(weights, str) else weights


def _weights_name(path: Path | None) -> str:
    return (path or EMBEDDED_WEIGHTS).stem


def autotune_profile(inpainter: Inpainter, *, folder: Path | None = None) -> AutotunedProfile:
    """Measure what this card likes best and write its local profile, which counts from the next start on.

    Repairs wait meanwhile, a minute or so. `folder` is where `hardware_profiles.local.yaml` goes (default: the
    checkout).
    """
    return inpainter._measure(folder)
