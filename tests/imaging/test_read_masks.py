"""Masks that people upload: brighter than 127 is the hole, whatever kind of file it is."""

import io
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imaging import ImagingError, open_photo, read_mask
from imaging.masks import check_enough_is_left
from imaging.selection import read_brightness

LEVELS = np.tile(np.arange(256, dtype=np.uint8), (3, 1))


def saved(pixels: np.ndarray | Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "BMP"])
def test_hole_is_brighter_than_127(mode: str, format: str) -> None:
    if format in ("WEBP", "BMP") and mode not in ("RGB", "RGBA"):
        mode = "RGB"
    data = saved(Image.fromarray(LEVELS).convert(mode), format, **({"lossless": True} if format == "WEBP" else {}))
    mask = read_mask(data, (3, 256))
    assert mask.dtype == bool and (mask == (LEVELS > 127)).all()


def test_16_bit_mask_is_split_at_the_same_level() -> None:
    levels = np.array([[0, 32767, 32768, 65535]], np.uint16)
    assert read_mask(saved(levels), (1, 4)).tolist() == [[False, False, True, True]]


def test_1_bit_mask_is_itself() -> None:
    bits = np.random.default_rng(0).random((9, 13)) > 0.5
    assert (read_mask(saved(bits), (9, 13)) == bits).all()


def test_brightness_is_the_rounded_luma_of_every_colour() -> None:
    colours = np.random.default_rng(0).integers(90, 170, (300, 200, 3)).astype(np.uint8)
    luma = (colours.astype(np.int64) @ np.array([299, 587, 114]) + 500) // 1000
    assert (read_mask(saved(colours), (300, 200)) == (luma > 127)).all()


def test_reading_a_mask_takes_little_more_than_its_own_pixels() -> None:
    """Masks are read while others wait: wide integers for all of a 12 MP one would be 150 MB for each."""
    data = saved(np.zeros((1500, 2000), np.uint8))
    tracemalloc.start()
    try:
        read_mask(data, (1500, 2000))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 10 * 1500 * 2000


def test_coloured_strokes_on_a_transparent_layer_are_the_hole() -> None:
    """Dark red is darker than 127, but on an editor's empty layer it is what was painted."""
    layer = np.zeros((20, 20, 4), np.uint8)
    layer[5:9, 3:15] = (120, 0, 0, 255)
    mask = read_mask(saved(layer), (20, 20))
    assert mask[5:9, 3:15].all() and mask.sum() == 48


def test_transparent_parts_of_a_black_and_white_mask_are_no_hole() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, 4:] = 255
    pixels[:, :4, 3] = 255
    pixels[:4, 4:, 3] = 0
    mask = read_mask(saved(pixels), (8, 8))
    assert mask[4:, 4:].all() and mask.sum() == 16


def test_opaque_white_and_opaque_black_are_all_and_nothing() -> None:
    assert read_mask(saved(np.full((4, 4, 4), 255, np.uint8)), (4, 4)).all()
    black = np.zeros((4, 4, 4), np.uint8)
    black[..., 3] = 255
    assert not read_mask(saved(black), (4, 4)).any()
    assert not read_mask(saved(np.zeros((4, 4, 4), np.uint8)), (4, 4)).any()


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ImagingError) as refused:
        read_mask(saved(LEVELS), (256, 3))
    assert refused.value.code == "mask_size"
    assert refused.value.params == {"width": 256, "height": 3, "expected_width": 3, "expected_height": 256}
    assert "256 x 3" in refused.value.message and "3 x 256" in refused.value.message


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"no picture", "this file cannot be read as an image"),
        (saved(LEVELS)[:-30], "this PNG file is incomplete"),
        (saved(np.zeros((200, 200), np.uint8)), "the image is 200 x 200 pixels"),
    ],
)
def test_a_refusal_of_a_mask_s_file_says_that_it_is_the_mask(data: bytes, words: str) -> None:
    """Of a request with two files, "This file cannot be read" did not say which."""
    for read in (
        lambda: read_mask(data, (3, 256), max_px=30_000),
        lambda: read_brightness(data, max_bytes=2000, max_px=30_000),
    ):
        with pytest.raises(ImagingError, match=r"^The mask cannot be used: ") as refusal:
            read()
        assert words in refusal.value.message
    with pytest.raises(ImagingError) as photo:
        open_photo(data, max_px=30_000)
    assert photo.value.code == refusal.value.code and photo.value.params == refusal.value.params
    assert words[1:] in photo.value.message and "mask" not in photo.value.message


def test_limits_hold_for_masks_too() -> None:
    for data, limits, code in ((b"", {}, "empty_file"), (saved(LEVELS), {"max_px": 767}, "image_too_large")):
        with pytest.raises(ImagingError) as refused:
            read_mask(data, (3, 256), **limits)  # type: ignore[arg-type]
        assert refused.value.code == code


