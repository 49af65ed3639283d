"""One-shots: a file in, the repaired file out, and nothing kept afterwards.

Each is a job of the queue like any other, whose photo leaves the store with it. Files are read when it is their turn
alone, a few at a time, so that nobody waits with 100 MiB in their hands. Knows no HTTP.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imaging import Encoded
from jobs.errors import JobError
from jobs.memory_budget import LONGEST_WAIT_HALFWAY_S, MemoryBudget
from jobs.request_parsing import parse_options
from jobs.retention import remove_history
from jobs.store import ImageRecord
from jobs.views import ENDED
from notices import note_from_dict

if TYPE_CHECKING:
    from jobs.queue import JobQueue

POLL_S = 30.0
AT_ONCE = 2  # whose files are in memory until their job has its place; the others' lie where they came
LONGEST_WAIT_S = 120.0  # many clients give up after that or twice that

FileOf = Callable[[], bytes]
MaskOf = Callable[[ImageRecord], bytes]


class OneShots:
    """Repairs of whole files through a queue.

    Args:
        queue: where their jobs go.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._turns = MemoryBudget(0, at_once=AT_ONCE, longest_wait_s=LONGEST_WAIT_S)
        self._is_closing = False

    def close(self) -> None:
        """Let nobody wait any more."""
        self._is_closing = True
        self._turns.close()

    def repair(
        self, image: bytes | FileOf, mask: bytes | MaskOf, options: Any = None, filename: str = "photo", *,
        on_job: Callable[[str], None] | None = None,
    ) -> Encoded:  # fmt: skip
        """Repair one file and return the whole result; waits its turn and keeps nothing afterwards.

        Args:
            image: the photo's file, or what reads it when it is this one's turn, so that nobody waits with 100 MiB.
            mask: the mask's file, or what makes or reads one for the photo's row.
            options: as JSON gives them.
            filename: the photo's name.
            on_job: called with the job's id, by which it can be cancelled.

        Returns:
            The repaired file.

        Raises:
            JobError: what is wrong with the files, `busy` when the turn does not come, what the repair failed of,
                `interrupted` when it was cancelled.
        """
        parse_options(options)
        record, job_id = self._take_in(image, mask, options, filename)
        try:
            if on_job:
                on_job(job_id)
            view = self._queue.view(job_id)
            while view["state"] not in ENDED:
                if self._is_closing:
                    raise JobError("interrupted", "The server is stopping; send the photo again.")
                view = self._queue.view(job_id, wait_s=POLL_S, seen=view["version"])
            if view["state"] == "failed":
                raise JobError(view["error"]["error"], view["error"]["message"], view["error"]["params"])
            if view["state"] == "cancelled":
                raise JobError("interrupted", "The repair was cancelled.")
            with self._queue.images.memory.going_on():
                encoded = self._queue.encodings.whole(self._queue.store.image(view["image_id"]), keep=False)
            made = map(note_from_dict, view["notes"])
            return replace(encoded, notes=tuple({n.code: n for n in (*record.notes, *made, *encoded.notes)}.values()))
        finally:
            self._remove(record)

    def _take_in(
        self, image: bytes | FileOf, mask: bytes | MaskOf, options: Any, filename: str
    ) -> tuple[ImageRecord, str]:
        """Make a job of a one-shot's files, a few at a time; return the photo's row and the job's id."""
        memory = self._queue.images.memory
        with self._turns.reserve(0):
            # New until it is decoded: what was decoded before goes first, while its photo is still at hand.
            with memory.patient(LONGEST_WAIT_HALFWAY_S):
                data = image if isinstance(image, bytes) else image()
                record = self._queue.images.add(data, filename, is_one_shot=True)
                del data
            try:
                with memory.going_on():
                    mask_file = mask if isinstance(mask, bytes) else mask(record)
                    return record, self._queue.submit(
                        record.image_id, secrets.token_urlsafe(), [], mask_file, options, save=False
                    )  # fmt: skip
            except BaseException:
                self._remove(record)
                raise

    def _remove(self, record: ImageRecord) -> None:
        with suppress(JobError):  # a disk too full to delete rows: clean-up takes them later
            remove_history(self._queue.images, record.image_id)
