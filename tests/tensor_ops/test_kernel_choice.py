"""Which kernels run on a card is decided by trying them once; a kernel module that is missing is an error."""

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
