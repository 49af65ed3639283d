"""Whatever bytes come, the answer is a photo or an ImagingError with a known code, before much work is done."""

import io
import random
import struct
import subprocess
import threading
import warnings
import zlib
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import AvifImagePlugin, Image, ImageFile, WebPImagePlugin

from imaging import ImagingError, encode_photo, open_photo

DATA = Path(__file__).parents[1] / "data"
CODES = {"empty_file", "file_too_large", "image_too_large", "not_an_image", "truncated_image"}


def saved(picture: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def small_files() -> dict[str, bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 20, 4), np.uint8)
    rgb, rgba = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    return {
        "png": saved(rgba, "PNG", exif=exif),
        "png palette": saved(rgb.quantize(9), "PNG", transparency=3),
        "png 16": saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"),
        "jpeg": saved(rgb, "JPEG", exif=exif, comment=b"hello"),
        "jpeg progressive": saved(rgb, "JPEG", progressive=True),
        "jpeg cmyk": saved(rgb.convert("CMYK"), "JPEG"),
        "webp": saved(rgba, "WEBP", exif=exif),
        "webp lossless": saved(rgba, "WEBP", lossless=True),
        "webp animated": saved(rgb, "WEBP", save_all=True, append_images=[rgba]),
        "tiff": saved(rgba, "TIFF", exif=exif),
        "tiff lzw": saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff 16": saved(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "TIFF"),
        "bmp": saved(rgb, "BMP"),
        "gif": saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
        "avif": saved(rgba, "AVIF"),
        "heic": (DATA / "flower.heic").read_bytes(),
    }


FILES = small_files()


def refusal(data: bytes, **limits: int) -> ImagingError:
    with pytest.raises(ImagingError) as refused:
        open_photo(data, **limits)  # type: ignore[arg-type]
    assert refused.value.code in CODES and refused.value.message.endswith(".")
    assert str(refused.value) == refused.value.message
    return refused.value


def test_empty_file_is_refused() -> None:
    assert refusal(b"").code == "empty_file"


def test_file_over_the_byte_limit_is_refused_unread() -> None:
    error = refusal(FILES["jpeg"] + bytes(2 << 20), max_bytes=1 << 20)
    assert error.code == "file_too_large" and error.params == {"size_mib": 2.0, "max_mib": 1.0}


@pytest.mark.parametrize("name", FILES)
def test_pixel_limit_holds_for_every_format(name: str) -> None:
    photo = open_photo(FILES[name])
    height, width = photo.image.shape[:2]
    assert open_photo(FILES[name], max_px=height * width).image.shape == photo.image.shape
    error = refusal(FILES[name], max_px=height * width - 1)
    assert error.code == "image_too_large" and {error.params["width"], error.params["height"]} == {width, height}


class _NoTurnError(Exception):
    """Nobody's turn."""


