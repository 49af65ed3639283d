"""Make the picture at the top of the README: a photo, what was painted over, and the result, side by side.

The program itself repairs the photo, with what it would use by default. The credit of the photo is written into the
picture as its JPEG comment and into both READMEs in place of the line below the picture; a test compares the two.

    .venv/bin/python docs/make_picture.py PHOTO --credit "Photo: NAME, LICENCE" --mask MASK.png

The picture in use is of github.com/FaunaMap/OpenNature, birds/pluvialis-squatarola/large.jpg (1024x683), with

    --credit "Photo: FaunaMap contributors (OpenNature), CC0 1.0" --stroke "52 636,200 630,262"
    --stroke "70 640,300 640,385 600,400" --stroke "45 590,420 520,445" --stroke "50 595,330 560,395"
    --stroke "24 458,468 540,450" --stroke "16 596,470 594,555" --stroke "16 634,465 622,520 616,572"
    --stroke "16 580,210 610,205"
"""

import argparse
import re
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from imaging import Stroke, open_photo, rasterize, read_mask  # noqa: E402
from inference import Inpainter  # noqa: E402

PANEL_HEIGHT_PX = 480
GAP_PX = 8
TINT = np.array([255, 64, 64], np.float32)
OPACITY = 0.6
CREDIT_LINE = re.compile(r"^(<!-- picture-credit -->|\*\(?Photo: .*\*)$", re.MULTILINE)


def parse_stroke(text: str) -> Stroke:
    """Return the stroke of "RADIUS X,Y X,Y ...", in image pixels."""
    radius, *points = text.split()
    x_y = [point.split(",") for point in points]
    return Stroke(points=tuple((float(x), float(y)) for x, y in x_y), radius=float(radius), erase=False)


def tint_hole(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return a copy of `image` (H, W, 3) with the hole painted over as the page shows it."""
    painted = image.astype(np.float32)
    painted[mask] = (1 - OPACITY) * painted[mask] + OPACITY * TINT
    return painted.round().astype(np.uint8)


def side_by_side(panels: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the panels (H, W, 3) of one size in a row at most PANEL_HEIGHT_PX high, with white gaps."""
    height, width = panels[0].shape[:2]
    scale = min(1.0, PANEL_HEIGHT_PX / height)
    size = (round(width * scale), round(height * scale))
    scaled = [cv2.resize(panel, size, interpolation=cv2.INTER_AREA) for panel in panels]
    gap = np.full((size[1], GAP_PX, 3), 255, np.uint8)
    return np.concatenate([part for panel in scaled for part in (gap, panel)][1:], axis=1)


def main() -> None:
    """Repair the photo and write the picture."""
    parser = argparse.ArgumentParser(description="Make docs/before-mask-after.jpg.")
    parser.add_argument("photo", type=Path)
    parser.add_argument("--credit", required=True, help='"Photo: NAME, LICENCE"; kept with the picture')
    parser.add_argument("--mask", type=Path, help="mask file, above 127 = hole")
    parser.add_argument("--stroke", action="append", default=[], type=parse_stroke, help='"RADIUS X,Y X,Y ..."')
    parser.add_argument("--weights", help="weights file or name; default: what the program would use")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "before-mask-after.jpg")
    arguments = parser.parse_args()
    if not arguments.credit.startswith("Photo: "):
        parser.error('--credit must begin with "Photo: "')

    image = open_photo(arguments.photo.read_bytes()).image
    size = image.shape[:2]
    mask = rasterize(arguments.stroke, size)
    if arguments.mask:
        mask |= read_mask(arguments.mask.read_bytes(), size)
    result = Inpainter.load(arguments.weights).repair(image, mask)
    picture = Image.fromarray(side_by_side([image, tint_hole(image, mask), result.image]))
    picture.save(arguments.output, quality=88, optimize=True, comment=arguments.credit.encode())
    if arguments.output == ROOT / "docs" / "before-mask-after.jpg":
        for readme in (ROOT / "README.md", ROOT / "README.zh-CN.md"):
            text = readme.read_text(encoding="utf-8")
            readme.write_text(CREDIT_LINE.sub(lambda _: f"*{arguments.credit}*", text, count=1), encoding="utf-8")
    print(f"{arguments.output}: {picture.width}x{picture.height}, stages {result.timings_ms}")


if __name__ == "__main__":
    main()
