"""POST /api/v1/detect: text, spots, marks and clicked objects of a photo or round as a mask; nothing is repaired yet.

Knows the body's form and how much may run at once; what is found is `detection/`'s. What was found as text or as spots
is kept, so that moving the sensitivity only filters. A search whose client has left stops at its next step.
"""

import base64
import math
import threading
from collections import OrderedDict
from typing import Any

import anyio
import cv2
import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from detection.click import Point, select_object
from detection.found import Detection, DetectionError, DetectorMissingError, GoOn
from detection.repeat import find_repeats
from detection.spots import FoundSpots, find_spots
from detection.text import FoundText, find_text
from jobs.errors import JobError
from jobs.images import step_bytes
from jobs.queue import JobQueue
from jobs.request_parsing import build_mask, mask_bytes, read_strokes
from jobs.store import ImageRecord
from masks.boxes import Box
from web.json_bodies import read_json
from web.uploads import decode_mask
from web.while_there import work_while_there

KINDS = ("text", "click", "repeat", "spots")
FIELDS = {
    "text": ("image_id", "kind", "box", "points", "sensitivity"),
    "click": ("image_id", "kind", "box", "points", "sensitivity"),
    "repeat": ("image_id", "kind", "box", "points", "mask_png", "strokes", "mark_image_id", "sensitivity"),
    "spots": ("image_id", "kind", "box", "points", "sensitivity"),
}
AT_ONCE = 2  # a click takes a tenth of a second, text some seconds, and repairs want the processor too
MOST_WAITING = 16
BYTES_PER_PX = 12  # of the photo: reduced copies, masks, the answer
ANSWER_BYTES_PER_PX = 4
BASE_BYTES = {"text": 400 << 20, "click": 32 << 20, "repeat": 200 << 20, "spots": 200 << 20}
KEPT_SEARCHES = 16
KEPT_BYTES = 64 << 20  # of the spots among them; a photo with more is searched again for every sensitivity
MOST_REGIONS = 2000
COMPRESSION = 1  # zlib's: a mask is small at any

Found = FoundText | FoundSpots


