"""Own the sweeps: one constant of the repair at several values, everything else the same.

    context_margin  on the photo protocol; a value is a part of the hole box's longer side, or RATIO/MIN/MAX with the
                    limits in pixels: 0.5 or 0.5/64/256
    dilate          on the overlay protocol; a value is a radius in pixels, or RATIO+EXTRA of the default rule:
                    4 or 0.2+3
    feather         on the overlay protocol; a value is a width in pixels

"auto" is what the repair does by itself. Every value after the first is compared with the first, photo by photo.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from bench.quality_peers import Fill
from holes import CropRules

if TYPE_CHECKING:
    from inference import Inpainter

SWEEPS = {"context_margin": "photo", "dilate": "overlay", "feather": "overlay"}
DEFAULT_VALUES = {
    "context_margin": "auto,0.125,0.25,0.5,0.75,1.0",
    "dilate": "auto,0,1,2,3,4,6,8,12",
    "feather": "auto,0,1,2,4",
}


@dataclass(frozen=True)
class Variant:
    """One value of a sweep: rules and options of the repair."""

    label: str
    rules: CropRules
    dilate_px: int | None
    feather_px: int | None


def read_variants(sweep: str, values: str, *, dilate_px: int | None, rules: CropRules) -> list[Variant]:
    """Turn comma-separated values into variants; an empty string is DEFAULT_VALUES.

    Args:
        sweep: a key of SWEEPS.
        values: as the module's docstring says.
        dilate_px: dilation of a feather sweep; a context sweep has none, a dilate sweep sets it.
        rules: the constants everything else keeps.
    """
    variants = []
    for value in (values or DEFAULT_VALUES[sweep]).split(","):
        label = f"{sweep} {value}"
        own = Variant(label, rules, 0 if sweep == "context_margin" else dilate_px, None)
        if value != "auto":
            own = _with_value(own, sweep, value)
        variants.append(own)
    return variants


def make_fills(inpainter: "Inpainter", variants: Sequence[Variant]) -> dict[str, Fill]:
    """Return a method per variant, all on one engine."""
    return {variant.label: _VariantFill(inpainter, variant) for variant in variants}


class _VariantFill:
    def __init__(self, inpainter: "Inpainter", variant: Variant) -> None:
        self._inpainter = inpainter
        self._variant = variant

    def __call__(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        v = self._variant
        with _rules_of(self._inpainter, v.rules):
            return self._inpainter.repair(image, hole, dilate_px=v.dilate_px, feather_px=v.feather_px).image


def _with_value(variant: Variant, sweep: str, value: str) -> Variant:
    if sweep == "context_margin":
        parts = value.split("/")
        rules = replace(variant.rules, margin_ratio=float(parts[0]))
        if len(parts) == 3:
            rules = replace(rules, min_margin_px=int(parts[1]), max_margin_px=int(parts[2]))
        return replace(variant, rules=rules)
    if sweep == "feather":
        return replace(variant, feather_px=int(value))
    if "+" in value:
        ratio, extra = value.split("+")
        rules = replace(variant.rules, dilate_ratio=float(ratio), dilate_extra_px=int(extra))
        return replace(variant, rules=rules, dilate_px=None)
    return replace(variant, dilate_px=int(value))


@contextmanager
def _rules_of(inpainter: "Inpainter", rules: CropRules) -> Iterator[None]:
    kept = inpainter.crop_rules
    inpainter.crop_rules = rules
    try:
        yield
    finally:
        inpainter.crop_rules = kept
