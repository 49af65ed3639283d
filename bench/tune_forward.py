"""Time schedules and block shapes where they run: in the whole forward, beside everything else.

    python bench/tune_forward.py [--network big|included] [--sizes 1x512x512,1x256x256] [--kernels cross_taps,local]

`tune_kernels` times a kernel alone, and the shape that is fastest alone can hold up what runs beside it. Here a shape
takes its place in the captured forward, one kernel at a time, all else as it is. Prints for every size both schedules
of a layer, then what holds them up (parts of the forward left out), then every shape with the largest difference from
the first output in grey levels; all of it goes to FOLDER/tune-forward.md (default: bench/results).
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.speed import environment
from bench.speed_model import ALL_ROWS, captured, random_generator, random_input, time_device
from lama import triton_trunk, trunk_schedule
from lama.checkpoint import load_generator
from lama.fast_generator import FastGenerator
from lama.kernels.tiles import TILES, Tile
from lama.triton_backend import TritonBackend

SHAPES: dict[str, tuple[Tile, ...]] = {
    "cross_taps": (
        Tile(128, 128, 64, 4, 3),
        Tile(128, 128, 64, 8, 3),
        Tile(64, 128, 64, 4, 4),
        Tile(64, 64, 64, 4, 3),
        Tile(64, 64, 64, 4, 4),
        Tile(128, 64, 64, 4, 3),
    ),
    "local": (
        Tile(64, 64, 64, 4, 4),
        Tile(64, 64, 64, 4, 4, 2),
        Tile(64, 128, 64, 4, 3),
        Tile(64, 128, 64, 4, 4, 2),
        Tile(128, 128, 64, 4, 3, 4),
        Tile(128, 64, 64, 4, 3, 2),
    ),
    "leave_rows": (Tile(64, 64, 64, 4, 1), Tile(64, 128, 64, 8, 1), Tile(64, 128, 32, 4, 1)),
    "columns": (Tile(64, 64, 64, 4, 3), Tile(64, 128, 64, 4, 2), Tile(32, 64, 64, 4, 2)),
    "spectrum": (Tile(64, 128, 64, 4, 3), Tile(64, 64, 64, 4, 4), Tile(128, 64, 64, 4, 3)),
    "enter_short_rows": (Tile(64, 64, 64, 4, 2), Tile(64, 64, 128, 4, 2), Tile(64, 64, 64, 8, 3)),
    "global": (Tile(128, 64, 64, 4, 3), Tile(64, 64, 64, 4, 4), Tile(128, 128, 64, 4, 3)),
}
RESULTS = Path(__file__).parent / "results"
CONVOLUTIONS = ("convolve",)
SPECTRAL_PATH = ("enter_rows", "transform_columns", "convolve_spectrum", "invert_columns", "leave_rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=("big", "included"), default="big", help="big: big-lama's size, random")
    parser.add_argument("--sizes", default="1x512x512,1x256x256,2x512x512", help="batch x height x width, by commas")
    parser.add_argument("--kernels", default="cross_taps,local,leave_rows", help=f"by commas, of {', '.join(SHAPES)}")
    parser.add_argument("--seconds", type=float, default=300, help="stop starting new shapes after this long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    generator = random_generator() if options.network == "big" else load_generator(None)
    network = FastGenerator(generator, device="cuda", dtype=torch.float16)
    if not isinstance(network.backend, TritonBackend):
        raise SystemExit(network.describe())
    file, begun_s = options.out / "tune-forward.md", time.monotonic()
    with file.open("w", encoding="utf-8") as report:

        def say(line: str) -> None:
            print(line, flush=True)
            print(line, file=report, flush=True)

        say(f"{environment()}, {options.network}\n")
        say("| size | what | ms (5-95 %) | largest difference |\n|---|---|---|---|")
        for size in options.sizes.split(","):
            batch, height, width = (int(n) for n in size.split("x"))
            x, timed = random_input(batch, height, width), _Timed(network)
            for name, change in _changes(network.backend, options.kernels.split(",")):
                if time.monotonic() - begun_s > options.seconds:
                    break
                with change:
                    say(f"| {size} | {name} | {timed(x, is_whole='alone' not in name)} |")


class _Timed:
    """Captures and times the forward; compares it, where no part is left out, with what the first call gave."""

    def __init__(self, network: FastGenerator) -> None:
        self._network = network
        self._first: Tensor | None = None

    def __call__(self, x: Tensor, *, is_whole: bool) -> str:
        try:
            graph, out = captured(self._network, x)
            timing = time_device(graph.replay)
        except Exception as error:  # a shape that does not compile or fit must not cost the others their turn
            return f"{type(error).__name__}: {error}"[:120].replace("\n", " ") + " |"
        self._first = out.clone() if self._first is None else self._first
        difference = f"{255 * (out - self._first).abs().max().item():.2f}" if is_whole else ""
        return f"{timing.median_ms:.3f} ({timing.low_ms:.3f}-{timing.high_ms:.3f}) | {difference}"


def _changes(form: TritonBackend, kernels: list[str]) -> Iterator[tuple[str, AbstractContextManager[object]]]:
    """Names of what is tried, and the context in which it is."""
    yield "cross after", mock.patch.object(trunk_schedule, "FEW_ROWS", 0)
    yield "cross beside", mock.patch.object(trunk_schedule, "FEW_ROWS", ALL_ROWS)
    yield "cross beside, spectral path alone", _left_out(form, CONVOLUTIONS)
    yield "cross beside, trunk's convolutions alone", _left_out(form, SPECTRAL_PATH)
    yield "ends alone", mock.patch.object(form.trunk, "run", lambda x: x)
    yield "as it is", nullcontext()
    for kernel in kernels:
        for tile in SHAPES[kernel]:
            yield f"{kernel} {tile}", mock.patch.dict(TILES, {kernel: ((0, tile),)})


@contextmanager
def _left_out(form: TritonBackend, names: tuple[str, ...]) -> Iterator[None]:
    """Leave kernels of the trunk out, with the cross convolution beside; the ends run as ever."""
    run_layers: Callable[..., None] = form.trunk._run_layers_beside

    def without(*arguments: Any) -> None:
        with mock.patch.dict(vars(triton_trunk), dict.fromkeys(names, _nothing)):
            run_layers(*arguments)

    beside = mock.patch.object(trunk_schedule, "FEW_ROWS", ALL_ROWS)
    with beside, mock.patch.object(form.trunk, "_run_layers_beside", without):
        yield


def _nothing(*_arguments: object, **_options: object) -> None:
    """What is launched for a kernel that is left out."""


if __name__ == "__main__":
    main()
