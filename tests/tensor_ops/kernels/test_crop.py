"""A crop built by kernels is the crop built by plain PyTorch."""

from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch

import preprocess
from masks.crop_plan import plan_crops, shrink_crop
from masks.dilation import CropRules
from tensor_ops.crop_packet import CropPacket
from tensor_ops.pinned_memory import PinnedMemory
from tests.support.kernels import DEVICE

NARROW = CropRules(min_margin_px=2)


@pytest.fixture
def crop_kernels() -> ModuleType:
    from tensor_ops.kernels import crop

    return crop


@pytest.mark.parametrize(("dilate_px", "feather_px"), [(None, None), (0, 0), (5, 2)])
def test_crop_by_kernels_is_the_crop_by_pytorch(
    crop_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch, dilate_px: int | None, feather_px: int | None
) -> None:
    """Two holes of different thickness in one box, cut by the image's border."""
    mask = np.zeros((24, 70), np.bool_)
    mask[12:, 2:14] = True
    mask[1:3, 18:22] = True
    image = np.random.default_rng(0).integers(0, 256, (24, 70, 3), dtype=np.uint8)
    pinned = PinnedMemory(DEVICE)
    crops = plan_crops(mask[:, :24], buckets_px=(24,), fixed_buckets=True, dilate_px=dilate_px, feather_px=feather_px)
    assert len(crops) == 1 and not crops[0].is_scaled
    for crop in crops:
        prediction = torch.rand(3, *crop.model_size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
        packet = CropPacket(24, DEVICE, crop_kernels)
        found = []
        for chosen, own in ((None, None), (crop_kernels, None), (crop_kernels, packet)):
            monkeypatch.setattr(preprocess, "crop_kernels", lambda device, chosen=chosen: chosen)
            source = preprocess.upload(crop, image, pinned, packet=own)
            assert (source.masked is None) == (chosen is None)
            assert (own is not None) == (not packet.is_free)
            model_input = preprocess.build_input(source).cpu()
            patch = preprocess.composite(prediction, source)
            pinned.synchronize()
            found.append((model_input, patch))
        (plain, plain_patch), (fast, fast_patch), (replayable, replayable_patch) = found
        assert torch.equal(plain[3], fast[3])
        torch.testing.assert_close(plain, fast, atol=1e-6, rtol=0)
        assert np.abs(plain_patch.astype(int) - fast_patch).max() <= 1
        assert (plain_patch != fast_patch).mean() < 0.001
        assert torch.equal(replayable[3], fast[3])
        torch.testing.assert_close(replayable, fast, atol=1e-6, rtol=0)
        assert np.abs(replayable_patch.astype(int) - fast_patch).max() <= 1


def test_a_packet_is_used_for_one_hole_after_another(crop_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the hole before stays: a larger one, a smaller one that grows less, one that the box cuts."""
    monkeypatch.setattr(preprocess, "crop_kernels", lambda device: crop_kernels)
    packet = CropPacket(24, DEVICE, crop_kernels)
    pinned = PinnedMemory(DEVICE)
    pinned.packets[24] = packet
    random = np.random.default_rng(0)
    for (top, bottom, left, right), dilate_px in (((3, 17, 2, 13), 3), ((12, 15, 18, 20), 1), ((0, 5, 0, 5), 2)):
        image, mask = random.integers(0, 256, (45, 45, 3), dtype=np.uint8), np.zeros((45, 45), np.bool_)
        mask[top:bottom, left:right] = True
        (crop,) = plan_crops(mask, buckets_px=(24,), fixed_buckets=True, dilate_px=dilate_px, rules=NARROW)
        expected = preprocess.upload(crop, image, PinnedMemory(DEVICE)).masked
        taken = pinned.free_packet(crop.model_size)
        assert taken is packet and pinned.free_packet((24, 16)) is None
        found = preprocess.upload(crop, image, pinned, packet=taken).masked
        assert expected is not None and found is not None and found[1].data_ptr() == packet.model_input.data_ptr()
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
        assert pinned.free_packet(crop.model_size) is None, "it is on its way"
        pinned.synchronize()


def test_a_hole_that_a_packet_has_no_room_for_goes_the_ordinary_way(
    crop_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two holes whose bounds are larger than the crop of one of them, and reach into it."""
    monkeypatch.setattr(preprocess, "crop_kernels", lambda device: crop_kernels)
    mask = np.zeros((200, 200), np.bool_)
    mask[90:100, 10:190] = True
    mask[20:180, 90:100] = True
    (crop,) = plan_crops(mask, buckets_px=(256,), fixed_buckets=True, dilate_px=2)
    crop = replace(
        crop, box=(70, 70, 118, 118), patch_box=(72, 72, 116, 116), scaled_size=(48, 48), model_size=(48, 48)
    )
    packet, image = CropPacket(48, DEVICE, crop_kernels), np.zeros((200, 200, 3), np.uint8)
    masked = preprocess.upload(crop, image, PinnedMemory(DEVICE), packet=packet).masked
    assert masked is not None and packet.is_free and masked[0].data_ptr() != packet.pixels.data_ptr()


@pytest.mark.parametrize(("step", "bucket_px", "dilate_px"), [(1, 24, None), (1, 16, 2), (2, 16, None), (3, 16, 5)])
def test_scaled_crop_by_kernels_is_the_one_by_pytorch(
    monkeypatch: pytest.MonkeyPatch, step: int, bucket_px: int, dilate_px: int | None
) -> None:
    """Two holes of different thickness in one box, cut by the image's border, a wide photo that is padded."""
    from tensor_ops.kernels import scaled_crop

    height, width = (17, 27) if step == 1 else (37, 59)  # the interpreter takes its time for each row
    mask = np.zeros((height, width), np.bool_)
    mask[height // 2 :, width // 7 : -width // 4] = True
    mask[2:4, -width // 3 : -width // 4] = True
    mask[7, 0:2] = True
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    crops = plan_crops(mask, buckets_px=(bucket_px,), fixed_buckets=True, dilate_px=dilate_px, feather_px=2)
    crop = replace(crops[0], box=(0, 0, width, height), sample_step=step)
    crop = shrink_crop(crop, bucket_px)
    assert crop.is_scaled and crop.scaled_size != crop.model_size
    prediction = torch.rand(3, *crop.model_size, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    pinned = PinnedMemory(DEVICE)
    found = []
    for chosen in (None, scaled_crop):
        monkeypatch.setattr(preprocess, "scaled_crop_kernels", lambda device, chosen=chosen: chosen)
        source = preprocess.upload(crop, image, pinned)
        assert (source.scaled is None) == (chosen is None)
        model_input = preprocess.build_input(source).cpu()
        patch = preprocess.composite(prediction, source) if step == 1 else np.zeros((1, 1, 3), np.uint8)
        pinned.synchronize()
        found.append((model_input, patch))
    (plain, plain_patch), (fast, fast_patch) = found
    assert torch.equal(plain[3], fast[3]) and 0 < plain[3].mean() < 1
    torch.testing.assert_close(plain, fast, atol=2e-6, rtol=0)
    assert np.abs(plain_patch.astype(int) - fast_patch).max() <= 1
    assert (plain_patch != fast_patch).mean() < 0.001
    left, top, right, bottom = crop.patch_box
    if step == 1:
        np.testing.assert_array_equal(fast_patch[crop.alpha == 0], image[top:bottom, left:right][crop.alpha == 0])


def test_scaled_crops_that_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bit, transparent pixels, a photo of few levels, and a box that is too large to be on the card as a whole."""
    from tensor_ops.kernels import scaled_crop

    monkeypatch.setattr(preprocess, "scaled_crop_kernels", lambda device: scaled_crop)
    mask = np.zeros((90, 90), np.bool_)
    mask[10:80, 10:80] = True
    (crop,) = plan_crops(mask, buckets_px=(64,), fixed_buckets=True, dilate_px=2)
    image, pinned = np.zeros((90, 90, 3), np.uint8), PinnedMemory(DEVICE)
    assert preprocess.upload(crop, image, pinned).scaled is not None
    assert preprocess.upload(crop, image.astype(np.uint16), pinned).scaled is None
    assert preprocess.upload(crop, image, pinned, transparent=~mask).scaled is None
    assert preprocess.upload(crop, image, pinned, levels=(0, 100)).scaled is None
    monkeypatch.setattr(preprocess, "MOST_WHOLE_PX", 90 * 90 - 1)
    assert preprocess.upload(crop, image, pinned).scaled is None


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
