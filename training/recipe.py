"""What shapes the training's result: its schedule, rates, and the weights of the losses, with their defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.masks import KIND_SHARES
from training.teacher import Showing


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
