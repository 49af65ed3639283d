"""Own two figures of a large hole's look: how much texture there is, and how much of it is a mesh.

Colour errors reward blur, and a perceptual distance is what training asks for, so neither tells whether a large hole
looks like a photo. Texture is what is left of the grey photo when its mean over 5x5 pixels is taken away.

    texture   root of the texture's energy over the hole, the fill's over the photo's: 1 is right, 0 is blur
    periodic  part of the fill's texture that repeats every 8 px, the network's stride: in squares of 64 px, over the
              cells of 8 px that lie in the hole as a whole, the energy of their mean over their mean energy. A photo's
              own is near 1/64, which chance gives. NaN where no square is nine tenths hole.

Images are (H, W, 3) uint8 RGB, holes (H, W) bool, not modified.
"""

from dataclasses import dataclass

import cv2
import numpy as np

TEXTURE_WINDOW_PX = 5
PERIOD_PX = 8
SQUARE_CELLS, STEP_CELLS = 8, 4
LEAST_SHARE = 0.9  # of a square's cells that lie in the hole
SMALLEST_ENERGY = 1e-6  # of texture, in squared grey levels: a photo without any is compared with this


@dataclass(frozen=True)
class Texture:
    """The figures of one fill; `photo_periodic` is the photo's own."""

    texture: float
    periodic: float
    photo_periodic: float


NO_TEXTURE = Texture(float("nan"), float("nan"), float("nan"))


def measure_texture(result: np.ndarray, original: np.ndarray, hole: np.ndarray) -> Texture:
    """Return both figures of a fill.

    Args:
        result: the photo with its hole filled.
        original: the photo.
        hole: what was filled; at least one pixel.

    Returns:
        The figures; NaN where they can't be told.
    """
    fill, truth = fine_part(result), fine_part(original)
    energies = [float(np.mean(np.square(part[hole]))) for part in (fill, truth)]
    ratio = float(np.sqrt(energies[0] / max(energies[1], SMALLEST_ENERGY)))
    return Texture(ratio, periodic_share(fill, hole), periodic_share(truth, hole))


def fine_part(image: np.ndarray) -> np.ndarray:
    """Return (H, W) float32 grey levels minus their mean over 5x5 pixels."""
    grey = image.mean(2, dtype=np.float32)
    window = (TEXTURE_WINDOW_PX, TEXTURE_WINDOW_PX)
    return grey - cv2.blur(grey, window, borderType=cv2.BORDER_REFLECT_101)


def periodic_share(fine: np.ndarray, hole: np.ndarray) -> float:
    """Return which part of a texture, (H, W), repeats every 8 px inside a hole; NaN for a hole without a square."""
    rows, columns = (side // PERIOD_PX for side in fine.shape)
    height, width = rows * PERIOD_PX, columns * PERIOD_PX
    cells = fine[:height, :width].reshape(rows, PERIOD_PX, columns, PERIOD_PX).swapaxes(1, 2)
    by_cell = hole[:height, :width].reshape(rows, PERIOD_PX, columns, PERIOD_PX)
    whole: np.ndarray = np.logical_and.reduce(by_cell, (1, 3))
    repeated = total = 0.0
    for top in range(0, rows - SQUARE_CELLS + 1, STEP_CELLS):
        for left in range(0, columns - SQUARE_CELLS + 1, STEP_CELLS):
            square = np.s_[top : top + SQUARE_CELLS, left : left + SQUARE_CELLS]
            if whole[square].mean() >= LEAST_SHARE:
                inside = cells[square][whole[square]].astype(np.float64)
                repeated += float(np.square(inside.mean(0)).mean())
                total += float(np.square(inside).mean())
    return repeated / total if total > 0 else float("nan")
