"""`fftlama repair`: how a mask is named and read, text that is found in its place, and inputs that are none."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from cli import holes
from imaging import Photo
from tests.cli.test_repair import green, repair, write_mask
from tests.support.green_engine import Engine
from tests.support.imaging_files import DATA


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    rows, columns = np.mgrid[:24, :32].astype(np.uint8)
    path = tmp_path / "photos" / "a.png"
    Image.fromarray(np.stack([rows * 8, columns * 2, columns * 7], axis=2)).save(path)
    return path


def inverted(path: Path) -> Path:
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    return path


def layer(path: Path, size: tuple[int, int] = (24, 32)) -> Path:
    """A mask that is white paint on nothing."""
    alpha = np.asarray(Image.open(write_mask(path, size=size)))
    Image.fromarray(np.dstack([np.full((*size, 3), 255, np.uint8), alpha])).save(path)
    return path


def test_black_is_the_hole_where_asked(engine: Engine, photo: Path, tmp_path: Path) -> None:
    mask, plain, out = inverted(write_mask(tmp_path / "m.png")), tmp_path / "plain.png", tmp_path / "out.png"
    assert repair(photo, write_mask(tmp_path / "n.png"), plain) == 0
    assert repair(photo, mask, out, "--invert") == 0
    assert green(out) and np.array_equal(np.asarray(Image.open(out)), np.asarray(Image.open(plain)))
    assert repair(photo, layer(tmp_path / "layer.png"), tmp_path / "around.png", "--invert") == 0
    around = np.asarray(Image.open(tmp_path / "around.png"))
    assert (around[:3] == (0, 255, 0)).all() and not green(tmp_path / "around.png")
    speck = np.zeros((24, 32, 4), np.uint8)
    speck[5, 5] = 255
    Image.fromarray(speck).save(tmp_path / "speck.png")
    assert repair(photo, tmp_path / "speck.png", tmp_path / "no.png", "--invert") == 1  # all but the speck


@pytest.mark.parametrize("make", [write_mask, layer], ids=["opaque", "layer"])
def test_mask_of_another_size_is_brought_to_the_photos_where_asked(
    engine: Engine, photo: Path, tmp_path: Path, capsys: Any, make: Any
) -> None:
    twice = make(tmp_path / "m.png", size=(48, 64))
    Image.open(make(tmp_path / "s.png")).resize((64, 48), Image.Resampling.NEAREST).save(twice)
    assert repair(photo, twice, tmp_path / "out.png") == 1
    assert "they must be the same size" in capsys.readouterr().err
    assert repair(photo, twice, tmp_path / "out.png", "--fit-masks") == 0
    assert repair(photo, make(tmp_path / "s.png"), tmp_path / "same.png") == 0
    brought, same = (np.asarray(Image.open(tmp_path / name)) for name in ("out.png", "same.png"))
    assert green(tmp_path / "out.png") and np.array_equal(brought, same)
    assert repair(photo, make(tmp_path / "w.png", size=(24, 40)), tmp_path / "no.png", "--fit-masks") == 1
    assert "other proportions" in capsys.readouterr().err and not (tmp_path / "no.png").exists()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("words", [(), ("--fit-masks",), ("--invert",), ("--invert", "--fit-masks")])
def test_labels_of_0_and_1_are_understood_with_every_option(
    engine: Engine, photo: Path, tmp_path: Path, kind: type, words: tuple[str, ...]
) -> None:
    """With --fit-masks those of 16 bits became all black: nothing was repaired, and no word said so."""
    marked = np.asarray(Image.open(write_mask(tmp_path / "m.png"))) > 0
    labels: np.ndarray = (~marked if "--invert" in words else marked).astype(kind)
    if "--fit-masks" in words:
        labels = labels.repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    assert repair(photo, tmp_path / "m.png", tmp_path / "plain.png") == 0
    assert repair(photo, tmp_path / "labels.png", tmp_path / "out.png", *words) == 0
    plain, out = (np.asarray(Image.open(tmp_path / name)) for name in ("plain.png", "out.png"))
    assert np.array_equal(plain, out)
    assert green(tmp_path / "out.png")


def test_one_mask_for_all_is_decoded_once_and_another_is_not_taken_for_it(
    engine: Engine, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding it took a third of a photo's time."""
    opened: list[bytes] = []
    plain = holes.open_to_look_at

    def open_counted(data: bytes, **limits: Any) -> Photo:
        opened.append(data)
        return plain(data, **limits)

    monkeypatch.setattr(holes, "open_to_look_at", open_counted)
    for name in "bcdef":
        (photo.parent / f"{name}.png").write_bytes(photo.read_bytes())
    mask, out = write_mask(tmp_path / "m.png"), tmp_path / "out"
    assert repair(photo.parent, mask, out, "--jobs", 1) == 0
    assert len(opened) == 1 and all(green(path) for path in out.iterdir()) and len(list(out.iterdir())) == 6
    for words in ((), ("--invert",), ("--fit-masks",)):
        other = inverted(write_mask(tmp_path / "other.png")) if "--invert" in words else write_mask(tmp_path / "o.png")
        assert repair(photo.parent, other, tmp_path / f"out{words}", "--jobs", 1, *words) == 0
        assert all(green(path) for path in (tmp_path / f"out{words}").iterdir())
    no_hole = write_mask(tmp_path / "empty.png", holes=False)
    assert repair(photo, no_hole, tmp_path / "same.png") == 0
    assert (tmp_path / "same.png").read_bytes() == photo.read_bytes()


