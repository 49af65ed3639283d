"""One generator on one device, and every way to get a prediction from it.

Owns the choice of device and precision, the model in inference form with its captured graphs, the float32 model for
predictions that were not finite, and the one on the CPU for when the GPU's memory does not suffice. The last two are
made when first needed. What a graph replays is the network and the correction at the rim (`blend.py`), whose hundred
small launches would otherwise take as long as the network. Knows nothing of photos; the caller holds the one lock on
the GPU.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from engine.cuda_graphs import GraphedModel
from engine.profiles import Card, Profile, ProfileError, choose_profile
from lama.fast_generator import FastGenerator
from lama.generator import Generator
from tensor_ops.pinned_memory import PinnedMemory
from tensor_ops.seam_correction import correct_seam

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
BATCH_SIZES = (8, 4, 2, 1)  # those that get a graph
FULL_BATCH_PX = 512 * 512  # largest bucket that runs the profile's whole `max_batch`; beyond it the GPU is full anyway
LOADING_THREADS = 4
SMALL_PX = 64  # input of the warm-up run on a CPU


class RunnerError(ValueError):
    """A device, precision or profile that this machine has not."""


class ModelRunner:
    """Predicts with one generator on one device.

    Args:
        generator: float32, on the CPU; kept, and not modified.
        device: where predictions are made.
        precision: "fp16", "bf16" or "fp32".
        profile: graph mode, buckets and batch.
        kernels: "auto", or "torch" where the Triton kernels are known to fail.
    """

    def __init__(
        self, generator: Generator, *, device: torch.device, precision: str, profile: Profile, kernels: str = "auto"
    ) -> None:
        self.generator = generator
        self.kernels = kernels
        self.device = device
        self.precision = precision
        self.profile = profile
        self.pinned = PinnedMemory(device)
        self._fast: FastGenerator | None = None
        self._graphed: GraphedModel | None = None
        self._float32: FastGenerator | None = None
        self._on_cpu: FastGenerator | None = None
        self.restore()

    def restore(self) -> None:
        """Put the weights onto the device."""
        dtype = DTYPES[self.precision]
        self._fast = FastGenerator(self.generator, device=self.device, dtype=dtype, kernels=self.kernels)
        self._graphed = GraphedModel(partial(_predict, self._fast), device=self.device, mode=self.profile.cuda_graph)

    def release(self) -> None:
        """Take everything off the device, weights included, until `restore` or the next prediction."""
        self.free_memory()
        self._on_cpu = None
        self._fast = self._graphed = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def predict(self, inputs: list[Tensor]) -> Tensor:
        """Predict a batch, its colours matched at the holes' rims.

        Args:
            inputs: (4, H, W) each, of one size, on the device; not modified.

        Returns:
            (B, 3, H, W) float32 in [0, 1], valid until the next call. One with NaN somewhere keeps it.
        """
        if self._graphed is None:
            self.restore()
        assert self._graphed is not None
        return self._graphed(inputs)

    def predict_float32(self, inputs: list[Tensor]) -> Tensor:
        """The same in float32, without graphs: the second try when the first gave NaN or infinity."""
        if self._float32 is None:
            self._float32 = FastGenerator(self.generator, device=self.device, dtype=torch.float32)
        return _predict(self._float32, torch.stack(inputs))

    def predict_on_cpu(self, inputs: list[Tensor]) -> Tensor:
        """The same on the CPU: the last resort when the device has no memory."""
        if self._on_cpu is None:
            self._on_cpu = FastGenerator(self.generator, device="cpu", dtype=torch.float32)
        return _predict(self._on_cpu, torch.stack(inputs))

    def batch_size(self, size: tuple[int, int], waiting: int) -> int:
        """Return how many of `waiting` crops of one model size run together."""
        pixels = size[0] * size[1]
        limit = max(1, self.profile.max_batch * min(FULL_BATCH_PX, pixels) // pixels)
        return next(batch for batch in BATCH_SIZES if batch <= min(limit, waiting))

    def warm_up(self) -> None:
        """Make the first repair as fast as the next: capture every bucket's graph, or run once without.

        Kernels that fail at one of the sizes, on a card they were not made for, give way to plain PyTorch.
        """
        failure = ""
        try:
            self._run_all()
        except torch.OutOfMemoryError as error:
            logger.warning("not every graph fits into memory, the rest is captured when needed: %s", error)
        except Exception as error:  # a compiler or driver of any kind
            if self._fast is None or not self._fast.uses_triton:
                raise
            failure = f"{type(error).__name__}: {error}"
        if failure:
            logger.warning("the Triton kernels failed, so plain PyTorch runs, which is slower: %s", failure)
            self.release()
            self.kernels = "torch"
            self.restore()
            self.warm_up()

    def _run_all(self) -> None:
        assert self._graphed is not None
        if self._graphed.mode == "off":
            side = SMALL_PX if self.device.type == "cpu" else self.profile.buckets_px[0]
            self.predict([torch.zeros(4, side, side, device=self.device)])
            return
        for side in reversed(self.profile.buckets_px):
            self._graphed.capture((1, side, side))

    def free_memory(self) -> None:
        """Give back everything on the device but the weights."""
        self._float32 = None
        if self._graphed is not None:
            self._graphed.free()

    def take_dropped(self) -> str:
        """Say once why graphs were given up, or return an empty string."""
        if self._graphed is None:
            return ""
        reason, self._graphed.dropped = self._graphed.dropped, ""
        return reason

    def describe(self) -> dict[str, object]:
        """What runs: kernels, graph mode, and the captured (batch, height, width); nothing of it once released."""
        fast_generator, graphed = (
            self._fast,
            self._graphed,
        )  # other threads ask too, while one of them changes the weights
        return {
            "kernels": fast_generator.describe() if fast_generator else "none",
            "cuda_graph": graphed.mode if graphed else "off",
            "graphs": [list(shape) for shape in graphed.shapes] if graphed else [],
        }


def _predict(network: FastGenerator, x: Tensor) -> Tensor:
    return correct_seam(network(x), x)


@contextlib.contextmanager
def few_threads() -> Iterator[None]:
    """Load with few threads: many small steps, each of which would wait until every core of a busy machine is free."""
    threads = torch.get_num_threads()
    torch.set_num_threads(min(threads, LOADING_THREADS))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def choose_device(device: str) -> torch.device:
    """Return the device for "auto", "cpu", "cuda" or "cuda:N"; raise RunnerError when this machine has not got it."""
    if device == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda"):
        raise RunnerError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}")
    if chosen.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (chosen.index or 0) >= count:
            raise RunnerError(f"device {device!r} was asked for, but PyTorch sees {count} CUDA devices; try auto")
        chosen = torch.device("cuda", chosen.index if chosen.index is not None else torch.cuda.current_device())
    return chosen


def describe_card(device: torch.device) -> Card:
    """Return what the profile is chosen by."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return Card(properties.name, (properties.major, properties.minor), properties.total_memory >> 20)
    return Card("CPU with bf16" if cpu_has_bf16() else "CPU")


