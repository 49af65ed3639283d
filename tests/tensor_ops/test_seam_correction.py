"""The fill's colour at the rim: what is shifted, by how much, and what stays."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.executor import CropTask, _fill_once
from engine.stage_timer import StageTimer
from masks.crop_plan import Crop, plan_crops
from masks.dilation import PreparedMask
from preprocess import build_input, composite, upload
from tensor_ops.pinned_memory import PinnedMemory
from tensor_ops.seam_correction import _smooth_few, correct_seam, smooth_seam, spread

CPU = PinnedMemory(torch.device("cpu"))


def model_input(photo: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """(1, 4, H, W) from (3, H, W) and (H, W) bool."""
    mask = missing[None].float()
    return torch.cat([photo * (1 - mask), mask])[None]


def round_hole(side: int, radius: float) -> torch.Tensor:
    yy, xx = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (yy - side / 2) ** 2 + (xx - side / 2) ** 2 <= radius**2


def curved_photo(height: int, width: int) -> torch.Tensor:
    """(3, height, width) in [0.3, 0.7], cubic along both axes: what a thin plate goes through."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return 0.5 + 0.05 * torch.stack([x**3 + y, y**3 - x * x + y * y, 2 * x * y - y])


def outermost_of(missing: torch.Tensor) -> torch.Tensor:
    """Missing pixels that touch a known one, (H, W) bool, by definition."""
    found = torch.zeros_like(missing)
    for y, x in missing.nonzero().tolist():
        around = missing[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
        found[y, x] = not bool(around.all())
    return found


def test_a_constant_error_of_the_prediction_is_taken_back_inside_the_hole_alone() -> None:
    photo = curved_photo(96, 120)
    missing = torch.zeros(96, 120, dtype=torch.bool)
    missing[20:70, 30:90] = True
    offset = torch.tensor([0.1, -0.05, 0.02])[:, None, None]
    matched = correct_seam((photo + offset)[None], model_input(photo, missing))[0]
    torch.testing.assert_close(matched[:, missing], photo[:, missing], atol=1e-4, rtol=0)
    torch.testing.assert_close(matched[:, ~missing], (photo + offset)[:, ~missing], atol=0, rtol=0)


def test_an_error_that_changes_along_the_rim_is_carried_across_smoothly() -> None:
    """A tilt of the error is a harmonic function, which an exact membrane would carry over whole."""
    tilt = torch.linspace(-0.1, 0.1, 128).expand(3, 128, 128)
    photo = torch.full((3, 128, 128), 0.5)
    missing = round_hole(128, 30)
    left = (correct_seam((photo + tilt)[None], model_input(photo, missing))[0] - photo)[:, missing]
    assert left.abs().mean() < 0.35 * tilt[:, missing].abs().mean()


def test_prediction_that_equals_the_photo_on_the_ring_is_changed_at_the_outermost_pixels_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    photo, other = torch.rand(2, 3, 61, 83, generator=generator)
    missing = torch.rand(61, 83, generator=generator) < 0.2
    prediction = torch.where(missing, other, photo)
    matched = correct_seam(prediction[None], model_input(photo, missing))[0]
    kept = ~outermost_of(missing)
    assert torch.equal(matched[:, kept], prediction[:, kept])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
def test_smoothing_of_the_outermost_pixels_alone_is_that_of_all(share: float) -> None:
    """On a CPU the stencil is computed where it counts; the image's border cuts the hole."""
    random = torch.Generator().manual_seed(3)
    photo, fill = torch.rand(2, 3, 45, 38, generator=random)
    missing = torch.rand(45, 38, generator=random) < share
    missing[10:30, 20:] = share > 0
    x = model_input(photo, missing)
    torch.testing.assert_close(_smooth_few(fill[None].clone(), x), smooth_seam(fill[None], x), atol=1e-6, rtol=0)


def test_an_edge_between_photo_and_fill_is_smoothed_at_the_outermost_pixels_as_a_thin_plate_would() -> None:
    photo, missing = curved_photo(40, 40).double(), torch.zeros(40, 40, dtype=torch.bool)
    missing[12:28, 10:30] = True
    x = model_input(photo, missing)
    unchanged = smooth_seam(photo[None].float(), x.float())[0]
    torch.testing.assert_close(unchanged, photo.float(), atol=1e-6, rtol=0)
    stepped = photo + 0.1 * missing
    smoothed = smooth_seam(stepped[None].float(), x.float())[0].double()
    outermost = outermost_of(missing)
    assert torch.equal(smoothed.float()[:, ~outermost], stepped.float()[:, ~outermost])
    # The stencil's rows sum up to 1, -4, 6, -4 and 1 of 20; beside a straight rim two of them see no step.
    torch.testing.assert_close(smoothed[:, 12, 20], photo[:, 12, 20] + 0.1 * (1 - 3 / 20), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (512, 24)])
