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


def test_of_a_progressive_jpeg_without_an_end_nobody_knows_what_is_missing() -> None:
    with pytest.raises(ImagingError) as refused:
        open_photo(saved(PICTURE, "JPEG", progressive=True)[:-2])
    assert refused.value.code == "truncated_image"
