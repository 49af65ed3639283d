"""The page of /docs: the OpenAPI document as HTML, made once, with neither scripts nor anything from another site."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

METHODS = ("get", "post", "put", "patch", "delete")
FORM = "multipart/form-data"
URL_FORM = "application/x-www-form-urlencoded"
ORIGIN = "http://127.0.0.1:7860"
DEEPEST = 6  # of schemas in schemas that a table shows


def docs_page(document: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        document: an OpenAPI 3.1 document whose references are all to its own components.

    Returns:
        HTML.
    """
    info = document["info"]
    sections = "".join(_section(document, tag) for tag in document["tags"])
    links = "".join(f'<a href="#{_anchor(tag["name"])}">{html.escape(tag["name"])}</a>' for tag in document["tags"])
    return PAGE.format(
        title=html.escape(info["title"]), version=html.escape(info["version"]), links=links,
        description="".join(f"<p>{_text(part)}</p>" for part in info["description"].split("\n\n")), sections=sections,
    )  # fmt: skip


def _section(document: Mapping[str, Any], tag: Mapping[str, Any]) -> str:
    operations = "".join(
        _operation(document, path, method, operations[method])
        for path, operations in document["paths"].items()
        for method in METHODS
        if method in operations and tag["name"] in operations[method]["tags"]
    )
    name = tag["name"]
    return f'<h2 id="{_anchor(name)}">{html.escape(name)}</h2><p>{_text(tag["description"])}</p>{operations}'


