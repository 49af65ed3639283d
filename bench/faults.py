"""Break Redis, workers and the web process on purpose, and count how every accepted repair ended.

`QUEUE=celery` with a real Redis, real Celery workers and the fake engine. Every accepted job must end exactly once,
done or failed with a sentence, and every finished result must be served afterwards. Prints a Markdown table and one
JSON line, and keeps both under bench/results/.

    python -m bench.faults [--only NAME ...] [--kills 60] [--jobs 120] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.cluster import Cluster, Outcome, cluster
from tests.support.redis_server import wait_for_workers
from tests.support.serve_worker import KILL_WORKER

RESULTS = Path(__file__).parent / "results"


def worker_kills(options: argparse.Namespace) -> Outcome:
    """A worker is killed with -9 at random moments, and another takes its place."""
    random_ = random.Random(options.seed)
    with cluster(workers=3) as made:
        began_s, job_ids = time.monotonic(), []
        for _ in range(options.kills):
            job_ids += [made.submit() for _ in range(max(1, options.jobs // options.kills))]
            time.sleep(random_.uniform(0.0, 0.4))
            victim = random_.choice(made.workers)
            victim.kill()
            victim.start()
        return made.collect("worker killed with -9", job_ids, faults=options.kills, began_s=began_s)


def _while_jobs_run(made: Cluster, options: argparse.Namespace, name: str, fault: Callable[[], None]) -> Outcome:
    began_s = time.monotonic()
    job_ids = [made.submit() for _ in range(options.jobs // 2)]
    time.sleep(0.3)
    fault()
    job_ids += [made.submit() for _ in range(options.jobs - len(job_ids))]
    return made.collect(name, job_ids, faults=1, began_s=began_s)


def redis_restart(options: argparse.Namespace) -> Outcome:
    """Redis is killed and started again at once, with its data lost."""
    with cluster() as made:

        def fault() -> None:
            made.redis.kill()
            made.redis.start()

        return _while_jobs_run(made, options, "Redis restarted, data lost", fault)


def redis_stopped(options: argparse.Namespace) -> Outcome:
    """Redis is away for half a minute."""
    with cluster() as made:

        def fault() -> None:
            made.redis.kill()
            time.sleep(options.outage_s)
            made.redis.start()

        return _while_jobs_run(made, options, f"Redis away for {options.outage_s:g} s", fault)


def redis_paused(options: argparse.Namespace) -> Outcome:
    """Redis stops answering with its connections open."""
    with cluster() as made:

        def fault() -> None:
            made.redis.pause()
            time.sleep(options.outage_s)
            made.redis.resume()

        return _while_jobs_run(made, options, f"Redis paused for {options.outage_s:g} s", fault)


def redis_wiped(options: argparse.Namespace) -> Outcome:
    """All keys are deleted while jobs run."""
    with cluster() as made:
        return _while_jobs_run(made, options, "Redis wiped (FLUSHALL)", made.redis.wipe)


def network_cut(options: argparse.Namespace) -> Outcome:
    """The network between the workers and Redis is cut and healed."""
    with cluster(has_proxy=True) as made:

        def fault() -> None:
            assert made.proxy is not None
            made.proxy.cut()
            time.sleep(options.outage_s)
            made.proxy.heal()

        return _while_jobs_run(made, options, f"network of the workers cut for {options.outage_s:g} s", fault)


def slow_worker(options: argparse.Namespace) -> Outcome:
    """One of two workers is ten times slower."""
    with cluster(workers=1) as made:
        made.add_worker(environment={"SLOW_TIMES": "10"})
        wait_for_workers(made.redis.client, 2)
        return _while_jobs_run(made, options, "one of two workers ten times slower", lambda: None)


def wrong_clock(options: argparse.Namespace) -> Outcome:
    """A worker's clock is an hour ahead."""
    with cluster(workers=1) as made:
        made.add_worker(environment={"CLOCK_AHEAD_S": "3600"})
        wait_for_workers(made.redis.client, 2)
        return _while_jobs_run(made, options, "clock of a worker an hour ahead", lambda: None)


