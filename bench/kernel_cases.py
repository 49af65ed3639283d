"""The kernels of the inference form as cases to check and time: inputs, reference, candidate tiles (width 64)."""

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution
from lama.kernels import convolution, fourier, spectral_path, upsampling
from lama.kernels import stem_head as ends
from lama.kernels.tiles import Tile

WIDTH = 64
CHANNELS, LOCAL, INNER = 512, 128, 192
MAP_CHANNELS = CHANNELS + INNER
ROTATION_BYTES = 120 * 2**20  # twice the L2 cache of an H200
DEVICE = torch.device("cuda")


@dataclass(frozen=True)
class Case:
    """One kernel at one size.

    `launch(tile, i)` runs it on the i-th input, `poison()` spoils its output, `error()` is the relative difference of
    what the launch on input 0 left from the float32 PyTorch expression.
    """

    kernel: str
    rows: int
    columns: int
    depth: int
    flop: int
    candidates: list[Tile]
    launch: Callable[[Tile, int], None]
    poison: Callable[[], object]
    error: Callable[[], float]


def tiles(
    rows: tuple[int, ...],
    columns: tuple[int, ...],
    depths: tuple[int, ...] = (64,),
    warps: tuple[int, ...] = (4, 8),
    stages: tuple[int, ...] = (3, 4),
    splits: tuple[int, ...] = (1,),
) -> Iterator[Tile]:
    """Every combination that fits a Hopper's registers and shared memory."""
    for m, n, k, w, s, split in itertools.product(rows, columns, depths, warps, stages, splits):
        shared = (m + n) * k * 2 * s
        accumulators = m * n / (32 * w)
        if shared <= 220_000 and 16 <= accumulators <= 160:
            yield Tile(m, n, k, w, s, split)


def random_half(*shape: int) -> Tensor:
    return torch.randn(shape, device=DEVICE, dtype=torch.float16)


