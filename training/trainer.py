"""One card's part of the training: the networks, their losses, and a step captured as CUDA graphs.

A stage's step is three graphs (generator; critic; critic with its gradient penalty) and two for the optimisers,
replayed on static inputs; the next batch is cut by a few plain launches on a stream beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
import torch.nn.functional as F

from training.looks import Looks
from training.losses import (
    SqueezeFeatures,
    critic,
    critic_tensors,
    depth,
    dissimilarity,
    hole_colour,
    over_hole,
    perceptual,
)
from training.masks import KIND_SHARES
from training.network import Layout, TrainingForward, published
from training.optimiser import FlatParameters, MuonAdam
from training.photos import PhotoStore

PENALTY_EVERY = 16
CLIP = 5.0
TINY = 1e-12
TERMS = (
    "hole_l1",
    "hole_log",
    "rim_l1",
    "outside_l1",
    "dissimilar",
    "perceptual",
    "fooling",
    "matching",
    "critic",
    "gradient",
)


@dataclass(frozen=True)
class Stage:
    """A part of the schedule: until which share of the budget, crop side, images a card and step, the length of the
    critic's gradient beside the other terms' for the deepest holes (0: no critic), and the share of batches whose
    photos are hardly changed (`PhotoStore.windows`).
    """

    until: float
    side_px: int
    batch: int
    adversarial: float
    plain: float = 0.25


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the result; kept in `state.json`."""

    width: int = 32
    blocks: int = 9
    rate: float = 2e-3
    critic_rate: float = 1e-4
    critic_warmup_steps: int = 200
    muon: bool = True
    weight_decay: float = 0.05
    warmup_steps: int = 200
    decay_from: float = 0.35
    hole_weight: float = 2.0
    log_weight: float = 0.1
    rim_weight: float = 0.5
    outside_weight: float = 1.0
    structure_weight: float = 0.5
    perceptual_weight: float = 0.1
    perceptual_share: float = 0.34
    perceptual_every: int = 2
    depth_gain: float = 8.0
    critic_share: float = 0.34
    matching_weight: float = 1.0
    penalty_weight: float = 0.5
    average_decay: float = 0.998
    kind_shares: dict[str, float] = field(default_factory=lambda: dict(KIND_SHARES))
    stages: tuple[Stage, ...] = (Stage(0.5, 256, 64, 0.0), Stage(1.0, 384, 30, 0.0))


