"""Own the quality bench: how good repairs are, beside classical peers, on three protocols.

    .venv/bin/python bench/quality.py --photos DIR --masks DIR --features FILE --protocol network --weights FILE...

Protocols are defined in `quality_protocols`, figures in `quality_figures`, peers in `quality_peers`. Folders may also
be given by EVAL_PHOTOS, EVAL_MASKS and EVAL_FEATURES. Prints Markdown tables, then one JSON line, and saves both under
bench/results/. `--sheet FILE` draws a contact sheet, `--sweep NAME=VALUES ...` measures constants of the repair at
several values (`quality_sweep`). Without --weights the embedded ones are measured; `--weights none` measures peers
alone, several files are compared in one table.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Run as a file, Python looks for imports beside it; the rooms lie one folder up.
    sys.path[0] = str(ROOT)

from bench import given  # noqa: E402
from bench.quality_kid import find_weights  # noqa: E402
from bench.quality_methods import EMBEDDED, load_methods, name_methods  # noqa: E402
from bench.quality_peers import CLASSICAL  # noqa: E402
from bench.quality_protocols import PROTOCOLS, kinds_of, list_photos  # noqa: E402
from bench.quality_report import (  # noqa: E402
    brief,
    describe_device,
    json_line,
    markdown,
    read_environment,
    save_report,
    summarize,
)
from bench.quality_scores import Record, Setup, score  # noqa: E402
from bench.quality_sheet import draw_sheet, save_with_credits  # noqa: E402
from bench.quality_sweep import SWEEPS  # noqa: E402


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; folders fall back to the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=given.folder, default=os.environ.get("EVAL_PHOTOS"), help="folder of clean photos")
    add("--masks", type=given.folder, default=os.environ.get("EVAL_MASKS"), help="folder of <kind>/<photo>.png")
    add("--features", type=given.file, default=os.environ.get("EVAL_FEATURES"), help="SqueezeNet 1.0 weights")
    add(
        "--second-features",
        type=given.file,
        default=find_weights(),
        help="EfficientNet-Lite0 weights; default: the package's",
    )
    add("--protocol", choices=PROTOCOLS, default="network")
    add("--weights", nargs="*", default=[EMBEDDED], help="files; 'embedded'; 'none' for peers alone")
    add("--kinds", default="", help="comma-separated; default: all of the protocol")
    add("--peers", default=",".join(CLASSICAL), help="comma-separated; 'none'")
    add("--every", type=int, default=3, help="every n-th photo in sorted order")
    add("--out", type=Path, default=ROOT / "bench" / "results")
    add("--name", default="", help="of the report; default quality-<protocol>-<weights>")
    add("--cache", type=Path, default=ROOT / "data" / "bench-cache", help="figures of the peers")
    add("--processes", type=int, default=1, help="that work at once, each with its own copy of the weights")
    add("--device", default="auto")
    add("--precision", default="auto", help="auto (network: fp32; repair: the engine's own), fp32, bf16 or fp16")
    add("--form", choices=("fused", "published"), default="fused", help="of the network protocol")
    add("--quality", choices=("fast", "high"), default="fast", help="of the repair")
    add("--input-px", type=int, help="of the repair: side of the largest bucket; default: the profile's")
    add("--graphs", choices=("auto", "on", "off"), default="auto", help="of the repair; off starts faster")
    add("--dilate-px", type=int, help="overlay: given to the repair and to the peers; default: the repair's own")
    add("--feather-px", type=int, help="overlay: given to the repair")
    add("--sheet", type=Path, help="draw a contact sheet into this JPEG instead of measuring")
    add("--sheet-photos", type=int, default=3, help="photos per kind on the sheet")
    add("--sources", type=given.file, help="table of the photos' authors; default: SOURCES-eval.csv beside the folder")
    add("--sweep", nargs="+", metavar="NAME[=VALUES]", help=f"one constant each at several values: {', '.join(SWEEPS)}")
    add("--seconds", type=float, help="stop by then, with the cases that are scored")
    add("--brief", action="store_true", help="print a line per method and no intervals; all is saved as ever")
    add("--commit", default="", help="for the report, where the checkout has no history")
    chosen = parser.parse_args(arguments)
    if chosen.sweep:
        protocols = {SWEEPS.get(sweep.partition("=")[0], "") for sweep in chosen.sweep}
        if len(protocols) > 1 or "" in protocols:
            parser.error(f"sweeps of one run have to be of one protocol, and among {SWEEPS}")
        (chosen.protocol,) = protocols
    if chosen.photos is None or (chosen.masks is None and chosen.protocol != "overlay"):
        parser.error("--photos and --masks (or EVAL_PHOTOS and EVAL_MASKS) are needed")
    if chosen.device == "auto":
        import torch

        chosen.device = "cuda" if torch.cuda.is_available() else "cpu"
    return chosen


def make_setup(chosen: argparse.Namespace) -> Setup:
    """Return what is to be measured."""
    kinds = tuple(chosen.kinds.split(",")) if chosen.kinds else kinds_of(chosen.protocol)
    unknown = set(kinds) - set(kinds_of(chosen.protocol))
    if unknown:
        raise SystemExit(f"unknown kinds {sorted(unknown)}; {chosen.protocol} has {kinds_of(chosen.protocol)}")
    return Setup(
        protocol=chosen.protocol,
        photos=tuple(list_photos(chosen.photos, every=chosen.every)),
        kinds=kinds,
        masks=chosen.masks,
        features=chosen.features,
        cache=chosen.cache,
        dilate_px=chosen.dilate_px,
        device=chosen.device,
        second_features=chosen.second_features,
    )


def measure(chosen: argparse.Namespace, setup: Setup) -> None:
    """Score peers and ours, print the tables and the JSON line, and save both."""
    started_s = time.perf_counter()
    peers = () if chosen.peers == "none" or chosen.sweep else tuple(chosen.peers.split(","))
    ours = name_methods(chosen)
    load = partial(load_methods, chosen) if ours else None
    records: list[Record] = score(setup, peers, load, processes=chosen.processes, seconds=chosen.seconds)
    environment = read_environment(
        ROOT,
        commit=chosen.commit,
        device=describe_device(chosen.device),
        precision=chosen.precision,
        photos=f"every {chosen.every}. of {chosen.photos.name}, {len(setup.photos)} photos",
        took=f"{time.perf_counter() - started_s:.0f} s in {chosen.processes} processes",
    )
    text = markdown(records, setup.kinds, ours, protocol=setup.protocol, environment=environment)
    summary = summarize(records, setup.kinds, ours, protocol=setup.protocol, environment=environment)
    default_name = (
        ["sweep", *(s.partition("=")[0] for s in chosen.sweep)]
        if chosen.sweep
        else [setup.protocol, *(ours or ["peers"])]
    )
    save_report(chosen.out, chosen.name or "-".join(["quality", *default_name]), text, summary, records)
    print(brief(records, setup.kinds, ours, protocol=setup.protocol) if chosen.brief else text)
    if chosen.brief:
        print("took", environment["took"])
    else:
        print(json_line(summary))


def draw(chosen: argparse.Namespace, setup: Setup) -> None:
    """Draw the contact sheet of a few photos, evenly spread over the list."""
    step = max(1, len(setup.photos) // chosen.sheet_photos)
    fills = load_methods(chosen)
    few = replace(setup, photos=setup.photos[::step][: chosen.sheet_photos])
    sheet = draw_sheet(few, {name: fills[name] for name in name_methods(chosen)})
    sources = chosen.sources or chosen.photos.parent / "SOURCES-eval.csv"
    shown = {photo.stem: photo for photo in few.photos}
    save_with_credits(sheet, chosen.sheet, "Photos on the sheet.", shown, sources)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure or draw what the command line asks for."""
    chosen = parse_arguments(arguments)
    setup = make_setup(chosen)
    if chosen.sheet:
        draw(chosen, setup)
    else:
        measure(chosen, setup)


if __name__ == "__main__":
    main()
