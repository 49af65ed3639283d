"""The Hopper kernels compute the plain convolutions; their layouts are checked without a card."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution, FFCLayer

pytest.importorskip("triton.experimental.gluon")

import triton

from lama.kernels import hopper_path
from lama.kernels.convolution import convolve_reference, row_convolution
from lama.kernels.fourier import kernel_matrices
from lama.kernels.fp8 import FP8, layer_in_fp8, rounded, scales
from lama.kernels.hopper_card import COLUMNS, DEPTH, OUTPUTS, ROWS, keeps_at_work, why_not_gluon
from lama.kernels.hopper_decoder import STEPS, HopperUpsampling, hopper_upsamplings
from lama.kernels.hopper_path import enter_strips, has_entry
from lama.kernels.hopper_trunk import (
    DEPTH8,
    HopperTrunk,
    hopper_trunk,
    local_slots,
    side_columns,
    stepped_convolution,
    why_not_fp8,
    why_not_hopper,
)
from lama.kernels.upsampling import row_upsampling, upsample_reference

CPU = torch.device("cpu")
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper card"
)


def random_layer(width: int) -> FFCLayer:
    """A layer of a network of this width: 8 width channels, a quarter of them local, 3 width in the spectral path."""
    channels, local, inner = 8 * width, 2 * width, 3 * width
    return FFCLayer(
        local=random_convolution(local, channels, 3),
        cross=random_convolution(channels - local, local, 3),
        enter=random_convolution(inner, channels - local, 1),
        spectrum=random_convolution(2 * inner, 2 * inner, 1),
        leave=random_convolution(channels - local, inner, 1).weight,
    )


def random_convolution(outputs: int, inputs: int, kernel_px: int) -> Convolution:
    random = torch.Generator().manual_seed(outputs + inputs)
    weight = torch.randn(outputs, inputs, kernel_px, kernel_px, generator=random, dtype=torch.float64)
    bias = torch.randn(outputs, generator=random, dtype=torch.float64)
    return Convolution(weight * (inputs * kernel_px**2) ** -0.5, bias)


def random_upsampling(inputs: int, outputs: int) -> Convolution:
    random = torch.Generator().manual_seed(inputs + outputs)
    weight = torch.randn(inputs, outputs, 3, 3, generator=random, dtype=torch.float64)
    bias = torch.randn(outputs, generator=random, dtype=torch.float64)
    return Convolution(weight * (inputs * 9 / 4) ** -0.5, bias)


def skip_where_gluon_cannot() -> None:
    """Skip with Triton 3.8, for which there are no such kernels; with any other one an obstacle is a fault."""
    obstacle = why_not_gluon()
    if triton.__version__.startswith("3.8."):
        pytest.skip(obstacle)
    assert obstacle == ""


def mirrored(i: int, n: int) -> int:
    i = abs(i)
    return 2 * n - 2 - i if i >= n else i


@pytest.mark.parametrize("width", [8, 24])
def test_side_columns_are_shifted_tiles(width: int) -> None:
    x = torch.randn(2, 3, width, 5)
    side = side_columns(x, 4)
    for column in range(COLUMNS):
        assert torch.equal(side[:, :, column], x[:, :, mirrored(column - 1, width), :4])
        assert torch.equal(side[:, :, COLUMNS + column], x[:, :, mirrored(width - 7 + column, width), :4])


@pytest.mark.parametrize("fp8", [False, True])
def test_weights_and_side_columns_give_the_convolution(fp8: bool) -> None:
    """The kernels' sum, step by step, in float64: every tile of a map of two by two tiles."""
    height, width, tail = 2 * ROWS, 2 * COLUMNS, DEPTH
    layer = random_layer(32)
    layer = replace(layer, leave=layer.leave[:, :tail])
    weights = stepped_convolution(layer.cross, CPU, tail=layer.leave, fp8=fp8)
    outputs, inputs, depth = weights.outputs, layer.cross.weight.shape[1], DEPTH8 if fp8 else DEPTH
    x = torch.randn(1, height, width, inputs + tail).half().double()
    side = side_columns(x, inputs)
    expected = torch.empty(1, height, width, outputs, dtype=torch.float64)
    if fp8:
        layer = layer_in_fp8(layer)
    rows = row_convolution(layer.cross, CPU, tail=layer.leave)
    convolve_reference(x, rows, expected, tail_channel=inputs)

    words = 3 * weights.steps * outputs
    taps, last = weights.weight[:words], weights.weight[words:].double()
    assert weights.steps == 3 * inputs // depth and last.shape == (outputs * tail // DEPTH, DEPTH)
    taps = (taps.view(FP8) if fp8 else taps).double().view(-1, 3, outputs, depth)
    scale = weights.scale.double() if fp8 else 1.0
    for y0 in range(0, height, ROWS):
        ys = [mirrored(y, height) for y in range(y0 - 1, y0 + ROWS + 1)]
        for x0 in range(0, width, COLUMNS):
            total = x[0, y0 : y0 + ROWS, x0 : x0 + COLUMNS, inputs:] @ last.T
            for step, tap_rows in enumerate(taps):
                dx, chunk = step % 3 - 1, slice(step // 3 * depth, (step // 3 + 1) * depth)
                source, first = x, x0 + dx
                if first < 0 or first + COLUMNS > width:
                    source, first = side, 0 if first < 0 else COLUMNS
                seen = source[0, ys, first : first + COLUMNS, chunk]
                for tap, tap_weights in enumerate(tap_rows):
                    total = total + seen[tap : tap + ROWS] @ tap_weights.T
            finished = (total * scale + weights.bias.double()).relu()
            right = expected[0, y0 : y0 + ROWS, x0 : x0 + COLUMNS]
            # A tail divided by another number is rounded to float16 elsewhere.
            assert torch.allclose(finished, right, atol=5e-3 if fp8 else 1e-8)


def test_weights_in_fp8_use_its_range_and_leave_float16_its_own() -> None:
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 64, 3, 3, generator=random, dtype=torch.float64)
    weight[1] = 0
    tail = torch.randn(3, 32, 1, 1, generator=random, dtype=torch.float64)
    scale = scales(weight, None)
    assert (weight / scale.view(-1, 1, 1, 1)).abs().amax((1, 2, 3)).tolist() == pytest.approx([448, 0, 448])
    for factor in (1.0, 1e6):  # as large as a tail beside next to no weights
        divided = (factor * tail) / scales(weight, factor * tail).view(-1, 1, 1, 1)
        assert divided.half().isfinite().all()
    step = 2.0**-4  # half of the distance between two numbers of 3 bits, beside the smaller one
    error = (layer_in_fp8(with_cross(weight, tail)).cross.weight - weight).abs()
    assert (error <= step * weight.abs() + 2.0**-10 * scale.view(-1, 1, 1, 1)).all()
    assert error.max() > 0


