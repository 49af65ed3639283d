"""IOPaint's and lama-cleaner's routes as their clients use them, against a real server process with a fake engine."""

import base64
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from tests.support.iopaint_clients import (
    CLIENTS,
    HEIGHT,
    HOLE,
    WIDTH,
    data_url,
    file_of,
    mask_picture,
    opened,
    outside_is_untouched,
    picture,
)
from tests.support.iopaint_photos import PHOTOS, deep_png, turned_jpeg
from tests.support.serving import RunningServer, follow, upload

MASK = file_of(mask_picture())


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as client:
        yield client


def inpaint(client: httpx.Client, image: bytes, mask: bytes = MASK, **fields: Any) -> httpx.Response:
    return client.post("/api/v1/inpaint", json={"image": data_url(image), "mask": data_url(mask), **fields})


def is_refusal(answer: httpx.Response, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "detail", "body", "errors"} and words in body["errors"], body
    assert body["errors"].startswith(f"{status}: ")


@pytest.mark.parametrize("name", CLIENTS)
def test_each_client_gets_what_it_reads(client: httpx.Client, name: str) -> None:
    assert CLIENTS[name](client)


@pytest.mark.parametrize("kind", PHOTOS)
@pytest.mark.parametrize("route", ["json", "form", "lama-cleaner"])
def test_answer_has_the_photos_format_and_size(client: httpx.Client, kind: str, route: str) -> None:
    make, format_name, mode = PHOTOS[kind]
    files = {"image": ("photo", make()), "mask": ("mask.png", MASK)}
    if route == "json":
        answer = inpaint(client, make(), sd_seed=7)
        assert answer.headers["x-seed"] == "7"
    else:
        answer = client.post("/api/v1/inpaint" if route == "form" else "/inpaint", files=files)
        assert answer.headers["x-seed"] == "42"
    assert opened(answer, format_name).mode == mode
    assert answer.headers["content-type"] == f"image/{format_name.lower()}"
    assert "content-disposition" not in answer.headers


def test_metadata_and_alpha_pass_through(client: httpx.Client) -> None:
    turned = opened(inpaint(client, turned_jpeg()), "JPEG")
    assert turned.getexif().get(0x0112, 1) == 1 and turned.getexif()[0x010F] == "Maker"
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler")
    profile = b"\0" * 36 + b"acsp" + b"\0" * 88
    data = file_of(picture("RGBA"), pnginfo=text, icc_profile=profile)
    image = opened(inpaint(client, data))
    outside_is_untouched(image, "RGBA")
    assert image.info["parameters"].startswith("a cat")
    assert client.post("/api/v1/gen-info", files={"file": data}).json() == {
        "prompt": "a cat",
        "negative_prompt": "dog",
    }


def test_deep_photo_keeps_its_depth_outside_the_mask(client: httpx.Client) -> None:
    import cv2

    answer = inpaint(client, deep_png())
    decoded = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    after = decoded[..., ::-1].copy()
    before = np.asarray(picture()).astype(np.uint16) * 257 + 3
    before[HOLE] = after[HOLE] = 0
    assert after.dtype == np.uint16 and np.array_equal(before, after)


def test_masks_count_by_brightness_alone(client: httpx.Client) -> None:
    white = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    white[HOLE] = 255
    outside_is_untouched(opened(inpaint(client, file_of(picture()), file_of(Image.fromarray(white)))))
    drawn_in_alpha = white.copy()
    drawn_in_alpha[..., :3] = 0
    unchanged = opened(inpaint(client, file_of(picture()), file_of(Image.fromarray(drawn_in_alpha))))
    assert np.array_equal(np.asarray(unchanged), np.asarray(picture()))


def test_an_empty_mask_gives_the_photos_own_bytes_back(client: httpx.Client) -> None:
    """A JPEG that is encoded again has other pixels everywhere."""
    empty = file_of(Image.new("L", (WIDTH, HEIGHT)))
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    photo = file_of(Image.fromarray(noise), "JPEG", quality=85)
    answer = inpaint(client, photo, empty)
    assert answer.content == photo and answer.headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize("colours", [32, 256])
def test_a_gif_comes_back_as_one_and_nothing_else_is_said(client: httpx.Client, colours: int) -> None:
    """Its colours were chosen anew, so that what was not marked changed too."""
    photo = picture().convert("RGB").quantize(colours)
    answer = inpaint(client, file_of(photo, "GIF"))
    before, after = (np.asarray(image.convert("RGB")) for image in (photo, opened(answer, "GIF")))
    hole = np.asarray(mask_picture()) > 127
    assert np.array_equal(after[~hole], before[~hole]) and (after[hole] != before[hole]).any()
    assert answer.headers["content-type"] == "image/gif"
    assert "palette_converted" not in answer.headers.get("x-fftlama-notes", "")


