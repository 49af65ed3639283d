"""Clients that disappear in the middle of a request: nobody computes for them, and nothing of theirs stays."""

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from jobs.errors import JobError
from tests.support.fake_engine import UNTIL_STOPPED
from tests.support.iopaint_clients import data_url, file_of, mask_picture, picture
from tests.support.serving import RunningServer, follow, upload
from web.one_shot import CancellableJob

BOUNDARY = "leaving"
PHOTO, MASK = file_of(picture()), file_of(mask_picture())


def form(**parts: bytes) -> bytes:
    """A multipart body of files; a part named `options` is a text."""
    body = b""
    for name, data in parts.items():
        file = "" if name == "options" else '; filename="a.png"'
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


def json_body() -> bytes:
    return json.dumps({"image": data_url(PHOTO), "mask": data_url(MASK)}).encode()


WAYS: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    "upload": ("/api/v1/images", "form", lambda: form(file=PHOTO)),
    "one-shot": ("/api/v1/repair", "form", lambda: form(image=PHOTO, mask=MASK)),
    "IOPaint's JSON": ("/api/v1/inpaint", "json", json_body),
    "IOPaint's form": ("/api/v1/inpaint", "form", lambda: form(image=PHOTO, mask=MASK)),
    "lama-cleaner's form": ("/inpaint", "form", lambda: form(image=PHOTO, mask=MASK)),
}
ONE_SHOTS = [name for name in WAYS if name != "upload"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    settings = {"client_requests_per_minute": 0}
    server = RunningServer(tmp_path_factory.mktemp("left"), settings=settings).start()
    yield server
    server.kill()


@pytest.fixture(autouse=True)
def quiet(server: RunningServer) -> Iterator[None]:
    yield
    assert "Traceback" not in server.log, server.log


def ask(server: RunningServer, path: str, kind: str, body: bytes, *, share: float = 1.0) -> socket.socket:
    """Send a request, or the first part of one, and return its connection."""
    media_type = f"multipart/form-data; boundary={BOUNDARY}" if kind == "form" else "application/json"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: {media_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(head.encode() + body[: int(len(body) * share)])
    return connection


def jobs_by_state(server: RunningServer) -> dict[str, int]:
    with sqlite3.connect(f"file:{server.data_dir / 'jobs.sqlite3'}?mode=ro", uri=True) as database:
        return dict(database.execute("SELECT state, COUNT(*) FROM jobs GROUP BY state"))


def left(server: RunningServer) -> dict[str, Any]:
    """What there is of photos, temporary files and rows."""
    with sqlite3.connect(f"file:{server.data_dir / 'jobs.sqlite3'}?mode=ro", uri=True) as database:
        rows = {
            table: database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
            for table in ("images", "one_shots", "masks")
        }
    files = sorted(
        path.relative_to(server.data_dir).as_posix()
        for path in server.data_dir.rglob("*")
        if path.is_file() and not path.name.startswith("jobs.sqlite3") and not path.name.endswith(".lock")
    )
    return {"rows": rows, "files": files, "jobs": jobs_by_state(server)}


def wait_for_same(server: RunningServer, before: dict[str, Any], limit_s: float = 30.0) -> None:
    """Wait until everything is as before, and stays so for half a second: what is late shows then."""
    until_s, same_s = time.monotonic() + limit_s, time.monotonic()
    while time.monotonic() - same_s < 0.5:
        if (now := left(server)) != before:
            same_s = time.monotonic()
        assert time.monotonic() < until_s, f"{now} stays, where {before} was"
        time.sleep(0.05)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_body_that_breaks_off_leaves_nothing(server: RunningServer, name: str, share: float) -> None:
    path, kind, body = WAYS[name]
    before = left(server)
    ask(server, path, kind, body(), share=share).close()
    with server.client as client:
        assert client.get("/health").status_code == 200
        wait_for_same(server, before)
        assert client.get("/health").json()["queue_length"] == 0


@pytest.mark.parametrize("name", ONE_SHOTS)
def test_a_waiting_one_shot_whose_client_leaves_is_cancelled(server: RunningServer, name: str) -> None:
    path, kind, body = WAYS[name]
    with server.client as client, endless_job(client) as blocking:
        before = left(server)
        connection = ask(server, path, kind, body())
        wait_until_waiting(client)
        connection.close()
        wait_for_same(server, before)
        assert client.get("/health").json()["queue_length"] == 0
        assert client.get(f"/api/v1/jobs/{blocking}").json()["state"] == "running", "it left only at its turn"


def test_a_running_one_shot_whose_client_leaves_stops(server: RunningServer) -> None:
    path, kind, _ = WAYS["one-shot"]
    options = json.dumps({"dilate_px": UNTIL_STOPPED}).encode()
    before = left(server)
    connection = ask(server, path, kind, form(image=PHOTO, mask=MASK, options=options))
    until_s = time.monotonic() + 30
    while not jobs_by_state(server).get("running"):
        assert time.monotonic() < until_s
        time.sleep(0.05)
    connection.close()
    wait_for_same(server, before)


def test_twelve_who_leave_at_once_leave_nothing(server: RunningServer) -> None:
    path, kind, body = WAYS["one-shot"]
    with server.client as client, endless_job(client):
        before = left(server)
        for connection in [ask(server, path, kind, body()) for _ in range(12)]:
            connection.close()
        wait_for_same(server, before)
        assert client.get("/health").json()["queue_length"] == 0


class NoJobs:
    """A queue that has none of the jobs it is asked about."""

    def cancel(self, job_id: str) -> None:
        raise JobError("unknown_job", "This job is not here (any more).")


def test_the_file_of_a_client_that_left_while_it_waited_is_not_read() -> None:
    job, read = CancellableJob(NoJobs()), []

    def read_file() -> bytes:
        read.append("file")
        return b"file"

    assert job.if_wanted(read_file)() == b"file"
    job.cancel()
    with pytest.raises(JobError) as interrupted:
        job.if_wanted(read_file)()
    assert interrupted.value.code == "interrupted" and read == ["file"]


def test_a_job_that_is_gone_already_is_no_trouble_to_cancel() -> None:
    """A client that left just when its one-shot had ended made a traceback in the log."""
    before, after = CancellableJob(NoJobs()), CancellableJob(NoJobs())
    before.cancel()
    before.begin("x")
    after.begin("x")
    after.cancel()


@contextmanager
def endless_job(client: httpx.Client) -> Iterator[str]:
    """Have the one engine work on something while the block runs; give the job's id."""
    image_id = upload(client, PHOTO)["image_id"]
    body = {
        "image_id": image_id, "request_id": f"endless {image_id}", "options": {"dilate_px": UNTIL_STOPPED},
        "strokes": [{"points": [[60, 40]], "radius": 9, "erase": False}],
    }  # fmt: skip
    job_id = str(client.post("/api/v1/repairs", json=body).json()["job_id"])
    follow(client, job_id, until="running")
    try:
        yield job_id
    finally:
        client.delete(f"/api/v1/jobs/{job_id}")


def wait_until_waiting(client: httpx.Client) -> None:
    until_s = time.monotonic() + 30
    while client.get("/health").json()["queue_length"] != 1:
        assert time.monotonic() < until_s
        time.sleep(0.02)
