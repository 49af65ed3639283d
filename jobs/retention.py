"""Clean-up of the data folder: by age, by total size, and files that no row knows.

Families go as a whole (a round without its photo is worthless), least recently used first, and never one that a waiting
or running job or an unfinished save needs. The outputs folder belongs to the people and is never touched.
"""

import logging
import time
from pathlib import Path

from jobs.store import LIVE, JobStore

DAY_S = 86_400.0
MIB = 1 << 20
ORPHAN_AGE_S = 3600.0  # an upload's file is there a moment before its row

log = logging.getLogger("fftlama.jobs")


def clean_up(store: JobStore, *, keep_days: float, keep_mib: float, now_s: float | None = None) -> int:
    """Remove histories unused for `keep_days`, then the oldest until all take `keep_mib` at most; return how many."""
    now_s = time.time() if now_s is None else now_s
    histories = (
        store.connection()
        .execute(
            "SELECT root_id, MAX(used_s) AS used_s, SUM(size_bytes) AS size_bytes FROM images"
            f" GROUP BY root_id HAVING root_id NOT IN (SELECT root_id FROM jobs WHERE {LIVE}) ORDER BY 2"
        )
        .fetchall()
    )
    total_bytes = store.connection().execute("SELECT COALESCE(SUM(size_bytes), 0) AS n FROM images").fetchone()["n"]
    removed = 0
    for history in histories:
        too_old = now_s - history["used_s"] > keep_days * DAY_S
        if not too_old and total_bytes <= keep_mib * MIB:
            break
        if remove_history(store, history["root_id"]):
            total_bytes -= history["size_bytes"]
            removed += 1
    _remove_orphans(store, now_s)
    if removed:
        log.info("clean-up: removed %d photos with their rounds", removed)
    return removed


def remove_history(store: JobStore, root_id: str) -> bool:
    """Remove a photo, its rounds and their jobs; False when a live job needs them."""
    with store.transaction() as database:
        if database.execute(f"SELECT 1 FROM jobs WHERE root_id = ? AND ({LIVE})", (root_id,)).fetchone():
            return False
        images = database.execute("SELECT image_id FROM images WHERE root_id = ?", (root_id,)).fetchall()
        jobs = database.execute("SELECT job_id FROM jobs WHERE root_id = ?", (root_id,)).fetchall()
        database.execute("DELETE FROM images WHERE root_id = ?", (root_id,))
        database.execute("DELETE FROM jobs WHERE root_id = ?", (root_id,))
    for row in images:
        for path in (store.photo_path, store.patch_path, store.view_path):
            path(row["image_id"]).unlink(missing_ok=True)
    for row in jobs:
        store.mask_path(row["job_id"]).unlink(missing_ok=True)
    return True


def _remove_orphans(store: JobStore, now_s: float) -> None:
    """Remove files left by a stop between a file and its row, or between a row's end and its file's."""
    database = store.connection()
    for folder, table, column in ((store.images_dir, "images", "image_id"), (store.masks_dir, "jobs", "job_id")):
        for path in folder.iterdir():
            if _age_s(path, now_s) < ORPHAN_AGE_S:
                continue
            known = database.execute(f"SELECT 1 FROM {table} WHERE {column} = ?", (path.name.split(".")[0],)).fetchone()
            if not known:
                path.unlink(missing_ok=True)


def _age_s(path: Path, now_s: float) -> float:
    try:
        return now_s - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
