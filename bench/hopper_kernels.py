"""Time the Hopper kernels of upsamplings and of the spectral path's entry alone, each beside the kernel it replaces.

    python bench/hopper_kernels.py [--sizes 1x128,8x64,1x64]

Sizes are batch x side of the trunk's map (features of 8 times fewer pixels), in big-lama's width. Each kernel runs on
random inputs into poisoned memory, five times, and its largest difference from the other kernel is printed, as a share
of the largest number. Times are the replay of a CUDA graph of 20 launches over inputs that rotate through more memory
than the L2 cache holds. Needs a Hopper card. Prints a Markdown table in microseconds.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lama.dft import dft_matrices
from lama.fold_batchnorm import Convolution
from lama.kernels.convolution import row_convolution
from lama.kernels.fourier import kernel_matrices
from lama.kernels.hopper_card import why_not_card
from lama.kernels.hopper_decoder import HopperUpsampling
from lama.kernels.hopper_path import WIDTHS, enter_strips
from lama.kernels.spectral_path import enter_rows
from lama.kernels.tiles import tile_for
from lama.kernels.upsampling import row_upsampling, upsample

WIDTH = 64  # of big-lama
LAUNCHES, REPLAYS, RUNS = 20, 7, 5
CACHE_BYTES = 120e6  # more than the L2 cache holds
Launch = Callable[[int], object]
"""Starts the kernel on the input of this number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="1x128,8x64,1x64")
    options = parser.parse_args()
    device = torch.device("cuda")
    if obstacle := why_not_card(device if torch.cuda.is_available() else torch.device("cpu")):
        raise SystemExit(obstacle)
    print(torch.cuda.get_device_name())
    print("\n| kernel | size | the other, us | for Hopper, us | difference |\n|---|---|---|---|---|")
    for size in options.sizes.split(","):
        batch, side = (int(number) for number in size.split("x"))
        for step in range(3):
            time_upsampling(step, batch, side << step, device)
        if side in WIDTHS:
            time_entry(batch, side, device)


def time_upsampling(step: int, batch: int, side: int, device: torch.device) -> None:
    """Print the row of the decoder's first (0), second or third transposed convolution of a map `side` wide."""
    inputs, outputs = 8 * WIDTH >> step, 4 * WIDTH >> step
    random = torch.Generator().manual_seed(step)
    weight = torch.randn(inputs, outputs, 3, 3, generator=random) * (inputs * 9 / 4) ** -0.5
    convolution = Convolution(weight, torch.randn(outputs, generator=random))
    other, form = row_upsampling(convolution, device), HopperUpsampling(convolution, device)
    channels = inputs + (3 * WIDTH if step == 0 else 0)
    xs = inputs_of(batch, side, channels, device)
    outs = [x.new_empty(batch, 2 * side, 2 * side, outputs) for x in xs]
    tile = tile_for("up", batch * side * side, columns=outputs, depth=inputs, device=device)

    def launch_other(n: int) -> None:
        upsample(xs[n], other, outs[n], tile=tile)

    def launch(n: int) -> None:
        form.upsample(xs[n], outs[n])

    name = f"upsampling {inputs} -> {outputs}"
    print_row(name, f"{batch}x{side}", launch_other, launch, len(xs), lambda: (outs[0],))


def time_entry(batch: int, side: int, device: torch.device) -> None:
    """Print the row of the spectral path's first launch."""
    local, inputs, outputs = 2 * WIDTH, 6 * WIDTH, 3 * WIDTH
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


def inputs_of(batch: int, side: int, channels: int, device: torch.device) -> list[Tensor]:
    """Make as many maps (batch, side, side, channels) float16 as are more than the cache holds, two at least."""
    count = max(2, int(CACHE_BYTES // (batch * side * side * channels * 2)) + 1)
    return [torch.randn(batch, side, side, channels, device=device).half() for _ in range(count)]


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
