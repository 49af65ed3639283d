"""Sessions: what ends them, and what they are signed with. That pages and routes ask for one is in test_auth.py."""

import json
import time
from pathlib import Path

import pytest

from web.accounts import Accounts
from web.sessions import SESSION_S, Sessions, signing_secret


@pytest.fixture
def accounts(tmp_path: Path) -> Accounts:
    """A file with ann and bob."""
    made = Accounts(tmp_path / "accounts.json")
    for name in ("ann", "bob"):
        made.set_password(name, "correct horse")
    return made


def test_ended_sessions_outlive_a_restart_and_are_forgotten_in_time(
    accounts: Accounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    before, other = Sessions(tmp_path, accounts), Sessions(tmp_path / "other", accounts)
    cookie, kept = before.begin("ann"), before.begin("ann")
    for nothing in ("", "x", other.begin("ann")):
        before.end(nothing)
    before.end(cookie)
    after = Sessions(tmp_path, accounts)
    assert [after.owner_of(one) for one in (cookie, kept, other.begin("ann"))] == [None, "ann", None]
    later_s = time.time() + SESSION_S + 10
    monkeypatch.setattr(time, "time", lambda: later_s)
    assert after.owner_of(kept) is None
    after.end(after.begin("bob"))
    assert list(json.loads((tmp_path / "ended_sessions.json").read_text())) == ["bob"]
    assert (tmp_path / "ended_sessions.json").stat().st_mode & 0o77 == 0
    (tmp_path / "ended_sessions.json").write_text("[1")
    assert Sessions(tmp_path, accounts).owner_of(after.begin("ann")) == "ann"


@pytest.mark.parametrize("left", [b"", b"abc\n", b"0" * 63, b"\xff" * 64])
def test_a_damaged_secret_signs_no_session(tmp_path: Path, left: bytes) -> None:
    """With an empty one everybody could make a session of anybody, since the key was known."""
    first = signing_secret(tmp_path)
    assert signing_secret(tmp_path) == first
    (tmp_path / "session_secret").write_bytes(left)
    made = signing_secret(tmp_path)
    assert len(made) == len(first) == 64 and made != first and signing_secret(tmp_path) == made
