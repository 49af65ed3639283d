"""One card's part of the training: the networks, their losses, and a step captured as CUDA graphs.

A stage's step is a few CUDA graphs (generator; critic; critic with its gradient penalty; the two optimisers), replayed
on static inputs; the next batch is cut by a few plain launches on a stream beside them. What one graph hands to another
lies in a tensor that was there before either was captured: a tensor that a graph makes has another place in each graph,
and a third one that was captured in between would go on reading the last one's (`captured.py` refuses that).

With a critic the generator waits until the critic can judge. Terms that ask for a pixel's own colour then count near
the hole's rim only (`losses.nearness`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F

from training.captured import captured
from training.critic import CriticView, critic, critic_tensors, hole_cells, over_all_holes, over_hole
from training.looks import Looks
from training.losses import (
    SqueezeFeatures,
    coarse_colour,
    contrast_gap,
    depth,
    dissimilarity,
    hole_colour,
    mesh_share,
    nearness,
    perceptual_and_style,
)
from training.network import DOWNS, FrozenNetwork, Layout, TrainingForward, published
from training.optimiser import FlatParameters, MuonAdam
from training.photos import PhotoStore
from training.recipe import Recipe, Stage
from training.teacher import Teacher

PENALTY_EVERY = 16
CLIP = 5.0
TINY = 1e-12
ASK_EVERY = 25  # critic steps between two looks at whether it can judge yet
ACCURACY_DECAY, MAGNITUDE_DECAY = 0.95, 0.99  # of the running means of the critic's accuracy and gradients' magnitude
UPS = tuple(f"up{i}" for i in range(DOWNS))
TERMS = (
    "hole_l1",
    "hole_log",
    "rim_l1",
    "outside_l1",
    "dissimilar",
    "coarse_l1",
    "perceptual",
    "style",
    "mesh",
    "contrast",
    "fooling",
    "matching",
    "gradient",
    "critic",
    "accuracy",
    "penalty",
)


class Trainer:
    """One card's part of the training."""

    def __init__(
        self,
        recipe: Recipe,
        store: PhotoStore,
        features: SqueezeFeatures,
        rank: int,
        world: int,
        guide: dict[str, torch.Tensor] | None = None,
        teacher: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Build both networks, with fresh weights.

        Args:
            recipe: what shapes the result.
            store: where batches come from.
            features: of the perceptual term.
            rank: of this card.
            world: how many cards there are.
            guide: published weights of the same layout whose fills give the coarse colour of the deepest holes. The
                photo's own colour there is one of many that could be; theirs is near the mean of them, and the same
                each time, so that a network can learn it without blur.
            teacher: published weights of the same layout whose changed fills (`Teacher.show`) take the photos' place in
                every term, but for the perceptual one where the recipe asks so.
        """
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
            FlatParameters(critic_tensors(1, recipe.critic_base), self.device, dtype),
            muon=True,
            weight_decay=0.0,
            average_decay=0.99,
            betas=(0.5, 0.99),
        )
        self.guide = None if guide is None else FrozenNetwork(self.layout, guide, self.device, dtype)
        self.teacher: Teacher | None = None
        if teacher is not None:
            self.teacher = Teacher(FrozenNetwork(self.layout, teacher, self.device, dtype), recipe.teacher)
        self.beside = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.upcoming: tuple[torch.Tensor, torch.Tensor] | None = None
        self.gradient = torch.zeros_like(self.generator.parameters.master)
        self.critic_gradient = torch.zeros_like(self.critic.parameters.master)
        self.sums = torch.zeros(len(TERMS), device=self.device)
        self.adversarial = torch.zeros((), device=self.device)
        self.accuracy = torch.full((), 0.5, device=self.device)
        self.magnitude = torch.zeros(2, device=self.device)  # of the critic's gradient and of the other terms'
        self.heard_steps = 0
        self.is_heard = False
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

    def _coarse_target(self) -> torch.Tensor:
        """Return the photos, (B, 3, H, W), those with the deepest holes filled by the guide if there is one."""
        if self.guide is None:
            return self.image
        filled = self.guide.fill(self.image[: self.judged], self.mask[: self.judged])
        return torch.cat([filled, self.image[self.judged :]])

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
        self.view = CriticView(self.judged, stage.side_px, self.device)
        self.run_generator = self._captured(self._generator_gradient)
        self.run_step = self._captured(self._generator_step)
        if stage.adversarial:
            self.run_composite = self._captured(self._fill)
            self.run_critic = self._captured(lambda: self._critic_gradient(penalty=False))
            self.run_penalty = self._captured(lambda: self._critic_gradient(penalty=True))
            self.run_critic_step = self._captured(lambda: self.critic.step(self.critic_gradient, CLIP))

    def _captured(self, function: Callable[[], None]) -> Callable[[], None]:
        return captured(function, self, changed=self._touched(), device=self.device)

    def _touched(self) -> list[torch.Tensor]:
        """Tensors that a warm-up run changes and that must come back as they were."""
        parts = [self.sums, self.accuracy, self.magnitude]
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
        wanted = self.image if self.teacher is None else self.teacher.show(self.image, self.mask)
        depths = depth(self.mask)
        deep = (2 * depths).clamp_max(1.0)
        near = nearness(self.mask) if self.stage.adversarial else torch.ones_like(self.mask)
        hole, log_error, rim, outside = hole_colour(pixels, wanted, self.mask, near)
        coarse, coarse_log = coarse_colour(composite, self._coarse_target(), self.mask, near, recipe.coarse_px)
        dissimilar = dissimilarity(composite, wanted, self.mask, near).mean()
        looks, times = self.looks, self.looks.times
        likened = self.image if recipe.photo_perceptual else wanted
        seen = [looks.see(part) for part in (composite, likened, self.mask)]
        likeness, style = perceptual_and_style(self.features, *seen, with_style=recipe.style_weight > 0)
        mesh = mesh_share(composite, self.mask)
        contrast = contrast_gap(composite, wanted, self.mask)
        loss = (
            recipe.hole_weight * hole
            + recipe.log_weight * log_error
            + recipe.rim_weight * rim
            + recipe.outside_weight * outside
            + recipe.structure_weight * dissimilar
            + recipe.coarse_weight * (coarse + coarse_log * recipe.log_weight / recipe.hole_weight)
            + recipe.mesh_weight * mesh.mean()
        )
        texture = (
            recipe.perceptual_weight * (times * (1 + recipe.depth_gain * looks.pick(depths)) * likeness).mean()
            + recipe.style_weight * (times * looks.pick(deep) * style).mean()
            + recipe.contrast_weight * (deep * contrast).mean()
        )
        (slope,) = torch.autograd.grad(loss, pixels, retain_graph=True)
        (texture_slope,) = torch.autograd.grad(texture, pixels)
        slope = slope + _limited(texture_slope, self.mask, recipe.spike_limit)
        fooling = matching = hole.new_zeros(1)
        if self.stage.adversarial:
            fooling, matching, push = self._adversarial_slope(pixels.detach())
            judged = slice(0, len(push))
            push = push * deep[judged].view(-1, 1, 1, 1)
            magnitude = torch.stack([(deep[judged] * _magnitude(part)).mean() for part in (push, slope[judged])])
            # One ratio for all photos, slowly changing: photo by photo a critic with no opinion would count much.
            self.magnitude.lerp_(magnitude, torch.where(self.magnitude[0] > 0, 1 - MAGNITUDE_DECAY, 1.0))
            ratio = self.adversarial * self.magnitude[1] / (self.magnitude[0] + TINY)
            slope = torch.cat([slope[judged] + ratio * push, slope[len(push) :]])
        self.gradient.copy_(parameters.gradient(prediction, slope))
        terms = [
            hole,
            log_error,
            rim,
            outside,
            dissimilar,
            coarse,
            (times * likeness).mean(),
            (times * style).mean(),
            mesh.mean(),
            contrast.mean(),
            fooling.mean(),
            matching.mean(),
            self.gradient.norm(),
        ]
        self.sums[: len(terms)] += torch.stack(terms).detach()

    def _generator_step(self) -> None:
        self.generator.step(self.gradient, CLIP)
        if self.recipe.balance:
            current = self.generator.parameters.current()
            for name in UPS:
                balance(current[name], self.recipe.balance)

    @torch.no_grad()
    def _fill(self) -> None:
        """Fill the batch's holes for the critic alone."""
        self.generator.parameters.refresh()
        prediction = self.predict(self.generator.parameters.leaves, self.image, self.mask, [])
        self.composite.copy_(prediction * self.mask + self.image * (1 - self.mask))

    def _adversarial_slope(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the critic's two terms, (n,), and their gradient by the pixels, (n, 3, H, W).

        Only the n photos with the deepest holes are taken.
        """
        image, mask = self.image[: self.judged], self.mask[: self.judged]
        pixels = pixels[: self.judged].requires_grad_()
        leaves = self.critic.parameters.leaves
        where = self.view.place(mask)
        logits, got = critic(leaves, self.view.see(pixels * mask + image * (1 - mask)), where)
        with torch.no_grad():
            _, want = critic(leaves, self.view.see(image), where)
        fooling = over_hole(F.softplus(-logits), where)
        matching = torch.stack(
            [
                over_hole((a.float() - b.float()).abs().mean(1, keepdim=True), where)
                for a, b in zip(got, want, strict=True)
            ]
        ).mean(0)
        (slope,) = torch.autograd.grad((fooling + self.recipe.matching_weight * matching).sum(), pixels)
        return fooling.detach(), matching.detach(), slope

    def _critic_gradient(self, penalty: bool) -> None:
        parameters = self.critic.parameters
        parameters.refresh()
        where = self.view.place(self.mask[: self.judged])
        real = self.view.see(self.image[: self.judged])
        if penalty:
            real = real.contiguous(memory_format=torch.channels_last).requires_grad_()
        logits, _ = critic(parameters.leaves, real, where)
        fake, _ = critic(parameters.leaves, self.view.see(self.composite[: self.judged]), where)
        loss = over_all_holes(F.softplus(-logits), where) + over_all_holes(F.softplus(fake), where)
        with torch.no_grad():
            right = (over_all_holes((logits > 0).float(), where) + over_all_holes((fake <= 0).float(), where)) / 2
            self.accuracy.lerp_(right, 1 - ACCURACY_DECAY)
            self.sums[TERMS.index("critic")] += loss
            self.sums[TERMS.index("accuracy")] += right
        if penalty:
            # Of the sum over the cells, as published: of their mean it would be weaker the more cells a hole has.
            total = (logits * hole_cells(logits, where)).sum()
            (slope,) = torch.autograd.grad(total, real, create_graph=True)
            length = slope.float().square().sum((1, 2, 3)).mean()
            self.sums[TERMS.index("penalty")] += PENALTY_EVERY * length.detach()
            loss = loss + self.recipe.penalty_weight * PENALTY_EVERY * length
        self.critic_gradient.copy_(parameters.gradient(loss))

    def _exchange(self, gradient: torch.Tensor) -> None:
        if self.world > 1:
            dist.all_reduce(gradient, op=dist.ReduceOp.AVG)

    def step(self, rate: float) -> None:
        """Run one step on a fresh batch; the generator keeps its weights while the critic can't judge yet."""
        stage = self.stage
        self._next_batch()
        self.looks.shift(self.store.choice)
        if stage.adversarial:
            self.view.change(self.store.choice)
        if stage.adversarial and not self.is_heard:
            self.run_composite()
            self._cut_ahead()
            self._critic_step(self.recipe.critic_rate)
            self._ask_critic()
        else:
            self.generator.set_rate(rate)
            self.adversarial.fill_(stage.adversarial * min(1.0, self.heard_steps / self.recipe.critic_ramp_steps))
            self.run_generator()
            self._cut_ahead()
            self._exchange(self.gradient)
            with torch.no_grad():
                self.run_step()
            if stage.adversarial:
                self.heard_steps += 1
                for _ in range(self.recipe.critic_steps):
                    self.view.change(self.store.choice)
                    self._critic_step(self.recipe.critic_rate * min(1.0, rate / self.recipe.rate * 4))
        self.steps += 1
        self.images += stage.batch * self.world

    def _critic_step(self, rate: float) -> None:
        self.critic.set_rate(rate)
        (self.run_penalty if self.critic.steps % PENALTY_EVERY == 1 else self.run_critic)()
        self._exchange(self.critic_gradient)
        with torch.no_grad():
            self.run_critic_step()

    def _ask_critic(self) -> None:
        """Find out whether the critic can judge; a critic that can't would push the generator about at random."""
        if self.critic.steps >= self.recipe.critic_alone_steps:
            self.is_heard = True
        elif self.critic.steps % ASK_EVERY == 0:
            self._exchange(self.accuracy)
            self.is_heard = self.accuracy.item() >= self.recipe.critic_accuracy

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
        """Return the averaged generator under published names.

        Its batch-norm statistics are estimated anew over `batches` batches.
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


def balance(kernels: torch.Tensor, strength: float) -> None:
    """Bring kernels of stride 2, (in, out, 3, 3), towards where a constant map gives a constant one, in place.

    Outputs at even rows see the middle row of taps, those at odd rows the two others, and columns likewise; the four
    sums are made alike by giving each tap its part of what is missing (arXiv:1806.02658).
    """
    odd = (torch.arange(3, device=kernels.device) != 1).long()
    phase = 2 * odd[:, None] + odd
    sums = [(kernels * (phase == p)).sum((2, 3), keepdim=True) for p in range(4)]
    mean = torch.stack(sums).mean(0)
    for p, total in enumerate(sums):
        taps = phase == p
        kernels.add_(strength * (mean - total) / taps.sum() * taps)


def _limited(slope: torch.Tensor, mask: torch.Tensor, times: float) -> torch.Tensor:
    """Return gradients, (B, 3, H, W), none above `times` its photo's mean absolute one in the hole; 0: as they are."""
    if not times:
        return slope
    size = 3 * mask.sum((1, 2, 3)) + 1.0
    limit = (times * slope.abs().sum((1, 2, 3)) / size).view(-1, 1, 1, 1)
    return torch.minimum(torch.maximum(slope, -limit), limit)


def _magnitude(slope: torch.Tensor) -> torch.Tensor:
    """Return each photo's mean absolute gradient, (B,).

    Not its norm: the perceptual term's gradient has spikes where features are near zero, and they would be most of it.
    """
    return slope.abs().mean((1, 2, 3))
