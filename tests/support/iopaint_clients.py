"""What the programs that call IOPaint and lama-cleaner send, rebuilt from their wire format, and what they do with it.

Each function is one client: it takes an `httpx.Client` for the server, sends what that client sends, does with the
answer what that client does, and returns a few words for a table; an AssertionError says what did not hold.
"""

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import numpy as np
from PIL import Image

HEIGHT, WIDTH = 96, 128
HOLE = (slice(30, 60), slice(40, 90))


def picture(mode: str = "RGB") -> Image.Image:
    """A photo-like picture of 128 x 96 in one of Pillow's modes."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rgb = np.dstack([x * 2, y * 2, (x + y) % 256]).astype(np.uint8)
    if mode == "RGBA":
        return Image.fromarray(np.dstack([rgb, np.where(x > 100, 90, 255).astype(np.uint8)]), "RGBA")
    return Image.fromarray(rgb).convert(mode)


def mask_picture(*, soft: bool = False) -> Image.Image:
    """An 8-bit mask of the picture's size, with values up to 120 around the hole if `soft`."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if soft:
        mask[HOLE[0].start - 2 : HOLE[0].stop + 2, HOLE[1].start - 2 : HOLE[1].stop + 2] = 120
    mask[HOLE] = 255
    return Image.fromarray(mask)


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    """Return an encoded picture."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """Return a file as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def opened(answer: httpx.Response, format: str = "PNG") -> Image.Image:
    """Return the picture of an answer, which must be a success, of this format and of the photo's size."""
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:200]}"
    image = Image.open(io.BytesIO(answer.content))
    image.load()
    assert image.format == format, f"{image.format} instead of {format}"
    assert image.size == (WIDTH, HEIGHT), f"size {image.size}"
    return image


def outside_is_untouched(image: Image.Image, mode: str = "RGB") -> None:
    """Assert that nothing but the hole differs from the picture that was sent."""
    before, after = np.asarray(picture(mode)).copy(), np.asarray(image.convert(mode)).copy()
    assert (before[HOLE] != after[HOLE]).any(), "the hole is as it was"
    before[HOLE] = after[HOLE] = 0
    assert np.array_equal(before, after), "pixels outside the mask changed"


def krita(client: httpx.Client) -> str:
    body = {"image": data_url(file_of(picture("RGBA"))), "mask": data_url(file_of(mask_picture(soft=True)))}
    image = opened(client.post("/api/v1/inpaint", json=body))
    assert image.mode == "RGBA"
    outside_is_untouched(image, "RGBA")
    return "RGBA PNG, soft mask; decoded as PNG of the selection's size"


def darktable(client: httpx.Client) -> str:
    text = client.get("/api/v1/server-config").text.replace(" ", "")
    for words in ('"plugins"', '"enableAutoSaving":true'):
        assert words in text, words
    saved = client.post("/api/v1/save_image", files={"file": ("darktable.png", file_of(picture()), "image/png")})
    assert saved.status_code == 200 and saved.text == "null", saved.text
    return "server-config has its keys; Ctrl+S saves a PNG"


def mcp(client: httpx.Client) -> str:
    config = client.get("/api/v1/server-config").raise_for_status().json()
    assert config["modelInfos"][0]["name"] == "lama"
    client.post("/api/v1/model", json={"name": "lama"}).raise_for_status()
    mask = client.post(
        "/api/v1/adjust_mask",
        json={"mask": data_url(file_of(mask_picture())), "operate": "expand", "kernel_size": 3},
    ).raise_for_status()
    clicked = {"name": "InteractiveSeg", "image": data_url(file_of(picture())), "clicks": [[64, 48, 1]], "scale": 2.0}
    selection = client.post("/api/v1/run_plugin_gen_mask", json=clicked).raise_for_status()
    assert opened(selection, "PNG").mode == "RGBA"
    body = {
        "image": data_url(file_of(picture(), "JPEG", quality=95), "image/jpeg"), "mask": data_url(mask.content),
        "hd_strategy": "Crop", "sd_seed": -1, "some_option": {"of": "its own"},
    }  # fmt: skip
    answer = client.post("/api/v1/inpaint", json=body)
    opened(answer, "JPEG")
    assert 1 <= int(answer.headers["x-seed"]) <= 99_999_999
    return "health, model, adjust_mask, run_plugin_gen_mask, inpaint; suffix .jpg is right, X-Seed read"


def yolo(client: httpx.Client) -> str:
    body = {"image": base64.b64encode(file_of(picture(), "JPEG")).decode(),
            "mask": base64.encodebytes(file_of(mask_picture())).decode()}  # fmt: skip
    opened(client.post("/api/v1/inpaint", json=body, timeout=30), "JPEG")
    return "bare base64, with line breaks; bytes saved"


def fasttyper(client: httpx.Client) -> str:
    current = client.get("/api/v1/model").json()["name"]
    names = [info["name"] for info in client.get("/api/v1/server-config").json()["modelInfos"]]
    assert "lama" in names
    if current != "lama":
        client.post("/api/v1/model", json={"name": "lama"}).raise_for_status()
    body = {
        "image": data_url(file_of(picture())), "mask": data_url(file_of(mask_picture())), "hd_strategy": "Original",
        "hd_strategy_crop_margin": 128, "hd_strategy_crop_trigger_size": 1024,
    }  # fmt: skip
    outside_is_untouched(opened(client.post("/api/v1/inpaint", json=body)))
    return "model by name, server-config, inpaint; no resize needed"


