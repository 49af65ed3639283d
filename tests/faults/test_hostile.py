"""Damaged files, hostile requests and kills in small numbers: `bench/hostile.py` and `bench/kills.py` for seconds."""

import base64
from pathlib import Path

import httpx
import pytest

from bench.hostile import attack
from bench.hostile_files import mutated_files
from bench.kills import kill_often
from tests.support.imaging_files import DATA
from tests.support.serving import RunningServer


def test_damaged_files_and_hostile_requests_are_answered() -> None:
    watch = attack(files=56, requests=120, seed=7, kind="api")  # each of eight formats by each of seven ways
    assert watch.faults == []
    rows = watch.rows.values()
    assert sum(row.statuses[200] + row.statuses[201] for row in rows) > 50
    assert sum(row.statuses[400] + row.statuses[422] for row in rows) > 50
    assert watch.end["descriptors"] - watch.start["descriptors"] < 10


def test_mutations_are_the_same_for_a_seed_and_reach_every_format() -> None:
    files = list(mutated_files(120, 3))
    assert files == list(mutated_files(120, 3)) != list(mutated_files(120, 4))
    assert {name for name, _ in files} == {"PNG", "JPEG", "WEBP", "TIFF", "BMP", "AVIF", "HEIC", "GIF"}


def test_nothing_is_lost_or_left_by_kills(tmp_path: Path) -> None:
    outcome = kill_often(tmp_path, kills=3, people=2, seed=5)
    assert outcome.is_sound, outcome
    assert outcome.accepted


@pytest.fixture
def client(api_server: RunningServer) -> httpx.Client:
    return api_server.client


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/detect", b'{"image_id": "x", "kind": "text", "sensitivity": "\\ud800"}'),
        ("/api/v1/models", b'{"name": "\\uDFFF"}'),
        ("/api/v1/models", b'{"name": "\xed\xa0\x80"}'),
        ("/api/v1/model", b'{"name": "\\ud83d"}'),
        ("/api/v1/inpaint", b'{"sd_sampler": "\\ud83d", "sd_scale": NaN}'),
        ("/api/v1/repairs", b'{"\\ud800": 1}'),
    ],
)
def test_half_a_surrogate_pair_is_no_text(client: httpx.Client, path: str, body: bytes) -> None:
    """No file and no answer can hold one: it was a 500."""
    answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text


def test_whole_surrogate_pairs_and_a_mark_of_byte_order_are_read(client: httpx.Client) -> None:
    for body in (b'\xef\xbb\xbf{"name": "\\ud83d\\ude00"}', '{"name": "x"}'.encode("utf-16")):
        answer = client.post("/api/v1/models", content=body)
        assert (answer.status_code, answer.json()["error"]) == (404, "unknown_model")


def test_values_that_json_cannot_say_are_not_said_back(client: httpx.Client) -> None:
    answer = client.post("/api/v1/inpaint", content=b'{"sd_scale": NaN, "sd_steps": "\xc3\xa9"}')
    assert answer.status_code == 422 and "sd_scale" in answer.json()["errors"]


@pytest.mark.parametrize("query", ["", "?tab=input&filename=a&width=x", "?tab=input&filename=a&height=1e9"])
def test_wrong_queries_to_iopaints_routes_are_422(client: httpx.Client, query: str) -> None:
    answer = client.get(f"/api/v1/media_thumbnail_file{query}")
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"].startswith("422: ") and answer.json()["detail"][0]["msg"]


def test_lama_cleaners_model_takes_both_kinds_of_form(client: httpx.Client) -> None:
    assert client.post("/model", data={"name": "lama"}).text == "Same model"
    assert client.post("/model", files={"name": (None, "lama")}).text == "Same model"
    boundary = {"Content-Type": "multipart/form-data; boundary=x"}
    for answer in (
        client.post("/model", content=b"--x\r\nbroken", headers=boundary),
        client.post("/model", content=b"a=1&" * 99, headers={"Content-Type": "application/x-www-form-urlencoded"}),
    ):
        assert answer.status_code in (400, 403), answer.text  # 403: what could be read of it names no model
    assert client.post("/model", content=b"a" * 200_000).status_code == 413


def test_generation_info_of_damaged_pictures_is_no_server_error(client: httpx.Client) -> None:
    for name, data in mutated_files(200, 11):
        answer = client.post("/api/v1/gen-info", files={"file": (f"a.{name}", data)})
        assert answer.status_code in (200, 415, 422), (name, answer.text)


def test_a_damaged_photo_does_not_hide_the_others_of_its_folder(start_server, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "whole.png").write_bytes((DATA / "flower.png").read_bytes())
    for number, (_, data) in enumerate(mutated_files(150, 2)):
        (photos / f"damaged-{number}.png").write_bytes(data)
    with start_server(input_path=photos).client as client:
        answer = client.get("/api/v1/medias")
        assert answer.status_code == 200
        assert "whole.png" in {row["name"] for row in answer.json()}


@pytest.mark.parametrize("clicks", ["[[1e400, 1, 1]]", "[[" + "9" * 400 + ", 1, 1]]", "[" * 100_000, "[1]", "x"])
def test_clicks_that_are_none(client: httpx.Client, clicks: str) -> None:
    photo = (DATA / "flower.png").read_bytes()
    answer = client.post("/run_plugin", data={"name": "InteractiveSeg", "clicks": clicks}, files={"image": photo})
    assert answer.status_code == 422, answer.text
    body = {"name": "InteractiveSeg", "image": base64.b64encode(photo).decode(), "clicks": [[5, 5, float("nan")]]}
    assert body["clicks"] and client.post("/api/v1/run_plugin_gen_mask", content=b"[]").status_code == 400
