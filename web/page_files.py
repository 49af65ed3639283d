"""The page's scripts as files of their own, under an address that names their content, and compressed.

A browser keeps such a file for good: what changes has another address. The address is relative to the page's, so that
a path put before it by a proxy is kept. Gradio's own answers to the page and its configuration go out compressed too.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from web.proxy import path_below_root

STATIC_FOLDER = Path(__file__).parent / "static"
ENTRY = "canvas.js"
MADE = "setup.js"  # a module without a file: what the scripts need to know from here
FOREVER = "public, max-age=31536000, immutable"
LEAST_COMPRESSED_BYTES = 1000


class PageFiles:
    """The scripts in memory, as they are and compressed; read once, when the page is made."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """Read `static/*.js`.

        Args:
            setup: JSON-serialisable; the scripts see it as the export `setup` of `setup.js`.
        """
        files = {path.name: path.read_bytes() for path in sorted(STATIC_FOLDER.glob("*.js"))}
        files[MADE] = f"export const setup = {json.dumps(setup, ensure_ascii=False)};\n".encode()
        self.files = files
        self._compressed = {name: gzip.compress(data, 9, mtime=0) for name, data in files.items()}
        digest = hashlib.sha256()
        for name, data in files.items():
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        self.digest = digest.hexdigest()[:16]

    def address(self, name: str) -> str:
        """Return where a script is, relative to the page."""
        return f"page/{self.digest}/{name}"

    def answer(self, request: Request) -> Response:
        """Return the script that a request asks for, 404 for one of another version or of no version."""
        name = request.path_params["name"]
        if request.path_params["digest"] != self.digest or name not in self.files:
            return Response("No such file; reload the page.", 404, {"Cache-Control": "no-store"}, "text/plain")
        headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
        data = self.files[name]
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            data = self._compressed[name]
        return Response(data, 200, headers, "text/javascript")


class CompressedPage:
    """ASGI middleware that compresses the page and Gradio's configuration, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app, minimum_size=LEAST_COMPRESSED_BYTES, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; the answers to some are compressed on their way back."""
        # Photos are compressed already, and answers of the routes are short.
        is_page = scope["type"] == "http" and path_below_root(scope) in ("/", "/config")
        await (self._compressing if is_page else self._app)(scope, receive, send)


def serve_page_files(app: FastAPI, files: PageFiles) -> None:
    """Serve the scripts from an application; called before the page is mounted, which answers everything else.

    Args:
        app: not started yet; modified.
        files: what the page on this application was made with.
    """

    @app.get("/page/{digest}/{name}", include_in_schema=False)
    def get_page_file(request: Request) -> Response:
        return files.answer(request)

    app.add_middleware(CompressedPage)