def test_adjusted_mask_is_yellow_and_counts_as_a_mask(client: httpx.Client) -> None:
    def adjusted(operate: str) -> np.ndarray:
        body = {"mask": data_url(MASK), "operate": operate, "kernel_size": 3}
        answer = client.post("/api/v1/adjust_mask", json=body)
        assert answer.headers["content-type"] == "image/png"
        pixels = np.asarray(opened(answer))
        assert {tuple(pixel) for pixel in pixels.reshape(-1, 4)} == {(255, 203, 0, 186), (0, 0, 0, 0)}
        return pixels[..., 3] > 0

    hole = np.asarray(mask_picture()) > 127
    assert adjusted("expand").sum() > hole.sum() > adjusted("shrink").sum()
    assert np.array_equal(adjusted("reverse"), ~hole)
    body = {"mask": data_url(MASK), "operate": "expand", "kernel_size": 0}
    yellow = client.post("/api/v1/adjust_mask", json=body).content
    outside_is_untouched(opened(inpaint(client, file_of(picture()), yellow)))


def test_refusals_have_the_right_status_and_words(client: httpx.Client) -> None:
    photo = file_of(picture())
    smaller = file_of(mask_picture().resize((64, 50)))
    is_refusal(inpaint(client, photo, smaller), 400, "Image size((96, 128)) and mask size((50, 64)) not match.")
    is_refusal(inpaint(client, photo, file_of(Image.new("L", (WIDTH, HEIGHT), 255))), 422, "marks 100 %")
    is_refusal(client.post("/api/v1/inpaint", json={"mask": data_url(MASK)}), 422, "image")
    is_refusal(client.post("/api/v1/inpaint", json={"image": data_url(photo)}), 422, "mask")
    is_refusal(client.post("/api/v1/inpaint", json={"image": "A", "mask": "A"}), 422, "base64")
    is_refusal(inpaint(client, b"no photo at all"), 415, "")
    is_refusal(inpaint(client, photo, b"no mask"), 415, "")
    is_refusal(inpaint(client, photo, cv2_flag="NONE"), 422, "cv2_flag")
    is_refusal(inpaint(client, photo, sd_scale=3), 422, "sd_scale")
    is_refusal(client.post("/api/v1/inpaint", content=b"{"), 400, "JSON")
    is_refusal(client.post("/api/v1/model", json={"name": "sd2"}), 404, "model")
    assert client.get("/api/v1/model").json()["name"] == "lama"
    is_refusal(client.post("/api/v1/run_plugin_gen_mask", json={"name": "X", "image": ""}), 422, "Plugin not found")
    assert client.get("/api/v1/inpaint").status_code == 405
    old = client.post("/inpaint", files={"image": photo, "mask": smaller})
    assert old.status_code == 400 and old.headers["content-type"].startswith("text/plain")
    assert client.post("/inpaint", data={"sdSeed": "x"}).status_code in (400, 422)
    assert client.get("/inpaint").status_code == client.head("/inpaint").status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/v1/samplers", "GET"),
        ("POST", "/api/v1/server-config", "GET"),
        ("PUT", "/api/v1/model", "GET, POST"),
        ("GET", "/api/v1/adjust_mask", "POST"),
        ("GET", "/api/v1/inpaint", "POST"),
    ],
)
def test_another_method_is_not_called_an_address_of_nothing(
    client: httpx.Client, method: str, path: str, allowed: str
) -> None:
    answer = client.request(method, path)
    is_refusal(answer, 405, allowed)
    assert answer.headers["allow"] == allowed
    old = client.put("/inpaint")
    assert (old.status_code, old.headers["allow"]) == (405, "POST") and "not allowed" in old.text


def test_refusals_of_the_gate_have_what_these_clients_read(client: httpx.Client) -> None:
    """IOPaint's clients read `detail` or `errors`; of all the gate's refusals only that of the login had them."""
    for headers, code in (({"Origin": "https://evil.example"}, "cross_site"), ({"Host": "evil.example"}, "bad_host")):
        for path in ("/api/v1/inpaint", "/inpaint"):
            answer = client.post(path, headers=headers)
            body = answer.json()
            assert answer.status_code == 403 and body["error"] == code
            assert body["detail"] == body["errors"] == body["message"]


