"""The first downsampling in one launch: operands and addresses without a card, the kernel on one."""

import math
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lama.fold_batchnorm import Convolution

pytest.importorskip("triton.experimental.gluon")

from lama.kernels import hopper_downsampling
from lama.kernels.convolution import convolve_reference, row_convolution
from lama.kernels.cuda_kernel import compiled
from lama.kernels.hopper_downsampling import SHARED_BYTES, HopperDownsampling, downsampling_weights, source
from tests.support.cuda_compiler import skip_without_compiler
from tests.support.emulated_card import emulated, skip_without_host_compiler

CPU = torch.device("cpu")
H200 = 132  # multiprocessors
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)


def random_convolution(outputs: int = 128, inputs: int = 64) -> Convolution:
    random = torch.Generator().manual_seed(inputs)
    weight = torch.randn(outputs, inputs, 3, 3, generator=random, dtype=torch.float64)
    return Convolution(weight * (9 * inputs) ** -0.5, torch.randn(outputs, generator=random).double())


def random_map(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, height, width, 64, generator=torch.Generator().manual_seed(height + width)).half()


def definition(x: Tensor, convolution: Convolution) -> Tensor:
    """In the type of `x`, with weights as the kernels have them."""
    batch, height, width, _ = x.shape
    out = torch.empty(batch, height // 2, width // 2, convolution.bias.numel(), dtype=x.dtype)
    convolve_reference(x, row_convolution(convolution, CPU, stride=2), out)
    return out


def largest_difference(actual: Tensor, expected: Tensor) -> float:
    """Of the largest number."""
    return ((actual.double() - expected).abs().max() / expected.abs().max()).item()


def test_operands_give_the_definition() -> None:
    """The kernel's sums, in float64, with the weights as the threads hold them and pixels by pair and phase."""
    convolution = random_convolution()
    x = random_map(2, 6, 10).double()
    batch, height, width, _ = x.shape
    stored = downsampling_weights(convolution.weight).double()
    assert stored.shape == (2, 36, 128, 8)
    weights = torch.full((2, 36, 64, 16), math.nan, dtype=torch.float64)
    for thread in range(128):
        warp, lane = thread // 32, thread % 32
        row, term = 16 * warp + lane // 4, 2 * (lane % 4)
        places = [(row, term), (row + 8, term), (row, term + 8), (row + 8, term + 8)]  # as wgmma's first operand
        for register, (r, k) in enumerate(places):
            weights[:, :, r, k : k + 2] = stored[:, :, thread, 2 * register : 2 * register + 2]
    even, odd = x[:, :, 0::2], x[:, :, 1::2]
    before = torch.cat([odd[:, :, :1], odd[:, :, :-1]], dim=2)
    rows = torch.arange(-1, height).abs()
    sums = torch.zeros(batch, height // 2, width // 2, 128, dtype=torch.float64)
    for step in range(36):
        dy, dx, chunk = step // 12, step // 4 % 3, step % 4
        pixels = (before, even, odd)[dx][:, rows[dy:][: height - 1 : 2], :, 16 * chunk : 16 * chunk + 16]
        sums += pixels @ weights[:, step].flatten(0, 1).t()
    actual = (sums + convolution.bias).relu()
    assert largest_difference(actual, definition(x, convolution)) < 1e-6  # the bias is float32 there


@pytest.mark.slow
def test_kernel_computes_the_definition_on_an_emulated_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's own text, its threads this machine's.

    Its single instructions do as the card's do, as late as they may, copies as early.
    """
    skip_without_host_compiler()
    convolution = random_convolution()
    card = emulated(tmp_path)
    monkeypatch.setattr(hopper_downsampling, "tensor_map", card.tensor_map)
    monkeypatch.setattr(hopper_downsampling, "loaded", lambda *_: card)
    form = HopperDownsampling(convolution, CPU)
    for shape, programs, channels in (
        ((1, 2, 128), 1, 128),  # one unit
        ((1, 14, 384), 2, 128),  # two runs that cross strips and use every slot again
        ((2, 6, 256), 5, 192),  # runs of several lengths, across images
        ((1, 2, 640), 2, 136),  # each unit in a strip of its own
        ((1, 4, 128), 5, 128),  # more programs than units
    ):
        x = random_map(*shape)
        batch, height, width = shape
        around = torch.full((batch * height // 2 + 2, width // 2, channels), math.nan, dtype=torch.float16)
        out = around[1:-1].view(batch, height // 2, width // 2, channels)
        form.downsample(x, out, programs=programs)
        assert around[[0, -1]].isnan().all() and out[..., 128:].isnan().all()
        assert largest_difference(out[..., :128], definition(x.double(), convolution)) < 1e-3


@pytest.mark.parametrize(
    ("shape", "programs", "taken"),
    [
        ((1, 1024, 1024, 64), H200, True),  # 4096 units: 31 or 32 each
        ((1, 512, 512, 64), H200, True),
        ((8, 512, 512, 64), H200, True),
        ((1, 256, 256, 64), H200, True),
        ((1, 128, 128, 64), H200, False),  # 64 units
        ((1, 768, 768, 64), H200, True),
        ((1, 1022, 1024, 64), H200, True),
        ((1, 1023, 1024, 64), H200, False),
        ((1, 1024, 960, 64), H200, False),  # strips of 64 outputs
        ((1, 1024, 1024, 32), H200, False),  # the included network
    ],
)
def test_maps_that_are_taken(
    shape: tuple[int, ...], programs: int, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hopper_downsampling, "multiprocessors", lambda _device: programs)
    assert HopperDownsampling(random_convolution(), CPU).takes(torch.empty(shape, device="meta")) == taken


@pytest.mark.slow
def test_kernel_compiles_and_fits(tmp_path: Path) -> None:
    """For a card that is not here, with all in registers, and without a wait after every product.

    Either would double the kernel's time, and the compiler says so only on request.
    """
    skip_without_compiler()
    assert SHARED_BYTES <= 227 * 1024
    code = compiled(source(), None)
    assert code.startswith(b"\x7fELF")
    (tmp_path / "kernel").write_bytes(code)
    usage, instructions = (_dumped(tmp_path / "kernel", what) for what in ("-res-usage", "-sass"))
    assert "STACK:0 " in usage and "LOCAL:0 " in usage
    assert instructions.count("HGMMA") == 4 * 36
    assert instructions.count("WARPGROUP.ARRIVE") == 4 and instructions.count("WARPGROUP.DEPBAR") == 5


def _dumped(kernel: Path, what: str) -> str:
    """What the program that comes with Triton says about a compiled kernel."""
    from triton import knobs

    tool = knobs.nvidia.cuobjdump.path
    return subprocess.run([tool, what, kernel], check=True, capture_output=True, text=True).stdout


def test_other_cards_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    form, obstacle = hopper_downsampling.hopper_downsampling(random_convolution(), CPU)
    assert form is None and "no Hopper card" in obstacle
    monkeypatch.setattr(hopper_downsampling, "why_not_card", lambda _device: "")
    monkeypatch.setattr(hopper_downsampling, "HopperDownsampling", lambda *_: (_ for _ in ()).throw(ImportError("no")))
    form, obstacle = hopper_downsampling.hopper_downsampling(random_convolution(), CPU)
    assert form is None and obstacle == "downsampling failed in a trial: ImportError: no"
    assert hopper_downsampling.hopper_downsampling(random_convolution(64, 32), CPU) == (None, "")


def test_a_wrong_kernel_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial, with the definition in the kernel's place, and with a fault in it."""
    convolution, fault, tried = random_convolution(), 0.0, []

    def downsample(_self: object, x: Tensor, out: Tensor, *, programs: int) -> None:
        tried.append(programs)
        out.copy_(definition(x.float(), convolution) * (1 + fault))

    monkeypatch.setattr(hopper_downsampling, "why_not_card", lambda _device: "")
    monkeypatch.setattr(HopperDownsampling, "downsample", downsample)
    form, obstacle = hopper_downsampling.hopper_downsampling(convolution, CPU)
    assert form is not None and obstacle == "" and tried == [hopper_downsampling.TRIAL_PROGRAMS]
    for share, said in ((0.01, "1e-02"), (math.nan, "inf")):
        fault = share
        form, obstacle = hopper_downsampling.hopper_downsampling(convolution, CPU)
        assert form is None and obstacle == f"downsampling differed by {said} in a trial"


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(
    "shape", [(1, 2, 128), (1, 74, 384), (2, 106, 256), (3, 2, 640), (1, 512, 512), (2, 1024, 128)]
)
@pytest.mark.parametrize("channels", [128, 192])
def test_kernel_computes_the_definition(channels: int, shape: tuple[int, int, int]) -> None:
    """Few units and many, several images, strips and lengths of runs; a race shows in one of several."""
    device = torch.device("cuda")
    convolution = random_convolution()
    form = HopperDownsampling(convolution, device)
    x = random_map(*shape)
    batch, height, width = shape
    expected = definition(x.double(), convolution)
    on_card, first = x.to(device), None
    for run in range(5):
        around = torch.full(
            (batch * height // 2 + 2, width // 2, channels), math.nan, dtype=torch.float16, device=device
        )
        out = around[1:-1].view(batch, height // 2, width // 2, channels)
        form.downsample(on_card, out, programs=None if run < 4 else 3)
        assert around[[0, -1]].isnan().all() and out[..., 128:].isnan().all()  # nothing was written beside it
        first = out[..., :128] if first is None else first
        assert torch.equal(out[..., :128], first)
    assert first is not None
    actual = first.cpu().double()
    assert (actual - expected).norm() < 1e-3 * expected.norm()
    assert largest_difference(actual, expected) < 2e-3


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("row", "column", "rows", "columns"),
    [
        (5, 8, (2, 4), (4, 5)),
        (1, 1, (0, 2), (0, 2)),  # reflected in both directions
        (0, 127, (0, 1), (63, 65)),  # the last of a strip, which the next one needs too
        (15, 255, (7, 8), (127, 128)),
    ],
)
def test_kernel_keeps_nan(row: int, column: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Nothing is hidden from the check for finite results, and it does not spread."""
    device = torch.device("cuda")
    form = HopperDownsampling(random_convolution(), device)
    x = random_map(1, 16, 256).to(device)
    x[0, row, column, 7] = math.nan
    out = torch.zeros(1, 8, 128, 128, dtype=torch.float16, device=device)
    form.downsample(x, out)
    expected = torch.zeros(8, 128, dtype=torch.bool, device=device)
    expected[slice(*rows), slice(*columns)] = True
    assert torch.equal(out[0].isnan(), expected[..., None].expand_as(out[0]))


@on_hopper
@pytest.mark.gpu
def test_kernel_is_captured_in_a_graph() -> None:
    device = torch.device("cuda")
    form, obstacle = hopper_downsampling.hopper_downsampling(random_convolution(), device)
    assert form is not None, obstacle
    x = random_map(1, 64, 256).to(device)
    out, again = (torch.zeros(1, 32, 128, 128, dtype=torch.float16, device=device) for _ in range(2))
    form.downsample(x, out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        form.downsample(x, again)
    assert not again.any()
    graph.replay()
    assert torch.equal(again, out)
