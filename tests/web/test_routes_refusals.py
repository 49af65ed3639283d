"""Everything a caller can do wrong: a sentence, a stable code, the right status, and the server goes on."""

import base64
import io
import json
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.fake_engine import SCALED
from tests.support.serving import RunningServer, ask_repair, follow, upload
from web.uploads import repair_json_mib

MIB = 1 << 20


def encoded(pixels: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png_bomb() -> bytes:
    """A few kilobytes that say they are 30000 x 30000 pixels."""
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(MIB), 9)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


PHOTO = encoded(np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8))
MASK = encoded(np.full((48, 64), 255, np.uint8))
SMALL_MASK = encoded(np.full((40, 64), 255, np.uint8))
EMPTY_MASK = encoded(np.full((48, 64), 127, np.uint8))
DOT = {"points": [[20, 20]], "radius": 5, "erase": False}


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as client:
        yield client


def assert_refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]) == (status, code), answer.text
    assert set(answer.json()) == {"error", "message", "params"}
    assert len(answer.json()["message"].split()) > 3, "a sentence, not a code"
    assert "Traceback" not in answer.text and ".py" not in answer.text


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 422, "empty_file"),
        (b"this is a shopping list, not a photo\n" * 20, 415, "not_an_image"),
        (b"<!doctype html><title>404</title>", 415, "not_an_image"),
        (PHOTO[: len(PHOTO) // 2], 422, "truncated_image"),
        (png_bomb(), 413, "image_too_large"),
        (encoded(np.zeros((1500, 1500, 3), np.uint8)), 413, "image_too_large"),
        (PHOTO + bytes(2 * MIB), 413, "file_too_large"),
        (bytes(20 * MIB), 413, "file_too_large"),
    ],
    ids=["0 bytes", "text", "web page", "truncated", "bomb", "too many pixels", "just too long", "far too long"],
)
def test_files_that_are_no_photos(
    client: httpx.Client, api_server: RunningServer, data: bytes, status: int, code: str
) -> None:
    before = {path.name for path in (api_server.data_dir / "images").iterdir()}
    assert_refused(client.post("/api/v1/images", files={"file": ("photo.png", data)}), status, code)
    one_shot = client.post("/api/v1/repair", files={"image": ("photo.png", data), "mask": ("m.png", MASK)})
    assert_refused(one_shot, status, code)
    assert {path.name for path in (api_server.data_dir / "images").iterdir()} == before, "nothing is kept of it"
    assert client.get("/health").status_code == 200


def test_an_upload_without_a_length_is_cut_off_at_the_limit(api_server: RunningServer) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while sent < 200 * MIB:
            yield bytes(256 << 10)
            sent += 256 << 10

    with api_server.client as client:
        try:
            headers = {"content-type": "multipart/form-data; boundary=b"}
            answer = client.post("/api/v1/images", content=endless(), headers=headers)
            assert_refused(answer, 413, "file_too_large")
        except httpx.TransportError:
            pass  # it was cut while it was still sending
        assert sent < 40 * MIB
        assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("request_of", "status", "code"),
    [
        ({"files": {"photo": ("a.png", PHOTO)}}, 422, "no_image"),
        ({"data": {"file": "not a file"}, "files": {"other": b""}}, 422, "no_image"),
        ({"json": {"file": "abc"}}, 400, "bad_request"),
        ({}, 400, "bad_request"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=y"}}, 400, "bad_request"),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, "bad_request"),
    ],
    ids=["other field", "text field", "json", "nothing", "wrong boundary", "no boundary"],
)
def test_uploads_without_a_file(client: httpx.Client, request_of: dict[str, Any], status: int, code: str) -> None:
    assert_refused(client.post("/api/v1/images", **request_of), status, code)


