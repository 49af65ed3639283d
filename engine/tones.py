"""The tones of a photo: which of its values the network is shown, and on which colours the fill of a grey photo lies.

A network that was trained on 8-bit colour photos makes two mistakes by itself. In a 16-bit file that uses few of its
values (10 or 12 bits of a camera, a microscope's) everything looks black to it, and beside grey its fill is tinted. So
it is shown the values that the photo uses, and a fill whose surroundings lie on one line of colours, grey or sepia, is
put onto that line. Works on NumPy arrays, (H, W, 3) uint8 or uint16. Knows no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from masks.boxes import Box, as_box, box_size, intersect, slices_of
from masks.crop_plan import Crop
from masks.dilation import DilatedMask

ALL_LEVELS = (0, 65535)
MARGIN = 0.25  # of the span, on both sides, so that a fill may be a little brighter than what is known

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
FIRST_LOOK_PX = 1 << 10  # of a crop: enough to see that a photo has colours
CLOSER_LOOK_PX = 1 << 16
MOST_COLOURED = 0.25  # part of the first look; other holes may have colours that the photo has not
LEAST_KNOWN = 64  # pixels from which a line of colours can be told
TONES = 64  # steps of luma that a line of colours is made of
# How far the known pixels may lie from their line, of 255: a JPEG's rounding and its blocks, not a second colour.
MOST_OFF_RMS = 2.0
MOST_OFF = 8.0
MOST_OFF_SHARE = 0.998  # of the pixels that lie nearer than MOST_OFF


def shown_levels(
    image: NDArray, mask: NDArray[np.bool_], transparent: NDArray[np.bool_] | None = None
) -> tuple[int, int] | None:
    """Find the values that the network shall see as 0 and 1.

    Args:
        image: (H, W, 3) uint8 or uint16; not modified.
        mask: (H, W) bool, True = hole, which does not count; not modified.
        transparent: (H, W) bool, pixels that do not count either; not modified.

    Returns:
        (lowest, highest), or None for the whole range of the type.
    """
    if image.dtype != np.uint16:
        return None
    from imaging.levels import FEW_LEVELS, OUTLIERS, sample_step  # late: with it come all file formats

    step = sample_step(image)
    sampled = np.s_[::step, ::step]
    known = ~mask[sampled]
    if transparent is not None:
        known &= ~transparent[sampled]
    values = image[sampled][known]
    if not values.size:
        return None
    darkest, brightest = np.quantile(values, (OUTLIERS, 1 - OUTLIERS))
    if brightest - darkest >= FEW_LEVELS:
        return None
    margin = max(1.0, MARGIN * (brightest - darkest))
    return max(0, int(darkest - margin)), min(65535, int(np.ceil(brightest + margin)))


def find_line(image: NDArray, crop: Crop, transparent: NDArray[np.bool_] | None = None) -> ColourLine | None:
    """Find the line that the known colours in a crop's box lie on.

    Args:
        image: (H, W, 3) uint8 or uint16, what is repaired; not modified.
        crop: from the plan.
        transparent: (H, W) bool, pixels that do not count; not modified.

    Returns:
        The line; None where the colours lie on none, as most photos' do, or are too few to tell.
    """
    inside = slices_of(crop.box)
    seen = image[inside]
    # Most photos have colours, and that is seen at a few pixels around the patch.
    every = _every(seen, FIRST_LOOK_PX)
    if _are_many_colours(_of_255(seen[every][_apart_from([crop.patch_box], crop.box, every)])):
        return None
    every = _every(seen, CLOSER_LOOK_PX)
    shown = None if transparent is None else ~transparent[inside][every]
    colours = _known_colours(seen[every], _apart_from(_hole_boxes(crop), crop.box, every), shown)
    if len(colours) < LEAST_KNOWN:  # what lies between holes: distances to them take a tenth of a second in a large box
        colours = _known_colours(seen[every], ~crop.missing[every], shown)
    if len(colours) < LEAST_KNOWN:
        return None
    line = ColourLine.through(colours)
    off = line.off(colours)
    is_on_it = np.sqrt(np.square(off).mean()) <= MOST_OFF_RMS and (off <= MOST_OFF).mean() >= MOST_OFF_SHARE
    return line if is_on_it else None


def on_own_colours(patch: NDArray, original: NDArray, line: ColourLine | None) -> NDArray:
    """Return a patch whose fill lies on the line of colours of what is known around it, if that has one.

    Args:
        patch: (height, width, 3), what goes back into the photo; not modified.
        original: what is there in the photo, of the same shape and type; not modified.
        line: from `find_line`.

    Returns:
        The patch itself where there is no line, else a new one. Grey stays exactly grey. What the patch did not change
        stays as it is.
    """
    if line is None:
        return patch
    own = line.put(patch)
    is_unchanged = cv2.inRange(cv2.absdiff(patch, original), (0, 0, 0), (0, 0, 0))  # 255 where it is
    cv2.copyTo(patch, is_unchanged, own)
    return own


@dataclass(frozen=True)
class ColourLine:
    """A line through RGB along which colours get brighter: by how much each tone is off grey.

    Attributes:
        luma: (N,) float32, ascending, of 255.
        offsets: (N, 3) float32, colour minus luma, of 255.
    """

    luma: NDArray[np.float32]
    offsets: NDArray[np.float32]

    @classmethod
    def through(cls, colours: NDArray[np.float32]) -> ColourLine:
        """Return the line nearest to colours (N, 3) of 255."""
        luma = colours @ LUMA_WEIGHTS
        if not (colours != colours[:, :1]).any():
            return cls(np.zeros(1, np.float32), np.zeros((1, 3), np.float32))
        tone = np.clip(luma * (TONES / 256), 0, TONES - 1).astype(np.int64)
        count = np.bincount(tone, minlength=TONES)
        there = count > 0
        sums = [np.bincount(tone, values, minlength=TONES)[there] for values in (luma, *(colours.T - luma))]
        means = (np.stack(sums, axis=1) / count[there, None]).astype(np.float32)  # (N, 4)
        return cls(means[:, 0], means[:, 1:])

    def off(self, colours: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (N,) by how much colours (N, 3) of 255 lie off the line, in the channel that does most."""
        luma = colours @ LUMA_WEIGHTS
        return np.asarray(np.abs(colours - luma[:, None] - self._offsets_at(luma)).max(axis=1))

    def put(self, pixels: NDArray) -> NDArray:
        """Return pixels (height, width, 3) of their own type moved onto the line with their luma kept."""
        most = int(np.iinfo(pixels.dtype).max)
        luma = np.arange(most + 1, dtype=np.float32)
        on_line = luma[:, None] + self._offsets_at(luma * (255 / most)) * (most / 255)  # (luma, 3)
        table = np.rint(on_line).clip(0, most).astype(pixels.dtype)
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        if pixels.dtype == np.uint8:
            return np.asarray(cv2.LUT(cv2.merge([grey, grey, grey]), table[None]))
        return np.asarray(table[grey])

    def _offsets_at(self, luma: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([np.interp(luma, self.luma, channel) for channel in self.offsets.T], axis=1).astype(np.float32)


def _are_many_colours(colours: NDArray[np.float32]) -> bool:
    """Tell whether colours (N, 3) of 255 clearly lie on no line: too many are far from the mean of their tone.

    A fraction of what `ColourLine.off` takes. It is what a repair of a small hole would wait for after a rest.
    """
    luma = colours @ LUMA_WEIGHTS
    tone = (luma * (TONES / 256)).astype(np.int64)
    count = np.maximum(np.bincount(tone, minlength=TONES), 1)
    is_off = np.zeros(len(colours), np.bool_)
    for channel in (0, 2):  # green is off by less than one of the others: luma is kept
        off = colours[:, channel] - luma
        is_off |= np.abs(off - (np.bincount(tone, off, TONES) / count)[tone]) > MOST_OFF
    return bool(np.count_nonzero(is_off) > MOST_COLOURED * len(colours))


def _hole_boxes(crop: Crop) -> list[Box]:
    """Return boxes that hold everything which is missing in a crop."""
    if not isinstance(crop.hole, DilatedMask):
        return [crop.hole.box]
    boxes = crop.hole.hole_boxes
    left, top, right, bottom = crop.box
    there = (boxes[:, 0] < right) & (boxes[:, 2] > left) & (boxes[:, 1] < bottom) & (boxes[:, 3] > top)
    return [as_box(box) for box in boxes[there]]


def _apart_from(boxes: Iterable[Box], outer: Box, every: tuple[slice, slice]) -> NDArray[np.bool_]:
    """Which of the pixels of `outer` that `every` samples lie in none of these boxes: (rows, columns) bool."""
    step = every[0].step
    height, width = box_size(outer)
    is_apart = np.ones((-(-height // step), -(-width // step)), np.bool_)
    for left, top, right, bottom in (intersect(box, outer) for box in boxes):
        rows = slice(-(-(top - outer[1]) // step), -(-(bottom - outer[1]) // step))
        is_apart[rows, -(-(left - outer[0]) // step) : -(-(right - outer[0]) // step)] = False
    return is_apart


def _known_colours(
    pixels: NDArray, is_known: NDArray[np.bool_], is_shown: NDArray[np.bool_] | None
) -> NDArray[np.float32]:
    return _of_255(pixels[is_known if is_shown is None else is_known & is_shown])


def _every(pixels: NDArray, most_px: int) -> tuple[slice, slice]:
    """Return every so many rows and columns of pixels, so that at most that many remain."""
    step = max(1, -(-max(pixels.shape[:2]) // int(most_px**0.5)))
    return slice(None, None, step), slice(None, None, step)


def _of_255(colours: NDArray) -> NDArray[np.float32]:
    return colours.astype(np.float32) * np.float32(255 / np.iinfo(colours.dtype).max)
