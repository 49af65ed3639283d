"""Own the sweeps: one constant of the repair at several values, everything else the same.

    context_margin  on the photo protocol; a value is a part of the hole box's longer side, or RATIO/MIN/MAX with the
                    limits in pixels: 0.5 or 0.5/64/256
    input_px        on the photo protocol; a value is the side of the largest bucket in pixels
    quality         on the photo protocol; a value is fast or high, with /PX after it for the largest bucket: high/512
    rim             on the photo protocol; off leaves the prediction as it is where the repair meets the photo, and
                    MODULE:FUNCTION takes the place of `correct_seam` (tensor_ops/seam_correction.py)
    broad           on the photo protocol; off fills large holes without the pass over their wider surroundings
                    (engine/context_pass.py)
    dilate          on the overlay protocol; a value is a radius in pixels, or RATIO+EXTRA of the default rule, with
                    @PX after it for the feather: 4, 0.2+3 or 0.2+3@1
    feather         on the overlay protocol; a value is a width in pixels
    shadow          on the overlay protocol; a value is the most that a thin hole is drawn out by after a shadow, in
                    pixels (masks/shadows.py); off leaves shadows standing

"auto" is what the repair does by itself. Every value after the first is compared with the first, photo by photo.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.quality_peers import Fill
from masks.dilation import CropRules

if TYPE_CHECKING:
    from torch import Tensor

    from inference import Inpainter

SWEEPS = {
    "context_margin": "photo",
    "input_px": "photo",
    "quality": "photo",
    "rim": "photo",
    "broad": "photo",
    "dilate": "overlay",
    "feather": "overlay",
    "shadow": "overlay",
}
DEFAULT_VALUES = {
    "context_margin": "auto,0.125,0.25,0.5,0.75,1.0",
    "input_px": "auto,512,768,1024",
    "quality": "fast,high",
    "rim": "auto,off",
    "broad": "auto,off",
    "dilate": "auto,0,1,2,3,4,6,8,12",
    "feather": "auto,0,1,2,4",
    "shadow": "off,auto",
}

LoadLimited = Callable[[int | None], "Inpainter"]


@dataclass(frozen=True)
class Variant:
    """One value of a sweep: rules and options of the repair.

    Attributes:
        label: how the tables call it.
        rules: constants of the crop plan.
        dilate_px: as `Inpainter.repair` takes it.
        feather_px: as `Inpainter.repair` takes it.
        quality: as `Inpainter.repair` takes it.
        input_px: side of the largest bucket; None is the profile's.
        rim: what takes the place of `correct_seam`: "" for itself, "off", or MODULE:FUNCTION.
        broad: whether large holes get the pass over their wider surroundings.
    """

    label: str
    rules: CropRules
    dilate_px: int | None
    feather_px: int | None = None
    quality: str = "fast"
    input_px: int | None = None
    rim: str = ""
    broad: bool = True


def read_sweeps(sweeps: Sequence[str], *, dilate_px: int | None, rules: CropRules) -> list[Variant]:
    """Turn NAME=VALUES of one protocol into variants, those of a name alone being DEFAULT_VALUES.

    What the repair does by itself appears once, as "auto". The other arguments are those of `read_variants`.
    """
    variants: dict[str, Variant] = {}
    for sweep in sweeps:
        name, _, values = sweep.partition("=")
        for variant in read_variants(name, values, dilate_px=dilate_px, rules=rules):
            label = "auto" if variant.label == f"{name} auto" else variant.label
            variants.setdefault(label, replace(variant, label=label))
    return list(variants.values())


def read_variants(sweep: str, values: str, *, dilate_px: int | None, rules: CropRules) -> list[Variant]:
    """Turn comma-separated values into variants; an empty string is DEFAULT_VALUES.

    Args:
        sweep: a key of SWEEPS.
        values: as the module's docstring says.
        dilate_px: dilation of a feather sweep; sweeps on the photo protocol have none, a dilate sweep sets it.
        rules: the constants everything else keeps.

    Returns:
        one variant per value, in the given order.
    """
    variants = []
    for value in (values or DEFAULT_VALUES[sweep]).split(","):
        own = Variant(f"{sweep} {value}", rules, 0 if SWEEPS[sweep] == "photo" else dilate_px)
        variants.append(own if value == "auto" else _with_value(own, sweep, value))
    return variants


def make_fills(load: LoadLimited, variants: Sequence[Variant]) -> dict[str, Fill]:
    """Return a method per variant, on one engine for each largest bucket, which `load` gives."""
    engines = {input_px: load(input_px) for input_px in {variant.input_px for variant in variants}}
    return {variant.label: _VariantFill(engines[variant.input_px], variant) for variant in variants}


class _VariantFill:
    def __init__(self, inpainter: Inpainter, variant: Variant) -> None:
        self._inpainter = inpainter
        self._variant = variant

    def __call__(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        v = self._variant
        options: dict[str, Any] = {"dilate_px": v.dilate_px, "feather_px": v.feather_px, "quality": v.quality}
        with _rules_of(self._inpainter, v.rules), _seam_of(v.rim), _broad_of(v.broad):
            return self._inpainter.repair(image, hole, **options).image


def _with_value(variant: Variant, sweep: str, value: str) -> Variant:
    if sweep == "context_margin":
        parts = value.split("/")
        rules = replace(variant.rules, margin_ratio=float(parts[0]))
        if len(parts) == 3:
            rules = replace(rules, min_margin_px=int(parts[1]), max_margin_px=int(parts[2]))
        return replace(variant, rules=rules)
    if sweep == "input_px":
        return replace(variant, input_px=int(value))
    if sweep == "quality":
        quality, _, limit = value.partition("/")
        return replace(variant, quality=quality, input_px=int(limit) if limit else None)
    if sweep == "rim":
        return replace(variant, rim=value)
    if sweep == "broad":
        return replace(variant, broad=value != "off")
    if sweep == "feather":
        return replace(variant, feather_px=int(value))
    if sweep == "shadow":
        return replace(variant, rules=replace(variant.rules, shadow_px=0 if value == "off" else int(value)))
    value, _, feather = value.partition("@")
    variant = replace(variant, feather_px=int(feather) if feather else None)
    if "+" in value:
        ratio, extra = value.split("+")
        rules = replace(variant.rules, dilate_ratio=float(ratio), dilate_extra_px=int(extra))
        return replace(variant, rules=rules, dilate_px=None)
    return replace(variant, dilate_px=int(value))


@contextmanager
def _rules_of(inpainter: Inpainter, rules: CropRules) -> Iterator[None]:
    kept = inpainter.crop_rules
    inpainter.crop_rules = rules
    try:
        yield
    finally:
        inpainter.crop_rules = kept


@contextmanager
def _seam_of(rim: str) -> Iterator[None]:
    if not rim:
        yield
        return
    from engine import model_runner as runner

    kept = runner.correct_seam
    runner.correct_seam = _find_seam(rim)  # type: ignore[assignment]
    try:
        yield
    finally:
        runner.correct_seam = kept


@contextmanager
def _broad_of(broad: bool) -> Iterator[None]:
    from engine import repair_steps

    kept = repair_steps.plan_context
    if not broad:
        repair_steps.plan_context = lambda crop, image_size: None
    try:
        yield
    finally:
        repair_steps.plan_context = kept


def _find_seam(rim: str) -> Callable[[Tensor, Tensor], Tensor]:
    if rim == "off":
        return lambda prediction, model_input: prediction
    module, _, name = rim.partition(":")
    found: Callable[[Tensor, Tensor], Tensor] = getattr(importlib.import_module(module), name)
    return found
