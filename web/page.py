"""The page: Gradio Blocks holding one canvas of our own, and the endpoint `/repair` for `gradio_client`.

The canvas lies in a `gr.HTML` and talks to `/api/v1` itself; no Gradio event takes part in painting or repairing,
because Gradio's queue drops a finished result when the connection breaks. The scripts `static/*.js` are ES modules that
each own one idea; the document begins the first of them (`page_document.py`). The words come from `locales/`. Knows
nothing of torch, of how a repair is made, or of the routes' insides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.component_meta import ComponentMeta
from gradio.data_classes import FileData
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder, is_in_or_equal
from pydantic import ValidationError

from jobs.errors import without_frames
from jobs.queue import JobQueue
from jobs.weights_fetch import is_offered
from web.gradio_calls import cancel_when_left, watched_call
from web.one_shot import CancellableJob
from web.samples import describe_samples
from web.words import load_strings

# Keeps the focus, an open dialog and what a pointer holds; a browser without it leaves the canvas in front of the page.
MOVE_IN = """
const canvas = document.querySelector("body > .fft");
if (canvas && element.isConnected && element.moveBefore) element.moveBefore(canvas, null);
"""
KEPT_SESSIONS = 100  # each call is one to Gradio, of 20 kB and without anything to keep; by default it keeps 10,000
CALLS_AT_ONCE = 128  # threads of its own for calls that wait for their repair; Gradio begins 40 at once
QUEUE_LOOK_S = 0.05  # Gradio's 1 ms, and its 10 ms for progress, cost 6 % of a core as long as the server runs
PREVIEW_PX = 2048
"""Longer side of the server's picture of a photo, shown after a reload and for formats browsers cannot show."""


def page_setup(settings: Any) -> dict[str, Any]:
    """Collect what the scripts need to know.

    Args:
        settings: `max_file_mib`, `language`, `fetch_weights`, `queue` and `auth_file` are read.

    Returns:
        every word of the page in both languages, the language, and the limits; it can be written as JSON.
    """
    return {
        "strings": load_strings(),
        "language": settings.language,
        "max_file_mib": settings.max_file_mib,
        "preview_px": PREVIEW_PX,
        "weights_offered": is_offered(settings),
        "has_login": settings.auth_file is not None,
        "samples": describe_samples(),
    }


class WithoutStub(ComponentMeta):
    """Makes subclasses of components without writing a .pyi file beside their source when they are imported.

    Gradio's own metaclass does that (6.31), and the type checker would then read the stale stub instead of the source.
    """

    def __new__(mcs, name: str, bases: tuple[type, ...], attrs: dict[str, Any]) -> WithoutStub:
        """Make the class; its events are those it inherits."""
        return super(ComponentMeta, mcs).__new__(mcs, name, bases, attrs)


class MaskCanvas(gr.HTML, metaclass=WithoutStub):
    """The canvas's place: photo, strokes, rounds and status in one element. Has no value and no Gradio events.

    The canvas itself is there before (`page_document.py`) and moves in.
    """

    def __init__(self) -> None:
        """Build the element."""
        super().__init__(html_template="<div></div>", js_on_load=MOVE_IN, apply_default_css=False, elem_id="fftlama")

    def get_block_name(self) -> str:
        """Return the name of the front-end component this one is drawn with."""
        return "html"


def _not_uploaded() -> gr.Error:
    """Make the refusal of what is not a file that the caller has uploaded."""
    return gr.Error("Upload the file first: with gradio_client, give handle_file(path).", print_exception=False)


class UploadedFileData(FileData):
    """A file that the caller has uploaded, as Gradio's clients name it."""

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> UploadedFileData:
        """Return the file; gr.Error for a bare path and whatever else is none.

        Gradio looks here before it looks at the path, and Pydantic's words for it help no caller.
        """
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise _not_uploaded() from error


