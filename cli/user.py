"""`fftlama user`: accounts and API keys of a server with a login."""

from __future__ import annotations

import argparse
import getpass
import sys

from cli.errors import EXIT_USAGE, CommandError
from config import Settings


def run_user(settings: Settings, chosen: argparse.Namespace) -> int:
    """Add, change, list or remove accounts in the setting `auth_file`.

    The password is asked for on a terminal, else read as one line from standard input.

    Args:
        settings: `auth_file` is read.
        chosen: `action` and `name`.

    Returns:
        the exit code, 0.

    Raises:
        CommandError: What was asked for can't be done; the exit code is 2.
    """
    from web.accounts import AccountError, Accounts

    if settings.auth_file is None:
        raise CommandError("name the file of accounts first: --auth-file accounts.json", EXIT_USAGE)
    if chosen.action != "list" and not chosen.name:
        raise CommandError(f"name the person: fftlama user {chosen.action} NAME", EXIT_USAGE)
    accounts = Accounts(settings.auth_file)
    try:
        if chosen.action == "list":
            for account in accounts.all().values():
                print(f"{account.name}\t{len(account.key_hashes)} API keys")
        elif chosen.action == "add":
            accounts.set_password(chosen.name, _ask_password())
            print(f"{chosen.name} can log in.")
        elif chosen.action == "key":
            print(accounts.add_key(chosen.name))
            print("This key is shown once. Send it as: Authorization: Bearer KEY", file=sys.stderr)
        else:
            accounts.remove(chosen.name)
            print(f"{chosen.name} was removed.")
    except (AccountError, OSError) as error:
        raise CommandError(str(error), EXIT_USAGE) from error
    return 0


def _ask_password() -> str:
    if not sys.stdin.isatty():
        # Not by the locale's encoding: in C's, letters that are not ASCII are none. Windows puts a mark before UTF-8.
        return sys.stdin.buffer.readline().decode("utf-8-sig", "surrogateescape").rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if password != getpass.getpass("Once more: "):
        from web.accounts import AccountError

        raise AccountError("the two passwords differ")
    return password
