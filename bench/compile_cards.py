"""Compile the network's kernels for cards that are not here, and see that each fits.

    python bench/compile_cards.py [--capabilities 8.0,8.6,8.9,12.0] [--sizes 1x256x256,1x512x512,…]

Triton compiles for any card on any machine. This walks through the forward at every size as on a card of each compute
capability (A100; RTX 30; RTX 40, L4; RTX 50), compiles what would be launched with the block shapes that card gets, and
compares the shared memory each program takes with what the card has. What a kernel computes is checked elsewhere, in
Triton's interpreter (`tests/lama/kernels`). At 9.0 (H100, H200) the kernels in Gluon and in CUDA C++ are compiled too,
which no interpreter runs. Prints a table; the exit status is 1 if a kernel does not fit.
"""

import argparse
import contextlib
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lama import triton_backend
from lama.checkpoint import load_generator
from lama.dft import dft_matrices
from lama.fold_batchnorm import fold_generator
from lama.generator import Generator
from lama.kernels import (
    convolution,
    cuda_kernel,
    hopper_card,
    hopper_columns,
    hopper_decoder,
    hopper_downsampling,
    hopper_head,
    hopper_path,
    hopper_rows,
    hopper_stem,
    hopper_trunk,
    tiles,
)
from lama.kernels.convolution import row_convolution
from lama.kernels.fourier import kernel_matrices

CAPABILITIES = "8.0,8.6,8.9,12.0"
SIZES = "1x256x256,1x384x384,1x512x512,8x512x512,1x768x768,1x1024x1024"
MULTIPROCESSORS = 132  # of an H100 or H200
BIG = (64, 1)  # big-lama's width; its blocks are all alike

