"""A server's process while `hostile.py` attacks it: what each request costs, what counts as a fault, and the table."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.serving import RunningServer

CPU_BAR_S = 2.0
MEMORY_BAR_MIB = 64.0
CLOSED = 0
DESCRIPTOR_BAR = 10
WARM_UP = 500  # files or requests, before memory is looked at first
TOLD_BUSY = {503, 504, 507}  # refusals that say when to come again


@dataclass
class Row:
    """What came of one kind of file or request."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    errors_500: int = 0
    unanswered: int = 0
    over_cpu: int = 0
    most_cpu_s: float = 0.0
    undocumented: int = 0

    def add(self, other: Row) -> None:
        """Count what another row counted too."""
        for name in ("sent", "statuses", "errors_500", "unanswered", "over_cpu", "undocumented"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.most_cpu_s = max(self.most_cpu_s, other.most_cpu_s)


@dataclass
class Watch:
    """A server's process while it is attacked: what each request costs, and what was found."""

    server: RunningServer
    rows: dict[str, Row] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    start: dict[str, float] = field(default_factory=dict)
    end: dict[str, float] = field(default_factory=dict)
    tracebacks: int = 0  # in the log
    until_s: float = float("inf")  # by time.monotonic()

    @property
    def pid(self) -> int:
        assert self.server.process is not None
        return self.server.process.pid

    def cpu_s(self) -> float:
        """Return the CPU time of the process and of its ended children, in seconds."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")

    def holds(self) -> dict[str, float]:
        """Return resident memory in MiB and the number of open descriptors."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1])
        memory_mib = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
        return {"memory_mib": round(memory_mib, 1), "descriptors": len(list(Path(f"/proc/{self.pid}/fd").iterdir()))}

    def judge(
        self, kind: str, name: str, send: Callable[[], tuple[int | None, str]], *, may_be_cut: bool = False
    ) -> None:
        """Send one and count what comes of it.

        Args:
            kind: its row.
            name: what a fault is called.
            send: returns the status (None = no answer in time, `CLOSED` = closed without one) and what the document
                has against the answer.
            may_be_cut: whether closing without an answer is right, because the request never ended.
        """
        row = self.rows.setdefault(kind, Row())
        before_s = self.cpu_s()
        status, objection = send()
        cpu_s = self.cpu_s() - before_s
        row.sent += 1
        row.most_cpu_s = max(row.most_cpu_s, cpu_s)
        if status in (None, CLOSED):
            is_lost = status is None or not may_be_cut
            row.unanswered += is_lost
            self._note(is_lost, kind, name, "no answer in time" if status is None else "closed without an answer")
        else:
            row.statuses[status] += 1
            is_error = status >= 500 and status not in TOLD_BUSY
            row.errors_500 += is_error
            self._note(is_error, kind, name, str(status))
        row.over_cpu += cpu_s > CPU_BAR_S
        self._note(cpu_s > CPU_BAR_S, kind, name, f"{cpu_s:.1f} s of CPU")
        row.undocumented += bool(objection)
        self._note(bool(objection), kind, name, objection)

    def _note(self, is_fault: bool, kind: str, name: str, what: str) -> None:
        if is_fault:
            self.faults.append(f"{kind}: {name}: {what}"[:600])
            print(self.faults[-1], file=sys.stderr, flush=True)

    def is_sound(self) -> bool:
        """Whether every bar is met."""
        bad = any(
            row.errors_500 or row.unanswered or row.over_cpu or row.undocumented for row in self.rows.values()
        )  # fmt: skip
        grown_mib = self.end["memory_mib"] - self.start["memory_mib"]
        grown = grown_mib > MEMORY_BAR_MIB or self.end["descriptors"] - self.start["descriptors"] > DESCRIPTOR_BAR
        return not (bad or grown or self.tracebacks)


def table(watch: Watch) -> str:
    """Return what was found as Markdown."""
    lines = [
        "| kind | sent | 2xx | 4xx | 503, 504, 507 | 500 | no answer | over 2 s CPU | most CPU s | not as documented |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, row in watch.rows.items():
        counts = [sum(n for status, n in row.statuses.items() if status // 100 == part) for part in (2, 4)]
        busy = sum(n for status, n in row.statuses.items() if status in TOLD_BUSY)
        lines.append(
            f"| {kind} | {row.sent} | {counts[0]} | {counts[1]} | {busy} | {row.errors_500} | {row.unanswered} "
            f"| {row.over_cpu} | {row.most_cpu_s:.2f} | {row.undocumented} |"
        )
    start, end = watch.start, watch.end
    lines += [
        "",
        f"{sum(row.sent for row in watch.rows.values())} sent. Memory {start['memory_mib']:.0f} MiB after the first "
        f"{WARM_UP}, {end['memory_mib']:.0f} MiB at the end; descriptors {start['descriptors']:.0f} and "
        f"{end['descriptors']:.0f}. Tracebacks in the log: {watch.tracebacks}.",
    ]
    return "\n".join(lines)
