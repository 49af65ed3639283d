"""One reader per format: from a file's bytes to a Photo, with all that writing it back needs.

Each checks the size that the header tells before anything is decoded, and calls its format's own reader directly,
because Pillow's `Image.open` warns above a size that is allowed here, and switching that off is global. What they raise
for damaged files is their decoder's affair; `reading.py` turns it into sentences.
"""

import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from io import BytesIO

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from imaging import avif, bmp, gif, heic, jpeg, jpeg_end, metadata, png, tiff, tiff_pages, tiff_tags, webp
from imaging.errors import ImagingError, image_too_large, not_an_image, raw_file, truncated_image
from imaging.photo import Photo, Source, TiffSettings, assemble, turn_upright
from notices import Note

# Every scan of a progressive JPEG goes over all its pixels: a small file with thousands of scans would take hours.
MAX_SCANNED_PX = 10_000_000_000
AVIF_SUBSAMPLING = {(0, 0): "4:4:4", (1, 0): "4:2:2", (1, 1): "4:2:0"}
COLOUR_BOX = b"colrnclx"
USUAL_COLOURS = ((1, 13), (2, 2))  # sRGB, and nothing said (ITU-T H.273)
CHANNELS_OF_MODE = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4, "I;16": 1}


Turn = Callable[[int, bool], AbstractContextManager[None]]
"""Makes a context that decoding waits for and runs in, given the number of pixels and whether they are 16 bits deep."""


class Admission:
    """What a reader asks before it decodes: whether the size is allowed, and whether it is its turn."""

    def __init__(self, max_px: int, turn: Turn | None, held: ExitStack) -> None:
        """Make the admission.

        Args:
            max_px: most pixels allowed.
            turn: what decoding waits for; None = nothing.
            held: where the turn's context is entered, until the photo is made.
        """
        self.max_px = max_px
        self.refusal: Exception | None = None
        self._turn = turn
        self._held = held

    def __call__(self, width_px: int, height_px: int, *, deep: bool = False) -> None:
        """Return when a picture of this size may be decoded.

        Args:
            width_px: its width.
            height_px: its height.
            deep: whether it has 16 bit, which takes more memory.

        Raises:
            ImagingError: `not_an_image` for no pixels, `image_too_large` for more than are allowed.
        """
        if width_px < 1 or height_px < 1:
            raise not_an_image("it has no pixels")
        if width_px * height_px > self.max_px:
            raise image_too_large(width_px, height_px, self.max_px)
        if self._turn is None:
            return
        turn, self._turn = self._turn, None  # one turn is enough for a file whose size is read twice
        try:
            self._held.enter_context(turn(width_px * height_px, deep))
        except Exception as error:
            self.refusal = error
            raise


def _pixels_of(picture: Image.Image) -> np.ndarray:
    """Return a loaded Pillow picture as (H, W, C) uint8 or uint16, C from 1 to 4."""
    if picture.mode in ("P", "PA"):
        return png.palette_to_colours(picture)
    if picture.mode in ("1", "YCbCr", "RGBX", "RGBa", "La"):
        picture = picture.convert({"1": "L", "RGBa": "RGBA", "La": "LA"}.get(picture.mode, "RGB"))
    mode = "I;16" if picture.mode in ("I;16B", "I;16L", "I;16N") else picture.mode
    if mode not in CHANNELS_OF_MODE:
        raise not_an_image(f"pixels of the kind {picture.mode} are not supported")
    pixels = np.asarray(picture)
    return np.atleast_3d(pixels.astype(pixels.dtype.newbyteorder("=")))


def _palette_note(stored: str) -> Note:
    text = f"The photo was stored with {stored}; the result is stored with full colours or greys."
    return Note(text, code="palette_converted", stored=stored)


def _first_frame_note(count: int | None) -> Note:
    text = f"The file holds {count or 'several'} frames; the first one is used."
    return Note(text, code="animated_first_frame", count=count)


def _first_page_note(count: int, what: str) -> Note:
    text = f"The file holds {count} {what}; only the first one is used, and the result holds no other."
    return Note(text, code="first_page_only", count=count, what=what)


def _channels_note(count: int) -> Note:
    what = "a channel" if count == 1 else f"{count} channels"
    text = f"The file holds {what} besides colours and transparency; the result does not hold what is in there."
    return Note(text, code="channels_left_out", count=count)


