"""What the Hopper kernels have in common on the host's side: their tile, and whether this card and this Triton can."""

import math
from collections.abc import Callable
from typing import TypeVar

import torch
import triton
from torch import Tensor

from lama.device_errors import is_out_of_memory, named_line

Form = TypeVar("Form")
CAPABILITY = (9, 0)
ROWS, COLUMNS, OUTPUTS, DEPTH = 32, 8, 64, 32  # as in hopper_steps, which not every Triton can import
LARGEST_TRIAL_DIFFERENCE = 2e-3
LEAST_OCCUPANCY = 0.8
"""Share of the multiprocessors that are at work, on average; with less, other kernels' smaller tiles are faster."""


def why_not_card(device: torch.device) -> str:
    """Say what keeps Hopper kernels from running on `device`, or return an empty string."""
    if device.type != "cuda" or torch.version.hip is not None:
        return f"{device} is no Hopper card"
    capability = torch.cuda.get_device_capability(device)
    if capability != CAPABILITY:
        return f"compute capability is {capability[0]}.{capability[1]}, not {CAPABILITY[0]}.{CAPABILITY[1]}"
    return ""


def why_not_gluon() -> str:
    """Say why this Triton cannot compile the Hopper kernels in Gluon, or return an empty string.

    Those in CUDA C++ do not ask for Triton.
    """
    try:
        from triton.experimental.gluon import language
        from triton.experimental.gluon.language.nvidia.hopper import tma
    except ImportError:
        return f"Triton {triton.__version__} has no Gluon"
    memory = getattr(language, "shared_memory_descriptor", None)
    # 3.8 looks at memory as no more than was cut out of it, as later ones do, and cuts out powers of two only.
    is_between = hasattr(tma, "async_load") and not hasattr(memory, "reinterpret")
    if is_between or not (hasattr(memory, "reinterpret") or hasattr(memory, "_reinterpret")):
        return f"the Gluon of Triton {triton.__version__} does not look at shared memory in the shapes needed"
    return ""


def tried(what: str, build: Callable[[], tuple[Form, float]]) -> tuple[Form | None, str]:
    """Build a form of Hopper kernels, and take it if it does in a trial what it is to do.

    Args:
        what: it computes, for the sentence that says why it is not taken.
        build: returns the form and its relative difference from other kernels or from the definition.

    Returns:
        The form, or None and what keeps it from running: those other kernels do the same.

    Raises:
        RuntimeError: the card is full (`lama.device_errors.is_out_of_memory`).
    """
    try:
        form, difference = build()
    except Exception as error:  # a compiler or driver of any kind, or no cuda-bindings
        if is_out_of_memory(error):
            raise
        return None, f"{what} failed in a trial: {named_line(error)}"
    if difference > LARGEST_TRIAL_DIFFERENCE:
        return None, f"{what} differed by {difference:.0e} in a trial"
    return form, ""


def tiles_of(batch: int, height: int, width: int, outputs: int) -> int:
    """Return how many tiles a map (batch, height, width) with `outputs` channels has."""
    return batch * (height // ROWS) * (width // COLUMNS) * (outputs // OUTPUTS)


def keeps_at_work(pieces: int, programs: int) -> bool:
    """Whether `pieces` of the same size, dealt out to `programs` that stay, keep enough of them at work to the end."""
    rounds = -(-pieces // programs)
    return pieces >= LEAST_OCCUPANCY * rounds * programs


def trial_difference(actual: Tensor, expected: Tensor) -> float:
    """Return the relative difference of a trial from what other kernels gave, infinite for NaN."""
    difference = (actual.float() - expected.float()).norm() / expected.float().norm()
    return difference.nan_to_num(nan=math.inf).item()
