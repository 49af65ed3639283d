"""What a proxy in front changes: where a connection comes from, and the sub-path it serves the program under."""

from __future__ import annotations

import ipaddress

from starlette.responses import RedirectResponse
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
            if client:
                client = (_as_ipv4(str(client[0])), client[1])
                scope = {**scope, "client": client}
            scope["fftlama.peer"] = client[0] if client else ""
        await self._app(scope, receive, send)  # type: ignore[arg-type]


def _as_ipv4(address: str) -> str:
    """Return the IPv4 address that `::ffff:127.0.0.1` stands for: with host `::` connections by IPv4 come so."""
    try:
        return str(getattr(ipaddress.ip_address(address), "ipv4_mapped", None) or address)
    except ValueError:  # of a socket that has none
        return address


class RootPath:
    """ASGI middleware, the outermost one: every request reaches the program with `root_path` in front of its path.

    Args:
        app: the program.
        root_path: such as `/lama`; empty = the program has the whole site.
    """

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Put the sub-path where ASGI wants it, and lead from the sub-path itself to the page below it."""
        root, app = self._root_path, self._app
        if root and scope["type"] in ("http", "websocket"):
            path = scope["path"]
            if path == root and scope["type"] == "http":
                # The page's addresses are relative, so they need the slash. A path alone: the proxy knows its own name.
                query = scope.get("query_string", b"").decode("latin-1")
                app = RedirectResponse(f"{root}/" + (f"?{query}" if query else ""), 307)
            elif not path.startswith(f"{root}/"):
                raw_path = scope.get("raw_path")
                scope = {**scope, "path": root + path, "raw_path": raw_path and root.encode() + raw_path}
            scope["root_path"] = root
        await app(scope, receive, send)


def path_below_root(scope: Scope) -> str:
    """Return a request's path as the program's own routes have it."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path
