"""TIFFs of several pages: counted, each opened, joined again, and nothing lost."""

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from imaging import encode_photo, open_photo
from imaging.tiff_pages import can_join, count_pages, join_pages, page_of
from tests.support.imaging_files import noise, saved


def document(pages: list[np.ndarray], **options: Any) -> bytes:
    file = io.BytesIO()
    written = {name: options.pop(name) for name in ("compression", "tile", "rowsperstrip") if name in options}
    with tifffile.TiffWriter(file, **options) as writer:
        for page in pages:
            colours = "minisblack" if page.ndim == 2 else "rgb"
            extra = ["unassalpha"] if page.ndim == 3 and page.shape[2] == 4 else None
            writer.write(page, photometric=colours, extrasamples=extra, metadata=None, **written)
    return file.getvalue()


def pages_of(data: bytes) -> list[np.ndarray]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return [page.asarray() for page in file.pages]


PAGES = [noise(20, 30, 3), noise(40, 24, seed=1), noise(16, 16, 3, depth=16, seed=2), noise(21, 33, 4, seed=3)]


@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}, {"compression": "zlib"}])
def test_every_page_can_be_opened_and_joined_again(options: dict[str, Any]) -> None:
    data = document(PAGES, **options)
    assert count_pages(data) == 4
    photos = [open_photo(page_of(data, number)) for number in range(1, 5)]
    for photo, page in zip(photos, PAGES, strict=True):
        expected = np.repeat(page[..., None], 3, axis=2) if page.ndim == 2 else page[..., :3]
        np.testing.assert_array_equal(photo.image, expected)
    joined = join_pages([encode_photo(photo).data for photo in photos])
    for got, page in zip(pages_of(joined), PAGES, strict=True):
        np.testing.assert_array_equal(got, page)
    assert [note.code for note in open_photo(joined).notes] == ["first_page_only"]


def test_metadata_of_each_page_stays_with_it() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number in range(3):
            writer.write(PAGES[0], photometric="rgb", description=f"page {number}", metadata=None)
    data = file.getvalue()
    joined = join_pages([encode_photo(open_photo(page_of(data, number))).data for number in (1, 2, 3)])
    with tifffile.TiffFile(io.BytesIO(joined)) as opened:
        assert [page.aspage().tags["ImageDescription"].value for page in opened.pages] == ["page 0", "page 1", "page 2"]


def test_pages_with_exif_are_joined_and_keep_it() -> None:
    """A directory below a page's own was counted and not written: the pages behind it were lost."""
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05"}
    pages = [Image.fromarray(page) for page in (PAGES[0], PAGES[0][::-1])]
    data = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:], exif=exif.tobytes())
    encoded = [encode_photo(open_photo(page_of(data, number))).data for number in (1, 2)]
    for files in (encoded, [page_of(data, 1), page_of(data, 2)]):
        joined = join_pages(files)
        with Image.open(io.BytesIO(joined)) as opened:
            assert getattr(opened, "n_frames", 1) == 2
            for number, page in enumerate(pages):
                opened.seek(number)
                assert np.array_equal(np.asarray(opened), np.asarray(page))
                assert opened.getexif().get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (16, 16)}, {"rowsperstrip": 3}])
def test_pages_are_joined_as_they_are(options: dict[str, Any]) -> None:
    data = document(PAGES, **options)
    files = [page_of(data, number) for number in range(1, 5)]
    assert all(map(can_join, files))
    for got, page in zip(pages_of(join_pages([join_pages([file]) for file in files])), PAGES, strict=True):
        np.testing.assert_array_equal(got, page)
    assert len(join_pages(files[:1])) < len(data) / 2


@pytest.mark.parametrize("options", [{"byteorder": ">"}, {"bigtiff": True}])
def test_pages_of_another_layout_are_not_joined_as_they_are(options: dict[str, Any]) -> None:
    data = document(PAGES, **options)
    assert not can_join(data) and not can_join(data[:20]) and not can_join(b"")


def test_a_thumbnail_is_no_page() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PAGES[0], photometric="rgb", metadata=None)
        writer.write(PAGES[0][::4, ::4], photometric="rgb", metadata=None, subfiletype=1)
        writer.write(PAGES[1], photometric="minisblack", metadata=None)
    data = file.getvalue()
    assert count_pages(data) == 2
    np.testing.assert_array_equal(open_photo(page_of(data, 2)).image[..., 0], PAGES[1])


BEYOND = b"II+\0\x08\0\0\0" + b"\xff" * 8  # a BigTIFF's offset may have 64 bits
OTHERS = [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", BEYOND, b"\x89PNG\r\n\x1a\n", document([PAGES[0]])]


@pytest.mark.parametrize("data", OTHERS)
def test_anything_else_has_one_page(data: bytes) -> None:
    """An offset of 64 bits was an OverflowError, at which the repair of a whole folder ended."""
    assert count_pages(data) == 1 and page_of(data, 1) == data


def test_pages_that_go_round_in_a_circle_end() -> None:
    data = bytearray(document(PAGES[:2]))
    first = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[first : first + 2], "little")
    second = int.from_bytes(data[first + 2 + 12 * count :][:4], "little")
    count = int.from_bytes(data[second : second + 2], "little")
    at = second + 2 + 12 * count
    data[at : at + 4] = data[4:8]
    assert 2 <= count_pages(bytes(data)) <= 3
