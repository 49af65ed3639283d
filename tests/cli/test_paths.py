"""What people name on a command line, and what lies in their folders: pipes, links that lead round, names too long."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli import main as cli
from cli import run
from imaging.atomic_write import write_atomically
from tests.support.green_engine import Engine

TOO_LONG = "a" * 300


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with photos/a.png, m.png as its mask, a file `file` and a pipe `pipe.png`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save("photos/a.png")
    mask = np.zeros((24, 32), np.uint8)
    mask[4:18, 6:26] = 255
    Image.fromarray(mask).save("m.png")
    (tmp_path / "file").write_text("x")
    os.mkfifo("pipe.png")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("repair||m.png|out", "the path is empty"),
        ("repair|photos|m.png|", "the path is empty"),
        ("repair|photos||out", "the path is empty"),
        ("repair|photos|m.png|out|--report|", "the path is empty"),
        ("run|--image||--mask|m.png|--output|out", "the path is empty"),
        ("run|--image|photos|--mask|m.png|--output|", "the path is empty"),
        ("start|--input|", "the path is empty"),
        ("export|onnx|", "the path is empty"),
        ("repair|pipe.png|m.png|out", "pipe.png: there is no such photo"),
        ("repair|photos|pipe.png|out", "pipe.png: there is no such mask"),
        ("run|--image|pipe.png|--mask|m.png|--output|out", "pipe.png: there is no such file"),
        ("run|--image|photos|--mask|pipe.png|--output|out", "pipe.png: there is no such file"),
        (f"repair|{TOO_LONG}|m.png|out", "there is no such photo"),
        (f"repair|photos|{TOO_LONG}|out", "there is no such mask"),
        (f"repair|photos|m.png|{TOO_LONG}", "can't be written: File name too long"),
        (f"repair|photos/a.png|m.png|{TOO_LONG}/x.png", "can't be written: File name too long"),
        (f"repair|photos|m.png|out|--report|{TOO_LONG}/r.json", "can't be written: File name too long"),
        (f"run|--image|{TOO_LONG}|--mask|m.png|--output|out", "there is no such file"),
        (f"run|--image|photos|--mask|m.png|--output|{TOO_LONG}", "can't be written: File name too long"),
        ("repair|photos|m.png|file/out", "file/out can't be written: Not a directory"),
        ("repair|photos/a.png|m.png|file/out/x.png", "file/out can't be written: Not a directory"),
        ("repair|photos|m.png|out|--report|file/r.json", "file can't be written: "),
        ("run|--image|photos|--mask|m.png|--output|file/out", "file/out can't be written: Not a directory"),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_done(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: str, says: str
) -> None:
    """An empty path was the current folder, a pipe was waited for without end, and a long name was a traceback."""
    monkeypatch.setattr(run, "load_inpainter", lambda _settings: engine)
    try:
        code = cli.main(words.split("|"))
    except SystemExit as end:  # argparse's own
        code = end.code  # type: ignore[assignment]
    error = capsys.readouterr().err
    assert code == 2 and says in error and "Traceback" not in error and not engine.options


def test_pipes_and_links_that_lead_round_stop_nothing(engine: Engine, folder: Path, capsys: Any) -> None:
    """A folder with one was never finished, or not begun."""
    for name in ("pipe", "round"):
        (folder / "photos" / f"{name}_mask.png").write_bytes((folder / "m.png").read_bytes())
    (folder / "photos" / "a_mask.png").write_bytes((folder / "m.png").read_bytes())
    os.mkfifo("photos/pipe.jpg")
    (folder / "photos" / "round.jpg").symlink_to("round.jpg")
    assert cli.main(["repair", "photos", "photos", "out"]) == 1
    told = capsys.readouterr()
    assert "1 repaired, 2 failed" in told.out and "photos/pipe.jpg is no file" in told.err
    assert [path.name for path in (folder / "out").iterdir()] == ["a.png"]
    (folder / "photos" / "a_mask.png").unlink()
    os.mkfifo("photos/a_mask.png")
    assert cli.main(["repair", "photos", "photos", "out", "--overwrite"]) == 1
    assert "a_mask.png is no file" in capsys.readouterr().err


def test_what_is_there_already_needs_no_folder_that_can_be_written(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["repair", "photos", "m.png", "out"]) == 0
    monkeypatch.setattr("cli.repair.make_writable_folder", lambda *_: pytest.fail("nothing is to be written"))
    assert cli.main(["repair", "photos", "m.png", "out"]) == 0


def test_a_report_that_can_not_be_written_in_the_end_is_a_sentence(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It was a traceback in the place of the summary."""

    def write(path: Path, _data: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("cli.repair.write_atomically", write)
    assert cli.main(["repair", "photos", "m.png", "out", "--report", "r.json"]) == 1
    told = capsys.readouterr()
    assert "--report: r.json: No space left on device" in told.err and "1 repaired" in told.out


def test_what_a_killed_run_left_half_written_is_removed(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kill left a hidden file for good; one that another run may be writing stays."""
    monkeypatch.setattr(run, "load_inpainter", lambda _settings: engine)
    (folder / "out" / "sub").mkdir(parents=True)
    (folder / "photos" / "sub").mkdir()
    (folder / "photos" / "sub" / "b.png").write_bytes((folder / "photos" / "a.png").read_bytes())
    left = [folder / "out" / f".{'0' * 16}.part", folder / "out" / "sub" / f".{'1' * 16}.part"]
    fresh, other = folder / "out" / f".{'2' * 16}.part", folder / "out" / ".mine.part"
    for path in (*left, fresh, other):
        path.write_bytes(b"half")
    for path in (*left, other):
        os.utime(path, (1, 1))
    assert cli.main(["repair", "photos", "m.png", "out"]) == 0
    assert not any(path.exists() for path in left) and fresh.exists() and other.exists()
    left[0].write_bytes(b"half")
    os.utime(left[0], (1, 1))
    assert cli.main(["run", "--image", "photos", "--mask", "m.png", "--output", "out"]) == 0
    assert not left[0].exists() and fresh.exists()


def test_a_failed_write_names_the_file_that_people_know(folder: Path) -> None:
    """It named the hidden file that is renamed in the end."""
    with pytest.raises(OSError) as raised:
        write_atomically(folder / "nowhere" / "a.png", b"x")
    assert raised.value.filename == str(folder / "nowhere" / "a.png")
