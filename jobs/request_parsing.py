"""What a caller may ask of a repair: strokes, a mask file and options, checked before a job is made of them."""

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.requests import MAX_ASKED_PX, QUALITIES
from imaging import read_mask
from imaging.masks import check_enough_is_left
from imaging.strokes import SPANS_AT_ONCE, Polygon, Stroke, bounds_of, count_spans, parse_strokes, rasterize
from jobs.errors import JobError
from jobs.images import Pixels, imaging_as_job_error
from jobs.packed_mask import pack_mask
from jobs.store import ImageRecord

LONGEST_REQUEST_ID = 200
PRIORITIES = ("interactive", "batch")
SPAN_BYTES = 200  # of the rasteriser, which has half a million at once
MASK_FILE_BYTES_PER_PX = 20  # a decoded mask file beside the masks made of it


@dataclass(frozen=True)
class Options:
    """How a repair is done; None leaves the choice to the engine. A batch job waits until no interactive one does.

    With `restore` nothing is repaired: the original comes back where the mask is.
    """

    dilate_px: int | None = None
    feather_px: int | None = None
    quality: str = "fast"
    priority: str = "interactive"
    restore: bool = False


def parse_options(raw: object) -> Options:
    """Return checked options from a JSON object or None; JobError `bad_options` names key, value and what is right."""
    if raw is None:
        return Options()
    if not isinstance(raw, dict):
        raise JobError("bad_options", 'options must be an object such as {"quality": "fast"}.')
    known = list(asdict(Options()))
    for key in raw:
        if key not in known:
            nearest = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
            raise JobError(
                "bad_options", f"Unknown option {str(key)[:40]!r}; the nearest is {nearest!r}.", {"key": str(key)[:40]}
            )
    for key in ("dilate_px", "feather_px"):
        value = raw.get(key)
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and 0 <= value <= MAX_ASKED_PX):
            allowed = f"a whole number from 0 to {MAX_ASKED_PX}"
            raise JobError("bad_options", f"{key} is {str(value)[:40]!r}; allowed: {allowed}.", {"key": key})
    quality = raw.get("quality", "fast")
    if quality not in QUALITIES:
        allowed = " or ".join(QUALITIES)
        raise JobError("bad_options", f"quality is {str(quality)[:40]!r}; allowed: {allowed}.", {"key": "quality"})
    priority = raw.get("priority", "interactive")
    if priority not in PRIORITIES:
        allowed = " or ".join(PRIORITIES)
        raise JobError("bad_options", f"priority is {str(priority)[:40]!r}; allowed: {allowed}.", {"key": "priority"})
    restore = raw.get("restore", False)
    if not isinstance(restore, bool):
        raise JobError("bad_options", f"restore is {str(restore)[:40]!r}; allowed: true or false.", {"key": "restore"})
    return Options(raw.get("dilate_px"), raw.get("feather_px"), quality, priority, restore)


def check_request_id(request_id: object) -> str:
    """Return the caller's request id; JobError `bad_request` when it is not a short text."""
    if isinstance(request_id, str) and 0 < len(request_id) <= LONGEST_REQUEST_ID and request_id.isprintable():
        return request_id
    raise JobError("bad_request", f"request_id must be a text of 1 to {LONGEST_REQUEST_ID} characters.")


def digest_of(image_id: str, *, strokes: object, mask_png: bytes | None, options: Options) -> str:
    """Return what tells a retry of a request from another request under the same request id."""
    mask = hashlib.sha256(mask_png).hexdigest() if mask_png else None
    text = json.dumps([image_id, strokes or [], mask, asdict(options)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def read_strokes(strokes: Any) -> list[Stroke | Polygon]:
    """Return checked strokes from what JSON gives, or None; JobError `bad_strokes` says which is wrong."""
    with imaging_as_job_error():
        return parse_strokes(strokes or [])


def build_mask(
    strokes: Sequence[Stroke | Polygon], mask_png: bytes | None, *, image: ImageRecord, pixels: Pixels | None = None
) -> NDArray[np.bool_]:
    """Return the hole: the mask file with the strokes drawn over it, erasing ones included.

    Args:
        strokes: those of `read_strokes`.
        mask_png: a mask file of the image's size, or None.
        image: what is to be repaired.
        pixels: the image's own, which a mask file may have to be told apart from; needed with `mask_png`.

    Returns:
        (H, W) bool, True = hole; nothing may be marked.

    Raises:
        JobError: `bad_strokes`, `mask_size` or what else imaging refuses.
    """
    size = (image.height, image.width)
    with imaging_as_job_error():
        mask: NDArray[np.bool_] = rasterize(strokes, size)
        if mask_png is not None:
            from_file = read_mask(mask_png, size, photo=pixels)
            if any(stroke.erase for stroke in strokes):
                # What strokes leave untouched is where drawing all of them as paint leaves nothing.
                everything = [replace(stroke, erase=False) for stroke in strokes]
                from_file = from_file & ~rasterize(everything, size)
            mask = mask | from_file
    return mask


def mask_bytes(image: ImageRecord, strokes: Sequence[Stroke | Polygon], *, has_file: bool) -> int:
    """Return the most memory that building a mask for an image takes.

    Args:
        image: what is to be repaired.
        strokes: those of `read_strokes`.
        has_file: whether there is a mask file.

    Returns:
        The bytes.
    """
    spans = min(SPANS_AT_ONCE, count_spans(strokes, image.height))
    if has_file:
        return spans * SPAN_BYTES + image.width * image.height * MASK_FILE_BYTES_PER_PX
    left, top, right, bottom = bounds_of(strokes, (image.height, image.width))
    return spans * SPAN_BYTES + 2 * (right - left) * (bottom - top)


def pack_hole(
    strokes: Sequence[Stroke | Polygon], mask_png: bytes | None, *, image: ImageRecord, pixels: Pixels | None = None,
    is_filled: bool = True,
) -> bytes:  # fmt: skip
    """Return `pack_mask` of what `build_mask` returns for the same; of strokes alone only their part is painted.

    Args:
        strokes: those of `read_strokes`.
        mask_png: a mask file of the image's size, or None.
        image: what is to be repaired.
        pixels: see `build_mask`.
        is_filled: whether the hole is filled from what is around it; else all of the photo may be marked.

    Returns:
        The packed mask.

    Raises:
        JobError: `empty_mask`, `bad_mask` where nearly everything is marked, and those of `build_mask`.
    """
    size = (image.height, image.width)
    box = (0, 0, image.width, image.height) if mask_png is not None else bounds_of(strokes, size)
    with imaging_as_job_error():
        if mask_png is not None:
            part = build_mask(strokes, mask_png, image=image, pixels=pixels)
        else:
            part = rasterize(strokes, size, box=box)
        if is_filled:
            check_enough_is_left(part, image.width * image.height)
    return pack_mask(part, at=box[:2], size=size)
