"""TIFF at 8 and 16 bits, in every layout people have, comes back exactly and with its compression."""

import io
import struct
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import tifffile
from PIL import Image

from imaging import ImagingError, encode_photo, open_photo
from tests.support.imaging_files import BOX, noise, repaired, saved


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "tiff_deflate"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_tiff_keeps_compression_and_pixels(mode: str, compression: str | None) -> None:
    picture = Image.fromarray(noise(40, 50, 4)).convert(mode)
    photo = open_photo(saved(picture, "TIFF", compression=compression))
    encoded = encode_photo(photo, repaired(photo))
    with Image.open(io.BytesIO(encoded.data)) as after:
        kept = {None: "raw", "tiff_deflate": "tiff_adobe_deflate"}.get(compression, compression)
        assert after.info["compression"] == kept and after.mode == mode
        outside = np.ones((40, 50), bool)
        outside[BOX] = False
        assert (np.array(after)[outside] == np.array(picture)[outside]).all()
    assert encoded.notes == ()


LAYOUTS: dict[str, dict] = {
    "plain": {},
    "deflate": {"compression": "zlib", "predictor": True},
    "planes": {"planarconfig": "separate"},
    "tiles": {"tile": (16, 16)},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True},
}


def deep_tiff(pixels: np.ndarray, layout: str) -> bytes:
    channels = pixels.shape[2]
    options = {} if channels == 1 and layout == "planes" else LAYOUTS[layout]
    stored = np.moveaxis(pixels, 2, 0) if "planarconfig" in options else pixels if channels > 1 else pixels[..., 0]
    file = io.BytesIO()
    options = options | {"photometric": "rgb" if channels > 2 else "minisblack"}
    tifffile.imwrite(file, stored, extrasamples=["unassalpha"] if channels in (2, 4) else None, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("channels", "layout"),
    [(channels, layout) for channels in (1, 3, 4) for layout in LAYOUTS]
    + [(2, "plain"), (2, "deflate"), (2, "planes")],
)
def test_16_bit_tiff_is_exact(channels: int, layout: str) -> None:
    pixels = noise(48, 64, channels, depth=16)
    photo = open_photo(deep_tiff(pixels, layout))
    assert photo.image.dtype == np.uint16
    assert (photo.image == (pixels[..., :3] if channels > 2 else pixels[..., :1])).all()
    written = tifffile.imread(io.BytesIO(encode_photo(photo, repaired(photo)).data)).reshape(pixels.shape)
    outside = np.ones((48, 64), bool)
    outside[BOX] = False
    assert (written[outside] == pixels[outside]).all()
    if channels in (2, 4):
        assert (written[..., -1] == pixels[..., -1]).all()


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
def test_colours_multiplied_by_their_alpha_are_exact(channels: int, depth: int) -> None:
    """Pillow divides them, and what comes of multiplying again is another number."""
    pixels = noise(48, 64, channels, depth=depth)
    most, alpha = 2**depth - 1, pixels[..., -1]
    alpha[:8], alpha[8:16] = 0, most
    pixels[..., :-1] = pixels[..., :-1].astype(np.uint64) * alpha[..., None] // most
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, photometric="rgb" if channels == 4 else "minisblack", extrasamples=["assocalpha"])
    photo = open_photo(file.getvalue())
    seen, shown = alpha > most // 2, photo.image.astype(float)
    error = np.abs(shown[..., : channels - 1] * (alpha / most)[..., None] - pixels[..., :-1])
    assert error[seen].max() <= 1  # what is shown is the colour itself
    encoded = encode_photo(photo, repaired(photo))
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as written:
        page = written.pages[0]
        assert [int(kind) for kind in page.extrasamples] == [1]  # type: ignore[union-attr]
        after = page.asarray().reshape(pixels.shape)
    outside = np.ones((48, 64), bool)
    outside[BOX] = False
    assert (after[outside] == pixels[outside]).all() and (after[..., -1] == alpha).all()
    new = repaired(photo)[BOX].astype(float)
    new = np.rint(new @ [0.299, 0.587, 0.114])[..., None] if channels == 2 else new
    new = new * alpha[BOX][..., None] / most
    assert (np.abs(after[BOX][..., :-1] - new)[alpha[BOX] > 0] <= 1).all()
    kept = open_photo(encode_photo(photo, format="png").data)
    assert kept.alpha is not None
    assert np.array_equal(kept.image, photo.image) and np.array_equal(kept.alpha, alpha)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("extra", "count"), [(["unspecified"], 1), (["unassalpha", "unspecified"], 1)])
