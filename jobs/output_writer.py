"""The thread that writes finished results into the outputs folder, after the patch was already shown."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from imaging.atomic_write import write_new_output
from jobs.encodings import Encodings
from jobs.errors import JobError, is_disk_full
from jobs.images import ImageStore
from notices import Note

PAUSE_S = 0.1  # after a job's end: the patch's way to the screen has the processor first

log = logging.getLogger("fftlama.jobs")


class OutputWriter:
    """Writes one full file after another, in the photo's own format; a failure is a note on the job, never an error."""

    def __init__(
        self, images: ImageStore, encodings: Encodings, outputs_dir: Path, *, changed: Callable[[Sequence[str]], None]
    ) -> None:
        self._images = images
        self._encodings = encodings
        self._outputs_dir = outputs_dir
        self._changed = changed
        self._jobs: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()  # and when it is due
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="output-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, job_id: str) -> None:
        """Have a done job's file written soon."""
        self._jobs.put((job_id, time.monotonic() + PAUSE_S))

    def stop(self, *, wait_s: float) -> bool:
        """Let the thread end after what is waiting; False when it needs longer (the rest is written at next start)."""
        self._stopping.set()
        self._jobs.put(None)
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with self._images.memory.going_on():
            self._write()

    def _write(self) -> None:
        while (next_one := self._jobs.get()) is not None:
            job_id, due_s = next_one
            self._stopping.wait(max(0.0, due_s - time.monotonic()))
            try:
                self._save(job_id)
            except Exception:
                log.exception("job %s: could not be written to the outputs folder", job_id[:6])
                self._give_up(job_id, "The result is here, but it could not be written to the outputs folder.")
            self._changed([job_id])

    def _save(self, job_id: str) -> None:
        store = self._images.store
        try:
            job = store.job(job_id)
            encoded = self._encodings.whole(store.image(job.result_id or ""), keep=False)
            path = self._written_before(job_id, encoded.data) or write_new_output(
                self._outputs_dir, encoded.data, extension=encoded.extension,
                on_name=lambda name: store.plan_output(job_id, name),
            )  # fmt: skip
        except JobError as error:
            self._give_up(job_id, f"The result was not written to the outputs folder: {error.message}")
            return
        except OSError as error:
            if not is_disk_full(error):
                raise
            self._give_up(job_id, "The result is here, but the disk is too full to write it to the outputs folder.")
            return
        store.set_saved(job_id, f"{self._outputs_dir.name}/{path.name}", notes=encoded.notes)

    def _written_before(self, job_id: str, data: bytes) -> Path | None:
        """Return the file that the last run wrote and could not record any more, None where there is none."""
        name = self._images.store.planned_output(job_id)
        path = self._outputs_dir / name if name else None
        try:
            # Somebody else's file may have taken the name before ours came.
            return path if path is not None and path.read_bytes() == data else None
        except OSError:
            return None

    def _give_up(self, job_id: str, sentence: str) -> None:
        try:
            self._images.store.set_saved(job_id, None, notes=[Note(sentence, code="not_saved")])
        except Exception:
            log.exception("job %s: the note about its file could not be kept", job_id[:6])
