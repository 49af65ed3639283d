"""The way out of one layer's spectral path and into the next one's in one launch; without a GPU, interpreted."""

import os
import subprocess
import sys

import pytest
import torch
from networks import live_generator, masked_input

from lama.dft import dft_matrices
from lama.fold import Convolution
from lama.fused import FusedGenerator

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(
    DEVICE.type == "cpu" and not INTERPRETED,
    reason="no CUDA device here: test_joined_layers_in_the_interpreter runs these in a child process",
)


@pytest.mark.skipif(INTERPRETED, reason="this is the child process")
def test_joined_layers_in_the_interpreter() -> None:
    """Triton chooses its interpreter when it is first imported, so it takes a process of its own."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    child = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout + child.stderr


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=random).half().to(DEVICE)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    actual, expected = actual.double(), expected.double()
    return ((actual - expected).norm() / expected.norm()).item()


@needs_triton
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "third", "columns"),
    [(3, 16, 32, 64), (2, 32, 32, 32), (2, 64, 32, 64), (2, 16, 64, 128), (3, 16, 16, 32)],
)
def test_out_of_one_layer_and_into_the_next(height: int, width: int, third: int, columns: int, add: bool) -> None:
    """Against both layers' 1x1 as plain products and row transforms by torch.fft, in float64."""
    from lama.kernels.convolution import row_convolution
    from lama.kernels.fourier import kernel_matrices
    from lama.kernels.layer_seam import leave_and_enter_rows
    from lama.kernels.tiles import Tile

    batch, local, channels, outputs, frequencies = 2, 32, 3 * third, 6 * third, width // 2 + 1
    matrices = kernel_matrices(dft_matrices(height, width), DEVICE)
    planes = half(batch, height, 2, frequencies, channels)
    planes[:, :, 1, [0, -1]] = 0  # imaginary parts that a row of real numbers has not
    x = half(batch, height, width, 8 + channels, seed=1)
    leave, before = half(channels, outputs, seed=2) / 10, half(batch, height, width, outputs, seed=3)
    out = half(batch, height, width, local + outputs + channels, seed=4)
    random = torch.Generator().manual_seed(5)
    weight = torch.randn(channels, outputs, generator=random, dtype=torch.float64) / outputs**0.5
    bias = torch.randn(channels, generator=random, dtype=torch.float64)
    enter = row_convolution(Convolution(weight[:, :, None, None], bias), DEVICE)
    read = [planes.clone(), x.clone(), before.clone()]
    start, next_planes = out.clone(), torch.full_like(planes, 7)
    leave_and_enter_rows(
        planes,
        x,
        leave,
        before,
        matrices,
        out,
        enter,
        next_planes,
        to_channel=local,
        tile=Tile(width, columns, third, 4, 2),
        add_to_out=add,
    )

    wave = torch.fft.irfft(torch.complex(planes[:, :, 0].double(), planes[:, :, 1].double()), width, dim=2)
    gain = matrices.row_inverse.values[:, 0].double().mean() * width  # the constant's, and so every frequency's
    features = (before.double() + (x[..., 8:].double() + wave * gain) @ leave.double()).relu()
    features += start[..., local : local + outputs].double() if add else 0
    t = (features @ weight.half().double().t().to(DEVICE) + bias.to(DEVICE)).relu()
    spectrum = torch.fft.rfft(t, dim=2) * matrices.row.values[0, :width].double().mean()
    expected = torch.stack([spectrum.real, spectrum.imag], dim=2)
    expected[:, :, 1, [0, -1]] = 7  # always 0, and so not written
    assert relative_error(out[..., local : local + outputs], features) < 2e-3
    assert relative_error(out[..., local + outputs :], t) < 2e-3
    assert relative_error(next_planes, expected) < 2e-3
    assert torch.equal(out[..., :local], start[..., :local])
    assert all(torch.equal(now, then) for now, then in zip((planes, x, before), read, strict=True))


