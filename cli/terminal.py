"""Progress on a terminal: one line that is drawn over, or plain lines when nobody is looking."""

import math
import shutil
import time
from typing import TextIO

BAR_CELLS = 24
PLAIN_STEP = 0.1  # without a terminal a line for every tenth is enough


class ProgressLine:
    """A progress display on `stream` (stderr, so that output can be piped): a bar on a terminal, else plain lines."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn_over = stream.isatty()
        self._next_plain = 0.0
        self._started_s = time.monotonic()

    def show(self, fraction: float, text: str) -> None:
        """Show how far things are, 0 to 1, with a few words; the time left is worked out from the time so far."""
        fraction = min(max(fraction, 0.0), 1.0)
        if not self._drawn_over:
            if fraction >= self._next_plain:
                self._next_plain = min(fraction + PLAIN_STEP, 1.0) if fraction < 1 else math.inf
                self._write(f"{fraction:4.0%} {printable(text)}\n")
            return
        cells = round(fraction * BAR_CELLS)
        line = f"{'█' * cells}{'░' * (BAR_CELLS - cells)} {fraction:4.0%} {printable(text)}{self._time_left(fraction)}"
        self._write(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}")

    def say(self, sentence: str) -> None:
        """Write a line that stays, above the bar."""
        sentence = printable(sentence)
        self._write(f"\r\x1b[2K{sentence}\n" if self._drawn_over else f"{sentence}\n")

    def close(self) -> None:
        """Take the bar away."""
        if self._drawn_over:
            self._write("\r\x1b[2K")

    def _time_left(self, fraction: float) -> str:
        elapsed_s = time.monotonic() - self._started_s
        if fraction in (0.0, 1.0) or elapsed_s < 1:
            return ""
        return f", {spell_duration(elapsed_s * (1 - fraction) / fraction)} left"

    def _write(self, text: str) -> None:
        # A file's name may hold anything: bytes that are no text in any language, and what a terminal obeys.
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        self._stream.flush()


def printable(text: str) -> str:
    """Return text on one line, without what a terminal would obey."""
    return "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else "�" for c in text)


def spell_duration(seconds: float) -> str:
    """Return a duration in the unit that suits it: "0.4 s", "12 s", "3 min 5 s", "2 h 1 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def spell_mib(size_bytes: int) -> str:
    """Return a size in MiB for people: "196 MiB", "0.3 MiB"."""
    mib = size_bytes / 2**20
    return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
