"""What of a repair is the host's: its steps one by one, and how fast it copies."""

import contextlib
import ctypes
import importlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray

from bench.speed_repair import photo_and_hole
from engine.context_pass import plan_context, transfer_low_frequencies
from engine.profiles import Card, choose_profile
from engine.tones import find_line, on_own_colours
from masks.boxes import sample_bounds, slices_of
from masks.crop_plan import plan_crops
from preprocess import build_input, composite, upload
from tensor_ops import host_copies
from tensor_ops.pinned_memory import PinnedMemory
from tensor_ops.seam_correction import correct_seam

# (module, attribute) of what a repair's host calls; each is timed where it is looked up. Some call others.
STEPS = (
    ("inference", "sample_bounds"),
    ("inference", "plan_repair"),
    ("masks.dilation", "connected_holes"),
    ("masks.dilation", "depth_of_hole"),
    ("engine.repair_steps", "plan_context"),
    ("engine.repair_steps", "is_deep_hole"),
    ("engine.executor", "upload"),
    ("engine.executor", "build_input"),
    ("engine.executor", "transfer_low_frequencies"),
    ("engine.executor", "composite"),
    ("engine.model_runner", "ModelRunner.predict"),
    ("tensor_ops.pinned_memory", "copy_rows"),
    ("tensor_ops.pinned_memory", "touch_pages"),
    ("tensor_ops.pinned_memory", "PinnedMemory._take"),
    ("tensor_ops.pinned_memory", "PinnedMemory.synchronize"),
    ("engine.repair_steps", "find_line"),
    ("inference", "is_any_set"),
    ("inference", "overlooks_holes"),
    ("inference", "fill_plans"),
    ("inference", "make_result"),
)


def host_rows(weights: str | None, *, rounds: int = 15) -> list[dict[str, Any]]:
    """Time the host's steps in repairs of 4000x3000 with each of three holes: median milliseconds of a repair."""
    from inference import Inpainter

    inpainter = Inpainter.load(weights)
    rows = []
    for hole_px in (300, 1200, 2600):
        image, mask = photo_and_hole(3000, 4000, hole_px)
        for _ in range(3):
            inpainter.repair(image, mask)
        walls: list[float] = []
        spent: dict[str, list[tuple[int, float]]] = {}
        for _ in range(rounds):
            with _timed_steps() as steps:
                began = time.perf_counter()
                inpainter.repair(image, mask)
                walls.append((time.perf_counter() - began) * 1e3)
            for name, each in steps.items():
                spent.setdefault(name, []).append((len(each), sum(each)))
        row: dict[str, Any] = {"hole_px": hole_px, "wall_ms": statistics.median(walls)}
        for name, found in spent.items():
            row[name] = f"{statistics.median(ms for _, ms in found):.2f} in {found[0][0]}"
        rows.append(row)
        print("host", row, flush=True)
    return rows


@contextlib.contextmanager
def _timed_steps() -> Iterator[dict[str, list[float]]]:
    spent: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.setdefault(name, []).append((time.perf_counter() - began) * 1e3)

        return call

    with contextlib.ExitStack() as stack:
        for module, attribute in STEPS:
            owner: Any = importlib.import_module(module)
            *outer, last = attribute.split(".")
            for part in outer:
                owner = getattr(owner, part)
            if hasattr(owner, last):  # an earlier commit has not all of them
                stack.enter_context(mock.patch.object(owner, last, timed(attribute, getattr(owner, last))))
        yield spent


def processor_rows(*, rounds: int = 5) -> list[dict[str, Any]]:
    """Time what surrounds the network where a CPU computes, in milliseconds of a processor, by one thread: medians.

    "Sampled" is the plan that a GPU's host makes instead.
    """
    pinned, buckets_px = PinnedMemory(torch.device("cpu")), choose_profile(Card("H200"), name="h200")[0].buckets_px
    rows = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for hole_px in (300, 1200, 2600):
        image, mask = photo_and_hole(3000, 4000, hole_px)
        spent: dict[str, list[float]] = {}
        for _ in range(rounds):
            marks = [("", time.process_time())]

            def mark(step: str, into: list[tuple[str, float]] = marks) -> None:
                into.append((step, time.process_time()))

            with torch.inference_mode():
                plan_crops(mask, image=image, bounds=sample_bounds(mask), buckets_px=buckets_px, fixed_buckets=True)
                mark("sampled_plan_ms")
                (crop,) = plan_crops(mask, image=image, buckets_px=buckets_px, fixed_buckets=False)
                context_crop = plan_context(crop, mask.shape)
                mark("plan_ms")
                context = build_input(upload(context_crop, image, pinned)) if context_crop is not None else None
                mark("context_ms")
                source = upload(crop, image, pinned)
                model_input = build_input(source)
                mark("input_ms")
                prediction = correct_seam(torch.full((1, 3, *crop.model_size), 0.5), model_input[None])[0]
                mark("seam_ms")
                if context_crop is not None and context is not None:
                    prediction = transfer_low_frequencies(prediction, crop, context, context_crop)
                mark("transfer_ms")
                composite(prediction, source)
                mark("composite_ms")
            for (_, start_s), (step, end_s) in itertools.pairwise(marks):
                spent.setdefault(step, []).append((end_s - start_s) * 1e3)
        medians = {step: round(statistics.median(each), 1) for step, each in spent.items()}
        all_ms = round(sum(medians.values()) - medians["sampled_plan_ms"])
        rows.append({"hole_px": hole_px, **medians, "all_ms": all_ms})
        print("processor", rows[-1], flush=True)
    torch.set_num_threads(threads)
    return rows


