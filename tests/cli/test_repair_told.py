"""What `fftlama repair` tells people and programs: rows, summary, report, plan; and several photos at once."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cli import main as cli
from tests.support.terminal import on_terminal

ROOT = Path(cli.__file__).parents[1]


class Engine:
    """Paints the hole green; `together` photos have to be in it at once before one comes out."""

    device = "cuda"

    def __init__(self, together: int = 1) -> None:
        self.calls = 0
        self._meeting = threading.Barrier(together)

    def repair(self, image: np.ndarray, mask: np.ndarray, **_options: Any) -> SimpleNamespace:
        self.calls += 1
        self._meeting.wait(30)
        result = image.copy()
        result[mask] = (0, 255, 0)
        return SimpleNamespace(image=result, patches=[1], notes=[])


# Such a one in a process that is killed: each photo takes a moment. Not that of this file, which would import pytest.
SLOW_PROGRAM = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from cli import main
from tests.support.green_engine import Engine
class Slow(Engine):
    def repair(self, *arguments, **options):
        time.sleep(0.1)
        return super().repair(*arguments, **options)
main.load_inpainter = lambda settings: Slow()
main.run()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """photos/ with six PNGs, one of them in a folder, and mask.png for all."""
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "c.png", "d.png", "sub/e.png", "f.png")):
        Image.fromarray(np.full((20, 24, 3), 40 * number, np.uint8)).save(tmp_path / "photos" / name)
    hole = np.zeros((20, 24), np.uint8)
    hole[5:10, 5:12] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    engine = Engine()
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: engine)
    return engine


def repair(folder: Path, *more: object) -> int:
    return cli.main(["repair", *map(str, (folder / "photos", folder / "mask.png", folder / "out", *more))])


def rows(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_programs_get_a_row_for_each_photo_and_a_summary(
    engine: Engine, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "photos" / "c.png").write_bytes(b"no picture")
    (folder / "out").mkdir()
    (folder / "out" / "b.png").write_bytes(b"there")
    assert repair(folder) == 1
    *told, summary = rows(capsys)
    assert [(Path(row["photo"]).name, row["state"]) for row in told] == [
        ("a.png", "repaired"), ("b.png", "there_already"), ("c.png", "failed"), ("d.png", "repaired"),
        ("f.png", "repaired"), ("e.png", "repaired"),
    ]  # fmt: skip
    assert told[0]["result"] == str(folder / "out" / "a.png") and told[0]["mask"] == str(folder / "mask.png")
    assert told[0]["seconds"] > 0 and "error" not in told[0] and "image" in told[2]["error"].lower()
    assert summary["summary"] == "4 repaired, 1 there already, 1 failed"
    assert (summary["repaired"], summary["there_already"], summary["failed"]) == (4, 1, 1)


def test_notes_of_a_result_are_in_its_row(engine: Engine, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("x.jpg", "y.jpg"):
        Image.new("RGB", (24, 20), (9, 99, 200)).save(folder / "photos" / name)
    assert repair(folder) == 0
    captured = capsys.readouterr()
    told = [json.loads(line) for line in captured.out.splitlines()]
    notes = {Path(row["photo"]).name: [note["code"] for note in row.get("notes", [])] for row in told if "photo" in row}
    assert notes["x.jpg"] == notes["y.jpg"] == ["not_exact"] and notes["a.png"] == []
    assert captured.err.count("\n") == 1, "people read once what is true of every JPEG"


def test_the_report_holds_every_row(engine: Engine, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "photos" / "c.png").write_bytes(b"")
    assert repair(folder, "--report", folder / "new" / "report.json") == 1
    *told, summary = rows(capsys)
    report = json.loads((folder / "new" / "report.json").read_bytes())
    assert report["photos"] == told and report["summary"] == summary["summary"] == "5 repaired, 1 failed"
    assert report["began"].startswith("20")


@pytest.mark.parametrize("name", ["photos/a.png", "mask.png", "out/a.png", "photos"])
def test_a_report_in_the_place_of_something_else_is_refused(
    engine: Engine, folder: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(folder)
    assert repair(folder, "--report", folder / name) == 2
    assert "--report" in capsys.readouterr().err and files(folder) == before and engine.calls == 0


def test_a_dry_run_tells_the_plan_and_touches_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: pytest.fail("the model was loaded"))
    (folder / "out").mkdir()
    (folder / "out" / "b.png").write_bytes(b"there")
    Image.new("P", (24, 20)).save(folder / "photos" / "g.gif")
    before = files(folder)
    assert repair(folder, "--dry-run", "--report", folder / "report.json") == 0
    assert files(folder) == before
    *told, summary = rows(capsys)
    states = {Path(row["photo"]).name: (row["state"], Path(row["result"]).name) for row in told}
    assert states["a.png"] == ("to_repair", "a.png") and states["b.png"] == ("there_already", "b.png")
    assert states["g.gif"] == ("to_repair", "g.gif.*") and summary["summary"] == "6 to repair, 1 there already"


def test_skip_done_leaves_a_single_result_alone_and_overwrite_does_not(engine: Engine, folder: Path) -> None:
    words = ["repair", str(folder / "photos" / "a.png"), str(folder / "mask.png"), str(folder / "a.png")]
    (folder / "a.png").write_bytes(b"there")
    assert cli.main([*words, "--skip-done"]) == 0 and (folder / "a.png").read_bytes() == b"there"
    assert cli.main(words) == 0 and (folder / "a.png").read_bytes() != b"there"
    with pytest.raises(SystemExit, match="2"):
        cli.main([*words, "--skip-done", "--overwrite"])


def test_several_photos_are_worked_on_at_once_and_told_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that lets nobody out before three are in would time out with fewer at once."""
    monkeypatch.setattr(cli, "load_inpainter", lambda _settings: Engine(together=3))
    assert repair(folder, "--jobs", 3) == 0
    names = [Path(row["photo"]).name for row in rows(capsys)[:-1]]
    assert names == ["a.png", "b.png", "c.png", "d.png", "f.png", "e.png"]
    for path in (folder / "out").rglob("*.png"):
        before = np.asarray(Image.open(folder / "photos" / path.relative_to(folder / "out")))
        after = np.asarray(Image.open(path))
        assert (after[5:10, 5:12] == (0, 255, 0)).all() and (after[10:] == before[10:]).all()