def text_of(mask: bytes) -> str:
    return base64.b64encode(mask).decode()


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"strokes": []}, 422, "empty_mask"),
        ({"strokes": None}, 422, "empty_mask"),
        ({"strokes": [DOT | {"erase": True}]}, 422, "empty_mask"),
        ({"strokes": [DOT | {"points": [[5000, 5000], [-900, 4000]]}]}, 422, "empty_mask"),
        ({"strokes": [], "mask_png": text_of(EMPTY_MASK)}, 422, "empty_mask"),
        ({"strokes": [DOT | {"radius": 4000}]}, 422, "bad_mask"),  # as a mask file of everything is
        ({"mask_png": text_of(SMALL_MASK)}, 422, "mask_size"),
        ({"mask_png": "%%%"}, 400, "bad_request"),
        ({"mask_png": 7}, 400, "bad_request"),
        ({"mask_png": text_of(b"text")}, 415, "not_an_image"),
        ({"strokes": [DOT | {"points": [[float("nan"), 3]]}]}, 422, "bad_strokes"),
        ({"strokes": [DOT | {"points": [[float("inf"), 3]]}]}, 422, "bad_strokes"),
        ({"strokes": [DOT | {"points": [[None, 3]]}]}, 422, "bad_strokes"),
        ({"strokes": [DOT | {"points": [["1", 3]]}]}, 422, "bad_strokes"),
        ({"strokes": [DOT | {"points": []}]}, 422, "bad_strokes"),
        ({"strokes": [DOT | {"points": [[1]]}]}, 422, "bad_strokes"),
        ({"strokes": [DOT | {"radius": float("nan")}]}, 422, "bad_strokes"),
        ({"strokes": [DOT | {"radius": -3}]}, 422, "bad_strokes"),
        ({"strokes": [{"points": [[1, 1]]}]}, 422, "bad_strokes"),
        ({"strokes": "a line, please"}, 422, "bad_strokes"),
        ({"strokes": {"points": []}}, 422, "bad_strokes"),
        ({"image_id": None}, 422, "no_image"),
        ({"image_id": "A" * 22}, 404, "unknown_image"),
        ({"image_id": "../../jobs.sqlite3"}, 404, "unknown_image"),
        ({"image_id": {"$ne": 1}}, 404, "unknown_image"),
        ({"request_id": None}, 400, "bad_request"),
        ({"request_id": 5}, 400, "bad_request"),
        ({"request_id": "x" * 1000}, 400, "bad_request"),
        ({"option": {}}, 400, "bad_request"),
        ({"settle_s": "1"}, 400, "bad_request"),
        ({"settle_s": True}, 400, "bad_request"),
        ({"options": []}, 422, "bad_options"),
        ({"options": {"dilate": 3}}, 422, "bad_options"),
        ({"options": {"dilate_px": -1}}, 422, "bad_options"),
        ({"options": {"dilate_px": 1.5}}, 422, "bad_options"),
        ({"options": {"feather_px": True}}, 422, "bad_options"),
        ({"options": {"feather_px": 10**9}}, 422, "bad_options"),
        ({"options": {"quality": "best"}}, 422, "bad_options"),
        ({"options": {"quality": []}}, 422, "bad_options"),
    ],
    ids=str,
)
def test_repairs_that_cannot_be(client: httpx.Client, changes: dict[str, Any], status: int, code: str) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    body = {"image_id": image_id, "request_id": f"r{time.monotonic_ns()}", "strokes": [DOT], **changes}
    answer = client.post("/api/v1/repairs", content=json.dumps(body))
    assert_refused(answer, status, code)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "cut", "list", "null", "bytes", "deep"],
)
def test_bodies_that_are_no_json_object(client: httpx.Client, body: bytes) -> None:
    assert_refused(client.post("/api/v1/repairs", content=body), 400, "bad_request")


def test_a_json_body_has_a_limit_too(client: httpx.Client) -> None:
    answer = client.post("/api/v1/repairs", content=b'{"strokes": "' + bytes(3 * MIB))
    assert_refused(answer, 413, "file_too_large")
    assert answer.json()["message"] == "The request is larger than 2 MiB.", "there is no file in it"


@pytest.mark.parametrize("path", ["/api/v1/repairs", "/api/v1/detect", "/api/v1/inpaint", "/api/v1/adjust_mask"])
def test_a_json_body_of_very_many_values_is_refused_unparsed(client: httpx.Client, path: str) -> None:
    """90 MiB of numbers kept everybody waiting for 15 s and took 3 GiB."""
    answer = client.post(path, content=b'{"strokes": [' + b"0," * 500_000 + b"0]}")
    assert answer.status_code == 400 and "values" in answer.text


def test_a_json_body_has_room_for_the_largest_photos_mask() -> None:
    assert repair_json_mib(max_file_mib=100, max_image_mpx=100) == 20
    assert repair_json_mib(max_file_mib=2, max_image_mpx=2) == 2


