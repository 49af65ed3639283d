"""Repairs a second with 1, 2, 4 and 8 Celery workers, whose engine sleeps: what the queue itself costs as workers come.

A real web process, a real Redis and real worker processes on one host; the fake engine takes `--job-ms` for a repair
and computes next to nothing, as an engine on a GPU does for the host. Each number of workers gets so many repairs that
all are busy for the same time; all of them are handed in before the first begins, while a repair that never ends keeps
each worker busy, so that the one who hands in does not count. N workers should reach 0.95 N times what one reaches.

    python -m bench.workers [--workers 1,2,4,8] [--job-ms 1000] [--seconds 20]

Prints a Markdown table and one JSON line, and keeps both in bench/results/workers.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.cluster import Cluster, cluster
from tests.support.fake_engine import UNTIL_STOPPED, WAIT_STEP_S
from tests.support.serving import follow

RESULTS = Path(__file__).parent / "results"
WANTED = 0.95


def measure(workers: int, *, job_ms: int, seconds: float) -> dict[str, float]:
    """Return how so many workers did: repairs, seconds from the first start to the last end, repairs a second."""
    with cluster(workers=workers, client_requests_per_minute=0) as made:
        count = max(2, round(workers * seconds * 1e3 / job_ms))
        elapsed_s = _run(made, count, job_ms)
    return {"workers": workers, "repairs": count, "seconds": round(elapsed_s, 2), "rate": count / elapsed_s}


def _run(made: Cluster, count: int, job_ms: int) -> float:
    """Hand in repairs, let them begin, and return how long all of them took."""
    hundredths = round(job_ms / 1e3 / WAIT_STEP_S)
    with made.web.client as client:
        plugs = [made.submit(dilate_px=UNTIL_STOPPED) for _ in made.workers]
        until_s = time.monotonic() + 60.0
        while any(client.get(f"/api/v1/jobs/{plug}").json()["stage"] != "predict" for plug in plugs):
            assert time.monotonic() < until_s, "not every worker has a repair"
            time.sleep(0.1)
        job_ids = [made.submit(feather_px=hundredths) for _ in range(count)]
        began_s = time.monotonic()
        for plug in plugs:
            client.delete(f"/api/v1/jobs/{plug}")
        for job_id in job_ids:
            view = follow(client, job_id, limit_s=600.0)
            assert view["state"] == "done", view
        return time.monotonic() - began_s


def table(rows: list[dict[str, float]], job_ms: int) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"| workers | repairs of {job_ms} ms | s | repairs/s | times one worker | of N |",
        "|---|---|---|---|---|---|",
    ]
    one = rows[0]["rate"] / rows[0]["workers"]
    lines += [
        f"| {row['workers']} | {row['repairs']} | {row['seconds']:g} | {row['rate']:.2f} | {row['rate'] / one:.2f} "
        f"| {row['rate'] / one / row['workers']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measure; the exit code is 1 where N workers reach less than 0.95 N times one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="1,2,4,8")
    parser.add_argument("--job-ms", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=RESULTS / "workers.md")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    rows = []
    for workers in map(int, options.workers.split(",")):
        rows.append(measure(workers, job_ms=options.job_ms, seconds=options.seconds))
        print(rows[-1], flush=True)
    environment: dict[str, Any] = {
        "python": platform.python_version(), "cpus": os.cpu_count(), "load_before": round(load_before, 1),
        "load_after": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    text = f"{table(rows, options.job_ms)}\n\n{environment}"
    line = json.dumps({"environment": environment, "job_ms": options.job_ms, "rows": rows})
    print(text, line, sep="\n\n")
    title = "# Repairs a second by number of workers (bench/workers.py)"
    options.out.write_text(f"{title}\n\n{text}\n\n```\n{line}\n```\n", encoding="utf-8")
    one = rows[0]["rate"] / rows[0]["workers"]
    return 0 if all(row["rate"] / one >= WANTED * row["workers"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
