"""IOPaint 1.6's routes, so that its plug-ins and scripts work with this server unchanged.

They run through the same queue, limits and gate as every other route; errors have IOPaint's shape. Pixels outside the
mask come back as they were (16 bit and metadata too, where the format carries them). The photo's format is the
answer's. socket.io is not served: it only tells of progress of diffusion models, and API clients do without it.
The older routes of lama-cleaner are in `web/lama_cleaner.py`.
"""

import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import numpy as np
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from config import Settings
from imaging import FORMATS, Encoded, encode_photo, encode_png, open_photo
from imaging.decoding import Turn
from imaging.gif import encode_gif
from imaging.selection import BRIGHT, adjust_selection, encode_selection, read_brightness
from jobs.errors import JobError, without_frames
from jobs.images import imaging_as_job_error
from jobs.one_shots import FileOf
from jobs.queue import JobQueue
from jobs.store import ImageRecord
from web.data_urls import decode_base64
from web.iopaint_files import Gallery, generation_info
from web.iopaint_plugins import PLUGINS, Plugins, refuse_image
from web.iopaint_schema import (
    LAMA,
    SAMPLERS,
    AdjustMaskRequest,
    InpaintRequest,
    ModelRequest,
    PluginRequest,
    SwitchPluginRequest,
    model_info,
    server_config,
)
from web.json_bodies import kept_aside, read_json_then
from web.one_shot import file_answer, repair_for_client
from web.other_methods import allow_header, refuse_other_methods
from web.routes import EXTRA_HEADERS, STATUSES, UPLOADS_AT_ONCE, WAITERS, AsciiJson
from web.uploads import MIB, file_part, is_form, read_form, unread_part

STATUS_HERE = {**STATUSES, "mask_mismatch": 400, "bad_base64": 422, "no_plugin": 422, "no_file": 422, "queue_full": 503}
BASE64_GROWTH = 1.4  # four characters for three bytes, and line breaks
FORM_FIELDS = 80
SWITCH_WAIT_S = 120.0
LARGEST_SEED = 99_999_999
OPENED_AGAIN = 8  # threads for photos that are opened once more; they wait for memory
OPTIONS = {"dilate_px": 0}  # IOPaint's clients paint what they mean: not a pixel more is changed

log = logging.getLogger("fftlama.web")
Body = TypeVar("Body", bound=BaseModel)


def error_body(status: int, detail: Any, text: str) -> dict[str, Any]:
    """Return an error as IOPaint's clients read it: `detail`, and `errors` for people."""
    return {"error": "HTTPException", "detail": detail, "body": "", "errors": f"{status}: {text}"}


def status_and_text(error: JobError) -> tuple[int, str]:
    """Return status and sentence of an error; what waits in line is called busy, which some clients retry on."""
    text = f"The server is busy: {error.message}" if error.code == "queue_full" else error.message
    return STATUS_HERE.get(error.code, 500), text


def headers_of(error: JobError, status: int) -> dict[str, str]:
    """Return an error's headers: those of the other routes, and when to come again where it is only busy."""
    return ({"Retry-After": "5"} if status == 503 else {}) | EXTRA_HEADERS.get(error.code, {}) | allow_header(error)


class IopaintRoute(APIRoute):
    """A route whose errors have IOPaint's shape."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            headers = {}
            try:
                return await inner(request)
            except JobError as error:
                status, text = status_and_text(without_frames(error))
                body = error_body(status, text, text)
                headers = headers_of(error, status)
            except (ValidationError, RequestValidationError) as error:  # of a body, or of a query
                status, text = 422, spell_problems(without_frames(error))
                body = error_body(status, problems_of(error), text)
            except Exception as error:
                log.exception("%s %s failed", request.method, request.url.path)
                without_frames(error)
                status = 500
                body = error_body(status, "", "Something failed inside the server; its log says why.")
            return AsciiJson(body, status_code=status, headers=headers)

        return answer


def problems_of(error: ValidationError | RequestValidationError) -> list[dict[str, Any]]:
    """Return what is wrong with a body or a query, field by field, as pydantic says it."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_context=False)
        return [{key: value for key, value in one.items() if key != "input"} for one in problems]
    return [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]


