"""Work for a client whose connection is watched: it stops when nobody waits for its answer any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from fastapi import Request

from jobs.errors import JobError

Answer = TypeVar("Answer")


async def work_while_there(
    request: Request, work: Callable[[], Answer], *, limiter: anyio.CapacityLimiter, on_leave: Callable[[], object]
) -> Answer:
    """Work in a thread for a request whose body has been read.

    Args:
        request: whose connection is watched.
        work: what is to be done.
        limiter: the threads that may do it at once; a client that leaves before its turn leaves the line.
        on_leave: called in a thread when the client has left; work that has begun ends when it wants.

    Returns:
        What the work returns.

    Raises:
        JobError: `interrupted` when the client left before its turn.
        Exception: what the work raises.
    """
    failure: Exception | None = None
    results: list[Answer] = []
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            await anyio.to_thread.run_sync(on_leave)
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        try:
            results.append(await anyio.to_thread.run_sync(work, limiter=limiter))
        except Exception as error:
            failure = error  # raised below: a task group would wrap it
        tasks.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not results:
        raise JobError("interrupted", "The client is gone.")
    return results[0]