def poison(options: argparse.Namespace) -> Outcome:
    """Images that kill every worker that touches them, among good ones."""
    with cluster(workers=3) as made:
        began_s = time.monotonic()
        job_ids = [made.submit() for _ in range(options.jobs // 2)]
        job_ids += [made.submit(dilate_px=KILL_WORKER)]
        time.sleep(1.0)
        for worker in made.workers:
            if worker.process and worker.process.poll() is not None:
                worker.start()
        made.add_worker()
        job_ids += [made.submit() for _ in range(options.jobs // 2)]
        return made.collect("an image that kills its workers", job_ids, faults=2, began_s=began_s)


def sigterm(options: argparse.Namespace) -> Outcome:
    """A worker gets SIGTERM in the middle of a job, and another one starts."""
    with cluster() as made:

        def fault() -> None:
            made.workers[0].terminate()
            made.workers[0].start()

        return _while_jobs_run(made, options, "SIGTERM to a worker in mid-job", fault)


def web_kills(options: argparse.Namespace) -> Outcome:
    """The web process is killed with -9 while its repairs are under way elsewhere, once a job at most."""
    with cluster() as made:

        def fault() -> None:
            made.web.kill()
            made.web.start()

        return _while_jobs_run(made, options, "web process killed with -9", fault)


def disk_full(options: argparse.Namespace) -> Outcome:
    """The disk of the web process is full while results arrive, and has room again later."""
    with tempfile.TemporaryDirectory() as folder:
        mount = Path(folder) / "small"
        mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(mount)], check=True)
        try:
            with cluster(data_dir=mount / "data", outputs_dir=Path(folder) / "outputs") as made:
                made.web.settings["outputs_dir"] = Path(folder) / "outputs"
                began_s = time.monotonic()
                job_ids = [made.submit() for _ in range(options.jobs // 2)]
                with (mount / "filler").open("wb") as filler:
                    try:
                        while True:
                            filler.write(b"0" * 65536)
                            filler.flush()
                    except OSError:
                        pass
                time.sleep(3.0)
                (mount / "filler").unlink()
                time.sleep(1.0)
                job_ids += [made.submit() for _ in range(options.jobs // 2)]
                outcome = made.collect("disk of the web process full for 3 s", job_ids, faults=1, began_s=began_s)
                outcome.twice = 0  # outputs lie elsewhere in this scenario
                return outcome
        finally:
            subprocess.run(["umount", "-l", str(mount)], check=False)


SCENARIOS: dict[str, Callable[[argparse.Namespace], Outcome]] = {
    function.__name__: function
    for function in (
        worker_kills, redis_restart, redis_stopped, redis_paused, redis_wiped, network_cut, slow_worker, wrong_clock,
        disk_full, poison, sigterm, web_kills,
    )
}  # fmt: skip


def table(outcomes: list[Outcome]) -> str:
    """Return the outcomes as Markdown."""
    lines = [
        "| fault | faults | accepted | done | failed, with a sentence | not ended | twice | results served | s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in outcomes:
        lines.append(
            f"| {one.name} | {one.faults} | {one.accepted} | {one.done} | {one.failed} | {one.not_ended} | {one.twice} "
            f"| {one.served} of {one.done} | {one.seconds:g} |"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Run the scenarios; the exit code is 1 when a job was lost in one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=sorted(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=120)
    parser.add_argument("--outage-s", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "faults.md")
    options = parser.parse_args(argv)
    outcomes = []
    for name in options.only:
        outcomes.append(SCENARIOS[name](options))
        print(table(outcomes[-1:]).splitlines()[-1], *outcomes[-1].errors, sep="\n", flush=True)
    environment = {"python": platform.python_version(), "cpus": os.cpu_count(), "system": platform.platform()}
    line = json.dumps({"environment": environment, "outcomes": [asdict(one) for one in outcomes]})
    text = f"{table(outcomes)}\n\n{environment}\n"
    print(text, line, sep="\n")
    options.out.write_text(f"# Faults on purpose (bench/faults.py)\n\n{text}\n```\n{line}\n```\n", encoding="utf-8")
    return 0 if all(one.is_sound for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
