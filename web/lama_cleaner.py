"""The routes of lama-cleaner 1.2 and older, which tools still call: forms in, bytes out, errors as plain text.

Every field is optional, unknown ones are passed over. Repairs run as in `web/iopaint.py`.
"""

import logging
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from config import Settings
from jobs.errors import JobError, without_frames
from jobs.queue import JobQueue
from web.iopaint import (
    FORM_FIELDS,
    FileInpainter,
    NamedModels,
    headers_of,
    seed_of,
    spell_problems,
    status_and_text,
    thumbnail_response,
)
from web.iopaint_files import Gallery
from web.iopaint_plugins import PLUGINS, Plugins
from web.json_bodies import parse_json
from web.one_shot import file_answer
from web.other_methods import refuse_other_methods
from web.routes import UPLOADS_AT_ONCE, WAITERS
from web.uploads import file_part, read_fields, read_form, unread_part

DEFAULT_SEED = 42
OLD_STATUSES = {"unknown_model": 403}
OLD_TABS = {"image": "input"}  # of photos, as its page calls them

log = logging.getLogger("fftlama.web")


class PlainTextRoute(APIRoute):
    """A route whose errors are a line of text."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler."""
        inner = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await inner(request)
            except JobError as error:
                status, text = old_status_and_text(without_frames(error))
                headers = headers_of(error, status)
                return PlainTextResponse(text.encode("utf-8", "replace"), status_code=status, headers=headers)
            except RequestValidationError as error:  # of a query
                return PlainTextResponse(spell_problems(error).encode("utf-8", "replace"), status_code=422)
            except Exception as error:
                log.exception("%s %s failed", request.method, request.url.path)
                without_frames(error)
                return PlainTextResponse("Something failed inside the server; its log says why.", status_code=500)

        return answer


def old_status_and_text(error: JobError) -> tuple[int, str]:
    """Return status and sentence of an error, as lama-cleaner says and spells it where its clients look for it."""
    if error.code == "mask_mismatch":
        return 400, f"Mask shape{error.params['mask']} not queal to Image shape{error.params['image']}"
    status, text = status_and_text(error)
    return (OLD_STATUSES.get(error.code, status), text)


def create_lama_cleaner_routes(queue: JobQueue, settings: Settings, models: NamedModels) -> APIRouter:
    """Return the routes, which lie outside /api/v1; `models` is the one that IOPaint's have."""
    router = APIRouter(route_class=PlainTextRoute)
    waiters = anyio.CapacityLimiter(WAITERS)
    uploads = anyio.CapacityLimiter(UPLOADS_AT_ONCE)
    inpainter = FileInpainter(queue, settings, waiters)
    gallery = Gallery(settings, queue.images)
    plugins = Plugins(queue, settings)
    max_mib = settings.max_file_mib

    @router.post("/inpaint")
    async def inpaint(request: Request) -> Response:
        async with read_form(request, max_file_mib=max_mib, files=2, fields=FORM_FIELDS) as form:
            seed = parse_seed(form.get("sdSeed"))
            encoded = await inpainter.inpaint_form(request, form)
        return await file_answer(encoded, {"X-Seed": str(seed)})

    @router.get("/model")
    def get_model() -> Response:
        return PlainTextResponse(models.current)

    @router.post("/model")
    async def choose_model(request: Request) -> Response:
        name = (await read_fields(request)).get("name", "")
        if name == models.current:
            return PlainTextResponse("Same model")
        await anyio.to_thread.run_sync(models.choose, name, limiter=waiters)
        return PlainTextResponse(f"ok, switch to {name}")

    @router.get("/model_downloaded/{name}")
    def is_downloaded(name: str) -> Response:
        return PlainTextResponse(str(name in models.names()))

    @router.get("/is_desktop")
    def is_desktop() -> Response:
        return PlainTextResponse("False")

    @router.get("/server_config")
    def get_server_config() -> dict[str, Any]:
        return {
            "isControlNet": False, "controlNetMethod": None, "isDisableModelSwitchState": False,
            "isEnableAutoSaving": True, "enableFileManager": gallery.is_open,
            "plugins": [plugin["name"] for plugin in PLUGINS],
        }  # fmt: skip

    @router.get("/inputimage")
    def get_input_image() -> Response:
        if gallery.input is None or gallery.is_open:
            return PlainTextResponse("No Input Image")
        path = gallery.photo()
        return FileResponse(path, filename=path.name)

    @router.get("/medias/{tab}")
    def get_medias(tab: str) -> list[dict[str, Any]]:
        return gallery.medias(OLD_TABS.get(tab, tab))

    @router.get("/media/{tab}/{filename}")
    def get_media(tab: str, filename: str) -> Response:
        return FileResponse(gallery.file(OLD_TABS.get(tab, tab), filename))

    @router.get("/media_thumbnail/{tab}/{filename}")
    async def get_thumbnail(tab: str, filename: str, width: int = 0, height: int = 0) -> Response:
        return await thumbnail_response(gallery, OLD_TABS.get(tab, tab), filename, width=width, height=height)

    @router.post("/save_image")
    async def save_image(request: Request) -> Response:
        async with read_form(request, max_file_mib=max_mib) as form, uploads:
            image = await file_part(form, "image", max_file_mib=max_mib)
            name = form.get("filename")
            if image is None:
                raise JobError("no_file", "No image was sent (multipart field `image`).")
            await run_in_threadpool(gallery.save, image[0], name if isinstance(name, str) and name else image[1])
        return PlainTextResponse("ok")

    @router.post("/run_plugin")
    async def run_plugin(request: Request) -> Response:
        async with read_form(request, max_file_mib=max_mib, files=3, fields=FORM_FIELDS) as form:
            image = unread_part(form, "image", max_file_mib=max_mib)
            name, clicks = str(form.get("name", "")), parse_clicks(form.get("clicks"))
            data = await plugins.select(name, image and image[0], clicks)
        return Response(data, media_type="image/png")

    refuse_other_methods(router)  # who asks /inpaint with GET wants to know whether the server is there
    return router


def parse_seed(text: object) -> int:
    """Return the seed of a form's field; what is no number is the default, since nothing here depends on it."""
    try:
        return seed_of(int(str(text)))
    except ValueError:
        return DEFAULT_SEED


def parse_clicks(text: object) -> list[list[float]]:
    """Return the clicks of a form's field, JSON text; none where it is missing. JobError for anything else."""
    if not text:
        return []
    try:
        return [[float(number) for number in click] for click in parse_json(str(text))]
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise JobError("bad_detect", "clicks must be JSON: [[x, y, 1 or 0], ...].") from error
