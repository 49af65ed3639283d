"""Own what of ours is measured: loads weights and makes the methods a command line asks for.

Works on the parsed command line of `quality.py`, which is small and picklable, so that every worker process can load
its own. Knows nothing of cases or figures.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.quality_peers import Fill, NetworkFill, RepairFill
from bench.quality_scores import UNGROWN_SUFFIX
from bench.quality_sweep import make_fills, read_sweeps
from masks.dilation import CropRules

if TYPE_CHECKING:
    from inference import Inpainter

EMBEDDED = "embedded"
NO_WEIGHTS = "none"
SQUEEZED_SUFFIX = ", squeezed to 512"
BARE_SUFFIX = ", rim not matched"


def name_methods(chosen: argparse.Namespace) -> list[str]:
    """Return the names of the methods that are compared with all others: a name per weights, or a sweep's values.

    The first value of a sweep is what the others are compared with, so it is not among them.
    """
    if chosen.sweep:
        return [variant.label for variant in read_sweeps(chosen.sweep, dilate_px=None, rules=CropRules())][1:]
    return list(_name_weights(chosen.weights))


def load_methods(chosen: argparse.Namespace) -> dict[str, Fill]:
    """Load the weights and return all methods made of them by name.

    Beside those of `name_methods` there are peers of ours made of the same network: its bare prediction on the network
    protocol, squeezed to 512x512 on the photo protocol, without dilation on the overlay protocol.
    """
    if chosen.sweep:
        return _load_sweep(chosen)
    fills: dict[str, Fill] = {}
    for name, path in _name_weights(chosen.weights).items():
        if chosen.protocol == "network":
            network = load_network(chosen, path)
            fills |= {name: network, name + BARE_SUFFIX: network.bare}
            continue
        inpainter = load_inpainter(chosen, path)
        if chosen.protocol == "photo":
            fills[name] = RepairFill(inpainter, dilate_px=0, quality=chosen.quality)
            fills[name + SQUEEZED_SUFFIX] = load_network(chosen, path).squeezed
        else:
            options = {"feather_px": chosen.feather_px, "quality": chosen.quality}
            fills[name] = RepairFill(inpainter, dilate_px=chosen.dilate_px, **options)
            fills[name + UNGROWN_SUFFIX] = RepairFill(inpainter, dilate_px=0, quality=chosen.quality)
    return fills


def load_network(chosen: argparse.Namespace, path: Path | None) -> NetworkFill:
    """Load weights for a single forward."""
    precision = "fp32" if chosen.precision == "auto" else chosen.precision
    return NetworkFill(path, device=chosen.device, precision=precision, form=chosen.form)


def load_inpainter(chosen: argparse.Namespace, path: Path | None) -> Inpainter:
    """Load weights for whole repairs, with the command line's largest bucket and graph mode."""
    from engine.devices import choose_device, describe_card, pick_profile
    from inference import Inpainter

    profile, _ = pick_profile(describe_card(choose_device(chosen.device)), None)
    if chosen.input_px:
        profile = replace(
            profile,
            input_px=chosen.input_px,
            buckets_px=(*(px for px in profile.buckets_px if px < chosen.input_px), chosen.input_px),
        )
    if chosen.graphs != "auto":
        profile = replace(profile, cuda_graph=chosen.graphs)
    return Inpainter.load(weights=path, device=chosen.device, precision=chosen.precision, profile=profile)


def _load_sweep(chosen: argparse.Namespace) -> dict[str, Fill]:
    (path,) = list(_name_weights(chosen.weights[:1]).values())
    variants = read_sweeps(chosen.sweep, dilate_px=chosen.dilate_px, rules=CropRules())
    return make_fills(lambda input_px: _load_limited(chosen, path, input_px), variants)


def _load_limited(chosen: argparse.Namespace, path: Path | None, input_px: int | None) -> Inpainter:
    # What meets the photo is part of a captured graph, and stays what it was when that was captured.
    graphs = "off" if any(sweep.startswith("rim") for sweep in chosen.sweep) else chosen.graphs
    own = argparse.Namespace(**vars(chosen) | {"input_px": input_px or chosen.input_px, "graphs": graphs})
    return load_inpainter(own, path)


def _name_weights(given: list[str]) -> dict[str, Path | None]:
    """A name for each weights file: its stem, or where several share one, its folder too."""
    paths = {text: None if text == EMBEDDED else Path(text) for text in given if text != NO_WEIGHTS}
    stems = Counter(path.stem for path in paths.values() if path)
    names: dict[str, Path | None] = {}
    for text, path in paths.items():
        if path is None:
            names[text] = None
        else:
            names[path.stem if stems[path.stem] == 1 else f"{path.parent.name}/{path.stem}"] = path
    return names
