"""The requests that the OpenAPI document shows, with a photo, a round and a job that are really there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import cv2
import httpx
import numpy as np

from tests.support.imaging_files import DATA
from tests.support.serving import ask_repair, follow, upload
from web.docs_page import FORM, URL_FORM, examples_of, form_fields, resolved

PHOTO = (DATA / "pier.jpg").read_bytes()


def mask_of(width: int, height: int) -> bytes:
    """Return a mask file with a block marked."""
    mask = np.zeros((height, width), np.uint8)
    mask[10:30, 10:40] = 255
    return bytes(cv2.imencode(".png", mask)[1])


class Scene:
    """A server with a photo, a round and a folder, and the documented requests with these in place of the examples'."""

    def __init__(self, client: httpx.Client, document: dict[str, Any], photo: bytes = PHOTO) -> None:
        self.client = client
        self.document = document
        self.photo = photo
        image = upload(client, photo, "beach.jpg")
        done = follow(client, ask_repair(client, image["image_id"]), until="saved")
        self.mask = mask_of(image["width"], image["height"])
        self.real = {
            "3Vf0l0cJx8mX2m5sJkq1Zg": image["image_id"],
            "uGBWnNT5kb0kndjNRTh5UQ": done["job_id"],
            "dLiepRfFjHpn370xtLdQoA": done["image_id"],
            "BASE64 of the photo": base64.b64encode(photo).decode(),
            "BASE64 of the mask": base64.b64encode(self.mask).decode(),
        }

    def with_real_ids(self, value: Any) -> Any:
        """Return an example with the ids of what is here."""
        text = json.dumps(value)
        for example, real in self.real.items():
            text = text.replace(example, real)
        return json.loads(text)

    def requests_of(self, method: str, path: str) -> Iterator[httpx.Request]:
        """Give the request once for each example of its body."""
        operation = self.document["paths"][path][method]
        query = {}
        for parameter in (resolved(self.document, one) for one in operation.get("parameters", ())):
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", self.with_real_ids(parameter["example"]))
            elif "example" in parameter:
                query[parameter["name"]] = self.with_real_ids(parameter["example"])
        bodies = operation.get("requestBody", {}).get("content", {})
        if not bodies:
            yield self.client.build_request(method, path, params=query)
        for media_type, media in bodies.items():
            for value in examples_of(media) or [{}]:
                yield self.client.build_request(method, path, **self._body(media_type, media, value))

    def _body(self, media_type: str, media: dict[str, Any], value: Any) -> dict[str, Any]:
        if media_type == FORM:
            files: dict[str, Any] = {}
            for name, text in form_fields(self.document, media, value):
                file = {"@mask.png": ("mask.png", self.mask), "@photo.jpg": ("photo.jpg", self.photo)}.get(text)
                files[name] = file or (None, text)
            return {"files": files}
        if media_type == URL_FORM:
            return {"data": value}
        return {"json": self.with_real_ids(value)}
