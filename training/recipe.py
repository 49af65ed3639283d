"""What shapes the training's result: its schedule, rates, and the weights of the losses, with their defaults."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, fields
from typing import Any

from training.masks import KIND_SHARES, MASK_PX
from training.teacher import Showing

SIDE_STEP_PX = 8  # of the network's strides
LEAST_SIDE_PX = 64  # smaller crops have no room for the cells over which the mesh is measured
AT_LEAST_ONE = frozenset(
    ("width", "blocks", "critic_base", "critic_ramp_steps", "warmup_steps", "coarse_px", "perceptual_every", "batch")
)
AT_MOST_ONE = frozenset(
    ("decay_from", "perceptual_share", "critic_share", "average_decay", "balance", "until", "plain")
)


@dataclass(frozen=True)
class Stage:
    """A part of the schedule.

    Attributes:
        until: the share of the budget at which it ends.
        side_px: side of the crops.
        batch: images a card and step.
        adversarial: how strong the critic's gradient is beside the other terms', over the deep holes; 0 for no critic.
        plain: the share of batches whose photos are hardly changed (`PhotoStore.windows`).
    """

    until: float
    side_px: int
    batch: int
    adversarial: float
    plain: float = 0.25


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the result; kept in `state.json`.

    Attributes that are not rates, weights or shares of a term:
        critic_accuracy: share of a batch's hole cells that the critic judges rightly before the generator listens.
        critic_alone_steps: after which the generator listens in any case.
        critic_ramp_steps: over which it begins to.
        critic_steps: of the critic for one of the generator, on the same batch seen in other ways.
        penalty_weight: of the critic's squared gradient by a photo, summed over the cells (R1, arXiv:1801.04406).
        coarse_px: odd side of the squares whose mean colour the coarse term compares.
        balance: how much of the way each step brings the upsampling kernels to where a constant makes no mesh.
        spike_limit: how many times its photo's mean absolute gradient in the hole a pixel's gradient of the texture
            terms may be; 0 for no limit. Unit-length features have spikes where they are near zero.
        teacher: how a teacher's fill is changed, where there is one.
        photo_perceptual: whether the perceptual term compares with the photo where a teacher gives all others.
    """

    width: int = 32
    blocks: int = 9
    rate: float = 2e-3
    critic_rate: float = 3e-2
    critic_base: int = 64
    critic_accuracy: float = 0.9
    critic_alone_steps: int = 1500
    critic_ramp_steps: int = 300
    critic_steps: int = 2
    muon: bool = True
    weight_decay: float = 0.05
    warmup_steps: int = 200
    decay_from: float = 0.35
    hole_weight: float = 2.0
    log_weight: float = 0.1
    rim_weight: float = 0.5
    outside_weight: float = 1.0
    structure_weight: float = 0.5
    coarse_weight: float = 2.0
    coarse_px: int = 17
    style_weight: float = 0.05
    mesh_weight: float = 0.1
    contrast_weight: float = 0.0
    balance: float = 0.0
    spike_limit: float = 0.0
    perceptual_weight: float = 0.1
    perceptual_share: float = 0.34
    perceptual_every: int = 2
    depth_gain: float = 8.0
    critic_share: float = 0.6
    matching_weight: float = 1.0
    penalty_weight: float = 2e-4
    average_decay: float = 0.998
    teacher: Showing = field(default_factory=Showing)
    photo_perceptual: bool = False
    kind_shares: dict[str, float] = field(default_factory=lambda: dict(KIND_SHARES))
    stages: tuple[Stage, ...] = (Stage(0.5, 256, 64, 0.0), Stage(1.0, 384, 30, 0.0))


def read_recipe(text: str) -> Recipe:
    """Return the recipe with the fields that a JSON object changes. Raises ValueError for what it can't have."""
    try:
        changes = json.loads(text)
        if "stages" in changes:
            changes["stages"] = tuple(Stage(**stage) for stage in changes["stages"])
        if "teacher" in changes:
            changes["teacher"] = Showing(**changes["teacher"])
        recipe = Recipe(**changes)
        _check(recipe)
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"--recipe can't be used: {error}") from error
    return recipe


def _check(recipe: Recipe) -> None:
    for one in fields(Recipe):
        _check_number(one.name, getattr(recipe, one.name), one.type)
    for stage in recipe.stages:
        for one in fields(Stage):
            _check_number(one.name, getattr(stage, one.name), one.type)
    for one in fields(recipe.teacher):
        if not _is_number(value := getattr(recipe.teacher, one.name)):
            raise ValueError(f"teacher's {one.name} is a number, not {value!r}")
    if recipe.coarse_px % 2 == 0:
        raise ValueError(f"coarse_px is odd, not {recipe.coarse_px}")
    if not recipe.stages:
        raise ValueError("stages has none")
    for stage in recipe.stages:
        if stage.side_px % SIDE_STEP_PX or not LEAST_SIDE_PX <= stage.side_px <= MASK_PX:
            raise ValueError(
                f"side_px is a multiple of {SIDE_STEP_PX} from {LEAST_SIDE_PX} to {MASK_PX}, not {stage.side_px}"
            )
    shares = recipe.kind_shares
    is_drawable = (
        isinstance(shares, dict)
        and set(shares) <= set(KIND_SHARES)
        and all(_is_number(share) and share >= 0 for share in shares.values())
        and sum(shares.values()) > 0
    )
    if not is_drawable:
        raise ValueError(f"kind_shares are numbers from 0 up for {', '.join(KIND_SHARES)}")


def _check_number(name: str, value: Any, kind: Any) -> None:
    """Raise ValueError where a field of a recipe or a stage that is a number, or yes or no, is something else."""
    if kind == "bool" and not isinstance(value, bool):
        raise ValueError(f"{name} is true or false, not {value!r}")
    if kind not in ("int", "float"):
        return
    least, most = int(name in AT_LEAST_ONE), 1 if name in AT_MOST_ONE else math.inf
    is_fitting = _is_number(value) and (kind == "float" or isinstance(value, int)) and least <= value <= most
    if not is_fitting:
        what = "a whole number" if kind == "int" else "a number"
        upwards = f"from {least} up" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name} is {what} {upwards}, not {value!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
