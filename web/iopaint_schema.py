"""What IOPaint 1.6 takes and tells, as its clients know it: the fields of a repair, the models, the server's settings.

Names, types, defaults and limits are those of its published API, misspellings included. Of the fields of a repair only
image, mask and seed count here: crops, sizes and margins follow the hole (see docs/architecture.md), and everything
about diffusion has nothing to work on.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]

SAMPLERS = (
    "DPM++ 2M", "DPM++ 2M Karras", "DPM++ 2M SDE", "DPM++ 2M SDE Karras", "DPM++ SDE", "DPM++ SDE Karras", "DPM2",
    "DPM2 Karras", "DPM2 a", "DPM2 a Karras", "Euler", "Euler a", "Heun", "LMS", "LMS Karras", "DDIM", "PNDM", "UniPC",
    "LCM",
)  # fmt: skip
REMOVE_BG_MODELS = (
    "briaai/RMBG-1.4", "briaai/RMBG-2.0", "u2net", "u2netp", "u2net_human_seg", "u2net_cloth_seg", "silueta",
    "isnet-general-use", "birefnet-general", "birefnet-general-lite", "birefnet-portrait", "birefnet-dis",
    "birefnet-hrsod", "birefnet-cod", "birefnet-massive",
)  # fmt: skip
UPSCALERS = ("realesr-general-x4v3", "RealESRGAN_x4plus", "RealESRGAN_x4plus_anime_6B")
SEGMENTERS = (
    "vit_b", "vit_l", "vit_h", "sam_hq_vit_b", "sam_hq_vit_l", "sam_hq_vit_h", "mobile_sam", "sam2_tiny", "sam2_small",
    "sam2_base", "sam2_large", "sam2_1_tiny", "sam2_1_small", "sam2_1_base", "sam2_1_large",
)  # fmt: skip
LAMA = "lama"  # what every client calls the network, whichever is loaded


class InpaintRequest(BaseModel):
    """The body of POST /api/v1/inpaint; unknown keys are ignored, numbers may come as text."""

    image: str | None = None
    mask: str | None = None
    hd_strategy: str = "Crop"
    hd_strategy_crop_trigger_size: int = 800
    hd_strategy_crop_margin: int = 128
    hd_strategy_resize_limit: int = 1280
    sd_keep_unmasked_area: bool = True
    ldm_steps: int = 20
    ldm_sampler: str = "plms"
    zits_wireframe: bool = True
    prompt: str = ""
    negative_prompt: str = ""
    use_croper: bool = False
    croper_x: int = 0
    croper_y: int = 0
    croper_width: int = 512
    croper_height: int = 512
    use_extender: bool = False
    extender_x: int = 0
    extender_y: int = 0
    extender_width: int = 640
    extender_height: int = 640
    sd_scale: PositiveShare = 1.0
    sd_mask_blur: int = 11
    sd_strength: Share = 1.0
    sd_steps: int = 50
    sd_guidance_scale: float = 7.5
    sd_sampler: str = "UniPC"
    sd_seed: int = 42
    sd_match_histograms: bool = False
    sd_outpainting_softness: float = 20.0
    sd_outpainting_space: float = 20.0
    sd_lcm_lora: bool = False
    cv2_flag: Literal["INPAINT_NS", "INPAINT_TELEA"] = "INPAINT_NS"
    cv2_radius: int = 4
    paint_by_example_example_image: str | None = None
    p2p_image_guidance_scale: float = 1.5
    enable_controlnet: bool = False
    controlnet_conditioning_scale: Share = 0.4
    controlnet_method: str | None = "lllyasviel/control_v11p_sd15_canny"
    enable_brushnet: bool = False
    brushnet_method: str = "Sanster/brushnet_random_mask"
    brushnet_conditioning_scale: Share = 1.0
    enable_powerpaint_v2: bool = False
    powerpaint_task: Literal["text-guided", "context-aware", "shape-guided", "object-remove", "outpainting"] = (
        "text-guided"
    )
    fitting_degree: PositiveShare = 1.0


class AdjustMaskRequest(BaseModel):
    """The body of POST /api/v1/adjust_mask."""

    mask: str
    operate: Literal["expand", "shrink", "reverse"]
    kernel_size: int = Field(default=5, ge=0, le=1024)


class PluginRequest(BaseModel):
    """The body of POST /api/v1/run_plugin_gen_mask and run_plugin_gen_image."""

    name: str
    image: str
    clicks: list[list[float]] = []
    scale: float = 2.0


class SwitchPluginRequest(BaseModel):
    """The body of POST /api/v1/switch_plugin_model."""

    plugin_name: str
    model_name: str


class ModelRequest(BaseModel):
    """The body of POST /api/v1/model."""

    name: str


def model_info(name: str) -> dict[str, Any]:
    """Return what clients are told of an inpainting model."""
    return {
        "name": name, "path": name, "model_type": "inpaint", "is_single_file_diffusers": False, "need_prompt": False,
        "controlnets": [], "brushnets": [], "support_strength": False, "support_outpainting": False,
        "support_lcm_lora": False, "support_controlnet": False, "support_brushnet": False,
        "support_powerpaint_v2": False,
    }  # fmt: skip


def server_config(models: list[str], *, plugins: list[dict[str, Any]], file_manager: bool) -> dict[str, Any]:
    """Return the answer of GET /api/v1/server-config.

    Args:
        models: names to choose from, the first is the usual one.
        plugins: name and abilities of each plugin there is.
        file_manager: whether a folder of photos can be looked through.

    Returns:
        Every key that clients look for.
    """
    return {
        "plugins": plugins, "modelInfos": [model_info(name) for name in models],
        "removeBGModel": REMOVE_BG_MODELS[0], "removeBGModels": list(REMOVE_BG_MODELS),
        "realesrganModel": UPSCALERS[0], "realesrganModels": list(UPSCALERS),
        "interactiveSegModel": "sam2_1_tiny", "interactiveSegModels": list(SEGMENTERS),
        "enableFileManager": file_manager, "enableAutoSaving": True, "enableControlnet": False,
        "controlnetMethod": None, "disableModelSwitch": False, "isDesktop": False, "samplers": list(SAMPLERS),
    }  # fmt: skip
