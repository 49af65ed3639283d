"""Every scenario of `bench/faults.py` in a small version: no accepted repair is lost, or carried out twice."""

import argparse
import resource
import time

import pytest

from bench.faults import SCENARIOS
from tests.support.cluster import cluster
from tests.support.fake_engine import UNTIL_STOPPED
from tests.support.serving import follow, wait_until

SMALL = argparse.Namespace(kills=4, jobs=8, outage_s=3.0, seed=0)
# The bench fills a small file system for this one, which takes root to mount; below, a limit stands in for it.
NEEDS_ROOT = "disk_full"


@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - {NEEDS_ROOT}))
def test_every_accepted_repair_ends_once(name: str) -> None:
    outcome = SCENARIOS[name](SMALL)
    assert outcome.is_sound, outcome
    assert outcome.accepted == SMALL.jobs + (name == "poison")
    if name == "poison":
        assert outcome.errors == [
            "1 x workers_lost: 2 workers were lost while they computed this repair, so it was given up."
        ]
    elif name != "worker_kills":  # there, a repair may lose two workers by chance
        assert outcome.failed == 0, outcome


def test_repairs_that_find_the_disk_full_end_once() -> None:
    with cluster() as made:
        job_ids = [made.submit() for _ in range(6)]
        assert made.web.process is not None
        pid = made.web.process.pid
        whole_limit = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        # No file may grow: every write fails, as it does on a full disk.
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, whole_limit[1]))
        time.sleep(2.0)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, whole_limit)
        outcome = made.collect("disk full", [*job_ids, made.submit()], faults=1, began_s=0.0)
    assert outcome.is_sound, outcome
    assert outcome.done >= 1 and all("x disk_full: " in error for error in outcome.errors), outcome


def test_a_cancelled_repair_stops_at_its_worker() -> None:
    with cluster(workers=1) as made, made.web.client as client:
        cancelled = made.submit(dilate_px=UNTIL_STOPPED)

        def stage() -> object:
            return client.get(f"/api/v1/jobs/{cancelled}").json()["stage"]

        # Before its worker has begun, it would be dropped without being stopped.
        assert wait_until(stage, {"predict"}, limit_s=60.0) == "predict"
        assert client.delete(f"/api/v1/jobs/{cancelled}").json()["state"] == "cancelled"
        # The worker has one thread: it takes the next one when it has left the first.
        assert made.collect("after it", [made.submit()], faults=1, began_s=0.0).is_sound
        assert "stopped, nobody waits for it" in made.workers[0].log


def test_page_is_told_what_repairs_wait_for() -> None:
    with cluster(workers=1) as made, made.web.client as client:
        made.workers[0].kill()
        made.redis.wipe()
        waiting = made.submit()

        def told() -> object:
            return client.get(f"/api/v1/jobs/{waiting}").json()["waiting_for"]

        assert wait_until(told, {"workers"}, limit_s=60.0) == "workers"
        made.redis.kill()
        assert wait_until(told, {"redis"}, limit_s=60.0) == "redis"
        made.redis.start()
        made.workers[0].start()
        view = follow(client, waiting, limit_s=60.0)
        assert (view["state"], view["waiting_for"]) == ("done", None)
