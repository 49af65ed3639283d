"""Masks that people upload: any image file to (H, W) bool, True = hole.

The rule is: brighter than 127 is the hole. What editors, segmentation tools and microscopes write instead is understood
where it can mean one thing only, and refused with what was seen where it can't.
"""

import numpy as np

from imaging.errors import ImagingError
from imaging.photo import Photo
from imaging.reading import MAX_BYTES, MAX_PX, open_to_look_at

ROWS_AT_ONCE = 64  # wider integers than the file's are never held for the whole mask
LUMA_WEIGHTS = (299, 587, 114)
LEAST_BRIGHT = 127_500  # weighted sum of the first brightness that rounds to 128
NEAR_LEVELS = 12  # of 255: what a JPEG or a colour conversion changes
SAME_SHARE = 0.9  # of the pixels looked at: above it two pictures are the same
MOST_MARKED_SHARE = 0.95  # above it there is hardly anything to fill the hole from
MIDTONES = (32, 223)  # a mask's edges and JPEG noise lie between, but not half of its pixels
MOST_MIDTONES_SHARE = 0.5
SAMPLE_STEP = 3  # every third row and column tells whether two pictures are the same
SPARSE_STEP = 37  # and every so many that they are clearly not, if fewer pixels than the share are
CLEARLY_OTHER_SHARE = 0.5
LEAST_SPARSE = 500  # pixels; of fewer nothing is clear


def read_mask(
    data: bytes,
    size: tuple[int, int],
    *,
    max_bytes: int = MAX_BYTES,
    max_px: int = MAX_PX,
    photo: np.ndarray | None = None,
) -> np.ndarray:
    """Read a mask file of the photo's own size.

    A pixel is a hole where its brightness is over 127 (of 255; over half for 16 bits) and it is not transparent (alpha
    over 127). Besides:
    - A layer whose visible pixels all have one colour: they are the hole, or the transparent part when the layer is
      black or white and covers more than half.
    - A copy of the photo with transparent parts: these are the hole.
    - A file that is black but for one value or one strong colour (labels of 0 and 1, red on black): that is the hole.

    Args:
        data: the file's bytes.
        size: the photo's (height, width).
        max_bytes: largest file allowed.
        max_px: most pixels allowed.
        photo: the photo's pixels (H, W, 3) uint8 or uint16, to tell a mask from a picture; not modified. None = any
            picture is taken for a mask.

    Returns:
        (H, W) bool, True = hole; nothing may be marked.

    Raises:
        ImagingError: `mask_size` for another size, `bad_mask` for a picture that is no mask, and what `open_photo`
            raises.
    """
    return hole_of_picture(open_to_look_at(data, max_bytes=max_bytes, max_px=max_px), size, photo=photo)


def hole_of_picture(mask: Photo, size: tuple[int, int], *, photo: np.ndarray | None = None) -> np.ndarray:
    """Return the hole of an opened mask file; see `read_mask`.

    Args:
        mask: the mask, from `open_to_look_at`; not modified.
        size: the photo's (height, width).
        photo: as for `read_mask`.

    Returns:
        (H, W) bool, True = hole; nothing may be marked.

    Raises:
        ImagingError: `mask_size` and `bad_mask`.
    """
    height, width = mask.image.shape[:2]
    if (height, width) != tuple(size):
        message = f"The mask is {width} x {height} pixels, the photo {size[1]} x {size[0]}; they must be the same size."
        raise ImagingError(
            "mask_size", message, width=width, height=height, expected_width=size[1], expected_height=size[0]
        )
    visible = None if mask.alpha is None else mask.alpha >> 8 * (mask.alpha.itemsize - 1) > 127
    is_opaque = visible is None or visible.all()
    hole = _hole_of_opaque(mask, photo) if is_opaque else _hole_of_layer(mask, visible, photo)
    return hole


def check_enough_is_left(hole: np.ndarray, photo_px: int) -> None:
    """Refuse what marks nearly everything, once all that makes the hole is known: files, strokes, what they erase.

    Args:
        hole: (H, W) bool, True = hole, all of it or the part that holds it; not modified.
        photo_px: the pixels of the whole photo.

    Raises:
        ImagingError: `bad_mask`, with `why` "everything".
    """
    share = np.count_nonzero(hole) / photo_px
    if share > MOST_MARKED_SHARE:
        raise _bad(
            f"it marks {100 * share:.0f} % of the photo, which leaves nothing to fill it from. Of a mask file white"
            " is what goes: if black was meant, invert it",
            why="everything",
        )


def _bad(what: str, **params: str) -> ImagingError:
    return ImagingError("bad_mask", f"The mask cannot be used: {what}.", detail=what, **params)


def _hole_of_layer(mask: Photo, visible: np.ndarray | None, photo: np.ndarray | None) -> np.ndarray:
    """The hole of a mask that is transparent in places; `visible` (H, W) bool says where it is not."""
    assert visible is not None, "opaque masks are no layers"
    shift = 8 * (mask.image.itemsize - 1)
    if not visible.any():
        return visible
    shown = mask.image[visible] >> shift
    if not (shown != shown[0]).any():
        is_cut_out = shown[0].max() == shown[0].min() and shown[0][0] in (0, 255) and visible.mean() > 0.5
        return ~visible if is_cut_out else visible
    if photo is not None and _is_same(mask.image, photo, visible):
        return ~visible
    bright = _is_bright(mask, shift)
    if photo is not None and _midtones_share(mask.image, shift, visible) > MOST_MIDTONES_SHARE:
        raise _bad("its visible part is a picture with many tones, and not this photo")
    return bright & visible


