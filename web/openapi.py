"""The OpenAPI document of every route: put together from `api_document/*.yaml` once, and served with its page.

The files say what each route takes and gives. Put in here is what would be untrue as soon as it stood twice: the
version, refusals with the status that `STATUSES` gives to their code, the bodies that `iopaint_schema.py` checks, and
what the gate answers. A test compares the document with the routes, and its examples with real answers.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse
from pydantic.json_schema import models_json_schema

from config import Settings
from web.docs_page import docs_page
from web.iopaint import STATUS_HERE
from web.iopaint_schema import AdjustMaskRequest, InpaintRequest, ModelRequest, PluginRequest, SwitchPluginRequest
from web.lama_cleaner import OLD_STATUSES
from web.other_methods import refuse_other_methods
from web.routes import STATUSES, ApiRoute
from web.words import read_own_yaml

FOLDER = Path(__file__).parent / "api_document"
PARTS = ("shared", "rest", "operators", "iopaint")
BODIES = (InpaintRequest, AdjustMaskRequest, PluginRequest, SwitchPluginRequest, ModelRequest)
# Refusals that come together, by a name that x-refusals may give.
TOGETHER = {
    "body": ("bad_request", "file_too_large"),
    "form": ("disk_full",),  # files of a form are spooled to disk
    "query": ("bad_request",),
    "fields": ("bad_fields",),
    "photo": ("no_image", "empty_file", "file_too_large", "image_too_large", "not_an_image", "truncated_image"),
    "mask": ("mask_size", "bad_mask", "not_an_image", "truncated_image"),
    "repair": ("interrupted", "timed_out", "out_of_memory", "workers_lost"),
    "storage": ("busy", "disk_full", "storage_unavailable"),
}
SENTENCES = {
    "bad_base64": "image is not base64: Invalid base64-encoded string: number of data characters (1) cannot be 1 more"
    " than a multiple of 4.",
    "bad_fields": "name: Field required",
    "bad_request": "The body is not JSON: Expecting value: line 1 column 1 (char 0)",
    "cross_site": "Requests from pages of other sites are refused.",
    "empty_mask": "No mask was sent (multipart field `mask`; above 127 = what should go).",
    "fetch_running": "big-lama is being fetched just now.",
    "forbidden": "Only the people of the setting operators may see this.",
    "login_required": "Log in first, or send an API key (Authorization: Bearer KEY).",
    "mask_mismatch": "Image size((1200, 1600)) and mask size((600, 800)) not match.",
    "no_file": "No image was sent (multipart field `file`).",
    "no_image": "No photo was sent (multipart field `file`).",
    "queue_full": "32 repairs are waiting already. Try again soon.",
    "server_error": "Something failed inside the server; its log says why.",
    "too_many_requests": "Too much was asked in one minute. Try again in 12 s.",
    "unknown_image": "This photo is not here (any more). Please upload it again.",
    "unknown_job": "This job is not here (any more).",
    "unknown_model": "There is no model of this name here.",
}
OLD_SENTENCES = {"mask_mismatch": "Mask shape(600, 800) not queal to Image shape(1200, 1600)"}  # lama-cleaner's
GATE = {"bad_host": 403, "cross_site": 403, "login_required": 401, "too_many_requests": 429, "bad_fields": 422}
READS = {"get", "head"}
DESCRIPTION = """Paint over it, click, gone: repairs of photos on your own machine.

