"""The REST routes under /api/v1, over a `JobQueue`.

Whatever goes wrong is answered as `{"error": code, "message": sentence, "params": {...}}`, its status from `STATUSES`.
Reading bodies is asynchronous; everything that decodes, encodes or touches SQLite runs in threads. Those who wait for a
job have threads of their own, so that many patient clients leave room for the others; so have those who wait for their
turn to have a picture encoded.
"""

import base64
import json
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import PurePath
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile

from config import Settings
from imaging.formats import FORMATS
from jobs.errors import JobError, without_frames
from jobs.images import clean_name
from jobs.queue import JobQueue
from jobs.views import ENDED
from notices import note_as_dict
from web.archive import add_archive_route
from web.detect import add_detect_route
from web.image_files import attachment, check_format, check_quality, download_name, encode_whole
from web.json_bodies import parse_json, read_json, read_json_then
from web.large_answers import answer_with
from web.one_shot import file_answer, repair_for_client
from web.other_methods import EVERY_METHOD, allow_header, refuse_other_methods
from web.uploads import decode_mask, file_part, read_form, repair_json_mib, unread_part
from web.weights import add_weights_routes

STATUSES = {
    "bad_request": 400, "unknown_image": 404, "unknown_job": 404, "not_found": 404, "method_not_allowed": 405,
    "request_conflict": 409, "file_too_large": 413, "image_too_large": 413, "not_an_image": 415, "empty_file": 422,
    "truncated_image": 422, "no_image": 422, "empty_mask": 422, "mask_size": 422, "bad_mask": 422, "bad_strokes": 422,
    "bad_options": 422, "too_large_for_format": 422, "nothing_to_restore": 422, "bad_detect": 422,
    "unknown_model": 404, "model_missing": 404, "model_conflict": 409, "bad_weights": 422, "detector_missing": 503,
    "queue_full": 429, "client_queue_full": 429,
    "too_many_requests": 429, "login_required": 401, "forbidden": 403, "fetch_running": 409, "fetch_failed": 502,
    "workers_lost": 500, "server_error": 500, "out_of_memory": 503,
    "interrupted": 503, "timed_out": 504, "disk_full": 507, "storage_unavailable": 507, "busy": 503,
    "data_dir_in_use": 503,
}  # fmt: skip
EXTRA_HEADERS = {
    "busy": {"Retry-After": "5"},
    "queue_full": {"Retry-After": "5"}, "client_queue_full": {"Retry-After": "5"}, "interrupted": {"Retry-After": "10"},
    "file_too_large": {"Connection": "close"},  # whoever still sends after that is cut off
}  # fmt: skip
LONGEST_WAIT_S = 60.0
LONGEST_SETTLING_S = 1.0
LARGEST_PATCH_AT_ONCE = 1 << 20  # bytes that an answer in JSON may hold
SWITCH_WAIT_S = 10.0  # most models are loaded by then; who waits longer asks again
WAITERS = 128
UPLOADS_AT_ONCE = 4  # files are whole in memory only while they are checked
PICTURES = 16  # threads; most of them wait for memory
SUBMISSIONS = 32  # threads; a repair's mask waits for memory too
LARGEST_PREVIEW_PX = 20_000
MOST_OPTIONS_BYTES = 64 << 10
NEVER_CHANGES = {"Cache-Control": "private, max-age=31536000, immutable"}

log = logging.getLogger("fftlama.web")


class AsciiJson(JSONResponse):
    """JSON in ASCII: a refusal may repeat what a client sent, and not every text can be written as UTF-8."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, separators=(",", ":")).encode("ascii")


def error_response(error: JobError) -> JSONResponse:
    """Return an error in the form and with the status that clients know."""
    status = STATUSES.get(error.code, 500)
    headers = EXTRA_HEADERS.get(error.code, {}) | allow_header(error)
    return AsciiJson(error.as_dict(), status_code=status, headers=headers)


class ApiRoute(APIRoute):
    """A route that answers errors in our form, and HEAD wherever it answers GET; Gradio's routes keep their own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        methods = self.methods or set()
        if "GET" in methods:
            methods.add("HEAD")  # the server leaves the body out

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await inner(request)
            except JobError as error:
                return error_response(without_frames(error))
            except RequestValidationError as error:
                problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                return error_response(JobError("bad_request", f"The request is not right: {problems}"))
            except Exception as error:
                log.exception("%s %s failed", request.method, request.url.path)
                without_frames(error)
                return error_response(JobError("server_error", "Something failed inside the server; its log says why."))

        return answer


