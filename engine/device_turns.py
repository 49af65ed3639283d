"""Turns at the device: one thread has it at a time, and work that only prepares comes after all that wait for a result.

Knows no model and no requests.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator

PREPARES = "prepares-device"  # the thread's name
LOOK_S = 0.05  # how often a thread that waits looks whether the program ends

logger = logging.getLogger(__name__)


class DeviceTurns:
    """The lock on one device, and the thread that prepares while nobody asks for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked = threading.Condition()
        self._asking = 0
        self._preparing: threading.Thread | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Hold the device."""
        is_asking = threading.current_thread() is not self._preparing
        if is_asking:
            with self._asked:
                self._asking += 1
        try:
            with self._lock:
                yield
        finally:
            if is_asking:
                with self._asked:
                    self._asking -= 1
                    self._asked.notify_all()

    def prepare(self, steps: Iterator[None]) -> None:
        """Take the steps in a thread of its own, each when nobody else has asked for a turn.

        They end with the program: it waits for the one that is being taken. An error ends them too, and is logged.

        Args:
            steps: each takes the turns that it needs.
        """
        # No daemon: one that is stopped within the driver or PyTorch can bring down a program that ends.
        self._preparing = threading.Thread(target=self._take, args=(steps,), name=PREPARES)
        self._preparing.start()

    def wait_until_prepared(self) -> None:
        """Wait until all steps have been taken."""
        if self._preparing is not None:
            self._preparing.join()

    def _take(self, steps: Iterator[None]) -> None:
        try:
            while self._may_go_on():
                next(steps)
        except StopIteration:
            return
        except Exception:  # of any kind: what is not prepared is made when it is needed
            logger.exception("preparing the device failed; what is missing is made when it is needed")

    def _may_go_on(self) -> bool:
        """Wait until nobody asks; tell whether the program still runs."""
        with self._asked:
            while self._asking and threading.main_thread().is_alive():
                self._asked.wait(LOOK_S)
        return threading.main_thread().is_alive()


def is_preparing() -> bool:
    """Tell whether some device of this process is still being prepared."""
    return any(thread.name == PREPARES for thread in threading.enumerate())
