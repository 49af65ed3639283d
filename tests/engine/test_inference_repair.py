"""The whole repair on a CPU, with a tiny network: what is kept, what is changed, what is refused, what is said."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import inference
from inference import Inpainter, RepairError, RepairRequest
from lama.checkpoint import save_generator
from lama.generator import Generator
from masks.boxes import Box, paste
from masks.crop_plan import plan_crops
from masks.dilation import dilate_mask
from tensor_ops.seam_correction import correct_seam


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of width 4 and one block, so that a test takes milliseconds."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_generator(Generator(width=4, blocks=1).eval(), path)
    return path


@pytest.fixture(scope="session")
def inpainter(weights: Path) -> Inpainter:
    return Inpainter.load(weights, device="cpu", precision="fp32", profile="cpu")


@pytest.fixture(scope="session")
def small_buckets(weights: Path, inpainter: Inpainter) -> Inpainter:
    """An engine whose largest bucket is 256 pixels, so that holes are scaled in small photos."""
    profile = replace(inpainter.profile, buckets_px=(128, 256))
    return Inpainter.load(weights, device="cpu", precision="fp32", profile=profile)


def noise(shape: tuple[int, int], seed: int = 0, dtype: Any = np.uint8) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(0, top, (*shape, 3), dtype=dtype, endpoint=True)


def block(shape: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(shape, np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def random_mask(rng: np.random.Generator, kind: str, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    mask = np.zeros(size, np.bool_)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    if kind == "full":
        mask[:] = True
    elif kind == "pixel":
        mask[y, x] = True
    elif kind == "block":
        mask[y : y + 300, x : x + 300] = True
    elif kind == "border":
        mask[: max(1, height // 10)] = True
        mask[:, -max(1, width // 20) :] = True
    elif kind == "specks":
        mask[rng.integers(height, size=300), rng.integers(width, size=300)] = True
    return mask


def test_requests_may_come_from_a_generator(inpainter: Inpainter) -> None:
    """Checking them used it up, and nothing was repaired."""
    image, mask = noise((64, 64)), block((64, 64), 20, 20, 12)
    results = inpainter.repair_many(RepairRequest(image, mask) for _ in range(2))  # type: ignore[arg-type]
    assert [len(result.patches) for result in results] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("case", range(40))
def test_random_images_and_masks_are_repaired(inpainter: Inpainter, case: int) -> None:
    """Any size, any mask: the right size, the known region byte-exact, the inputs untouched, no exception."""
    rng = np.random.default_rng(case)
    largest = 700 if case % 8 else 1800
    size = (
        (int(rng.integers(1, largest * 2 // 3 + 1)), int(rng.integers(1, largest + 1))) if case % 5 else (1 + case, 1)
    )
    dtype = np.uint16 if case % 3 == 0 else np.uint8
    image = noise(size, case, dtype)
    mask = random_mask(rng, ("empty", "full", "pixel", "block", "border", "specks")[case % 6], size)
    image_before, mask_before = image.copy(), mask.copy()
    image.setflags(write=False)
    mask.setflags(write=False)
    for dilate_px in (0, None):
        result = inpainter.repair(image, mask, dilate_px=dilate_px)
        assert result.image.shape == image.shape and result.image.dtype == dtype
        dilated = dilate_mask(mask, dilate_px=dilate_px)
        known = (
            np.ones(size, np.bool_)
            if dilated is None
            else ~paste(dilated.missing, dilated.box, (0, 0, size[1], size[0]))
        )
        np.testing.assert_array_equal(result.image[known], image[known])
        if dilate_px == 0:
            np.testing.assert_array_equal(known, ~mask)
    np.testing.assert_array_equal(image, image_before)
    np.testing.assert_array_equal(mask, mask_before)


def test_hole_is_filled_with_the_prediction_matched_at_its_rim(inpainter: Inpainter) -> None:
    """Against the network itself, run here on the masked crop."""
    image, mask = noise((64, 80)), block((64, 80), 20, 30, 16)
    (crop,) = plan_crops(mask, buckets_px=inpainter.profile.buckets_px, fixed_buckets=False, dilate_px=0)
    assert crop.box == (0, 0, 80, 64)
    x = torch.from_numpy(np.concatenate([image / 255 * ~mask[..., None], mask[..., None]], 2)).float().permute(2, 0, 1)
    torch.manual_seed(0)
    predicted = Generator(width=4, blocks=1).eval()(x[None]).detach()
    prediction = correct_seam(predicted, x[None])[0].permute(1, 2, 0).numpy()
    got = inpainter.repair(image, mask, dilate_px=0).image[mask].astype(int)
    assert np.abs(got - np.rint(prediction[mask] * 255)).max() <= 1


def test_sixteen_bit_is_filled_at_full_depth(inpainter: Inpainter) -> None:
    image, mask = noise((64, 64)), block((64, 64), 20, 20, 20)
    eight = inpainter.repair(image, mask, dilate_px=0).image[mask].astype(float)
    sixteen = inpainter.repair(image.astype(np.uint16) * 257, mask, dilate_px=0).image[mask]
    assert np.abs(sixteen / 257 - eight).max() <= 0.51
    assert len(np.unique(sixteen)) > len(np.unique(eight)), "the fill was quantised to 8 bit"


def test_patches_are_what_changed(inpainter: Inpainter) -> None:
    image = noise((400, 1200))
    mask = block((400, 1200), 50, 60, 30) | block((400, 1200), 300, 1100, 30)
    result = inpainter.repair(image, mask)
    assert len(result.patches) == 2
    for (left, top, right, bottom), pixels in result.patches:
        assert pixels.shape == (bottom - top, right - left, 3) and pixels.dtype == np.uint8
        np.testing.assert_array_equal(result.image[top:bottom, left:right], pixels)
    assert result.image is result.image, "composed twice"


def test_empty_mask_gives_the_image_back_with_a_note(inpainter: Inpainter) -> None:
    image = noise((30, 40))
    result = inpainter.repair(image, np.zeros((30, 40), np.bool_))
    assert [note.code for note in result.notes] == ["empty_mask"] and result.patches == []
    np.testing.assert_array_equal(result.image, image)
    assert result.image is not image


def test_too_large_a_hole_is_scaled_and_says_so(small_buckets: Inpainter) -> None:
    image = np.full((500, 430, 3), 90, np.uint8)
    result = small_buckets.repair(image, block((500, 430), 33, 17, 400), dilate_px=4)
    assert [note.code for note in result.notes] == ["scaled"]


def test_high_quality_refines_what_fast_scales(small_buckets: Inpainter) -> None:
    image, mask = noise((400, 420)), block((400, 420), 30, 40, 345)
    fast = small_buckets.repair(image, mask, dilate_px=3)
    stages: list[str] = []
    high = small_buckets.repair(image, mask, dilate_px=3, quality="high", on_stage=stages.append)
    assert stages[-1] == "refine" and stages.count("refine") > 8, "each tile is a chance to stop"
    assert 0 < high.timings_ms["refine"] <= high.timings_ms["total"]
    assert high.notes == [] and high.image.shape == image.shape
    known = np.ones(mask.shape, np.bool_)
    known[27:378, 37:388] = False
    np.testing.assert_array_equal(high.image[known], image[known])
    inner = (slice(50, 350), slice(50, 350))
    assert (
        np.abs(np.diff(high.image[inner].astype(int), axis=0)).mean()
        > np.abs(np.diff(fast.image[inner].astype(int), axis=0)).mean()
    ), "the tiles carry no more detail than the coarse fill"


def test_timings_name_every_stage(inpainter: Inpainter) -> None:
    stages: list[str] = []
    result = inpainter.repair(noise((90, 90)), block((90, 90), 30, 30, 9), on_stage=stages.append)
    assert stages == ["plan", "predict", "composite"]
    assert set(result.timings_ms) == {"plan", "wait", "upload", "predict", "composite", "total"}
    parts = sum(ms for name, ms in result.timings_ms.items() if name != "total")
    assert 0 < parts <= result.timings_ms["total"]


def test_batch_equals_one_by_one(inpainter: Inpainter) -> None:
    requests = [RepairRequest(noise((120, 130), seed), block((120, 130), 40, 50, 10 + seed)) for seed in range(9)]
    requests.append(RepairRequest(noise((40, 40)), np.zeros((40, 40), np.bool_)))
    together = inpainter.repair_many(requests)
    for request, result in zip(requests, together, strict=True):
        alone = inpainter.repair(request.image, request.mask)
        assert np.abs(result.image.astype(int) - alone.image).max() <= 1
        assert result.notes == alone.notes


def test_bad_request_is_refused_before_anything_runs(inpainter: Inpainter) -> None:
    stages: list[str] = []
    good = RepairRequest(noise((20, 20)), block((20, 20), 5, 5, 5))
    bad = RepairRequest(noise((20, 20)), block((20, 21), 5, 5, 5))
    with pytest.raises(RepairError, match=r"image's size \(20, 20\), got \(20, 21\)"):
        inpainter.repair_many([good, bad], on_stage=stages.append)
    assert stages == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image": np.zeros((9, 9), np.uint8)}, "height, width, 3"),
        ({"image": np.zeros((9, 9, 4), np.uint8)}, "height, width, 3"),
        ({"image": np.zeros((0, 9, 3), np.uint8)}, "at least one pixel"),
        ({"image": np.zeros((9, 9, 3), np.float32)}, "float32; convert it, scaled"),
        ({"image": np.zeros((9, 9, 3), np.dtype(np.uint16).newbyteorder())}, "astype"),
        ({"image": [[1]]}, "list"),
        ({"mask": np.zeros((9, 9), np.uint8)}, "uint8"),
        ({"mask": None}, "NoneType"),
        ({"dilate_px": -1}, "dilate_px"),
        ({"dilate_px": 2.5}, "2.5"),
        ({"dilate_px": True}, "True"),
        ({"feather_px": 5000}, "1024"),
        ({"quality": "best"}, "fast, high"),
    ],
)
def test_wrong_arguments_are_refused_by_name(inpainter: Inpainter, change: dict[str, Any], word: str) -> None:
    arguments: dict[str, Any] = {"image": noise((9, 9)), "mask": block((9, 9), 2, 2, 3), **change}
    image, mask = arguments.pop("image"), arguments.pop("mask")
    with pytest.raises(RepairError, match=word):
        inpainter.repair(image, mask, **arguments)


def test_unknown_device_precision_and_profile_are_refused() -> None:
    wrong: tuple[dict[str, Any], ...] = (
        {"device": "tpu"},
        {"device": "cuda:99"},
        {"precision": "fp8"},
        {"device": "cpu", "precision": "fp16"},
    )
    for arguments in (*wrong, {"profile": "no-such-card"}):
        with pytest.raises(RepairError):
            Inpainter.load(**arguments)


@pytest.mark.parametrize("profile", [5, True, ["h200"]])
def test_profile_of_another_kind_is_refused_in_words(profile: Any) -> None:
    """It ended in a bare TypeError."""
    with pytest.raises(RepairError, match=r"profile must be a profile, the name of one, or None.*got"):
        Inpainter.load(profile=profile)


def test_two_threads_at_once_do_not_mix(inpainter: Inpainter) -> None:
    mask = block((100, 100), 30, 30, 40)
    images = [np.full((100, 100, 3), value, np.uint8) for value in (20, 230)]
    expected = [inpainter.repair(image, mask).image for image in images]
    wrong: list[str] = []

    def repair_often(which: int) -> None:
        for _ in range(10):
            if not np.array_equal(inpainter.repair(images[which], mask).image, expected[which]):
                wrong.append(f"thread {which}")

    threads = [threading.Thread(target=repair_often, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_one_repair_waits_for_the_other(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    predict, busy, overlaps = inpainter._runner.predict, threading.Lock(), []

    def slow_predict(inputs: list[torch.Tensor]) -> torch.Tensor:
        if not busy.acquire(blocking=False):
            overlaps.append(1)
        time.sleep(0.02)
        prediction = predict(inputs)
        busy.release()
        return prediction

    monkeypatch.setattr(inpainter._runner, "predict", slow_predict)
    run: Callable[[], Any] = lambda: inpainter.repair(noise((40, 40)), block((40, 40), 9, 9, 9))  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []


def test_a_speck_far_from_the_stroke_is_repaired_too(inpainter: Inpainter) -> None:
    image, stroke = noise((2100, 2000)), block((2100, 2000), 1001, 300, 40)
    speck = np.zeros_like(stroke)
    speck[1900:1903, 1700:1703] = True
    alone, both = inpainter.repair(image, stroke), inpainter.repair(image, stroke | speck)
    assert [box for box, _ in alone.patches] == [box for box, _ in both.patches[:1]]
    np.testing.assert_array_equal(both.patches[0][1], alone.patches[0][1])
    assert (both.image != image)[speck].any() and not (alone.image != image)[speck].any()


def test_a_speck_that_the_sample_misses_is_repaired_with_the_stroke(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the bounds are sampled from one row in sixteen, and the rest of the mask is read later."""
    image, mask = noise((2100, 2000)), block((2100, 2000), 1001, 300, 40)
    mask[1900:1903, 1700:1703] = True
    exact = inpainter.repair(image, mask)
    monkeypatch.setattr(inpainter, "_samples_bounds", True)
    assert inpainter._sample_bounds(RepairRequest(image, mask)) == (300, 1001, 340, 1041)
    result = inpainter.repair(image, mask)
    np.testing.assert_array_equal(result.image, exact.image)
    assert (result.image != image)[1900:1903, 1700:1703].any()
    assert result.notes == exact.notes


