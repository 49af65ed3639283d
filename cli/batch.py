"""Repair files and folders: which photo goes with which mask and where its result goes, and one after another.

A result keeps the photo's name and format; what can't be written in its own format (GIF, HEIC) gets the new format's
ending after its name. A result appears complete or not at all, so one that is there is finished and a run that was
stopped goes on with the rest. Knows no command line; what there is to say goes to a callback.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import sentence_of
from imaging import FORMATS, Encoded, encode_photo, format_of_name, open_photo, read_mask
from imaging.atomic_write import write_atomically

if TYPE_CHECKING:
    from inference import Inpainter

PHOTO_ENDINGS = tuple(ending for row in FORMATS.values() for ending in row.extensions)
FORMAT_NOTES = frozenset(["not_exact", "palette_converted", "heic_saved_as"])  # true of every such file: said once
MASK_ENDINGS = ("", "_mask", "-mask", ".mask")


class BatchError(ValueError):
    """The files and folders asked for do not fit together; the text says how."""


@dataclass(frozen=True)
class Task:
    """One photo to repair. `mask` is None where none was found; `format` None keeps the photo's own."""

    photo: Path
    mask: Path | None
    target: Path
    format: str | None = None


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


def plan_tasks(photos: Path, masks: Path, out: Path) -> list[Task]:
    """Decide what to repair with which mask and where to put it.

    Arguments: one photo, its mask, and a file or folder to write; or a folder of photos (with its folders), a folder of
    masks or one mask for all, and a folder. A mask has its photo's name, or that and `_mask`, and any picture format.
    Raises BatchError if something is missing or a result would overwrite its own photo or mask.
    """
    for path, what in ((photos, "photo"), (masks, "mask")):
        if not path.exists():
            raise BatchError(f"{path}: there is no such {what} or folder")
    if photos.is_dir():
        return _plan_folder(photos, masks, out)
    if masks.is_dir():
        mask = _MaskFolder(masks).mask_of(Path(photos.name))
        if mask is None or mask.resolve() == photos.resolve():
            raise BatchError(f"{masks} has no mask for {photos.name}: neither of its name nor with _mask added")
        masks = mask
    if out.is_dir() or out.suffix == "":
        return [_checked(Task(photos, masks, out / photos.name))]
    wanted = format_of_name(out)
    if wanted is None or not wanted.written:
        endings = " ".join(ending for row in FORMATS.values() if row.written for ending in row.extensions)
        raise BatchError(f"{out}: {out.suffix} can't be written; use one of {endings}, or give a folder")
    return [_checked(Task(photos, masks, out, wanted.name))]


def _plan_folder(photos: Path, masks: Path, out: Path) -> list[Task]:
    if out.is_file():
        raise BatchError(f"{out} is a file; the results of a folder go into a folder")
    mask_folder = _MaskFolder(masks) if masks.is_dir() else None
    shared = masks.is_dir() and masks.resolve() == photos.resolve()
    tasks = []
    for relative in _pictures_below(photos, leave_out=[out, *([] if shared else [masks])]):
        if shared and relative.stem.lower().endswith(MASK_ENDINGS[1:]):
            continue
        mask = mask_folder.mask_of(relative, itself=not shared) if mask_folder else masks
        tasks.append(_checked(Task(photos / relative, mask, out / relative)))
    if not tasks:
        raise BatchError(f"{photos} has no photos in it ({' '.join(PHOTO_ENDINGS)})")
    if all(task.mask is None for task in tasks):
        raise BatchError(f"{masks} has no mask for any photo of {photos}: neither of its name nor with _mask added")
    return tasks