@pytest.mark.parametrize(
    ("files", "data", "status", "code"),
    [
        ({"mask": ("m.png", MASK)}, {}, 422, "no_image"),
        ({"image": ("a.png", PHOTO)}, {}, 422, "empty_mask"),
        ({"image": ("a.png", PHOTO), "mask": ("m.png", EMPTY_MASK)}, {}, 422, "empty_mask"),
        ({"image": ("a.png", PHOTO), "mask": ("m.png", SMALL_MASK)}, {}, 422, "mask_size"),
        ({"image": ("a.png", PHOTO), "mask": ("m.png", b"")}, {}, 422, "empty_file"),
        ({"image": ("a.png", PHOTO), "mask": ("m.png", MASK)}, {"options": "{"}, 422, "bad_options"),
        ({"image": ("a.png", PHOTO), "mask": ("m.png", MASK)}, {"options": '{"quality": 1}'}, 422, "bad_options"),
    ],
    ids=["no image", "no mask", "empty mask", "mask of another size", "0-byte mask", "cut options", "wrong options"],
)
def test_one_shots_that_cannot_be(
    client: httpx.Client, files: dict[str, Any], data: dict[str, str], status: int, code: str
) -> None:
    assert_refused(client.post("/api/v1/repair", files=files, data=data), status, code)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/v1/repairs", "POST"),
        ("TRACE", "/api/v1/repairs", "POST"),
        ("PATCH", "/api/v1/jobs/x", "DELETE, GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("DELETE", "/openapi.json", "GET, HEAD"),
    ],
)
def test_another_method_is_refused_with_those_that_are_taken(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    """Beside /api/v1 it was said that there is nothing under the address, and nowhere what is allowed."""
    answer = client.request(method, path)
    assert_refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed and allowed in answer.json()["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/api/v1/images/" + "A" * 22, 404, "unknown_image"),
        ("GET", "/api/v1/images/" + "A" * 22 + "/info", 404, "unknown_image"),
        ("GET", "/api/v1/images/" + "A" * 22 + "/patch", 404, "unknown_image"),
        ("GET", "/api/v1/images/..%2F..%2Fjobs.sqlite3", 404, "not_found"),
        ("GET", "/api/v1/jobs/" + "A" * 22, 404, "unknown_job"),
        ("GET", "/api/v1/jobs/x'--", 404, "unknown_job"),
        ("DELETE", "/api/v1/jobs/" + "A" * 22, 404, "unknown_job"),
        ("GET", "/api/v1/jobs/" + "A" * 22 + "?wait_s=soon", 400, "bad_request"),
        ("GET", "/api/v1/nothing", 404, "not_found"),
        ("POST", "/api/v1/", 404, "not_found"),
        ("PUT", "/api/v1/repairs", 405, "method_not_allowed"),
        ("GET", "/api/v1/repair", 405, "method_not_allowed"),
    ],
)
def test_addresses_of_nothing(client: httpx.Client, method: str, path: str, status: int, code: str) -> None:
    assert_refused(client.request(method, path), status, code)


@pytest.mark.parametrize(
    "query",
    [
        "format=bmp",
        "max_px=0",
        "max_px=-3",
        "max_px=many",
        "max_px=99999999",
        "max_px=9&quality=500",
        "max_px=9&quality=0",
        "max_px=9&quality=50&format=png",
    ],
)
def test_images_asked_for_wrongly(client: httpx.Client, query: str) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    assert_refused(client.get(f"/api/v1/images/{image_id}?{query}"), 400, "bad_request")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_an_animation_is_taken_by_its_first_frame_and_says_so(client: httpx.Client, kind: str) -> None:
    frames = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], duration=100, lossless=True)
    image = upload(client, buffer.getvalue(), "a." + kind.lower())
    assert "animated_first_frame" in [note["code"] for note in image["notes"]]
    assert all(len(note["message"]) > 10 for note in image["notes"])
    preview = client.get(f"/api/v1/images/{image['image_id']}?max_px=64&format=png")
    assert Image.open(io.BytesIO(preview.content)).convert("RGB").getpixel((5, 5)) == (255, 0, 0)


def test_a_document_is_taken_by_its_first_page_and_says_so_everywhere(client: httpx.Client) -> None:
    """A one-shot said nothing of the pages it lost, and the page spoke of an animation."""
    pages = [Image.new("RGB", (64, 48), color) for color in ("red", "blue")]
    buffer = io.BytesIO()
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    data = buffer.getvalue()
    mask = encoded(np.pad(np.full((20, 20), 255, np.uint8), ((10, 18), (20, 24))))
    (note,) = upload(client, data, "a.tif")["notes"]
    assert note["code"] == "first_page_only" and note["params"]["count"] == 2 and "2 pages" in note["message"]
    answer = client.post("/api/v1/repair", files={"image": ("photo.tif", data), "mask": ("m.png", mask)})
    assert answer.status_code == 200
    assert json.loads(answer.headers["x-fftlama-notes"]) == [note]
    answer = client.post("/api/v1/inpaint", files={"image": ("photo.tif", data), "mask": ("m.png", mask)})
    assert [note["code"] for note in json.loads(answer.headers["x-fftlama-notes"])] == ["first_page_only"]
    options = {"options": json.dumps({"dilate_px": SCALED})}
    answer = client.post("/api/v1/repair", files={"image": ("p.png", PHOTO), "mask": ("m.png", mask)}, data=options)
    assert [note["code"] for note in json.loads(answer.headers["x-fftlama-notes"])] == ["scaled"]
    answer = client.post("/api/v1/repair", files={"image": ("p.png", PHOTO), "mask": ("m.png", mask)})
    assert "x-fftlama-notes" not in answer.headers


