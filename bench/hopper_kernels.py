"""Time the Hopper kernels outside the trunk's convolutions alone, each beside the kernels that it replaces.

    python bench/hopper_kernels.py [--sizes 1x128,8x64,4x64,1x64] [--width 64]

Sizes are batch x side of the trunk's map (features of 8 times fewer pixels); a width of 64 is big-lama's, 32 that of
the included network, whose upsamplings have other kernels in part. Each kernel runs on random inputs into poisoned
memory, five times, and its largest difference from the other kernel is printed, as a share of the largest number. Times
are the replay of a CUDA graph of 20 launches over inputs that rotate through more memory than the L2 cache holds. Needs
a Hopper card. Prints a Markdown table in microseconds.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution, FFCLayer
from lama.kernels.convolution import convolve, row_convolution
from lama.kernels.fourier import invert_columns, kernel_matrices, transform_columns
from lama.kernels.hopper_card import OUTPUTS, why_not_card, why_not_gluon
from lama.kernels.hopper_columns import HopperColumns
from lama.kernels.hopper_decoder import HopperUpsampling
from lama.kernels.hopper_downsampling import CHANNELS, HopperDownsampling
from lama.kernels.hopper_head import PROGRAMS, HopperHead
from lama.kernels.hopper_path import WIDTHS, enter_strips
from lama.kernels.hopper_rows import HopperRows
from lama.kernels.hopper_stem import HopperStem
from lama.kernels.spectral_path import convolve_spectrum, enter_rows, spectrum_convolution
from lama.kernels.stem_head import (
    BORDER_PX,
    COLOURS,
    INPUT_CHANNELS,
    PADDED_COLUMNS,
    TAPS,
    convolve_head,
    convolve_stem,
    head_weights,
    stem_weights,
)
from lama.kernels.tiles import tile_for
from lama.kernels.upsampling import row_upsampling, upsample

LAUNCHES, REPLAYS, RUNS = 20, 7, 5
CACHE_BYTES = 120e6  # more than the L2 cache holds
Launch = Callable[[int], object]
"""Starts the kernel on the input of this number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1x128,8x64,4x64,1x64")
    parser.add_argument("--width", type=int, default=64)
    options = parser.parse_args()
    device = torch.device("cuda")
    if obstacle := why_not_card(device if torch.cuda.is_available() else torch.device("cpu")) or why_not_gluon():
        raise SystemExit(obstacle)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, Triton {triton.__version__}")
    print("\n| kernel | size | the other, us | for Hopper, us | difference |\n|---|---|---|---|---|")
    for size in options.sizes.split(","):
        batch, side = (int(number) for number in size.split("x"))
        time_stem(batch, 8 * side, options.width, device)
        time_downsampling(batch, 8 * side, options.width, device)
        for step in range(3):
            time_upsampling(step, batch, side << step, options.width, device)
        time_head(batch, 8 * side, options.width, device)
        if side in WIDTHS:
            time_entry(batch, side, options.width, device)
            time_columns(batch, side, options.width, device)
            time_rows(batch, side, options.width, device)