def with_cross(weight: torch.Tensor, tail: torch.Tensor) -> FFCLayer:
    """A layer with these weights of its cross convolution and of its tail."""
    layer = random_layer(32)
    return replace(layer, cross=replace(layer.cross, weight=weight), leave=tail)


def test_what_is_beyond_fp8_is_no_number() -> None:
    x = torch.tensor([0.0, 1.0, -1.0625, 448.0, 2.0**-10 * 1.01, 449.0, -60000.0, math.inf, math.nan])
    assert rounded(x)[:5].float().tolist() == [0.0, 1.0, -1.0, 448.0, 2.0**-9]
    assert rounded(x)[5:].float().isnan().all()


def test_steps_of_an_upsampling_give_the_transposed_convolution() -> None:
    """The kernel's sum, step by step, in float64, with zeros beyond the right and the lower border."""
    height, width, inputs, outputs = 5, 6, 2 * DEPTH, OUTPUTS
    convolution = random_upsampling(inputs, outputs)
    form = HopperUpsampling(convolution, CPU)
    x = torch.randn(1, height, width, inputs + 3).half().double()
    expected = torch.empty(1, 2 * height, 2 * width, outputs, dtype=torch.float64)
    upsample_reference(x, row_upsampling(convolution, CPU), expected)

    seen = torch.nn.functional.pad(x[..., :inputs], (0, 0, 0, 1, 0, 1))
    weights = iter(form.weight.double().view(-1, 3, outputs, DEPTH))
    for odd_column, steps in ((1, STEPS[0]), (0, STEPS[1])):
        odd, even = (form.bias.double().expand(1, height, width, outputs) for _ in range(2))
        for chunk in seen.split(DEPTH, dim=3):
            for dx in range(len(steps)):
                pixels = chunk[:, :, dx : dx + width]
                here, below, of_even = next(weights)
                odd = odd + pixels[:, :height] @ here.T + pixels[:, 1:] @ below.T
                even = even + pixels[:, :height] @ of_even.T
        assert torch.allclose(odd.relu(), expected[:, 1::2, odd_column::2])
        assert torch.allclose(even.relu(), expected[:, 0::2, odd_column::2])
    assert next(weights, None) is None


