"""The inference form computes the published network."""

import pytest
import torch

from lama.dft import dft_matrices
from lama.fast_generator import FastGenerator
from lama.torch_backend import TorchBackend
from tests.support.networks import live_generator, masked_input


@pytest.mark.parametrize(
    ("height", "width", "batch"), [(16, 16, 1), (24, 40, 1), (64, 64, 2), (72, 56, 1), (96, 160, 1), (16, 128, 3)]
)
def test_float32_matches_the_published_form(height: int, width: int, batch: int) -> None:
    generator = live_generator()
    fused = FastGenerator(generator, device="cpu", dtype=torch.float32)
    x = masked_input(height, width, batch=batch)
    with torch.no_grad():
        expected = generator.double()(x.double())
    assert (fused(x) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("strip_rows", [8, 16, 32])
def test_strips_of_any_height_give_what_the_whole_does(strip_rows: int) -> None:
    fused = FastGenerator(live_generator(), device="cpu", dtype=torch.float32)
    assert isinstance(fused.backend, TorchBackend)
    x = masked_input(40, 32, batch=2)
    expected = fused(x)
    fused.backend.strip_rows = strip_rows
    assert (fused(x) - expected).abs().max() < 1e-6


def test_odd_channel_counts_match_too() -> None:
    generator = live_generator(width=5, blocks=1)
    fused = FastGenerator(generator, device="cpu", dtype=torch.float32)
    x = masked_input(40, 24)
    with torch.no_grad():
        expected = generator.double()(x.double())
    assert (fused(x) - expected).abs().max() < 1e-5


def test_bfloat16_stays_within_one_grey_level_on_average() -> None:
    generator = live_generator()
    fused = FastGenerator(generator, device="cpu", dtype=torch.bfloat16)
    x = masked_input(64, 96)
    with torch.no_grad():
        expected = generator.double()(x.double())
    assert (fused(x) - expected).abs().mean() < 1 / 255


def test_batches_equal_single_images() -> None:
    fused = FastGenerator(live_generator(), device="cpu", dtype=torch.float32)
    x = masked_input(40, 24, batch=3)
    singles = torch.cat([fused(image[None]) for image in x])
    assert (fused(x) - singles).abs().max() < 1e-6


def test_without_onednn_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = live_generator(blocks=1)
    expected = FastGenerator(generator, device="cpu", dtype=torch.float32)(masked_input(32, 48))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    plain = FastGenerator(generator, device="cpu", dtype=torch.float32)
    assert isinstance(plain.backend, TorchBackend) and not plain.backend.stem.fuses
    assert (plain(masked_input(32, 48)) - expected).abs().max() < 1e-5


def test_generator_and_input_are_not_modified() -> None:
    generator = live_generator()
    x = masked_input(32, 32)
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    x_before = x.clone()
    FastGenerator(generator, device="cpu", dtype=torch.float32)(x)
    assert torch.equal(x, x_before)
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())


def test_memory_format_and_type_of_the_input_do_not_matter() -> None:
    fused = FastGenerator(live_generator(blocks=1), device="cpu", dtype=torch.float32)
    x = masked_input(32, 48)
    expected = fused(x)
    assert torch.equal(fused(x.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(fused(x.double()), expected)
    assert expected.dtype == torch.float32
    assert expected.is_contiguous()


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 4, 60, 64), (1, 4, 8, 64), (4, 64, 64)])
def test_wrong_shapes_are_refused(shape: tuple[int, ...]) -> None:
    fused = FastGenerator(live_generator(blocks=1), device="cpu", dtype=torch.float32)
    with pytest.raises(ValueError, match="the generator takes"):
        fused(torch.zeros(shape))


def test_the_choice_of_kernels_says_why() -> None:
    generator = live_generator(blocks=1)
    assert "float16, not float32" in FastGenerator(generator, device="cpu", dtype=torch.float32).describe()
    with pytest.raises(ValueError, match="cannot run"):
        FastGenerator(generator, device="cpu", dtype=torch.float32, kernels="triton")
    with pytest.raises(ValueError, match="auto, torch, triton"):
        FastGenerator(generator, device="cpu", dtype=torch.float32, kernels="cuda")


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (8, 12), (7, 6), (1, 4), (4, 1)])
def test_dft_matrices_are_the_scaled_orthonormal_transform(height: int, width: int) -> None:
    matrices = dft_matrices(height, width)
    x = torch.randn(height, width, dtype=torch.float64)
    frequencies = width // 2 + 1
    y = (x @ matrices.row.t()).view(2 * height, frequencies)  # (row, re/im) x frequency
    z = (matrices.column @ y).view(height, 2, frequencies)
    expected = torch.fft.rfft2(x, norm="ortho") * matrices.spectrum_gain
    assert torch.allclose(torch.complex(z[:, 0], z[:, 1]), expected, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (8, 12), (7, 6), (1, 4), (4, 1)])
def test_dft_inverse_ignores_what_a_real_inverse_ignores(height: int, width: int) -> None:
    """Any half spectrum goes in, not only that of a real map: the network's is what a convolution left."""
    matrices = dft_matrices(height, width)
    frequencies = width // 2 + 1
    z = torch.randn(height, 2, frequencies, dtype=torch.float64)
    y = (matrices.column_inverse @ (z * matrices.spectrum_gain).view(2 * height, frequencies)).view(height, -1)
    spectrum = torch.complex(z[:, 0], z[:, 1])
    expected = torch.fft.irfft2(spectrum, s=(height, width), norm="ortho")
    assert torch.allclose(y @ matrices.row_inverse.t(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [(128, 128), (192, 96), (33, 64), (192, 192)])
def test_spectrum_is_at_most_twice_the_largest_activation(size: tuple[int, int]) -> None:
    matrices = dft_matrices(*size)
    x = torch.full(size, 30000.0, dtype=torch.float64)
    y = (x @ matrices.row.t()).view(2 * size[0], -1)
    assert y.abs().max() <= 60000
    assert (matrices.column @ y).abs().max() <= 60000


def test_fp8_is_for_hopper_cards_alone() -> None:
    generator, x = live_generator(), masked_input(32, 32)
    plain, asked = (FastGenerator(generator, device="cpu", dtype=torch.float32, fp8=fp8) for fp8 in (False, True))
    assert not asked.has_fp8 and asked.describe() == plain.describe()
    assert torch.equal(asked(x), plain(x))
