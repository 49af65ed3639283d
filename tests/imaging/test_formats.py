"""Photos come back in their own format, with every pixel outside the repair as it was; checked with others' readers."""

import contextlib
import io
import struct
import zlib
from dataclasses import replace
from typing import Any, Literal

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from imaging import FORMATS, ImagingError, decode_png, encode_photo, encode_png, encode_preview, open_photo
from imaging.jpeg import MOST_HUFFMAN_TABLES, _huffman_tables
from tests.support.imaging_files import (
    BOX,
    DATA,
    codes,
    decoded_by_opencv,
    noise,
    raw_png,
    repaired,
    saved,
    smooth,
    unfiltered_png,
)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_png_of_every_kind_is_exact_outside_the_repair(colour_type: int, channels: int, depth: int) -> None:
    pixels = noise(37, 41, channels, depth=depth)
    photo = open_photo(raw_png(pixels, colour_type, depth))
    assert photo.format == "PNG" and photo.image.dtype == pixels.dtype and photo.notes == ()
    assert (photo.image == (pixels[..., :3] if channels > 2 else pixels[..., :1])).all()
    encoded = encode_photo(photo, repaired(photo))
    written = unfiltered_png(encoded.data)
    assert (encoded.media_type, encoded.extension, encoded.notes) == ("image/png", ".png", ())
    assert written.shape == pixels.shape and written.dtype == pixels.dtype
    outside = np.ones((37, 41), bool)
    outside[BOX] = False
    assert (written[outside] == pixels[outside]).all()
    assert (written[BOX] != pixels[BOX]).any()
    if channels in (2, 4):
        assert photo.alpha is not None and (photo.alpha == pixels[..., -1]).all()
        assert (written[..., -1] == pixels[..., -1]).all()


def test_interlaced_16_bit_png_is_read_exactly() -> None:
    pixels = noise(11, 13, 3, depth=16)
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = [row for x, y, dx, dy in passes for row in pixels[y::dy, x::dx] if row.size]
    stream = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in rows))
    plain = raw_png(pixels, 2, 16)
    header = struct.pack(">IIBBBBB", 13, 11, 16, 2, 0, 0, 1)
    data = plain[:8]
    for kind, body in ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    assert (open_photo(data).image == pixels).all()


@pytest.mark.parametrize("depth", [8, 16])
def test_png_transparent_colour_becomes_alpha(depth: int) -> None:
    pixels = noise(12, 34, 3, depth=depth)
    pixels[3, 4] = pixels[5, 6] = (1, 2, 3)
    photo = open_photo(raw_png(pixels, 2, depth, (b"tRNS", struct.pack(">HHH", 1, 2, 3))))
    assert photo.alpha is not None and np.argwhere(photo.alpha == 0).tolist() == [[3, 4], [5, 6]]


def test_palette_png_keeps_its_colours_and_says_so() -> None:
    picture = Image.fromarray(smooth(40, 50)).quantize(37)
    expected = np.array(picture.convert("RGB"))
    photo = open_photo(saved(picture, "PNG"))
    assert codes(photo.notes) == ["palette_converted"] and photo.alpha is None
    assert (photo.image == expected).all()
    clear = open_photo(saved(picture, "PNG", transparency=5))
    assert clear.alpha is not None and ((clear.alpha == 0) == (np.array(picture) == 5)).all()
    assert unfiltered_png(encode_photo(clear).data).shape == (40, 50, 4)


def test_one_bit_png_becomes_grey() -> None:
    bits = noise(20, 33) > 127
    photo = open_photo(saved(Image.fromarray(bits), "PNG"))
    assert codes(photo.notes) == ["palette_converted"]
    written = unfiltered_png(encode_photo(photo).data)
    assert written.shape == (20, 33, 1) and (written[..., 0] == bits * 255).all()


def test_animated_png_gives_its_first_frame() -> None:
    frames = [Image.fromarray(noise(9, 9, 3, seed=seed)) for seed in range(3)]
    photo = open_photo(saved(frames[0], "PNG", save_all=True, append_images=frames[1:]))
    assert codes(photo.notes) == ["animated_first_frame"] and (photo.image == np.array(frames[0])).all()


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_keeps_tables_subsampling_and_progression(subsampling: int, progressive: bool) -> None:
    data = saved(Image.fromarray(smooth(90, 120)), "JPEG", quality=73, subsampling=subsampling, progressive=progressive)
    photo = open_photo(data)
    encoded = encode_photo(photo, repaired(photo))
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(encoded.data)) as after:
        assert isinstance(before, JpegImageFile) and isinstance(after, JpegImageFile)
        assert after.quantization == before.quantization and after.layer == before.layer
        assert bool(after.info.get("progressive")) is progressive
    assert codes(encoded.notes) == ["not_exact"] and len(encoded.data) < 1.5 * len(data)


