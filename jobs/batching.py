"""Which waiting jobs go to a device together: in the order of the line, as many as fit."""

from jobs.errors import JobError
from jobs.fair_line import FairLine
from jobs.store import JobStore

BATCH_MPX = 48  # images of one batch are in memory together


def take_batch(store: JobStore, waiting: FairLine, *, limit: int) -> list[str]:
    """Take the next jobs that fit one batch off the front of `waiting`.

    Args:
        store: where the jobs are read.
        waiting: the line; those taken, and those that are not there any more, are removed.
        limit: most jobs of one batch.

    Returns:
        The ids taken, in order.
    """
    batch: list[str] = []
    left_px = BATCH_MPX * 1_000_000
    while waiting and len(batch) < limit:
        try:
            job = store.job(waiting.first())
            image = store.image(job.image_id)
        except JobError as error:
            if error.code not in ("unknown_job", "unknown_image"):
                raise
            waiting.popleft()
            continue
        left_px -= image.width * image.height
        # A job that ran when the process died may be why: it runs alone, so that it can't take others along. So does a
        # slow one, which the others would wait for.
        is_alone = job.attempt > 0 or job.request["options"].get("quality") == "high"
        if batch and (left_px < 0 or is_alone):
            break
        batch.append(waiting.popleft())
        if is_alone:
            break
    return batch