def test_says_why_not_on_other_devices() -> None:
    layer = random_layer(32)
    assert "no Hopper card" in why_not_hopper(layer, CPU)
    trunk, obstacle = hopper_trunk([layer], CPU)
    assert trunk is None and "no Hopper card" in obstacle
    forms, obstacle = hopper_upsamplings([random_upsampling(64, 64)], CPU)
    assert forms == [None] and "no Hopper card" in obstacle


@pytest.mark.parametrize(
    ("memory", "copies", "obstacle"),
    [
        (["_reinterpret"], [], ""),
        (["_reinterpret"], ["async_load"], "does not look at shared memory in the shapes needed"),
        (["reinterpret"], ["async_load"], ""),
        ([], ["async_load"], "does not look at shared memory in the shapes needed"),
    ],
    ids=["3.6 and 3.7", "3.8", "3.9", "another"],
)
def test_only_a_gluon_that_cuts_memory_as_needed_is_used(
    memory: list[str], copies: list[str], obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3.8 has one name of before and one of afterwards, and ends the process on what the others compile."""
    from triton.experimental.gluon import language
    from triton.experimental.gluon.language.nvidia.hopper import tma

    monkeypatch.setattr(language, "shared_memory_descriptor", SimpleNamespace(**dict.fromkeys(memory)))
    monkeypatch.delattr(tma, "async_load", raising=False)
    for name in copies:
        monkeypatch.setattr(tma, name, None, raising=False)
    said = why_not_gluon()
    assert said.endswith(obstacle) and bool(said) is bool(obstacle)


def test_says_why_not_in_fp8() -> None:
    assert why_not_fp8(random_layer(32)) == ""
    assert why_not_fp8(random_layer(48)) == "FP8: sums over 384, 96 channels are no multiples of 64"


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize(
    ("width", "batch", "height", "columns"), [(64, 2, 64, 32), (64, 1, 128, 128), (32, 3, 32, 8), (32, 1, 96, 96)]
)
def test_convolutions_of_a_layer(width: int, batch: int, height: int, columns: int, add: bool, fp8: bool) -> None:
    device = torch.device("cuda")
    layer = random_layer(width)
    skip_where_gluon_cannot()
    channels, local, tail = 8 * width, 2 * width, 3 * width
    trunk = HopperTrunk([layer], device, fp8=fp8)
    x = torch.randn(batch, height, columns, channels + tail, device=device).half()
    source = trunk.sided(x, filled=True)
    out = torch.randn(batch, height, columns, channels + tail, device=device).half()
    expected, seen = out.double(), x.double()
    if fp8:
        layer, seen[..., :channels] = layer_in_fp8(layer), x[..., :channels].to(FP8).double()
    local_rows = row_convolution(layer.local, device)
    cross_rows = row_convolution(layer.cross, device, tail=layer.leave)
    convolve_reference(seen, local_rows, expected, add_to_out=add)
    convolve_reference(seen, cross_rows, expected, tail_channel=channels, to_channel=local, add_to_out=add)
    if not add:
        out[..., :channels] = math.nan
    target = trunk.sided(out, filled=False)
    target.side.fill_(math.nan)
    trunk.convolve_local(0, source, target, add=add)
    trunk.convolve_cross(0, source, target, add=add)
    # A Hopper card adds products in FP8 with fewer bits than float32 has.
    assert ((out.double() - expected).norm() / expected.norm()).item() < (2e-3 if fp8 else 1e-3)
    assert torch.equal(out[..., channels:], expected[..., channels:].half())
    given = out[..., :channels].to(FP8) if fp8 else out
    assert torch.equal(target.factors.float(), given.float())
    assert torch.equal(target.side.float(), side_columns(given, channels).float())


@on_hopper
@pytest.mark.gpu
def test_a_number_beyond_fp8_is_seen_in_what_is_made_of_it() -> None:
    """The largest number in its place would give a wrong prediction, and nothing would tell."""
    skip_where_gluon_cannot()
    device, layer = torch.device("cuda"), random_layer(32)
    bias = layer.local.bias.clone()
    bias[3] = 500.0
    trunk = HopperTrunk([replace(layer, local=replace(layer.local, bias=bias))], device, fp8=True)
    x = torch.randn(1, 64, 64, 8 * 32 + 3 * 32, device=device).half()
    source, middle, last = trunk.sided(x, filled=True), *(trunk.sided(torch.zeros_like(x), filled=False) for _ in "ab")
    for convolve in (trunk.convolve_local, trunk.convolve_cross):
        convolve(0, source, middle, add=False)
    assert middle.factors[..., 3].float().isnan().all() and middle.side[..., 3].float().isnan().all()
    assert middle.factors[..., 4].float().isfinite().all() and middle.pixels[..., 3].isfinite().all()
    trunk.convolve_local(0, middle, last, add=False)
    assert last.pixels[..., :64].isnan().all()


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(("width", "has_fp8"), [(64, True), (32, True), (48, False)])
def test_fp8_where_channels_divide_into_its_steps(width: int, has_fp8: bool) -> None:
    skip_where_gluon_cannot()
    trunk, obstacle = hopper_trunk([random_layer(width)], torch.device("cuda"), fp8=True)
    if trunk is None:
        assert not has_fp8 and obstacle
    else:
        assert trunk.fp8 is has_fp8 and bool(obstacle) is not has_fp8


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("inputs", "outputs", "batch", "height", "width"),
    [(512, 256, 1, 64, 128), (128, 64, 2, 160, 72), (64, 64, 1, 32, 8), (256, 128, 3, 256, 64)],
)
def test_upsampling(inputs: int, outputs: int, batch: int, height: int, width: int) -> None:
    device = torch.device("cuda")
    convolution = random_upsampling(inputs, outputs)
    skip_where_gluon_cannot()
    x = torch.randn(batch, height, width, inputs + 64, device=device).half()
    shape = (batch, 2 * height, 2 * width, outputs)
    expected = torch.empty(shape, dtype=torch.float64, device=device)
    upsample_reference(x.double(), row_upsampling(convolution, device), expected)
    form = HopperUpsampling(convolution, device)
    for _ in range(3):  # a race shows in one of several
        out = torch.full(shape, math.nan, dtype=torch.float16, device=device)
        form.upsample(x, out)
        assert ((out.double() - expected).norm() / expected.norm()).item() < 1e-3
        assert (out.double() - expected).abs().max().item() < 2e-3 * expected.abs().max().item()


@on_hopper
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("width", "batch", "height", "columns"), [(64, 1, 128, 128), (64, 3, 64, 64), (32, 9, 62, 64), (32, 2, 96, 128)]
)
def test_entry_of_the_spectral_path(width: int, batch: int, height: int, columns: int) -> None:
    device = torch.device("cuda")
    layer = random_layer(width)
    skip_where_gluon_cannot()
    assert has_entry(layer.enter)
    channels, local, inner = 8 * width, 2 * width, 3 * width
    enter = row_convolution(layer.enter, device)
    matrices = dft_matrices(height, columns)
    x = torch.randn(batch, height, columns, channels + inner, device=device).half()
    t = torch.empty(batch, height, columns, inner, dtype=torch.float64, device=device)
    convolve_reference(x.double(), enter, t, from_channel=local)
    expected = torch.einsum("fw,bhwc->bhfc", matrices.row.to(device, torch.float64), t)
    for _ in range(3):  # a race shows in one of several
        out, planes = x.clone(), torch.zeros(*expected.shape, dtype=torch.float16, device=device)
        out[..., channels:] = math.nan
        enter_strips(out, enter, kernel_matrices(matrices, device), planes, from_channel=local)
        assert torch.equal(out[..., :channels], x[..., :channels])
        for actual, reference in ((out[..., channels:], t), (planes, expected)):
            assert ((actual.double() - reference).norm() / reference.norm()).item() < 1e-3


@on_hopper
@pytest.mark.gpu
def test_upsamples_only_what_keeps_the_card_at_work() -> None:
    device = torch.device("cuda")
    skip_where_gluon_cannot()
    forms, failure = hopper_upsamplings([random_upsampling(*pair) for pair in ((256, 128), (64, 32))], device)
    assert not failure and forms[1] is None
    form = forms[0]
    assert form is not None
    tiles = torch.cuda.get_device_properties(device).multi_processor_count
    assert form.takes(torch.empty(tiles // 2, 32, 8, 256, device=device))  # two tiles of outputs each
    assert not form.takes(torch.empty(tiles // 2 + 1, 32, 8, 256, device=device))
    assert not form.takes(torch.empty(tiles // 2, 32, 12, 256, device=device))
    assert not form.takes(torch.empty(1, 32, 8, 256, device=device))


@on_hopper
@pytest.mark.gpu
def test_takes_only_maps_that_fill_the_card() -> None:
    device = torch.device("cuda")
    layer = random_layer(64)
    skip_where_gluon_cannot()
    trunk, failure = hopper_trunk([layer], device)
    assert trunk is not None, failure  # a trial that fails is a fault, not a reason to skip
    assert trunk.takes(torch.empty(1, 128, 128, 704, device=device))
    assert trunk.takes(torch.empty(1, 64, 64, 704, device=device))
    assert not trunk.takes(torch.empty(1, 32, 32, 704, device=device))
    assert not trunk.takes(torch.empty(1, 144, 128, 704, device=device))
    assert trunk.enters(torch.empty(1, 128, 128, 704, device=device))
    assert not trunk.enters(torch.empty(1, 64, 64, 704, device=device))
    assert not trunk.enters(torch.empty(8, 64, 96, 704, device=device))


@pytest.mark.parametrize(
    ("pieces", "is_enough"),
    [(105, False), (106, True), (132, True), (133, False), (211, False), (212, True), (1024, True)],
)
def test_pieces_that_leave_a_fifth_of_the_programs_idle_are_too_few(pieces: int, is_enough: bool) -> None:
    assert keeps_at_work(pieces, 132) is is_enough


@pytest.mark.parametrize(
    ("is_many", "enters_strips", "beside", "slots"),
    [
        (False, False, True, 3),
        (False, True, True, 3),
        (False, True, False, 4),
        (True, False, False, 4),
        (True, True, False, 5),
    ],
)
def test_steps_in_flight_leave_places_where_there_is_something_to_place(
    is_many: bool, enters_strips: bool, beside: bool, slots: int
) -> None:
    assert local_slots(is_many=is_many, enters_strips=enters_strips, beside=beside) == slots


def test_strips_match_the_kernel() -> None:
    from lama.kernels import hopper_entry

    assert (hopper_entry.HALF.value, hopper_entry.STEP.value) == (hopper_path.HALF_PX, hopper_path.STEP)
    assert hopper_path.STRIP_PX == 2 * hopper_path.HALF_PX


def test_tiles_match_the_kernels() -> None:
    from lama.kernels import hopper_steps as steps

    assert tuple(constant.value for constant in (steps.ROWS, steps.COLUMNS, steps.OUTPUTS, steps.DEPTH)) == (
        ROWS,
        COLUMNS,
        OUTPUTS,
        DEPTH,
    )