def test_jpeg_saved_again_is_nearly_the_same_and_no_larger() -> None:
    data = (DATA / "pier.jpg").read_bytes()
    photo = open_photo(data)
    encoded = encode_photo(photo)
    again = decoded_by_opencv(encoded.data)
    assert np.abs(again.astype(int) - photo.image).mean() < 0.5 and len(encoded.data) < 1.05 * len(data)


def test_jpeg_of_noise_with_finest_tables_is_still_written() -> None:
    """Pillow guesses the buffer for optimised files and fails on noise; the plain encoding is the way out."""
    data = saved(Image.fromarray(noise(200, 200, 3)), "JPEG", quality=100, subsampling=0)
    photo = open_photo(data)
    assert photo.source.jpeg is not None
    for optimized in (False, True):
        jpeg = replace(photo.source.jpeg, optimized=optimized)
        again = replace(photo, source=replace(photo.source, jpeg=jpeg))
        assert open_photo(encode_photo(again).data).image.shape == (200, 200, 3)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
def test_jpeg_keeps_its_kind_of_huffman_tables(options: dict[str, bool], mode: str) -> None:
    """Every file was given tables of its own, which takes a second pass: 14 ms instead of 6 for 2 megapixels."""
    data = saved(Image.fromarray(smooth(90, 120)).convert(mode), "JPEG", quality=80, **options)
    photo = open_photo(data)
    assert photo.source.jpeg is not None and photo.source.jpeg.optimized is bool(options)
    again = open_photo(encode_photo(photo, repaired(photo)).data)
    assert again.source.jpeg is not None and again.source.jpeg.optimized is bool(options)


def test_others_run_while_a_jpeg_is_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow keeps the interpreter's lock while it encodes into a file that has no descriptor."""
    with_descriptor: list[bool] = []
    save = Image.Image.save

    def noted(picture: Image.Image, file: Any, *arguments: Any, **options: Any) -> None:
        with_descriptor.append(not isinstance(file, io.BytesIO) and file.fileno() >= 0)
        save(picture, file, *arguments, **options)

    photo = open_photo(saved(Image.fromarray(smooth(40, 40)), "JPEG"))
    monkeypatch.setattr(Image.Image, "save", noted)
    encode_photo(photo)
    encode_preview(photo.image, max_px=20, format="jpeg")
    assert with_descriptor == [True, True]


def test_grey_jpeg_stays_grey() -> None:
    photo = open_photo(saved(Image.fromarray(smooth(40, 40)).convert("L"), "JPEG"))
    with Image.open(io.BytesIO(encode_photo(photo, repaired(photo)).data)) as after:
        assert after.mode == "L"


