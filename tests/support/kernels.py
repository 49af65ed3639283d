"""Where the tests of the Triton kernels run, and what they share.

Every test in a folder named `kernels` needs a CUDA card or Triton's interpreter; `tests/conftest.py` sees to it. Triton
chooses its interpreter when a kernel is defined, so it is a matter of the process: `./run_tests.sh` gives these tests a
pytest of their own, with TRITON_INTERPRET=1.
"""

import os

import torch

from lama.fold_batchnorm import Convolution

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).half().to(DEVICE)


def convolution(outputs: int, inputs: int, kernel_px: int, *, transposed: bool = False) -> Convolution:
    random = torch.Generator().manual_seed(outputs + inputs)
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    weight = torch.randn(*shape, kernel_px, kernel_px, generator=random, dtype=torch.float64)
    scale = (inputs * kernel_px**2) ** -0.5
    return Convolution(weight * scale, torch.randn(outputs, generator=random, dtype=torch.float64))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


def poisoned(*shape: int) -> torch.Tensor:
    """Memory in which an element that nobody writes shows."""
    return torch.full(shape, float("nan"), dtype=torch.float16, device=DEVICE)
