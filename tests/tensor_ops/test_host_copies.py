"""Large arrays copied by PyTorch's threads are what NumPy copies, whatever their layout; nothing is left changed."""

from collections.abc import Callable, Iterator
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from tensor_ops import host_copies
from tensor_ops.host_copies import copy_rows, is_any_set

VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "whole": lambda array: array,
    "window": lambda array: array[5:90, 10:50],
    "every third column": lambda array: array[::2, 1::3],
    "upside down": lambda array: array[::-1],
    "mirrored": lambda array: array[:, ::-1],
    "turned": lambda array: array.transpose(1, 0, 2),
    "one row again and again": lambda array: np.broadcast_to(array[:1], array.shape),
    "one channel": lambda array: array[..., 1],
    "nothing": lambda array: array[:0],
}

# What a view is and how wide its numbers are is asked apart: each view of one type, each type in one view.
PAIRS = [(view, np.uint8) for view in VIEWS] + [
    ("every third column", dtype) for dtype in (np.bool_, np.int16, np.int64, np.float32)
]


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(host_copies, "LEAST_BYTES", 1)
    monkeypatch.setattr(host_copies, "_core_count", lambda: 8)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("view", "dtype"), PAIRS)
@pytest.mark.parametrize("writeable", [True, False])
def test_copies_what_numpy_copies(view: str, dtype: type, writeable: bool, three_threads: None) -> None:
    array: np.ndarray = np.random.default_rng(0).integers(0, 2**15, (120, 70, 3)).astype(dtype)
    source = VIEWS[view](array).view()
    source.flags.writeable = writeable and source.flags.writeable
    before = array.copy()
    around: np.ndarray = np.zeros([side + 4 for side in source.shape], dtype)
    target = around[tuple(slice(2, 2 + side) for side in source.shape)]
    copy_rows(target, source)
    np.testing.assert_array_equal(target, source)
    np.testing.assert_array_equal(array, before)
    assert np.count_nonzero(around) == np.count_nonzero(source), "something beside the target was written"


def test_a_field_of_records_is_copied(three_threads: None) -> None:
    """Its steps are no whole number of its elements, which PyTorch can't refer to."""
    records = np.zeros(50, [("flag", np.uint8), ("value", np.int16)])
    records["value"] = np.arange(50)
    target = np.zeros(50, np.int16)
    copy_rows(target, records["value"])
    assert target.tolist() == list(range(50))


def test_only_what_is_large_wakes_threads_and_only_where_there_are_several(
    three_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_copies, "LEAST_BYTES", 1000)
    copies = Mock(wraps=torch.Tensor.copy_)
    monkeypatch.setattr(torch.Tensor, "copy_", lambda *tensors: copies(*tensors))
    cases = ((1000, 3, 8, True), (999, 3, 8, False), (1000, 1, 8, False), (1000, 3, 7, False))
    for size, threads, cores, by_pytorch in cases:
        monkeypatch.setattr(host_copies, "_core_count", lambda cores=cores: cores)
        torch.set_num_threads(threads)
        copies.reset_mock()
        target = np.zeros(size, np.uint8)
        copy_rows(target, np.ones(size, np.uint8))
        assert target.all() and copies.called is by_pytorch


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("writeable", [True, False])
@pytest.mark.parametrize("cores", [2, 8])
def test_one_pixel_among_many_is_seen(
    cores: int, writeable: bool, three_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_copies, "_core_count", lambda: cores)
    pixels = np.zeros((700, 900), np.uint8)
    for y, x in ((0, 0), (350, 899), (699, 899)):
        pixels[y, x] = 1
        seen = pixels.view()
        seen.flags.writeable = writeable
        assert is_any_set(seen) and is_any_set(seen[y:]) and not is_any_set(seen[:y])
        pixels[y, x] = 0
    assert not is_any_set(pixels)
