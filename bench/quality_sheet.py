"""Own the pictures for the eye: crops around holes, side by side, with labels, saved as one small JPEG.

A row of the contact sheet is one photo and kind: what was given (the hole tinted; on the overlay protocol the overlay
as it is), a classical peer, ours, the original. Images are (H, W, 3) uint8 RGB, holes (H, W) bool; nothing is modified.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.quality_peers import CLASSICAL, Fill, dilate_as_repair
from bench.quality_protocols import make_cases
from bench.quality_scores import Setup

TILE_PX = 360  # large enough to judge a rim by eye
GAP_PX = 4
LABEL_PX = 18
TINT = (255, 40, 90)
SMALLEST_WINDOW_PX = 224
SMALLEST_WINDOW_PART = 0.4  # of the short side, so that a line of text is seen as one
WINDOW_PER_HOLE = 1.6
MAX_FILE_BYTES = 1_500_000


def draw_sheet(setup: Setup, fills: Mapping[str, Fill], *, peer: str = "navier-stokes") -> np.ndarray:
    """Fill every case of a setup with a peer and with ours, and return the sheet."""
    rows: dict[str, list[np.ndarray]] = {kind: [] for kind in setup.kinds}
    for photo in setup.photos:
        for case in make_cases(photo, setup.protocol, setup.kinds, setup.masks):
            overlay = case.protocol == "overlay"
            peer_hole = dilate_as_repair(case.hole, case.given, dilate_px=setup.dilate_px) if overlay else case.hole
            pictures = {
                f"{case.kind}, {case.photo}": case.given if overlay else tint(case.given, case.hole),
                peer: CLASSICAL[peer](case.given, peer_hole),
                **{name: fill(case.given, case.hole) for name, fill in fills.items()},
                "original": case.clean,
            }
            smallest_px = max(SMALLEST_WINDOW_PX, round(SMALLEST_WINDOW_PART * min(case.hole.shape)))
            window = focus_window(case.hole, smallest_px=smallest_px)
            rows[case.kind].append(beside([tile(p[window], label) for label, p in pictures.items()]))
    return below([row for kind in setup.kinds for row in rows[kind]])


def tint(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the image with the hole coloured half through and its outline drawn."""
    result = image.copy()
    result[hole] = (image[hole] * 0.4 + np.array(TINT) * 0.6).astype(np.uint8)
    thickness = max(1, round(max(image.shape) / 600))
    outlines, _ = cv2.findContours(hole.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(result, outlines, -1, (255, 255, 255), thickness)
    return result


def focus_window(hole: np.ndarray, *, smallest_px: int = SMALLEST_WINDOW_PX) -> tuple[slice, slice]:
    """Return the square window, 1.6 times the largest connected hole, that holds the most of the hole.

    It lies inside the image; where the image is smaller than the window, the window is the image's short side.
    """
    count, _, stats, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8))
    largest = stats[1:][np.argmax(stats[1:, cv2.CC_STAT_AREA])] if count > 1 else np.zeros(5, np.int32)
    longer_px = max(int(largest[cv2.CC_STAT_WIDTH]), int(largest[cv2.CC_STAT_HEIGHT]))
    side = min(max(smallest_px, round(longer_px * WINDOW_PER_HOLE)), *hole.shape)
    total = cv2.integral(hole.astype(np.uint8))
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    # Of the many windows that hold equally much, the middle one shows it with the most around it.
    rows, columns = np.nonzero(inside == inside.max())
    middle = int(np.argmin((rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2))
    top, left = int(rows[middle]), int(columns[middle])
    return slice(top, top + side), slice(left, left + side)


def tile(crop: np.ndarray, label: str = "", *, side_px: int = TILE_PX) -> np.ndarray:
    """Return a square crop at tile size, with a strip of text above it if there is any."""
    reduces = crop.shape[0] > side_px
    resized = cv2.resize(crop, (side_px, side_px), interpolation=cv2.INTER_AREA if reduces else cv2.INTER_CUBIC)
    return below([text_strip(label, side_px), resized], gap_px=0) if label else resized


def text_strip(text: str, width_px: int, *, height_px: int = LABEL_PX) -> np.ndarray:
    """Return black text on white."""
    strip = Image.new("RGB", (width_px, height_px), (255, 255, 255))
    font = ImageFont.load_default(size=height_px * 0.7)
    ImageDraw.Draw(strip).text((3, height_px // 2), text, fill=(0, 0, 0), font=font, anchor="lm")
    return np.asarray(strip)


def beside(pictures: Sequence[np.ndarray], *, gap_px: int = GAP_PX) -> np.ndarray:
    """Return pictures of one height in a row, on white."""
    gap = np.full((pictures[0].shape[0], gap_px, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.hstack(parts[:-1])


def below(pictures: Sequence[np.ndarray], *, gap_px: int = GAP_PX) -> np.ndarray:
    """Return pictures of one width in a column, on white."""
    gap = np.full((gap_px, pictures[0].shape[1], 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (picture, gap)]
    return np.vstack(parts[:-1])


def save_with_credits(picture: np.ndarray, file: Path, title: str, shown: Mapping[str, Path], sources: Path) -> None:
    """Save a picture as a small JPEG, the credits of its photos beside it, and say so.

    Args:
        picture: (H, W, 3) uint8 RGB.
        file: the JPEG.
        title: first line of the credits.
        shown: photo by place.
        sources: see `write_credits`; without it no credits are written.
    """
    size = save_small_jpeg(picture, file)
    credits_file = file.with_name(f"{file.stem}-credits.txt")
    if sources.exists():
        write_credits(credits_file, title, shown, sources)
    print(f"{file}: {size} bytes; {credits_file if sources.exists() else 'no credits'}")


def write_credits(file: Path, title: str, shown: Mapping[str, Path], sources: Path) -> None:
    """Write one line per photo of a picture: place in it, author, licence and where it comes from.

    Args:
        file: the text file.
        title: its first line.
        shown: photo by place.
        sources: CSV table with the columns file, author, licence, source_repo, commit, path.

    Raises:
        SystemExit: a photo has no row; with a sentence.
    """
    with sources.open(encoding="utf-8", newline="") as table:
        rows = {row["file"]: row for row in csv.DictReader(table)}
    lines = [title]
    for place, photo in shown.items():
        if photo.name not in rows:
            raise SystemExit(f"{sources} has no row for {photo.name}")
        row = rows[photo.name]
        origin = f"{row['source_repo']} {row['commit'][:12]} {row['path']}"
        lines.append(f"{place}: {photo.name}; {row['author']}; {row['licence']}; {origin}")
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_small_jpeg(picture: np.ndarray, file: Path, *, max_bytes: int = MAX_FILE_BYTES) -> int:
    """Save as JPEG, at quality 85 or as much lower as the size needs; return the bytes written."""
    file.parent.mkdir(parents=True, exist_ok=True)
    for quality in (85, 80, 75, 70, 60, 50, 40):
        Image.fromarray(picture).save(file, "JPEG", quality=quality, optimize=True)
        if file.stat().st_size <= max_bytes:
            break
    return file.stat().st_size
