"""How photos are shown that browsers show wrongly: 16 bits of which few are used, and transparency."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from imaging import decode_png, encode_photo, encode_png, encode_preview, open_photo, shown_profile
from tests.support.imaging_files import saved, smooth


def deep_png(most: int, alpha: np.ndarray | None = None) -> bytes:
    """A photo that uses values from 0 to `most` of 65535."""
    values = np.rint(smooth(60, 80) / 255.0 * most).astype(np.uint16)
    return encode_png(values if alpha is None else np.dstack([values, alpha]), fast=True)


def decoded(data: bytes, mode: str = "RGB") -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.array(picture.convert(mode)).astype(int)


@pytest.mark.parametrize("most", [255, 1023, 4095, 16000])
@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
def test_few_levels_are_shown_stretched(most: int, format: str) -> None:
    """The page showed such a photo black."""
    photo = open_photo(deep_png(most))
    assert [note.code for note in photo.notes] == ["few_levels"]
    shown = decoded(encode_preview(photo.image, max_px=None, format=format, white=photo.white))
    assert np.abs(shown - smooth(60, 80).astype(int)).mean() < (16 if most == 255 else 12)
    assert photo.white is not None and abs(photo.white - most) < 0.2 * most


@pytest.mark.parametrize("most", [20000, 65535])
def test_a_photo_that_uses_its_values_is_shown_as_it_is(most: int) -> None:
    photo = open_photo(deep_png(most))
    assert photo.notes == () and photo.white is None
    shown = decoded(encode_preview(photo.image, max_px=None, format="png", white=photo.white))
    assert np.abs(shown - smooth(60, 80) * (most / 65535)).max() < 1


def test_hot_pixels_do_not_make_it_dark() -> None:
    image = open_photo(deep_png(1023)).image.copy()
    image[3, 4] = image[50, 60] = 65535
    white, usual = open_photo(encode_png(image, fast=True)).white, open_photo(deep_png(1023)).white
    assert white is not None and usual is not None and abs(white - usual) < 20


def test_colours_that_nobody_sees_do_not_make_it_dark() -> None:
    alpha = np.full((60, 80), 65535, np.uint16)
    alpha[:, 40:] = 0
    visible = open_photo(deep_png(1023, alpha))
    image = visible.image.copy()
    image[:, 40:] = 65535
    assert open_photo(encode_png(np.dstack([image, alpha]), fast=True)).white == visible.white


@pytest.mark.parametrize("format", ["jpeg", "webp", "bmp", "avif"])
def test_a_file_of_eight_bits_is_stretched_and_says_so(format: str) -> None:
    encoded = encode_photo(open_photo(deep_png(1023)), format=format)
    assert "stretched" in [note.code for note in encoded.notes]
    assert np.abs(decoded(encoded.data) - smooth(60, 80).astype(int)).mean() < 15


@pytest.mark.parametrize("format", ["png", "tiff"])
def test_a_file_of_sixteen_bits_keeps_every_value(format: str) -> None:
    photo = open_photo(deep_png(1023))
    encoded = encode_photo(photo, format=format)
    assert encoded.notes == ()
    np.testing.assert_array_equal(open_photo(encoded.data).image, photo.image)


def test_alpha_of_few_levels_is_not_stretched() -> None:
    alpha = np.full((60, 80), 65535, np.uint16)
    alpha[:, 40:] = 32768
    photo = open_photo(deep_png(1023, alpha))
    shown = decoded(encode_photo(photo, format="webp").data, "RGBA")[..., 3]
    assert set(np.unique(shown)) == {128, 255}


@pytest.mark.parametrize("format", ["png", "webp", "jpeg"])
@pytest.mark.parametrize("max_px", [None, 40])
def test_previews_do_not_show_hidden_colours(format: str, max_px: int | None) -> None:
    """Magenta that is transparent in the file was shown, and bled into the pixels beside it."""
    image = np.full((60, 80, 3), 90, np.uint8)
    alpha = np.full((60, 80), 255, np.uint8)
    alpha[:, 33:] = 0
    image[:, 33:] = (255, 0, 255)
    data = encode_preview(image, max_px=max_px, format=format, alpha=alpha)
    shown = decoded(data, "RGBA").astype(float)
    on_white = shown[..., :3] * shown[..., 3:] / 255 + 255 - shown[..., 3:]
    assert np.ptp(on_white, axis=2).max() < 12, "a tint of magenta"
    assert on_white[:, -5:].min() > 245 and abs(on_white[:, :5].mean() - 90) < 4


def test_a_smaller_preview_of_an_opaque_photo_is_as_before() -> None:
    image = smooth(60, 80)
    opaque = encode_preview(image, max_px=40, format="png", alpha=np.full((60, 80), 255, np.uint8))
    np.testing.assert_array_equal(
        decoded(opaque), cv2.resize(image, (40, 30), interpolation=cv2.INTER_AREA).astype(int)
    )


def profile(space: str, *, filler: int = 0) -> bytes:
    """What stands for an ICC profile of a colour space: its header's signature at the right place."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[16:20] = space.encode()
    return bytes(data) + bytes(filler)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_what_is_shown_has_the_photos_profile(format: str) -> None:
    """A patch of a photo with a wide colour space stood out in the page, and so did all of it after a reload."""
    icc = profile("RGB ")
    photo = open_photo(saved(Image.fromarray(smooth(60, 80)), format, icc_profile=icc))
    assert shown_profile(photo) == icc
    patch = encode_png(photo.image[10:30, 20:50], fast=True, icc=icc)
    assert np.array_equal(decode_png(patch), photo.image[10:30, 20:50])
    shown = [patch, *(encode_preview(photo.image, max_px=40, format=name, icc=icc) for name in ("png", "webp", "jpeg"))]
    for data in shown:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.info["icc_profile"] == icc


def test_a_profile_that_does_not_fit_what_is_shown_is_left_out() -> None:
    colours, grey = Image.fromarray(smooth(60, 80)), Image.fromarray(smooth(60, 80)[..., 0])
    inks = Image.fromarray(np.dstack([smooth(60, 80), smooth(60, 80)[..., 0]]), "CMYK")
    for picture, icc in (
        (colours, profile("RGB ", filler=1 << 20)),  # far larger than the parts that are sent
        (grey, profile("GRAY")),
        (inks, profile("CMYK")),  # inks are shown as the colours that they were converted to
        (colours, b""),
    ):
        assert shown_profile(open_photo(saved(picture, "TIFF", icc_profile=icc))) is None
