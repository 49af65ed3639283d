"""A photo back to bytes: in its own format and manner, with its metadata, and previews for the page.

Where pixels have not changed, lossless formats give back exactly what was read: grey from grey, inks from inks, alpha
always.
"""

import struct
from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
from PIL import Image

from imaging import avif, jpeg, metadata, png, tiff, tiff_tags
from imaging.colour_profile import photo_code, profile_of_code, profile_of_png
from imaging.decoding import COLOUR_BOX
from imaging.errors import ImagingError, too_large_for_format
from imaging.formats import FORMATS, PREVIEW_FORMATS, format_named
from imaging.levels import eight_bits
from imaging.photo import Encoded, Photo
from notices import Note

# Neither format tells the quality it was written at, but files of the same quality are about as large. The second one
# here is hard to tell from the original and tried first; from there it goes down or up to the size of the source.
WEBP_QUALITIES = (75, 90, 96, 100)
AVIF_QUALITIES = (65, 80, 90, 96, 100)
FIRST_QUALITY = 1
LEAST_SHARE, MOST_GROWTH = 0.9, 1.3
AVIF_SPEED = 8
PREVIEW_QUALITY = 85
LARGEST_SHOWN_PROFILE = 64 << 10
BMP_RESOLUTION_AT = 38  # pixels per metre, across and down, in four bytes each


def encode_photo(
    photo: Photo, image: np.ndarray | None = None, *, format: str | None = None, quality: int | None = None
) -> Encoded:
    """Encode a photo with changed pixels into a file.

    Args:
        photo: what was opened; not modified.
        image: (H, W, 3) of the photo's own shape and dtype, not modified; None for the photo's own pixels.
        format: "png", "jpeg", "webp", "tiff", "bmp" or "avif" in any case; None or "original" for the photo's own. A
            GIF becomes PNG; a HEIC, which is only read, becomes JPEG (PNG if it has transparency).
        quality: 1 to 100, of a JPEG or a lossy WebP; None for the photo's own in its own format, else a high one.

    Returns:
        the file, and notes on what it does not keep.

    Raises:
        ImagingError: `bad_options` for another format, `too_large_for_format` for one that can't hold this size.
        ValueError: `image` is of another shape or dtype.
    """
    image = photo.image if image is None else image
    if image.shape != photo.image.shape or image.dtype != photo.image.dtype:
        raise ValueError(f"image is {image.dtype} {image.shape}, the photo {photo.image.dtype} {photo.image.shape}")
    name, notes = _format_to_write(photo, format)
    height, width = image.shape[:2]
    check_size(name, width, height)
    try:
        data, lossy = _WRITERS[name](photo, image) if quality is None else _at_quality(name, photo, image, quality)
    except (OSError, ValueError) as error:
        raise too_large_for_format(name, width, height) from error
    if photo.white is not None and not FORMATS[name].deep:
        text = f"{name} holds 8 bits; the photo uses few of its 16-bit values, so the file is brighter than the photo."
        notes.append(Note(text, code="stretched", format=name))
    if lossy or (photo.source.stored == "cmyk"):
        notes.append(_not_exact_note(photo, name, lossy))
    return Encoded(data, FORMATS[name].media_type, FORMATS[name].extension, tuple(notes))


def check_size(format: str, width: int, height: int) -> None:
    """Raise ImagingError `too_large_for_format` where a format, by its name, cannot hold so many pixels."""
    row = format_named(format)
    if row and row.max_side_px and max(width, height) > row.max_side_px:
        raise too_large_for_format(row.name, width, height)


def _format_to_write(photo: Photo, wanted: str | None) -> tuple[str, list[Note]]:
    if wanted is not None and wanted.upper() != "ORIGINAL":
        row = format_named(wanted)
        if row is None or not row.written:
            allowed = ", ".join(known.name.lower() for known in FORMATS.values() if known.written)
            raise ImagingError(
                "bad_options", f"Unknown image format {wanted!r}; use one of: original, {allowed}.", format=wanted
            )
        return row.name, []
    if photo.format == "GIF":
        return "PNG", []
    if photo.format == "HEIC":
        name = "JPEG" if photo.alpha is None else "PNG"
        note = Note(
            f"HEIC photos can be read but not written here; the result is a {name} file.",
            code="heic_saved_as",
            format=name,
        )
        return name, [note]
    return photo.format, []


def _not_exact_note(photo: Photo, name: str, lossy: bool) -> Note:
    if photo.source.stored == "cmyk":
        text = "This photo is stored in printing colours (CMYK): the colours of the repaired part are approximate."
    else:
        text = f"{name} does not keep every pixel exactly: saving again costs a little outside the repair too."
    return Note(text, code="not_exact", format=name, lossy=lossy)


