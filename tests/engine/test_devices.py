"""The choice of device, precision and profile, and which errors mean that memory did not suffice."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import devices
from engine.devices import choose_device, choose_placement, choose_precision, is_out_of_memory
from engine.profiles import Card, choose_profile
from engine.requests import UnavailableError
from lama.devices import cpu_supports_bf16

ROOT = Path(__file__).resolve().parents[2]
CPU, MPS = torch.device("cpu"), torch.device("mps")
PROFILE, _ = choose_profile(Card("CPU with bf16"))


def test_bf16_is_supported_exactly_where_onednn_computes_it() -> None:
    """The answer is compared with oneDNN's convolution itself, which raises an error where it can't."""
    x, weight = torch.ones(1, 16, 8, 8, dtype=torch.bfloat16), torch.ones(16, 16, 3, 3, dtype=torch.bfloat16)
    try:
        torch.ops.mkldnn._convolution_pointwise(x, weight, None, [0, 0], [1, 1], [1, 1], 1, "relu", [], "")
    except RuntimeError:
        assert not cpu_supports_bf16()
    else:
        assert cpu_supports_bf16()


def test_limit_of_onednn_is_respected() -> None:
    """A CPU that is told to be an older one: bf16 is refused in one sentence, exit 2, and auto takes float32."""
    code = (
        "import torch; from lama.devices import cpu_supports_bf16; from engine.devices import choose_placement\n"
        "from engine.requests import UnavailableError\n"
        "print(cpu_supports_bf16(), choose_placement('cpu', 'auto', None).precision)\n"
        "try:\n    choose_placement('cpu', 'bf16', None)\n"
        "except UnavailableError as error:\n    print(error)\n"
    )
    environ = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    answer, refusal = child.stdout.splitlines()
    assert answer == "False fp32" and "bf16" in refusal and "fp32" in refusal


@pytest.mark.parametrize("supported", [False, True])
def test_bf16_is_taken_only_where_it_is_supported(monkeypatch: pytest.MonkeyPatch, supported: bool) -> None:
    monkeypatch.setattr(devices, "cpu_supports_bf16", lambda: supported)
    if supported:
        assert choose_precision("bf16", PROFILE, CPU) == "bf16"
    else:
        assert choose_precision("auto", PROFILE, CPU) == "fp32"
        with pytest.raises(UnavailableError, match="bf16"):
            choose_precision("bf16", PROFILE, CPU)


def test_emulated_bf16_is_not_taken_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """AVX-512 without bf16 instructions: oneDNN computes it, slower than float32."""
    monkeypatch.setattr(devices, "cpu_supports_bf16", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bw": True, "avx512_bf16": False}, raising=False)
    assert choose_precision("auto", PROFILE, CPU) == "fp32" and choose_precision("bf16", PROFILE, CPU) == "bf16"


def test_mps_is_refused_where_pytorch_offers_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UnavailableError, match="mps"):
        choose_device("mps")


def test_mps_runs_in_float32_without_graphs_where_pytorch_offers_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    placement = choose_placement("mps", "auto", None)
    assert placement.device == MPS and placement.precision == "fp32"
    assert placement.profile.cuda_graph == "off" and "untested" in placement.reason
    with pytest.raises(UnavailableError, match="fp16"):
        choose_placement("mps", "fp16", None)


def test_profile_of_a_card_decides_its_precision() -> None:
    card = torch.device("cuda", 0)
    assert choose_precision("auto", replace(PROFILE, precision="fp16"), card) == "fp16"
    assert choose_precision("fp32", replace(PROFILE, precision="fp16"), card) == "fp32"


def test_the_errors_of_real_allocators_mean_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as torch_error:
        torch.empty(1 << 58, dtype=torch.uint8)
    with pytest.raises(MemoryError) as numpy_error:
        np.ones(1 << 58, np.uint8)
    assert is_out_of_memory(torch_error.value) and is_out_of_memory(numpy_error.value)
    on_windows = "alloc_cpu.cpp:117] data. DefaultCPUAllocator: not enough memory: you tried to allocate"
    assert is_out_of_memory(RuntimeError(on_windows))
    assert not is_out_of_memory(RuntimeError("illegal memory access"))