class _MaskFolder:
    """Masks by the photo that they belong to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exact: set[Path] = set()
        self._by_name: dict[tuple[Path, str], Path] = {}
        for relative in _pictures_below(folder, leave_out=[]):
            self._exact.add(relative)
            self._by_name.setdefault((relative.parent, relative.stem.lower()), relative)

    def mask_of(self, photo: Path, *, itself: bool = True) -> Path | None:
        """Return the mask of a photo given by its path below its folder. `itself`: the same name counts."""
        # A folder may hold a.png and a.jpg, or X.png and x.png, each with a mask of exactly its name.
        for exact in (photo, Path(photo.name)) if itself else ():
            if exact in self._exact:
                return self._folder / exact
        for ending in MASK_ENDINGS[0 if itself else 1 :]:
            for parent in (photo.parent, Path()):  # the same folders, or all masks in one
                relative = self._by_name.get((parent, photo.stem.lower() + ending))
                if relative is not None:
                    return self._folder / relative
        return None


def _pictures_below(folder: Path, *, leave_out: list[Path]) -> Iterator[Path]:
    """Yield the pictures below a folder, by their path from it, sorted; hidden files and `leave_out` excepted."""
    hidden_from = {path.resolve() for path in leave_out if path.resolve() != folder.resolve()}
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and (here / n).resolve() not in hidden_from)
        for name in sorted(names):
            if format_of_name(name) and not name.startswith("."):
                yield (here / name).relative_to(folder)


def _checked(task: Task) -> Task:
    for source in (task.photo, task.mask):
        if source is not None and source.resolve() == task.target.resolve():
            raise BatchError(f"{task.target} would overwrite what it is made from; choose another name or folder")
    return task


def finished_target(task: Task) -> Path | None:
    """Return the result of a task if it is there already."""
    if task.target.is_file():
        return task.target
    added = (task.target.with_name(task.target.name + ending) for ending in PHOTO_ENDINGS)
    return next((path for path in added if path.is_file()), None)


def run_tasks(
    tasks: list[Task],
    load_engine: Callable[[], "Inpainter"],
    *,
    options: Mapping[str, Any],
    limits: Limits,
    overwrite: bool,
    tell: Tell,
) -> Summary:
    """Repair every task that is not finished yet; what fails is told and does not stop the rest.

    Arguments: `load_engine` is called once, when the first photo needs it. `options` go to `Inpainter.repair`.
    """
    summary = Summary()
    said: set[str] = set()
    engine: Inpainter | None = None
    for done, task in enumerate(tasks):
        tell(done, task.photo, "")
        if not overwrite and (target := finished_target(task)):
            summary.finished += 1
            tell(done, task.photo, f"{target} is there already")
            continue
        if task.mask is None:
            summary.without_mask += 1
            tell(done, task.photo, "no mask for it")
            continue
        engine = engine or load_engine()
        try:
            encoded = _repair_file(task, engine, options, limits)
            _write(_target_for(task, encoded), encoded.data)
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


def _repair_file(task: Task, engine: "Inpainter", options: Mapping[str, Any], limits: Limits) -> Encoded:
    assert task.mask is not None, "tasks without a mask are left out before"
    data = _read(task.photo, limits)
    photo = open_photo(data, max_bytes=limits.max_bytes, max_px=limits.max_px)
    mask_data = _read(task.mask, limits)
    mask = read_mask(
        mask_data, photo.image.shape[:2], max_bytes=limits.max_bytes, max_px=limits.max_px, photo=photo.image
    )
    result = engine.repair(photo.image, mask, transparent=photo.transparent, **options)
    notes = (*photo.notes, *result.notes)
    if not result.patches and task.format in (None, photo.format):
        # Nothing changed, so not a byte should.
        return Encoded(data, "", task.photo.suffix, notes)
    own_format = task.format in (None, photo.format)
    encoded = encode_photo(photo, result.image, format=None if own_format else task.format)
    return Encoded(encoded.data, encoded.media_type, encoded.extension, (*notes, *encoded.notes))


def _read(path: Path, limits: Limits) -> bytes:
    size_bytes = path.stat().st_size
    if size_bytes > limits.max_bytes:
        raise BatchError(
            f"{path} has {size_bytes / 2**20:.0f} MiB, more than the {limits.max_bytes / 2**20:.0f} allowed"
        )
    return path.read_bytes()


def _target_for(task: Task, encoded: Encoded) -> Path:
    """Return the task's target, the new format's ending added where the name's own says something else."""
    if format_of_name(task.target) == format_of_name(f"x{encoded.extension}"):
        return task.target
    return task.target.with_name(task.target.name + encoded.extension)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
