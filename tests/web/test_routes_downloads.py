"""Downloads: the quality of a file, the size it will have, and several images in one zip."""

import io
import zipfile
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.support.page_driver import make_photo
from tests.support.serving import RunningServer, ask_repair, follow, upload


def encoded(pixels: np.ndarray, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


@pytest.fixture
def client(api_server: RunningServer) -> Iterator[httpx.Client]:
    with api_server.client as client:
        yield client


def repaired(client: httpx.Client, data: bytes, name: str) -> str:
    view = follow(client, ask_repair(client, upload(client, data, name)["image_id"]))
    return str(view["image_id"])


@pytest.mark.parametrize(("format", "name"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_a_lower_quality_is_a_smaller_file_and_head_tells_its_size(
    client: httpx.Client, format: str, name: str
) -> None:
    address = f"/api/v1/images/{repaired(client, encoded(make_photo(300, 200)), 'photo.png')}"
    sizes = []
    for quality in (95, 60, 20):
        told = client.head(address, params={"format": format, "quality": quality})
        answer = client.get(address, params={"format": format, "quality": quality})
        assert answer.status_code == 200 and int(told.headers["content-length"]) == len(answer.content)
        assert Image.open(io.BytesIO(answer.content)).format == name
        sizes.append(len(answer.content))
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 1.5 * sizes[-1]
    own = client.get(address, params={"format": format})
    assert own.status_code == 200 and len(own.content) > sizes[1]


def test_a_jpeg_at_a_quality_leaves_the_photos_own_tables(client: httpx.Client) -> None:
    data = encoded(make_photo(300, 200), "JPEG", quality=97)
    image_id = repaired(client, data, "photo.jpg")
    own = client.get(f"/api/v1/images/{image_id}")
    small = client.get(f"/api/v1/images/{image_id}", params={"format": "jpeg", "quality": 30})
    assert len(small.content) < len(own.content) / 2


@pytest.mark.parametrize(
    "query", [{"quality": 80}, {"format": "png", "quality": 80}, {"format": "jpeg", "quality": 0},
              {"format": "jpeg", "quality": 101}, {"format": "jpeg", "quality": "high"}, {"format": "tiff"}]
)  # fmt: skip
def test_a_quality_that_cannot_be_is_refused(client: httpx.Client, query: dict) -> None:
    image_id = upload(client, encoded(make_photo(64, 48)))["image_id"]
    for address, more in ((f"/api/v1/images/{image_id}", {}), ("/api/v1/archive", {"image": image_id})):
        answer = client.get(address, params={**query, **more})
        assert answer.status_code == 400 and answer.json()["error"] == "bad_request", address


def test_an_archive_holds_every_image_under_a_name_of_its_own(client: httpx.Client) -> None:
    photos = [encoded(make_photo(80, 60, seed=seed)) for seed in range(3)]
    originals = [upload(client, data, "Photo.png" if i else "photo.png")["image_id"] for i, data in enumerate(photos)]
    edit = repaired(client, photos[0], "假期.png")
    answer = client.get("/api/v1/archive", params={"image": [*originals, edit, edit]})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["photo.png", "Photo (2).png", "Photo (3).png", "假期_repaired.png"]
        assert [archive.read(name) for name in archive.namelist()[:3]] == photos
        single = client.get(f"/api/v1/images/{edit}").content
        assert archive.read("假期_repaired.png") == single
    jpegs = client.get("/api/v1/archive", params={"image": originals, "format": "jpeg", "quality": 50})
    with zipfile.ZipFile(io.BytesIO(jpegs.content)) as archive:
        assert all(Image.open(io.BytesIO(archive.read(name))).format == "JPEG" for name in archive.namelist())


def test_an_archive_with_a_photo_that_its_format_cannot_hold_is_refused_before_it_begins(client: httpx.Client) -> None:
    """The zip broke off where the photo came; what the first is has a status anyway."""
    wide = upload(client, encoded(make_photo(16_384, 4)), "wide.png")["image_id"]
    query = {"image": [upload(client, encoded(make_photo(80, 60)))["image_id"], wide], "format": "webp"}
    told, answer = client.head("/api/v1/archive", params=query), client.get("/api/v1/archive", params=query)
    single = client.get(f"/api/v1/images/{wide}", params={"format": "webp"})
    for refused in (told, answer, single):
        assert refused.status_code == 422
    for refused in (answer, single):
        said = refused.json()
        assert said["error"] == "too_large_for_format" and "16384 x 4 pixels" in said["message"]
        assert said["params"].items() >= {"format": "WEBP", "width": 16_384, "height": 4}.items()
    assert answer.json()["params"]["name"] == "wide.png"
    told = client.head("/api/v1/archive", params={**query, "format": "png"})
    assert told.status_code == 200 and told.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({}, 400, "bad_request"),
        ({"image": "0" * 32}, 404, "unknown_image"),
        ({"image": ["x"] * 501}, 400, "bad_request"),
    ],
)
def test_an_archive_of_nothing_unknown_or_too_much_is_refused(
    client: httpx.Client, query: dict, status: int, code: str
) -> None:
    answer = client.get("/api/v1/archive", params=query)
    assert (answer.status_code, answer.json()["error"]) == (status, code)
