"""Own the picture of thirty repairs for the docs: ten watermarks, ten objects, ten blemishes, before and after.

    .venv/bin/python bench/pairs.py --photos DIR --masks DIR --sources FILE.csv [--weights FILE] [--out docs/pairs.jpg]

Watermarks are drawn onto the photo and repaired as a person would, with the default dilation; objects and blemishes are
masks of the evaluation set, tinted in the picture before, repaired with no dilation as nothing of them sticks out.
Beside the picture a text file credits every photo in it, from the table of sources (columns file, author, licence,
source_repo, commit, path). Photos are taken evenly from the folder, so the same folder gives the same picture.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Run as a file, Python looks for imports beside it; the rooms lie one folder up.
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from bench import given  # noqa: E402
from bench.quality_protocols import list_photos, overlay_case, read_mask, read_rgb  # noqa: E402
from bench.quality_sheet import (  # noqa: E402
    below,
    beside,
    focus_window,
    save_with_credits,
    text_strip,
    tile,
    tint,
)

if TYPE_CHECKING:
    from inference import Inpainter

PAIRS_PER_KIND = 10
PAIRS_PER_ROW = 5
PAIR_TILE_PX = 220
PAIR_GAP_PX = 14
HEADING_PX = 34
SECTIONS = {"watermark": "Watermarks", "object": "Objects", "blemish": "Blemishes"}


def choose_photos(photos: Sequence[Path], count: int, *, start: int = 0) -> list[Path]:
    """Return `count` photos evenly spread over the list, none twice, beginning at number `start`.

    SystemExit with a sentence where there are fewer.
    """
    if len(photos) < count:
        raise SystemExit(f"{count} pairs need {count} photos; the folder has {len(photos)}")
    return [photos[(start + k * len(photos) // count) % len(photos)] for k in range(count)]


def make_pair(
    inpainter: "Inpainter", photo: Path, kind: str, number: int, masks: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Repair one photo and return the pictures (before, after), cropped to the same window."""
    clean = read_rgb(photo)
    if kind == "watermark":
        case = overlay_case(clean, photo.stem, ("text", "logo")[number % 2])
        before, hole = case.given, case.hole
        after = inpainter.repair(before, hole).image
        window = focus_window(hole, smallest_px=round(0.8 * min(hole.shape)))
    else:
        hole = read_mask(masks / kind / f"{photo.stem}.png") > 0
        before, after = tint(clean, hole), inpainter.repair(clean, hole, dilate_px=0).image
        window = focus_window(hole)
    return before[window], after[window]


def draw_pairs(inpainter: "Inpainter", chosen: dict[str, list[Path]], masks: Path) -> np.ndarray:
    """Return the whole picture: a heading per kind, then its pairs."""
    parts: list[np.ndarray] = []
    for kind, photos in chosen.items():
        tiles = []
        for number, photo in enumerate(photos):
            pair = make_pair(inpainter, photo, kind, number, masks)
            tiles.append(beside([tile(picture, side_px=PAIR_TILE_PX) for picture in pair]))
        rows = [
            beside(tiles[start : start + PAIRS_PER_ROW], gap_px=PAIR_GAP_PX)
            for start in range(0, len(tiles), PAIRS_PER_ROW)
        ]
        heading = text_strip(f"{SECTIONS[kind]}: before | after", rows[0].shape[1], height_px=HEADING_PX)
        parts += [heading, below(rows, gap_px=PAIR_GAP_PX)]
    return below(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and save the picture and its credits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=given.folder, default=os.environ.get("EVAL_PHOTOS"))
    parser.add_argument("--masks", type=given.folder, default=os.environ.get("EVAL_MASKS"))
    parser.add_argument("--sources", type=given.file, help="default: SOURCES-eval.csv beside the folder of photos")
    parser.add_argument("--weights", type=given.file, help="default: the embedded ones")
    parser.add_argument("--start", type=int, default=0, help="number of the first photo: another one, other pairs")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "pairs.jpg")
    options = parser.parse_args(arguments)
    if options.photos is None or options.masks is None:
        parser.error("--photos and --masks (or EVAL_PHOTOS and EVAL_MASKS) are needed")

    from inference import Inpainter

    photos = choose_photos(list_photos(options.photos), PAIRS_PER_KIND * len(SECTIONS), start=options.start)
    # Interleaved, so that every kind gets photos from the whole folder.
    chosen = {kind: photos[index :: len(SECTIONS)] for index, kind in enumerate(SECTIONS)}
    picture = draw_pairs(Inpainter.load(weights=options.weights), chosen, options.masks)
    shown = {f"{kind} {number}": photo for kind in chosen for number, photo in enumerate(chosen[kind], start=1)}
    sources = options.sources or options.photos.parent / "SOURCES-eval.csv"
    title = "Photos in the picture of before/after pairs, in reading order."
    save_with_credits(picture, options.out, title, shown, sources)


if __name__ == "__main__":
    main()
