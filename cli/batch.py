"""Repair files and folders as `plan.py` says, several photos at once where asked.

A result appears complete or not at all, so one that is there is finished and a run that was stopped goes on with the
rest. Knows no command line and prints nothing.
"""

import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, Self

from numpy.typing import NDArray

from cli.errors import sentence_of
from cli.holes import HoleRules, hole_of_mask, hole_of_text
from cli.photo_processes import PhotoProcesses, ProcessLostError
from cli.plan import BatchError, Task
from imaging import Encoded, Photo, encode_photo, open_photo
from imaging.atomic_write import write_atomically
from imaging.tiff_pages import can_join, count_pages, join_pages, page_of
from jobs.shared_arrays import CAN_SHARE
from notices import Note

if TYPE_CHECKING:
    from engine.requests import RepairResult
    from inference import Inpainter

USUAL_JOBS = 4  # threads; more hold more photos in memory, and one process does not open and write them faster
MAX_CPU_ENGINES = 4  # each has its own copy of the weights
PHOTOS_PER_ENGINE = 8  # fewer don't win back the time that another one takes to load
FEWEST_FOR_PROCESSES = 64  # photos; a process takes half a second of a core to start, a photo of 2 MP 25 ms
MOST_PROCESSES = 32  # one card is no faster
STEP_BYTES_PER_PX = 30  # of a photo that is opened, repaired and encoded, at most
NOTHING_FOUND = Note("No text was found, nothing was changed.", code="nothing_found")
ALL_PAGES = "all"
Page = int | str
"""Which page of a document is repaired, counted from 1, or ALL_PAGES."""
State = Literal["repaired", "unchanged", "there_already", "without_mask", "failed"]


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
class Work:
    """What is done to each photo of a batch.

    Attributes:
        options: of `Inpainter.repair`.
        limits: the largest files and pictures that are opened.
        page: the page of a TIFF that is repaired; the others are kept. None refuses files of several.
    """

    options: Mapping[str, Any]
    limits: Limits
    page: Page | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        task: the photo, its mask and where its result was to go.
        state: "repaired"; "unchanged" had nothing to repair, and the result is the photo; "there_already" and
            "without_mask" were left alone; "failed" says why in `error`.
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
    jobs: int | None = None,
) -> Iterator[Outcome]:
    """Repair every task that is not finished yet; what fails does not stop the rest.

    Args:
        tasks: what `plan.plan_tasks` returns.
        load_engine: called when the first photo needs it: once, on a CPU as often as photos are repaired at once.
        options: of `Inpainter.repair`.
        limits: the largest files and pictures that are opened.
        overwrite: whether a result that is there is made again.
        page: the page of a TIFF that is repaired; the others are kept. None refuses files of several.
        jobs: how many photos are read, repaired and written at once; None = as many as pay, see `Crew`.

    Yields:
        One outcome for each task, in their order.
    """
    work = Work(dict(options), limits, page)
    finds = any(task.find for task in tasks)
    with ExitStack() as hired:
        yield from repair_with(
            tasks,
            lambda: hired.enter_context(Crew(load_engine, work, jobs=jobs, photos=len(tasks), finds=finds)),
            overwrite=overwrite,
        )


def repair_with(tasks: list[Task], hire: Callable[[], "Crew"], *, overwrite: bool) -> Iterator[Outcome]:
    """Have a crew repair every task that is not finished yet.

    Args:
        tasks: what `plan.plan_tasks` returns.
        hire: returns the crew; called when the first photo needs it.
        overwrite: whether a result that is there is made again.

    Yields:
        One outcome for each task, in their order.
    """
    crew: Crew | None = None
    started: deque[Future[Outcome] | Outcome] = deque()
    try:
        for task in tasks:
            settled = settled_before(task, overwrite=overwrite)
            if settled is None:
                crew = crew or hire()
                started.append(crew.begin(task))
            else:
                started.append(settled)
            # No more photos wait, decoded or encoded, than are worked on.
            while crew and len(started) > 2 * crew.jobs:
                yield _wait_for(started.popleft())
        while started:
            yield _wait_for(started.popleft())
    finally:
        for left in started:  # on Ctrl+C no other begins; those that run end with a whole file
            if isinstance(left, Future):
                left.cancel()


