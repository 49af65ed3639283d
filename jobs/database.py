"""The SQLite file of the data folder: connections, transactions, and what is done when it is damaged or gone.

Each thread has its own connection; writers take turns. The file is in WAL mode, where a commit does not wait for the
disk. Knows the tables, but not what their rows mean.
"""

import logging
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from imaging.atomic_write import make_private_folder
from jobs.errors import JobError, storage_as_job_error, storage_unavailable

FILE_NAME = "jobs.sqlite3"
IMAGES_NAME = "images"
LOCK_NAME = "lock"
TRIAL_NAME = "trial"
BUSY_TIMEOUT_S = 30.0
SCHEMA = (
    """CREATE TABLE IF NOT EXISTS images (
    image_id TEXT PRIMARY KEY, root_id TEXT NOT NULL, parent_id TEXT, width INTEGER NOT NULL, height INTEGER NOT NULL,
    format TEXT NOT NULL, name TEXT NOT NULL, notes TEXT NOT NULL, box TEXT, created_s REAL NOT NULL,
    used_s REAL NOT NULL, size_bytes INTEGER NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS images_by_history ON images (root_id)",
    # Whose a history is, where the server has a login. One without a row was made without.
    "CREATE TABLE IF NOT EXISTS owners (root_id TEXT PRIMARY KEY, owner TEXT NOT NULL)",
    """CREATE TRIGGER IF NOT EXISTS owner_of_a_removed_history AFTER DELETE ON images WHEN old.image_id = old.root_id
    BEGIN DELETE FROM owners WHERE root_id = old.root_id; END""",
    # Originals that live as long as one request: what is left of them after a stop is nobody's.
    "CREATE TABLE IF NOT EXISTS one_shots (root_id TEXT PRIMARY KEY)",
    """CREATE TRIGGER IF NOT EXISTS one_shot_that_is_removed AFTER DELETE ON images WHEN old.image_id = old.root_id
    BEGIN DELETE FROM one_shots WHERE root_id = old.root_id; END""",
    """CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, job_id TEXT NOT NULL UNIQUE, request_id TEXT NOT NULL UNIQUE,
    digest TEXT NOT NULL, image_id TEXT NOT NULL, root_id TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL,
    stage TEXT, attempt INTEGER NOT NULL DEFAULT 0, result_id TEXT, timings_ms TEXT NOT NULL DEFAULT '{}',
    notes TEXT NOT NULL DEFAULT '[]', error TEXT, saved TEXT, save_pending INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 1, created_s REAL NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS jobs_by_history ON jobs (root_id)",
    "CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state)",
    # A mask is a row and no file: it comes and goes with its job in one transaction, whatever is killed when.
    "CREATE TABLE IF NOT EXISTS masks (job_id TEXT PRIMARY KEY, packed BLOB NOT NULL)",
    # The name that a result is being written under, so that a stop between the file and the job's row leaves no second.
    "CREATE TABLE IF NOT EXISTS planned_outputs (job_id TEXT PRIMARY KEY, name TEXT NOT NULL)",
    """CREATE TRIGGER IF NOT EXISTS planned_output_of_a_removed_job AFTER DELETE ON jobs
    BEGIN DELETE FROM planned_outputs WHERE job_id = old.job_id; END""",
    """CREATE TABLE IF NOT EXISTS encodings (
    image_id TEXT NOT NULL, kind TEXT NOT NULL, media_type TEXT NOT NULL, extension TEXT NOT NULL, notes TEXT NOT NULL,
    size_bytes INTEGER NOT NULL, made_s REAL NOT NULL, PRIMARY KEY (image_id, kind))""",
    """CREATE TRIGGER IF NOT EXISTS encodings_of_a_removed_image AFTER DELETE ON images
    BEGIN DELETE FROM encodings WHERE image_id = old.image_id; END""",
    """CREATE TRIGGER IF NOT EXISTS mask_of_an_ended_job AFTER UPDATE OF state ON jobs
    WHEN new.state NOT IN ('queued', 'running') BEGIN DELETE FROM masks WHERE job_id = new.job_id; END""",
    """CREATE TRIGGER IF NOT EXISTS mask_of_a_removed_job AFTER DELETE ON jobs
    BEGIN DELETE FROM masks WHERE job_id = old.job_id; END""",
)

log = logging.getLogger("fftlama.jobs")


