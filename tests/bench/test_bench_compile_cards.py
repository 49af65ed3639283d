"""Kernels are compiled for cards that are not here, each for its own, and fit into them."""

import pytest

from tests.support.networks import live_generator

pytest.importorskip("triton")

pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")


def test_kernels_fit_into_cards_that_are_not_here() -> None:
    """An RTX 30 has less than half of the shared memory that the block shapes were measured with."""
    from bench.compile_cards import compiled
    from lama.kernels.tiles import shared_bytes_of

    generator = live_generator(64, 1)
    for capability, kib, sizes in (((8, 6), 99, [(1, 512, 512), (1, 1024, 1024)]), ((12, 0), 99, [(1, 256, 256)])):
        fits = compiled(generator, capability, sizes)  # raises if what comes is for another card
        assert {"convolve_kernel", "enter_rows_kernel", "leave_rows_kernel", "head_rows_kernel"} <= {k for k, _ in fits}
        assert 0 < max(shared for _, shared in fits) <= shared_bytes_of(capability) == kib * 1024
