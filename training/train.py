"""Trains the compact generator for a given time.

    python -m training.train --photos DIR --features FILE --state DIR --seconds 600

A step is captured once per stage as CUDA graphs (generator; critic; critic with its gradient penalty) and replayed;
batches are cut on the device by a few plain launches between replays. Several cards
(`torchrun --nproc-per-node 2 -m -- training.train …`) exchange one flat gradient a step. The schedule runs on
the clock: `--budget` is the whole training in seconds, `--seconds` this stretch, so that a training cut into stretches
follows one curve. State is saved every `--save-every` seconds and at the end, which Ctrl+C and SIGTERM bring about too.
A state that can't be saved, as on a full disk, is said, and tried again; the one before stays.

Stages go from small crops to large ones, with a critic where a stage asks for one. Losses: `training.losses`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save

from imaging.atomic_write import write_atomically
from training.ending import SharedClock, Stopping
from training.given import Given, read_given
from training.masks import draw_bank
from training.network import Weights
from training.photos import PhotoStore, UnusablePhotoError, find_photos, read_sources
from training.recipe import Recipe, Stage, read_recipe
from training.state import UnusableStateError, load_state, save_state, saved_figures
from training.trainer import Trainer

RANK_SEEDS = 10**12  # from one card's seeds to the next's
STEP_SEEDS = 10**5  # from a stretch's seeds to those of one that begins a step later; more than a bank has masks
MOST_MASKS = STEP_SEEDS
LARGEST_SEED = 10**11  # with the steps' part still below the next card's seeds
OF_A_STATE = ("width", "blocks", "critic_base", "muon")  # fields of a recipe that give its state's tensors their shapes
EXIT_FAILED, EXIT_STOPPED = 1, 130


def learning_rate(recipe: Recipe, progress: float, since_start: int) -> float:
    """Return the learning rate at `progress` in [0, 1].

    A short warm-up, counted in steps of this stretch, then flat, then falling linearly to a hundredth.
    """
    fall = (1 - progress) / (1 - recipe.decay_from) if progress > recipe.decay_from else 1.0
    return recipe.rate * min(1.0, (since_start + 1) / recipe.warmup_steps) * max(0.01, min(1.0, fall))


def check_resumable(recipe: Recipe, folder: Path) -> None:
    """Raise ValueError if the state in `folder` is of a network of another shape; say which other settings changed."""
    figures = saved_figures(folder)
    if figures is None:
        return
    asked_for, before = json.loads(json.dumps(asdict(recipe))), figures.get("recipe")
    if not isinstance(before, dict):
        raise UnusableStateError(folder, "state.json does not say by which recipe it was trained")
    changed = [
        f"{name} {before.get(name)} -> {value}" for name, value in asked_for.items() if before.get(name) != value
    ]
    if any(asked_for[name] != before.get(name, asked_for[name]) for name in OF_A_STATE):
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
    if arguments.sources is not None:
        read_sources(arguments.sources)
    if arguments.state.exists() and not arguments.state.is_dir():
        raise ValueError(f"--state {arguments.state} is no folder")


def save_all(trainer: Trainer, folder: Path, recipe: Recipe, *, also: str = "") -> None:
    """Write the resumable state and the averaged generator (`averaged.safetensors`, fp16, published names).

    Args:
        trainer: what is saved.
        folder: where to.
        recipe: by which it is trained.
        also: another file that the averaged generator is written to.

    Raises:
        OSError: it can't be written; the state from before is there.
    """
    figures = {"steps": trainer.steps, "images": trainer.images, "seconds": trainer.seconds, "recipe": asdict(recipe)}
    save_state(folder, trainer.generator, trainer.critic, figures)
    state = {k: v.half() for k, v in trainer.averaged_state().items() if not k.endswith("num_batches_tracked")}
    for name in filter(None, ("averaged.safetensors", also)):
        write_atomically(folder / name, save(state))


def start_from(trainer: Trainer, generator: Weights | None, critic: torch.Tensor | None) -> None:
    """Begin with a generator's tensors, and with a critic's flat buffer."""
    if generator is not None:
        for name, value in generator.items():
            trainer.generator.parameters.current()[name].copy_(value)
        trainer.generator.parameters.average.copy_(trainer.generator.parameters.master)
    if critic is not None:
        trainer.critic.parameters.master.copy_(critic)


def train(arguments: argparse.Namespace, recipe: Recipe, given: Given) -> None:
    """Train for `arguments.seconds`, from the state in `arguments.state` if there is one.

    Raises UnusablePhotoError, UnusableStateError, and OSError where the last state can't be written.
    """
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
    features = given.features.to(device).to(memory_format=torch.channels_last)
    if device.type == "cuda":
        features = features.bfloat16()
    trainer = Trainer(recipe, store, features, rank, world, given.guide, given.teacher)
    if saved_before is not None:
        figures = load_state(arguments.state, trainer.generator, trainer.critic)
        trainer.steps, trainer.images, trainer.seconds = figures["steps"], figures["images"], figures["seconds"]
    else:
        start_from(trainer, given.start, given.critic)
    log = (arguments.state / "log.jsonl") if rank == 0 else None

    def note(row: dict[str, Any]) -> None:
        if log is not None:
            row["elapsed_s"] = round(time.monotonic() - started, 1)
            try:
                with log.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            except OSError as error:  # on a full disk the training goes on, and what is printed is all there is
                print(f"{log} can't be written: {error.strerror}", file=sys.stderr, flush=True)
            print(json.dumps(row), flush=True)

    def save_if_possible(also: str = "") -> None:
        try:
            save_all(trainer, arguments.state, recipe, also=also)
        except OSError as error:
            note({"message": f"the state at step {trainer.steps} could not be saved: {error.strerror}"})

    note({"photos": store.count, "world": world, "device": str(device), "torch": torch.__version__})
    stage: Stage | None = None
    first_step, reported_step = trainer.steps, trainer.steps
    clock = SharedClock(world, device)
    stopping = Stopping()  # from here on there is something to save
    begun, base, reported, saved = time.monotonic(), trainer.seconds, time.monotonic(), time.monotonic()
    while True:
        now_s = time.monotonic()
        elapsed, training_s = clock.read(math.inf if stopping.asked else now_s - started, now_s - begun)
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
                save_if_possible(also=f"averaged-{trainer.steps}.safetensors")
            trainer.prepare(wanted)
            stage = wanted
            note({"stage": asdict(stage), "seconds": round(trainer.seconds, 1)})
            reported, reported_step = time.monotonic(), trainer.steps
            trainer.sums.zero_()
        while arguments.pause_file and rank == 0 and arguments.pause_file.exists() and not stopping.asked:
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
            save_if_possible()
            saved = time.monotonic()
        elif world > 1 and training_s - (saved - begun) > arguments.save_every:
            if rank == 0:
                save_if_possible()
            saved = begun + training_s
    if stage is None:  # the budget is spent, or loading took the whole stretch: what is saved stays as it is
        why = "it was stopped" if stopping.asked else "--budget is spent or --seconds shorter than loading takes"
        note({"message": f"no step was made: {why}"})
    elif rank == 0:
        save_all(trainer, arguments.state, recipe)
    note({"done": True, "steps": trainer.steps, "images": trainer.images, "seconds": round(trainer.seconds, 1)})
    stopping.end()
    if world > 1:
        dist.destroy_process_group()


def number(kind: Callable[[str], float], least: float, most: float = math.inf) -> Callable[[str], float]:
    """Return what reads an option that is a number: finite, from `least` to `most`."""

    def read(text: str) -> float:
        value = kind(text)
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"{text} is not from {least} {'up' if most == math.inf else f'to {most}'}")
        return value

    return read


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
    seconds = number(float, 0)
    parser.add_argument("--seconds", type=seconds, default=600, help="length of this stretch, loading included")
    parser.add_argument(
        "--budget", type=number(float, 1), default=1200, help="length of the whole training, which the schedule follows"
    )
    parser.add_argument("--steps", type=number(int, 0), default=0, help="stop after so many steps (0: by the clock)")
    parser.add_argument("--save-every", type=seconds, default=120)
    parser.add_argument("--report-every", type=number(int, 1), default=200)
    parser.add_argument("--masks", type=number(int, 1, MOST_MASKS), default=12000)
    parser.add_argument("--workers", type=number(int, 1), default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=number(int, 0, LARGEST_SEED), default=0)
    parser.add_argument("--pause-file", type=Path, help="training rests while this file exists")
    parser.add_argument("--recipe", default="{}", help="JSON with fields of Recipe to change")
    arguments = parser.parse_args()
    try:
        recipe = read_recipe(arguments.recipe)
        check_files(arguments)
        check_resumable(recipe, arguments.state)
        given = read_given(
            recipe,
            arguments.features,
            start=arguments.start,
            critic=arguments.start_critic,
            guide=arguments.guide,
            teacher=arguments.teacher,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        arguments.state.mkdir(parents=True, exist_ok=True)
        train(arguments, recipe, given)
    except (UnusablePhotoError, UnusableStateError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.exit(EXIT_FAILED, f"{parser.prog}: error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