SCENE = np.asarray(Image.open(Path(__file__).parents[1] / "data" / "pier.jpg").convert("RGB"))[:120, :160]
MARKED = np.zeros(SCENE.shape[:2], bool)
MARKED[30:60, 40:90] = True


def read(data: bytes) -> np.ndarray:
    return read_mask(data, SCENE.shape[:2], photo=SCENE)


def why_refused(data: bytes) -> str:
    with pytest.raises(ImagingError) as refused:
        read(data)
    assert refused.value.code == "bad_mask"
    return refused.value.message


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("layer", ["the photo", "the photo, saved again", "black", "white"])
def test_the_transparent_part_of_a_layer_is_the_hole(format: str, layer: str) -> None:
    """What editors export after a selection is deleted; the marked part stayed, and what was bright was replaced."""
    again = np.asarray(Image.open(io.BytesIO(saved(SCENE, "JPEG", quality=80))))
    colours = {"the photo": SCENE, "the photo, saved again": again, "black": SCENE * 0, "white": SCENE * 0 + 255}[layer]
    pixels = np.dstack([colours, np.where(MARKED, 0, 255).astype(np.uint8)])
    pixels[MARKED, :3] = 0
    options: Any = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100}}.get(format, {})
    assert (read(saved(pixels, format, **options)) == MARKED).all()


@pytest.mark.parametrize("value", [1, 2, 60, 127])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_labels_of_nothing_and_one_value_are_understood(value: int, format: str) -> None:
    assert (read(saved((MARKED * value).astype(np.uint8), format)) == MARKED).all()


@pytest.mark.parametrize("value", [1, 255, 4095, 32767])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_labels_are_understood(value: int, format: str) -> None:
    assert (read(saved((MARKED * value).astype(np.uint16), format)) == MARKED).all()


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (255, 0, 128), (200, 30, 30)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_strong_colour_on_black_is_the_hole(colour: tuple[int, int, int], format: str) -> None:
    pixels = (MARKED[..., None] * np.array(colour)).astype(np.uint8)
    options: Any = {"JPEG": {"quality": 90, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    mask = read(saved(pixels, format, **options))
    assert (mask != MARKED).mean() < 0.01


def test_a_dim_mask_that_may_mean_anything_says_what_was_seen() -> None:
    levels = (MARKED * 100).astype(np.uint8)
    levels[70:90, 40:90] = 50
    assert "brightest value is 100 of 255" in why_refused(saved(levels))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_the_photo_as_its_own_mask_is_refused(format: str) -> None:
    assert "the photo itself" in why_refused(saved(SCENE, format))


def starry() -> np.ndarray:
    sky = np.random.default_rng(3).integers(0, 10, SCENE.shape).astype(np.uint8)
    sky[10:100:9, 10:150:9] = 200
    sky[41:50, 60:69] = 240
    return sky


def test_a_mask_for_a_night_sky_is_not_taken_for_the_photo() -> None:
    """Black is most of both: the mask was refused as the photo itself."""
    sky, size = starry(), SCENE.shape[:2]
    assert (read_mask(saved((MARKED * 255).astype(np.uint8)), size, photo=sky) == MARKED).all()
    layer = np.zeros((*size, 4), np.uint8)  # white on black, in an otherwise transparent layer
    layer[MARKED, :3], layer[20:70, 30:100, 3] = 255, 255
    assert (read_mask(saved(layer), size, photo=sky) == MARKED).all()
    with pytest.raises(ImagingError, match="the photo itself"):
        read_mask(saved(sky), size, photo=sky)


def test_a_mask_of_much_of_a_white_page_is_not_taken_for_the_photo() -> None:
    page, size = 255 - starry(), SCENE.shape[:2]
    much = np.ones(size, bool)
    much[60:80, 50:110] = False
    assert (read_mask(saved((much * 255).astype(np.uint8)), size, photo=page) == much).all()
    with pytest.raises(ImagingError, match="the photo itself"):
        read_mask(saved(page), size, photo=page)


def test_another_picture_is_no_mask() -> None:
    assert "many tones" in why_refused(saved(SCENE[::-1, ::-1] // 3 * 2 + 40))


@pytest.mark.parametrize("share", [1.0, 0.96])
def test_a_mask_of_nearly_everything_is_refused(share: float) -> None:
    pixels = np.zeros(MARKED.shape, np.uint8)
    pixels[: round(share * len(pixels))] = 255
    with pytest.raises(ImagingError, match="invert") as refused:
        check_enough_is_left(read_mask(saved(pixels), SCENE.shape[:2]), pixels.size)
    assert refused.value.code == "bad_mask"
