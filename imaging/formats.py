"""The file formats there are: one table of names, name endings, media types and what each can carry."""

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True)
class FileFormat:
    """One format.

    Attributes:
        name: as `Photo.format` and the API say it, in capitals.
        media_type: as HTTP says it.
        extensions: endings of file names, in small letters with their dot; the first is the one that is written.
        written: whether it is written here; every format is read.
        alpha: whether it can carry transparency.
        deep: whether it can carry 16 bits per channel.
        lossless: whether what is written comes back exactly, whatever the source was.
        max_side_px: the longest side that its encoder writes; None = not known here.
    """

    name: str
    media_type: str
    extensions: tuple[str, ...]
    written: bool = True
    alpha: bool = True
    deep: bool = False
    lossless: bool = False
    max_side_px: int | None = None

    @property
    def extension(self) -> str:
        """The ending of files that are written."""
        return self.extensions[0]


FORMATS: dict[str, FileFormat] = {
    row.name: row
    for row in (
        FileFormat("PNG", "image/png", (".png",), deep=True, lossless=True),
        FileFormat("JPEG", "image/jpeg", (".jpg", ".jpeg", ".jfif"), alpha=False, max_side_px=65_500),
        FileFormat("WEBP", "image/webp", (".webp",), max_side_px=16_383),
        FileFormat("TIFF", "image/tiff", (".tif", ".tiff"), deep=True),
        FileFormat("BMP", "image/bmp", (".bmp",), lossless=True),
        FileFormat("AVIF", "image/avif", (".avif",)),
        FileFormat("HEIC", "image/heic", (".heic", ".heif"), written=False),
        FileFormat("GIF", "image/gif", (".gif",), written=False),
    )
}
PREVIEW_FORMATS = ("PNG", "JPEG", "WEBP")  # what every browser shows
_BY_EXTENSION = {extension: row for row in FORMATS.values() for extension in row.extensions}


def format_of_name(name: str | PurePath) -> FileFormat | None:
    """Return the format that a file name's ending stands for, in any case; None when it is none of ours."""
    return _BY_EXTENSION.get(PurePath(name).suffix.lower())


def format_named(name: str) -> FileFormat | None:
    """Return a format by its name or an ending without the dot ("jpg", "tif"), in any case; None for others."""
    return FORMATS.get(name.upper()) or _BY_EXTENSION.get(f".{name.lower()}")
