"""A crop built by kernels is the crop built by plain PyTorch."""

from types import ModuleType

import numpy as np
import pytest
import torch

import preprocess
from masks.crop_plan import plan_crops
from tensor_ops.pinned_memory import PinnedMemory
from tests.support.kernels import DEVICE


@pytest.fixture
def crop_kernels() -> ModuleType:
    from tensor_ops.kernels import crop

    return crop


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