class UploadedFile(gr.File, metaclass=WithoutStub):
    """A file that the caller has uploaded; no other path of this machine and no address.

    Gradio's own check is off in a page that is mounted instead of launched (`Blocks.has_launched` stays False, 6.31):
    a caller could name any file that this process may read, or have it fetch an address.
    """

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Return the path of an uploaded file; gr.Error for every other."""
        if url_or_file_path is not None and not is_in_or_equal(url_or_file_path, get_upload_folder()):
            raise _not_uploaded()
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def get_block_name(self) -> str:
        """Return the name of the front-end component this one is drawn with."""
        return "file"


class PlainOptions(gr.JSON, metaclass=WithoutStub):
    """JSON that names no file: Gradio looks for files at any depth of it, and copies or fetches what is named.

    A name such as /dev/zero, which has no end, stopped the whole process.
    """

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        """Refuse every path and address with a gr.Error."""
        raise gr.Error("options hold no files.", print_exception=False)

    def get_block_name(self) -> str:
        """Return the name of the front-end component this one is drawn with."""
        return "json"


def create_page(queue: JobQueue) -> gr.Blocks:
    """Build the page.

    Args:
        queue: carries out `/repair`; everything else goes through `/api/v1` of the app the page is mounted in.

    Returns:
        the page, not launched: mount it with `gr.mount_gradio_app(app, page, path="/")`.
    """
    with gr.Blocks(title="fftlama", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        MaskCanvas()
        _add_repair_endpoint(page, queue)
    page.state_session_capacity = KEPT_SESSIONS
    # With Gradio's 40 they are those that all of the process share, and forty calls had all of them.
    page.max_threads = CALLS_AT_ONCE
    return page


def _add_repair_endpoint(page: gr.Blocks, queue: JobQueue) -> None:
    """Add `/repair` to the Blocks under construction; its components are never shown.

    gr.File hands files through as they are, where gr.Image would re-encode them.
    """
    image = UploadedFile(label="image", type="filepath", visible=False)
    mask = UploadedFile(label="mask", type="filepath", visible=False)
    for file in (image, mask):
        file.data_model = UploadedFileData  # not in an __init__ of ours, by whose parameters Gradio reads `visible`
    options = PlainOptions(label="options", value=None, visible=False)
    repaired = gr.File(label="repaired", visible=False)
    trigger = gr.Button(visible=False)

    def repair(
        image_path: str | None, mask_path: str | None, options: dict[str, Any] | None = None,
        request: gr.Request | None = None,
    ) -> str:  # fmt: skip
        """Remove from a photo what a mask covers.

        Args:
            image_path: the photo, any format the page takes.
            mask_path: a picture of the same size; brighter than 127 is the hole.
            options: dilate_px, feather_px, quality ("fast" or "high"), as in POST /api/v1/repair.
            request: given by Gradio, not by the caller.

        Returns:
            Path of the repaired photo in its own format.
        """
        if not image_path or not mask_path:
            raise gr.Error("Both an image file and a mask file are needed.", print_exception=False)
        name = Path(image_path).name
        job = CancellableJob(queue)
        try:
            with cancel_when_left(watched_call(page, request), job.cancel):
                encoded = queue.one_shots.repair(
                    job.if_wanted(Path(image_path).read_bytes), lambda photo: Path(mask_path).read_bytes(),
                    options or {}, name, on_job=job.begin,
                )  # fmt: skip
        except (ValueError, RuntimeError) as error:
            raise gr.Error(str(without_frames(error)), print_exception=False) from error
        for note in encoded.notes:
            gr.Info(str(note))
        path = save_bytes_to_cache(encoded.data, Path(name).stem + encoded.extension, repaired.GRADIO_CACHE)
        repaired.temp_files.add(path)  # so that delete_cache finds it
        return path

    trigger.click(
        repair,
        [image, mask, options],
        repaired,
        api_name="repair",
        concurrency_limit=None,  # order is the job queue's business
        show_progress="hidden",
    )
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = QUEUE_LOOK_S
