"""What an opened photo is: its pixels, and how its file was written so that the result can be written the same way."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import cv2
import numpy as np

from imaging import metadata
from imaging.levels import eight_bits, white_level
from notices import Note

SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap height and width
MOST_UNSEEN_ALPHA = 128  # of 65535: what rounds to 0 of 255


@dataclass(frozen=True)
class JpegSettings:
    """How a JPEG was encoded: one quantisation table per component (natural order), Pillow's subsampling code 0-2.

    `optimized` says whether its Huffman tables were made for it, which takes a second pass, or are the usual ones.
    """

    tables: tuple[tuple[int, ...], ...]
    subsampling: int
    progressive: bool
    keep_rgb: bool
    comments: tuple[bytes, ...]
    optimized: bool = True


@dataclass(frozen=True)
class TiffSettings:
    """How a TIFF was encoded: the Compression tag's value, and ExtraSamples of its alpha (1 associated, 2 not)."""

    compression: int
    alpha_kind: int


@dataclass(frozen=True)
class Source:
    """All that is needed to write a photo back in its own manner; nothing here is for other rooms.

    `exif` is a bare TIFF block, orientation 1, without thumbnails. `stored` is "grey", "rgb" or "cmyk"; `cmyk` keeps
    the inks (H, W, 4) uint8, upright, 255 = full ink; `premultiplied` keeps colours that are stored multiplied by their
    alpha (H, W, 1 or 3), upright. `png_chunks` are (type, payload) to be repeated as they are.
    `colour_code` is what an AVIF or HEIC says of its colours where they are not those of sRGB: the numbers of the
    primaries and of the transfer curve (ITU-T H.273).
    `left_out` says that some metadata was too much.
    """

    stored: str = "rgb"
    lossy: bool = False
    exif: bytes | None = None
    icc: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    cmyk: np.ndarray | None = None
    premultiplied: np.ndarray | None = None
    jpeg: JpegSettings | None = None
    tiff: TiffSettings | None = None
    png_chunks: tuple[tuple[bytes, bytes], ...] = ()
    avif_subsampling: str = "4:2:0"
    colour_code: tuple[int, int] | None = None
    size_bytes: int = 0
    left_out: bool = False


@dataclass(frozen=True)
class Photo:
    """A photo, upright.

    image: (H, W, 3) uint8 or uint16 RGB, the file's own depth; a grey photo has three equal channels.
    alpha: (H, W) of the same dtype, or None.
    format: "PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "HEIC" or "GIF".
    """

    image: np.ndarray
    alpha: np.ndarray | None
    format: str
    notes: tuple[Note, ...] = ()
    source: Source = field(default_factory=Source, repr=False)

    @cached_property
    def white(self) -> int | None:
        """The value that is shown as white where the photo uses few of its 16 bits, else None."""
        return white_level(self.image, self.transparent)

    @property
    def shown(self) -> np.ndarray:
        """(H, W, 3), the image as people see it: 8 bits, stretched, where it uses few of its 16 bits, else itself."""
        return self.image if self.white is None else eight_bits(self.image, self.white)

    @property
    def transparent(self) -> np.ndarray | None:
        """(H, W) bool, True where the alpha is 0 of 255, so that nobody sees the colour; None where no pixel is so."""
        if self.alpha is None:
            return None
        unseen = self.alpha <= (0 if self.alpha.dtype == np.uint8 else MOST_UNSEEN_ALPHA)
        return unseen if unseen.any() else None


@dataclass(frozen=True)
class Encoded:
    """A file ready to be sent or saved; `extension` begins with a dot."""

    data: bytes
    media_type: str
    extension: str
    notes: tuple[Note, ...] = ()


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, C) pixels turned as EXIF orientation 1-8 asks; 5 to 8 swap height and width."""
    if orientation in SIDEWAYS:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def spread_grey(photo: Photo) -> Photo:
    """Return a photo whose three channels each have their own memory; a copy by NumPy takes eight times as long."""
    if photo.image.strides[2]:
        return photo
    return replace(photo, image=cv2.cvtColor(np.ascontiguousarray(photo.image[..., :1]), cv2.COLOR_GRAY2RGB))


def assemble(
    format: str, pixels: np.ndarray, source: Source, notes: tuple[Note, ...] = (), *, orientation: int = 1
) -> Photo:
    """Make a Photo of (H, W, C) pixels as stored: turned upright, metadata cleaned.

    Of grey the three channels are one in memory, which can't be written to, until `spread_grey`.
    """
    pixels = turn_upright(pixels, orientation)
    height, width, channels = pixels.shape
    grey = channels < 3
    image = np.broadcast_to(pixels[..., :1], (height, width, 3)) if grey else np.ascontiguousarray(pixels[..., :3])
    alpha = np.ascontiguousarray(pixels[..., -1]) if channels in (2, 4) else None
    stored = source.stored if source.cmyk is not None else "grey" if grey else "rgb"
    is_sideways = orientation in SIDEWAYS
    if is_sideways:
        chunks = tuple((kind, _turned_density(body) if kind == b"pHYs" else body) for kind, body in source.png_chunks)
        source = replace(source, dpi=source.dpi and source.dpi[::-1], png_chunks=chunks)
    cleaned: dict[str, bytes | None] = {}
    left_out = source.left_out
    for name, clean in (
        ("exif", lambda: metadata.clean_exif(source.exif, width_px=width, height_px=height, is_turned=is_sideways)),
        ("xmp", lambda: metadata.clean_xmp(source.xmp)),
        ("iptc", lambda: metadata.clean_iptc(source.iptc)),
        ("icc", lambda: metadata.within_budget(source.icc)),
    ):
        try:
            cleaned[name] = clean()
        except metadata.OverBudgetError:
            cleaned[name], left_out = None, True
    if left_out:
        text = "Part of the file's metadata is larger or more tangled than any camera writes; it is left out."
        notes = (*notes, Note(text, code="metadata_left_out"))
    photo = Photo(image, alpha, format, notes, replace(source, stored=stored, left_out=left_out, **cleaned))  # type: ignore[arg-type]
    if photo.white is None:
        return photo
    text = "The photo uses few of its 16-bit values; it is shown brighter than it is stored."
    return replace(photo, notes=(*notes, Note(text, code="few_levels")))


def _turned_density(chunk: bytes) -> bytes:
    """Return a pHYs chunk, pixels per unit across and down, for a picture that was turned on its side."""
    return chunk[4:8] + chunk[:4] + chunk[8:]
