"""Repair files and folders, one photo after another, as `plan.py` says.

A result appears complete or not at all, so one that is there is finished and a run that was stopped goes on with the
rest. Knows no command line; what there is to say goes to a callback.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.errors import sentence_of
from cli.plan import BatchError, Task
from imaging import Encoded, encode_photo, open_photo, read_mask
from imaging.atomic_write import write_atomically

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
            encoded = _repair_file(task, engine, options, limits)
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


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
