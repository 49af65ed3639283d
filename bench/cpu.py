"""How fast the network and the whole repair are on this CPU, beside the TorchScript trace people run today.

    python bench/cpu.py [--threads 2] [--rounds 5] [--networks compact,big] [--side 512] [--weights FILE] [--out FOLDER]

All forms of a network run in turn within every round, so that a busy machine slows them alike; the ratio is that of the
fastest rounds. Columns: fastest and median wall clock, processor time of all threads, ratio to the trace, difference
from the float32 published form. Then the whole `repair()` at the same size. Prints Markdown, then one JSON line, and
writes the same with the environment to FOLDER/cpu.json (default: bench/results). With --operators nothing but where one
float32 forward of the first network spends its time. `ONEDNN_MAX_CPU_ISA=AVX2` makes a processor one without bfloat16.

    python bench/cpu.py --beside BEFORE [--threads 2] [--rounds 10] [--side 512]

times nothing but the repair in float32, in this checkout and in BEFORE, another one, such as a git worktree of an
earlier commit: a process of each does the same in turns, A B B A, so that whatever else the machine does slows both.
Columns: fastest and median of each, and the median of the ratios of turns.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import given
from bench.speed_model import random_generator
from bench.speed_repair import photo_and_hole
from lama.checkpoint import load_generator
from lama.devices import cpu_supports_bf16
from lama.fast_generator import FastGenerator

RESULTS = Path(__file__).parent / "results"
NETWORKS = ("compact", "big")
HOLE_SHARES = (0.33, 0.6)  # of the photo's side: a crop of it is filled, all of it is filled
# A process of one checkout: for each name of a file with photo and mask on standard input, milliseconds of its repair.
REPAIRS = """
import sys, time
sys.path[0] = {checkout!r}
import numpy, torch
torch.set_num_threads({threads})
from inference import Inpainter
inpainter = Inpainter.load(device="cpu", precision="fp32")
for line in sys.stdin:
    given = numpy.load(line.strip())
    image, mask = given["image"], given["mask"]
    started = time.perf_counter()
    assert inpainter.repair(image, mask).patches
    print((time.perf_counter() - started) * 1e3, flush=True)
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", default="compact,big")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--weights", help="for compact and the repair; default: the embedded ones")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--operators", action="store_true", help="where one float32 forward spends its time")
    parser.add_argument(
        "--beside", type=given.checkout, metavar="BEFORE", help="another checkout, whose repairs take turns"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.networks.split(",")) - set(NETWORKS)):
        parser.error(f"there is no network {', '.join(unknown)}; there are: {', '.join(NETWORKS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    if options.operators:
        print(environment(options.threads))
        print(operators(options.networks.split(",")[0], options.side, weights=options.weights))
        return
    if options.beside is not None:
        print(environment(options.threads))
        print(beside(options.beside, options.side, threads=options.threads, rounds=options.rounds))
        return
    report: dict[str, Any] = {"environment": environment(options.threads), "forms": [], "repair": []}
    print(report["environment"])
    print("\n| network | form | fastest ms | median ms | processor ms | x trace | max / mean grey levels | within 3 |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.networks.split(","):
        report["forms"] += measure_network(name, options.side, rounds=options.rounds, weights=options.weights)
    # Where the CPU multiplies no bfloat16, the engine refuses it: there is no repair to time.
    for precision in ("bf16", "fp32") if cpu_supports_bf16() else ("fp32",):
        report["repair"] += measure_repairs(precision, options.side, rounds=options.rounds, weights=options.weights)
    (options.out / "cpu.json").write_text(json.dumps(report))
    print(json.dumps(report))


@torch.no_grad()
def operators(name: str, side: int, *, weights: str | None, rows: int = 20) -> str:
    """Return a table of the operators and shapes that take most of one float32 forward, in parts of it."""
    generator = load_generator(weights) if name == "compact" else random_generator()
    network, x = FastGenerator(generator, device="cpu", dtype=torch.float32), masked_noise(side)
    network(x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profile:
        network(x)
    found = profile.key_averages(group_by_input_shape=True)
    all_us = sum(each.self_cpu_time_total for each in found)
    lines = ["| operator | shapes | calls | ms each | part |", "|---|---|---|---|---|"]
    for each in sorted(found, key=lambda each: -each.self_cpu_time_total)[:rows]:
        shapes = " ".join("x".join(map(str, shape)) for shape in each.input_shapes if shape)
        ms, part = each.self_cpu_time_total / each.count / 1e3, each.self_cpu_time_total / all_us
        lines.append(f"| {each.key} | {shapes} | {each.count} | {ms:.2f} | {part:.3f} |")
    return "\n".join(lines)


def beside(before: Path, side: int, *, threads: int, rounds: int) -> str:
    """Return a table of the repair in float32 in another checkout and in this one, in turns."""
    checkouts = {"before": before.resolve(), "now": Path(__file__).resolve().parents[1]}
    lines = ["| hole | before, fastest / median ms | now | ratio |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        processes = {
            name: subprocess.Popen(
                [sys.executable, "-c", REPAIRS.format(checkout=str(checkout), threads=threads)],
                cwd=checkout,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for name, checkout in checkouts.items()
        }

        def turn(name: str, given: Path) -> float:
            to, back = processes[name].stdin, processes[name].stdout
            assert to is not None and back is not None
            to.write(f"{given}\n")
            to.flush()
            return float(back.readline())

        for share in HOLE_SHARES:
            image, mask = photo_and_hole(side, side, round(side * share))
            given = Path(folder) / f"{share}.npz"
            np.savez(given, image=image, mask=mask)
            ms: dict[str, list[float]] = {name: [] for name in processes}
            for number in range(2 + rounds):  # the first two warm up
                for name in sorted(processes, reverse=bool(number % 2)):
                    ms[name].append(turn(name, given))
            first, second = ms["before"][2:], ms["now"][2:]
            ratio = statistics.median(b / a for a, b in zip(first, second, strict=True))
            told = [f"{min(each):.0f} / {statistics.median(each):.0f}" for each in (first, second)]
            lines.append(f"| {round(side * share)} px | {told[0]} | {told[1]} | {ratio:.2f} |")
        for process in processes.values():
            process.communicate()
    return "\n".join(lines)


@torch.no_grad()
def measure_network(name: str, side: int, *, rounds: int, weights: str | None) -> list[dict[str, Any]]:
    """Time every form of one network in turn."""
    generator = load_generator(weights) if name == "compact" else random_generator()
    x = masked_noise(side)
    expected = generator(x)
    traced = torch.jit.optimize_for_inference(torch.jit.trace(generator, x, check_trace=False))
    forms: dict[str, Callable[[Tensor], Tensor]] = {"trace fp32": traced}
    for label, dtype in (("ours fp32", torch.float32), ("ours bf16", torch.bfloat16)):
        forms[label] = FastGenerator(generator, device="cpu", dtype=dtype)
    outputs = {label: form(x) for label, form in forms.items()}
    walls: dict[str, list[float]] = {label: [] for label in forms}
    processor: dict[str, list[float]] = {label: [] for label in forms}
    for _ in range(rounds):
        for label, form in forms.items():
            wall, used = time.perf_counter(), time.process_time()
            form(x)
            walls[label].append((time.perf_counter() - wall) * 1e3)
            processor[label].append((time.process_time() - used) * 1e3)
    rows = []
    for label, output in outputs.items():
        grey = (output - expected).abs().amax(1)[x[:, 3] > 0] * 255
        row = {
            "network": name,
            "form": label,
            "side": side,
            "fastest_ms": min(walls[label]),
            "median_ms": statistics.median(walls[label]),
            "processor_ms": min(processor[label]),
            "times_trace": min(walls["trace fp32"]) / min(walls[label]),
            "max_grey": grey.max().item(),
            "mean_grey": grey.mean().item(),
            "within_3": (grey <= 3).double().mean().item(),
        }
        rows.append(row)
        print(
            f"| {name} | {label} | {row['fastest_ms']:.0f} | {row['median_ms']:.0f} | {row['processor_ms']:.0f} "
            f"| {row['times_trace']:.2f} | {row['max_grey']:.2f} / {row['mean_grey']:.3f} | {row['within_3']:.4f} |",
            flush=True,
        )
    return rows


def measure_repairs(precision: str, side: int, *, rounds: int, weights: str | None) -> list[dict[str, Any]]:
    """Time the whole repair of a square photo whose middle is missing, a row for every size of the hole."""
    from inference import Inpainter

    inpainter = Inpainter.load(weights, device="cpu", precision=precision)
    rows = []
    for share in HOLE_SHARES:
        image, mask = photo_and_hole(side, side, round(side * share))
        inpainter.repair(image, mask)
        walls = []
        for _ in range(rounds):
            started = time.perf_counter()
            result = inpainter.repair(image, mask)
            walls.append((time.perf_counter() - started) * 1e3)
        fastest, median = min(walls), statistics.median(walls)
        row = {"precision": precision, "side": side, "hole_px": round(side * share), "fastest_ms": fastest}
        print(
            f"| repair {side} {precision}, hole of {row['hole_px']} px | {fastest:.0f} ms | median {median:.0f} ms "
            f"| network {result.timings_ms['predict']:.0f} ms |",
            flush=True,
        )
        rows.append(row | {"median_ms": median, "stages_ms": result.timings_ms})
    return rows


def masked_noise(side: int) -> Tensor:
    """A smooth image with grain, a disc of it missing, as the network takes it."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    random = np.random.default_rng(0)
    image = 0.5 + 0.3 * np.sin(x / 31) * np.cos(y / 23) + random.normal(0, 0.03, (3, side, side))
    hole = ((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side / 5) ** 2).astype(np.float32)
    return torch.from_numpy(np.concatenate([image.clip(0, 1) * (1 - hole), hole[None]])[None].astype(np.float32))


def environment(threads: int) -> dict[str, Any]:
    """What the figures were taken on."""
    model = next((line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), "unknown")
    return {
        "cpu": model,
        "threads": threads,
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


if __name__ == "__main__":
    main()
