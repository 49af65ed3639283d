"""What the examples say of a server that ends in the middle of its answer, or that is none of fftlama's."""

import errno
import importlib.util
import io
import json
import os
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.serving import ROOT

EXAMPLES = ROOT / "examples"
OF_ANOTHER_SIZE = "is a picture of another size"
SMALL = io.BytesIO()
Image.new("RGB", (3, 2)).save(SMALL, "PNG")
ANSWERS = {
    OF_ANOTHER_SIZE: b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n%s"
    % (len(SMALL.getvalue()), SMALL.getvalue()),
    "breaks off": b"HTTP/1.1 200 OK\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n\x89PNG",
    "refuses and breaks off": b"HTTP/1.1 500 Oh\r\nContent-Length: 1000\r\n\r\nit broke",
    "is no web server": b"220 mail.example.org ESMTP\r\n",
    "is another": b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>",
}
ADDRESSES = ("http://127.0.0.1:port", "http://127.0.0.1:9/with a blank", "127.0.0.1")


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, str]]:
    """The address of a server for each of the answers, which reads a request and gives it."""
    listening = {name: socket.create_server(("127.0.0.1", 0)) for name in ANSWERS}

    def serve(name: str) -> None:
        while True:
            try:
                client, _ = listening[name].accept()
            except OSError:
                return
            with client, client.makefile("rb") as request:
                headers = b"".join(iter(request.readline, b"\r\n")).lower()
                if b"content-length:" in headers:
                    request.read(int(headers.partition(b"content-length:")[2].split()[0]))
                client.sendall(ANSWERS[name])

    threads = [threading.Thread(target=serve, args=(name,)) for name in ANSWERS]
    for thread in threads:
        thread.start()
    yield {name: f"http://127.0.0.1:{one.getsockname()[1]}" for name, one in listening.items()}
    for one in listening.values():
        one.shutdown(socket.SHUT_RDWR)
        one.close()
    for thread in threads:
        thread.join()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder with photo.png and mask.png."""
    Image.new("RGB", (16, 16)).save(tmp_path / "photo.png")
    Image.new("L", (16, 16), 255).save(tmp_path / "mask.png")
    return tmp_path


def loaded(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(PAUSE_S=0)  # before it asks a server that broke off again
    return module


def comfyui(url: str) -> None:
    node = loaded("fftlama_node", EXAMPLES / "comfyui" / "node.py")
    with pytest.raises(RuntimeError):
        node.FftlamaErase().erase(torch.zeros(1, 16, 16, 3), torch.eye(16), url=url)


def gimp(url: str) -> None:
    rest = loaded("fftlama_rest", EXAMPLES / "gimp" / "fftlama" / "fftlama_rest.py")
    with pytest.raises(rest.ServerError):
        rest.repair(url, b"photo", b"mask")


def shim(url: str) -> None:
    module = loaded("shim_of_iopaint", EXAMPLES / "iopaint_shim" / "iopaint" / "model_manager.py")
    manager = module.ModelManager()
    manager._url = url
    with pytest.raises(RuntimeError):
        manager(np.zeros((16, 16, 3), np.uint8), np.eye(16, dtype=np.uint8))


def python_client(url: str) -> None:
    client = runpy.run_path(str(EXAMPLES / "clients" / "repair.py"))
    client["upload"].__globals__.update(PAUSE_S=0)
    with pytest.raises(SystemExit):
        client["upload"](url, ROOT / "tests" / "data" / "flower.png")


@pytest.mark.parametrize("ask", [comfyui, gimp, shim, python_client], ids=lambda ask: ask.__name__)
def test_a_server_that_breaks_off_or_is_none_ends_in_a_sentence(
    ask: Callable[[str], None], servers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """These were tracebacks of http.client, whose errors are no OSError."""
    monkeypatch.setenv("LAMA_SERVER_URL", "http://127.0.0.1:9")
    for url in (*servers.values(), *ADDRESSES):
        ask(url)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ([], "answered without image_id"),
        ({}, "answered without image_id"),
        ({"image_id": 3}, "answered without image_id"),
        ({"image_id": "a"}, "answered without job_id"),
        ({"image_id": "a", "job_id": "b"}, "answered without state"),
        ({"image_id": "a", "job_id": "b", "state": "failed", "error": "oh"}, "the repair was failed"),
        ({"image_id": "a", "job_id": "b", "state": "cancelled", "error": None}, "the repair was cancelled"),
        ({"image_id": "a", "job_id": "b", "state": "done"}, "something else than image/"),
    ],
    ids=str,
)
def test_python_takes_no_other_servers_json_for_an_answer(
    files: Path, monkeypatch: pytest.MonkeyPatch, answer: object, told: str
) -> None:
    """These were KeyErrors, and the last one's JSON became the photo's result."""

    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *words: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Other)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    client = runpy.run_path(str(EXAMPLES / "clients" / "repair.py"))
    words = ["repair.py", str(files / "photo.png"), str(files / "x.png"), "--stroke", "1,2,3,4"]
    monkeypatch.setattr(sys, "argv", [*words, "--server", f"http://127.0.0.1:{server.server_port}"])
    try:
        with pytest.raises(SystemExit, match=told):
            client["main"]()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not (files / "x.png").exists()


def test_python_leaves_what_is_there_where_the_disk_is_full(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a picture stood in the place of a good one."""
    write = runpy.run_path(str(EXAMPLES / "clients" / "repair.py"))["write"]
    before = (files / "photo.png").read_bytes()
    write_bytes = Path.write_bytes

    def half(path: Path, data: bytes) -> int:
        write_bytes(path, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(SystemExit, match=r"photo\.png can't be written: No space left"):
        write(files / "photo.png", b"a new one")
    assert (files / "photo.png").read_bytes() == before
    assert sorted(path.name for path in files.iterdir()) == ["mask.png", "photo.png"]


def test_curl_keeps_nothing_that_is_no_picture(servers: dict[str, str], files: Path) -> None:
    """A page of another server became a photo's result, and one that stands still was waited for without end."""
    words = [str(EXAMPLES / "clients" / "repair.sh"), "mask.png", "photo.png"]
    with socket.create_server(("127.0.0.1", 0)) as still:
        others = [url for name, url in servers.items() if name != OF_ANOTHER_SIZE]  # curl does not look into pictures
        for url in (*others, f"http://127.0.0.1:{still.getsockname()[1]}"):
            environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LAMA_SERVER_URL": url, "LAMA_TIMEOUT_S": "1"}
            done = subprocess.run(words, cwd=files, env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 1 and "photo.png: " in done.stderr
    assert sorted(path.name for path in files.iterdir()) == ["mask.png", "photo.png"]


def test_gradio_client_asks_no_other_site(files: Path) -> None:
    """It took what is no address for the name of a Space of Hugging Face, and looked for it there."""
    words = [sys.executable, str(EXAMPLES / "clients" / "repair_gradio.py"), "photo.png", "mask.png", "x.png"]
    done = subprocess.run([*words, "127.0.0.1:9"], cwd=files, capture_output=True, text=True)
    assert done.returncode == 1 and "begins with http://" in done.stderr
    done = subprocess.run([*words, "http://127.0.0.1:port"], cwd=files, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
