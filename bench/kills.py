"""Kill a loaded server with -9 at random moments, start it again, and look at what was lost or left behind.

A real server process with the fake engine: what is meant is the queue, the store and the files around it. Clients
upload, ask for repairs, cancel some, download, and send one-shots all the while; whoever gets no answer asks again
under the same request id. Every accepted job must end exactly once and stay as it ended; every result must be served
and be written to the outputs once. After the next clean-up no file may lie in the data folder without its row, no row
be without its file, and no part file be left.

    python -m bench.kills [--kills 100] [--people 4] [--seed 0]

Prints a Markdown table and one JSON line, and keeps both in bench/results/kills.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import secrets
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx

from bench.hostile_files import originals
from jobs.retention import PART_AGE_S
from tests.support.documented_requests import mask_of
from tests.support.serving import RunningServer, follow

RESULTS = Path(__file__).parent / "results"
ENDED = ("done", "failed", "cancelled")
ONE_SHOT = "one-shot.png"
END_S = 120.0
SETTINGS = {"client_requests_per_minute": 0, "client_mib_per_minute": 0, "client_waiting_jobs": 0, "queue_limit": 1000}


@dataclass
class Outcome:
    """What was found after the kills."""

    kills: int = 0
    accepted: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    not_ended: int = 0
    changed: list[str] = field(default_factory=list)  # jobs that ended one way, and later another
    results_missing: int = 0
    edits_too_many: int = 0  # rounds without a job that made them
    twice: int = 0  # files in outputs/ beyond one for each job
    orphans: list[str] = field(default_factory=list)
    one_shots_left: int = 0
    errors: dict[str, int] = field(default_factory=dict)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost and nothing was left."""
        lost = self.not_ended or self.changed or self.results_missing or self.edits_too_many or self.twice
        return not (lost or self.orphans or self.one_shots_left) and sum(self.ended.values()) == self.accepted


