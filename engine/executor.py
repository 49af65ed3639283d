"""Run crops: batches, the second try in float32, and the ladder of smaller attempts when memory is short.

Owns the order of context passes, upload, predict, composite and download, and what is tried when a prediction is not
finite or memory does not suffice. Nothing waits for the device until all batches are queued. The caller holds the one
lock on the GPU.
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
from engine.model_runner import ModelRunner
from engine.stage_timer import StageTimer
from lama.device_errors import is_out_of_memory
from masks.crop_plan import Crop, shrink_crop
from notices import Note
from preprocess import DeviceCrop, build_input, composite, upload
from tensor_ops.pinned_memory import PinnedMemory

logger = logging.getLogger(__name__)

FP32_RETRY = Note("The prediction was not finite, so this repair was made again in float32.", code="fp32_retry")
CONTEXT_LEFT_OUT = Note("A large hole's wider surroundings could not be included.", code="look_left_out")
CONTEXT_ON_CPU = "the wider surroundings were predicted on the CPU"

Predict = Callable[[list[Tensor]], Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class CropTask:
    """One crop to fill.

    Attributes:
        image: (H, W, 3) uint8 or uint16, not modified.
        crop: from the plan of this image.
        context_crop: the crop of its context pass, or None where it needs none.
        context: the context pass's prediction and mask, see `transfer_low_frequencies`; None before it ran, and when
            even the CPU had no memory.
        transparent: (H, W) bool, pixels whose colours nobody sees: the network sees them as missing; not modified.
        levels: the image's values that the network sees as 0 and 1; None = 0 and the largest of its type.
        is_context_on_cpu: whether the context pass ran on the CPU because the GPU had no memory.
        is_deep: whether the crisp network fills it, where there is one; its context is the accurate one's in any case.
    """

    image: NDArray
    crop: Crop
    context_crop: Crop | None = None
    context: Tensor | None = None
    transparent: NDArray[np.bool_] | None = None
    levels: tuple[int, int] | None = None
    is_context_on_cpu: bool = False
    is_deep: bool = False


@dataclass
class Filled:
    """A task's patch, in the image's dtype, and the notes on how it was made."""

    patch: NDArray
    notes: list[Note]


Summed = tuple[Filled, NDArray[np.float32]]  # with the prediction's sum, (1,), valid after `PinnedMemory.synchronize`


def fill(
    tasks: Sequence[CropTask], runner: ModelRunner, timer: StageTimer, meanwhile: Callable[[], None] | None = None
) -> list[Filled]:
    """Predict every task's crop and composite it into the task's pixels.

    Tasks of one model size and network run as one batch, at most `runner.batch_size` of them. A prediction with NaN or
    infinity, the crop's or its context's, is made again in float32. When memory does not suffice, the graphs are
    freed, then smaller buckets are tried, then the CPU (for a context pass at once); the patch's notes say what
    happened.

    Args:
        tasks: what to fill.
        runner: the model.
        timer: times the stages.
        meanwhile: work for the CPU, called once, when everything is queued on the device.

    Returns:
        One `Filled` per task, in order, complete and on the CPU.

    Raises:
        MemoryError: memory did not suffice on the CPU either.
    """
    tasks = _run_context_passes(tasks, runner, timer)
    filled: list[Filled | None] = [None] * len(tasks)
    sums: list[tuple[int, NDArray[np.float32]]] = []
    for indices in _batches(tasks, runner):
        batch = [tasks[index] for index in indices]
        one_network = runner.for_hole(is_deep=batch[0].is_deep)
        for index, (result, total) in zip(indices, _fill_batch(batch, one_network, timer), strict=True):
            filled[index] = result
            sums.append((index, total))
    timer.enter("")  # the last stage ends behind the last copy; what the CPU does meanwhile is none of it
    runner.pinned.touch_arriving()
    if meanwhile is not None:
        meanwhile()
    runner.pinned.synchronize()
    for index, total in sums:
        # Half precision overflows on few photos, and only on the device is it seen: so the check comes after the copy.
        if not np.isfinite(total).all():
            filled[index] = _fill_in_float32(tasks[index], runner, timer)
    return [result for result in filled if result is not None]


def _run_context_passes(tasks: Sequence[CropTask], runner: ModelRunner, timer: StageTimer) -> Sequence[CropTask]:
    """Return the tasks with their contexts, predicted on the CPU where the device has no memory."""
    if all(task.context_crop is None for task in tasks):
        return tasks
    tasks = list(tasks)
    numbers = [number for number, task in enumerate(tasks) if task.context_crop is not None]
    context_tasks = [_context_task(tasks[number]) for number in numbers]
    for indices in _batches(context_tasks, runner):
        batch = [context_tasks[index] for index in indices]
        predictions = _try(_predict_contexts, batch, runner.predict, runner.pinned, timer)
        is_on_cpu = predictions is None
        if is_on_cpu:
            # A context pass is one small forward: on the CPU at once, before the crops themselves lose their graphs.
            logger.warning("out of memory on %s: %s", runner.device, CONTEXT_ON_CPU)
            runner.free_memory()
            predictions = _try(
                _predict_contexts, batch, runner.predict_on_cpu, PinnedMemory(torch.device("cpu")), timer
            )
        for index, one in zip(indices, predictions or [], strict=predictions is not None):
            task = tasks[numbers[index]]
            tasks[numbers[index]] = replace(task, context=one, is_context_on_cpu=is_on_cpu)
    return tasks


def _context_task(task: CropTask) -> CropTask:
    """Return the task of a task's context pass."""
    assert task.context_crop is not None, "a task without a context pass has none"
    return replace(task, crop=task.context_crop, context_crop=None, context=None, is_deep=False)


