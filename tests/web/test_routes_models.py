"""The routes for the choice of model, and the names a server answers to."""

from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.support.serving import RunningServer
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