def rotation(*shape: int) -> list[Tensor]:
    """Enough inputs of a shape that a round through them does not fit the L2 cache."""
    size = torch.Size(shape).numel() * 2
    return [random_half(*shape) for _ in range(max(2, min(12, ROTATION_BYTES // size + 1)))]


def random_convolution(outputs: int, inputs: int, kernel_px: int, *, transposed: bool = False) -> Convolution:
    shape = (inputs, outputs) if transposed else (outputs, inputs)
    weight = torch.randn(*shape, kernel_px, kernel_px, dtype=torch.float64) * (inputs * kernel_px**2) ** -0.5
    return Convolution(weight, torch.randn(outputs, dtype=torch.float64) * 0.1)


def difference(actual: Tensor, expected: Tensor) -> float:
    """Relative difference; NaN (something was not written) is infinite."""
    value = ((actual.float() - expected.float()).norm() / expected.float().norm()).item()
    return value if value == value else float("inf")


def local_case(size: int, batch: int) -> Case:
    small = size * size * batch <= 8192
    if small:
        candidates = [*tiles((64, 128), (64, 128), (64,), (4,), (4, 5), (1, 2, 3, 4, 6)), Tile(64, 64, 128, 4, 3, 2)]
    else:
        candidates = [*tiles((128, 256), (128,), (64, 128), (4, 8), (3, 4)), *tiles((64,), (128,), (64,), (4,), (4, 5))]
    return trunk_case("local", size, batch, random_convolution(LOCAL, CHANNELS, 3), None, candidates)


def global_case(size: int, batch: int) -> Case:
    tail = torch.randn(CHANNELS - LOCAL, INNER, 1, 1, dtype=torch.float64) * INNER**-0.5
    candidates = list(tiles((64, 128, 256), (64, 128), (64,), (4, 8), (3, 4)))
    return trunk_case("global", size, batch, random_convolution(CHANNELS - LOCAL, LOCAL, 3), tail, candidates)


def enter_case(size: int, batch: int) -> Case:
    return trunk_case(
        "enter",
        size,
        batch,
        random_convolution(INNER, CHANNELS - LOCAL, 1),
        None,
        list(tiles((64, 128), (64,), (64, 128), (4, 8), (3, 4))),
        from_channel=LOCAL,
    )


def trunk_case(
    kernel: str,
    size: int,
    batch: int,
    weights: Convolution,
    tail: Tensor | None,
    candidates: list[Tile],
    from_channel: int = 0,
) -> Case:
    """A convolution of the trunk, from one map to another."""
    rows = batch * size * size
    laid_out = convolution.row_convolution(weights, DEVICE, tail=tail)
    inputs = rotation(batch, size, size, MAP_CHANNELS)
    out = torch.empty_like(inputs[0])
    to_channel = {"local": 0, "global": LOCAL, "enter": CHANNELS}[kernel]
    places: dict[str, Any] = {"from_channel": from_channel, "tail_channel": CHANNELS, "to_channel": to_channel}
    scratches: dict[Tile, convolution.SplitScratch | None] = {}

    def launch(tile: Tile, i: int) -> None:
        if tile not in scratches:
            scratches[tile] = convolution.split_scratch(rows, laid_out.outputs, tile=tile, device=DEVICE)
        convolution.convolve(inputs[i % len(inputs)], laid_out, out, tile=tile, scratch=scratches[tile], **places)

    expected = torch.empty_like(out, dtype=torch.float32)
    convolution.convolve_reference(inputs[0].float(), laid_out, expected, **places)
    written = slice(to_channel, to_channel + laid_out.outputs)
    return Case(
        kernel,
        rows,
        laid_out.outputs,
        (laid_out.tail and 64) or laid_out.inputs,
        2 * rows * laid_out.weight.numel(),
        candidates,
        launch,
        lambda: out.fill_(float("nan")),
        lambda: difference(out[..., written], expected[..., written]),
    )


def down_case(size: int, batch: int) -> Case:
    """The middle downsampling, 128 to 256 channels; the other two cost the same."""
    side = 4 * size
    laid_out = convolution.row_convolution(random_convolution(256, 128, 3), DEVICE, stride=2)
    inputs = rotation(batch, side, side, 128)
    out = torch.empty(batch, side // 2, side // 2, 256, device=DEVICE, dtype=torch.float16)
    expected = torch.empty_like(out, dtype=torch.float32)
    convolution.convolve_reference(inputs[0].float(), laid_out, expected)
    rows = batch * (side // 2) ** 2
    return Case(
        "down",
        rows,
        256,
        128,
        2 * rows * laid_out.weight.numel(),
        list(tiles((64, 128, 256), (64, 128), (64,), (4, 8), (2, 3))),
        lambda tile, i: convolution.convolve(inputs[i % len(inputs)], laid_out, out, tile=tile),
        lambda: out.fill_(float("nan")),
        lambda: difference(out, expected),
    )


def up_case(size: int, batch: int) -> Case:
    """The middle upsampling, 256 to 128 channels; the other two cost the same."""
    side = 2 * size
    laid_out = upsampling.row_upsampling(random_convolution(128, 256, 3, transposed=True), DEVICE)
    inputs = rotation(batch, side, side, 256)
    out = torch.empty(batch, 2 * side, 2 * side, 128, device=DEVICE, dtype=torch.float16)
    expected = torch.empty_like(out, dtype=torch.float32)
    upsampling.upsample_reference(inputs[0].float(), laid_out, expected)
    rows = batch * side * side
    return Case(
        "up",
        rows,
        128,
        256,
        2 * rows * laid_out.weight.numel(),
        [t for t in tiles((64, 128), (64, 128), (32, 64), (4, 8), (2, 3)) if t.rows * t.columns / t.warps <= 2048],
        lambda tile, i: upsampling.upsample(inputs[i % len(inputs)], laid_out, out, tile=tile),
        lambda: out.fill_(float("nan")),
        lambda: difference(out, expected),
    )


def columns_case(size: int, batch: int) -> Case:
    matrices = fourier.kernel_matrices(dft_matrices(size, size), DEVICE)
    shape = (batch, size, 2, size // 2 + 1, INNER)
    inputs = rotation(*shape)
    out = torch.empty_like(inputs[0])
    flat = (batch, 2 * size, -1)
    expected = torch.empty(out.view(flat).shape, device=DEVICE)
    fourier.multiply_reference(matrices.column, inputs[0].view(flat).float(), expected, columns=expected.shape[2])
    return Case(
        "columns",
        2 * size,
        0,
        0,
        2 * out.numel() * 2 * size,
        list(tiles((64, 128), (32, 64, 128), (32, 64), (4, 8), (2, 3))),
        lambda tile, i: fourier.transform_columns(inputs[i % len(inputs)], matrices, out, tile=tile),
        lambda: out.fill_(float("nan")),
        lambda: difference(out.view(flat), expected),
    )


def rows_case(size: int, batch: int) -> Case:
    """The inverse row transform, added to the map. It adds, so each check starts from the same map."""
    matrices = fourier.kernel_matrices(dft_matrices(size, size), DEVICE)
    planes = rotation(batch, size, 2, size // 2 + 1, INNER)
    start = random_half(batch, size, size, MAP_CHANNELS)
    x = start.clone()
    expected = start.float()
    fourier.multiply_reference(
        matrices.row_inverse,
        planes[0].view(batch * size, -1, INNER).float(),
        expected.view(batch * size, size, MAP_CHANNELS),
        columns=INNER,
        x_gap=matrices.frequencies,
        out_first=CHANNELS,
        add=True,
    )
    return Case(
        "rows",
        size,
        INNER,
        0,
        2 * batch * size * size * INNER * size,
        list(tiles((64, 128), (64,), (64,), (4, 8), (2, 3))),
        lambda tile, i: fourier.add_inverse_rows(planes[i % len(planes)], matrices, x, tile=tile),
        lambda: x.copy_(start),
        lambda: difference(x[..., CHANNELS:], expected[..., CHANNELS:]),
    )


def enter_rows_case(size: int, batch: int) -> Case:
    matrices = fourier.kernel_matrices(dft_matrices(size, size), DEVICE)
    laid_out = convolution.row_convolution(random_convolution(INNER, CHANNELS - LOCAL, 1), DEVICE)
    inputs = rotation(batch, size, size, MAP_CHANNELS)
    planes = torch.zeros(batch, size, 2, size // 2 + 1, INNER, device=DEVICE, dtype=torch.float16)
    exact = inputs[0].float()
    convolution.convolve_reference(exact, laid_out, exact, from_channel=LOCAL, to_channel=CHANNELS)
    expected = torch.zeros_like(planes, dtype=torch.float32)
    fourier.multiply_reference(
        matrices.row,
        exact.view(batch * size, size, MAP_CHANNELS),
        expected.view(batch * size, -1, INNER),
        columns=INNER,
        x_first=CHANNELS,
        out_gap=matrices.frequencies,
    )
    return Case(
        "enter_rows" if size > 64 else "enter_short_rows",
        batch * size * size,
        INNER,
        CHANNELS - LOCAL,
        2 * batch * size * size * INNER * (CHANNELS - LOCAL + size),
        list(tiles((size,), (32, 64), (64, 128), (4, 8), (2, 3, 4))),
        lambda tile, i: spectral_path.enter_rows(
            inputs[i % len(inputs)], laid_out, matrices, planes, from_channel=LOCAL, tile=tile
        ),
        lambda: planes.zero_(),
        lambda: difference(planes, expected),
    )


def spectrum_case(size: int, batch: int) -> Case:
    laid_out = spectral_path.spectrum_convolution(random_convolution(2 * INNER, 2 * INNER, 1), DEVICE)
    inputs = rotation(batch, size, 2, size // 2 + 1, INNER)
    out = torch.empty_like(inputs[0])
    expected = torch.empty_like(out, dtype=torch.float32)
    spectral_path.convolve_spectrum_reference(inputs[0].float(), laid_out, 0.5, expected)
    return Case(
        "spectrum",
        batch * size * (size // 2 + 1),
        2 * INNER,
        INNER,
        2 * out.numel() * 2 * INNER,
        list(tiles((64, 128), (64, 128), (64,), (4, 8), (2, 3, 4))),
        lambda tile, i: spectral_path.convolve_spectrum(inputs[i % len(inputs)], laid_out, 0.5, out, tile=tile),
        lambda: out.fill_(float("nan")),
        lambda: difference(out, expected),
    )


def stem_case(size: int, batch: int) -> Case:
    side = 8 * size
    laid_out = ends.stem_weights(random_convolution(WIDTH, 4, 7), DEVICE)
    inputs = rotation(batch, side + 6, side + 8, 4)
    out = torch.empty(batch, side, side, WIDTH, device=DEVICE, dtype=torch.float16)
    expected = torch.empty_like(out, dtype=torch.float32)
    ends.convolve_stem_reference(inputs[0].float(), laid_out, expected)
    return Case(
        "stem",
        batch * side * side // 2,
        2 * WIDTH,
        0,
        batch * side * side * laid_out.weight.numel(),
        list(tiles((32, 64, 128), (2 * WIDTH,), (32,), (4, 8), (1, 2))),
        lambda tile, i: ends.convolve_stem(inputs[i % len(inputs)], laid_out, out, tile=tile),
        lambda: out.fill_(float("nan")),
        lambda: difference(out, expected),
    )


def head_case(size: int, batch: int) -> Case:
    """Both launches of the head; depth is the number of rows a program walks down."""
    side = 8 * size
    laid_out = ends.head_weights(random_convolution(3, WIDTH, 7), DEVICE)
    inputs = rotation(batch, side, side, WIDTH)
    planes = torch.empty(batch, side, 21, side, device=DEVICE, dtype=torch.float16)
    out = torch.empty(batch, 3, side, side, device=DEVICE)
    expected = torch.empty_like(out)
    ends.convolve_head_reference(inputs[0].float(), laid_out, expected)
    candidates = itertools.product((64, 128), (16, 32, 64), (4, 8), (2, 3, 4))
    return Case(
        "head",
        batch * side * side,
        0,
        0,
        2 * batch * side * side * laid_out.weight.numel(),
        [Tile(m, 32, strip, warps, stages) for m, strip, warps, stages in candidates],
        lambda tile, i: ends.convolve_head(inputs[i % len(inputs)], laid_out, planes, out, tile=tile),
        lambda: out.fill_(float("nan")),
        lambda: difference(out, expected),
    )


KERNEL_CASES: dict[str, Callable[[int, int], Case]] = {
    "local": local_case,
    "global": global_case,
    "enter": enter_case,
    "enter_rows": enter_rows_case,
    "rows": rows_case,
    "columns": columns_case,
    "spectrum": spectrum_case,
    "down": down_case,
    "up": up_case,
    "stem": stem_case,
    "head": head_case,
}
