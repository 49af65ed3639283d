"""The last convolution with its sigmoid in one launch on a Hopper card, as `hopper_head.cu` takes it.

A program walks down strips of rows, of which it takes 192 pixels and gives 186. Every row is read once, but for three
above and three below each strip, and its sums stay float32.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lama.fold_batchnorm import Convolution
from lama.kernels.cuda_kernel import INTEGER, POINTER, STRUCTURE, tensor_map
from lama.kernels.hopper_card import trial_difference, tried, why_not_card
from lama.kernels.hopper_pieces import loaded, program, swizzled
from lama.kernels.stem_head import BORDER_PX, COLOURS, TAPS
from lama.kernels.tiles import multiprocessors

SOURCE = Path(__file__).with_suffix(".cu")
PIXELS, THREADS, BLOCK_COLUMNS = 192, 512, 24  # as in the kernel
STRIP_PX = PIXELS - 2 * BORDER_PX
PITCH = PIXELS + 4  # as in the kernel
LEAST_WIDTH, LEAST_HEIGHT = 2 * BORDER_PX + 2, BORDER_PX + 1
"""A narrower map has pixels that are reflected at both sides, where the kernel has one place for each; a lower one has
no rows to reflect."""
TRIAL_SHAPE, TRIAL_ROWS, TRIAL_PROGRAMS = (2, 9, 200), 7, 3
"""Of the trial: its map, two strips wide, and its plan: a program has several tasks, and the ring turns whole."""


@dataclass(frozen=True)
class HeadProgram:
    """The kernel for one number of channels; there these are constants, their names in capitals.

    Attributes:
        inputs: I, 32 or 64.
        slots: rows of pixels in flight.
    """

    inputs: int
    slots: int

    @property
    def shared_bytes(self) -> int:
        """Shared memory of one program."""
        weights = (2 * TAPS - 1) * BLOCK_COLUMNS * 2 * self.inputs
        finished = 2 * BLOCK_COLUMNS * PITCH * 4
        return self.slots * PIXELS * 2 * self.inputs + weights + finished + 8 * (1 + 2 * self.slots)

    @cached_property
    def source(self) -> str:
        """The program to compile."""
        numbers = {"inputs": self.inputs, "slots": self.slots, "shared_bytes": self.shared_bytes}
        return program(SOURCE, numbers=numbers, inside=(TAPS * BLOCK_COLUMNS,))


PROGRAMS = {32: HeadProgram(32, slots=9), 64: HeadProgram(64, slots=6)}
"""By the number of channels."""


@dataclass(frozen=True)
class HeadPlan:
    """How the rows of a map are dealt out.

    Attributes:
        strips: of one image, side by side.
        chunks: of a strip, one below the other.
        rows: of a chunk; the last one may have fewer.
        tasks: chunks of all strips and images.
        programs: that share the tasks.
    """

    strips: int
    chunks: int
    rows: int
    tasks: int
    programs: int

    @property
    def steps(self) -> int:
        """Rows of pixels that the busiest program multiplies."""
        return -(-self.tasks // self.programs) * (self.rows + 2 * BORDER_PX)


def plan_of(batch: int, height: int, width: int, programs: int, *, rows: int) -> HeadPlan:
    """Deal out chunks of `rows` rows of a map (batch, height, width) to at most so many programs."""
    strips, chunks = -(-width // STRIP_PX), -(-height // rows)
    tasks = batch * strips * chunks
    return HeadPlan(strips, chunks, rows, tasks, min(tasks, programs))


@cache
def plan_for(batch: int, height: int, width: int, programs: int) -> HeadPlan:
    """Choose the chunks with which the busiest program has the fewest rows, and the largest of those.

    A program begins once, however many tasks it has; what each chunk costs more is the 6 rows beside it.

    Args:
        batch: B.
        height: H of the map.
        width: W.
        programs: that run at once: the card's multiprocessors.

    Returns:
        The plan.
    """
    heights = sorted({-(-height // chunks) for chunks in range(1, height + 1)}, reverse=True)
    plans = [plan_of(batch, height, width, programs, rows=rows) for rows in heights]
    return min(plans, key=lambda plan: plan.steps)


def block_weights(convolution: Convolution) -> Tensor:
    """Lay out the last convolution (3, I, 7, 7): (13 * 24, I) float16, swizzled.

    A block of 24 rows has a vertical tap's 7 horizontal taps x 3 colours, filled up; the blocks are taps 6 to 0 and 6
    to 1.
    """
    inputs = convolution.weight.shape[1]
    rows = convolution.weight.permute(2, 3, 0, 1).reshape(TAPS, TAPS * COLOURS, inputs).flip(0)
    blocks = F.pad(rows, (0, 0, 0, BLOCK_COLUMNS - TAPS * COLOURS))
    return swizzled(torch.cat([blocks, blocks[:-1]]).flatten(0, 1).half()).contiguous()


class HopperHead:
    """The last convolution and its sigmoid on a Hopper card.

    Args:
        convolution: weight (3, I, 7, 7), I 32 or 64.
        device: where it runs.

    Attributes:
        program: what is compiled for so many channels.
    """

    program: HeadProgram

    def __init__(self, convolution: Convolution, device: torch.device) -> None:
        self.program = PROGRAMS[convolution.weight.shape[1]]
        self._weights = block_weights(convolution).to(device)
        self._bias = convolution.bias.to(device, torch.float32)
        self._multiprocessors = multiprocessors(device)

    def takes(self, x: Tensor) -> bool:
        """Whether a map (B, H, W, I) can be taken."""
        _, height, width, inputs = x.shape
        is_large = height >= LEAST_HEIGHT and width >= LEAST_WIDTH
        return is_large and inputs == self.program.inputs and x.is_contiguous()

    def plan(self, x: Tensor) -> HeadPlan:
        """Choose the plan for a map (B, H, W, I)."""
        batch, height, width, _ = x.shape
        return plan_for(batch, height, width, self._multiprocessors)

    def convolve(self, x: Tensor, out: Tensor, plan: HeadPlan) -> None:
        """Write sigmoid(7x7 convolution + bias) of `x`, reflect-padded, to `out`.

        Args:
            x: (B, H, W, I) float16, one that `takes` takes.
            out: (B, 3, H, W) float32, contiguous.
            plan: what `plan` chose.
        """
        batch, height, width, inputs = x.shape
        pixels = tensor_map(
            x, (inputs, width, batch * height), (inputs, width * inputs), (inputs, PIXELS, 1), row_bytes=2 * inputs
        )
        kernel = loaded(self.program.source, "convolve_head", self.program.shared_bytes, x.device)
        kernel.launch(
            plan.programs,
            THREADS,
            (
                pixels,
                self._weights.data_ptr(),
                self._bias.data_ptr(),
                out.data_ptr(),
                height,
                width,
                plan.strips,
                plan.chunks,
                plan.rows,
                plan.tasks,
            ),
            (STRUCTURE, POINTER, POINTER, POINTER, *([INTEGER] * 6)),
            early=True,
        )


def hopper_head(convolution: Convolution, device: torch.device) -> tuple[HopperHead | None, str]:
    """Build the form of the last convolution and try it on noise.

    Args:
        convolution: weight (3, I, 7, 7).
        device: where it is to run.

    Returns:
        The form, or None where other kernels have to do it, and the obstacle, empty where I is neither 32 nor 64.
    """
    if obstacle := why_not_card(device):
        return None, obstacle
    if convolution.weight.shape[1] not in PROGRAMS:
        return None, ""

    def build() -> tuple[HopperHead, float]:
        form = HopperHead(convolution, device)
        return form, _trial_difference(form, convolution, device)

    return tried("head", build)


def _trial_difference(form: HopperHead, convolution: Convolution, device: torch.device) -> float:
    """Run a form by a plan of its own: the relative difference from the definition on the CPU."""
    batch, height, width = TRIAL_SHAPE
    random = torch.Generator().manual_seed(0)
    x = torch.randn(*TRIAL_SHAPE, form.program.inputs, generator=random).half()
    out = torch.full((batch, COLOURS, height, width), math.nan, device=device)
    form.convolve(x.to(device), out, plan_of(*TRIAL_SHAPE, TRIAL_PROGRAMS, rows=TRIAL_ROWS))
    return trial_difference(out.cpu(), head_reference(x.float(), convolution))


def head_reference(x: Tensor, convolution: Convolution) -> Tensor:
    """The definition of `HopperHead.convolve`, computed in the type of `x` with weights as the kernel has them."""
    padded = F.pad(x.permute(0, 3, 1, 2), (BORDER_PX,) * 4, mode="reflect")
    return F.conv2d(padded, convolution.weight.half().to(x), convolution.bias.to(x)).sigmoid()