def test_a_channel_that_is_left_out_is_spoken_of(extra: list[str], count: int, depth: int) -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, noise(20, 30, 3 + len(extra), depth=depth), photometric="rgb", extrasamples=extra)
    if depth == 16 and len(extra) == 2:
        with pytest.raises(ImagingError, match="5 channels of 16 bits in a mixture that is not supported"):
            open_photo(file.getvalue())
        return
    notes = open_photo(file.getvalue()).notes
    assert [(note.code, note.params) for note in notes] == [("channels_left_out", {"count": count})]


@pytest.mark.parametrize("count", [1, 2])
def test_a_spot_colour_beside_the_inks_is_spoken_of(count: int) -> None:
    """It was left out without a word."""
    file = io.BytesIO()
    extra = ["unspecified"] * count
    tifffile.imwrite(file, noise(20, 30, 4 + count), photometric="separated", extrasamples=extra)
    notes = open_photo(file.getvalue()).notes
    assert [(note.code, note.params) for note in notes] == [("channels_left_out", {"count": count})]


@pytest.mark.parametrize("depth", [8, 16])
def test_layers_that_are_left_out_are_spoken_of(depth: int) -> None:
    """A retoucher's file came back flat without a word."""
    file = io.BytesIO()
    block = b"Adobe Photoshop Document Data Block\0" + b"8BIM" + b"Layr"[::-1] + bytes(40)
    extra = [(37724, 7, len(block), block, True)]
    tifffile.imwrite(file, noise(20, 30, 3, depth=depth), photometric="rgb", extratags=extra, metadata=None)
    photo = open_photo(file.getvalue())
    assert [note.code for note in photo.notes] == ["layers_left_out"]
    assert open_photo(encode_photo(photo).data).notes == ()


def test_grey_of_12_bits_has_its_brightness_in_16() -> None:
    """Its 4095 stayed 4095, which is dark grey there."""
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    pairs = values.reshape(-1, 2).astype(np.uint32)
    packed = pairs[:, 0] << 12 | pairs[:, 1]
    strip = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1).astype(np.uint8).tobytes()
    entries: list[tuple[int, int, tuple[int, ...]]] = [
        (256, 3, (64,)),
        (257, 3, (64,)),
        (258, 3, (12,)),
        (259, 3, (1,)),
        (262, 3, (1,)),
        (273, 4, (8,)),
    ]
    entries += [(277, 3, (1,)), (278, 3, (64,)), (279, 4, (len(strip),))]
    at = 8 + len(strip)
    photo = open_photo(b"II*\0" + struct.pack("<I", at) + strip + directory(entries, at))
    assert photo.image.dtype == np.uint16 and photo.notes == ()
    assert np.array_equal(photo.image[..., 0], np.rint(values * (65535 / 4095)))
    again = open_photo(encode_photo(photo).data)
    assert np.array_equal(again.image, photo.image)


def test_inks_of_16_bits_become_8_and_that_is_said() -> None:
    file = io.BytesIO()
    tifffile.imwrite(file, noise(20, 30, 4, depth=16), photometric="separated")
    notes = open_photo(file.getvalue()).notes
    assert [(note.code, note.params) for note in notes] == [("fewer_bits", {"bits": 16})]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("float32", "floating-point numbers. Export it with 16 bits per channel"),
        ("float16", "floating-point numbers"),
        ("int8", "signed numbers"),
        ("uint32", "32 bits per channel. Export it with 16"),
        ("lab", "Lab colours. Export it as RGB"),
        ("inks and alpha", "5 channels of 8 bits in a mixture that is not supported"),
    ],
)
def test_a_sound_tiff_of_another_kind_is_not_called_damaged(kind: str, said: str) -> None:
    file = io.BytesIO()
    if kind == "lab":
        Image.fromarray(noise(20, 30, 3)).convert("LAB").save(file, "TIFF")
    elif kind == "inks and alpha":
        tifffile.imwrite(file, noise(20, 30, 5), photometric="separated", extrasamples=["unassalpha"])
    else:
        tifffile.imwrite(file, noise(20, 30, 3).astype(kind), photometric="rgb")
    with pytest.raises(ImagingError) as refused:
        open_photo(file.getvalue())
    assert refused.value.code == "not_an_image" and said in refused.value.message


