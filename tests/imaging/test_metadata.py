"""What travels with a photo: upright EXIF, profiles, resolution; but never a picture of what was erased."""

import io
import struct
import zlib
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin

from imaging import encode_photo, open_photo
from tests.support.imaging_files import noise

DATA = Path(__file__).parents[1] / "data"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" xmp:Rating="4"/></x:xmpmeta>'
# How a picture must be stored so that this orientation shows it upright: the inverse of the orientation's own turn.
STORED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def exif_of(data: bytes) -> Image.Exif:
    with Image.open(io.BytesIO(data)) as picture:
        return picture.getexif()


def smooth() -> np.ndarray:
    return np.array(Image.open(DATA / "flower.png"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_applied_and_reset(orientation: int, format: str) -> None:
    """One in eight phone photos came back lying on its side in an older tool."""
    upright = smooth()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    exif.get_ifd(0x8769)[0xA002], exif.get_ifd(0x8769)[0xA003] = 1, 2
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format in ("JPEG", "AVIF") else {}
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    photo = open_photo(saved(stored, format, exif=exif, **options))
    assert photo.image.shape == upright.shape
    assert np.abs(photo.image.astype(int) - upright).mean() < (4 if format in ("JPEG", "AVIF") else 0.001)
    written = encode_photo(photo).data
    again = exif_of(written)
    assert again.get(0x0112, 1) == 1 and again[0x010F] == "Maker"
    assert np.abs(open_photo(written).image.astype(int) - upright).mean() < 6
    inner = again.get_ifd(0x8769)
    if format in ("JPEG", "PNG", "WEBP"):
        assert (inner[0xA002], inner[0xA003]) == (upright.shape[1], upright.shape[0])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_tiff_is_turned_too(orientation: int) -> None:
    upright = smooth().astype(np.uint16) * 257
    grey = np.ascontiguousarray(STORED[orientation](upright)[..., 0])
    data = saved(Image.fromarray(grey), "TIFF", tiffinfo={0x0112: orientation})
    assert (open_photo(data).image[..., 0] == upright[..., 0]).all()


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_senseless_orientation_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert open_photo(saved(Image.fromarray(smooth()), "PNG", exif=exif)).image.shape == smooth().shape


def exif_with_thumbnail(order: str, maker_note: bytes) -> tuple[bytes, bytes]:
    """Build an EXIF block by hand: make, orientation, a maker's note, then a second directory with a JPEG thumbnail."""
    thumbnail = saved(Image.fromarray(smooth()[:40, :60]), "JPEG", quality=60)
    mark = b"II*\0" if order == "<" else b"MM\0*"

    def entry(tag: int, kind: int, count: int, value: int, code: str = "I") -> bytes:
        return struct.pack(order + "HHI", tag, kind, count) + struct.pack(order + code, value).ljust(4, b"\0")

    exif_at = 8 + 2 + 3 * 12 + 4 + 6
    note_at = exif_at + 2 + 12 + 4
    ifd1_at = note_at + len(maker_note)
    block = mark + struct.pack(order + "I", 8) + struct.pack(order + "H", 3)
    block += entry(0x010F, 2, 6, exif_at - 6) + entry(0x0112, 3, 1, 6, "H") + entry(0x8769, 4, 1, exif_at)
    block += struct.pack(order + "I", ifd1_at) + b"Maker\0"
    block += struct.pack(order + "H", 1) + entry(0x927C, 7, len(maker_note), note_at) + bytes(4) + maker_note
    block += struct.pack(order + "H", 2) + entry(0x0201, 4, 1, ifd1_at + 2 + 24 + 4)
    return block + entry(0x0202, 4, 1, len(thumbnail)) + bytes(4) + thumbnail, thumbnail


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_no_thumbnail_of_the_unrepaired_photo_is_left(format: str, order: str) -> None:
    """A thumbnail or a maker's preview would still show what was erased."""
    preview = saved(Image.fromarray(smooth()[40:80, :60]), "JPEG", quality=50)
    block, thumbnail = exif_with_thumbnail(order, b"NOTE" + preview + b"TAIL")
    data = saved(Image.fromarray(smooth()), format, exif=b"Exif\0\0" + block)
    assert thumbnail[20:200] in data and preview[20:200] in data
    written = encode_photo(open_photo(data)).data
    assert thumbnail[20:60] not in written and preview[20:60] not in written
    again = exif_of(written)
    assert again[0x010F] == "Maker" and again.get(0x0112, 1) == 1
    note = again.get_ifd(0x8769)[0x927C]
    assert note.startswith(b"NOTE") and note.endswith(b"TAIL") and len(note) == 8 + len(preview)


def test_uncompressed_thumbnail_in_the_middle_is_blanked() -> None:
    """It cannot be cut off with the end of the block, and no JPEG mark gives it away."""
    secret = b"rows of an unrepaired thumbnail"
    second_at, make_at = 8 + 2 + 12 + 4, 8 + 2 + 12 + 4 + 2 + 24 + 4 + len(secret)
    block = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x010F, 2, 6, make_at, second_at)
    strip = struct.pack("<HHIIHHII", 0x0111, 4, 1, make_at - len(secret), 0x0117, 4, 1, len(secret))
    block += struct.pack("<H", 2) + strip + bytes(4) + secret + b"Maker\0"
    written = encode_photo(open_photo(saved(Image.fromarray(smooth()), "PNG", exif=block))).data
    assert secret not in written and exif_of(written)[0x010F] == "Maker"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_profile_exif_and_xmp_come_along(format: str) -> None:
    exif = Image.Exif()
    exif[0x013B], exif[0x8298] = "Ann Author", "(c) Ann"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8825)[1] = "N"
    xmp: dict[str, object] = (
        {"tiffinfo": {700: XMP, 0x013B: "Ann Author", 0x8298: "(c) Ann"}} if format == "TIFF" else {"xmp": XMP}
    )
    if format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode(), zip=True)
        xmp = {"pnginfo": text}
    data = saved(Image.fromarray(smooth()), format, icc_profile=SRGB, exif=exif, **xmp)
    written = encode_photo(open_photo(data)).data
    with Image.open(io.BytesIO(written)) as after:
        again = after.getexif()
        kept = after.info.get("xmp") or after.info.get("XML:com.adobe.xmp", "").encode()
        assert after.info["icc_profile"] == SRGB
    assert again[0x013B] == "Ann Author" and again[0x8298] == "(c) Ann"
    if format != "TIFF":  # Pillow's writer keeps these two out of its own TIFF files
        assert again.get_ifd(0x8769)[0x9003] == "2024:05:06 07:08:09" and again.get_ifd(0x8825)[1] == "N"
    assert b'xmp:Rating="4"' in kept and b'tiff:Orientation="1"' in kept