def _layers_note() -> Note:
    text = "The file holds layers; the picture that they make is used, and the result holds no layers."
    return Note(text, code="layers_left_out")


def _film_note() -> Note:
    return Note(
        "The file holds a short film besides the photo; the result holds the photo alone.", code="film_left_out"
    )


def _fewer_bits_notes(bits: int) -> tuple[Note, ...]:
    text = f"The file holds {bits} bits per channel; the result holds 8."
    return (Note(text, code="fewer_bits", bits=bits),) if bits > 8 else ()


def _read_png(data: bytes, admit: Admission) -> Photo:
    parts = png.parse(data)
    admit(parts.width_px, parts.height_px, deep=parts.depth == 16)
    notes = []
    if parts.colour_type == 3:
        notes.append(_palette_note("a palette"))
    elif parts.depth == 1:
        notes.append(_palette_note("one bit per pixel"))
    frames = int.from_bytes((parts.first(b"acTL") or b"")[:4], "big")
    if frames > 1:
        notes.append(_first_frame_note(frames))
    pixels = png.decode(parts)
    same_kind = pixels.shape[2] == png.CHANNELS[parts.colour_type] and parts.colour_type != 3
    kept = {b"cHRM", b"gAMA", b"iCCP", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"pHYs", b"tEXt", b"zTXt", b"iTXt"}
    kept |= {b"sBIT", b"bKGD"} if same_kind and parts.depth >= 8 else set()
    chunks = tuple((kind, payload) for kind, payload in parts.chunks if kind in kept and _is_plain_text(kind, payload))
    exif, dpi, density = metadata.bare_exif(parts.first(b"eXIf")), None, parts.first(b"pHYs")
    if density and len(density) == 9 and density[8] == 1:
        dpi = metadata.plausible_dpi([value * 0.0254 for value in struct.unpack(">II", density[:8])])
    source = Source(
        exif=exif,
        icc=png.icc_of(parts),
        xmp=png.xmp_of(parts),
        dpi=dpi,
        png_chunks=chunks,
        size_bytes=len(data),
        left_out=parts.left_out,
    )
    return assemble("PNG", pixels, source, tuple(notes), orientation=metadata.orientation_of(exif))


def _is_plain_text(kind: bytes, payload: bytes) -> bool:
    """Leave out text that is metadata in disguise: XMP is written anew, raw profiles would bring thumbnails back."""
    if kind not in (b"tEXt", b"zTXt", b"iTXt"):
        return True
    keyword = payload.partition(b"\0")[0]
    return keyword != png.XMP_KEY[:-1] and not keyword.startswith((b"Raw profile type", b"Thumb::"))


def _read_jpeg(data: bytes, admit: Admission) -> Photo:
    size_bytes = len(data)
    data, left_out = jpeg.without_excess(data)
    if reason := jpeg.why_unreadable(data):
        raise not_an_image(reason)
    picture = JpegImagePlugin.JpegImageFile(BytesIO(data))
    admit(*picture.size)
    if jpeg.scan_count(data) * picture.width * picture.height > MAX_SCANNED_PX:
        raise ImagingError("image_too_large", "This JPEG has so many scans that it would take too long to decode.")
    settings, iptc = jpeg.settings_of(picture, data), jpeg.iptc_of(picture)
    info, mode = picture.info, picture.mode
    if jpeg.claims_too_much(data, picture):
        raise truncated_image("JPEG")
    loaded = jpeg_end.decode_without_end(data, picture) if jpeg_end.is_missing(data) else picture
    if loaded is None:
        raise truncated_image("JPEG")
    loaded.load()
    pixels = np.asarray(loaded) if mode == "CMYK" else _pixels_of(loaded)
    exif, icc = metadata.bare_exif(info.get("exif")), info.get("icc_profile")
    orientation = metadata.orientation_of(exif)
    source = Source(
        lossy=True,
        exif=exif,
        icc=icc,
        xmp=info.get("xmp"),
        iptc=iptc,
        dpi=metadata.plausible_dpi(info.get("dpi")),
        jpeg=settings,
        size_bytes=size_bytes,
        left_out=left_out,
    )
    pictures = jpeg.pictures_in(picture)
    notes: tuple[Note, ...] = (_first_page_note(pictures, "pictures"),) if pictures > 1 else ()
    notes += (_film_note(),) if metadata.has_film(source.xmp) else ()
    if mode == "CMYK":
        return _photo_of_inks("JPEG", pixels, source, notes, orientation)
    return assemble("JPEG", pixels, source, notes, orientation=orientation)