class Crew:
    """Who repairs the photos of a batch: engines, and threads or processes that open and write files beside them.

    On a CPU a thread that decodes has half of a core that the network's threads wait for, layer by layer: two networks
    side by side fill each other's gaps, and a folder comes to the rate of the engine alone (bench/folder.py). A card's
    engine serves all by turns, faster than one process can open and write: for more than a few photos there is a
    process for each core.

    Args:
        load_engine: called once, on a CPU as often as photos are repaired at once.
        work: what is done to each photo.
        jobs: how many photos are worked on at once; None = as many as pay.
        photos: how many there are.
        finds: whether holes are looked for, which takes all cores for each photo.
    """

    def __init__(
        self,
        load_engine: Callable[[], "Inpainter"],
        work: Work,
        *,
        jobs: int | None,
        photos: int,
        finds: bool = False,
    ) -> None:
        cores = os.cpu_count() or 1
        first = load_engine()
        on_cpu = first.device == "cpu"
        beside = CAN_SHARE and not on_cpu and not finds and jobs != 1 and photos >= FEWEST_FOR_PROCESSES
        self.jobs = jobs or (_most_processes(cores, work.limits) if beside else min(USUAL_JOBS, cores))
        self._work = work
        self._processes = PhotoProcesses(self.jobs, work, first) if beside and self.jobs > 1 else None
        self._engines: SimpleQueue[Inpainter] = SimpleQueue()
        self._engines.put(first)
        more = min(self.jobs, MAX_CPU_ENGINES, cores, 1 + photos // PHOTOS_PER_ENGINE) if on_cpu else self.jobs
        for _ in range(more - 1):
            # A GPU's engine serves all by turns: it holds the one lock on the card.
            self._engines.put(load_engine() if on_cpu else first)
        self._pool = ThreadPoolExecutor(self.jobs, thread_name_prefix="repair")

    def begin(self, task: Task) -> Future[Outcome]:
        """Have a task repaired when it is its turn."""
        return self._pool.submit(self._repair_beside if self._processes else self._repair_here, task)

    def _repair_here(self, task: Task) -> Outcome:
        return repair_task(task, self._repair_image, self._work)

    def _repair_image(self, *arrays: Any, **options: Any) -> "RepairResult":
        """Take an engine that nobody else on a CPU uses meanwhile."""
        engine = self._engines.get()
        try:
            return engine.repair(*arrays, **options)
        finally:
            self._engines.put(engine)

    def _repair_beside(self, task: Task) -> Outcome:
        assert self._processes is not None, "else it is repaired here"
        began_s = time.monotonic()
        try:
            return self._processes.repair(task)
        except ProcessLostError:
            sentence = "the process that read or wrote it ended; there may be too little memory for --jobs so many"
            return Outcome(task, "failed", None, time.monotonic() - began_s, error=sentence)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown()
        if self._processes:
            self._processes.close()


def _most_processes(cores: int, limits: Limits) -> int:
    """Return how many processes there is memory for, should all photos be as large as is allowed."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(cores, MOST_PROCESSES, memory_bytes // (limits.max_px * STEP_BYTES_PER_PX)))


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


def repair_task(task: Task, repair: "Callable[..., RepairResult]", work: Work) -> Outcome:
    """Repair a photo's file and write the result.

    Args:
        task: the photo, its mask and where its result is to go.
        repair: `Inpainter.repair`, or what is shaped like it.
        work: what is done to it.

    Returns:
        What became of it; what goes wrong with the file is said there.
    """
    began_s = time.monotonic()
    try:
        encoded, is_changed = _repair_file(task, repair, work)
        target = task.target_for(encoded.extension)
        _write(target, encoded.data)
    # ValueError is every room's own refusal; the last three are a full disk, memory, and CUDA's errors.
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        return Outcome(task, "failed", None, time.monotonic() - began_s, error=sentence_of(error))
    state: State = "repaired" if is_changed else "unchanged"
    return Outcome(task, state, target, time.monotonic() - began_s, encoded.notes)


def _repair_file(task: Task, repair: "Callable[..., RepairResult]", work: Work) -> tuple[Encoded, bool]:
    """Return the result's file, and whether anything was repaired in it."""
    assert task.mask is not None or task.find, "tasks without a mask are left out before"
    limits, page = work.limits, work.page
    data, mask_data = _read(task.photo, limits), None if task.mask is None else _read(task.mask, limits)
    pages = count_pages(data)
    _check_page(task, page, pages)
    if pages > 1 and task.format in (None, "TIFF"):
        return _repair_pages(data, mask_data, repair, work, ALL_PAGES if page is None else page)
    number = page if isinstance(page, int) else 1
    photo, image, notes = _repair_page(data, mask_data, repair, work, number)
    own_format = task.format in (None, photo.format)
    if image is None and own_format:
        # Nothing changed, so not a byte should; and what a file written anew loses, this one has.
        return Encoded(data, "", task.photo.suffix, notes), False
    encoded = encode_photo(photo, image, format=None if own_format else task.format)
    every = (*photo.notes, *notes, *encoded.notes)
    return Encoded(encoded.data, encoded.media_type, encoded.extension, every), image is not None


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
    data: bytes, mask_data: bytes | None, repair: "Callable[..., RepairResult]", work: Work, number: int
) -> tuple[Photo, NDArray | None, tuple[Note, ...]]:
    """Return a page as it is, what it becomes (None: nothing changes), and the repair's notes."""
    rules = work.limits.hole_rules()
    photo = _open_page(data, number, work.limits)
    if mask_data is None:
        mask = hole_of_text(photo, rules)
    else:
        mask_page = page_of(mask_data, min(number, count_pages(mask_data)))  # one mask for all pages, or each its own
        mask = hole_of_mask(mask_page, photo, rules)
    result = repair(photo.image, mask, transparent=photo.transparent, **work.options)
    if mask_data is None and not result.patches:
        return photo, None, (NOTHING_FOUND,)  # the engine would speak of a mask, and nobody gave one
    return photo, result.image if result.patches else None, tuple(result.notes)


