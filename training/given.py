"""Reads the weights that a training is given, so that a file that does not fit is refused before masks are drawn."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from training.critic import critic_tensors
from training.losses import SqueezeFeatures
from training.network import Layout, Weights, collect, continued
from training.recipe import Recipe

Part = TypeVar("Part")
# What PyTorch raises for a file that is none of its own, is cut off, or holds something else.
NO_WEIGHTS = (OSError, RuntimeError, ValueError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError)


@dataclass(frozen=True)
class Given:
    """What a training is given.

    Attributes:
        features: of the perceptual term, float32, on the CPU.
        start: tensors of the generator to begin with; None for fresh ones.
        critic: its flat buffer to begin with, (n,) float32; None for a fresh one.
        guide: published weights that give deep holes their coarse colour, or None.
        teacher: published weights whose changed fills are learnt, or None.
    """

    features: SqueezeFeatures
    start: Weights | None = None
    critic: torch.Tensor | None = None
    guide: dict[str, torch.Tensor] | None = None
    teacher: dict[str, torch.Tensor] | None = None


def read_given(
    recipe: Recipe,
    features: Path,
    *,
    start: Path | None = None,
    critic: Path | None = None,
    guide: Path | None = None,
    teacher: Path | None = None,
) -> Given:
    """Read all files that a training is given.

    Args:
        recipe: whose networks they have to fit.
        features: SqueezeNet 1.0, as PyTorch saves it.
        start: published safetensors of the recipe's width with as many blocks or fewer.
        critic: as `training/critic.safetensors`.
        guide: published safetensors of the recipe's shape.
        teacher: published safetensors of the recipe's shape.

    Returns:
        What is in them.

    Raises:
        ValueError: a file can't be read, or is of another network; the text names it.
    """
    layout = Layout(recipe.width, recipe.blocks)
    try:
        squeezed = SqueezeFeatures(features)
    except NO_WEIGHTS as error:
        # What PyTorch says of a foreign file is advice on reading it unsafely; of missing tensors it is a long list.
        raise ValueError(f"--features {features} is not SqueezeNet 1.0 as PyTorch saves it") from error
    return Given(
        squeezed,
        start=_fitting("--start", start, lambda state: continued(layout, state)),
        critic=_fitting("--start-critic", critic, lambda state: _flat_critic(recipe, state)),
        guide=_fitting("--guide", guide, lambda state: _published(layout, state)),
        teacher=_fitting("--teacher", teacher, lambda state: _published(layout, state)),
    )


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file by their names. Raises ValueError, which names it."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file} can't be read as safetensors: {error}") from error


def _fitting(option: str, file: Path | None, fit: Callable[[dict[str, torch.Tensor]], Part]) -> Part | None:
    if file is None:
        return None
    try:
        return fit(read_weights(file))
    except ValueError as error:
        said = str(error) if str(file) in str(error) else f"{file}: {error}"
        raise ValueError(f"{option} {said}") from error


def _flat_critic(recipe: Recipe, state: dict[str, torch.Tensor]) -> torch.Tensor:
    size = sum(tensor.numel() for _, tensor, _ in critic_tensors(1, recipe.critic_base))
    if "critic" not in state or state["critic"].numel() != size:
        raise ValueError(f"it holds no critic of {size} numbers, which critic_base {recipe.critic_base} asks for")
    return state["critic"].float().flatten()


def _published(layout: Layout, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    collect(layout, state)  # raises where it is of another shape
    return state
