"""What memory many requests take: 500 repairs and 500 one-shots in a row, and forty clients with the largest photos.

The real server over HTTP in a process of its own, with an engine that fills with the mean colour: what is measured is
everything around the network (bodies, decoding, masks, the queue, SQLite, encoding), whose memory must not grow. The
network's own is in speed-engine-*.md.

In a row: one photo and round upon round on it, then as many one-shots. The process's memory is read after every
request; flat means that the last hundred took at most 3 % more than the hundred before the middle.

At once: every client sends a photo of 100 million pixels and a mask that marks half of it, all at the same moment. Who
is told 503 with Retry-After comes again after that time, until there is a result. The bars: every client has its
result in the end, and the process never takes more than 4 GiB.

    python -m bench.many_at_once [--rounds 500] [--clients 40] [--mpx 100] [--only row|once]

Prints Markdown, and keeps it in bench/results/many-at-once.md, with `--only` in many-at-once-row.md or -once.md.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
import numpy as np
from PIL import Image

from tests.support.fake_engine import FakeEngine, FakeResult
from tests.support.serving import ROOT, RunningServer, ask_repair, follow, upload

RESULTS = Path(__file__).parent / "results"
PART = 100  # requests that one row of the table stands for
GROWTH_BAR, PEAK_BAR_MIB = 1.03, 4096
PATIENCE_S = 7200.0
MIB = 1 << 20


class MeanEngine(FakeEngine):
    """The tests' engine, without its list of every marked pixel: of 100 million that is 1.6 GB."""

    def _fill(self, request: Any) -> FakeResult:
        rows, columns = np.flatnonzero(request.mask.any(axis=1)), np.flatnonzero(request.mask.any(axis=0))
        left, top, right, bottom = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        patch = request.image[top:bottom, left:right].copy()
        colour = request.image[::16, ::16].reshape(-1, 3).mean(axis=0).astype(patch.dtype)
        np.copyto(patch, colour, where=request.mask[top:bottom, left:right, None])
        return FakeResult([((left, top, right, bottom), patch)], {"predict": 1.0})