class Trainer:
    """One card's part of the training."""

    def __init__(self, recipe: Recipe, store: PhotoStore, features: SqueezeFeatures, rank: int, world: int) -> None:
        self.recipe, self.store, self.features, self.rank, self.world = recipe, store, features, rank, world
        self.device = store.device
        self.layout = Layout(recipe.width, recipe.blocks)
        self.forward = TrainingForward(self.layout)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.generator = MuonAdam(
            FlatParameters(self._fresh_tensors(), self.device, dtype),
            muon=recipe.muon,
            weight_decay=recipe.weight_decay,
            average_decay=recipe.average_decay,
        )
        self.critic = MuonAdam(
            FlatParameters(critic_tensors(1), self.device, dtype),
            muon=False,
            weight_decay=0.0,
            average_decay=0.99,
            betas=(0.0, 0.99),
        )
        self.beside = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.upcoming: tuple[torch.Tensor, torch.Tensor] | None = None
        self.sums = torch.zeros(len(TERMS), device=self.device)
        self.adversarial = torch.zeros((), device=self.device)
        self.steps = self.images = 0
        self.seconds = 0.0

    def _fresh_tensors(self) -> list[tuple[str, torch.Tensor, bool]]:
        random = torch.Generator().manual_seed(0)
        tensors: list[tuple[str, torch.Tensor, bool]] = []
        for weight in self.layout.weights:
            bound = 1 / math.sqrt(weight.fan_in)
            value = (torch.rand(weight.shape, generator=random) * 2 - 1) * bound
            tensors.append((weight.name, value, weight.orthogonal))
        for name, channels, _, _ in self.layout.norms:
            tensors.append((f"{name}.scale", torch.ones(channels), False))
            tensors.append((f"{name}.shift", torch.zeros(channels), False))
        tensors.append(("head.bias", torch.zeros(3), False))
        return tensors

    def predict(
        self, weights: dict[str, torch.Tensor], image: torch.Tensor, mask: torch.Tensor, moments: list
    ) -> torch.Tensor:
        """Return the prediction, (B, 3, H, W) float32 in [0, 1]."""
        x = torch.cat([image * (1 - mask), mask], 1).to(weights["stem"].dtype)
        return torch.sigmoid(self.forward(x.contiguous(memory_format=torch.channels_last), weights, moments))

    def prepare(self, stage: Stage) -> None:
        """Allocate the static inputs of a stage and capture its graphs (on a CPU: keep the plain functions)."""
        self.stage, self.upcoming = stage, None
        image, mask = self.store.batch(stage.batch, stage.side_px)
        self.image, self.mask = image.clone(memory_format=torch.preserve_format), mask.clone()
        self.composite = torch.zeros_like(self.image)
        self.judged = max(1, round(stage.batch * self.recipe.critic_share))
        self.looks = Looks(
            stage.batch,
            stage.side_px,
            share=self.recipe.perceptual_share,
            every=self.recipe.perceptual_every,
            device=self.device,
        )
        self.run_generator = self._captured(self._generator_gradient)
        self.run_step = self._captured(lambda: self.generator.step(self.gradient, CLIP))
        if stage.adversarial:
            self.run_critic = self._captured(lambda: self._critic_gradient(penalty=False))
            self.run_penalty = self._captured(lambda: self._critic_gradient(penalty=True))
            self.run_critic_step = self._captured(lambda: self.critic.step(self.critic_gradient, CLIP))

    def _captured(self, function: Callable[[], None]) -> Callable[[], None]:
        if self.device.type != "cuda":
            return function
        kept = [t.clone() for t in self._touched()]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            function()
        for tensor, value in zip(self._touched(), kept, strict=True):
            tensor.copy_(value)
        return graph.replay

    def _touched(self) -> list[torch.Tensor]:
        """Tensors that a warm-up run changes and that must come back as they were."""
        parts = [self.sums]
        for optimiser in (self.generator, self.critic):
            parts += [optimiser.parameters.master, optimiser.parameters.average, optimiser.momentum, optimiser.square]
        return parts

    def _generator_gradient(self) -> None:
        recipe, parameters = self.recipe, self.generator.parameters
        parameters.refresh()
        prediction = self.predict(parameters.leaves, self.image, self.mask, [])
        # The losses' gradient stops here first, so that the two sorts of terms can be weighed against each other.
        pixels = prediction.detach().requires_grad_()
        composite = pixels * self.mask + self.image * (1 - self.mask)
        self.composite.copy_(composite.detach())
        depths = depth(self.mask)
        hole, log_error, rim, outside = hole_colour(pixels, self.image, self.mask)
        dissimilar = dissimilarity(composite, self.image, self.mask).mean()
        looks, times = self.looks, self.looks.times
        seen = [looks.see(part) for part in (composite, self.image, self.mask)]
        likeness = perceptual(self.features, *seen)
        loss = (
            recipe.hole_weight * hole
            + recipe.log_weight * log_error
            + recipe.rim_weight * rim
            + recipe.outside_weight * outside
            + recipe.structure_weight * dissimilar
            + recipe.perceptual_weight * (times * (1 + recipe.depth_gain * looks.pick(depths)) * likeness).mean()
        )
        (slope,) = torch.autograd.grad(loss, pixels)
        fooling = matching = hole.new_zeros(1)
        if self.stage.adversarial:
            fooling, matching, push = self._adversarial_slope(pixels.detach())
            judged = slice(0, len(push))
            share = self.adversarial * (2 * depths[judged]).clamp_max(1.0)
            ratio = share * _norms(slope[judged]) / (_norms(push) + TINY)
            slope = torch.cat([slope[judged] + ratio.view(-1, 1, 1, 1) * push, slope[len(push) :]])
        self.gradient = parameters.gradient(prediction, slope)
        self.sums += torch.stack(
            [
                hole,
                log_error,
                rim,
                outside,
                dissimilar,
                (times * likeness).mean(),
                fooling.mean(),
                matching.mean(),
                hole.new_zeros(()),
                self.gradient.norm(),
            ]
        ).detach()

    def _adversarial_slope(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the critic's two terms, (n,), and their gradient by the pixels, (n, 3, H, W), for the n photos with
        the deepest holes.
        """
        image, mask = self.image[: self.judged], self.mask[: self.judged]
        pixels = pixels[: self.judged].requires_grad_()
        leaves = self.critic.parameters.leaves
        logits, got = critic(leaves, pixels * mask + image * (1 - mask), mask)
        with torch.no_grad():
            _, want = critic(leaves, image, mask)
        fooling = over_hole(F.softplus(-logits), mask)
        matching = torch.stack(
            [
                over_hole((a.float() - b.float()).abs().mean(1, keepdim=True), mask)
                for a, b in zip(got, want, strict=True)
            ]
        ).sum(0)
        (slope,) = torch.autograd.grad((fooling + self.recipe.matching_weight * matching).sum(), pixels)
        return fooling.detach(), matching.detach(), slope

    def _critic_gradient(self, penalty: bool) -> None:
        parameters = self.critic.parameters
        parameters.refresh()
        real, mask = self.image[: self.judged], self.mask[: self.judged]
        if penalty:
            real = real.clone(memory_format=torch.preserve_format).requires_grad_()
        logits, _ = critic(parameters.leaves, real, mask)
        fake, _ = critic(parameters.leaves, self.composite[: self.judged], mask)
        loss = (over_hole(F.softplus(-logits), mask) + over_hole(F.softplus(fake), mask)).mean()
        self.sums[TERMS.index("critic")] += loss.detach()
        if penalty:
            (slope,) = torch.autograd.grad(over_hole(logits, mask).sum(), real, create_graph=True)
            slope = slope.float().square().sum((1, 2, 3)).mean()
            loss = loss + self.recipe.penalty_weight * PENALTY_EVERY * slope
        self.critic_gradient = parameters.gradient(loss)

    def _exchange(self, gradient: torch.Tensor) -> None:
        if self.world > 1:
            dist.all_reduce(gradient, op=dist.ReduceOp.AVG)

    def step(self, rate: float) -> None:
        """Run one step on a fresh batch."""
        stage = self.stage
        self._next_batch()
        self.looks.shift(self.store.choice)
        self.generator.set_rate(rate)
        self.run_generator()
        self._cut_ahead()
        self._exchange(self.gradient)
        with torch.no_grad():
            self.run_step()
        if stage.adversarial:
            self.critic.set_rate(self.recipe.critic_rate * min(1.0, rate / self.recipe.rate * 4))
            # A fresh critic's opinion is noise: it learns alone for a while before the generator listens.
            heard = min(
                1.0, max(0, self.critic.steps - self.recipe.critic_warmup_steps) / self.recipe.critic_warmup_steps
            )
            self.adversarial.fill_(stage.adversarial * heard)
            (self.run_penalty if self.critic.steps % PENALTY_EVERY == 1 else self.run_critic)()
            self._exchange(self.critic_gradient)
            with torch.no_grad():
                self.run_critic_step()
        self.steps += 1
        self.images += stage.batch * self.world

    def _next_batch(self) -> None:
        """Bring a fresh batch into the static inputs, photos with the deepest holes first."""
        if self.beside is not None and self.upcoming is not None:
            torch.cuda.current_stream().wait_stream(self.beside)
            for tensor in self.upcoming:
                tensor.record_stream(torch.cuda.current_stream())
        image, mask = self.upcoming or self._cut()
        self.image.copy_(image)
        self.mask.copy_(mask)

    def _cut_ahead(self) -> None:
        """Cut the next batch beside the step: its many small launches would leave the card idle for 3 % of the time."""
        if self.beside is not None:
            with torch.cuda.stream(self.beside):
                self.upcoming = self._cut()

    def _cut(self) -> tuple[torch.Tensor, torch.Tensor]:
        image, mask = self.store.batch(self.stage.batch, self.stage.side_px, plain=self.stage.plain)
        return image, mask[torch.argsort(depth(mask), descending=True)]

    @torch.no_grad()
    def averaged_state(self, batches: int = 48) -> dict[str, torch.Tensor]:
        """Return the averaged generator under published names, its batch-norm statistics estimated anew over
        `batches` batches.
        """
        weights = self.generator.parameters.averaged()
        low = {k: v.to(self.generator.parameters.low.dtype) if v.dim() > 1 else v for k, v in weights.items()}
        totals: list[list[torch.Tensor]] = []
        for _ in range(batches):
            image, mask = self.store.batch(self.stage.batch, self.stage.side_px)
            moments: list = []
            self.predict(low, image, mask, moments)
            totals = totals or [[torch.zeros_like(m), torch.zeros_like(v)] for m, v in moments]
            for total, (mean, variance) in zip(totals, moments, strict=True):
                total[0] += mean / batches
                total[1] += variance / batches
        names = [norm[0] for norm in self.layout.norms]
        means = {name: total[0] for name, total in zip(names, totals, strict=True)}
        variances = {name: total[1] for name, total in zip(names, totals, strict=True)}
        return published(self.layout, weights, means, variances)

    def report(self, since: int, seconds: float) -> dict[str, float]:
        """Return the mean of every term since the last report, and the throughput."""
        values = (self.sums / max(1, since)).tolist()
        self.sums.zero_()
        row = {name: round(value, 4) for name, value in zip(TERMS, values, strict=True)}
        images = since * self.stage.batch * self.world
        return {"step": self.steps, "images": self.images, "images_per_s": round(images / seconds), **row}


def _norms(slope: torch.Tensor) -> torch.Tensor:
    """Return each photo's gradient length, (B,)."""
    return slope.flatten(1).norm(dim=1)