def test_numbers_may_be_text_and_unknown_keys_are_passed_over(client: httpx.Client) -> None:
    answer = inpaint(client, file_of(picture()), sd_seed="12", hd_strategy="Nothing", nobody_knows=[1])
    assert answer.status_code == 200 and answer.headers["x-seed"] == "12"


def test_a_forms_empty_field_says_nothing_and_its_type_is_in_any_case(client: httpx.Client) -> None:
    files = {"image": ("a.png", file_of(picture())), "mask": ("m.png", MASK)}
    answer = client.post("/api/v1/inpaint", files=files, data={"sd_seed": "", "sd_scale": "", "cv2_flag": ""})
    assert answer.status_code == 200 and answer.headers["x-seed"] == "42"
    request = client.build_request("POST", "/api/v1/inpaint", files=files)
    request.headers["content-type"] = request.headers["content-type"].replace("multipart/form", "Multipart/Form")
    opened(client.send(request), "PNG")


def test_own_routes_stay_beside_iopaints(client: httpx.Client) -> None:
    assert upload(client, file_of(picture()))["width"] == WIDTH
    assert client.get("/api/v1/models").json()["active"]
    assert client.get("/api/v1/nowhere").json()["error"] == "not_found"
    config = client.get("/api/v1/server-config").json()
    assert len(config["samplers"]) == 19 and config["samplers"] == client.get("/api/v1/samplers").json()
    assert client.get("/model").text == "lama" and client.get("/server_config").json()["plugins"] == ["InteractiveSeg"]
    assert client.post("/api/v1/switch_plugin_model", json={"plugin_name": "a", "model_name": "b"}).json() is None
    answer = client.get("/api/v1/inputimage")
    assert answer.status_code == 200 and answer.json()["errors"] == "200: No input image configured"


def keep_busy(client: httpx.Client) -> None:
    """Begin one long repair, and leave another waiting."""
    image_id = upload(client, file_of(picture()))["image_id"]
    strokes = [{"points": [[60, 40]], "radius": 9, "erase": False}]
    for number in range(2):
        body = {"image_id": image_id, "request_id": f"n{number}", "strokes": strokes, "options": {"feather_px": 300}}
        answer = client.post("/api/v1/repairs", json=body)
        assert answer.status_code == 202
        if number == 0:
            follow(client, answer.json()["job_id"], until="running")


@pytest.mark.slow
def test_full_queue_is_called_busy(tmp_path: Path) -> None:
    server = RunningServer(tmp_path, settings={"queue_limit": 1}).start()
    try:
        with server.client as client:
            keep_busy(client)
            refused = inpaint(client, file_of(picture()))
            is_refusal(refused, 503, "busy")
            assert refused.headers["retry-after"]
            assert "busy" in client.post("/inpaint", files={"image": file_of(picture()), "mask": MASK}).text
    finally:
        server.stop()


@pytest.mark.slow
def test_one_client_above_its_limit_is_told_when_to_come_again(tmp_path: Path) -> None:
    """The routes of the other programs left Retry-After out."""
    server = RunningServer(tmp_path, settings={"client_waiting_jobs": 1}).start()
    try:
        with server.client as client:
            keep_busy(client)
            for route in ("/api/v1/inpaint", "/inpaint", "/api/v1/repair"):
                refused = client.post(route, files={"image": file_of(picture()), "mask": MASK})
                assert (refused.status_code, refused.headers.get("retry-after")) == (429, "5"), route
    finally:
        server.stop()


@pytest.mark.parametrize("route", ["/api/v1/inpaint", "/inpaint", "/api/v1/repair"])
def test_client_that_goes_away_cancels_its_job(client: httpx.Client, route: str) -> None:
    image_id = upload(client, file_of(picture()))["image_id"]
    strokes = [{"points": [[60, 40]], "radius": 9, "erase": False}]
    body = {"image_id": image_id, "request_id": f"slow{route}", "strokes": strokes, "options": {"feather_px": 150}}
    first = client.post("/api/v1/repairs", json=body).json()["job_id"]
    follow(client, first, until="running")
    with pytest.raises(httpx.ReadTimeout):
        client.post(route, files={"image": file_of(picture()), "mask": MASK}, timeout=0.5)
    deadline = time.monotonic() + 10
    while client.get("/health").json()["queue_length"]:  # the one behind the slow one
        assert client.get(f"/api/v1/jobs/{first}").json()["state"] == "running", "it left only when its turn came"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert follow(client, first)["state"] == "done"


