"""Whether the caller of `/repair` still waits: a call that was cancelled, or whose client is gone, cancels its job.

Gradio takes such a call off its own line, but runs a function that has begun to its end, and every call has begun: the
line is the job queue's. So the call is looked at while its job waits or runs. Knows Gradio 6.31's queue.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gradio as gr
from gradio.context import LocalContext

LOOK_S = 0.5


def watched_call(page: gr.Blocks, request: gr.Request | None) -> Callable[[], bool]:
    """Return what tells whether the call that runs now is still waited for.

    Args:
        page: the Blocks it belongs to.
        request: Gradio's request of the call.

    Returns:
        A function for any thread; True where a call has no event, as one from Python has none.
    """
    event_id = LocalContext.event_id.get(None)
    session = getattr(request, "session_hash", None)
    line = page._queue

    def is_waited_for() -> bool:
        if event_id is None or session is None:
            return True
        # A cancelled call's end has been told to its client; one whose client is gone is marked.
        running = [event for calls in list(line.active_jobs) if calls for event in list(calls)]
        is_marked = any(event._id == event_id and not event.alive for event in running)
        return not is_marked and event_id in line.pending_event_ids_session.get(session, ())

    return is_waited_for


@contextmanager
def cancel_when_left(is_waited_for: Callable[[], bool], cancel: Callable[[], object]) -> Iterator[None]:
    """Call `cancel` once from another thread when nobody waits any more, while the block runs.

    Args:
        is_waited_for: asked every half second.
        cancel: stops what the block does.
    """
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(LOOK_S):
            if not is_waited_for():
                cancel()
                return

    watcher = threading.Thread(target=look, name="gradio-call", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
