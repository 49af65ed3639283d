"""Repair files and folders as `plan.py` says, several photos at once where asked.

A result appears complete or not at all, so one that is there is finished and a run that was stopped goes on with the
rest. Knows no command line and prints nothing.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from cli.errors import sentence_of
from cli.holes import HoleRules, hole_of_found, hole_of_mask
from cli.plan import BatchError, Task
from imaging import Encoded, Photo, encode_photo, open_photo
from imaging.atomic_write import write_atomically
from imaging.tiff_pages import count_pages, join_pages, page_of
from notices import Note

if TYPE_CHECKING:
    from inference import Inpainter

MAX_CPU_ENGINES = 4  # each has its own copy of the weights
PHOTOS_PER_ENGINE = 8  # fewer don't win back the time that another one takes to load
ALL_PAGES = "all"
Page = int | str
"""Which page of a document is repaired, counted from 1, or ALL_PAGES."""
State = Literal["repaired", "there_already", "without_mask", "failed"]


@dataclass(frozen=True)
class Limits:
    """The largest files and pictures that are opened, and how masks are read.

    Attributes:
        max_bytes: of a file.
        max_px: of a picture.
        invert: whether a mask's black is the hole.
        fit: whether a mask of another size is brought to its photo's.
        sensitivity: of what is looked for in a mask's place, from 0 to 1.
    """

    max_bytes: int
    max_px: int
    invert: bool = False
    fit: bool = False
    sensitivity: float = 0.5

    def hole_rules(self) -> HoleRules:
        """Return the rules for masks."""
        return HoleRules(
            invert=self.invert,
            fit=self.fit,
            sensitivity=self.sensitivity,
            max_bytes=self.max_bytes,
            max_px=self.max_px,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        task: the photo, its mask and where its result was to go.
        state: "repaired"; "there_already" and "without_mask" were left alone; "failed" says why in `error`.
        result: the result's file, None where there is none.
        seconds: how long it took, from reading to writing.
        notes: what there is to say of the result.
        error: a sentence.
    """

    task: Task
    state: State
    result: Path | None = None
    seconds: float = 0.0
    notes: tuple[Note, ...] = ()
    error: str = ""


def run_tasks(
    tasks: list[Task],
    load_engine: Callable[[], "Inpainter"],
    *,
    options: Mapping[str, Any],
    limits: Limits,
    overwrite: bool,
    page: Page | None = None,
    jobs: int = 1,
) -> Iterator[Outcome]:
    """Repair every task that is not finished yet; what fails does not stop the rest.

    Args:
        tasks: what `plan.plan_tasks` returns.
        load_engine: called when the first photo needs it: once, on a CPU as often as photos are repaired at once.
        options: of `Inpainter.repair`.
        limits: the largest files and pictures that are opened.
        overwrite: whether a result that is there is made again.
        page: the page of a TIFF that is repaired; the others are kept. None refuses files of several.
        jobs: how many photos are read, repaired and written at once. A GPU's engine takes one at a time, so that the
            others are decoded and encoded meanwhile; on a CPU up to `MAX_CPU_ENGINES` repair side by side.

    Yields:
        One outcome for each task, in their order.
    """
    engines: _Engines | None = None
    started: deque[Future[Outcome] | Outcome] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="repair")
    try:
        for task in tasks:
            settled = settled_before(task, overwrite=overwrite)
            if settled is None:
                engines = engines or _Engines(load_engine, jobs, photos=len(tasks))
                started.append(pool.submit(_outcome_of, task, engines, options, limits, page))
            else:
                started.append(settled)
            # No more photos wait, decoded or encoded, than are worked on.
            while len(started) > 2 * jobs:
                yield _wait_for(started.popleft())
        while started:
            yield _wait_for(started.popleft())
    finally:
        # Those that run end with a whole file; on Ctrl+C no other begins.
        pool.shutdown(cancel_futures=True)


