"""The kernels of the spectral path compute what torch.fft and plain products do."""

import pytest
import torch

from lama.dft import dft_matrices
from tests.support.kernels import DEVICE, convolution, half, poisoned, relative_error


@pytest.mark.parametrize(("height", "width"), [(6, 5), (5, 6), (2, 2), (16, 16), (9, 40)])
def test_fourier_unit_is_the_published_one(height: int, width: int) -> None:
    """Row and column transforms, 1x1, and back, against torch.fft in float64."""
    from lama.kernels.fourier import (
        add_inverse_rows,
        invert_columns,
        kernel_matrices,
        transform_columns,
        transform_rows,
    )
    from lama.kernels.spectral_path import convolve_spectrum, convolve_spectrum_reference, spectrum_convolution
    from lama.kernels.tiles import Tile

    batch, channels, tile = 2, 32, Tile(32, 32, 32, 4, 2)
    matrices = kernel_matrices(dft_matrices(height, width), DEVICE)
    weights = spectrum_convolution(convolution(2 * channels, 2 * channels, 1), DEVICE)
    x = half(batch, height, width, 64)
    t = x[..., 32:].double()
    frequencies = width // 2 + 1
    planes = torch.zeros(batch, height, 2, frequencies, channels, dtype=torch.float16, device=DEVICE)
    spectrum, convolved = poisoned(*planes.shape), poisoned(*planes.shape)

    transform_rows(x, matrices, planes, tile=tile)
    transform_columns(planes, matrices, spectrum, tile=tile)
    exact = torch.fft.rfft2(t, dim=(1, 2), norm="ortho") * matrices.spectrum_gain
    assert relative_error(spectrum, torch.stack([exact.real, exact.imag], dim=2)) < 2e-3

    expected = torch.empty(planes.shape, dtype=torch.float64, device=DEVICE)
    convolve_spectrum_reference(spectrum.double(), weights, matrices.spectrum_gain, expected)
    convolve_spectrum(spectrum, weights, matrices.spectrum_gain, convolved, tile=tile)
    assert relative_error(convolved, expected) < 1e-3

    invert_columns(convolved, matrices, spectrum, tile=tile)
    add_inverse_rows(spectrum, matrices, x, tile=tile)
    parts = convolved.double() / matrices.spectrum_gain
    inverse = torch.fft.irfft2(
        torch.complex(parts[:, :, 0], parts[:, :, 1]), s=(height, width), dim=(1, 2), norm="ortho"
    )
    assert relative_error(x[..., 32:], t + inverse) < 2e-3
    assert torch.equal(x[..., :32], half(batch, height, width, 64)[..., :32])


