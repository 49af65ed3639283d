"""What the network must know of the device it runs on. Knows no profiles and no requests."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch


def cpu_supports_bf16() -> bool:
    """Tell whether oneDNN can compute bfloat16 on this CPU; elsewhere its operators raise an error.

    oneDNN answers itself, so `ONEDNN_MAX_CPU_ISA` counts too. It needs AVX-512 (bw, vl and dq) or AVX-NE-CONVERT on
    x86, and the bf16 instructions on ARM.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    # In PyTorch 2.11 to 2.15; a version without the question gets float32, which is right everywhere.
    question = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(question is not None and question())


def on_card(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which `device` is the current CUDA device; on other devices it does nothing.

    Triton launches its kernels, and PyTorch makes streams, graphs and page-locked memory, on the current device, not
    on that of the tensors: without this, a model on cuda:1 would run its kernels on cuda:0.
    """
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