def spell_problems(error: ValidationError | RequestValidationError) -> str:
    """Return one sentence for all that is wrong with a body or a query."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors())


def create_iopaint_routes(queue: JobQueue, settings: Settings, models: "NamedModels") -> APIRouter:
    """Return the routes; they must come before those of `web.routes`, which answer everything else under /api/v1.

    `models` is the one that lama-cleaner's routes have: it remembers by which name a model was asked for.
    """
    router = APIRouter(route_class=IopaintRoute)
    waiters = anyio.CapacityLimiter(WAITERS)
    uploads = anyio.CapacityLimiter(UPLOADS_AT_ONCE)
    inpainter = FileInpainter(queue, settings, waiters)
    gallery = Gallery(settings, queue.images)
    plugins = Plugins(queue, settings)
    json_mib = int(settings.max_file_mib * BASE64_GROWTH) + 1

    async def body_of(request: Request, kind: type[Body]) -> Body:
        return await read_json_then(request, max_file_mib=json_mib, then=kind.model_validate)

    @router.post("/api/v1/inpaint")
    async def inpaint(request: Request) -> Response:
        if is_form(request):
            async with read_form(request, max_file_mib=settings.max_file_mib, files=2, fields=FORM_FIELDS) as form:
                # A form's empty field says nothing.
                texts = {name: value for name, value in form.items() if value and not isinstance(value, UploadFile)}
                seed = InpaintRequest.model_validate(texts).sd_seed
                encoded = await inpainter.inpaint_form(request, form)
        else:
            with ExitStack() as held:

                def take(fields: dict[str, Any]) -> tuple[int, FileOf, FileOf]:
                    asked = InpaintRequest.model_validate(fields)
                    photo = kept_aside(decode_base64(asked.image, "image"), held)
                    return asked.sd_seed, photo, kept_aside(decode_base64(asked.mask, "mask"), held)

                seed, photo, mask = await read_json_then(request, max_file_mib=2 * json_mib, then=take)
                encoded = await inpainter.inpaint(request, photo, mask)
        return await file_answer(encoded, {"X-Seed": str(seed_of(seed))})

    @router.get("/api/v1/server-config")
    def get_server_config() -> dict[str, Any]:
        return server_config(models.names(), plugins=list(PLUGINS), file_manager=gallery.is_open)

    @router.get("/api/v1/model")
    def get_model() -> dict[str, Any]:
        return model_info(models.current)

    @router.post("/api/v1/model")
    async def choose_model(request: Request) -> dict[str, Any]:
        name = (await body_of(request, ModelRequest)).name
        await anyio.to_thread.run_sync(models.choose, name, limiter=waiters)
        return model_info(name)

    @router.get("/api/v1/samplers")
    def get_samplers() -> list[str]:
        return list(SAMPLERS)

    @router.post("/api/v1/switch_plugin_model")
    async def switch_plugin_model(request: Request) -> None:
        await body_of(request, SwitchPluginRequest)  # there is nothing to switch, as with IOPaint without the plug-in

    @router.post("/api/v1/run_plugin_gen_mask")
    async def run_plugin_gen_mask(request: Request) -> Response:
        with ExitStack() as held:

            def take(fields: dict[str, Any]) -> tuple[str, FileOf, list[list[float]]]:
                asked = PluginRequest.model_validate(fields)
                return asked.name, kept_aside(decode_base64(asked.image, "image"), held), asked.clicks

            selection = await plugins.select(*await read_json_then(request, max_file_mib=json_mib, then=take))
        return Response(selection, media_type="image/png")

    @router.post("/api/v1/run_plugin_gen_image")
    async def run_plugin_gen_image(request: Request) -> None:
        refuse_image((await body_of(request, PluginRequest)).name)

    @router.post("/api/v1/adjust_mask")
    async def adjust_mask(request: Request) -> Response:
        def adjust(fields: dict[str, Any]) -> bytes:
            asked = AdjustMaskRequest.model_validate(fields)
            return inpainter.adjust(decode_base64(asked.mask, "mask"), asked.operate, asked.kernel_size)

        adjusted = await read_json_then(request, max_file_mib=json_mib, then=adjust, threads=waiters)
        return Response(adjusted, media_type="image/png")

    @router.get("/api/v1/inputimage")
    def get_input_image() -> Response:
        if gallery.is_open:
            raise JobError("not_found", "The input is a folder; medias lists what is in it.")
        if gallery.input is None:  # 200 is what IOPaint answers; its page looks at the type only
            text = "No input image configured"
            return JSONResponse(error_body(200, text, text))
        return FileResponse(gallery.photo())

    @router.post("/api/v1/save_image")
    async def save_image(request: Request) -> None:
        async with read_form(request, max_file_mib=settings.max_file_mib) as form, uploads:
            part = await file_part(form, "file", max_file_mib=settings.max_file_mib)
            if part is None:
                raise JobError("no_file", "No image was sent (multipart field `file`).")
            await run_in_threadpool(gallery.save, *part)

    @router.post("/api/v1/gen-info")
    async def get_gen_info(request: Request) -> dict[str, str]:
        async with read_form(request, max_file_mib=settings.max_file_mib) as form, uploads:
            part = await file_part(form, "file", max_file_mib=settings.max_file_mib)
            if part is None:
                raise JobError("no_file", "No image was sent (multipart field `file`).")
            return await run_in_threadpool(generation_info, part[0])

    @router.get("/api/v1/medias")
    def get_medias(tab: str = "input") -> list[dict[str, Any]]:
        return gallery.medias(tab)

    @router.get("/api/v1/media_file")
    def get_media_file(tab: str, filename: str) -> Response:
        return FileResponse(gallery.file(tab, filename), media_type="image/png")  # the type IOPaint gives to all

    @router.get("/api/v1/media_thumbnail_file")
    async def get_media_thumbnail(tab: str, filename: str, width: int = 0, height: int = 0) -> Response:
        return await thumbnail_response(gallery, tab, filename, width=width, height=height)

    refuse_other_methods(router)
    return router


async def thumbnail_response(gallery: Gallery, tab: str, name: str, *, width: int, height: int) -> Response:
    """Return the answer of a small picture, with its size in headers; see `Gallery.thumbnail`."""
    make = partial(gallery.thumbnail, tab, name, width=width, height=height)
    data, (shown_width, shown_height) = await anyio.to_thread.run_sync(make, limiter=gallery.thumbnail_threads)
    sizes = {"X-Width": str(shown_width), "X-Height": str(shown_height)}
    return Response(data, media_type="image/jpeg", headers=sizes)


class NamedModels:
    """The models by the names that IOPaint's clients know: "lama" is whichever network is loaded."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._chosen = LAMA

    @property
    def current(self) -> str:
        """The model in use, as it was asked for; "lama" where it was not."""
        return self._chosen if self._chosen == self._queue.models.active else LAMA

    def names(self) -> list[str]:
        """Return "lama" and every installed network."""
        view = self._queue.models.view()
        return [LAMA, *(model["name"] for model in view["models"] if model["installed"] and model["name"] != LAMA)]

    def choose(self, name: str) -> None:
        """Go over to a model; JobError for one that is not here, and the one in use stays."""
        if name != LAMA and not self._queue.models.choose(name, wait_s=SWITCH_WAIT_S):
            raise JobError("queue_full", f"{name} is still being loaded.")
        self._chosen = name


