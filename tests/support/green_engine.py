"""An engine that paints the hole green; stands in for the model, which has its own tests."""

from types import SimpleNamespace
from typing import Any

import numpy as np


class Engine:
    """Paints the hole green, keeps the options of every repair, and fails at photos of 13 rows."""

    device = "cuda"

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def repair(self, image: np.ndarray, mask: np.ndarray, **options: Any) -> SimpleNamespace:
        self.options.append(options)
        if image.shape[0] == 13:
            raise RuntimeError("CUDA error: unlucky\nsecond line")
        result = image.copy()
        result[mask] = (0, np.iinfo(image.dtype).max, 0)
        return SimpleNamespace(image=result, patches=[1] if mask.any() else [], notes=[])
