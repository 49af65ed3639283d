"""What an older commit does in cases of docs/cases.md, beside what this one does.

Both are started as servers with the tests' engine, which fills holes with one colour, and get the same requests, one
after another, from this process. Told are the status, the sentence's code, the CPU time of the server's process and the
peak of its memory above what it held; for masks, how much of the photo changed.

    python -m bench.cases_before FOLDER

FOLDER is a checkout of the older commit, such as `git worktree add FOLDER fe28991`. Prints Markdown, and keeps it in
bench/results/cases-before.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import numpy as np
from PIL import Image

from bench import given
from tests.support.serving import ROOT, RunningServer, clean_environment

RESULTS = Path(__file__).parent / "results"
PATIENCE_S = 60.0
SIZE = (160, 120)
LARGE_JSON_BYTES = 88 << 20
NESTED = 200_000


class ServerOf(RunningServer):
    """A server of another checkout."""

    checkout: Path = ROOT

    def start(self, *, wait: bool = True) -> ServerOf:
        """Start the process and wait until it answers."""
        script = next(p for p in ("tests/support/serve_fake.py", "tests/serve_fake.py") if (self.checkout / p).exists())
        arguments = [f"--data-dir={self.data_dir}", f"--outputs-dir={self.outputs_dir}", f"--port={self.port}"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, "api", *arguments], cwd=self.checkout, env=clean_environment(), stdout=log,
                stderr=log,
            )  # fmt: skip
        if wait:
            self.wait_until_healthy()
        return self

    def cpu_s(self) -> float:
        """Return the CPU time of the process so far."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

    def held_mib(self, name: str) -> float:
        """Return what the process holds ("VmRSS"), or held at most since `forget_peak` ("VmHWM")."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(text.split(f"{name}:")[1].split()[0]) / 1024

    def forget_peak(self) -> None:
        """Begin to measure the peak."""
        assert self.process is not None
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", encoding="ascii")


def png(pixels: np.ndarray) -> bytes:
    """Return a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def photo() -> np.ndarray:
    """(H, W, 3) uint8: noise around a middle grey, and something bright."""
    pixels = np.random.default_rng(0).integers(60, 110, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    pixels[20:40, 30:90] = 220
    return pixels


def disc(inside: int, outside: int = 0) -> np.ndarray:
    """(H, W) uint8: a disc."""
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return np.where((rows - 80) ** 2 + (columns - 100) ** 2 < 20**2, inside, outside).astype(np.uint8)


def looping_exif() -> bytes:
    """A JPEG of 1.4 kB whose twenty directories all point at each other."""
    directories, pointers = 20, 60
    size = 2 + 12 * pointers + 4
    offsets = [8 + number * size for number in range(directories)]
    block = b"II*\0" + struct.pack("<I", 8)
    for number in range(directories):
        entries = [(0x8769 if n % 2 else 0x8825, 4, 1, offsets[(number + n) % directories]) for n in range(pointers)]
        block += struct.pack("<H", pointers) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    payload = b"Exif\0\0" + block
    file = io.BytesIO()
    Image.fromarray(photo()).save(file, "JPEG")
    data = file.getvalue()
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def told(answer: httpx.Response) -> str:
    """Return status and code of an answer."""
    try:
        code = answer.json().get("error", "") if answer.status_code >= 400 else ""
    except (ValueError, AttributeError):
        code = ""
    return f"{answer.status_code} {code}".strip()


def repaired(mask: bytes) -> Callable[[httpx.Client], str]:
    """Return what sends a one-shot and tells how much of the photo changed."""

    def ask(client: httpx.Client) -> str:
        answer = client.post(
            "/api/v1/repair", files={"image": ("a.png", png(photo())), "mask": ("m.png", mask)},
            data={"options": json.dumps({"dilate_px": 0})},
        )  # fmt: skip
        if answer.status_code != 200:
            return told(answer)
        result = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        changed = float((result != photo()).any(axis=2).mean())
        return f"200, {100 * changed:.1f} % of the photo changed"

    return ask


def uploaded(data: bytes, name: str = "a.jpg") -> Callable[[httpx.Client], str]:
    """Return what uploads a file."""
    return lambda client: told(client.post("/api/v1/images", files={"file": (name, data)}))


def posted(body: bytes, **headers: str) -> Callable[[httpx.Client], str]:
    """Return what posts a body to the repairs."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda client: told(client.post("/api/v1/repairs", content=body, headers=named))


def layer() -> bytes:
    """A mask drawn as an editor's layer: red on transparent."""
    return png(np.dstack([*[np.full((SIZE[1], SIZE[0]), value, np.uint8) for value in (180, 20, 20)], disc(255)]))


FORM = "multipart/form-data; boundary=x; charset="
CASES: dict[str, Callable[[httpx.Client], str]] = {
    "a mask of 0 and 1 (the disc is 6.5 %)": repaired(png(disc(1))),
    "a mask of one strong colour on black": repaired(png(np.dstack([disc(220), disc(0), disc(0)]))),
    "a mask that is an editor's layer": repaired(layer()),
    "the photo as its own mask": repaired(png(photo())),
    "a mask that is white all over": repaired(png(np.full((SIZE[1], SIZE[0]), 255, np.uint8))),
    "metadata that points at itself, 15 kB": uploaded(looping_exif()),
    "Host: [::1": posted(b"{}", host="[::1", content_type="application/json"),
    "Origin: http://[::1": posted(b"{}", origin="http://[::1", content_type="application/json"),
    "JSON nested 200,000 deep": posted(b"[" * NESTED + b"]" * NESTED, content_type="application/json"),
    "a form in the charset punycode": lambda client: told(
        client.post("/api/v1/images", content=b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--x--',
                    headers={"content-type": FORM + "punycode"})
    ),
    "a JSON body of 88 MiB": posted(
        b'{"strokes": [' + b"1," * (LARGE_JSON_BYTES // 2) + b"1]}", content_type="application/json"
    ),
}  # fmt: skip


def measure(checkout: Path, folder: Path) -> dict[str, str]:
    """Return what a checkout answers in each case, and what that cost it."""
    found = {}
    for number, (name, ask) in enumerate(CASES.items()):
        server = ServerOf(folder / str(number))
        server.checkout = checkout
        server.start()
        try:
            with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
                uploaded(png(photo()), "warm.png")(client)
                cpu_s, before_mib = server.cpu_s(), server.held_mib("VmRSS")
                server.forget_peak()
                try:
                    answer = ask(client)
                except httpx.HTTPError as error:
                    answer = f"no answer ({type(error).__name__})"
            cost = f"{server.cpu_s() - cpu_s:.1f} s, {max(0.0, server.held_mib('VmHWM') - before_mib):.0f} MiB"
            traceback = ", a traceback in the log" if "Traceback" in server.log else ""
            found[name] = f"{answer}; {cost}{traceback}"
        finally:
            server.kill()
        print(f"{checkout.name}: {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("before", type=given.checkout, help="checkout of the older commit")
    asked = parser.parse_args()
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=asked.before, text=True).strip()
    with tempfile.TemporaryDirectory() as folder:
        before = measure(asked.before.resolve(), Path(folder) / "before")
        now = measure(ROOT, Path(folder) / "now")
    lines = [
        "# Cases, before and now", "",
        f"`python -m bench.cases_before`: commit `{commit}` and this one, {os.cpu_count()} cores, load"
        f" {os.getloadavg()[0]:.0f}; answer, CPU time, peak above what the server held.", "",
        "| case | before | now |", "|---|---|---|", *(f"| {name} | {before[name]} | {now[name]} |" for name in CASES),
    ]  # fmt: skip
    (RESULTS / "cases-before.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