def test_rgb_jpeg_without_colour_transform_stays_so() -> None:
    photo = open_photo(saved(Image.fromarray(smooth(40, 40)), "JPEG", keep_rgb=True, quality=90))
    data = encode_photo(photo).data
    assert np.abs(open_photo(data).image.astype(int) - photo.image).mean() < 1
    with Image.open(io.BytesIO(data)) as after:
        assert after.info["adobe_transform"] == 0


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_keeps_its_inks_outside_the_repair(format: str) -> None:
    black = Image.fromarray(smooth(64, 80)[..., 0] // 5)
    inks = Image.merge("CMYK", (*Image.fromarray(smooth(64, 80)).convert("CMYK").split()[:3], black))
    photo = open_photo(saved(inks, format, **({"quality": 95} if format == "JPEG" else {})))
    assert np.abs(photo.image.astype(int) - np.array(inks.convert("RGB"))).mean() < 5
    image = photo.image.copy()
    image[BOX] = (250, 10, 10)
    encoded = encode_photo(photo, image)
    assert codes(encoded.notes) == ["not_exact"]
    with Image.open(io.BytesIO(encoded.data)) as after:
        assert after.mode == "CMYK"
        written = np.array(after)
        assert np.abs(np.array(after.convert("RGB"))[12:16, 14:26].astype(int) - (250, 10, 10)).max() < 25
    if format == "TIFF":
        outside = np.ones((64, 80), bool)
        outside[BOX] = False
        assert (written[outside] == np.array(inks)[outside]).all()


@pytest.mark.parametrize("alpha", [False, True])
def test_lossless_webp_stays_lossless(alpha: bool) -> None:
    pixels = noise(40, 50, 4 if alpha else 3)
    data = saved(Image.fromarray(pixels), "WEBP", lossless=True, exact=True)
    photo = open_photo(data)
    encoded = encode_photo(photo, repaired(photo))
    written = decoded_by_opencv(encoded.data)
    outside = np.ones((40, 50), bool)
    outside[BOX] = False
    assert b"VP8L" in encoded.data[:64] and encoded.notes == () and (written[outside] == pixels[outside]).all()


@pytest.mark.parametrize(
    ("format", "quality"),
    [("WEBP", 60), ("WEBP", 80), ("WEBP", 95), ("WEBP", 100), ("AVIF", 65), ("AVIF", 80), ("AVIF", 95), ("AVIF", 100)],
)
def test_lossy_photos_come_back_at_a_fitting_quality(format: str, quality: int) -> None:
    pixels = np.dstack([smooth(192, 256), noise(192, 256)])
    pixels[8:, :, 3] = 255
    photo = open_photo(saved(Image.fromarray(pixels), format, quality=quality))
    encoded = encode_photo(photo)
    assert codes(encoded.notes) == ["not_exact"] and 0.8 < len(encoded.data) / photo.source.size_bytes < 1.5
    again = open_photo(encoded.data)
    assert again.alpha is not None and photo.alpha is not None and np.array_equal(again.alpha, photo.alpha)
    assert np.abs(again.image[8:].astype(int) - photo.image[8:]).mean() < (1.8 if quality > 90 else 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "AVIF"])
def test_only_the_first_of_several_frames_is_used(format: str) -> None:
    frames = [Image.fromarray(np.full((24, 32, 3), value, np.uint8)) for value in (200, 10, 90)]
    photo = open_photo(saved(frames[0], format, save_all=True, append_images=frames[1:]))
    code = "first_page_only" if format == "TIFF" else "animated_first_frame"
    assert code in codes(photo.notes) and abs(int(photo.image.mean()) - 200) < 4
    assert encode_photo(photo).extension == {"GIF": ".png", "WEBP": ".webp", "TIFF": ".tif", "AVIF": ".avif"}[format]


def with_index(entries: list[int], order: Literal["<", ">"] = "<") -> bytes:
    """A JPEG with the list of its pictures' kinds, as cameras and phones write it (CIPA DC-007); no others follow."""
    marks = {"<": b"II*\0", ">": b"MM\0*"}[order]
    rows = b"".join(struct.pack(f"{order}LLLHH", kind, 0, 0, 0, 0) for kind in entries)
    fields = struct.pack(f"{order}HHL4s", 0xB000, 7, 4, b"0100") + struct.pack(
        f"{order}HHLL", 0xB001, 4, 1, len(entries)
    )
    fields += struct.pack(f"{order}HHLL", 0xB002, 7, len(rows), 50)
    body = b"MPF\0" + marks + struct.pack(f"{order}LH", 8, 3) + fields + struct.pack(f"{order}L", 0) + rows
    plain = saved(Image.fromarray(smooth(24, 32)), "JPEG")
    return plain[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + plain[2:]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kinds", "count"),
    [
        ([0x030000, 0x020003], 2),  # two eyes
        ([0x20030000, 0x000000, 0x000000], 3),  # what screens with high dynamic range add
        ([0x030000, 0x010001, 0x010002], 1),  # previews
        ([0x030000], 1),
    ],
)
def test_other_pictures_of_a_jpeg_are_told(kinds: list[int], count: int, order: Literal["<", ">"]) -> None:
    data = with_index(kinds, order)
    notes = open_photo(data).notes
    assert [(note.code, note.params["count"]) for note in notes] == ([("first_page_only", count)] if count > 1 else [])
    for end in range(30, 100):  # a damaged list
        damaged = bytearray(data)
        damaged[end : end + 4] = b"\xff" * 4
        with contextlib.suppress(ImagingError):
            assert open_photo(bytes(damaged)).image.shape == (24, 32, 3)


