"""Masks that people upload: brighter than 127 is the hole, whatever kind of file it is."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from imaging import ImagingError, read_mask

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


def test_limits_hold_for_masks_too() -> None:
    for data, limits, code in ((b"", {}, "empty_file"), (saved(LEVELS), {"max_px": 767}, "image_too_large")):
        with pytest.raises(ImagingError) as refused:
            read_mask(data, (3, 256), **limits)
        assert refused.value.code == code
