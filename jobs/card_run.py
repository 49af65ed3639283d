"""One life of a card's process, as the pool in front of it has it, and the lanes on which repairs go there.

The other end is `card_process.py`. A lane is a pipe with shared memory beside it and has one repair at a time; once a
pipe is found at its end, the process is used no more. Knows no pool, no model and no HTTP.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from engine.requests import UnavailableError
from jobs.card_process import receive, send
from jobs.errors import is_out_of_memory, is_wrong_setting
from jobs.shared_arrays import SharedArrays
from jobs.windows import RemoteResult, options_of, parts_in, window_of
from notices import note_from_dict

LANES = 2  # repairs under way on each card: one computes while the other is read, copied or stored
POLL_S = 0.25  # how often a repair is looked after: a cancelled one is let go about so much later
STOP_S = 10.0  # so long after its time a repair may take to come to its next stage; then its process is ended
PROGRAM = "import sys; sys.path[:] = {path!r}; from jobs.card_process import main; main({arguments!r})"

log = logging.getLogger("fftlama.jobs")


@dataclass(frozen=True)
class CardPlan:
    """What runs in one card's process.

    Attributes:
        name: as people know the card, "cuda:1".
        loader: "module:function", which returns the engine there.
        arguments: of that function, JSON.
        environment: what its environment has besides this process's.
    """

    name: str
    loader: str
    arguments: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)


class CardLostError(Exception):
    """The process of a card ended."""


class Lane:
    """One pipe to a card's process with the memory beside it; one repair at a time."""

    def __init__(self, run: CardRun) -> None:
        self._run = run
        self._pipe, self.far_pipe = Pipe()
        self._memory = SharedArrays(os.memfd_create("fftlama-lane"))

    @property
    def descriptors(self) -> tuple[int, int]:
        """The open files that the process gets: its end of the pipe, and the memory."""
        return self.far_pipe.fileno(), self._memory.descriptor

    def repair(self, requests: Sequence[Any], report: Callable[[str], None], until_s: float) -> list[RemoteResult]:
        """Have the process repair requests.

        Args:
            requests: shaped like `engine.requests.RepairRequest`; not modified.
            report: called with each stage, and again every quarter of a second; its exceptions stop the repair.
            until_s: when the repair's time is over (time.monotonic).

        Returns:
            One result per request.

        Raises:
            CardLostError: the process ended.
        """
        began_s = time.perf_counter()
        ladders = self._run.ladders
        windows = [window_of(one.mask, one.bounds, dilate_px=one.dilate_px, ladders=ladders) for one in requests]
        parts = [parts_in(request, window) for request, window in zip(requests, windows, strict=True)]
        placed, size = self._memory.write([part for one in parts for part in one])
        told = [options_of(request) for request in requests]
        self._send({"kind": "repair", "requests": told, "arrays": placed, "size": size})
        sent_ms = (time.perf_counter() - began_s) * 1e3
        try:
            answer = self._wait(report, until_s)
        except CardLostError:
            raise
        except BaseException:
            self._stop(until_s)
            raise
        if answer["kind"] == "failed":
            # As if the engine had raised it here: the queue tells memory from all else by the name.
            is_memory = is_out_of_memory(answer["types"])
            raise MemoryError(answer["message"]) if is_memory else RuntimeError(answer["message"])
        arrays = iter(self._memory.read(answer["arrays"], answer["size"]))
        results = []
        for one, window in zip(answer["results"], windows, strict=True):
            patches = [((box[0], box[1], box[2], box[3]), next(arrays).copy()) for box in one["boxes"]]
            notes = [note_from_dict(note) for note in one["notes"]]
            result = RemoteResult(patches, {**one["timings_ms"], "send": sent_ms}, notes)
            result.move_to(window)
            results.append(result)
        del arrays
        self._memory.trim()
        self._run.described = answer["described"]
        return results

    def _wait(self, report: Callable[[str], None], until_s: float) -> dict[str, Any]:
        """Return the answer to a repair, and report its stages until then."""
        stage = "plan"
        while True:
            if self._can_receive(POLL_S):
                answer = self._receive()
                if answer["kind"] != "stage":
                    return answer
                stage = answer["stage"]
            report(stage)
            if time.monotonic() > until_s:
                raise TimeoutError(f"the repair took too long on {self._run.plan.name}")

    def _stop(self, until_s: float) -> None:
        """Have the process stop its repair at the next stage; end the process when that does not come."""
        with suppress(CardLostError):
            self._send({"kind": "stop"})
            latest_s = max(until_s, time.monotonic()) + STOP_S
            while (left_s := latest_s - time.monotonic()) > 0:
                if self._can_receive(left_s) and self._receive()["kind"] != "stage":
                    self._memory.trim()
                    return
            log.error("a repair hangs on %s; its process is ended", self._run.plan.name)
            self._run.kill()

    def _send(self, message: dict[str, Any]) -> None:
        with self._run.or_lost():
            send(self._pipe, message)

    def _can_receive(self, wait_s: float) -> bool:
        with self._run.or_lost():
            return self._pipe.poll(wait_s)

    def _receive(self) -> dict[str, Any]:
        with self._run.or_lost():
            return receive(self._pipe)

    def close(self) -> None:
        """Close the pipe and give the memory back."""
        self._pipe.close()
        self._memory.close()