@pytest.mark.parametrize(("height", "width", "add"), [(6, 16, False), (3, 32, True), (5, 64, True)])
def test_the_way_out_of_the_spectral_path(height: int, width: int, add: bool) -> None:
    """Against the inverse row transform by torch.fft and a plain product, in float64."""
    from lama.kernels.fourier import kernel_matrices
    from lama.kernels.spectral_path import leave_rows
    from lama.kernels.tiles import Tile

    batch, channels, outputs, local = 2, 96, 64, 32
    matrices = kernel_matrices(dft_matrices(height, width), DEVICE)
    planes = half(batch, height, 2, width // 2 + 1, channels)
    planes[:, :, 1, [0, -1]] = 0  # imaginary parts that a row of real numbers has not
    x = half(batch, height, width, 160, seed=1)
    leave, before = half(channels, outputs, seed=2) / 10, half(batch, height, width, outputs, seed=3)
    out = half(batch, height, width, 160, seed=4)
    start = out.clone()
    tile = Tile(width, 32, 32, 4, 1)
    leave_rows(planes, x, leave, before, matrices, out, to_channel=local, tile=tile, add_to_out=add)

    wave = torch.fft.irfft(torch.complex(planes[:, :, 0].double(), planes[:, :, 1].double()), width, dim=2)
    gain = matrices.row_inverse.values[:, 0].double().mean() * width  # the constant's, and so every frequency's
    t = x[..., 64:].double() + wave * gain
    expected = (before.double() + t @ leave.double()).relu()
    written = slice(local, local + outputs)
    expected += start[..., written].double() if add else 0
    assert relative_error(out[..., written], expected) < 2e-3
    out[..., written] = start[..., written]
    assert torch.equal(out, start)


def test_a_map_with_a_border_gives_what_the_map_alone_gives() -> None:
    """Rows and images of the trunk's map may lie further apart than their pixels fill."""
    from lama.kernels.convolution import row_convolution
    from lama.kernels.fourier import add_inverse_rows, kernel_matrices, transform_rows
    from lama.kernels.spectral_path import enter_rows
    from lama.kernels.tiles import Tile
    from lama.kernels.upsampling import row_upsampling, upsample

    tile = Tile(16, 32, 32, 4, 2)
    matrices = kernel_matrices(dft_matrices(6, 16), DEVICE)
    weights = row_convolution(convolution(32, 32, 1), DEVICE)
    up = row_upsampling(convolution(32, 64, 3, transposed=True), DEVICE)
    results = []
    for border_px in (0, 1):
        bordered = half(2, 6 + 2 * border_px, 16 + 2 * border_px, 96) * 0 + 7
        x = bordered[:, border_px : border_px + 6, border_px : border_px + 16]
        x.copy_(half(2, 6, 16, 96))
        planes = torch.zeros(2, 2, 6, 2, 9, 32, dtype=torch.float16, device=DEVICE)
        enter_rows(x, weights, matrices, planes[0], from_channel=0, tile=tile)
        transform_rows(x, matrices, planes[1], tile=tile)
        add_inverse_rows(planes[0], matrices, x, tile=tile)
        out = poisoned(2, 12, 32, 32)
        upsample(x, up, out, tile=tile)
        results.append((planes, x.clone(), out))
        x.fill_(7)
        assert (bordered == 7).all()
    assert all(torch.equal(alone, within) for alone, within in zip(*results, strict=True))


def test_spectrum_tile_with_channels_of_both_parts() -> None:
    from lama.kernels.spectral_path import convolve_spectrum, convolve_spectrum_reference, spectrum_convolution
    from lama.kernels.tiles import Tile

    weights = spectrum_convolution(convolution(2 * 96, 2 * 96, 1), DEVICE)
    spectrum = half(2, 3, 2, 5, 96)
    out = poisoned(*spectrum.shape)
    expected = torch.empty(out.shape, dtype=torch.float64, device=DEVICE)
    convolve_spectrum_reference(spectrum.double(), weights, 0.5, expected)
    convolve_spectrum(spectrum, weights, 0.5, out, tile=Tile(16, 64, 32, 4, 2))
    assert relative_error(out, expected) < 1e-3


@pytest.mark.parametrize("width", [16, 32])
def test_fused_entry_of_the_spectral_path_equals_the_two_launches(width: int) -> None:
    from lama.kernels.convolution import convolve, row_convolution
    from lama.kernels.fourier import kernel_matrices, transform_rows
    from lama.kernels.spectral_path import enter_rows
    from lama.kernels.tiles import Tile

    batch, height, tile = 2, 3, Tile(16, 32, 32, 4, 2)
    matrices = kernel_matrices(dft_matrices(height, width), DEVICE)
    weights = row_convolution(convolution(96, 96, 1), DEVICE)
    x = half(batch, height, width, 32 + 96 + 96)
    apart = x.clone()
    planes = torch.zeros(batch, height, 2, width // 2 + 1, 96, dtype=torch.float16, device=DEVICE)
    planes_apart = planes.clone()
    enter_rows(x, weights, matrices, planes, from_channel=32, tile=tile)
    convolve(apart, weights, apart, tile=tile, from_channel=32, to_channel=128)
    transform_rows(apart, matrices, planes_apart, tile=tile)
    assert relative_error(x, apart) < 1e-3
    assert relative_error(planes, planes_apart) < 1e-3


def test_large_activations_stay_finite_in_kernels() -> None:
    """A bright constant map is the worst case of a spectrum: an orthonormal one would pass float16's range."""
    from lama.kernels.fourier import kernel_matrices, transform_columns, transform_rows
    from lama.kernels.tiles import Tile

    matrices = kernel_matrices(dft_matrices(24, 24), DEVICE)
    x = torch.full((1, 24, 24, 32), 30000.0, dtype=torch.float16, device=DEVICE)
    planes = torch.zeros(1, 24, 2, 13, 32, dtype=torch.float16, device=DEVICE)
    spectrum = poisoned(*planes.shape)
    transform_rows(x, matrices, planes, tile=Tile(32, 32, 32, 4, 2))
    transform_columns(planes, matrices, spectrum, tile=Tile(32, 32, 32, 4, 2))
    assert spectrum.isfinite().all()
    assert torch.finfo(torch.float16).max < 30000 * 24
