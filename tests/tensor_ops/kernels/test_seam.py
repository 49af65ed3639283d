"""Seam correction by kernels is seam correction by plain PyTorch."""

import pytest
import torch

from tensor_ops import seam_correction
from tests.support.kernels import DEVICE

# The interpreter divides on both sides of a choice.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")


@pytest.mark.parametrize(("batch", "height", "width"), [(1, 32, 32), (2, 24, 40), (1, 16, 16), (1, 17, 38)])
def test_seam_by_kernels_is_the_seam_by_pytorch(batch: int, height: int, width: int) -> None:
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


def test_prediction_that_is_not_finite_stays_so() -> None:
    """It is how a spoilt prediction is noticed; comparisons of a GPU drop NaN."""
    from tensor_ops.kernels import seam

    prediction, model_input = torch.zeros(2, 3, 16, 16, device=DEVICE), torch.zeros(2, 4, 16, 16, device=DEVICE)
    prediction[0, 1, 3, 3] = float("nan")
    assert seam.correct_and_smooth(prediction, model_input).flatten(1).isnan().any(dim=1).tolist() == [True, False]