class SearchCache:
    """What was found as text or spots in the last photos, so that another sensitivity costs nothing."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, Box | None], Found] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, kind: str, image_id: str, box: Box | None) -> Found | None:
        """Return what was found, or None when it was not looked for or is gone."""
        with self._lock:
            found = self._kept.get((kind, image_id, box))
            if found is not None:
                self._kept.move_to_end((kind, image_id, box))
            return found

    def keep(self, kind: str, image_id: str, box: Box | None, found: Found) -> None:
        """Keep what was found; the oldest goes."""
        with self._lock:
            self._kept[kind, image_id, box] = found
            while len(self._kept) > KEPT_SEARCHES or sum(map(_bytes_of, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)


def _bytes_of(found: Found) -> int:
    """Return what is worth counting: text is a few polygons and the letters in them."""
    return found.places.nbytes + found.scores.nbytes if isinstance(found, FoundSpots) else 0


def add_detect_route(router: APIRouter, queue: JobQueue, *, max_file_mib: int) -> None:
    """Add the route to a router that answers JobError."""
    running = anyio.CapacityLimiter(AT_ONCE)
    searches = SearchCache()

    @router.post("/api/v1/detect")
    async def detect(request: Request) -> JSONResponse:
        body = await read_json(request, max_file_mib=max_file_mib)
        if running.statistics().tasks_waiting >= MOST_WAITING:
            raise JobError("busy", "Too many selections are being made at once. Try again soon.")
        left = threading.Event()

        def go_on() -> None:
            if left.is_set():
                raise JobError("interrupted", "The client is gone.")

        def search() -> dict[str, Any]:
            return _detect(queue, searches, body, go_on)

        return JSONResponse(await work_while_there(request, search, limiter=running, on_leave=left.set))


def _detect(queue: JobQueue, searches: SearchCache, body: dict[str, Any], go_on: GoOn) -> dict[str, Any]:
    kind = body.get("kind")
    if kind not in KINDS:
        raise JobError(
            "bad_detect",
            f"kind must be one of {', '.join(KINDS)}" + ("." if kind is None else f", not {str(kind)[:20]!r}."),
            {"key": "kind"},
        )
    if unexpected := sorted(set(body) - set(FIELDS[kind])):
        known = ", ".join(FIELDS[kind])
        raise JobError("bad_request", f"Unknown field {unexpected[0][:40]!r} for {kind}; known: {known}.")
    if not isinstance(body.get("image_id"), str) or not body["image_id"]:
        raise JobError("no_image", "No photo was named (image_id).")
    box, sensitivity = _box(body.get("box")), _sensitivity(body.get("sensitivity"))
    points = _points(body.get("points"))
    if points and kind in ("text", "spots"):
        raise JobError("bad_detect", f"For {kind} no point can be given, only a box to look in.", {"key": "points"})
    image = queue.image(body["image_id"])
    try:
        if kind in ("text", "spots"):
            found = _search(queue, searches, kind, image, box, go_on)
            with queue.images.memory.reserve(ANSWER_BYTES_PER_PX * image.width * image.height):
                return _answer(found.select(sensitivity))
        if kind == "click":
            with queue.images.memory.reserve(_cost_bytes(kind, image)):
                pixels = queue.images.shown(image)
                return _answer(select_object(pixels, points, box=box, sensitivity=sensitivity))
        return _find_repeats(queue, image, body, box, points, sensitivity, go_on)
    except DetectorMissingError as error:
        raise JobError("detector_missing", str(error)) from error
    except DetectionError as error:
        raise JobError("bad_detect", str(error), {"why": error.why} if error.why else None) from error


def _search(
    queue: JobQueue, searches: SearchCache, kind: str, image: ImageRecord, box: Box | None, go_on: GoOn
) -> Found:
    found = searches.get(kind, image.image_id, box)
    if found is None:
        with queue.images.memory.reserve(_cost_bytes(kind, image)):
            pixels = queue.images.shown(image)
            find = find_text if kind == "text" else find_spots
            found = find(pixels, box=box, go_on=go_on)
        searches.keep(kind, image.image_id, box, found)
    return found


def _find_repeats(
    queue: JobQueue,
    image: ImageRecord,
    body: dict[str, Any],
    box: Box | None,
    points: list[Point],
    sensitivity: float,
    go_on: GoOn,
) -> dict[str, Any]:
    """Look on `image` for what is marked on `mark_image_id`, by default the same photo; return the answer.

    The mark is what the mask, the strokes and the box cover, or what clicks select, then in the box if there is one.
    """
    mark_id = body.get("mark_image_id", image.image_id)
    if not isinstance(mark_id, str):
        raise JobError("bad_detect", "mark_image_id must be the id of the photo that the mark is on.")
    other = mark_id != image.image_id
    marked = queue.image(mark_id) if other else image
    file = body.get("mask_png")
    data = None if file is None else decode_mask(file)
    strokes = read_strokes(body.get("strokes"))
    # Of strokes too the whole mask is painted here.
    masks_bytes = mask_bytes(marked, strokes, has_file=data is not None) + 2 * marked.width * marked.height
    with queue.images.memory.reserve(_cost_bytes("repeat", image, marked) + masks_bytes):
        mask = build_mask(strokes, data, image=marked, pixels=queue.images.pixels(marked) if data is not None else None)
        mark_pixels, pixels = queue.images.shown(marked), queue.images.shown(image)
        if points:
            mask |= select_object(mark_pixels, points, box=box).mask
        elif box is not None:
            left, top, right, bottom = box
            mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = True
        found = find_repeats(mark_pixels, mask, other=pixels if other else None, sensitivity=sensitivity, go_on=go_on)
        return _answer(found)


def _cost_bytes(kind: str, image: ImageRecord, marked: ImageRecord | None = None) -> int:
    """Return the most memory that detection takes, the photos' own decoding and what they hold included, without masks.

    Args:
        kind: of `KINDS`.
        image: where is looked.
        marked: where the mark is; None = nothing is marked.

    Returns:
        The bytes.
    """
    photos = {photo.image_id: photo for photo in (image, marked) if photo is not None}.values()
    return BASE_BYTES[kind] + BYTES_PER_PX * image.width * image.height + sum(map(step_bytes, photos))


def _box(value: object) -> Box | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 4 or not all(map(_is_number, value)):
        raise JobError("bad_detect", "box must be [left, top, right, bottom] in pixels of the photo.", {"key": "box"})
    left, top, right, bottom = value
    return math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)


def _points(value: object) -> list[Point]:
    if value is None:
        return []
    wrong = JobError(
        "bad_detect", "points must be [[x, y, keep], ...]: pixels of the photo, keep true to add.", {"key": "points"}
    )
    if not isinstance(value, list):
        raise wrong
    points: list[Point] = []
    for item in value:
        if not isinstance(item, list) or len(item) not in (2, 3) or not all(map(_is_number, item[:2])):
            raise wrong
        keep = item[2] if len(item) == 3 else True
        if not isinstance(keep, bool) and keep not in (0, 1):
            raise wrong
        points.append((float(item[0]), float(item[1]), bool(keep)))
    return points


def _sensitivity(value: object) -> float:
    if value is None:
        return 0.5
    if not _is_number(value) or not 0 <= value <= 1:  # type: ignore[operator]
        raise JobError("bad_detect", f"sensitivity must be from 0 to 1, not {str(value)[:20]}.", {"key": "sensitivity"})
    return float(value)  # type: ignore[arg-type]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _answer(found: Detection) -> dict[str, Any]:
    """The mask as a grey PNG in base64, and the regions."""
    return {
        "mask_png": base64.b64encode(_encode_mask(found.mask)).decode("ascii"),
        "regions": [
            {"polygon": region.polygon.round(1).tolist(), "score": round(region.score, 3)}
            for region in found.regions[:MOST_REGIONS]
        ],
    }


def _encode_mask(mask: NDArray[np.bool_]) -> bytes:
    _, data = cv2.imencode(".png", mask.view(np.uint8) * np.uint8(255), [cv2.IMWRITE_PNG_COMPRESSION, COMPRESSION])
    return data.tobytes()
