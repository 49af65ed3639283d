"""Find the block shapes of `lama/kernels/tiles.py`: check and time every candidate on this card.

    python bench/tune_kernels.py [--kernels local,global] [--sizes 128,64,32] [--batches 1,8] [--out FOLDER]

For every kernel at every size (features of 8 times fewer pixels, width 64): each candidate tile runs on fresh random
inputs into poisoned memory, is compared with the float32 PyTorch expression, and is timed as the replay of a CUDA graph
of 20 launches over inputs that rotate through more memory than the L2 cache holds. A candidate that does not compile
or fit keeps its message. Several processes compile ahead into Triton's cache. Prints for every kernel and size the best
five and the tile the table has now; all figures go to FOLDER/tune_kernels.json (default: bench/results),
rewritten after every kernel so that a cut run is not lost.
"""

import argparse
import contextlib
import functools
import json
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.kernel_cases import DEVICE, KERNEL_CASES
from lama.kernels.tiles import tile_for

RESULTS = Path(__file__).parent / "results"
LAUNCHES_PER_REPLAY = 20
REPLAYS = 7
LARGEST_ERROR = 2e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kernels", default="local,global,columns,spectrum,enter,enter_rows,rows,down,up,stem,head")
    parser.add_argument("--sizes", default="128,64", help="sides of the feature maps")
    parser.add_argument("--batches", default="1")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile ahead; 0: compile one by one")
    parser.add_argument("--compile-part", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=500, help="stop starting new kernels after this long")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    figures: list[dict[str, Any]] = []
    names, sizes, batches = (list_of.split(",") for list_of in (options.kernels, options.sizes, options.batches))
    turns = [(name, int(size), int(batch)) for size in sizes for batch in batches for name in names]
    if options.compile_part is not None:
        compile_part(turns, options.compile_part, options.workers)
        return
    if options.workers:
        compile_ahead(options.workers, time_limit_s=options.seconds / 2)
        print(f"compiled after {time.monotonic() - started:.0f} s", flush=True)
    for name, size, batch in turns:
        if time.monotonic() - started > options.seconds:
            print(f"out of time before {name} {size} b{batch}")
            break
        try:
            figures.append(measure_case(name, size, batch))
        except Exception as error:  # one kernel must not cost the others their turn
            print(f"{name} {size} b{batch} FAILED {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(limit=3)
        torch.cuda.empty_cache()
        (options.out / "tune_kernels.json").write_text(json.dumps({"device": device_name(), "figures": figures}))
    print(f"{time.monotonic() - started:.0f} s")


def compile_ahead(workers: int, *, time_limit_s: float) -> None:
    """Compile all candidates into Triton's cache on disk with several processes; what fails there fails again later."""
    command = [sys.executable, *sys.argv, "--workers", str(workers), "--compile-part"]
    processes = [
        subprocess.Popen([*command, str(part)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for part in range(workers)
    ]
    deadline = time.monotonic() + time_limit_s
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def compile_part(turns: list[tuple[str, int, int]], part: int, parts: int) -> None:
    """Compile and run once every `parts`-th candidate of every case."""
    for name, size, batch in turns:
        with contextlib.suppress(Exception):
            case = KERNEL_CASES[name](size, batch)
            for tile in case.candidates[part::parts]:
                with contextlib.suppress(Exception):
                    case.launch(tile, 0)
            torch.cuda.synchronize()
        torch.cuda.empty_cache()


def device_name() -> str:
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"


def measure_case(name: str, size: int, batch: int) -> dict[str, Any]:
    """Check and time every candidate of one kernel; print one block of lines."""
    torch.manual_seed(size + batch)
    case = KERNEL_CASES[name](size, batch)
    now = tile_for(case.kernel, case.rows, columns=case.columns, depth=case.depth, device=DEVICE)
    candidates = list(dict.fromkeys([now, *case.candidates]))
    results = []
    for tile in candidates:
        result: dict[str, Any] = {"tile": asdict(tile), "us": None}
        try:
            case.poison()
            case.launch(tile, 0)
            torch.cuda.synchronize()
            error = case.error()
            result["error"] = error
            if error <= LARGEST_ERROR:
                result["us"], result["spread_us"] = graph_time_us(functools.partial(case.launch, tile))
        except Exception as error:  # kept beside the figures: mostly shared memory
            result["message"] = f"{type(error).__name__}: {error}"[:200]
        results.append(result)
    timed = sorted((r for r in results if r["us"] is not None), key=lambda r: r["us"])
    wrong = [r for r in results if r["us"] is None]
    print(f"{name} {size}x{size} b{batch}: {len(timed)} of {len(results)} ran", flush=True)
    for result in timed[:5] + [r for r in timed[5:] if r["tile"] == asdict(now)]:
        rate = case.flop / result["us"] / 1e6
        here = "  <- table" if result["tile"] == asdict(now) else ""
        print(
            f"  {result['us']:7.1f} us {rate:4.0f} TFLOP/s {tuple(result['tile'].values())} {result['error']:.0e}{here}"
        )
    for result in wrong[:2]:
        print(f"  no: {tuple(result['tile'].values())} {result.get('message', result.get('error'))}")
    return {"kernel": name, "size": size, "batch": batch, "flop": case.flop, "results": timed + wrong}


def graph_time_us(launch: Callable[[int], None]) -> tuple[float, float]:
    """Median and spread of one launch in microseconds, from replays of a captured row of launches."""
    for i in range(3):
        launch(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(LAUNCHES_PER_REPLAY):
            launch(i)
    graph.replay()
    times = []
    for _ in range(REPLAYS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / LAUNCHES_PER_REPLAY * 1e3)
    return statistics.median(times), max(times) - min(times)


if __name__ == "__main__":
    main()
