"""The trunk of one or two cores computes what the other one does, by one thread or two."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from lama.fast_generator import FastGenerator
from lama.planar_trunk import PlanarTrunk, planar_is_fastest
from tests.support.networks import live_generator, masked_input

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(
    not (torch.backends.nnpack.is_available() and torch.backends.mkl.is_available()), reason="no NNPACK or no MKL here"
)


@pytest.fixture(autouse=True)
def as_many_threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "batch"), [(16, 16, 1), (24, 40, 1), (72, 56, 2), (96, 160, 1)])
def test_every_number_of_threads_matches_the_published_form(height: int, width: int, batch: int) -> None:
    x = masked_input(height, width, batch=batch)
    with torch.no_grad():
        expected = live_generator().double()(x.double())
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        fused = FastGenerator(live_generator(), device="cpu", dtype=torch.float32)
        assert isinstance(fused.backend.trunk, PlanarTrunk) == (threads < 3)
        assert (fused(x) - expected).abs().max() < 1e-5, threads


def test_only_float32_on_a_cpu_is_planar() -> None:
    torch.set_num_threads(2)
    assert planar_is_fastest(CPU, torch.float32)
    assert not planar_is_fastest(CPU, torch.bfloat16)
    assert not planar_is_fastest(torch.device("cuda"), torch.float32)


def test_two_networks_at_once_do_not_mix() -> None:
    torch.set_num_threads(2)
    networks = [FastGenerator(live_generator(seed=seed), device="cpu", dtype=torch.float32) for seed in (0, 1)]
    x = masked_input(64, 48)
    expected = [network(x) for network in networks]
    with ThreadPoolExecutor(2) as callers:
        for _ in range(3):
            for found, right in zip(callers.map(lambda network: network(x), networks), expected, strict=True):
                assert torch.equal(found, right)


def test_the_threads_of_everybody_else_stay_as_many() -> None:
    torch.set_num_threads(2)
    FastGenerator(live_generator(blocks=1), device="cpu", dtype=torch.float32)(masked_input(32, 32))
    assert torch.get_num_threads() == 2
    with ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 2


@pytest.mark.parametrize("part", ["_spectral_path", "_local"])
def test_a_failure_in_either_thread_reaches_the_caller_and_the_next_call_works(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    torch.set_num_threads(2)
    fused = FastGenerator(live_generator(blocks=1), device="cpu", dtype=torch.float32)
    x = masked_input(32, 32)
    expected = fused(x)

    def fail(*args: object, **kwargs: object) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as broken:
        broken.setattr("lama.planar_trunk._PlanarLayer." + part, fail)
        with pytest.raises(MemoryError, match="no room"):
            fused(x)
    assert torch.equal(fused(x), expected)


@pytest.mark.process
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_in_a_turn_has_threads_and_turns_of_its_own() -> None:
    program = (
        "import os, signal, torch; from lama import planar_trunk\n"
        "torch.set_num_threads(2); planar_trunk._two_threads(); planar_trunk._TURN.acquire(); child = os.fork()\n"
        "if child: os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"  # to free PyTorch takes long
        "signal.alarm(30)\n"  # what waits for ever is ended, and seen
        "with planar_trunk._TURN: one, other = planar_trunk._two_threads()\n"
        "one.submit(other.submit(int).result).result(); os._exit(0)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60)
    assert finished.returncode == 0


@pytest.mark.parametrize("threads", [1, 2])
def test_gradients_and_inference_mode_are_the_callers_affair(threads: int) -> None:
    torch.set_num_threads(threads)
    fused = FastGenerator(live_generator(blocks=1), device="cpu", dtype=torch.float32)
    x = masked_input(32, 32)
    expected = fused(x)
    assert not expected.is_inference()
    assert torch.equal(fused(x.clone().requires_grad_()), expected)
    with torch.inference_mode():
        assert torch.equal(fused(x.clone()), expected)