def _hole_of_opaque(mask: Photo, photo: np.ndarray | None) -> np.ndarray:
    shift = 8 * (mask.image.itemsize - 1)
    bright = _is_bright(mask, shift)
    if not bright.any():
        return _hole_of_dark(mask.image, shift)
    if photo is None:
        return bright
    if _is_same(mask.image, photo, None):
        raise _bad("it is the photo itself. Send a picture of the same size, white where something should go")
    if _midtones_share(mask.image, shift, None) > MOST_MIDTONES_SHARE:
        raise _bad("it is a picture with many tones. Send black, and white where something should go")
    return bright


def _hole_of_dark(image: np.ndarray, shift: int) -> np.ndarray:
    """The hole of a mask in which nothing is bright: one value or one strong colour on black, or nothing at all."""
    strongest = np.maximum(np.maximum(image[..., 0], image[..., 1]), image[..., 2])  # as `_in_all_channels`
    peak = int(strongest.max())
    if peak == int(strongest.min()):  # one dark shade all over
        return np.zeros(strongest.shape, bool)
    strong = strongest >> shift > 127
    if strong.any():
        # A strong colour on black; what lies between is its edge and a JPEG's noise, and little.
        between = (strongest >> shift > MIDTONES[0]) & ~strong
        if between.sum() <= strong.sum():
            return strong
    elif not ((strongest != 0) & (strongest != peak)).any():
        return strongest == peak
    full = int(np.iinfo(image.dtype).max)
    raise _bad(f"its brightest value is {peak} of {full}, and only what is brighter than half is the hole")


def _is_same(image: np.ndarray, photo: np.ndarray, where: np.ndarray | None) -> bool:
    """Tell whether two (H, W, 3) pictures are the same, where `where` is True, apart from losses by saving."""
    # Most masks are nothing like the photo, which few pixels tell.
    if _near_share(image, photo, where, SPARSE_STEP, least=LEAST_SPARSE) < CLEARLY_OTHER_SHARE:
        return False
    step = np.s_[::SAMPLE_STEP, ::SAMPLE_STEP]
    one, other = (p[step] >> 8 * (p.itemsize - 1) for p in (image, photo))
    chosen = np.ones(one.shape[:2], bool) if where is None else where[step]
    if not chosen.any() or _near_share(image, photo, where, SAMPLE_STEP, least=1) <= SAME_SHARE:
        return False
    # A night sky is black nearly everywhere, and so is a mask for it: what tells is where not both are black or white.
    both_dark = _in_all_channels(np.maximum(one, other) <= NEAR_LEVELS)
    both_bright = _in_all_channels(np.minimum(one, other) >= 255 - NEAR_LEVELS)
    near = _in_all_channels(np.abs(one.astype(np.int16) - other) <= NEAR_LEVELS)
    telling = chosen & ~both_dark & ~both_bright
    if telling.any():
        return bool(near[telling].mean() > SAME_SHARE)
    # A flat photo, a black frame say, is the same as a mask that marks nothing.
    return bool(np.ptp(other.reshape(-1, 3), axis=0).max() > NEAR_LEVELS)


def _near_share(image: np.ndarray, photo: np.ndarray, where: np.ndarray | None, step_px: int, *, least: int) -> float:
    """Return the share of pixels, where `where` is True, that two (H, W, 3) pictures nearly share; 1 of too few."""
    step = np.s_[::step_px, ::step_px]
    one, other = (p[step] >> 8 * (p.itemsize - 1) for p in (image, photo))
    near = _in_all_channels(np.abs(one.astype(np.int16) - other) <= NEAR_LEVELS)
    chosen = near if where is None else near[where[step]]
    return float(chosen.mean()) if chosen.size >= least else 1.0


def _in_all_channels(found: np.ndarray) -> np.ndarray:
    """Return (H, W) bool where (H, W, 3) bool is True three times; NumPy's `all` takes ten times as long for three."""
    both: np.ndarray = found[..., 0] & found[..., 1] & found[..., 2]
    return both


def _midtones_share(image: np.ndarray, shift: int, where: np.ndarray | None) -> float:
    """Return the share of pixels, where `where` is True, whose every channel is neither dark nor bright."""
    share = 0.0
    for step_px in (SPARSE_STEP, SAMPLE_STEP):
        step = np.s_[::step_px, ::step_px]
        levels = image[step] >> shift
        between = _in_all_channels((levels > MIDTONES[0]) & (levels < MIDTONES[1]))
        chosen = between if where is None else between[where[step]]
        share = float(chosen.mean()) if chosen.size else 0.0
        if chosen.size > LEAST_SPARSE and share < MOST_MIDTONES_SHARE / 2:
            break  # clearly few
    return share


def _is_bright(mask: Photo, shift: int) -> np.ndarray:
    """Return (H, W) bool: where the brightness of a mask's pixels, `shift` bits lower, rounds to more than 127."""
    image = mask.image
    if mask.source.stored == "grey":  # three equal channels: their brightness is their value
        grey: np.ndarray = (image[..., 0] >> shift if shift else image[..., 0]) > 127
        return grey
    bright = np.empty(image.shape[:2], bool)
    for top in range(0, len(image), ROWS_AT_ONCE):
        rows = (image[top : top + ROWS_AT_ONCE] >> shift).astype(np.uint32)
        weighted = sum(rows[..., channel] * weight for channel, weight in enumerate(LUMA_WEIGHTS))
        bright[top : top + ROWS_AT_ONCE] = weighted >= LEAST_BRIGHT
    return bright
