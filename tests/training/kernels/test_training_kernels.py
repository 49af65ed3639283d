"""Each kernel of the training step computes its definition in plain PyTorch, gradients included."""

import pytest
import torch
import torch.nn.functional as F

from tests.support.kernels import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="compared on the CPU: needs TRITON_INTERPRET=1")
TOLERANCE = 1e-4


def check(fast: torch.Tensor, plain: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    """Compare two results and their gradients by every input."""
    slope = torch.randn(plain.shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fast, plain, atol=TOLERANCE, rtol=0)
    gradients = [torch.autograd.grad(result, inputs, slope) for result in (fast, plain)]
    for by_kernel, by_definition in zip(*gradients, strict=True):
        torch.testing.assert_close(by_kernel, by_definition, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("shape", "with_residual"), [((2, 24, 9, 7), False), ((2, 24, 9, 7), True), ((50, 40), False)])
def test_batch_norm_and_relu(shape: tuple[int, ...], with_residual: bool) -> None:
    """Of maps, of maps with a residual added, and of rows."""
    from training.kernels import normalise

    random = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=random)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.rand(shape[1], generator=random), torch.randn(shape[1], generator=random)
    residual = torch.randn(shape, generator=random) if with_residual else None
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias, residual) if tensor is not None]
    fast = normalise._BatchNormReLU.apply(x, weight, bias, residual)[0]
    plain = normalise.batch_norm_relu_plain(x, weight, bias, residual)[0]
    check(fast, plain, inputs)


def test_reflection_padding_of_two_maps() -> None:
    from training.kernels import padding

    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, channels, 6, 4, generator=random).requires_grad_() for channels in (5, 7)]
    plain = F.pad(torch.cat(parts, 1), (2,) * 4, mode="reflect")
    check(padding._ReflectPad.apply(2, 2, False, False, *parts), plain, parts)


@pytest.mark.parametrize(
    ("pads", "from_depth", "to_depth"), [((3, 3), False, True), ((2, 0), True, True), ((1, 2), True, False)]
)
def test_reflection_padding_from_and_to_depth(pads: tuple[int, int], from_depth: bool, to_depth: bool) -> None:
    """Between maps and maps of half the size with four times the channels."""
    from training.kernels import padding

    shape = (2, 20, 4, 3) if from_depth else (2, 5, 8, 6)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    plain = padding.reflect_pad_plain(*pads, from_depth, to_depth, x)
    check(padding._ReflectPad.apply(*pads, from_depth, to_depth, x), plain, [x])


def test_feature_distance() -> None:
    from training.kernels import distance

    random = torch.Generator().manual_seed(0)
    got, wanted = (torch.randn(2, 24, 5, 7, generator=random) for _ in range(2))
    got.requires_grad_()
    fast, plain = distance._FeatureDistance.apply(got, wanted), distance.feature_distance_plain(got, wanted)
    check(fast, plain, [got])
