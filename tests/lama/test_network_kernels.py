"""Every Triton kernel computes the PyTorch expression beside it; without a GPU, in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from lama.dft import dft_matrices
from lama.fast_generator import FastGenerator
from lama.fold_batchnorm import Convolution
from tests.support.networks import live_generator, masked_input

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(
    DEVICE.type == "cpu" and not INTERPRETED,
    reason="no CUDA device here: test_kernels_in_the_interpreter runs these in a child process",
)


@pytest.mark.skipif(INTERPRETED, reason="this is the child process")
def test_kernels_in_the_interpreter() -> None:
    """Triton chooses its interpreter when it is first imported, so it takes a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).half().to(DEVICE)


def convolution(outputs: int, inputs: int, kernel_px: int, *, transposed: bool = False) -> Convolution:
    random = torch.Generator().manual_seed(outputs + inputs)
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    weight = torch.randn(*shape, kernel_px, kernel_px, generator=random, dtype=torch.float64)
    scale = (inputs * kernel_px**2) ** -0.5
    return Convolution(weight * scale, torch.randn(outputs, generator=random, dtype=torch.float64))


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


def poisoned(*shape: int) -> torch.Tensor:
    """Memory in which an element that nobody writes shows."""
    return torch.full(shape, float("nan"), dtype=torch.float16, device=DEVICE)


@needs_triton
@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("more", [{}, {"split": 3}])
@pytest.mark.parametrize(("height", "width", "batch", "rows"), [(5, 7, 2, 32), (2, 2, 1, 32), (8, 16, 1, 16)])
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


@needs_triton
def test_a_split_sum_needs_memory() -> None:
    from lama.kernels.convolution import convolve, row_convolution
    from lama.kernels.tiles import Tile

    weights = row_convolution(convolution(64, 32, 3), DEVICE)
    with pytest.raises(ValueError, match="splits the sum"):
        convolve(half(1, 4, 4, 32), weights, poisoned(1, 4, 4, 64), tile=Tile(32, 32, 32, 4, 2, split=2))


@needs_triton
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


@needs_triton
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


@needs_triton
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


@needs_triton
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


@needs_triton
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


@needs_triton
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


@needs_triton
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


@needs_triton
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


@needs_triton
@pytest.mark.parametrize("capability", [(9, 0), (8, 9), (8, 0), (7, 5), (6, 1)])
def test_tiles_fit_the_shared_memory_of_every_card(
    capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lama.kernels import tiles

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    tiles.shared_bytes.cache_clear()
    device = torch.device("cuda")
    for kernel, choices in tiles.TILES.items():
        for rows, _ in choices:
            tile = tiles.tile_for(kernel, rows, columns=384, depth=192, device=device)
            assert tiles._bytes(kernel, tile) <= tiles.shared_bytes(device), (kernel, tile)
            assert 384 % tile.columns == 0 and 192 % tile.depth == 0
    tiles.shared_bytes.cache_clear()


@needs_triton
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


@needs_triton
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


@needs_triton
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


@needs_triton
@pytest.mark.parametrize("cross_beside", [True, False])
@pytest.mark.parametrize(("height", "width", "batch"), [(24, 16, 2), (16, 128, 2)])
def test_whole_network_in_kernels_matches_the_published_form(
    height: int, width: int, batch: int, cross_beside: bool
) -> None:
    from lama.triton_backend import TritonBackend

    generator = live_generator(blocks=2)
    fused = FastGenerator(generator, device=DEVICE, dtype=torch.float16, kernels="triton")
    assert isinstance(fused.backend, TritonBackend)
    fused.backend.cross_beside = cross_beside
    x = masked_input(height, width, batch=batch)
    with torch.no_grad():
        expected = generator.double()(x.double())
    difference = (fused(x.to(DEVICE)).cpu() - expected).abs()
    assert difference.max() < 4 / 255
    assert difference.mean() < 0.3 / 255


@needs_triton
@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # what is left out is read nevertheless
def test_sweeps_of_the_forward_leave_it_as_it_was() -> None:
    """`bench/tune_forward.py` swaps kernels and tiles under the network; none of that stays."""
    from bench import tune_forward
    from lama.kernels.tiles import TILES
    from lama.triton_backend import TritonBackend

    fused = FastGenerator(live_generator(blocks=1), device=DEVICE, dtype=torch.float16, kernels="triton")
    assert isinstance(fused.backend, TritonBackend)
    x, tiles = masked_input(16, 128).to(DEVICE), dict(TILES)
    first = fused(x)
    for name, change in tune_forward._changes(fused.backend, ["leave_rows"]):
        with change:
            if "Tile" in name:
                assert tiles != TILES, name
            elif "alone" in name:
                fused(x)
    assert tiles == TILES
    assert torch.equal(fused(x), first)


@needs_triton
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