def create_routes(queue: JobQueue, settings: Settings) -> APIRouter:
    """Return the routes under /api/v1."""
    router = APIRouter(route_class=ApiRoute)
    waiters = anyio.CapacityLimiter(WAITERS)
    uploads = anyio.CapacityLimiter(UPLOADS_AT_ONCE)
    pictures = anyio.CapacityLimiter(PICTURES)
    submissions = anyio.CapacityLimiter(SUBMISSIONS)
    max_mib = settings.max_file_mib
    json_mib = repair_json_mib(max_file_mib=max_mib, max_image_mpx=settings.max_image_mpx)

    @router.post("/api/v1/images", status_code=201)
    async def add_image(request: Request) -> JSONResponse:
        async with read_form(request, max_file_mib=max_mib) as form, uploads:
            part = await file_part(form, "file", max_file_mib=max_mib)
            if part is None:
                raise JobError("no_image", "No photo was sent (multipart field `file`).")
            image = await run_in_threadpool(queue.add_image, *part)
        return JSONResponse(
            {
                "image_id": image.image_id, "width": image.width, "height": image.height, "format": image.format,
                "name": image.name, "notes": [note_as_dict(note) for note in image.notes],
            },
            status_code=201,
        )  # fmt: skip

    @router.get("/api/v1/images/{image_id}")
    async def get_image(
        request: Request, image_id: str, format: str | None = None, max_px: int | None = None,
        quality: int | None = None,
    ) -> Response:  # fmt: skip
        def answer() -> Response:
            image = queue.image(image_id)
            if max_px is not None:
                check_format(format)
                if not 1 <= max_px <= LARGEST_PREVIEW_PX:
                    raise JobError("bad_request", f"max_px must be from 1 to {LARGEST_PREVIEW_PX}.")
                kind = "jpeg" if format in (None, "original") else format
                check_quality(kind, quality)
                data = queue.encodings.preview(image, max_px=max_px, format=kind, quality=quality)
                return send(data, media_type=FORMATS[kind.upper()].media_type, headers=NEVER_CHANGES)
            encoded = encode_whole(queue, image, format=format, quality=quality)
            headers = NEVER_CHANGES | attachment(download_name(image, encoded))
            return send(encoded.data, media_type=encoded.media_type, headers=headers)

        send = partial(answer_with, is_asked_only=request.method == "HEAD")
        return await anyio.to_thread.run_sync(answer, limiter=pictures)

    @router.get("/api/v1/images/{image_id}/info")
    def get_image_info(image_id: str) -> dict[str, Any]:
        image = queue.image(image_id)
        return {
            "image_id": image.image_id, "parent_id": image.parent_id, "width": image.width, "height": image.height,
            "format": image.format, "name": image.name, "created": round(image.created_s, 3),
            "notes": [note_as_dict(note) for note in image.notes],
        }  # fmt: skip

    @router.get("/api/v1/images/{image_id}/patch")
    def get_patch(request: Request, image_id: str) -> Response:
        patch, is_asked_only = queue.images.patch(queue.image(image_id)), request.method == "HEAD"
        return answer_with(patch, media_type="image/png", headers=NEVER_CHANGES, is_asked_only=is_asked_only)

    @router.post("/api/v1/repairs", status_code=202)
    async def add_repair(request: Request) -> JSONResponse:
        def submit(body: dict[str, Any]) -> tuple[str, float]:
            settle_s = _settling_asked(body.pop("settle_s", None))
            return _submit(queue, body), settle_s

        job_id, settle_s = await read_json_then(request, max_file_mib=json_mib, then=submit, threads=submissions)
        answer: dict[str, Any] = {"job_id": job_id}
        if settle_s > 0 and waiters.available_tokens > 0:
            answer |= await anyio.to_thread.run_sync(lambda: _ended_at_once(queue, job_id, settle_s), limiter=waiters)
        headers = {"Location": f"{settings.root_path}/api/v1/jobs/{job_id}"}
        return JSONResponse(answer, status_code=202, headers=headers)

    @router.get("/api/v1/jobs/{job_id}")
    async def get_job(job_id: str, wait_s: float = 0.0, seen: int | None = None, settle_s: float = 0.0) -> JSONResponse:
        # More patient clients than threads: the others poll at once instead of standing in line for a thread.
        # NaN counts as 0, as numbers below 0 do: no limit would ever hold with it.
        wait_s = min(wait_s, LONGEST_WAIT_S) if wait_s > 0 and waiters.available_tokens > 0 else 0.0
        limiter = waiters if wait_s > 0 else None
        held_s = _settling(settle_s)
        view = await anyio.to_thread.run_sync(
            lambda: queue.view(job_id, wait_s=wait_s, seen=seen, settle_s=held_s), limiter=limiter
        )
        return JSONResponse(view, headers={"Cache-Control": "no-store"})

    @router.delete("/api/v1/jobs/{job_id}", status_code=202)
    def cancel_job(job_id: str) -> JSONResponse:
        return JSONResponse(queue.cancel(job_id), status_code=202)

    @router.post("/api/v1/repair")
    async def repair_file(request: Request) -> Response:
        async with read_form(request, max_file_mib=max_mib, files=2) as form:
            text = form.get("options")
            if isinstance(text, UploadFile):  # as `form.append("options", new Blob([json]))` sends it
                text = (await text.read(MOST_OPTIONS_BYTES)).decode("utf-8", "replace")
            options = _parse_options_field(text)
            image = unread_part(form, "image", max_file_mib=max_mib)
            mask = unread_part(form, "mask", max_file_mib=max_mib)
            if image is None:
                raise JobError("no_image", "No photo was sent (multipart field `image`).")
            if mask is None:
                raise JobError("empty_mask", "No mask was sent (multipart field `mask`; above 127 = what should go).")
            (read_image, filename), (read_mask, _) = image, mask
            encoded = await repair_for_client(
                request, queue, image=read_image, mask=lambda photo: read_mask(), options=options, filename=filename,
                waiters=waiters,
            )  # fmt: skip
        name = f"{PurePath(clean_name(filename)).stem}_repaired{encoded.extension}"
        return await file_answer(encoded, attachment(name))

    add_detect_route(router, queue, max_file_mib=json_mib)
    add_archive_route(router, queue, pictures=pictures)

    @router.get("/api/v1/models")
    def get_models() -> JSONResponse:
        return JSONResponse(queue.models.view(), headers={"Cache-Control": "no-store"})

    @router.post("/api/v1/models")
    async def choose_model(request: Request) -> JSONResponse:
        body = await read_json(request, max_file_mib=1)
        name = body.get("name")
        if not isinstance(name, str) or set(body) != {"name"}:
            raise JobError("bad_request", 'The body must be {"name": "the name of a model"}.')
        done = await anyio.to_thread.run_sync(lambda: queue.models.choose(name, wait_s=SWITCH_WAIT_S), limiter=waiters)
        view = await run_in_threadpool(queue.models.view)
        return JSONResponse(view, status_code=200 if done else 202)

    add_weights_routes(router, queue.weights_fetch, settings)

    refuse_other_methods(router)

    @router.api_route("/api/v1/{rest:path}", methods=sorted(EVERY_METHOD), include_in_schema=False)
    def unknown() -> Response:
        raise JobError("not_found", "There is nothing under this address.")

    return router


