"""Which of Gradio's own routes are served: those that the page and `gradio_client` use, their bodies with a limit.

The others (reloading code, monitoring, a proxy, recordings, an agent that writes code) answer 404. Gradio parses by
hand what it is sent, so nonsense ends in an exception there; here it ends in a 400 with a sentence. Knows Gradio 6.31's
addresses, not its insides.
"""

from __future__ import annotations

import logging
import re

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.errors import JobError, storage_as_job_error
from jobs.temp_folder import ensure_temp_folder
from web.proxy import path_below_root
from web.uploads import check_room_for

MIB = 1 << 20
READ = re.compile(
    r"/|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/pwa_icon(/\d+)?|/(static|assets|svelte)/.+"
    # Of an address Gradio would fetch whatever is there, for anybody, with no end to its size or time.
    r"|/gradio_api/(info/?|app_id/?|startup-events|theme\.css|heartbeat/[\w-]+|queue/data|upload_progress"
    r"|file=(?!https?:).+"
    r"|call/(v2/)?repair/\w+)"
)
CHANGE = re.compile(r"/gradio_api/(upload|queue/join|cancel|reset/?|call/(v2/)?repair/?)")
UPLOAD = "/gradio_api/upload"
FILES_OF_A_CALL = 2  # photo and mask
# What Gradio and FastAPI meet in a form, message or address that makes no sense.
NONSENSE = (ValueError, TypeError, LookupError, AttributeError, AssertionError, RecursionError)

log = logging.getLogger("fftlama.web")


def limit_gradio_routes(app: FastAPI, *, max_file_mib: int) -> None:
    """Put `GradioRoutes` around the page that was mounted last.

    Args:
        app: with the page, not started yet; modified.
        max_file_mib: largest file taken.
    """
    mount = next(route for route in reversed(app.router.routes) if isinstance(route, Mount))
    mount.app = GradioRoutes(mount.app, max_file_mib=max_file_mib)


class GradioRoutes:
    """ASGI middleware around Gradio's application.

    Args:
        app: Gradio's.
        max_file_mib: largest file taken.
    """

    def __init__(self, app: ASGIApp, *, max_file_mib: int) -> None:
        self._app = app
        self._upload_bytes = FILES_OF_A_CALL * max_file_mib * MIB + MIB

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_below_root(scope)
        pattern = READ if scope["method"] in ("GET", "HEAD", "OPTIONS") else CHANGE
        if not pattern.fullmatch(path):
            await _answer(404, "not_found", "There is nothing under this address.")(scope, receive, send)
            return
        limit_bytes = self._upload_bytes if path == UPLOAD else MIB
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and (len(declared) > 15 or int(declared) > limit_bytes):
            await _too_large(limit_bytes)(scope, receive, send)
            return
        exchange = _Exchange(receive, send, limit_bytes)
        answer = _answer(400, "bad_request", "This request makes no sense.")
        try:
            with storage_as_job_error():
                if path == UPLOAD:
                    ensure_temp_folder()
                await self._app(scope, exchange.receive, exchange.send)
        except ClientDisconnect:
            return
        except Exception as error:
            if isinstance(error.__cause__, HTTPException):
                # A stream of events that Gradio does not know: the refusal comes after the answer's beginning.
                if exchange.is_begun:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                    return
                answer = _answer(404, "not_found", "There is no such event or session (any more).")
            elif exchange.is_begun:
                raise
            elif isinstance(error, JobError):
                answer = _answer(507, error.code, error.message)
            elif isinstance(error, NONSENSE):
                log.info("a request to %s made no sense: %s", path[:80], type(error).__name__)
            else:
                log.exception("%s %s failed", scope["method"], path[:80])
                answer = _answer(500, "server_error", "Something failed inside the server; its log says why.")
        if not exchange.is_begun:
            await (_too_large(limit_bytes) if exchange.is_over else answer)(scope, receive, send)


class _Exchange:
    """One request and its answer: counts what comes, and holds an answer of 500 back."""

    def __init__(self, receive: Receive, send: Send, limit_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._left_bytes = self._limit_bytes = limit_bytes
        self._start: Message | None = None
        self.is_begun = False

    @property
    def is_over(self) -> bool:
        return self._left_bytes < 0

    async def receive(self) -> Message:
        message = await self._receive()
        size_bytes = len(message.get("body", b""))
        self._left_bytes -= size_bytes
        if self.is_over:
            raise ValueError("the body is longer than it may be")
        await check_room_for(self._limit_bytes - self._left_bytes, size_bytes)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # Held until something follows: it may still become a refusal. 500 is FastAPI's answer to an exception,
            # which comes after it.
            self._start = None if message["status"] == 500 else message
        elif self._start or self.is_begun:
            if self._start:
                self.is_begun = True
                start, self._start = self._start, None
                await self._send(start)
            await self._send(message)


def _answer(status: int, code: str, sentence: str) -> JSONResponse:
    headers = {"Connection": "close"} if status == 413 else None
    body = {"error": code, "message": sentence, "params": {}, "detail": sentence}  # gradio_client shows detail
    return JSONResponse(body, status, headers=headers)


def _too_large(limit_bytes: int) -> JSONResponse:
    return _answer(413, "file_too_large", f"The request is larger than {limit_bytes // MIB} MiB.")
