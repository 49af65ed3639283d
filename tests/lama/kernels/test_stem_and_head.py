"""The kernels of the two 7x7 ends compute plain convolutions."""

import pytest
import torch

from tests.support.kernels import DEVICE, convolution, half, poisoned, relative_error


@pytest.mark.parametrize("pairs", [16, 32])
def test_stem_against_a_plain_convolution(pairs: int) -> None:
    from lama.kernels.stem_head import convolve_stem, pad_input, stem_weights
    from lama.kernels.tiles import Tile

    stem = convolution(32, 4, 7)
    x = torch.rand(2, 4, 6, 10, device=DEVICE)
    padded, out = poisoned(2, 12, 18, 4), poisoned(2, 6, 10, 32)
    pad_input(x, padded)
    convolve_stem(padded, stem_weights(stem, DEVICE), out, tile=Tile(pairs, 64, 32, 4, 1))
    border = torch.nn.functional.pad(x.half().double(), (3,) * 4, mode="reflect")
    expected = torch.nn.functional.conv2d(border, stem.weight.to(DEVICE), stem.bias.to(DEVICE)).relu()
    assert relative_error(out.permute(0, 3, 1, 2), expected) < 1e-3
    with pytest.raises(ValueError, match="9 pixels wide"):
        convolve_stem(padded, stem_weights(stem, DEVICE), poisoned(2, 6, 9, 32), tile=Tile(pairs, 64, 32, 4, 1))


@pytest.mark.parametrize(("height", "width"), [(16, 24), (8, 40)])
def test_stem(height: int, width: int) -> None:
    from lama.kernels.stem_head import (
        convolve_stem,
        convolve_stem_reference,
        pad_input,
        pad_input_reference,
        stem_weights,
    )
    from lama.kernels.tiles import Tile

    weights = stem_weights(convolution(32, 4, 7), DEVICE)
    x = torch.rand(2, 4, height, width, device=DEVICE)[:, :, :, :]
    padded = poisoned(2, height + 6, width + 8, 4)
    pad_input(x.to(memory_format=torch.channels_last), padded)
    expected_padded = torch.empty(padded.shape, device=DEVICE)
    pad_input_reference(x, expected_padded)
    assert torch.equal(padded[:, :, :-2], expected_padded[:, :, :-2].half())
    assert padded.isfinite().all()

    out = poisoned(2, height, width, 32)
    expected = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    convolve_stem_reference(padded.double(), weights, expected)
    convolve_stem(padded, weights, out, tile=Tile(16, 64, 32, 4, 1))
    assert relative_error(out, expected) < 1e-3


@pytest.mark.parametrize(("height", "width"), [(16, 24), (8, 40), (10, 33)])
def test_head(height: int, width: int) -> None:
    from lama.kernels.stem_head import convolve_head, convolve_head_reference, head_weights
    from lama.kernels.tiles import Tile

    weights = head_weights(convolution(3, 32, 7), DEVICE)
    x = half(2, height, width, 32)
    planes = poisoned(2, height, 21, width)
    out = torch.full((2, 3, height, width), float("nan"), device=DEVICE)
    expected = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    convolve_head_reference(x.double(), weights, expected)
    convolve_head(x, weights, planes, out, tile=Tile(16, 32, 5, 4, 2))
    assert (out - expected).abs().max() < 2e-3
