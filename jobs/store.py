"""The rows of images, edits and jobs, and where their files lie.

An image is an original as uploaded or an edit: one lossless patch on its parent. Rows never change an image; a history
is an original with all its edits, named by the original's id (`root_id`). A file is written before its row and removed
after it, so a row always has its file. Knows nothing of pixels.
"""

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from imaging.atomic_write import make_private_folder
from jobs.clients import current_client
from jobs.database import IMAGES_NAME, Database
from jobs.errors import JobError, storage_as_job_error
from notices import Note, note_as_dict, note_from_dict

ID_BYTES = 16  # 128 random bits: nobody guesses another person's image
ID_PATTERN = re.compile(r"[A-Za-z0-9_-]{22}")
MOST_ATTEMPTS = 2  # a job that takes the process down twice is not tried a third time
TOUCH_EVERY_S = 60.0
# Asked in one step: between two a job may be given back to the queue, and be missed by both.
NOT_ENDED = "state IN ('queued', 'running')"
LIVE = f"{NOT_ENDED} OR save_pending = 1"


def new_id() -> str:
    """Return a fresh unguessable id; it is also a safe file name."""
    return secrets.token_urlsafe(ID_BYTES)


@dataclass(frozen=True)
class ImageRecord:
    """An original (`parent_id` None) or an edit; `box` is where an edit's patch lies, (left, top, right, bottom)."""

    image_id: str
    root_id: str
    parent_id: str | None
    width: int
    height: int
    format: str
    name: str
    notes: tuple[Note, ...]
    box: tuple[int, int, int, int] | None
    created_s: float


@dataclass(frozen=True)
class JobRecord:
    """A job's row; `request` holds the options and whether the result is written to the outputs folder."""

    job_id: str
    request_id: str
    digest: str
    image_id: str
    root_id: str
    request: dict[str, Any]
    state: str
    stage: str | None
    attempt: int
    result_id: str | None
    timings_ms: dict[str, float]
    notes: list[dict[str, Any]]
    error: dict[str, Any] | None
    saved: str | None
    version: int
    created_s: float

    @property
    def kind(self) -> str:
        """How it waits: "interactive", or "batch" after all of those."""
        return str(self.request["options"].get("priority", "interactive"))


def notes_from_json(text: str) -> tuple[Note, ...]:
    """Return notes as they were stored."""
    return tuple(map(note_from_dict, json.loads(text)))


