"""Request bodies read with a limit: refused early by their length, and while they arrive when the length lies.

Files are spooled to disk as they come (python-multipart under Starlette), so a body is never in memory twice; what is
too large is read to its end and thrown away, up to a bound, because a client that is still sending rarely reads an
early answer.
"""

import base64
import math
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from tempfile import SpooledTemporaryFile
from urllib.parse import parse_qsl

import anyio.to_thread
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from jobs.errors import JobError, storage_as_job_error
from jobs.temp_folder import check_room, ensure_temp_folder
from web.data_urls import base64_decoded

MIB = 1 << 20
FORM_OVERHEAD_BYTES = 64 << 10  # boundaries, part headers and small fields around the files
DISCARD_FACTOR = 3
DISCARD_FOR_S = 20.0
MOST_PARTS = 8
STROKES_MIB = 4
IN_MEMORY_BYTES = 1 << 20  # of a body; nearly all of those in JSON are smaller
BASE64_BITS_PER_BIT = 4 / 3
BLANKS = b" \t\n\r\v\f"
ENCODED_WORD = re.compile(r"=\?utf-8\?b\?([\w+/]+=*)\?=", re.IGNORECASE | re.ASCII)


def is_form(request: Request) -> bool:
    """Tell whether a body is said to be multipart, in whichever case."""
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


@asynccontextmanager
async def read_form(
    request: Request, *, max_file_mib: int, files: int = 1, fields: int = MOST_PARTS
) -> AsyncIterator[FormData]:
    """Give a multipart body's parts, until the block ends.

    Args:
        request: its body has not been read.
        max_file_mib: largest size of a file, MiB.
        files: how many files of that size the body may be as large as.
        fields: most fields besides files.

    Yields:
        the parts.

    Raises:
        JobError: `file_too_large`, `bad_request` or `disk_full`.
    """
    if not is_form(request):
        raise JobError("bad_request", "Send the file as multipart/form-data.")
    limit_bytes = files * max_file_mib * MIB + FORM_OVERHEAD_BYTES
    stream = _limited(request, limit_bytes, too_large(max_file_mib))
    parser = MultiPartParser(request.headers, stream, max_files=MOST_PARTS, max_fields=fields)
    try:
        with storage_as_job_error():
            ensure_temp_folder()
            form = await parser.parse()
    except MultiPartException as error:
        raise JobError("bad_request", f"The form could not be read: {error.message}") from error
    except UnicodeError as error:
        # Starlette decodes names with the charset that the caller states, and catches unknown charsets only.
        raise JobError("bad_request", "The form's names are not in the charset that it states.") from error
    except ClientDisconnect as error:
        raise JobError("bad_request", "The upload was cut off.") from error
    try:
        yield form
    finally:
        await form.close()


async def read_fields(request: Request) -> dict[str, str]:
    """Return the texts of a form without files, in either of the two ways that browsers send one.

    Args:
        request: its body has not been read.

    Returns:
        Texts by the names of their fields.

    Raises:
        JobError: `bad_request`, `file_too_large` or `disk_full`.
    """
    if is_form(request):
        async with read_form(request, max_file_mib=1) as form:
            return {name: value for name, value in form.items() if isinstance(value, str)}
    async with spooled(request, FORM_OVERHEAD_BYTES) as file:
        file.file.seek(0)
        body = file.file.read()
    try:
        pairs = parse_qsl(body.decode("utf-8", "replace"), max_num_fields=MOST_PARTS)
    except ValueError as error:
        raise JobError("bad_request", f"The form has more than {MOST_PARTS} fields.") from error
    return dict(pairs)


async def file_part(form: FormData, name: str, *, max_file_mib: int) -> tuple[bytes, str] | None:
    """Return the bytes and file name of a form's file; None when it has none of that name."""
    part = _part_of(form, name, max_file_mib)
    return None if part is None else (await part.read(), _name_of(part))


def unread_part(form: FormData, name: str, *, max_file_mib: int) -> tuple[Callable[[], bytes], str] | None:
    """Return what reads a form's file while the form is open, in a thread, and the file's name; None for no file."""
    part = _part_of(form, name, max_file_mib)
    if part is None:
        return None
    file = part.file

    def read() -> bytes:
        file.seek(0)
        return file.read()

    return read, _name_of(part)


def _name_of(part: UploadFile) -> str:
    """Return a file's name; that of a .NET client which is not ASCII comes as an encoded word of mail (RFC 2047)."""
    name = part.filename or ""
    try:
        word = ENCODED_WORD.fullmatch(name)
        return base64.b64decode(word[1], validate=True).decode() if word else name
    except ValueError:
        return name


