"""Who is logged in: signed cookies, and those that were ended before their time. Knows no HTTP.

A cookie holds a name, what changes with the password, and a number of its own, by which logging out ends it everywhere,
a copy that somebody took included.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import threading
import time
from contextlib import suppress
from pathlib import Path

from itsdangerous import BadSignature, URLSafeTimedSerializer

from imaging.atomic_write import PRIVATE_FILE, make_private_folder, write_atomically
from web.accounts import Accounts

SESSION_S = 7 * 24 * 3600
SECRET_PATTERN = re.compile(rb"[0-9a-f]{64}")
SECRET_NAME, ENDED_NAME = "session_secret", "ended_sessions.json"  # in the data folder
MOST_ENDED = 1000  # of one person; the oldest are forgotten

log = logging.getLogger("fftlama.web")


class Sessions:
    """The sessions of a server; those that were ended outlive its restart."""

    def __init__(self, data_dir: Path, accounts: Accounts) -> None:
        """Read what was ended before, and make the secret where there is none.

        Args:
            data_dir: the data folder, made if it is missing.
            accounts: whose sessions they are.

        Raises:
            OSError: the secret can't be written or read.
        """
        self._accounts = accounts
        self._signer = URLSafeTimedSerializer(signing_secret(data_dir), salt="session")
        self._path = data_dir / ENDED_NAME
        self._lock = threading.Lock()
        self._ended = _read_ended(self._path)

    def begin(self, name: str) -> str:
        """Return a new session's cookie for somebody who gave the right password."""
        return self._signer.dumps([name, self._accounts.fingerprint(name), secrets.token_urlsafe(9)])

    def owner_of(self, cookie: str) -> str | None:
        """Return whose session a cookie is; None for none, one that was ended, and one of another password."""
        if (told := self._told(cookie)) is None:
            return None
        name, fingerprint, number = told
        if number in self._ended.get(name, {}):
            return None
        return name if fingerprint == self._accounts.fingerprint(name) else None

    def end(self, cookie: str) -> None:
        """End a session; nothing happens for a cookie that is none. A full disk is in the log."""
        if self.owner_of(cookie) is None or (told := self._told(cookie)) is None:
            return
        name, _, number = told
        with self._lock:
            now_s = time.time()
            ended: dict[str, dict[str, float]] = {}
            for person, numbers in self._ended.items():
                if kept := {one: end_s for one, end_s in numbers.items() if end_s > now_s - SESSION_S}:
                    ended[person] = kept
            numbers = {**ended.get(name, {}), number: now_s}
            ended[name] = dict(sorted(numbers.items(), key=lambda item: item[1])[-MOST_ENDED:])
            self._ended = ended
            try:
                write_atomically(self._path, json.dumps(ended).encode(), mode=PRIVATE_FILE)
            except OSError as error:
                log.warning("A session that was ended would go on after a restart: %s", error)

    def _told(self, cookie: str) -> tuple[str, str, str] | None:
        """Return name, fingerprint and number of a cookie that was made here and is not too old."""
        try:
            name, fingerprint, number = self._signer.loads(cookie, max_age=SESSION_S)
        except (BadSignature, ValueError, TypeError):
            return None
        return name, fingerprint, number


def signing_secret(data_dir: Path) -> str:
    """Return the secret that sessions are signed with; made once, so sessions outlive a restart.

    Args:
        data_dir: the data folder, made if it is missing.

    Returns:
        Hexadecimal digits.

    Raises:
        OSError: it can't be written or read.
    """
    path = data_dir / SECRET_NAME
    with suppress(FileNotFoundError):
        if SECRET_PATTERN.fullmatch(kept := path.read_bytes()):
            return kept.decode()
        # With what is left in a file that was cut, or nothing, everybody could sign a session.
        log.warning("%s is damaged and made anew, so everybody has to log in again", path.name)
    secret = hashlib.sha256(secrets.token_bytes(64)).hexdigest()
    make_private_folder(data_dir)
    write_atomically(path, secret.encode(), mode=PRIVATE_FILE)
    return secret


def _read_ended(path: Path) -> dict[str, dict[str, float]]:
    """Return when which numbers of whom were ended, seconds since 1970."""
    try:
        people = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): {str(number): float(end_s) for number, end_s in numbers.items()}
            for name, numbers in people.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("Sessions that were ended before this start may go on: %s cannot be read: %s", path, error)
        return {}