def pick_profile(card: Card, profile: Profile | str | None) -> tuple[Profile, str]:
    """Return the profile to run with and the reason; raise RunnerError for an unknown name or a bad file."""
    if isinstance(profile, Profile):
        return profile, f"The profile {profile.name} was given by the caller."
    if not isinstance(profile, str | None):
        raise RunnerError(f"profile must be a profile, the name of one, or None for the card's own, got {profile!r}")
    try:
        return choose_profile(card, name=profile or "auto")
    except ProfileError as error:
        raise RunnerError(str(error)) from error


def choose_precision(precision: str, profile: Profile, device: torch.device) -> str:
    """Return "fp16", "bf16" or "fp32"; "auto" takes the profile's, or what a CPU computes natively."""
    if precision != "auto" and precision not in DTYPES:
        raise RunnerError(f"precision must be auto, {', '.join(DTYPES)}, got {precision!r}")
    if device.type == "cpu":
        if precision == "fp16":
            raise RunnerError("precision fp16 needs a CUDA device; on a CPU use auto, bf16 or fp32")
        if precision == "auto":
            return "bf16" if profile.precision != "fp32" and cpu_has_bf16() else "fp32"
    return profile.precision if precision == "auto" else precision


def cpu_has_bf16() -> bool:
    """Tell whether this CPU multiplies bfloat16 natively; without that, float32 is faster."""
    if hasattr(torch.cpu, "get_capabilities"):  # newer than PyTorch 2.11
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return bool(torch.cpu._is_avx512_bf16_supported())
