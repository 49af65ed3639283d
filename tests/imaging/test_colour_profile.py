"""Colours that a file tells by numbers: what is shown and files of other formats have an ICC profile for them."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageCms

from imaging import Photo, encode_photo, open_photo, shown_profile
from tests.support.imaging_files import raw_png, saved, smooth

ADOBE = (0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
SRGB = (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)
# D50-adapted colorants, as the profiles of Adobe and Apple have them.
ADOBE_COLORANTS = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
P3_COLORANTS = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


def gamma(exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(100_000 / exponent))


def primaries(places: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(place * 100_000) for place in places))


def code(colours: int, curve: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes([colours, curve, 0, 1])


def png_of(*chunks: tuple[bytes, bytes]) -> Photo:
    return open_photo(raw_png(smooth(12, 16), 2, 8, *chunks))


def avif_of(colours: int, curve: int) -> Photo:
    data = bytearray(saved(Image.fromarray(smooth(64, 96)), "AVIF"))
    struct.pack_into(">HH", data, data.index(b"nclx") + 4, colours, curve)
    return open_photo(bytes(data))


def read_profile(icc: bytes | None) -> ImageCms.ImageCmsProfile:
    assert icc
    return ImageCms.ImageCmsProfile(io.BytesIO(icc))


@pytest.mark.parametrize(
    ("photo", "wanted"),
    [
        (png_of(gamma(2.2), primaries(ADOBE)), ADOBE_COLORANTS), (png_of(code(12, 13)), P3_COLORANTS),
        (png_of(code(12, 13), gamma(2.2), primaries(ADOBE)), P3_COLORANTS), (avif_of(12, 13), P3_COLORANTS),
    ],
)  # fmt: skip
def test_what_is_shown_has_the_colours_that_are_told(photo: Photo, wanted: tuple[tuple[float, ...], ...]) -> None:
    """A repaired place stood out in the page, in the colours of sRGB."""
    made = read_profile(shown_profile(photo)).profile
    places = (made.red_colorant, made.green_colorant, made.blue_colorant)
    colorants = [place[0] for place in places if place]
    assert np.abs(np.array(colorants) - wanted).max() < 1e-3


@pytest.mark.parametrize(
    ("photo", "exponent"),
    [
        (png_of(gamma(1.8), primaries(SRGB)), 1.8), (png_of(gamma(1.8)), 1.8), (png_of(code(1, 4)), 2.2),
        (png_of(code(1, 1)), 2.4), (open_photo(raw_png(smooth(12, 16)[..., :1], 0, 8, gamma(1.8))), 1.8),
    ],
)  # fmt: skip
def test_what_is_shown_is_as_bright_as_is_told(photo: Photo, exponent: float) -> None:
    values = np.arange(256)
    ramp = Image.fromarray(np.repeat(values.astype(np.uint8)[None, :, None], 3, axis=2))
    srgb = ImageCms.createProfile("sRGB")
    shown = np.asarray(ImageCms.profileToProfile(ramp, read_profile(shown_profile(photo)), srgb))[0].astype(float)
    light = (values / 255) ** exponent
    wanted = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(shown - wanted[:, None]).max() < 1.1


@pytest.mark.parametrize(
    "photo",
    [
        png_of(), png_of(primaries(ADOBE)), png_of((b"sRGB", b"\0"), gamma(1.8)), png_of(code(9, 16)),
        png_of(code(1, 13), gamma(1.8)), png_of((b"gAMA", bytes(4))), png_of(gamma(2.2), primaries((0.0,) * 8)),
        png_of(gamma(2.2), primaries((*ADOBE[:6], *ADOBE[4:6]))), png_of((b"gAMA", b"\0\0\0\1")), avif_of(1, 1),
        avif_of(9, 18), avif_of(200, 13),
    ],
)  # fmt: skip
def test_other_colours_are_shown_without_a_profile(photo: Photo) -> None:
    """Those of sRGB, those for HDR screens, which such a profile can't tell, and nonsense."""
    assert shown_profile(photo) is None


@pytest.mark.parametrize("photo", [png_of(gamma(2.2), primaries(ADOBE)), png_of(code(12, 13)), avif_of(12, 13)])
@pytest.mark.parametrize("format", ["jpeg", "webp", "tiff", "avif", "png"])
def test_a_file_of_another_format_keeps_the_colours(photo: Photo, format: str) -> None:
    """An AVIF of a phone came as a JPEG that was duller."""
    with Image.open(io.BytesIO(encode_photo(photo, format=format).data)) as picture:
        icc = picture.info.get("icc_profile")
    assert icc == (None if format == photo.format.lower() or format == "png" else shown_profile(photo))


def test_an_avif_of_a_video_camera_is_no_darker_as_png() -> None:
    """Browsers show its curve as sRGB's, and that of a PNG as a television does."""
    data = encode_photo(avif_of(6, 6), format="png").data
    assert data[data.index(b"cICP") + 4 :].startswith(bytes([6, 13, 0, 1]))
