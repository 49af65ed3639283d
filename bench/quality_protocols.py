"""Own the three protocols: which pixels a method is given, what it has to fill, and what it is scored against.

    network  the centre square of the photo and of its mask, both resized to 512x512 with INTER_AREA; the hole is every
             pixel the resized mask touches (> 0). Judges one prediction: the network, matched to the photo at the rim
             as the engine does with every prediction, and the bare network beside it.
    photo    the photo at its own size with its mask as it is. Judges the whole repair; these masks are cut from clean
             photos, so nothing has to be dilated.
    overlay  the photo with an overlay drawn onto it, saved as JPEG quality 85 and read back; the hole is alpha > 0.5,
             so the antialiased rim and the JPEG halo stay outside it, as with a mask painted by hand. Scored against
             the clean photo over the hole dilated by 16 px.

Images are (H, W, 3) uint8 RGB, masks (H, W) bool. Knows nothing of methods or figures.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bench.quality_overlays import MASK_ALPHA, OVERLAY_KINDS, draw_overlay, jpeg_round_trip, overlay_seed

MASK_KINDS = ("thin", "medium", "thick", "object", "text", "blemish")
PROTOCOLS = ("network", "photo", "overlay")
NETWORK_SIDE_PX = 512
OVERLAY_SCORED_PX = 16
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})


@dataclass(frozen=True, eq=False)
class Case:
    """One photo with one kind of hole.

    clean is the truth, given what a method sees, hole what it has to fill, scored where it is judged.
    """

    protocol: str
    photo: str
    kind: str
    clean: np.ndarray
    given: np.ndarray
    hole: np.ndarray
    scored: np.ndarray

    def digest(self) -> str:
        """Return a hash of all that a method and a figure can depend on."""
        h = hashlib.blake2b(self.protocol.encode(), digest_size=16)
        for array in (self.clean, self.given, self.hole, self.scored):
            h.update(repr(array.shape).encode())
            h.update(np.ascontiguousarray(array).tobytes())
        return h.hexdigest()


def kinds_of(protocol: str) -> tuple[str, ...]:
    """Return the kinds of hole a protocol has, in the order of the table."""
    return OVERLAY_KINDS if protocol == "overlay" else MASK_KINDS


def list_photos(folder: Path, *, every: int = 1) -> list[Path]:
    """Return every n-th photo of a folder in sorted order; SystemExit with a sentence where there is none."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is no folder")
    photos = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    if not photos:
        raise SystemExit(f"no photos in {folder}: expected files ending in {', '.join(sorted(PHOTO_SUFFIXES))}")
    return photos[::every]


def read_rgb(path: Path) -> np.ndarray:
    """Read a photo as (H, W, 3) uint8 RGB; SystemExit with a sentence where it is none."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None:
        raise SystemExit(f"{path} is not a photo that can be read")
    return np.ascontiguousarray(bgr[:, :, ::-1])


def read_mask(path: Path) -> np.ndarray:
    """Read a mask file as (H, W) uint8, 255 = hole; SystemExit with a sentence where it is none."""
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None:
        raise SystemExit(f"{path} is not a mask that can be read")
    return mask


def centre_square(array: np.ndarray, *, side_px: int = NETWORK_SIDE_PX) -> np.ndarray:
    """Cut the centre square and resize it with INTER_AREA; works for photos and masks."""
    height, width = array.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(array[top : top + side, left : left + side], (side_px, side_px), interpolation=cv2.INTER_AREA)


def grow(mask: np.ndarray, radius_px: float) -> np.ndarray:
    """Return the mask dilated by a disc: every pixel within radius_px of a masked one."""
    distance_px = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return (distance_px <= radius_px) & mask.any()


def make_cases(photo: Path, protocol: str, kinds: Sequence[str], masks: Path | None) -> Iterator[Case]:
    """Yield the cases of one photo; a kind whose hole is empty (it may lie outside the centre square) is left out.

    Args:
        photo: the photo's file.
        protocol: one of PROTOCOLS.
        kinds: kinds of hole, from `kinds_of(protocol)`.
        masks: folder with one folder of masks per kind, `<kind>/<photo's stem>.png`; not used by overlay.

    Yields:
        one case per kind, in the order of `kinds`.
    """
    clean = read_rgb(photo)
    if protocol == "network":
        clean = centre_square(clean)
    for kind in kinds:
        if protocol == "overlay":
            case = overlay_case(clean, photo.stem, kind)
        else:
            if masks is None:
                raise ValueError(f"protocol {protocol} needs a folder of masks")
            mask = read_mask(masks / kind / f"{photo.stem}.png")
            hole = (centre_square(mask) if protocol == "network" else mask) > 0
            case = Case(protocol, photo.stem, kind, clean, clean, hole, hole)
        if case.hole.any():
            yield case


def overlay_case(clean: np.ndarray, photo: str, kind: str) -> Case:
    """Draw an overlay, save and read it, and mask it the way people do: a little too tight."""
    drawn, alpha = draw_overlay(clean, kind, seed=overlay_seed(photo, kind))
    hole = alpha > MASK_ALPHA
    return Case("overlay", photo, kind, clean, jpeg_round_trip(drawn), hole, grow(hole, OVERLAY_SCORED_PX))
