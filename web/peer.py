"""Where a connection really comes from, kept before a proxy's headers are believed."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

LOCAL_PROXIES = ["127.0.0.1", "::1"]  # a proxy on this machine may say whom it speaks for, and by which scheme


class PeerAddress:
    """ASGI middleware: `scope["fftlama.peer"]` is the address of the other end, `scope["client"]` what a proxy says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = ProxyHeadersMiddleware(app, trusted_hosts=LOCAL_PROXIES)  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note the peer and pass the request on."""
        if scope["type"] in ("http", "websocket"):
            client = scope.get("client")
            scope["fftlama.peer"] = str(client[0]) if client else ""
        await self._app(scope, receive, send)  # type: ignore[arg-type]
