"""Large arrays of the host, copied and looked through by PyTorch's threads: by one it takes longer than a card's part.

One thread copies 10 GB/s, a sixth of what a card's link takes. PyTorch's are woken together, where those of a pool in
Python come one by one and wait for the interpreter's lock. How many there are is PyTorch's to know
(`torch.set_num_threads`, `OMP_NUM_THREADS`): another number for a copy alone would make some of its versions end and
start threads. Knows no device.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray

LEAST_BYTES = 1 << 20  # fewer are copied before a second thread has woken up
PAGE_BYTES = 4096


def copy_rows(target: NDArray, source: NDArray) -> None:
    """Copy an array into another of its shape and type, by several threads where they are large."""
    is_large = source.nbytes >= LEAST_BYTES and torch.get_num_threads() > 1
    if is_large and _runs_forward(target) and _runs_forward(source):
        torch.from_numpy(target).copy_(torch.from_numpy(_as_writable(source)))
    else:
        np.copyto(target, source)


def is_any_set(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether an array holds anything but zeros."""
    return bool(pixels.size) and bool(torch.from_numpy(_as_writable(pixels)).max())


def touch_pages(array: NDArray) -> None:
    """Write a byte of each page of an array that is about to be filled, so that the system gives it memory now."""
    if array.flags.c_contiguous and array.nbytes >= LEAST_BYTES:
        array.reshape(-1).view(np.uint8)[::PAGE_BYTES] = 0


def _runs_forward(array: NDArray) -> bool:
    """Tell whether PyTorch can refer to an array: it knows no steps backwards, nor such as end within a number."""
    return all(step >= 0 and step % array.itemsize == 0 for step in array.strides)


def _as_writable(array: NDArray) -> NDArray:
    """Return the same memory as an array that PyTorch refers to without a warning; it is only read, and kept alive."""
    if array.flags.writeable:
        return array
    interface = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}
    return np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
