"""Passwords that are hashed in no time, by the same function with less work: nobody guesses those of the tests.

A hash of the program takes a fifth of a second and 64 MiB, and every server with a login makes one when it starts.
`tests/web/test_auth.py` looks at what the program's own hashes cost.
"""

import time
from typing import Literal

import argon2

SLOW_PASSWORD, SLOW_S = "a guess that takes as long as by the program's own hash", 0.2


class QuickPasswordHasher(argon2.PasswordHasher):
    """The library's, with the least memory and one pass over it."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:
        """Compare, `SLOW_PASSWORD` slowly."""
        if password == SLOW_PASSWORD:
            time.sleep(SLOW_S)
        return super().verify(hash, password)


def hash_quickly() -> None:
    """Have the accounts of this process hash so from now on."""
    import web.accounts

    web.accounts.PasswordHasher = QuickPasswordHasher  # type: ignore[misc,assignment]
