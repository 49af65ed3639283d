"""Ask a running server as each of IOPaint's clients does, and print what each does with the answer.

The requests are rebuilt from the clients' wire format in tests/support/iopaint_clients.py. Then twenty photos of other
formats go through POST /api/v1/inpaint: status, type, format, mode, size and X-Seed. Starts a server with the included
network on the CPU, or asks the one at --url. Writes bench/results/iopaint-clients.md; exit code 1 if a client fails.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.iopaint_clients import CLIENTS, data_url, file_of, mask_picture  # noqa: E402
from tests.support.iopaint_photos import PHOTOS  # noqa: E402
from tests.support.serving import RunningServer  # noqa: E402

RESULTS = ROOT / "bench" / "results" / "iopaint-clients.md"


@contextlib.contextmanager
def server_url(given: str | None) -> Iterator[str]:
    """Give the address of a server: the one named, or one started for this run."""
    if given:
        yield given
        return
    with tempfile.TemporaryDirectory() as folder:
        server = RunningServer(Path(folder), kind="real", settings={"device": "cpu", "weights": "lama-compact"}).start()
        try:
            yield server.url
        finally:
            server.stop()


def client_rows(client: httpx.Client) -> tuple[list[str], int]:
    """Return a table row for each client, and how many failed."""
    rows, failed = [], 0
    for name, ask in CLIENTS.items():
        began_s = time.monotonic()
        try:
            words, passed = ask(client), "passed"
        except AssertionError as error:
            words, passed = str(error), "**failed**"
            failed += 1
        rows.append(f"| {name} | {words} | {1000 * (time.monotonic() - began_s):.0f} | {passed} |")
    return rows, failed


def format_rows(client: httpx.Client) -> tuple[list[str], int]:
    """Return a table row for each photo, and how many came back otherwise than the contract says."""
    rows, failed = [], 0
    for name, (make, format_name, mode) in PHOTOS.items():
        data = make()
        body = {"image": data_url(data), "mask": data_url(file_of(mask_picture())), "sd_seed": 7}
        answer = client.post("/api/v1/inpaint", json=body)
        right = answer.status_code == 200
        told = answer.text[:80]
        if right:
            image = Image.open(io.BytesIO(answer.content))
            told = f"{image.format}, {image.mode}, {image.width} x {image.height}"
            right = (image.format, image.mode, image.size) == (format_name, mode, (128, 96))
            right = right and answer.headers["x-seed"] == "7"
        failed += not right
        kind = answer.headers.get("content-type", "")
        rows.append(f"| {name} | {answer.status_code} | {kind} | {told} | {'as it should' if right else '**no**'} |")
    return rows, failed


def main() -> int:
    """Ask, print and write both tables, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="address of a running server; default: start one")
    with server_url(parser.parse_args().url) as url, httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        clients, failed = client_rows(client)
        formats, wrong = format_rows(client)
    text = "\n".join(
        [
            "# IOPaint's clients against this server", "", "`python bench/iopaint_clients.py`", "",
            "| client | what it sends and does with the answer | ms | |", "|---|---|---|---|", *clients, "",
            "| photo sent to `/api/v1/inpaint` | status | type | came back | |", "|---|---|---|---|---|", *formats, "",
        ]
    )  # fmt: skip
    print(text)
    RESULTS.write_text(text, encoding="utf-8")
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
