"""PP-OCR's text detector: an image in, for every pixel the probability that it is the core of a line of text.

The network is PP-OCRv6 "small" (10 MB, Apache-2.0, by the PaddleOCR authors) as it lies in the `rapidocr` wheel, whose
code is not used. It runs in onnxruntime, which needs half of the processor time that OpenCV's DNN does
(`bench/results/detection-cpu.md`). It was trained on BGR images scaled to -1 to 1, and halves its input five times.
"""

from __future__ import annotations

import os
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.found import DetectorMissingError

WEIGHTS_NAME = "PP-OCRv6_det_small.onnx"
STEP_PX = 32
TILE_PX = 960  # a tile this large takes 200 MiB while it runs
OVERLAP_PX = 96  # a line of text that ends at a tile's edge is whole in the next one, or joined there
THREADS = 4  # more gain nothing at this size
_running = threading.Lock()  # one at a time: memory, and the repairs beside it


def find_weights() -> Path:
    """Return where the network's file lies; DetectorMissingError when its wheel is not installed."""
    spec = find_spec("rapidocr")
    places = spec.submodule_search_locations if spec else None
    for place in places or ():
        path = Path(place) / "models" / WEIGHTS_NAME
        if path.is_file():
            return path
    raise DetectorMissingError(
        "Finding text needs the package rapidocr (it carries the text detector). Install it first."
    )


@cache
def _session() -> Any:
    # Read when it is imported: else it writes an id of this machine to ~/.cache/Microsoft and sends what it runs there.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = min(THREADS, os.cpu_count() or 1)
    options.enable_cpu_mem_arena = False  # or it keeps the most that it ever used
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(find_weights()), options, providers=["CPUExecutionProvider"])


def text_probability(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the probability of every pixel, in tiles when the image is large.

    Args:
        image: (H, W, 3) uint8 RGB, not modified.

    Returns:
        (H, W) float32, 0 to 1.
    """
    height, width = image.shape[:2]
    found = np.zeros((height, width), np.float32)
    for top in _tile_starts(height):
        for left in _tile_starts(width):
            tile = image[top : top + TILE_PX, left : left + TILE_PX]
            place = found[top : top + TILE_PX, left : left + TILE_PX]
            np.maximum(place, _run(tile), out=place)
    return found


def _tile_starts(length: int) -> list[int]:
    """Where the tiles of a side start: evenly, each overlapping the next."""
    if length <= TILE_PX:
        return [0]
    count = -(-(length - OVERLAP_PX) // (TILE_PX - OVERLAP_PX))
    return [round(i * (length - TILE_PX) / (count - 1)) for i in range(count)]


def _run(tile: NDArray[Any]) -> NDArray[np.float32]:
    height, width = tile.shape[:2]
    right, below = -width % STEP_PX, -height % STEP_PX
    if right or below:
        tile = cv2.copyMakeBorder(tile, 0, below, 0, right, cv2.BORDER_REPLICATE)
    planes = tile[:, :, ::-1].transpose(2, 0, 1)  # (H, W, RGB) -> (BGR, H, W)
    scaled = planes.astype(np.float32) * (2 / 255) - 1
    session = _session()
    with _running:
        output = session.run(None, {session.get_inputs()[0].name: scaled[None]})[0]
    return np.asarray(output[0, 0, :height, :width], np.float32)
