"""Programs that import IOPaint or lama-cleaner, or run their commands, find fftlama behind the same names."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inference import Inpainter
from tests.support.serving import ROOT, RunningServer, clean_environment

SHIM = ROOT / "examples" / "iopaint_shim"
# As programs that remove watermarks write it.
IMPORTS = """
import sys
import cv2, numpy as np
from iopaint.model_manager import ModelManager
from iopaint.schema import HDStrategy, InpaintRequest, LDMSampler

image = cv2.cvtColor(cv2.imread(sys.argv[1]), cv2.COLOR_BGR2RGB)
mask = cv2.imread(sys.argv[2], cv2.IMREAD_GRAYSCALE)
model = ModelManager(name="lama", device="cpu", no_half=True, disable_nsfw=True)
config = InpaintRequest(
    ldm_steps=50, ldm_sampler=LDMSampler.ddim, hd_strategy=HDStrategy.CROP, hd_strategy_crop_margin=64,
    hd_strategy_crop_trigger_size=800, hd_strategy_resize_limit=1600,
)
assert config.hd_strategy == "Crop" and config.sd_seed == 42
result = model(image, mask, config)
assert result.dtype == np.uint8 and result.shape == image.shape
print(model.name)
"""
IOPAINT = IMPORTS + "cv2.imwrite(sys.argv[3], result)"  # BGR, as OpenCV wants it
OLD = IOPAINT.replace("iopaint", "lama_cleaner").replace("InpaintRequest", "Config")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """photo.png of 96 x 96 pixels and mask.png with a square hole."""
    Image.open(ROOT / "tests" / "data" / "flower.png").convert("RGB").crop((0, 0, 96, 96)).save(tmp_path / "photo.png")
    hole = np.zeros((96, 96), np.uint8)
    hole[30:60, 40:70] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    return {
        **clean_environment(),
        "PYTHONPATH": str(SHIM),
        "OMP_NUM_THREADS": "1",
        "http_proxy": "http://127.0.0.1:9",
        **more,
    }


def run_program(code: str, folder: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    words = [sys.executable, "-c", code, "photo.png", "mask.png", "result.png"]
    return subprocess.run(words, cwd=folder, env=environment(**more), capture_output=True, text=True)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_importing_programs_get_the_networks_fill(files: Path) -> None:
    """By IOPaint's names and by lama-cleaner's, in one process, since it takes seconds to import PyTorch."""
    done = run_program(IOPAINT + OLD.replace("sys.argv[3]", "'old.png'"), files)
    assert done.returncode == 0, done.stderr
    photo, hole = pixels(files / "photo.png"), pixels(files / "mask.png")[..., 0] == 255
    expected = Inpainter.load(device="cpu").repair(photo, hole, dilate_px=0).image
    for name in ("result.png", "old.png"):
        result = pixels(files / name)
        assert np.array_equal(result[~hole], photo[~hole])
        assert abs(result.astype(int) - expected).max() <= 2, "the same network in another process, other threads"


def test_with_an_address_a_server_repairs_and_no_network_is_loaded(files: Path, server: RunningServer) -> None:
    program = IOPAINT + "\nassert not {'torch', 'inference'} & set(sys.modules)"
    done = run_program(program, files, LAMA_SERVER_URL=server.url + "/")
    assert done.returncode == 0, done.stderr
    photo, hole = pixels(files / "photo.png"), pixels(files / "mask.png")[..., 0] == 255
    result = pixels(files / "result.png")
    assert np.array_equal(result[~hole], photo[~hole]) and not np.array_equal(result[hole], photo[hole])


def test_a_soft_mask_blends_and_an_empty_one_changes_nothing(files: Path, server: RunningServer) -> None:
    soft = np.zeros((96, 96), np.uint8)
    soft[30:60, 40:70] = 51
    Image.fromarray(soft).save(files / "mask.png")
    assert run_program(IOPAINT, files, LAMA_SERVER_URL=server.url).returncode == 0
    photo, result = pixels(files / "photo.png").astype(int), pixels(files / "result.png").astype(int)
    hole = soft > 0
    fill = photo.reshape(-1, 3).mean(axis=0).astype(int)  # the stand-in engine's
    assert abs(result[hole] - (photo[hole] * 0.8 + fill * 0.2)).max() <= 1
    Image.fromarray(soft * 0).save(files / "mask.png")
    assert run_program(IOPAINT, files, LAMA_SERVER_URL=server.url).returncode == 0
    assert np.array_equal(pixels(files / "result.png"), photo)


def test_a_mask_of_another_size_and_a_server_that_is_not_there_are_said(files: Path) -> None:
    Image.new("L", (40, 40), 255).save(files / "mask.png")
    done = run_program(IOPAINT, files, LAMA_SERVER_URL="http://127.0.0.1:9")
    assert "an image (H, W, 3) and a mask (H, W) are needed, got (96, 96, 3) and (40, 40)" in done.stderr
    Image.new("L", (96, 96), 255).save(files / "mask.png")
    done = run_program(IOPAINT, files, LAMA_SERVER_URL="http://127.0.0.1:9")
    assert "the server http://127.0.0.1:9/api/v1/inpaint can't be reached" in done.stderr


def test_the_commands_are_fftlamas(files: Path, tmp_path: Path) -> None:
    """A plug-in for GIMP runs `iopaint run …`, programs around darktable `python -m iopaint start …`.

    It is `fftlama run` that runs, and this its only test with the real network: outside the mask all is as it was.
    """
    path = f"{SHIM / 'bin'}{os.pathsep}{os.environ['PATH']}"
    words = ["iopaint", "run", "--model", "lama", "--device", "cpu", "--image", "photo.png", "--mask", "mask.png"]
    done = subprocess.run(
        [*words, "--output", "out"], cwd=files, env=environment(PATH=path, FFTLAMA_WEIGHTS="lama-compact"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (files / "out").iterdir()] == ["photo.png"]
    changed = (pixels(files / "photo.png") != pixels(files / "out" / "photo.png")).any(axis=2)
    hole = pixels(files / "mask.png")[..., 0] == 255
    assert changed[hole].mean() > 0.5 and not changed[~hole].any()
    helps = [["lama-cleaner", "--help"], [sys.executable, "-m", "iopaint", "start", "--help"]]
    for command in helps:
        told = subprocess.run(command, env=environment(PATH=path), capture_output=True, text=True)
        assert told.returncode == 0 and "--output-dir" in told.stdout, told.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--image", "a"], ["run", "--image", "a"]),
        (["download", "--model", "lama"], ["weights", "get", "big-lama"]),
        (["download", "--model-dir", "/models", "--model=anime-lama"], ["weights", "get", "anime-lama"]),
        (["list"], ["weights", "list"]),
        (["install-plugins-packages"], None),
        ([], None),
    ],
)
def test_each_command_has_one_of_fftlamas_or_is_refused(arguments: list[str], words: list[str] | None) -> None:
    code = f"import json; from iopaint.__main__ import *; print(json.dumps(words_for_fftlama({arguments!r})))"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    if words is None:
        assert done.returncode == 1 and "there are: start, run, download, list" in done.stderr
    else:
        assert json.loads(done.stdout) == words


def test_a_copy_elsewhere_says_that_it_is_one(files: Path) -> None:
    """It ended in a traceback about a module of fftlama's."""
    shutil.copytree(SHIM, files / "shim")
    variables = environment(PYTHONPATH=str(files / "shim"))
    for words in (["-m", "iopaint", "list"], ["-c", "import iopaint.model_manager as m; m.ModelManager()"]):
        done = subprocess.run([sys.executable, *words], cwd=files, env=variables, capture_output=True, text=True)
        assert done.returncode == 1 and "is not fftlama's folder" in done.stderr
