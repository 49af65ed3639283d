"""The examples while their server ends and is started again: each goes on, says so once, and gives up in the end."""

import importlib.util
import io
import json
import logging
import runpy
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.serving import ROOT, RunningServer, ask_repair, clean_environment, upload, wait_until

EXAMPLES = ROOT / "examples"
CLIENTS = EXAMPLES / "clients"
HOLE = np.pad(np.full((8, 8), 255, np.uint8), 12)
HELD_HUNDREDTHS = 600  # of a second that the engine has something else to do, so that what is asked for waits
GIVEN_UP_S = 0.3
SOON_S = 60


def png_of(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PHOTO, MASK = png_of(np.full((32, 32, 3), 51, np.uint8)), png_of(HOLE)


def loaded(file: str, wait_s: float) -> dict[str, Any]:
    """The names of one of the examples' files, which waits as long as is said."""
    spec = importlib.util.spec_from_file_location(f"restarted_{Path(file).stem}", EXAMPLES / file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(WAIT_S=wait_s, PAUSE_S=0.02)
    return vars(module)


def comfyui(url: str, wait_s: float) -> None:
    mask = torch.from_numpy(HOLE / 255.0)
    loaded("comfyui/node.py", wait_s)["FftlamaErase"]().erase(torch.full((1, 32, 32, 3), 0.2), mask, url=url)


def gimp(url: str, wait_s: float) -> None:
    names = loaded("gimp/fftlama/fftlama_rest.py", wait_s)
    try:
        names["repair"](url, PHOTO, MASK, on_wait=logging.getLogger("gimp").warning)
    except names["ServerError"] as error:
        raise RuntimeError(str(error)) from error


def iopaint(url: str, wait_s: float) -> None:
    manager = loaded("iopaint_shim/iopaint/model_manager.py", wait_s)["ModelManager"]()
    manager._url = url
    manager(np.full((32, 32, 3), 51, np.uint8), HOLE)


ASKS = (comfyui, gimp, iopaint)
Ask = Callable[[str, float], None]


@pytest.fixture(autouse=True)
def shim_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAMA_SERVER_URL", "http://127.0.0.1:9")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with photo.png and mask.png."""
    (tmp_path / "photo.png").write_bytes(PHOTO)
    (tmp_path / "mask.png").write_bytes(MASK)
    return tmp_path


def start(folder: Path, *words: str, **variables: str) -> "subprocess.Popen[str]":
    environment = {**clean_environment(), **variables}
    return subprocess.Popen([*words], cwd=folder, env=environment, stdout=-1, stderr=-1, text=True)


def scripts(files: Path, url: str) -> "list[subprocess.Popen[str]]":
    """The clients that are run as programs: in Python, and by curl."""
    python = [sys.executable, str(CLIENTS / "repair.py"), "photo.png", "x.png", "--mask", "mask.png"]
    return [
        start(files, *python, "--server", url),
        start(files, str(CLIENTS / "repair.sh"), "mask.png", "photo.png", LAMA_SERVER_URL=url, LAMA_WAIT_S=str(SOON_S)),
    ]


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_all_go_on_when_the_server_was_started_again(
    files: Path, start_server: Callable[..., RunningServer], end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each ended in "can't be reached", or in what the server says as it stops."""
    server = start_server()
    with server.client as client, ThreadPoolExecutor(len(ASKS)) as threads:
        ask_repair(client, upload(client, PHOTO)["image_id"], feather_px=HELD_HUNDREDTHS)
        running = scripts(files, server.url)
        asked = [threads.submit(ask, server.url, SOON_S) for ask in ASKS]

        def jobs() -> int:
            status = client.get("/status").json()
            return int(status["running"] + sum(status["waiting"].values()))

        assert wait_until(jobs, {1 + len(running) + len(asked)}) == 6
        server.kill() if end == "kill" else server.stop()
        time.sleep(0.5)  # so that nothing listens for a while
        server.start()
        for one in asked:
            one.result(SOON_S)
        for program, result in zip(running, ("x.png", "photo_repaired.png"), strict=True):
            told = program.communicate(timeout=SOON_S)[1]
            assert program.returncode == 0 and told.count("the server is away") == 1, told
            assert np.asarray(Image.open(files / result)).shape == (32, 32, 3)
    said = [record.getMessage() for record in caplog.records if "is waited for" in record.getMessage()]
    assert len(said) == len(ASKS), said


def test_python_says_what_a_job_waits_for(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It said "queued" again and again while Redis or the workers were away."""
    waits = {"state": "queued", "stage": None, "waiting_for": "redis"}
    done = {"state": "done", "stage": None, "waiting_for": None, "image_id": "c"}
    answers = [{"image_id": "a"}, {"job_id": "b"}, waits, done]
    main = runpy.run_path(str(CLIENTS / "repair.py"))["main"]
    monkeypatch.setitem(main.__globals__, "ask", lambda *_, **__: json.dumps(answers.pop(0) if answers else 0).encode())
    words = ["repair.py", str(files / "photo.png"), str(files / "x.png"), "--stroke", "1,2,3,4"]
    monkeypatch.setattr(sys, "argv", words)
    main()
    assert capsys.readouterr().err == "queued (waiting for redis)\ndone \n"


class Answers:
    """A server of this machine that gives one answer after the other, and the last one from then on.

    An answer is a status with a Retry-After where it is 503, or None: the connection is cut.
    """

    def __init__(self, *statuses: int | None) -> None:
        left = list(statuses)
        self.asked = asked = []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                asked.append(self.path)
                status = left.pop(0) if len(left) > 1 else left[0]
                if status is None:
                    return  # the connection is closed
                self.send_response(status)
                if status == 503:
                    self.send_header("Retry-After", "1")
                body = PHOTO if status == 200 else b'{"error":"interrupted","message":"It stops."}'
                self.send_header("Content-Type", "image/png" if status == 200 else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None: ...

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def answering() -> Iterator[Callable[..., Answers]]:
    """Makes servers, and ends them."""
    made: list[Answers] = []

    def make(*statuses: int | None) -> Answers:
        made.append(Answers(*statuses))
        return made[-1]

    yield make
    for one in made:
        one.close()


def python(url: str, wait_s: float) -> None:
    client = runpy.run_path(str(CLIENTS / "repair.py"))
    client["ask"].__globals__.update(WAIT_S=wait_s, PAUSE_S=0.02)
    client["ask"](url, data=b"{}", wanted="image", was_there=False)


@pytest.mark.parametrize("ask", [*ASKS, python], ids=lambda ask: ask.__name__)
def test_what_a_server_says_as_it_restarts_is_waited_out(ask: Ask, answering: Callable[..., Answers]) -> None:
    """503 until it is ready, 502 from a proxy before it, one connection that is cut."""
    server = answering(503, 502, None, 503, 200)
    ask(server.url, SOON_S)
    assert len(server.asked) == 5


@pytest.mark.parametrize("ask", [*ASKS, python], ids=lambda ask: ask.__name__)
def test_a_photo_that_may_take_the_server_down_is_sent_twice_only(ask: Ask, answering: Callable[..., Answers]) -> None:
    server = answering(None)
    with pytest.raises((RuntimeError, SystemExit), match="closed connection"):
        ask(server.url, SOON_S)
    assert len(server.asked) == 2


@pytest.mark.parametrize("ask", [*ASKS, python], ids=lambda ask: ask.__name__)
def test_it_gives_up_in_the_end_and_at_once_where_waiting_helps_nobody(
    ask: Ask, answering: Callable[..., Answers]
) -> None:
    server = answering(503)
    with pytest.raises((RuntimeError, SystemExit), match="refused"):
        ask(server.url, GIVEN_UP_S)
    assert len(server.asked) > 2
    for status in (422, 500, 504):
        server = answering(status)
        with pytest.raises((RuntimeError, SystemExit), match="refused"):
            ask(server.url, SOON_S)
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("statuses", "asked", "wait_s"),
    [((None,), {2}, SOON_S), ((503,), {2, 3}, 1), ((500,), {1}, SOON_S), ((None, 502, 200), {3}, SOON_S)],
    ids=str,
)
def test_curl_sends_twice_and_gives_up_in_the_end(
    files: Path, answering: Callable[..., Answers], statuses: tuple[int | None, ...], asked: set[int], wait_s: int
) -> None:
    server = answering(*statuses)
    words = [str(CLIENTS / "repair.sh"), "mask.png", "photo.png"]
    program = start(files, *words, LAMA_SERVER_URL=server.url, LAMA_WAIT_S=str(wait_s))
    told = program.communicate()[1]
    assert len(server.asked) in asked and program.returncode == (statuses[-1] != 200), told
    assert ("photo.png: " in told) == (statuses[-1] != 200) and told.count("the server is away") == (asked != {1})
    assert not list(files.glob("*.part"))


def test_gradio_client_gives_up_in_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    wait_for = runpy.run_path(str(CLIENTS / "repair_gradio.py"))["wait_for"]
    wait_for.__globals__.update(WAIT_S=GIVEN_UP_S, PAUSE_S=0.02)
    with pytest.raises(SystemExit, match=r"the server was not there again within 0\.3 s"):
        wait_for("http://127.0.0.1:9")
