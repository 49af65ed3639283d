"""Who a request comes from: set by the web gate, read where photos and jobs are kept and where they wait.

The value travels with the request's context into the threads that serve it. Code that runs for nobody in particular
(a worker, clean-up, a script) sees `NOBODY`, which may see everything.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Client:
    """Whoever asks.

    Attributes:
        owner: name of the person who is logged in; None without login, and then photos belong to everybody.
        key: what limits and the order of the queue go by: the person, else the address.
    """

    owner: str | None = None
    key: str = ""


NOBODY = Client()
current_client: ContextVar[Client] = ContextVar("current_client", default=NOBODY)
