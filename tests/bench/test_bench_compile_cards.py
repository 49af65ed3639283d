"""Kernels are compiled for cards that are not here, each for its own, and fit into them."""

from pathlib import Path

import pytest
import torch

from tests.support.networks import live_generator

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


@triton.jit
def add_one_kernel(numbers):  # type: ignore[no-untyped-def]
    """Add one to sixteen numbers."""
    offsets = tl.arange(0, 16)
    tl.store(numbers + offsets, tl.load(numbers + offsets) + 1)


@pytest.mark.slow
def test_kernels_fit_into_a_card_that_is_not_here() -> None:
    """An RTX 30 has less than half of the shared memory that the block shapes were measured with."""
    from bench.compile_cards import compiled
    from lama.kernels.tiles import shared_bytes_of

    fits = compiled(live_generator(64, 1), (8, 6), [(1, 512, 512)])
    assert {"convolve_kernel", "enter_rows_kernel", "leave_rows_kernel", "head_rows_kernel"} <= {k for k, _ in fits}
    assert 0 < max(shared for _, shared in fits) <= shared_bytes_of((8, 6)) == 99 * 1024


@pytest.mark.slow
def test_this_triton_compiles_what_runs_on_a_hopper_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.9 had renamed what these kernels call, and an H200 ran the slower ones without anybody knowing."""
    # What Triton keeps is found by the kernels' source, in which the names of its own functions do not stand.
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    pytest.importorskip("triton.experimental.gluon")
    from bench.compile_cards import compiled_for_hopper
    from lama.kernels.hopper_card import CAPABILITY, why_not_gluon
    from lama.kernels.tiles import shared_bytes_of

    obstacle = why_not_gluon()
    if triton.__version__.startswith("3.8."):
        pytest.skip(obstacle)
    assert obstacle == ""
    fits = compiled_for_hopper(live_generator(64, 1), kernels=("local",), batches=(1,))
    assert [kernel for kernel, _ in fits] == ["convolve_tile"] * 4
    assert all(0 < shared <= shared_bytes_of(CAPABILITY) // 2 for _, shared in fits)  # others run beside it


@pytest.mark.slow
def test_a_kernel_is_compiled_anew_for_the_next_card() -> None:
    """Triton keeps what it compiled by the device's number; what comes for another card is refused."""
    from bench.compile_cards import as_on_a_card

    for capability in ((8, 6), (12, 0), (8, 6)):
        fits: list[tuple[str, int]] = []
        with as_on_a_card(capability, fits):
            add_one_kernel[(1,)](torch.zeros(16))
        assert fits == [("add_one_kernel", 0)]
