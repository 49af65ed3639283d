"""The steps of a repair on one runner: plan the crops, fill and refine them, put the result together.

Works on several requests at once, so that their crops share batches. The caller holds the one lock on the device while
filling; planning and results need none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from engine.context_pass import plan_context
from engine.executor import CropTask, Filled, fill
from engine.hole_depth import is_deep_hole
from engine.model_runner import ModelRunner
from engine.requests import RepairRequest, RepairResult
from engine.stage_timer import StageTimer
from engine.tiled_refinement import hard_edged, refine
from engine.tones import ALL_LEVELS, ColourLine, find_line, on_own_colours, shown_levels
from masks.boxes import Box, slices_of
from masks.crop_plan import Crop, plan_crops
from masks.dilation import CropRules
from notices import Note

EMPTY_MASK = Note("The mask is empty, nothing was changed.", code="empty_mask")
SCALED = Note("The hole is larger than the model's input, so it was filled at a smaller scale.", code="scaled")


def plan_repair(request: RepairRequest, runner: ModelRunner, rules: CropRules, bounds: Box | None = None) -> list[Crop]:
    """Return the crops of one request; see `plan_crops`."""
    return plan_crops(
        request.mask,
        image=request.image,
        bounds=bounds,
        buckets_px=runner.profile.buckets_px,
        fixed_buckets=runner.device.type == "cuda",
        dilate_px=request.dilate_px,
        feather_px=request.feather_px,
        rules=rules,
        transparent=request.transparent,
    )


def fill_plans(
    requests: Sequence[RepairRequest],
    plans: Sequence[Sequence[Crop]],
    runner: ModelRunner,
    timer: StageTimer,
    meanwhile: Callable[[], None] | None = None,
) -> list[Filled]:
    """Fill the crops of all requests, in order; those of high quality that are scaled are refined in tiles.

    The fill of a grey photo is put onto its own colours, which are looked for while the device works.

    Args:
        requests: not modified.
        plans: the crops of each request.
        runner: the model.
        timer: enters the stages.
        meanwhile: see `fill`.

    Returns:
        One `Filled` per crop.

    Raises:
        MemoryError: memory did not suffice on the CPU either.
    """
    tasks: list[CropTask] = []
    refined: list[tuple[int, CropTask]] = []
    for request, crops in zip(requests, plans, strict=True):
        levels = _levels_of(request) if crops else None
        for crop in crops:
            is_deep = runner.has_crisp and is_deep_hole(crop)
            context_crop = plan_context(crop, (request.mask.shape[0], request.mask.shape[1]))
            task = CropTask(
                request.image,
                crop,
                context_crop,
                transparent=request.transparent,
                levels=levels,
                is_deep=is_deep,
            )
            if request.quality == "high" and crop.is_scaled:
                refined.append((len(tasks), task))
                task = replace(task, crop=hard_edged(crop))
            tasks.append(task)
    planned = [(request, crop) for request, crops in zip(requests, plans, strict=True) for crop in crops]
    lines: list[ColourLine | None] = []

    def while_the_device_works() -> None:
        lines.extend(find_line(request.image, crop, request.transparent) for request, crop in planned)
        if meanwhile is not None:
            meanwhile()

    filled = fill(tasks, runner, timer, while_the_device_works)
    for index, task in refined:
        done = refine(task, filled[index].patch, runner, timer)
        filled[index] = Filled(done.patch, filled[index].notes + done.notes)
    return [
        Filled(on_own_colours(done.patch, request.image[slices_of(crop.patch_box)], line), done.notes)
        for done, line, (request, crop) in zip(filled, lines, planned, strict=True)
    ]


def _levels_of(request: RepairRequest) -> tuple[int, int] | None:
    """Return the values that the network sees as 0 and 1, None for all that there are."""
    levels = request.levels or shown_levels(request.image, request.mask, request.transparent)
    return None if levels == ALL_LEVELS else levels


def make_result(
    request: RepairRequest,
    crops: Sequence[Crop],
    filled: Iterator[Filled],
    *,
    timings_ms: Mapping[str, float],
    dropped: str,
) -> RepairResult:
    """Put one result together.

    Args:
        request: the request; its image is referred to, not copied.
        crops: its plan.
        filled: the crops' fills; as many as there are crops are taken from it.
        timings_ms: of the batch that the request ran in.
        dropped: why graphs were dropped in this batch, or "".

    Returns:
        The patches and the notes, one of each code.
    """
    result = RepairResult(request.image, timings_ms=dict(timings_ms))
    notes = [] if crops else [EMPTY_MASK]
    if request.quality == "fast" and any(crop.is_scaled for crop in crops):
        notes.append(SCALED)
    for crop in crops:
        done = next(filled)
        result.patches.append((crop.patch_box, _finish(done.patch, request, crop)))
        notes += done.notes
    if dropped:
        notes.append(Note(f"CUDA graphs are off: {dropped}.", code="graph_dropped"))
    result.notes = list({note.code: note for note in notes}.values())
    return result


def _finish(patch: NDArray, request: RepairRequest, crop: Crop) -> NDArray:
    """Return the patch with transparent pixels as they were."""
    inside = slices_of(crop.patch_box)
    if request.transparent is None or not request.transparent[inside].any():
        return patch
    return np.where(request.transparent[inside][..., None], request.image[inside], patch)
