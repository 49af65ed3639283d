"""The training state on disk: small enough to travel between machines, safe to load, never half-written.

A folder holds one safetensors file under 16 MiB for each of `PARTS`, named after the steps made until then, and
`state.json` (steps, images, seconds, recipe), which is written last: until it names them, new files do not count, and
the old ones are deleted only afterwards. Masters are kept as two halves of 16 bits (value and remainder), which
restores float32 to about 2e-7; what is averaged over many steps in bfloat16 or half precision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from training.optimiser import MuonAdam

PARTS = ("master", "remainder", "average", "momentum", "critic")


def save_state(folder: Path, generator: MuonAdam, critic: MuonAdam, figures: dict[str, Any]) -> None:
    """Write both networks, and what the generator's optimiser goes on from; `load_state` returns `figures`.

    `figures["steps"]` tells one save from the next.
    """
    folder.mkdir(parents=True, exist_ok=True)
    master = generator.parameters.master
    value = master.bfloat16()
    parts = {
        "master": {"value": value},
        "remainder": {"remainder": (master - value.float()).bfloat16()},
        "average": {"average": generator.parameters.average.half()},
        "momentum": {
            "momentum": generator.momentum.bfloat16(),
            "square": generator.square[generator.orthogonal_count :].bfloat16(),  # Muon's part has none
            "steps": torch.tensor(generator.steps),
        },
        "critic": {"critic": critic.parameters.master.half()},
    }
    files = {part: _file(folder, part, figures) for part in PARTS}
    for part, path in files.items():
        partial = path.with_suffix(".part")
        partial.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in parts[part].items()}))
        partial.replace(path)
    partial = folder / "state.json.part"
    partial.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    partial.replace(folder / "state.json")
    for part, path in files.items():
        for old in {*folder.glob(f"{part}-*.safetensors"), *folder.glob(f"{part}-*.part")} - {path}:
            old.unlink()  # of before, and what a save that was killed had begun


def saved_figures(folder: Path) -> dict[str, Any] | None:
    """Return the figures of the state in `folder`; None if there is none."""
    path = folder / "state.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def load_state(folder: Path, generator: MuonAdam, critic: MuonAdam) -> dict[str, Any]:
    """Restore what `save_state` wrote into both optimisers and return its figures; the critic's moments start anew."""
    figures = saved_figures(folder)
    if figures is None:
        raise FileNotFoundError(f"there is no training state in {folder}")
    parts = {part: load_file(_file(folder, part, figures)) for part in PARTS}
    generator.parameters.master.copy_(parts["master"]["value"].float())
    generator.parameters.master.add_(parts["remainder"]["remainder"].float().to(generator.parameters.master.device))
    generator.parameters.average.copy_(parts["average"]["average"].float())
    generator.momentum.copy_(parts["momentum"]["momentum"].float())
    generator.square[generator.orthogonal_count :].copy_(parts["momentum"]["square"].float())
    generator.steps = int(parts["momentum"]["steps"])
    critic.parameters.master.copy_(parts["critic"]["critic"].float())
    return figures


def _file(folder: Path, part: str, figures: dict[str, Any]) -> Path:
    return folder / f"{part}-{figures['steps']}.safetensors"