@pytest.mark.parametrize("name", FILES)
def test_every_format_waits_for_its_turn_before_it_is_decoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """HEIC was decoded, in a process of its own, before it waited: many at once had no bound."""
    height, width = open_photo(FILES[name]).image.shape[:2]
    asked: list[int] = []

    def turn(px: int, deep: bool) -> AbstractContextManager[None]:
        asked.append(px)
        raise _NoTurnError

    def fail(*arguments: object, **options: object) -> None:
        raise AssertionError("decoded before its turn")

    monkeypatch.setattr(Image.Image, "load", fail)
    for kind in (ImageFile.ImageFile, AvifImagePlugin.AvifImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(kind, "load", fail)
    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(_NoTurnError):
        open_photo(FILES[name], turn=turn)
    assert asked == [height * width]


def test_heic_that_holds_more_than_it_states_is_refused() -> None:
    data = bytearray(FILES["heic"])
    at = data.index(b"ispe") + 8
    data[at : at + 8] = struct.pack(">II", 16, 16)
    assert refusal(bytes(data)).code == "truncated_image"
    data[at - 4 : at] = b"...."
    assert refusal(bytes(data).replace(b"ispe", b"free")).code == "truncated_image"


@pytest.mark.parametrize(
    "data",
    [
        b"hello, I am text\n",
        b"\x89PNG",
        b"<html></html>",
        b"BM",
        b"GIF89a",
        b"II*\0",
        b"\xff\xd8\xff",
        b"RIFF1234WEBP",
        bytes(1000),
    ],
)
def test_text_named_png_is_not_an_image(data: bytes) -> None:
    assert refusal(data).code in ("not_an_image", "truncated_image")
    assert refusal(b"hello, I am text\n").code == "not_an_image"


@pytest.mark.parametrize(
    ("frame", "bits", "said"),
    [(0xC1, 12, "holds 12 bits per channel"), (0xF7, 8, "it is JPEG-LS"), (0xC5, 8, "a hierarchical JPEG")],
)
def test_a_sound_jpeg_of_another_kind_is_not_called_damaged(frame: int, bits: int, said: str) -> None:
    data = bytearray(FILES["jpeg"])
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = frame, bits
    error = refusal(bytes(data))
    assert error.code == "not_an_image" and said in error.message


def test_a_sound_bmp_of_another_kind_is_not_called_damaged() -> None:
    """Photoshop writes 16 bits with four for each channel and the alpha."""
    masks = struct.pack("<4I", 0x0F00, 0x00F0, 0x000F, 0xF000)
    header = struct.pack("<IiiHHIIiiII", 56, 4, 4, 1, 16, 3, 32, 0, 0, 0, 0) + masks
    error = refusal(b"BM" + struct.pack("<IHHI", 14 + 56 + 32, 0, 0, 70) + header + bytes(32))
    assert error.code == "not_an_image" and "this kind of BMP is not supported" in error.message


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("share", [0.4, 0.7, 0.9])
def test_cut_file_is_truncated(name: str, share: float) -> None:
    data = FILES[name]
    if name in ("webp animated", "gif"):  # the first frame may lie whole in what is left; the rest is not needed
        share *= 0.4
    assert refusal(data[: int(len(data) * share)]).code == "truncated_image"


def claimed(width: int, height: int) -> dict[str, bytes]:
    """Return small files whose headers claim this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    png = FILES["png"][:8] + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    body = b"IDAT" + zlib.compress(bytes(10))
    png += (
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)) + bytes(4) + b"IEND\xaeB\x60\x82"
    )
    at = FILES["jpeg"].index(b"\xff\xc0") + 5
    jpeg = FILES["jpeg"][:at] + struct.pack(">HH", min(height, 65535), min(width, 65535)) + FILES["jpeg"][at + 4 :]
    bmp = FILES["bmp"][:18] + struct.pack("<ii", width, height) + FILES["bmp"][26:]
    gif = FILES["gif"][:6] + struct.pack("<HH", min(width, 65535), min(height, 65535)) + FILES["gif"][10:]
    return {"png": png, "jpeg": jpeg, "bmp": bmp, "gif": gif}


def decoded_after_all(self: ImageFile.ImageFile) -> None:
    """Stand in for Pillow's decoding where none may happen."""
    raise AssertionError("it was decoded")


@pytest.mark.parametrize("name", ["png", "jpeg", "bmp", "gif"])
def test_header_that_claims_gigapixels_is_refused_undecoded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded_after_all)
    assert refusal(claimed(60_000, 60_000)[name]).code == "image_too_large"


@pytest.mark.parametrize("name", ["png", "jpeg", "bmp"])
def test_header_that_claims_more_than_there_is_is_truncated(name: str) -> None:
    assert refusal(claimed(3000, 2000)[name]).code == "truncated_image"


@pytest.mark.parametrize("name", ["png", "jpeg", "bmp"])
def test_no_pixels_is_not_an_image(name: str) -> None:
    assert refusal(claimed(0, 20)[name]).code in ("not_an_image", "truncated_image")


def test_gif_frame_larger_than_its_screen_cannot_get_past_the_limit() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 60_000, 60_000, 0) + b"\2\2\x4c\1\0;"
    assert refusal(screen + frame).code == "image_too_large"


def test_jpeg_of_thousands_of_scans_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scan visits every pixel, so 100 kB could keep a core busy for hours."""
    data = saved(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded_after_all)
    assert refusal(data[:-2] + data[last:-2] * 1000 + b"\xff\xd9").code == "image_too_large"


@pytest.mark.parametrize("name", ["png", "jpeg", "bmp"])
def test_95_megapixels_are_read_without_a_warning(name: str) -> None:
    """Pillow warns above 89.5 megapixels, but 100 are allowed here: so only the missing pixels are wrong."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(claimed(10_000, 9_500)[name]).code == "truncated_image"


