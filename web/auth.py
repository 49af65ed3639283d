"""The gate: who may come in, over the page, every route, Gradio's own and /metrics.

A person comes in with a session (a signed cookie, from the login page), with an API key (`Authorization: Bearer KEY`),
or through a proxy that has checked them and says so in a header. Only `/health`, `/ready` and the login page answer
strangers. Without an accounts file and without a proxy's header the gate is open, and photos belong to everybody.
"""

from __future__ import annotations

import hashlib
import html
import ipaddress
import logging
from collections import Counter
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import anyio
import anyio.to_thread
from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config import Settings
from jobs.clients import Client, current_client
from web.accounts import AccountError, KeptAccounts, read_accounts
from web.lockout import Lockout, place_of
from web.proxy import path_below_root
from web.refusals import refusal_body
from web.sessions import SESSION_S, Sessions
from web.words import choose_language, load_strings

COOKIE = "fftlama_session"
OPEN_PATHS = frozenset({"/health", "/ready", "/login", "/logout"})
LARGEST_FORM_BYTES = 8192
PASSWORDS_AT_ONCE = 2  # argon2 takes 64 MiB and a tenth of a second for each, and strangers may ask
ASKING_AT_ONCE = 8  # from one address, those waiting for a place included
LONGEST_NAME = 64

log = logging.getLogger("fftlama.web")


