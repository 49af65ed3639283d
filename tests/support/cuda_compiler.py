"""Whether kernels in CUDA C++ can be compiled here."""

import pytest


def skip_without_compiler() -> None:
    """Skip the test where NVRTC is not installed: cuda-bindings alone can be imported."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(f"NVRTC is not here: {error}")
