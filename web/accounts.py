"""The file of people and their keys: names, argon2 hashes of passwords, hashes of API keys. Knows no HTTP.

The file is JSON, readable by its owner only: {"users": {NAME: {"password": HASH, "keys": {ID: SHA-256}}}}. It is read
again when it changes, so that `fftlama user add` takes effect at once. An API key is 256 random bits, so a fast hash of
it is enough; a password is not, so it has argon2id with the library's defaults.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from imaging.atomic_write import PRIVATE_FILE, write_atomically

NAME_PATTERN = re.compile(r"[\w.@-]{1,64}")
LEAST_PASSWORD_LENGTH = 8
MOST_PASSWORD_LENGTH = 1024
KEY_PREFIX = "fft_"

log = logging.getLogger("fftlama.web")


class AccountError(ValueError):
    """A name or password is not allowed, or the file of accounts can't be read; the text says what and why."""


@dataclass(frozen=True)
class Account:
    """One person: the name, the password's hash (empty: no password was set), and API keys' hashes by their id."""

    name: str
    password_hash: str
    key_hashes: dict[str, str]


class Accounts:
    """The accounts of one file.

    Args:
        path: where the file is or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hasher = PasswordHasher()
        self._lock = threading.Lock()
        self._read_of: tuple[int, int] | None = None
        self._accounts: dict[str, Account] = {}
        # Checked when the name is unknown, so that the answer takes as long as for a wrong password.
        self._nobodys_hash = self._hasher.hash(secrets.token_urlsafe())

    def all(self) -> dict[str, Account]:
        """Read the accounts' file.

        Returns:
            every account by its name.

        Raises:
            AccountError: the file is there and can't be read.
        """
        with self._lock:
            try:
                stat = self.path.stat()
            except FileNotFoundError:
                return {}
            state = (stat.st_mtime_ns, stat.st_size)
            if state != self._read_of:
                self._accounts, self._read_of = read_accounts(self.path), state
            return self._accounts

    def has_password(self, name: str, password: str) -> bool:
        """Tell whether a password is right; takes a tenth of a second on purpose."""
        account = self.all().get(name)
        hashed = account.password_hash if account and account.password_hash else self._nobodys_hash
        try:
            return self._hasher.verify(hashed, password[:MOST_PASSWORD_LENGTH]) and account is not None
        except (VerificationError, InvalidHashError):
            return False

    def owner_of_key(self, key: str) -> str | None:
        """Return whose API key this is, or None."""
        hashed = hashlib.sha256(key.encode()).hexdigest()
        for account in self.all().values():
            if any(hmac.compare_digest(hashed, known) for known in account.key_hashes.values()):
                return account.name
        return None

    def fingerprint(self, name: str) -> str | None:
        """Return what a session is tied to: it changes with the password. None when there is no such account."""
        account = self.all().get(name)
        return hashlib.sha256(account.password_hash.encode()).hexdigest()[:16] if account else None

    def set_password(self, name: str, password: str) -> None:
        """Add an account, or change its password.

        Args:
            name: of the account.
            password: in the clear; only its salted hash is kept.

        Raises:
            AccountError: the name or the password is not allowed.
        """
        if not NAME_PATTERN.fullmatch(name):
            raise AccountError(f"{name!r} is no name: letters, digits, dot, dash, underscore and @, at most 64")
        if not LEAST_PASSWORD_LENGTH <= len(password) <= MOST_PASSWORD_LENGTH:
            raise AccountError(f"a password has {LEAST_PASSWORD_LENGTH} to {MOST_PASSWORD_LENGTH} characters")
        try:
            hashed = self._hasher.hash(password)
        except UnicodeEncodeError:
            raise AccountError("a password is text in UTF-8, as a browser sends it") from None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._changing() as accounts:
            known = accounts.get(name)
            accounts[name] = Account(name, hashed, known.key_hashes if known else {})

    def add_key(self, name: str) -> str:
        """Make a new API key for an account.

        Args:
            name: of the account.

        Returns:
            the key. Only its hash is kept, so it can't be shown again.

        Raises:
            AccountError: there is no such account.
        """
        with self._changing() as accounts:
            known = accounts.get(name)
            if known is None:
                raise AccountError(f"there is no account {name!r}; add it with `fftlama user add {name}`")
            key = KEY_PREFIX + secrets.token_urlsafe(32)
            hashes = {**known.key_hashes, key[len(KEY_PREFIX) :][:6]: hashlib.sha256(key.encode()).hexdigest()}
            accounts[name] = Account(name, known.password_hash, hashes)
        return key

    def remove(self, name: str) -> None:
        """Remove an account with its keys and sessions.

        Args:
            name: of the account.

        Raises:
            AccountError: there is no such account.
        """
        with self._changing() as accounts:
            if name not in accounts:
                raise AccountError(f"there is no account {name!r}")
            del accounts[name]

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Account]]:
        """Give every account by its name, to be changed; they are written afterwards. Who comes meanwhile waits."""
        with _locked(self.path.parent) if self.path.parent.is_dir() else nullcontext():
            accounts = read_accounts(self.path) if self.path.exists() else {}
            yield accounts
            users = {one.name: {"password": one.password_hash, "keys": one.key_hashes} for one in accounts.values()}
            write_atomically(self.path, json.dumps({"users": users}, indent=1).encode(), mode=PRIVATE_FILE)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which leaves no file behind; where there are no locks, nothing is held."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network folder
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class KeptAccounts(Accounts):
    """The accounts of a server that runs: those read last count on while the file can't be read, such as half written.

    They are nobody where it could never be read. The log says so.
    """

    def all(self) -> dict[str, Account]:
        """Return every account by its name; raises nothing."""
        try:
            return super().all()
        except (AccountError, OSError) as error:
            log.warning("Those who could log in before still can, and nobody else: %s", error)
            return self._accounts


def read_accounts(path: Path) -> dict[str, Account]:
    """Read a file of accounts.

    Args:
        path: of the file.

    Returns:
        Every account by its name.

    Raises:
        AccountError: the file can't be read, or is none of accounts.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        return {
            str(name): Account(str(name), str(user.get("password", "")), dict(user.get("keys", {})))
            for name, user in content["users"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AccountError(f"{path} can't be read as a file of accounts: {error}") from error
