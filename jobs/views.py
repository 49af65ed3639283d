"""What is told of the queue: a job to clients, workers and obstacles to operators."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import Any

from jobs.errors import JobError
from jobs.store import JobRecord, JobStore
from jobs.worker import DeviceWorker

ENDED = frozenset({"done", "failed", "cancelled"})
# A version is the row's own, with the place in the queue as its last digits: everybody's place changes with every job
# that is taken, and that must not cost a write for each of those who wait.
PLACES = 1 << 14  # more than queue_limit may be
LEAST_FREE_BYTES = 1 << 20  # on the disk of the data folder; a repair of a small photo writes less
OBSTACLES = (None, "redis", "workers")  # what may keep every repair from running


def job_view(
    store: JobStore, job: JobRecord, *, position: int, lost: JobError | None, waiting_for: str | None = None,
    root_path: str = "",
) -> dict[str, Any]:  # fmt: skip
    """Return a job as clients see it.

    Args:
        store: where the result's box is read.
        job: the row.
        position: the place in the queue from 1 on, 0 for a job that does not wait.
        lost: a failure that the store could not take; it counts unless the job ended after all.
        waiting_for: what keeps every repair from running: "redis", "workers", or None.
        root_path: what stands before every address of this server.

    Returns:
        The object that `GET /api/v1/jobs/{id}` answers with; `version` differs whenever anything else does.
    """
    patch = None
    if job.result_id:
        box = store.image(job.result_id).box
        patch = {"url": f"{root_path}/api/v1/images/{job.result_id}/patch", "box": list(box or ())}
    state, error, version = job.state, job.error, job.version * PLACES + min(position, PLACES - 2)
    if state not in ENDED and lost:
        state, error, version = "failed", lost.as_dict(), (job.version + 1) * PLACES - 1
    version = version * len(OBSTACLES) + OBSTACLES.index(waiting_for)
    return {
        "job_id": job.job_id, "state": state, "position": position, "stage": job.stage,
        "timings_ms": job.timings_ms, "image_id": job.result_id, "patch": patch, "notes": job.notes,
        "saved": job.saved, "error": error, "version": version, "waiting_for": waiting_for,
    }  # fmt: skip


def worker_views(workers: Sequence[DeviceWorker], stuck: Sequence[DeviceWorker]) -> list[dict[str, Any]]:
    """Return the workers that repair, one row each.

    Args:
        workers: the queue's threads.
        stuck: threads that were given up and have not returned.

    Returns:
        `name`, `device`, `weights`, `profile`, `memory_mib` (None where it is not known) and `state` of each: idle,
        busy, starting (its process ended and is started again), stuck (its repair outlived its time) or refused
        (another version or other weights).
    """
    engine = workers[0].engine
    if hasattr(engine, "worker_views"):  # it hands repairs to other processes, which are the workers
        views: list[dict[str, Any]] = engine.worker_views()
        return views
    busy = {worker.engine for worker in workers if worker.busy_with}
    of_engines = {worker.engine: worker for worker in reversed(workers)}  # several threads may serve one
    rows = [(worker, "busy" if engine in busy else "idle") for engine, worker in reversed(of_engines.items())]
    rows += [(worker, "stuck") for worker in stuck if worker.is_alive()]
    return [_row(worker, state) for worker, state in rows]


def obstacles(store: JobStore, workers: Sequence[DeviceWorker]) -> list[str]:
    """Return what keeps every repair from running, nothing when the next one would run.

    Args:
        store: looked whether it can be read, and its disk can be written to and has room.
        workers: the queue's threads.

    Returns:
        Some of "storage", "redis" and "workers".
    """
    found = []
    try:
        store.connection().execute("SELECT 1").fetchone()
        folder = store.images_dir
        # A disk with faults is mounted read-only by the system.
        if shutil.disk_usage(folder).free < LEAST_FREE_BYTES or not os.access(folder, os.W_OK):
            found.append("storage")
    except (JobError, OSError):
        found.append("storage")
    waiting_for = getattr(workers[0].engine, "waiting_for", None)
    return [*found, waiting_for] if waiting_for else found


def _row(worker: DeviceWorker, state: str) -> dict[str, Any]:
    described = worker.engine.describe()
    told = {name: described.get(name) for name in ("device", "weights", "profile", "memory_mib")}
    return {"name": worker.name, **told, "state": state}
