"""Crops to patches: batches, the second try in float32, and the way down when memory is short.

Owns the order of upload, predict, composite and download, broad looks before the crops that take them, and what is
tried when a prediction is not finite or the device's memory does not suffice. The caller holds the one lock on the GPU.
Nothing waits for the device until all batches are under way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.context_pass import transfer_low_frequencies
from engine.devices import is_out_of_memory
from engine.model_runner import ModelRunner
from engine.stage_timer import StageTimer
from masks.crop_plan import Crop, shrink_crop
from notices import Note
from preprocess import DeviceCrop, build_input, composite, upload
from tensor_ops.pinned_memory import PinnedMemory

logger = logging.getLogger(__name__)

FP32_RETRY = Note("The prediction was not finite, so this repair was made again in float32.", code="fp32_retry")
CONTEXT_LEFT_OUT = Note("A large hole's wider surroundings could not be looked at.", code="look_left_out")
CONTEXT_ON_CPU = "the wider surroundings were looked at on the CPU"

Predict = Callable[[list[Tensor]], Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One crop to fill.

    Attributes:
        image: (H, W, 3) uint8 or uint16, not modified.
        crop: from the plan of this image.
        look: the crop of its broad look (`broad.py`), if it takes one.
        seen: what came of that, see `transfer_low_frequencies`; None before it ran, or when even the CPU had no memory.
        is_context_on_cpu: whether the device's memory did not suffice for it.
    """

    image: NDArray
    crop: Crop
    look: Crop | None = None
    seen: Tensor | None = None
    is_context_on_cpu: bool = False


@dataclass
class Filled:
    """A task's patch, in the image's dtype, and what a person should know about how it came about."""

    patch: NDArray
    notes: list[Note]


Summed = tuple[Filled, NDArray[np.float32]]  # with the sum of the prediction, (1,), once the pinned is settled


def fill(tasks: Sequence[Task], runner: ModelRunner, timer: StageTimer) -> list[Filled]:
    """Predict every task's crop and composite it into the task's pixels.

    Tasks that run at one model size run as one batch, at most `runner.batch_size` of them. A prediction with NaN or
    infinity, its own or its broad look's, is made again in float32. When memory does not suffice the graphs are freed,
    then smaller buckets tried, then the CPU (for a broad look at once): the patch is delivered, and its notes say what
    happened.

    Args:
        tasks: what to fill.
        runner: the model.
        timer: times the stages.

    Returns:
        One `Filled` per task, in order, whole and on the host.
    """
    tasks = _run_context_passes(tasks, runner, timer)
    filled: list[Filled | None] = [None] * len(tasks)
    sums: list[tuple[int, NDArray[np.float32]]] = []
    for indices in _batches(tasks, runner):
        for index, (result, total) in zip(
            indices, _fill_batch([tasks[index] for index in indices], runner, timer), strict=True
        ):
            filled[index] = result
            sums.append((index, total))
    timer.enter("composite")
    runner.pinned.synchronize()
    for index, total in sums:
        if not np.isfinite(total).all():
            filled[index] = _fill_in_float32(tasks[index], runner, timer)
    return [result for result in filled if result is not None]


def _run_context_passes(tasks: Sequence[Task], runner: ModelRunner, timer: StageTimer) -> list[Task]:
    """The tasks with what their broad looks saw, where memory suffices for that, the device's or the host's."""
    tasks = list(tasks)
    numbers = [number for number, task in enumerate(tasks) if task.look is not None]
    looks = [Task(tasks[number].image, crop) for number in numbers if (crop := tasks[number].look)]
    for indices in _batches(looks, runner):
        batch = [looks[index] for index in indices]
        seen = _try(_predict_context_once, batch, runner.predict, runner.pinned, timer)
        is_on_cpu = seen is None
        if is_on_cpu:
            logger.warning("out of memory on %s: %s", runner.device, CONTEXT_ON_CPU)
            runner.free_memory()
            seen = _try(_predict_context_once, batch, runner.predict_on_cpu, PinnedMemory(torch.device("cpu")), timer)
        for index, one in zip(indices, seen or [], strict=seen is not None):
            task = tasks[numbers[index]]
            tasks[numbers[index]] = replace(task, seen=one, is_context_on_cpu=is_on_cpu)
    return tasks


def _batches(tasks: Sequence[Task], runner: ModelRunner) -> Iterator[list[int]]:
    """Indices of tasks of one model size, in batches of the sizes that have a graph."""
    by_size: dict[tuple[int, int], list[int]] = {}
    for index, task in enumerate(tasks):
        by_size.setdefault(task.crop.model_size, []).append(index)
    for size, indices in by_size.items():
        start = 0
        while start < len(indices):
            batch = runner.batch_size(size, len(indices) - start)
            yield indices[start : start + batch]
            start += batch


def _fill_batch(tasks: list[Task], runner: ModelRunner, timer: StageTimer) -> list[Summed]:
    """The patches of tasks of one model size, each with the sum of its prediction."""
    done = _try(_fill_once, tasks, runner.predict, runner.pinned, timer)
    if done is not None:
        return done
    runner.free_memory()
    if len(tasks) > 1:
        logger.warning("out of memory with %d boxes at once, going on one by one", len(tasks))
        return [_fill_batch([task], runner, timer)[0] for task in tasks]
    return _fill_with_less_memory(tasks[0], runner, timer)


