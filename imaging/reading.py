"""Bytes of a file to a photo: upright pixels at their own depth, alpha, and all that writing it back needs.

Any bytes either give a Photo or raise ImagingError, whatever the file is called and whatever its header claims.
"""

from contextlib import ExitStack

from PIL import Image

from imaging import png
from imaging.decoding import READERS, Admission, Turn
from imaging.errors import ImagingError, not_an_image, of_mask, truncated_image
from imaging.formats import FORMATS
from imaging.photo import Photo, spread_grey

MAX_BYTES = 100 << 20
MAX_PX = 100_000_000
BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 16, 40, 52, 56, 64, 108, 124))
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def open_photo(data: bytes, *, max_bytes: int = MAX_BYTES, max_px: int = MAX_PX, turn: Turn | None = None) -> Photo:
    """Open a photo file: PNG, JPEG, WebP, TIFF, BMP, AVIF, HEIC or GIF.

    Args:
        data: the file's bytes.
        max_bytes: largest file allowed.
        max_px: most pixels allowed.
        turn: what decoding waits for once the header is read; see `decoding.Turn`. What it raises passes unchanged.

    Returns:
        A Photo whose arrays are upright (EXIF orientation applied) and belong to the caller. Animations give their
        first frame, documents of several pages their first page, with a note.

    Raises:
        ImagingError: `empty_file`, `file_too_large`, `image_too_large`, `not_an_image`, `truncated_image`.
    """
    return spread_grey(_open(data, max_bytes, max_px, turn))


def open_to_look_at(
    data: bytes, *, max_bytes: int = MAX_BYTES, max_px: int = MAX_PX, turn: Turn | None = None
) -> Photo:
    """Open a picture that nobody writes to, a mask: of a grey one the three channels are one in memory.

    Args:
        data: as `open_photo` has it, like all others.
        max_bytes: likewise.
        max_px: likewise.
        turn: likewise.

    Returns:
        The picture; a third of the memory and of the time for a grey one.

    Raises:
        ImagingError: as `open_photo` raises; the sentence says that it is about the mask.
    """
    try:
        return _open(data, max_bytes, max_px, turn)
    except ImagingError as error:
        raise of_mask(error) from error


def _open(data: bytes, max_bytes: int, max_px: int, turn: Turn | None) -> Photo:
    if not data:
        raise ImagingError("empty_file", "The file is empty.")
    if len(data) > max_bytes:
        size_mib, max_mib = len(data) / 2**20, max_bytes / 2**20
        message = f"The file has {size_mib:.1f} MiB; at most {max_mib:g} MiB are allowed."
        raise ImagingError("file_too_large", message, size_mib=round(size_mib, 1), max_mib=round(max_mib, 6))
    name = format_of(data)
    if name is None:
        *others, last = FORMATS
        raise not_an_image(f"it is none of {', '.join(others)} and {last}")
    with ExitStack() as held:
        return _read(name, data, Admission(max_px, turn, held))


def _read(name: str, data: bytes, admit: Admission) -> Photo:
    try:
        return READERS[name](bytes(data), admit)
    except ImagingError:
        raise
    except MemoryError as error:
        raise ImagingError("image_too_large", "There is not enough memory to open this image.") from error
    except Image.DecompressionBombError as error:  # a GIF frame far larger than the screen its header speaks of
        message = f"The image has more pixels than are allowed ({admit.max_px / 1e6:g} megapixels)."
        raise ImagingError("image_too_large", message, max_mpx=round(admit.max_px / 1e6, 6)) from error
    except Exception as error:
        if error is admit.refusal:
            raise
        # Damaged files make the decoders raise nearly everything, from struct.error to SyntaxError.
        raise truncated_image(name) from error


def format_of(data: bytes) -> str | None:
    """Return the format's name from the file's first bytes, whatever the file is called; None if it is none of ours."""
    if data.startswith(png.SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if data[:2] == b"BM" and data[14:18] in BMP_HEADERS:
        return "BMP"
    if data[4:8] == b"ftyp":
        brands = data[8 : min(len(data), int.from_bytes(data[:4], "big"), 256)]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        return "HEIC" if any(brand in brands for brand in HEIF_BRANDS) else None
    return None
