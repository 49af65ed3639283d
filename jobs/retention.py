"""Clean-up of the data folder: by age, by total size, and files that no row knows.

Histories go as a whole (an edit without its original is worthless), least recently used first, and never one that a
waiting or running job or an unfinished save needs. The outputs folder belongs to the people; nothing is taken from it
but the part files that a killed process left.
"""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from imaging.atomic_write import remove_parts
from jobs.images import ImageStore
from jobs.memory_budget import MIB
from jobs.store import LIVE, JobStore
from jobs.temp_folder import remove_leftovers

DAY_S = 86_400.0
ORPHAN_AGE_S = 3600.0  # an upload's file is there a moment before its row
PART_AGE_S = 60.0  # another program may have the same outputs folder and be writing there
CLEAN_EVERY_S = 600.0
CLOCK_SET_S = 60.0  # less changes nobody's age by anything that counts

log = logging.getLogger("fftlama.jobs")


class Cleaner(threading.Thread):
    """Cleans up every ten minutes, in a thread of its own: devices that are never idle would put it off for ever."""

    def __init__(
        self, images: ImageStore, *, keep_days: float, keep_mib: float, outputs_dir: Path, also: Callable[[], None]
    ) -> None:
        """Make the thread.

        Args:
            images: what is cleaned.
            keep_days: histories unused for longer go.
            keep_mib: above this size of all histories the oldest go, MiB.
            outputs_dir: where results are written to.
            also: called at every round of the thread, some seconds apart.
        """
        super().__init__(name="cleaner", daemon=True)
        self._images = images
        self._keep_days = keep_days
        self._keep_mib = keep_mib
        self._outputs_dir = outputs_dir
        self._also = also
        self._stopping = threading.Event()
        self._clock_s, self._steady_s = time.time(), _steady_s()

    def run(self) -> None:
        """Clean up until `stop`."""
        cleaned_s = 0.0
        while not self._stopping.is_set():
            self._try(self._also)
            if not self._try(self._follow_clock):
                cleaned_s = time.monotonic()  # files that are being written have the time of before
            elif not cleaned_s or time.monotonic() - cleaned_s >= CLEAN_EVERY_S:
                cleaned_s = time.monotonic()
                self._try(self._clean)
                self._try(lambda: remove_parts(self._outputs_dir, age_s=PART_AGE_S))
                self._try(lambda: remove_leftovers(self._images.store.data_dir))
            self._stopping.wait(min(CLEAN_EVERY_S, 5.0))

    def stop(self) -> None:
        """End the thread soon."""
        self._stopping.set()

    def _clean(self) -> None:
        clean_up(self._images, keep_days=self._keep_days, keep_mib=self._keep_mib, now_s=self._clock_s)

    def _follow_clock(self) -> bool:
        """Return whether the machine's clock goes on as it did; where it was set, photos keep their age."""
        clock_s, steady_s = time.time(), _steady_s()
        was_s = self._clock_s + steady_s - self._steady_s
        is_set = abs(clock_s - was_s) > CLOCK_SET_S
        if is_set:
            log.warning("the machine's clock was set by %+.0f s; photos keep their age", clock_s - was_s)
            keep_ages(self._images.store, was_s=was_s, now_s=clock_s)
        self._clock_s, self._steady_s = clock_s, steady_s
        return not is_set

    def _try(self, step: Callable[[], object]) -> object:
        """Return what a step does, None where it failed."""
        try:
            return step()
        except Exception:
            log.exception("clean-up failed; it is tried again")
            return None


def _steady_s() -> float:
    """Return the time of a clock that nobody sets, and that goes on while the machine sleeps where there is one."""
    # macOS has another name for it: its CLOCK_MONOTONIC goes on in sleep, where Python's own monotonic() stands still.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def keep_ages(store: JobStore, *, was_s: float, now_s: float) -> None:
    """Have histories be as old as before the clock was set: set forward by a week, it had all of them deleted.

    Args:
        store: where they are.
        was_s: what the clock would show.
        now_s: what it shows; what was used by it already, and what it knew before it was wrong, stays.
    """
    used_by_the_old = "used_s <= ?" if now_s > was_s else "used_s > ?"
    with store.transaction() as database:
        database.execute(
            f"UPDATE images SET used_s = used_s + ? WHERE {used_by_the_old}", (now_s - was_s, min(was_s, now_s))
        )


