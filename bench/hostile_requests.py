"""Requests that mean harm or make no sense, for `bench/hostile.py`: bytes for a socket, seeded.

Each begins as a request that the OpenAPI document shows, with ids that are really there, and is damaged in one place:
its line, headers, charset, JSON or form.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

CHARSETS = (
    "punycode", "undefined", "idna", "utf-16", "utf-32", "utf-7", "rot13", "base64", "zip", "hex", "unicode_escape",
    "raw_unicode_escape", "mbcs", "nothing", "", "utf-8; utf-9", "\xff", "cp65001", "x" * 3000,
)  # fmt: skip
HOSTS = (
    "[::1", "[::1]:99999", "a:b:c", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:-1", "@", "a@127.0.0.1", "..", "\xff",
    "%", "localhost:abc", "[fe80::1%25eth0]", "xn--", "127.0.0.1/..", "localhost.", "[]", "a" * 300, "",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, -(10**400), 1e308, 5e-324, float("nan"), float("inf"), "", "a",
    "\0", "\ud800", "é" * 300, "x" * 100_000, "../../etc/passwd", "A" * 22, [], {}, [[]], [None], {"": {}}, "1e999",
    "data:", "data:image/png;base64,", "====", "iVBORw0KGgo=", [[1e308, -1e308]], "text", "repeat", "high", {"$ne": 1},
)  # fmt: skip
TEXTS = ("", "nan", "-nan", "inf", "1e999", "-1", "1" * 5000, "0x10", "%00", "%ff", "%", "a" * 9000, "[]", "null", "é")
PATHS = (
    "/%00", "/%ff%fe", "/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/", "//", "///x", "/api/v1//", "/;", "/*", "/%",
    "/api/v1/images/%2e%2e%2fjobs.sqlite3", "/api/v1/images/" + "A" * 22, "/" + "a" * 20_000, "/" + "a/" * 9000,
    "/api/v1/media_file?tab=input&filename=..%2f..%2fetc%2fpasswd", "/file=/etc/passwd", "/gradio_api/file=/etc/passwd",
    "http://a.example/", "*", "/api/v1/jobs/%F0%9F%92%A9", "/docs/..%2f", "/openapi.json/", "/?" + "&" * 5000,
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "\xff", "A" * 300, "")


@dataclass
class Request:
    """A request as it goes over the wire."""

    method: str
    target: str
    headers: list[tuple[str, bytes]]
    body: bytes = b""
    kind: str = ""
    sent_share: float = 1.0  # of the body; the rest never comes
    names: list[str] = field(default_factory=list)

    def as_bytes(self) -> bytes:
        """Return it for a socket; what is wrong in it stays wrong."""
        lines = [f"{self.method} {self.target} HTTP/1.1".encode("latin-1", "replace")]
        lines += [name.encode("latin-1") + b": " + value for name, value in self.headers]
        body = self.body[: int(len(self.body) * self.sent_share)]
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    def put(self, name: str, value: bytes) -> None:
        """Replace a header, or add it."""
        self.headers = [one for one in self.headers if one[0].lower() != name.lower()] + [(name, value)]


def plain(request: httpx.Request) -> Request:
    """Return a sound request."""
    body = request.read()
    headers = [(name, value) for name, value in request.headers.multi_items() if name in ("content-type",)]
    target = request.url.raw_path.decode("ascii")
    made = Request(request.method, target, [(name, value.encode("latin-1")) for name, value in headers], body)
    made.headers += [("Host", b"127.0.0.1"), ("Connection", b"close"), ("Content-Length", str(len(body)).encode())]
    return made


def _set_body(request: Request, body: bytes) -> None:
    request.body = body
    request.put("Content-Length", str(len(body)).encode())


def bad_header(request: Request, chance: random.Random) -> None:
    """Say nonsense in a header that somebody reads."""
    junk = chance.choice((b"\xff\xfe", b"a" * 8000, b"", b",,,;;;", b"\t", b"=?utf-8?q?x?=", b"-1", b"1e9", b'"'))
    name = chance.choice(
        ("Origin", "Accept", "Accept-Language", "Accept-Encoding", "Cookie", "Authorization", "X-Forwarded-For",
         "X-Forwarded-Proto", "Range", "If-None-Match", "If-Modified-Since", "Content-Encoding", "Content-Length",
         "Transfer-Encoding", "Expect", "Upgrade", "Sec-Fetch-Site", "Content-Type", "Content-Disposition")
    )  # fmt: skip
    if name == "Origin":
        junk = b"http://" + chance.choice(HOSTS).encode("latin-1")
    elif name == "Cookie":
        junk = b"fftlama_session=" + chance.choice((b"", b"\xff", b"." * 5000, b'["a","b"].x.y', b"a.b.c"))
    request.put(name, junk)


def bad_host(request: Request, chance: random.Random) -> None:
    """Name a host that is none, several, or none at all."""
    request.put("Host", chance.choice(HOSTS).encode("latin-1"))
    if chance.random() < 0.1:
        request.headers.append(("Host", b"a.example"))


def bad_charset(request: Request, chance: random.Random) -> None:
    """State a charset that does not fit, or is none."""
    kind = chance.choice(
        (b"application/json", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded")
    )
    given = {name.lower(): value for name, value in request.headers}.get("content-type", kind)
    request.put("Content-Type", given + b"; charset=" + chance.choice(CHARSETS).encode("latin-1"))


def bad_path(request: Request, chance: random.Random) -> None:
    """Ask for an address that is none, or for what lies outside."""
    request.target = chance.choice(PATHS)
    if chance.random() < 0.4:
        request.target = request.target[: chance.randint(1, 40)] + chance.choice(PATHS)


def bad_query(request: Request, chance: random.Random) -> None:
    """Give parameters values that they can't have, or many."""
    names = ("format", "max_px", "quality", "wait_s", "seen", "tab", "filename", "width", "height", "image", "x")
    pairs = [f"{chance.choice(names)}={chance.choice(TEXTS)}" for _ in range(chance.choice((1, 1, 2, 5, 600)))]
    # Nobody waits a minute for these.
    pairs = [pair for pair in pairs if not pair.startswith("wait_s=1")]
    request.target = request.target.partition("?")[0] + "?" + "&".join(pairs).replace("é", "%C3")