Fit = tuple[str, int]
"""Kernel, and the shared memory of a program in bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--capabilities", default=CAPABILITIES)
    parser.add_argument("--sizes", default=SIZES, help="batch x height x width, by commas")
    options = parser.parse_args()
    sizes = [tuple(int(n) for n in size.split("x")) for size in options.sizes.split(",")]
    print(f"Triton {triton.__version__}\n")
    print("| capability | network | kernel | KiB a program, of |\n|---|---|---|---|")
    is_fit = True
    for text in options.capabilities.split(","):
        major, minor = (int(n) for n in text.split("."))
        limit = tiles.shared_bytes_of((major, minor))
        for name, generator in (("included", load_generator(None)), ("big", Generator(*BIG).eval())):
            largest: dict[str, int] = {}
            fits = compiled(generator, (major, minor), sizes)
            if (major, minor) == hopper_card.CAPABILITY:
                fits += compiled_for_hopper(generator) + compiled_in_cuda(generator)
            for kernel, shared in fits:
                largest[kernel] = max(shared, largest.get(kernel, 0))
            for kernel, shared in largest.items():
                is_fit &= shared <= limit
                print(f"| {text} | {name} | {kernel} | {shared / 1024:.0f}, {limit // 1024} |", flush=True)
    raise SystemExit(not is_fit)


def compiled(generator: Generator, capability: tuple[int, int], sizes: Sequence[tuple[int, ...]]) -> list[Fit]:
    """Walk through the forward at every (batch, height, width) as on a card; return what each launch compiled to."""
    fits: list[Fit] = []
    device = torch.device("cpu")
    with as_on_a_card(capability, fits):
        backend = triton_backend.TritonBackend(fold_generator(generator), device=device)
        for batch, height, width in sizes:
            backend(torch.zeros(batch, 4, height, width))
    return fits


def compiled_for_hopper(
    generator: Generator,
    *,
    kernels: Sequence[str] = ("local", "cross", "entry", "upsampling"),
    batches: Sequence[int] = (1, 4),
) -> list[Fit]:
    """Compile the Hopper kernels, the trunk's with and without what they are added to, in float16 and in FP8.

    With four maps of 128x128 the local convolution has other slots than with one. Returns what each came to.
    """
    fits: list[Fit] = []
    network = fold_generator(generator)
    layer, device = network.layers[0], torch.device("cpu")
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_on_a_card(hopper_card.CAPABILITY, fits))
        for module in (hopper_decoder, hopper_path, hopper_trunk):
            stack.enter_context(mock.patch.object(module, "multiprocessors", return_value=MULTIPROCESSORS))
        trunks = [hopper_trunk.HopperTrunk([layer], device, fp8=fp8) for fp8 in (False, True)]
        channels = layer.local.weight.shape[1] + layer.leave.shape[1]
        for trunk, batch in itertools.product(trunks, batches):
            source, target = (trunk.sided(torch.zeros(batch, 128, 128, channels).half(), filled=True) for _ in range(2))
            for add in (False, True):
                for kernel in kernels:
                    if kernel in ("local", "cross"):
                        getattr(trunk, f"convolve_{kernel}")(0, source, target, add=add)
        if "entry" in kernels and hopper_path.has_entry(layer.enter):
            enter = row_convolution(layer.enter, device)
            for side in hopper_path.WIDTHS:
                matrices = kernel_matrices(dft_matrices(side, side), device)
                planes = torch.zeros(1, side, 2, matrices.frequencies, enter.outputs).half()
                x = torch.zeros(1, side, side, channels).half()
                from_channel = layer.local.bias.numel()
                hopper_path.enter_strips(x, enter, matrices, planes, from_channel=from_channel)
        if "upsampling" in kernels:
            for up in network.ups:
                if hopper_decoder.is_whole(up):
                    inputs, outputs = up.weight.shape[:2]
                    x, out = torch.zeros(1, 64, 64, inputs).half(), torch.zeros(1, 128, 128, outputs).half()
                    hopper_decoder.HopperUpsampling(up, device).upsample(x, out)
    return fits


def compiled_in_cuda(generator: Generator) -> list[Fit]:
    """Compile the kernels in CUDA C++ for every plan of this network; return what each takes."""
    network = fold_generator(generator)
    channels, head_inputs = network.layers[0].spectrum.bias.numel() // 2, network.head.weight.shape[1]
    kernels = (
        ("convolve_columns", [plan for plan, _ in hopper_columns.PLANS]),
        ("enter_rows", hopper_rows.PLANS),
    )
    fits: list[Fit] = []
    for name, plans in kernels:
        for plan in plans:
            if plan.channels == channels:
                cuda_kernel.compiled(plan.source, None)
                fits.append((name, plan.shared_bytes))
    if head_inputs in hopper_head.PROGRAMS:
        head = hopper_head.PROGRAMS[head_inputs]
        cuda_kernel.compiled(head.source, None)
        fits.append(("convolve_head", head.shared_bytes))
    for stem in hopper_stem.PLANS:
        if stem.outputs == network.stem.bias.numel():
            cuda_kernel.compiled(stem.source, None)
            fits.append(("convolve_stem", stem.shared_bytes))
    if network.downs[0].weight.shape[:2] == (hopper_downsampling.OUTPUTS, hopper_downsampling.CHANNELS):
        cuda_kernel.compiled(hopper_downsampling.source(), None)
        fits.append(("downsample", hopper_downsampling.SHARED_BYTES))
    return fits


class _AbsentCard:
    """What Triton asks its driver for when it compiles without launching."""

    class utils:  # noqa: N801 - the driver's own name
        @staticmethod
        def load_binary(*_args: object) -> tuple[None, None, int, int, int]:
            return None, None, 0, 0, 1024

        @staticmethod
        def get_device_properties(*_args: object) -> dict[str, int]:
            return {"max_shared_mem": 1 << 20, "multiprocessor_count": 1}

    def __init__(self, architecture: int) -> None:
        self._target = GPUTarget("cuda", architecture, 32)

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> int:
        # Triton keeps what it compiled, and for which target, by the device's number: no real one, another for each.
        return -self._target.arch

    def get_current_stream(self, *_args: object) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def as_on_a_card(capability: tuple[int, int], fits: list[Fit]) -> Iterator[None]:
    """Have launches only compile, for a card of this compute capability, and append what came to `fits`."""
    run, architecture = JITFunction.run, 10 * capability[0] + capability[1]

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        if capability == hopper_card.CAPABILITY and "EARLY" in self.arg_names:
            options |= {"EARLY": True, "launch_pdl": True}  # as some launches are there
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        if kernel.metadata.target.arch != architecture:
            raise RuntimeError(f"compiled for {kernel.metadata.target}, not for {architecture}")
        fits.append((self.fn.__name__.strip("_"), kernel.metadata.shared))

    limit, boxes = tiles.shared_bytes_of(capability), capability >= (9, 0)
    triton.runtime.driver.set_active(_AbsentCard(architecture))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(tiles, "shared_bytes", lambda _device: limit),
            mock.patch.object(convolution, "copies_boxes", lambda _device: boxes),
        ):
            yield
    finally:
        triton.runtime.driver.set_active(None)


if __name__ == "__main__":
    main()