def wails(client: httpx.Client) -> str:
    body = {"image": data_url(file_of(picture())), "mask": data_url(file_of(mask_picture()))}
    answer = client.post("/api/v1/inpaint", json=body)
    assert answer.headers["content-type"].startswith("image/")
    outside_is_untouched(opened(answer))
    return "content type tells image bytes from JSON"


def web_tool(client: httpx.Client) -> str:
    body = {
        "image": data_url(file_of(picture(), "WEBP", lossless=True), "image/webp"),
        "mask": data_url(file_of(mask_picture()), "application/octet-stream"), "hd_strategy_crop_triger_size": 640,
        "hd_trategy_resize_imit": 2048,
    }  # fmt: skip
    opened(client.post("/api/v1/inpaint", json=body), "WEBP")
    return "WebP back at its size; misspelt keys passed over"


def sidecar(client: httpx.Client) -> str:
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["model_loaded"] is True
    body = {"image": base64.b64encode(file_of(picture())).decode(), "mask": base64.b64encode(file_of(mask_picture())).decode()}  # fmt: skip # noqa: E501
    opened(client.post("/api/v1/inpaint", json=body))
    return "/health has status and model_loaded; PNG"


def comfy_client(client: httpx.Client) -> str:
    files = {"image": ("i.png", file_of(picture()), "image/png"), "mask": ("m.png", file_of(mask_picture()), "image/png")}  # fmt: skip # noqa: E501
    outside_is_untouched(opened(client.post("/api/v1/inpaint", files=files)))
    return "multipart taken too"


LAMA_CLEANER_FIELDS: Mapping[str, str] = {
    "ldmSteps": "25", "ldmSampler": "plms", "zitsWireframe": "true", "hdStrategy": "Crop",
    "hdStrategyCropMargin": "196", "hdStrategyCropTrigerSize": "800", "hdStrategyResizeLimit": "2048", "prompt": "",
    "negativePrompt": "", "useCroper": "false", "croperX": "0", "croperY": "0", "croperHeight": "512",
    "croperWidth": "512", "sdScale": "1.0", "sdMaskBlur": "5", "sdStrength": "0.75", "sdSteps": "50",
    "sdGuidanceScale": "7.5", "sdSampler": "uni_pc", "sdSeed": "-1", "sdMatchHistograms": "false",
    "cv2Flag": "INPAINT_NS", "cv2Radius": "5", "paintByExampleSteps": "50", "paintByExampleGuidanceScale": "7.5",
    "paintByExampleMaskBlur": "5", "paintByExampleSeed": "42", "paintByExampleMatchHistograms": "false",
    "p2pSteps": "50", "p2pImageGuidanceScale": "1.5", "p2pGuidanceScale": "7.5", "controlnet_conditioning_scale": "0.4",
    "controlnet_method": "control_v11p_sd15_canny", "paint_by_example_example_image": "",
}  # fmt: skip


def gimp_form(client: httpx.Client) -> str:
    files = {"image": ("image.png", file_of(picture("RGBA")), "image/png"), "mask": ("mask.png", file_of(mask_picture()), "image/png")}  # fmt: skip # noqa: E501
    image = opened(client.post("/inpaint", files=files, data=dict(LAMA_CLEANER_FIELDS)))
    outside_is_untouched(image, "RGBA")
    return "all lama-cleaner fields; alpha kept"


def image_trans(client: httpx.Client) -> str:
    assert client.head("/inpaint").status_code in (200, 404, 405)
    files = {"image": ("origin.jpg", file_of(picture(), "JPEG"), "image/jpeg"), "mask": ("mask.png", file_of(mask_picture()), "image/png")}  # fmt: skip # noqa: E501
    fields = {**LAMA_CLEANER_FIELDS, "hdStrategy": "Resize", "hdStrategyResizeLimit": "2048"}
    opened(client.post("/inpaint", files=files, data=fields, timeout=240), "JPEG")
    return "HEAD says alive; width as sent"


def video_gui(client: httpx.Client) -> str:
    files = {"image": ("f.jpg", file_of(picture(), "JPEG"), "image/jpeg"), "mask": ("m.png", file_of(mask_picture()), "image/png")}  # fmt: skip # noqa: E501
    fields = {**LAMA_CLEANER_FIELDS, "hdStrategy": "Original", "paintByExampleExampleImage": ""}
    opened(client.post("/inpaint", files=files, data=fields, timeout=600), "JPEG")
    return "JPEG frame back"


def picker(client: httpx.Client) -> str:
    names = [info["name"] for info in client.get("/api/v1/server-config").json()["modelInfos"]]
    assert names[0] == "lama" and all(isinstance(name, str) for name in names)
    return f"models: {', '.join(names)}"


CLIENTS: Mapping[str, Callable[[httpx.Client], str]] = {
    "krita-iopaint": krita,
    "darktable-iopaint": darktable,
    "iopaint-mcp": mcp,
    "yolo8-plus-iopaint": yolo,
    "FastTypeR-Extractor": fasttyper,
    "Wails scan app": wails,
    "PPT editor, FaceCopyer, web tool": web_tool,
    "lama-sidecar's callers": sidecar,
    "ComfyUIClient": comfy_client,
    "GIMP 3 lama-cleanup": gimp_form,
    "ImageTrans LamaInpaint": image_trans,
    "lama-cleaner-video-gui": video_gui,
    "model pickers": picker,
}
