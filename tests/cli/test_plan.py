"""Which mask a photo gets and where its result goes: mixed-up names, two photos with one result, long names."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.plan import BatchError, plan_tasks
from tests.cli.test_repair import repair

GREEN = (0, 255, 0)

pytestmark = pytest.mark.usefixtures("engine")


def save(
    folder: Path, name: str, level: int = 90, *, format: str | None = None, size: tuple[int, int] = (24, 32)
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 24), (level, level, level)).save(folder / name, format=format)
    return folder / name


def mask_for(path: Path, rows: slice = slice(4, 12)) -> Path:
    mask = np.zeros((24, 32), np.uint8)
    mask[rows, 6:26] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path)
    return path


def touched(folder: Path, names: Sequence[str]) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return folder


def masks_of(folder: Path) -> dict[str, str | None]:
    tasks = plan_tasks(folder / "photos", folder / "masks", folder / "out")
    return {task.photo.name: task.mask.name if task.mask and not task.doubt else None for task in tasks}


def test_a_mask_of_exactly_the_photos_name_comes_first(tmp_path: Path) -> None:
    """With a.png and a.jpg in both folders, a.png got the mask of a.jpg, and nobody was told."""
    names = ("a.jpg", "a.png", "X.png", "x.png")
    touched(tmp_path / "photos", names)
    touched(tmp_path / "masks", names)
    assert masks_of(tmp_path) == {name: name for name in names}


def test_a_stem_in_the_same_letters_comes_before_one_in_others(tmp_path: Path) -> None:
    touched(tmp_path / "photos", ["X.jpg", "x.jpg", "y.jpg"])
    touched(tmp_path / "masks", ["X.png", "x.png", "Y.png"])
    assert masks_of(tmp_path) == {"X.jpg": "X.png", "x.jpg": "x.png", "y.jpg": "Y.png"}


@pytest.mark.parametrize("names", [("a.png", "a.webp"), ("a_mask.png", "a_mask.gif")])
def test_two_masks_that_fit_one_photo_are_said_and_the_rest_goes_on(
    tmp_path: Path, names: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """One of them was taken, which one the file system decided."""
    save(tmp_path / "photos", "a.jpg")
    save(tmp_path / "photos", "b.png")
    mask_for(tmp_path / "masks" / "b.png")
    for name in names:
        mask_for(tmp_path / "masks" / name)
    assert repair(tmp_path / "photos", tmp_path / "masks", tmp_path / "out") == 1
    captured = capsys.readouterr()
    assert all(name in captured.err for name in names) and "1 repaired, 1 failed" in captured.out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    with pytest.raises(BatchError, match="equally well"):
        plan_tasks(tmp_path / "photos" / "a.jpg", tmp_path / "masks", tmp_path / "out")


def test_every_photo_has_a_result_of_its_own(tmp_path: Path) -> None:
    """x.gif becomes x.gif.png, which was another photo's result too: one of the two was lost."""
    save(tmp_path / "photos", "x.gif", 40)
    save(tmp_path / "photos", "x.gif.png", 90)
    save(tmp_path / "photos", "x.gif_2.png", 140)
    save(tmp_path / "photos", "y.jpg", 190, format="GIF")  # not what its name says
    save(tmp_path / "photos", "y.jpg.png", 240)
    mask, out = mask_for(tmp_path / "m.png"), tmp_path / "out"
    for _ in range(2):  # and the second run finds each of them
        assert repair(tmp_path / "photos", mask, out) == 0
        found = {path.name: int(np.asarray(Image.open(path).convert("L"))[0, 0]) for path in out.iterdir()}
        expected = {"x.gif_3.png": 40, "x.gif.png": 90, "x.gif_2.png": 140, "y.jpg_2.png": 190, "y.jpg.png": 240}
        assert found == expected


def test_finished_counts_only_for_its_own_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """a.jpg.png was finished before a.jpg came, and a.jpg counted as done."""
    photos, mask, out = tmp_path / "photos", mask_for(tmp_path / "m.png"), tmp_path / "out"
    save(photos, "a.jpg.png")
    assert repair(photos, mask, out) == 0
    save(photos, "a.jpg")
    assert repair(photos, mask, out) == 0
    assert "1 repaired, 1 there already" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"a.jpg", "a.jpg.png"}
    (photos / "a.jpg.png").unlink()  # gone from the folder: its result is still not the other's
    (out / "a.jpg").unlink()
    assert repair(photos, mask, out) == 0
    assert "1 repaired" in capsys.readouterr().out and (out / "a.jpg").is_file()


@pytest.mark.parametrize("letter", ["L", "照", "é"])
def test_names_up_to_255_bytes_work_and_none_stops_a_folder(
    tmp_path: Path, letter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """From 251 bytes on a traceback ended the folder; from 244 on the photo failed for its part file."""
    photos, mask, out = tmp_path / "photos", mask_for(tmp_path / "m.png"), tmp_path / "out"
    width = len(letter.encode())
    lengths = {length - (length - 4) % width for length in (243, 244, 250, 251, 252, 255)}
    names = {letter * ((length - 4) // width) + ".png" for length in lengths} | {"a.png", "z.png"}
    for name in names:
        save(photos, name)
    assert repair(photos, mask, out) == 0
    assert {path.name for path in out.iterdir()} == names
    assert repair(photos, mask, out) == 0
    assert f"{len(names)} there already" in capsys.readouterr().out


def test_long_names_that_get_another_ending_are_cut_and_stay_apart(tmp_path: Path) -> None:
    photos, mask, out = tmp_path / "photos", mask_for(tmp_path / "m.png"), tmp_path / "out"
    for level, last in enumerate("ab"):
        save(photos, "L" * 250 + last + ".gif", level * 90)
    for _ in range(2):
        assert repair(photos, mask, out) == 0
        results = sorted(out.iterdir())
        assert {int(np.asarray(Image.open(path).convert("L"))[0, 0]) for path in results} == {0, 90}
        assert len(results) == 2 and all(len(path.name) <= 255 and path.suffix == ".png" for path in results)


def test_a_name_that_is_no_text_or_moves_the_cursor_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, mask, out = tmp_path / "photos", mask_for(tmp_path / "m.png"), tmp_path / "out"
    save(photos, "a.png")
    odd = [b"\xff\xfe.png", b"\x1b[2Jb\nc.png"]
    for name in odd:
        os.link(photos / "a.png", os.path.join(os.fsencode(photos), name))  # noqa: PTH118
    (photos / "broken\x1b[31m.png").write_bytes(b"no picture")
    assert repair(photos, mask, out) == 1
    captured = capsys.readouterr()
    assert set(os.listdir(os.fsencode(out))) == {b"a.png", *odd}  # noqa: PTH208
    assert "\x1b" not in captured.err and "3 repaired, 1 failed" in captured.out


def test_no_result_replaces_a_photo_or_a_mask_of_another(tmp_path: Path) -> None:
    save(tmp_path / "photos", "a.jpg")
    save(tmp_path / "photos", "b.jpg")
    for name in ("a.jpg", "b_mask.png", "b.jpg"):
        mask_for(tmp_path / "masks" / name)
    with pytest.raises(BatchError, match="would overwrite"):
        plan_tasks(tmp_path / "photos", tmp_path / "masks", tmp_path / "masks")
    save(tmp_path / "mixed", "x.gif")
    mask_for(tmp_path / "mixed" / "x.gif.png")
    (task,) = plan_tasks(tmp_path / "mixed" / "x.gif", tmp_path / "mixed" / "x.gif.png", tmp_path / "elsewhere")
    assert task.target_for(".png").name == "x.gif.png"
