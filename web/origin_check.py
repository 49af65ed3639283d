"""Keeps other web sites off a service without login: who may call it from a browser, and under which names.

A page anywhere can make a browser POST to 127.0.0.1, and a rebound DNS name makes such a page same-origin. So requests
that change something must come from this site's own pages (or from a program, which sends no Origin), and while the
server listens on loopback only, or names are given for it, only loopback names and those are answered.
"""

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from web.refusals import refusal_body

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_FETCH_SITES = frozenset({"same-origin", "none"})


def is_loopback(host: str) -> bool:
    """Tell whether a host name or address stands for this machine only."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class OriginCheck:
    """ASGI middleware that answers 403 to other sites' requests.

    `host` is the address the server listens on, `allowed_hosts` the names people use for it, `allowed_origins` other
    sites whose pages may call it; both separated by commas.
    """

    def __init__(self, app: ASGIApp, *, host: str, allowed_hosts: str = "", allowed_origins: str = "") -> None:
        self._app = app
        self._origins = origins_of(allowed_origins)
        self._allowed = {_host_name(name) for name in allowed_hosts.replace(",", " ").split()}
        self._known_names_only = is_loopback(host) or bool(self._allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] in ("http", "websocket") and (refusal := self._refusal(scope)):
            await JSONResponse(refusal, status_code=403)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope) -> dict[str, object] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if host and not _host_name(host):
            # Refused on every address: building a URL from such a host fails further in.
            return refusal_body("bad_host", "The Host header does not name a host.")
        if self._known_names_only and host and not self._is_own(_host_name(host)):
            return refusal_body(
                "bad_host", "This server does not answer under this name; the setting allowed_hosts adds it."
            )
        if scope.get("method", "GET") in SAFE_METHODS and scope["type"] == "http":
            return None
        site = headers.get("sec-fetch-site")
        origin = headers.get("origin")
        if origin and ("*" in self._origins or origin.lower() in self._origins):
            return None
        # Sec-Fetch-Site is the browser's own judgement, right behind proxies too; over plain http only Origin is sent.
        own = site in OWN_FETCH_SITES if site else origin is None or self._is_own_origin(origin, host)
        return None if own else refusal_body("cross_site", "Requests from pages of other sites are refused.")

    def _is_own(self, name: str) -> bool:
        return is_loopback(name) or name.lower() in self._allowed

    def _is_own_origin(self, origin: str, host: str) -> bool:
        try:
            place = urlsplit(origin).netloc.lower()
        except ValueError:  # an open bracket, or brackets around what is no IPv6 address
            return False
        name = _host_name(place)
        # A proxy may rewrite Host.
        return bool(name) and (place == host.lower() or name in self._allowed)


def origins_of(text: str) -> set[str]:
    """Return the origins of a setting such as `https://a.example, https://b.example`, in small letters."""
    return {part.rstrip("/").lower() for part in text.replace(",", " ").split()}


def _host_name(host: str) -> str:
    """Return the name in a `Host` header; "" for what is no host, such as `[::1` or a port past 65535."""
    if "@" in host:
        return ""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port  # read, because only then is the port checked
    except ValueError:
        return ""
    return parts.hostname or ""
