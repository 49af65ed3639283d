"""How much one client may ask in a minute: requests that change something, and bytes sent.

Counted in this process by the library `limits`, per person who is logged in, else per address. What is refused is
answered 429 with Retry-After. Reading is not limited: the page polls while somebody waits.
"""

from __future__ import annotations

import math
import time

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import Settings
from jobs.clients import current_client
from web.refusals import refusal_body

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MIB = 1 << 20
STEP_BYTES = 16 << 10  # what bytes are counted in: the library keeps 8 bytes for each of a minute's steps
WINDOW_S = 60
CLOCK_STEP_S = 1.0  # less is how clocks are kept right
LEFT: Message = {"type": "http.disconnect"}


class ClientLimits:
    """ASGI middleware behind the gate, which has said who asks.

    Args:
        app: what is protected.
        settings: `client_requests_per_minute` and `client_mib_per_minute` are read; 0 = no limit.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._storage = MemoryStorage()
        self._limiter = MovingWindowRateLimiter(self._storage)
        self._asked_s = time.time()
        self._requests = _per_minute(settings.client_requests_per_minute, "requests")
        self._bytes = _per_minute(settings.client_mib_per_minute * (MIB // STEP_BYTES), "bytes")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or scope["method"] in SAFE_METHODS:
            await self._app(scope, receive, send)
            return
        key = current_client.get().key
        declared = Headers(scope=scope).get("content-length", "")
        is_declared = declared.isdigit() and len(declared) < 16
        steps = math.ceil(int(declared) / STEP_BYTES) if is_declared else 1
        wait_s = self._wait_s(self._requests, key, 1) or self._wait_s(self._bytes, key, max(1, steps))
        if wait_s:
            await _refusal(wait_s)(scope, receive, send)
        elif is_declared or self._bytes is None:
            await self._app(scope, receive, send)
        else:
            await self._pass_undeclared(scope, receive, send, key)

    async def _pass_undeclared(self, scope: Scope, receive: Receive, send: Send, key: str) -> None:
        """Pass a request on whose size nobody has told, and count it while it comes.

        When it is too much, the program behind is told that the client has left, and the client is refused.
        """
        counted_steps, received_bytes, wait_s, is_answered = 1, 0, 0, False

        async def counted_receive() -> Message:
            nonlocal counted_steps, received_bytes, wait_s
            message = await receive() if not wait_s else LEFT
            received_bytes += len(message.get("body", b""))
            more_steps = math.ceil(received_bytes / STEP_BYTES) - counted_steps
            if more_steps > 0:
                wait_s = self._wait_s(self._bytes, key, more_steps)
                counted_steps += more_steps
            return LEFT if wait_s else message

        async def watched_send(message: Message) -> None:
            nonlocal is_answered
            if wait_s and not is_answered:
                return  # what the program says to a client that has left
            is_answered = True
            await send(message)

        try:
            await self._app(scope, counted_receive, watched_send)
        except Exception:  # of a program that was told that its client has left: the refusal is the answer
            if not wait_s:
                raise
        if wait_s and not is_answered:
            await _refusal(wait_s)(scope, receive, send)

    def _wait_s(self, limit: RateLimitItemPerMinute | None, key: str, cost: int) -> int:
        """Count a cost and return 0, or return how many seconds to wait for it."""
        if limit is None:
            return 0
        self._follow_clock()
        if self._limiter.hit(limit, key, cost=min(cost, limit.amount)):
            return 0
        # What is left of the last minute by then leaves room for the whole cost, not for one of it alone.
        room, storage_key = limit.amount - min(cost, limit.amount), limit.key_for(key)
        kept_s = (kept_s for kept_s in range(WINDOW_S - 1, 0, -1) if self._counted(storage_key, limit, kept_s) <= room)
        return WINDOW_S - next(kept_s, 0)

    def _follow_clock(self) -> None:
        """Forget what was counted where the machine's clock, by which the library counts, was set back.

        All that was asked would lie in the time to come, and a limit that was full be full for as long.
        """
        now_s = time.time()
        if now_s < self._asked_s - CLOCK_STEP_S:
            self._storage.reset()
        self._asked_s = now_s

    def _counted(self, storage_key: str, limit: RateLimitItemPerMinute, last_s: int) -> int:
        """Return what was counted in the last seconds."""
        return self._storage.get_moving_window(storage_key, limit.amount, last_s)[1]


def _refusal(wait_s: int) -> JSONResponse:
    message = f"Too much was asked in one minute. Try again in {wait_s} s."
    body = refusal_body("too_many_requests", message, {"wait_s": wait_s})
    return JSONResponse(body, 429, headers={"Retry-After": str(wait_s)})


def _per_minute(amount: int, name: str) -> RateLimitItemPerMinute | None:
    return RateLimitItemPerMinute(amount, namespace=name) if amount else None
