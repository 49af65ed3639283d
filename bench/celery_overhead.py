"""What `QUEUE=celery` adds to a click of 12 MP over the queue in the process, on one host with the same engine.

The real program twice: one server with the model in it, one that hands repairs to a `fftlama worker` through a real
Redis. A click is the POST of strokes, the polls until it is done and the GET of the patch, over HTTP on this machine.
The two take turns, so that a host that slows down slows both; what the processes computed for it is told too, which
other programs on the host change little. Also: whether Redis's memory is back at its start afterwards.

    python -m bench.celery_overhead [--rounds 30]

Prints a Markdown table and one JSON line, and keeps both in bench/results/celery-overhead.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from PIL import Image, ImageOps

from tests.support.redis_server import RedisServer, wait_for_workers
from tests.support.serving import ROOT, RunningServer, clean_environment, follow, upload
from tests.support.zygote import Forked

RESULTS = Path(__file__).parent / "results"
PHOTO = ROOT / "tests" / "data" / "pier.jpg"
SIZE = (4000, 3000)
HOLE_RADIUS_PX = 150
SPOTS = ((0.5, 0.5), (0.3, 0.35), (0.68, 0.4), (0.4, 0.66), (0.62, 0.62), (0.35, 0.5), (0.55, 0.3))
WARM_UP = 3
BAR_MS = 40.0
MEMORY_BAR_KIB = 256  # of Redis's own: its tables do not shrink at once
SETTLE_S = 12.0  # a worker that stopped is off the list by then, and buffers of connections are given back


def photo_file() -> bytes:
    """Return a photo of 12 MP as JPEG."""
    file = io.BytesIO()
    with Image.open(PHOTO) as photo:
        ImageOps.fit(photo.convert("RGB"), SIZE).save(file, "JPEG", quality=90)
    return file.getvalue()


def click(client: httpx.Client, image_id: str, spot: tuple[float, float]) -> tuple[float, dict[str, float]]:
    """Repair a hole; return what it took in ms and the server's own account of it."""
    point = [int(spot[0] * SIZE[0]), int(spot[1] * SIZE[1])]
    body = {
        "image_id": image_id, "request_id": secrets.token_hex(12),
        "strokes": [{"points": [point], "radius": HOLE_RADIUS_PX, "erase": False}],
    }  # fmt: skip
    began_s = time.perf_counter()
    answer = client.post("/api/v1/repairs", json=body)
    assert answer.status_code == 202, answer.text
    view = follow(client, answer.json()["job_id"], limit_s=120.0)
    assert view["state"] == "done", view
    assert client.get(view["patch"]["url"]).status_code == 200
    return (time.perf_counter() - began_s) * 1e3, view["timings_ms"]


def computed_s(*processes: subprocess.Popen[bytes] | Forked | None) -> float:
    """Return the seconds that processes have computed since they began (Linux)."""
    total = 0
    for process in processes:
        assert process is not None
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])  # utime and stime, counted after the name
    return total / os.sysconf("SC_CLK_TCK")


def used_kib(redis_: RedisServer) -> float:
    """Return what Redis has in use, KiB."""
    client = redis_.client
    client.memory_purge()
    return float(client.info("memory")["used_memory"]) / 1024


def start_worker(redis_: RedisServer, folder: Path) -> subprocess.Popen[bytes]:
    """Start `fftlama worker` and wait until it is ready."""
    command = [sys.executable, "-m", "cli.main", "worker", "--redis", redis_.url]
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=log, stderr=log)
    wait_for_workers(redis_.client, 1, limit_s=180.0)
    return worker


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Click in turns on both servers; return times and Redis's memory."""
    redis_ = RedisServer(folder / "redis").start()
    local = RunningServer(folder / "local", kind="real")
    remote = RunningServer(folder / "celery", kind="real", settings={"queue": "celery", "redis_url": redis_.url})
    worker = start_worker(redis_, folder)
    try:
        local.start()
        remote.start()
        photo = photo_file()
        times: dict[str, list[float]] = {"local": [], "celery": []}
        stages: dict[str, list[dict[str, float]]] = {"local": [], "celery": []}
        with local.client as near, remote.client as far:
            sides = {"local": (near, upload(near, photo, "p.jpg")), "celery": (far, upload(far, photo, "p.jpg"))}
            memory_kib = {}
            computed = dict.fromkeys(times, 0.0)
            processes = {"local": (local.process,), "celery": (remote.process, worker, redis_.process)}
            for number in range(WARM_UP + rounds):
                if number == WARM_UP:
                    time.sleep(SETTLE_S)
                    memory_kib["before"] = used_kib(redis_)
                for name, (client, image) in sides.items():
                    before_s = computed_s(*processes[name])
                    took_ms, told = click(client, image["image_id"], SPOTS[number % len(SPOTS)])
                    if number >= WARM_UP:
                        computed[name] += (computed_s(*processes[name]) - before_s) * 1e3 / rounds
                        times[name].append(took_ms)
                        stages[name].append(told)
            time.sleep(SETTLE_S)
            memory_kib["after"] = used_kib(redis_)
            keys = sorted(map(str, redis_.client.keys("fftlama:attempt:*")))
    finally:
        for server in (local, remote):
            server.kill()
        worker.kill()
        worker.wait()
        redis_.kill()
    medians = {name: statistics.median(values) for name, values in times.items()}
    pairs = sorted(b - a for a, b in zip(times["local"], times["celery"], strict=True))
    return {
        "median_ms": medians, "fastest_ms": {name: min(values) for name, values in times.items()},
        "overhead_ms": medians["celery"] - medians["local"], "paired_overhead_ms": statistics.median(pairs),
        "computed_ms": computed, "memory_kib": memory_kib, "keys_left": keys,
        "stages_ms": {
            name: {stage: round(statistics.median(t.get(stage, 0.0) for t in told), 1) for stage in told[0]}
            for name, told in stages.items()
        },
    }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Measure; the exit code is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS / "celery-overhead.md")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), options.rounds)
    memory = found["memory_kib"]
    environment = {
        "python": platform.python_version(), "cpus": os.cpu_count(), "rounds": options.rounds,
        "load_before": round(load_before, 1), "load_after": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    text = "\n".join(
        [
            "| click of 12 MP, hole 300 px | median, ms | fastest, ms |",
            "|---|---|---|",
            *(
                f"| QUEUE={n} | {found['median_ms'][n]:.0f} | {found['fastest_ms'][n]:.0f} |"
                for n in ("local", "celery")
            ),
            "",
            f"Celery adds {found['overhead_ms']:.0f} ms (difference of the medians; median of the differences of "
            f"{options.rounds} pairs: {found['paired_overhead_ms']:.0f} ms; wanted: at most {BAR_MS:.0f}). Redis has "
            f"{memory['before']:.0f} KiB in use before and {memory['after']:.0f} KiB after the clicks, and "
            f"{len(found['keys_left'])} keys of repairs are left. {environment}",
        ]
    )
    line = json.dumps({"environment": environment, **found})
    print(text, line, sep="\n\n")
    options.out.write_text(
        f"# What QUEUE=celery adds to a click (bench/celery_overhead.py)\n\n{text}\n\n```\n{line}\n```\n",
        encoding="utf-8",
    )
    is_back = memory["after"] - memory["before"] <= MEMORY_BAR_KIB and not found["keys_left"]
    return 0 if found["overhead_ms"] <= BAR_MS and is_back else 1


if __name__ == "__main__":
    sys.exit(main())
