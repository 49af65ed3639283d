"""Launches that begin before those that they wait for have ended, on Hopper cards.

Once all programs before them have ended, programs of such a launch begin without waiting until what those wrote is
there for everybody; they wait for that themselves (programmatic dependent launch: CUDA C++ Programming Guide). What
this saves is the time in which the card starts a launch, about a microsecond. A kernel that may begin early calls
`wait_for_launches_before` before it reads or writes anything that other launches read or write; weights it may read
before.
"""

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from lama.kernels.hopper_card import why_not_card


def early_options(device: torch.device, *, early: bool) -> dict[str, bool]:
    """Return the options of a kernel's launch that may begin early, if it is to and `device` is a Hopper card."""
    return {"EARLY": True, "launch_pdl": True} if early and not why_not_card(device) else {}


@triton.jit
def wait_for_launches_before(EARLY: tl.constexpr):
    """Wait, if this launch has begun early, until those that it waits for have ended and their results are there."""
    if EARLY:
        gdc_wait()
