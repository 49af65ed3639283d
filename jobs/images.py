"""Stored photos and rounds as arrays and as files: decoding, composing rounds, patches, downloads.

Arrays are (H, W, 3) uint8 or uint16, shared with a bounded cache and never to be written to. A round's array is its
parent's with one patch laid over; its patch is kept lossless at the photo's depth, and beside it, for 16-bit photos, an
8-bit copy that browsers show.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from imaging import (
    FORMATS,
    Encoded,
    ImagingError,
    Photo,
    decode_png,
    encode_photo,
    encode_png,
    encode_preview,
    open_photo,
)
from imaging.atomic_write import write_atomically
from jobs.errors import JobError, disk_full_as_job_error
from jobs.store import ImageRecord, JobStore, new_id

MIB = 1 << 20
CACHE_MIB = 320  # nine 12 MP photos or rounds; one larger photo is kept whatever its size
DECODERS = 2  # decoding holds several copies of a photo for a moment, so twenty uploads at once take turns
LONGEST_NAME = 120
EIGHT_BIT_STEP = 257  # 65535 / 255: 16-bit value of one 8-bit grey level

Box = tuple[int, int, int, int]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


@contextmanager
def imaging_as_job_error() -> Iterator[None]:
    """Turn what imaging refuses inside the block into a JobError of the same code."""
    try:
        yield
    except ImagingError as error:
        raise JobError(error.code, error.message, error.params) from error


class ImageStore:
    """Photos and rounds of one store, with the decoded ones at hand."""

    def __init__(
        self, store: JobStore, *, max_file_mib: float, max_image_mpx: float, cache_bytes: int = CACHE_MIB * MIB
    ) -> None:
        self.store = store
        self._max_bytes = int(max_file_mib * MIB)
        self._max_px = int(max_image_mpx * 1_000_000)
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[str, Photo | Pixels] = OrderedDict()
        self._cache_lock = threading.Lock()
        self.decoding = threading.BoundedSemaphore(DECODERS)  # held by whoever decodes or encodes whole pictures

    def add(self, data: bytes, filename: str) -> ImageRecord:
        """Check, decode and keep an uploaded photo; JobError says what is wrong with it."""
        with self.decoding:
            photo = self._open(data)
        image_id = new_id()
        height, width = photo.image.shape[:2]
        record = ImageRecord(
            image_id, image_id, None, width, height, photo.format, clean_name(filename), photo.notes, None, time.time()
        )
        path = self.store.photo_path(image_id)
        try:
            with disk_full_as_job_error():
                write_atomically(path, data)
            self.store.insert_image(record, size_bytes=len(data))
        except JobError:
            path.unlink(missing_ok=True)
            raise
        self._keep(image_id, photo)
        return record

    def pixels(self, image: ImageRecord) -> Pixels:
        """Return a photo's or round's array, shared: not to be written to."""
        if image.parent_id is None:
            return self.photo(image).image
        cached = self._cached(image.image_id)
        if isinstance(cached, np.ndarray):
            return cached
        assert image.box is not None, "a round always has a box"
        pixels = self.pixels(self.store.image(image.parent_id)).copy()
        left, top, right, bottom = image.box
        pixels[top:bottom, left:right] = decode_png(self._read(image.image_id, root=False))
        self._keep(image.image_id, pixels)
        return pixels

    def photo(self, image: ImageRecord) -> Photo:
        """Return the uploaded photo that `image` goes back to, with the metadata to write it again."""
        cached = self._cached(image.root_id)
        if cached is not None and not isinstance(cached, np.ndarray):
            return cached
        with self.decoding:
            photo = self._open(self._read(image.root_id, root=True))
        self._keep(image.root_id, photo)
        return photo

    def write_edit(self, parent: ImageRecord, patches: Sequence[tuple[Box, Pixels]]) -> tuple[ImageRecord, int]:
        """Write the files of a new round on `parent` and return its row (not yet inserted) and its size in bytes.

        `patches` are (box, array at the photo's depth), one or more; they become one patch of their union box.
        """
        box = union_box([box for box, _ in patches])
        left, top, right, bottom = box
        merged = self.pixels(parent)[top:bottom, left:right].copy()
        for (patch_left, patch_top, patch_right, patch_bottom), array in patches:
            merged[patch_top - top : patch_bottom - top, patch_left - left : patch_right - left] = array
        image_id = new_id()
        files = [(self.store.patch_path(image_id), encode_png(merged, fast=True))]
        if merged.dtype == np.uint16:
            shown = ((merged.astype(np.uint32) + EIGHT_BIT_STEP // 2) // EIGHT_BIT_STEP).astype(np.uint8)
            files.append((self.store.view_path(image_id), encode_png(shown, fast=True)))
        try:
            with disk_full_as_job_error():
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

    def drop_edit(self, image_id: str) -> None:
        """Remove the files of a round that was not inserted."""
        self.store.patch_path(image_id).unlink(missing_ok=True)
        self.store.view_path(image_id).unlink(missing_ok=True)

    def patch(self, image: ImageRecord) -> bytes:
        """Return a round's patch as an 8-bit PNG; JobError `unknown_image` for a photo, which has none."""
        if image.parent_id is None:
            raise JobError("unknown_image", "This is an uploaded photo, not a round: it has no patch.")
        path = self.store.view_path(image.image_id)
        return path.read_bytes() if path.exists() else self._read(image.image_id, root=False)

    def encode(self, image: ImageRecord, *, format: str | None = None) -> Encoded:
        """Return the full file, in the photo's own format or another ("png", "jpeg", "webp").

        An uploaded photo in its own format is returned as it came, byte for byte.
        """
        if image.parent_id is None and format is None:
            row = FORMATS[image.format]
            return Encoded(
                data=self._read(image.image_id, root=True),
                media_type=row.media_type,
                extension=row.extension,
                notes=image.notes,
            )
        pixels = self.pixels(image)
        photo = self.photo(image)
        with imaging_as_job_error(), self.decoding:
            return encode_photo(photo, pixels, format=format.upper() if format else None)

    def preview(self, image: ImageRecord, *, max_px: int | None, format: str) -> bytes:
        """Return a small picture whose longer side is at most `max_px`; `format` is "png", "jpeg" or "webp"."""
        pixels = self.pixels(image)
        with imaging_as_job_error(), self.decoding:
            return encode_preview(pixels, max_px=max_px, format=format)

    def _open(self, data: bytes) -> Photo:
        with imaging_as_job_error():
            return open_photo(data, max_bytes=self._max_bytes, max_px=self._max_px)

    def _read(self, image_id: str, *, root: bool) -> bytes:
        path = self.store.photo_path(image_id) if root else self.store.patch_path(image_id)
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

    def _keep(self, image_id: str, value: Photo | Pixels) -> None:
        with self._cache_lock:
            self._cache[image_id] = value
            self._cache.move_to_end(image_id)
            while len(self._cache) > 1 and sum(map(_size_bytes, self._cache.values())) > self._cache_bytes:
                self._cache.popitem(last=False)


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


def _size_bytes(value: Photo | Pixels) -> int:
    if isinstance(value, np.ndarray):
        return value.nbytes
    return value.image.nbytes + (0 if value.alpha is None else value.alpha.nbytes)
