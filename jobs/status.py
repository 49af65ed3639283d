"""What an operator wants to know of the queue now: how many wait, who repairs, what keeps repairs from running."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jobs.errors import JobError
from jobs.store import JobStore
from jobs.worker import DeviceWorker


def worker_views(workers: Sequence[DeviceWorker], stuck: Sequence[DeviceWorker]) -> list[dict[str, Any]]:
    """Return whoever repairs, one row each.

    Args:
        workers: the queue's threads.
        stuck: threads that were given up and have not returned.

    Returns:
        `name`, `device`, `weights`, `profile`, `memory_mib` (None where it is not known) and `state` of each: idle,
        busy, stuck (its repair outlived its time) or refused (another version or other weights).
    """
    engine = workers[0].engine
    if hasattr(engine, "worker_views"):  # it hands repairs to other machines, which are the workers
        views: list[dict[str, Any]] = engine.worker_views()
        return views
    rows = [(worker, "busy" if worker.busy_with else "idle") for worker in workers]
    rows += [(worker, "stuck") for worker in stuck if worker.is_alive()]
    return [_row(worker, state) for worker, state in rows]


def obstacles(store: JobStore, workers: Sequence[DeviceWorker]) -> list[str]:
    """Return what keeps every repair from running, nothing when the next one would run.

    Args:
        store: looked whether it can be read.
        workers: the queue's threads.

    Returns:
        Some of "storage", "redis" and "workers".
    """
    found = []
    try:
        store.connection().execute("SELECT 1").fetchone()
    except (JobError, OSError):
        found.append("storage")
    waiting_for = getattr(workers[0].engine, "waiting_for", None)
    return [*found, waiting_for] if waiting_for else found


def _row(worker: DeviceWorker, state: str) -> dict[str, Any]:
    described = worker.engine.describe()
    told = {name: described.get(name) for name in ("device", "weights", "profile", "memory_mib")}
    return {"name": worker.name, **told, "state": state}
