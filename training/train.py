"""Trains the compact generator for a given time.

    python -m training.train --photos DIR --features FILE --state DIR --seconds 600

A step is captured once per stage as CUDA graphs (generator; critic; critic with its gradient penalty) and replayed;
batches are cut on the device by a few plain launches between replays. Several cards
(`torchrun --nproc-per-node 2 -m -- training.train …`) exchange one flat gradient a step. The schedule runs on
the clock: `--budget` is the whole training in seconds, `--seconds` this stretch, so that a training cut into stretches
follows one curve. State is saved every `--save-every` seconds and at the end.

Stages go from small crops to large ones, with a critic where a stage asks for one. Losses: `training.losses`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save

from training.losses import SqueezeFeatures
from training.masks import KIND_SHARES, draw_bank
from training.network import continued
from training.photos import PhotoStore, UnusablePhotoError, find_photos
from training.recipe import Recipe, Stage
from training.state import load_state, save_state, saved_figures
from training.teacher import Showing
from training.trainer import Trainer

RANK_SEEDS = 10**12  # from one card's seeds to the next's
ASK_CLOCK_EVERY = 8  # steps between two looks at the first card's clock
STEP_SEEDS = 10**5  # from a stretch's seeds to those of one that begins a step later; more than a bank has masks


def learning_rate(recipe: Recipe, progress: float, since_start: int) -> float:
    """Return the learning rate at `progress` in [0, 1].

    A short warm-up, counted in steps of this stretch, then flat, then falling linearly to a hundredth.
    """
    fall = (1 - progress) / (1 - recipe.decay_from) if progress > recipe.decay_from else 1.0
    return recipe.rate * min(1.0, (since_start + 1) / recipe.warmup_steps) * max(0.01, min(1.0, fall))


def read_recipe(text: str) -> Recipe:
    """Return the recipe with the fields that a JSON object changes. Raises ValueError for what it can't have."""
    try:
        changes = json.loads(text)
        if "stages" in changes:
            changes["stages"] = tuple(Stage(**stage) for stage in changes["stages"])
        if "teacher" in changes:
            changes["teacher"] = Showing(**changes["teacher"])
        recipe = Recipe(**changes)
        shares = recipe.kind_shares
        is_drawable = (
            set(shares) <= set(KIND_SHARES) and min(shares.values(), default=0) >= 0 and sum(shares.values()) > 0
        )
    except (TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"--recipe can't be used: {error}") from error
    if not is_drawable:
        raise ValueError(f"--recipe can't be used: kind_shares are numbers from 0 up for {', '.join(KIND_SHARES)}")
    return recipe


def check_resumable(recipe: Recipe, folder: Path) -> None:
    """Raise ValueError if the state in `folder` is of a network of another shape; say which other settings changed."""
    figures = saved_figures(folder)
    if figures is None:
        return
    asked_for, before = json.loads(json.dumps(asdict(recipe))), figures["recipe"]
    changed = [
        f"{name} {before.get(name)} -> {value}" for name, value in asked_for.items() if before.get(name) != value
    ]
    if any(asked_for[name] != before.get(name) for name in ("width", "blocks")):
        raise ValueError(f"the state in {folder} is of another network ({', '.join(changed)}): give another --state")
    if changed:
        print(f"going on with another recipe: {', '.join(changed)}", flush=True)


def check_files(arguments: argparse.Namespace) -> None:
    """Raise ValueError for a file or a folder that is not there, before minutes go into masks."""
    for name in ("sources", "features", "start", "start_critic", "guide", "teacher"):
        file = getattr(arguments, name)
        if file is not None and not file.is_file():
            raise ValueError(f"--{name.replace('_', '-')} {file}: there is no such file")
    find_photos(arguments.photos)


