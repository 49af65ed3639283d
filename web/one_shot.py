"""One photo in, one repaired file out, in one request: waits for its turn in the queue, and stops if the client leaves.

A client that closes its connection has no use for the answer: its job leaves the queue, and a running one's result is
dropped. Works on whole bodies only: the caller reads a body to its end first, onto the disk, and hands in a function
that takes it into memory.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import anyio
import anyio.to_thread
from fastapi import Request, Response

from imaging import Encoded
from jobs.errors import JobError
from jobs.one_shots import FileOf, MaskOf
from jobs.queue import JobQueue
from jobs.store import note_as_dict
from web.large_answers import answer_with
from web.while_there import work_while_there

NOTES_HEADER = "X-Fftlama-Notes"
LONGEST_HEADER = 4000  # proxies refuse answers whose headers are much longer


async def repair_for_client(
    request: Request,
    queue: JobQueue,
    *,
    image: FileOf,
    mask: MaskOf,
    options: Any,
    filename: str,
    waiters: anyio.CapacityLimiter,
) -> Encoded:
    """Repair one file for a request whose body has been read.

    Args:
        request: whose connection is watched.
        queue: where the job goes.
        image: reads the photo's file; called when it is this one's turn.
        mask: reads or makes the mask's file, once the photo's row is known.
        options: as `POST /api/v1/repairs` takes them.
        filename: the photo's name.
        waiters: the threads that may wait for jobs.

    Returns:
        The repaired file.

    Raises:
        JobError: what `OneShots.repair` raises; `interrupted` when the client left.
    """
    job = CancellableJob(queue)

    def work() -> Encoded:
        return queue.one_shots.repair(job.if_wanted(image), mask, options, filename, on_job=job.begin)

    return await work_while_there(request, work, limiter=waiters, on_leave=job.cancel)


def notes_header(encoded: Encoded) -> dict[str, str]:
    """Return the header that carries the notes of a file that is sent without a job: a JSON array in ASCII."""
    notes = json.dumps([note_as_dict(note) for note in encoded.notes])
    return {NOTES_HEADER: notes} if encoded.notes and len(notes) <= LONGEST_HEADER else {}


async def file_answer(encoded: Encoded, headers: dict[str, str]) -> Response:
    """Return the answer that sends a file which was repaired, with its notes in a header."""
    send = partial(answer_with, media_type=encoded.media_type, headers={**headers, **notes_header(encoded)})
    return await anyio.to_thread.run_sync(send, encoded.data)


class JobCanceller(Protocol):
    """What cancels jobs: the job queue."""

    def cancel(self, job_id: str) -> Any:
        """Cancel a job."""


class CancellableJob:
    """A job that may be cancelled before it has an id."""

    def __init__(self, queue: JobCanceller) -> None:
        self._queue = queue
        self._lock = threading.Lock()
        self._job_id: str | None = None
        self._left = False

    def if_wanted(self, read: FileOf) -> FileOf:
        """Return what reads a file when it is its turn, or raises `interrupted` where the client left meanwhile."""

        def read_if_wanted() -> bytes:
            with self._lock:
                if self._left:
                    raise JobError("interrupted", "The client is gone.")
            return read()

        return read_if_wanted

    def begin(self, job_id: str) -> None:
        """Take the job's id; it is cancelled now if that was asked for before."""
        with self._lock:
            self._job_id = job_id
            left = self._left
        if left:
            self._cancel(job_id)

    def cancel(self) -> None:
        """Cancel the job, or have it cancelled as soon as it has an id."""
        with self._lock:
            self._left = True
            job_id = self._job_id
        if job_id is not None:
            self._cancel(job_id)

    def _cancel(self, job_id: str) -> None:
        with suppress(JobError):  # it has ended and is gone, or the store is and a start gives it up
            self._queue.cancel(job_id)
