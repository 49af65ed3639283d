"""Note: a sentence for a person with a stable code, from anywhere in the program to whoever reads it."""

from __future__ import annotations

from collections.abc import Mapping
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


def note_as_dict(note: Note) -> dict[str, Any]:
    """Return a note as it is stored, and sent to clients and between processes."""
    return {"code": note.code, "message": str(note), "params": note.params}


def note_from_dict(value: Mapping[str, Any]) -> Note:
    """Return the note that `note_as_dict` wrote."""
    return Note(value["message"], code=value["code"], **value["params"])
