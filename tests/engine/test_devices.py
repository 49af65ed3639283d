"""The choice of device, precision and profile, and which errors mean that memory did not suffice."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engine import devices
from engine.devices import choose_device, choose_placement, choose_precision
from engine.profiles import Card, choose_profile
from engine.requests import UnavailableError
from inference import Inpainter
from lama.checkpoint import save_generator
from lama.devices import cpu_supports_bf16
from lama.generator import Generator

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


@pytest.mark.slow
def test_limit_of_onednn_is_respected() -> None:
    """A CPU that is told to be an older one: bf16 is refused in one sentence, exit 2, and auto takes float32."""
    code = (
        "import gc, os; gc.disable()\n"  # and nothing is freed at the end: it takes half of the time
        "import torch; from lama.devices import cpu_supports_bf16; from engine.devices import choose_placement\n"
        "from engine.requests import UnavailableError\n"
        "print(cpu_supports_bf16(), choose_placement('cpu', 'auto', None).precision)\n"
        "try:\n    choose_placement('cpu', 'bf16', None)\n"
        "except UnavailableError as error:\n    print(error, flush=True)\n"
        "os._exit(0)\n"
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


class WithoutKernels:
    """A card that PyTorch sees and can't launch anything on, as far as `engine.devices` asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
        properties = SimpleNamespace(name="NVIDIA GeForce GTX 1080", major=6, minor=1, total_memory=8 << 30)
        ones = torch.ones

        def launch(*size: Any, device: Any = None, **more: Any) -> torch.Tensor:
            if device is not None and torch.device(device).type == "cuda":
                raise RuntimeError(error)
            return ones(*size, device=device, **more)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
        monkeypatch.setattr(torch, "ones", launch)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors ...", "no kernels"),
        ("HIP error: invalid device function", "no kernels"),
        ("CUDA error: unspecified launch failure\nmore", "can't compute on NVIDIA GeForce GTX 1080 (6.1): CUDA error"),
    ],
)
@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_a_card_without_kernels_leaves_the_work_to_the_cpu_and_says_the_way_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: str, said: str, precision: str
) -> None:
    """The start failed with CUDA's own words."""
    WithoutKernels(monkeypatch, error)
    placement = choose_placement("auto", precision, None)
    assert placement.device == CPU and placement.precision in ("fp32", "bf16")
    assert said in placement.reason and "GTX 1080 (6.1)" in placement.reason
    (warning,) = caplog.messages
    assert said in warning and "TORCH_BACKEND" in warning and "CPU" in warning and "\n" not in warning
    for asked in ("cuda", "cuda:0"):
        with pytest.raises(UnavailableError, match="TORCH_BACKEND"):
            choose_placement(asked, "auto", None)


def test_the_app_starts_on_the_cpu_beside_a_card_without_kernels(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    WithoutKernels(monkeypatch, "CUDA error: no kernel image is available for execution on the device")
    torch.manual_seed(0)
    save_generator(Generator(width=4, blocks=1).eval(), tmp_path / "tiny.safetensors")
    inpainter = Inpainter.load(tmp_path / "tiny.safetensors")
    assert inpainter.device == "cpu" and "no kernels" in inpainter.profile_reason


def test_a_card_that_is_full_is_not_one_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    WithoutKernels(monkeypatch, "CUDA error: out of memory")
    assert choose_device("auto").type == "cuda"
