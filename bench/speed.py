"""How fast, how exact and how big: the network and the whole repair on this GPU, beside what people run today.

    python bench/speed.py [--only model,repair,…] [--out FOLDER] [--name NAME] ...

model     ms, TFLOP/s, multiple of the arithmetic floor, peak memory and difference from float64, ours and the peers
          (published form eager float32 with TF32 convolutions as PyTorch has it, TorchScript trace, torch.compile)
profile   where one forward's time goes, kernel by kernel
nan       random inputs at every bucket and wild batch-norm variances: anything not finite
accuracy  float16 against float64 on photos, over their holes
buckets   the forward of the given weights at every bucket
mask      what it costs to find the hole in a large mask, in the cache and not
copies    a photo's rows into page-locked memory and out, by one thread and several
processor what surrounds the network where a CPU computes
grey      what a black and white photo costs the host
host      the host's steps of a repair, one by one
repair    the whole repair by wall clock, its stages and its jitter
rests     repairs in a row and the first after a rest, in half a minute
cap       100 large repairs in 6 GiB
start     process start to ready, kernel cache cold and warm
app       `app.py` from its start to ready, with the page
steps     where the time of a start goes, step by step
memory    what 200 repairs of mixed sizes leave allocated and reserved
switch    other weights without a restart, and back
batch     repairs handed in together beside one by one
measure   what `fftlama profile --measure` finds, and how long it takes
agree     repairs with crops by our kernels beside the same by plain PyTorch
launches  what repairs of three holes launch and wait for, and the device's time

Sections are independent; one that fails keeps its message, and the exit status is 1. Prints Markdown, then one JSON
line, and writes the same with the environment to FOLDER/NAME.json and .md (default: bench/results).
"""

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import given

RESULTS = Path(__file__).parent / "results"
OF_THE_NETWORK = ("model", "profile", "nan", "accuracy", "buckets")
OF_A_REPAIR = ("mask", "copies", "host", "processor", "grey", "repair", "rests", "cap", "start", "app", "steps")
SECTIONS = (*OF_THE_NETWORK, *OF_A_REPAIR, "memory", "switch", "batch", "measure", "agree", "launches")
SIZES = "1x512x512,1x768x768,1x1024x1024,1x1536x1536,2x512x512,4x512x512,8x512x512"
BUCKETS = "256,384,512,640,768,1024,1280,1536"


