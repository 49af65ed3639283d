"""EXIF in AVIF: a damaged one costs the photo nothing, and a sound one comes back where it was, byte for byte."""

import struct

import numpy as np
import pytest
from PIL import Image

from imaging import encode_photo, open_photo
from tests.support.imaging_files import saved, smooth

EMPTY = b"II*\0" + struct.pack("<IHI", 8, 0, 0) + bytes(60)


def block_of(kind: int, count: int, value: int) -> bytes:
    """Return EXIF with an orientation of this type and a maker's note that says where it lies."""
    tags = struct.pack("<HHII", 0x0112, kind, count, value) + struct.pack("<HHII", 0x927C, 7, 8, 40)
    return (b"II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(6) + b"at 40   ").ljust(len(EMPTY), b"\0")


def avif_with(exif: bytes) -> bytes:
    file = saved(Image.fromarray(smooth(40, 60)), "AVIF", quality=95, exif=EMPTY)
    assert file.count(EMPTY) == 1 and len(exif) == len(EMPTY)
    return file.replace(EMPTY, exif)


@pytest.mark.parametrize("exif", [bytes(len(EMPTY)), EMPTY.replace(b"*", b"+")], ids=["zeros", "BigTIFF"])
def test_an_avif_with_damaged_exif_is_a_photo_as_any_other(exif: bytes) -> None:
    """It was called incomplete: libavif and Pillow give up on EXIF that browsers pass over."""
    photo = open_photo(avif_with(exif))
    assert np.abs(photo.image.astype(int) - smooth(40, 60)).mean() < 4
    assert open_photo(encode_photo(photo).data).image.shape == (40, 60, 3)


def test_exif_that_pillow_cannot_pack_goes_into_an_avif_as_it_is() -> None:
    """A PNG with an orientation of a wrong type could not be saved as AVIF: `struct.error`."""
    exif = block_of(kind=5, count=1, value=40)
    photo = open_photo(saved(Image.fromarray(smooth(40, 60)), "PNG", exif=exif))
    assert photo.source.exif == exif and exif in encode_photo(photo, format="avif").data


def test_a_makers_note_in_an_avif_stays_where_it_was() -> None:
    """Pillow takes the orientation out and moves the rest: notes hold offsets, which led elsewhere then."""
    exif = block_of(kind=3, count=1, value=1)
    written = encode_photo(open_photo(avif_with(exif))).data
    assert written.count(exif) == 1
    assert open_photo(written).source.exif == exif
