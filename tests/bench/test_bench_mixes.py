"""Ways to make one fill of two: the mesh goes and the rest stays, low frequencies are the accurate network's."""

import cv2
import numpy as np

from bench.quality_mixes import WAYS, compose, with_low_frequencies, without_mesh
from bench.quality_protocols import Case
from bench.quality_texture import measure_texture

SIDE_PX = 192


def make_case() -> Case:
    """A grey photo with some grain, and a hole in its middle that is a third of a side from every edge."""
    grain = np.random.default_rng(0).normal(128, 12, (SIDE_PX, SIDE_PX, 3)).clip(0, 255).astype(np.uint8)
    hole = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    hole[32:160, 32:160] = True
    return Case("network", "grain", "thick", grain, grain, hole, hole)


def test_the_mesh_goes_and_the_grain_stays() -> None:
    case = make_case()
    grain = case.given / np.float32(255)
    mesh = 0.04 * np.tile(np.random.default_rng(1).normal(0, 1, (8, 8, 1)), (SIDE_PX // 8, SIDE_PX // 8, 1))
    before = measure_texture(compose(grain + mesh, case), case.clean, case.hole)
    after = measure_texture(compose(without_mesh(grain + mesh.astype(np.float32), case), case), case.clean, case.hole)
    assert before.periodic > 0.5
    assert after.periodic < 0.05
    assert 0.9 < after.texture < 1.1


def test_low_frequencies_are_the_accurate_fills_and_texture_the_crisp_ones() -> None:
    case = make_case()
    crisp = case.given / np.float32(255)
    accurate = np.full_like(crisp, 0.8)
    mixed = with_low_frequencies(crisp, accurate, case.hole, 2)
    middle = np.s_[64:128, 64:128]
    assert abs(float(mixed[middle].mean()) - 0.8) < 0.01
    fine = [array - cv2.blur(array, (3, 3)) for array in (mixed, crisp)]
    assert np.corrcoef(fine[0][middle].ravel(), fine[1][middle].ravel())[0, 1] > 0.95
    assert np.array_equal(mixed[~case.hole], crisp[~case.hole])


def test_no_way_changes_a_known_pixel() -> None:
    case = make_case()
    random = np.random.default_rng(2)
    accurate, crisp = (random.random(case.given.shape, np.float32) for _ in range(2))
    for mix in WAYS.values():
        result = compose(mix(accurate, crisp, case), case)
        assert np.array_equal(result[~case.hole], case.given[~case.hole])
        assert not np.array_equal(result[case.hole], case.given[case.hole])
