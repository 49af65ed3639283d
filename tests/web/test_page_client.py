"""The Gradio endpoint `/repair`: files in, file out, as they are."""

from __future__ import annotations

import importlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from config import Settings
from jobs.errors import JobError
from jobs.queue import JobQueue
from tests.support.fake_engine import UNTIL_STOPPED, FakeEngine
from tests.support.page_driver import DATA
from tests.support.serving import RunningServer, wait_until

if TYPE_CHECKING:
    from gradio_client import Client


# Gradio and its client are imported where they are needed: they take seconds, and every process collects all tests.
@pytest.fixture(scope="module")
def client(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Client:
    from gradio_client import Client

    return Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def handle_file(path: Path) -> Any:
    from gradio_client import handle_file

    return handle_file(path)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    hole = np.zeros((384, 512), np.uint8)
    hole[100:140, 200:260] = 255
    Image.fromarray(hole).save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_gradios_queue_has_the_waits_that_the_page_makes_longer() -> None:
    """Set under another name they would be passed over without a word, and an idle server would be busy again."""
    import gradio as gr

    from web.page import QUEUE_LOOK_S

    queue = gr.Blocks()._queue
    assert 0 < queue.sleep_when_free < QUEUE_LOOK_S
    assert 0 < queue.progress_update_sleep_when_free < QUEUE_LOOK_S


def test_gradio_keeps_few_sessions(tmp_path: Path) -> None:
    """Each call of a program without a session of its own is one, of 20 kB, and 10,000 of them were kept."""
    from gradio.routes import App

    from web.page import KEPT_SESSIONS, create_page

    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs")
    sessions = App.create_app(create_page(JobQueue(settings, [FakeEngine()]))).state_holder
    for number in range(KEPT_SESSIONS + 9):
        assert sessions[f"call {number}"] is not None
    assert len(sessions.session_data) == KEPT_SESSIONS


def test_who_waits_for_a_call_leaves_threads_for_all_else(
    tmp_path: Path, mask: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forty calls of `/repair` had all threads of the process: nobody could upload a photo until they were done."""
    from app import create_app

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))  # as the program has one of its own
    settings = Settings(data_dir=tmp_path / "data", outputs_dir=tmp_path / "outputs", job_timeout_s=20)
    with TestClient(create_app(settings, FakeEngine()), base_url="http://127.0.0.1") as http:
        assert http.portal is not None
        http.portal.call(anyio.to_thread.current_default_thread_limiter).total_tokens = 1
        files = [("files", file.read_bytes()) for file in (DATA / "pier.jpg", mask)]
        paths = http.post("/gradio_api/upload", files=files).json()
        named = [{"path": path, "meta": {"_type": "gradio.FileData"}} for path in paths]
        http.post("/gradio_api/call/repair", json={"data": [*named, {"dilate_px": UNTIL_STOPPED}]})
        assert wait_until(lambda: http.get("/status").json()["running"], {1}) == 1
        assert http.post("/api/v1/images", files={"file": mask.read_bytes()}).status_code == 201
        assert http.get("/status").json()["running"] == 1, "the others waited until the call was over"
        (job,) = http.app.state.queue.store.connection().execute("SELECT job_id FROM jobs").fetchall()  # type: ignore
        with suppress(JobError):  # who waited for it may have removed it already
            http.app.state.queue.cancel(job["job_id"])  # type: ignore[attr-defined]


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
    from gradio_client.exceptions import AppError

    (tmp_path / "text.png").write_text("no picture")
    Image.new("L", (512, 384)).save(tmp_path / "black.png")
    with pytest.raises(AppError, match="image"):
        client.predict(handle_file(tmp_path / "text.png"), handle_file(mask), api_name="/repair")
    with pytest.raises(AppError, match="Nothing is marked"):
        client.predict(handle_file(DATA / "pier.jpg"), handle_file(tmp_path / "black.png"), api_name="/repair")
    with pytest.raises(AppError, match="file"):
        client.predict(None, handle_file(mask), api_name="/repair")


def test_files_of_the_server_cannot_be_named(server: RunningServer, mask: Path) -> None:
    """A path in the request must be one that was uploaded; the photo in the checkout was not.

    Who forgot handle_file read Pydantic's words, and the server's log had a traceback.
    """
    tracebacks = server.log.count("Traceback")
    path = str(DATA / "pier.jpg")
    named = {"path": path, "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http:
        for file in (named, path, {"path": path}, [named], {**named, "path": "https://127.0.0.1:1/x.png"}):
            call = http.post("/gradio_api/call/repair", json={"data": [file, file, None]}).json()
            answer = http.get(f"/gradio_api/call/repair/{call['event_id']}").text
            assert "event: error" in answer and "give handle_file(path)" in answer, file
            assert "event: complete" not in answer
    assert server.log.count("Traceback") == tracebacks, server.log[-3000:]


def test_options_name_no_files(server: RunningServer, mask: Path) -> None:
    """Gradio copied any file that the server may read into its cache; of one without an end the server never came back.

    An address it fetched.
    """
    cache, tracebacks = server.data_dir / "tmp" / "gradio", server.log.count("Traceback")
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as http:
        uploaded = http.post("/gradio_api/upload", files={"files": ("mask.png", mask.read_bytes())}).json()[0]
        file = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
        for path in (str(DATA / "CREDITS.md"), "https://127.0.0.1:1/x.png"):
            named = {"path": path, "meta": {"_type": "gradio.FileData"}}
            for options in (named, [named], {"quality": named}, {"quality": [{"x": named}]}):
                call = http.post("/gradio_api/call/repair", json={"data": [file, file, options]}).json()
                answer = http.get(f"/gradio_api/call/repair/{call['event_id']}").text
                assert "options hold no files" in answer, (options, answer)
    assert not list(cache.rglob("CREDITS.md"))
    assert server.log.count("Traceback") == tracebacks, server.log[-3000:]


def test_a_cancelled_call_cancels_its_job(client: Client, server: RunningServer, mask: Path) -> None:
    """Nine of twelve cancelled calls were computed to their end."""

    def ended() -> dict[str, int]:
        with server.client as http:
            counts: dict[str, int] = http.get("/status").json()["ended"]
            return counts

    before = ended()
    running = client.submit(handle_file(DATA / "pier.jpg"), handle_file(mask), {"feather_px": 400}, api_name="/repair")
    wait_until(lambda: _running(server), {1}, limit_s=60)
    running.cancel()
    wait_until(lambda: ended()["cancelled"] - before["cancelled"], {1}, limit_s=60)
    assert ended()["cancelled"] == before["cancelled"] + 1 and ended()["done"] == before["done"]


def _running(server: RunningServer) -> int:
    with server.client as http:
        return int(http.get("/status").json()["running"])


FORM = "multipart/form-data; boundary=x"
SHUT = (
    ("GET", "/monitoring"), ("GET", "/monitoring/summary"), ("GET", "/gradio_api/dev/reload"), ("GET", "/logout"),
    ("GET", "/gradio_api/proxy=http://127.0.0.1/x"), ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"), ("GET", "/gradio_api/vibe-code"), ("POST", "/gradio_api/run/repair"),
    ("POST", "/gradio_api/call/predict"), ("GET", "/gradio_api/stream/x/y/z/playlist.m3u8"), ("GET", "/nothing"),
    ("GET", "/gradio_api/file=https://192.0.2.1/x.png"), ("GET", "/gradio_api/file=http%3A%2F%2F192.0.2.1/x.png"),
    ("POST", "/gradio_api/stream/x"), ("GET", "/gradio_api/deep_link"), ("GET", "/gradio_api/openapi.json"),
    ("GET", "/gradio_api/custom_component/x/y/z/w"), ("DELETE", "/"), ("POST", "/config"),
)  # fmt: skip
NONSENSE: tuple[tuple[str, str, bytes, str], ...] = (
    ("POST", "/gradio_api/upload", b"", "text/plain"),
    ("POST", "/gradio_api/upload", b"--x?", FORM),
    ("POST", "/gradio_api/upload", b"--x\r\n\r\n\r\n--x--\r\n", FORM + "; charset=undefined"),
    ("POST", "/gradio_api/upload", b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\r\n--x--\r\n', FORM),
    ("POST", "/gradio_api/upload?upload_id=%00", b"", FORM),
    ("POST", "/gradio_api/queue/join", b"[" * 100_000, "application/json"),
    ("POST", "/gradio_api/queue/join", b"\xff", "application/json"),
    ("POST", "/gradio_api/queue/join", b"{}", "application/json"),
    ("POST", "/gradio_api/queue/join", b'{"data": [], "fn_index": 99, "session_hash": "x"}', "application/json"),
    ("POST", "/gradio_api/queue/join", b'{"data": [], "fn_index": "a", "session_hash": []}', "application/json"),
    ("POST", "/gradio_api/queue/join", b'{"data": [1, 2, 3], "fn_index": -7, "session_hash": "x"}', "application/json"),
    ("POST", "/gradio_api/call/repair", b'{"data": {"a": 1}}', "application/json"),
    ("POST", "/gradio_api/call/repair", b"null", "application/json"),
    ("POST", "/gradio_api/call/v2/repair", b'{"x": 1}', "application/json"),
    ("POST", "/gradio_api/cancel", b'{"session_hash": 1}', "application/json"),
    ("POST", "/gradio_api/reset", b'{"event_id": []}', "application/json"),
    ("GET", "/gradio_api/file=%00", b"", ""),
    ("GET", "/gradio_api/file=" + "a" * 5000, b"", ""),
    ("GET", "/gradio_api/file=/etc/passwd", b"", ""),
    ("GET", "/static/%00", b"", ""), ("GET", "/assets/..%2f..%2fapp.py", b"", ""), ("GET", "/svelte/%00", b"", ""),
    ("GET", "/pwa_icon/0", b"", ""), ("GET", "/pwa_icon/99999999999", b"", ""), ("GET", "/pwa_icon", b"", ""),
    ("GET", "/gradio_api/info?serialize=maybe", b"", ""), ("GET", "/gradio_api/call/repair/nobody", b"", ""),
    ("GET", "/?view=%00&deep_link=../../x", b"", ""), ("GET", "/config?deep_link=%00", b"", ""),
)  # fmt: skip


def test_gradios_other_routes_are_shut_and_nonsense_is_no_fault_of_the_server(server: RunningServer) -> None:
    """Gradio answered 500 to nonsense, and a foreign origin with access-control-allow-credentials."""
    tracebacks = server.log.count("Traceback")
    stranger = {"origin": "https://evil.example"}
    with server.client as client:
        answers = [((method, path), client.request(method, path)) for method, path in SHUT]
        assert {str(asked): answer.status_code for asked, answer in answers if answer.status_code != 404} == {}
        for method, path, body, kind in NONSENSE:
            with client.stream(method, path, content=body, headers={"content-type": kind} if kind else {}) as answer:
                answers.append(((method, path), answer))
        assert {str(asked): answer.status_code for asked, answer in answers if answer.status_code >= 500} == {}
        preflight = {**stranger, "access-control-request-method": "POST"}
        for path in ("/", "/config", "/gradio_api/info", "/gradio_api/file=x", "/theme.css", "/static/x", "/health"):
            answers.append((("GET", path), client.get(path, headers=stranger)))
            answers.append((("OPTIONS", path), client.options(path, headers=preflight)))
        large = client.post("/gradio_api/queue/join", content=bytes(2 << 20))
        assert large.status_code == 413 and large.json()["error"] == "file_too_large"
        streamed = client.post("/gradio_api/queue/join", content=iter([b"[" * (1 << 20)] * 3))
        assert streamed.status_code in (400, 413)
    for asked, answer in [*answers, (("POST", "large"), large), (("POST", "streamed"), streamed)]:
        assert "access-control-allow-origin" not in answer.headers, asked
        assert "access-control-allow-credentials" not in answer.headers, asked
        assert answer.headers["x-content-type-options"] == "nosniff", asked
        assert answer.headers["x-frame-options"] == "SAMEORIGIN", asked
    assert server.log.count("Traceback") == tracebacks, server.log[-3000:]


def test_importing_the_page_writes_nothing_beside_it() -> None:
    """Gradio wrote a page.pyi into the checkout for every subclass of a component."""
    page = importlib.import_module("web.page")
    importlib.reload(page)
    assert list(Path(str(page.__file__)).parent.glob("*.pyi")) == []
