"""The routes for the choice of model, and the names a server answers to."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from app import create_api
from config import Settings
from inference import Inpainter
from lama.checkpoint import save_generator
from tests.support.networks import live_generator
from tests.support.page_driver import photo_file
from tests.support.serving import RunningServer, ask_repair, follow, upload
from web.origin_check import OriginCheck


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as client:
        yield client


def test_models_are_listed_and_the_wrong_ones_refused(client: httpx.Client) -> None:
    listed = client.get("/api/v1/models")
    assert listed.status_code == 200 and set(listed.json()) == {"models", "active", "switching", "error"}
    names = [model["name"] for model in listed.json()["models"]]
    assert names[:2] == ["lama-compact", "big-lama"]
    for body, status, code in (
        ({"name": "nobody"}, 404, "unknown_model"),
        ({"name": "../../etc/passwd"}, 404, "unknown_model"),
        ({"name": 3}, 400, "bad_request"),
        ({}, 400, "bad_request"),
        ({"name": "lama-compact", "path": "/"}, 400, "bad_request"),
    ):
        answer = client.post("/api/v1/models", json=body)
        assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
        assert len(answer.json()["message"].split()) > 3, "a sentence, not a code"
    refused = client.post("/api/v1/models", json={"name": "lama-compact"}, headers={"origin": "https://evil.example"})
    assert refused.status_code == 403


def test_a_real_engine_goes_over_to_another_model_and_keeps_it_when_a_damaged_one_is_chosen(tmp_path: Path) -> None:
    names = ("tiny", "small", "damaged")
    files = {name: tmp_path / f"{name}.safetensors" for name in names}
    for name, width in (("tiny", 4), ("small", 8)):
        save_generator(live_generator(width, 1), files[name])
    whole = files["small"].read_bytes()
    files["damaged"].write_bytes(whole[: len(whole) // 2])
    engine = Inpainter.load(files["tiny"], device="cpu", precision="fp32", profile="cpu")
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs", weights_dir=tmp_path)
    with TestClient(create_api(settings, engine), base_url="http://127.0.0.1") as opened:
        client: Any = opened  # follow and the others know httpx's

        def active() -> tuple[str, str]:
            return client.get("/health").json()["weights"], client.get("/api/v1/models").json()["active"]

        assert {model["name"] for model in client.get("/api/v1/models").json()["models"]} > set(names)
        image_id = upload(client, photo_file(64, 64)["buffer"])["image_id"]
        for name in ("small", "tiny"):
            assert client.post("/api/v1/models", json={"name": name}).status_code == 200
            assert active() == (name, name)
            assert follow(client, ask_repair(client, image_id))["state"] == "done"
        refused = client.post("/api/v1/models", json={"name": "damaged"})
        assert refused.status_code == 422
        assert "truncated" in refused.json()["message"] and "tiny stays in use" in refused.json()["message"]
        assert active() == ("tiny", "tiny")
        assert follow(client, ask_repair(client, image_id))["state"] == "done"


@pytest.mark.parametrize(
    ("host", "allowed", "headers", "status"),
    [
        ("127.0.0.1", "", {"host": "photos.example"}, 403),
        ("127.0.0.1", "photos.example", {"host": "photos.example"}, 200),
        ("127.0.0.1", "a.example, Photos.Example:8080", {"host": "photos.example:443"}, 200),
        ("127.0.0.1", "photos.example", {"host": "localhost:7860"}, 200),
        ("127.0.0.1", "photos.example", {"host": "photos.example.evil.example"}, 403),
        ("0.0.0.0", "", {"host": "anything.example"}, 200),
        ("0.0.0.0", "photos.example", {"host": "anything.example"}, 403),
        ("127.0.0.1", "photos.example", {"host": "127.0.0.1:7860", "origin": "http://photos.example"}, 200),
        ("127.0.0.1", "photos.example", {"host": "127.0.0.1:7860", "origin": "http://evil.example"}, 403),
        ("127.0.0.1", "photos.example", {"host": "photos.example", "origin": "http://evil.example"}, 403),
    ],
    ids=str,
)
def test_names_of_a_proxy_are_answered_when_they_are_allowed(
    host: str, allowed: str, headers: dict[str, str], status: int
) -> None:
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("in"), methods=["POST"])])
    guarded = TestClient(OriginCheck(app, host=host, allowed_hosts=allowed))
    assert guarded.post("/", headers=headers).status_code == status
