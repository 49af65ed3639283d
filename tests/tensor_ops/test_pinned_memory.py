"""Page-locked memory of one size: what passes through it, in strips where it is larger, and stays what it was."""

import numpy as np
import pytest
import torch

from tensor_ops import host_copies
from tensor_ops import pinned_memory as pinned
from tensor_ops.pinned_memory import PinnedMemory


def pass_through(array: np.ndarray, device: str, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> np.ndarray:
    monkeypatch.setattr(pinned, "BLOCK_BYTES", block_bytes)
    way = PinnedMemory(torch.device(device))
    out = np.zeros_like(array)
    way.to_host(way.to_device(array), out)
    way.synchronize()
    return out


DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block_bytes", [2048, 32 << 20])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_, np.float32])
def test_every_array_comes_back_whole(
    device: str, block_bytes: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    array: np.ndarray = np.random.default_rng(0).integers(0, 2**16, (90, 70, 3)).astype(dtype)[5:, 10:50]
    np.testing.assert_array_equal(pass_through(array, device, monkeypatch, block_bytes), array)


@pytest.mark.parametrize("device", DEVICES)
def test_a_large_part_of_a_photo_comes_back_whole_by_several_threads(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several strips, the last of which is short."""
    monkeypatch.setattr(host_copies, "_works_together", lambda: True)  # the tests may run by one thread
    photo = np.random.default_rng(0).integers(0, 256, (1500, 5000, 3), dtype=np.uint8)
    part = photo[100:1400, 200:4900]
    np.testing.assert_array_equal(pass_through(part, device, monkeypatch, 32 << 20), part)


def test_array_that_may_not_be_written_is_copied() -> None:
    array = np.arange(6, dtype=np.uint8)
    array.setflags(write=False)
    tensor = PinnedMemory(torch.device("cpu")).to_device(array)
    tensor += 1
    assert array.tolist() == [0, 1, 2, 3, 4, 5]


def test_strips_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "BLOCK_BYTES", 100)
    rows = [list(range(10))[part] for part in pinned._strips(np.zeros((10, 30), np.uint8))]
    assert rows == [[row] for row in range(10)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block_bytes", [2048, 32 << 20])
def test_arrays_that_travel_together_arrive_as_they_were(
    device: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "BLOCK_BYTES", block_bytes)
    random = np.random.default_rng(0)
    arrays = [random.integers(0, 256, shape, dtype=np.uint8) for shape in ((31, 20, 3), (7, 9), (1, 1))]
    views = [array[:, 1:] if array.shape[1] > 1 else array for array in arrays]
    for tensor, array in zip(PinnedMemory(torch.device(device)).to_device_together(views), views, strict=True):
        np.testing.assert_array_equal(tensor.cpu().numpy(), array)
        assert tensor.is_contiguous()
