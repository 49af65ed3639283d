"""The kernels around the network compute what plain PyTorch does; without a GPU, in Triton's interpreter."""

import os
import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

import preprocess
from masks.crop_plan import plan_crops
from tensor_ops import kernels, seam_correction
from tensor_ops.pinned_memory import PinnedMemory

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark: list[pytest.MarkDecorator] = [pytest.mark.gpu] if DEVICE.type == "cuda" else []
# The interpreter divides on both sides of a choice.
quiet = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
needs_triton = pytest.mark.skipif(
    DEVICE.type == "cpu" and not INTERPRETED,
    reason="no CUDA device here: test_kernels_in_the_interpreter runs these in a child process",
)


@pytest.mark.skipif(INTERPRETED or DEVICE.type == "cuda", reason="this is the child process, or there is a card")
def test_kernels_in_the_interpreter() -> None:
    """Triton chooses its interpreter when it is first imported, so it takes a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr


@pytest.fixture
def crop_kernels() -> ModuleType:
    from tensor_ops.kernels import crop

    return crop


@needs_triton
@pytest.mark.parametrize(("dilate_px", "feather_px"), [(None, None), (0, 0), (5, 2)])
def test_crop_by_kernels_is_the_crop_by_pytorch(
    crop_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, dilate_px: int | None, feather_px: int | None
) -> None:
    """Two holes of different thickness in one box, cut by the image's border."""
    mask = np.zeros((40, 70), np.bool_)
    mask[20:, 4:24] = True
    mask[1:3, 30:36] = True
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    pinned = PinnedMemory(DEVICE)
    crops = plan_crops(mask[:, :40], buckets_px=(40,), fixed_buckets=True, dilate_px=dilate_px, feather_px=feather_px)
    assert len(crops) == 1 and not crops[0].is_scaled
    for crop in crops:
        prediction = torch.rand(3, *crop.model_size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        found = []
        for chosen in (None, crop_kernels):
            monkeypatch.setattr(preprocess, "crop_kernels", lambda device, chosen=chosen: chosen)
            source = preprocess.upload(crop, image, pinned)
            assert (source.masked is None) == (chosen is None)
            model_input = preprocess.build_input(source).cpu()
            patch = preprocess.composite(prediction, source)
            pinned.synchronize()
            found.append((model_input, patch))
        (plain, plain_patch), (fast, fast_patch) = found
        assert torch.equal(plain[3], fast[3])
        torch.testing.assert_close(plain, fast, atol=1e-6, rtol=0)
        assert np.abs(plain_patch.astype(int) - fast_patch).max() <= 1
        assert (plain_patch != fast_patch).mean() < 0.001


@needs_triton
def test_sixteen_bit_scaled_and_padded_crops_are_left_to_pytorch(
    crop_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess, "crop_kernels", lambda device: crop_kernels)
    mask = np.zeros((90, 90), np.bool_)
    mask[30:60, 30:60] = True
    image = np.zeros((90, 90, 3), np.uint8)
    for buckets_px, photo in (((64,), image.astype(np.uint16)), ((48,), image), ((128,), image)):
        (crop,) = plan_crops(mask, buckets_px=buckets_px, fixed_buckets=True, dilate_px=0)
        assert preprocess.upload(crop, photo, PinnedMemory(DEVICE)).masked is None


@needs_triton
@quiet
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (2, 24, 40), (1, 16, 16), (1, 17, 38)])
def test_rim_by_kernels_is_the_rim_by_pytorch(batch: int, height: int, width: int) -> None:
    from tensor_ops.kernels import seam

    random = torch.Generator().manual_seed(height)
    missing = (torch.rand(batch, 1, height, width, generator=random) < 0.003).float()
    missing[:, :, height // 2, width // 3] = 1
    missing = torch.nn.functional.max_pool2d(missing, 9, 1, 4)
    assert 0 < missing.mean() < 1
    rgb, prediction = torch.rand(2, batch, 3, height, width, generator=random)
    model_input = torch.cat([rgb * (1 - missing), missing], dim=1).to(DEVICE)
    prediction = prediction.to(DEVICE)
    got = seam.correct_and_smooth(prediction, model_input)
    wanted = seam_correction.smooth_seam(seam_correction._match(prediction, model_input), model_input)
    torch.testing.assert_close(got, wanted, atol=2e-6, rtol=0)


@needs_triton
@quiet
def test_prediction_that_is_not_finite_stays_so() -> None:
    """It is how a spoilt prediction is noticed; comparisons of a GPU drop NaN."""
    from tensor_ops.kernels import seam

    prediction, model_input = torch.zeros(2, 3, 16, 16, device=DEVICE), torch.zeros(2, 4, 16, 16, device=DEVICE)
    prediction[0, 1, 3, 3] = float("nan")
    assert seam.correct_and_smooth(prediction, model_input).flatten(1).isnan().any(dim=1).tolist() == [True, False]


def test_card_on_which_kernels_fail_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for _ in range(2):
        assert kernels.crop_kernels(torch.device("cuda", 99)) is None
    assert len(caplog.records) == 1 and "plain PyTorch" in caplog.text
    assert kernels.crop_kernels(torch.device("cpu")) is None


@pytest.mark.parametrize("name", ["crop", "seam"])
def test_missing_kernel_module_is_an_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It used to be a warning, so that a renamed module would have left every GPU to plain PyTorch unnoticed."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, f"tensor_ops.kernels.{name}", None)
    monkeypatch.delattr(kernels, name, raising=False)
    with pytest.raises(ImportError):
        getattr(kernels, f"{name}_kernels")(torch.device("cuda", 98))
