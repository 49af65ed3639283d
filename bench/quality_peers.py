"""Own the methods under comparison: the classical peers, and a network's three ways to fill a hole.

Every method is `fill(image, hole) -> image`: (H, W, 3) uint8 RGB and (H, W) bool in, a new image out that differs from
the old one inside the hole only (a whole repair: inside the hole it grew). Classical peers are named, so that a worker
process can run them and a cache can know them; networks are objects that hold their weights.

Peers: Telea 2004 and Navier-Stokes (Bertalmio et al. 2001) as in OpenCV, radius 5; biharmonic (Damelin and Hoang 2018)
as in scikit-image. Knows nothing of protocols or figures.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from inference import Inpainter

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]

OPENCV_RADIUS_PX = 5
BIHARMONIC_MARGIN_PX = 8
# Its sparse solve takes 1 s and 0.5 GB for 50,000 hole pixels and grows faster than they do.
BIHARMONIC_MAX_HOLE_PX = 100_000
SQUEEZED_SIDE_PX = 512


def fill_telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill by fast marching (OpenCV, radius 5)."""
    return _opencv_fill(image, hole, cv2.INPAINT_TELEA)


def fill_navier_stokes(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill along isophotes (OpenCV, radius 5)."""
    return _opencv_fill(image, hole, cv2.INPAINT_NS)


def fill_biharmonic(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Fill by solving the biharmonic equation (scikit-image) inside the hole's bounds.

    The stencil reaches two pixels past the hole, so a crop with a margin changes nothing. A hole of more than 100,000
    pixels is solved on the photo reduced (INTER_AREA) until it has no more, and the fill is enlarged bicubically: such
    a fill has no detail that the reduction could lose.
    """
    # Imported here: scikit-image brings SciPy, which the other methods do without.
    from skimage.restoration import inpaint_biharmonic

    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    window = (
        slice(max(0, int(rows[0]) - BIHARMONIC_MARGIN_PX), int(rows[-1]) + 1 + BIHARMONIC_MARGIN_PX),
        slice(max(0, int(columns[0]) - BIHARMONIC_MARGIN_PX), int(columns[-1]) + 1 + BIHARMONIC_MARGIN_PX),
    )
    crop, crop_hole = image[window], hole[window]
    scale = min(1.0, (BIHARMONIC_MAX_HOLE_PX / int(hole.sum())) ** 0.5)
    if scale < 1.0:
        size = (max(1, round(crop.shape[1] * scale)), max(1, round(crop.shape[0] * scale)))
        small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        small_hole = cv2.resize(crop_hole.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 0
        solved = np.clip(inpaint_biharmonic(small, small_hole, channel_axis=2), 0.0, 1.0).astype(np.float32)
        filled = cv2.resize(solved, (crop.shape[1], crop.shape[0]), interpolation=cv2.INTER_CUBIC)
    else:
        filled = inpaint_biharmonic(crop, crop_hole, channel_axis=2)
    result = image.copy()
    filled_8bit = np.rint(np.clip(filled, 0.0, 1.0) * 255.0).astype(np.uint8)
    result[window][crop_hole] = filled_8bit[crop_hole]
    return result


CLASSICAL: dict[str, Fill] = {
    "telea": fill_telea,
    "navier-stokes": fill_navier_stokes,
    "biharmonic": fill_biharmonic,
}


class NetworkFill:
    """A generator run once on the whole image, whose sides have to be multiples of 8; no crop plan, no feather.

    Args:
        weights: file to load, as `lama.checkpoint.load_generator` takes it; None is the embedded one.
        device: torch device name.
        precision: "fp32", "bf16" or "fp16".
        form: "fused" (what the engine runs) or "published" (the definition; fp32 only).
        rim: match the prediction to the photo at the hole's rim, as the engine does with every prediction.
    """

    def __init__(
        self,
        weights: Path | None,
        *,
        device: str,
        precision: str = "fp32",
        form: str = "fused",
        rim: bool = True,
    ) -> None:
        import torch

        from lama.checkpoint import load_generator

        generator = load_generator(weights)
        self._device = device
        self._rim = rim
        self._model: nn.Module = generator.to(device)
        if form == "fused":
            from lama.fast_generator import FastGenerator

            dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
            self._model = FastGenerator(generator, device=device, dtype=dtype)
        elif precision != "fp32":
            raise ValueError(f"the published form runs in fp32, not {precision}; use form='fused'")

    def __call__(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Fill the hole with the prediction, rounded; everything else stays."""
        return self._fill(image, hole, rim=self._rim)

    def bare(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Fill with the network's prediction as it is, not matched at the rim."""
        return self._fill(image, hole, rim=False)

    def _fill(self, image: np.ndarray, hole: np.ndarray, *, rim: bool) -> np.ndarray:
        import torch

        from tensor_ops.seam_correction import correct_seam

        with torch.inference_mode():
            pixels = torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None].float() / 255.0
            mask = torch.from_numpy(hole).to(self._device)[None, None].float()
            model_input = torch.cat([pixels * (1.0 - mask), mask], 1)
            prediction = self._model(model_input).float()
            if rim:
                prediction = correct_seam(prediction, model_input)
            rounded = (prediction[0] * 255.0).round().clamp(0, 255).to(torch.uint8)
        result = image.copy()
        result[hole] = rounded.permute(1, 2, 0).cpu().numpy()[hole]
        return result

    def squeezed(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Fill by running the whole photo at 512x512 and enlarging the fill: what a repair without a crop plan does."""
        size = (SQUEEZED_SIDE_PX, SQUEEZED_SIDE_PX)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        small_hole = cv2.resize(hole.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA) > 0
        filled = self(small, small_hole)
        enlarged = cv2.resize(filled, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_CUBIC)
        result = image.copy()
        result[hole] = enlarged[hole]
        return result


class RepairFill:
    """The whole `Inpainter.repair` with fixed options.

    Args:
        inpainter: the engine, loaded once and shared by several of these.
        **options: keywords of `repair`: dilate_px, feather_px, quality.
    """

    def __init__(self, inpainter: "Inpainter", **options: Any) -> None:
        self._inpainter = inpainter
        self._options = options

    def __call__(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Return the repaired image."""
        return self._inpainter.repair(image, hole, **self._options).image


def dilate_as_repair(hole: np.ndarray, image: np.ndarray | None, *, dilate_px: int | None = None) -> np.ndarray:
    """Return the hole of an image dilated as `repair` grows it, so that a peer can be given the same dilation."""
    from masks.shadows import dilate_in_photo

    dilated = dilate_in_photo(hole, image, dilate_px=dilate_px)
    if dilated is None:
        return hole.copy()
    left, top, right, bottom = dilated.box
    whole = np.zeros_like(hole)
    whole[top:bottom, left:right] = dilated.missing
    return whole


def _opencv_fill(image: np.ndarray, hole: np.ndarray, algorithm: int) -> np.ndarray:
    filled = cv2.inpaint(image, hole.astype(np.uint8) * 255, OPENCV_RADIUS_PX, algorithm)
    result = image.copy()
    result[hole] = filled[hole]
    return result
