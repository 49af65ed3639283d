"""Captured CUDA graphs: one per input shape, replayed instead of launching some four hundred kernels.

Owns the static outputs and the memory pool that all graphs share. A graph belongs to a (batch, height, width); it is
captured on a side stream, at warm-up or on first use. Without CUDA, or with mode "off", every call runs the model
itself. Knows no photos; the caller holds the one lock on the GPU.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from lama.device_errors import is_out_of_memory
from lama.devices import on_card

logger = logging.getLogger(__name__)

WARM_UP_RUNS = 2  # the first fills lazily made tables and workspaces, the second shows their final size
VERIFY_INPUTS = 3
VERIFY_REPLAYS = 2
VERIFY_MAX_DIFFERENCE = 2 / 255  # replay runs the same kernels: anything beyond their split-k rounding is a fault

Model = Callable[[Tensor], Tensor]
Shape = tuple[int, int, int]  # batch, height, width
T = TypeVar("T")
MakeInput = Callable[["GraphedModel", Shape], Tensor]


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    static_input: Tensor
    static_output: Tensor
    is_apart: bool


class GraphedModel:
    """A model whose calls are replays of captured graphs where that is possible.

    Args:
        model: (B, 4, H, W) float32 -> (B, 3, H, W), on `device`, the same function at every call.
        device: where it runs.
        mode: "on", "off", or "verify": replay is compared with eager after each capture; the first difference turns
            graphs off for good, which `dropped` then tells.
        make_input: gives the static input of this model's graph of a shape, (B, 4, H, W) float32 on the device; None =
            one of its own for each. A caller that writes into it directly saves a copy.
    """

    def __init__(self, model: Model, *, device: torch.device, mode: str, make_input: MakeInput | None = None) -> None:
        self.model = model
        self.device = device
        self._make_input = make_input or _new_input
        self.mode = mode if device.type == "cuda" else "off"
        self.dropped = ""
        self.is_warming_up = False  # whether larger graphs are still to come than those that calls ask for
        self._captured: dict[Shape, _Captured] = {}
        self._pool: Any = None  # an opaque handle
        self._stream = torch.cuda.Stream(device) if self.mode != "off" else None

    @property
    def shapes(self) -> list[Shape]:
        """The (batch, height, width) that have a graph."""
        return sorted(self._captured)

    @property
    def shapes_apart(self) -> list[Shape]:
        """Those whose graph has memory of its own."""
        return sorted(shape for shape, captured in self._captured.items() if captured.is_apart)

    @torch.inference_mode()
    def __call__(self, inputs: list[Tensor]) -> Tensor:
        """Predict a batch.

        Args:
            inputs: (4, H, W) float32 each, of one size, on the device; not modified. A lone one may be the shape's
                static input itself.

        Returns:
            (B, 3, H, W). When replayed it is the graph's own output: use it before the next call.
        """
        if self.mode == "off":
            return self.model(torch.stack(inputs))
        shape = (len(inputs), inputs[0].shape[1], inputs[0].shape[2])
        if shape not in self._captured:
            self.capture(shape, apart=self.is_warming_up)
        captured = self._captured.get(shape)
        if captured is None:  # verification has just turned graphs off
            return self.model(torch.stack(inputs))
        if len(inputs) > 1 or inputs[0].data_ptr() != captured.static_input.data_ptr():
            torch.stack(inputs, out=captured.static_input)
        captured.graph.replay()
        return captured.static_output

    def capture_steps(self, steps: Callable[[], None]) -> Callable[[], None] | None:
        """Return what replays steps on memory that stays, or None where graphs are off or have to be verified."""
        if self.mode != "on":
            return None
        with on_card(self.device):
            # In a pool of its own, which stays empty, so that it holds no other one back.
            graph, _ = self._capture(steps, torch.cuda.graph_pool_handle())
        return graph.replay

    @torch.inference_mode()
    def capture(self, shape: Shape, *, apart: bool = False) -> None:
        """Capture the graph of one (batch, height, width); nothing is left behind when memory does not suffice.

        Args:
            shape: what for; one that has its graph gets no other, unless its own is apart and this is not to be.
            apart: with memory of its own, which is given back when the shape is captured again. Graphs that share their
                memory take least when the largest comes first: this is for one that must not wait for it.
        """
        before = self._captured.get(shape)
        if self.mode == "off" or (before is not None and (apart or not before.is_apart)):
            return
        try:
            with on_card(self.device):
                captured = self._record(shape, apart=apart)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            text = str(error)
        else:
            if self.mode == "verify" and not self._matches_eager(captured):
                self._drop(shape)
            else:
                self._captured[shape] = captured
            return
        # Outside the handler, whose traceback would keep the static tensors alive.
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        raise torch.OutOfMemoryError(f"no memory to capture the graph of {shape}: {text}")

    def end_warming_up(self) -> None:
        """Have later calls capture into the memory that all share, and hand back what was taken separately so far."""
        self.is_warming_up = False
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def free(self) -> None:
        """Drop every graph and its static tensors, then hand the memory back; later calls capture again."""
        self.is_warming_up = False
        self._captured.clear()
        self._pool = None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()

    def _record(self, shape: Shape, *, apart: bool) -> _Captured:
        if self.device.type == "cuda":
            # What stays must not hold back a larger piece that is only cached.
            torch.cuda.empty_cache()
        static_input = self._make_input(self, shape)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        pool = torch.cuda.graph_pool_handle() if apart else self._pool
        graph, static_output = self._capture(lambda: self.model(static_input), pool)
        return _Captured(graph, static_input, static_output, apart)

    def _capture(self, run: Callable[[], T], pool: Any) -> tuple[torch.cuda.CUDAGraph, T]:
        """Capture what `run` does, after some runs for warm-up, with what it returns."""
        stream = self._stream
        assert stream is not None
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_RUNS):
                run()
            # The warm-up's memory is cached in the ordinary pool, which the graph's own pool can't take from.
            stream.synchronize()
            torch.cuda.empty_cache()
            graph = torch.cuda.CUDAGraph()
            # thread_local: other threads may allocate or copy meanwhile without breaking the capture.
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                returned = run()
            except BaseException:  # of any kind: a stream that is left capturing breaks whatever runs next
                with contextlib.suppress(RuntimeError):  # it would only repeat that the capture failed
                    graph.capture_end()
                raise
            graph.capture_end()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        return graph, returned

    def _matches_eager(self, captured: _Captured) -> bool:
        asked = captured.static_input.clone()  # what it was captured for may lie there already
        try:
            return self._replays_as_eager(captured)
        finally:
            captured.static_input.copy_(asked)

    def _replays_as_eager(self, captured: _Captured) -> bool:
        generator = torch.Generator(device=self.device).manual_seed(0)
        for _ in range(VERIFY_INPUTS):
            inputs = torch.rand(captured.static_input.shape, generator=generator, device=self.device)
            inputs[:, 3:] = (inputs[:, 3:] > 0.7).to(inputs.dtype)
            inputs[:, :3] *= 1 - inputs[:, 3:]
            expected = self.model(inputs)
            for _ in range(VERIFY_REPLAYS):
                captured.static_input.copy_(inputs)
                captured.graph.replay()
                difference = (captured.static_output - expected).abs().max().item()
                if not difference <= VERIFY_MAX_DIFFERENCE:  # NaN fails too
                    return False
        return True

    def _drop(self, shape: Shape) -> None:
        self.mode = "off"
        self.dropped = f"replay of the graph for {shape} differed from eager; graphs are off"
        logger.warning("CUDA graphs dropped: %s", self.dropped)
        self.free()


def _new_input(graphed: GraphedModel, shape: Shape) -> Tensor:
    batch, height, width = shape
    return torch.zeros((batch, 4, height, width), dtype=torch.float32, device=graphed.device)