def _settling_asked(value: object) -> float:
    """Return how long a JSON body has a change held back, in seconds; JobError `bad_request` for what is no number."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise JobError("bad_request", "settle_s must be a number of seconds.")
    return _settling(value)


def _settling(seconds: float) -> float:
    """Return how long a change is held back, in seconds; 0 for what is not above 0."""
    return float(min(seconds, LONGEST_SETTLING_S)) if seconds > 0 else 0.0


def _ended_at_once(queue: JobQueue, job_id: str, settle_s: float) -> dict[str, Any]:
    """Wait a moment for a job's end; return what it came to, its patch included, or nothing when it goes on."""
    try:
        view = queue.view(job_id, wait_s=settle_s, seen=-1, settle_s=settle_s)
        if view["state"] not in ENDED:
            return {}
        patch = queue.images.patch(queue.image(view["image_id"])) if view["state"] == "done" else b""
    except JobError:  # the repair was taken all the same: whoever asks for the job or its patch learns why
        return {}
    if not 0 < len(patch) <= LARGEST_PATCH_AT_ONCE:
        return {"job": view}
    return {"job": view, "patch_png": base64.b64encode(patch).decode("ascii")}


def _submit(queue: JobQueue, body: dict[str, Any]) -> str:
    """Queue a repair from a JSON body; JobError for everything that is wrong with it."""
    allowed = {"image_id", "request_id", "strokes", "mask_png", "options"}
    if unexpected := sorted(set(body) - allowed):
        known = ", ".join(sorted(allowed | {"settle_s"}))  # which is taken out before
        raise JobError("bad_request", f"Unknown field {unexpected[0][:40]!r}; known: {known}.")
    if body.get("image_id") in (None, ""):
        raise JobError("no_image", "No photo was named (image_id).")
    mask = body.get("mask_png")
    if mask is not None:
        mask = decode_mask(mask)
    return queue.submit(body["image_id"], body.get("request_id"), body.get("strokes"), mask, body.get("options"))  # type: ignore[arg-type]


def _parse_options_field(text: object) -> object:
    if text is None or text == "":
        return None
    try:
        return parse_json(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise JobError("bad_options", f"options must be JSON: {str(error)[:200]}.") from error
