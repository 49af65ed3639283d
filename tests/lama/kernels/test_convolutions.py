"""The kernels of the convolutions compute the PyTorch expressions beside them, without the Fourier part."""

import pytest
import torch

from tests.support.kernels import DEVICE, convolution, half, poisoned, relative_error


@pytest.mark.parametrize(
    ("height", "width", "batch", "rows", "more", "boxes"),
    [
        *((5, 7, 2, 32, more, boxes) for more in ({}, {"split": 3}) for boxes in (True, False)),
        (2, 2, 1, 32, {}, True), (2, 2, 1, 32, {"split": 3}, False),
        (8, 16, 1, 16, {}, False), (8, 16, 1, 16, {"split": 3}, True),
    ],
)  # fmt: skip
def test_trunk_convolution_with_tail_and_shortcut(
    height: int, width: int, batch: int, rows: int, more: dict[str, int], boxes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums in one piece or split over programs; weights copied as boxes or number by number."""
    from lama.kernels import convolution as kernel
    from lama.kernels.convolution import convolve, convolve_reference, row_convolution, split_scratch
    from lama.kernels.tiles import Tile

    if not boxes:
        monkeypatch.setattr(kernel, "copies_boxes", lambda device: False)
    tail = torch.randn(64, 96, 1, 1, dtype=torch.float64) / 10
    weights = row_convolution(convolution(64, 32, 3), DEVICE, tail=tail)
    x = half(batch, height, width, 160)
    out = half(batch, height, width, 128, seed=1)
    expected = out.double()
    convolve_reference(x.double(), weights, expected, from_channel=32, tail_channel=64, to_channel=32, add_to_out=True)
    tile = Tile(rows, 32, 32, 4, 2, **more)
    scratch = split_scratch(batch * height * width, 64, tile=tile, device=DEVICE)
    convolve(
        x, weights, out, tile=tile, from_channel=32, tail_channel=64, to_channel=32, add_to_out=True, scratch=scratch
    )
    assert relative_error(out, expected) < 1e-3
    assert torch.equal(out[..., :32], half(batch, height, width, 128, seed=1)[..., :32])
    if scratch is not None:
        assert not scratch.arrivals.any()


def test_a_split_sum_needs_memory() -> None:
    from lama.kernels.convolution import convolve, row_convolution
    from lama.kernels.tiles import Tile

    weights = row_convolution(convolution(64, 32, 3), DEVICE)
    with pytest.raises(ValueError, match="splits the sum"):
        convolve(half(1, 4, 4, 32), weights, poisoned(1, 4, 4, 64), tile=Tile(32, 32, 32, 4, 2, split=2))


@pytest.mark.parametrize(("height", "width"), [(8, 12), (4, 4), (6, 32)])
def test_downsampling_convolution(height: int, width: int) -> None:
    from lama.kernels.convolution import convolve, convolve_reference, row_convolution
    from lama.kernels.tiles import Tile

    weights = row_convolution(convolution(64, 32, 3), DEVICE, stride=2)
    x = half(2, height, width, 32)
    out = poisoned(2, height // 2, width // 2, 64)
    expected = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    convolve_reference(x.double(), weights, expected)
    convolve(x, weights, out, tile=Tile(16, 32, 16, 4, 2))
    assert relative_error(out, expected) < 1e-3


@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 4), (2, 8)])
def test_upsampling(height: int, width: int) -> None:
    from lama.kernels.tiles import Tile
    from lama.kernels.upsampling import row_upsampling, upsample, upsample_reference

    weights = row_upsampling(convolution(32, 64, 3, transposed=True), DEVICE)
    x = half(2, height, width, 96)
    out = poisoned(2, 2 * height, 2 * width, 32)
    expected = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    upsample_reference(x.double(), weights, expected)
    upsample(x, weights, out, tile=Tile(16, 32, 32, 4, 2))
    assert relative_error(out, expected) < 1e-3


def test_a_sum_without_its_tail_before_the_relu() -> None:
    from lama.kernels.convolution import convolve, row_convolution
    from lama.kernels.tiles import Tile

    whole = convolution(64, 32, 3)
    tail = torch.randn(64, 96, 1, 1, dtype=torch.float64) / 10
    x, out = half(1, 5, 7, 32), poisoned(1, 5, 7, 64)
    weights = row_convolution(whole, DEVICE, tail=tail)
    convolve(x, weights.without_tail(), out, tile=Tile(16, 32, 32, 4, 2), rectify=False)
    maps = torch.nn.functional.pad(x.double().cpu().permute(0, 3, 1, 2), (1, 1, 1, 1), mode="reflect")
    expected = torch.nn.functional.conv2d(maps, whole.weight.half().double(), whole.bias).permute(0, 2, 3, 1)
    assert (expected < 0).any()
    assert relative_error(out.cpu(), expected) < 1e-3