def _open_page(data: bytes, number: int, limits: Limits) -> Photo:
    photo = open_photo(page_of(data, number), max_bytes=limits.max_bytes, max_px=limits.max_px)
    unsaid = {"few_levels"}  # says how the photo is shown, and here it is not
    if photo.format == "TIFF":  # whose other pages are looked after here
        unsaid.add("first_page_only")
    return replace(photo, notes=tuple(note for note in photo.notes if note.code not in unsaid))


def _repair_pages(
    data: bytes, mask_data: bytes | None, repair: "Callable[..., RepairResult]", work: Work, page: Page
) -> tuple[Encoded, bool]:
    """Repair one page or all, and return a TIFF that holds every page, and whether anything was repaired."""
    files: list[bytes] = []
    notes: list[Note] = []
    of_repairs: list[Note] = []
    is_changed = False
    for number in range(1, count_pages(data) + 1):
        photo: Photo | None = None
        image: NDArray | None = None
        if page in (number, ALL_PAGES):
            photo, image, said = _repair_page(data, mask_data, repair, work, number)
            is_changed |= image is not None
            of_repairs += said
            notes += said
        if image is None and can_join(as_it_is := page_of(data, number)):
            files.append(join_pages([as_it_is]))  # that page alone
            continue
        photo = photo or _open_page(data, number, work.limits)
        notes += photo.notes
        encoded = encode_photo(photo, image)
        notes += encoded.notes
        files.append(encoded.data)
    every = tuple({note.code: note for note in (notes if is_changed else of_repairs)}.values())
    return Encoded(join_pages(files) if is_changed else data, "image/tiff", ".tif", every), is_changed


def _read(path: Path, limits: Limits) -> bytes:
    told = path.stat()
    if not stat.S_ISREG(told.st_mode):
        raise BatchError(f"{path} is no file")  # but a pipe, say, which might be waited for without end
    size_bytes = told.st_size
    if size_bytes > limits.max_bytes:
        raise BatchError(
            f"{path} has {size_bytes / 2**20:.0f} MiB, more than the {limits.max_bytes / 2**20:.0f} allowed"
        )
    return path.read_bytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
