"""Flat parameter buffers and their optimiser: Muon for the matrices, Adam for the rest.

A step can be replayed in a CUDA graph. Masters are float32; convolutions see a bfloat16 copy, refreshed once a step.
Gradients are gathered into one flat vector, so that clipping, the exchange between two cards, Adam and the running
average are a handful of operators instead of hundreds.

Muon (K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) replaces a matrix's momentum by its nearest
orthogonal matrix, found by five Newton-Schulz steps; the step is scaled to Adam's usual size as in arXiv:2502.16982,
equation 4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MOMENTUM, ADAM_BETAS, ADAM_EPSILON = 0.95, (0.9, 0.99), 1e-8


@dataclass(frozen=True)
class Slot:
    """One tensor of a flat buffer: logical shape; 4-D ones lie channels-last in memory."""

    name: str
    shape: tuple[int, ...]
    start: int
    orthogonal: bool

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def view(self, flat: torch.Tensor) -> torch.Tensor:
        """Return this tensor's part of a flat buffer in its logical shape."""
        part = flat[self.start : self.stop]
        if len(self.shape) != 4:
            return part.view(self.shape)
        out, into, height, width = self.shape
        return part.view(out, height, width, into).permute(0, 3, 1, 2)

    def flatten(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor of this shape as the flat buffer holds it; a view where it lies channels-last."""
        return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1)


class FlatParameters:
    """Masters, low-precision leaves and the running average of one network."""

    def __init__(self, tensors: list[tuple[str, torch.Tensor, bool]], device: torch.device, dtype: torch.dtype) -> None:
        """tensors: (name, initial value, orthogonal), matrices of one shape side by side; 1-D tensors stay float32."""
        start, self.slots = 0, []
        ordered = [t for t in tensors if t[1].dim() > 1] + [t for t in tensors if t[1].dim() <= 1]
        for name, value, orthogonal in ordered:
            slot = Slot(name, tuple(value.shape), start, orthogonal)
            self.slots.append(slot)
            start = slot.stop
            if value.dim() > 1:
                self.matrix_count = start
        self.master = torch.empty(start, device=device)
        for slot, (_, value, _) in zip(self.slots, ordered, strict=True):
            slot.view(self.master).copy_(value)
        self.average = self.master.clone()
        self.low = self.master[: self.matrix_count].to(dtype)
        self.leaves = {
            slot.name: slot.view(self.low if slot.stop <= self.matrix_count else self.master).detach().requires_grad_()
            for slot in self.slots
        }

    def refresh(self) -> None:
        """Copy the masters into the low-precision leaves the network reads."""
        self.low.copy_(self.master[: self.matrix_count])

    def gradient(self, output: torch.Tensor, slope: torch.Tensor | None = None) -> torch.Tensor:
        """Return the gradient of a loss as (n,) float32, in the buffer's order.

        `output` is the loss, or whatever it is computed from, with the loss's gradient by it as `slope`.
        """
        parts = torch.autograd.grad(output, list(self.leaves.values()), slope)
        matrices = [
            slot.flatten(part) for slot, part in zip(self.slots, parts, strict=True) if slot.stop <= self.matrix_count
        ]
        return torch.cat([torch.cat(matrices).float(), *parts[len(matrices) :]])

    def averaged(self) -> dict[str, torch.Tensor]:
        """Return views of the running average by name."""
        return {slot.name: slot.view(self.average) for slot in self.slots}

    def current(self) -> dict[str, torch.Tensor]:
        """Return views of the masters by name."""
        return {slot.name: slot.view(self.master) for slot in self.slots}


def orthogonalise(matrices: torch.Tensor) -> torch.Tensor:
    """Push the singular values of (n, rows, columns) towards one by five Newton-Schulz steps in bfloat16."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.flatten(1).norm(dim=1).view(-1, 1, 1) + 1e-7)
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.mT if tall else x).float()


class MuonAdam:
    """Steps a `FlatParameters`.

    Learning rates are device scalars, so that a captured step can be replayed with new ones.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        *,
        muon: bool,
        weight_decay: float,
        average_decay: float,
        betas: tuple[float, float] = ADAM_BETAS,
    ) -> None:
        device = parameters.master.device
        self.parameters = parameters
        self.weight_decay, self.average_decay, self.betas = weight_decay, average_decay, betas
        self.momentum = torch.zeros_like(parameters.master)
        self.square = torch.zeros_like(parameters.master)
        self.rate = torch.zeros((), device=device)
        self.adam_rate = torch.zeros((), device=device)
        self.average_rate = torch.zeros((), device=device)
        self.steps = 0
        self.groups: list[tuple[int, int, tuple[int, ...]]] = []  # start, stop, (n, rows, columns)
        self.orthogonal_count = 0
        if muon:
            self._find_groups()

    def _find_groups(self) -> None:
        for slot in self.parameters.slots:
            if not slot.orthogonal:
                break
            rows, columns = slot.shape[0], math.prod(slot.shape[1:])
            last = self.groups[-1] if self.groups else None
            if last and last[2][1:] == (rows, columns) and last[1] == slot.start:
                self.groups[-1] = (last[0], slot.stop, (last[2][0] + 1, rows, columns))
            else:
                self.groups.append((slot.start, slot.stop, (1, rows, columns)))
            self.orthogonal_count = slot.stop

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step and count it (bias correction is folded into Adam's rate)."""
        self.steps += 1
        first, second = self.betas
        self.rate.fill_(rate)
        self.adam_rate.fill_(rate * math.sqrt(1 - second**self.steps) / (1 - first**self.steps))
        self.average_rate.fill_(1 - min(self.average_decay, (1 + self.steps) / (10 + self.steps)))

    def step(self, gradient: torch.Tensor, clip: float) -> None:
        """Apply `gradient`, (n,) float32, clipped to the norm `clip`; capturable."""
        norm = gradient.norm()
        gradient = gradient * (clip / (norm + 1e-6)).clamp_max(1.0)
        gradient = torch.where(torch.isfinite(norm), gradient, torch.zeros_like(gradient))
        master, cut = self.parameters.master, self.orthogonal_count
        if cut:
            momentum, part = self.momentum[:cut], gradient[:cut]
            momentum.lerp_(part, 1 - MOMENTUM)
            ahead = part.lerp(momentum, MOMENTUM)
            master[:cut].mul_(1 - self.rate * self.weight_decay)
            for start, stop, shape in self.groups:
                direction = orthogonalise(ahead[start:stop].view(shape))
                scale = 0.2 * math.sqrt(max(shape[1:]))
                master[start:stop].sub_(direction.reshape(-1) * (self.rate * scale))
        first, second = self.betas
        momentum, square, part = self.momentum[cut:], self.square[cut:], gradient[cut:]
        momentum.lerp_(part, 1 - first)
        square.lerp_(part * part, 1 - second)
        master[cut:].sub_(self.adam_rate * momentum / (square.sqrt() + ADAM_EPSILON))
        self.parameters.average.lerp_(master, self.average_rate)
