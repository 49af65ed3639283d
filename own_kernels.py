"""Which of our own Triton kernels run on a device: tried once, said in the log. Elsewhere plain PyTorch runs."""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

import torch

logger = logging.getLogger(__name__)

KERNEL_CAPABILITY = (8, 0)  # what Triton is kept working on


@functools.cache
def own_kernels(name: str, device: torch.device) -> Any:
    """Return the module of that name if its kernels run on a device, else None.

    Args:
        name: a module with `try_out(device)`, which raises whatever keeps its kernels from running.
        device: any.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return None
    if torch.cuda.get_device_capability(device) < KERNEL_CAPABILITY:
        return None
    try:
        module = importlib.import_module(name)  # Triton comes with CUDA builds of PyTorch only
        module.try_out(device)
    except torch.OutOfMemoryError:
        raise  # not the kernels' fault, and plain PyTorch needs more
    except Exception as error:  # a compiler or driver of any kind: slower is better than not at all
        logger.warning("%s do not run on %s, plain PyTorch does their work: %s", name, device, error)
        return None
    return module
