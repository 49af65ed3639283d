"""The Gradio endpoint `/repair`: files in, file out, as they are."""

import importlib
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import web.page
from tests.support.page_driver import DATA
from tests.support.serving import RunningServer


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Client:
    return Client(server.url, verbose=False)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    hole = np.zeros((384, 512), np.uint8)
    hole[100:140, 200:260] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_repair_keeps_name_format_and_size(client: Client, mask: Path) -> None:
    result = Path(client.predict(handle_file(DATA / "pier.jpg"), handle_file(mask), api_name="/repair"))
    assert result.name == "pier.jpg"
    with Image.open(result) as after, Image.open(DATA / "pier.jpg") as before:
        assert (after.format, after.size) == ("JPEG", before.size)
        assert after.info.get("icc_profile") == before.info.get("icc_profile")


def test_repair_leaves_the_rest_of_a_png_alone(client: Client, tmp_path: Path) -> None:
    before = np.random.default_rng(3).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    hole = np.zeros((120, 160), np.uint8)
    hole[40:60, 50:80] = 255
    Image.fromarray(before).save(tmp_path / "noise.png")
    Image.fromarray(hole).save(tmp_path / "hole.png")
    result = client.predict(
        handle_file(tmp_path / "noise.png"), handle_file(tmp_path / "hole.png"), {"quality": "fast"}, api_name="/repair"
    )
    after = np.asarray(Image.open(BytesIO(Path(result).read_bytes())))
    assert np.array_equal(after[hole == 0], before[hole == 0])
    assert not np.array_equal(after[hole > 0], before[hole > 0])


def test_what_cannot_be_repaired_is_said_in_a_sentence(client: Client, mask: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (512, 384)).save(tmp_path / "black.png")
    with pytest.raises(AppError, match="image"):
        client.predict(handle_file(tmp_path / "text.png"), handle_file(mask), api_name="/repair")
    with pytest.raises(AppError, match="Nothing is marked"):
        client.predict(handle_file(DATA / "pier.jpg"), handle_file(tmp_path / "black.png"), api_name="/repair")
    with pytest.raises(AppError, match="file"):
        client.predict(None, handle_file(mask), api_name="/repair")


def test_files_of_the_server_cannot_be_named(server: RunningServer, mask: Path) -> None:
    """A path in the request must be one that was uploaded; the photo in the checkout was not."""
    named = {"path": str(DATA / "pier.jpg"), "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http:
        call = http.post("/gradio_api/call/repair", json={"data": [named, named, None]}).json()
        answer = http.get(f"/gradio_api/call/repair/{call['event_id']}").text
    assert "event: error" in answer
    assert "event: complete" not in answer


def test_importing_the_page_writes_nothing_beside_it() -> None:
    """Gradio wrote a page.pyi into the checkout for every subclass of a component."""
    importlib.reload(web.page)
    assert list(Path(web.page.__file__).parent.glob("*.pyi")) == []
