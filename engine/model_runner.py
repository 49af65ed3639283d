"""One generator on one device, and every way to get a prediction from it.

Owns the model in inference form with its captured graphs, the float32 model for predictions that were not finite, and
the one on the CPU for when the GPU's memory does not suffice; the last two are built when first needed. The crisp
network of deep holes, where there is one, is a runner of its own with graphs of its own. A prediction is the network
and the seam correction. Crops are prepared on `pinned.device`: the GPU with CUDA, else the CPU. Knows no
photos; the caller holds the one lock on the GPU.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from engine.cuda_graphs import GraphedModel, Shape
from engine.devices import DTYPES
from engine.profiles import Profile
from lama.device_errors import first_line, is_out_of_memory, named_line
from lama.devices import on_card
from lama.fast_generator import FastGenerator
from lama.generator import Generator
from tensor_ops.crop_packet import LARGEST_PACKET_PX, CropPacket
from tensor_ops.kernels import crop_kernels
from tensor_ops.pinned_memory import PinnedMemory
from tensor_ops.seam_correction import correct_seam

logger = logging.getLogger(__name__)

BATCH_SIZES = (8, 4, 2, 1)  # those that get a graph
FULL_BATCH_PX = 512 * 512  # largest bucket that runs the profile's whole `max_batch`; beyond it the GPU is full anyway
SMALL_PX = 64  # input of the warm-up run on a CPU
DONE = object()  # what is left of steps that have all been taken
COMMON_PX = 512  # bucket of most repairs, whatever the photo: holes of up to 300 px


class ModelRunner:
    """Predicts with one generator on one device.

    Args:
        generator: float32, on the CPU; kept, and not modified.
        device: where predictions are made.
        precision: "fp16", "bf16" or "fp32".
        profile: graph mode, buckets and batch.
        kernels: "auto", or "torch" where the Triton kernels are known to fail.
        crisp: the network of deep holes, as `generator`; None = `generator` fills them too.
        pinned: the way to the device, None = one of its own; with it shared, one wait is for both runners.
    """

    def __init__(
        self,
        generator: Generator,
        *,
        device: torch.device,
        precision: str,
        profile: Profile,
        kernels: str = "auto",
        crisp: Generator | None = None,
        pinned: PinnedMemory | None = None,
    ) -> None:
        self.generator = generator
        self.kernels = kernels
        self.device = device
        self.precision = precision
        self.profile = profile
        # With MPS only the network runs on the GPU: float64 and some of the resizing that crops need are missing there.
        self.pinned = pinned or PinnedMemory(device if device.type == "cuda" else torch.device("cpu"))
        self._fast: FastGenerator | None = None
        self._graphed: GraphedModel | None = None
        self._float32: FastGenerator | None = None
        self._on_cpu: FastGenerator | None = None
        self._other: ModelRunner | None = None  # the one that shares the device's memory
        self._crisp: ModelRunner | None = None
        self.times_freed = 0  # how often memory was given back
        self.restore()
        if crisp is not None:
            self._crisp = ModelRunner(
                crisp, device=device, precision=precision, profile=profile, kernels=kernels, pinned=self.pinned
            )
            self._other, self._crisp._other = self._crisp, self

    @property
    def has_crisp(self) -> bool:
        """Whether deep holes have a network of their own."""
        return self._crisp is not None

    @property
    def has_fp8(self) -> bool:
        """Whether large maps are multiplied in FP8."""
        return self._fast is not None and self._fast.has_fp8

    def for_hole(self, *, is_deep: bool) -> ModelRunner:
        """Return the runner of the network that fills a hole: the crisp one for a deep hole, where there is one."""
        return self._crisp if is_deep and self._crisp is not None else self

    def restore(self) -> None:
        """Put the weights onto the device."""
        dtype = DTYPES[self.precision]
        with on_card(self.device):
            self._fast = FastGenerator(
                self.generator,
                device=self.device,
                dtype=dtype,
                kernels=self.kernels,
                fp8=self.profile.fp8 == "on",
            )
            # A graph replays the seam correction too, whose hundred small launches take as long as the network.
            model = partial(_predict, self._fast)
            self._graphed = GraphedModel(
                model, device=self.device, mode=self.profile.cuda_graph, make_input=partial(_static_input, self.pinned)
            )

    def release(self) -> None:
        """Take everything off the device, weights included, until `restore` or the next prediction."""
        if self._crisp is not None:
            self._crisp.release()
        self._free_own_memory()
        self._on_cpu = None
        self._fast = self._graphed = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def predict(self, inputs: list[Tensor]) -> Tensor:
        """Predict a batch, its seams corrected.

        Args:
            inputs: (4, H, W) each, of one size, on `pinned.device`; not modified.

        Returns:
            (B, 3, H, W) float32 in [0, 1], valid until the next call. One with NaN somewhere keeps it.
        """
        with on_card(self.device):
            return self._restored()(inputs)

    def predict_float32(self, inputs: list[Tensor]) -> Tensor:
        """Predict in float32, without graphs: the second try when the first gave NaN or infinity."""
        if self._float32 is None:
            self._float32 = FastGenerator(self.generator, device=self.device, dtype=torch.float32)
        with on_card(self.device):
            return _predict(self._float32, torch.stack(inputs))

    def predict_on_cpu(self, inputs: list[Tensor]) -> Tensor:
        """Predict on the CPU: the last resort when the device has no memory."""
        if self._on_cpu is None:
            self._on_cpu = FastGenerator(self.generator, device="cpu", dtype=torch.float32)
        return _predict(self._on_cpu, torch.stack(inputs))

    def batch_size(self, size: tuple[int, int], waiting: int) -> int:
        """Return how many of `waiting` crops of one model size run together."""
        pixels = size[0] * size[1]
        limit = max(1, self.profile.max_batch * min(FULL_BATCH_PX, pixels) // pixels)
        return next(batch for batch in BATCH_SIZES if batch <= min(limit, waiting))

    @property
    def common_px(self) -> int:
        """The bucket of most repairs."""
        buckets_px = self.profile.buckets_px
        return next((side for side in buckets_px if side >= COMMON_PX), buckets_px[-1])

    def warm_up(self) -> None:
        """Make the first repair as fast as the next: capture every bucket's graph, or run once without.

        Kernels that fail at one of the sizes, on a card they were not made for, give way to plain PyTorch.
        """
        for _ in self._guarded(self._capture_all()):
            pass
        if self._crisp is not None:
            self._crisp.kernels = self.kernels
            self._crisp.warm_up()

    def warming_up(self) -> Iterator[None]:
        """Do what `warm_up` does a step at a time: in the first, both networks' graphs of the common bucket.

        Once memory was given back nothing more is captured, so that it can be used for what it was given back for.

        Yields:
            None after each step. Whoever takes one has the device.
        """
        both = [self] if self._crisp is None else [self, self._crisp]
        try:
            for runner in both:
                runner.kernels = self.kernels
                for _ in runner._guarded(runner._capture_common()):
                    pass
            freed = self.times_freed
            yield
            for runner in both:
                rest = runner._guarded(runner._capture_rest())
                while self.times_freed == freed and next(rest, DONE) is not DONE:
                    yield
        finally:  # also after an error: what is captured from now on shares its memory
            for runner in both:
                runner._end_warming_up()

    def _guarded(self, steps: Iterator[None]) -> Iterator[None]:
        """Take steps of a warm-up; where the kernels fail, plain PyTorch is warmed up instead."""
        failure = ""
        try:
            yield from steps
        except Exception as error:  # a compiler or driver of any kind
            if is_out_of_memory(error):
                told = "not every graph fits into memory, the rest is captured when needed: %s"
                logger.warning(told, first_line(error))
            elif self._fast is None or not self._fast.uses_triton:
                raise
            else:
                failure = named_line(error)
        if failure:
            logger.warning("the Triton kernels failed, so plain PyTorch runs, which is slower: %s", failure)
            self.release()
            self.kernels = "torch"
            self.restore()
            self.warm_up()

    def _capture_common(self) -> Iterator[None]:
        """Capture the graph of the common bucket, or run once without graphs."""
        graphed = self._restored()
        if graphed.mode == "off":
            side = self.profile.buckets_px[0] if self.device.type == "cuda" else SMALL_PX
            self.predict([torch.zeros(4, side, side, device=self.pinned.device)])
        else:
            graphed.is_warming_up = True
            graphed.capture((1, self.common_px, self.common_px), apart=True)
        yield

    def _capture_rest(self) -> Iterator[None]:
        """Capture every bucket's graph, the largest first, then again what was captured apart meanwhile."""
        shapes = [(1, side, side) for side in reversed(self.profile.buckets_px)]
        # Between two steps nothing here refers to what is on the device, which may be released meanwhile.
        while shapes and self._graphed is not None and self._graphed.mode != "off":
            self._graphed.capture(shapes.pop(0))
            yield
            shapes = shapes or ([] if self._graphed is None else self._graphed.shapes_apart)
        self._end_warming_up()

    def _end_warming_up(self) -> None:
        if self._graphed is not None and self._graphed.is_warming_up:
            self._graphed.end_warming_up()

    def _capture_all(self) -> Iterator[None]:
        """Capture every bucket's graph, or run once without."""
        yield from self._capture_common() if self._restored().mode == "off" else self._capture_rest()

    def _restored(self) -> GraphedModel:
        if self._graphed is None:
            self.restore()
        assert self._graphed is not None
        return self._graphed

    def free_memory(self) -> None:
        """Give back everything on the device but the weights, of the other network too."""
        self._free_own_memory()
        if self._other is not None:
            self._other._free_own_memory()

    def _free_own_memory(self) -> None:
        self.times_freed += 1
        self._float32 = None
        self.pinned.packets.clear()
        if self._graphed is not None:
            self._graphed.free()

    def take_dropped(self) -> str:
        """Say once why graphs were given up, or return an empty string."""
        reason = ""
        if self._graphed is not None:
            reason, self._graphed.dropped = self._graphed.dropped, ""
        others = self._crisp.take_dropped() if self._crisp is not None else ""
        return reason or others

    def describe(self) -> dict[str, object]:
        """Return what runs: kernels, graph mode, and the captured (batch, height, width); no kernels once released.

        Safe to call while another thread switches the weights.
        """
        fast, graphed = self._fast, self._graphed
        return {
            "kernels": fast.describe() if fast else "none",
            "cuda_graph": graphed.mode if graphed else "off",
            "graphs": [list(shape) for shape in graphed.shapes] if graphed else [],
        }


def _predict(network: FastGenerator, x: Tensor) -> Tensor:
    """Predict (B, 3, H, W) from (B, 4, H, W), on the device of `x`, wherever the network is."""
    return correct_seam(network(x.to(network.device)).to(x.device), x)


def _static_input(pinned: PinnedMemory, graphed: GraphedModel, shape: Shape) -> Tensor:
    """Return what the graph of a shape reads: for a lone crop the packet's, which both networks' graphs share."""
    batch, height, width = shape
    kernels = crop_kernels(graphed.device) if batch == 1 and height == width <= LARGEST_PACKET_PX else None
    if kernels is None:
        return torch.zeros((batch, 4, height, width), dtype=torch.float32, device=graphed.device)
    if height not in pinned.packets:
        packet = CropPacket(height, graphed.device, kernels)
        try:
            packet.replay = graphed.capture_steps(packet.launch)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            what = "what brings a crop of %d px to %s is launched, not replayed: %s"
            logger.warning(what, height, graphed.device, error)
        pinned.packets[height] = packet
    return pinned.packets[height].model_input
