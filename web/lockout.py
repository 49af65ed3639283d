"""How long one who guessed wrong passwords has to wait. Knows no accounts and no HTTP."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict

GUESSES = 5  # wrong passwords for one name from one address before it is locked out
LOCKED_S = 60.0  # doubles with every further wrong guess
MOST_LOCKED_S = 3600.0
GUESSERS_KEPT = 10_000


def place_of(address: str) -> str:
    """Return whom an address belongs to: of IPv6 its /64, in which one machine has as many addresses as it likes."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:  # of a socket that has none
        return address
    if number.version == 4:
        return address
    return str(number.ipv4_mapped or ipaddress.IPv6Network((int(number), 64), strict=False))


class Lockout:
    """Counts wrong guesses by name and address, and says how long to wait."""

    def __init__(self) -> None:
        self._guesses: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()

    def wait_s(self, name: str, address: str) -> float:
        """Return how many seconds must pass before the next guess; 0 when it may be made."""
        count, last_s = self._guesses.get((name, address), (0, 0.0))
        if count < GUESSES:
            return 0.0
        locked_s = min(MOST_LOCKED_S, LOCKED_S * 2.0 ** min(count - GUESSES, 20))
        return max(0.0, last_s + locked_s - time.monotonic())

    def count(self, name: str, address: str) -> None:
        """Count a wrong guess."""
        count, _ = self._guesses.pop((name, address), (0, 0.0))
        self._guesses[name, address] = (count + 1, time.monotonic())
        while len(self._guesses) > GUESSERS_KEPT:
            self._guesses.popitem(last=False)

    def forget(self, name: str, address: str) -> None:
        """Forget the guesses of somebody who came in."""
        self._guesses.pop((name, address), None)