def test_a_full_queue_is_said_and_the_others_are_served(start_server: Any) -> None:
    server = start_server(queue_limit=2)
    with server.client as client:
        image_id = upload(client, PHOTO)["image_id"]
        running = ask_repair(client, image_id, feather_px=80)
        follow(client, running, until="running")
        waiting = [ask_repair(client, image_id) for _ in range(2)]
        body = {"image_id": image_id, "request_id": "too many", "strokes": [DOT]}
        answer = client.post("/api/v1/repairs", json=body)
        assert_refused(answer, 429, "queue_full")
        assert answer.headers["retry-after"] and answer.json()["params"] == {"limit": 2}
        one_shot = client.post("/api/v1/repair", files={"image": ("a.png", PHOTO), "mask": ("m.png", MASK)})
        assert_refused(one_shot, 429, "queue_full")
        assert [follow(client, job)["state"] for job in [running, *waiting]] == ["done"] * 3
        assert client.post("/api/v1/repairs", json=body).status_code == 202


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"origin": "OWN"}, 202),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"sec-fetch-site": "same-origin", "origin": "https://proxied.example"}, 202),
        ({"sec-fetch-site": "none"}, 202),
        ({"sec-fetch-site": "cross-site", "origin": "OWN"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost:80"}, 202),
        ({"host": "[::1]:80"}, 202),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost@evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "[x]"}, 403),
        ({"host": "127.0.0.1:99999"}, 403),
        ({"host": "localhost:abc"}, 403),
        ({"origin": "http://[::1"}, 403),
        ({"origin": "http://[x]"}, 403),
        ({"origin": "http://a:99999"}, 403),
        ({"origin": "http://localhost:99999"}, 403),
    ],
    ids=str,
)
def test_other_sites_cannot_make_a_browser_act(
    client: httpx.Client, api_server: RunningServer, headers: dict[str, str], status: int
) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    body = {"image_id": image_id, "request_id": f"r{time.monotonic_ns()}", "strokes": [DOT]}
    sent = {name: api_server.url if value == "OWN" else value for name, value in headers.items()}
    answer = client.post("/api/v1/repairs", json=body, headers=sent)
    assert answer.status_code == status, answer.text
    if status == 403:
        assert answer.json()["error"] in ("cross_site", "bad_host")


def test_a_rebound_name_reads_nothing_either(client: httpx.Client) -> None:
    image_id = upload(client, PHOTO)["image_id"]
    answer = client.get(f"/api/v1/images/{image_id}", headers={"host": "rebound.example"})
    assert answer.status_code == 403 and answer.json()["error"] == "bad_host"
    assert (
        "access-control-allow-origin" not in client.get("/health", headers={"origin": "https://evil.example"}).headers
    )


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "utf-7", "no-such-charset"])
@pytest.mark.parametrize("path", ["/api/v1/images", "/api/v1/repair"])
def test_charset_that_does_not_fit_is_refused(
    client: httpx.Client, api_server: RunningServer, path: str, charset: str
) -> None:
    """`undefined` raised UnicodeError inside the parser: 500 and a traceback."""
    before = api_server.log.count("Traceback")
    part = b'--x\r\nContent-Disposition: form-data; name="f\xff"; filename="\xff.png"\r\n\r\nabc\r\n--x--\r\n'
    kind = f"multipart/form-data; boundary=x; charset={charset}"
    answer = client.post(path, content=part, headers={"content-type": kind})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["message"]
    assert api_server.log.count("Traceback") == before


def test_broken_forms_do_not_fill_the_log(client: httpx.Client, api_server: RunningServer) -> None:
    before = len(api_server.log)
    for _ in range(20):
        kind = "multipart/form-data; boundary=x"
        assert client.post("/api/v1/images", content=b"--x?", headers={"content-type": kind}).status_code == 400
    assert len(api_server.log) == before
