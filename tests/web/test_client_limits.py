"""How much one client may ask in a minute, and what it is told when that was too much."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse

from config import Settings
from tests.support.page_driver import DATA
from tests.support.serving import RunningServer, upload
from web.client_limits import ClientLimits


def test_client_that_asks_too_much_waits(start_server: Callable[..., RunningServer]) -> None:
    server = start_server(client_requests_per_minute=3)
    with server.client as client:
        for _ in range(3):
            upload(client, (DATA / "flower.png").read_bytes())
        refused = client.post("/api/v1/repairs", json={})
        assert refused.json()["detail"] == refused.json()["errors"] == refused.json()["message"]
        assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 60
        assert client.get("/api/v1/models").status_code == 200


def test_a_body_whose_size_is_not_told_counts_too(start_server: Callable[..., RunningServer]) -> None:
    """Sent in chunks, a hundred MiB counted as one."""
    server = start_server(client_mib_per_minute=3)

    def mebibytes(count: int) -> Iterator[bytes]:
        yield b"--x\r\nContent-Disposition: form-data; name=file; filename=a.png\r\n\r\n"
        for _ in range(count):
            yield bytes(1 << 20)
        yield b"\r\n--x--\r\n"

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    with server.client as client:
        assert client.post("/api/v1/images", content=mebibytes(1), headers=kind).json()["error"] == "not_an_image"
        refused = client.post("/api/v1/images", content=mebibytes(6), headers=kind)
        assert refused.status_code == 429 and refused.json()["error"] == "too_many_requests"
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert client.get("/health").status_code == 200


def test_what_is_small_counts_as_little(start_server: Callable[..., RunningServer]) -> None:
    """Each click and each cancel counted as a whole MiB: a limit of 10 refused the eleventh of a minute."""
    server = start_server(client_mib_per_minute=1)
    with server.client as client:
        asked = [client.post("/api/v1/repairs", json={"image_id": "x", "request_id": str(n)}) for n in range(8)]
        asked += [client.delete("/api/v1/jobs/x") for _ in range(8)]
        assert [answer.status_code for answer in asked] == [404] * 16
        refused = client.post("/api/v1/images", files={"file": ("a.png", bytes(900 << 10))})
        assert refused.status_code == 429, "sixteen small ones are a quarter MiB"


def test_the_time_that_is_told_leaves_room_for_a_large_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was told when the first MiB of the last minute would be over, and refused again then."""
    now_s = 1000.0
    monkeypatch.setattr("time.time", lambda: now_s)
    client = TestClient(ClientLimits(PlainTextResponse("taken"), settings=Settings(client_mib_per_minute=10)))

    def send(mib: int) -> Any:
        return client.post("/api/v1/images", headers={"Content-Length": str(mib << 20)})

    for _ in range(5):
        assert send(2).status_code == 200
        now_s += 10
    now_s += 0.5
    refused = send(7)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "40")
    now_s += 39
    assert send(7).status_code == 429
    now_s += 1
    assert send(7).status_code == 200


def test_a_clock_that_is_set_back_does_not_keep_a_client_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was asked lay in the time to come: set back by an hour, a full limit was full for as long."""
    now_s = 9000.0
    monkeypatch.setattr("time.time", lambda: now_s)
    client = TestClient(ClientLimits(PlainTextResponse("taken"), settings=Settings(client_requests_per_minute=2)))

    def ask() -> int:
        return client.post("/api/v1/repairs").status_code

    assert [ask(), ask(), ask()] == [200, 200, 429]
    now_s -= 0.5
    assert ask() == 429, "a clock that is kept right"
    now_s -= 3600
    assert [ask(), ask(), ask()] == [200, 200, 429]
