"""Connections that ask nothing, ask slowly or are too many: bounded, and others are served meanwhile."""

import asyncio
import contextlib
import errno
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import h11
import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from web.connections import NO_DESCRIPTORS, BoundedProtocol, OnceAMinute, say_no_descriptors

PATIENCE_S = 60
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc"
MOST = 4


class Hasty(BoundedProtocol):
    """The same with less patience."""

    most_connections = MOST
    request_s = look_s = stalled_s = 0.5


async def answer(scope: Any, receive: Any, send: Any) -> None:
    body = b"" if scope["method"] == "GET" else await Request(scope, receive).body()
    await PlainTextResponse(f"read {len(body)}")(scope, receive, send)


@pytest.fixture
def port() -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(answer, http=Hasty, ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
    thread.start()
    yield int(listener.getsockname()[1])
    server.should_exit = True
    thread.join(PATIENCE_S)


def connect(port: int, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    connection.sendall(sent)
    return connection


def ask(connection: socket.socket) -> None:
    """Send a request and read its whole answer."""
    connection.sendall(GET)
    came = b""
    while b"read 0" not in came:
        part = connection.recv(1000)
        assert part, "the server has closed the connection"
        came += part


def rest_of(connection: socket.socket) -> bytes:
    """Read to the end; fails with a time-out where the server holds the connection."""
    came = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(1 << 16):
            came += part
    return came


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent", [b"", b"GE", b"GET / HTTP/1.1\r\nHost: x\r\nX-", POST], ids=["none", "word", "head", "body"]
)
def test_a_client_that_stops_in_the_middle_is_let_go(port: int, sent: bytes) -> None:
    with connect(port, sent) as connection:
        assert rest_of(connection) == b""
    with connect(port) as connection:
        ask(connection)


def test_who_asks_again_within_a_connection_is_served(port: int) -> None:
    with connect(port) as connection:
        for _ in range(3):
            ask(connection)
        connection.sendall(GET[:10])
        assert rest_of(connection) == b""


def test_the_longest_idle_connection_makes_room(port: int) -> None:
    """And no one waits for the others' time to be over: the new one is served at once."""
    held = []
    for _ in range(MOST + 2):
        held.append(connect(port))
        ask(held[-1])
    assert rest_of(held[0]) == rest_of(held[1]) == b""
    ask(held[-1])
    for connection in held:
        connection.close()


def test_a_body_that_the_program_does_not_take_is_not_the_clients_fault() -> None:
    closed: list[bool] = []

    async def look() -> None:
        protocol: Any = Hasty.__new__(Hasty)
        protocol.loop, protocol._came_bytes = asyncio.get_running_loop(), 5
        protocol.transport = type("Transport", (), {"abort": lambda self: closed.append(True)})()
        for is_paused in (True, False):
            protocol.flow = type("Flow", (), {"read_paused": is_paused})()
            protocol._look(0)
            closed.append(False)

    # In a thread of its own: the browser of the tests before keeps an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, look()).result()
    assert closed == [False, True, False]


def test_a_full_table_of_descriptors_writes_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """It wrote 1.3 MB of tracebacks in ten seconds."""
    logger, limit = logging.getLogger("fftlama.web"), OnceAMinute()
    logger.addFilter(limit)
    try:
        loop: Any = None
        for _ in range(300):
            say_no_descriptors(
                loop, {"message": NO_DESCRIPTORS, "exception": OSError(errno.EMFILE, "Too many open files")}
            )
    finally:
        logger.removeFilter(limit)
    (line,) = caplog.messages
    assert "no file descriptors" in line and "Too many open files" in line


def test_h11_names_the_states_that_are_watched() -> None:
    connection = h11.Connection(h11.SERVER)
    assert connection.their_state is h11.IDLE
    connection.receive_data(POST)
    connection.next_event()
    assert connection.their_state is h11.SEND_BODY
