"""Bounds of connections: how many, how long a request may take to come, how slow a body may be, what that may log.

uvicorn waits for ever for a request that does not come, and accepts until the process has no descriptor left for a
photo.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_S = 30.0  # from the first byte, or from the connection's beginning, to the end of the headers
LOOK_S = 30.0  # how often a body that comes, or an answer that goes, is looked at
LEAST_BYTES = 30 << 10  # of a body in that time; a telephone line does that
STALLED_S = 120.0  # an answer of which nothing could be sent for so long
WANTED_FILES = 8192
MOST_CONNECTIONS = 2000
SPARE_FILES = 256  # for photos, SQLite and what the libraries open
SAY_EVERY_S = 60.0
KEPT_LINES = 1000
NO_DESCRIPTORS = "socket.accept() out of system resource"

log = logging.getLogger("fftlama.web")


class BoundedProtocol(H11Protocol):
    """uvicorn's protocol, with an end to waiting; the longest idle connection makes room for a new one."""

    most_connections = MOST_CONNECTIONS
    request_s, look_s, stalled_s = REQUEST_S, LOOK_S, STALLED_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._owed: object = None  # what the client has begun and not ended
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._came_bytes = 0
        self._heard_s = time.monotonic()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, and close another one where there are too many."""
        super().connection_made(transport)
        self._watch()
        if len(self.connections) > self.most_connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Take what came, and note whether more is owed."""
        self._came_bytes += len(data)
        self._heard_s = time.monotonic()
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        for timer in (self._timer, self._stalled):
            if timer:
                timer.cancel()

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        super().pause_writing()
        self._stalled = self.loop.call_later(self.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Note that the client reads on."""
        super().resume_writing()
        if self._stalled:
            self._stalled.cancel()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        state = self.conn.their_state
        owed = state if state in (h11.IDLE, h11.SEND_BODY) else None
        if owed is self._owed:
            return
        self._owed = owed
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if owed is h11.IDLE:
            self._timer = self.loop.call_later(self.request_s, self.transport.abort)
        elif owed is h11.SEND_BODY:
            self._timer = self.loop.call_later(self.look_s, self._look, self._came_bytes)

    def _look(self, came_bytes: int) -> None:
        # A body that the program itself does not take now is not the client's fault.
        if self._came_bytes - came_bytes < LEAST_BYTES and not self.flow.read_paused:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(self.look_s, self._look, self._came_bytes)

    def _make_room(self) -> None:
        others = [one for one in self.connections if isinstance(one, BoundedProtocol) and one is not self]
        idle = [one for one in others if one._is_idle and not one.transport.is_closing()]
        (min(idle, key=lambda one: one._heard_s) if idle else self).transport.abort()
        log.warning("more than %d connections at once: the longest idle ones are closed", self.most_connections)


def raise_file_limit() -> int:
    """Let this process open `WANTED_FILES` where the system allows it; return how many connections that leaves."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_FILES if hard == resource.RLIM_INFINITY else min(WANTED_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(1, min(MOST_CONNECTIONS, soft - min(SPARE_FILES, soft // 2)))


def say_no_descriptors(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log one line where asyncio writes 256 tracebacks a second; a loop's exception handler."""
    if context.get("message") == NO_DESCRIPTORS:
        log.warning("no file descriptors are left, so new connections wait: %s", context.get("exception"))
    else:
        loop.default_exception_handler(context)


class OnceAMinute(logging.Filter):
    """Lets a warning of the same form through once a minute, because anybody can cause it as often as they like."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line is written."""
        if record.levelno != logging.WARNING:
            return True
        form, now_s = str(record.msg), time.monotonic()
        if now_s - self._said.get(form, -SAY_EVERY_S) < SAY_EVERY_S:
            return False
        if len(self._said) >= KEPT_LINES:
            self._said.clear()
        self._said[form] = now_s
        return True
