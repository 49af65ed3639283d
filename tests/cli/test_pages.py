"""`fftlama repair` and TIFFs of several pages: no page is lost, and none is repaired that nobody asked for."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.cli.test_repair import repair

GREEN = (0, 255, 0)

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def document(tmp_path: Path) -> Path:
    """Three pages of noise."""
    pages = np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "scan.tif") as writer:
        for page in pages:
            writer.write(page, photometric="rgb", metadata=None)
    return tmp_path / "scan.tif"


def hole(rows: slice) -> np.ndarray:
    mask = np.zeros((24, 32), np.uint8)
    mask[rows, 6:26] = 255
    return mask


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    Image.fromarray(hole(slice(4, 12))).save(tmp_path / "m.png")
    return tmp_path / "m.png"


def pages_of(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as file:
        return [page.asarray() for page in file.pages]


def painted(page: np.ndarray, mask: np.ndarray) -> np.ndarray:
    result = page.copy()
    result[mask > 127] = GREEN
    return result


def test_a_file_of_several_pages_is_refused_until_a_page_is_named(
    document: Path, mask: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second page was lost, with a remark about an animation."""
    assert repair(document, mask, tmp_path / "out.tif") == 1
    error = capsys.readouterr().err
    assert "3 pages" in error and "--page N" in error and not (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(("page", "chosen"), [("2", [1]), ("all", [0, 1, 2])])
def test_the_named_pages_are_repaired_and_the_others_kept(
    document: Path, mask: Path, tmp_path: Path, page: str, chosen: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert repair(document, mask, tmp_path / "out.tif", "--page", page) == 0
    before, after = pages_of(document), pages_of(tmp_path / "out.tif")
    assert len(after) == 3 and "first one" not in capsys.readouterr().err
    for number in range(3):
        expected = painted(before[number], hole(slice(4, 12))) if number in chosen else before[number]
        np.testing.assert_array_equal(after[number], expected)


@pytest.mark.parametrize("compression", ["jpeg", "group4"])
def test_a_page_that_is_not_repaired_stays_as_it_is_stored(
    mask: Path, tmp_path: Path, compression: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It was decoded and written anew: a page of a scan lost a little each time, one of a fax came back in 8 bits."""
    noise = np.random.default_rng(1).integers(0, 256, (3, 24, 32), dtype=np.uint8)
    pages = [Image.fromarray(page).convert("1" if compression == "group4" else "RGB") for page in noise]
    source, out = tmp_path / "scan.tif", tmp_path / "out.tif"
    pages[0].save(source, save_all=True, append_images=pages[1:], compression=compression)
    assert repair(source, mask, out, "--page", 2) == 0
    with tifffile.TiffFile(source) as before, tifffile.TiffFile(out) as after:
        assert len(after.pages) == 3
        for number in (0, 2):
            old, new = before.pages[number].aspage(), after.pages[number].aspage()
            assert (new.compression, new.bitspersample) == (old.compression, old.bitspersample)
            for one, other in zip(old.dataoffsets, new.dataoffsets, strict=True):
                size = old.databytecounts[old.dataoffsets.index(one)]
                assert source.read_bytes()[one : one + size] == out.read_bytes()[other : other + size]
    with Image.open(out) as opened:
        for number in (0, 2):
            opened.seek(number)
            with Image.open(source) as original:
                original.seek(number)
                assert np.array_equal(np.asarray(opened), np.asarray(original))


def test_each_page_may_have_a_mask_of_its_own(document: Path, tmp_path: Path) -> None:
    masks = [hole(slice(2, 5)), hole(slice(8, 11)), hole(slice(15, 20))]
    with tifffile.TiffWriter(tmp_path / "m.tif") as writer:
        for mask in masks:
            writer.write(mask, photometric="minisblack", metadata=None)
    assert repair(document, tmp_path / "m.tif", tmp_path / "out.tif", "--page", "all") == 0
    for before, mask, after in zip(pages_of(document), masks, pages_of(tmp_path / "out.tif"), strict=True):
        np.testing.assert_array_equal(after, painted(before, mask))


def test_one_page_can_become_a_picture(document: Path, mask: Path, tmp_path: Path) -> None:
    assert repair(document, mask, tmp_path / "out.png", "--page", "3") == 0
    expected = painted(pages_of(document)[2], hole(slice(4, 12)))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), expected)


def test_an_empty_mask_changes_no_byte(document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("L", (32, 24)).save(tmp_path / "empty.png")
    assert repair(document, tmp_path / "empty.png", tmp_path / "out.tif", "--page", "all") == 0
    assert (tmp_path / "out.tif").read_bytes() == document.read_bytes()
    assert "not_exact" not in capsys.readouterr().out


@pytest.mark.parametrize(("page", "words"), [("4", "asks for number 4"), ("all", "PNG holds one")])
def test_what_cannot_be_is_said(
    document: Path, mask: Path, tmp_path: Path, page: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repair(document, mask, tmp_path / "out.png", "--page", page) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("page", ["0", "-1", "x", "1.5", ""])
def test_a_page_is_a_number_from_one_or_all(document: Path, mask: Path, tmp_path: Path, page: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        repair(document, mask, tmp_path / "out.tif", f"--page={page}")
    assert stopped.value.code == 2


def test_a_folder_goes_on_behind_a_document(document: Path, mask: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    document.rename(folder / "a.tif")
    Image.new("RGB", (32, 24), (9, 9, 9)).save(folder / "b.png")
    assert repair(folder, mask, tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    assert repair(folder, mask, tmp_path / "out", "--page", "all") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.tif", "b.png"]
