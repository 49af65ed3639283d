"""The process that one card's engine has for itself: answers `card_run.py`, which starts it, until that is gone.

A pipe for control says what to load, changes the weights and, by its end, ends this process, however the other one
ended. Each lane is a pipe with memory beside it, and has one repair at a time; messages are JSON. Knows no queue.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from jobs.errors import kinds_of
from jobs.shared_arrays import SharedArrays
from jobs.windows import request_from
from notices import note_as_dict

log = logging.getLogger("fftlama.card")


class _StoppedError(Exception):
    """Nobody waits for this repair any more."""


def send(pipe: Connection, message: dict[str, Any]) -> None:
    """Send a message; OSError when the other process is gone."""
    pipe.send_bytes(json.dumps(message).encode())


def receive(pipe: Connection) -> dict[str, Any]:
    """Wait for a message; EOFError or OSError when the other process is gone."""
    message: dict[str, Any] = json.loads(pipe.recv_bytes())
    return message


def main(arguments: Sequence[str]) -> None:
    """Serve until the other process is gone.

    Args:
        arguments: numbers of open files: the pipe for control, then pipe and memory of each lane.
    """
    # Both are for the process that started this one: it lets what runs come to an end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    faulthandler.enable()
    control_number, *lane_numbers = map(int, arguments)
    control = Connection(control_number)
    lanes = [
        (Connection(pipe), SharedArrays(memory))
        for pipe, memory in zip(lane_numbers[::2], lane_numbers[1::2], strict=True)
    ]
    asked = receive(control)
    loaded: list[Any] = []
    threading.Thread(target=_obey, args=(control, loaded), name="control", daemon=True).start()
    try:
        module, _, name = asked["loader"].partition(":")
        engine = getattr(importlib.import_module(module), name)(**asked["arguments"])
    except Exception as error:
        send(control, {"kind": "refused", "type": type(error).__name__, "message": str(error)})
        return
    loaded.append(engine)
    threads = [threading.Thread(target=_serve, args=(engine, *lane), name="lane", daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    profile = getattr(engine, "profile", None)
    facts = {"max_batch": getattr(profile, "max_batch", 1), "buckets_px": list(getattr(profile, "buckets_px", ()))}
    send(control, {"kind": "ready", "described": engine.describe(), **facts})
    for thread in threads:
        thread.join()


def _obey(control: Connection, loaded: list[Any]) -> None:
    """Change weights when asked to; end this process with the other one, in the middle of whatever it does."""
    while True:
        try:
            asked = receive(control)
            (engine,) = loaded
            try:
                engine.switch_weights(Path(asked["weights"]) if asked["weights"] else None)
                answer = {"kind": "switched"}
            except Exception as error:
                answer = {"kind": "refused", "message": str(error) or type(error).__name__}
            send(control, {**answer, "described": engine.describe()})
        except (EOFError, OSError):
            os._exit(0)


def _serve(engine: Any, pipe: Connection, memory: SharedArrays) -> None:
    """Carry out what one lane brings."""
    while True:
        try:
            asked = receive(pipe)
            if asked["kind"] == "repair":  # else somebody stopped a repair that had ended by itself
                send(pipe, _answer(engine, pipe, memory, asked))
        except (EOFError, OSError):
            return


def _answer(engine: Any, pipe: Connection, memory: SharedArrays, asked: dict[str, Any]) -> dict[str, Any]:
    def on_stage(stage: str) -> None:
        if pipe.poll():  # all that can come now is the wish to stop
            raise _StoppedError
        send(pipe, {"kind": "stage", "stage": stage})

    try:
        arrays = iter(memory.read(asked["arrays"], asked["size"]))
        requests = [
            request_from([next(arrays) for _ in range(2 + options["has_transparent"])], options)
            for options in asked["requests"]
        ]
        results = engine.repair_many(requests, on_stage=on_stage)
        patches = [patch for result in results for _, patch in result.patches]
        placed, size = memory.write(patches, start=memory.end_of(asked["arrays"]))
    except _StoppedError:
        return {"kind": "stopped"}
    except Exception as error:
        log.exception("a repair failed")
        return {"kind": "failed", "types": kinds_of(error), "message": f"{type(error).__name__}: {error}"}
    told = [
        {
            "boxes": [[int(edge) for edge in box] for box, _ in result.patches],
            "timings_ms": {name: float(value) for name, value in result.timings_ms.items()},
            "notes": [note_as_dict(note) for note in result.notes],
        }
        for result in results
    ]
    return {"kind": "done", "results": told, "arrays": placed, "size": size, "described": engine.describe()}


if __name__ == "__main__":
    main(sys.argv[1:])