def test_nothing_known_or_nothing_missing_changes_nothing(size: tuple[int, int]) -> None:
    prediction = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2))
    for missing in (torch.ones(size, dtype=torch.bool), torch.zeros(size, dtype=torch.bool)):
        assert torch.equal(correct_seam(prediction, model_input(torch.rand(3, *size), missing)), prediction)


def test_images_of_a_batch_do_not_mix() -> None:
    generator = torch.Generator().manual_seed(3)
    photos, predictions = torch.rand(2, 2, 3, 40, 56, generator=generator)
    masks = torch.rand(2, 40, 56, generator=generator) < 0.3
    inputs = [model_input(photo, mask) for photo, mask in zip(photos, masks, strict=True)]
    together = correct_seam(predictions, torch.cat(inputs))
    for index, single in enumerate(inputs):
        torch.testing.assert_close(
            together[index], correct_seam(predictions[index, None], single)[0], atol=1e-6, rtol=0
        )


def test_spread_keeps_what_is_given_with_full_weight() -> None:
    generator = torch.Generator().manual_seed(4)
    values = torch.rand(1, 2, 37, 50, generator=generator)
    weight = (torch.rand(1, 1, 37, 50, generator=generator) < 0.1).float()
    filled = spread(torch.cat([values * weight, weight], dim=1))
    where = weight.expand_as(values) == 1
    torch.testing.assert_close(filled[where], values[where], atol=1e-6, rtol=0)
    assert filled.min() >= values[where].min() - 1e-4 and filled.max() <= values[where].max() + 1e-4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_fill_that_is_off_by_a_shade_meets_the_photo_in_either_depth(dtype: type) -> None:
    """The whole way of a crop, with a network that gives the photo a shade too bright."""
    top = int(np.iinfo(dtype).max)
    image: np.ndarray = np.random.default_rng(5).integers(top // 4, top // 2, (90, 110, 3), dtype=dtype)
    mask = np.zeros((90, 110), np.bool_)
    mask[30:60, 40:80] = True
    (crop,) = plan_crops(mask, buckets_px=(128,), fixed_buckets=False, dilate_px=3)
    clean = build_input(upload(_nothing_missing(crop), image, CPU))[:3]

    def predict(inputs: list[torch.Tensor]) -> torch.Tensor:
        return correct_seam(clean[None] + 0.05, torch.stack(inputs))

    ((filled, _),) = _fill_once([CropTask(image, crop)], predict, CPU, StageTimer(CPU.device))
    uncorrected = composite(clean + 0.05, upload(crop, image, CPU))
    left, upper, right, lower = crop.patch_box
    known = image[upper:lower, left:right]
    hole = mask[upper:lower, left:right]
    assert np.abs(filled.patch.astype(int) - known)[hole].max() <= max(1, top // 2000)
    assert np.abs(uncorrected.astype(int) - known)[hole].min() >= top * 0.04
    np.testing.assert_array_equal(filled.patch[crop.alpha == 0], known[crop.alpha == 0])


def _nothing_missing(crop: Crop) -> Crop:
    empty = np.zeros_like(crop.missing)
    return replace(crop, hole=PreparedMask(crop.box, empty, empty.astype(np.float32)))