def test_pictures_that_pillow_writes_into_a_jpeg_are_told() -> None:
    first, second = (Image.fromarray(np.full((24, 32, 3), value, np.uint8)) for value in (200, 10))
    photo = open_photo(saved(first, "MPO", save_all=True, append_images=[second]))
    assert codes(photo.notes) == ["first_page_only"] and abs(int(photo.image.mean()) - 200) < 4
    assert codes(open_photo(encode_photo(photo).data).notes) == []


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bmp_is_exact(channels: int) -> None:
    pixels = noise(21, 31, channels)
    written_by_opencv = cv2.imencode(".bmp", pixels[..., [2, 1, 0, 3][:channels]] if channels > 1 else pixels)[
        1
    ].tobytes()
    photo = open_photo(written_by_opencv)
    encoded = encode_photo(photo)
    assert encoded.extension == ".bmp" and encoded.notes == ()
    assert (photo.image == pixels[..., :3]).all()
    assert (np.array(Image.open(io.BytesIO(encoded.data))).reshape(pixels.shape) == pixels).all()


@pytest.mark.parametrize("top_down", [False, True])
def test_bmp_of_16_bits_keeps_the_alpha_of_one(top_down: bool) -> None:
    """What was transparent came back black."""
    values = noise(30, 45, depth=16)
    masks = struct.pack("<4I", 0x7C00, 0x3E0, 0x1F, 0x8000)
    header = struct.pack("<IiiHHIIiiII", 56, 45, -30 if top_down else 30, 1, 16, 3, 30 * 92, 0, 0, 0, 0) + masks
    rows = np.pad(values, ((0, 0), (0, 1)))[:: 1 if top_down else -1].astype("<u2").tobytes()
    photo = open_photo(b"BM" + struct.pack("<IHHI", 70 + len(rows), 0, 0, 70) + header + rows)
    assert photo.alpha is not None and np.array_equal(photo.alpha, np.where(values >> 15, 255, 0))
    five_bits = np.dstack([values >> 10 & 31, values >> 5 & 31, values & 31])
    assert np.abs(photo.image - five_bits * (255 / 31)).max() <= 1
    image = repaired(photo)
    written = decoded_by_opencv(encode_photo(photo, image).data)
    assert np.array_equal(written, np.dstack([image, photo.alpha]))
    unset = np.pad(values & 0x7FFF, ((0, 0), (0, 1))).astype("<u2").tobytes()
    assert open_photo(b"BM" + struct.pack("<IHHI", 70 + len(rows), 0, 0, 70) + header + unset).alpha is None


@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_avif_comes_back_as_avif(subsampling: str) -> None:
    pixels = np.dstack([smooth(64, 96), noise(64, 96)])
    data = saved(Image.fromarray(pixels), "AVIF", quality=80, subsampling=subsampling)
    photo = open_photo(data)
    encoded = encode_photo(photo)
    assert encoded.extension == ".avif" and codes(encoded.notes) == ["not_exact"]
    assert np.abs(open_photo(encoded.data).image.astype(int) - photo.image).mean() < 4
    assert photo.source.avif_subsampling == open_photo(encoded.data).source.avif_subsampling == subsampling


@pytest.mark.parametrize(("colours", "curve"), [(9, 16), (12, 13)])
@pytest.mark.parametrize("alpha", [False, True])
def test_avif_keeps_what_its_colours_are(colours: int, curve: int, alpha: bool) -> None:
    """The colours of a photo for HDR screens came back as those of sRGB, washed out all over."""
    data = bytearray(saved(Image.fromarray(noise(64, 96, 4 if alpha else 3)), "AVIF"))
    at = data.index(b"nclx") + 4
    assert struct.unpack_from(">HH", data, at) == (1, 13)
    struct.pack_into(">HH", data, at, colours, curve)
    photo = open_photo(bytes(data))
    written = encode_photo(photo).data
    assert struct.unpack_from(">HH", written, written.index(b"nclx") + 4) == (colours, curve)
    assert open_photo(written).image.shape == photo.image.shape
    png = encode_photo(photo, format="png").data
    assert png[png.index(b"cICP") + 4 :].startswith(bytes([colours, curve, 0, 1]))


def test_more_than_8_bits_of_an_avif_or_heic_are_spoken_of() -> None:
    deep = cv2.imencode(".avif", noise(64, 64, 3, depth=10), [cv2.IMWRITE_AVIF_DEPTH, 10])[1].tobytes()
    assert [(note.code, note.params) for note in open_photo(deep).notes] == [("fewer_bits", {"bits": 10})]
    data = bytearray((DATA / "flower.heic").read_bytes())
    assert open_photo(bytes(data)).notes == ()
    at = data.index(b"hvcC") + 21
    data[at] |= 2
    assert [(note.code, note.params) for note in open_photo(bytes(data)).notes] == [("fewer_bits", {"bits": 10})]


