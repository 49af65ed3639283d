"""Twelve thousand damaged files and ten thousand hostile requests for a real server process.

The files are damaged by `hostile_files.py` and go in one after another: as a photo, and many of them also as mask, as a
one-shot that is repaired and written back, and to IOPaint's routes. Half of the requests are made by schemathesis from
the OpenAPI document, valid and invalid ones, and each answer is held against the document; the others are damaged by
`hostile_requests.py`. The engine is the fake one: only what surrounds it is meant here.

Counted: answers of 500, requests without an answer (hangs and cut connections), requests that cost more than two
seconds of CPU though their picture has few pixels, answers that the document does not know, tracebacks in the log; and
memory and descriptors of the process, after a warm-up and at the end. Prints a Markdown table and one JSON line, and
keeps both. `--minutes` ends early, on a machine that has little time; what was sent is counted all the same.

    python -m bench.hostile [--only files|requests] [--files 12000] [--requests 10000] [--seed 0] [--minutes M]
        [--servers 1] [--formats HEIC]

Results: bench/results/hostile-files.md, bench/results/hostile-requests.md, and those of some formats alone beside them.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import io
import json
import os
import platform
import random
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from PIL import Image

from bench.hostile_files import mutated_files, originals
from bench.hostile_requests import damaged_requests
from bench.hostile_watch import CLOSED, WARM_UP, Row, Watch, table
from config import Settings
from tests.support.documented_requests import Scene, mask_of
from tests.support.serving import RunningServer
from web.docs_page import METHODS
from web.openapi import build_document

RESULTS = Path(__file__).parent / "results"
ANSWER_S = 60.0  # no answer after that is a hang
LARGEST_UNREAD_BYTES = 60_000
SETTINGS = {
    "client_requests_per_minute": 0, "client_mib_per_minute": 0, "client_waiting_jobs": 0, "work_memory_mib": 512,
    "max_image_mpx": 20,
}  # fmt: skip


def send_files(
    watch: Watch, client: httpx.Client, *, count: int, seed: int, formats: Sequence[str] = ()
) -> None:  # fmt: skip
    """Send damaged files of some formats, or of all, by every way in."""
    mask = mask_of(48, 36)
    for number, (name, data) in enumerate(mutated_files(count, seed, formats)):
        if time.monotonic() > watch.until_s:
            return
        way = list(WAYS)[number % len(WAYS)]
        label = f"seed {seed}, file {number}, as {way}"
        watch.judge(name, label, partial(_send_file, WAYS[way], client, data, mask))
        if number == min(WARM_UP, count // 2):
            watch.start = watch.holds()


def _send_file(
    way: Callable[..., httpx.Response], client: httpx.Client, data: bytes, mask: bytes
) -> tuple[int | None, str]:
    try:
        return way(client, data, mask).status_code, ""
    except httpx.TimeoutException:
        return None, ""
    except httpx.TransportError:
        return CLOSED, ""


def _as_photo(client: httpx.Client, data: bytes, mask: bytes) -> httpx.Response:
    answer = client.post("/api/v1/images", files={"file": ("a", data)})
    if answer.status_code == 201 and len(data) % 2:
        return client.get(f"/api/v1/images/{answer.json()['image_id']}?max_px=32&format=png")
    return answer


WAYS: dict[str, Callable[[httpx.Client, bytes, bytes], httpx.Response]] = {
    "photo": _as_photo,
    "one-shot": lambda client, data, mask: client.post("/api/v1/repair", files={"image": data, "mask": mask}),
    "photo again": _as_photo,
    "mask": lambda client, data, mask: client.post(
        "/api/v1/repair", files={"image": originals_png(), "mask": data}
    ),
    "IOPaint's photo": lambda client, data, mask: client.post(
        "/api/v1/inpaint",
        json={"image": base64.b64encode(data).decode(), "mask": base64.b64encode(mask).decode()},
    ),
    "IOPaint's mask": lambda client, data, mask: client.post(
        "/api/v1/adjust_mask", json={"mask": base64.b64encode(data).decode(), "operate": "expand"}
    ),
    "generation info": lambda client, data, mask: client.post("/api/v1/gen-info", files={"file": ("a.png", data)}),
}  # fmt: skip


def originals_png() -> bytes:
    """Return a sound photo of the masks' size."""
    file = io.BytesIO()
    Image.new("RGB", (48, 36), (90, 120, 150)).save(file, "PNG")
    return file.getvalue()