def clean_up(images: ImageStore, *, keep_days: float, keep_mib: float, now_s: float | None = None) -> int:
    """Remove histories unused for `keep_days`, then the oldest until all take `keep_mib` at most; return how many."""
    now_s = time.time() if now_s is None else now_s
    store = images.store
    histories = (
        store.connection()
        .execute(
            # With what was encoded of them, which goes when they go.
            "SELECT root_id, MAX(used_s) AS used_s, SUM(size_bytes + COALESCE(encoded_bytes, 0)) AS size_bytes"
            " FROM images LEFT JOIN"
            " (SELECT image_id, SUM(size_bytes) AS encoded_bytes FROM encodings GROUP BY image_id) USING (image_id)"
            f" GROUP BY root_id HAVING root_id NOT IN (SELECT root_id FROM jobs WHERE {LIVE}) ORDER BY 2"
        )
        .fetchall()
    )
    total_bytes = (
        store.connection()
        .execute(
            "SELECT (SELECT COALESCE(SUM(size_bytes), 0) FROM images)"
            " + (SELECT COALESCE(SUM(size_bytes), 0) FROM encodings) AS n"
        )
        .fetchone()["n"]
    )
    removed = 0
    for history in histories:
        too_old = now_s - history["used_s"] > keep_days * DAY_S
        if not too_old and total_bytes <= keep_mib * MIB:
            break
        if remove_history(images, history["root_id"], used_s=history["used_s"]):
            total_bytes -= history["size_bytes"]
            removed += 1
    remove_orphans(store, now_s, age_s=ORPHAN_AGE_S)
    if removed:
        log.info("clean-up: removed %d images with their edits", removed)
    return removed


def remove_history(images: ImageStore, root_id: str, *, used_s: float = float("inf")) -> bool:
    """Remove an original, its edits and their jobs.

    Args:
        images: where they are.
        root_id: the original's.
        used_s: when they were used last, as far as whoever asks knows: those that were used since stay.

    Returns:
        False when they stay, because of that or because a live job needs them.
    """
    store = images.store
    with store.transaction() as database:
        if database.execute(f"SELECT 1 FROM jobs WHERE root_id = ? AND ({LIVE})", (root_id,)).fetchone():
            return False
        used_since = "SELECT 1 FROM images WHERE root_id = ? AND used_s > ?"
        if database.execute(used_since, (root_id, used_s)).fetchone():
            return False
        paths: list[Path] = []
        ids: list[str] = []
        for row in database.execute("SELECT image_id FROM images WHERE root_id = ?", (root_id,)):
            ids.append(row["image_id"])
            paths += [path(row["image_id"]) for path in (store.original_path, store.patch_path, store.view_path)]
        kept = database.execute(
            "SELECT image_id, kind FROM encodings WHERE image_id IN (SELECT image_id FROM images WHERE root_id = ?)",
            (root_id,),
        )
        paths += [store.encoding_path(row["image_id"], row["kind"]) for row in kept]
        database.execute("DELETE FROM images WHERE root_id = ?", (root_id,))
        database.execute("DELETE FROM jobs WHERE root_id = ?", (root_id,))
    images.forget(ids)
    for path in paths:
        path.unlink(missing_ok=True)
    return True


def remove_orphans(store: JobStore, now_s: float, *, age_s: float) -> None:
    """Remove files left by a stop between a file and its row, or between a row's end and its file's."""
    database = store.connection()
    for path in store.images_dir.iterdir():
        if _age_s(path, now_s) < age_s:
            continue
        image_id, _, ending = path.name.partition(".")
        if ending.endswith(".kept"):
            query, values = "encodings WHERE image_id = ? AND kind = ?", [image_id, ending.removesuffix(".kept")]
        else:
            query, values = "images WHERE image_id = ?", [image_id]
        if not database.execute(f"SELECT 1 FROM {query}", values).fetchone():
            path.unlink(missing_ok=True)


def _age_s(path: Path, now_s: float) -> float:
    try:
        return now_s - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
