"""A Redis, Celery workers with the fake engine and a web process for one test, and how its repairs ended."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.cuttable_proxy import CuttableProxy
from tests.support.redis_server import FakeWorker, RedisServer, wait_for_workers
from tests.support.serving import RunningServer, follow, upload

PHOTO = Path(__file__).resolve().parents[1] / "data" / "flower.png"
JOB_HUNDREDTHS = 8  # of a second that the fake engine takes
END_S = 180.0
WRITTEN_S = 20.0


@dataclass
class Outcome:
    """How the repairs of one scenario ended."""

    name: str
    accepted: int = 0
    done: int = 0
    failed: int = 0
    not_ended: int = 0
    served: int = 0
    twice: int = 0
    faults: int = 0
    seconds: float = 0.0
    errors: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether every accepted job ended once, and every result is there."""
        ended = self.done + self.failed == self.accepted
        return ended and not (self.not_ended or self.twice) and self.served == self.done


class Cluster:
    """A Redis, workers and a web process of one scenario, with folders of their own.

    Args:
        folder: where everything lies.
        workers: how many workers there are.
        has_page: whether the web process has its page.
        has_proxy: whether the workers reach Redis through a `CuttableProxy`, here `proxy`.
        **settings: of the web process.
    """

    def __init__(
        self, folder: Path, *, workers: int = 2, has_page: bool = False, has_proxy: bool = False, **settings: Any
    ) -> None:
        self.folder = folder
        self.redis = RedisServer(folder / "redis")
        self.proxy = CuttableProxy(self.redis.port) if has_proxy else None
        url = self.proxy.url if self.proxy else self.redis.url
        self.workers = [FakeWorker(url, folder, number) for number in range(workers)]
        values = {"redis_url": self.redis.url, "queue_limit": 5000, "job_timeout_s": 120, **settings}
        self.web = RunningServer(folder / "web", kind="celery-page" if has_page else "celery", settings=values)
        self.image_id = ""

    def start(self) -> None:
        """Start everything and hand in a photo."""
        self.redis.start()
        for worker in self.workers:
            worker.start()
        self.web.start()
        wait_for_workers(self.redis.client, len(self.workers))
        with self.web.client as client:
            self.image_id = upload(client, PHOTO.read_bytes())["image_id"]

    def submit(self, **options: int) -> str:
        """Hand in one repair and return its job id."""
        body = {
            "image_id": self.image_id,
            "request_id": secrets.token_hex(12),
            "strokes": [{"points": [[30, 30], [60, 60]], "radius": 8, "erase": False}],
            "options": {"feather_px": JOB_HUNDREDTHS, **options},
        }
        with self.web.client as client:
            answer = client.post("/api/v1/repairs", json=body)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def add_worker(self, **changes: Any) -> FakeWorker:
        """Start one more worker."""
        worker = FakeWorker(self.redis.url, self.folder, len(self.workers), **changes).start()
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        """End everything."""
        self.web.kill()
        for worker in self.workers:
            worker.kill()
        self.redis.kill()
        if self.proxy:
            self.proxy.close()

    def collect(self, name: str, job_ids: list[str], *, faults: int, began_s: float) -> Outcome:
        """Wait for every job and return how they ended; the outputs folder shows whether one was carried out twice."""
        outcome = Outcome(name, accepted=len(job_ids), faults=faults)
        errors: Counter[str] = Counter()
        with self.web.client as client:
            for job_id in job_ids:
                try:
                    view = follow(client, job_id, limit_s=END_S)
                except AssertionError:
                    outcome.not_ended += 1
                    continue
                if view["state"] == "done":
                    outcome.done += 1
                    with suppress(AssertionError):  # where the store could not take a word of it either
                        follow(client, job_id, until="written", limit_s=WRITTEN_S)
                    outcome.served += client.get(view["patch"]["url"]).status_code == 200
                else:
                    outcome.failed += 1
                    errors[f"{view['error']['error']}: {view['error']['message']}"] += 1
            outcome.twice = max(0, len(self._outputs()) - outcome.done)
        outcome.errors = [f"{count} x {text}" for text, count in errors.items()]
        outcome.seconds = round(time.monotonic() - began_s, 1)
        return outcome

    def _outputs(self) -> list[Path]:
        folder = self.web.outputs_dir
        return [path for path in folder.iterdir() if path.suffix == ".png"] if folder.is_dir() else []


@contextmanager
def cluster(**settings: Any) -> Iterator[Cluster]:
    """A cluster in a temporary folder, ended afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        made = Cluster(Path(folder), **settings)
        try:
            made.start()
            yield made
        finally:
            made.close()
