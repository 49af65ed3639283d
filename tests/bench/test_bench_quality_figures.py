"""The bench's figures against independent formulas."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from bench.quality_figures import PerceptualDistance, covered_share, hole_psnr, hole_ssim, paired_bootstrap, seam_error
from bench.quality_kid import hole_windows, kernel_distance
from bench.quality_protocols import grow
from bench.quality_texture import measure_texture


def make_photo(height: int = 96, width: int = 120, seed: int = 0) -> np.ndarray:
    """Smooth colour with some texture: compressible, and unlike noise, fillable."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (6, 8, 3), dtype=np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    return np.clip(smooth + rng.normal(0, 4, smooth.shape), 0, 255).astype(np.uint8)


def add_noise(image: np.ndarray, amount: float) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, amount, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


def make_hole(height: int = 96, width: int = 120) -> np.ndarray:
    hole = np.zeros((height, width), bool)
    hole[20:50, 30:70] = True
    hole[0:5, 100:120] = True
    return hole


@pytest.fixture(scope="module")
def features_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of SqueezeNet 1.0, scaled so that activations neither die nor explode."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}

    def add(name: str, outputs: int, inputs: int, side: int) -> None:
        gain = (2.0 / (inputs * side * side)) ** 0.5
        state[f"{name}.weight"] = gain * torch.randn(outputs, inputs, side, side, generator=generator)
        state[f"{name}.bias"] = torch.zeros(outputs)

    add("conv1", 96, 3, 7)
    inputs = 96
    for number, (squeeze, expand) in enumerate(
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)], start=2
    ):
        add(f"fire{number}.a", squeeze, inputs, 1)
        add(f"fire{number}.b", expand, squeeze, 1)
        add(f"fire{number}.c", expand, squeeze, 3)
        inputs = 2 * expand
    file = tmp_path_factory.mktemp("features") / "features.pth"
    torch.save(state, file)
    return file


@pytest.mark.slow
def test_psnr_and_ssim_are_scikit_images() -> None:
    from skimage.metrics import (
        peak_signal_noise_ratio,
        structural_similarity,
    )  # SciPy takes a second, and not every run needs it

    original, hole = make_photo(), make_hole()
    result = add_noise(original, 12)
    whole = np.ones_like(hole)
    assert hole_psnr(result, original, whole) == pytest.approx(peak_signal_noise_ratio(original, result), abs=1e-9)
    expected = structural_similarity(original, result, channel_axis=2, full=True)[1].mean(2)[hole].mean()
    assert hole_ssim(result, original, hole) == pytest.approx(expected, abs=1e-9)


def test_psnr_looks_at_the_hole_only_and_has_a_ceiling() -> None:
    original, hole = make_photo(), make_hole()
    result = original.copy()
    result[~hole] = 255 - result[~hole]
    assert hole_psnr(result, original, hole) == 100.0
    result[hole] = np.where(original[hole] < 128, original[hole] + 1, original[hole] - 1)
    assert hole_psnr(result, original, hole) == pytest.approx(20 * np.log10(255), abs=1e-9)


def test_seam_error_is_zero_for_equal_images_and_the_step_for_a_step() -> None:
    original, hole = make_photo() // 2, make_hole()
    assert seam_error(original, original, hole) == 0.0
    lifted = original.copy()
    lifted[hole] += 10
    assert seam_error(lifted, original, hole) == pytest.approx(10.0)


def test_seam_error_ignores_the_inside_but_sees_a_ghost_in_the_ring() -> None:
    original, hole = make_photo() // 2, make_hole()
    inside = original.copy()
    inside[30:40, 40:60] += 90
    assert seam_error(inside, original, hole) == 0.0
    ghost = original.copy()
    ghost[20:50, 72] += 90
    assert seam_error(ghost, original, hole) == 0.0
    assert seam_error(ghost, original, hole, grow(hole, 6)) > 1.0


def test_perceptual_distance_is_zero_for_equal_images_and_grows_with_noise(features_file: Path) -> None:
    original, hole = make_photo(), make_hole()
    perceptual = PerceptualDistance(features_file)
    reference = perceptual.features(original)
    assert reference[0].shape == (1, 96, 45, 57)
    assert [f.shape[1] for f in reference] == [96, 128, 256, 384, 512]
    distances = [perceptual.distance(add_noise(original, amount), reference, hole) for amount in (0, 5, 20, 60)]
    assert distances[0] == 0.0
    assert distances == sorted(distances)
    assert distances[1] > 0.0


