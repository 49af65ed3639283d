"""Files for people: whole images in any format and previews, each made once and kept beside the image.

What was kept goes when its image goes, and the least recently made goes first when all take more than their share of
the data folder. It can always be made again.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from imaging import FORMATS, Encoded, encode_photo, encode_preview, shown_profile
from imaging.atomic_write import write_atomically
from jobs.errors import JobError, storage_as_job_error
from jobs.images import ImageStore, imaging_as_job_error, step_bytes
from jobs.keyed_locks import KeyedLocks
from jobs.memory_budget import MIB
from jobs.store import ImageRecord, notes_from_json
from notices import note_as_dict

KEPT_SHARE = 4  # kept encodings take at most one part in so many of the data folder


class Encodings:
    """Encoded images of one image store."""

    def __init__(self, images: ImageStore, *, keep_mib: float) -> None:
        """Make the encodings.

        Args:
            images: where the arrays come from.
            keep_mib: the size that the whole data folder may have, MiB.
        """
        self._images = images
        self._most_bytes = int(keep_mib * MIB / KEPT_SHARE)
        self._making = KeyedLocks()

    def whole(
        self, image: ImageRecord, *, format: str | None = None, quality: int | None = None, keep: bool = True
    ) -> Encoded:
        """Return an image's whole file.

        Args:
            image: an original or an edit. An original in its own format comes as it was uploaded, byte for byte.
            format: "png", "jpeg" or "webp"; None = the original's own.
            quality: 1 to 100, with "jpeg" or "webp"; None = a high one, or the photo's own.
            keep: whether the file is kept for the next who asks.

        Returns:
            The encoded file.

        Raises:
            JobError: `unknown_image`, `too_large_for_format` when the format cannot hold the image, `busy`.
        """
        if image.parent_id is None and format is None and quality is None:
            row = FORMATS[image.format]
            return Encoded(self._images.read(image), row.media_type, row.extension, image.notes)

        def make() -> Encoded:
            # The arrays are taken inside the turn, so that nobody waits with them in their hands.
            with imaging_as_job_error(), self._images.memory.reserve(step_bytes(image)):
                pixels, photo = self._images.pixels(image), self._images.original(image)
                return encode_photo(photo, pixels, format=format.upper() if format else None, quality=quality)

        kind = (format or "own") + (f"-{quality}" if quality is not None else "")
        return self._kept(image, kind, make) if keep else self._find(image, kind) or make()

    def preview(self, image: ImageRecord, *, max_px: int | None, format: str, quality: int | None = None) -> bytes:
        """Return a small picture for looking at.

        Args:
            image: an original or an edit.
            max_px: its longer side at most; None = the image's own.
            format: "png", "jpeg" or "webp".
            quality: 1 to 100, with "jpeg" or "webp"; None = one that is good enough to look at.

        Returns:
            The file's bytes.

        Raises:
            JobError: `unknown_image`, `busy`.
        """

        def make() -> Encoded:
            with imaging_as_job_error(), self._images.memory.reserve(step_bytes(image)):
                pixels, photo = self._images.pixels(image), self._images.original(image)
                data = encode_preview(
                    pixels,
                    max_px=max_px,
                    format=format,
                    alpha=photo.alpha,
                    white=photo.white,
                    icc=shown_profile(photo),
                    quality=quality,
                )
            row = FORMATS[format.upper()]
            return Encoded(data, row.media_type, row.extension)

        side = min(max_px or max(image.width, image.height), max(image.width, image.height))
        kind = f"shown-{format}-{side}" + (f"-{quality}" if quality is not None else "")
        return self._kept(image, kind, make).data

    def _kept(self, image: ImageRecord, kind: str, make: Callable[[], Encoded]) -> Encoded:
        """Return what was kept, else make it and keep it; a second caller for the same waits for it."""
        with self._making.hold((image.image_id, kind)):
            if found := self._find(image, kind):
                return found
            encoded = make()
            try:
                with storage_as_job_error():
                    write_atomically(self._path(image, kind), encoded.data)
                    self._insert(image, kind, encoded)
            except JobError:
                self._path(image, kind).unlink(missing_ok=True)  # it is sent all the same
            return encoded

    def _path(self, image: ImageRecord, kind: str) -> Path:
        return self._images.store.encoding_path(image.image_id, kind)

    def _find(self, image: ImageRecord, kind: str) -> Encoded | None:
        row = self._images.store.connection().execute(
            "SELECT media_type, extension, notes FROM encodings WHERE image_id = ? AND kind = ?", (image.image_id, kind)
        ).fetchone()  # fmt: skip
        if row is None:
            return None
        try:
            data = self._path(image, kind).read_bytes()
        except OSError:
            return None
        return Encoded(data, row["media_type"], row["extension"], notes_from_json(row["notes"]))

    def _insert(self, image: ImageRecord, kind: str, encoded: Encoded) -> None:
        store = self._images.store
        notes = json.dumps([note_as_dict(note) for note in encoded.notes])
        with store.transaction() as database:
            if not database.execute("SELECT 1 FROM images WHERE image_id = ?", (image.image_id,)).fetchone():
                raise JobError("unknown_image", "This photo is not here (any more). Please upload it again.")
            database.execute(
                "INSERT OR REPLACE INTO encodings (image_id, kind, media_type, extension, notes, size_bytes, made_s)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (image.image_id, kind, encoded.media_type, encoded.extension, notes, len(encoded.data), time.time()),
            )
            rows = database.execute("SELECT image_id, kind, size_bytes FROM encodings ORDER BY made_s DESC").fetchall()
            gone, total_bytes = [], 0
            for row in rows:
                total_bytes += row["size_bytes"]
                if total_bytes > self._most_bytes and (row["image_id"], row["kind"]) != (image.image_id, kind):
                    gone.append((row["image_id"], row["kind"]))
            database.executemany("DELETE FROM encodings WHERE image_id = ? AND kind = ?", gone)
        for image_id, other in gone:
            store.encoding_path(image_id, other).unlink(missing_ok=True)