def _part_of(form: FormData, name: str, max_file_mib: int) -> UploadFile | None:
    part = form.get(name)
    if not isinstance(part, UploadFile):
        return None
    if (part.size or 0) > max_file_mib * MIB:
        raise too_large(max_file_mib)
    return part


def repair_json_mib(*, max_file_mib: int, max_image_mpx: int) -> int:
    """Return how large a JSON body with strokes and a mask file may be: the largest photo's mask, a bit for a pixel."""
    mask_mib = math.ceil(max_image_mpx * 1e6 / 8 * BASE64_BITS_PER_BIT / MIB)
    return min(max_file_mib, STROKES_MIB + mask_mib)


def decode_mask(text: object) -> bytes:
    """Return the bytes of a mask file in base64, also of several lines, with or without a `data:` prefix.

    Args:
        text: what the client sent in the mask's place.

    Returns:
        the file's bytes, of which nothing was looked at.

    Raises:
        JobError: `bad_request` when it is no text, or no base64.
    """
    try:
        if not isinstance(text, str):
            raise ValueError("not a text")
        # The command base64 writes lines of 76 characters. Not split: of lines of two a list is ten times as large.
        data = text.encode("ascii").translate(None, BLANKS)
        return base64_decoded(data.partition(b",")[2] if data[:5].lower() == b"data:" else data, is_strict=True)
    except ValueError as error:  # of base64 too
        raise JobError("bad_request", f"mask_png must be a PNG file in base64: {error}.") from error


def too_large(max_file_mib: int) -> JobError:
    """Return the error for a file above the limit."""
    return _above_limit("file", max_file_mib * MIB)


def _above_limit(what: str, limit_bytes: int) -> JobError:
    size = f"{limit_bytes // MIB} MiB" if limit_bytes >= MIB else f"{limit_bytes // 1024} KiB"
    max_mib = limit_bytes // MIB or limit_bytes / MIB
    return JobError("file_too_large", f"The {what} is larger than {size}.", {"max_mib": max_mib})


@asynccontextmanager
async def spooled(request: Request, limit_bytes: int) -> AsyncIterator[UploadFile]:
    """Give a body as a file, until the block ends: what comes slowly is not to fill the memory meanwhile.

    Args:
        request: its body has not been read.
        limit_bytes: largest size of the body.

    Yields:
        the file, at its end.

    Raises:
        JobError: `bad_request`, `file_too_large`, `disk_full` or `storage_unavailable`.
    """
    file = UploadFile(SpooledTemporaryFile(IN_MEMORY_BYTES), size=0)  # type: ignore[arg-type]  # noqa: SIM115
    try:
        with storage_as_job_error():
            ensure_temp_folder()
            async for chunk in _limited(request, limit_bytes, _above_limit("request", limit_bytes)):
                await file.write(chunk)
        yield file
    except ClientDisconnect as error:
        raise JobError("bad_request", "The request was cut off.") from error
    finally:
        file.file.close()


async def check_room_for(taken_bytes: int, chunk_bytes: int) -> None:
    """Look whether the disk has room for the rest of a body and its photo, once for each MiB that comes.

    Args:
        taken_bytes: what has come.
        chunk_bytes: how much of it just now.

    Raises:
        OSError: it is nearly full, or gone.
    """
    if taken_bytes // MIB > (taken_bytes - chunk_bytes) // MIB:
        await anyio.to_thread.run_sync(check_room, taken_bytes)


async def _limited(request: Request, limit_bytes: int, refusal: JobError) -> AsyncGenerator[bytes, None]:
    declared = request.headers.get("content-length", "")
    stream = request.stream()
    if declared.isdigit() and int(declared) > limit_bytes:
        await _discard(stream, limit_bytes * DISCARD_FACTOR)
        raise refusal
    if declared.isdigit() and int(declared) > IN_MEMORY_BYTES:
        try:
            await anyio.to_thread.run_sync(check_room, 2 * int(declared))
        except OSError:
            await _discard(stream, limit_bytes * DISCARD_FACTOR)
            raise
    taken = 0
    async for chunk in stream:
        taken += len(chunk)
        await check_room_for(taken, len(chunk))
        if taken > limit_bytes:
            await _discard(stream, limit_bytes * DISCARD_FACTOR)
            raise refusal
        yield chunk


async def _discard(stream: AsyncGenerator[bytes, None], most_bytes: int) -> None:
    until_s = time.monotonic() + DISCARD_FOR_S
    try:
        async for chunk in stream:
            most_bytes -= len(chunk)
            if most_bytes < 0 or time.monotonic() > until_s:
                return
    except ClientDisconnect:
        return
