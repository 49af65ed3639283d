"""The page's scripts, style and samples as files of their own, under an address of their content, and compressed.

A browser keeps such a file for good: what changes has another address. The address is relative to the page's, so that
a path put before it by a proxy is kept. Gradio's own answers to the page and its configuration go out compressed too.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path, PurePath
from typing import Any

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from web.proxy import path_below_root

STATIC_FOLDER = Path(__file__).parent / "static"
ENTRY = "canvas.js"
STYLE = "canvas.css"
MEDIA_TYPES = {".js": "text/javascript", ".css": "text/css", ".jpg": "image/jpeg", ".webp": "image/webp"}
MADE = "setup.js"  # a module without a file: what the scripts need to know from here
FOREVER = "public, max-age=31536000, immutable"
LEAST_COMPRESSED_BYTES = 1000


class PageFiles:
    """Scripts, style and samples in memory, text compressed too; read once, when the page is made."""

    def __init__(self, setup: dict[str, Any]) -> None:
        """Read `static/*.js`, the style and the samples.

        Args:
            setup: JSON-serialisable; the scripts see it as the export `setup` of `setup.js`.
        """
        files = {path.name: path.read_bytes() for path in sorted(STATIC_FOLDER.glob("*.js"))}
        files[MADE] = f"export const setup = {json.dumps(setup, ensure_ascii=False)};\n".encode()
        self.files = files
        style = {STYLE: (STATIC_FOLDER / STYLE).read_bytes()}
        samples = [path for path in sorted(STATIC_FOLDER.glob("samples/*")) if path.suffix in MEDIA_TYPES]
        pictures = {f"samples/{path.name}": path.read_bytes() for path in samples}
        self._all = files | style | pictures
        self._compressed = {name: gzip.compress(data, 9, mtime=0) for name, data in (files | style).items()}
        digest = hashlib.sha256()
        for name, data in self._all.items():
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
        self.digest = digest.hexdigest()[:16]

    def address(self, name: str) -> str:
        """Return where a file is, relative to the page."""
        return f"page/{self.digest}/{name}"

    def answer(self, request: Request) -> Response:
        """Return the file that a request asks for, 404 for one of another version or of no version."""
        name = request.path_params["name"]
        if request.path_params["digest"] != self.digest or name not in self._all:
            return Response("No such file; reload the page.", 404, {"Cache-Control": "no-store"}, "text/plain")
        headers = {"Cache-Control": FOREVER, "Vary": "Accept-Encoding"}
        data = self._all[name]
        if name in self._compressed and "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            data = self._compressed[name]
        return Response(data, 200, headers, MEDIA_TYPES[PurePath(name).suffix])


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

    # All of it lies in memory: a thread for each of fifty files would only cost.
    @app.get("/page/{digest}/{name:path}", include_in_schema=False)
    async def get_page_file(request: Request) -> Response:
        return files.answer(request)

    app.add_middleware(CompressedPage)