def test_of_a_photo_that_is_only_copied_no_loss_is_told(
    engine: Engine, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    """A GIF without a hole was said to be stored with full colours, though not a byte of it had changed."""
    gif, no_hole = tmp_path / "a.gif", write_mask(tmp_path / "empty.png", holes=False)
    Image.open(photo).convert("P").save(gif)
    for mask, state in ((no_hole, "unchanged"), (write_mask(tmp_path / "m.png"), "repaired")):
        assert repair(gif, mask, tmp_path / state / "out") == 0
        row = json.loads(capsys.readouterr().out.splitlines()[0])
        told = [note["code"] for note in row.get("notes", ())]
        assert row["state"] == state and told == ([] if state == "unchanged" else ["palette_converted"])
    assert (tmp_path / "unchanged" / "out" / "a.gif").read_bytes() == gif.read_bytes()


def test_lamas_own_names_are_masks_and_of_two_none_is_guessed(
    engine: Engine, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    write_mask(photo.with_name("a_mask001.png"))
    assert repair(photo.parent, photo.parent, tmp_path / "out") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"] and green(tmp_path / "out" / "a.png")
    write_mask(photo.with_name("a_mask002.png"))
    capsys.readouterr()
    assert repair(photo.parent, photo.parent, tmp_path / "two") == 1
    assert "a_mask001.png and a_mask002.png fit it equally well" in capsys.readouterr().err
    write_mask(photo.with_name("a_mask.png"))
    assert repair(photo.parent, photo.parent, tmp_path / "three") == 0, "a name without a number is the nearer one"


@pytest.mark.slow
def test_text_is_found_in_the_place_of_masks(engine: Engine, tmp_path: Path, capsys: Any) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    written = Image.new("RGB", (320, 160), (60, 90, 120))
    font = ImageFont.load_default(size=40)
    ImageDraw.Draw(written).text((40, 50), "SAMPLE", fill=(250, 250, 250), font=font)
    written.save(photos / "written.png")
    cv2.imwrite(str(photos / "dark.png"), np.asarray(written)[..., ::-1].astype(np.uint16) * 4)  # 10 bits of 16
    Image.new("RGB", (64, 48), (9, 9, 9)).save(photos / "plain.png")
    assert repair(photos, "--find", "text", out) == 0
    told = capsys.readouterr()
    assert json.loads(told.out.splitlines()[-1])["summary"] == "2 repaired, 1 with nothing to repair"
    assert "plain.png: No text was found" in told.err and "mask" not in told.err, "nobody gave a mask"
    assert "dark.png" not in told.err, "that it would be shown brighter is nothing to say where nothing is shown"
    dark = np.asarray(cv2.imread(str(out / "dark.png"), cv2.IMREAD_UNCHANGED))
    assert (dark != np.asarray(written)[..., ::-1].astype(np.uint16) * 4).any()
    changed = (np.asarray(Image.open(out / "written.png")) == (0, 255, 0)).all(axis=2)
    letters = (np.asarray(written) > 200).all(axis=2)
    assert changed[letters].mean() > 0.9 and not changed[:30].any() and not changed[130:].any()
    assert (out / "plain.png").read_bytes() == (photos / "plain.png").read_bytes()
    assert repair(photos, out, "--find=text", "--dry-run", "--overwrite") == 0
    assert '"mask": "text"' in capsys.readouterr().out
    assert repair(photos, out, "--find", "text", "--invert") == 2
    assert "takes the place of masks" in capsys.readouterr().err


def test_what_is_found_follows_the_sensitivity(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked: list[float] = []

    def select(sensitivity: float) -> SimpleNamespace:
        asked.append(sensitivity)
        mask = np.zeros((48, 64), np.bool_)
        mask[10:20, 10:20] = True
        return SimpleNamespace(mask=mask)

    monkeypatch.setattr("detection.text.find_text", lambda image: SimpleNamespace(select=select))
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (64, 48), (9, 9, 9)).save(photos / "a.png")
    for number, words in enumerate(((), ("--sensitivity", "0.9"), ("--sensitivity=0",))):
        assert repair(photos, tmp_path / f"out{number}", "--find", "text", *words) == 0
    assert asked == [0.5, 0.9, 0.0]
    assert repair(photos, photos, tmp_path / "out", "--sensitivity", "0.5") == 2
    assert "there is no --find" in capsys.readouterr().err
    for wrong in ("1.1", "-0.1", "nan", "much"):
        with pytest.raises(SystemExit):
            repair(photos, tmp_path / "out", "--find", "text", f"--sensitivity={wrong}")
        assert f"{wrong!r} is no number from 0 to 1" in capsys.readouterr().err


def test_a_photo_that_is_taken_for_text_is_refused_as_a_mask_of_all_of_it_is(
    engine: Engine, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Nothing was left to fill it from, and the result was a smear."""
    for height, status in ((24, 1), (22, 0)):
        mask = np.zeros((24, 32), np.bool_)
        mask[:height] = True
        found = SimpleNamespace(select=lambda sensitivity, mask=mask: SimpleNamespace(mask=mask))
        monkeypatch.setattr("detection.text.find_text", lambda image, found=found: found)
        out = tmp_path / f"out{height}"
        assert repair(photo.parent, "--find", "text", out) == status
        assert (out / "a.png").exists() == (status == 0)
    told = capsys.readouterr().err
    assert "a.png: nearly all of it was taken for text" in told and "--sensitivity" in told and "mask" not in told


def test_bad_input_is_a_sentence_and_the_rest_goes_on(engine: Engine, photo: Path, tmp_path: Path, capsys: Any) -> None:
    """A photo in the mask's place, a folder that can't be made, a link to nowhere, links that lead out and round."""
    masks, out, outside = tmp_path / "masks", tmp_path / "out", tmp_path / "outside"
    (photo.parent / "sub").mkdir()
    for name in ("b.png", "sub/c.png"):
        (photo.parent / name).write_bytes(photo.read_bytes())
        write_mask(masks / name)
    Image.open(DATA / "pier.jpg").resize((32, 24)).save(photo)
    (masks / "a.png").write_bytes(photo.read_bytes())
    outside.mkdir()
    (outside / "secret.png").write_bytes(photo.read_bytes())
    write_mask(masks / "away" / "secret.png")
    (photo.parent / "away").symlink_to(outside)
    (photo.parent / "round").symlink_to(photo.parent)
    (photo.parent / "nowhere.png").symlink_to(tmp_path / "none.png")
    write_mask(masks / "nowhere.png")
    out.mkdir()
    (out / "sub").write_text("a file where a folder is to be made")
    before = photo.read_bytes()
    assert repair(photo.parent, masks, out) == 1
    captured = capsys.readouterr()
    assert "a.png: The mask cannot be used" in captured.err and "c.png: " in captured.err
    assert "nowhere.png: " in captured.err and "Traceback" not in captured.err
    assert "1 repaired, 3 failed" in captured.out and green(out / "b.png")
    assert (out / "sub").read_text().startswith("a file") and photo.read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["b.png", "sub"], "nothing is followed out of the folder"
