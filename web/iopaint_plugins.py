"""IOPaint's plug-in InteractiveSeg: clicks in, the yellow selection of an object out. There is no other here."""

import anyio
import anyio.to_thread

from config import Settings
from detection.click import select_object
from detection.found import DetectionError
from imaging import open_photo
from imaging.selection import encode_selection, widen_selection
from jobs.errors import JobError
from jobs.images import imaging_as_job_error
from jobs.one_shots import FileOf
from jobs.queue import JobQueue
from web.detect import AT_ONCE, MOST_WAITING
from web.uploads import MIB

INTERACTIVE_SEG = "InteractiveSeg"
PLUGINS = ({"name": INTERACTIVE_SEG, "support_gen_image": False, "support_gen_mask": True},)
WIDEN_PX = 9  # the side of the square that IOPaint widens a selection with


class Plugins:
    """Plug-ins by the names that clients know."""

    def __init__(self, queue: JobQueue, settings: Settings) -> None:
        self._queue = queue
        self._max_bytes = settings.max_file_mib * MIB
        self._max_px = settings.max_image_mpx * 1_000_000
        self._running = anyio.CapacityLimiter(AT_ONCE)

    async def select(self, name: str, read_image: FileOf | None, clicks: list[list[float]]) -> bytes:
        """Return a PNG of what was clicked on, in IOPaint's yellow.

        Args:
            name: the plug-in.
            read_image: reads the photo's file when it is this one's turn; None for none.
            clicks: [x, y, 1 to add or 0 to take away], in pixels of the photo.

        Returns:
            The file.

        Raises:
            JobError: `no_plugin`, `bad_detect`, `busy`, and what the photo is refused for.
        """
        if name != INTERACTIVE_SEG:
            raise JobError("no_plugin", "Plugin not found")
        if read_image is None:
            raise no_image()
        if any(len(click) not in (2, 3) for click in clicks):
            raise JobError("bad_detect", "clicks must be [[x, y, 1 or 0], ...]: pixels of the photo, 1 to add.")
        if self._running.statistics().tasks_waiting >= MOST_WAITING:
            raise JobError("busy", "The server is busy: too many selections are being made at once. Try again soon.")
        return await anyio.to_thread.run_sync(self._select, read_image, clicks, limiter=self._running)

    def _select(self, read_image: FileOf, clicks: list[list[float]]) -> bytes:
        if not (image := read_image()):
            raise no_image()
        points = [(x, y, bool(keep[0]) if keep else True) for x, y, *keep in clicks]
        # What finding takes is less than decoding took, so the turn goes on.
        with self._queue.images.turns_kept() as turn:
            with imaging_as_job_error():
                pixels = open_photo(image, max_bytes=self._max_bytes, max_px=self._max_px, turn=turn).shown
            try:
                found = select_object(pixels, points)
            except DetectionError as error:
                raise JobError("bad_detect", str(error)) from error
            return encode_selection(widen_selection(found.mask, WIDEN_PX))


def no_image() -> JobError:
    """Make the refusal of a request without a photo."""
    return JobError("no_image", "No image was sent (image).")


def refuse_image(name: str) -> None:
    """Raise the JobError of a plug-in that is asked for an image and can only select."""
    known = name == INTERACTIVE_SEG
    raise JobError("no_plugin", "Plugin does not support output image" if known else "Plugin not found")
