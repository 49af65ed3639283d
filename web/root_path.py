"""The sub-path under which a proxy serves the program, whether or not the proxy takes it off before it asks."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send


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
