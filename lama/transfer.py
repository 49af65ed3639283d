"""One HTTP transfer into a part file: go on where it stopped, notice stalls and cuts, say in words what failed.

Built on urllib of the standard library: it honours the proxy variables, and the bare engine, which has no HTTP client
package, can use it. Knows nothing of weights or checksums, and prints nothing.
"""

import http.client
import json
import os
import socket
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

CHUNK_BYTES = 256 * 1024
MOST_OVERSIZE = 1.25  # a server that sends more than this times the known size sends something else
PROGRESS_INTERVAL_S = 0.1

Progress = Callable[[int, int, str], None]
"""Called with the bytes there are, the bytes of the whole file, and the host they come from."""


class RefusedError(Exception):
    """A mirror will not do; the text says why."""


class BrokenError(Exception):
    """A connection failed, which may go better next time; the text says how."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a mirror, and how often to try it again.

    `stall_s` is the longest silence, and the time over which less than `slowest_bytes_s` a second counts as one.
    After a break the download goes on, unless it broke `tries_without_progress` times in a row before
    `least_progress_bytes` had come. The pause before a new try doubles from `pause_s`.
    """

    stall_s: float = 30.0
    slowest_bytes_s: int = 1024
    tries_without_progress: int = 3
    least_progress_bytes: int = 256 * 1024
    pause_s: float = 1.0


def transfer(url: str, part: Path, size_bytes: int, report: Progress, patience: Patience) -> None:
    """Append to `part` what it lacks, or write it anew, over one connection.

    A normal end does not mean that the file is complete or right.

    Args:
        url: of the whole file.
        part: where the bytes go; a file beside it keeps the ETag they came with.
        size_bytes: how long the whole file is to be.
        report: called about ten times a second.
        patience: how long to wait for the server.

    Raises:
        BrokenError: the connection failed; the part is a beginning to go on from.
        RefusedError: this mirror will not do.
    """
    start = size_of(part)
    state = part.with_name(f"{part.name}.json")
    with _connect(url, start, _validator(state, url), patience) as response:
        if response.status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # the part is as long as the file, or longer
            if start == 0:
                raise RefusedError("it answered 416 to a request for the whole file")
            if start != size_bytes:
                part.unlink()
            return
        if response.headers.get_content_type() == "text/html":
            raise RefusedError("it sent a web page instead of the file (a login page of the network or the proxy?)")
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                raise RefusedError("it sent another part of the file than was asked for")
        else:
            start = 0  # it ignores Range, or its file has changed since
        length = response.headers.get("Content-Length", "")
        end = start + int(length) if length.isascii() and length.isdecimal() else 0
        most = int(size_bytes * MOST_OVERSIZE)
        if end > most:
            raise RefusedError(f"it announces {end} bytes where {size_bytes} are expected")
        state.write_text(json.dumps({"url": url, "validator": response.headers.get("ETag", "")}), encoding="utf-8")
        done = start
        shown_s = 0.0
        with part.open("ab" if start else "wb") as file:
            for chunk in _chunks(response, patience):
                file.write(chunk)
                done += len(chunk)
                if done > most:
                    raise RefusedError(f"it sends more than the {size_bytes} bytes that are expected")
                if time.monotonic() - shown_s >= PROGRESS_INTERVAL_S:
                    shown_s = time.monotonic()
                    report(done, max(size_bytes, end), host_of(url))
            file.flush()
            os.fsync(file.fileno())
    report(done, max(size_bytes, end), host_of(url))
    if done < end:
        raise BrokenError("the connection was cut")


def _validator(state: Path, url: str) -> str:
    """Return the strong ETag that the part's beginning had at this address, or "" if there is none."""
    try:
        kept = json.loads(state.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    same = isinstance(kept, dict) and kept.get("url") == url
    validator = str(kept.get("validator", "")) if same else ""
    return "" if validator.startswith("W/") else validator


def _connect(url: str, start: int, validator: str, patience: Patience) -> http.client.HTTPResponse | HTTPError:
    """Ask for the file from byte `start` on. A 416 is an answer; other errors become RefusedError or BrokenError."""
    headers = {"User-Agent": "fftlama", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=patience.stall_s)
    except HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return error
        error.close()
        text = f"it answered {error.code} {error.reason}"
        if error.code == HTTPStatus.TOO_MANY_REQUESTS or error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise BrokenError(text) from error
        raise RefusedError(text) from error
    except (OSError, http.client.HTTPException) as error:
        raise BrokenError(_explain(error, patience)) from error
    except ValueError as error:  # an address, or one that it redirects to, that is none
        raise RefusedError(f"its address can't be used ({error})") from error


def _chunks(response: http.client.HTTPResponse | HTTPError, patience: Patience) -> Iterator[bytes]:
    """Yield the body as it arrives. Raises BrokenError when it stops, or comes slower than is worth waiting for."""
    window_s, window_bytes = time.monotonic(), 0
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)  # what is there, so that a trickle is noticed
        except (OSError, http.client.HTTPException) as error:
            raise BrokenError(_explain(error, patience)) from error
        if not chunk:
            return
        yield chunk
        window_bytes += len(chunk)
        elapsed_s = time.monotonic() - window_s
        if elapsed_s >= patience.stall_s:
            if window_bytes < patience.slowest_bytes_s * elapsed_s:
                raise BrokenError(f"it sends less than {patience.slowest_bytes_s} bytes a second")
            window_s, window_bytes = time.monotonic(), 0


def host_of(url: str) -> str:
    """Return the host's name, for messages; the whole address where it has none."""
    try:
        return urlsplit(url).hostname or url
    except ValueError:
        return url


def _explain(error: Exception, patience: Patience) -> str:
    """Say in a person's words why a connection failed."""
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return "its certificate is not trusted (a proxy that inspects traffic? SSL_CERT_FILE names its certificate)"
    if isinstance(reason, socket.gaierror):
        return "its name can't be resolved (is this machine offline?)"
    if isinstance(reason, TimeoutError):
        return f"nothing came for {patience.stall_s:g} s"
    if isinstance(reason, ConnectionRefusedError):
        return "the connection was refused"
    if isinstance(reason, ConnectionError | http.client.IncompleteRead):
        return "the connection was cut"
    if "Tunnel connection failed" in str(reason):
        return f"the proxy refused: {str(reason).removeprefix('Tunnel connection failed: ')}"
    return f"the connection failed ({reason})"


def size_of(path: Path) -> int:
    """Return the file's size in bytes; 0 where there is no file."""
    return path.stat().st_size if path.exists() else 0
