"""Processes that open and write the photos of a folder, beside the one that has the card.

A card repairs 2 megapixels in 2 ms; decoding and encoding them takes a core 25 ms, part of it under the lock that
each interpreter has one of. So each process repairs a file as `batch.repair_task` does, with an engine that hands image
and mask to this side through shared memory and gets the patches back. Both sides end with each other, however that is.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from cli.errors import sentence_of
from cli.plan import BatchError, Task
from engine.requests import RepairRequest, RepairResult
from jobs.shared_arrays import SharedArrays
from jobs.windows import RemoteResult, options_of, parts_in, request_from, window_of
from notices import run_and_exit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.batch import Outcome, Work
    from inference import Inpainter

PROGRAM = "import sys; sys.path[:] = {path!r}; from cli.photo_processes import run; run({arguments!r})"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
STOP_S = 10.0
ENGINE_ERRORS = (ValueError, OSError, MemoryError, RuntimeError)  # a refusal, a full disk, memory, and CUDA's


class ProcessLostError(Exception):
    """The process of a photo ended before it was done."""


class PhotoProcesses:
    """A number of processes, each with one photo at a time; they are started when they are first needed.

    Args:
        count: how many.
        work: what is done to each photo.
        engine: what repairs; it is asked by several threads at once.
    """

    def __init__(self, count: int, work: Work, engine: Inpainter) -> None:
        self._work, self._engine = work, engine
        self._idle: SimpleQueue[_Process | None] = SimpleQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(None)

    def repair(self, task: Task) -> Outcome:
        """Have the next free process repair a task's file.

        Args:
            task: a photo.

        Returns:
            What became of it.

        Raises:
            ProcessLostError: the process ended over it; another takes its place.
        """
        process = self._idle.get()
        try:
            if process is not None and process.has_ended:  # while it had nothing to do
                process.end()
                process = None
            process = process or _Process(self._work, self._engine.profile.buckets_px)
            return process.repair(task, self._engine)
        except BaseException:
            if process is not None:
                process.end()
            process = None
            raise
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes; none has a photo any more."""
        for _ in range(self._count):
            process = self._idle.get()
            if process is not None:
                process.end()


class _Process:
    """This side of one process."""

    def __init__(self, work: Work, buckets_px: tuple[int, ...]) -> None:
        with _or_lost(), ExitStack() as undo:
            self._pipe, far_pipe = Pipe()
            undo.callback(self._pipe.close)  # at which the process ends by itself
            with far_pipe:
                self._memory = SharedArrays(os.memfd_create("fftlama-photo"))
                undo.callback(self._memory.close)
                descriptors = [far_pipe.fileno(), self._memory.descriptor]
                program = PROGRAM.format(path=sys.path, arguments=[str(number) for number in descriptors])
                self._process = subprocess.Popen(
                    [sys.executable, "-c", program],
                    pass_fds=descriptors,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **ONE_THREAD},
                    process_group=0,  # Ctrl+C is for the process that starts this one: it lets what runs come to an end
                )
            self._pipe.send((work, buckets_px))
            undo.pop_all()

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def repair(self, task: Task, engine: Inpainter) -> Outcome:
        """Have the task's file repaired; the engine is asked here, on behalf of the process."""
        with _or_lost():
            self._pipe.send(task)
            while True:
                kind, message = self._pipe.recv()
                if kind == "outcome":
                    outcome: Outcome = message
                    return outcome
                self._pipe.send(self._answer(engine, **message))

    def _answer(self, engine: Inpainter, placed: Any, size: int, options: dict[str, Any]) -> dict[str, Any]:
        try:
            request = request_from(self._memory.read(placed, size), options)
            result = engine.repair_many([request])[0]
            patches, written = self._memory.write(
                [patch for _, patch in result.patches], start=self._memory.end_of(placed)
            )
        except ENGINE_ERRORS as error:
            return {"failed": sentence_of(error)}
        return {"boxes": [box for box, _ in result.patches], "placed": patches, "size": written, "notes": result.notes}

    def end(self) -> None:
        """End the process, which does so by itself when its pipe is at its end, and free what belonged to it."""
        self._pipe.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._memory.close()


@contextmanager
def _or_lost() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:  # too many files or processes are open, or it died within a message
        raise ProcessLostError from error


class FarEngine:
    """In a photo's process: shaped like `inference.Inpainter`, which is on the other side and has these buckets."""

    device = "the other process's"

    def __init__(self, pipe: Connection, memory: SharedArrays, buckets_px: tuple[int, ...]) -> None:
        self._pipe, self._memory, self._ladders = pipe, memory, [buckets_px]

    def repair(
        self,
        image: NDArray[Any],
        mask: NDArray[np.bool_],
        *,
        transparent: NDArray[np.bool_] | None = None,
        **options: Any,
    ) -> RepairResult:
        """Fill the hole of one image.

        Args:
            image: as `Inpainter.repair` has it; not modified.
            mask: likewise.
            transparent: likewise.
            **options: the others of `Inpainter.repair`.

        Returns:
            The result.

        Raises:
            BatchError: why it could not be repaired.
        """
        request = RepairRequest(image, mask, transparent=transparent, **options)
        window = window_of(mask, dilate_px=request.dilate_px, ladders=self._ladders)
        placed, size = self._memory.write(parts_in(request, window))
        self._pipe.send(("repair", {"placed": placed, "size": size, "options": options_of(request)}))
        answer: Mapping[str, Any] = self._pipe.recv()
        if "failed" in answer:
            raise BatchError(answer["failed"])
        patches = [patch.copy() for patch in self._memory.read(answer["placed"], answer["size"])]
        self._memory.trim()
        moved = RemoteResult(list(zip(answer["boxes"], patches, strict=True)), {})
        moved.move_to(window)
        return RepairResult(image, moved.patches, notes=list(answer["notes"]))


def main(arguments: Sequence[str]) -> int:
    """Repair what the other process sends until it is gone.

    Args:
        arguments: the numbers of two open files: the pipe, and the shared memory.

    Returns:
        the exit code, 0.
    """
    import cv2

    from cli.batch import repair_task

    cv2.setNumThreads(1)  # there is a process for each core
    pipe, memory = Connection(int(arguments[0])), SharedArrays(int(arguments[1]))
    try:
        work, buckets_px = pipe.recv()
        repair: Callable[..., RepairResult] = FarEngine(pipe, memory, buckets_px).repair
        while True:
            pipe.send(("outcome", repair_task(pipe.recv(), repair, work)))
    except (EOFError, ConnectionError):
        return 0


def run(arguments: Sequence[str]) -> NoReturn:
    """Be such a process to its end, which frees nothing: the other one waits for it."""
    run_and_exit(lambda: main(arguments))
