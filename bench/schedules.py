"""Time the schedules of a layer in the whole forward: what the local convolution waits for, and how many slots it has.

    python bench/schedules.py [--width 64] [--blocks 18] [--sizes 1x1024x1024,8x512x512] [--turns 14]

A width of 64 and 18 blocks are big-lama's size, 32 and 15 the included network's. All schedules are captured once and
replayed in turns, so that the card's clock is the same for all. Prints, in ms, the median of the turns' medians of ten
replays, the smallest and largest turn, and the median of the 5th percentiles. Needs a Hopper card.
"""

import argparse
import dataclasses
import itertools
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.speed import environment
from bench.speed_model import captured, free_memory, random_generator, random_input, time_device
from lama.fast_generator import FastGenerator
from lama.kernels import hopper_trunk
from lama.triton_backend import TritonBackend
from lama.triton_trunk import TritonTrunk
from lama.trunk_schedule import Awaited

SLOTS = (3, 4, 5, 6)
AWAITED: tuple[Awaited, ...] = get_args(Awaited)
REPLAYS = 10
LARGEST_DIFFERENCE = 0.2  # grey levels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=18)
    parser.add_argument("--sizes", default="1x1024x1024,8x512x512", help="batch x height x width, by commas")
    parser.add_argument("--turns", type=int, default=14)
    options = parser.parse_args()
    generator = random_generator(width=options.width, blocks=options.blocks)
    network = FastGenerator(generator, device="cuda", dtype=torch.float16)
    if not isinstance(network.backend, TritonBackend):
        raise SystemExit(network.describe())
    print(f"{environment()}, {network.describe()}")
    for size in options.sizes.split(","):
        batch, height, width = (int(number) for number in size.split("x"))
        print(f"\n{size}, width {options.width}")
        time_schedules(network, network.backend.trunk, random_input(batch, height, width), turns=options.turns)


def time_schedules(network: FastGenerator, trunk: TritonTrunk, x: Tensor, *, turns: int) -> None:
    """Print a line for each schedule, the fastest first."""
    rows, graphs, first = trunk._rows, {}, None
    for kind, slots, awaited in itertools.product(("rows", "gluon"), SLOTS, AWAITED):
        with with_schedule(trunk, rows if kind == "rows" else None, slots, awaited):
            graph, out = captured(network, x)
        graph.replay()
        torch.cuda.synchronize()
        first = out.clone() if first is None else first
        difference = 255 * (out - first).abs().max().item()
        if not difference < LARGEST_DIFFERENCE:  # NaN too
            print(f"  differs by {difference:.2f} grey levels: {kind} {slots} {awaited}")
        graphs[kind, slots, awaited] = graph
    timings: dict[tuple[str, int, Awaited], list[Any]] = {schedule: [] for schedule in graphs}
    for _ in range(turns):
        for schedule, graph in graphs.items():
            timings[schedule].append(time_device(graph.replay, rounds=REPLAYS))
    medians = {schedule: [timing.median_ms for timing in each] for schedule, each in timings.items()}
    for schedule in sorted(medians, key=lambda schedule: statistics.median(medians[schedule])):
        each = medians[schedule]
        low = statistics.median(timing.low_ms for timing in timings[schedule])
        print(f"  {statistics.median(each):.3f} ({min(each):.3f}-{max(each):.3f}) low {low:.3f}", *schedule, flush=True)
    del graphs
    free_memory()


@contextmanager
def with_schedule(trunk: TritonTrunk, rows: Any, slots: int, awaited: Awaited) -> Iterator[None]:
    """Launch a layer by this schedule; `rows` is the form of the spectral path's first launch, or None for Gluon's."""
    share = trunk._share

    def shared(x: Tensor) -> Any:
        now = share(x)
        return dataclasses.replace(now, schedule=dataclasses.replace(now.schedule, local_after=awaited))

    of_layer = mock.patch.multiple(trunk, _rows=rows, _share=shared)
    with of_layer, mock.patch.object(hopper_trunk, "local_slots", lambda **_: slots):
        yield


if __name__ == "__main__":
    main()
