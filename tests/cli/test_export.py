"""`fftlama export onnx`: the file, and what it refuses."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest

from cli import main as cli
from lama.catalogue import embedded_path
from lama.checkpoint import save_generator
from tests.support.networks import live_generator


def test_a_file_of_ones_own_is_exported(tmp_path: Path, capsys: Any) -> None:
    save_generator(live_generator(width=16, blocks=1), tmp_path / "mine.safetensors")
    target = tmp_path / "out" / "lama.onnx"
    target.parent.mkdir()
    assert cli.main(["export", "onnx", str(target), "--weights", str(tmp_path / "mine.safetensors")]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert {one.key: one.value for one in onnx.load(target).metadata_props}["weights"] == "mine"


@pytest.mark.parametrize(
    ("name", "weights", "code", "says"),
    [
        ("", "lama-compact", 2, "is a folder"),
        ("missing/lama.onnx", "lama-compact", 2, "there is no such folder"),
        ("lama.onnx", "big-lama", 1, "weights get big-lama"),
        ("lama.onnx", "nowhere.pt", 1, "does not exist"),
        ("photo.png", "photo.png", 2, "overwrite the weights"),
    ],
)
def test_what_can_not_be_exported_is_refused(
    name: str, weights: str, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(embedded_path(), tmp_path / "photo.png")
    assert cli.main(["export", "onnx", str(tmp_path / name), "--weights", weights, "--weights-dir", "."]) == code
    error = capsys.readouterr().err
    assert says in error and error.startswith("fftlama: ") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]


def test_without_the_package_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "onnx" else find(name, *rest))
    assert cli.main(["export", "onnx", str(tmp_path / "lama.onnx")]) == 2
    assert "uv pip install onnx" in capsys.readouterr().err
