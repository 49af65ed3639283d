"""What lama-cleaner's clients read beside a repair: its own sentences and statuses, and its folders."""

import io
from pathlib import Path

import httpx
from PIL import Image

from tests.support.iopaint_clients import HEIGHT, WIDTH, file_of, mask_picture, picture
from tests.support.serving import RunningServer

MASK = file_of(mask_picture())


def is_text(answer: httpx.Response, status: int, words: str) -> None:
    assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (status, "text/plain"), answer.text
    assert words in answer.text


def test_refusals_are_spelt_as_there(api_server: RunningServer) -> None:
    with api_server.client as client:
        files = {"image": ("a.png", file_of(picture())), "mask": ("m.png", file_of(mask_picture().resize((64, 50))))}
        answer = client.post("/inpaint", files=files)
        is_text(answer, 400, f"Mask shape(50, 64) not queal to Image shape{(HEIGHT, WIDTH)}")
        is_text(client.post("/model", data={"name": "sd1.5"}), 403, "no model")
        assert client.get("/model").text == "lama"
        is_text(client.get("/inputimage"), 200, "No Input Image")
        is_text(client.get("/medias/image"), 404, "No folder")


def test_a_model_has_one_name_here_and_by_iopaints_routes(api_server: RunningServer) -> None:
    """Each remembered the name it was asked for itself: what one had chosen, the other called lama."""
    with api_server.client as client:
        assert client.post("/api/v1/model", json={"name": "lama-compact"}).json()["name"] == "lama-compact"
        assert client.get("/model").text == "lama-compact"
        is_text(client.post("/model", data={"name": "lama-compact"}), 200, "Same model")
        is_text(client.post("/model", data={"name": "lama"}), 200, "ok, switch to lama")
        assert client.get("/api/v1/model").json()["name"] == "lama"


def test_folder_is_looked_through_and_nothing_leads_out_of_it(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (tmp_path / "secret.png").write_bytes(file_of(picture()))
    (photos / "a b.jpg").write_bytes(file_of(picture(), "JPEG"))
    (photos / "link.png").symlink_to(tmp_path / "secret.png")
    server = RunningServer(tmp_path, settings={"input_path": photos}).start()
    try:
        with server.client as client:
            (row,) = client.get("/medias/image").json()
            assert (row["name"], row["width"], row["height"]) == ("a b.jpg", WIDTH, HEIGHT)
            found = client.get("/media/image/a b.jpg")
            assert found.content == (photos / "a b.jpg").read_bytes() and found.headers["content-type"] == "image/jpeg"
            for name in ("..%2fsecret.png", "link.png", "%2e%2e", "nothing.png"):
                assert client.get(f"/media/image/{name}").status_code in (404, 422)
            small = client.get("/media_thumbnail/image/a b.jpg", params={"width": 64})
            assert Image.open(io.BytesIO(small.content)).size == (64, 48)
            assert (small.headers["x-width"], small.headers["x-height"]) == ("64", "48")
            is_text(client.get("/media_thumbnail/image/a b.jpg", params={"width": "wide"}), 422, "width")
            saved = client.post("/save_image", files={"image": ("b.png", MASK)}, data={"filename": "../c.png"})
            is_text(saved, 200, "ok")
            assert [row["name"] for row in client.get("/medias/output").json()] == ["c.png"]
            is_text(client.get("/medias/elsewhere"), 422, "no tab")
            is_text(client.get("/inputimage"), 200, "No Input Image")
    finally:
        server.stop()


def test_the_one_photo_is_sent_to_be_saved_until_it_is_gone(tmp_path: Path) -> None:
    photo = tmp_path / "照 片.jpg"
    photo.write_bytes(file_of(picture(), "JPEG"))
    server = RunningServer(tmp_path, settings={"input_path": photo}).start()
    try:
        with server.client as client:
            for route in ("/inputimage", "/api/v1/inputimage"):
                answer = client.get(route)
                assert answer.content == photo.read_bytes() and answer.headers["content-type"] == "image/jpeg"
                assert ("attachment" in answer.headers.get("content-disposition", "")) == (route == "/inputimage")
            photo.unlink()
            is_text(client.get("/inputimage"), 404, "not there any more")
            gone = client.get("/api/v1/inputimage")
            assert gone.status_code == 404 and "not there any more" in gone.json()["errors"]
    finally:
        server.stop()