def _eight_bit(photo: Photo, pixels: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, C) of a photo as uint8, its few levels stretched; a last channel of two or four is alpha."""
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    stretched = eight_bits(pixels[..., :colours], photo.white)
    return np.dstack([stretched, eight_bits(pixels[..., colours:])]) if colours < pixels.shape[2] else stretched


def _as_stored(photo: Photo, image: np.ndarray) -> np.ndarray:
    """Return (H, W, C) pixels as the file holds them: one channel for grey, the photo's alpha behind them."""
    if photo.source.stored == "grey":
        # Luma of three equal channels is that very value: the weights add up to 1000.
        weighted = image.astype(np.uint32) @ np.array([299, 587, 114], np.uint32)
        image = ((weighted + 500) // 1000).astype(image.dtype)[..., None]
    return np.dstack([image, photo.alpha]) if photo.alpha is not None else image


def _inks(photo: Photo, image: np.ndarray) -> np.ndarray:
    """Return the photo's own inks, with those of the changed pixels converted from RGB."""
    assert photo.source.cmyk is not None, "inks are kept for every CMYK photo"
    changed = (image != photo.image).any(axis=-1)
    inks = photo.source.cmyk.copy()
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if rows.size:
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        inks[box][changed[box]] = jpeg.rgb_to_cmyk(np.ascontiguousarray(image[box]), photo.source.icc)[changed[box]]
    return inks


def _multiplied(photo: Photo, image: np.ndarray) -> np.ndarray:
    """Return (H, W, C) pixels with colours multiplied by their alpha: the photo's own where nothing has changed."""
    colours, alpha = photo.source.premultiplied, photo.alpha
    assert colours is not None and alpha is not None, "both are kept for every photo that is stored so"
    changed = (image != photo.image).any(axis=-1)
    pixels = np.dstack([colours, alpha])
    pixels[changed] = tiff.multiplied(_as_stored(photo, image)[changed])
    return pixels


def _colour_profile(photo: Photo) -> bytes | None:
    return metadata.profile_for(photo.source.icc, "grey" if photo.source.stored == "grey" else "rgb")


def _told_profile(photo: Photo) -> bytes | None:
    """Return a profile for colours that a file tells by numbers, of RGB, for formats that have no such numbers."""
    source = photo.source
    if source.colour_code:
        return None if source.icc else profile_of_code(photo_code(source.colour_code))
    return profile_of_png(source.png_chunks)


def _profile_elsewhere(photo: Photo) -> bytes | None:
    """Return the ICC profile for a file of another format, or of one that has no other way to tell its colours."""
    return (_told_profile(photo) if photo.source.stored == "rgb" else None) or _colour_profile(photo)


def shown_profile(photo: Photo) -> bytes | None:
    """Return the ICC profile that a photo's RGB pixels need to look in a browser as its own file does there.

    Args:
        photo: as it was opened.

    Returns:
        The profile; None where there is none, where it is of greys or inks, or where it is so large that every part of
        the photo that is sent would be mostly profile.
    """
    if photo.source.stored != "cmyk" and (told := _told_profile(photo)):
        return told
    icc = metadata.profile_for(photo.source.icc, "rgb") if photo.source.stored == "rgb" else None
    return icc if icc and len(icc) <= LARGEST_SHOWN_PROFILE else None


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _write_png(photo: Photo, image: np.ndarray) -> tuple[bytes, bool]:
    source = photo.source
    chunks = list(source.png_chunks)
    icc = _colour_profile(photo)
    if photo.format != "PNG":
        if icc:
            chunks.append(png.icc_chunk(icc))
        elif source.colour_code:
            chunks.append((b"cICP", bytes([*photo_code(source.colour_code), 0, 1])))  # RGB, of full range
        if source.dpi:
            chunks.append((b"pHYs", struct.pack(">IIB", *(round(value / 0.0254) for value in source.dpi), 1)))
    elif source.icc and icc is None:
        chunks = [chunk for chunk in chunks if chunk[0] != b"iCCP"]  # an RGB profile on a palette that turned out grey
    if source.exif:
        chunks.append((b"eXIf", source.exif))
    if source.xmp:
        chunks.append((b"iTXt", png.XMP_KEY + b"\0\0\0\0" + source.xmp))
    return png.with_chunks(png.encode(_as_stored(photo, image)), chunks), False


def _at_quality(name: str, photo: Photo, image: np.ndarray, quality: int) -> tuple[bytes, bool]:
    if name not in _QUALITY_WRITERS or not 1 <= quality <= 100:
        kinds = " or ".join(_QUALITY_WRITERS)
        raise ImagingError("bad_options", f"Only {kinds} has a quality, from 1 to 100.", format=name.lower())
    return _QUALITY_WRITERS[name](photo, image, quality)


def _write_jpeg(photo: Photo, image: np.ndarray, quality: int | None = None) -> tuple[bytes, bool]:
    source = photo.source
    own = photo.format == "JPEG"
    if own and source.stored == "cmyk":
        picture, icc = Image.frombytes("CMYK", image.shape[1::-1], _inks(photo, image).tobytes()), source.icc
    else:
        pixels, icc = _on_white(_eight_bit(photo, _as_stored(photo, image))), _profile_elsewhere(photo)
        picture = _picture(pixels)
    data = jpeg.encode(picture, source.jpeg if own and quality is None else None, source.dpi, quality=quality)
    comments = source.jpeg.comments if source.jpeg else ()
    return jpeg.with_metadata(
        data, exif=source.exif, xmp=source.xmp, icc=icc, iptc=source.iptc, comments=comments
    ), True


def _on_white(pixels: np.ndarray) -> np.ndarray:
    """Return (H, W, C) uint8 pixels without alpha, transparent ones showing white, for formats that have no alpha."""
    if pixels.shape[2] in (1, 3):
        return pixels
    alpha = pixels[..., -1:].astype(np.uint32)
    return ((pixels[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _write_webp(photo: Photo, image: np.ndarray, quality: int | None = None) -> tuple[bytes, bool]:
    source = photo.source
    pixels = np.dstack([image, photo.alpha]) if photo.alpha is not None else image
    picture = _picture(_eight_bit(photo, pixels))
    metadata_options = {
        "icc_profile": _told_profile(photo) or metadata.profile_for(source.icc, "rgb") or b"",
        "exif": b"Exif\0\0" + source.exif if source.exif else b"",
        "xmp": source.xmp or b"",
    }
    if photo.format == "WEBP" and not source.lossy and quality is None:
        file = BytesIO()
        picture.save(file, "WEBP", lossless=True, exact=True, quality=60, **metadata_options)
        return file.getvalue(), False
    options = {"alpha_quality": 100, **metadata_options}
    qualities = WEBP_QUALITIES if quality is None else (quality,)
    return _at_fitting_quality(photo, picture, "WEBP", qualities, options), True


def _at_fitting_quality(
    photo: Photo, picture: Image.Image, name: str, qualities: tuple[int, ...], options: dict[str, object]
) -> bytes:
    """Encode with the usual one of `qualities`, or with that which comes to the size of the photo's own file."""

    def encoded(quality: int) -> bytes:
        file = BytesIO()
        picture.save(file, name, quality=quality, **options)
        return file.getvalue()

    at = min(FIRST_QUALITY, len(qualities) - 1)
    data = encoded(qualities[at])
    if photo.format != name or len(qualities) == 1:
        return data
    most = MOST_GROWTH * photo.source.size_bytes
    # An AVIF's alpha, lossless here, may be what makes it larger: then a lower quality would only cost colours.
    if len(data) > most and not (name == "AVIF" and photo.alpha is not None):
        return encoded(qualities[at - 1])
    for quality in qualities[at + 1 :]:
        if len(data) >= LEAST_SHARE * photo.source.size_bytes:
            break
        better = encoded(quality)
        if len(better) > most:
            break
        data = better
    return data


def _write_tiff(photo: Photo, image: np.ndarray) -> tuple[bytes, bool]:
    source = photo.source
    own = photo.format == "TIFF"
    inks = own and source.stored == "cmyk"
    if own and source.premultiplied is not None:
        pixels = _multiplied(photo, image)
    else:
        pixels = _inks(photo, image) if inks else _as_stored(photo, image)
    data = tiff.encode(pixels, source.tiff if own else None, cmyk=inks)
    data = tiff.with_metadata(
        data,
        exif=source.exif,
        xmp=source.xmp,
        icc=source.icc if inks else _profile_elsewhere(photo),
        iptc=source.iptc,
        dpi=source.dpi,
        alpha_kind=None if photo.alpha is None else source.tiff.alpha_kind if source.tiff else 2,
    )
    lossy = tiff_tags.read_directory(data).number(tiff.COMPRESSION, tiff.NONE) == tiff.JPEG
    return data, lossy


def _write_bmp(photo: Photo, image: np.ndarray) -> tuple[bytes, bool]:
    pixels = _eight_bit(photo, _as_stored(photo, image))
    if photo.alpha is None:
        file = BytesIO()
        _picture(pixels).save(file, "BMP", **({"dpi": photo.source.dpi} if photo.source.dpi else {}))
        data = file.getvalue()
    else:  # Pillow writes a fourth channel that no reader takes for alpha
        colours = (
            np.dstack([pixels[..., :1]] * 3 + [pixels[..., -1:]]) if pixels.shape[2] == 2 else pixels[..., [2, 1, 0, 3]]
        )
        data = cv2.imencode(".bmp", np.ascontiguousarray(colours))[1].tobytes()
        if photo.source.dpi:
            metres = struct.pack("<II", *(round(value / 0.0254) for value in photo.source.dpi))
            data = data[:BMP_RESOLUTION_AT] + metres + data[BMP_RESOLUTION_AT + len(metres) :]
    return data, photo.image.dtype != np.uint8


def _write_avif(photo: Photo, image: np.ndarray) -> tuple[bytes, bool]:
    source = photo.source
    pixels = _eight_bit(photo, _as_stored(photo, image))
    options = {
        "subsampling": source.avif_subsampling if photo.format == "AVIF" else "4:2:0",
        "speed": AVIF_SPEED,
        "icc_profile": (_colour_profile if photo.format == "AVIF" else _profile_elsewhere)(photo) or b"",
        "exif": avif.stand_in_for(source.exif) if source.exif else b"",
        "xmp": source.xmp or b"",
    }
    if photo.alpha is not None:
        options["advanced"] = {"alpha:lossless": "1"}
    data = _at_fitting_quality(photo, _picture(pixels), "AVIF", AVIF_QUALITIES, options)
    if source.exif:
        data = data.replace(avif.stand_in_for(source.exif), source.exif, 1)
    at = data.find(COLOUR_BOX) + len(COLOUR_BOX)
    if source.colour_code and at >= len(COLOUR_BOX):  # Pillow writes those of sRGB
        data = data[:at] + struct.pack(">HH", *source.colour_code) + data[at + 4 :]
    return data, True


_WRITERS: dict[str, Callable[[Photo, np.ndarray], tuple[bytes, bool]]] = {
    "PNG": _write_png,
    "JPEG": _write_jpeg,
    "WEBP": _write_webp,
    "TIFF": _write_tiff,
    "BMP": _write_bmp,
    "AVIF": _write_avif,
}
_QUALITY_WRITERS: dict[str, Callable[[Photo, np.ndarray, int], tuple[bytes, bool]]] = {
    "JPEG": _write_jpeg,
    "WEBP": _write_webp,
}


def encode_preview(
    image: np.ndarray,
    *,
    max_px: int | None,
    format: str = "webp",
    alpha: np.ndarray | None = None,
    white: int | None = None,
    icc: bytes | None = None,
    quality: int | None = None,
) -> bytes:
    """Encode an image for looking at, without metadata but a colour profile.

    Args:
        image: (H, W, 3) uint8 or uint16; not modified.
        max_px: longer side at most; None = the image's own.
        format: "webp", "jpeg" or "png".
        alpha: (H, W) of the image's dtype, or None; not modified. In a JPEG transparent pixels show white.
        white: the value of 16 bits that is shown as white; None = the largest.
        icc: the profile of its colours (`shown_profile`); None = sRGB.
        quality: 1 to 100, of a JPEG or WebP; None = `PREVIEW_QUALITY`.

    Returns:
        The file's bytes, 8 bits per channel.

    Raises:
        ImagingError: `bad_options` for another format.
    """
    height, width = image.shape[:2]
    row = format_named(format)
    if row is None or row.name not in PREVIEW_FORMATS:
        raise ImagingError("bad_options", f"Unknown preview format {format!r}; use webp, jpeg or png.", format=format)
    name = row.name
    limit = min(max_px or max(width, height), row.max_side_px or 65500)
    scale = max(1, limit) / max(width, height)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image, alpha = _smaller(image, alpha, size)
    pixels = eight_bits(image, white)
    if alpha is not None:
        pixels = np.dstack([pixels, eight_bits(alpha)])
        pixels = pixels if row.alpha else _on_white(pixels)
    profile = {"icc_profile": icc} if icc else {}
    if name == "PNG":
        data = png.encode(pixels, fast=True)
        return png.with_chunks(data, [png.icc_chunk(icc)]) if icc else data
    if name == "JPEG":
        return jpeg.save(Image.fromarray(pixels), {"quality": quality or PREVIEW_QUALITY, **profile})
    file = BytesIO()
    Image.fromarray(pixels).save(file, name, quality=quality or PREVIEW_QUALITY, method=1, **profile)
    return file.getvalue()


def _smaller(
    image: np.ndarray, alpha: np.ndarray | None, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return an image and its alpha at (width, height); transparent pixels' colours do not mix into others."""
    if alpha is None:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA), None
    small = cv2.resize(alpha, size, interpolation=cv2.INTER_AREA)
    if alpha.min() > 0:
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA), small
    seen = (alpha > 0).view(np.uint8)
    colours = cv2.resize(image * seen[..., None], size, interpolation=cv2.INTER_AREA)
    share = cv2.resize(seen * np.uint8(255), size, interpolation=cv2.INTER_AREA)[..., None] / np.float32(255)
    most = np.iinfo(image.dtype).max
    return np.minimum(np.rint(colours / np.maximum(share, 1 / 255)), most).astype(image.dtype), small
