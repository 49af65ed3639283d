"""What a command ends with when it can't do what was asked: a sentence and an exit code."""

import sys

EXIT_FAILED, EXIT_USAGE, EXIT_STOPPED = 1, 2, 130


class CommandError(Exception):
    """A command can't do what was asked; the text is the sentence for the person, `code` the exit code."""

    def __init__(self, text: str, code: int = EXIT_FAILED) -> None:
        super().__init__(text)
        self.code = code


def sentence_of(error: Exception) -> str:
    """Return one line for people about what went wrong with a file."""
    from imaging.errors import ImagingError  # with NumPy, which a command line that is refused does not need

    if isinstance(error, ImagingError):
        return error.message
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.strerror:  # of a write, as to a full disk
        return error.strerror
    return (str(error) or type(error).__name__).splitlines()[0]


def printable(text: str) -> str:
    """Return text on one line, without what a terminal would obey."""
    shown = "".join(c if c.isprintable() or "\ud800" <= c <= "\udfff" else "\N{REPLACEMENT CHARACTER}" for c in text)
    encoding = sys.stderr.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)
