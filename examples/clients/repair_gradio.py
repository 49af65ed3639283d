"""Repair a photo with gradio_client: files in, file out.

python repair_gradio.py photo.jpg mask.png result.jpg [SERVER]

A server that is started again meanwhile is waited for, two minutes at most, and asked once more.
Variables: LAMA_SERVER_URL (http://127.0.0.1:7860), LAMA_API_KEY.
"""

import argparse
import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
import uuid
from concurrent.futures import CancelledError
from pathlib import Path

import httpx
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

STILL_S = 60
WAIT_S = 120
PAUSE_S = 1
BROKE_OFF = "the server broke off, or stood still for a minute, before the repair was done"
# How gradio_client tells that a server ended; one that nothing answered for is not waited for.
ENDED = (CancelledError, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)


def repair(photo: str, mask: str, result: str, server: str) -> None:
    """Send both files and keep the answer."""
    # To the environment's proxy 127.0.0.1 is another machine.
    os.environ["no_proxy"] = f"127.0.0.1,localhost,{os.environ.get('no_proxy') or os.environ.get('NO_PROXY', '')}"
    key = os.environ.get("LAMA_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else None
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # the argument alone does not keep it from sending statistics
    # Of a job that waits the server says something every 15 s; for one that stands still gradio_client waits for ever.
    limits = {"timeout": STILL_S}
    # Not where gradio_client keeps all results for good: /tmp/gradio, which is another's where several people work.
    with tempfile.TemporaryDirectory() as folder:
        client = Client(
            server, headers=headers, verbose=False, analytics_enabled=False, httpx_kwargs=limits, download_files=folder
        )
        # handle_file uploads; a bare path would be one of the server's own files, and is refused.
        path = client.predict(handle_file(photo), handle_file(mask), {"quality": "fast"}, api_name="/repair")
        # Beside its name first: a disk may be full, and half a picture is none.
        part = Path(result).parent / f".{uuid.uuid4().hex}.part"
        try:
            shutil.copy(path, part)
            part.replace(result)
        finally:
            part.unlink(missing_ok=True)


def is_ending(error: Exception) -> bool:
    """Say whether the server failed because it was ended."""
    return isinstance(error, ENDED) or (isinstance(error, AppError) and "server is stopping" in str(error))


def wait_for(server: str) -> None:
    """Wait until a server is ready that was there before; SystemExit with a sentence where it does not come back."""
    print(f"{BROKE_OFF}; it is waited for, {WAIT_S} s at most", file=sys.__stderr__)
    until_s = time.monotonic() + WAIT_S
    while time.monotonic() < until_s:
        time.sleep(PAUSE_S)
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{server.rstrip('/')}/health", timeout=PAUSE_S).status_code == httpx.codes.OK:
                return
    sys.exit(f"the server was not there again within {WAIT_S} s")


def main() -> None:
    """Repair what the command line names; SystemExit with a sentence where that can't be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photo")
    parser.add_argument("mask", help="picture of the photo's size, white = what goes")
    parser.add_argument("result")
    parser.add_argument("server", nargs="?", default=os.environ.get("LAMA_SERVER_URL") or "http://127.0.0.1:7860")
    chosen = parser.parse_args()
    for file in (chosen.photo, chosen.mask):
        if not Path(file).is_file():
            sys.exit(f"there is no file {file}")
    if not chosen.server.startswith(("http://", "https://")):  # gradio_client would look for a Space of that name
        sys.exit(f"{chosen.server!r} is no address of a server; it begins with http:// or https://")
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # gradio_client prints the traceback of what it then raises
            try:
                repair(chosen.photo, chosen.mask, chosen.result, chosen.server)
            except Exception as error:
                if not is_ending(error):
                    raise
                wait_for(chosen.server)
                repair(chosen.photo, chosen.mask, chosen.result, chosen.server)
    except AppError as error:
        sys.exit(f"the server refused: {error}")
    except CancelledError:  # which is how gradio_client tells it
        sys.exit(BROKE_OFF)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        sys.exit(f"it could not be repaired: {error}")


if __name__ == "__main__":
    main()
