"""The door of the server: answers at once, with 503 "starting", while the real application is still being built.

Importing torch and Gradio takes seconds; a server that listens from the beginning lets scripts and people see that it
is coming, and keeps anybody else from taking the port.
"""

import asyncio
from collections.abc import Callable

import anyio.to_thread
from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from web.proxy import path_below_root
from web.refusals import refusal_body

RETRY_AFTER = {"Retry-After": "1", "Cache-Control": "no-store"}
STARTING_PAGE = (
    '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="1"><title>fftlama</title>'
    '<body style="font-family: sans-serif; padding: 2em">Starting&hellip; &nbsp; 正在启动…'
)


class StartupGate:
    """ASGI application that builds another one in a thread and becomes it.

    `build` makes the application; `on_ready` is called once it answers, `on_failure` with what `build` raised instead.
    """

    def __init__(
        self, build: Callable[[], FastAPI], *, on_ready: Callable[[], None], on_failure: Callable[[Exception], None]
    ) -> None:
        self.app: FastAPI | None = None
        self._build = build
        self._on_ready = on_ready
        self._on_failure = on_failure
        self._stopping = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the real application once it is there."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        answer: ASGIApp = self.app or self._starting(scope)
        await answer(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()  # lifespan.startup
        running = asyncio.create_task(self._run())
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        self._stopping.set()
        if self.app is None:
            running.cancel()  # still building: its thread is left behind
        await asyncio.gather(running, return_exceptions=True)
        await send({"type": "lifespan.shutdown.complete"})

    async def _run(self) -> None:
        try:
            app = await anyio.to_thread.run_sync(self._build, abandon_on_cancel=True)
            async with app.router.lifespan_context(app):
                self.app = app
                self._on_ready()
                await self._stopping.wait()
        except Exception as error:
            self._on_failure(error)

    def _starting(self, scope: Scope) -> Response:
        path = path_below_root(scope)
        if path in ("/health", "/ready"):
            return JSONResponse({"status": "starting"}, status_code=503, headers=RETRY_AFTER)
        wants_page = path == "/" or "text/html" in Headers(scope=scope).get("accept", "")
        if wants_page and not path.startswith("/api/"):
            return HTMLResponse(STARTING_PAGE, status_code=503, headers=RETRY_AFTER)
        body = refusal_body("starting", "The server is starting; try again in a moment.")
        return JSONResponse(body, status_code=503, headers=RETRY_AFTER)
