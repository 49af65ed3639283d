"""A real local server that stalls, cuts, lies, redirects and serves the wrong file, for the tests of downloads."""

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CONTENT = b"".join(hashlib.sha256(str(index).encode()).digest() for index in range(10_000))  # 320 kB, no repetition
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Mirror(ThreadingHTTPServer):
    """A server whose first path component says how it behaves; it counts requests and keeps their headers."""

    daemon_threads = True

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.seen: Counter[str] = Counter()
        self.released = threading.Event()
        super().__init__(("127.0.0.1", 0), Behaviour)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ranges(self) -> list[str]:
        return [headers.get("Range", "") for _, headers in self.requests]


@contextmanager
def running_mirror() -> Iterator[Mirror]:
    """Run a mirror in a thread; at the end whoever waits in it goes on."""
    server = Mirror()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        server.server_close()


class Behaviour(BaseHTTPRequestHandler):
    server: Mirror

    def log_message(self, *_args: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.split("/")[1]
        self.server.requests.append((name, dict(self.headers)))
        self.server.seen[name] += 1
        with suppress(ConnectionError):  # the downloader has given up on this mirror
            getattr(self, name)()

    def start(self) -> int:
        return int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))

    def answer(self, body: bytes, *, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def part(self, *, upto: int = len(CONTENT), etag: str = '"one"') -> None:
        """Answer a Range honestly, but cut the connection at byte `upto`."""
        start = self.start()
        if start >= len(CONTENT):
            self.answer(b"", status=416)
            return
        self.answer(
            CONTENT[start:upto],
            status=206 if start else 200,
            length=len(CONTENT) - start,
            Content_Range=f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}",
            ETag=etag,
        )

    def good(self) -> None:
        self.part()

    def held(self) -> None:
        """Send the first 100,000 bytes, and the others when `released` is set."""
        if self.start():
            self.part()
            return
        self.answer(CONTENT[:100_000], length=len(CONTENT), ETag='"one"')
        self.wfile.flush()
        self.server.released.wait(30)
        self.wfile.write(CONTENT[100_000:])

    def cuts(self) -> None:
        self.part(upto=self.start() + 100_000)

    def always_cuts_at_once(self) -> None:
        self.part(upto=self.start() + 10)

    def stalls(self) -> None:
        self.part(upto=50_000)
        self.wfile.flush()
        if self.server.seen["stalls"] < 9:
            time.sleep(1.5)

    def trickles(self) -> None:
        self.answer(b"", length=len(CONTENT))
        for index in range(200):
            self.wfile.write(CONTENT[index : index + 1])
            time.sleep(0.02)

    def ignores_range(self) -> None:
        if self.server.seen["ignores_range"] == 1:
            self.answer(CONTENT[:200_000], length=len(CONTENT))
        else:
            self.answer(CONTENT)

    def changed_since(self) -> None:
        """Another file at first; afterwards If-Range does not match, so the whole of the right one."""
        if self.server.seen["changed_since"] == 1:
            self.answer(b"x" * 100_000, length=len(CONTENT), ETag='"old"')
        elif self.headers.get("If-Range") == '"new"':
            self.part(etag='"new"')
        else:
            self.answer(CONTENT, ETag='"new"')

    def short_length(self) -> None:
        self.answer(CONTENT[self.start() :], length=1000)

    def long_length(self) -> None:
        self.answer(CONTENT, length=len(CONTENT) + 5000)

    def huge_length(self) -> None:
        self.answer(b"", length=10**15)

    def endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(CONTENT)

    def length_is_no_number(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "\u00b2")
        self.end_headers()
        self.wfile.write(CONTENT)

    def never_satisfied(self) -> None:
        self.answer(b"", status=416)

    def redirects_to_no_address(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://[::1/weights.bin")
        self.end_headers()

    def redirects_to_no_name(self) -> None:
        self.send_response(302)
        self.send_header("Location", f"http://{'a' * 70}.example/weights.bin")
        self.end_headers()

    def no_length(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)

    def wrong_bytes(self) -> None:
        self.answer(bytes(len(CONTENT)))

    def wrong_part(self) -> None:
        if self.start():
            self.answer(CONTENT[:1000], status=206, Content_Range=f"bytes 0-999/{len(CONTENT)}")
        else:
            self.answer(CONTENT[:1000], length=len(CONTENT))

    def web_page(self) -> None:
        self.answer(b"<html>Please sign in</html>", Content_Type="text/html; charset=utf-8")

    def error_text(self) -> None:
        self.answer(b"quota exceeded", Content_Type="text/plain")

    def missing(self) -> None:
        self.answer(b"", status=404)

    def busy(self) -> None:
        if self.server.seen["busy"] == 1:
            self.answer(b"", status=503)
        else:
            self.good()

    def redirects(self) -> None:
        self.answer(b"", status=302, Location=f"{self.server.url}/good/weights.bin")

    def redirects_forever(self) -> None:
        self.answer(b"", status=302, Location=f"{self.server.url}/redirects_forever/{self.server.seen.total()}")

    def redirects_to_a_file(self) -> None:
        self.answer(b"", status=302, Location="file:///etc/hostname")
