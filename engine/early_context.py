"""The context of the card that will be used, made by the driver while PyTorch is still being imported.

Both take a third of a second or more, and the driver needs neither Python nor PyTorch, which then finds the context and
uses it. Knows no PyTorch. Whatever fails here is left to PyTorch, which tells it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time

DRIVERS = {"linux": "libcuda.so.1", "win32": "nvcuda.dll"}
LIBRARIES = "torch._C"  # once it is there, what is still imported are modules in Python
LOOK_S = 0.01
LONGEST_WAIT_S = 60.0


def open_card_early(device: str) -> threading.Thread | None:
    """Have the driver make a card's context in a thread, for a program that imports PyTorch next.

    A process that did this can't be forked into one that uses a card, as after any use of CUDA.

    Args:
        device: "auto" or "cuda" for the first card, or "cuda:N"; for anything else nothing is done.

    Returns:
        The thread; None where nothing is done, as where PyTorch has been imported already.
    """
    kind, _, number = device.partition(":")
    is_card = device in ("auto", "cuda") or (kind == "cuda" and number.isascii() and number.isdecimal())
    if not is_card or sys.platform not in DRIVERS or LIBRARIES in sys.modules:
        return None
    thread = threading.Thread(target=_open, args=(DRIVERS[sys.platform], int(number or 0)), name="opens-card")
    thread.start()
    return thread


def _open(driver: str, number: int) -> None:
    try:
        cuda = ctypes.CDLL(driver)
    except OSError:  # no NVIDIA card here
        return
    # Before that PyTorch's libraries are mapped, for which the kernel lets only one thread at a time change the memory.
    deadline_s = time.monotonic() + LONGEST_WAIT_S
    while LIBRARIES not in sys.modules and time.monotonic() < deadline_s and threading.main_thread().is_alive():
        time.sleep(LOOK_S)
    if LIBRARIES not in sys.modules:  # the program ends, or imports nothing
        return
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as PyTorch does, before the driver reads it
    card, context = ctypes.c_int(), ctypes.c_void_p()
    if cuda.cuInit(0) == 0 and cuda.cuDeviceGet(ctypes.byref(card), number) == 0:
        cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), card)