def _fill_with_less_memory(task: Task, runner: ModelRunner, timer: StageTimer) -> list[Summed]:
    """Go down the ladder with one task; the graphs have been freed."""
    side = max(task.crop.model_size)
    done = _try(_fill_once, [task], runner.predict, runner.pinned, timer)
    how = "the graphs were freed"
    for bucket_px in sorted(runner.profile.buckets_px, reverse=True):
        if done is not None:
            break
        if bucket_px < side:
            runner.free_memory()
            smaller = replace(task, crop=shrink_crop(task.crop, bucket_px))
            done = _try(_fill_once, [smaller], runner.predict, runner.pinned, timer)
            how = f"the box ran at {bucket_px} px instead of {side}"
    if done is None:
        done = _fill_on_cpu(task, runner, timer)
        how = "the box ran on the CPU"
    logger.warning("out of memory on %s: %s", runner.device, how)
    done[0][0].notes.append(_no_memory(how))
    return done


def _fill_in_float32(task: Task, runner: ModelRunner, timer: StageTimer) -> Filled:
    logger.warning("a %s prediction was not finite, repeating it in float32", runner.precision)
    if task.look is not None:
        looked = _try(
            _predict_context_once, [Task(task.image, task.look)], runner.predict_float32, runner.pinned, timer
        )
        is_finite = looked is not None and bool(torch.isfinite(looked[0]).all())
        task = replace(task, seen=looked[0] if looked and is_finite else None)
    done = _try(_fill_once, [task], runner.predict_float32, runner.pinned, timer)
    if done is None:
        done = _fill_on_cpu(task, runner, timer)
    runner.pinned.synchronize()
    done[0][0].notes.append(FP32_RETRY)
    return done[0][0]


def _fill_on_cpu(task: Task, runner: ModelRunner, timer: StageTimer) -> list[Summed]:
    """Take the last step down; raise MemoryError when even the CPU has no memory."""
    runner.free_memory()
    done = _try(_fill_once, [task], runner.predict_on_cpu, PinnedMemory(torch.device("cpu")), timer)
    if done is None:
        height, width = task.crop.scaled_size
        raise MemoryError(f"memory does not suffice to repair a box of {width} x {height} px; mark a smaller area")
    return done


def _try(
    once: Callable[[list[Task], Predict, PinnedMemory, StageTimer], list[T]],
    tasks: list[Task],
    predict: Predict,
    pinned: PinnedMemory,
    timer: StageTimer,
) -> list[T] | None:
    """Run one attempt; return None on out-of-memory, after its tensors are released."""
    try:
        return once(tasks, predict, pinned, timer)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None


def _fill_once(tasks: list[Task], predict: Predict, pinned: PinnedMemory, timer: StageTimer) -> list[Summed]:
    prediction, sources, _ = _predict_once(tasks, predict, pinned, timer)
    timer.enter("composite")
    if any(task.seen is not None for task in tasks):
        prediction = torch.stack(
            [_with_context_colours(one, task) for one, task in zip(prediction, tasks, strict=True)]
        )
    sums = np.empty(len(tasks), np.float32)  # of values near [0, 1]: not finite if one of them is not
    pinned.to_host(prediction.sum(dim=(1, 2, 3)), sums)
    patches = [composite(single, source) for single, source in zip(prediction.unbind(), sources, strict=True)]
    return [
        (Filled(patch, _context_notes(task)), sums[index : index + 1])
        for index, (patch, task) in enumerate(zip(patches, tasks, strict=True))
    ]


def _context_notes(task: Task) -> list[Note]:
    if task.look is not None and task.seen is None:
        return [CONTEXT_LEFT_OUT]
    return [_no_memory(CONTEXT_ON_CPU)] if task.is_context_on_cpu else []


def _no_memory(how: str) -> Note:
    return Note(f"Memory did not suffice: {how}.", code="out_of_memory", how=how)


def _predict_context_once(looks: list[Task], predict: Predict, pinned: PinnedMemory, timer: StageTimer) -> list[Tensor]:
    """What broad looks of one model size see, see `transfer_low_frequencies`."""
    prediction, _, inputs = _predict_once(looks, predict, pinned, timer)
    # Copies: a graph's own output is overwritten by the next call.
    return [torch.cat([one, model_input[3:]]) for one, model_input in zip(prediction, inputs, strict=True)]


def _predict_once(
    tasks: list[Task], predict: Predict, pinned: PinnedMemory, timer: StageTimer
) -> tuple[Tensor, list[DeviceCrop], list[Tensor]]:
    """The prediction (B, 3, H, W) for tasks of one model size, their crops on the device, and the model's inputs."""
    timer.enter("upload")
    sources = [upload(task.crop, task.image, pinned) for task in tasks]
    inputs = [build_input(source) for source in sources]
    timer.enter("predict")
    return predict(inputs), sources, inputs


def _with_context_colours(prediction: Tensor, task: Task) -> Tensor:
    if task.seen is None or task.look is None:
        return prediction
    return transfer_low_frequencies(prediction, task.crop, task.seen.to(prediction.device), task.look)