class SharedClock:
    """The first card's times, which every card goes by: all must take the same turn at the same step."""

    def __init__(self, world: int, device: torch.device) -> None:
        self._world, self._device, self._reads = world, device, 0
        self._times: tuple[float, ...] = ()

    def read(self, *times_s: float) -> tuple[float, ...]:
        """Return the times of this card, of several the first one's as of at most `ASK_CLOCK_EVERY` - 1 reads ago."""
        if self._world == 1:
            return times_s
        if self._reads % ASK_CLOCK_EVERY == 0:
            shared = torch.tensor(times_s, device=self._device, dtype=torch.float64)
            dist.broadcast(shared, 0)
            self._times = tuple(shared.tolist())
        self._reads += 1
        return self._times


def save_all(trainer: Trainer, folder: Path, recipe: Recipe) -> None:
    """Write the resumable state and the averaged generator (`averaged.safetensors`, fp16, published names)."""
    figures = {"steps": trainer.steps, "images": trainer.images, "seconds": trainer.seconds, "recipe": asdict(recipe)}
    save_state(folder, trainer.generator, trainer.critic, figures)
    state = {k: v.half() for k, v in trainer.averaged_state().items() if not k.endswith("num_batches_tracked")}
    partial = folder / "averaged.part"
    partial.write_bytes(save(state))
    partial.replace(folder / "averaged.safetensors")


def start_from(trainer: Trainer, generator: Path | None, critic: Path | None) -> None:
    """Begin with the published weights of a generator, and with a critic as `training/critic.safetensors` keeps one."""
    if generator:
        for name, value in continued(trainer.layout, load_file(generator)).items():
            trainer.generator.parameters.current()[name].copy_(value)
        trainer.generator.parameters.average.copy_(trainer.generator.parameters.master)
    if critic:
        trainer.critic.parameters.master.copy_(load_file(critic)["critic"].float())


