"""app.py as a process: how it starts, what it says when it can't, how it ends."""

import io
import json
import logging
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

import app
from config import Settings
from tests.support.serving import ROOT, RunningServer, ask_repair, clean_environment, follow, free_port, upload

PHOTO = ROOT / "tests" / "data" / "flower.png"


def run_app(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "app.py", *arguments], cwd=ROOT, env=clean_environment(), capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip


def run_ending(lines: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program of some lines, with something in it that says when it is freed, that ends as ours do."""
    code = f"""
import atexit, sys, threading, time
from notices import run_and_exit
class Kept:
    def __del__(self, say=print): say("freed")
kept = Kept()
def main():
{textwrap.indent(textwrap.dedent(lines), "    ")}
run_and_exit(main)
"""
    environment = {**clean_environment(), "PYTHONUNBUFFERED": ""}  # or words are lost as soon as they are said
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def test_a_process_ends_without_freeing_all_that_it_imported_once_all_else_is_done() -> None:
    """To free PyTorch and Gradio took a second of a core in which the port was still taken."""
    lines = """
    threading.Thread(target=lambda: (time.sleep(0.1), print("a thread"))).start()
    atexit.register(print, "registered")
    print("main")
    return 7
    """
    ended = run_ending(lines, stdout=subprocess.PIPE)
    assert (ended.stdout.split("\n"), ended.returncode) == (["main", "a thread", "registered", ""], 7)
    assert not ended.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is full")
def test_a_process_whose_words_are_lost_or_that_fails_ends_as_any_other() -> None:
    with Path("/dev/full").open("w") as full:
        assert run_ending("print('main'); return 0", stdout=full).returncode == 120
    failed = run_ending("raise ValueError('no')", stdout=subprocess.PIPE)
    assert failed.returncode == 1 and failed.stderr.endswith("ValueError: no\n") and failed.stdout == "freed\n"


def test_a_taken_port_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        ended = run_app(f"--port={port}")
    assert ended.returncode == 3
    assert ended.stderr == f"fftlama: can't listen on 127.0.0.1 port {port}: another program uses it.\n"
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("argument", "told"),
    [("--port=70000", "from 1 to 65535"), ("--queue-limit=many", "a whole number"), ("--log-level=loud", "one of")],
)
def test_a_wrong_setting_is_one_clear_sentence(argument: str, told: str) -> None:
    ended = run_app(argument)
    assert ended.returncode == 2
    assert told in ended.stderr and ended.stderr.count("\n") == 1


def test_a_model_that_cannot_be_loaded_is_one_clear_sentence(tmp_path: Path) -> None:
    wrong = tmp_path / "lama.pt"
    wrong.write_text("<!doctype html><title>404</title>")
    folders = [f"--data-dir={tmp_path / 'data'}", f"--outputs-dir={tmp_path / 'outputs'}"]
    folders.append(f"--input-path={tmp_path / 'nowhere'}")
    ended = run_app(f"--port={free_port()}", f"--weights={wrong}", *folders)
    assert ended.returncode == 2, "with 1 a system service began anew every two seconds, for ever"
    assert "could not start" in ended.stdout and "lama.pt" in ended.stdout
    assert f"input_path: there is no {tmp_path / 'nowhere'}" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux fails as a full disk does")
def test_a_start_on_a_full_disk_says_which_folder_lies_there(tmp_path: Path) -> None:
    """It said that the disk of the server is full, and a server has several."""
    words = ["api", f"--port={free_port()}", f"--data-dir={tmp_path / 'data'}", f"--outputs-dir={tmp_path}"]
    ended = subprocess.run(
        [sys.executable, "tests/support/serve_fake.py", *words], cwd=ROOT, env=clean_environment(),
        capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY)),
    )  # fmt: skip
    assert ended.returncode == 1 and "Traceback" not in ended.stdout, ended.stdout
    assert f"Make room and retry. data_dir is {tmp_path / 'data'}." in ended.stdout


def test_a_server_with_workers_says_which_weights_are_missing(tmp_path: Path) -> None:
    """It said "[Errno 2] No such file or directory"."""
    settings = Settings(queue="celery", weights=str(tmp_path / "gone.pt"))
    with pytest.raises(ValueError, match=r"gone\.pt does not exist; "):
        app.load_remote_engines(settings)


def test_it_answers_starting_until_it_is_ready_and_stops_at_once(tmp_path: Path) -> None:
    server = RunningServer(tmp_path, kind="page", is_forked=False)
    server.start(wait=False)
    try:
        with server.client as client:
            until_s = time.monotonic() + 30
            answers: dict[str, httpx.Response] = {}
            while not answers and time.monotonic() < until_s:
                try:
                    answers = {path: client.get(path) for path in ("/health", "/api/v1/jobs/x", "/", "/metrics")}
                    page = client.get("/login", headers={"Accept": "text/html, */*;q=0.8"})
                except httpx.TransportError:
                    time.sleep(0.02)
            assert answers["/health"].status_code == 503 and answers["/health"].json() == {"status": "starting"}
            assert (
                answers["/api/v1/jobs/x"].status_code == 503 and answers["/api/v1/jobs/x"].json()["error"] == "starting"
            )
            said = answers["/api/v1/jobs/x"].json()
            assert said["detail"] == said["errors"] == said["message"]
            assert answers["/"].status_code == 503 and "refresh" in answers["/"].text
            assert answers["/metrics"].status_code == 503 and answers["/metrics"].json() == said, "no page for programs"
            assert page.status_code == 503 and "refresh" in page.text
        assert server.stop() == 0, "stopping while it starts is no failure"
    finally:
        server.kill()


@pytest.mark.parametrize("closing", ["", ">&- 2>&-"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_that_nobody_takes_stops_no_server(tmp_path: Path, closing: str) -> None:
    """Where the disk under the log was full it started, failed to say that it was ready, and ended.

    With standard error closed it did not start, with standard output closed it ended with a traceback.
    """
    server = RunningServer(tmp_path, kind="api", is_forked=False)
    words = [f"--port={server.port}", f"--data-dir={server.data_dir}", f"--outputs-dir={server.outputs_dir}"]
    with Path("/dev/full").open("ab") as full, (tmp_path / "server.log").open("ab") as log:
        command = ["bash", "-c", f'exec "$@" {closing}', "bash", sys.executable, "tests/support/serve_fake.py", "api"]
        command += words
        server.process = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=full, stderr=log)
    try:
        server.wait_until_healthy()
        with server.client as client:
            upload(client, PHOTO.read_bytes())
        assert server.stop() == 0
    finally:
        server.kill()


def test_stopping_does_not_wait_for_patient_clients(start_server: Callable[..., RunningServer]) -> None:
    """Nor for a thread that is busy for long, as one that encodes a large photo: the server had to be killed."""
    server = start_server(kind="api")
    with server.client as client:
        view = follow(client, ask_repair(client, upload(client, PHOTO.read_bytes())["image_id"]), until="saved")
        address = f"/api/v1/jobs/{view['job_id']}?wait_s=25&seen={view['version']}"
        answers: list[int] = []
        patient = threading.Thread(target=lambda: answers.append(client.get(address).status_code))
        patient.start()
        with closing(sqlite3.connect(server.data_dir / "jobs.sqlite3", isolation_level=None)) as database:
            database.execute("BEGIN IMMEDIATE")  # which the thread of an upload waits for
            busy = threading.Thread(target=upload_and_be_cut_off, args=(server,))
            busy.start()
            time.sleep(0.3)
            assert server.stop() == 0  # which fails after 15 s, while the client would wait for 25, the thread for 30
        patient.join(5)
        busy.join(5)
        assert answers == [200], "it is answered, not cut off"


def test_a_pool_that_is_kept_does_not_hold_up_the_end() -> None:
    """Where the network has two threads of its own, on two cores, every stop waited for them in vain."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()
        assert app._have_threads_ended()


def upload_and_be_cut_off(server: RunningServer) -> None:
    with suppress(httpx.TransportError), server.client as client:
        client.post("/api/v1/images", files={"file": ("a.png", PHOTO.read_bytes())})


def test_a_second_user_of_the_machine_can_start_and_upload(tmp_path: Path) -> None:
    """Gradio keeps uploads in TMPDIR/gradio, which belongs to whoever came first; here nobody can make it."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "gradio").write_text("a file stands where the folder should be")
    left = tmp_path / "server" / "data" / "tmp" / "gradio" / "left" / "of-an-earlier-run.png"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x")
    environment = {"TMPDIR": str(shared)}
    server = RunningServer(tmp_path / "server", kind="page", environment=environment, is_forked=False).start()
    try:
        assert not left.exists()
        with server.client as client:
            (path,) = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(3 << 20))}).json()
            assert Path(path).is_relative_to(server.data_dir / "tmp") and Path(path).is_file()
            shutil.rmtree(server.data_dir / "tmp")
            form = {"file": ("a.png", b"x" * (2 << 20))}  # large enough to be spooled
            assert client.post("/api/v1/images", files=form).status_code == 415
            assert client.post("/gradio_api/upload", files={"files": ("a.png", b"x")}).status_code == 200
        assert [entry.name for entry in shared.iterdir()] == ["gradio"]
    finally:
        server.kill()


def test_the_page_is_served_beside_the_routes(server: RunningServer) -> None:
    with server.client as client:
        page = client.get("/")
        assert page.status_code == 200 and "text/html" in page.headers["content-type"]
        assert client.get("/api/v1/nothing").json()["error"] == "not_found"
        assert "analytics" not in page.text or client.get("/config").json()["analytics_enabled"] is False
        refused = client.post("/gradio_api/upload", headers={"origin": "https://evil.example"})
        assert refused.status_code == 403 and refused.json()["error"] == "cross_site"
    assert f"fftlama is ready at {server.url}\n" in server.log


def test_every_line_of_a_log_in_json_is_an_object(start_server: Callable[..., RunningServer]) -> None:
    """The line that says that it is ready was text, and the one about a variable that is passed over."""
    server = start_server(kind="api", log_format="json", environment={"HOST": "x86_64-conda-linux-gnu"})
    with server.client as client:
        follow(client, ask_repair(client, upload(client, PHOTO.read_bytes())["image_id"]), until="saved")
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.log.splitlines()]
    told = [line["message"] for line in lines]
    assert f"fftlama is ready at {server.url}" in told
    assert sum("HOST=x86_64-conda-linux-gnu is passed over" in message for message in told) == 1


def test_warnings_of_libraries_are_lines_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """They were text between the objects of a log in JSON, over several lines."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    monkeypatch.setattr(logging, "_warnings_showwarning", None)
    with warnings.catch_warnings(), monkeypatch.context() as written:
        warnings.simplefilter("always")
        written.setattr(sys, "stdout", log := io.StringIO())
        app.set_up_logging(Settings(log_format="json"))
        warnings.warn("of a library", stacklevel=1)
    line = json.loads(log.getvalue())
    assert (line["level"], line["logger"]) == ("warning", "py.warnings") and "of a library" in line["message"]


def test_small_answers_are_sent_at_once() -> None:
    """asyncio sets TCP_NODELAY only on sockets that name their protocol; without it answers waited 40 ms for an ACK."""
    (listener,) = app._listen("127.0.0.1", 0)
    with listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_localhost_is_both_loopback_addresses() -> None:
    """Browsers try ::1 first; a server on one of the two only is not found, or another program is."""
    port = free_port()
    listeners = app._listen("localhost", port)
    try:
        expected = ["127.0.0.1", "::1"] if has_ipv6_loopback() else ["127.0.0.1"]
        assert [listener.getsockname()[0] for listener in listeners] == expected
        with pytest.raises(OSError):
            app._listen("localhost", port)
    finally:
        for listener in listeners:
            listener.close()


def test_localhost_taken_on_one_family_is_taken() -> None:
    if not has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        ended = run_app("--host=localhost", f"--port={port}")
    assert ended.returncode == 3 and "another program uses it" in ended.stderr


def test_a_host_name_that_is_none_is_one_clear_sentence() -> None:
    ended = run_app(f"--host={'a' * 70}.example", f"--port={free_port()}")
    assert ended.returncode == 3
    assert ended.stderr.startswith("fftlama: can't listen on aaa") and ended.stderr.count("\n") == 1


def has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
