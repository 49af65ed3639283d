"""Request bodies of JSON: how much they may say, and how few of the large ones are in memory at once."""

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from tempfile import SpooledTemporaryFile
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from starlette.requests import Request

from jobs.errors import JobError, storage_as_job_error
from web.uploads import IN_MEMORY_BYTES, MIB, spooled

# Parsing holds the interpreter's lock, so everybody waits for it: 90 MiB of numbers are 15 s and 3 GiB. Text, such as a
# file in base64, is read in no time; values are what counts. 20,000 points of strokes are 60,000.
MOST_VALUES = 200_000
LARGE_AT_ONCE = 2  # reading one takes some times its size
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")

Taken = TypeVar("Taken")
_turns: RunVar[anyio.CapacityLimiter] = RunVar("large JSON bodies")


async def read_json(request: Request, *, max_file_mib: int) -> dict[str, Any]:
    """Return a JSON object body of `MOST_VALUES` at most; JobErrors as of `read_json_then`."""
    return await read_json_then(request, max_file_mib=max_file_mib, then=dict)


async def read_json_then(
    request: Request, *, max_file_mib: int, then: Callable[[dict[str, Any]], Taken],
    threads: anyio.CapacityLimiter | None = None,
) -> Taken:  # fmt: skip
    """Read a JSON object body of `MOST_VALUES` at most; a large one lies on the disk until it is its turn.

    NaN and Infinity, which Python's and JavaScript's sloppier clients send, are read here and refused as strokes.

    Args:
        request: its body has not been read.
        max_file_mib: largest size of the body, MiB.
        then: called with the object in the same turn and thread, for what has to make it small.
        threads: those that read a small one, of their own where `then` may wait for memory; None = those of all.

    Returns:
        what `then` returns.

    Raises:
        JobError: `bad_request`, `file_too_large`, `disk_full` or `storage_unavailable`.
        Exception: what `then` raises.
    """
    async with spooled(request, max_file_mib * MIB) as body:

        def read() -> Taken:
            body.file.seek(0)
            try:
                value = _parse(body.file.read())
            except JobError:
                raise
            except (ValueError, RecursionError) as error:
                raise JobError("bad_request", f"The body is not JSON: {str(error)[:200]}") from error
            if not isinstance(value, dict):
                raise JobError("bad_request", "The body must be a JSON object.")
            return then(value)

        limiter = _large_turns() if (body.size or 0) > IN_MEMORY_BYTES else threads
        return await anyio.to_thread.run_sync(read, limiter=limiter)


def _large_turns() -> anyio.CapacityLimiter:
    """Return the threads that large JSON bodies have in this event loop."""
    try:
        return _turns.get()
    except LookupError:
        _turns.set(anyio.CapacityLimiter(LARGE_AT_ONCE))
        return _turns.get()


def kept_aside(data: bytes, held: ExitStack) -> Callable[[], bytes]:
    """Put bytes onto the disk where they are many, so that nobody waits in line with them in memory.

    Args:
        data: of a file.
        held: ends the file when it ends.

    Returns:
        what reads them again, in a thread.

    Raises:
        JobError: `disk_full` or `storage_unavailable`.
    """
    with storage_as_job_error():
        file = held.enter_context(SpooledTemporaryFile(IN_MEMORY_BYTES))  # noqa: SIM115 (it ends with `held`)
        file.write(data)

    def read() -> bytes:
        file.seek(0)
        return file.read()

    return read


def _parse(body: bytes) -> Any:
    # Piece by piece, as all else that goes over the whole of it: others get the interpreter in between.
    pieces = range(0, len(body), MIB)
    if sum(body.count(sign, at, at + MIB) for at in pieces for sign in (b",", b":")) > 2 * MOST_VALUES:
        raise JobError("bad_request", f"The body has more than {MOST_VALUES} values.")
    return parse_json(body)


def parse_json(data: bytes | str) -> Any:
    """Return what JSON says.

    Args:
        data: from a client.

    Returns:
        A value whose texts can all be written as UTF-8.

    Raises:
        ValueError: It is not JSON, or a text in it has half a surrogate pair, which no file and no answer can hold.
        RecursionError: It nests too deep.
    """
    text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
    value = json.loads(text.removeprefix("\ufeff"))
    # Most of these are whole pairs, as many clients write what is not ASCII; to look for the sign alone is quicker.
    if "\\" in text and HALF_PAIR.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value
