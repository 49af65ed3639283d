"""The training's command: what it can't use is said before masks are drawn, and what was trained is not lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import training.train as train_command
from imaging.atomic_write import write_atomically
from lama.generator import Generator
from tests.training.test_critic import random_features
from training.photos import UnusablePhotoError, find_photos, read_photo
from training.state import saved_figures

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "tests" / "data" / "skyline.jpg"
STAGE = {"until": 1.0, "side_px": 64, "batch": 1, "adversarial": 0.0}
RECIPE = {"width": 8, "blocks": 1, "critic_base": 16, "stages": [STAGE]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, weights that fit, and others that do not."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "photos").mkdir()
    shutil.copy(PHOTO, folder / "photos")
    random_features(folder)
    torch.save([1], folder / "list.pth")
    (folder / "torn").write_bytes(b"half of it")
    save_file({"a": torch.ones(1)}, folder / "another")
    save_file(Generator(8, 2).state_dict(), folder / "deeper")
    save_file(Generator(12, 1).state_dict(), folder / "wider")
    (folder / "torn.csv").write_bytes(b"\xae\xff")
    (folder / "columns.csv").write_text("name,from\n1,2\n")
    return folder


def words(files: Path, state: Path, *more: str, recipe: object = RECIPE) -> list[str]:
    given = ["--photos", str(files / "photos"), "--features", str(files / "features.pth"), "--state", str(state)]
    return [*given, "--masks", "40", "--workers", "1", "--report-every", "5", "--recipe", json.dumps(recipe), *more]


@pytest.fixture
def run(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run the command in this process and return its status; the state is `tmp_path / "state"`."""

    def once(*more: str, recipe: object = RECIPE) -> int:
        monkeypatch.setattr(sys, "argv", ["train", *words(files, tmp_path / "state", *more, recipe=recipe)])
        try:
            train_command.main()
        except SystemExit as ended:
            assert isinstance(ended.code, int)
            return ended.code
        return 0

    return once


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--photos", "gone"), "no photos below"),
        (("--features", "gone"), "no such file"),
        (("--features", "torn"), "is not SqueezeNet"),
        (("--features", "list.pth"), "is not SqueezeNet"),
        (("--start", "torn"), "--start"),
        (("--start", "another"), "no LaMa generator"),
        (("--start", "deeper"), "2 blocks"),
        (("--start", "wider"), "another network than width 8"),
        (("--guide", "deeper"), "another network than width 8 with 1 blocks"),
        (("--teacher", "another"), "is not there"),
        (("--start-critic", "another"), "holds no critic"),
        (("--start-critic", "torn"), "can't be read"),
        (("--sources", "torn.csv"), "can't be read as a table"),
        (("--sources", "columns.csv"), "has no column 'file'"),
        (("--state", "another"), "is no folder"),
        (("--masks", "0"), "from 1 to"),
        (("--workers", "0"), "from 1 up"),
        (("--budget", "0"), "from 1 up"),
        (("--budget", "nan"), "from 1 up"),
        (("--report-every", "0"), "from 1 up"),
        (("--steps", "-3"), "from 0 up"),
        (("--seed", "99999999999999999999"), "from 0 to"),
    ],
)
def test_what_training_cannot_use_is_said_before_masks_are_drawn(
    run: Callable[..., int],
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, str],
    told: str,
) -> None:
    """A wrong folder was said after minutes of drawing masks, and a wrong file or number by a traceback."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(train_command, "draw_bank", lambda *_: pytest.fail("masks were drawn for nothing"))
    assert run(*more) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stages": []}, "stages has none"),
        ({"stages": [{**STAGE, "side_px": 68}]}, "side_px is a multiple of 8 from 64 to 512, not 68"),
        ({"stages": [{**STAGE, "side_px": 600}]}, "side_px"),
        ({"stages": [{**STAGE, "side_px": 40}]}, "side_px"),
        ({"stages": [{**STAGE, "batch": 0}]}, "batch is a whole number from 1 up, not 0"),
        ({"stages": [{**STAGE, "batch": 2.5}]}, "batch is a whole number"),
        ({"stages": [{**STAGE, "until": "1"}]}, "until is a number from 0 to 1, not '1'"),
        ({"stages": 5}, "can't be used"),
        ({"width": 0}, "width is a whole number from 1 up, not 0"),
        ({"blocks": -1}, "blocks"),
        ({"rate": float("nan")}, "rate is a number from 0 up, not nan"),
        ({"rate": "x"}, "rate"),
        ({"muon": 1}, "muon is true or false, not 1"),
        ({"coarse_px": 16}, "coarse_px is odd"),
        ({"perceptual_every": 0}, "perceptual_every"),
        ({"perceptual_share": 2}, "perceptual_share is a number from 0 to 1"),
        ({"warmup_steps": 0}, "warmup_steps"),
        ({"teacher": {"gain": "a"}}, "teacher's gain"),
    ],
)
def test_a_recipe_that_nothing_can_be_trained_by_is_refused(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], change: dict[str, object], told: str
) -> None:
    """With most of these the training ended in a traceback of some layer; by a rate of NaN all weights became NaN."""
    assert run(recipe={**RECIPE, **change}) == 2
    assert told in capsys.readouterr().err


def test_a_photo_that_was_cut_off_is_none(tmp_path: Path) -> None:
    """Of one the missing part was learnt, grey; a folder called like a photo ended the training."""
    (tmp_path / "folder.jpg").mkdir()
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(PHOTO.read_bytes()[:20_000])
    assert find_photos(tmp_path) == [torn]
    for data in (torn.read_bytes(), b"", b"no photo"):
        torn.write_bytes(data)
        with pytest.raises(UnusablePhotoError, match=r"torn\.jpg is not a readable photo"):
            read_photo(torn)
    shutil.copy(PHOTO, torn)
    assert read_photo(torn).shape == (288, 512, 3)


@pytest.mark.slow
def test_a_state_that_cannot_be_gone_on_from_is_said_and_stays(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, state = tmp_path / "whole", tmp_path / "state"
    assert run("--steps", "2") == 0
    state.rename(whole)
    damages: dict[str, Callable[[], object]] = {
        "state.json can't be read": lambda: (state / "state.json").write_bytes(b"\xae half"),
        "how many steps": lambda: (state / "state.json").write_text("[]"),
        "by which recipe": lambda: (state / "state.json").write_text('{"steps": 2}'),
        "critic-2.safetensors": lambda: (state / "critic-2.safetensors").unlink(),
        "master-2.safetensors": lambda: (state / "master-2.safetensors").write_bytes(b"half of it"),
    }
    for told, damage in damages.items():
        shutil.copytree(whole, state)
        damage()
        before = {path.name: path.read_bytes() for path in state.iterdir()}
        capsys.readouterr()
        assert run("--steps", "2") == 2
        said = capsys.readouterr().err
        assert told in said and "averaged.safetensors" in said
        assert {path.name: path.read_bytes() for path in state.iterdir()} == before
        shutil.rmtree(state)
    shutil.copytree(whole, state)
    for change in ({"critic_base": 8}, {"muon": False}):
        assert run("--steps", "2", recipe={**RECIPE, **change}) == 2
        assert "of another network" in capsys.readouterr().err
    begun_anew = ("--start", str(whole / "averaged.safetensors"), "--steps", "1")
    shutil.rmtree(state)
    assert run(*begun_anew) == 0, "what the sentence advises works"


@pytest.mark.slow
@pytest.mark.parametrize("refused", [1, 1000])
def test_a_full_disk_does_not_end_a_training(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refused: int,
) -> None:
    """A save that failed ended the training, and what it had written of the new state took the rest of the disk."""
    tried: list[Path] = []

    def full_disk(path: Path, data: bytes) -> None:
        tried.append(path)
        if len(tried) <= refused:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_atomically(path, data)

    monkeypatch.setattr("training.state.write_atomically", full_disk)
    assert run("--steps", "16", "--save-every", "0") == (0 if refused == 1 else 1)
    told = capsys.readouterr()
    assert "the state at step 8 could not be saved: No space left on device" in told.out
    saved = saved_figures(tmp_path / "state")
    if refused == 1:
        assert saved is not None and saved["steps"] == 16
    else:
        assert "error: [Errno 28] No space left" in told.err and "Traceback" not in told.err
        assert [path.name for path in (tmp_path / "state").iterdir()] == ["log.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_is_ended_goes_on(run: Callable[..., int], files: Path, tmp_path: Path, number: int) -> None:
    """Ctrl+C and SIGTERM lost all steps since the last save, with a traceback; a kill loses no more than those."""
    state = tmp_path / "state"
    every = "0" if number == signal.SIGKILL else "1000"
    command = [sys.executable, "-m", "training.train", *words(files, state, "--save-every", every)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=said)
    log, until_s = state / "log.jsonl", time.monotonic() + 120
    while not (log.is_file() and log.read_text().count('"progress"') >= 2):
        assert process.poll() is None and time.monotonic() < until_s, (tmp_path / "said").read_text()
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(60) == (-number if number == signal.SIGKILL else 0)
    assert "Traceback" not in (tmp_path / "said").read_text()
    first = saved_figures(state)
    assert first is not None and first["steps"] >= (8 if number == signal.SIGKILL else 10)
    assert run("--steps", "3") == 0
    second = saved_figures(state)
    assert second is not None and second["steps"] == first["steps"] + 3
    assert not list(state.glob("*.part")) and not list(state.glob(".*.part"))
    assert np.isfinite(second["seconds"])