def send_damaged(watch: Watch, scene: Scene, *, count: int, seed: int) -> None:
    """Send requests of `hostile_requests.py`, each on a connection of its own."""
    operations = [
        (method, path) for path, methods in scene.document["paths"].items() for method in METHODS if method in methods
    ]
    sound = [request for one in operations for request in scene.requests_of(*one)]
    for number, request in enumerate(damaged_requests(sound, count, seed)):
        if time.monotonic() > watch.until_s:
            return
        label = f"seed {seed}, request {number}: {request.method[:20]} {request.target[:80]}"
        data = request.as_bytes()
        # A length that is larger than the body makes the server wait for the rest; closing ends that.
        watch.judge(request.kind, label, partial(ask, watch.server.port, data), may_be_cut=waits(data))
        if not watch.start and number >= min(WARM_UP, count // 2):
            watch.start = watch.holds()


def waits(data: bytes) -> bool:
    """Tell whether a server may wait for more after this, or can't tell what it is answering."""
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line[15:].strip() for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if len(data) > LARGEST_UNREAD_BYTES:
        return True  # answered and hung up on while it is still being sent, so that the answer may be lost
    short = any(length.isdigit() and int(length) > len(body) for length in lengths)
    return short or b"transfer-encoding:" in head.lower() or b"upgrade:" in head.lower() or head.startswith(b"CONNECT")


def ask(port: int, data: bytes) -> tuple[int | None, str]:
    """Send bytes and return the status of the answer, None or `CLOSED`. Leave where more is waited for."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
            connection.sendall(data)
            if waits(data):
                connection.shutdown(socket.SHUT_WR)
            answer = http.client.HTTPResponse(connection, method=data.partition(b" ")[0].decode("latin-1"))
            answer.begin()
            answer.read()
            return answer.status, ""
    except TimeoutError:
        return None, ""
    except (OSError, http.client.HTTPException):
        return CLOSED, ""


def send_generated(watch: Watch, scene: Scene, *, count: int, seed: int) -> None:
    """Send what schemathesis makes of the document, half of it valid, and hold each answer against the document."""
    import requests
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as hypothesis_seed
    from schemathesis import GenerationMode
    from schemathesis.checks import load_all_checks, not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
    )

    load_all_checks()
    checks = [
        not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
        response_schema_conformance,
    ]  # fmt: skip
    schema = schemathesis.openapi.from_dict(scene.document)
    operations = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    each = max(1, count // (2 * len(operations)))
    session = requests.Session()
    session.trust_env = False
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if time.monotonic() > watch.until_s:
                return
            if mode is GenerationMode.NEGATIVE and not (len(operation.body) or len(operation.query)):
                continue  # any text is an id, and a wrong one is 404

            @hypothesis_seed(seed)
            @settings(
                max_examples=each, database=None, deadline=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck), derandomize=False,
            )  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def send_one(case: Any) -> None:
                if time.monotonic() > watch.until_s:
                    return
                kind = f"schemathesis, {case.meta.generation.mode.value}"
                watch.judge(kind, f"seed {seed}, {case.operation.label}: {_told(case)}", lambda: _call(case))

            def _call(case: Any) -> tuple[int | None, str]:
                try:
                    answer = case.call(base_url=watch.server.url, session=session, timeout=ANSWER_S)
                except requests.exceptions.Timeout:
                    return None, ""
                except requests.exceptions.RequestException:
                    return CLOSED, ""
                except ValueError:  # requests itself refuses to send it
                    return 400, ""
                try:
                    case.validate_response(answer, checks=checks)
                except (schemathesis.errors.SchemathesisError, AssertionError, BaseExceptionGroup) as error:
                    return answer.status_code, f"{answer.status_code} {str(error)[:400]} {answer.text[:150]}"
                return answer.status_code, ""

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    send_one()
                except Exception as error:  # it can't make such a request (no parameter to break)
                    print(
                        f"{operation.label}, {mode.value}: {type(error).__name__} {str(error)[:100]}", file=sys.stderr
                    )


def _told(case: Any) -> str:
    return f"{case.path_parameters} {case.query} {str(case.body)[:200]}"


@contextmanager
def attacked(kind: str) -> Iterator[tuple[Watch, Scene]]:
    """A server with a photo, a round and a folder, which is watched.

    Args:
        kind: of `RunningServer`.

    Yields:
        The watch on it, and the documented requests for it.
    """
    document = build_document(Settings(), version="0")
    photo = originals()["JPEG"][0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "photos").mkdir()
        (folder / "photos" / "beach.jpg").write_bytes(photo)
        server = RunningServer(folder, kind=kind, settings={**SETTINGS, "input_path": folder / "photos"}).start()
        try:
            with httpx.Client(base_url=server.url, timeout=ANSWER_S, trust_env=False) as client:
                yield Watch(server), Scene(client, document, photo)
        finally:
            server.kill()


def attack(
    *, files: int, requests: int, seed: int, kind: str, minutes: float = 1e9, formats: Sequence[str] = ()
) -> Watch:  # fmt: skip
    """Send so many of each to one server and return what was found; its log's tracebacks are among the faults."""
    with attacked(kind) as (watch, scene):
        watch.until_s = time.monotonic() + 60 * minutes
        if files:
            send_files(watch, scene.client, count=files, seed=seed, formats=formats)
        if requests:
            half_s = 30 * minutes
            watch.until_s -= half_s
            send_damaged(watch, scene, count=requests - requests // 2, seed=seed)
            watch.until_s += half_s
            send_generated(watch, scene, count=requests // 2, seed=seed)
        assert scene.client.get("/health").status_code == 200
        watch.end = watch.holds()
        watch.tracebacks = watch.server.log.count("Traceback")
        if watch.tracebacks:
            watch.faults.append("log: " + watch.server.log[watch.server.log.index("Traceback") :][:3000])
    return watch


def attack_files_at_once(
    *, files: int, seed: int, servers: int, minutes: float, formats: Sequence[str] = ()
) -> Watch:  # fmt: skip
    """Send files to several servers at once, each with seeds of its own, and return what was found at all of them."""
    with ThreadPoolExecutor(servers) as pool:
        parts = [
            pool.submit(
                attack, files=files // servers, requests=0, seed=seed + n, kind="page", minutes=minutes,
                formats=formats,
            )
            for n in range(servers)
        ]  # fmt: skip
        watches = [part.result() for part in parts]
    whole = max(watches, key=lambda watch: watch.end["memory_mib"] - watch.start["memory_mib"])  # its memory is told
    for watch in watches:
        if watch is whole:
            continue
        for kind, row in watch.rows.items():
            whole.rows.setdefault(kind, Row()).add(row)
        whole.faults += watch.faults
        whole.tracebacks += watch.tracebacks
    return whole


def main(argv: list[str] | None = None) -> int:
    """Attack and print; the exit code is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=12_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--only", choices=("files", "requests"), default=None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--formats", nargs="+", default=[], help="of the files; all by default")
    parser.add_argument("--servers", type=int, default=1, help="for the files, at once")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    random.seed(options.seed)
    sound = True
    for part in (options.only,) if options.only else ("files", "requests"):
        began_s = time.monotonic()
        counts = {"files": 0, "requests": 0, part: getattr(options, part)}
        if part == "files" and options.servers > 1:
            watch = attack_files_at_once(
                files=options.files, seed=options.seed, servers=options.servers, minutes=options.minutes,
                formats=options.formats,
            )  # fmt: skip
        else:
            watch = attack(
                **counts, seed=options.seed, kind="page", minutes=options.minutes, formats=options.formats
            )  # fmt: skip
        environment = {
            "python": platform.python_version(), "cpus": os.cpu_count(), "load": round(os.getloadavg()[0], 1),
            "seconds": round(time.monotonic() - began_s), "seed": options.seed,
        }  # fmt: skip
        text = table(watch)
        line = json.dumps({"environment": environment, "faults": watch.faults[:50]})
        print(text, *watch.faults[:20], line, sep="\n")
        title = f"# Hostile {part} (bench/hostile.py)"
        name = options.out / ("-".join(["hostile", part, *map(str.lower, options.formats)]) + ".md")
        name.write_text(f"{title}\n\n{text}\n\n```\n{line}\n```\n", encoding="utf-8")
        sound &= watch.is_sound()
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