class MeanServer(RunningServer):
    """A server of this file's engine."""

    def start(self, *, wait: bool = True) -> MeanServer:
        """Start the process and wait until it answers."""
        settings = {"data_dir": self.data_dir, "outputs_dir": self.outputs_dir, "port": self.port, **self.settings}
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        with (self.folder / "server.log").open("ab") as log:
            command = [sys.executable, "-m", "bench.many_at_once", "--serve", *arguments]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        if wait:
            self.wait_until_healthy()
        return self

    def memory_mib(self, name: str = "VmRSS") -> float:
        """Return what the process holds now, or held at most ("VmHWM")."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(text.split(f"{name}:")[1].split()[0]) / 1024


def serve(arguments: list[str]) -> int:
    """Run the server in this process."""
    import app

    app.create_app = lambda settings: app.create_api(settings, MeanEngine())  # type: ignore[assignment, misc]
    return app.main(arguments)


def picture(mpx: float, kind: str, *, marked: bool = False) -> bytes:
    """Return the file of a smooth photo with some grain, or of a mask that marks the left half."""
    width = int((mpx * 1e6 * 1.5) ** 0.5)
    height = int(mpx * 1e6 / width)
    if marked:
        array = np.zeros((height, width), np.uint8)
        array[:, : width // 2] = 255
    else:
        tile = np.random.default_rng(0).integers(90, 110, (256, 256, 3), dtype=np.uint8)
        array = np.tile(tile, (height // 256 + 1, width // 256 + 1, 1))[:height, :width]
    data = io.BytesIO()
    Image.fromarray(array).save(data, kind, **({"quality": 75} if kind == "JPEG" else {"compress_level": 1}))
    return data.getvalue()


def in_a_row(folder: Path, rounds: int) -> list[str]:
    """Carry out repairs and one-shots one after another; return the report."""
    photo, mask = picture(0.8, "JPEG"), picture(0.8, "PNG", marked=True)
    server = MeanServer(folder).start()
    memory: dict[str, list[float]] = {"repair, round upon round": [], "one-shot": []}
    with server.client as client:
        image_id = upload(client, photo, "photo.jpg")["image_id"]
        for _ in range(rounds):
            image_id = follow(client, ask_repair(client, image_id), limit_s=PATIENCE_S)["image_id"]
            memory["repair, round upon round"].append(server.memory_mib())
        for _ in range(rounds):
            files = {"image": ("photo.jpg", photo), "mask": ("mask.png", mask)}
            answer = client.post("/api/v1/repair", files=files, timeout=PATIENCE_S)
            assert answer.status_code == 200, answer.text
            memory["one-shot"].append(server.memory_mib())
        left = len(list((server.data_dir / "images").iterdir()))
    server.kill()  # how it stops is measured elsewhere
    lines = ["| in a row | median MiB of each hundred | growth from the 2nd to the last | |", "|---|---|---|---|"]
    for name, values in memory.items():
        parts = [statistics.median(values[n : n + PART]) for n in range(0, len(values), PART)]
        growth = parts[-1] / parts[min(1, len(parts) - 1)]
        verdict = "flat" if growth <= GROWTH_BAR else "GROWS"
        lines.append(f"| {rounds} x {name} | {', '.join(f'{part:.0f}' for part in parts)} | {growth:.3f} | {verdict} |")
    return [*lines, "", f"Files left in the data folder: {left} (the photo, and a patch for each round on it)."]


def at_once(folder: Path, clients: int, mpx: float) -> list[str]:
    """Send the largest photos and masks at the same moment; return the report."""
    photo, mask = picture(mpx, "JPEG"), picture(mpx, "PNG", marked=True)
    server = MeanServer(folder, settings={"queue_limit": clients}).start()
    idle_mib = server.memory_mib()
    answers: Counter[str] = Counter()
    sent_back: Counter[str] = Counter()
    waited_s: list[float] = []
    begin = threading.Barrier(clients)
    longest_s = [0.0]
    stopping = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
            begin.wait()
            until_s = (client_began_s := time.monotonic()) + PATIENCE_S
            while time.monotonic() < until_s:
                try:
                    answer = client.post("/api/v1/repair", files={"image": ("a.jpg", photo), "mask": ("m.png", mask)})
                except httpx.TransportError as error:
                    answers[type(error).__name__] += 1
                    return
                code = "" if answer.status_code == 200 else f" {answer.json()['error']}"
                if answer.status_code == 503 and "retry-after" in answer.headers:
                    sent_back[f"503{code}, Retry-After {answer.headers['retry-after']}"] += 1
                    time.sleep(float(answer.headers["retry-after"]))
                    continue
                answers[f"{answer.status_code}{code}"] += 1
                waited_s.append(time.monotonic() - client_began_s)
                return
            answers["none in two hours"] += 1

    def look() -> None:
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
            while not stopping.wait(1.0):
                began_s = time.monotonic()
                client.get("/health")
                longest_s[0] = max(longest_s[0], time.monotonic() - began_s)

    began_s = time.monotonic()
    threads = [threading.Thread(target=send) for _ in range(clients)]
    watch = threading.Thread(target=look)
    for thread in (*threads, watch):
        thread.start()
    for thread in threads:
        thread.join()
    stopping.set()
    watch.join()
    took_s = time.monotonic() - began_s
    peak_mib = server.memory_mib("VmHWM")
    left_mib = server.memory_mib()
    server.kill()  # how it stops is measured elsewhere
    told, told_first = (
        ", ".join(f"{count} x {answer}" for answer, count in sorted(some.items())) or "none"
        for some in (answers, sent_back)
    )
    answered = "held" if answers == {"200": clients} else "NOT HELD"
    verdict = "held" if peak_mib <= PEAK_BAR_MIB else "NOT HELD"
    return [
        f"| {clients} at once, {mpx:g} million pixels each | |", "|---|---|",
        f"| files | photo {len(photo) / MIB:.1f} MiB, mask {len(mask) / MIB:.1f} MiB |",
        f"| last answers, bar all 200 | {told}: {answered} |", f"| asked to come again before | {told_first} |",
        f"| memory before, and afterwards | {idle_mib:.0f} MiB, {left_mib:.0f} MiB |",
        f"| peak, bar {PEAK_BAR_MIB} MiB | {peak_mib:.0f} MiB: {verdict} |",
        f"| slowest /health meanwhile | {longest_s[0]:.1f} s |",
        f"| all answered after | {took_s:.0f} s; median {statistics.median(waited_s or [0]):.0f} s |",
    ]  # fmt: skip


def main() -> int:
    """Measure and write the table."""
    if sys.argv[1:2] == ["--serve"]:
        return serve(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--mpx", type=float, default=99.9)
    parser.add_argument("--only", choices=("row", "once"))
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    lines = [
        "# Many requests, one memory", "",
        f"`python -m bench.many_at_once`, {os.cpu_count()} cores (other programs ran beside it: load {load:.0f}),",
        "default settings, an engine that fills with the mean colour.", "",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for name in ("row", "once"):
            if asked.only in (None, name):
                (place := Path(folder) / name).mkdir()
                lines += in_a_row(place, asked.rounds) if name == "row" else at_once(place, asked.clients, asked.mpx)
                lines.append("")
    ending = f"-{asked.only}" if asked.only else ""
    (RESULTS / f"many-at-once{ending}.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
