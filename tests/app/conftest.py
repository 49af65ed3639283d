"""Fixtures of the upgrade's tests: what is upgraded from, and a folder as people have it."""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.original_folders import PLACES, SHAPES
from tests.support.small_fftlama import Checkout, make_checkout


@pytest.fixture(scope="session")
def fftlama(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A small fftlama with the program's settings and lock, which no test changes."""
    return make_checkout(tmp_path_factory.mktemp("from") / "fft lama 源", is_quick=False)


@pytest.fixture(scope="session")
def quick_fftlama(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A small fftlama with stand-ins of both, which no test changes."""
    return make_checkout(tmp_path_factory.mktemp("from") / "fft lama 源", is_quick=True)


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of the shape that the test is run with, else the flat one."""
    shape = request.node.callspec.params.get("shape", "flat") if hasattr(request.node, "callspec") else "flat"
    path = tmp_path.resolve() / PLACES[shape]
    SHAPES[shape](path)
    yield path
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if f"{path}/" in cmdline.read_bytes().decode(errors="replace"):
                os.kill(int(cmdline.parent.name), signal.SIGKILL)
