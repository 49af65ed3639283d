"""InteractiveSeg as IOPaint's and lama-cleaner's clients use it: clicks on an object, its selection back."""

import io
import json
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.iopaint_clients import data_url, file_of
from tests.support.serving import RunningServer

YELLOW = (255, 203, 0, 186)
HEIGHT, WIDTH = 180, 240
NAME = "InteractiveSeg"


def disc() -> np.ndarray:
    """(H, W) bool: where the photo has a red disc."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return (rows - 90) ** 2 + (columns - 150) ** 2 < 40**2


def photo() -> bytes:
    noise = np.random.default_rng(1).integers(-6, 7, (HEIGHT, WIDTH, 3))
    pixels = np.where(disc()[..., None], (200, 40, 40), (90, 140, 90)) + noise
    return file_of(Image.fromarray(pixels.astype(np.uint8)))


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as client:
        yield client


def click(
    client: httpx.Client, clicks: list[Any], *, old: bool = False, name: str = NAME, **more: Any
) -> httpx.Response:
    if old:
        form = {"name": name, "clicks": json.dumps(clicks), **more}
        return client.post("/run_plugin", data=form, files={"image": ("a.png", photo())})
    body = {"name": name, "image": data_url(photo()), "clicks": clicks, "scale": 2.0, **more}
    return client.post("/api/v1/run_plugin_gen_mask", json=body)


def selected(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
    pixels = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert pixels.shape == (HEIGHT, WIDTH, 4)
    assert {tuple(color) for color in np.unique(pixels.reshape(-1, 4), axis=0)} == {YELLOW, (0, 0, 0, 0)}
    return pixels[..., 3] > 0


@pytest.mark.parametrize("old", [False, True])
def test_a_click_selects_the_object_nine_pixels_wider(client: httpx.Client, old: bool) -> None:
    found = selected(click(client, [[150, 90, 1]], old=old))
    assert found[disc()].all()
    widest = cv2.dilate(disc().astype(np.uint8), np.ones((15, 15), np.uint8)).astype(bool)
    assert not found[~widest].any()
    grown = cv2.dilate(disc().astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert found[grown].all(), "it covers the object's soft edge too"


def test_a_second_click_takes_away_and_the_selection_is_a_mask_for_inpaint(client: httpx.Client) -> None:
    both = selected(click(client, [[150, 90, 1], [30, 30, 0]]))
    assert both[disc()].all() and not both[30, 30]
    mask = click(client, [[150, 90, 1]])
    body = {"image": data_url(photo()), "mask": data_url(mask.content)}
    answer = client.post("/api/v1/inpaint", json=body)
    assert answer.status_code == 200
    before, after = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in (photo(), answer.content))
    changed = (before != after).any(axis=2)
    assert changed[disc()].mean() > 0.9 and not changed[~selected(mask)].any()


@pytest.mark.parametrize(
    ("clicks", "more", "status", "says"),
    [
        ([[150, 90, 1]], {"name": "RemoveBG"}, 422, "Plugin not found"),
        ([], {}, 422, "Nothing to select"),
        ([[150, 90, 0]], {}, 422, "Nothing to select"),
        ([[999, 90, 1]], {}, 422, "lies outside the image"),
        ([[1]], {}, 422, "clicks must be"),
        ([[1, 2, 3, 4]], {}, 422, "clicks must be"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_what_can_not_be_selected_is_refused(
    client: httpx.Client, clicks: list[Any], more: dict[str, str], status: int, says: str, old: bool
) -> None:
    answer = click(client, clicks, old=old, **more)
    assert answer.status_code == status, answer.text
    assert says in (answer.text if old else answer.json()["errors"])


def test_broken_bodies_are_refused(client: httpx.Client) -> None:
    route = "/api/v1/run_plugin_gen_mask"
    assert client.post(route, json={"name": NAME, "image": "", "clicks": [[1, 1, 1]]}).status_code == 422
    assert client.post(route, json={"name": NAME, "image": "AAAA", "clicks": [[1, 1, 1]]}).status_code == 415
    assert client.post(route, json={"name": NAME, "image": "", "clicks": [["x", 1, 1]]}).status_code == 422
    wrong = client.post("/run_plugin", data={"name": NAME, "clicks": "{"}, files={"image": ("a.png", photo())})
    assert wrong.status_code == 422 and "clicks must be JSON" in wrong.text
    answer = client.post("/api/v1/run_plugin_gen_image", json={"name": NAME, "image": data_url(photo())})
    assert answer.status_code == 422 and "does not support output image" in answer.json()["detail"]


def test_clients_are_told_of_it(client: httpx.Client) -> None:
    (plugin,) = client.get("/api/v1/server-config").json()["plugins"]
    assert plugin == {"name": NAME, "support_gen_image": False, "support_gen_mask": True}