def main() -> None:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(SECTIONS))
    parser.add_argument("--sizes", default=SIZES, help="batch x height x width, by commas")
    parser.add_argument("--peers", default="eager,trace,compile", help="eager, trace, compile, ours fp16 one stream, …")
    parser.add_argument("--weights", help="weights file or name for accuracy, buckets, repair, cap and start")
    parser.add_argument("--width", type=int, default=64, help="of the random network of model, profile and nan")
    parser.add_argument("--blocks", type=int, default=18)
    parser.add_argument("--sides", default=BUCKETS, help="for nan and buckets")
    parser.add_argument("--inputs", type=int, default=1000, help="random inputs per side in nan")
    parser.add_argument("--seeds", type=int, default=10, help="wild networks in nan")
    parser.add_argument("--photos", type=given.folder, help="folder of .jpg for accuracy")
    parser.add_argument("--masks", type=given.folder, help="folder of folders of .png for accuracy")
    parser.add_argument("--skip", type=int, default=0, help="photos that accuracy leaves out")
    parser.add_argument("--seconds", type=float, default=120, help="after which accuracy stops")
    parser.add_argument("--name", default="speed", help="of the files written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    sections = options.only.split(",")
    if unknown := sorted(set(sections) - set(SECTIONS)):
        parser.error(f"there is no section {', '.join(unknown)}; there are: {', '.join(SECTIONS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    from lama.checkpoint import load_generator

    report: dict[str, Any] = {"environment": environment() | {"included_blocks": load_generator(None).blocks}}
    print(report["environment"], flush=True)
    failed = False
    for section in sections:
        print(f"\n## {section}", flush=True)
        started = time.monotonic()
        try:
            found = run_section(section, options)
            if isinstance(found, Iterator):
                report[section] = []
                for row in found:  # takes minutes: what has come is kept if the rest is not waited for
                    report[section].append(row)
                    save(report, options.out / options.name)
            else:
                report[section] = found
        except Exception as error:  # sections are independent: the others still run
            failed = True
            message = {"message": f"{type(error).__name__}: {error}"}
            report[section] = [*report[section], message] if section in report else message
            traceback.print_exc(limit=6)
        print(f"({section}: {time.monotonic() - started:.0f} s)", flush=True)
        save(report, options.out / options.name)
    print(json.dumps(report, default=str))
    sys.exit(failed)


def save(report: dict[str, Any], path: Path) -> None:
    """Write the report as `path` with .json and .md."""
    from bench.speed_report import render

    path.with_suffix(".json").write_text(json.dumps(report, default=str))
    path.with_suffix(".md").write_text(render(report))


def run_section(section: str, options: argparse.Namespace) -> Any:
    """Run one section and return its figures."""
    from bench import speed_engine, speed_host, speed_model, speed_repair, speed_rests, speed_start

    sides = [int(side) for side in options.sides.split(",")]
    sizes = [tuple(int(n) for n in size.split("x")) for size in options.sizes.split(",")]
    if section in ("model", "profile", "nan"):
        generator = speed_model.random_generator(width=options.width, blocks=options.blocks)
        if section == "profile":
            tables = {}
            for batch, height, width in sizes:
                tables[f"{batch}x{height}x{width}"] = speed_model.profile_table(generator, (batch, height, width))
                print(tables[f"{batch}x{height}x{width}"], flush=True)
            return tables
        if section == "nan":
            return speed_model.nan_rows(generator, sides=sides, inputs=options.inputs, seeds=options.seeds)
        print(speed_model.MODEL_HEADER, flush=True)
        peers = [peer for peer in options.peers.split(",") if peer]
        return speed_model.model_rows([(b, h, w) for b, h, w in sizes], peers=peers, generator=generator)
    if section == "accuracy":
        if options.photos is None or options.masks is None:
            raise ValueError("accuracy needs --photos and --masks")
        return speed_repair.accuracy_row(
            options.weights, options.photos, options.masks, skip=options.skip, seconds=options.seconds
        )
    if section == "buckets":
        return speed_repair.bucket_rows(options.weights, sides)
    if section == "mask":
        return speed_repair.mask_rows()
    if section == "copies":
        return speed_host.copy_rows()
    if section == "host":
        return speed_host.host_rows(options.weights)
    if section == "processor":
        return speed_host.processor_rows()
    if section == "grey":
        return speed_host.grey_rows()
    if section == "repair":
        return speed_repair.repair_rows(options.weights)
    if section == "rests":
        return speed_rests.rest_rows(options.weights)
    if section == "cap":
        return speed_repair.capped_rows(options.weights)
    if section == "start":
        return speed_start.start_rows(options.weights)
    if section == "app":
        return speed_start.app_row()
    if section == "steps":
        return speed_start.step_rows(options.weights)
    engine = {
        "memory": lambda: speed_engine.memory_row(options.weights),
        "switch": lambda: speed_engine.switch_row(width=options.width, blocks=options.blocks),
        "batch": lambda: speed_engine.batch_rows(options.weights),
        "measure": lambda: speed_engine.measure_row(options.weights),
        "agree": lambda: speed_engine.agree_rows(options.weights),
        "launches": lambda: speed_engine.launch_rows(options.weights),
    }
    if section in engine:
        return engine[section]()
    raise ValueError(f"no section {section!r}; there are {', '.join(SECTIONS)}")


def environment() -> dict[str, Any]:
    """What the figures were taken on."""
    import triton

    found = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if found else "none",
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
