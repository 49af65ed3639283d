"""The eye test keeps its secret, shows each fill where the key says, and counts votes rightly."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from bench import blind

SIDE_PX = 64
RED, BLUE = (255, 0, 0), (0, 0, 255)
MAKE = "make --photos . --masks . --old embedded --new embedded"


def paint(colour: tuple[int, int, int]) -> blind.Fill:
    def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        result = image.copy()
        result[hole] = colour
        return result

    return fill


@pytest.fixture
def folders(tmp_path: Path) -> tuple[list[Path], Path]:
    """Six grey photos, with a hole of either kind for each but the last, which has a thick one only."""
    photos = []
    for number in range(6):
        photos.append(tmp_path / f"{number}.png")
        cv2.imwrite(str(photos[-1]), np.full((SIDE_PX, SIDE_PX, 3), 40 + number, np.uint8))
        for kind in blind.KINDS:
            mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
            mask[20:40, 20:40] = 255 * (number < 5 or kind == "thick")
            (tmp_path / "masks" / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / "masks" / kind / f"{number}.png"), mask)
    return photos, tmp_path / "masks"


def test_large_holes_are_chosen_once_each_and_the_same_for_a_seed(folders: tuple[list[Path], Path]) -> None:
    photos, masks = folders
    chosen, again, other = (
        [(case.photo, case.kind) for case in blind.choose_cases(photos, masks, 11, seed=seed)] for seed in (3, 3, 4)
    )
    assert chosen == again != other
    assert len(set(chosen)) == 11
    with pytest.raises(SystemExit, match="have 11"):
        blind.choose_cases(photos, masks, 12, seed=3)


def test_pages_show_the_new_fill_on_the_keys_side_and_name_nothing(
    folders: tuple[list[Path], Path], tmp_path: Path
) -> None:
    photos, masks = folders
    cases = blind.choose_cases(photos, masks, 8, seed=1)
    pages = tmp_path / "pages"
    key = blind.make_pages(cases, paint(BLUE), paint(RED), pages, seed=1)
    assert sorted(file.name for file in pages.iterdir()) == ["answers.csv", "page-01.png", "page-02.png", "page-03.png"]
    assert (pages / "answers.csv").read_text(encoding="utf-8").splitlines() == [
        "pair,choice",
        *(f"{n}," for n in range(1, 9)),
    ]
    assert sorted(row["new"] for row in key) == ["A"] * 4 + ["B"] * 4
    seen: list[str] = []
    for page in sorted(pages.glob("*.png")):
        with Image.open(page) as opened:
            assert not opened.info
            picture = np.asarray(opened)
        count = min(blind.ROWS_PER_PAGE, 8 - len(seen))
        for row in np.array_split(picture, count):
            third = row.shape[1] // 3
            a, b = (row[:, third * n : third * (n + 1)].reshape(-1, 3) for n in (1, 2))
            reds = [int((side == RED).all(1).sum()) for side in (a, b)]
            assert min(reds) == 0 < max(reds)
            seen.append("A" if reds[0] else "B")
    assert seen == [row["new"] for row in key]


def test_votes_are_counted_by_the_key(tmp_path: Path) -> None:
    pairs = [{"pair": n, "photo": "x", "kind": "thick", "new": side} for n, side in enumerate("ABAB", start=1)]
    key = tmp_path / "key.json"
    key.write_text(json.dumps({"old": "o", "new": "n", "pairs": pairs}), encoding="utf-8")
    sheets = []
    for name, choices in (("one", "ABBA"), ("two", "AB=a")):
        sheets.append(tmp_path / f"{name}.csv")
        sheets[-1].write_text(
            "pair,choice\n" + "".join(f"{n},{c}\n" for n, c in enumerate(choices, start=1)), encoding="utf-8"
        )
    table = blind.report(key, sheets)
    assert "| one | all holes | 2 | 2 | 0 | 50% |" in table
    assert "| two | all holes | 2 | 1 | 1 | 62% |" in table
    assert "| all | all holes | 4 | 3 | 1 | 56% |" in table
    assert "chose the same on 75%" in table


def test_an_answer_sheet_with_a_gap_is_refused(tmp_path: Path) -> None:
    sheet = tmp_path / "answers.csv"
    sheet.write_text("pair,choice\n1,A\n2,\n3,C\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"\[2, 3\]"):
        blind.read_answers(sheet, 3)


def test_the_key_among_the_pages_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        blind.parse_arguments(f"{MAKE} --pages {tmp_path} --key {tmp_path}/key.json".split())
    assert "would see it" in capsys.readouterr().err


def test_the_interval_is_wilsons() -> None:
    """Of 60 votes 45: 0.735 +- 0.107 (Wilson 1927)."""
    pairs: list[dict[str, str | int]] = [{"pair": n, "new": "A"} for n in range(1, 61)]
    seen = blind.count_votes(pairs, [{n: "A" if n <= 45 else "B" for n in range(1, 61)}])
    assert (seen.new, seen.old, seen.draws) == (45, 15, 0)
    assert (round(seen.low, 3), round(seen.high, 3)) == (0.628, 0.842)
