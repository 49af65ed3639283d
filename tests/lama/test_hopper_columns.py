"""The columns of the spectrum in one launch: operands and plans without a card, the kernel on one."""

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution, FFCLayer

pytest.importorskip("triton.experimental.gluon")

from lama.kernels import cuda_kernel, hopper_columns
from lama.kernels.cuda_kernel import compiled
from lama.kernels.fourier import KernelMatrices, kernel_matrices
from lama.kernels.hopper_columns import (
    GROUP_CHANNELS,
    PLANS,
    ColumnPlan,
    HopperColumns,
    column_matrices,
    column_weights,
    columns_reference,
    plan_for,
)
from lama.kernels.hopper_pieces import PIECE, swizzled
from lama.kernels.spectral_path import spectrum_convolution
from tests.support.cuda_compiler import skip_without_compiler

CPU = torch.device("cpu")
H200 = 132  # multiprocessors
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)


def random_convolution(channels: int) -> Convolution:
    random = torch.Generator().manual_seed(channels)
    weight = torch.randn(2 * channels, 2 * channels, 1, 1, generator=random, dtype=torch.float64)
    return Convolution(weight * (2 * channels) ** -0.5, torch.randn(2 * channels, generator=random).double())


def layer_of(spectrum: Convolution) -> FFCLayer:
    """A layer of which only the spectrum's convolution counts here."""
    return FFCLayer(local=spectrum, cross=spectrum, enter=spectrum, spectrum=spectrum, leave=spectrum.weight)


def random_planes(batch: int, height: int, frequencies: int, channels: int) -> Tensor:
    random = torch.Generator().manual_seed(height + frequencies)
    return torch.randn(batch, height, 2, frequencies, channels, generator=random).half()


def put_back(rows: Tensor) -> Tensor:
    """Undo the exchange of units, row by row."""
    plain = torch.empty_like(rows)
    for row in range(rows.shape[-2]):
        for unit in range(4):
            there = unit ^ (row >> 1 & 3)
            plain[..., row, 8 * unit : 8 * unit + 8] = rows[..., row, 8 * there : 8 * there + 8]
    return plain


