"""The spectral path's first launch on maps of 128 columns: operands and plans without a card, the kernel on one."""

import math

import pytest
import torch
from torch import Tensor

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution, FFCLayer

pytest.importorskip("triton.experimental.gluon")

from lama.kernels import hopper_rows
from lama.kernels.convolution import row_convolution
from lama.kernels.cuda_kernel import compiled
from lama.kernels.fourier import kernel_matrices
from lama.kernels.hopper_pieces import in_pieces
from lama.kernels.hopper_rows import PLANS, WIDTH, HopperRows, RowPlan, enter_reference
from tests.support.cuda_compiler import skip_without_compiler

CPU = torch.device("cpu")
H200 = 132  # multiprocessors
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)


def random_layer(width: int) -> FFCLayer:
    """A layer of a network of this width, of which the first 1x1 convolution of the spectral path counts."""
    random = torch.Generator().manual_seed(width)
    weight = torch.randn(3 * width, 6 * width, 1, 1, generator=random, dtype=torch.float64) * (6 * width) ** -0.5
    enter = Convolution(weight, torch.randn(3 * width, generator=random).double())
    return FFCLayer(local=enter, cross=enter, enter=enter, spectrum=enter, leave=enter.weight)


def random_numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).half()


def test_pieces_of_a_matrix() -> None:
    """Number (row, term) lies in piece term // 32, its unit of eight exchanged by the row."""
    matrix = torch.arange(16 * 64, dtype=torch.float16).view(16, 64)
    memory = in_pieces(matrix).flatten()
    for row in range(16):
        for term in range(64):
            unit = term % 32 // 8 ^ (row >> 1 & 3)
            assert memory[term // 32 * 16 * 32 + row * 32 + unit * 8 + term % 8] == matrix[row, term]


def test_the_definition_is_a_1x1_and_a_fourier_transform() -> None:
    """Against PyTorch's own transform in float64."""
    layer, width = random_layer(32), 16
    enter = row_convolution(layer.enter, CPU)
    x = random_numbers(2, 3, width, 6 * 32).double()
    state, planes = enter_reference(x, enter, kernel_matrices(dft_matrices(4, width), CPU))
    expected = (x @ layer.enter.weight.flatten(1).t() + layer.enter.bias).relu()
    assert (state - expected).norm() < 1e-3 * expected.norm()
    spectrum = torch.fft.rfft(state, dim=2) / width
    assert (planes - torch.stack([spectrum.real, spectrum.imag], dim=2)).norm() < 1e-3 * planes.norm()


def test_a_rows_transform_does_not_ask_for_the_height() -> None:
    """The kernel has one matrix for maps of every height."""
    rows = [kernel_matrices(dft_matrices(height, WIDTH), CPU).row.values for height in (2, 128)]
    assert torch.equal(*rows)


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ((1, 128, 128), True),
        ((1, 64, 64), False),
        ((2, 128, 128), False),  # more rows than multiprocessors
        ((1, 96, 128), True),
        ((1, 33, 128), True),
    ],
)
def test_maps_that_are_taken(shape: tuple[int, ...], taken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper_rows, "multiprocessors", lambda _device: H200)
    form = HopperRows([random_layer(64)], CPU)
    assert form.takes(torch.empty(*shape, 11 * 64, device="meta")) is taken


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_plans_compile_and_fit(plan: RowPlan) -> None:
    """For a card that is not here; that the kernel counts its memory as the plan does, it asserts itself."""
    skip_without_compiler()
    assert plan.shared_bytes <= 227 * 1024
    assert compiled(plan.source, None).startswith(b"\x7fELF")


def test_other_cards_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    form, obstacle = hopper_rows.hopper_rows([random_layer(32)], CPU)
    assert form is None and "no Hopper card" in obstacle
    monkeypatch.setattr(hopper_rows, "why_not_card", lambda _device: "")
    monkeypatch.setattr(hopper_rows, "HopperRows", lambda *_: (_ for _ in ()).throw(ImportError("no cuda")))
    form, obstacle = hopper_rows.hopper_rows([random_layer(32)], CPU)
    assert form is None and obstacle == "rows failed in a trial: ImportError: no cuda"
    assert hopper_rows.hopper_rows([random_layer(16)], CPU) == (None, "")


