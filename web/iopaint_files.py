"""The folders that IOPaint's clients look through and save to: `input_path`, `masks_dir` and `outputs_dir`.

Without a folder in `input_path` nothing is listed. With a login no results are listed, as those of other people lie in
`outputs_dir` too. A file is named by its bare name; what would lead out of its folder, by dots or by a link, is not
there. Saving never replaces a file.
"""

import io
import logging
import re
from pathlib import Path, PurePath
from typing import Any

import anyio
from PIL import Image

from config import Settings
from imaging import encode_preview, open_photo, png, shown_profile
from imaging.reading import format_of
from jobs.clients import current_client
from jobs.errors import JobError, storage_as_job_error
from jobs.images import ImageStore, clean_name, imaging_as_job_error

ENDINGS = frozenset({".jpg", ".jpeg", ".png"})
TABS = ("input", "output", "mask")
THUMBNAIL_PX = 256
LARGEST_THUMBNAIL_PX = 4096
THUMBNAILS = 8  # threads; most of them wait for memory
MOST_NAMES = 10_000
MIB = 1 << 20

log = logging.getLogger("fftlama.web")


class Gallery:
    """Photos by tab ("input", "output", "mask") and bare name."""

    def __init__(self, settings: Settings, images: ImageStore) -> None:
        """Make the gallery.

        Args:
            settings: the folders and the limits of a file.
            images: whose turns decoding waits for.
        """
        self._images = images
        self.thumbnail_threads = anyio.CapacityLimiter(THUMBNAILS)
        self.input = Path(settings.input_path) if settings.input_path else None
        self._outputs = Path(settings.outputs_dir)
        self._masks = Path(settings.masks_dir) if settings.masks_dir else None
        self._max_bytes = settings.max_file_mib * MIB
        self._max_px = settings.max_image_mpx * 1_000_000

    @property
    def is_open(self) -> bool:
        """Whether there is a folder to look through."""
        return self.input is not None and self.input.is_dir()

    def photo(self) -> Path:
        """Return the one photo that clients may open; JobError `not_found` where it is not there any more."""
        if self.input is None or not self.input.is_file():
            raise JobError("not_found", "The photo that the server was started with is not there any more.")
        return self.input

    def medias(self, tab: str) -> list[dict[str, Any]]:
        """Return name, size and times of each photo of a tab, the newest first."""
        rows = []
        for path in self._folder(tab).iterdir() if self._folder(tab).is_dir() else ():
            if path.suffix.lower() not in ENDINGS or self._inside(path) is None:
                continue
            try:
                with Image.open(path) as picture:
                    width, height = picture.size
                times = path.stat()
            except Exception:
                # Being written, or damaged, which makes Pillow raise nearly everything: the others are listed.
                log.debug("%s cannot be read", path.name, exc_info=True)
                continue
            rows.append(
                {
                    "name": path.name, "height": height, "width": width, "ctime": times.st_ctime,
                    "mtime": times.st_mtime,
                }
            )  # fmt: skip
        return sorted(rows, key=lambda row: -row["mtime"])

    def file(self, tab: str, name: str) -> Path:
        """Return a photo's path; JobError `no_file` for every name that is no photo of the tab."""
        path = self._folder(tab) / name
        is_bare = name == PurePath(name).name and "\\" not in name and "\0" not in name
        found = self._inside(path) if is_bare and path.suffix.lower() in ENDINGS else None
        if found is None:
            raise JobError("no_file", f"There is no photo {name[:80]!r} here.")
        return found

    def thumbnail(self, tab: str, name: str, *, width: int, height: int) -> tuple[bytes, tuple[int, int]]:
        """Return a JPEG and its (width, height): as wide as asked, else as high, else of 256 px."""
        path = self.file(tab, name)
        # A number of hundreds of digits is none that can be divided.
        width, height = (max(0, min(side, LARGEST_THUMBNAIL_PX)) for side in (width, height))
        with imaging_as_job_error(), self._images.turns_kept() as turn:
            photo = open_photo(path.read_bytes(), max_bytes=self._max_bytes, max_px=self._max_px, turn=turn)
            full_height, full_width = photo.image.shape[:2]
            if not width and not height:
                width = THUMBNAIL_PX
            scale = width / full_width if width else height / full_height
            longer_px = min(LARGEST_THUMBNAIL_PX, max(1, round(max(full_width, full_height) * scale)))
            icc = shown_profile(photo)
            data = encode_preview(
                photo.image, max_px=longer_px, format="jpeg", alpha=photo.alpha, white=photo.white, icc=icc
            )
        with Image.open(io.BytesIO(data)) as picture:
            return data, picture.size

    def save(self, data: bytes, name: str) -> None:
        """Write a photo into the outputs under its own name, or with a number where that is taken."""
        if format_of(data) is None:
            raise JobError("not_an_image", "What was sent to be saved is no image.")
        pure = PurePath(clean_name(name))
        with storage_as_job_error():
            self._outputs.mkdir(parents=True, exist_ok=True)
            for number in range(1, MOST_NAMES):
                path = self._outputs / f"{pure.stem}{'' if number == 1 else f'_{number}'}{pure.suffix}"
                try:
                    with path.open("xb") as file:
                        file.write(data)
                    return
                except FileExistsError:
                    continue
                except OSError:
                    path.unlink(missing_ok=True)
                    raise
        raise JobError("request_conflict", f"There are {MOST_NAMES} files of this name already.")

    def _folder(self, tab: str) -> Path:
        if not self.is_open or self.input is None:
            raise JobError("not_found", "No folder is open here; `fftlama start --input FOLDER` opens one.")
        if tab not in TABS:
            raise JobError("no_file", f"There is no tab {tab[:40]!r}; there are {', '.join(TABS)}.")
        if tab == "input":
            return self.input
        if tab == "mask":
            if self._masks is None:
                raise JobError("not_found", "No masks are open here; `fftlama start --mask-dir FOLDER` opens them.")
            return self._masks
        if current_client.get().owner is not None:  # the files do not tell whose they are
            raise JobError(
                "not_found", "With a login nobody looks through the results of others; yours are on the page."
            )
        return self._outputs

    @staticmethod
    def _inside(path: Path) -> Path | None:
        """Return the real path of a file that lies in its folder and not elsewhere, else None."""
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError, ValueError):
            return None
        return real if real.is_file() and real.parent == path.parent.resolve() else None


def generation_info(data: bytes) -> dict[str, str]:
    """Return prompt and negative prompt of a PNG's `parameters` text, as diffusion programs write it; "" for none."""
    kind = format_of(data)
    if kind is None:
        raise JobError("not_an_image", "What was sent is no image.")
    with imaging_as_job_error():
        text = png.text_of(png.parse(data), b"parameters") if kind == "PNG" else ""
    prompt, _, rest = text.partition("Negative prompt:")
    negative = re.split(r"\n?Steps: \d", rest)[0]
    return {"prompt": re.split(r"\n?Steps: \d", prompt)[0].strip(), "negative_prompt": negative.strip()}