def train(arguments: argparse.Namespace, recipe: Recipe) -> None:
    """Train for `arguments.seconds`, from the state in `arguments.state` if there is one."""
    started = time.monotonic()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) if world > 1 else 0)
        if torch.cuda.is_available()
        else torch.device("cpu")
    )
    saved_before = saved_figures(arguments.state)
    # Another stretch sees other masks and cuts; the seeds of no two stretches or cards meet.
    seed = arguments.seed + rank * RANK_SEEDS + (saved_before["steps"] if saved_before else 0) * STEP_SEEDS
    bank = draw_bank(arguments.masks, seed, arguments.workers, recipe.kind_shares)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
    if world > 1:
        dist.init_process_group("nccl")
    store = PhotoStore(arguments.photos, arguments.sources, bank, device, seed, arguments.workers)
    features = SqueezeFeatures(arguments.features).to(device).to(memory_format=torch.channels_last)
    if device.type == "cuda":
        features = features.bfloat16()
    guide = load_file(arguments.guide) if arguments.guide else None
    teacher = load_file(arguments.teacher) if arguments.teacher else None
    trainer = Trainer(recipe, store, features, rank, world, guide, teacher)
    if saved_before is not None:
        figures = load_state(arguments.state, trainer.generator, trainer.critic)
        trainer.steps, trainer.images, trainer.seconds = figures["steps"], figures["images"], figures["seconds"]
    else:
        start_from(trainer, arguments.start, arguments.start_critic)
    log = (arguments.state / "log.jsonl") if rank == 0 else None
    arguments.state.mkdir(parents=True, exist_ok=True)

    def note(row: dict[str, Any]) -> None:
        if log is not None:
            row["elapsed_s"] = round(time.monotonic() - started, 1)
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)

    note({"photos": store.count, "world": world, "device": str(device), "torch": torch.__version__})
    stage: Stage | None = None
    first_step, reported_step = trainer.steps, trainer.steps
    clock = SharedClock(world, device)
    begun, base, reported, saved = time.monotonic(), trainer.seconds, time.monotonic(), time.monotonic()
    while True:
        elapsed, training_s = clock.read(time.monotonic() - started, time.monotonic() - begun)
        trainer.seconds = base + training_s
        progress = min(1.0, trainer.seconds / arguments.budget)
        if (
            elapsed > arguments.seconds
            or progress >= 1.0
            or (arguments.steps and trainer.steps - first_step >= arguments.steps)
        ):
            break
        wanted = next(s for s in recipe.stages if progress < s.until or s is recipe.stages[-1])
        if wanted is not stage:
            if stage is not None and rank == 0:
                save_all(trainer, arguments.state, recipe)
                shutil.copy(
                    arguments.state / "averaged.safetensors", arguments.state / f"averaged-{trainer.steps}.safetensors"
                )
            trainer.prepare(wanted)
            stage = wanted
            note({"stage": asdict(stage), "seconds": round(trainer.seconds, 1)})
            reported, reported_step = time.monotonic(), trainer.steps
            trainer.sums.zero_()
        while arguments.pause_file and rank == 0 and arguments.pause_file.exists():
            if device.type == "cuda":
                torch.cuda.synchronize()
            time.sleep(0.02)
        trainer.step(learning_rate(recipe, progress, trainer.steps - first_step))
        if trainer.steps % arguments.report_every == 0:
            row = trainer.report(trainer.steps - reported_step, time.monotonic() - reported)
            if device.type == "cuda":
                row["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
            note({**row, "progress": round(progress, 3)})
            reported, reported_step = time.monotonic(), trainer.steps
        if trainer.steps % 8 == 0 and world == 1 and time.monotonic() - saved > arguments.save_every:
            save_all(trainer, arguments.state, recipe)
            saved = time.monotonic()
        elif world > 1 and training_s - (saved - begun) > arguments.save_every:
            if rank == 0:
                save_all(trainer, arguments.state, recipe)
            saved = begun + training_s
    if stage is None:  # the budget is spent, or loading took the whole stretch: what is saved stays as it is
        note({"message": "no step was made: --budget is spent or --seconds shorter than loading takes"})
    elif rank == 0:
        save_all(trainer, arguments.state, recipe)
    note({"done": True, "steps": trainer.steps, "images": trainer.images, "seconds": round(trainer.seconds, 1)})
    if world > 1:
        dist.destroy_process_group()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="folder of training photos, searched recursively")
    parser.add_argument("--sources", type=Path, help="CSV with columns file, source: photos are drawn by source")
    parser.add_argument("--features", type=Path, required=True, help="SqueezeNet 1.0 weights for the perceptual term")
    parser.add_argument("--state", type=Path, required=True, help="folder to resume from and save to")
    parser.add_argument(
        "--start", type=Path, help="published safetensors to start from when there is no state; with fewer blocks, too"
    )
    parser.add_argument(
        "--start-critic", type=Path, help="critic to start from when there is no state, as training/critic.safetensors"
    )
    parser.add_argument(
        "--guide", type=Path, help="published safetensors of the same shape that give deep holes their coarse colour"
    )
    parser.add_argument(
        "--teacher", type=Path, help="published safetensors of the same shape whose changed fills are learnt"
    )
    parser.add_argument("--seconds", type=float, default=600, help="length of this stretch, loading included")
    parser.add_argument(
        "--budget", type=float, default=1200, help="length of the whole training, which the schedule follows"
    )
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps (0: by the clock)")
    parser.add_argument("--save-every", type=float, default=120)
    parser.add_argument("--report-every", type=int, default=200)
    parser.add_argument("--masks", type=int, default=12000)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pause-file", type=Path, help="training rests while this file exists")
    parser.add_argument("--recipe", default="{}", help="JSON with fields of Recipe to change")
    arguments = parser.parse_args()
    try:
        recipe = read_recipe(arguments.recipe)
        check_files(arguments)
        check_resumable(recipe, arguments.state)
    except ValueError as error:
        parser.error(str(error))
    try:
        train(arguments, recipe)
    except UnusablePhotoError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
