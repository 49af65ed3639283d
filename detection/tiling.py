"""A mark that is tiled over a whole photo, however faint: found because it repeats, not because it can be read.

The photo's fine detail is compared with itself at all distances (autocorrelation); where a mark repeats, a lattice of
peaks stands out. Folding the photo onto one cell of that lattice averages the scene away and leaves the mark, as a
watermark attack on many photos does (Dekel 2017), from a single one. Bricks and windows repeat too: so the mark must be
there in nearly all cells, and the text network must read letters in the clean average. A caption in a few of the cells
shows in their average as well: so letters are read in the cells' median too, from which it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.found import Region, outline_of
from detection.letters import Letters
from detection.text_lines import find_lines
from detection.text_network import text_probability

WORK_PX = 1024  # longer side that the lattice is looked for at
LEAST_PERIOD_PX = 40.0  # of the lattice there: letters repeat at less
DETAIL_PX = 2.5  # standard deviation of what is fine detail to the autocorrelation
BEHIND_PX = 12.0  # and of what lies behind the mark
LIMIT = 1.5  # times the typical detail: more does not count for more, or the scene's edges would outweigh the mark
PEAK = 7.0  # standard deviations that a peak stands out
MOST_PEAKS = 16  # that are tried with each other
MOST_LATTICES = 4
LEAST_CELLS = 5.0  # that lie in the photo
SURE = 4.5  # standard errors of a pixel of the mark in the average
TOUCHING = 2.2
STRONG, RIM = 0.55, 0.3  # of the mark's typical strength
EDGE = 0.18  # of it at full size, where the rim is softer: more would leave a shimmer of the letters
AROUND_LINE_PX = 48  # what the network sees besides a line
READABLE = 0.4  # score of letters in the average from which on a lattice is a watermark
EVERYWHERE = 0.75  # share of the cells that hold the mark
MOST_SHARE = 0.4  # of the photo that a mark may cover

Field = NDArray[Any]


@dataclass(frozen=True)
class _Average:
    """What repeats, laid out over the photo at reduced size.

    strength, errors    (h, w) float32, of the average and in its standard errors
    everywhere          share of the cells that hold it
    place, places       (h, w) int32, which of a cell's so many pixels each pixel is
    """

    strength: Field
    errors: Field
    everywhere: float
    place: Field
    places: int


def find_tiled_mark(image: NDArray[np.uint8], offset: tuple[int, int]) -> list[tuple[Region, Letters]]:
    """Find a mark that is tiled over a photo.

    Args:
        image: (H, W, 3) uint8 RGB, not modified.
        offset: where the image lies in the photo, x and y; added to all that is returned.

    Returns:
        Each repeat of the mark with its pixels; nothing where nothing repeats.
    """
    height, width = image.shape[:2]
    scale = min(1.0, WORK_PX / max(height, width))
    size = (round(width * scale), round(height * scale))
    if min(size) < 3 * LEAST_PERIOD_PX:
        return []
    grey = cv2.cvtColor(cv2.resize(image, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    lattices = _find_lattices(_detail(grey, DETAIL_PX))
    if not lattices:
        return []
    detail = _detail(grey, BEHIND_PX)
    averages = [average for lattice in lattices if (average := _fold(detail, lattice)).everywhere >= EVERYWHERE]
    if not averages:
        return []
    average = max(averages, key=lambda average: float((average.errors > SURE).mean()))
    mark, line = _read(average)
    if mark is None or line is None or not _is_readable(_median(detail, average), line):
        return []
    full = cv2.resize(mark, (width, height), interpolation=cv2.INTER_LINEAR) > EDGE
    return _apart(full, line.score, offset, round(7 / scale))


def _detail(grey: Field, sigma_px: float) -> Field:
    """Fine detail, limited to what is typical."""
    detail = grey - cv2.GaussianBlur(grey, (0, 0), sigma_px)
    limit = max(2.0, LIMIT * 1.4826 * float(np.median(np.abs(detail))))
    if sigma_px == BEHIND_PX:
        limit = max(limit, 24.0)
    return np.clip(detail, -limit, limit)


def _find_lattices(detail: Field) -> list[Field]:
    """What may be the two shortest steps (2, 2), rows (x, y), after which the detail repeats, the likeliest first."""
    height, width = detail.shape
    padded = (cv2.getOptimalDFTSize(2 * height), cv2.getOptimalDFTSize(2 * width))
    sums = np.fft.irfft2(np.abs(np.fft.rfft2(detail, padded)) ** 2, padded)
    overlap = np.fft.irfft2(np.abs(np.fft.rfft2(np.ones_like(detail), padded)) ** 2, padded)
    # Distances up to 0.7 of a side, the half plane below the middle: y from 0, x from -reach_x.
    reach_x, reach_y = int(0.7 * width), int(0.7 * height)
    likeness = np.roll(sums / np.maximum(overlap, 1.0), reach_x, axis=1)[: reach_y + 1, : 2 * reach_x + 1]
    weight = np.sqrt(np.roll(overlap, reach_x, axis=1)[: reach_y + 1, : 2 * reach_x + 1] / detail.size)
    likeness = likeness.astype(np.float32)
    likeness -= cv2.GaussianBlur(likeness, (0, 0), 6.0)
    y, x = np.mgrid[: reach_y + 1, -reach_x : reach_x + 1]
    far = np.hypot(x, y) >= LEAST_PERIOD_PX
    peaks = likeness * weight
    spread = 1.4826 * float(np.median(np.abs(peaks[far])))
    peaks = np.where(far & ((y > 0) | (x > 0)), peaks / max(spread, 1e-9), 0).astype(np.float32)
    top = cv2.dilate(peaks, np.ones((9, 9), np.uint8))
    rows, columns = np.nonzero((peaks >= top) & (peaks > PEAK))
    strongest = np.argsort(-peaks[rows, columns])[:MOST_PEAKS]
    steps = np.stack([columns - reach_x, rows], 1)[strongest].astype(np.float64)
    tried: dict[tuple[int, ...], tuple[float, Field]] = {}
    for i in range(len(steps)):
        for j in range(i):
            lattice = _shortest(steps[i], steps[j])
            cell_px = abs(float(np.linalg.det(lattice)))
            if not LEAST_PERIOD_PX**2 <= cell_px <= detail.size / LEAST_CELLS:
                continue
            if min(np.hypot(*lattice.T)) < LEAST_PERIOD_PX - 1:
                continue
            name = tuple((lattice / 3).round().astype(int).ravel().tolist())
            if name not in tried:
                tried[name] = (_support(peaks, lattice, (reach_x, reach_y)), lattice)
    best = sorted(tried.values(), key=lambda pair: -pair[0])[:MOST_LATTICES]
    return [_fit_lattice(peaks, lattice, (reach_x, reach_y)) for support, lattice in best if support > 0]


def _shortest(first: Field, second: Field) -> Field:
    """The shortest two steps (2, 2) of the lattice that two steps span (Lagrange, Gauss)."""
    first, second = first.copy(), second.copy()
    for _ in range(30):
        if first @ first > second @ second:
            first, second = second, first
        times = round(float(first @ second) / max(float(first @ first), 1.0))
        if not times:
            break
        second = second - times * first
    return np.stack([first, second])


def _support(peaks: Field, lattice: Field, reach: tuple[int, int]) -> float:
    """How well the peaks of a lattice stand out, all of them: more for more, less for those that are missing."""
    counts = np.array([(i, j) for i in range(-6, 7) for j in range(-6, 7) if (i, j) != (0, 0)])
    places = (counts @ lattice).round().astype(int)
    columns, rows = places[:, 0] + reach[0], places[:, 1]
    inside = (rows >= 0) & (rows < peaks.shape[0]) & (columns >= 0) & (columns < peaks.shape[1])
    inside &= np.hypot(places[:, 0], places[:, 1]) < 0.6 * min(reach)
    if np.count_nonzero(inside) < 4:
        inside = (rows >= 0) & (rows < peaks.shape[0]) & (columns >= 0) & (columns < peaks.shape[1])
    if not inside.any():
        return 0.0
    near = cv2.dilate(peaks, np.ones((7, 7), np.uint8))[rows[inside], columns[inside]]
    return float(np.minimum(near, 3 * np.median(near) + 1).mean() * np.sqrt(len(near)))


def _fit_lattice(peaks: Field, lattice: Field, reach: tuple[int, int]) -> Field:
    """Fit the two steps to all peaks, the near ones first: far ones tell fractions of a pixel."""
    counts = np.array([(i, j) for i in range(-12, 13) for j in range(-12, 13) if (i, j) != (0, 0)])
    for limit in (1, 2, 4, 12):
        near = counts[np.abs(counts).max(axis=1) <= limit]
        found, used = [], []
        for count in near:
            x, y = count @ lattice
            column, row = round(x) + reach[0], round(y)
            if not (3 <= row < peaks.shape[0] - 3 and 3 <= column < peaks.shape[1] - 3):
                continue
            part = peaks[row - 3 : row + 4, column - 3 : column + 4]
            if part.max() < 4:
                continue
            v, u = np.unravel_index(int(part.argmax()), part.shape)
            weights = np.clip(part - 0.5 * part.max(), 0, None)
            weights[np.hypot(*np.mgrid[-v : 7 - v, -u : 7 - u]) > 2] = 0
            inner = np.mgrid[-3:4, -3:4]
            found.append(
                (
                    column - reach[0] + float((weights * inner[1]).sum() / weights.sum()),
                    row + float((weights * inner[0]).sum() / weights.sum()),
                )
            )
            used.append(count)
        if len(found) >= 2 and np.linalg.matrix_rank(np.array(used)) == 2:
            lattice = np.linalg.lstsq(np.array(used, np.float64), np.array(found), rcond=None)[0]
    return lattice


def _fold(detail: Field, lattice: Field) -> _Average:
    """Average the detail over all cells of the lattice and lay the average out over the photo again."""
    height, width = detail.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    inverse = np.linalg.inv(lattice).astype(np.float32)  # pixels to cells
    across = x * inverse[0, 0] + y * inverse[1, 0]
    down = x * inverse[0, 1] + y * inverse[1, 1]
    sides = [max(8, round(float(np.hypot(*step)))) for step in lattice]
    first, second = np.floor(across), np.floor(down)
    at = ((across - first) * sides[0]).astype(np.int32) % sides[0]
    at = at * sides[1] + ((down - second) * sides[1]).astype(np.int32) % sides[1]
    places = sides[0] * sides[1]
    count = np.maximum(np.bincount(at.ravel(), minlength=places), 1)
    mean = np.bincount(at.ravel(), detail.ravel(), places) / count
    squares = np.bincount(at.ravel(), (detail**2).ravel(), places) / count
    error = np.sqrt(np.maximum(squares - mean**2, 1.0) / np.maximum(count - 1, 1))
    strength = mean[at].astype(np.float32)
    # In how many cells the detail goes with the average of all others.
    cell = ((first - first.min()) * 4096 + (second - second.min())).astype(np.int64)
    _, cell = np.unique(cell, return_inverse=True)
    cell = cell.ravel()
    others = ((mean * count)[at] - detail) / np.maximum(count[at] - 1, 1)
    together = np.bincount(cell, (others * detail).ravel())
    large = np.bincount(cell) > 0.3 * abs(float(np.linalg.det(lattice)))
    everywhere = float((together[large] > 0).mean()) if large.any() else 0.0
    return _Average(strength, (np.abs(mean) / error)[at].astype(np.float32), everywhere, at, places)


def _median(detail: Field, average: _Average) -> Field:
    """The median over all cells, laid out over the photo, (h, w) float32."""
    place = average.place.ravel()
    order = np.lexsort((detail.ravel(), place))
    count = np.bincount(place, minlength=average.places)
    first = np.cumsum(count) - count
    middle = order[np.minimum(first + count // 2, len(order) - 1)]
    return detail.ravel()[middle][average.place].astype(np.float32)


def _is_readable(strength: Field, line: Region) -> bool:
    """Tell whether the network reads letters where `line` is; it is given that part alone, as all takes it a second."""
    left, top = np.maximum(line.polygon.min(axis=0).astype(int) - AROUND_LINE_PX, 0)
    right, bottom = line.polygon.max(axis=0).astype(int) + AROUND_LINE_PX
    smooth = cv2.GaussianBlur(strength, (0, 0), 0.8)[top:bottom, left:right]
    typical = float(np.percentile(np.abs(smooth), 95))  # letters cover more than a twentieth of such a part
    return any(  # bright letters, then dark ones
        max((one.score for one in find_lines(_letters_in(sign * smooth, typical))), default=0.0) >= READABLE
        for sign in (1, -1)
    )


def _letters_in(toward: Field, typical: float) -> NDArray[np.float32]:
    """The text network's answer to detail of this typical strength, letters being brighter."""
    shown = np.clip(128 + toward * (100 / max(typical, 1e-6)), 0, 255).astype(np.uint8)
    return text_probability(np.repeat(shown[..., None], 3, axis=2))


