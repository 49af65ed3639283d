"""The inpainter: one model on one device, `repair()`, and the one lock on the device.

An image is (H, W, 3) uint8 or uint16 RGB, a mask (H, W) bool, True = hole. A result holds patches: boxes
(left, top, right, bottom) and their pixels, in the image's dtype. The known region is the original's, byte for byte.
Repairs that are asked for together run as one batch where their boxes share a bucket. Knows no HTTP and no image files.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from engine.device_turns import DeviceTurns
from engine.devices import Placement, choose_placement, describe_card, few_threads
from engine.model_runner import DONE, SMALL_PX, ModelRunner
from engine.profiles import Profile
from engine.repair_steps import fill_plans, make_result, plan_repair
from engine.requests import RepairError, RepairRequest, RepairResult, UnavailableError, check_request
from engine.stage_timer import OnStage, StageTimer
from lama.catalogue import find_weights
from lama.checkpoint import EMBEDDED_WEIGHTS, CheckpointError, load_generator
from lama.device_errors import first_line, is_out_of_memory
from lama.devices import on_card
from lama.generator import Generator
from lama.weight_difference import CRISP_WEIGHTS, apply_difference
from masks.boxes import Box, rows_beyond, sample_bounds
from masks.crop_plan import Crop, overlooks_holes
from masks.dilation import CropRules
from tensor_ops.host_copies import is_any_set

if TYPE_CHECKING:
    from engine.autotune import AutotunedProfile

__all__ = [
    "Inpainter",
    "RepairError",
    "RepairRequest",
    "RepairResult",
    "UnavailableError",
    "autotune_profile",
    "load_inpainter",
]

logger = logging.getLogger(__name__)

LARGE_HOLES = ("crisp", "accurate")
# Sides of the dummy photos that a GPU repairs before the first request.
LARGE_PHOTO_PX = 2048  # from this many pixels squared on, bounds are sampled
VAST_PHOTO_PX = 4096  # its hole is scaled, so memory for the largest holes is reserved
FIRST_REPAIRS = 3  # of a size, before anything is asked for
STEADY_STATE_REPAIRS = 10  # without them the first repair took 5.1 ms instead of 2.8 on an H200 (bench/NOTES.md)


class Inpainter:
    """A LaMa model on one device that repairs photos; safe to call from several threads, which take turns."""

    def __init__(
        self, runner: ModelRunner, *, weights_name: str, profile_reason: str, large_holes: str = "crisp"
    ) -> None:
        self._runner = runner
        self._turns = DeviceTurns()
        self._samples_bounds = runner.device.type == "cuda"  # a CPU that computes has no time to read meanwhile
        self.weights_name = weights_name
        self.profile_reason = profile_reason
        self._large_holes = large_holes
        self.crop_rules = CropRules()

    @classmethod
    def load(
        cls,
        weights: str | Path | None = None,
        device: str = "auto",
        precision: str = "auto",
        profile: Profile | str | None = None,
        large_holes: str = "crisp",
        *,
        early: bool = False,
    ) -> Inpainter:
        """Load weights, choose how to run them, and warm up. Changes nothing for the rest of the process.

        Args:
            weights: a file, the name of weights that were fetched (`lama.catalogue.find_weights`), or None for the
                embedded ones.
            device: "auto", "cpu", "mps" (untested), "cuda" or "cuda:N".
            precision: "auto" (the profile's, or what the CPU is fast at), "fp16", "bf16" or "fp32".
            profile: a profile, the name of one, or None for the card's own.
            large_holes: "crisp": beside the embedded weights a second network is loaded, which fills deep holes
                (`engine.hole_depth`) with texture and edges; "accurate": one network fills all. Other weights always
                fill all.
            early: return on a card as soon as repairs of the commonest size take as long as they will. The other sizes
                are prepared in a thread while nobody repairs, for about a second (`wait_until_warm`), at the very first
                start for as long as they compile. One that is asked for before is prepared then.

        Returns:
            The inpainter, ready; unless it is early, its first repair takes as long as the next.

        Raises:
            UnavailableError: this machine does not have the requested device, precision or profile.
            RepairError: the device has no memory for the weights, and `device` is not "auto".
            CheckpointError: the weights can't be read.
            DownloadError: weights of that name have not been fetched.
        """
        path = _weights_path(weights)
        chosen = choose_placement(device, precision, profile)
        if chosen.device.type == "cuda":
            logger.info("loading onto %s; kernels are compiled at the first start, for about a minute", chosen.device)
        try:
            with few_threads():
                generator = load_generator(path)
                runner = ModelRunner(
                    generator,
                    crisp=_load_crisp(path, generator, large_holes),
                    device=chosen.device,
                    precision=chosen.precision,
                    profile=chosen.profile,
                )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            where = str(chosen.device)
            if device != "auto":
                raise RepairError(f"{where} has no room for the weights: {first_line(error)}") from error
            logger.warning(
                "%s has no room for the weights, so the CPU computes, which is slower: %s", where, first_line(error)
            )
            on_cpu = "fp32" if precision == "fp32" else "auto"
            inpainter = cls.load(weights, device="cpu", precision=on_cpu, large_holes=large_holes)
            inpainter.profile_reason = f"{where} has no room for the weights. {inpainter.profile_reason}"
            return inpainter
        names = {"weights_name": _weights_name(path), "profile_reason": chosen.reason}
        inpainter = cls(runner, **names, large_holes=large_holes)
        started_s = time.perf_counter()
        is_card = chosen.device.type == "cuda"
        steps = inpainter._warming_up()
        with few_threads() if is_card else contextlib.nullcontext():
            next(steps)
        next(steps, None)
        if is_card and early:
            inpainter._turns.prepare(steps)
        else:
            for _ in steps:
                pass
        logger.info(
            "ready on %s after %.1f s: %s", inpainter.device, time.perf_counter() - started_s, inpainter.describe()
        )
        return inpainter

    def wait_until_warm(self) -> None:
        """Wait until repairs of every size take as long as they will; see `load`."""
        self._turns.wait_until_prepared()

    @property
    def device(self) -> str:
        """Where the model is: "cpu", "mps" or "cuda:N"."""
        return str(self._runner.device)

    @property
    def precision(self) -> str:
        """The precision in use: "fp16", "bf16" or "fp32"."""
        return self._runner.precision

    @property
    def profile(self) -> Profile:
        """The profile in use; `profile_reason` says why."""
        return self._runner.profile

    def describe(self) -> dict[str, object]:
        """Return what runs, for `/health`: device, precision, profile and reason, weights, kernels, graphs."""
        device = self._runner.device
        return {
            "device": self.device,
            "precision": self.precision,
            "profile": self.profile.name,
            "profile_reason": self.profile_reason,
            "weights": self.weights_name,
            "memory_mib": torch.cuda.memory_reserved(device) >> 20 if device.type == "cuda" else None,
            **self._runner.describe(),
        }

    def switch_weights(self, weights: str | Path | None) -> None:
        """Switch to other weights without a restart; two models are never on the device at once.

        Repairs wait meanwhile. When it fails, the old weights are in use again.

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
            crisp = _load_crisp(path, generator, self._large_holes)
        with self._device_turn(), few_threads() if self._runner.device.type == "cuda" else contextlib.nullcontext():
            before = self._runner
            before.release()
            failure = self._take_over(generator, crisp)
            if not failure:
                self.weights_name = _weights_name(path)
                return
            try:
                before.restore()
            except Exception as error:  # whatever it was, the next repair tries again, and has the CPU to fall back on
                logger.error("%s can't be put back onto %s: %s", self.weights_name, self.device, error)
        raise RepairError(f"{_weights_name(path)} can't be put onto {self.device}: {failure}")

    def _take_over(self, generator: Generator, crisp: Generator | None) -> str:
        """Run other networks from now on and return "", or why that fails; then nothing of them is on the device."""
        before = self._runner
        try:
            runner = ModelRunner(
                generator, crisp=crisp, device=before.device, precision=before.precision, profile=before.profile
            )
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
        transparent: NDArray[np.bool_] | None = None,
        on_stage: OnStage | None = None,
    ) -> RepairResult:
        """Fill the hole of one image.

        Args:
            image: (H, W, 3) uint8 or uint16 RGB; not modified.
            mask: (H, W) bool, True = hole; not modified. An empty one gives the image back with a note.
            dilate_px: dilation in pixels, 0 to 1024; None = in proportion to the hole's thickness, at most 32, and the
                drop shadow of lettering is included.
            feather_px: width of the feather, 0 to 1024, within the ring that dilation added; None = one pixel.
            quality: "fast", or "high": holes larger than the largest bucket are refined at full resolution.
            transparent: (H, W) bool, True where the file's alpha is 0; not modified. Nobody sees the colours of these
                pixels: the network sees them as missing, and they are given back as they are. None = no pixel.
            on_stage: called with "plan", "predict", "composite" as each begins, and with "refine" for each tile.

        Returns:
            The changed patches. It refers to `image` until `RepairResult.image` was read.

        Raises:
            RepairError: an argument is not as described.
        """
        request = RepairRequest(image, mask, dilate_px, feather_px, quality, transparent=transparent)
        return self.repair_many([request], on_stage=on_stage)[0]

    def repair_many(self, requests: Sequence[RepairRequest], *, on_stage: OnStage | None = None) -> list[RepairResult]:
        """Repair several images, boxes that share a bucket as one batch; results are those of one by one.

        Batched and single predictions differ by the rounding of the precision: in fp16 99.9 % by at most 2 of 255.

        Args:
            requests: the repairs; their arrays are not modified.
            on_stage: as in `repair`, for all of them together.

        Returns:
            One result per request, in order.

        Raises:
            RepairError: one of the requests is not as `repair` describes; nothing has run then.
            MemoryError: memory did not suffice, the CPU's included.
        """
        requests = tuple(requests)  # a generator's can be gone through once
        for request in requests:
            check_request(request)
        return self._run(requests, StageTimer(self._runner.device, on_stage))

    def _run(
        self, requests: Sequence[RepairRequest], timer: StageTimer, *, is_rehearsal: bool = False
    ) -> list[RepairResult]:
        """Do what `repair_many` does with requests that were checked; a rehearsal leaves notes to those who asked."""
        timer.enter("plan")
        # Of a repair in high quality nothing is sampled: what was missed would make all its tiles run again.
        is_short = all(request.quality == "fast" for request in requests)
        samples = [self._sample_bounds(request) if is_short else None for request in requests]
        plans = [self._plan(request, bounds) for request, bounds in zip(requests, samples, strict=True)]
        missed: list[bool] = []

        def read_the_rest() -> None:
            for request, bounds, crops in zip(requests, samples, plans, strict=True):
                if bounds is not None:
                    is_known = request.bounds is not None
                    is_beyond = not is_known and any(is_any_set(rows) for rows in rows_beyond(request.mask, bounds))
                    missed.append(is_beyond or overlooks_holes(crops))

        timer.enter("wait")
        with self._device_turn():
            filled = iter(fill_plans(requests, plans, self._runner, timer, read_the_rest))
            if any(missed):
                timer.enter("plan")
                plans = [self._plan(request) for request in requests]
                filled = iter(fill_plans(requests, plans, self._runner, timer))
            timer.enter("")
            dropped = "" if is_rehearsal else self._runner.take_dropped()
            timings_ms = timer.timings_ms()
        return [
            make_result(request, crops, filled, timings_ms=timings_ms, dropped=dropped)
            for request, crops in zip(requests, plans, strict=True)
        ]

    def _sample_bounds(self, request: RepairRequest) -> Box | None:
        """Return a large mask's bounds, known or from few rows of it, where a GPU works while the rest is read."""
        if not self._samples_bounds or request.mask.size < LARGE_PHOTO_PX**2:
            return None
        return request.bounds or sample_bounds(request.mask)

    def _plan(self, request: RepairRequest, bounds: Box | None = None) -> list[Crop]:
        return plan_repair(request, self._runner, self.crop_rules, bounds)

    @contextlib.contextmanager
    def _device_turn(self) -> Iterator[None]:
        """Hold the device: one thread at a time, on the model's own card, without gradients."""
        with self._turns.turn(), on_card(self._runner.device), torch.inference_mode():
            yield

    def _warming_up(self) -> Iterator[None]:
        """Load kernels, capture graphs and run dummy repairs, until all that a repair needs was there once.

        Yields:
            None after each step. After the first nothing is missing for repairs of the commonest size; after the second
            they take as long as they will, where the threads that computed were those that requests find.
        """
        steps = self._runner.warming_up()
        self._take_step(steps)
        if self._runner.device.type != "cuda":
            self._repair_dummy(SMALL_PX, SMALL_PX * 5 // 8)
            yield
            return
        runner, buckets_px = self._runner, self.profile.buckets_px
        freed = runner.times_freed
        hole_px = common_hole_px(runner.common_px)
        self._repair_dummy(runner.common_px, hole_px)
        yield
        for _ in range(FIRST_REPAIRS):
            self._repair_dummy(LARGE_PHOTO_PX, hole_px)
        yield
        while self._take_step(steps):
            yield
        # Each size's kernels and memory take a millisecond at their first use.
        dummies = [(side, side * 5 // 8) for side in buckets_px]
        dummies.append((VAST_PHOTO_PX, VAST_PHOTO_PX * 3 // 4))  # scaled, in full strips, with a context pass
        # A GPU's clocks and allocator and the host's caches reach their steady state.
        sides = (buckets_px[turn % len(buckets_px)] for turn in range(STEADY_STATE_REPAIRS))
        dummies += [(LARGE_PHOTO_PX, side * 5 // 8) for side in sides]
        for side, hole_px in dummies:
            if self._runner is not runner or runner.times_freed != freed:
                # Other weights, or memory was given back: what is missing is not to be captured smallest first.
                return
            self._repair_dummy(side, hole_px)
            yield
        logger.info("all sizes are prepared on %s", self.device)

    def _take_step(self, steps: Iterator[None]) -> bool:
        """Take a step of the runner's warm-up, unless there is none left."""
        with self._device_turn():
            return next(steps, DONE) is not DONE

    def _repair_dummy(self, side: int, hole_px: int) -> None:
        """Repair a square hole in the middle of a square photo, and drop the result.

        It goes the way of a photo in colours, as most do: what it leaves out, the first repair runs in the cold.
        """
        image, mask = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.bool_)
        first = (side - hole_px) // 2
        mask[first : first + hole_px, first : first + hole_px] = True
        seen = slice(max(0, first - hole_px // 2), first + hole_px * 3 // 2)
        columns = np.arange(side)[seen]
        image[seen, seen, 0], image[seen, seen, 2] = columns % 251, columns % 197
        self._run([RepairRequest(image, mask)], StageTimer(self._runner.device), is_rehearsal=True)

    def _autotune(self, folder: Path | None) -> AutotunedProfile:
        """Do what `autotune_profile` describes."""
        from engine.autotune import autotune_card  # late: no start needs it, nor the file formats that it writes with

        with self._device_turn():
            runner = self._runner
            runner.release()
            try:
                card = describe_card(runner.device)
                return autotune_card(
                    runner.generator, card, runner.device, runner.profile, folder=folder, kernels=runner.kernels
                )
            finally:
                runner.restore()


def common_hole_px(bucket_px: int) -> int:
    """Return the side of a hole that a bucket is for, with all that is added around it, whatever the photo's size."""
    return bucket_px * 9 // 16


def _weights_path(weights: str | Path | None) -> Path | None:
    return find_weights(weights) if isinstance(weights, str) else weights


def _weights_name(path: Path | None) -> str:
    return (path or EMBEDDED_WEIGHTS).stem


def _load_crisp(path: Path | None, generator: Generator, large_holes: str) -> Generator | None:
    """Return the network that fills deep holes beside the embedded one; None beside others and where it is not wanted.

    A checkout without its file repairs as it did before there was one, and says so in the log.
    """
    if large_holes not in LARGE_HOLES:
        raise RepairError(f"large_holes must be one of {', '.join(LARGE_HOLES)}, got {large_holes!r}")
    is_embedded = path is None or path.resolve() == EMBEDDED_WEIGHTS.resolve()
    if large_holes != "crisp" or not is_embedded:
        return None
    try:
        return apply_difference(generator, CRISP_WEIGHTS)
    except CheckpointError as error:
        logger.warning("large holes are filled by %s, softly: %s", _weights_name(path), error)
        return None


def autotune_profile(inpainter: Inpainter, *, folder: Path | None = None) -> AutotunedProfile:
    """Time this card's settings and write the best as its local profile, which is used from the next start on.

    Args:
        inpainter: its repairs wait meanwhile, a minute or so.
        folder: where `hardware_profiles.local.yaml` is written; None = the checkout.

    Returns:
        What was timed, the profile, and its file.

    Raises:
        RepairError: no setting ran, or none gave the right result.
        OSError: the file can't be written.
    """
    return inpainter._autotune(folder)


class EngineSettings(Protocol):
    """What `load_inpainter` reads of the program's settings; "" and "auto" mean the default."""

    @property
    def weights(self) -> str: ...
    @property
    def weights_dir(self) -> Path: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def profile(self) -> str: ...


def load_inpainter(settings: EngineSettings, *, on_placement: Callable[[Placement], None] | None = None) -> Inpainter:
    """Load the inpainter that the program's settings ask for.

    Args:
        settings: where the weights are, and how they run.
        on_placement: called once the device and the profile are known, before anything is loaded onto the device.

    Returns:
        the inpainter; on a card it is early, as `Inpainter.load` says.

    Raises:
        UnavailableError, RepairError, CheckpointError, DownloadError: as `Inpainter.load`.
    """
    weights = find_weights(settings.weights, settings.weights_dir)
    profile = None if settings.profile == "auto" else settings.profile
    if on_placement is not None:
        on_placement(choose_placement(settings.device, settings.precision, profile))
    # Settings of another program that knows no such key get what is the default here.
    large_holes = getattr(settings, "large_holes", LARGE_HOLES[0])
    how = {"device": settings.device, "precision": settings.precision, "large_holes": large_holes}
    return Inpainter.load(weights, profile=profile, early=True, **how)
