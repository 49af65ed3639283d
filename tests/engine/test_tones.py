"""Grey, sepia, few levels and transparency: what the network is shown of such photos, and how their fill comes out.

The network is a tiny one with random weights, whose fill has every colour: whatever is right here is not its merit.
"""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from engine.profiles import Card, choose_profile
from engine.tones import (
    LUMA_WEIGHTS,
    MOST_COLOURED,
    MOST_OFF,
    ColourLine,
    _are_many_colours,
    find_line,
    on_own_colours,
)
from inference import Inpainter, RepairError, RepairRequest
from lama.checkpoint import save_generator
from lama.generator import Generator
from masks.boxes import paste
from masks.crop_plan import plan_crops
from masks.dilation import dilate_mask


@pytest.fixture(scope="session")
def inpainter(tmp_path_factory: pytest.TempPathFactory) -> Inpainter:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_generator(Generator(width=4, blocks=1).eval(), path)
    # Small buckets, so that holes are scaled and refined in photos that take no seconds.
    profile = replace(choose_profile(Card("CPU"))[0], buckets_px=(128, 256))
    return Inpainter.load(path, device="cpu", precision="fp32", profile=profile)


def grey_levels(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """(H, W) float, 0 to 255: something like a photo, with fine and coarse structure."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((8, 8)).astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip((coarse + 0.1 * rng.standard_normal(size)) * 255, 0, 255)


def as_image(channels: Any, dtype: Any = np.uint8) -> np.ndarray:
    return np.rint(np.clip(channels, 0, 255) * (np.iinfo(dtype).max / 255)).astype(dtype)


def grey_image(size: tuple[int, int], dtype: Any = np.uint8) -> np.ndarray:
    return as_image(np.repeat(grey_levels(size)[..., None], 3, axis=2), dtype)


def sepia_image(size: tuple[int, int], dtype: Any = np.uint8) -> np.ndarray:
    grey = grey_levels(size)
    return as_image(np.stack([grey * 1.35, grey * 1.2, grey * 0.94], axis=2), dtype)


def block(size: tuple[int, int], top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros(size, np.bool_)
    mask[top : top + side, left : left + side] = True
    return mask


def known_region(mask: np.ndarray, **options: Any) -> np.ndarray:
    dilated = dilate_mask(mask, **options)
    assert dilated is not None
    return ~paste(dilated.missing, dilated.box, (0, 0, mask.shape[1], mask.shape[0]))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("size", "side", "quality"), [((90, 120), 30, "fast"), ((400, 450), 330, "fast"), ((400, 450), 330, "high")]
)
def test_a_grey_photo_stays_grey(
    inpainter: Inpainter, dtype: Any, size: tuple[int, int], side: int, quality: str
) -> None:
    """Nearly every pixel of the hole came back tinted, by up to 30 levels; at any size and quality."""
    image, mask = grey_image(size, dtype), block(size, 20, 25, side)
    image[mask] = as_image(np.array([200, 20, 20]), dtype)  # what goes may have a colour
    result = inpainter.repair(image, mask, quality=quality, dilate_px=3)
    assert np.ptp(result.image, axis=2).max() == 0
    np.testing.assert_array_equal(result.image[known_region(mask, dilate_px=3)], image[known_region(mask, dilate_px=3)])
    assert result.image[mask].std() > 0, "the fill is flat"


def test_a_second_mark_does_not_make_a_grey_page_coloured(inpainter: Inpainter) -> None:
    """Two stamps on a scan: each one's fill is grey though the other lies in its surroundings."""
    image = grey_image((120, 200))
    mask = block((120, 200), 30, 30, 24) | block((120, 200), 50, 130, 24)
    image[mask] = (210, 30, 40)
    result = inpainter.repair(image, mask, dilate_px=0)
    assert np.ptp(result.image[mask], axis=1).max() == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_sepia_stays_on_its_own_line_of_colours(inpainter: Inpainter, dtype: Any) -> None:
    image, mask = sepia_image((150, 160), dtype), block((150, 160), 40, 50, 50)
    filled = inpainter.repair(image, mask, dilate_px=0).image[mask] * (255.0 / np.iinfo(dtype).max)
    # The line is known here: red clips first, then green.
    luma = filled @ [0.299, 0.587, 0.114]
    grey = np.arange(0, 255, 0.25)
    line = np.clip(np.stack([grey * 1.35, grey * 1.2, grey * 0.94], axis=1), 0, 255)
    expected = np.stack([np.interp(luma, line @ [0.299, 0.587, 0.114], channel) for channel in line.T], axis=1)
    assert np.quantile(np.abs(filled - expected), 0.99) < 3
    assert np.ptp(filled, axis=1).max() > 10, "sepia became grey"


def test_between_holes_whose_boxes_leave_nothing_the_known_pixels_still_tell_the_line() -> None:
    """A frame: its box is all of the crop, so that what is known lies inside it."""
    image, mask = grey_image((90, 90)), block((90, 90), 0, 0, 90) & ~block((90, 90), 12, 12, 66)
    (crop,) = plan_crops(mask, buckets_px=(128,), fixed_buckets=False, dilate_px=2)
    line = find_line(image, crop)
    assert line is not None and len(line.luma) == 1
    image[40:60, 40:60] = (200, 20, 20)
    assert find_line(image, crop) is None
    hidden = block((90, 90), 38, 38, 24)
    assert find_line(image, crop, hidden) is not None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_are_put_onto_the_line_and_what_did_not_change_is_not(dtype: Any) -> None:
    most = np.iinfo(dtype).max
    rng = np.random.default_rng(0)
    original: np.ndarray = rng.integers(0, most, (40, 50, 3), dtype=dtype, endpoint=True)
    patch = original.copy()
    patch[10:30, 5:45] = rng.integers(0, most, (20, 40, 3), dtype=dtype, endpoint=True)
    lumas = np.array([0, 80, 255], np.float32)
    line = ColourLine(lumas, np.array([[0, 0, 0], [20, 4, -30], [0, 0, 0]], np.float32))
    own = on_own_colours(patch, original, line)
    changed = (patch != original).any(axis=2)
    np.testing.assert_array_equal(own[~changed], original[~changed])
    luma = patch[changed] @ np.array([0.299, 0.587, 0.114]) * (255 / most)
    offsets = np.stack([np.interp(luma, lumas, channel) for channel in line.offsets.T], axis=1)
    expected = np.clip((luma[:, None] + offsets) * (most / 255), 0, most)
    assert np.abs(own[changed] - expected).max() <= (1.5 if dtype is np.uint8 else 2.5)
    assert on_own_colours(patch, original, None) is patch


def test_a_photo_with_colours_is_filled_as_before(inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    coarse = cv2.resize(rng.random((8, 8, 3)).astype(np.float32), (160, 150), interpolation=cv2.INTER_CUBIC)
    image, mask = as_image(coarse * 255), block((150, 160), 40, 50, 50)
    got = inpainter.repair(image, mask).image
    monkeypatch.setattr("engine.repair_steps.on_own_colours", lambda patch, *rest: patch)
    np.testing.assert_array_equal(got, inpainter.repair(image, mask).image)


@pytest.fixture(scope="module")
def embedded() -> Inpainter:
    """The included network: a random one is not wrong about what looks black."""
    return Inpainter.load(device="cpu", precision="fp32")


@pytest.mark.slow
@pytest.mark.parametrize("most", [255, 1023, 4095])
def test_few_levels_are_filled_like_all_of_them(embedded: Inpainter, most: int) -> None:
    """A 10-bit photo in a 16-bit file looked black to the network; its fill was a quarter darker than the ring."""
    size = (160, 160)
    texture = cv2.GaussianBlur(np.random.default_rng(2).standard_normal(size).astype(np.float32), (0, 0), 1.5)
    levels = np.clip(0.5 + 0.2 * texture, 0, 1) * most
    image, mask = np.repeat(np.rint(levels)[..., None], 3, axis=2).astype(np.uint16), block(size, 60, 60, 36)
    filled = embedded.repair(image, mask, dilate_px=0).image
    ring = cv2.dilate(mask.view(np.uint8), np.ones((9, 9))).view(np.bool_) & ~mask
    assert abs(filled[mask].mean() - image[ring].mean()) < image[ring].std()
    assert filled[mask].std() < 2 * image[ring].std()
    np.testing.assert_array_equal(filled[~mask], image[~mask])


@pytest.mark.parametrize("quality", ["fast", "high"])
def test_a_narrow_range_far_from_black_and_hot_pixels_are_taken_for_what_they_are(
    inpainter: Inpainter, quality: str
) -> None:
    size = (400, 450)
    few = (np.rint(grey_image(size) / 255.0 * 900) + 30_000).astype(np.uint16)
    mask = block(size, 30, 40, 330)
    few[3, 5] = few[17, 440] = 65535
    filled = inpainter.repair(few, mask, dilate_px=0, quality=quality).image
    assert few[~mask].min() - 500 < filled[mask].min() and filled[mask].max() < 31_500
    np.testing.assert_array_equal(filled[~mask], few[~mask])


def test_a_photo_that_uses_its_sixteen_bits_is_filled_as_before(
    inpainter: Inpainter, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = grey_image((100, 100), np.uint16), block((100, 100), 40, 50, 20)
    got = inpainter.repair(image, mask).image
    monkeypatch.setattr("engine.repair_steps.shown_levels", lambda *arguments: None)
    np.testing.assert_array_equal(got, inpainter.repair(image, mask).image)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(
    ("size", "side", "quality"), [((150, 160), 50, "fast"), ((400, 450), 330, "fast"), ((400, 450), 330, "high")]
)
def test_colours_of_transparent_pixels_do_not_matter(
    inpainter: Inpainter, dtype: Any, size: tuple[int, int], side: int, quality: str
) -> None:
    """Hidden magenta came into the visible fill, up to 231 of 255."""
    image, mask = sepia_image(size, dtype), block(size, 30, 35, side)
    transparent = np.zeros(size, np.bool_)
    transparent[:, 60:75] = True
    transparent[20:40] = True
    results = []
    for hidden in ((255, 0, 255), (0, 90, 0)):
        given = image.copy()
        given[transparent] = as_image(np.array(hidden), dtype)
        before = given.copy()
        result = inpainter.repair(given, mask, dilate_px=4, quality=quality, transparent=transparent).image
        np.testing.assert_array_equal(result[transparent], given[transparent])
        np.testing.assert_array_equal(given, before)
        assert (result[mask & ~transparent] != image[mask & ~transparent]).any()
        results.append(result[~transparent])
    np.testing.assert_array_equal(results[0], results[1])


def test_what_is_transparent_is_checked() -> None:
    image, mask = grey_image((20, 30)), block((20, 30), 5, 5, 5)
    for wrong in (np.zeros((30, 20), np.bool_), np.zeros((20, 30), np.uint8), [[True]]):
        with pytest.raises(RepairError, match="transparent must be"):
            Inpainter.repair_many(object.__new__(Inpainter), [RepairRequest(image, mask, transparent=wrong)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("saturation", "noise_levels", "expected"),
    [(0.0, 0.0, False), (0.0, 3.0, False), (0.05, 1.0, False), (1.0, 0.0, True)],
)
def test_the_first_look_tells_colours_from_grey_sepia_and_noise(
    saturation: float, noise_levels: float, expected: bool
) -> None:
    """A sepia tint of two parts lies on a line whatever its tone; the photo's own colours on none."""
    random = np.random.default_rng(0)
    photo = random.uniform(0, 255, (500, 3)).astype(np.float32)
    grey = (photo @ LUMA_WEIGHTS)[:, None]
    colours = grey + np.array([20, -2, -40]) * np.sin(grey / 80) + saturation * (photo - grey)
    colours = (colours + random.normal(0, noise_levels, colours.shape)).clip(0, 255).astype(np.float32)
    assert _are_many_colours(colours) == expected
    assert ((ColourLine.through(colours).off(colours) > MOST_OFF).mean() > MOST_COLOURED) == expected
