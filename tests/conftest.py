"""Fixtures for everybody: real servers on free ports, with a fake engine or the real one."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import RunningServer


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with page and fake engine, shared by all tests: `.url`, `.data_dir`, `.outputs_dir`."""
    running = RunningServer(tmp_path_factory.mktemp("server"), kind="page").start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with page and real engine, shared by all tests: embedded weights, and a choice of others.

    "tiny" and "small" are networks that are loaded in no time, "damaged" is the first half of one.
    """
    from lama.checkpoint import save_generator
    from tests.support.networks import live_generator

    folder = tmp_path_factory.mktemp("real-server")
    save_generator(live_generator(8, 1), folder / "tiny.safetensors")
    save_generator(live_generator(16, 1, seed=1), folder / "small.safetensors")
    whole = (folder / "small.safetensors").read_bytes()
    (folder / "damaged.safetensors").write_bytes(whole[: len(whole) // 2])
    running = RunningServer(folder, kind="real", settings={"weights_dir": folder}).start()
    yield running
    running.stop()


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server without page, with fake engine and small limits (2 MiB, 2 million pixels), shared by all tests."""
    settings = {"max_file_mib": 2, "max_image_mpx": 2}
    running = RunningServer(tmp_path_factory.mktemp("api-server"), settings=settings).start()
    yield running
    running.stop()


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., RunningServer]]:
    """Start servers of one test: `start_server(kind="api", queue_limit=2, ...)`; all are killed at its end."""
    started: list[RunningServer] = []

    def start(kind: str = "api", **settings: Any) -> RunningServer:
        running = RunningServer(tmp_path / f"server-{len(started)}", kind=kind, settings=settings)
        started.append(running)
        return running.start()

    yield start
    for running in started:
        running.kill()
