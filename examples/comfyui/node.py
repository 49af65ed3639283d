"""The node: ComfyUI's tensors to arrays and back, and one of two ways to repair.

IMAGE is (B, H, W, 3) float32 in [0, 1], MASK (B, H, W) or (H, W) float32, above a half is the hole. What is outside the
hole and the ring around it keeps its exact floats; inside, images that come from 8-bit files are repaired at 8 bits,
others at 16 (in process only).
"""

import contextlib
import copy
import functools
import http.client
import io
import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

CHECKOUT = Path(os.environ.get("LAMA_CHECKOUT") or Path(__file__).resolve().parents[2])
TIMEOUT_S = 600
WAIT_S = 120
PAUSE_S = 1
# How a connection ends whose server ends; it is asked once more only, as what it was sent may be the cause.
CUT = (BrokenPipeError, ConnectionAbortedError, ConnectionResetError, http.client.IncompleteRead)
AS_IT_SEES_FIT = -1
_answered: set[str] = set()  # the servers that have answered: one of them that can't be reached is being started again


class FftlamaErase:
    """Erase what the mask covers."""

    CATEGORY = "image/inpainting"
    FUNCTION = "erase"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("image",)
    DESCRIPTION = "Erases what the mask covers and fills it from its surroundings (LaMa)."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802, ComfyUI's name
        """Say what goes in."""
        return {
            "required": {"image": ("IMAGE",), "mask": ("MASK",)},
            "optional": {
                "url": ("STRING", {"default": "", "tooltip": "a running server; empty = in this process"}),
                "dilate_px": (
                    "INT",
                    {"default": AS_IT_SEES_FIT, "min": -1, "max": 1024, "tooltip": "-1 = by the hole's thickness"},
                ),
                "quality": (["fast", "high"], {"default": "fast"}),
            },
        }

    def erase(
        self,
        image: torch.Tensor,
        mask: torch.Tensor,
        url: str = "",
        dilate_px: int = AS_IT_SEES_FIT,
        quality: str = "fast",
    ) -> tuple[torch.Tensor]:
        """Repair a batch.

        Args:
            image: (B, H, W, 3) float in [0, 1]; not modified.
            mask: (B, H, W) or (H, W); one serves the whole batch. Another size is brought to the image's.
            url: a server's address; "" repairs in this process.
            dilate_px: how far the hole is grown; -1 = as fftlama sees fit.
            quality: "fast" or "high".

        Returns:
            One tensor of the image's shape, type and device.

        Raises:
            ValueError: The batches do not fit together.
            RuntimeError: The server refused or can't be reached, or fftlama is not where it is looked for.
        """
        if image.ndim != 4 or image.shape[3] != 3:
            raise ValueError(f"an image (B, H, W, 3) is needed, got {tuple(image.shape)}")
        holes = _holes(mask, image)
        options: dict[str, Any] = {"quality": quality}
        if dilate_px != AS_IT_SEES_FIT:
            options["dilate_px"] = dilate_px
        out = image.clone()
        for index, hole in enumerate(holes):
            if not hole.any():
                continue
            before = _pixels(image[index], deep=not url)
            after = _ask_server(url, before, hole, options) if url else _repair_here(before, hole, options)
            changed = torch.from_numpy((before != after).any(axis=2)).to(image.device)
            values = torch.from_numpy(after.astype(np.float32) / np.iinfo(after.dtype).max)
            out[index][changed] = values.to(image.device, image.dtype)[changed]
        return (out,)


def _holes(mask: torch.Tensor, image: torch.Tensor) -> np.ndarray:
    """Return a mask for every image, (B, H, W) bool."""
    batch, height, width, _ = image.shape
    mask = mask.reshape(-1, *mask.shape[-2:]).float()
    if len(mask) not in (1, batch):
        raise ValueError(f"{batch} images need one mask or {batch}, got {len(mask)}")
    if mask.shape[1:] != (height, width):
        mask = F.interpolate(mask[:, None], (height, width), mode="nearest")[:, 0]
    return (mask > 0.5).expand(batch, height, width).cpu().numpy()