@pytest.mark.parametrize("number", ["0", "-1", "65", "many", "1.5"])
def test_an_impossible_number_of_jobs_is_refused(folder: Path, number: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        repair(folder, f"--jobs={number}")


@pytest.mark.slow
def test_after_a_kill_whole_results_are_there_and_the_next_run_does_the_rest(folder: Path) -> None:
    words = ["repair", str(folder / "photos"), str(folder / "mask.png"), str(folder / "out"), "--jobs", "1"]
    command = [sys.executable, "-c", SLOW_PROGRAM, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    until_s = time.monotonic() + 60
    while len(list((folder / "out").rglob("[a-f].png"))) < 2:
        assert process.poll() is None and time.monotonic() < until_s
        time.sleep(0.01)
    process.kill()
    process.wait()
    done = set((folder / "out").rglob("[a-f].png"))
    assert 2 <= len(done) < 6
    for path in done:
        Image.open(path).load()
    times = {path: path.stat().st_mtime_ns for path in done}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    summary = json.loads(again.stdout.splitlines()[-1])
    assert (summary["there_already"], summary["repaired"]) == (len(done), 6 - len(done))
    assert {path: path.stat().st_mtime_ns for path in done} == times


@pytest.mark.slow
def test_people_see_a_bar_sentences_and_a_summary_and_no_json(folder: Path) -> None:
    (folder / "photos" / "c.png").write_bytes(b"no picture")
    words = ["repair", str(folder / "photos"), str(folder / "mask.png"), str(folder / "out")]
    shown, code = on_terminal([sys.executable, "-c", SLOW_PROGRAM, *words], cwd=folder)
    assert code == 1
    assert "/6 [" in shown and "photo/s" in shown and "c.png: " in shown and "{" not in shown
    assert shown.rstrip().rpartition("\r")[2].strip().startswith("5 repaired, 1 failed, in 00:0")


@pytest.mark.slow
def test_people_see_the_plan_of_a_dry_run(folder: Path) -> None:
    words = ["repair", str(folder / "photos"), str(folder / "mask.png"), str(folder / "out"), "--dry-run"]
    shown, code = on_terminal([sys.executable, "-c", SLOW_PROGRAM, *words], cwd=folder)
    assert code == 0 and shown.count(" -> ") == 6 and "6 to repair" in shown


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_under_what_is_told_is_a_sentence(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert repair(folder) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "fftlama: stopped: No space left on device"


def test_closed_standard_output_stops_nothing(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `>&-`, in the crontabs of some: Python has no sys.stdout then."""
    monkeypatch.setattr(sys, "stdout", None)
    assert repair(folder) == 0


def test_a_result_that_cannot_be_written_is_said_in_words(
    engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_room(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cli.batch.write_atomically", no_room)
    assert repair(folder) == 1
    assert {row.get("error") for row in rows(capsys)[:-1]} == {"No space left on device"}
