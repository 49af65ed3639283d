"""The training state on disk: small enough to travel between machines, safe to load, never half-written.

A folder holds one safetensors file under 16 MiB for each of `PARTS`, named after the steps made until then, and
`state.json` (steps, images, seconds, recipe), which is written last: until it names them, new files do not count, and
the old ones are deleted only afterwards. Each is synced, so that a power cut leaves no name without its bytes.
Masters are kept as two halves of 16 bits (value and remainder), which restores float32 to about 2e-7; what is averaged
over many steps in bfloat16 or half precision.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from imaging.atomic_write import remove_parts, write_atomically
from training.given import read_weights
from training.optimiser import MuonAdam

PARTS = ("master", "remainder", "average", "momentum", "critic")


class UnusableStateError(ValueError):
    """What lies in the folder of a state can't be gone on from; the text says why, and what can."""

    def __init__(self, folder: Path, why: str) -> None:
        super().__init__(
            f"the state in {folder} can't be gone on from: {why}. Give another --state; with --start "
            f"{folder / 'averaged.safetensors'} it begins with the weights that were saved last"
        )


def save_state(folder: Path, generator: MuonAdam, critic: MuonAdam, figures: dict[str, Any]) -> None:
    """Write both networks, and what the generator's optimiser goes on from; `load_state` returns `figures`.

    `figures["steps"]` tells one save from the next. Raises OSError where it can't be written; the one before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_parts(folder, age_s=0)  # of a save that was killed; on a full disk they would be in the way
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
    before = saved_figures(folder)
    kept = set() if before is None else {_file(folder, part, before) for part in PARTS}
    try:
        for part, path in files.items():
            write_atomically(
                path, save({name: tensor.detach().cpu().contiguous() for name, tensor in parts[part].items()})
            )
        write_atomically(folder / "state.json", json.dumps(figures, indent=1).encode())
    except BaseException:
        _remove_others(folder, kept)  # a disk that is full has no room for what does not count
        raise
    _remove_others(folder, set(files.values()))


def saved_figures(folder: Path) -> dict[str, Any] | None:
    """Return the figures of the state in `folder`; None if there is none. Raises UnusableStateError."""
    path = folder / "state.json"
    if not path.is_file():
        return None
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnusableStateError(folder, f"state.json can't be read ({error})") from error
    if not isinstance(figures, dict) or not isinstance(figures.get("steps"), int):
        raise UnusableStateError(folder, "state.json does not say how many steps were made")
    return figures


def load_state(folder: Path, generator: MuonAdam, critic: MuonAdam) -> dict[str, Any]:
    """Restore what `save_state` wrote into both optimisers and return its figures; the critic's moments start anew.

    Raises UnusableStateError where a file is missing, damaged or of another network.
    """
    figures = saved_figures(folder)
    if figures is None:
        raise UnusableStateError(folder, "there is none")
    try:
        _restore({part: read_weights(_file(folder, part, figures)) for part in PARTS}, generator, critic)
    except (ValueError, KeyError, RuntimeError) as error:
        raise UnusableStateError(folder, str(error)) from error
    return figures


def _restore(parts: dict[str, dict[str, torch.Tensor]], generator: MuonAdam, critic: MuonAdam) -> None:
    generator.parameters.master.copy_(parts["master"]["value"].float())
    generator.parameters.master.add_(parts["remainder"]["remainder"].float().to(generator.parameters.master.device))
    generator.parameters.average.copy_(parts["average"]["average"].float())
    generator.momentum.copy_(parts["momentum"]["momentum"].float())
    generator.square[generator.orthogonal_count :].copy_(parts["momentum"]["square"].float())
    generator.steps = int(parts["momentum"]["steps"])
    critic.parameters.master.copy_(parts["critic"]["critic"].float())


def _remove_others(folder: Path, kept: set[Path]) -> None:
    """Remove the files of all saves but those that count."""
    for part in PARTS:
        for old in {*folder.glob(f"{part}-*.safetensors"), *folder.glob(f"{part}-*.part")} - kept:
            old.unlink()


def _file(folder: Path, part: str, figures: dict[str, Any]) -> Path:
    return folder / f"{part}-{figures['steps']}.safetensors"
