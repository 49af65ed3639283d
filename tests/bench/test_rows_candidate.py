"""The spectral path's first and last launch for small maps: operands and plans without a card, the kernels on one."""

import math

import pytest
import torch
from torch import Tensor

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution, FFCLayer

pytest.importorskip("triton.experimental.gluon")

from bench import rows_candidate
from bench.rows_candidate import (
    ENTER_PLANS,
    LEAVE_PLANS,
    EnterPlan,
    HopperRows,
    LeavePlan,
    enter_reference,
    leave_reference,
)
from lama.kernels.convolution import row_convolution
from lama.kernels.cuda_kernel import compiled
from lama.kernels.fourier import kernel_matrices
from lama.kernels.hopper_pieces import in_pieces
from tests.support.cuda_compiler import skip_without_compiler

CPU = torch.device("cpu")
H200 = 132  # multiprocessors
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)


def random_layer(width: int) -> FFCLayer:
    """A layer of a network of this width, of which the first and last 1x1 convolution of the spectral path count."""
    random = torch.Generator().manual_seed(width)

    def convolution(outputs: int, inputs: int) -> Convolution:
        weight = torch.randn(outputs, inputs, 1, 1, generator=random, dtype=torch.float64) * inputs**-0.5
        return Convolution(weight, torch.randn(outputs, generator=random).double())

    enter, leave = convolution(3 * width, 6 * width), convolution(6 * width, 3 * width)
    return FFCLayer(local=enter, cross=enter, enter=enter, spectrum=enter, leave=leave.weight)


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


def test_the_definition_of_the_first_launch() -> None:
    """Against PyTorch's own transform in float64."""
    layer, width = random_layer(32), 16
    enter = row_convolution(layer.enter, CPU)
    x = random_numbers(2, 3, width, 6 * 32).double()
    state, planes = enter_reference(x, enter, kernel_matrices(dft_matrices(4, width), CPU))
    expected = (x @ layer.enter.weight.flatten(1).t() + layer.enter.bias).relu()
    assert (state - expected).norm() < 1e-3 * expected.norm()
    spectrum = torch.fft.rfft(state, dim=2) / width
    assert (planes - torch.stack([spectrum.real, spectrum.imag], dim=2)).norm() < 1e-3 * planes.norm()


def test_the_definition_of_the_last_launch() -> None:
    """What PyTorch transforms is t again, or half of it, since the column transforms between would double it."""
    layer, width, height = random_layer(32), 16, 4
    matrices = kernel_matrices(dft_matrices(height, width), CPU)
    leave = layer.leave.flatten(1).t()
    x, before = random_numbers(1, height, width, 100).double(), random_numbers(1, height, width, 192).double()
    state = x[..., -96:]
    spectrum = torch.fft.rfft(state, dim=2)
    planes = torch.stack([spectrum.real, spectrum.imag], dim=2) / width
    actual = leave_reference(planes, x, leave, before, matrices)
    expected = (before + (state + state / 2) @ leave).relu()
    assert (actual - expected).norm() < 2e-3 * expected.norm()


@pytest.mark.parametrize(
    ("width", "shape", "entered", "left"),
    [
        (64, (1, 64, 64), 48, 96),  # big-lama, 512x512
        (64, (2, 64, 64), None, None),  # more programs than multiprocessors
        (64, (1, 128, 128), 192, None),
        (32, (1, 64, 64), 24, 48),  # the included network
        (32, (1, 128, 128), 96, None),
        (32, (1, 32, 32), None, None),
        (64, (1, 32, 64), 48, 96),  # wide
    ],
)
def test_plans(
    width: int, shape: tuple[int, ...], entered: int | None, left: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_candidate, "multiprocessors", lambda _device: H200)
    form = HopperRows([random_layer(width)], CPU)
    x = torch.empty(*shape, 11 * width, device="meta")
    plans = (form.enter_plan(x), form.leave_plan(x))
    assert [None if plan is None else plan.outputs for plan in plans] == [entered, left]


@pytest.mark.slow
@pytest.mark.parametrize("plan", [*ENTER_PLANS, *LEAVE_PLANS], ids=str)
def test_plans_compile_and_fit(plan: EnterPlan | LeavePlan) -> None:
    """For a card that is not here; that the kernels count their memory as the plans do, they assert themselves."""
    skip_without_compiler()
    assert plan.shared_bytes <= 227 * 1024
    assert compiled(plan.source, None).startswith(b"\x7fELF")


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 3), (2, 64), (1, 128)], ids=str)
@pytest.mark.parametrize("plan", ENTER_PLANS, ids=str)
def test_kernel_computes_the_first_launch(plan: EnterPlan, shape: tuple[int, int]) -> None:
    """Several images, more programs than multiprocessors; a race shows in one of several runs."""
    device, (batch, height) = torch.device("cuda"), shape
    layer = random_layer(plan.inputs // 6)
    form, local = HopperRows([layer], device), 2 * plan.inputs // 6
    matrices = [kernel_matrices(dft_matrices(height, plan.width), where) for where in (CPU, device)]
    x = random_numbers(batch, height, plan.width, local + plan.inputs + plan.channels)
    inputs = x[..., local : local + plan.inputs].double()
    state, expected = enter_reference(inputs, row_convolution(layer.enter, CPU), matrices[0])
    for _ in range(5):
        there, planes = x.to(device), torch.full(expected.shape, math.nan, dtype=torch.float16, device=device)
        there[..., -plan.channels :] = math.nan
        form.enter(0, there, matrices[1], planes, plan, from_channel=local)
        assert torch.equal(there[..., : -plan.channels].cpu(), x[..., : -plan.channels])
        actual = there[..., -plan.channels :].cpu().double()
        assert (actual - state).norm() < 1e-3 * state.norm()
        gaps = planes[:, :, 1, [0, -1]]  # always 0 and never written
        assert gaps.isnan().all()
        assert (planes.cpu().double().nan_to_num(nan=0) - expected).norm() < 2e-3 * expected.norm()


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("shape", [(1, 3), (2, 64)], ids=str)
@pytest.mark.parametrize("plan", LEAVE_PLANS, ids=str)
def test_kernel_computes_the_last_launch(plan: LeavePlan, shape: tuple[int, int], add: bool) -> None:
    device, (batch, height) = torch.device("cuda"), shape
    layer, width = random_layer(plan.channels // 3), plan.width
    form, local = HopperRows([layer], device), 2 * plan.channels // 3
    matrices = [kernel_matrices(dft_matrices(height, width), where) for where in (CPU, device)]
    x = random_numbers(batch, height, width, 40 + plan.channels)
    planes = random_numbers(batch, height, 2, width // 2 + 1, plan.channels)
    planes[:, :, 1, [0, -1]] = math.nan  # not looked at
    before, old = random_numbers(batch, height, width, plan.all_outputs), random_numbers(batch, height, width, 704)
    weight = layer.leave.flatten(1).t().half()
    expected = leave_reference(planes.double(), x.double(), weight, before.double(), matrices[0])
    target = slice(local, local + plan.all_outputs)
    expected = expected + old[..., target].double() if add else expected
    for _ in range(5):
        out = old.to(device)
        sources = (planes.to(device), x.to(device), before.to(device))
        form.leave(0, *sources, matrices[1], out, plan, to_channel=local, add_to_out=add)
        assert (out[..., target].cpu().double() - expected).norm() < 2e-3 * expected.norm()
        assert torch.equal(out[..., :local].cpu(), old[..., :local])
        assert torch.equal(out[..., target.stop :].cpu(), old[..., target.stop :])