@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp", "tiff", "avif"])
def test_metadata_comes_along_into_another_format(wanted: str) -> None:
    photo = open_photo((DATA / "pier.jpg").read_bytes())
    with Image.open(io.BytesIO(encode_photo(photo, format=wanted).data)) as after:
        assert after.getexif()[0x010F] == "Test Camera" and after.info["icc_profile"] == photo.source.icc
        assert after.getexif().get_ifd(0x8769).get(0x9003) or wanted != "tiff"


def test_tiff_keeps_its_exif_directory() -> None:
    tiff = encode_photo(open_photo((DATA / "flower.heic").read_bytes()), format="tiff").data
    block, _ = exif_with_thumbnail(">", b"A longer NOTE")
    data = encode_photo(open_photo(saved(Image.fromarray(smooth()), "PNG", exif=block)), format="tiff").data
    for _ in range(2):
        assert exif_of(data)[0x010F] == "Maker" and exif_of(data).get_ifd(0x8769)[0x927C] == b"A longer NOTE"
        data = encode_photo(open_photo(data)).data
    assert exif_of(tiff)[0x010F] == "Test Phone"


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_where_a_tiff_lies_on_the_earth_is_kept(byteorder: Literal["<", ">"]) -> None:
    """An aerial photo came back without its place, and no word said so."""
    tags: list[tuple[int, str, int, object, bool]] = [
        (33550, "d", 3, (0.25, 0.25, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 500000.5, 5400000.25, 0.0), True),
        (34735, "H", 8, (1, 1, 0, 1, 1024, 0, 1, 1), True),
        (34736, "d", 1, (6378137.0,), True),
        (34737, "s", 0, "WGS 84 / UTM zone 32N|", True),
        (42113, "s", 0, "0", True),
    ]
    file = io.BytesIO()
    tifffile.imwrite(file, noise(20, 30, 3), photometric="rgb", byteorder=byteorder, extratags=tags, metadata=None)
    with tifffile.TiffFile(io.BytesIO(encode_photo(open_photo(file.getvalue())).data)) as after:
        kept = after.pages[0].aspage().tags
        for number, _, _, value, _ in tags:
            told = kept[number].value
            assert (told if isinstance(told, str | tuple) else (told,)) == value


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_resolution_is_kept(format: str) -> None:
    data = saved(Image.fromarray(smooth()), format, dpi=(240, 200))
    with Image.open(io.BytesIO(encode_photo(open_photo(data)).data)) as after:
        assert after.info["dpi"] == pytest.approx((240, 200), abs=0.1)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_resolution_is_turned_with_the_photo(format: str, orientation: int) -> None:
    """A fax of 204 by 98 dots that was turned upright came back squeezed."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A], exif[0x011B], exif[0x0128] = orientation, 240.0, 200.0, 2
    told = {"tiffinfo": {0x0112: orientation}} if format == "TIFF" else {"exif": exif}
    data = saved(Image.fromarray(smooth()), format, dpi=(240, 200), **told)
    expected = (200, 240) if orientation == 6 else (240, 200)
    for wanted in ("original", "png", "jpeg", "tiff"):
        with Image.open(io.BytesIO(encode_photo(open_photo(data), format=wanted).data)) as after:
            assert after.info["dpi"] == pytest.approx(expected, abs=0.1)
            if format != "TIFF" and wanted != "tiff":
                assert (after.getexif()[0x011A], after.getexif()[0x011B]) == expected


def test_resolution_of_a_bmp_with_alpha_is_kept() -> None:
    data = bytearray(cv2.imencode(".bmp", noise(20, 30, 4))[1].tobytes())
    struct.pack_into("<II", data, 38, 9449, 7874)  # pixels per metre
    encoded = encode_photo(open_photo(bytes(data)))
    assert struct.unpack_from("<II", encoded.data, 38) == (9449, 7874)
    assert np.array_equal(open_photo(encoded.data).image, open_photo(bytes(data)).image)


def test_png_text_and_colour_chunks_are_kept_but_raw_profiles_are_not() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "A pier", zip=True)
    text.add_text("Raw profile type exif", "00ff", zip=True)
    text.add(b"gAMA", struct.pack(">I", 45455))
    written = encode_photo(open_photo(saved(Image.fromarray(smooth()), "PNG", pnginfo=text))).data
    with Image.open(io.BytesIO(written)) as after:
        assert isinstance(after, PngImagePlugin.PngImageFile)
        assert after.text == {"Title": "A pier"} and after.info["gamma"] == pytest.approx(0.45455)


def test_jpeg_keeps_comment_and_caption_but_no_photoshop_thumbnail() -> None:
    def resource(kind: int, body: bytes) -> bytes:
        return b"8BIM" + struct.pack(">HHI", kind, 0, len(body)) + body + b"\0" * (len(body) % 2)

    secret = b"stale preview" * 20
    iptc = b"Photoshop 3.0\0" + resource(0x040C, secret) + resource(0x0404, b"\x1c\x02\x78\0\4pier")
    extra = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    data = saved(Image.fromarray(smooth()), "JPEG", comment=b"hello", extra=extra)
    assert secret in data
    written = encode_photo(open_photo(data)).data
    with Image.open(io.BytesIO(written)) as after:
        assert after.info["comment"] == b"hello" and b"pier" in after.info["photoshop"][0x0404]
    assert secret not in written


def test_profile_of_other_colours_is_not_written() -> None:
    """An RGB profile on a grey file makes viewers refuse it."""
    grey = Image.fromarray(smooth()).convert("L")
    data = encode_photo(open_photo(saved(grey, "PNG", icc_profile=SRGB))).data
    assert b"iCCP" not in data


def test_packed_text_is_never_unpacked() -> None:
    """A text chunk that grows a thousandfold passes through as it is; Pillow alone would refuse the file."""
    bomb = zlib.compress(bytes(50_000_000), 9)
    plain = saved(Image.fromarray(smooth()), "PNG")
    body = b"zTXt" + b"Comment\0\0" + bomb
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    written = encode_photo(open_photo(plain[:33] + chunk + plain[33:])).data
    assert bomb in written


@pytest.mark.parametrize(
    ("told", "is_film"),
    [
        (b'<rdf:Description GCamera:MotionPhoto="1" GCamera:MotionPhotoVersion="1"/>', True),
        (b"<rdf:Description><GCamera:MicroVideo>1</GCamera:MicroVideo></rdf:Description>", True),
        (b'<rdf:Description GCamera:MotionPhoto="0"/>', False),
        (b'<rdf:Description xmp:Rating="1"/>', False),
    ],
)
def test_a_film_behind_a_photo_is_spoken_of(told: bytes, is_film: bool) -> None:
    data = saved(Image.fromarray(smooth()), "JPEG", xmp=b"<x:xmpmeta>" + told + b"</x:xmpmeta>") + b"film" * 1000
    photo = open_photo(data)
    assert [note.code for note in photo.notes] == ["film_left_out"] * is_film
    assert open_photo(encode_photo(photo).data).notes == ()


def test_photo_that_points_at_an_appended_film_loses_the_pointer() -> None:
    xmp = b'<x:xmpmeta><rdf:Description GCamera:MicroVideoOffset="12345"/></x:xmpmeta>'
    data = saved(Image.fromarray(smooth()), "JPEG", xmp=xmp) + b"film" * 1000
    written = encode_photo(open_photo(data)).data
    assert b"GCamera" not in written and b"filmfilm" not in written