@pytest.mark.parametrize(("numbers", "bits"), [(32, 3), (64, 7)])
def test_units_are_exchanged_as_the_copy_engine_does(numbers: int, bits: int) -> None:
    """Bits of an address: in rows of 64 bytes 4 and 5 with 7 and 8, in rows of 128 bytes 4 to 6 with 7 to 9."""
    rows = torch.arange(24 * numbers, dtype=torch.float16).view(24, numbers)
    memory = swizzled(rows).flatten()
    for n in range(24 * numbers):
        address = 2 * n
        assert memory[(address ^ (address >> 7 & bits) << 4) // 2] == n


def test_put_back_undoes_the_exchange() -> None:
    rows = torch.arange(16 * 32, dtype=torch.float16).view(16, 32)
    assert torch.equal(put_back(swizzled(rows)), rows)


@pytest.mark.parametrize(("height", "channels"), [(64, 96), (64, 192), (128, 96), (128, 192)])
def test_operands_give_the_definition(height: int, channels: int) -> None:
    """The kernel's sums, in float64, with what it is given: halves of transforms, and weights step by step."""
    convolution = spectrum_convolution(random_convolution(channels), CPU)
    matrices = kernel_matrices(dft_matrices(height, 4), CPU)
    planes = random_planes(2, height, 3, channels).double()
    half, stored = height // 2, put_back(column_matrices(height, CPU)).double()
    tables = stored.transpose(1, 2).flatten(2)  # (matrix, row, term)

    def transformed(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """(.., height, n) each: cos first + sin second, and cos second - sin first, by even and odd terms."""
        sums = []
        for parity in (0, 1):
            a, b = first[..., parity::2, :], second[..., parity::2, :]
            if height == 128:
                cosine, sine = tables[parity], tables[2 + parity]
                sums.append((cosine @ a + sine @ b, cosine @ b - sine @ a))
            else:
                both = tables[parity] @ torch.cat([a, b], dim=-2)
                sums.append((both[..., :half, :], both[..., half:, :]))
        even, odd = sums
        return tuple(torch.cat([e + o, e - o], dim=-2) for e, o in zip(even, odd, strict=True))  # type: ignore[return-value]

    by_column = planes.permute(0, 3, 2, 1, 4)  # (image, column, part, row, channel)
    real, imaginary = transformed(by_column[:, :, 0], by_column[:, :, 1])
    spectrum = torch.stack([real, imaginary], dim=2) * 2 / height
    weights = (
        put_back(column_weights(convolution)).double().view(channels // GROUP_CHANNELS, -1, 2, GROUP_CHANNELS, PIECE)
    )
    outputs = []
    for block in weights:
        total = torch.zeros(2, 3, height, 2, GROUP_CHANNELS, dtype=torch.float64)
        for step, terms in enumerate(block):  # groups of channels, then parts, then pieces
            group, part, piece = step // 6, step // 3 % 2, step % 3
            first = group * GROUP_CHANNELS + piece * PIECE
            total += torch.einsum("bkhc,poc->bkhpo", spectrum[:, :, part, :, first : first + PIECE], terms)
        outputs.append(total)
    shift = matrices.spectrum_gain * convolution.bias.double().view(2, channels)
    convolved = (torch.cat(outputs, dim=-1) + shift).relu()
    imaginary, real = transformed(convolved[..., 1, :], convolved[..., 0, :])
    actual = torch.stack([real, imaginary], dim=2).permute(0, 3, 2, 1, 4)

    expected = columns_reference(planes, convolution, matrices)
    assert torch.allclose(actual, expected, atol=2e-3)  # the cosines are float16 in both
    assert (actual - expected).norm() < 2e-4 * expected.norm()


def test_the_definition_is_a_fourier_transform() -> None:
    """Against PyTorch's own transform in float64."""
    height, channels = 64, 96
    convolution = spectrum_convolution(random_convolution(channels), CPU)
    matrices = kernel_matrices(dft_matrices(height, 8), CPU)
    planes = random_planes(1, height, 5, channels).double()
    spectrum = torch.fft.fft(torch.complex(planes[:, :, 0], planes[:, :, 1]), dim=1) * 2 / height
    rows = torch.cat([spectrum.real, spectrum.imag], dim=-1) @ convolution.weight.double()
    rows = (rows + matrices.spectrum_gain * convolution.bias.double()).relu()
    back = torch.fft.ifft(torch.complex(rows[..., :channels], rows[..., channels:]), dim=1) * height
    expected = torch.stack([back.real, back.imag], dim=2)
    actual = columns_reference(planes, convolution, matrices)
    assert (actual - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize(
    ("height", "channels", "columns", "programs", "outputs"),
    [
        (64, 192, 33, H200, 48),  # big-lama, 512x512
        (64, 192, 4 * 33, H200, 96),  # four of them
        (128, 192, 65, H200, 96),  # 1024x1024
        (64, 96, 33, H200, 24),  # the included network
        (64, 96, 8 * 33, H200, 96),
        (64, 192, 8 * 33, H200, None),  # more programs than multiprocessors
        (96, 192, 49, H200, None),  # 768x768: its half is no whole number of tiles
        (64, 48, 33, H200, None),
        (128, 192, 65, 114, None),  # a smaller H100
    ],
)
def test_plans(height: int, channels: int, columns: int, programs: int, outputs: int | None) -> None:
    plan = plan_for(height, channels, columns, programs)
    assert (None if plan is None else plan.outputs) == outputs


@pytest.mark.slow
@pytest.mark.parametrize("plan", [plan for plan, _ in PLANS], ids=str)
def test_plans_compile_and_fit(plan: ColumnPlan) -> None:
    """For a card that is not here; that the kernel counts its memory as the plan does, it asserts itself."""
    skip_without_compiler()
    assert plan.shared_bytes <= 227 * 1024
    assert compiled(plan.source, None).startswith(b"\x7fELF")


def test_compiled_kernels_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_compiler()
    from cuda.bindings import nvrtc

    source = 'extern "C" __global__ void set(int* out) { *out = 1; }'
    code = compiled(source, tmp_path / "new")
    monkeypatch.setattr(nvrtc, "nvrtcCreateProgram", lambda *_: pytest.fail("compiled again"))
    assert compiled(source, tmp_path / "new") == code
    monkeypatch.undo()
    (kept,) = (tmp_path / "new").iterdir()
    for damaged in (kept.read_bytes()[:-9], b"", b"x" * 40):  # of a disk that was full, say
        kept.write_bytes(damaged)
        assert compiled(source, tmp_path / "new") == code
    (tmp_path / "file").touch()
    assert compiled(source, tmp_path / "file" / "below") == code  # it can't be kept there


def test_a_refused_kernel_says_what_the_compiler_says(tmp_path: Path) -> None:
    skip_without_compiler()
    with pytest.raises(RuntimeError, match=r'identifier "nowhere" is undefined') as refused:
        compiled('extern "C" __global__ void set(int* out) { *out = nowhere; }', tmp_path)
    assert "NVRTC_ERROR_COMPILATION" in str(refused.value) and "\0" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_other_cards_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [layer_of(random_convolution(96))]
    form, obstacle = hopper_columns.hopper_columns(layers, CPU)
    assert form is None and "no Hopper card" in obstacle
    monkeypatch.setattr(hopper_columns, "why_not_card", lambda _device: "")
    monkeypatch.setattr(hopper_columns, "HopperColumns", lambda *_: (_ for _ in ()).throw(ImportError("no cuda")))
    form, obstacle = hopper_columns.hopper_columns(layers, CPU)
    assert form is None and obstacle == "columns failed in a trial: ImportError: no cuda"
    assert hopper_columns.hopper_columns([layer_of(random_convolution(48))], CPU) == (None, "")


def test_a_wrong_kernel_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, with the definition in the kernel's place, and with a fault in it."""
    layers = [layer_of(random_convolution(96))]
    fault, tried = 0.0, []

    def convolve(
        _self: object, _layer: int, planes: Tensor, matrices: KernelMatrices, out: Tensor, plan: ColumnPlan
    ) -> None:
        right = columns_reference(planes.float(), spectrum_convolution(layers[0].spectrum, CPU), matrices)
        tried.append(plan)
        out.copy_(right * (1 + fault * (plan.height == 128)))  # in one of the plans

    monkeypatch.setattr(hopper_columns, "why_not_card", lambda _device: "")
    monkeypatch.setattr(HopperColumns, "convolve", convolve)
    monkeypatch.setattr(hopper_columns, "multiprocessors", lambda _device: H200)
    form, obstacle = hopper_columns.hopper_columns(layers, CPU)
    assert form is not None and obstacle == ""
    assert tried == [plan for plan, _ in PLANS if plan.channels == 96]
    fault = 0.01
    form, obstacle = hopper_columns.hopper_columns(layers, CPU)
    assert form is None and obstacle == "columns differed by 1e-02 in a trial"


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(("batch", "frequencies"), [(1, 33), (3, 5), (2, 65)])
@pytest.mark.parametrize("plan", [plan for plan, _ in PLANS], ids=str)
def test_kernel_computes_the_definition(plan: ColumnPlan, batch: int, frequencies: int) -> None:
    """Several images, an odd number of columns, more programs than multiprocessors; a race shows in one of several."""
    device = torch.device("cuda")
    convolution = random_convolution(plan.channels)
    form = HopperColumns([layer_of(convolution)], device)
    matrices = kernel_matrices(dft_matrices(plan.height, 2 * frequencies - 2), CPU)
    planes = random_planes(batch, plan.height, frequencies, plan.channels)
    expected = columns_reference(planes.double(), spectrum_convolution(convolution, CPU), matrices)
    on_card, first = planes.to(device), None
    for _ in range(5):
        around = torch.full((batch + 2, *planes.shape[1:]), math.nan, dtype=torch.float16, device=device)
        out = around[1:-1]
        form.convolve(0, on_card, matrices, out, plan)
        assert around[[0, -1]].isnan().all()  # nothing was written beside it
        first = out if first is None else first
        assert torch.equal(out, first)
    assert first is not None
    actual = first.cpu().double()
    assert (actual - expected).norm() < 1e-3 * expected.norm()
    assert (actual - expected).abs().max() < 0.02 * expected.abs().max()


@on_hopper
@pytest.mark.gpu
def test_kernel_keeps_nan() -> None:
    """Nothing is hidden from the check for finite results."""
    plan = PLANS[1][0]
    device = torch.device("cuda")
    form = HopperColumns([layer_of(random_convolution(plan.channels))], device)
    planes = random_planes(1, plan.height, 3, plan.channels).to(device)
    planes[0, 5, 1, 2, 7] = math.nan
    out = torch.zeros_like(planes)
    form.convolve(0, planes, kernel_matrices(dft_matrices(plan.height, 4), CPU), out, plan)
    assert out[:, :, :, 2].isnan().all() and out[:, :, :, :2].isfinite().all()


def test_a_full_card_is_told_as_pytorch_tells_it() -> None:
    """So that a repair is made smaller, and not without the kernel from then on."""
    full = (SimpleNamespace(name="CUDA_ERROR_OUT_OF_MEMORY"),)
    with pytest.raises(torch.OutOfMemoryError, match="out of memory"):
        cuda_kernel._ask(full)
