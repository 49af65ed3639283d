"""What training asks for: every photo by its own hole, the rim on its own, and more texture where a hole is deep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.critic import over_hole
from training.looks import GRID_PX, Looks
from training.losses import PLANES, SqueezeFeatures, contrast_gap, depth, dissimilarity, hole_colour


def square_hole(side: int, size: int = 96) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    start = (size - side) // 2
    mask[..., start : start + side, start : start + side] = 1
    return mask


def test_colour_terms_measure_hole_rim_and_outside_apart() -> None:
    mask = square_hole(10)
    image = torch.full((1, 3, 96, 96), 0.5)
    inner = square_hole(8)
    prediction = image + 0.1 * inner + 0.3 * (mask - inner) + 0.02 * (1 - mask)
    hole, log_error, rim, outside = hole_colour(prediction, image, mask)
    assert abs(float(hole) - (64 * 0.1 + 36 * 0.3) / 100) < 1e-3
    assert abs(float(rim) - 0.3) < 5e-3
    assert abs(float(outside) - 0.02 * (1 - 100 / 96**2)) < 1e-4
    wanted = torch.tensor((64 * 0.01 + 36 * 0.09) / 100 + 2e-4).log()
    assert abs(float(log_error) - float(wanted)) < 1e-2


def test_a_thin_hole_counts_as_much_as_a_thick_one() -> None:
    masks = torch.cat([square_hole(4), square_hole(64)])
    image = torch.zeros(2, 3, 96, 96)
    wrong_thin, wrong_thick = image.clone(), image.clone()
    wrong_thin[0] = 0.2
    wrong_thick[1] = 0.2
    thin, thick = (hole_colour(wrong, image, masks)[0] for wrong in (wrong_thin, wrong_thick))
    assert abs(float(thin) - float(thick)) < 3e-3


def test_depth_grows_with_the_hole_and_ends_at_one() -> None:
    depths = [float(depth(square_hole(side))) for side in (6, 30, 60, 90)]
    assert depths[0] == 0.0
    assert depths == sorted(depths)
    assert depths[3] > 0.3
    assert float(depth(torch.ones(1, 1, 96, 96))) == pytest.approx(1.0, abs=1e-3)


def test_the_critic_listens_to_cells_that_see_the_hole_only() -> None:
    mask = square_hole(16, 64)
    values = torch.where(mask[..., ::8, ::8] > 0, 2.0, 100.0)
    assert abs(float(over_hole(values, mask)) - 2.0) < 1e-2


def test_dissimilarity_is_that_of_windows_side_by_side() -> None:
    from skimage.metrics import structural_similarity  # SciPy takes a second, and not every run needs it

    random = np.random.default_rng(0)
    image = random.random((40, 48, 3))
    wrong = np.clip(image + random.normal(0, 0.1, image.shape), 0, 1)
    mask = np.zeros((40, 48))
    mask[9:31, 12:36] = 1
    composite = np.where(mask[..., None] > 0, wrong, image)
    _, similar = structural_similarity(composite, image, win_size=7, channel_axis=2, data_range=1.0, full=True)
    middles = (slice(3, 38, 7), slice(3, 45, 7))
    inside = similar[middles][mask[middles] > 0]
    expected = (1 - inside).sum() / (inside.size + 1)  # every term of a photo divides by its hole plus one
    given, wanted = (torch.from_numpy(a).permute(2, 0, 1)[None].float() for a in (composite, image))
    got = dissimilarity(given, wanted, torch.from_numpy(mask)[None, None].float())
    assert abs(float(got) - expected) < 1e-3


def test_contrast_is_compared_where_it_stands_and_in_the_hole_alone() -> None:
    random = torch.Generator().manual_seed(3)
    mask = square_hole(128, 192)
    noise = torch.randn(1, 1, 192, 192, generator=random).expand(1, 3, -1, -1)
    image = 0.5 + 0.1 * noise
    assert float(contrast_gap(image, image, mask)) == 0
    # Energy grows with the square of the contrast, in every band alike (a little less where it is near the floor).
    halved = 0.5 + 0.05 * noise
    assert float(contrast_gap(halved, image, mask)) == pytest.approx(2 * np.log(2), abs=0.1)
    assert float(contrast_gap(image, halved, mask)) == pytest.approx(2 * np.log(2), abs=0.1)
    # Too much on one side and too little on the other do not make up for each other.
    left = (torch.arange(192) < 96).float().view(1, 1, 1, 192)
    lopsided = 0.5 + noise * (0.02 * left + 0.14 * (1 - left))
    assert float(contrast_gap(lopsided, image, mask)) > 1
    # What lies outside the hole is not asked for, nor is a hole without a whole window.
    assert float(contrast_gap(image * mask + 0.5 * (1 - mask), image, square_hole(120, 192))) < 0.05
    assert float(contrast_gap(halved, image, square_hole(8, 192))) == 0


def test_features_begin_with_the_networks_own_convolution(tmp_path: Path) -> None:
    """It is computed on squares of four pixels."""
    torch.manual_seed(0)
    state = {"conv1.weight": torch.randn(96, 3, 7, 7), "conv1.bias": torch.randn(96)}
    for index, (into, squeeze, expand) in enumerate(PLANES, 2):
        for part, (a, b, size) in {
            "a": (into, squeeze, 1),
            "b": (squeeze, expand, 1),
            "c": (squeeze, expand, 3),
        }.items():
            state |= {
                f"fire{index}.{part}.weight": torch.zeros(b, a, size, size),
                f"fire{index}.{part}.bias": torch.zeros(b),
            }
    torch.save(state, tmp_path / "features.pth")
    image = torch.rand(2, 3, 40, 56)
    first = SqueezeFeatures(tmp_path / "features.pth")(image)[0]
    centred = image.flip(1) * 255 - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    expected = F.relu(F.conv2d(centred, state["conv1.weight"], state["conv1.bias"], stride=2))
    assert first.shape == expected.shape
    assert (first - expected).abs().max() < 1e-2


def test_all_of_the_deepest_holes_are_looked_at_and_the_rest_in_turn() -> None:
    looks = Looks(9, 16, share=0.34, every=2, device=torch.device("cpu"))
    assert looks.pick(torch.arange(9)).tolist() == [0, 1, 2, 3, 5, 7]
    values = torch.tensor([3.0, 3, 3, 1, 1, 1, 1, 1, 1])
    assert float((looks.times * looks.pick(values)).mean()) == pytest.approx(float(values.mean()))


def test_each_step_sees_photos_on_another_grid() -> None:
    looks = Looks(2, 16, share=0.5, every=1, device=torch.device("cpu"))
    images = torch.arange(2 * 16 * 16.0).view(2, 1, 16, 16)
    assert torch.equal(looks.see(images), images)
    choice, seen = np.random.default_rng(0), set()
    for _ in range(40):
        looks.shift(choice)
        moved = looks.see(images)
        row, column = divmod(int(moved[0, 0, 15, 15]), 16)
        down, right = 15 - row, 15 - column
        padded = F.pad(images, (right, 0, down, 0), mode="reflect")
        assert torch.equal(moved, padded[..., :16, :16])
        seen.add((down, right))
    assert len(seen) > 20 and max(max(pair) for pair in seen) == GRID_PX - 1