class _Engines:
    """The engines that repair a batch. A photo takes one and puts it back.

    On a CPU a thread that decodes has half of a core that the network's threads wait for, layer by layer: two networks
    side by side fill each other's gaps, and a folder comes to the rate of the engine alone (bench/folder.py).
    """

    def __init__(self, load_engine: Callable[[], "Inpainter"], jobs: int, *, photos: int) -> None:
        self._idle: SimpleQueue[Inpainter] = SimpleQueue()
        first = load_engine()
        self._idle.put(first)
        if first.device == "cpu":
            jobs = min(jobs, MAX_CPU_ENGINES, os.cpu_count() or 1, 1 + photos // PHOTOS_PER_ENGINE)
        for _ in range(jobs - 1):
            # A GPU's engine serves all by turns: it holds the one lock on the card.
            self._idle.put(load_engine() if first.device == "cpu" else first)

    @contextmanager
    def one(self) -> Iterator["Inpainter"]:
        """Give an engine that nobody else on a CPU uses meanwhile."""
        engine = self._idle.get()
        try:
            yield engine
        finally:
            self._idle.put(engine)


def settled_before(task: Task, *, overwrite: bool) -> Outcome | None:
    """Tell whether a task needs no repair.

    Args:
        task: a photo.
        overwrite: whether a result that is there is made again.

    Returns:
        Its outcome, None where it is to be repaired.
    """
    if not overwrite and (target := task.finished()):
        return Outcome(task, "there_already", target)
    if task.doubt:
        return Outcome(task, "failed", error=task.doubt)
    return Outcome(task, "without_mask") if task.mask is None and not task.find else None


def _wait_for(started: "Future[Outcome] | Outcome") -> Outcome:
    return started if isinstance(started, Outcome) else started.result()


def _outcome_of(
    task: Task, engines: _Engines, options: Mapping[str, Any], limits: Limits, page: Page | None
) -> Outcome:
    began_s = time.monotonic()
    try:
        encoded = _repair_file(task, engines, options, limits, page)
        target = task.target_for(encoded.extension)
        _write(target, encoded.data)
    # ValueError is every room's own refusal; the last three are a full disk, memory, and CUDA's errors.
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        return Outcome(task, "failed", None, time.monotonic() - began_s, error=sentence_of(error))
    return Outcome(task, "repaired", target, time.monotonic() - began_s, encoded.notes)


def _repair_file(
    task: Task, engines: _Engines, options: Mapping[str, Any], limits: Limits, page: Page | None
) -> Encoded:
    assert task.mask is not None or task.find, "tasks without a mask are left out before"
    data, mask_data = _read(task.photo, limits), None if task.mask is None else _read(task.mask, limits)
    pages = count_pages(data)
    _check_page(task, page, pages)
    if pages > 1 and task.format in (None, "TIFF"):
        return _repair_pages(data, mask_data, engines, options, limits, ALL_PAGES if page is None else page)
    number = page if isinstance(page, int) else 1
    photo, image, notes = _repair_page(data, mask_data, engines, options, limits, number)
    own_format = task.format in (None, photo.format)
    if image is None and own_format:
        # Nothing changed, so not a byte should.
        return Encoded(data, "", task.photo.suffix, notes)
    encoded = encode_photo(photo, image, format=None if own_format else task.format)
    return Encoded(encoded.data, encoded.media_type, encoded.extension, (*notes, *encoded.notes))


def _check_page(task: Task, page: Page | None, pages: int) -> None:
    if pages > 1 and page is None:
        raise BatchError(f"it has {pages} pages: say which one is to be repaired with --page N, or --page all")
    if isinstance(page, int) and page > pages:
        raise BatchError(f"it has {pages} page{'s' * (pages > 1)}, and --page asks for number {page}")
    if pages > 1 and page == ALL_PAGES and task.format not in (None, "TIFF"):
        raise BatchError(
            f"it has {pages} pages, and {task.format} holds one; write a TIFF, or choose one with --page N"
        )


def _repair_page(
    data: bytes, mask_data: bytes | None, engines: _Engines, options: Mapping[str, Any], limits: Limits, number: int
) -> tuple[Photo, NDArray | None, tuple[Note, ...]]:
    """Return a page as it is, what it becomes (None: nothing changes), and the notes."""
    photo = _open_page(data, number, limits)
    if mask_data is None:
        mask = hole_of_found("text", photo, limits.hole_rules())
    else:
        mask_page = page_of(mask_data, min(number, count_pages(mask_data)))  # one mask for all pages, or each its own
        mask = hole_of_mask(mask_page, photo, limits.hole_rules())
    with engines.one() as engine:
        result = engine.repair(photo.image, mask, transparent=photo.transparent, **options)
    return photo, result.image if result.patches else None, (*photo.notes, *result.notes)


def _open_page(data: bytes, number: int, limits: Limits) -> Photo:
    photo = open_photo(page_of(data, number), max_bytes=limits.max_bytes, max_px=limits.max_px)
    is_tiff = photo.format == "TIFF"  # whose other pages are looked after here
    return replace(photo, notes=tuple(n for n in photo.notes if not (is_tiff and n.code == "first_page_only")))


def _repair_pages(
    data: bytes, mask_data: bytes | None, engines: _Engines, options: Mapping[str, Any], limits: Limits, page: Page
) -> Encoded:
    """Repair one page or all, and return a TIFF that holds every page."""
    files: list[bytes] = []
    notes: list[Note] = []
    is_changed = False
    for number in range(1, count_pages(data) + 1):
        if page in (number, ALL_PAGES):
            photo, image, said = _repair_page(data, mask_data, engines, options, limits, number)
            is_changed |= image is not None
            notes += said
        else:
            photo, image = _open_page(data, number, limits), None
        encoded = encode_photo(photo, image)
        notes += encoded.notes
        files.append(encoded.data)
    every = tuple({note.code: note for note in notes}.values())
    return Encoded(join_pages(files) if is_changed else data, "image/tiff", ".tif", every)


def _read(path: Path, limits: Limits) -> bytes:
    size_bytes = path.stat().st_size
    if size_bytes > limits.max_bytes:
        raise BatchError(
            f"{path} has {size_bytes / 2**20:.0f} MiB, more than the {limits.max_bytes / 2**20:.0f} allowed"
        )
    return path.read_bytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