class JobStore:
    """Rows and file paths under one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.images_dir = data_dir / IMAGES_NAME
        with storage_as_job_error():
            make_private_folder(data_dir)
            self._database = Database(data_dir)
        self.connection = self._database.connection
        self.transaction = self._database.transaction

    def original_path(self, image_id: str) -> Path:
        """Return where an original's own bytes lie."""
        return self.images_dir / f"{image_id}.photo"

    def patch_path(self, image_id: str) -> Path:
        """Return where an edit's lossless patch lies, at the original's depth."""
        return self.images_dir / f"{image_id}.png"

    def view_path(self, image_id: str) -> Path:
        """Return where the 8-bit copy of a 16-bit edit's patch lies, which browsers show."""
        return self.images_dir / f"{image_id}.view.png"

    def encoding_path(self, image_id: str, kind: str) -> Path:
        """Return where a kept encoding of an image lies."""
        return self.images_dir / f"{image_id}.{kind}.kept"

    # Images

    def insert_image(self, image: ImageRecord, *, size_bytes: int, is_one_shot: bool = False) -> None:
        """Add an image whose files are already written.

        Args:
            image: its row.
            size_bytes: of its files.
            is_one_shot: whether it is of no use once its request is over.
        """
        owner = current_client.get().owner
        with self.transaction() as database:
            _insert_image(database, image, size_bytes)
            if owner is not None and image.parent_id is None:
                database.execute("INSERT INTO owners (root_id, owner) VALUES (?, ?)", (image.root_id, owner))
            if is_one_shot:
                database.execute("INSERT INTO one_shots (root_id) VALUES (?)", (image.root_id,))

    def give_up_one_shots(self) -> list[str]:
        """Cancel the jobs of one-shots whose request ended with the last run; return the ids of their originals."""
        with self.transaction() as database:
            rows = database.execute("SELECT root_id FROM one_shots").fetchall()
            database.execute(
                "UPDATE jobs SET state = 'cancelled', stage = NULL, version = version + 1"
                " WHERE state IN ('queued', 'running') AND root_id IN (SELECT root_id FROM one_shots)"
            )
        return [row["root_id"] for row in rows]

    def image(self, image_id: str) -> ImageRecord:
        """Return an image's row; JobError `unknown_image` when there is none."""
        row = None
        if isinstance(image_id, str) and ID_PATTERN.fullmatch(image_id):
            row = self.connection().execute("SELECT * FROM images WHERE image_id = ?", (image_id,)).fetchone()
        if row is None or not self._may_see(row["root_id"]):
            raise JobError("unknown_image", "This photo is not here (any more). Please upload it again.")
        box = tuple(json.loads(row["box"])) if row["box"] else None
        return ImageRecord(
            row["image_id"], row["root_id"], row["parent_id"], row["width"], row["height"], row["format"], row["name"],
            notes_from_json(row["notes"]),
            box, row["created_s"],
        )  # fmt: skip

    def touch(self, root_id: str) -> None:
        """Remember that a history was used now, so that clean-up takes it last."""
        now_s = time.time()
        last = self.connection().execute("SELECT used_s FROM images WHERE image_id = ?", (root_id,)).fetchone()
        if last and now_s - last["used_s"] > TOUCH_EVERY_S:
            with self.transaction() as database:
                database.execute("UPDATE images SET used_s = ? WHERE image_id = ?", (now_s, root_id))

    # Jobs

    def insert_job(
        self, job_id: str, *, request_id: str, digest: str, image: ImageRecord, request: object, packed_mask: bytes
    ) -> None:
        """Add a queued job with its mask; JobError `unknown_image` when the image was cleaned away meanwhile.

        No other job may have its request id.
        """
        with self.transaction() as database:
            if not database.execute("SELECT 1 FROM images WHERE image_id = ?", (image.image_id,)).fetchone():
                raise JobError("unknown_image", "This photo is not here (any more). Please upload it again.")
            database.execute("INSERT INTO masks (job_id, packed) VALUES (?, ?)", (job_id, packed_mask))
            database.execute(
                "INSERT INTO jobs (job_id, request_id, digest, image_id, root_id, request, state, created_s)"
                " VALUES (?, ?, ?, ?, ?, ?, 'queued', ?)",
                (job_id, request_id, digest, image.image_id, image.root_id, json.dumps(request), time.time()),
            )

    def packed_mask(self, job_id: str) -> bytes:
        """Return the mask of a job that has not ended, as `pack_mask` made it."""
        row = self.connection().execute("SELECT packed FROM masks WHERE job_id = ?", (job_id,)).fetchone()
        if row is None:  # queued by a version that kept masks elsewhere
            raise JobError("interrupted", "This repair was asked for before an update; please ask for it again.")
        packed: bytes = row["packed"]
        return packed

    def job(self, job_id: str) -> JobRecord:
        """Return a job's row; JobError `unknown_job` when there is none."""
        job = None
        if isinstance(job_id, str) and ID_PATTERN.fullmatch(job_id):
            job = self._one_job("SELECT * FROM jobs WHERE job_id = ?", job_id)
        if job is None or not self._may_see(job.root_id):
            raise JobError("unknown_job", "This job is not here (any more).")
        return job

    def _may_see(self, root_id: str) -> bool:
        """Tell whether a history belongs to whoever asks; somebody else's looks as if it were not there."""
        asking = current_client.get().owner
        if asking is None:
            return True
        row = self.connection().execute("SELECT owner FROM owners WHERE root_id = ?", (root_id,)).fetchone()
        return row is not None and row["owner"] == asking

    def job_of_request(self, request_id: str) -> JobRecord | None:
        """Return the job that a request made, None when it is new."""
        return self._one_job("SELECT * FROM jobs WHERE request_id = ?", request_id)

    def _one_job(self, query: str, value: str) -> JobRecord | None:
        row = self.connection().execute(query, (value,)).fetchone()
        if row is None:
            return None
        return JobRecord(
            row["job_id"], row["request_id"], row["digest"], row["image_id"], row["root_id"],
            json.loads(row["request"]), row["state"], row["stage"], row["attempt"], row["result_id"],
            json.loads(row["timings_ms"]), json.loads(row["notes"]), json.loads(row["error"] or "null"),
            row["saved"], row["version"], row["created_s"],
        )  # fmt: skip

    def start(self, job_ids: Sequence[str]) -> list[str]:
        """Move queued jobs to running and count the attempt; return those that were still queued."""
        with self.transaction() as database:
            return [
                job_id
                for job_id in job_ids
                if database.execute(
                    "UPDATE jobs SET state = 'running', stage = 'load', attempt = attempt + 1, version = version + 1"
                    " WHERE job_id = ? AND state = 'queued'",
                    (job_id,),
                ).rowcount
            ]

    def set_stage(self, job_ids: Sequence[str], stage: str) -> list[str]:
        """Set the stage of those of `job_ids` that still run, and return them."""
        running = f"job_id IN ({', '.join('?' * len(job_ids))}) AND state = 'running'"
        asked = f"SELECT job_id, stage FROM jobs WHERE {running}"
        # Read first: an engine on another machine is asked again and again, and mostly nothing changed.
        rows = self.connection().execute(asked, (*job_ids,)).fetchall()
        if any(row["stage"] != stage for row in rows):
            with self.transaction() as database:
                database.execute(
                    f"UPDATE jobs SET stage = ?, version = version + 1 WHERE {running} AND stage IS NOT ?",
                    (stage, *job_ids, stage),
                )
                rows = database.execute(asked, (*job_ids,)).fetchall()
        return [row["job_id"] for row in rows]

    def finish(
        self, job_id: str, result: ImageRecord, *, size_bytes: int, timings_ms: object, notes: object, save: bool
    ) -> bool:
        """Move a running job to done together with its edit; False (and no edit) when it was cancelled meanwhile."""
        with self.transaction() as database:
            done = database.execute(
                "UPDATE jobs SET state = 'done', stage = NULL, result_id = ?, timings_ms = ?, notes = ?,"
                " save_pending = ?, version = version + 1 WHERE job_id = ? AND state = 'running'",
                (result.image_id, json.dumps(timings_ms), json.dumps(notes), int(save), job_id),
            ).rowcount
            if done:
                _insert_image(database, result, size_bytes)
        return bool(done)

    def fail(self, job_id: str, error: JobError) -> bool:
        """Move a job that has not ended to failed; False when it ended already."""
        values = (json.dumps(error.as_dict()),)
        return self._update("state = 'failed', stage = NULL, error = ?", values, job_id, NOT_ENDED)

    def cancel(self, job_id: str) -> bool:
        """Move a queued or running job to cancelled; False when it already ended."""
        return self._update("state = 'cancelled', stage = NULL", (), job_id, NOT_ENDED)

    def requeue(self, job_id: str) -> bool:
        """Give a running job back to the queue as if it had not been started."""
        return self._update("state = 'queued', stage = NULL, attempt = attempt - 1", (), job_id, "state = 'running'")

    def plan_output(self, job_id: str, name: str) -> None:
        """Record the name that a done job's file is about to get."""
        with self.transaction() as database:
            database.execute("INSERT OR REPLACE INTO planned_outputs (job_id, name) VALUES (?, ?)", (job_id, name))

    def planned_output(self, job_id: str) -> str | None:
        """Return the name that was last planned for a job's file and not yet recorded as saved."""
        row = self.connection().execute("SELECT name FROM planned_outputs WHERE job_id = ?", (job_id,)).fetchone()
        return None if row is None else str(row["name"])

    def set_saved(self, job_id: str, saved: str | None, *, notes: Sequence[Note]) -> None:
        """Record where a done job's file was written (None: it could not be), with notes to add."""
        with self.transaction() as database:
            database.execute("DELETE FROM planned_outputs WHERE job_id = ?", (job_id,))
            row = database.execute("SELECT notes FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
            if row is not None:
                known = json.loads(row["notes"])
                known += [note_as_dict(note) for note in notes if note_as_dict(note) not in known]
                database.execute(
                    "UPDATE jobs SET saved = ?, notes = ?, save_pending = 0, version = version + 1 WHERE job_id = ?",
                    (saved, json.dumps(known), job_id),
                )

    def recover(self) -> tuple[list[str], list[str]]:
        """After a start: give interrupted jobs back to the queue once, fail those interrupted twice.

        Returns:
            the ids of waiting jobs in the order they came, and those of done jobs whose file was not yet saved.
        """
        error = JobError("interrupted", "The server stopped twice while this repair ran; it is not tried again.")
        with self.transaction() as database:
            database.execute(
                "UPDATE jobs SET state = 'failed', stage = NULL, error = ?, version = version + 1"
                " WHERE state = 'running' AND attempt >= ?",
                (json.dumps(error.as_dict()), MOST_ATTEMPTS),
            )
            database.execute(
                "UPDATE jobs SET state = 'queued', stage = NULL, version = version + 1 WHERE state = 'running'"
            )
            waiting = database.execute("SELECT job_id FROM jobs WHERE state = 'queued' ORDER BY number").fetchall()
            unsaved = database.execute("SELECT job_id FROM jobs WHERE save_pending = 1 ORDER BY number").fetchall()
        return [row["job_id"] for row in waiting], [row["job_id"] for row in unsaved]

    def _update(self, assignments: str, values: tuple[object, ...], job_id: str, condition: str) -> bool:
        with self.transaction() as database:
            return bool(
                database.execute(
                    f"UPDATE jobs SET {assignments}, version = version + 1 WHERE job_id = ? AND {condition}",
                    (*values, job_id),
                ).rowcount
            )


def _insert_image(database: sqlite3.Connection, image: ImageRecord, size_bytes: int) -> None:
    values = asdict(image) | {
        "notes": json.dumps([note_as_dict(note) for note in image.notes]),
        "box": json.dumps(image.box) if image.box else None,
        "used_s": image.created_s,
        "size_bytes": size_bytes,
    }
    columns = ", ".join(values)
    database.execute(f"INSERT INTO images ({columns}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))
