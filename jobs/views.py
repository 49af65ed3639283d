"""What clients see of a job: one JSON object, made of its row and its place in the queue."""

from typing import Any

from jobs.errors import JobError
from jobs.store import JobRecord, JobStore

ENDED = frozenset({"done", "failed", "cancelled"})
# A version is the row's own, with the place in the queue as its last digits: everybody's place changes with every job
# that is taken, and that must not cost a write for each of those who wait.
PLACES = 1 << 14  # more than queue_limit may be


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
    return {
        "job_id": job.job_id, "state": state, "position": position, "stage": job.stage,
        "timings_ms": job.timings_ms, "image_id": job.result_id, "patch": patch, "notes": job.notes,
        "saved": job.saved, "error": error, "version": version, "waiting_for": waiting_for,
    }  # fmt: skip
