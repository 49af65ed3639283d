"""Own the sheet of large holes: both networks beside the photo.

    .venv/bin/python bench/large_holes_sheet.py --photos DIR --masks DIR --sources FILE.csv [PHOTO:KIND ...]

A row is the hole, the fill with `large_holes: accurate`, the fill with `large_holes: crisp` (the default), and the
photo, around the hole, on the network protocol's squares of 512 px. Writes docs/sheet-large-holes.jpg and its credits.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # Run as a file, Python looks for imports beside it; the rooms lie one folder up.
    sys.path[0] = str(ROOT)

import numpy as np  # noqa: E402

from bench import given  # noqa: E402
from bench.quality_peers import Fill, RepairFill  # noqa: E402
from bench.quality_protocols import make_cases  # noqa: E402
from bench.quality_sheet import (  # noqa: E402
    below,
    beside,
    focus_window,
    save_with_credits,
    text_strip,
    tile,
    tint,
)

TILE_PX = 300
COLUMNS = ("hole", "large_holes: accurate", "large_holes: crisp (default)", "photo")
ROWS = (
    "kodim11.png:object",
    "00082.jpg:object",
    "kodim02.png:thick",
    "00000.jpg:object",
    "00037.jpg:object",
    "00091.jpg:object",
    "kodim20.png:object",
)


def draw(rows: Sequence[str], photos: Path, masks: Path, fills: Sequence[Fill]) -> np.ndarray:
    """Return the sheet.

    Args:
        rows: PHOTO:KIND, the photo's file name and the kind of hole.
        photos: their folder.
        masks: folder of <kind>/<photo>.png.
        fills: one for each of the middle columns.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    drawn = [beside([text_strip(name, TILE_PX) for name in COLUMNS])]
    for row in rows:
        name, kind = row.split(":")
        (case,) = make_cases(photos / name, "network", [kind], masks)
        pictures = [tint(case.clean, case.hole), *(fill(case.given, case.hole) for fill in fills), case.clean]
        window = focus_window(case.hole)
        drawn.append(beside([tile(picture[window], side_px=TILE_PX) for picture in pictures]))
    return below(drawn)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill, draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=given.folder, required=True)
    parser.add_argument("--masks", type=given.folder, required=True)
    parser.add_argument("--sources", type=given.file, required=True, help="table of the photos' authors and licences")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "sheet-large-holes.jpg")
    parser.add_argument("rows", nargs="*", default=ROWS, metavar="PHOTO:KIND")
    options = parser.parse_args(arguments)
    from inference import Inpainter

    fills = [
        RepairFill(Inpainter.load(device="cpu", large_holes=choice), dilate_px=0) for choice in ("accurate", "crisp")
    ]
    sheet = draw(options.rows, options.photos, options.masks, fills)
    shown = {str(place): options.photos / row.split(":")[0] for place, row in enumerate(options.rows, start=1)}
    title = "Photos on the sheet of large holes, top to bottom."
    save_with_credits(sheet, options.out, title, shown, options.sources)


if __name__ == "__main__":
    main()