def test_perceptual_distance_weighs_only_the_region(features_file: Path) -> None:
    original = make_photo(256, 256)
    perceptual = PerceptualDistance(features_file)
    reference = perceptual.features(original)
    broken = original.copy()
    broken[:60, :60] = add_noise(original, 80)[:60, :60]
    near, far = np.zeros((2, 256, 256), bool)
    near[:60, :60], far[200:, 200:] = True, True
    assert perceptual.distance(broken, reference, far) < 0.02 * perceptual.distance(broken, reference, near)


@pytest.mark.parametrize("size", [(45, 57), (12, 15), (5, 7), (96, 120)])
def test_covered_share_is_adaptive_average_pooling(size: tuple[int, int]) -> None:
    hole = make_hole()
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(hole).float()[None], size)[0]
    assert np.allclose(covered_share(hole, size), expected.numpy(), atol=1e-6)


def test_bootstrap_finds_a_constant_difference_exactly_and_covers_a_noisy_one() -> None:
    peer = np.random.default_rng(0).normal(20, 5, 41)
    assert paired_bootstrap(peer + 1.5, peer) == pytest.approx((1.5, 1.5, 1.5))
    noise = np.random.default_rng(1).normal(0, 2, 41)
    mean, low, high = paired_bootstrap(peer + noise, peer)
    assert mean == pytest.approx(noise.mean())
    # The normal interval of the mean is an independent formula for the same thing.
    half = 1.96 * noise.std(ddof=1) / 41**0.5
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.15 * half)


def square_hole(side: int = 256, hole_px: int = 160) -> np.ndarray:
    hole = np.zeros((side, side), bool)
    first = (side - hole_px) // 2
    hole[first : first + hole_px, first : first + hole_px] = True
    return hole


def grain(seed: int, side: int = 256) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(128, 12, (side, side, 1))
    return np.clip(np.repeat(noise, 3, 2), 0, 255).astype(np.uint8)


def test_blur_has_no_texture_and_other_grain_has_all_of_it() -> None:
    truth, hole = grain(0), square_hole()
    assert measure_texture(truth, truth, hole).texture == pytest.approx(1.0)
    assert measure_texture(grain(1), truth, hole).texture == pytest.approx(1.0, abs=0.03)
    assert measure_texture(cv2.blur(truth, (15, 15)), truth, hole).texture < 0.1


def test_a_mesh_of_8_px_is_seen_and_one_of_7_px_is_not() -> None:
    truth, hole = grain(0), square_hole()
    for period, is_seen in ((8, True), (4, True), (7, False)):
        tile = np.random.default_rng(2).normal(128, 12, (period, period, 1))
        mesh = np.tile(tile, (256 // period + 1, 256 // period + 1, 3))[:256, :256].clip(0, 255).astype(np.uint8)
        share = measure_texture(mesh, truth, hole).periodic
        assert share > 0.95 if is_seen else share < 0.1
    assert measure_texture(truth, truth, hole).photo_periodic < 0.03


def test_half_a_mesh_is_half_the_energy() -> None:
    rng = np.random.default_rng(3)
    mesh = np.tile(rng.normal(0, 10, (8, 8)), (32, 32))
    image = np.repeat((128 + mesh + rng.normal(0, 10, (256, 256)))[..., None], 3, 2).round().astype(np.uint8)
    assert measure_texture(image, grain(0), square_hole()).periodic == pytest.approx(0.5, abs=0.06)


def test_a_hole_without_a_square_of_64_px_has_no_period() -> None:
    look = measure_texture(grain(1), grain(0), square_hole(hole_px=40))
    assert np.isnan(look.periodic) and look.texture > 0.9


def test_kernel_distance_is_zero_for_one_population_and_grows_with_the_difference() -> None:
    rng = np.random.default_rng(0)
    photos, others = rng.normal(size=(200, 32)), rng.normal(size=(200, 32))
    distances = [kernel_distance(others + shift, photos) for shift in (0.0, 0.5, 1.0)]
    assert abs(distances[0]) < 0.05
    assert distances[0] < distances[1] < distances[2]


def test_kernel_distance_of_what_was_not_changed_is_zero() -> None:
    """Fills and photos share most of a window, so the pairs that show one window made the distance negative."""
    photos = np.random.default_rng(0).normal(size=(60, 32))
    assert kernel_distance(photos, photos) == pytest.approx(0.0, abs=1e-12)


def test_windows_lie_around_the_deep_places_of_a_hole() -> None:
    hole = np.zeros((512, 512), bool)
    hole[40:120, 30:110] = hole[330:450, 300:420] = True
    hole[:, 250:256] = True  # thin: no window
    windows = hole_windows(hole)
    assert windows[0] == (277, 247) or windows[0] == (278, 248)
    assert len(windows) >= 2
    assert all(0 <= top <= 512 - 224 and 0 <= left <= 512 - 224 for top, left in windows)
    assert hole_windows(np.zeros((512, 512), bool)) == []
