"""Repair files and folders, one photo after another, as `plan.py` says.

A result appears complete or not at all, so one that is there is finished and a run that was stopped goes on with the
rest. Knows no command line; what there is to say goes to a callback.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cli.errors import sentence_of
from cli.plan import BatchError, Task
from imaging import Encoded, Photo, encode_photo, open_photo, read_mask
from imaging.atomic_write import write_atomically
from imaging.tiff_pages import count_pages, join_pages, page_of
from notices import Note

if TYPE_CHECKING:
    from inference import Inpainter

FORMAT_NOTES = frozenset(["not_exact", "palette_converted", "heic_saved_as"])  # true of every such file: said once


@dataclass(frozen=True)
class Limits:
    """The largest files and pictures that are opened."""

    max_bytes: int
    max_px: int


@dataclass
class Summary:
    """How many photos came out how; `without_mask` and `finished` were left alone."""

    repaired: int = 0
    finished: int = 0
    without_mask: int = 0
    failed: list[Path] = field(default_factory=list)


Tell = Callable[[int, Path, str], None]
"""Called with the number of tasks done, the photo, and a sentence about it ("" when it merely begins)."""
ALL_PAGES = "all"
Page = int | str
"""Which page of a document is repaired, counted from 1, or ALL_PAGES."""


def run_tasks(
    tasks: list[Task],
    load_engine: Callable[[], "Inpainter"],
    *,
    options: Mapping[str, Any],
    limits: Limits,
    overwrite: bool,
    tell: Tell,
    page: Page | None = None,
) -> Summary:
    """Repair every task that is not finished yet; what fails is told and does not stop the rest.

    Arguments: `load_engine` is called once, when the first photo needs it. `options` go to `Inpainter.repair`.
    `page` is the page of a TIFF that is repaired; the others are kept. None refuses files of several.
    """
    summary = Summary()
    said: set[str] = set()
    engine: Inpainter | None = None
    for done, task in enumerate(tasks):
        tell(done, task.photo, "")
        if not overwrite and (target := task.finished()):
            summary.finished += 1
            tell(done, task.photo, f"{target} is there already")
            continue
        if task.doubt:
            summary.failed.append(task.photo)
            tell(done + 1, task.photo, task.doubt)
            continue
        if task.mask is None:
            summary.without_mask += 1
            tell(done, task.photo, "no mask for it")
            continue
        engine = engine or load_engine()
        try:
            encoded = _repair_file(task, engine, options, limits, page)
            _write(task.target_for(encoded.extension), encoded.data)
        # ValueError is every room's own refusal; the last three are a full disk, memory, and CUDA's errors.
        except (ValueError, OSError, MemoryError, RuntimeError) as error:
            summary.failed.append(task.photo)
            tell(done + 1, task.photo, sentence_of(error))
            continue
        summary.repaired += 1
        for note in encoded.notes:
            if note not in said:
                tell(done + 1, task.photo, str(note))
            if note.code in FORMAT_NOTES:
                said.add(note)
    return summary


def _repair_file(
    task: Task, engine: "Inpainter", options: Mapping[str, Any], limits: Limits, page: Page | None
) -> Encoded:
    assert task.mask is not None, "tasks without a mask are left out before"
    data, mask_data = _read(task.photo, limits), _read(task.mask, limits)
    pages = count_pages(data)
    _check_page(task, page, pages)
    if pages > 1 and task.format in (None, "TIFF"):
        return _repair_pages(data, mask_data, engine, options, limits, ALL_PAGES if page is None else page)
    number = page if isinstance(page, int) else 1
    photo, image, notes = _repair_page(data, mask_data, engine, options, limits, number)
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
    data: bytes, mask_data: bytes, engine: "Inpainter", options: Mapping[str, Any], limits: Limits, number: int
) -> tuple[Photo, NDArray | None, tuple[Note, ...]]:
    """Return a page as it is, what it becomes (None: nothing changes), and the notes."""
    photo = _open_page(data, number, limits)
    mask_data = page_of(mask_data, min(number, count_pages(mask_data)))  # one mask for all pages, or each its own
    mask = read_mask(
        mask_data, photo.image.shape[:2], max_bytes=limits.max_bytes, max_px=limits.max_px, photo=photo.image
    )
    result = engine.repair(photo.image, mask, transparent=photo.transparent, **options)
    return photo, result.image if result.patches else None, (*photo.notes, *result.notes)


def _open_page(data: bytes, number: int, limits: Limits) -> Photo:
    photo = open_photo(page_of(data, number), max_bytes=limits.max_bytes, max_px=limits.max_px)
    is_tiff = photo.format == "TIFF"  # whose other pages are looked after here
    return replace(photo, notes=tuple(n for n in photo.notes if not (is_tiff and n.code == "first_page_only")))


def _repair_pages(
    data: bytes, mask_data: bytes, engine: "Inpainter", options: Mapping[str, Any], limits: Limits, page: Page
) -> Encoded:
    """Repair one page or all, and return a TIFF that holds every page."""
    files: list[bytes] = []
    notes: list[Note] = []
    is_changed = False
    for number in range(1, count_pages(data) + 1):
        if page in (number, ALL_PAGES):
            photo, image, said = _repair_page(data, mask_data, engine, options, limits, number)
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