def bad_method(request: Request, chance: random.Random) -> None:
    """Use another method."""
    request.method = chance.choice(METHODS)


def cut(request: Request, chance: random.Random) -> None:
    """Leave before the body has come."""
    request.sent_share = chance.random()


def bad_json(request: Request, chance: random.Random) -> None:
    """Send JSON with another value somewhere, JSON that nests too deep, or what is no JSON."""
    request.put("Content-Type", b"application/json")
    try:
        value = json.loads(request.body)
    except ValueError:
        value = {"image_id": "x", "strokes": []}
    text = json.dumps(change_value(value, chance))
    depth, sort = chance.choice((1000, 100_000)), chance.random()
    if sort < 0.04:
        text = "[" * depth + "]" * depth
    elif sort < 0.08:
        text = '{"a":' * depth + "1" + "}" * depth
    elif sort < 0.10:
        text = '{"image_id":"x","strokes":' + "[" * depth + "]" * depth + "}"
    elif sort < 0.12:
        text = text.replace("{", '{"a":1,"a":2,', 1)
    elif sort < 0.14:
        text = '{"seen":' + "9" * 6000 + "}"
    body = text.encode(chance.choice(("utf-8", "utf-8", "utf-8", "utf-16", "utf-8-sig", "latin-1")), "surrogatepass")
    if chance.random() < 0.1:
        body = body[: chance.randrange(len(body) + 1)] + chance.randbytes(chance.randint(0, 30))
    _set_body(request, body)


def change_value(value: Any, chance: random.Random) -> Any:
    """Return JSON with one value or key replaced."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        sort = chance.random()
        if sort < 0.1:
            return {**value, str(chance.choice(VALUES))[:300]: chance.choice(VALUES)}
        if sort < 0.2:
            return {name: one for name, one in value.items() if name != key}
        return {**value, key: change_value(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        if chance.random() < 0.1:
            return value * chance.choice((0, 2, 300))
        return [*value[:place], change_value(value[place], chance), *value[place + 1 :]]
    return chance.choice(VALUES)


def bad_form(request: Request, chance: random.Random) -> None:
    """Send a form whose parts, boundaries or names are broken."""
    boundary = chance.choice((b"x", b"x" * 70, b'"', b"\xff", b"", b"x y", b"x" * 5000))
    name = chance.choice((b"file", b"image", b"mask", b"options", b"clicks", b"\xff", b"", b"a" * 3000, b'a"b'))
    filename = chance.choice((b"a.png", b"../../a.png", b"\0", b"", b"\xf0\x9f\x92\xa9", b"a" * 50_000, b'a"; b="'))
    content = chance.choice((b"", b"{", b"\x89PNG\r\n\x1a\n", chance.randbytes(200), b"\r\n--x\r\n", b"[" * 50_000))
    head = b'Content-Disposition: form-data; name="' + name + b'"; filename="' + filename + b'"\r\n'
    head = chance.choice(
        (head, head, head.replace(b"form-data", b"attachment"), b"", b"a: b\r\n", b":\r\n", b"x" * 20_000, head * 3,
         head + b"Content-Type: text/plain; charset=undefined\r\n", head + b"Content-Transfer-Encoding: base64\r\n",
         head.replace(b'filename="', b"filename*=punycode''"), head.replace(b'; filename="' + filename + b'"', b""))
    )  # fmt: skip
    part = b"--" + boundary + b"\r\n" + head + b"\r\n" + content + b"\r\n"
    body = part * chance.choice((0, 1, 1, 2, 9, 300)) + chance.choice((b"--" + boundary + b"--\r\n", b"", b"--"))
    kind = chance.choice((b"multipart/form-data", b"multipart/form-data", b"multipart/mixed", b"Multipart/Form-Data"))
    request.put("Content-Type", kind + chance.choice((b"; boundary=" + boundary, b"; boundary=" + boundary, b"")))
    _set_body(request, body[: 300_000 if chance.random() < 0.9 else chance.randrange(len(body) + 1)])


def noise(request: Request, chance: random.Random) -> None:
    """Damage the body anywhere."""
    body = bytearray(request.body or b"x")
    for _ in range(chance.randint(1, 10)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    _set_body(request, bytes(body))


DAMAGES: dict[str, Callable[[Request, random.Random], None]] = {
    "headers": bad_header, "hosts": bad_host, "charsets": bad_charset, "paths": bad_path, "queries": bad_query,
    "methods": bad_method, "cut off": cut, "JSON": bad_json, "forms": bad_form, "noise in the body": noise,
}  # fmt: skip


def damaged_requests(sound: list[httpx.Request], count: int, seed: int) -> Iterator[Request]:
    """Give damaged requests, every kind of damage in its turn.

    Args:
        sound: requests that are answered well.
        count: how many.
        seed: the same seed damages in the same way.

    Yields:
        One request after another.
    """
    with_json = [one for one in sound if one.headers.get("content-type", "") == "application/json"]
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        kind = list(DAMAGES)[number % len(DAMAGES)]
        made = plain(chance.choice(with_json if kind == "JSON" else sound))
        made.kind = kind
        DAMAGES[kind](made, chance)
        if chance.random() < 0.1:
            chance.choice(list(DAMAGES.values()))(made, chance)
        yield made
