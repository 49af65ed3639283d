"""The OpenAPI document is true: its routes are those there are, and its examples do what it says they do."""

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jsonschema_rs
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.testclient import TestClient

import app
from config import Settings
from engine.requests import MAX_ASKED_PX
from imaging.strokes import MAX_POINTS
from jobs.remote_engine import Fleet, RemoteEngine
from tests.support.documented_requests import PHOTO, Scene, mask_of
from tests.support.fake_engine import FakeEngine
from tests.support.serving import RunningServer
from web import openapi
from web.docs_page import METHODS, examples_of, resolved
from web.openapi import SENTENCES, build_document

DOCUMENT = build_document(Settings(), version="0.0.0")
OPERATIONS = [
    (method, path) for path, operations in DOCUMENT["paths"].items() for method in METHODS if method in operations
]
REFUSED = ("post", "/api/v1/run_plugin_gen_image")  # the one route that only refuses
FREE_KEYS = {"timings_ms", "params", "waiting", "notes", "download"}


def schema_of(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("openapi")
    photos = folder / "photos"
    photos.mkdir()
    (photos / "beach.jpg").write_bytes(PHOTO)
    # Weights of a published name that are somebody's own: fetching them ends before it asks any other machine.
    (folder / "weights").mkdir()
    (folder / "weights" / "big-lama.pt").write_bytes(b"own")
    running = RunningServer(folder, settings={"input_path": photos, "weights_dir": folder / "weights"}).start()
    with running.client as client:
        yield Scene(client, DOCUMENT)
    running.stop()


def test_document_and_routes_are_the_same(tmp_path: Path) -> None:
    """Both ways: every route of ours is in the document, and the document has no other."""
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    made = app.create_api(settings, FakeEngine())
    contexts = [context for context in iter_route_contexts(made.routes) if isinstance(context.original_route, APIRoute)]
    served = {
        (method, context.path) for context in contexts if context.include_in_schema for method in context.methods or ()
    }
    heads = {(method, path) for method, path in served if method == "HEAD"}
    assert {("GET", path) for _, path in heads} <= served
    assert served - heads == {(method.upper(), path) for method, path in OPERATIONS}


def test_document_is_put_together_once_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It took half of the time in which a server without its page starts."""
    made: list[str] = []

    def build(settings: Settings, *, version: str) -> dict[str, Any]:
        made.append(version)
        return DOCUMENT

    monkeypatch.setattr(openapi, "build_document", build)
    site = FastAPI(openapi_url=None, docs_url=None)
    site.include_router(openapi.create_document_routes(Settings(), version="0.0.0"))
    assert not made
    client = TestClient(site)
    for path in ("/openapi.json", "/docs", "/docs"):
        assert client.get(path).status_code == 200
    assert made == ["0.0.0"]


def test_document_is_openapi_3_1() -> None:
    identifiers = [DOCUMENT["paths"][path][method]["operationId"] for method, path in OPERATIONS]
    assert len(set(identifiers)) == len(identifiers)
    text = json.dumps(DOCUMENT)
    for kind, name in re.findall(r'"#/components/(\w+)/(\w+)"', text):
        assert name in DOCUMENT["components"][kind], name
    for kind in ("schemas", "parameters", "responses", "headers"):
        for name in DOCUMENT["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, f"nothing uses {name}"
    for method, path in OPERATIONS:
        operation = DOCUMENT["paths"][path][method]
        named = {one["name"] for one in (resolved(DOCUMENT, one) for one in operation.get("parameters", ()))}
        assert set(re.findall(r"\{(\w+)\}", path)) <= named
        for media in media_of(operation):
            validator = schema_of(media["schema"])
            for value in examples_of(media):
                validator.validate(value) if not has_files(media) else None


def media_of(operation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from operation.get("requestBody", {}).get("content", {}).values()
    for response in operation["responses"].values():
        yield from resolved(DOCUMENT, response).get("content", {}).values()


def has_files(media: dict[str, Any]) -> bool:
    fields = resolved(DOCUMENT, media["schema"]).get("properties", {}).values()
    return any(resolved(DOCUMENT, field).get("format") == "binary" for field in fields)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_examples_do_what_they_say(scene: Scene, method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    expected = next((int(status) for status in operation["responses"] if int(status) < 300), 422)
    assert expected < 300 or (method, path) == REFUSED
    if path == "/api/v1/inputimage":
        expected = 404  # a folder is open, and a photo is not
    for request in scene.requests_of(method, path):
        answer = scene.client.send(request)
        assert answer.status_code == expected, (answer.status_code, answer.text[:300])
        response = resolved(DOCUMENT, operation["responses"][str(expected)])
        kind = answer.headers["content-type"].partition(";")[0]
        media = response["content"][kind]
        for name in response.get("headers", {}):
            assert name in answer.headers or name == "X-Fftlama-Notes", name
        if kind == "application/json":
            schema_of(media["schema"]).validate(answer.json())
            for example in examples_of(media) if expected < 300 else ():
                assert keys_of(example) == keys_of(answer.json())
        elif kind == "text/plain" and path != "/metrics":
            assert answer.text in [media["example"]]
        elif kind.startswith(("image/", "application/zip")):
            assert len(answer.content) > 100


def keys_of(value: Any) -> Any:
    """Return the keys of all objects in a value; of a list those of its first item."""
    if isinstance(value, dict):
        return {key: None if key in FREE_KEYS else keys_of(inner) for key, inner in sorted(value.items())}
    return keys_of(value[0]) if isinstance(value, list) and value and isinstance(value[0], dict) else None


def test_refusals_are_those_of_the_document(scene: Scene) -> None:
    """The sentences it shows are what the server says, under the status and in the form that it shows them."""
    client, nowhere = scene.client, "A" * 22
    data, file = {"image": scene.real["BASE64 of the photo"]}, {"image": ("a.jpg", PHOTO)}
    small = ("mask.png", mask_of(64, 64))
    answers = {
        ("get", "/api/v1/jobs/{job_id}"): client.get(f"/api/v1/jobs/{nowhere}"),
        ("get", "/api/v1/images/{image_id}"): client.get(f"/api/v1/images/{nowhere}"),
        ("post", "/api/v1/images"): client.post("/api/v1/images", files={"other": ("a.jpg", PHOTO)}),
        ("post", "/api/v1/repairs"): client.post("/api/v1/repairs", content=b""),
        ("post", "/api/v1/models"): client.post("/api/v1/models", json={"name": "nothing"}),
        ("post", "/api/v1/repair"): client.post("/api/v1/repair", files=file),
        ("post", "/api/v1/detect"): client.post("/api/v1/detect", json={}, headers={"Origin": "https://a.example"}),
        ("post", "/api/v1/model"): client.post("/api/v1/model", json={}),
        ("post", "/api/v1/inpaint"): client.post("/api/v1/inpaint", json={**data, "image": "a"}),
        ("post", "/api/v1/save_image"): client.post("/api/v1/save_image", files={"other": ("a.jpg", PHOTO)}),
        ("post", "/inpaint"): client.post("/inpaint", files={**file, "mask": small}),
        ("get", "/api/v1/media_file"): client.get("/api/v1/media_file"),
        ("get", "/api/v1/media_thumbnail_file"): client.get(
            "/api/v1/media_thumbnail_file?tab=input&filename=a&width=x"
        ),
    }
    is_shown = {}
    for (method, path), answer in answers.items():
        response = DOCUMENT["paths"][path][method]["responses"][str(answer.status_code)]
        media = response["content"][answer.headers["content-type"].partition(";")[0]]
        said = answer.json() if answer.headers["content-type"] == "application/json" else answer.text
        schema_of(media["schema"]).validate(said)
        is_shown[method, path] = sentence_of(said) in map(sentence_of, examples_of(media))
    # These say more of what is wrong than an example could.
    assert {one for one, shown in is_shown.items() if not shown} == {
        ("get", "/api/v1/media_file"), ("get", "/api/v1/media_thumbnail_file")
    }  # fmt: skip


def sentence_of(said: Any) -> str:
    """Return the sentence of a refusal in any of the forms, whatever its numbers are."""
    sentence = said if isinstance(said, str) else said.get("message") or said["errors"]
    return re.sub(r"\d+", "1", sentence)


def test_every_sentence_of_a_refusal_is_used() -> None:
    text = json.dumps(build_document(Settings(auth_file=Path("accounts.json")), version="0"))
    assert [code for code, sentence in SENTENCES.items() if json.dumps(sentence)[1:-1] not in text] == []


class Links(HTMLParser):
    """Collects the tags and addresses of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        self.ids += [value or "" for name, value in attrs if name == "id"]


def test_status_tells_of_celery_workers_what_the_document_says() -> None:
    """It forbade `version` and `done`, which only a server with Celery workers sends."""
    facts = {
        "version": "0.1.0", "weights": "lama-compact", "fingerprint": "f", "device": "cuda:0", "profile": "l4",
        "name": "gpu-1", "busy_with": None, "done": 3, "memory_mib": 512.0,
    }  # fmt: skip
    told = {"weights_name": "lama-compact", "is_reachable": True}
    fleet = SimpleNamespace(workers=[facts], refused=[{**facts, "version": "0.0.9"}], **told)
    answer = DOCUMENT["paths"]["/status"]["get"]["responses"]["200"]["content"]["application/json"]
    engine = RemoteEngine(cast(Fleet, fleet), deadline_s=60)
    assert engine.describe()["profile_reason"] == "1 worker on cuda:0."
    workers = engine.worker_views()
    assert [worker["state"] for worker in workers] == ["idle", "refused"]
    schema_of(answer["schema"]).validate({**answer["example"], "workers": workers})


def test_page_shows_every_route_and_loads_nothing(scene: Scene) -> None:
    answer = scene.client.get("/docs")
    assert answer.status_code == 200 and "default-src 'self'" in answer.headers["content-security-policy"]
    page = Links()
    page.feed(answer.text)
    assert not page.tags & {"script", "link", "img", "iframe", "object"} and "@import" not in answer.text
    assert "openapi.json" in page.addresses
    assert all(address.startswith("#") or address == "openapi.json" for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    for method, path in OPERATIONS:
        assert DOCUMENT["paths"][path][method]["operationId"] in page.ids
        assert path in answer.text
    assert scene.client.get("/openapi.json").json()["paths"].keys() == DOCUMENT["paths"].keys()


def test_document_has_the_limits_of_what_may_be_asked() -> None:
    """It let any dilate_px and feather_px pass, and the limit of points count for each stroke."""
    schemas = DOCUMENT["components"]["schemas"]
    options = schemas["Options"]["properties"]
    assert options["dilate_px"]["maximum"] == options["feather_px"]["maximum"] == MAX_ASKED_PX
    for request in ("NewRepair", "Detect"):
        assert f"{MAX_POINTS:,} points in all" in schemas[request]["properties"]["strokes"]["description"]


def test_document_knows_login_and_sub_path() -> None:
    made = build_document(Settings(auth_file=Path("accounts.json"), root_path="/lama"), version="1.2.3")
    assert made["servers"] == [{"url": "/lama"}] and made["info"]["version"] == "1.2.3"
    assert made["security"] == [{"key": []}, {"session": []}]
    for path, operations in made["paths"].items():
        for operation in operations.values():
            is_open = path in ("/health", "/ready")
            assert ("401" in operation["responses"]) == (not is_open) == (operation.get("security") != [])
    assert "security" not in DOCUMENT
