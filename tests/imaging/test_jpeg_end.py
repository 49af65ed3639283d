"""JPEGs without the marker of their end: taken where no pixel is missing, else refused as incomplete."""

import numpy as np
import pytest
from PIL import Image

from imaging import ImagingError, open_photo
from tests.support.imaging_files import decoded_by_opencv, saved, smooth

PICTURE = Image.fromarray(smooth(75, 101))
KINDS = {
    "usual": saved(PICTURE, "JPEG"),
    "fine colours": saved(PICTURE, "JPEG", subsampling=0, quality=98, optimize=True),
    "grey": saved(PICTURE.convert("L"), "JPEG"),
    "inks": saved(PICTURE.convert("CMYK"), "JPEG"),
    "restarts": saved(PICTURE, "JPEG", restart_marker_blocks=4),
    "grey, restarts": saved(PICTURE.convert("L"), "JPEG", restart_marker_blocks=7),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", [b"", b"\xff", bytes(5000)], ids=["nothing", "half of it", "zeros"])
def test_a_jpeg_that_lacks_only_its_end_is_taken(kind: str, behind: bytes) -> None:
    """It was refused, where every viewer shows it."""
    whole = KINDS[kind]
    photo = open_photo(whole[:-2] + behind)
    assert np.array_equal(photo.image, open_photo(whole).image)
    if kind == "usual":
        assert np.array_equal(photo.image, decoded_by_opencv(whole))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", [0, 100_000], ids=["nothing", "zeros"])
def test_a_jpeg_that_lacks_pixels_is_incomplete(kind: str, behind: int) -> None:
    """Programs that download make room first: zeros stood for what had not come, and decoded to grey."""
    whole = KINDS[kind]
    for lacking in (*range(3, 60), len(whole) // 4):
        with pytest.raises(ImagingError) as refused:
            open_photo(whole[:-lacking] + bytes(behind))
        assert refused.value.code == "truncated_image", lacking


def test_zeros_that_are_pixels_are_kept() -> None:
    """A plain surface may end with a byte of zeros: it was left out with those that stand for what is missing."""
    whole = saved(Image.new("RGB", (101, 75), (90, 90, 90)), "JPEG")
    assert whole[-3] == 0
    for behind in (b"", b"\xff"):
        assert np.array_equal(open_photo(whole[:-2] + behind).image, open_photo(whole).image)


@pytest.mark.parametrize("width", [33, 84, 98])
def test_a_jpeg_that_lacks_a_few_bytes_is_incomplete(width: int) -> None:
    """Of such small ones one in ten was taken, with other pixels at its end: both noises went on alike."""
    pixels = np.random.default_rng(width).integers(0, 256, (33, width, 3), np.uint8)
    whole = saved(Image.fromarray(pixels), "JPEG")
    for lacking in range(3, 7):
        with pytest.raises(ImagingError) as refused:
            open_photo(whole[:-lacking])
        assert refused.value.code == "truncated_image", lacking


def test_of_a_progressive_jpeg_without_an_end_nobody_knows_what_is_missing() -> None:
    with pytest.raises(ImagingError) as refused:
        open_photo(saved(PICTURE, "JPEG", progressive=True)[:-2])
    assert refused.value.code == "truncated_image"
