"""A server of fftlama, asked for one repair with what GIMP's Python has: the standard library.

Pixels go in as bytes, row by row, and come back as the PNG file that the server answers with. Knows nothing of GIMP.
"""

import contextlib
import copy
import http.client
import json
import struct
import time
import urllib.error
import urllib.request
import uuid
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's, by channels: grey, grey and alpha, RGB, RGBA
TIMEOUT_S = 600
WAIT_S = 120
PAUSE_S = 1
# How a connection ends whose server ends; it is asked once more only, as what it was sent may be the cause.
CUT = (BrokenPipeError, ConnectionAbortedError, ConnectionResetError, http.client.IncompleteRead)


class ServerError(Exception):
    """The server refused or can't be reached; the text is a sentence for people."""


def encode_png(
    pixels: bytes, width: int, height: int, *, channels: int, bits: int = 8, icc: bytes | None = None
) -> bytes:
    """Return a PNG file.

    Args:
        pixels: height x width x channels values without padding; of 16 bits in this machine's order of bytes.
        width: In pixels.
        height: In pixels.
        channels: From 1 to 4.
        bits: 8 or 16 of each value.
        icc: A colour profile; None = sRGB.

    Returns:
        The file.

    Raises:
        ValueError: There are more or fewer pixels than that.
    """
    row_bytes = width * channels * bits // 8
    if len(pixels) != row_bytes * height:
        raise ValueError(f"{len(pixels)} bytes are not {width} x {height} pixels of {channels} x {bits} bits")
    if bits == 16 and struct.pack("=H", 1) != struct.pack(">H", 1):
        swapped = bytearray(pixels)
        swapped[0::2], swapped[1::2] = pixels[1::2], pixels[0::2]
        pixels = bytes(swapped)
    # A zero before each row says that it is not filtered.
    rows = b"".join(b"\0" + pixels[begin : begin + row_bytes] for begin in range(0, len(pixels), row_bytes))
    header = struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPES[channels], 0, 0, 0)
    colours = [] if icc is None else [(b"iCCP", b"icc\0\0" + zlib.compress(icc))]
    chunks = ((b"IHDR", header), *colours, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def repair(
    address: str, image: bytes, mask: bytes, *, quality: str = "fast", key: str = "",
    on_wait: Callable[[str], object] = lambda sentence: None,
) -> bytes:  # fmt: skip
    """Have a server repair a photo; one that is started again meanwhile is waited for.

    Args:
        address: Of the server, http://127.0.0.1:7860.
        image: A PNG file.
        mask: A PNG file of its size; above 127 is what goes.
        quality: "fast" or "high".
        key: An API key where the server has a login.
        on_wait: Called with a sentence when the server is waited for.

    Returns:
        The repaired PNG file.

    Raises:
        ServerError: It refused, can't be reached, or is something else.
    """
    if not address.startswith(("http://", "https://")):
        raise ServerError(f"{address!r} is no address of a server; it begins with http:// or https://")
    boundary = uuid.uuid4().hex
    options = json.dumps({"quality": quality}).encode()
    parts = (("image", "image.png", image), ("mask", "mask.png", mask), ("options", None, options))
    body = b"".join(_part(boundary, *part) for part in parts) + f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{address.rstrip('/')}/api/v1/repair", body, headers)
    try:
        data = _answer(request, on_wait)
    except urllib.error.HTTPError as error:
        raise ServerError(f"The server refused ({error.code}): {_sentence(error)}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise ServerError(f"No server answers at {address} ({reason}). Start it with ./start_app.sh") from error
    # A PNG's width and height stand at the same place in each.
    if not data.startswith(b"\x89PNG") or data[16:24] != image[16:24]:
        raise ServerError(f"What answers at {address} is no server of fftlama")
    return data


def _answer(request: urllib.request.Request, on_wait: Callable[[str], object]) -> bytes:
    until_s, cuts = 0.0, 0
    while True:
        try:
            # A copy, as a request on its way through a proxy is changed.
            with _open(copy.copy(request)) as answer:
                return bytes(answer.read())
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            cuts += isinstance(reason, CUT)
            if isinstance(error, urllib.error.HTTPError):  # 502 is what a proxy before the server says
                is_away = error.code == 502 or (error.code == 503 and "Retry-After" in error.headers)
            else:
                is_gone = isinstance(reason, OSError) and not isinstance(reason, TimeoutError)
                is_away = isinstance(reason, CUT) or (until_s > 0 and is_gone)
            if not is_away or cuts > 1 or (until_s and time.monotonic() > until_s):
                raise
            if not until_s:
                on_wait(f"The server is away ({reason}); it is waited for, {WAIT_S} s at most…")
                until_s = time.monotonic() + WAIT_S
            time.sleep(PAUSE_S)


def _open(request: urllib.request.Request) -> Any:
    """Open an address; one of this machine past the environment's proxy, to which 127.0.0.1 is another machine."""
    is_here = urlsplit(request.full_url).hostname in ("127.0.0.1", "localhost", "::1")
    proxies = [urllib.request.ProxyHandler({})] if is_here else []
    return urllib.request.build_opener(*proxies).open(request, timeout=TIMEOUT_S)


def _part(boundary: str, name: str, filename: str | None, data: bytes) -> bytes:
    file = f'; filename="{filename}"' if filename else ""
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + data + b"\r\n"


def _sentence(error: urllib.error.HTTPError) -> str:
    text = ""
    with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        text = error.read(10_000).decode(errors="replace")
        text = json.loads(text)["message"]
    return text[:500] or error.reason
