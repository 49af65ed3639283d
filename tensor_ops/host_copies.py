"""Large arrays of the host, copied and looked through by PyTorch's threads: by one it takes longer than a card's part.

One thread copies 10 GB/s, a sixth of what a card's link takes. PyTorch's are woken together, where those of a pool in
Python come one by one and wait for the interpreter's lock. How many there are is PyTorch's to know
(`torch.set_num_threads`, `OMP_NUM_THREADS`): another number for a copy alone would make some of its versions end and
start threads. Knows no device.
"""

from __future__ import annotations

import functools
import os
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

LEAST_BYTES = 1 << 20  # fewer are copied before a second thread has woken up
MANY_CORES = 8  # of fewer another thread or program often has one, and all that work together wait for it
PAGE_BYTES = 4096


def copy_rows(target: NDArray, source: NDArray) -> None:
    """Copy an array into another of its shape and type, by several threads where they are large."""
    is_for_several = source.nbytes >= LEAST_BYTES and _works_together()
    if is_for_several and _runs_forward(target) and _runs_forward(source):
        torch.from_numpy(target).copy_(torch.from_numpy(_as_writable(source)))
    else:
        np.copyto(target, source)


def is_any_set(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether an array holds anything but zeros."""
    if pixels.size and _works_together():
        return bool(torch.from_numpy(_as_writable(pixels)).max())
    return bool(cv2.countNonZero(pixels))  # of what is in no cache in three quarters of the time that `any` takes


def touch_pages(array: NDArray) -> None:
    """Write a byte of each page of an array that is about to be filled, so that the system gives it memory now."""
    if array.flags.c_contiguous and array.nbytes >= LEAST_BYTES:
        array.reshape(-1).view(np.uint8)[::PAGE_BYTES] = 0


def _works_together() -> bool:
    """Tell whether PyTorch has several threads, and cores to spare for them."""
    return torch.get_num_threads() > 1 and _core_count() >= MANY_CORES


@functools.cache
def _core_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _runs_forward(array: NDArray) -> bool:
    """Tell whether PyTorch can refer to an array: it takes no negative strides, and none that end within a number."""
    return all(step >= 0 and step % array.itemsize == 0 for step in array.strides)


def _as_writable(array: NDArray) -> NDArray:
    """Return the same memory as an array that PyTorch refers to without a warning; it is only read, and kept alive."""
    if array.flags.writeable:
        return array
    interface = {**array.__array_interface__, "data": (array.__array_interface__["data"][0], False)}
    return np.asarray(SimpleNamespace(__array_interface__=interface, owner=array))