def grey_rows(*, rounds: int = 7) -> list[dict[str, Any]]:
    """Time what a black and white photo of 4000x3000 costs the host: its line of colours, the patch put onto it."""
    rows = []
    for hole_px in (300, 1200, 2600):
        image, mask = photo_and_hole(3000, 4000, hole_px)
        image = np.repeat(image[:, :, :1], 3, axis=2)
        buckets_px = choose_profile(Card("H200"), name="h200")[0].buckets_px
        (crop,) = plan_crops(mask, image=image, buckets_px=buckets_px, fixed_buckets=True)
        original = image[slices_of(crop.patch_box)]
        patch = np.random.default_rng(0).integers(0, 256, original.shape, dtype=np.uint8)
        times: dict[str, list[float]] = {"line_ms": [], "put_ms": [], "processor_ms": []}
        for _ in range(rounds):
            began_s, worked_s = time.perf_counter(), time.process_time()
            line = find_line(image, crop)
            found_s = time.perf_counter()
            on_own_colours(patch, original, line)
            times["line_ms"].append((found_s - began_s) * 1e3)
            times["put_ms"].append((time.perf_counter() - found_s) * 1e3)
            times["processor_ms"].append((time.process_time() - worked_s) * 1e3)
        medians = {key: round(statistics.median(each), 1) for key, each in times.items()}
        rows.append({"hole_px": hole_px, **medians})
        print("grey", rows[-1], flush=True)
    return rows


def copy_rows(*, rounds: int = 20) -> list[dict[str, Any]]:
    """Time copies of a photo's rows into page-locked memory, and back into memory just asked for.

    In a row, then each after a rest of 3 ms, about as long as a plan takes, when PyTorch's threads may be asleep.
    """
    photo = np.random.default_rng(0).integers(0, 256, (3000, 4000, 3), dtype=np.uint8)
    rows = []
    for mib in (4, 8, 24):
        part = photo[: (mib << 20) // 9000, 500:3500]
        pinned = torch.empty(part.shape, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        for name, copy in _ways_to_copy():
            times: dict[str, list[float]] = {"in_ms": [], "out_ms": [], "touch_ms": [], "out_touched_ms": []}
            times["in_rested_ms"] = []
            for _ in range(rounds):
                times["in_ms"].append(_spent_ms(copy, pinned.numpy(), part))
                out = np.empty(part.shape, np.uint8)
                times["out_ms"].append(_spent_ms(copy, out, pinned.numpy()))
                out = np.empty(part.shape, np.uint8)
                times["touch_ms"].append(_spent_ms(host_copies.touch_pages, out))
                times["out_touched_ms"].append(_spent_ms(copy, out, pinned.numpy()))
            for _ in range(rounds):
                time.sleep(0.003)
                times["in_rested_ms"].append(_spent_ms(copy, pinned.numpy(), part))
            medians = {key: round(statistics.median(each), 2) for key, each in times.items()}
            rows.append({"mib": mib, "by": name, **medians})
            print("copy", rows[-1], flush=True)
    return rows


def _ways_to_copy() -> Iterator[tuple[str, Callable[[NDArray, NDArray], None]]]:
    yield "NumPy", np.copyto
    usual = torch.get_num_threads()
    for threads in sorted({2, 4, 8, 16, usual}):
        torch.set_num_threads(threads)
        with mock.patch.object(host_copies, "MANY_CORES", 0):
            yield f"{threads} threads" + (" as in a repair" if threads == usual else ""), host_copies.copy_rows
    torch.set_num_threads(usual)
    yield "memmove, row by row", _by_memmove


def _by_memmove(target: NDArray, source: NDArray) -> None:
    if target.flags.c_contiguous and source.flags.c_contiguous:
        ctypes.memmove(target.ctypes.data, source.ctypes.data, source.nbytes)
        return
    size, start, to = source[0].nbytes, source.ctypes.data, target.ctypes.data
    for row in range(len(source)):
        ctypes.memmove(to + row * target.strides[0], start + row * source.strides[0], size)


def _spent_ms(function: Callable[..., None], *arguments: NDArray) -> float:
    began = time.perf_counter()
    function(*arguments)
    return (time.perf_counter() - began) * 1e3
