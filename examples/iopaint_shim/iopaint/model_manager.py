"""`ModelManager`: loads the network, or asks a server, and repairs arrays as IOPaint's class of that name does."""

import contextlib
import copy
import http.client
import json
import logging
import os
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import numpy as np

CHECKOUT = Path(__file__).resolve().parents[3]
URL_VARIABLE = "LAMA_SERVER_URL"
TIMEOUT_S = 600
WAIT_S = 120
PAUSE_S = 1
# How a connection ends whose server ends; it is asked once more only, as what it was sent may be the cause.
CUT = (BrokenPipeError, ConnectionAbortedError, ConnectionResetError, http.client.IncompleteRead)
LAMA = "lama"  # whichever network is there
_answered: set[str] = set()  # the servers that have answered: one of them that can't be reached is being started again


class ModelManager:
    """One network, ready to be called. `kwargs` are IOPaint's, about diffusion, and change nothing."""

    def __init__(self, name: str = LAMA, device: Any = "auto", **kwargs: Any) -> None:
        self.name = name
        self.device = device
        self.kwargs = kwargs
        self._url = os.environ.get(URL_VARIABLE, "").rstrip("/")
        self._engine: Any = None if self._url else load_engine(name, str(device))

    def __call__(self, image: np.ndarray, mask: np.ndarray, config: Any = None) -> np.ndarray:
        """Repair an image.

        Args:
            image: (H, W, 3) uint8 RGB; not modified.
            mask: (H, W) or (H, W, 1) uint8; above 0 is the hole, and below 255 the result is blended with the image.
            config: an InpaintRequest; nothing in it changes a LaMa's result.

        Returns:
            (H, W, 3) uint8 in the order BGR, as IOPaint returns it.

        Raises:
            ValueError: The shapes do not fit together.
            RuntimeError: The server refused or can't be reached.
        """
        mask = mask[..., 0] if mask.ndim == 3 else mask
        if image.ndim != 3 or image.shape[2] != 3 or mask.shape != image.shape[:2]:
            raise ValueError(f"an image (H, W, 3) and a mask (H, W) are needed, got {image.shape} and {mask.shape}")
        hole = mask > 0
        if not hole.any():
            return np.ascontiguousarray(image[..., ::-1])
        result = self._ask_server(image, hole) if self._engine is None else self._repair(image, hole)
        share = (mask.astype(np.float32) / 255)[..., None]
        blended = np.rint(result * share + image * (1 - share)).astype(np.uint8)
        return np.ascontiguousarray(np.where(mask[..., None] == 255, result, blended)[..., ::-1])

    def switch(self, new_name: str, **_options: Any) -> None:
        """Go over to another network; the one in use stays when that fails."""
        if self._engine is None:
            _post(f"{self._url}/api/v1/model", {"name": new_name})
        elif new_name != self.name:
            self._engine = load_engine(new_name, str(self.device))
        self.name = new_name

    def _repair(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        # What the caller marked is meant: not a pixel more is changed.
        return self._engine.repair(image, hole, dilate_px=0).image

    def _ask_server(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        fields = {"image": _png(image[..., ::-1]), "mask": _png(hole.astype(np.uint8) * 255)}
        answer = _post(f"{self._url}/api/v1/inpaint", fields)
        result = cv2.imdecode(np.frombuffer(answer, np.uint8), cv2.IMREAD_COLOR)
        if result is None or result.shape != image.shape:
            raise RuntimeError(f"{self._url} answered with something that is no picture of this size; is it fftlama?")
        return result[..., ::-1]


def load_engine(name: str, device: str) -> Any:
    """Load fftlama's engine into this process; `name` is "lama" or one of `fftlama weights list`."""
    if not (CHECKOUT / "inference.py").is_file():
        raise RuntimeError(
            f"{CHECKOUT} is not fftlama's folder. Name examples/iopaint_shim where it lies in PYTHONPATH instead of a "
            f"copy, or give the address of a running server in {URL_VARIABLE}"
        )
    if str(CHECKOUT) not in sys.path:
        sys.path.append(str(CHECKOUT))
    from inference import Inpainter
    from lama.catalogue import find_weights

    return Inpainter.load(find_weights("" if name == LAMA else name), device=device)


def _png(pixels: np.ndarray) -> str:
    return b64encode(cv2.imencode(".png", np.ascontiguousarray(pixels))[1].tobytes()).decode()


def _open(request: urllib.request.Request) -> Any:
    """Open an address; one of this machine past the environment's proxy, to which 127.0.0.1 is another machine."""
    is_here = urlsplit(request.full_url).hostname in ("127.0.0.1", "localhost", "::1")
    proxies = [urllib.request.ProxyHandler({})] if is_here else []
    return urllib.request.build_opener(*proxies).open(request, timeout=TIMEOUT_S)


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


def _post(url: str, fields: dict[str, Any]) -> bytes:
    try:
        request = urllib.request.Request(url, json.dumps(fields).encode(), {"Content-Type": "application/json"})
        if key := os.environ.get("LAMA_API_KEY"):
            request.add_header("Authorization", f"Bearer {key}")
        return _answer(request)
    except urllib.error.HTTPError as error:
        said = str(error)
        with contextlib.suppress(OSError, http.client.HTTPException):  # the answer may break off
            said = error.read().decode(errors="replace")[:500]
        raise RuntimeError(f"the server refused: {said}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise RuntimeError(f"the server {url} can't be reached: {error}") from error