class People:
    """Clients in threads; `accepted` holds every job that a server took, `first_ends` how it was first seen to end."""

    def __init__(self, server: RunningServer, *, count: int, seed: int) -> None:
        self.accepted: dict[str, str] = {}
        self.first_ends: dict[str, dict[str, Any]] = {}
        self._server = server
        self._stop = threading.Event()
        self._photo = originals()["JPEG"][0]
        self._mask = mask_of(36, 48)  # the photo is turned by its EXIF
        self._threads = [
            threading.Thread(target=self._live, args=(random.Random(f"{seed} {n}"),)) for n in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let everybody finish what they do."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _live(self, chance: random.Random) -> None:
        with httpx.Client(base_url=self._server.url, timeout=20.0, trust_env=False) as client:
            while not self._stop.is_set():
                with suppress(httpx.TransportError, KeyError):  # killed meanwhile
                    self._visit(client, chance)
                    continue
                time.sleep(0.02)

    def _visit(self, client: httpx.Client, chance: random.Random) -> None:
        image_id = client.post("/api/v1/images", files={"file": ("a.jpg", self._photo)}).json()["image_id"]
        for _ in range(chance.randint(1, 4)):
            job_id = self._submit(client, image_id, chance)
            sort = chance.random()
            if job_id is None:
                return
            if sort < 0.15:
                client.delete(f"/api/v1/jobs/{job_id}")
            elif sort < 0.45:
                client.post("/api/v1/repair", files={"image": (ONE_SHOT, self._photo), "mask": self._mask})
            elif sort < 0.7:
                self._look(client, job_id)
        client.get(f"/api/v1/images/{image_id}?max_px={chance.randint(8, 30)}&format=png")

    def _submit(self, client: httpx.Client, image_id: str, chance: random.Random) -> str | None:
        body = {
            "image_id": image_id, "request_id": secrets.token_hex(12),
            "strokes": [{"points": [[10, 10], [20, 20]], "radius": 5}],
            "options": {"feather_px": chance.randint(0, 12)},
        }  # fmt: skip
        while not self._stop.is_set():
            try:
                answer = client.post("/api/v1/repairs", json=body)
            except httpx.TransportError:  # it may have been taken or not: the same request tells
                time.sleep(0.02)
                continue
            if answer.status_code == 202:
                job_id = str(answer.json()["job_id"])
                self.accepted[job_id] = image_id
                return job_id
            if answer.status_code != 503:
                return None
        return None

    def _look(self, client: httpx.Client, job_id: str) -> None:
        view = client.get(f"/api/v1/jobs/{job_id}?wait_s=0.3").json()
        if view["state"] in ENDED:
            self.first_ends.setdefault(job_id, view)
            if view["patch"]:
                client.get(view["patch"]["url"])


def kill_often(folder: Path, *, kills: int, people: int, seed: int) -> Outcome:
    """Kill a server so many times under load, and return what was found.

    Args:
        folder: for the server's files.
        kills: how many.
        people: clients at once.
        seed: of the moments and of what the clients do.

    Returns:
        What was lost or left behind.
    """
    chance, outcome = random.Random(seed), Outcome(kills=kills)
    server = RunningServer(folder, settings=SETTINGS).start()
    try:
        clients = People(server, count=people, seed=seed)
        for _ in range(kills):
            time.sleep(chance.uniform(0.02, 0.7))
            server.kill()
            server.start()
        clients.stop()
        collect(server, clients, outcome)
        clean_up(server)
        look_for_orphans(server, outcome)
    finally:
        server.kill()
    return outcome


def collect(server: RunningServer, clients: People, outcome: Outcome) -> None:
    """Wait for every accepted job, and count how it ended."""
    states: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    outcome.accepted = len(clients.accepted)
    with server.client as client:
        for job_id in clients.accepted:
            try:
                view = follow(client, job_id, limit_s=END_S)
                if view["state"] == "done":
                    view = follow(client, job_id, until="saved", limit_s=END_S)
            except AssertionError:
                outcome.not_ended += 1
                continue
            states[view["state"]] += 1
            if view["state"] == "done":
                outcome.results_missing += client.get(view["patch"]["url"]).status_code != 200
                outcome.results_missing += client.get(f"/api/v1/images/{view['image_id']}").status_code != 200
            elif view["error"]:
                errors[f"{view['error']['error']}: {view['error']['message']}"] += 1
            first = clients.first_ends.get(job_id, view)
            if (first["state"], first["image_id"]) != (view["state"], view["image_id"]):
                outcome.changed.append(f"{first['state']} became {view['state']}")
        for view in (client.get(f"/api/v1/jobs/{job_id}").json() for job_id in clients.accepted):
            if view["state"] not in ENDED:
                outcome.changed.append(f"{view['state']} after its end")
    outcome.ended, outcome.errors = dict(states), dict(errors)


def clean_up(server: RunningServer) -> None:
    """Start again once what was left is old enough to be taken."""
    server.stop()
    for path in (*server.outputs_dir.iterdir(), *(server.data_dir / "images").iterdir()):
        os.utime(path, (time.time() - 2 * PART_AGE_S,) * 2)
    server.start()
    server.stop()


def look_for_orphans(server: RunningServer, outcome: Outcome) -> None:
    """Compare rows and files of a stopped server."""
    with closing(sqlite3.connect(server.data_dir / "jobs.sqlite3")) as database:
        images = dict(database.execute("SELECT image_id, parent_id FROM images"))
        kept = set(database.execute("SELECT image_id, kind FROM encodings"))
        made = {row[0] for row in database.execute("SELECT result_id FROM jobs WHERE state = 'done'")}
        count = "SELECT COUNT(*) FROM"
        ended = "state NOT IN ('queued', 'running')"
        (masks,) = database.execute(f"{count} masks JOIN jobs USING (job_id) WHERE {ended}").fetchone()
        (loose,) = database.execute(f"{count} masks WHERE job_id NOT IN (SELECT job_id FROM jobs)").fetchone()
        (outcome.one_shots_left,) = database.execute(f"{count} images WHERE name = ?", (ONE_SHOT,)).fetchone()
    expected = {f"{image_id}.{'png' if parent else 'photo'}" for image_id, parent in images.items()}
    expected |= {f"{image_id}.{kind}.kept" for image_id, kind in kept}
    allowed = {f"{image_id}.view.png" for image_id, parent in images.items() if parent}
    files = {path.name for path in (server.data_dir / "images").iterdir()}
    outcome.orphans += [f"file without a row: {name}" for name in sorted(files - expected - allowed)]
    outcome.orphans += [f"row without a file: {name}" for name in sorted(expected - files)]
    outcome.orphans += [f"{masks + loose} masks of no waiting job"] if masks + loose else []
    outcome.edits_too_many = len({image_id for image_id, parent in images.items() if parent} - made)
    outputs = [path.name for path in server.outputs_dir.iterdir()]
    outcome.orphans += [f"in outputs: {name}" for name in outputs if name.startswith(".")]
    outcome.twice = max(0, sum(not name.startswith(".") for name in outputs) - outcome.ended.get("done", 0))


def main(argv: list[str] | None = None) -> int:
    """Kill, look and print; the exit code is 1 when something was lost or left."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "kills.md")
    options = parser.parse_args(argv)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_often(Path(folder), kills=options.kills, people=options.people, seed=options.seed)
    environment = {
        "python": platform.python_version(), "cpus": os.cpu_count(), "seconds": round(time.monotonic() - began_s),
    }  # fmt: skip
    rows = {
        "killed with -9": outcome.kills, "jobs accepted": outcome.accepted,
        **{f"ended {state}": count for state, count in outcome.ended.items()}, "not ended": outcome.not_ended,
        "ended, and later otherwise": len(outcome.changed), "results that are not served": outcome.results_missing,
        "rounds that no job made": outcome.edits_too_many, "written twice to the outputs": outcome.twice,
        "orphans after clean-up": len(outcome.orphans), "photos of one-shots left": outcome.one_shots_left,
    }  # fmt: skip
    text = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])
    line = json.dumps({"environment": environment, "outcome": asdict(outcome)})
    print(text, line, sep="\n\n")
    title = "# Killed under load (bench/kills.py)"
    options.out.write_text(f"{title}\n\n{text}\n\n```\n{line}\n```\n", encoding="utf-8")
    return 0 if outcome.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
