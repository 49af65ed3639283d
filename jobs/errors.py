"""What goes wrong with a job, each with a stable code that routes and the page translate."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# SQLite reports a quota or a file size limit as a failed write, only "no space" as full.
DISK_FULL_SQLITE_CODES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})


class JobError(ValueError):
    """A job or a photo could not be taken or found; `code` is for programs, `params` fill translations in."""

    def __init__(self, code: str, message: str, params: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.params = params or {}

    def as_dict(self) -> dict[str, Any]:
        """Return the error as it is stored with a failed job and sent to clients."""
        return {"error": self.code, "message": self.message, "params": self.params}


class EngineUnavailableError(RuntimeError):
    """The engine can't be reached just now; the job goes back to its place in the queue as if it had not begun."""


def is_disk_full(error: BaseException) -> bool:
    """Tell whether `error` means that no more can be written (no space, quota, file size limit)."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL_ERRNOS
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) in DISK_FULL_SQLITE_CODES
    return False


@contextmanager
def disk_full_as_job_error() -> Iterator[None]:
    """Turn a full disk inside the block into JobError `disk_full`; everything else passes unchanged."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if not is_disk_full(error):
            raise
        raise JobError(
            "disk_full", "The disk of the server is full: nothing was changed. Make room and retry."
        ) from error
