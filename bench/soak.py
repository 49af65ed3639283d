"""Eight people at once for half an hour on the included model; then one greedy client beside seven modest ones.

The real program, over HTTP, each person an address of their own. On a CPU the included model is always busy with eight
people. With `--fake-ms` an engine that sleeps so long stands in for it on each of two devices, so that the rest of the
program is under the load that it has with two cards. A person uploads a photo, paints and repairs it some rounds, looks
at each patch, downloads the result, cancels now and then, and takes another photo. Counted: jobs that were accepted and
never ended (lost), answers of 500 and above, times, and the memory of the server's process. What a repair takes beyond
its wait in the queue should have p99 <= 3 x p50.

Then seven people repair in a loop with pauses, in turns alone and beside one who always has thirty repairs waiting: the
median time from a click to the result should at most double. In turns, so that a host that slows down slows both.

    python -m bench.soak [--minutes 30] [--greedy-minutes 3] [--people 8] [--devices 0,1] [--fake-ms 300]

Prints Markdown and one JSON line, and keeps both in bench/results/soak.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import random
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import httpx
from PIL import Image, ImageOps

from tests.support.fake_engine import WAIT_STEP_S
from tests.support.serving import ROOT, RunningServer, follow, upload

RESULTS = Path(__file__).parent / "results"
PHOTOS = ("pier.jpg", "skyline.jpg", "flower.png")
SIZES = ((1024, 768), (1920, 1080), (4000, 3000))
ROUNDS = 4  # on one photo
CANCELLED_SHARE = 0.05
PAUSE_S = (0.5, 2.0)  # between the rounds of a person
GREEDY_WAITING = 30
GREEDY_TURNS = 3
MEMORY_EVERY_S = 2.0
JOB_LIMIT_S = 300.0
SPREAD_BAR, GREEDY_BAR, MEMORY_BAR = 3.0, 2.0, 1.1


@dataclass
class Counts:
    """What happened to everybody; lists are appended to by many threads."""

    ended: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    click_ms: list[float] = field(default_factory=list)
    queued_ms: list[float] = field(default_factory=list)
    worked_ms: list[float] = field(default_factory=list)
    stages_ms: list[dict[str, float]] = field(default_factory=list)  # of each finished repair, the wait left out
    lock: threading.Lock = field(default_factory=threading.Lock)


class Person:
    """Somebody with an address of their own; every answer's status is counted."""

    fake_ms = 0  # how long the fake engine takes; 0 with a real one

    def __init__(self, server: RunningServer, number: int, counts: Counts, seed: int) -> None:
        self.random = random.Random(seed * 1000 + number)
        self.counts = counts
        # The server believes a proxy on its own machine, so each person is a client of their own.
        self.client = httpx.Client(
            base_url=server.url, timeout=60.0, trust_env=False, headers={"X-Forwarded-For": f"10.0.0.{number + 1}"},
            event_hooks={"response": [self._count]},
        )  # fmt: skip

    def _count(self, answer: httpx.Response) -> None:
        with self.counts.lock:
            self.counts.statuses[answer.status_code] += 1

    def add_photo(self, photo: bytes) -> dict[str, Any]:
        """Upload a photo."""
        return upload(self.client, photo, "photo.jpg")

    def submit(self, image: dict[str, Any]) -> str | None:
        """Hand in a repair somewhere on the photo; None when too many wait."""
        width, height = image["width"], image["height"]
        x, y = self.random.uniform(0.2, 0.8) * width, self.random.uniform(0.2, 0.8) * height
        points = [[int(x), int(y)], [int(x + self.random.uniform(-60, 60)), int(y + self.random.uniform(-60, 60))]]
        stroke = {"points": points, "radius": self.random.randint(12, 60), "erase": False}
        body = {"image_id": image["image_id"], "request_id": secrets.token_hex(12), "strokes": [stroke]}
        if self.fake_ms:
            body["options"] = {"feather_px": round(self.fake_ms / 1e3 / WAIT_STEP_S)}
        answer = self.client.post("/api/v1/repairs", json=body)
        if answer.status_code == 429:
            return None
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def wait(self, job_id: str, began_s: float) -> dict[str, Any] | None:
        """Follow a job to its end and count it; None when it never ends."""
        try:
            view = follow(self.client, job_id, limit_s=JOB_LIMIT_S)
        except AssertionError:
            self.counts.lost.append(job_id)
            return None
        with self.counts.lock:
            self.counts.ended[view["state"]] += 1
        if view["state"] == "done":
            stages_ms = dict(view["timings_ms"])
            self.counts.click_ms.append((time.monotonic() - began_s) * 1e3)
            self.counts.queued_ms.append(stages_ms.pop("queued"))
            self.counts.worked_ms.append(stages_ms["total"])
            self.counts.stages_ms.append(stages_ms)
        return view

    def repair(self, image: dict[str, Any]) -> dict[str, Any]:
        """Repair once and look at the patch; return the photo with it, or as it was."""
        began_s = time.monotonic()
        job_id = self.submit(image)
        if job_id is None:
            return image
        if self.random.random() < CANCELLED_SHARE:
            self.client.delete(f"/api/v1/jobs/{job_id}")
        view = self.wait(job_id, began_s)
        if view is None or view["state"] != "done":
            return image
        assert self.client.get(view["patch"]["url"]).status_code == 200
        return {**image, "image_id": view["image_id"]}

    def live(self, photos: list[bytes], until_s: float) -> None:
        """Edit photos until the time is up."""
        while time.monotonic() < until_s:
            image = self.add_photo(self.random.choice(photos))
            for _ in range(ROUNDS):
                if time.monotonic() > until_s:
                    return
                image = self.repair(image)
                time.sleep(self.random.uniform(*PAUSE_S))
            answer = self.client.get(f"/api/v1/images/{image['image_id']}")
            assert answer.status_code == 200 and answer.content

    def repair_one_photo(self, photo: bytes, until_s: float) -> None:
        """Repair a photo again and again, with pauses."""
        image = self.add_photo(photo)
        while time.monotonic() < until_s:
            self.repair(image)
            time.sleep(self.random.uniform(*PAUSE_S))

    def be_greedy(self, photo: bytes, until_s: float) -> None:
        """Always have thirty repairs waiting."""
        image = self.add_photo(photo)
        waiting: list[str] = []
        while time.monotonic() < until_s:
            while len(waiting) < GREEDY_WAITING and (job_id := self.submit(image)):
                waiting.append(job_id)
            if waiting:
                self.wait(waiting.pop(0), time.monotonic())
        for job_id in waiting:
            self.client.delete(f"/api/v1/jobs/{job_id}")
            self.wait(job_id, time.monotonic())