def test_a_sample_that_holds_gives_what_reading_all_gives(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = noise((2100, 2000)), block((2100, 2000), 1001, 300, 40)
    exact = inpainter.repair(image, mask)
    monkeypatch.setattr(inpainter, "_samples_bounds", True)
    fill_all = Mock(wraps=inference.fill_plans)
    monkeypatch.setattr(inference, "fill_plans", fill_all)
    np.testing.assert_array_equal(inpainter.repair(image, mask).image, exact.image)
    assert fill_all.call_count == 1
    assert inpainter.repair(image, np.zeros_like(mask)).notes[0].code == "empty_mask"


def test_nothing_outside_known_bounds_is_read(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a rest the threads that read 12 megapixels of no hole took the better part of a millisecond."""
    image, mask = noise((2100, 2000)), block((2100, 2000), 1001, 300, 40)
    exact = inpainter.repair(image, mask)
    monkeypatch.setattr(inpainter, "_samples_bounds", True)
    for name in ("sample_bounds", "rows_beyond"):
        monkeypatch.setattr(inference, name, Mock(side_effect=AssertionError(f"{name} reads the mask")))
    (result,) = inpainter.repair_many([RepairRequest(image, mask, bounds=(300, 1001, 340, 1041))])
    np.testing.assert_array_equal(result.image, exact.image)


@pytest.mark.parametrize("bounds", [(0, 0, 0, 0), (5, 5, 5, 9), (-1, 0, 9, 9), (0, 0, 81, 9), (0, 0, 9, 61)])
def test_bounds_outside_the_mask_are_refused(inpainter: Inpainter, bounds: Box) -> None:
    image, mask = noise((60, 80)), block((60, 80), 10, 10, 20)
    with pytest.raises(RepairError, match="bounds must be a box inside the mask of 80 x 60 pixels"):
        inpainter.repair_many([RepairRequest(image, mask, bounds=bounds)])


@pytest.mark.slow
@pytest.mark.parametrize("radius", [70, 260])
def test_a_speck_beside_a_large_hole_that_was_sampled_is_a_hole_of_its_own(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch, radius: int
) -> None:
    """As on a GPU: that the hole is one is sampled, and seen while the GPU works to be wrong."""
    image, (y, x) = noise((2100, 2000)), np.ogrid[:2100, :2000]
    mask = (y - 1000) ** 2 + (x - 900) ** 2 <= radius**2
    monkeypatch.setattr(inpainter, "_samples_bounds", True)
    fill_all = Mock(wraps=inference.fill_plans)
    monkeypatch.setattr(inference, "fill_plans", fill_all)
    inpainter.repair(image, mask)
    assert fill_all.call_count == 1
    top, left = 1005 - radius, 905 - radius  # in a corner of the bounds, between the rows that are sampled
    mask[top : top + 3, left : left + 3] = True
    result = inpainter.repair(image, mask)
    assert fill_all.call_count == 3
    monkeypatch.setattr(inpainter, "_samples_bounds", False)
    exact = inpainter.repair(image, mask)
    assert [box for box, _ in result.patches] == [box for box, _ in exact.patches]
    np.testing.assert_array_equal(result.image, exact.image)


def test_nothing_is_sampled_beside_a_repair_in_high_quality(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was missed would make all of it run again, the refining of every tile included."""
    image, mask = noise((2100, 2000)), block((2100, 2000), 1001, 300, 40)
    monkeypatch.setattr(inpainter, "_samples_bounds", True)
    sample = Mock(wraps=inpainter._sample_bounds)
    monkeypatch.setattr(inpainter, "_sample_bounds", sample)
    inpainter.repair_many([RepairRequest(image, mask), RepairRequest(image, mask, quality="high")])
    sample.assert_not_called()
    inpainter.repair_many([RepairRequest(image, mask)])
    sample.assert_called_once()
