"""Which photo goes with which mask and where its result goes: from three paths to a list of tasks.

A result keeps its photo's name and format. What can't be written in its own format (GIF, HEIC), or is not what its name
says, gets the new format's ending after its name, and a number where another photo's result has that name. Names depend
on nothing but the photos, so that a run which goes on after a stop finds what is finished. Knows no engine.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cli.paths import is_file, is_folder, real_path
from imaging import FORMATS, format_of_name
from imaging.reading import format_of

PHOTO_ENDINGS = tuple(ending for row in FORMATS.values() for ending in row.extensions)
WRITTEN_ENDINGS = tuple(row.extension for row in FORMATS.values() if row.written)
MASK_ENDINGS = ("", "_mask", "-mask", ".mask")
# As LaMa's own scripts call them: photo_mask001.png; of several with a number none is better than the others.
NUMBERED_MASK = re.compile(r"_mask\d{1,4}$", re.IGNORECASE)
LONGEST_NAME_BYTES = 255  # on nearly every file system
LONGEST_ENDING_BYTES = 16  # of "_123.tiff" and the like
HEADER_BYTES = 256  # enough to tell a format


class BatchError(ValueError):
    """The files and folders asked for do not fit together; the text says how."""


@dataclass(frozen=True)
class Task:
    """One photo to repair.

    Attributes:
        photo: its file.
        mask: its mask's file, None where none was found.
        target: where the result goes if its format is the one that the name says.
        format: the format to write, None for the photo's own.
        converted: the result's path without its ending, where the format is another one; None = there is no such case.
        find: what is looked for in the photo in the place of a mask, or "".
        doubt: why the photo can't be repaired as asked, a sentence, or "".
    """

    photo: Path
    mask: Path | None
    target: Path
    format: str | None = None
    converted: Path | None = None
    find: str = ""
    doubt: str = ""

    def target_for(self, extension: str) -> Path:
        """Return where a result with this ending goes."""
        if self.converted is None or format_of_name(self.target) == format_of_name(f"x{extension}"):
            return self.target
        return self.converted.with_name(self.converted.name + extension)

    def finished(self) -> Path | None:
        """Return the task's result if it is there already."""
        endings = () if self.converted is None else WRITTEN_ENDINGS
        return next((p for p in (self.target, *map(self.target_for, endings)) if is_file(p)), None)


def plan_tasks(photos: Path, masks: Path | None, out: Path, *, find: str = "") -> list[Task]:
    """Decide what to repair with which mask and where to put it.

    Args:
        photos: one photo, or a folder of photos with its folders.
        masks: its mask, or one mask for all; or a folder of masks, each named like its photo, or like that and
            `_mask`, in any picture format. None where `find` says what takes their place.
        out: a file or a folder to write; for a folder of photos a folder.
        find: what is looked for in each photo.

    Returns:
        The tasks, in the order of their names.

    Raises:
        BatchError: something is missing, or a result would overwrite a photo or a mask.
    """
    for path, what in ((photos, "photo"), (masks, "mask")):
        if path is not None and not is_file(path) and not is_folder(path):
            raise BatchError(f"{path}: there is no such {what} or folder")
    if is_folder(photos):
        return _with_results(_plan_folder(photos, masks, out, find))
    if masks is not None and is_folder(masks):
        found = _MaskFolder(masks).masks_of(Path(photos.name))
        if len(found) > 1:
            raise BatchError(_doubt_about(found))
        if not found or real_path(found[0]) == real_path(photos):
            raise BatchError(f"{masks} has no mask for {photos.name}: neither of its name nor with _mask added")
        masks = found[0]
    if is_folder(out) or out.suffix == "":
        return _with_results([Task(photos, masks, out / photos.name, find=find)])
    wanted = format_of_name(out)
    if wanted is None or not wanted.written:
        endings = " ".join(ending for row in FORMATS.values() if row.written for ending in row.extensions)
        raise BatchError(f"{out}: {out.suffix} can't be written; use one of {endings}, or give a folder")
    return _with_results([Task(photos, masks, out, wanted.name, find=find)])


def _plan_folder(photos: Path, masks: Path | None, out: Path, find: str) -> list[Task]:
    if is_file(out):
        raise BatchError(f"{out} is a file; the results of a folder go into a folder")
    mask_folder = _MaskFolder(masks) if masks is not None and is_folder(masks) else None
    shared = masks is not None and mask_folder is not None and real_path(masks) == real_path(photos)
    tasks = []
    for relative in _pictures_below(photos, leave_out=[out, *([] if shared or masks is None else [masks])]):
        if shared and (relative.stem.lower().endswith(MASK_ENDINGS[1:]) or NUMBERED_MASK.search(relative.stem)):
            continue
        found = mask_folder.masks_of(relative, itself=not shared) if mask_folder else [masks] if masks else []
        doubt = _doubt_about(found) if len(found) > 1 else ""
        tasks.append(Task(photos / relative, found[0] if found else None, out / relative, find=find, doubt=doubt))
    if not tasks:
        raise BatchError(f"{photos} has no photos in it ({' '.join(PHOTO_ENDINGS)})")
    if masks is not None and all(task.mask is None for task in tasks):
        raise BatchError(f"{masks} has no mask for any photo of {photos}: neither of its name nor with _mask added")
    return tasks