def test_heic_is_upright_and_saved_as_jpeg() -> None:
    photo = open_photo((DATA / "flower.heic").read_bytes())
    upright = np.array(Image.open(DATA / "flower.png"))
    assert photo.format == "HEIC" and np.abs(photo.image.astype(int) - upright).mean() < 8
    encoded = encode_photo(photo)
    assert codes(encoded.notes) == ["heic_saved_as", "not_exact"] and encoded.extension == ".jpg"
    with Image.open(io.BytesIO(encoded.data)) as after:
        assert after.getexif()[0x010F] == "Test Phone" and after.getexif().get(0x0112, 1) == 1
        assert after.info["icc_profile"]


@pytest.mark.parametrize("format", ["png", "jpeg", "WebP", "tif", "bmp", "avif"])
def test_any_photo_can_be_saved_in_another_format(format: str) -> None:
    photo = open_photo(raw_png(noise(30, 40, 4, depth=16) | 0x8000, 6, 16))
    again = open_photo(encode_photo(photo, format=format).data)
    assert again.image.shape == (30, 40, 3)
    assert (again.alpha is None) == (format == "jpeg")
    assert (again.image.dtype == np.uint16) == (format in ("png", "tif"))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("fast", [False, True])
def test_patches_survive_their_trip_exactly(depth: int, fast: bool) -> None:
    pixels = noise(33, 55, 3, depth=depth)
    data = encode_png(pixels, fast=fast)
    assert (unfiltered_png(data) == pixels).all()
    assert (decode_png(data) == pixels).all() and decode_png(data).dtype == pixels.dtype


@pytest.mark.parametrize("format", ["webp", "jpeg", "png"])
def test_preview_fits_the_asked_size(format: str) -> None:
    image = open_photo((DATA / "pier.jpg").read_bytes()).image
    for pixels in (image, image.astype(np.uint16) * 257):
        with Image.open(io.BytesIO(encode_preview(pixels, max_px=100, format=format))) as preview:
            assert preview.size == (100, 75) and preview.format == format.upper()
            expected = cv2.resize(image, (100, 75), interpolation=cv2.INTER_AREA).astype(int)
            assert np.abs(np.array(preview.convert("RGB")) - expected).mean() < 6
    with Image.open(io.BytesIO(encode_preview(image, max_px=None, format=format))) as whole:
        assert whole.size == (512, 384)


def test_encoding_changes_neither_photo_nor_image() -> None:
    photo = open_photo((DATA / "flower.png").read_bytes())
    image = repaired(photo)
    before, after = photo.image.copy(), image.copy()
    for format in ("png", "jpeg", "webp", "tiff", "bmp", "avif"):
        encode_photo(photo, image, format=format)
    assert (photo.image == before).all() and (image == after).all()


def test_an_image_of_another_size_or_depth_is_a_mistake_of_the_caller() -> None:
    photo = open_photo((DATA / "flower.png").read_bytes())
    with pytest.raises(ValueError, match="uint16"):
        encode_photo(photo, photo.image.astype(np.uint16))
    with pytest.raises(ValueError, match="image is"):
        encode_photo(photo, photo.image[:-1])


def test_no_more_huffman_tables_are_read_than_a_jpeg_has() -> None:
    """A segment of thousands of empty tables was copied for each of them, without the end of it."""
    tables = b"".join(bytes([number % 256]) + bytes(16) for number in range(3000))
    segment = b"\xff\xc4" + (len(tables) + 2).to_bytes(2, "big") + tables
    assert len(_huffman_tables(b"\xff\xd8" + 5 * segment + b"\xff\xda\x00\x02")) == MOST_HUFFMAN_TABLES


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_a_format_holds_the_longest_side_of_the_table_and_no_more(format: str) -> None:
    longest = FORMATS[format].max_side_px
    assert longest
    held = encode_photo(open_photo(encode_png(noise(2, longest, 3), fast=True)), format=format)
    with Image.open(io.BytesIO(held.data)) as written:
        assert (written.format, written.size) == (format, (longest, 2))
    with pytest.raises(ImagingError) as refused:
        encode_photo(open_photo(encode_png(noise(longest + 1, 2, 3), fast=True)), format=format)
    assert refused.value.code == "too_large_for_format"
    assert refused.value.params == {"format": format, "width": 2, "height": longest + 1}