@pytest.mark.parametrize("share", [0.3, 0.9, 0.99])
def test_16_bit_png_whose_rows_end_early_is_truncated(share: float) -> None:
    """The chunks are whole and their checksums right; only the rows inside stop before the header says so."""
    rows = b"".join(b"\0" + np.random.default_rng(y).bytes(600) for y in range(100))
    body = b"IDAT" + zlib.compress(rows[: int(len(rows) * share)])
    header = b"IHDR" + struct.pack(">IIBBBBB", 100, 100, 16, 2, 0, 0, 0)
    data = FILES["png"][:8]
    for part in (header, body, b"IEND"):
        data += struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    assert refusal(data).code == "truncated_image"


def test_damaged_checksum_is_found() -> None:
    data = bytearray(FILES["png"])
    data[data.index(b"IDAT") + 20] ^= 1
    assert refusal(bytes(data)).code == "truncated_image"


def test_nothing_global_is_changed() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    for data in FILES.values():
        encode_photo(open_photo(data))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_threads_do_not_mix() -> None:
    expected = {name: encode_photo(open_photo(data)).data for name, data in FILES.items()}
    wrong: list[str] = []

    def work(seed: int) -> None:
        names = [name for name in FILES if name != "heic" or seed == 0]  # each HEIC starts a process
        random.Random(seed).shuffle(names)
        wrong.extend(name for name in names if encode_photo(open_photo(FILES[name])).data != expected[name])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.slow
@settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_gives_a_photo_or_a_refusal(data: st.DataObject) -> None:
    original = FILES[data.draw(st.sampled_from(sorted(set(FILES) - {"heic"})))]  # a process each: see the next test
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        at = (
            data.draw(st.integers(0, len(damaged) - 1))
            if data.draw(st.booleans())
            else min(len(damaged) - 1, data.draw(st.integers(0, 300)))
        )
        kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "word"]))
        if kind == "flip":
            damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 40))]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        elif kind == "repeat":
            damaged[at:at] = damaged[at : at + 50]
        else:
            damaged[at : at + 4] = data.draw(
                st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\1\0\0\0"])
            )
        if not damaged:
            break
    try:
        photo = open_photo(bytes(damaged), max_px=4_000_000)
    except ImagingError as error:
        assert error.code in CODES and error.message
        return
    assert photo.image.ndim == 3 and photo.image.shape[2] == 3 and photo.image.dtype in (np.uint8, np.uint16)
    if photo.image.size < 300_000:
        encoded = encode_photo(photo)
        assert open_photo(encoded.data).image.shape == photo.image.shape


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    start=st.sampled_from([data[:n] for name, data in FILES.items() if name != "heic" for n in (4, 12, 40)]),
    rest=st.binary(max_size=200),
)
def test_any_bytes_after_a_true_beginning_are_refused_or_read(start: bytes, rest: bytes) -> None:
    try:
        open_photo(start + rest, max_px=1_000_000)
    except ImagingError as error:
        assert error.code in CODES


def test_heic_that_brings_the_decoder_down_is_only_refused() -> None:
    """pi-heif 1.4.0 crashes with its whole process on a metadata item whose extent lies outside the file."""
    data = bytearray(FILES["heic"])
    data[51], data[176] = 0xC4, 0xAB
    assert refusal(bytes(data)).code == "truncated_image"


@pytest.mark.slow
def test_damaged_heic_gives_a_photo_or_a_refusal() -> None:
    chance = random.Random(3)
    for _ in range(4):
        data = bytearray(FILES["heic"])
        for _ in range(3):
            data[chance.randrange(700)] = chance.randrange(256)
        try:
            assert open_photo(bytes(data), max_px=1_000_000).image.shape[2] == 3
        except ImagingError as error:
            assert error.code in CODES


def test_a_tiff_in_more_pieces_than_rows_of_any_photo_is_refused_at_once() -> None:
    """Of one row each, 10 million of them in a file of 76 MiB: a minute and a half of a core, and 3.5 GiB."""
    pieces = 200_001
    lists_at = 8 + 2 + 12 * 8 + 4
    tags = [(256, 4, 1, 1), (257, 4, 1, pieces), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, pieces, lists_at), (278, 4, 1, 1), (279, 4, pieces, lists_at + 4 * pieces)]
    table = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    lists = np.repeat(np.array([lists_at, 1], "<u4"), pieces).tobytes()
    error = refusal(b"II*\0" + struct.pack("<IH", 8, len(tags)) + table + bytes(4) + lists)
    assert error.code == "not_an_image" and "200001 pieces" in error.message