class FileInpainter:
    """A photo and a mask file in, the repaired file out, by IOPaint's rules for both."""

    def __init__(self, queue: JobQueue, settings: Settings, waiters: anyio.CapacityLimiter) -> None:
        self._queue = queue
        self._max_file_mib = settings.max_file_mib
        self._max_bytes = settings.max_file_mib * MIB
        self._max_px = settings.max_image_mpx * 1_000_000
        self._waiters = waiters
        self._opening = anyio.CapacityLimiter(OPENED_AGAIN)

    def brightness(self, data: bytes, turn: Turn) -> Any:
        """Return a mask file as (H, W) uint8, decoded in its turn; JobError for what is no picture."""
        with imaging_as_job_error():
            return read_brightness(data, max_bytes=self._max_bytes, max_px=self._max_px, turn=turn)

    def adjust(self, data: bytes, operate: str, kernel_px: int) -> bytes:
        """Return a mask file grown, shrunk or inverted, as a selection in IOPaint's yellow."""
        with self._queue.images.turns_kept() as turn:
            mask = self.brightness(data, turn) >= BRIGHT
            return encode_selection(adjust_selection(mask, operate, kernel_px))

    async def inpaint_form(self, request: Request, form: FormData) -> Encoded:
        """Repair a photo with a mask that lie in an open form as `image` and `mask`; see `inpaint`."""
        image, mask = (unread_part(form, name, max_file_mib=self._max_file_mib) for name in ("image", "mask"))
        return await self.inpaint(request, image and image[0], mask and mask[0])

    async def inpaint(self, request: Request, image: FileOf | None, mask: FileOf | None) -> Encoded:
        """Repair a photo for a request whose body was read; the answer has the photo's format and size.

        Args:
            request: whose connection is watched.
            image: reads the photo's file; None for none.
            mask: reads the mask's file; None for none.

        Returns:
            The repaired file.

        Raises:
            JobError: `no_image` and `empty_mask` for missing files, `mask_mismatch` for another size, and what
                `repair_for_client` raises.
        """
        no_image = JobError("no_image", "No image was sent (image).")
        no_mask = JobError("empty_mask", "No mask was sent (mask; above 127 = what should go).")
        if image is None:
            raise no_image
        if mask is None:
            raise no_mask
        read_image, read_mask, formats = image, mask, []

        def take() -> bytes:
            if not (data := read_image()):
                raise no_image
            return data

        def mask_for(photo: ImageRecord) -> bytes:
            formats.append(photo.format)
            if not (data := read_mask()):
                raise no_mask
            return self._mask_file(data, photo)

        try:
            encoded = await repair_for_client(
                request, self._queue, image=take, mask=mask_for, options=OPTIONS, filename="photo",
                waiters=self._waiters,
            )  # fmt: skip
        except _NothingToDoError:
            return await anyio.to_thread.run_sync(self._unchanged, read_image, limiter=self._opening)
        if formats != ["GIF"]:
            return encoded
        return await anyio.to_thread.run_sync(self._as_gif, encoded, read_image, limiter=self._opening)

    def _mask_file(self, data: bytes, photo: ImageRecord) -> bytes:
        """Return a mask file of black and white for one whose brightness counts; _NothingToDoError for an empty one."""
        with self._queue.images.turns_kept() as turn:
            bright = self.brightness(data, turn)
            if bright.shape != (photo.height, photo.width):
                size = (photo.height, photo.width)
                sizes = f"Image size({size}) and mask size({bright.shape}) not match."
                raise JobError("mask_mismatch", sizes, {"image": size, "mask": bright.shape})
            hole = bright > BRIGHT
            if not hole.any():
                raise _NothingToDoError
            return encode_png((hole.view("uint8") * np.uint8(255))[..., None], fast=True)

    def _unchanged(self, read_image: FileOf) -> Encoded:
        """Give the photo's own bytes back; a HEIC as what clients can show."""
        data = read_image()
        with imaging_as_job_error(), self._queue.images.turns_kept() as turn:
            photo = open_photo(data, max_bytes=self._max_bytes, max_px=self._max_px, turn=turn)
            if photo.format == "HEIC":
                return encode_photo(photo)
        row = FORMATS[photo.format]
        return Encoded(data, row.media_type, row.extension)

    def _as_gif(self, encoded: Encoded, read_image: FileOf) -> Encoded:
        images = self._queue.images
        with images.memory.going_on(), imaging_as_job_error(), images.turns_kept() as turn:
            photo = open_photo(read_image(), max_bytes=self._max_bytes, max_px=self._max_px, turn=turn)
            data = encode_gif(encoded.data, photo, turn=turn)
        notes = tuple(note for note in encoded.notes if note.code != "palette_converted")  # it has one again
        return Encoded(data, "image/gif", ".gif", notes)


class _NothingToDoError(Exception):
    """The mask is empty: IOPaint gives the photo back."""


def seed_of(asked: int) -> int:
    """Return the seed that X-Seed carries: the one asked for, or a new one for -1."""
    return random.randint(1, LARGEST_SEED) if asked == -1 else asked
