"""What an error of a device means, and how it is said on one line. Knows no profiles and no requests."""

import torch

# Libraries report it in their own words: the CUDA runtime, its driver and Triton the first, cuda-bindings the second.
ALLOCATION_FAILURES = (
    "out of memory",
    "_OUT_OF_MEMORY",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that memory did not suffice, the device's or the CPU's.

    NumPy, and C++ code whose `new` fails, raise MemoryError.
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(words in str(error) for words in ALLOCATION_FAILURES)


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says: CUDA's go on with advice for programmers."""
    return str(error).partition("\n")[0] or type(error).__name__


def named_line(error: BaseException) -> str:
    """Return the name of an error's type and the first line of what it says."""
    return f"{type(error).__name__}: {first_line(error)}"