def _batches(tasks: Sequence[CropTask], runner: ModelRunner) -> Iterator[list[int]]:
    """Yield indices of tasks of one model size and one network, in batches of the sizes that have a graph."""
    alike: dict[tuple[tuple[int, int], bool], list[int]] = {}
    for index, task in enumerate(tasks):
        alike.setdefault((task.crop.model_size, task.is_deep), []).append(index)
    for (size, _), indices in alike.items():
        start = 0
        while start < len(indices):
            batch = runner.batch_size(size, len(indices) - start)
            yield indices[start : start + batch]
            start += batch


def _fill_batch(tasks: list[CropTask], runner: ModelRunner, timer: StageTimer) -> list[Summed]:
    """Return the patches of tasks of one model size, each with the sum of its prediction."""
    done = _try(_fill_once, tasks, runner.predict, runner.pinned, timer)
    if done is not None:
        return done
    runner.free_memory()
    # A batch needs more than one task does, so the graphs alone may have been too much for the batch only.
    if len(tasks) > 1:
        logger.warning("out of memory with %d boxes at once, going on one by one", len(tasks))
        return [_fill_batch([task], runner, timer)[0] for task in tasks]
    return _fill_with_less_memory(tasks[0], runner, timer)


def _fill_with_less_memory(task: CropTask, runner: ModelRunner, timer: StageTimer) -> list[Summed]:
    """Try one task at its size, at each smaller bucket, then on the CPU; the graphs have been freed."""
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


def _fill_in_float32(task: CropTask, runner: ModelRunner, timer: StageTimer) -> Filled:
    logger.warning("a %s prediction was not finite, repeating it in float32", runner.precision)
    if task.context_crop is not None:
        predicted = _try(
            _predict_contexts,
            [_context_task(task)],
            runner.predict_float32,
            runner.pinned,
            timer,
        )
        is_finite = predicted is not None and bool(torch.isfinite(predicted[0]).all())
        task = replace(task, context=predicted[0] if predicted and is_finite else None)
    one_network = runner.for_hole(is_deep=task.is_deep)
    done = _try(_fill_once, [task], one_network.predict_float32, runner.pinned, timer)
    if done is None:
        done = _fill_on_cpu(task, one_network, timer)
    runner.pinned.synchronize()
    done[0][0].notes.append(FP32_RETRY)
    return done[0][0]