@needs_triton
@pytest.mark.parametrize("add", [False, True])
def test_one_launch_is_the_two_it_stands_for(add: bool) -> None:
    from lama.kernels.convolution import row_convolution
    from lama.kernels.fourier import kernel_matrices
    from lama.kernels.layer_seam import leave_and_enter_rows
    from lama.kernels.spectral_path import enter_rows, leave_rows
    from lama.kernels.tiles import Tile

    batch, height, width, local, channels, outputs = 2, 3, 32, 32, 96, 192
    matrices = kernel_matrices(dft_matrices(height, width), DEVICE)
    planes, x = half(batch, height, 2, width // 2 + 1, channels), half(batch, height, width, 320, seed=1)
    leave, before = half(channels, outputs, seed=2) / 10, half(batch, height, width, outputs, seed=3)
    weight = half(channels, outputs, 1, 1, seed=5).double() / 10
    enter = row_convolution(Convolution(weight, half(channels, seed=6).double()), DEVICE)
    joined, apart = half(batch, height, width, 320, seed=4), half(batch, height, width, 320, seed=4)
    joined_planes, apart_planes = torch.zeros_like(planes), torch.zeros_like(planes)
    tile = Tile(width, 32, 32, 4, 3)
    leave_and_enter_rows(
        planes, x, leave, before, matrices, joined, enter, joined_planes, to_channel=local, tile=tile, add_to_out=add
    )
    leave_rows(planes, x, leave, before, matrices, apart, to_channel=local, tile=tile, add_to_out=add)
    enter_rows(apart, enter, matrices, apart_planes, from_channel=local, tile=tile)
    assert relative_error(joined, apart) < 1e-4
    assert relative_error(joined_planes, apart_planes) < 1e-4


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[str]:
    """Return a list that grows with every call of a kernel by `triton_form`."""
    from lama import triton_form

    calls: list[str] = []
    kernel = getattr(triton_form, name)

    def counted(*arguments: object, **options: object) -> None:
        calls.append(name)
        kernel(*arguments, **options)

    monkeypatch.setattr(triton_form, name, counted)
    return calls


@needs_triton
def test_joined_layers_compute_what_separate_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """What both are against the published network, `test_kernels` looks at."""
    from lama.triton_form import TritonForm

    fused = FusedGenerator(live_generator(blocks=2), device=DEVICE, dtype=torch.float16, kernels="triton")
    assert isinstance(fused.form, TritonForm)
    seams = count_calls(monkeypatch, "leave_and_enter_rows")
    ways_in, ways_out = count_calls(monkeypatch, "enter_rows"), count_calls(monkeypatch, "leave_rows")
    x = masked_input(16, 128, batch=2).to(DEVICE)
    joined = fused(x)
    assert (len(seams), len(ways_in), len(ways_out)) == (3, 1, 1)
    fused.form.leave_and_enter = False
    assert (fused(x) - joined).abs().max() < 0.1 / 255
    assert (len(seams), len(ways_in), len(ways_out)) == (3, 5, 5)


@needs_triton
@pytest.mark.parametrize(("joined_widths", "fuse_enter"), [((32, 64), True), ((16,), False)])
def test_where_layers_cannot_be_joined_they_run_apart(
    joined_widths: tuple[int, ...], fuse_enter: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At widths that one program does not hold, here 16, and where the way in is not one launch."""
    from lama.kernels import spectral_path
    from lama.triton_form import TritonForm

    fused = FusedGenerator(live_generator(blocks=1), device=DEVICE, dtype=torch.float16, kernels="triton")
    assert isinstance(fused.form, TritonForm)
    fused.form.fuse_enter = fuse_enter
    monkeypatch.setattr(spectral_path, "JOINED_WIDTHS", joined_widths)
    seams, ways_out = count_calls(monkeypatch, "leave_and_enter_rows"), count_calls(monkeypatch, "leave_rows")
    assert fused(masked_input(16, 128).to(DEVICE)).isfinite().all()
    assert (len(seams), len(ways_out)) == (0, 2)


@needs_triton
@pytest.mark.parametrize(
    ("width", "channels", "joins"),
    [(64, 192, True), (16, 96, True), (64, 15, False), (64, 72, False), (128, 192, False), (40, 192, False)],
)
def test_layers_are_joined_at_sizes_that_fit_a_program(width: int, channels: int, joins: bool) -> None:
    from lama.kernels.spectral_path import joins_layers

    assert joins_layers(width, channels) is joins
