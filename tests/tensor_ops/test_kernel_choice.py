"""Which kernels run on a card is decided by trying them once; a kernel module that is missing is an error."""

import contextlib
import sys

import pytest
import torch

from tensor_ops import kernels

pytest.importorskip("triton")


def test_card_on_which_kernels_fail_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for _ in range(2):
        assert kernels.crop_kernels(torch.device("cuda", 99)) is None
    assert len(caplog.records) == 1 and "plain PyTorch" in caplog.text
    assert kernels.crop_kernels(torch.device("cpu")) is None


@pytest.mark.parametrize("name", ["crop", "scaled_crop", "seam"])
def test_missing_kernel_module_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It used to be a warning, so that a renamed module would have left every GPU to plain PyTorch unnoticed."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, f"tensor_ops.kernels.{name}", None)
    monkeypatch.delattr(kernels, name, raising=False)
    with pytest.raises(ImportError):
        getattr(kernels, f"{name}_kernels")(torch.device("cuda", 98))


@pytest.mark.parametrize(
    "words", ["CUDA error: out of memory\nFor debugging ...", "Triton Error [CUDA]: out of memory"]
)
def test_card_that_is_full_now_keeps_its_kernels(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def fail(_device: torch.device) -> None:
        raise RuntimeError(words)

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("tensor_ops.kernels.crop.try_out", fail)
    monkeypatch.setattr(torch.cuda, "device", lambda _device: contextlib.nullcontext())
    for _ in range(2):
        with pytest.raises(RuntimeError, match="out of memory"):
            kernels.crop_kernels(torch.device("cuda", 97))
