"""Repair a photo through the REST routes, with place in the queue and progress; needs Python alone.

python repair.py photo.jpg result.jpg --stroke 100,80,180,120 --radius 20
python repair.py photo.jpg result.jpg --mask mask.png

A server that is started again meanwhile is waited for, two minutes at most: jobs survive that, and this one goes on.
Variables: LAMA_SERVER_URL (http://127.0.0.1:7860), LAMA_API_KEY.
"""

import argparse
import base64
import contextlib
import copy
import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

WAIT_S = 120
PAUSE_S = 1
# How a connection ends whose server ends; on posting it twice the server is given up: what is posted may be the cause.
CUT = (BrokenPipeError, ConnectionAbortedError, ConnectionResetError, http.client.IncompleteRead)


def ask(
    url: str, *, data: bytes | None = None, kind: str = "application/json", wanted: str = "application",
    was_there: bool = True,
) -> bytes:  # fmt: skip
    """Send a GET, or a POST with `data`, and return the answer; SystemExit with the server's sentence otherwise.

    Args:
        url: what is asked.
        data: what is posted.
        kind: its media type.
        wanted: the first half of the answer's media type.
        was_there: whether the server has answered before; then one where nothing listens is waited for.

    Returns:
        The answer's bytes.
    """
    try:
        request = urllib.request.Request(url, data, {"Content-Type": kind} if data is not None else {})
        if key := os.environ.get("LAMA_API_KEY"):
            request.add_header("Authorization", f"Bearer {key}")
        got, answer = answer_of(request, was_there=was_there)
    except urllib.error.HTTPError as error:
        text = error.reason
        # The answer may break off, and may be a proxy's page.
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            text = error.read().decode(errors="replace")
            text = json.loads(text)["message"]
        sys.exit(f"the server refused ({error.code}): {text}")
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.exit(f"{url} can't be reached: {error}")
    if got != wanted:
        sys.exit(f"{url} answered with something else than {wanted}/…; is it fftlama?")
    return answer


def answer_of(request: urllib.request.Request, *, was_there: bool) -> tuple[str, bytes]:
    """Return the first half of an answer's media type, and its bytes; a server that is started again is waited for.

    Args:
        request: what is asked.
        was_there: whether the server has answered before.

    Returns:
        The answer.

    Raises:
        OSError: the server refused, can't be reached, or did not come back.
        http.client.HTTPException: what answered is no server of the web.
    """
    until_s, cuts = 0.0, 0
    while True:
        try:
            # A copy, as a request on its way through a proxy is changed.
            with open_url(copy.copy(request)) as answer:
                return answer.headers.get_content_maintype(), bytes(answer.read())
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            cuts += isinstance(reason, CUT)
            if isinstance(error, urllib.error.HTTPError):  # 502 is what a proxy before the server says
                is_away = error.code == 502 or (error.code == 503 and "Retry-After" in error.headers)
            else:
                is_gone = isinstance(reason, OSError) and not isinstance(reason, TimeoutError)
                is_away = isinstance(reason, CUT) or (was_there and is_gone)
            if not is_away or (cuts > 1 and request.data) or (until_s and time.monotonic() > until_s):
                raise
            if not until_s:
                print(f"the server is away ({reason}); it is waited for, {WAIT_S} s at most", file=sys.stderr)
                until_s = time.monotonic() + WAIT_S
            was_there = True
            time.sleep(PAUSE_S)


def ask_json(url: str, *names: str, **options: Any) -> dict[str, Any]:
    """Return the answer's fields, texts by `names` among them; SystemExit with a sentence where there are none."""
    answer = ask(url, **options)
    with contextlib.suppress(ValueError, TypeError):
        fields = dict(json.loads(answer))
        if all(isinstance(fields.get(name), str) for name in names):
            return fields
    sys.exit(f"{url} answered without {' and '.join(names)}; is it fftlama?")


def open_url(request: urllib.request.Request) -> Any:
    """Open an address; one of this machine past the environment's proxy, to which 127.0.0.1 is another machine."""
    is_here = urlsplit(request.full_url).hostname in ("127.0.0.1", "localhost", "::1")
    proxies = [urllib.request.ProxyHandler({})] if is_here else []
    return urllib.request.build_opener(*proxies).open(request, timeout=60)


def read(file: Path) -> bytes:
    """Return a file's bytes; SystemExit with a sentence where it can't be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        sys.exit(f"{file} can't be read: {error.strerror}")


def write(file: Path, data: bytes) -> None:
    """Write a file whole or not at all, as a disk may be full; SystemExit with a sentence where it can't be written."""
    part = file.parent / f".{uuid.uuid4().hex}.part"
    try:
        part.write_bytes(data)
        part.replace(file)
    except OSError as error:
        sys.exit(f"{file} can't be written: {error.strerror}")
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def points_of(text: str) -> list[tuple[float, float]]:
    """Return the points of "x,y,x,y"."""
    numbers = [float(number) for number in text.split(",")]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def upload(server: str, photo: Path) -> dict[str, Any]:
    """Send the photo once and return its id and size."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="photo{photo.suffix}"\r\n\r\n'
    body = head.encode() + read(photo) + f"\r\n--{boundary}--\r\n".encode()
    kind = f"multipart/form-data; boundary={boundary}"
    return ask_json(f"{server}/api/v1/images", "image_id", data=body, kind=kind, was_there=False)


def waits_for(view: dict[str, Any]) -> str:
    """Return what keeps every job from running, where something does: the server's Redis, its workers or its disk."""
    return f"(waiting for {view['waiting_for']})" if view.get("waiting_for") else ""


def main() -> None:
    """Upload, repair, follow, download."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--server", default=os.environ.get("LAMA_SERVER_URL") or "http://127.0.0.1:7860")
    parser.add_argument("--stroke", type=points_of, help="x,y,x,y,… of the brush, in pixels")
    parser.add_argument("--radius", type=float, default=20)
    parser.add_argument("--mask", type=Path, help="PNG of the photo's size, white = what goes")
    chosen = parser.parse_args()
    if not chosen.stroke and not chosen.mask:
        parser.error("give --stroke or --mask")

    server = chosen.server.rstrip("/")
    mask = read(chosen.mask) if chosen.mask else b""  # before the photo is sent for nothing
    image_id = upload(server, chosen.photo)["image_id"]
    # A retry with the same request_id finds the job that the first try has made.
    wanted: dict[str, Any] = {"image_id": image_id, "request_id": uuid.uuid4().hex, "strokes": []}
    if chosen.stroke:
        wanted["strokes"] = [{"points": chosen.stroke, "radius": chosen.radius, "erase": False}]
    if chosen.mask:
        wanted["mask_png"] = base64.b64encode(mask).decode()
    job_id = ask_json(f"{server}/api/v1/repairs", "job_id", data=json.dumps(wanted).encode())["job_id"]
    view: dict[str, Any] = {"state": "queued"}
    while view["state"] in ("queued", "running"):
        # The server answers when something has changed, after 20 s at the latest.
        view = ask_json(f"{server}/api/v1/jobs/{job_id}?wait_s=20", "state")
        print(view["state"], view.get("stage") or waits_for(view), file=sys.stderr)
    if view["state"] == "failed":
        with contextlib.suppress(KeyError, TypeError):
            sys.exit(f"the repair failed: {view['error']['message']}")
    if view["state"] != "done" or "image_id" not in view:
        sys.exit(f"the repair was {view['state']}")
    write(chosen.result, ask(f"{server}/api/v1/images/{view['image_id']}", wanted="image"))
    print(chosen.result)


if __name__ == "__main__":
    main()
