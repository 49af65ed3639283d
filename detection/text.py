"""Find text: captions, watermarks, date stamps and signs, as the pixels of their letters.

The photo is looked at at several sizes, because the network sees letters from about 10 to 200 pixels high. What is
found is kept with its score; the sensitivity chooses among it without looking again.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from shapely.geometry import Polygon

from detection.found import Detection, GoOn, Region, as_uint8, check_sensitivity, cut_box, without_end
from detection.letters import Letters, find_letters
from detection.text_lines import find_lines
from detection.text_network import text_probability
from detection.tiling import find_tiled_mark
from masks.boxes import Box

# The photo, or the box, is scaled down to these. Small text in a large photo needs a box.
LONGER_SIDES_PX = (480, 960, 1920)
ENLARGE_BELOW_PX = 640  # a box smaller than this is looked at twice as large
ENLARGED = 0.8  # of its score is what a line is worth that is seen only when enlarged: much looks like text then
COVERED = 0.7  # of a line that lies in a larger one is no line of its own
TALL_PX = 90.0  # a line that seems so tall should have been seen at a smaller size too
DOUBTED = 0.7  # of its score is what it is worth if it was not
IN_TILED = 0.5  # of a line that lies in a tiled mark belongs to it
SEEN = 0.6  # of a line that must have been seen at a smaller size
AS_SURE = 0.2  # unless the larger one is so much less sure
SCORE_AT_ENDS = (0.93, 0.43)  # the least score at sensitivity 0 and at 1


@dataclass(frozen=True)
class FoundText:
    """All that looks like text in a photo, before a sensitivity chooses.

    Attributes:
        size: (height, width) of the photo.
        lines: the outlines with their scores, the surest first.
        letters: the pixels of each.
    """

    size: tuple[int, int]
    lines: tuple[Region, ...]
    letters: tuple[Letters, ...]

    def select(self, sensitivity: float = 0.5) -> Detection:
        """Return what is sure enough.

        Args:
            sensitivity: 0 keeps only what is certainly text, 1 everything that might be; more never finds less.

        Returns:
            The letters' mask, and the lines with their scores.
        """
        at_0, at_1 = SCORE_AT_ENDS
        least = at_0 + (at_1 - at_0) * check_sensitivity(sensitivity)
        mask = np.zeros(self.size, np.bool_)
        chosen = [i for i, line in enumerate(self.lines) if line.score >= least]
        for i in chosen:
            left, top, right, bottom = self.letters[i].box
            mask[top:bottom, left:right] |= self.letters[i].mask
        return Detection(mask, tuple(self.lines[i] for i in chosen))


def find_text(image: NDArray, *, box: Box | None = None, go_on: GoOn = without_end) -> FoundText:
    """Find everything that looks like text in a photo, or in a part of it.

    Args:
        image: (H, W, 3) uint8 or uint16 RGB, not modified.
        box: look only in here; smaller text is found than in the whole photo.
        go_on: called between steps; what it raises ends the search.

    Returns:
        All candidates, for `FoundText.select` to choose from.

    Raises:
        DetectionError: for a wrong image or a box outside of it, or when the text detector is not installed.
    """
    pixels = as_uint8(image)
    size = (pixels.shape[0], pixels.shape[1])
    left, top, right, bottom = cut_box(box, size)
    part = pixels[top:bottom, left:right]
    lines: list[Region] = []
    for scale in _scales(max(part.shape[:2])):
        go_on()
        scaled = _resize(part, scale)
        sure = 1.0 if scale <= 1 else ENLARGED
        seen = find_lines(text_probability(scaled), 1 / scale, (left, top))
        seen = [Region(line.polygon, line.score * sure) for line in seen]
        lines += [_doubted(line, lines) if _height_px(line) * scale > TALL_PX else line for line in seen]
    go_on()
    tiled = find_tiled_mark(part, offset=(left, top))
    go_on()
    lines = [line for line in lines if not _lies_in(line, tiled)]
    kept = _without_doubles(lines)
    found = list(tiled)
    for line in kept:  # of a printed page there are hundreds
        go_on()
        found.append((line, find_letters(pixels, line.polygon)))
    found.sort(key=lambda pair: -pair[0].score)
    return FoundText(size, tuple(line for line, _ in found), tuple(letters for _, letters in found))


def _scales(longer_px: int) -> list[float]:
    """The sizes to look at, as factors, the smallest first."""
    if longer_px < ENLARGE_BELOW_PX:
        return [1.0, 2.0]
    scales = [side / longer_px for side in LONGER_SIDES_PX if side < longer_px]
    largest = LONGER_SIDES_PX[-1] / longer_px
    return [*scales, 1.0] if largest >= 1 else scales


def _resize(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    if scale == 1.0:
        return image
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)


def _height_px(line: Region) -> float:
    return float(min(cv2.minAreaRect(line.polygon)[1]))


def _doubted(line: Region, seen: list[Region]) -> Region:
    """A line, worth less unless much of it was seen before."""
    shape = Polygon(line.polygon).buffer(0)
    for other in seen:
        common = Polygon(other.polygon).buffer(0).intersection(shape).area
        if other.score > line.score - AS_SURE and common > SEEN * shape.area:
            return line
    return Region(line.polygon, line.score * DOUBTED)


def _lies_in(line: Region, tiled: list[tuple[Region, Letters]]) -> bool:
    """Whether a line is a repeat of a tiled mark, whose pixels are known better from all of them."""
    shape = Polygon(line.polygon).buffer(0)
    inside = sum(Polygon(region.polygon).buffer(0).intersection(shape).area for region, _ in tiled)
    return bool(inside > IN_TILED * shape.area)


def _without_doubles(lines: list[Region]) -> list[Region]:
    """Drop lines that lie in a larger one: the same text seen at another size."""
    shapes = [(Polygon(line.polygon).buffer(0), line) for line in lines]
    kept: list[tuple[Polygon, Region]] = []
    for shape, line in sorted(shapes, key=lambda pair: -pair[0].area):
        if shape.is_empty:
            continue
        doubled = any(
            other.score > line.score - AS_SURE and outer.intersection(shape).area > COVERED * shape.area
            for outer, other in kept
        )
        if not doubled:
            kept.append((shape, line))
    return [line for _, line in kept]
