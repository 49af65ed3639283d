"""Which Triton kernels of this folder run on a device: tried once per device, said in the log. Elsewhere PyTorch runs.

The modules are imported by name, so a kernel module that is missing or broken is an ImportError, not a slower GPU.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from types import ModuleType

import torch

from lama.device_errors import first_line, is_out_of_memory
from lama.triton_start import prepare_triton

logger = logging.getLogger(__name__)

KERNEL_CAPABILITY = (8, 0)  # what Triton is kept working on


@functools.cache
def crop_kernels(device: torch.device) -> ModuleType | None:
    """Return `crop.py` if its kernels run on a device, else None; a missing or broken module is an ImportError."""
    if not _can_run_triton(device):
        return None
    from tensor_ops.kernels import crop

    return _tried(crop, device)


@functools.cache
def scaled_crop_kernels(device: torch.device) -> ModuleType | None:
    """Return `scaled_crop.py` likewise."""
    if not _can_run_triton(device):
        return None
    from tensor_ops.kernels import scaled_crop

    return _tried(scaled_crop, device)


@functools.cache
def seam_kernels(device: torch.device) -> ModuleType | None:
    """Return `seam.py` likewise."""
    if not _can_run_triton(device):
        return None
    from tensor_ops.kernels import seam

    return _tried(seam, device)


def _can_run_triton(device: torch.device) -> bool:
    """Tell whether Triton is installed (CUDA builds of PyTorch bring it) and made for this card."""
    if device.type != "cuda" or torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= KERNEL_CAPABILITY


def _tried(module: ModuleType, device: torch.device) -> ModuleType | None:
    """Return a module of kernels if its trial runs on a device."""
    prepare_triton()
    try:
        with torch.cuda.device(device):  # Triton launches on the current card, not on the one its arguments lie on
            module.try_out(device)
    except Exception as error:  # a compiler or driver of any kind: slower is better than not at all
        if is_out_of_memory(error):
            raise  # not the kernels' fault, and plain PyTorch needs more
        what = "the kernels of %s do not run on %s, plain PyTorch does their work: %s"
        logger.warning(what, module.__name__, device, first_line(error))
        return None
    return module
