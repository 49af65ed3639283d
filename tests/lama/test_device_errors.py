"""Errors that mean no memory: told apart whoever says so, never taken for kernels that fail."""

import numpy as np
import pytest
import torch

from lama import fast_generator
from lama.device_errors import first_line, is_out_of_memory, named_line
from tests.support.networks import live_generator

CUDA_RUNTIME = "CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in the manual.\nFor debugging ..."
OTHERS_WORDS = (
    CUDA_RUNTIME,
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED when calling ...",
    "CUDA: NVRTC_ERROR_OUT_OF_MEMORY",
)


def test_the_errors_of_real_allocators_mean_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(1 << 58, dtype=torch.uint8)
    with pytest.raises(MemoryError) as numpy_error:
        np.ones(1 << 58, np.uint8)
    assert is_out_of_memory(torch_error.value) and is_out_of_memory(numpy_error.value)
    on_windows = "alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
    assert is_out_of_memory(RuntimeError(on_windows))
    assert not is_out_of_memory(RuntimeError("illegal memory access"))


def test_an_error_is_said_on_one_line() -> None:
    assert first_line(RuntimeError(CUDA_RUNTIME)) == "CUDA error: out of memory"
    assert named_line(RuntimeError(CUDA_RUNTIME)) == "RuntimeError: CUDA error: out of memory"
    assert first_line(MemoryError()) == "MemoryError"


@pytest.mark.parametrize("words", OTHERS_WORDS)
def test_a_full_card_is_no_fault_of_the_kernels(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """A card that was full at the start had slow PyTorch compute for as long as the program ran."""
    triton_backend = pytest.importorskip("lama.triton_backend")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(fast_generator, "why_not_triton", lambda *_: "")
    monkeypatch.setattr(triton_backend, "TritonBackend", fail)
    with pytest.raises(RuntimeError, match=words.partition("\n")[0].replace("[", r"\[").replace("]", r"\]")):
        fast_generator.FastGenerator(live_generator(), device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("words", OTHERS_WORDS)
def test_a_full_card_is_no_fault_of_hopper_kernels(words: str) -> None:
    hopper_card = pytest.importorskip("lama.kernels.hopper_card")

    def fail() -> tuple[object, float]:
        raise RuntimeError(words)

    with pytest.raises(RuntimeError):
        hopper_card.tried("head", fail)