class _MaskFolder:
    """Masks by the photo that they belong to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exact: set[Path] = set()
        self._by_name: dict[tuple[Path, str], list[Path]] = {}
        self._numbered: dict[tuple[Path, str], list[Path]] = {}
        for relative in _pictures_below(folder, leave_out=[]):
            self._exact.add(relative)
            self._by_name.setdefault((relative.parent, relative.stem.lower()), []).append(relative)
            if number := NUMBERED_MASK.search(relative.stem):
                stem = relative.stem[: number.start()].lower()
                self._numbered.setdefault((relative.parent, stem), []).append(relative)

    def masks_of(self, photo: Path, *, itself: bool = True) -> list[Path]:
        """Return the masks that fit a photo equally well.

        Args:
            photo: its path below its folder.
            itself: whether a file of exactly the photo's name counts.

        Returns:
            the paths of the masks.
        """
        # A folder may hold a.png and a.jpg, or X.png and x.png, each with a mask of exactly its name.
        for exact in (photo, Path(photo.name)) if itself else ():
            if exact in self._exact:
                return [self._folder / exact]
        for ending in MASK_ENDINGS[0 if itself else 1 :]:
            for parent in (photo.parent, Path()):  # the same folders, or all masks in one
                fitting = self._by_name.get((parent, (photo.stem + ending).lower()), [])
                if same_case := [relative for relative in fitting if relative.stem == photo.stem + ending]:
                    fitting = same_case
                if fitting:
                    return [self._folder / relative for relative in fitting]
        for parent in (photo.parent, Path()):
            if numbered := self._numbered.get((parent, photo.stem.lower())):
                return [self._folder / relative for relative in numbered]
        return []


def _doubt_about(masks: list[Path]) -> str:
    names = " and ".join(path.name for path in masks)
    return f"{names} fit it equally well; name its mask exactly like the photo, ending included"


def _pictures_below(folder: Path, *, leave_out: list[Path]) -> Iterator[Path]:
    """Yield the pictures below a folder, by their path from it, sorted; hidden files and `leave_out` excepted."""
    hidden_from = {real_path(path) for path in leave_out if real_path(path) != real_path(folder)}
    for parent, folders, names in os.walk(folder):
        here = Path(parent)
        folders[:] = sorted(n for n in folders if not n.startswith(".") and real_path(here / n) not in hidden_from)
        for name in sorted(names):
            if format_of_name(name) and not name.startswith("."):
                yield (here / name).relative_to(folder)


def _with_results(tasks: list[Task]) -> list[Task]:
    """Return the tasks with names for results of another format, none of which is another file's of this run."""
    sources = {real_path(path) for task in tasks for path in (task.photo, task.mask) if path is not None}
    for task in tasks:
        if real_path(task.target) in sources:
            raise BatchError(f"{task.target} would overwrite what it is made from; choose another name or folder")
    taken = sources | {real_path(task.target) for task in tasks}
    named = []
    for task in tasks:
        if task.format is None and not _is_as_named(task.photo):
            converted = _free_name(task.target, taken)
            taken |= {real_path(converted.with_name(converted.name + ending)) for ending in WRITTEN_ENDINGS}
            task = replace(task, converted=converted)
        named.append(task)
    return named


def _free_name(target: Path, taken: set[Path]) -> Path:
    """Return a path to which any ending may be added without meeting a name that is taken."""
    name = target.name
    while len(os.fsencode(name)) > LONGEST_NAME_BYTES - LONGEST_ENDING_BYTES:
        name = name[:-1]
    number = 1
    while True:
        path = target.with_name(name if number == 1 else f"{name}_{number}")
        if not any(real_path(path.with_name(path.name + ending)) in taken for ending in WRITTEN_ENDINGS):
            return path
        number += 1


def _is_as_named(photo: Path) -> bool:
    """Tell whether a photo is of the format that its name says, and one that can be written."""
    if not is_file(photo):
        return True
    try:
        with photo.open("rb") as file:
            held = format_of(file.read(HEADER_BYTES))
    except OSError:
        return True  # it can't be opened, which is said when its turn comes
    row = format_of_name(photo)
    return held is None or (row is not None and row.written and row.name == held)