class MemoryWatch(threading.Thread):
    """Notes the server's resident memory every two seconds (Linux)."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.mib: list[float] = []
        self._pid = pid
        self._ended = threading.Event()

    def run(self) -> None:
        """Watch until `stop`."""
        while not self._ended.wait(MEMORY_EVERY_S):
            pages = int(Path(f"/proc/{self._pid}/statm").read_text(encoding="ascii").split()[1])
            self.mib.append(pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20))

    def stop(self) -> dict[str, float]:
        """Return the median of the second and of the last quarter, and the most."""
        self._ended.set()
        self.join()
        quarter = max(1, len(self.mib) // 4)
        return {
            "second_quarter": statistics.median(self.mib[quarter : 2 * quarter] or self.mib),
            "last_quarter": statistics.median(self.mib[-quarter:]),
            "most": max(self.mib),
        }


def photo_files() -> list[bytes]:
    """Return photos of three sizes as JPEG."""
    files = []
    for name, size in zip(PHOTOS, SIZES, strict=True):
        file = io.BytesIO()
        with Image.open(ROOT / "tests" / "data" / name) as photo:
            ImageOps.fit(photo.convert("RGB"), size).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def together(people: list[Callable[[], None]], counts: Counts) -> None:
    """Run everybody at once; what somebody could not do is noted."""

    def run(person: Callable[[], None]) -> None:
        try:
            person()
        except Exception as error:
            counts.problems.append(f"{type(error).__name__}: {str(error)[:200]}")

    threads = [threading.Thread(target=run, args=(person,)) for person in people]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def slow_stages(stages_ms: list[dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Return the mean of each stage over all repairs and over the slowest hundredth, three at least; ms."""
    by_total = sorted(stages_ms, key=lambda one: one["total"])
    slowest = by_total[-max(3, len(by_total) // 100) :]
    names = dict.fromkeys(name for one in by_total for name in one)
    return {
        name: (
            round(statistics.fmean(one.get(name, 0.0) for one in by_total), 1),
            round(statistics.fmean(one.get(name, 0.0) for one in slowest), 1),
        )
        for name in names
    }


def soak(server: RunningServer, photos: list[bytes], *, people: int, minutes: float, seed: int) -> dict[str, Any]:
    """Let people edit photos; return what happened."""
    assert server.process is not None
    counts, memory = Counts(), MemoryWatch(server.process.pid)
    memory.start()
    until_s = time.monotonic() + minutes * 60
    everybody = [Person(server, number, counts, seed) for number in range(people)]
    together([partial(person.live, photos, until_s) for person in everybody], counts)
    centiles = statistics.quantiles(counts.worked_ms, n=100)
    return {
        "people": people, "minutes": minutes, "ended": dict(counts.ended), "lost": len(counts.lost),
        "answers": sum(counts.statuses.values()), "server_errors": _server_errors(counts),
        "problems": counts.problems, "click_median_ms": statistics.median(counts.click_ms),
        "worked_p50_ms": centiles[49], "worked_p99_ms": centiles[98], "memory_mib": memory.stop(),
        "stages_ms": slow_stages(counts.stages_ms),
    }  # fmt: skip


def greedy(server: RunningServer, photo: bytes, *, modest: int, minutes: float, seed: int) -> dict[str, Any]:
    """Let modest people repair in turns alone and beside a greedy one; return how long they waited."""
    told = {name: (Counts(), Counts()) for name in ("alone", "beside")}
    for turn in range(GREEDY_TURNS):
        for name, (counts, others) in told.items():
            until_s = time.monotonic() + minutes * 60 / GREEDY_TURNS
            people = [Person(server, 100 + number, counts, seed + turn) for number in range(modest)]
            doing: list[Callable[[], None]] = [partial(person.repair_one_photo, photo, until_s) for person in people]
            if name == "beside":
                doing.append(partial(Person(server, 200, others, seed + turn).be_greedy, photo, until_s))
            together(doing, counts)
    rows = {name: _modest_row(*both) for name, both in told.items()}
    times = rows["beside"]["click_median_ms"] / rows["alone"]["click_median_ms"]
    return {"modest": modest, "minutes": minutes, **rows, "times": times}


def _modest_row(counts: Counts, others: Counts) -> dict[str, Any]:
    """Return how the modest people fared, and what the greedy one got."""
    return {
        "repairs": len(counts.click_ms), "click_median_ms": statistics.median(counts.click_ms),
        "queued_median_ms": statistics.median(counts.queued_ms), "greedy_repairs": others.ended["done"],
        "lost": len(counts.lost) + len(others.lost), "problems": counts.problems,
        "server_errors": _server_errors(counts) + _server_errors(others),
    }  # fmt: skip


def _server_errors(counts: Counts) -> int:
    return sum(count for status, count in counts.statuses.items() if status >= 500)


def as_text(soaked: dict[str, Any], fed: dict[str, Any], environment: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    memory = soaked["memory_mib"]
    return "\n".join(
        [
            f"{soaked['people']} people for {soaked['minutes']:g} minutes:",
            "",
            "| | |",
            "|---|---|",
            f"| repairs by how they ended | {soaked['ended']} |",
            f"| lost; answers of 500 and above, of {soaked['answers']} | {soaked['lost']}; {soaked['server_errors']} |",
            f"| click to result, median | {soaked['click_median_ms']:.0f} ms |",
            f"| without the wait: p50, p99, p99 / p50 | {soaked['worked_p50_ms']:.0f} ms, "
            f"{soaked['worked_p99_ms']:.0f} ms, **{soaked['worked_p99_ms'] / soaked['worked_p50_ms']:.2f}** |",
            f"| memory of the server: second quarter, last quarter, most | {memory['second_quarter']:.0f}, "
            f"{memory['last_quarter']:.0f}, {memory['most']:.0f} MiB |",
            "",
            "Where the time goes, mean ms (stages may overlap):",
            "",
            f"| | {' | '.join(soaked['stages_ms'])} |",
            f"|---|{'---|' * len(soaked['stages_ms'])}",
            f"| all repairs | {' | '.join(f'{mean:.0f}' for mean, _ in soaked['stages_ms'].values())} |",
            f"| the slowest hundredth | {' | '.join(f'{slow:.0f}' for _, slow in soaked['stages_ms'].values())} |",
            "",
            f"{fed['modest']} modest people, {fed['minutes']:g} minutes alone and, in turns, as long beside one who "
            f"always has {GREEDY_WAITING} repairs waiting:",
            "",
            "| | repairs of the modest | click to result, median, ms | of it waiting, ms | repairs of the greedy one |",
            "|---|---|---|---|---|",
            *(
                f"| {name} | {row['repairs']} | {row['click_median_ms']:.0f} | {row['queued_median_ms']:.0f} "
                f"| {row['greedy_repairs']} |"
                for name, row in ((name, fed[name]) for name in ("alone", "beside"))
            ),
            "",
            f"Beside the greedy one a click takes **{fed['times']:.2f}** times as long. {environment}",
        ]
    )


def is_sound(soaked: dict[str, Any], fed: dict[str, Any]) -> bool:
    """Whether every bar is met."""
    memory = soaked["memory_mib"]
    parts = (soaked, fed["alone"], fed["beside"])
    clean = not any(part["lost"] or part["server_errors"] or part["problems"] for part in parts)
    return (
        clean
        and soaked["worked_p99_ms"] <= SPREAD_BAR * soaked["worked_p50_ms"]
        and memory["last_quarter"] <= MEMORY_BAR * memory["second_quarter"]
        and fed["times"] <= GREEDY_BAR
    )


def main(argv: list[str] | None = None) -> int:
    """Run both parts; the exit code is 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--greedy-minutes", type=float, default=4.0)
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--devices", default="", help="of the real engine; two with a fake one")
    parser.add_argument("--fake-ms", type=int, default=0, help="a fake engine that takes so long; default: a real one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=RESULTS / "soak.md")
    options = parser.parse_args(argv)
    load_before = os.getloadavg()[0]
    photos = photo_files()
    Person.fake_ms = options.fake_ms
    devices = options.devices or ("0,1" if options.fake_ms else "")
    settings = {"queue_limit": 100, **({"devices": devices} if devices else {})}
    kind = "api" if options.fake_ms else "real"
    with tempfile.TemporaryDirectory() as folder:
        server = RunningServer(Path(folder), kind=kind, settings=settings, is_forked=False).start()
        try:
            soaked = soak(server, photos, people=options.people, minutes=options.minutes, seed=options.seed)
            fed = greedy(server, photos[1], modest=7, minutes=options.greedy_minutes, seed=options.seed)
        finally:
            server.kill()
    environment = {
        "python": platform.python_version(), "cpus": os.cpu_count(), "load_before": round(load_before, 1),
        "load_after": round(os.getloadavg()[0], 1), "devices": devices, "fake_ms": options.fake_ms,
    }  # fmt: skip
    text = as_text(soaked, fed, environment)
    line = json.dumps({"environment": environment, "soak": soaked, "greedy": fed})
    print(text, line, sep="\n\n")
    title = "# Eight people at once, and a greedy one (bench/soak.py)"
    options.out.write_text(f"{title}\n\n{text}\n\n```\n{line}\n```\n", encoding="utf-8")
    return 0 if is_sound(soaked, fed) else 1


if __name__ == "__main__":
    sys.exit(main())
