"""Note: a sentence for a person with a stable code, from anywhere in the program to whoever reads it."""

from __future__ import annotations

from typing import Any


class Note(str):
    """A sentence for people with a stable `code` for programs and the `params` that translations fill in."""

    code: str
    params: dict[str, Any]

    def __new__(cls, sentence: str, /, *, code: str, **params: Any) -> Note:
        """Make a note. It must be `__new__`, because a str is complete before `__init__` runs."""
        note = super().__new__(cls, sentence)
        note.code = code
        note.params = params
        return note

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (str(self),), {"code": self.code, **self.params}