def _photo_of_inks(name: str, inks: np.ndarray, source: Source, notes: tuple[Note, ...], orientation: int) -> Photo:
    icc = metadata.profile_for(source.icc, "cmyk")
    source = replace(source, stored="cmyk", icc=icc, cmyk=turn_upright(inks, orientation))
    return assemble(name, jpeg.cmyk_to_rgb(inks, icc), source, notes, orientation=orientation)


def _read_webp(data: bytes, admit: Admission) -> Photo:
    parts = webp.parse(data)
    admit(parts.width_px, parts.height_px)
    read = webp.picture_alone(parts) if parts.left_out and not parts.animated else data
    with WebPImagePlugin.WebPImageFile(BytesIO(read)) as picture:
        frames = getattr(picture, "n_frames", 1)
        picture.load()
        pixels = _pixels_of(picture)
    exif = metadata.bare_exif(parts.metadata.get(b"EXIF"))
    source = Source(
        lossy=not parts.lossless,
        exif=exif,
        icc=parts.metadata.get(b"ICCP"),
        xmp=parts.metadata.get(b"XMP "),
        left_out=parts.left_out,
        size_bytes=len(data),
    )
    notes = (_first_frame_note(frames),) if frames > 1 else ()
    return assemble("WEBP", pixels, source, notes, orientation=metadata.orientation_of(exif))


def _read_tiff(data: bytes, admit: Admission) -> Photo:
    try:
        first = tiff_tags.read_directory(data)
    except ValueError as error:
        raise truncated_image("TIFF") from error
    left_out = False
    if tiff.is_raw(first):
        raise raw_file()
    if reason := tiff.why_unreadable(first):
        raise not_an_image(reason)
    admit(*tiff.largest_size(first), deep=max(first.numbers(tiff.BITS), default=8) > 8)
    tiff.check_strips(data, first)
    blobs: dict[int, bytes] = {}
    for entry in first.entries:
        if entry.tag in (tiff.XMP, tiff.IPTC, tiff.PHOTOSHOP, tiff.ICC):
            if len(entry.data) <= metadata.MAX_PROFILE_BYTES:
                blobs[entry.tag] = bytes(entry.data)
            else:
                left_out = True
    described = tuple({e.tag: e for e in first.entries if e.tag in metadata.DESCRIPTIVE_TAGS}.values())
    exif = None
    if metadata.value_bytes(described) > metadata.MAX_PROFILE_BYTES:
        left_out = True
    elif described:
        exif = tiff_tags.pack_block(tiff_tags.little_endian(described, first.order))
    iptc, record = blobs.get(tiff.PHOTOSHOP), blobs.get(tiff.IPTC)
    if iptc is None and record:
        iptc = b"8BIM" + struct.pack(">HHI", metadata.IPTC_RESOURCES[0], 0, len(record)) + record
    compression = first.number(tiff.COMPRESSION, tiff.NONE)
    source = Source(
        lossy=compression in (6, tiff.JPEG),
        exif=exif,
        icc=blobs.get(tiff.ICC),
        xmp=blobs.get(tiff.XMP),
        iptc=iptc,
        tiff=TiffSettings(compression, tiff.PLAIN_ALPHA),
        dpi=_tiff_dpi(first),
        size_bytes=len(data),
        left_out=left_out,
    )
    pages = len(tiff_pages.page_offsets(data, first))
    notes: tuple[Note, ...] = (_first_page_note(pages, "pages"),) if pages > 1 else ()
    notes += (_layers_note(),) if tiff.has_layers(first) else ()
    try:
        return _pixels_of_tiff(data, first, admit, source, notes)
    except ImagingError as error:
        if error.code != "truncated_image" or not (reason := tiff.unread_compression(first)):
            raise
        raise not_an_image(reason) from error
    except (OSError, SyntaxError) as error:
        if not (reason := tiff.unread_compression(first)):
            raise
        raise not_an_image(reason) from error


