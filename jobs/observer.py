"""What the queue tells those who count its work: every job that ends, every batch that goes to a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class EndedJob:
    """A job that came to its end.

    Attributes:
        state: done, failed or cancelled.
        kind: interactive or batch.
        timings_ms: what it took, by stage; empty unless it is done.
        notes: as clients see them.
        error: the code of what went wrong, empty unless it failed.
    """

    state: str
    kind: str = "interactive"
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[Mapping[str, Any]] = ()
    error: str = ""


class Observer(Protocol):
    """Whoever counts; called by many threads, and quick."""

    def job_ended(self, job: EndedJob) -> None:
        """Count a job."""

    def batch_began(self, size: int) -> None:
        """Count a batch of `size` jobs."""


class NoObserver:
    """Counts nothing."""

    def job_ended(self, job: EndedJob) -> None:
        """Do nothing."""

    def batch_began(self, size: int) -> None:
        """Do nothing."""