Refusals are `{"error": code, "message": sentence, "params": {...}}` with a 4xx status where the caller can mend it;
IOPaint's and lama-cleaner's routes answer in those programs' shape. Our own routes answer HEAD where they answer GET.
While the server starts, every route answers 503."""


def build_document(settings: Settings, *, version: str) -> dict[str, Any]:
    """Return the document.

    Args:
        settings: `root_path` is read, and whether there is a login.
        version: the program's.

    Returns:
        An OpenAPI 3.1 document, JSON-serialisable.
    """
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "fftlama", "version": version, "description": DESCRIPTION},
        "servers": [{"url": settings.root_path or "/"}],
        "tags": [], "paths": {}, "components": defaultdict(dict),
    }  # fmt: skip
    for part in PARTS:
        said = read_own_yaml(FOLDER / f"{part}.yaml")
        document["tags"] += said.get("tags", [])
        document["paths"] |= said.get("paths", {})
        for kind, entries in said.get("components", {}).items():
            document["components"][kind] |= entries
    _, bodies = models_json_schema(
        [(body, "validation") for body in BODIES], ref_template="#/components/schemas/{model}"
    )
    document["components"]["schemas"] |= bodies["$defs"]
    if settings.auth_file:
        document["security"] = [{"key": []}, {"session": []}]
    for operations in document["paths"].values():
        for method, operation in operations.items():
            _add_refusals(operation, method, has_login=bool(settings.auth_file or settings.auth_proxy_header))
    return document


def _add_refusals(operation: dict[str, Any], method: str, *, has_login: bool) -> None:
    """Put the responses of refusals in the place of `x-refusals`."""
    named = operation.pop("x-refusals", None)
    face = operation["tags"][0]
    statuses = {"IOPaint": STATUS_HERE, "lama-cleaner": {**STATUS_HERE, **OLD_STATUSES}}.get(face, STATUSES)
    gate = ["bad_host"]
    if has_login and operation.get("security") != []:
        gate.append("login_required")
    if method not in READS:
        gate += ["cross_site", "too_many_requests"]
    codes = [code for name in named or () for code in TOGETHER.get(name, (name,))]
    codes += ["server_error"] if named is not None else []
    by_status: dict[int, list[str]] = defaultdict(list)
    for code in dict.fromkeys([*codes, *gate]):
        by_status[GATE.get(code) or statuses[code]].append(code)
    for status, here in sorted(by_status.items()):
        operation["responses"].setdefault(str(status), _refusal(status, here, face, gate))


def _refusal(status: int, codes: Iterable[str], face: str, gate: list[str]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    own = [code for code in codes if face not in ("IOPaint", "lama-cleaner") or code in gate]
    others = [code for code in codes if code not in own]
    schemas: list[dict[str, Any]] = []
    examples: dict[str, Any] = {}
    if own:
        schemas.append({"$ref": "#/components/schemas/Error"})
        examples |= {
            code: {"value": {"error": code, "message": SENTENCES[code], "params": {}}}
            for code in own
            if code in SENTENCES
        }
    if others and face == "IOPaint":
        schemas.append({"$ref": "#/components/schemas/IopaintError"})
        shape = {"error": "HTTPException", "body": ""}
        examples |= {
            code: {"value": {**shape, "detail": SENTENCES[code], "errors": f"{status}: {SENTENCES[code]}"}}
            for code in others
            if code in SENTENCES
        }
    if schemas:
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        content["application/json"] = {"schema": schema, "examples": examples}
    if others and face == "lama-cleaner":
        texts = {code: {"value": text} for code, text in {**SENTENCES, **OLD_SENTENCES}.items() if code in others}
        content["text/plain"] = {"schema": {"type": "string"}, "examples": texts}
    return {"description": ", ".join(f"`{code}`" for code in codes), "content": content}


def create_document_routes(settings: Settings, *, version: str) -> APIRouter:
    """Return the routes of the document and of its page, which are put together when one is first asked for.

    That takes as long as all else that a server without its page puts together when it starts.
    """
    router = APIRouter(route_class=ApiRoute)

    @functools.cache
    def written() -> tuple[bytes, str]:
        document = build_document(settings, version=version)
        return json.dumps(document, ensure_ascii=False).encode(), docs_page(document)

    @router.get("/openapi.json")
    def get_document() -> Response:
        return Response(written()[0], media_type="application/json")

    @router.get("/docs")
    def get_docs() -> Response:
        return HTMLResponse(written()[1])

    refuse_other_methods(router)
    return router