class CardRun:
    """One life of a card's process."""

    def __init__(self, plan: CardPlan) -> None:
        self.plan = plan
        self.described: dict[str, Any] = {}
        self.ladders: list[tuple[int, ...]] = []  # the engine's buckets, for `window_of`
        self.free = [Lane(self) for _ in range(LANES)]
        self.is_reserved = self.is_gone = False
        self._lanes = list(self.free)
        self._control, far_control = Pipe()
        self._talking = threading.Lock()
        descriptors = [far_control.fileno(), *(number for lane in self._lanes for number in lane.descriptors)]
        program = PROGRAM.format(path=sys.path, arguments=[str(number) for number in descriptors])
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **plan.environment},
        )
        far_control.close()
        for lane in self._lanes:
            lane.far_pipe.close()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    @property
    def is_idle(self) -> bool:
        """Whether no repair is under way."""
        return len(self.free) == len(self._lanes)

    def load(self) -> int:
        """Wait until the engine is loaded.

        Returns:
            How many repairs it takes at once.

        Raises:
            UnavailableError: this machine does not have the device, precision, profile or weights.
            RuntimeError: it can't be loaded, or the process ended.
        """
        name = self.plan.name
        try:
            send(self._control, {"loader": self.plan.loader, "arguments": dict(self.plan.arguments)})
            answer = receive(self._control)
        except (EOFError, OSError) as error:
            raise RuntimeError(f"{name}: its process ended before its model was loaded") from error
        if answer["kind"] == "refused":
            error_type = UnavailableError if is_wrong_setting([answer["type"]]) else RuntimeError
            raise error_type(f"{name}: {answer['message']}")
        self.described = answer["described"]
        self.ladders = [tuple(answer["buckets_px"])] if answer["buckets_px"] else []
        return int(answer["max_batch"])

    def switch_weights(self, weights: Path | None, wait_s: float) -> None:
        """Go over to other weights; ValueError when they can't be used or the process ends over it."""
        name = self.plan.name
        try:
            with self._talking:
                send(self._control, {"kind": "switch", "weights": str(weights) if weights else None})
                if not self._control.poll(wait_s):
                    self.kill()
                answer = receive(self._control)
        except (EOFError, OSError) as error:
            raise ValueError(f"The process of {name} ended while it changed the model") from error
        self.described = answer["described"]
        if answer["kind"] == "refused":
            raise ValueError(answer["message"])

    @contextmanager
    def or_lost(self) -> Iterator[None]:
        """Raise CardLostError where a pipe to the process is at its end, and use the process no more."""
        try:
            yield
        except (EOFError, OSError) as error:
            self.is_gone = True
            self.kill()
            raise CardLostError from error

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    def wait(self) -> int:
        """Wait for the process's end; return its exit code, negative after a signal."""
        return self._process.wait()

    def close(self) -> None:
        """Free what belonged to the process, which is ended where it still lives."""
        self.kill()
        self.wait()
        self._control.close()
        for lane in self._lanes:
            lane.close()


def only_card(number: int) -> dict[str, str]:
    """Return the environment of a process that shall see one CUDA card: the one that has this number here.

    Args:
        number: as this process counts; one that does not exist leaves the process without cards.

    Returns:
        `CUDA_VISIBLE_DEVICES`.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    shown = str(number) if names is None else names[number] if number < len(names) else ""
    return {"CUDA_VISIBLE_DEVICES": shown}