class AuthGate:
    """ASGI middleware that lets known people in and says who they are (`jobs.clients.current_client`).

    Args:
        app: what lies behind the gate.
        settings: `auth_file`, `auth_proxy_header`, `auth_proxy_from`, `data_dir` and `language` are read.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings) -> None:
        self._app = app
        self._accounts = KeptAccounts(settings.auth_file) if settings.auth_file else None
        self._header = settings.auth_proxy_header.lower()
        self._proxies = [ipaddress.ip_network(part, strict=False) for part in _parts(settings.auth_proxy_from)]
        self._lockout = Lockout()
        self._asking: Counter[str] = Counter()  # passwords being checked or waiting for it, by address
        self._checking = anyio.CapacityLimiter(PASSWORDS_AT_ONCE)
        self._language = settings.language
        # Other programs of the same site do not get the session.
        self._cookie_path = f"{settings.root_path}/"
        self._is_closed = bool(self._accounts or self._header)
        self._sessions = Sessions(Path(settings.data_dir), self._accounts) if self._accounts else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, answer it with the login page, or refuse it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        owner = self._owner(connection) if self._is_closed else None
        path = path_below_root(scope)
        answer: ASGIApp | None = None
        if self._accounts and path in ("/login", "/logout") and scope["type"] == "http":
            answer = await self._session_page(Request(scope, receive), path)
        elif self._is_closed and owner is None and path not in OPEN_PATHS:
            answer = self._refusal(connection, path)
        if answer is not None:
            await answer(scope, receive, send)
            return
        token = current_client.set(Client(owner, owner or _address(scope)))
        try:
            await self._app(scope, receive, _for_this_cookie(send) if owner is not None else send)
        finally:
            current_client.reset(token)

    def _owner(self, connection: HTTPConnection) -> str | None:
        """Return who a request comes from, or None for a stranger."""
        kind, _, key = connection.headers.get("authorization", "").partition(" ")
        if self._accounts and kind.lower() == "bearer":
            return self._accounts.owner_of_key(key.strip())
        named = connection.headers.get(self._header, "").strip() if self._header else ""
        if named and self._comes_from_proxy(connection.scope):
            # A longer one is not cut, or two people who differ at its end would be one.
            return named if len(named) <= LONGEST_NAME else hashlib.sha256(named.encode()).hexdigest()
        cookie = connection.cookies.get(COOKIE, "")
        return self._sessions.owner_of(cookie) if self._sessions and cookie else None

    def _comes_from_proxy(self, scope: Scope) -> bool:
        try:
            peer = ipaddress.ip_address(scope.get("fftlama.peer") or _address(scope))
        except ValueError:
            return False
        return any(peer in network for network in self._proxies)

    def _refusal(self, connection: HTTPConnection, path: str) -> Response:
        """Return the login page's address for a browser that opens a page, else 401."""
        wants_page = "text/html" in connection.headers.get("accept", "")
        if self._accounts and connection.scope.get("method") == "GET" and wants_page and not path.startswith("/api/"):
            query = connection.url.query  # /?image=ID opens a photo
            target = quote(path.lstrip("/") + (f"?{query}" if query else ""), safe="/")
            return RedirectResponse(f"{'../' * (path.count('/') - 1)}login?next={target}", 303)
        message = "Log in first, or send an API key (Authorization: Bearer KEY)."
        return JSONResponse(
            refusal_body("login_required", message),
            401,
            headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"},
        )

    async def _session_page(self, request: Request, path: str) -> Response:
        assert self._accounts is not None and self._sessions is not None
        is_https = request.url.scheme == "https"
        if path == "/logout":
            if request.method == "POST":
                await anyio.to_thread.run_sync(self._sessions.end, request.cookies.get(COOKIE, ""))
            response: Response = RedirectResponse("login", 303)
            response.delete_cookie(COOKIE, path=self._cookie_path, httponly=True, samesite="lax", secure=is_https)
            return response if request.method == "POST" else self._form(request, 405, allow="POST")
        if request.method in ("GET", "HEAD"):
            return self._form(request, 200)
        if request.method != "POST":
            return self._form(request, 405, allow="GET, HEAD, POST")
        body = await _small_body(request)
        if body is None:
            return self._form(request, 413)
        fields = {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
        name, address = fields.get("name", "")[:LONGEST_NAME], place_of(_address(request.scope))
        target = fields.get("next", "")
        if wait_s := self._lockout.wait_s(name, address):
            return self._form(request, 429, problem="login.locked", wait_s=wait_s, target=target)
        # Or one stranger with a thousand names would make everybody wait for a place.
        if self._asking[address] >= ASKING_AT_ONCE:
            return self._form(request, 429, problem="login.locked", wait_s=1.0, target=target)
        # Before it is looked at, or as many guesses as fit into a moment would be free.
        self._lockout.count(name, address)
        check = partial(self._accounts.has_password, name, fields.get("password", ""))
        self._asking[address] += 1
        try:
            is_right = await anyio.to_thread.run_sync(check, limiter=self._checking)
        finally:
            self._asking[address] -= 1
            self._asking += Counter()  # drops those at zero
        if not is_right:
            log.warning("a wrong password was given at login")
            return self._form(request, 401, problem="login.wrong", target=target)
        self._lockout.forget(name, address)
        response = RedirectResponse(_safe_target(target), 303)
        session = self._sessions.begin(name)
        response.set_cookie(
            COOKIE, session, max_age=SESSION_S, path=self._cookie_path, httponly=True, samesite="lax", secure=is_https
        )
        return response

    def _form(
        self, request: Request, status: int, *, problem: str = "", wait_s: float = 0.0, target: str | None = None,
        allow: str = "",
    ) -> Response:  # fmt: skip
        language = choose_language(self._language, request)
        words = load_strings()[language]
        text = words[problem].replace("{seconds}", str(int(wait_s) + 1)) if problem else ""
        headers = {"Cache-Control": "no-store"} | ({"Allow": allow} if allow else {})
        if status == 429:
            headers["Retry-After"] = str(int(wait_s) + 1)
        target = request.query_params.get("next", "") if target is None else target
        page = LOGIN_PAGE.format(
            language=language, title=words["login.title"], name=words["login.name"], password=words["login.password"],
            submit=words["login.submit"], problem=html.escape(text), target=html.escape(target, quote=True),
        )  # fmt: skip
        return HTMLResponse(page, status, headers=headers)


LOGIN_PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>fftlama</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; font: 16px/1.5 system-ui, sans-serif;
  background: #f4f4f5; color: #18181b }}
form {{ width: min(20rem, 88vw); display: grid; gap: .75rem; padding: 2rem; background: #fff; border-radius: 12px;
  box-shadow: 0 1px 4px #0003 }}
h1 {{ margin: 0; font-size: 1.25rem }}
label {{ display: grid; gap: .25rem }}
input, button {{ font: inherit; padding: .6rem .75rem; border: 1px solid #71717a; border-radius: 8px; min-height: 44px;
  box-sizing: border-box; width: 100% }}
button {{ background: #1d4ed8; border-color: #1d4ed8; color: #fff; cursor: pointer }}
[role=alert] {{ color: #b91c1c; min-height: 1.5em; margin: 0 }}
@media (prefers-color-scheme: dark) {{ body {{ background: #18181b; color: #f4f4f5 }} form {{ background: #27272a }}
  input {{ background: #18181b; color: inherit }} [role=alert] {{ color: #fca5a5 }} }}
</style></head><body>
<form method="post" action="login">
<h1>{title}</h1>
<label>{name}<input name="name" autocomplete="username" autofocus required maxlength="64"></label>
<label>{password}
<input name="password" type="password" autocomplete="current-password" required maxlength="1024"></label>
<input type="hidden" name="next" value="{target}">
<p role="alert">{problem}</p>
<button>{submit}</button>
</form></body></html>
"""


def login_warning(settings: Settings) -> str:
    """Return the sentence for a server that other machines reach without any login, or that nobody can log in to.

    Args:
        settings: `auth_file`, `auth_proxy_header`, `host` and `port` are read.

    Returns:
        The sentence, or an empty one.
    """
    from web.origin_check import is_loopback

    if settings.auth_file and not settings.auth_file.exists() and not settings.auth_proxy_header:
        return (
            f"Nobody can log in yet: there is no {settings.auth_file}. "
            "Make it with the first person in it: `.venv/bin/fftlama user add NAME`."
        )
    if settings.auth_file and settings.auth_file.exists():
        try:
            read_accounts(settings.auth_file)
        except AccountError as error:
            return f"Nobody of auth_file can log in until it is mended: {error}."
    if is_loopback(settings.host) or settings.auth_file or settings.auth_proxy_header:
        return ""
    return (
        f"Everybody who reaches {settings.host} port {settings.port} can use this server and see what is uploaded. "
        "For a login: set auth_file: accounts.json and run `.venv/bin/fftlama user add NAME`."
    )


def is_operator(settings: Settings) -> bool:
    """Tell whether the request comes from one of the people of `operators`; where it names nobody, everybody is one."""
    operators = {name for part in settings.operators.split(",") if (name := part.strip())}
    return not operators or current_client.get().owner in operators


def _for_this_cookie(send: Send) -> Send:
    """Return what sends answers that a browser keeps for this login only: who comes after it asks the server."""

    async def send_for_it(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).add_vary_header("Cookie")
        await send(message)

    return send_for_it


def _parts(text: str) -> list[str]:
    return text.replace(",", " ").split()


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _safe_target(text: str) -> str:
    """Return where to go after login: a path and query of this site, relative to the login page; never another site."""
    try:
        place = urlsplit(unquote(text))
    except ValueError:  # such as //[x
        return "./"
    is_own = not (place.scheme or place.netloc) and not place.path.startswith(("/", "\\"))
    is_plain = all(character.isprintable() for character in text)
    if not (is_own and is_plain):
        return "./"
    return "./" + quote(place.path, safe="/") + (f"?{quote(place.query, safe='=&')}" if place.query else "")


async def _small_body(request: Request) -> bytes | None:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_FORM_BYTES:
            return None
    return body