def time_stem(batch: int, side: int, width: int, device: torch.device) -> None:
    """Print the row of the first convolution of an image `side` wide."""
    terms = TAPS * TAPS * INPUT_CHANNELS
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(width, INPUT_CHANNELS, TAPS, TAPS, generator=random) * terms**-0.5
    convolution = Convolution(weight, torch.randn(width, generator=random))
    other, form = stem_weights(convolution, device), HopperStem(convolution, device)
    xs = inputs_of(batch, side + 2 * BORDER_PX, INPUT_CHANNELS, device, side + PADDED_COLUMNS)
    outs = [x.new_empty(batch, side, side, width) for x in xs]
    if not form.takes(outs[0]):
        return
    tile = tile_for("stem", batch * side * side // 2, columns=2 * width, depth=0, device=device)

    def launch_other(n: int) -> None:
        convolve_stem(xs[n], other, outs[n], tile=tile)

    def launch(n: int) -> None:
        form.convolve(xs[n], outs[n])

    name = f"stem {INPUT_CHANNELS} -> {width}"
    print_row(name, f"{batch}x{side}", launch_other, launch, len(xs), lambda: (outs[0],))


def time_downsampling(batch: int, side: int, width: int, device: torch.device) -> None:
    """Print the row of the first downsampling of features `side` wide, where the kernel takes them."""
    if width != CHANNELS:
        return
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * width, width, 3, 3, generator=random) * (9 * width) ** -0.5
    convolution = Convolution(weight, torch.randn(2 * width, generator=random))
    other, form = row_convolution(convolution, device, stride=2), HopperDownsampling(convolution, device)
    xs = inputs_of(batch, side, width, device)
    if not form.takes(xs[0]):
        return
    outs = [x.new_empty(batch, side // 2, side // 2, 2 * width) for x in xs]
    tile = tile_for("down", batch * side * side // 4, columns=2 * width, depth=width, device=device)

    def launch_other(n: int) -> None:
        convolve(xs[n], other, outs[n], tile=tile)

    def launch(n: int) -> None:
        form.downsample(xs[n], outs[n])

    name = f"downsampling {width} -> {2 * width}"
    print_row(name, f"{batch}x{side}", launch_other, launch, len(xs), lambda: (outs[0],))


def time_upsampling(step: int, batch: int, side: int, width: int, device: torch.device) -> None:
    """Print the row of the decoder's first (0), second or third transposed convolution of a map `side` wide."""
    inputs, outputs = 8 * width >> step, 4 * width >> step
    if outputs % OUTPUTS:
        return
    random = torch.Generator().manual_seed(step)
    weight = torch.randn(inputs, outputs, 3, 3, generator=random) * (inputs * 9 / 4) ** -0.5
    convolution = Convolution(weight, torch.randn(outputs, generator=random))
    other, form = row_upsampling(convolution, device), HopperUpsampling(convolution, device)
    channels = inputs + (3 * width if step == 0 else 0)
    xs = inputs_of(batch, side, channels, device)
    outs = [x.new_empty(batch, 2 * side, 2 * side, outputs) for x in xs]
    tile = tile_for("up", batch * side * side, columns=outputs, depth=inputs, device=device)

    def launch_other(n: int) -> None:
        upsample(xs[n], other, outs[n], tile=tile)

    def launch(n: int) -> None:
        form.upsample(xs[n], outs[n])

    name = f"upsampling {inputs} -> {outputs}"
    print_row(name, f"{batch}x{side}", launch_other, launch, len(xs), lambda: (outs[0],))


def time_head(batch: int, side: int, width: int, device: torch.device) -> None:
    """Print the row of the last convolution with its sigmoid, which are two launches otherwise."""
    if width not in PROGRAMS:
        return
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(COLOURS, width, TAPS, TAPS, generator=random) * (width * TAPS * TAPS) ** -0.5
    convolution = Convolution(weight, torch.randn(COLOURS, generator=random))
    other, form = head_weights(convolution, device), HopperHead(convolution, device)
    xs = inputs_of(batch, side, width, device)
    planes = xs[0].new_empty(batch, side, TAPS * COLOURS, side)
    out = torch.empty(batch, COLOURS, side, side, device=device)
    tile, plan = tile_for("head", batch * side * side, columns=0, depth=0, device=device), form.plan(xs[0])

    def launch_other(n: int) -> None:
        convolve_head(xs[n], other, planes, out, tile=tile)

    def launch(n: int) -> None:
        form.convolve(xs[n], out, plan)

    print_row(f"head {width} -> {COLOURS}", f"{batch}x{side}", launch_other, launch, len(xs), lambda: (out,))


def time_entry(batch: int, side: int, width: int, device: torch.device) -> None:
    """Print the row of the spectral path's first launch."""
    local, inputs, outputs = 2 * width, 6 * width, 3 * width
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, 1, 1, generator=random) * inputs**-0.5
    enter = row_convolution(Convolution(weight, torch.randn(outputs, generator=random)), device)
    matrices = kernel_matrices(dft_matrices(side, side), device)
    xs = inputs_of(batch, side, local + inputs + outputs, device)
    planes = [x.new_zeros(batch, side, 2, matrices.frequencies, outputs) for x in xs]
    kernel = "enter_rows" if side > WIDTHS[0] else "enter_short_rows"
    tile = tile_for(kernel, batch * side * side, columns=outputs, depth=inputs, device=device)

    def launch_other(n: int) -> None:
        enter_rows(xs[n], enter, matrices, planes[n], from_channel=local, tile=tile)

    def launch(n: int) -> None:
        enter_strips(xs[n], enter, matrices, planes[n], from_channel=local)

    def results() -> tuple[Tensor, ...]:
        rows, real = planes[0].flatten(2, 3), matrices.frequencies
        return xs[0][..., -outputs:], rows[:, :, :real], rows[:, :, real + 1 : -1]  # without what is always 0

    print_row(f"entry {inputs} -> {outputs}", f"{batch}x{side}", launch_other, launch, len(xs), results)


def time_columns(batch: int, side: int, width: int, device: torch.device) -> None:
    """Print the row of the spectral path's columns, which are three launches otherwise."""
    channels = 3 * width
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * channels, 2 * channels, 1, 1, generator=random) * (2 * channels) ** -0.5
    convolution = Convolution(weight, torch.randn(2 * channels, generator=random))
    layer = FFCLayer(convolution, convolution, convolution, convolution, weight)
    form, other = HopperColumns([layer], device), spectrum_convolution(convolution, device)
    matrices = kernel_matrices(dft_matrices(side, side), device)
    xs = [x.view(batch, side, 2, -1, channels) for x in inputs_of(batch, 2 * side, channels, device, side // 2 + 1)]
    plan = form.plan(xs[0])
    if plan is None:
        return
    between, out = (torch.empty_like(xs[0]) for _ in range(2))
    columns = tile_for("columns", 2 * side, columns=0, depth=0, device=device)
    rows = batch * side * (side // 2 + 1)
    spectrum = tile_for("spectrum", rows, columns=2 * channels, depth=channels, device=device)

    def launch_other(n: int) -> None:
        transform_columns(xs[n], matrices, out, tile=columns)
        convolve_spectrum(out, other, matrices.spectrum_gain, between, tile=spectrum)
        invert_columns(between, matrices, out, tile=columns)

    def launch(n: int) -> None:
        form.convolve(0, xs[n], matrices, out, plan)

    print_row(f"columns of {channels}", f"{batch}x{side}", launch_other, launch, len(xs), lambda: (out,))


def time_rows(batch: int, side: int, width: int, device: torch.device) -> None:
    """Print the row of the spectral path's first launch on maps of 128 columns, beside the other Hopper kernel."""
    channels, inputs, local = 3 * width, 6 * width, 2 * width
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(channels, inputs, 1, 1, generator=random) * inputs**-0.5
    first = Convolution(weight, torch.randn(channels, generator=random))
    form = HopperRows([FFCLayer(first, first, first, first, weight)], device)
    enter, matrices = row_convolution(first, device), kernel_matrices(dft_matrices(side, side), device)
    xs = inputs_of(batch, side, local + inputs + channels, device)
    planes = torch.zeros(batch, side, 2, matrices.frequencies, channels, dtype=torch.float16, device=device)
    if not form.takes(xs[0]):
        return

    def launch_other(n: int) -> None:
        enter_strips(xs[n], enter, matrices, planes, from_channel=local)

    def launch(n: int) -> None:
        form.enter(0, xs[n], planes, from_channel=local)

    def results() -> tuple[Tensor, ...]:
        rows, real = planes.flatten(2, 3), matrices.frequencies
        return xs[0][..., -channels:], rows[:, :, :real], rows[:, :, real + 1 : -1]

    print_row(f"rows {inputs} -> {channels}", f"{batch}x{side}", launch_other, launch, len(xs), results)


def inputs_of(batch: int, height: int, channels: int, device: torch.device, width: int | None = None) -> list[Tensor]:
    """Make as many maps (batch, height, width, channels) float16 as are more than the cache holds, two at least."""
    width = width or height
    count = max(2, int(CACHE_BYTES // (batch * height * width * channels * 2)) + 1)
    return [torch.randn(batch, height, width, channels, device=device).half() for _ in range(count)]


def print_row(
    name: str, size: str, other: Launch, hopper: Launch, inputs: int, results: Callable[[], tuple[Tensor, ...]]
) -> None:
    """Compare and time two kernels that write the same memory, which `results` gives for the first input."""
    other(0)
    expected = [result.clone() for result in results()]
    worst = 0.0
    for _ in range(RUNS):  # a race shows in one of several
        for result in results():
            result.fill_(math.nan)
        hopper(0)
        for actual, right in zip(results(), expected, strict=True):
            difference = (actual.float() - right.float()).abs().max() / right.float().abs().max()
            worst = max(worst, difference.nan_to_num(nan=math.inf).item())
    times = [time_us(launch, inputs) for launch in (other, hopper)]
    print(f"| {name} | {size} | {times[0]:.1f} | {times[1]:.1f} | {worst:.1e} |", flush=True)


def time_us(launch: Launch, inputs: int) -> float:
    """Return the median time of one launch in microseconds."""
    launch(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for n in range(LAUNCHES):
            launch(n % inputs)
    times = []
    for _ in range(2 + REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / LAUNCHES * 1000)
    return statistics.median(times[2:])


if __name__ == "__main__":
    main()