@pytest.mark.parametrize(("number", "name"), [(34712, "JPEG 2000"), (50002, "JPEG XL"), (33003, "number 33003")])
@pytest.mark.parametrize("depth", [8, 16])
def test_a_compression_that_nothing_here_reads_is_named(number: int, name: str, depth: int) -> None:
    """Such files were called damaged, and saving or downloading them again was asked for."""
    file = io.BytesIO()
    tifffile.imwrite(file, noise(20, 30, 3, depth=depth), photometric="rgb")
    data = bytearray(file.getvalue())
    tag = data.index(struct.pack("<HHI", 259, 3, 1))
    struct.pack_into("<H", data, tag + 8, number)
    with pytest.raises(ImagingError, match=f"its compression, {name}, is not supported. Export it") as refused:
        open_photo(bytes(data))
    assert refused.value.code == "not_an_image"


@pytest.mark.parametrize("layout", ["tiles", "big-endian", "bigtiff"])
def test_rare_16_bit_grey_tiffs_with_alpha_are_refused_and_not_misread(layout: str) -> None:
    with pytest.raises(ImagingError) as refused:
        open_photo(deep_tiff(noise(48, 64, 2, depth=16), layout))
    assert refused.value.code == "not_an_image"


def directory(entries: list[tuple[int, int, tuple[int, ...]]], at: int) -> bytes:
    """Lay out a little-endian directory of BYTE (1), SHORT (3) and LONG (4) values."""
    table, tail = struct.pack("<H", len(entries)), b""
    for tag, kind, values in sorted(entries):
        data = struct.pack(f"<{len(values)}{ {1: 'B', 3: 'H', 4: 'I'}[kind] }", *values)
        if len(data) > 4:
            where = at + 2 + 12 * len(entries) + 4 + len(tail)
            tail += data + b"\0" * (len(data) % 2)
            data = struct.pack("<I", where)
        table += struct.pack("<HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return table + bytes(4) + tail


@pytest.mark.parametrize("kind", ["DNG", "NEF and its like", "sensor data first"])
def test_raw_files_are_refused(kind: str) -> None:
    """Their small preview was repaired and given back as if it were the photo."""
    pixels = noise(12, 16, 3).tobytes()
    picture = [
        (256, 4, (16,)), (257, 4, (12,)), (258, 3, (8, 8, 8)), (259, 3, (1,)), (262, 3, (2,)), (273, 4, (8,)),
        (277, 3, (3,)), (278, 4, (12,)), (279, 4, (len(pixels),)),
    ]  # fmt: skip
    at = 8 + len(pixels)
    if kind == "DNG":
        picture.append((50706, 1, (1, 4, 0, 0)))
    elif kind == "sensor data first":
        picture[4] = (262, 3, (32803,))
    else:
        picture += [(254, 4, (1,)), (330, 4, (at,))]
    data = b"II*\0" + struct.pack("<I", at) + pixels + directory(picture, at)
    with pytest.raises(ImagingError, match=r"raw file\. Develop it first") as refused:
        open_photo(data)
    assert refused.value.code == "not_an_image"


def test_a_tile_that_is_larger_than_its_page_counts_as_it_is_decoded() -> None:
    """A page of 48 x 36 pixels in one tile of 20,000 x 20,000 took 1.1 GiB, of which no limit and no turn knew."""
    file, asked = io.BytesIO(), []
    pixels = noise(36, 48, 3)
    tifffile.imwrite(file, pixels, photometric="rgb", tile=(512, 1024), compression="zlib", metadata=None)

    def turn(px: int, deep: bool) -> AbstractContextManager[None]:
        asked.append(px)
        return nullcontext()

    np.testing.assert_array_equal(open_photo(file.getvalue(), turn=turn).image, pixels)
    assert asked == [512 * 1024]
    with pytest.raises(ImagingError) as refused:
        open_photo(file.getvalue(), max_px=512 * 1024 - 1)
    assert refused.value.code == "image_too_large"
    told = struct.pack("<HHI", 322, 4, 1)  # the tile's width in the directory
    signed = file.getvalue().replace(told, struct.pack("<HHI", 322, 9, 1))  # a type that libtiff reads all the same
    with pytest.raises(ImagingError) as refused:
        open_photo(signed)
    assert refused.value.code == "truncated_image"