@pytest.mark.slow
def test_folder_is_looked_through_and_nothing_leads_out_of_it(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "secret.png").write_bytes(file_of(picture()))
    (photos / "a b.jpg").write_bytes(file_of(picture(), "JPEG"))
    (photos / "broken.png").write_bytes(b"\x89PNG")
    (photos / "notes.txt").write_text("x")
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "a b.png").write_bytes(MASK)
    server = RunningServer(tmp_path, settings={"input_path": photos, "masks_dir": masks}).start()
    try:
        with server.client as client:
            assert client.get("/api/v1/server-config").json()["enableFileManager"] is True
            (row,) = client.get("/api/v1/medias", params={"tab": "input"}).json()
            assert (row["name"], row["width"], row["height"]) == ("a b.jpg", WIDTH, HEIGHT)
            found = client.get("/api/v1/media_file", params={"tab": "input", "filename": "a b.jpg"})
            assert found.content == (photos / "a b.jpg").read_bytes() and found.headers["content-type"] == "image/png"
            for name in ("../secret.png", "link.png", str(tmp_path / "secret.png"), "..", "", "a\0.png", "notes.txt"):
                answer = client.get("/api/v1/media_file", params={"tab": "input", "filename": name})
                is_refusal(answer, 422, "no photo")
            (row,) = client.get("/api/v1/medias", params={"tab": "mask"}).json()
            assert (row["name"], row["width"], row["height"]) == ("a b.png", WIDTH, HEIGHT)
            asked = {"tab": "mask", "filename": "a b.png"}
            assert client.get("/api/v1/media_file", params=asked).content == MASK
            is_refusal(client.get("/api/v1/medias", params={"tab": "elsewhere"}), 422, "input, output, mask")
            parameters: dict[str, str | int] = {"tab": "input", "filename": "a b.jpg", "width": 64}
            small = client.get("/api/v1/media_thumbnail_file", params=parameters)
            assert Image.open(io.BytesIO(small.content)).size == (64, 48)
            assert (small.headers["x-width"], small.headers["x-height"]) == ("64", "48")
            for sides in ({"width": "9" * 400}, {"width": "-" + "9" * 400, "height": "9" * 400}):
                vast = client.get("/api/v1/media_thumbnail_file", params={**asked, **sides})
                assert (vast.status_code, vast.headers.get("x-width")) == (200, str(WIDTH))
            assert client.get("/api/v1/inputimage").status_code == 404
            for _ in range(2):  # the second does not replace the first
                saved = client.post("/api/v1/save_image", files={"file": ("../../evil.png", file_of(picture()))})
                assert saved.status_code == 200 and saved.json() is None, saved.text
            names = sorted(path.name for path in (tmp_path / "outputs").iterdir())
            assert names == ["evil.png", "evil_2.png"]
            assert not (tmp_path / "evil.png").exists()
            assert len(client.get("/api/v1/medias", params={"tab": "output"}).json()) == 2
            is_refusal(client.post("/api/v1/save_image", files={"file": ("x.png", b"text")}), 415, "no image")
    finally:
        server.stop()


def test_nothing_is_listed_without_a_folder(client: httpx.Client) -> None:
    is_refusal(client.get("/api/v1/medias", params={"tab": "output"}), 404, "No folder")


def test_pages_of_other_sites_need_the_setting(client: httpx.Client, tmp_path: Path) -> None:
    tool = {"Origin": "https://tools.example.org"}
    body = {"image": base64.b64encode(file_of(picture())).decode(), "mask": base64.b64encode(MASK).decode()}
    assert client.post("/api/v1/inpaint", json=body, headers=tool).status_code == 403
    server = RunningServer(tmp_path, settings={"allowed_origins": "https://tools.example.org"}).start()
    try:
        with server.client as other:
            answer = other.post("/api/v1/inpaint", json=body, headers=tool)
            assert answer.status_code == 200
            assert answer.headers["access-control-allow-origin"] == tool["Origin"]
            assert "X-Seed" in answer.headers["access-control-expose-headers"]
            asked = {**tool, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
            assert other.options("/api/v1/inpaint", headers=asked).status_code == 200
            evil = {"Origin": "https://evil.example.org"}
            assert other.post("/api/v1/inpaint", json=body, headers=evil).status_code == 403
    finally:
        server.stop()


def test_many_at_once_do_not_mix(client: httpx.Client) -> None:
    answers: dict[int, httpx.Response] = {}

    def ask(number: int) -> None:
        pixels = np.asarray(picture()).copy()
        pixels[0, 0] = number
        answers[number] = inpaint(client, file_of(Image.fromarray(pixels)), sd_seed=number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, answer in answers.items():
        assert tuple(np.asarray(opened(answer))[0, 0]) == (number,) * 3 and answer.headers["x-seed"] == str(number)
