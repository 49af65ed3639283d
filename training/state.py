"""The training state on disk: small enough to travel between machines, safe to load, never half-written.

A folder holds `master`, `average`, `momentum` and `critic` as safetensors under 16 MiB each and `state.json` (steps,
images, seconds,
settings). Masters are kept as two halves of 16 bits (value and remainder), which restores float32 to about 2e-7;
momentum and critic in
bfloat16 and half precision, which a few warm-up steps make good.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from training.optimiser import MuonAdam


def _write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    partial = path.with_suffix(".part")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, partial)
    partial.replace(path)


def save_state(folder: Path, generator: MuonAdam, critic: MuonAdam, figures: dict[str, Any]) -> None:
    """Write both networks and their momentum; `figures` is what `load_state` returns."""
    folder.mkdir(parents=True, exist_ok=True)
    master = generator.parameters.master
    value = master.bfloat16()
    _write({"value": value}, folder / "master.safetensors")
    _write({"remainder": (master - value.float()).bfloat16()}, folder / "remainder.safetensors")
    _write({"average": generator.parameters.average.half()}, folder / "average.safetensors")
    _write({"momentum": generator.momentum.bfloat16()}, folder / "momentum.safetensors")
    _write({"critic": critic.parameters.master.half()}, folder / "critic.safetensors")
    (folder / "state.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


def load_state(folder: Path, generator: MuonAdam, critic: MuonAdam) -> dict[str, Any]:
    """Restore what `save_state` wrote into both optimisers and return its figures; second moments start anew."""
    master = load_file(folder / "master.safetensors")["value"].float()
    master += load_file(folder / "remainder.safetensors")["remainder"].float()
    generator.parameters.master.copy_(master)
    generator.parameters.average.copy_(load_file(folder / "average.safetensors")["average"].float())
    generator.momentum.copy_(load_file(folder / "momentum.safetensors")["momentum"].float())
    critic.parameters.master.copy_(load_file(folder / "critic.safetensors")["critic"].float())
    return json.loads((folder / "state.json").read_text(encoding="utf-8"))
