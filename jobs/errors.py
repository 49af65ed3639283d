"""What goes wrong with a job, each with a stable code that routes and the page translate."""

import errno
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

AnyError = TypeVar("AnyError", bound=BaseException)

DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
UNAVAILABLE_ERRNOS = frozenset(
    {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENXIO}
)
# SQLite reports a quota or a file size limit as a failed write, only "no space" as full.
DISK_FULL_SQLITE_CODES = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE})
UNAVAILABLE_SQLITE_CODES = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM}
)
MOST_LOST_WORKERS = 2  # a repair that takes two of them down is not given to a third
PRIMARY_CODE = 0xFF  # the low byte of SQLite's extended codes
# By name: PyTorch's own error can't be imported where PyTorch is not, and of another process only names arrive.
OUT_OF_MEMORY_NAMES = frozenset({"OutOfMemoryError", "MemoryError"})
# What a setting names is not here, or can't be used: a device, a profile, weights.
WRONG_SETTING_NAMES = frozenset({"UnavailableError", "CheckpointError", "DownloadError"})


class JobError(ValueError):
    """A job or an image could not be taken or found; `code` is for programs, `params` fill translations in."""

    def __init__(self, code: str, message: str, params: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.params = params or {}

    def as_dict(self) -> dict[str, Any]:
        """Return the error as it is stored with a failed job and sent to clients."""
        return {"error": self.code, "message": self.message, "params": self.params}


def without_frames(error: AnyError) -> AnyError:
    """Have an error, and those that led to it, forget the functions they passed through, which hold a whole file.

    The thread's future and the error in it refer to each other (anyio 4), so all of it would stay until Python looks
    for garbage, which a quiet server rarely does: 30 refused photos of 95 MiB were 3 GiB.

    Args:
        error: one that is answered now; modified.

    Returns:
        The same.
    """
    led: BaseException | None = error
    gone_through: list[BaseException] = []  # an error raised again where another was made of it leads to itself
    while led is not None and led not in gone_through:
        gone_through.append(led)
        led.__traceback__ = None
        led = led.__cause__ or led.__context__
    return error


class EngineUnavailableError(RuntimeError):
    """The engine can't be reached just now; the job goes back to its place in the queue as if it had not begun."""


def workers_lost(count: int) -> JobError:
    """Return the error of a repair that `count` processes ended over, of whatever kind they are."""
    sentence = f"{count} workers were lost while they computed this repair, so it was given up."
    return JobError("workers_lost", sentence, {"count": count})


def kinds_of(error: BaseException) -> list[str]:
    """Return the names of an error's class and of all that it is derived from."""
    return [kind.__name__ for kind in type(error).__mro__]


def is_out_of_memory(kinds: Iterable[str]) -> bool:
    """Tell whether an error means that memory did not suffice; `kinds` are from `kinds_of`, also of another process."""
    return not OUT_OF_MEMORY_NAMES.isdisjoint(kinds)


def is_wrong_setting(kinds: Iterable[str]) -> bool:
    """Tell whether an error means that a setting names what can't be used here; `kinds` as of `is_out_of_memory`."""
    return not WRONG_SETTING_NAMES.isdisjoint(kinds)


def is_disk_full(error: BaseException) -> bool:
    """Tell whether `error` means that no more can be written (no space, quota, file size limit)."""
    if isinstance(error, OSError):
        return error.errno in DISK_FULL_ERRNOS
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", None) in DISK_FULL_SQLITE_CODES
    return False


def is_unavailable(error: BaseException) -> bool:
    """Tell whether `error` means that a folder is gone, read-only or unreadable."""
    if isinstance(error, OSError):
        return error.errno in UNAVAILABLE_ERRNOS
    if isinstance(error, sqlite3.Error):
        return (getattr(error, "sqlite_errorcode", None) or 0) & PRIMARY_CODE in UNAVAILABLE_SQLITE_CODES
    return False


def storage_unavailable(error: BaseException) -> JobError:
    """Return the error for a data folder that cannot be used at the moment."""
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return JobError(
        "storage_unavailable",
        f"The server's data folder cannot be used ({reason}): nothing was changed. Retry when it is back.",
        {"reason": reason},
    )


@contextmanager
def storage_as_job_error() -> Iterator[None]:
    """Turn a full disk and a folder that is gone or read-only into JobErrors; everything else passes unchanged.

    Raises:
        JobError: `disk_full` or `storage_unavailable`.
    """
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if is_disk_full(error):
            raise JobError(
                "disk_full", "The disk of the server is full: nothing was changed. Make room and retry."
            ) from error
        if is_unavailable(error):
            raise storage_unavailable(error) from error
        raise