def _read(average: _Average) -> tuple[Field | None, Region | None]:
    """The mark (h, w) float32, its strength from 0 to 1, and its surest line; None when it is no mark."""
    smooth = cv2.GaussianBlur(average.strength, (0, 0), 0.8)
    strong = np.abs(smooth) * (average.errors > SURE)
    if np.count_nonzero(strong) < 0.002 * strong.size:
        return None, None
    typical = float(np.percentile(strong[strong > 0], 80))
    light = float(smooth[strong > 0.7 * typical].sum()) > 0
    toward = smooth if light else -smooth
    seeds = (toward > STRONG * typical) & (average.errors > SURE)
    pixels = (toward > RIM * typical) & (average.errors > TOUCHING)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(pixels.astype(np.uint8), connectivity=8)
    wanted = np.bincount(np.asarray(labels[seeds], np.int32), minlength=len(stats)) >= 3
    wanted[0] = False
    mark = wanted[labels]
    share = float(mark.mean())
    if not 0.003 < share < MOST_SHARE:
        return None, None
    line = max(find_lines(_letters_in(toward, typical)), key=lambda line: line.score, default=None)
    if line is None or line.score < READABLE:
        return None, None
    near = cv2.dilate(mark.astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.clip(toward / typical, 0, 1) * near, line


def _apart(
    mask: NDArray[np.bool_], score: float, offset: tuple[int, int], reach_px: int
) -> list[tuple[Region, Letters]]:
    """The repeats of a mark: what lies close together is one."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach_px + 1, 2 * reach_px + 1))
    near = cv2.dilate(mask.view(np.uint8), kernel).view(np.bool_)
    found = []
    for outline in outline_of(near):
        if len(outline) < 3:
            continue
        left, top = (max(0, int(v)) for v in outline.min(axis=0))
        right, bottom = (int(v) + 1 for v in outline.max(axis=0))
        inside = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(inside, [(outline - (left, top)).astype(np.int32)], 1)
        letters = inside.view(np.bool_) & mask[top:bottom, left:right]
        box = (left + offset[0], top + offset[1], right + offset[0], bottom + offset[1])
        found.append((Region(outline + np.array(offset, np.float32), score), Letters(box, letters)))
    return found
