"""What a bench says of a folder, file or checkout that is not there, or of too few photos: a sentence, no traceback."""

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.quality_sheet import write_credits

PHOTOS_AND_MASKS = ["--photos", "photos", "--masks", "masks"]
BLIND = ["make", *PHOTOS_AND_MASKS, "--old", "embedded", "--new", "embedded", "--pages", "pages", "--key", "key"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two photos in `photos`, and `masks` without any."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "masks", "empty"):
        (tmp_path / name).mkdir()
    for number in range(2):
        cv2.imwrite(str(tmp_path / "photos" / f"{number}.jpg"), np.full((40, 40, 3), 90, np.uint8))
    return tmp_path


def said(module: str, words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a bench ends in, which is no traceback."""
    monkeypatch.setattr("sys.argv", [module, *words])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"bench.{module}").main()
    return f"{ended.value.code} {capsys.readouterr().err}"


@pytest.mark.parametrize(
    ("module", "words", "told"),
    [
        ("pairs", PHOTOS_AND_MASKS, "30 pairs need 30 photos; the folder has 2"),
        ("pairs", ["--photos", "empty", "--masks", "masks"], "no photos in empty"),
        ("pairs", ["--photos", "gone", "--masks", "masks"], "gone is no folder"),
        ("pairs", ["--photos", "photos", "--masks", "gone"], "gone is no folder"),
        ("pairs", [*PHOTOS_AND_MASKS, "--weights", "gone"], "there is no file gone"),
        ("blind", BLIND, "is not a mask that can be read"),
        ("blind", ["score", "--key", "gone", "gone"], "there is no file gone"),
        ("quality", [*PHOTOS_AND_MASKS, "--features", "gone"], "there is no file gone"),
        ("quality_mixes", [*PHOTOS_AND_MASKS, "--features", "gone"], "there is no file gone"),
        ("quality_gap", [*PHOTOS_AND_MASKS, "--features", "gone", "--weights", "gone"], "there is no file gone"),
        ("large_holes_sheet", [*PHOTOS_AND_MASKS, "--sources", "gone"], "there is no file gone"),
        ("detection", ["--photos", "gone"], "gone is no folder"),
        ("onnx_parity", ["--weights", "gone"], "there is no file gone"),
        ("hostile_weights", ["--before", "empty"], "empty is no checkout of fftlama"),
        ("cases_before", ["empty"], "empty is no checkout of fftlama"),
        ("beside", ["empty"], "empty is no checkout of fftlama"),
        ("photo_steps", ["--beside", "empty"], "empty is no checkout of fftlama"),
        ("queue_rate", ["--beside", "empty"], "empty is no checkout of fftlama"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else one,
)
def test_what_is_not_there_is_said_in_a_sentence(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    words: list[str],
    told: str,
) -> None:
    """Most of these were tracebacks, some after minutes."""
    assert told in said(module, words, capsys, monkeypatch)


def test_a_photo_without_a_row_in_the_table_of_sources_is_named(folder: Path) -> None:
    table = folder / "sources.csv"
    table.write_text("file,author,licence,source_repo,commit,path\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"sources\.csv has no row for 0\.jpg"):
        write_credits(folder / "credits.txt", "Photos", {"1": folder / "photos" / "0.jpg"}, table)
