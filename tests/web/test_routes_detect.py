"""POST /api/v1/detect against a real server: what is found, on photos and rounds, and what is refused."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.serving import RunningServer, ask_repair, follow, upload
from web.words import load_strings

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as client:
        yield client


@pytest.fixture
def image_id(client: httpx.Client) -> str:
    image = np.asarray(Image.open(DATA / "pier.jpg").convert("RGB")).copy()
    draw_mark(image[100:160, 200:300])
    return str(upload(client, png(image))["image_id"])


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def draw_mark(place: np.ndarray) -> None:
    """A red plate with two white bars."""
    place[:] = (220, 20, 40)
    place[10:50, 15:30] = place[25:50, 50:90] = 250


def detect(client: httpx.Client, **body: Any) -> tuple[np.ndarray, list[dict[str, Any]]]:
    answer = client.post("/api/v1/detect", json=body)
    assert answer.status_code == 200, answer.text
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["mask_png"])))
    assert picture.mode == "L" and not picture.point(lambda level: level % 255).getbbox()
    return np.asarray(picture) > 127, answer.json()["regions"]


def test_a_click_selects_on_a_photo_and_on_a_round(client: httpx.Client, image_id: str) -> None:
    round_id = follow(client, ask_repair(client, image_id))["image_id"]
    for where in (image_id, round_id):
        mask, regions = detect(client, image_id=where, kind="click", points=[[240, 115, True]])
        assert mask.shape == (384, 512) and mask[102:158, 202:212].all() and mask.sum() < 6200
        assert len(regions) == 1 and set(regions[0]) == {"polygon", "score"} and len(regions[0]["polygon"][0]) == 2


@pytest.mark.parametrize("kind", ["click", "repeat", "spots"])
def test_a_photo_of_10_bits_in_16_is_looked_at_as_it_is_shown(client: httpx.Client, kind: str) -> None:
    """It was looked at as it is stored, four shades of black, and hardly anything was found."""
    image = np.full((300, 400), 150, np.uint16) + np.random.default_rng(0).integers(0, 4, (300, 400), np.uint16)
    image[50:53, 60:63] = 20
    for top, left in ((100, 50), (200, 250)):
        image[top : top + 40, left : left + 90] = 60
        image[top + 8 : top + 32, left + 10 : left + 25] = image[top + 25 : top + 32, left + 40 : left + 80] = 240
    asked: dict[str, dict[str, Any]] = {
        "click": {"points": [[90, 106, True]]}, "repeat": {"box": [50, 100, 140, 140]}, "spots": {},
    }  # fmt: skip
    found = []
    for pixels in (image * 4, (image * 257)):
        uploaded = upload(client, png(pixels))["image_id"]
        found.append(detect(client, image_id=uploaded, kind=kind, **asked[kind])[0])
    expected = {"click": np.s_[102:106, 80:130], "repeat": np.s_[205:235, 262:270], "spots": np.s_[50:53, 60:63]}[kind]
    assert found[1][expected].all() and found[0][expected].all()
    assert (found[0] != found[1]).mean() < 0.01


def test_text_is_looked_for_in_a_box(client: httpx.Client, image_id: str) -> None:
    mask, regions = detect(client, image_id=image_id, kind="text", box=[0, 0, 120, 90], sensitivity=0.2)
    assert mask.shape == (384, 512) and isinstance(regions, list)


def test_spots_are_found_and_another_sensitivity_chooses_among_them(client: httpx.Client) -> None:
    image = np.full((300, 400, 3), 150, np.uint8) + np.random.default_rng(0).integers(0, 4, (300, 400, 1), np.uint8)
    image[50:53, 60:63] = 20
    image[200:203, 300:303] = 190
    other_id = str(upload(client, png(image))["image_id"])
    few, regions = detect(client, image_id=other_id, kind="spots", sensitivity=0)
    assert few[50:53, 60:63].all() and few.sum() < 60 and len(regions) >= 1
    most, _ = detect(client, image_id=other_id, kind="spots", sensitivity=1)
    assert most[200:203, 300:303].all() and not (few & ~most).any()
    inside, _ = detect(client, image_id=other_id, kind="spots", box=[250, 150, 400, 300])
    assert inside[200:203, 300:303].all() and not inside[50:53, 60:63].any()


def test_a_mark_is_found_again_on_another_photo(client: httpx.Client, image_id: str) -> None:
    other = np.asarray(Image.open(DATA / "skyline.jpg").convert("RGB")).copy()
    draw_mark(other[50:110, 300:400])
    other_id = upload(client, png(other))["image_id"]
    body = {"kind": "repeat", "image_id": other_id, "mark_image_id": image_id}
    by_box, regions = detect(client, **body, box=[200, 100, 300, 160])
    assert by_box.shape == (288, 512) and len(regions) == 1 and by_box[52:108, 302:398].all()
    mask = np.zeros((384, 512), np.uint8)
    mask[100:160, 200:300] = 255
    by_mask, _ = detect(client, **body, mask_png=base64.b64encode(png(mask)).decode())
    assert np.array_equal(by_box, by_mask)


def test_no_field_of_the_route_is_unknown_for_a_kind_and_a_click_can_say_what_the_mark_is(
    client: httpx.Client, image_id: str
) -> None:
    for kind in ("text", "spots"):
        detect(client, image_id=image_id, kind=kind, box=None, points=[], sensitivity=0.5)
    by_click, regions = detect(client, image_id=image_id, kind="repeat", points=[[240, 115, True]])
    assert len(regions) >= 1 and by_click[102:158, 202:212].all()


@pytest.mark.parametrize(
    ("width", "radius", "is_erased", "why"),
    [(100, 90.0, False, "too_large"), (3000, 1.0, False, "too_small"), (100, 9.0, True, "nothing_marked")],
)
def test_why_a_mark_cannot_be_found_again_is_said(
    client: httpx.Client, width: int, radius: float, is_erased: bool, why: str
) -> None:
    """The page said to click inside the photo or to draw a larger box."""
    image_id = upload(client, png(np.zeros((60, width, 3), np.uint8)))["image_id"]
    drawn = {"points": [[50, 30]], "radius": radius}
    strokes = [drawn, {**drawn, "erase": True}] if is_erased else [drawn]
    answer = client.post("/api/v1/detect", json={"image_id": image_id, "kind": "repeat", "strokes": strokes})
    assert (answer.json()["error"], answer.json()["params"]) == ("bad_detect", {"why": why})
    assert all(f"errors.bad_detect_{why}" in words for words in load_strings().values())


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"kind": "face"}, 422, "bad_detect"),
        ({}, 422, "bad_detect"),
        ({"kind": "click"}, 422, "bad_detect"),
        ({"kind": "click", "points": [[9999, 5, True]]}, 422, "bad_detect"),
        ({"kind": "click", "points": [["a", 5, True]]}, 422, "bad_detect"),
        ({"kind": "click", "points": "all"}, 422, "bad_detect"),
        ({"kind": "click", "points": [[5, 5, "yes"]]}, 422, "bad_detect"),
        ({"kind": "text", "box": [5, 5, 5, 5]}, 422, "bad_detect"),
        ({"kind": "text", "box": [1, 2, 3]}, 422, "bad_detect"),
        ({"kind": "text", "sensitivity": 2}, 422, "bad_detect"),
        ({"kind": "text", "sensitivity": "high"}, 422, "bad_detect"),
        ({"kind": "text", "points": [[5, 5, True]]}, 422, "bad_detect"),
        ({"kind": "text", "strokes": []}, 400, "bad_request"),
        ({"kind": "spots", "strokes": []}, 400, "bad_request"),
        ({"kind": "spots", "box": [900, 900, 950, 950]}, 422, "bad_detect"),
        ({"kind": "repeat"}, 422, "bad_detect"),
        ({"kind": "repeat", "mask_png": "!!"}, 400, "bad_request"),
        ({"kind": "repeat", "strokes": 7}, 422, "bad_strokes"),
        ({"kind": "repeat", "mark_image_id": "nobody", "box": [0, 0, 9, 9]}, 404, "unknown_image"),
        ({"kind": "text", "image_id": "nobody"}, 404, "unknown_image"),
        ({"kind": "text", "image_id": 7}, 422, "no_image"),
    ],
)
def test_what_cannot_be_selected_is_refused(
    client: httpx.Client, image_id: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post("/api/v1/detect", json={"image_id": image_id, **body})
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    assert len(answer.json()["message"].split()) > 3 and "Traceback" not in answer.text
