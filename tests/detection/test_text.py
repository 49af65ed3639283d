"""Finding text: lines written on real photos, whose pixels are known."""

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from detection import letters as letters_room
from detection.found import DetectionError
from detection.text import FoundText, find_text

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data"


def written(name: str, text: str, at: tuple[int, int], *, angle: float = 0.0, light: bool = True) -> tuple:
    """Return (image, letters), of (480, 640): text of OpenCV's own font on a photo. A smaller one is enlarged first."""
    image = np.asarray(Image.open(DATA / name).convert("RGB").resize((640, 480)))
    alpha: NDArray[Any] = np.zeros(image.shape[:2], np.uint8)
    cv2.putText(alpha, text, at, cv2.FONT_HERSHEY_DUPLEX, 1.0, 255, 2, cv2.LINE_AA)
    alpha = cv2.warpAffine(alpha, cv2.getRotationMatrix2D(at, angle, 1.0), alpha.shape[::-1])
    color = np.array((250, 250, 250) if light else (10, 10, 10))
    weight = alpha[..., None] / 255
    return (image * (1 - weight) + color * weight).round().astype(np.uint8), alpha > 20


@pytest.fixture(scope="module")
def caption() -> tuple[NDArray[np.uint8], NDArray[np.bool_], FoundText]:
    image, letters = written("pier.jpg", "Summer holidays", (60, 340))
    return image, letters, find_text(image)


@pytest.mark.slow
def test_letters_are_found_as_pixels_not_as_a_box(caption: tuple) -> None:
    _, letters, found = caption
    mask = found.select().mask
    assert (mask & letters).sum() > 0.9 * letters.sum()
    assert mask.sum() < 2.0 * letters.sum(), "a box would hold three times as many pixels"


def test_a_line_has_an_outline_and_a_score(caption: tuple) -> None:
    _, letters, found = caption
    regions = found.select().regions
    assert len(regions) == 1 and 0.5 < regions[0].score <= 1
    rows, columns = np.nonzero(letters)
    left, top = regions[0].polygon.min(axis=0)
    right, bottom = regions[0].polygon.max(axis=0)
    assert left < columns.min() + 4 and right > columns.max() - 4 and top < rows.min() + 4 and bottom > rows.max() - 4


def test_more_sensitive_never_finds_less(caption: tuple) -> None:
    _, _, found = caption
    masks = [found.select(s).mask for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(not (less & ~more).any() for less, more in pairwise(masks))


@pytest.mark.slow
def test_dark_turned_text_is_found() -> None:
    image, letters = written("pier.jpg", "For sale", (160, 150), angle=25, light=False)
    mask = find_text(image).select().mask
    assert (mask & letters).sum() > 0.85 * letters.sum()


def test_what_lies_behind_a_tall_line_is_blurred_at_reduced_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size a kernel of 2,300 pixels took a second of processor for each line of a large photo."""
    field = np.random.default_rng(0).uniform(0, 255, (90, 400)).astype(np.float32)
    exact = cv2.GaussianBlur(field, (0, 0), 58.0)
    widths, blur = [], cv2.GaussianBlur

    def noted(*arguments: Any, **others: Any) -> Any:
        widths.append(arguments[2])
        return blur(*arguments, **others)

    monkeypatch.setattr(cv2, "GaussianBlur", noted)
    assert np.abs(letters_room._blurred(field, 58.0) - exact).max() < 0.5
    assert max(widths) < 16


@pytest.mark.slow
def test_only_the_box_is_looked_in(caption: tuple) -> None:
    image, letters, _ = caption
    assert not find_text(image, box=(0, 0, 512, 200)).select().mask[200:].any()
    inside = find_text(image, box=(40, 290, 460, 370)).select().mask
    assert (inside & letters).sum() > 0.75 * letters.sum(), (
        "so close to its edges a box hides what lies behind the text"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "width_px"), [("pier.jpg", 640), ("flower.png", 160), ("skyline.jpg", 512)], ids=lambda value: str(value)
)
def test_a_photo_without_text_has_none(name: str, width_px: int) -> None:
    with Image.open(DATA / name) as photo:
        image = np.asarray(photo.convert("RGB").resize((width_px, photo.height * width_px // photo.width)))
    assert not find_text(image).select().mask.any()


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (33, 31)])
def test_tiny_photos_have_no_text(size: tuple[int, int]) -> None:
    assert not find_text(np.zeros((*size, 3), np.uint8)).select(1.0).mask.any()


def test_a_box_outside_and_a_wrong_sensitivity_are_refused(caption: tuple) -> None:
    image, _, found = caption
    with pytest.raises(DetectionError):
        find_text(image, box=(700, 0, 800, 10))
    with pytest.raises(DetectionError):
        found.select(float("nan"))


def test_looking_for_text_leaves_no_trace_of_who_looks(tmp_path: Path) -> None:
    """onnxruntime 1.32 wrote an id of the machine into the home folder and sent it to Microsoft with each session."""
    code = "import numpy, detection.text_network as t\nt.text_probability(numpy.zeros((32, 32, 3), numpy.uint8))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not list(tmp_path.iterdir())


def test_nothing_heavy_is_loaded_before_text_is_looked_for() -> None:
    code = "import sys, detection.text, detection.click, detection.repeat\nprint('onnxruntime' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