def _pixels(image: torch.Tensor, *, deep: bool) -> np.ndarray:
    """Return (H, W, 3) uint8, or uint16 where the values come from no 8-bit file and `deep` allows it."""
    values = image.detach().to("cpu", torch.float64).clamp(0, 1) * 255
    rounded = values.round()
    if not deep or (values - rounded).abs().max() < 1e-3:
        return rounded.to(torch.uint8).numpy()
    return (values * 257).round().numpy().astype(np.uint16)


@functools.cache
def _engine() -> Any:
    """Load fftlama's engine once; the network that was fetched, else the included one."""
    if not (CHECKOUT / "inference.py").is_file():
        raise RuntimeError(
            f"{CHECKOUT} is not fftlama's folder. Link this node's folder into ComfyUI/custom_nodes, set "
            "LAMA_CHECKOUT, or give the address of a running server"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.append(str(CHECKOUT))  # at the end: ComfyUI's own modules come first
    from inference import Inpainter
    from lama.catalogue import find_weights

    return Inpainter.load(find_weights(""))


def _repair_here(pixels: np.ndarray, hole: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    return _engine().repair(pixels, hole, **options).image


def _ask_server(url: str, pixels: np.ndarray, hole: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    boundary = uuid.uuid4().hex
    body = b""
    for name, data in (("image", _png(pixels)), ("mask", _png(hole.astype(np.uint8) * 255))):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.png"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="options"\r\n\r\n{json.dumps(options)}\r\n'
    body += f"{head}--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    if key := os.environ.get("LAMA_API_KEY"):
        headers["Authorization"] = f"Bearer {key}"
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/api/v1/repair", body, headers)
        repaired = np.asarray(Image.open(io.BytesIO(_answer(request))).convert("RGB"))
    except urllib.error.HTTPError as error:
        said = str(error)
        with contextlib.suppress(OSError, http.client.HTTPException):  # the answer may break off
            said = error.read().decode(errors="replace")[:500]
        raise RuntimeError(f"the server refused: {said}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RuntimeError(f"the server {url} can't be reached: {error}") from error
    if repaired.shape != pixels.shape:
        raise RuntimeError(f"the server {url} answered with a picture of another size; is it fftlama?")
    return repaired


def _answer(request: urllib.request.Request) -> bytes:
    """Send a request and return the answer; a server that is started again meanwhile is waited for."""
    until_s, cuts = 0.0, 0
    while True:
        try:
            # A copy, as a request on its way through a proxy is changed.
            with _open(copy.copy(request)) as answer:
                data = bytes(answer.read())
            _answered.add(request.host)
            return data
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            cuts += isinstance(reason, CUT)
            if isinstance(error, urllib.error.HTTPError):  # 502 is what a proxy before the server says
                is_away = error.code == 502 or (error.code == 503 and "Retry-After" in error.headers)
            else:
                is_gone = isinstance(reason, OSError) and not isinstance(reason, TimeoutError)
                is_away = isinstance(reason, CUT) or ((until_s or request.host in _answered) and is_gone)
            if not is_away or cuts > 1 or (until_s and time.monotonic() > until_s):
                raise
            if not until_s:
                text = "the server %s is away (%s); it is waited for, %d s at most"
                logging.getLogger("fftlama").warning(text, request.host, reason, WAIT_S)
                until_s = time.monotonic() + WAIT_S
            time.sleep(PAUSE_S)


def _open(request: urllib.request.Request) -> Any:
    """Open an address; one of this machine past the environment's proxy, to which 127.0.0.1 is another machine."""
    is_here = urlsplit(request.full_url).hostname in ("127.0.0.1", "localhost", "::1")
    proxies = [urllib.request.ProxyHandler({})] if is_here else []
    return urllib.request.build_opener(*proxies).open(request, timeout=TIMEOUT_S)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
