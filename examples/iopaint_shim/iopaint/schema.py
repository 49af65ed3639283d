"""The words that importing programs use for a repair: `InpaintRequest` and its choices, with IOPaint's names.

Every field is taken; of them all only the mask counts here: crops and sizes follow the hole.
"""

from enum import Enum
from typing import Any


class Choice(str, Enum):  # noqa: UP042, the importing program may run on Python 3.10
    """A choice that is also its text, as the JSON of a request wants it."""

    def __str__(self) -> str:
        return str(self.value)


class HDStrategy(Choice):
    """How IOPaint treats large photos."""

    ORIGINAL = "Original"
    RESIZE = "Resize"
    CROP = "Crop"


class LDMSampler(Choice):
    """Samplers of the model ldm."""

    ddim = "ddim"
    plms = "plms"


class CV2Flag(Choice):
    """Methods of the model cv2."""

    INPAINT_NS = "INPAINT_NS"
    INPAINT_TELEA = "INPAINT_TELEA"


class PowerPaintTask(Choice):
    """Tasks of the model PowerPaint."""

    text_guided = "text-guided"
    context_aware = "context-aware"
    shape_guided = "shape-guided"
    object_remove = "object-remove"
    outpainting = "outpainting"


DEFAULTS: dict[str, Any] = {
    "image": None,
    "mask": None,
    "ldm_steps": 20,
    "ldm_sampler": LDMSampler.plms,
    "zits_wireframe": True,
    "hd_strategy": HDStrategy.CROP,
    "hd_strategy_crop_trigger_size": 800,
    "hd_strategy_crop_margin": 128,
    "hd_strategy_resize_limit": 1280,
    "prompt": "",
    "negative_prompt": "",
    "sd_seed": 42,
    "sd_keep_unmasked_area": True,
    "cv2_flag": CV2Flag.INPAINT_NS,
    "cv2_radius": 4,
}


class InpaintRequest:
    """A repair's fields as attributes; any others are kept too."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(DEFAULTS | fields)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"this InpaintRequest has no {name!r}")

    def __repr__(self) -> str:
        return f"InpaintRequest({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"

    def model_copy(self, *, update: dict[str, Any] | None = None) -> "InpaintRequest":
        """Return a copy with other fields."""
        return InpaintRequest(**(vars(self) | (update or {})))

    def model_dump(self) -> dict[str, Any]:
        """Return the fields."""
        return dict(vars(self))
