"""The driver makes a card's context while PyTorch is imported, of the card that was asked for and of no other."""

import ctypes
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from engine import early_context
from engine.early_context import LIBRARIES, open_card_early


class Driver:
    """What was asked of the driver, and what it answers."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.cards = 2
        self.library = SimpleNamespace(
            cuInit=self._initialise, cuDeviceGet=self._find, cuDevicePrimaryCtxRetain=self._open
        )

    def _initialise(self, flags: int) -> int:
        self.asked.append(f"init {flags} {os.environ['CUDA_MODULE_LOADING']}")
        return 0 if self.cards else 100

    def _find(self, card: Any, number: int) -> int:
        self.asked.append(f"card {number}")
        card._obj.value = number + 10
        return 0 if number < self.cards else 101

    def _open(self, context: Any, card: ctypes.c_int) -> int:
        self.asked.append(f"context of {card.value}")
        return 2


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A driver, in a process that has not imported PyTorch but is about to."""
    made = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: made.library)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("CUDA_MODULE_LOADING", "")
    monkeypatch.delenv("CUDA_MODULE_LOADING")
    monkeypatch.setattr(early_context, "LIBRARIES", "imported_later")
    yield made
    sys.modules.pop("imported_later", None)


def ask(device: str) -> bool:
    """Ask, import what is waited for, and wait until the thread is done; tell whether there was one."""
    thread = open_card_early(device)
    sys.modules["imported_later"] = sys.modules[__name__]
    if thread is not None:
        thread.join()
    return thread is not None


@pytest.mark.parametrize(("device", "number"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:1", 1)])
def test_the_context_is_of_the_card_that_was_asked_for(driver: Driver, device: str, number: int) -> None:
    assert ask(device)
    assert driver.asked == ["init 0 LAZY", f"card {number}", f"context of {number + 10}"]


@pytest.mark.parametrize("device", ["cpu", "mps", "", "cuda:", "cuda:x", "cuda:-1", "cuda:²", "xpu:0"])
def test_no_card_is_opened_for_what_is_none(driver: Driver, device: str) -> None:
    assert not ask(device)
    assert driver.asked == []


def test_a_card_that_is_not_there_is_left_to_pytorch(driver: Driver) -> None:
    assert ask("cuda:2")
    assert driver.asked == ["init 0 LAZY", "card 2"]
    sys.modules.pop("imported_later")
    driver.asked.clear()
    driver.cards = 0
    assert ask("auto")
    assert driver.asked == ["init 0 LAZY"]


def test_nothing_is_done_without_a_driver_or_beside_pytorch(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: str) -> Any:
        raise OSError("libcuda.so.1: cannot open shared object file")

    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", missing)
        assert ask("auto")
    assert not ask("auto"), "PyTorch is there already"
    monkeypatch.setattr(sys, "platform", "darwin")
    sys.modules.pop("imported_later")
    assert not ask("auto")
    assert driver.asked == []


def test_a_program_that_ends_without_pytorch_opens_no_card(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early_context, "LONGEST_WAIT_S", 0.0)
    thread = open_card_early("auto")
    assert thread is not None
    thread.join()
    assert driver.asked == []


def test_what_is_waited_for_is_there_after_the_import() -> None:
    import torch

    assert LIBRARIES in sys.modules and torch.__name__ == "torch"
