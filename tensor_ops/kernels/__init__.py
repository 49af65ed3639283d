"""Which Triton kernels of this folder run on a device: tried once per device, said in the log. Elsewhere PyTorch runs.

The modules are imported by name, so a kernel module that is missing or broken is an ImportError, not a slower GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from types import ModuleType

import torch

logger = logging.getLogger(__name__)

KERNEL_CAPABILITY = (8, 0)  # what Triton is kept working on


@functools.cache
def crop_kernels(device: torch.device) -> ModuleType | None:
    """Import `tensor_ops.kernels.crop` if its kernels run on a device.

    Args:
        device: where they would run.

    Returns:
        the module, or None where Triton is missing or can't compile for the device.

    Raises:
        ImportError: the module is missing or broken, although Triton is installed.
    """
    if not _can_run_triton(device):
        return None
    from tensor_ops.kernels import crop

    return crop if _passes_trial("crop", crop.try_out, device) else None


@functools.cache
def scaled_crop_kernels(device: torch.device) -> ModuleType | None:
    """Import `tensor_ops.kernels.scaled_crop` if its kernels run on a device.

    Args:
        device: where they would run.

    Returns:
        the module, or None where Triton is missing or can't compile for the device.

    Raises:
        ImportError: the module is missing or broken, although Triton is installed.
    """
    if not _can_run_triton(device):
        return None
    from tensor_ops.kernels import scaled_crop

    return scaled_crop if _passes_trial("scaled crop", scaled_crop.try_out, device) else None


@functools.cache
def seam_kernels(device: torch.device) -> ModuleType | None:
    """Import `tensor_ops.kernels.seam` if its kernels run on a device.

    Args:
        device: where they would run.

    Returns:
        the module, or None where Triton is missing or can't compile for the device.

    Raises:
        ImportError: the module is missing or broken, although Triton is installed.
    """
    if not _can_run_triton(device):
        return None
    from tensor_ops.kernels import seam

    return seam if _passes_trial("seam", seam.try_out, device) else None


def _can_run_triton(device: torch.device) -> bool:
    """Tell whether Triton is installed (CUDA builds of PyTorch bring it) and made for this card."""
    if device.type != "cuda" or torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= KERNEL_CAPABILITY


def _passes_trial(name: str, try_out: Callable[[torch.device], None], device: torch.device) -> bool:
    try:
        with torch.cuda.device(device):  # Triton launches on the current card, not on the one its arguments lie on
            try_out(device)
    except torch.OutOfMemoryError:
        raise  # not the kernels' fault, and plain PyTorch needs more
    except Exception as error:  # a compiler or driver of any kind: slower is better than not at all
        logger.warning("the %s kernels do not run on %s, plain PyTorch does their work: %s", name, device, error)
        return False
    return True
