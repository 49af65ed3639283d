"""The routes that fetch published weights: who may, what is said, and what it leads to."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from starlette.testclient import TestClient

from app import create_api
from config import Settings
from lama.catalogue import CATALOGUE
from tests.support.fake_engine import FakeEngine
from tests.support.misbehaving_mirror import CONTENT, SHA256, Mirror, running_mirror
from tests.support.page_driver import Person, photo_file
from tests.support.serving import RunningServer


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with running_mirror() as server:
        yield server


@pytest.fixture
def serve(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TestClient]:
    """Make an application of this process whose big-lama is the mirror's content."""
    entry = dataclasses.replace(
        CATALOGUE["big-lama"], sha256=SHA256, size_bytes=len(CONTENT), sources=("http://127.0.0.1:1/x.pt",)
    )
    monkeypatch.setitem(CATALOGUE, "big-lama", entry)
    monkeypatch.setenv("no_proxy", "*")

    def make(behaviour: str = "good", **settings: Any) -> TestClient:
        folders: dict[str, Any] = {f"{name}_dir": tmp_path / name for name in ("data", "outputs", "weights")}
        app = create_api(Settings(mirrors=f"{mirror.url}/{behaviour}", **folders, **settings), FakeEngine())
        return TestClient(app, base_url="http://127.0.0.1:7860")

    return make


def test_weights_are_fetched_and_can_be_chosen(serve: Callable[..., TestClient]) -> None:
    with serve() as client:
        listed = client.get("/api/v1/weights")
        assert listed.status_code == 200 and listed.headers["cache-control"] == "no-store"
        assert [one["name"] for one in listed.json()["weights"]] == ["big-lama", "lama-fourier"]
        for address, status, code in (
            ("nobody/fetch", 404, "unknown_model"),
            ("..%2f..%2fetc/fetch", 404, "not_found"),
            ("big-lama", 404, "not_found"),
        ):
            answer = client.post(f"/api/v1/weights/{address}")
            assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
        assert client.put("/api/v1/weights").json()["error"] == "method_not_allowed"
        foreign = client.post("/api/v1/weights/big-lama/fetch", headers={"origin": "https://evil.example"})
        assert foreign.status_code == 403 and client.get("/api/v1/weights").json()["weights"][0]["download"] is None
        begun = client.post("/api/v1/weights/big-lama/fetch")
        assert begun.status_code == 202 and begun.json()["weights"][0]["download"]["size"] == len(CONTENT)
        until_s = time.monotonic() + 30
        while (view := client.get("/api/v1/weights").json()["weights"][0])["download"]["state"] == "running":
            assert time.monotonic() < until_s
        assert view["download"]["state"] == "done" and view["installed"]
        models = {model["name"]: model["installed"] for model in client.get("/api/v1/models").json()["models"]}
        assert models["big-lama"] and not models["lama-fourier"]
        assert client.delete("/api/v1/weights/big-lama/fetch").status_code == 202


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"fetch_weights": "terminal"}, {"operators": "ann"}], ids=str)
def test_who_may_not_fetch_is_offered_nothing(
    serve: Callable[..., TestClient], mirror: Mirror, settings: dict[str, str]
) -> None:
    with serve(**settings) as client:
        assert client.get("/api/v1/weights").json() == {"offered": False, "weights": []}
        for method in ("POST", "DELETE"):
            answer = client.request(method, "/api/v1/weights/big-lama/fetch")
            assert (answer.status_code, answer.json()["error"]) == (403, "forbidden")
    assert not mirror.requests


def test_page_offers_fetches_and_stops(
    visit: Callable[..., Person], start_server: Callable[..., RunningServer], mirror: Mirror, tmp_path: Path
) -> None:
    settings = {"mirrors": f"{mirror.url}/held", "weights_dir": tmp_path / "weights"}
    person = visit(start_server("page", **settings).url)
    offer = person.page.locator('[data-part="weights-offer"]')
    told, button = offer.locator('[role="status"]'), offer.locator("li button").first
    person.open(photo_file(320, 240))  # the offer lies beside an open photo
    offer.locator("summary").press("Enter")
    expect(offer.locator("li")).to_have_count(2)
    expect(offer.locator("li p").first).to_contain_text("196 MiB from 127.0.0.1")
    expect(offer.locator("li p").first).to_contain_text("Apache-2.0")
    expect(offer.locator("li p").first).to_contain_text("photos of Places")
    button.press("Enter")
    expect(told).to_have_text("big-lama: 0 of 196 MiB from 127.0.0.1.")
    expect(offer.locator('[role="progressbar"]').first).to_be_visible()
    expect(offer.locator("li button").nth(1)).to_be_disabled()
    expect(button).to_have_text("Stop")
    expect(button).to_be_focused()
    button.click()
    expect(told).to_have_text("big-lama: stopping…")
    mirror.released.set()
    expect(told).to_contain_text("Fetching goes on from there.")
    person.page.locator('[data-act="language"]').click()
    expect(told).to_contain_text("再次下载时从这里继续")
    expect(button).to_have_text("下载")
    weights = person.page.evaluate("fetch('api/v1/weights').then((answer) => answer.json())")
    reason = {"error": "fetch_failed", "message": "", "params": {"name": "big-lama", "reason": "the disk is full"}}
    weights["weights"][0]["download"] |= {"state": "failed", "error": reason}
    weights["weights"][1] |= {"installed": True, "download": {"state": "done", "done": 1, "size": 1, "host": ""}}
    person.stops.add("*/api/v1/weights", lambda stopped: stopped.fulfill(weights))
    for _ in range(2):
        offer.locator("summary").click()
    expect(told).to_have_text("⚠️ big-lama 没有下载成功：the disk is full lama-fourier 已下载，可在“模型”处选择。")
    expect(offer.locator("li button").nth(1)).to_be_hidden()