class FolderLock:
    """The right to use a data folder, which one process has at a time."""

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Args:
            folder: the data folder; made if missing.

        Raises:
            JobError: `data_dir_in_use` with the other process's pid, or `storage_unavailable`.
        """
        self._descriptor: int | None = None
        path = folder / LOCK_NAME
        with storage_as_job_error():
            make_private_folder(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if not _lock(descriptor):
                pid = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
                raise JobError(
                    "data_dir_in_use",
                    f"{folder} is in use by another fftlama (process {pid}). Stop that one first, or choose another"
                    " data_dir.",
                    {"pid": pid},
                )
            with suppress(OSError):  # a full disk: the lock holds without its pid
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the folder free; the end of the process does so too, however it ends."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> bool:
    """Lock an open file for this process; False when another has it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a network folder without locks
        log.warning("the data folder can't be locked (%s): take care that one fftlama uses it at a time", error)
    return True


class Database:
    """One SQLite file with the tables of `SCHEMA`."""

    def __init__(self, folder: Path) -> None:
        """Open the file in `folder`, or make it; one that is damaged is set aside.

        Args:
            folder: an existing folder.

        Raises:
            JobError: `storage_unavailable` or `disk_full` when it cannot be read or written.
        """
        self.folder = folder
        self._path = folder / FILE_NAME
        self._local = threading.local()
        self._writing = threading.Lock()
        try:
            self._check()
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise  # somebody looks into it with another tool; it is not damaged
            self._set_aside(error)
            self._check()

    def connection(self) -> sqlite3.Connection:
        """Return this thread's own connection, for reading; JobError `storage_unavailable` while there is no file."""
        # A connection to a removed file goes on working and loses everything, so it is looked at each time: 2 us.
        try:
            found = self._path.stat()
        except OSError as error:
            self._close()
            if self.folder.is_dir():
                return self._open()
            raise storage_unavailable(error) from error
        if getattr(self._local, "identity", None) != (found.st_dev, found.st_ino):
            self._close()
            return self._open()
        connection: sqlite3.Connection = self._local.connection
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give a connection inside one write transaction: all of it or nothing.

        Yields:
            This thread's connection.

        Raises:
            JobError: `disk_full`, or `storage_unavailable` when the folder is gone or read-only.
        """
        with storage_as_job_error(), self._telling_why():
            connection = self.connection()
            with self._writing:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise

    @contextmanager
    def _telling_why(self) -> Iterator[None]:
        """Try a write where SQLite's failed: the system says whether the disk is full or became read-only."""
        try:
            yield
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_WRITE:
                trial = self.folder / TRIAL_NAME
                try:
                    trial.write_bytes(b"x")
                finally:
                    trial.unlink(missing_ok=True)  # another thread may have tried too
            raise

    def _open(self) -> sqlite3.Connection:
        (self.folder / IMAGES_NAME).mkdir(exist_ok=True)  # a folder that came back empty lacks it too
        connection = sqlite3.connect(self._path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        found = self._path.stat()
        self._local.connection = connection
        self._local.identity = (found.st_dev, found.st_ino)
        with self._writing:
            for statement in SCHEMA:
                connection.execute(statement)
        return connection

    def _close(self) -> None:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        self._local.connection = self._local.identity = None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    def _check(self) -> None:
        """Raise sqlite3.DatabaseError unless the file is whole and writable."""
        with storage_as_job_error():
            found = self.connection().execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            # Columns are read by name later; a file of another program has tables of the same name at most.
            self.connection().execute("SELECT image_id, root_id, used_s, size_bytes FROM images LIMIT 1").fetchone()
            self.connection().execute("SELECT job_id, state, version, save_pending FROM jobs LIMIT 1").fetchone()

    def _set_aside(self, error: Exception) -> None:
        """Move the file and the images that only it knows into a folder of their own, where nothing deletes them."""
        self._close()
        aside = self.folder / f"damaged-{time.strftime('%Y%m%d%H%M%S')}"
        with storage_as_job_error():
            aside.mkdir(exist_ok=True)
            for name in (FILE_NAME, f"{FILE_NAME}-wal", f"{FILE_NAME}-shm", IMAGES_NAME):
                if (self.folder / name).exists():
                    shutil.move(self.folder / name, aside / name)
        log.error(
            "%s is damaged (%s). It was moved to %s with the photos that it knew, and an empty one takes its place."
            " Results in the outputs folder are as they were.", self._path, error, aside,
        )  # fmt: skip