def _operation(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> str:
    parts = []
    if "description" in operation:
        parts.append(f"<p>{_text(operation['description'])}</p>")
    parameters = [resolved(document, one) for one in operation.get("parameters", ())]
    if parameters:
        rows = [_parameter_row(document, one) for one in parameters]
        parts.append(_table("Parameters", ("name", "type", "what"), rows))
    for media_type, body in operation.get("requestBody", {}).get("content", {}).items():
        rows = list(_fields(document, body["schema"], "", 0))
        parts.append(_table(f"Body: <code>{html.escape(media_type)}</code>", ("field", "type", "what"), rows))
    parts += [f"<pre>{html.escape(line)}</pre>" for line in curl_commands(document, path, method, operation)]
    parts.append("<h4>Answers</h4>" + "".join(_answers(document, operation["responses"])))
    name = f'<b class="{method}">{method.upper()}</b> <code>{html.escape(path)}</code>'
    summary = f"<summary>{name} <span>{_text(operation['summary'])}</span></summary>"
    return f'<details id="{html.escape(operation["operationId"])}">{summary}{"".join(parts)}</details>'


def _parameter_row(document: Mapping[str, Any], parameter: Mapping[str, Any]) -> tuple[str, str, str]:
    where = f"in {parameter['in']}" + (", needed" if parameter.get("required") else "")
    what = f"{where}. {parameter.get('description', '')}"
    return parameter["name"], type_of(document, parameter["schema"]), what


def _fields(
    document: Mapping[str, Any], schema: Mapping[str, Any], prefix: str, depth: int
) -> Iterator[tuple[str, str, str]]:
    """Give name, type and description of each property of an object, those of objects in it included."""
    schema = resolved(document, schema)
    for name, value in schema.get("properties", {}).items():
        inner = resolved(document, value)
        needed = "Needed. " if name in schema.get("required", ()) else ""
        yield (
            prefix + name,
            type_of(document, value),
            needed + (value.get("description") or inner.get("description", "")),
        )
        if depth < DEEPEST and inner.get("type") == "object":
            yield from _fields(document, inner, f"{prefix}{name}.", depth + 1)
        elif depth < DEEPEST and "items" in inner and isinstance(inner["items"], dict):
            yield from _fields(document, inner["items"], f"{prefix}{name}[].", depth + 1)


def type_of(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Return what a value may be, in a few words."""
    if "$ref" in schema:
        return type_of(document, resolved(document, schema))
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " | ".join(dict.fromkeys(type_of(document, one) for one in schema[key]))
    kind = schema.get("type", "any")
    if schema.get("format") == "binary":
        return "file"
    text = " | ".join(kind) if isinstance(kind, list) else str(kind)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None or high is not None:
        text += f" {'' if low is None else f'{low:g}'}…{'' if high is None else f'{high:g}'}"
    return text


def _answers(document: Mapping[str, Any], responses: Mapping[str, Any]) -> Iterator[str]:
    for status, response in responses.items():
        response = resolved(document, response)
        kinds = ", ".join(f"<code>{html.escape(kind)}</code>" for kind in response.get("content", {}))
        yield f"<p><b>{status}</b> {_text(response['description'])} {kinds}</p>"
        for media in response.get("content", {}).values():
            if int(status) < 300:
                rows = list(_fields(document, media["schema"], "", 0))
                yield _table("", ("field", "type", "what"), rows) if rows else ""
            for value in examples_of(media):
                text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
                yield f"<pre>{html.escape(text)}</pre>"


def examples_of(media: Mapping[str, Any]) -> list[Any]:
    """Return the examples of a request body or answer of one media type."""
    if "example" in media:
        return [media["example"]]
    return [example["value"] for example in media.get("examples", {}).values()]


def curl_commands(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> list[str]:
    """Return the request as curl sends it, once for each example of its body."""
    address, query = path, []
    for parameter in (resolved(document, one) for one in operation.get("parameters", ())):
        if parameter["in"] == "path":
            address = address.replace(f"{{{parameter['name']}}}", str(parameter["example"]))
        elif "example" in parameter:
            values = parameter["example"] if isinstance(parameter["example"], list) else [parameter["example"]]
            query += [f"{parameter['name']}={value}" for value in values]
    url = shlex.quote(ORIGIN + address + ("?" + "&".join(query) if query else ""))
    verb = [] if method == "get" else ["-X", method.upper()]
    bodies = operation.get("requestBody", {}).get("content", {})
    if not bodies:
        return [" ".join(["curl", *verb, url])]
    commands = []
    for media_type, media in bodies.items():
        for value in examples_of(media) or [{}]:
            if media_type == FORM:
                sent = [f"-F {shlex.quote(f'{name}={text}')}" for name, text in form_fields(document, media, value)]
            elif media_type == URL_FORM:
                sent = [f"-d {shlex.quote(f'{name}={text}')}" for name, text in value.items()]
            else:
                sent = ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(value))}"]
            commands.append(" ".join(["curl", *sent, url]))
    return commands


def form_fields(
    document: Mapping[str, Any], media: Mapping[str, Any], value: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Give the fields of a form that has an example: files by the name of one, the others as the example has them."""
    schema = resolved(document, media["schema"])
    for name, field in schema["properties"].items():
        if resolved(document, field).get("format") == "binary":
            yield name, "@mask.png" if name == "mask" else "@photo.jpg"
        elif name in value:
            yield name, value[name]


def resolved(document: Mapping[str, Any], item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a reference of the document names, or the item itself where it is none."""
    while "$ref" in item:
        _, kind, name = item["$ref"].rsplit("/", 2)
        item = document["components"][kind][name]
    return item


def _table(title: str, head: tuple[str, ...], rows: list[tuple[str, str, str]]) -> str:
    heading = f"<h4>{title}</h4>" if title else ""
    if not rows:
        return heading
    lines = "".join(
        f"<tr><td><code>{html.escape(name)}</code></td><td>{html.escape(kind)}</td><td>{_text(what)}</td></tr>"
        for name, kind, what in rows
    )
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f'{heading}<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'


def _text(text: str) -> str:
    """Return a sentence with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))


def _anchor(name: str) -> str:
    return html.escape(name.lower().replace(" ", "-"))


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: REST</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem; font: 16px/1.5 system-ui, sans-serif; background: #fff;
  color: #18181b; overflow-wrap: anywhere }}
h1 {{ font-size: 1.5rem }} h2 {{ margin-top: 2.5rem; font-size: 1.25rem }} h4 {{ margin: 1rem 0 .25rem }}
nav a {{ margin-right: 1rem; display: inline-block; min-height: 32px }} a {{ color: #1d4ed8 }}
details {{ border: 1px solid #d4d4d8; border-radius: 8px; margin: .5rem 0; padding: 0 .75rem }}
summary {{ cursor: pointer; padding: .6rem 0; min-height: 24px }} summary span {{ color: #52525b }}
b.get {{ color: #15803d }} b.post {{ color: #1d4ed8 }} b.delete {{ color: #b91c1c }}
pre {{ background: #f4f4f5; padding: .75rem; border-radius: 8px; white-space: pre-wrap; font-size: .85rem }}
.wide {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: .9rem }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #d4d4d8 }}
th {{ font-weight: normal; color: #52525b }}
@media (prefers-color-scheme: dark) {{ body {{ background: #18181b; color: #f4f4f5 }} a {{ color: #93c5fd }}
  pre {{ background: #27272a }} summary span, th {{ color: #a1a1aa }}
  b.get {{ color: #86efac }} b.post {{ color: #93c5fd }} b.delete {{ color: #fca5a5 }} }}
</style></head><body>
<h1>{title} {version}</h1>
{description}
<p>For programs: <a href="openapi.json">openapi.json</a></p>
<nav>{links}</nav>
{sections}
</body></html>
"""
