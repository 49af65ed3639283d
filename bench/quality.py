"""Own the quality bench: how good repairs are, beside classical peers, on three protocols.

    .venv/bin/python bench/quality.py --photos DIR --masks DIR --features FILE --protocol network --weights FILE...

Protocols are defined in `quality_protocols`, figures in `quality_figures`, peers in `quality_peers`. Folders may also
be given by EVAL_PHOTOS, EVAL_MASKS and EVAL_FEATURES. Prints Markdown tables, then one JSON
line, and saves both under bench/results/. `--sheet FILE` draws a contact sheet, `--sweep NAME --values ...` measures
one constant of the repair at several values. Without --weights the embedded ones are measured; `--weights none`
measures peers alone.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Run as a file, Python looks for imports beside it; the rooms lie one folder up.
    sys.path[0] = str(ROOT)

from bench.quality_peers import CLASSICAL, Fill, NetworkFill, RepairFill  # noqa: E402
from bench.quality_protocols import PROTOCOLS, kinds_of, list_photos  # noqa: E402
from bench.quality_report import json_line, markdown, read_environment, save_report, summarize  # noqa: E402
from bench.quality_scores import UNGROWN_SUFFIX, Record, Setup, score_fills, score_peers  # noqa: E402
from bench.quality_sheet import draw_sheet, save_small_jpeg  # noqa: E402
from bench.quality_sweep import SWEEPS, make_fills, read_variants  # noqa: E402

if TYPE_CHECKING:
    from inference import Inpainter

EMBEDDED = "embedded"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; folders fall back to the environment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--photos", type=Path, default=os.environ.get("EVAL_PHOTOS"), help="folder of clean photos")
    add("--masks", type=Path, default=os.environ.get("EVAL_MASKS"), help="folder of <kind>/<photo>.png")
    add("--features", type=Path, default=os.environ.get("EVAL_FEATURES"), help="SqueezeNet 1.0 weights")
    add("--protocol", choices=PROTOCOLS, default="network")
    add("--weights", nargs="*", default=[EMBEDDED], help="files; 'embedded'; 'none' for peers alone")
    add("--kinds", default="", help="comma-separated; default: all of the protocol")
    add("--peers", default=",".join(CLASSICAL), help="comma-separated; 'none'")
    add("--every", type=int, default=3, help="every n-th photo in sorted order")
    add("--out", type=Path, default=ROOT / "bench" / "results")
    add("--name", default="", help="of the report; default quality-<protocol>-<weights>")
    add("--cache", type=Path, default=ROOT / "data" / "bench-cache", help="figures of the peers")
    add("--processes", type=int, default=1, help="that score peers at once")
    add("--device", default="auto")
    add("--precision", default="auto", help="auto (network: fp32; repair: the engine's own), fp32, bf16 or fp16")
    add("--form", choices=("fused", "published"), default="fused", help="of the network protocol")
    add("--quality", choices=("fast", "high"), default="fast", help="of the repair")
    add("--dilate-px", type=int, help="overlay: given to the repair and to the peers; default: the repair's own")
    add("--feather-px", type=int, help="overlay: given to the repair")
    add("--sheet", type=Path, help="draw a contact sheet into this JPEG instead of measuring")
    add("--sheet-photos", type=int, default=3, help="photos per kind on the sheet")
    add("--sweep", choices=tuple(SWEEPS), help="measure one constant at several values; sets the protocol")
    add("--values", default="", help="comma-separated values of the sweep; 'auto' is the default rule")
    chosen = parser.parse_args(arguments)
    if chosen.sweep:
        chosen.protocol = SWEEPS[chosen.sweep]
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
    )


def load_network(chosen: argparse.Namespace, path: Path | None) -> NetworkFill:
    """Load weights for a single forward."""
    precision = "fp32" if chosen.precision == "auto" else chosen.precision
    return NetworkFill(path, device=chosen.device, precision=precision, form=chosen.form)


def load_inpainter(chosen: argparse.Namespace, path: Path | None) -> "Inpainter":
    """Load weights for whole repairs."""
    from inference import Inpainter

    return Inpainter.load(weights=path, device=chosen.device, precision=chosen.precision)


def load_fills(chosen: argparse.Namespace) -> tuple[dict[str, Fill], list[str]]:
    """Load the weights; return all methods made of them by name, and the names that are ours.

    The others are peers of ours made of the same network: squeezed to 512x512 on the photo protocol, without dilation
    on the overlay protocol.
    """
    fills: dict[str, Fill] = {}
    ours: list[str] = []
    for given in chosen.weights:
        if given == "none":
            continue
        path = None if given == EMBEDDED else Path(given)
        name = given if path is None else path.stem
        ours.append(name)
        if chosen.protocol == "network":
            fills[name] = load_network(chosen, path)
            continue
        inpainter = load_inpainter(chosen, path)
        if chosen.protocol == "photo":
            fills[name] = RepairFill(inpainter, dilate_px=0, quality=chosen.quality)
            fills[f"{name}, squeezed to 512"] = load_network(chosen, path).squeezed
        else:
            options = {"feather_px": chosen.feather_px, "quality": chosen.quality}
            fills[name] = RepairFill(inpainter, dilate_px=chosen.dilate_px, **options)
            fills[name + UNGROWN_SUFFIX] = RepairFill(inpainter, dilate_px=0, quality=chosen.quality)
    return fills, ours


def load_sweep(chosen: argparse.Namespace) -> tuple[dict[str, Fill], list[str]]:
    """Load the first weights; return a method per value of the sweep, and all names but the first."""
    path = None if chosen.weights[0] == EMBEDDED else Path(chosen.weights[0])
    inpainter = load_inpainter(chosen, path)
    variants = read_variants(chosen.sweep, chosen.values, dilate_px=chosen.dilate_px, rules=inpainter.crop_rules)
    fills = make_fills(inpainter, variants)
    return fills, list(fills)[1:]


def measure(chosen: argparse.Namespace, setup: Setup) -> None:
    """Score peers and ours, print the tables and the JSON line, and save both."""
    started_s = time.perf_counter()
    peers = () if chosen.peers == "none" or chosen.sweep else tuple(chosen.peers.split(","))
    records: list[Record] = score_peers(setup, peers, processes=chosen.processes) if peers else []
    peers_s = time.perf_counter() - started_s
    fills, ours = load_sweep(chosen) if chosen.sweep else load_fills(chosen)
    if fills:
        records += score_fills(setup, fills, device=chosen.device)
    ours_s = time.perf_counter() - started_s - peers_s
    environment = read_environment(
        ROOT,
        device=chosen.device,
        precision=chosen.precision,
        photos=f"every {chosen.every}. of {chosen.photos.name}, {len(setup.photos)} photos",
        took=f"{peers_s:.0f} s for peers, {ours_s:.0f} s for ours",
    )
    text = markdown(records, setup.kinds, ours, protocol=setup.protocol, environment=environment)
    summary = summarize(records, setup.kinds, ours, protocol=setup.protocol, environment=environment)
    default_name = ["sweep", chosen.sweep] if chosen.sweep else [setup.protocol, *(ours or ["peers"])]
    save_report(chosen.out, chosen.name or "-".join(["quality", *default_name]), text, summary, records)
    print(text)
    print(json_line(summary))


def draw(chosen: argparse.Namespace, setup: Setup) -> None:
    """Draw the contact sheet of a few photos, evenly spread over the list."""
    step = max(1, len(setup.photos) // chosen.sheet_photos)
    fills, ours = load_fills(chosen)
    few = replace(setup, photos=setup.photos[::step][: chosen.sheet_photos])
    size = save_small_jpeg(draw_sheet(few, {name: fills[name] for name in ours}), chosen.sheet)
    print(f"{chosen.sheet}: {size} bytes")


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
