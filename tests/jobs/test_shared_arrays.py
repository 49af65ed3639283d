"""Memory that two processes share: what lies where, and how much of it there is."""

import os

import numpy as np
import pytest

from jobs.shared_arrays import CAN_SHARE, SharedArrays


@pytest.mark.skipif(not CAN_SHARE, reason="no memory without a name here")
def test_memory_does_not_grow_with_every_photo() -> None:
    """Each answer was written behind all that had ever lain there."""
    memory = SharedArrays(os.memfd_create("test"))
    random = np.random.default_rng(0)
    sizes = []
    for _ in range(20):
        asked = [random.integers(0, 255, (300, 400, 3), np.uint8), random.random((300, 400)) < 0.5]
        placed, _ = memory.write(asked)
        answered = [random.integers(0, 65535, (90, 80, 3), np.uint16)]
        back, size = memory.write(answered, start=memory.end_of(placed))
        for array, read in zip(asked + answered, memory.read(placed, size) + memory.read(back, size), strict=True):
            np.testing.assert_array_equal(array, read)
        sizes.append(size)
    assert len(set(sizes)) == 1
    memory.close()
