"""The image store: originals and edits as arrays, composed from patches, with the decoded ones at hand.

Arrays are (H, W, 3) uint8 or uint16, shared with a bounded cache and never to be written to. An edit's array is its
parent's with one patch laid over; its patch is kept lossless at the original's depth, and beside it, for 16-bit
originals and transparent ones, an 8-bit copy that browsers show. Files for people are made in `encodings.py`.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from imaging import FORMATS, ImagingError, Photo, decode_png, encode_png, open_photo, shown_profile
from imaging.atomic_write import write_atomically
from imaging.decoding import Turn
from imaging.levels import eight_bits
from jobs.errors import JobError, storage_as_job_error
from jobs.memory_budget import MIB, MemoryBudget
from jobs.store import ImageRecord, JobStore, new_id
from masks.boxes import Box

CACHE_MIB = 320  # nine 12 MP images; one larger image is kept whatever its size
CACHE_SHARE = 4  # the cache takes at most one part in so many of the memory there is
# Whole pictures decoded or encoded side by side: more than cores only delays everybody, and with several cards two are
# too few.
STEPS_AT_ONCE = max(2, (os.cpu_count() or 2) // 2)
# Peak of one step over a whole picture, per pixel: Pillow's copy, the array, its upright copy, and what is written.
# Measured: bench/results/step-memory.md.
STEP_BYTES_PER_PX = 22  # WebP's; JPEG takes 10
DEEP_STEP_BYTES_PER_PX = 28
AVIF_STEP_BYTES_PER_PX = 32  # its encoder's
LONGEST_NAME = 120

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@contextmanager
def imaging_as_job_error() -> Iterator[None]:
    """Turn what imaging refuses inside the block into a JobError of the same code.

    Raises:
        JobError: with the code, sentence and params of the ImagingError.
    """
    try:
        yield
    except ImagingError as error:
        raise JobError(error.code, error.message, error.params) from error


class ImageStore:
    """Originals and edits of one store."""

    def __init__(self, store: JobStore, *, max_file_mib: float, max_image_mpx: float, memory_mib: float = 2048) -> None:
        """Make the image store.

        Args:
            store: rows and paths.
            max_file_mib: largest file taken, MiB.
            max_image_mpx: largest image taken, million pixels.
            memory_mib: what the cache and all steps at work may take together, MiB.
        """
        self.store = store
        self._max_bytes = int(max_file_mib * MIB)
        self._max_px = int(max_image_mpx * 1_000_000)
        self._cache_bytes = int(min(CACHE_MIB, memory_mib / CACHE_SHARE) * MIB)
        self._cache: OrderedDict[str, Photo | Pixels] = OrderedDict()
        self._histories: dict[str, str] = {}  # of the edits in the cache: their originals
        self._cache_lock = threading.Lock()
        self.memory = MemoryBudget(int(memory_mib * MIB) - self._cache_bytes, at_once=STEPS_AT_ONCE)

    def add(self, data: bytes, filename: str, *, is_one_shot: bool = False) -> ImageRecord:
        """Check, decode and keep an uploaded file.

        Args:
            data: the file's bytes.
            filename: what the client calls it; used for the names of downloads only.
            is_one_shot: whether it is of no use once its request is over.

        Returns:
            The new original's row.

        Raises:
            JobError: what is wrong with the file, `busy`, `disk_full` or `storage_unavailable`.
        """
        record = self._describe(data, clean_name(filename))
        path = self.store.original_path(record.image_id)
        try:
            with storage_as_job_error():
                write_atomically(path, data)
            self.store.insert_image(record, size_bytes=len(data), is_one_shot=is_one_shot)
        except JobError:
            self.forget([record.image_id])
            _remove(path)
            raise
        return record

    def _describe(self, data: bytes, name: str) -> ImageRecord:
        """Return the row of a file; its array lies in the cache alone, so that nobody holds it while a disk is slow."""
        photo = self._open(data)
        image_id = new_id()
        self._keep(image_id, photo)
        height, width = photo.image.shape[:2]
        return ImageRecord(
            image_id, image_id, None, width, height, photo.format, name, photo.notes, None, time.time()
        )  # fmt: skip

    def pixels(self, image: ImageRecord) -> Pixels:
        """Return an original's or edit's array, shared: not to be written to. Composing it waits for its turn."""
        cached = self._cached(image.image_id)
        if cached is not None:
            return cached if isinstance(cached, np.ndarray) else cached.image
        with self.memory.reserve(step_bytes(image)):
            return self._composed(image)

    def _composed(self, image: ImageRecord) -> Pixels:
        patched: list[ImageRecord] = []
        base: Pixels | None = None
        # Upwards to the nearest array at hand, then down again: a loop, because a history may have thousands of edits.
        # What was found at hand is held: others may push it out of the cache meanwhile.
        while base is None and image.parent_id is not None:
            cached = self._cached(image.image_id)
            if isinstance(cached, np.ndarray):
                base = cached
            else:
                patched.append(image)
                image = self.store.image(image.parent_id)
        if base is None:
            base = self.original(image).image
        if not patched:
            return base
        with_patches: Pixels = base.copy()
        del base
        for edit in reversed(patched):
            assert edit.box is not None, "an edit always has a box"
            left, top, right, bottom = edit.box
            with_patches[top:bottom, left:right] = decode_png(self.read(edit))
        self._keep(patched[0].image_id, with_patches, of=patched[0].root_id)
        return with_patches

    def original(self, image: ImageRecord) -> Photo:
        """Return the original that `image` goes back to, with the metadata to write it again."""
        cached = self._cached(image.root_id)
        if cached is not None and not isinstance(cached, np.ndarray):
            return cached
        photo = self._open(self._read(image.root_id, original=True))
        self._keep(image.root_id, photo)
        return photo

    def shown(self, image: ImageRecord) -> Pixels:
        """Return `pixels` as people see them: 8 bits, stretched, where the photo uses few of its 16 bits."""
        pixels = self.pixels(image)
        white = self.original(image).white if pixels.dtype == np.uint16 else None
        return pixels if white is None else eight_bits(pixels, white)

    def transparent(self, image: ImageRecord) -> NDArray[np.bool_] | None:
        """Return which pixels of an original or edit nobody sees, (H, W) bool; None where none is transparent."""
        return self.original(image).transparent if FORMATS[image.format].alpha else None

    def write_edit(
        self, parent: ImageRecord, patches: Sequence[tuple[Box, Pixels]], *,
        on_turn: Callable[[], None] = lambda: None,
    ) -> tuple[ImageRecord, int]:  # fmt: skip
        """Write the files of a new edit.

        Args:
            parent: what was edited.
            patches: (box, array at the original's depth), one or more; they become one patch of their union box.
            on_turn: called when the memory for encoding them is there.

        Returns:
            The edit's row, not yet inserted, and the size of its files in bytes.

        Raises:
            JobError: `disk_full` or `storage_unavailable`; nothing is left behind.
        """
        box = union_box([box for box, _ in patches])
        image_id = new_id()
        files = self._encode_edit(image_id, parent, box, patches, on_turn)
        try:
            with storage_as_job_error():
                for path, data in files:
                    write_atomically(path, data)
        except JobError:
            self.drop_edit(image_id)
            raise
        record = ImageRecord(
            image_id, parent.root_id, parent.image_id, parent.width, parent.height, parent.format, parent.name,
            (), box, time.time(),
        )  # fmt: skip
        return record, sum(len(data) for _, data in files)

    def _encode_edit(
        self, image_id: str, parent: ImageRecord, box: Box, patches: Sequence[tuple[Box, Pixels]],
        on_turn: Callable[[], None],
    ) -> list[tuple[Path, bytes]]:  # fmt: skip
        """Return the paths and contents of a new edit's files."""
        left, top, right, bottom = box
        need_bytes = (right - left) * (bottom - top) * bytes_per_px(parent.format)
        is_at_hand = self._cached(parent.root_id) is not None  # the original, whose profile and transparency count
        with self.memory.reserve(need_bytes + (step_bytes(parent) if len(patches) > 1 or not is_at_hand else 0)):
            on_turn()
            merged = patches[0][1]
            if len(patches) > 1:
                merged = self.pixels(parent)[top:bottom, left:right].copy()
                for (patch_left, patch_top, patch_right, patch_bottom), array in patches:
                    merged[patch_top - top : patch_bottom - top, patch_left - left : patch_right - left] = array
            # Without it browsers would show the patch in other colours than the photo.
            icc = shown_profile(self.original(parent))
            files = [(self.store.patch_path(image_id), encode_png(merged, fast=True, icc=icc))]
            shown = self._as_shown(merged, parent, box)
            if shown is not merged:
                files.append((self.store.view_path(image_id), encode_png(shown, fast=True, icc=icc)))
        return files

    def _as_shown(self, patch: Pixels, image: ImageRecord, box: Box) -> NDArray:
        """Return a patch as browsers show it: 8 bits, stretched as the photo is, transparent where nobody sees it."""
        shown: NDArray = patch
        if patch.dtype == np.uint16:
            shown = eight_bits(patch, self.original(image).white)
        left, top, right, bottom = box
        hidden = self.transparent(image)
        if hidden is not None and (hidden := hidden[top:bottom, left:right]).any():
            shown = np.dstack([shown, np.where(hidden, 0, 255).astype(np.uint8)])
        return shown

    def drop_edit(self, image_id: str) -> None:
        """Remove the files of an edit that was not inserted."""
        _remove(self.store.patch_path(image_id))
        _remove(self.store.view_path(image_id))

    def patch(self, image: ImageRecord) -> bytes:
        """Return an edit's patch as an 8-bit PNG; JobError `unknown_image` for an original, which has none."""
        if image.parent_id is None:
            raise JobError("unknown_image", "This is an uploaded image, not an edit: it has no patch.")
        try:
            return self.store.view_path(image.image_id).read_bytes()
        except FileNotFoundError:  # most have none; of the others it may be cleaned away just now
            return self.read(image)

    def read(self, image: ImageRecord) -> bytes:
        """Return an original's own file, or an edit's patch as a PNG at the original's depth."""
        return self._read(image.image_id, original=image.parent_id is None)

    def forget(self, image_ids: Iterable[str]) -> None:
        """Drop images from the cache, because they were removed."""
        with self._cache_lock:
            for image_id in image_ids:
                self._drop(image_id)

    def _open(self, data: bytes) -> Photo:
        # The header is read before anything is decoded, so that the turn is asked for with the right number of bytes.
        with imaging_as_job_error():
            return open_photo(data, max_bytes=self._max_bytes, max_px=self._max_px, turn=self.turn)

    @contextmanager
    def turns_kept(self) -> Iterator[Turn]:
        """Give what `turn` is, held until the block ends: for what goes on with the pixels after decoding."""
        with ExitStack() as held:

            def turn(px: int, deep: bool) -> AbstractContextManager[None]:
                held.enter_context(self.turn(px, deep))
                return nullcontext()

            yield turn

    @contextmanager
    def turn(self, px: int, deep: bool) -> Iterator[None]:
        """Hold the memory that decoding or encoding so many pixels takes; waits until there is room."""
        with self.memory.reserve(px * (DEEP_STEP_BYTES_PER_PX if deep else STEP_BYTES_PER_PX)):
            yield

    def _read(self, image_id: str, *, original: bool) -> bytes:
        path = self.store.original_path(image_id) if original else self.store.patch_path(image_id)
        try:
            return path.read_bytes()
        except FileNotFoundError:
            raise JobError("unknown_image", "This photo is not here (any more). Please upload it again.") from None

    def _cached(self, image_id: str) -> Photo | Pixels | None:
        with self._cache_lock:
            found = self._cache.get(image_id)
            if found is not None:
                self._cache.move_to_end(image_id)
            return found

    def _keep(self, image_id: str, value: Photo | Pixels, *, of: str = "") -> None:
        """Put an image into the cache; `of` names an edit's original."""
        with self._cache_lock:
            self._cache[image_id] = value
            self._cache.move_to_end(image_id)
            if of:
                self._histories[image_id] = of
            while len(self._cache) > 1 and sum(map(_size_bytes, self._cache.values())) > self._cache_bytes:
                self._drop(self._least_needed())

    def _least_needed(self) -> str:
        """Return what leaves the cache first: an edit of whose photo another was used later, else the oldest."""
        # Every round leaves a whole picture behind. They would push out the originals, which take longest to get again.
        latest = {history: one for one in self._cache if (history := self._histories.get(one))}
        superseded = (one for one in self._cache if latest.get(self._histories.get(one, ""), one) != one)
        return next(superseded, next(iter(self._cache)))

    def _drop(self, image_id: str) -> None:
        self._cache.pop(image_id, None)
        self._histories.pop(image_id, None)


def step_bytes(image: ImageRecord) -> int:
    """Return the most memory that composing or encoding an image takes."""
    return image.width * image.height * bytes_per_px(image.format)


def bytes_per_px(format: str) -> int:
    """Return the most memory that one step takes for each pixel of a photo of a format."""
    if format == "AVIF":
        return AVIF_STEP_BYTES_PER_PX
    # The depth is not in the row; a format that can hold 16 bits may do so.
    return DEEP_STEP_BYTES_PER_PX if FORMATS[format].deep else STEP_BYTES_PER_PX


def union_box(boxes: Sequence[Box]) -> Box:
    """Return the smallest box that holds all of `boxes`."""
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return int(min(lefts)), int(min(tops)), int(max(rights)), int(max(bottoms))


def clean_name(filename: str) -> str:
    """Return a client's file name without folders and control characters, short enough for a header."""
    name = PurePath(filename.replace("\\", "/")).name
    name = "".join(c for c in name if c.isprintable()).strip(". ")
    stem, suffix = PurePath(name).stem, PurePath(name).suffix
    return (stem[: LONGEST_NAME - len(suffix[:10])] + suffix[:10]) or "photo"


def _remove(path: Path) -> None:
    with suppress(OSError):  # the folder is gone or read-only: what is left is an orphan, which clean-up takes later
        path.unlink(missing_ok=True)


def _size_bytes(value: Photo | Pixels) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return value.image.nbytes + (0 if value.alpha is None else value.alpha.nbytes)
