"""Fetching published weights while the server runs: one download at a time, how far it is, and stopping it.

What may be fetched is `lama.catalogue`'s, never an address that a client names. A download that was stopped keeps what
it has, and the next goes on from there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jobs.errors import JobError
from lama.catalogue import CATALOGUE, DownloadError, fetch
from lama.transfer import Patience, host_of

if TYPE_CHECKING:
    from config import Settings

STALL_S = 10.0  # who waits before a page tries the next mirror sooner than who has left a terminal
State = Literal["running", "stopping", "done", "failed", "cancelled"]

log = logging.getLogger("fftlama.jobs")


def is_offered(settings: Settings) -> bool:
    """Tell whether clients may fetch weights.

    Args:
        settings: `fetch_weights` and `queue` are read; with Celery the weights are chosen where the workers are.

    Returns:
        False where only a command may.
    """
    return settings.fetch_weights == "page" and settings.queue == "local"


class _StoppedError(Exception):
    """The download that runs was told to stop."""


@dataclass
class Download:
    """One download, from the moment it was asked for.

    Attributes:
        name: of the weights.
        size_bytes: of the whole file.
        host: where it comes from.
        done_bytes: what is here, also from earlier downloads.
        state: "stopping" until the connection notices.
        error: why it failed.
    """

    name: str
    size_bytes: int
    host: str
    done_bytes: int = 0
    state: State = "running"
    error: JobError | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return what clients see."""
        return {
            "state": self.state, "done": self.done_bytes, "size": self.size_bytes, "host": self.host,
            "error": self.error and self.error.as_dict(),
        }  # fmt: skip


class WeightsFetch:
    """The downloads of one server."""

    def __init__(self, *, folder: Path, mirrors: str, is_offered: bool, patience: Patience | None = None) -> None:
        """Begin nothing yet.

        Args:
            folder: where weights go.
            mirrors: addresses to try first, as in the settings.
            is_offered: whether clients may fetch at all.
            patience: how long a mirror is waited for.
        """
        self._folder = folder
        self._mirrors = mirrors
        self._is_offered = is_offered
        self._patience = patience or Patience(stall_s=STALL_S)
        self._last: dict[str, Download] = {}
        self._lock = threading.Lock()

    def view(self) -> dict[str, Any]:
        """Return what there is to fetch and how its last download stands; nothing where none is offered."""
        with self._lock:
            weights = [
                {
                    "name": entry.name, "size": entry.size_bytes, "source": self._source(entry.sources[0]),
                    "licence": entry.licence, "photos": entry.photos,
                    "installed": (self._folder / entry.filename).is_file(),
                    "download": (last := self._last.get(entry.name)) and last.as_dict(),
                }
                for entry in CATALOGUE.values()
            ]  # fmt: skip
        return {"offered": self._is_offered, "weights": weights if self._is_offered else []}

    def begin(self, name: str) -> None:
        """Fetch weights unless they are being fetched already.

        Args:
            name: of the catalogue.

        Raises:
            JobError: `forbidden`, `unknown_model`, or `fetch_running` for others.
        """
        self._check(name)
        with self._lock:
            running = next((one for one in self._last.values() if one.state in ("running", "stopping")), None)
            if running and (running.name != name or running.state == "stopping"):
                params = {"name": running.name}
                raise JobError("fetch_running", f"{running.name} is being fetched just now.", params)
            if running:
                return
            entry = CATALOGUE[name]
            download = Download(name, entry.size_bytes, self._source(entry.sources[0]))
            self._last[name] = download
        threading.Thread(target=self._run, args=(download,), name="weights-fetch", daemon=True).start()

    def cancel(self, name: str) -> None:
        """Stop a download that runs; it keeps what it has.

        Args:
            name: of the catalogue.

        Raises:
            JobError: `forbidden` or `unknown_model`.
        """
        self._check(name)
        with self._lock:
            download = self._last.get(name)
            if download and download.state == "running":
                download.state = "stopping"

    def close(self) -> None:
        """Stop whatever runs; a later start of the server can go on with it."""
        for name in CATALOGUE if self._is_offered else ():
            self.cancel(name)

    def _check(self, name: str) -> None:
        if not self._is_offered:
            raise JobError("forbidden", "Whoever runs this server chooses its weights.")
        if name not in CATALOGUE:
            raise JobError("unknown_model", "There is no model of this name here.", {"name": name[:40]})

    def _source(self, url: str) -> str:
        return host_of((self._mirrors.replace(",", " ").split() or [url])[0])

    def _run(self, download: Download) -> None:
        try:
            fetch(
                download.name, folder=self._folder, mirrors=self._mirrors, patience=self._patience,
                on_progress=self._reporter(download),
            )  # fmt: skip
            self._end(download, "done")
            log.info("%s was fetched", download.name)
        except _StoppedError:
            self._end(download, "cancelled")
        except DownloadError as error:
            log.warning("%s", error)
            self._end(download, "failed", _failure(download.name, error.reason.rstrip(".")))
        except Exception:
            log.exception("%s could not be fetched", download.name)
            self._end(download, "failed", _failure(download.name, "something failed in the server; its log says why"))

    def _reporter(self, download: Download) -> Callable[[int, int, str], None]:
        def report(done_bytes: int, size_bytes: int, host: str) -> None:
            with self._lock:
                if download.state == "stopping":
                    raise _StoppedError
                download.done_bytes, download.size_bytes, download.host = done_bytes, size_bytes, host

        return report

    def _end(self, download: Download, state: State, error: JobError | None = None) -> None:
        with self._lock:
            download.state, download.error = state, error


def _failure(name: str, reason: str) -> JobError:
    return JobError("fetch_failed", f"{name} was not fetched: {reason}.", {"name": name, "reason": reason})
