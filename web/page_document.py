"""The page's document: Gradio's, with our canvas written into it, so that it is there before any script has run.

Gradio draws a page from its configuration when 300 kB of its scripts have come and run. The canvas does not wait for
that: its markup, in the reader's language, its style and its scripts stand in the document, and Gradio's own script is
begun when nobody has touched the page for some seconds. Then Gradio makes the place for the canvas, and the canvas
moves there (`page.MaskCanvas`); nothing is seen of it. Knows Gradio 6.31's document; where another has no such script,
all of it begins at once.
"""

from __future__ import annotations

import hashlib
import html
import json
import re

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.routing import Mount
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.clients import current_client
from web.page_files import ENTRY, STATIC_FOLDER, STYLE, PageFiles
from web.proxy import path_below_root
from web.words import LANGUAGES, choose_language, load_strings

GRADIO_SCRIPT = re.compile(r'<script type="module" crossorigin src="([^"]+)"></script>')
HEAD_END, BODY_END = "</head>", "</body>"
CANVAS = '<div class="fft"'
SAYS = re.compile(r'(data-say="([^"]+)"[^>]*>)(?=</)')
# So long nobody may have touched the page: line and cores are those of a photo that comes back or is worked on.
GRADIO_AFTER_MS = 4000
TOUCHES = ["pointerdown", "pointermove", "wheel", "keydown", "drop"]
# What turns in Gradio's loader asks for frames when it is gone: a timer for ever (StatusTracker, 6.31), so that a page
# that nobody touches takes 8 % of a core, and springs for four seconds. Each keeps what asks, so each gets this in its
# place: when the canvas has moved in, its next step, known by what no other has in it, is dropped and was its last.
END_LOADER = """const ask = window.requestAnimationFrame;
const turning = [/performance\\.now\\(\\)/, /\\.tasks\\.forEach\\(/];
window.requestAnimationFrame = (step) => {
  const which = document.querySelector("body > .fft") ? -1 : turning.findIndex((one) => one.test(String(step)));
  if (which < 0) return ask(step);
  turning.splice(which, 1);
  if (!turning.length) window.requestAnimationFrame = ask;
  return 0;
};
"""


class PageDocument:
    """ASGI middleware around Gradio's application that writes the canvas into the page's document."""

    def __init__(self, app: ASGIApp, files: PageFiles, *, language: str) -> None:
        """Prepare what is written.

        Args:
            app: Gradio's.
            files: the scripts, which the same app serves.
            language: the setting.
        """
        self._app = app
        self._language = language
        # All at once; by their imports alone the browser would find them in three rounds.
        preloads = "".join(f'<link rel="modulepreload" href="{files.address(name)}">' for name in files.files)
        self._head = f'<link rel="stylesheet" href="{files.address(STYLE)}">{preloads}'
        self._entry = files.address(ENTRY)
        self._canvas = {name: spoken_canvas(words) for name, words in load_strings().items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; the answer to that for the page gets the canvas."""
        if scope["type"] != "http" or scope["method"] != "GET" or path_below_root(scope) != "/":
            await self._app(scope, receive, send)
            return
        language = choose_language(self._language, HTTPConnection(scope))
        start: Message = {}
        parts: list[bytes] = []

        async def send_with_canvas(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            body = b"".join(parts)
            headers = MutableHeaders(scope=start)
            if start["status"] == 200 and headers.get("content-type", "").startswith("text/html"):
                body = self.written(body.decode("utf-8"), language).encode("utf-8")
                headers["Content-Length"] = str(len(body))
                headers.add_vary_header("Accept-Language, Cookie")
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, send_with_canvas)

    def written(self, document: str, language: str) -> str:
        """Return Gradio's document with the canvas of whoever asks in it and Gradio's own script put off."""
        found = GRADIO_SCRIPT.search(document)
        if found:
            document = document[: found.start()] + document[found.end() :]
        document = document.replace(HEAD_END, self._head + HEAD_END, 1)
        before, end, after = document.rpartition(BODY_END)
        owner = current_client.get().owner
        # Several people may use one browser; it keeps apart what it keeps of each, without their names.
        digest = hashlib.sha256(owner.encode()).hexdigest() if owner else ""
        canvas = self._canvas[language].replace(CANVAS, f'{CANVAS} data-owner="{digest}"', 1)
        script = start_script(self._entry, found[1] if found else None)
        return f'{before}{canvas}<script type="module">{script}</script>{end}{after}'


def spoken_canvas(words: dict[str, str]) -> str:
    """Return the canvas's markup with its words, and the script that keeps what is done before the others have come."""
    markup = (STATIC_FOLDER / "canvas.html").read_text(encoding="utf-8")
    markup = SAYS.sub(lambda found: found[1] + html.escape(words[found[2]], quote=False), markup)
    early = (STATIC_FOLDER / "early" / "early.js").read_text(encoding="utf-8")
    return f"{markup}<script>{early}</script>"


def start_script(entry: str, gradio: str | None) -> str:
    """Return the module that runs the canvas and, when nobody touches it for some seconds, has Gradio begin.

    Args:
        entry: address of our first script, relative to the page.
        gradio: address of Gradio's; None = it has begun already.

    Returns:
        JavaScript.
    """
    # Said without the scripts, in whatever language the reader has: no script is there to choose one.
    sentence = " ".join(load_strings()[language]["app.incomplete"] for language in reversed(LANGUAGES))
    lines = [
        f'import("./{entry}")',
        '  .then(({ startCanvas }) => startCanvas(document.querySelector(".fft")))',
        "  .catch((error) => {",
        "    console.error(error);",
        f'    document.querySelector(".fft-status").textContent = {json.dumps(sentence, ensure_ascii=False)};',
        "  })",
    ]
    if gradio:
        begin = f'import("{gradio}").catch(console.error)'
        lines[0] = END_LOADER + lines[0]
        lines += [
            "  .finally(() => {",
            "    const waiting = new AbortController();",
            "    let timer = 0;",
            f"    const begin = () => (waiting.abort(), {begin});",
            f"    const wait = () => (clearTimeout(timer), (timer = setTimeout(begin, {GRADIO_AFTER_MS})));",
            f"    for (const touch of {json.dumps(TOUCHES)})",
            "      addEventListener(touch, wait, { capture: true, passive: true, signal: waiting.signal });",
            "    wait();",
            "  })",
        ]
    return "\n".join(lines) + ";"


def write_canvas_into_page(app: FastAPI, files: PageFiles, *, language: str) -> None:
    """Put `PageDocument` around the page that was mounted last.

    Args:
        app: with the page, not started yet; modified.
        files: the scripts.
        language: the setting.
    """
    mount = next(route for route in reversed(app.router.routes) if isinstance(route, Mount))
    mount.app = PageDocument(mount.app, files, language=language)