def _fill_on_cpu(task: CropTask, runner: ModelRunner, timer: StageTimer) -> list[Summed]:
    """Take the last step down; raise MemoryError when even the CPU has no memory."""
    runner.free_memory()
    done = _try(_fill_once, [task], runner.predict_on_cpu, PinnedMemory(torch.device("cpu")), timer)
    if done is None:
        height, width = task.crop.scaled_size
        raise MemoryError(f"memory does not suffice to repair a box of {width} x {height} px; mark a smaller area")
    return done


def _try(
    once: Callable[[list[CropTask], Predict, PinnedMemory, StageTimer], list[T]],
    tasks: list[CropTask],
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
        # Not tried again in here: the error's traceback holds the frames, and these the tensors, until it is left.
        return None


def _fill_once(tasks: list[CropTask], predict: Predict, pinned: PinnedMemory, timer: StageTimer) -> list[Summed]:
    prediction, sources, _ = _predict_once(tasks, predict, pinned, timer)
    timer.enter("composite")
    if any(task.context is not None for task in tasks):
        prediction = torch.stack(
            [_with_context_colours(one, task) for one, task in zip(prediction, tasks, strict=True)]
        )
    # Values lie near [0, 1], so the sum is not finite exactly if one of them is not: one number to bring back, not all.
    sums = np.empty(len(tasks), np.float32)
    pinned.to_host(prediction.sum(dim=(1, 2, 3)), sums)
    patches = [composite(single, source) for single, source in zip(prediction.unbind(), sources, strict=True)]
    return [
        (Filled(patch, _context_notes(task)), sums[index : index + 1])
        for index, (patch, task) in enumerate(zip(patches, tasks, strict=True))
    ]


def _context_notes(task: CropTask) -> list[Note]:
    if task.context_crop is not None and task.context is None:
        return [CONTEXT_LEFT_OUT]
    return [_no_memory(CONTEXT_ON_CPU)] if task.is_context_on_cpu else []


def _no_memory(how: str) -> Note:
    return Note(f"Memory did not suffice: {how}.", code="out_of_memory", how=how)


def _predict_contexts(
    context_tasks: list[CropTask], predict: Predict, pinned: PinnedMemory, timer: StageTimer
) -> list[Tensor]:
    """Return the contexts of tasks of one model size, see `transfer_low_frequencies`."""
    prediction, _, inputs = _predict_once(context_tasks, predict, pinned, timer)
    # Copies: a graph's own output is overwritten by the next call.
    return [torch.cat([one, model_input[3:]]) for one, model_input in zip(prediction, inputs, strict=True)]


def _predict_once(
    tasks: list[CropTask], predict: Predict, pinned: PinnedMemory, timer: StageTimer
) -> tuple[Tensor, list[DeviceCrop], list[Tensor]]:
    """Return the prediction (B, 3, H, W) for tasks of one model size, their crops on the device, the model's inputs."""
    timer.enter("upload")
    packet = pinned.free_packet(tasks[0].crop.model_size) if len(tasks) == 1 else None
    sources = [
        upload(task.crop, task.image, pinned, transparent=task.transparent, levels=task.levels, packet=packet)
        for task in tasks
    ]
    inputs = [build_input(source) for source in sources]
    timer.enter("predict")
    return predict(inputs), sources, inputs


def _with_context_colours(prediction: Tensor, task: CropTask) -> Tensor:
    if task.context is None or task.context_crop is None:
        return prediction
    return transfer_low_frequencies(prediction, task.crop, task.context.to(prediction.device), task.context_crop)