def _pixels_of_tiff(
    data: bytes, first: tiff_tags.Directory, admit: Admission, source: Source, notes: tuple[Note, ...]
) -> Photo:
    if tiff.is_deep(first):
        return _photo_of_tiff(first, tiff.decode_deep(data, first), source, notes)
    with _opened_tiff(data, first) as picture:
        admit(*picture.size)
        mode = picture.mode
        picture.load()
        if mode == "CMYK":
            spots = first.number(tiff.SAMPLES, 4) - 4
            notes += (_channels_note(spots),) if spots > 0 else ()
            notes += _fewer_bits_notes(max(first.numbers(tiff.BITS), default=8))
            return _photo_of_inks("TIFF", np.asarray(picture), source, notes, _tiff_orientation(first))
        if mode in ("1", "P", "PA"):
            notes += (_palette_note("one bit per pixel" if mode == "1" else "a palette"),)
            return assemble("TIFF", _pixels_of(picture), source, notes, orientation=_tiff_orientation(first))
        pixels = _pixels_of(picture)
        if first.numbers(tiff.BITS) == (12,):  # which become 16: full white stays so
            pixels = ((pixels.astype(np.uint32) * 65535 + 2047) // 4095).astype(np.uint16)
        return _photo_of_tiff(first, pixels, source, notes)


def _opened_tiff(data: bytes, first: tiff_tags.Directory) -> TiffImagePlugin.TiffImageFile:
    try:
        return TiffImagePlugin.TiffImageFile(BytesIO(tiff.bare_for_pillow(data, first)))
    except SyntaxError as error:
        if "unknown" not in str(error):
            raise
        raise not_an_image(tiff.unknown_channels(first)) from error


def _photo_of_tiff(first: tiff_tags.Directory, pixels: np.ndarray, source: Source, notes: tuple[Note, ...]) -> Photo:
    """Make a photo of (H, W, C) grey or RGB as stored; what is multiplied by its alpha is kept beside what is shown."""
    orientation = _tiff_orientation(first)
    left_out = first.number(tiff.SAMPLES, 1) - pixels.shape[2]
    if left_out > 0 and first.number(tiff.PHOTOMETRIC, 1) in (0, 1, 2):
        notes += (_channels_note(left_out),)
    if tiff.is_associated(first, pixels.shape[2]):
        stored = turn_upright(pixels[..., :-1], orientation)
        settings = TiffSettings(source.tiff.compression if source.tiff else tiff.NONE, tiff.ASSOCIATED)
        source = replace(source, premultiplied=stored, tiff=settings)
        pixels = tiff.straight(pixels)
    return assemble("TIFF", pixels, source, notes, orientation=orientation)


def _tiff_orientation(first: tiff_tags.Directory) -> int:
    value = first.number(metadata.ORIENTATION, 1)
    return value if 1 <= value <= 8 else 1


def _tiff_dpi(first: tiff_tags.Directory) -> tuple[float, float] | None:
    ratios = []
    for tag in (0x011A, 0x011B):
        data = next((e.data for e in first.entries if e.tag == tag and e.type == 5), bytes(8))
        numerator, denominator = struct.unpack(first.order + "II", data[:8])
        ratios.append(numerator / denominator if denominator else 0.0)
    per_inch = {2: 1.0, 3: 2.54}.get(first.number(0x0128, 2), 0.0)
    return metadata.plausible_dpi([ratio * per_inch for ratio in ratios])


def _read_bmp(data: bytes, admit: Admission) -> Photo:
    with _opened_bmp(data) as picture:
        admit(*picture.size)
        notes: tuple[Note, ...] = (_palette_note("a palette"),) if picture.mode == "P" else ()
        notes += (_palette_note("one bit per pixel"),) if picture.mode == "1" else ()
        picture.load()
        pixels, alpha = _pixels_of(picture), bmp.one_bit_alpha(data, *picture.size)
        source = Source(dpi=metadata.plausible_dpi(picture.info.get("dpi")), size_bytes=len(data))
        return assemble("BMP", pixels if alpha is None else np.dstack([pixels, alpha]), source, notes)


def _opened_bmp(data: bytes) -> BmpImagePlugin.BmpImageFile:
    try:
        return BmpImagePlugin.BmpImageFile(BytesIO(data))
    except OSError as error:
        if "Unsupported" not in str(error):
            raise
        raise not_an_image("this kind of BMP is not supported. Save it with 24 or 32 bits, or as PNG") from error


def _read_gif(data: bytes, admit: Admission) -> Photo:
    # The first frame may be larger than the screen the header speaks of, and Pillow then enlarges it.
    screen = struct.unpack_from("<HH", data, 6)
    admit(max(1, screen[0]), max(1, screen[1]))
    frame = gif.first_frame(data)
    with GifImagePlugin.GifImageFile(BytesIO(frame.data)) as picture:
        admit(*picture.size)
        picture.load()
        pixels = _pixels_of(picture)
        notes: tuple[Note, ...] = (_palette_note("a palette"),)
        if frame.is_animated:
            notes = (_first_frame_note(None), *notes)
    return assemble("GIF", pixels, Source(size_bytes=len(data)), notes)


def _read_avif(data: bytes, admit: Admission) -> Photo:
    with _opened_avif(data) as picture:
        admit(*picture.size)
        frames = getattr(picture, "n_frames", 1)
        picture.load()
        info, pixels = picture.info, _pixels_of(picture)
    # The container's own rotation, which Pillow reports as EXIF orientation and does not apply.
    exif = metadata.bare_exif(info.get("exif"))
    box = data.find(b"av1C")
    flags = data[box + 6] if 0 <= box < len(data) - 6 else 0x0C
    bits = (8, 8, 10, 12)[flags >> 5 & 3]
    subsampling = AVIF_SUBSAMPLING.get((flags >> 3 & 1, flags >> 2 & 1), "4:2:0")
    source = Source(
        lossy=True,
        exif=exif,
        icc=info.get("icc_profile"),
        xmp=info.get("xmp"),
        avif_subsampling="4:0:0" if flags & 0x10 else subsampling,
        colour_code=_colour_code(data),
        size_bytes=len(data),
    )
    if flags & 0x10:
        pixels = pixels[..., [0, 3] if pixels.shape[2] == 4 else [0]] if pixels.shape[2] >= 3 else pixels
    notes = ((_first_frame_note(frames),) if frames > 1 else ()) + _fewer_bits_notes(bits)
    return assemble("AVIF", pixels, source, notes, orientation=metadata.orientation_of(exif))


def _opened_avif(data: bytes) -> AvifImagePlugin.AvifImageFile:
    try:
        return AvifImagePlugin.AvifImageFile(BytesIO(data))
    except Exception:  # Pillow passes on whatever comes up as it packs EXIF: struct.error, TypeError, KeyError, ...
        if (bare := avif.without_exif(data)) == data:
            raise
        return AvifImagePlugin.AvifImageFile(BytesIO(bare))


def _colour_code(data: bytes) -> tuple[int, int] | None:
    """Return which colours and curve the values of an AVIF or HEIC stand for, as numbers; None for the usual ones."""
    at = data.find(COLOUR_BOX) + len(COLOUR_BOX)
    if at < len(COLOUR_BOX) or at + 4 > len(data):
        return None
    colours, curve = struct.unpack_from(">HH", data, at)
    return (colours, curve) if (colours, curve) not in USUAL_COLOURS and max(colours, curve) < 256 else None


def _read_heic(data: bytes, admit: Admission) -> Photo:
    width_px, height_px = heic.stated_size(data)
    admit(width_px, height_px)
    parts = heic.decode(data, max_px=width_px * height_px)
    if parts.pixels is None:  # larger than it states
        raise truncated_image("HEIC")
    # The decoder has turned the picture as the container says; the EXIF orientation beside it is not to be applied.
    source = Source(
        lossy=True,
        exif=metadata.bare_exif(parts.metadata.get("exif")),
        icc=parts.metadata.get("icc_profile"),
        xmp=parts.metadata.get("xmp"),
        colour_code=_colour_code(data),
        size_bytes=len(data),
    )
    notes = (_first_page_note(parts.images, "pictures"),) if parts.images > 1 else ()
    return assemble("HEIC", parts.pixels.copy(), source, notes + _fewer_bits_notes(heic.stated_bits(data)))


READERS: dict[str, Callable[[bytes, Admission], Photo]] = {
    "PNG": _read_png,
    "JPEG": _read_jpeg,
    "WEBP": _read_webp,
    "TIFF": _read_tiff,
    "BMP": _read_bmp,
    "GIF": _read_gif,
    "AVIF": _read_avif,
    "HEIC": _read_heic,
}