def test_a_wrong_kernel_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, with the definition in the kernel's place, and with a fault in one of its two results."""
    layers, fault = [random_layer(32)], {"state": 0.0, "planes": 0.0}
    enter = row_convolution(layers[0].enter, CPU)

    def definition(_self: object, _layer: int, x: Tensor, planes: Tensor, *, from_channel: int) -> None:
        inputs = x[..., from_channel : from_channel + enter.inputs].float()
        state, right = enter_reference(inputs, enter, kernel_matrices(dft_matrices(x.shape[1], WIDTH), CPU))
        x[..., -enter.outputs :] = (state * (1 + fault["state"])).half()
        planes.copy_(right * (1 + fault["planes"]))

    monkeypatch.setattr(hopper_rows, "why_not_card", lambda _device: "")
    monkeypatch.setattr(HopperRows, "enter", definition)
    monkeypatch.setattr(hopper_rows, "multiprocessors", lambda _device: H200)
    form, obstacle = hopper_rows.hopper_rows(layers, CPU)
    assert form is not None and obstacle == ""
    for result in fault:
        monkeypatch.setitem(fault, result, 0.01)
        form, obstacle = hopper_rows.hopper_rows(layers, CPU)
        assert form is None and obstacle == "rows differed by 1e-02 in a trial"
        monkeypatch.setitem(fault, result, 0.0)


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 3), (2, 64), (1, 128), (3, 128)], ids=str)
@pytest.mark.parametrize("width", [32, 64])
def test_kernel_computes_the_definition(width: int, shape: tuple[int, int]) -> None:
    """Several images, more programs than multiprocessors; a race shows in one of several runs."""
    device, (batch, height) = torch.device("cuda"), shape
    layer = random_layer(width)
    form, local, inputs, outputs = HopperRows([layer], device), 2 * width, 6 * width, 3 * width
    x = random_numbers(batch, height, WIDTH, local + inputs + outputs)
    matrices = kernel_matrices(dft_matrices(height, WIDTH), CPU)
    taken = x[..., local : local + inputs].double()
    state, expected = enter_reference(taken, row_convolution(layer.enter, CPU), matrices)
    for _ in range(5):
        around = torch.full((batch + 2, *expected.shape[1:]), math.nan, dtype=torch.float16, device=device)
        there, planes = x.to(device), around[1:-1]
        there[..., -outputs:] = math.nan
        form.enter(0, there, planes, from_channel=local)
        assert torch.equal(there[..., :-outputs].cpu(), x[..., :-outputs])
        actual = there[..., -outputs:].cpu().double()
        assert (actual - state).norm() < 1e-3 * state.norm()
        assert planes[:, :, 1, [0, -1]].isnan().all()  # always 0 and never written
        assert around[[0, -1]].isnan().all()
        assert (planes.cpu().double().nan_to_num(nan=0) - expected).norm() < 2e-3 * expected.norm()


@on_hopper
@pytest.mark.gpu
def test_kernel_keeps_nan() -> None:
    """Nothing is hidden from the check for finite results."""
    device = torch.device("cuda")
    form = HopperRows([random_layer(32)], device)
    x = random_numbers(1, 2, WIDTH, 64 + 192 + 96).to(device)
    x[0, 1, 77, 70] = math.nan
    planes = torch.zeros(1, 2, 2, WIDTH // 2 + 1, 96, dtype=torch.float16, device=device)
    form.enter(0, x, planes, from_channel=64)
    assert x[0, 1, 77, -96:].isnan().all() and x[0, 0, :, -96:].isfinite().all()
    assert planes[0, 1, 0].isnan().all() and planes[0, 0].isfinite().all()
