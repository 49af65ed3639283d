"""What operators look at: /health and /ready for machines, /status for people and programs, /metrics for Prometheus.

`/health` says that the process lives; a restart mends it when it does not. `/ready` says whether the next repair would
run. Neither needs a login. `/status` and `/metrics` are for the people of the setting `operators`.
"""

from __future__ import annotations

import html
import os
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from config import Settings
from jobs.errors import JobError
from jobs.queue import JobQueue
from web.auth import is_operator
from web.metrics import Metrics
from web.other_methods import refuse_other_methods
from web.routes import ApiRoute
from web.words import choose_language, load_strings

GIB = 1 << 30
LOOKERS = 4  # threads; a server that is busy is not to be taken for dead
NOT_KEPT = {"Cache-Control": "no-store"}
RETRY = {**NOT_KEPT, "Retry-After": "5"}

Answer = TypeVar("Answer")


def create_operator_routes(queue: JobQueue, settings: Settings, *, metrics: Metrics, version: str) -> APIRouter:
    """Return the routes; `metrics` is the queue's observer."""
    router = APIRouter(route_class=ApiRoute)
    started_s = time.monotonic()
    lookers = anyio.CapacityLimiter(LOOKERS)

    async def look(at: Callable[[], Answer]) -> Answer:
        return await anyio.to_thread.run_sync(at, limiter=lookers)

    def check_operator() -> None:
        """Raise JobError for a person who is no operator."""
        if not is_operator(settings):
            raise JobError("forbidden", "Only the people of the setting operators may see this.")

    @router.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "ok", "model_loaded": True, "version": version, **await look(queue.describe),
            "uptime_s": round(time.monotonic() - started_s, 1), "pid": os.getpid(),
        }  # fmt: skip

    @router.get("/ready")
    async def ready() -> JSONResponse:
        waiting_for = await look(queue.obstacles)
        body = {"ready": not waiting_for, "waiting_for": waiting_for}
        return JSONResponse(body, 503 if waiting_for else 200, headers=RETRY if waiting_for else NOT_KEPT)

    @router.get("/status")
    async def status(request: Request) -> Response:
        check_operator()
        told = {
            "version": version, "uptime_s": round(time.monotonic() - started_s, 1), **await look(queue.status),
            "ended": metrics.ended, "queue_limit": settings.queue_limit,
            "free_disk_bytes": await look(lambda: _free_bytes(settings)),
        }  # fmt: skip
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(told, headers=NOT_KEPT)
        language = choose_language(settings.language, request)
        return HTMLResponse(status_page(told, language), headers=NOT_KEPT)

    @router.get("/metrics")
    async def get_metrics() -> Response:
        check_operator()
        page = await look(lambda: metrics.render(queue.status()))
        return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")

    refuse_other_methods(router)
    return router


def _free_bytes(settings: Settings) -> int | None:
    try:
        return shutil.disk_usage(settings.data_dir).free
    except OSError:
        return None


def status_page(told: Mapping[str, Any], language: str) -> str:
    """Write the page of /status, which brings itself up to date every few seconds.

    Args:
        told: what /status answers programs with.
        language: one of `LANGUAGES`.

    Returns:
        the page as HTML.
    """
    words = load_strings()[language]
    free = told["free_disk_bytes"]
    facts = {
        "waiting": told["waiting"]["interactive"], "batch": told["waiting"]["batch"], "running": told["running"],
        **told["ended"], "disk": "" if free is None else f"{free / GIB:.1f}",
        "uptime": f"{told['uptime_s'] / 3600:.1f}", "version": told["version"],
    }  # fmt: skip
    obstacles = [words[f"server.waits_{obstacle}"] for obstacle in told["waiting_for"]]
    columns = ("name", "device", "weights", "memory", "state")
    rows = [
        [worker["name"], worker["device"], worker["weights"], worker["memory_mib"], words[f"server.{worker['state']}"]]
        for worker in told["workers"]
    ]
    return STATUS_PAGE.format(
        language=language, title=html.escape(words["server.title"]), tone="bad" if obstacles else "good",
        summary=html.escape(" ".join(obstacles) or words["server.ready"]),
        facts="".join(_row("th", [words[f"server.{name}"]], "td", [value]) for name, value in facts.items()),
        head=_row("th", [words[f"server.{name}"] for name in columns]),
        workers="".join(_row("td", row) for row in rows),
    )  # fmt: skip


def _row(*tags_and_cells: Any) -> str:
    """Return a row of a table of tags, each followed by the cells that have it."""
    pairs = zip(tags_and_cells[::2], tags_and_cells[1::2], strict=True)
    cells = [f"<{tag}>{html.escape('' if cell is None else str(cell))}</{tag}>" for tag, row in pairs for cell in row]
    return f"<tr>{''.join(cells)}</tr>"


STATUS_PAGE = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><title>fftlama: {title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ margin: 0 auto; max-width: 60rem; padding: 1.5rem; font: 16px/1.5 system-ui, sans-serif; background: #fff;
  color: #18181b }}
h1 {{ font-size: 1.25rem }}
table {{ border-collapse: collapse; margin-top: 1rem; display: block; overflow-x: auto }}
th, td {{ text-align: left; padding: .35rem 1rem .35rem 0; border-bottom: 1px solid #d4d4d8; font-weight: normal }}
th {{ color: #52525b }}
.good {{ color: #15803d }} .bad {{ color: #b91c1c }}
@media (prefers-color-scheme: dark) {{ body {{ background: #18181b; color: #f4f4f5 }} th {{ color: #a1a1aa }}
  .good {{ color: #86efac }} .bad {{ color: #fca5a5 }} }}
</style></head><body>
<h1>{title}</h1>
<p role="status" data-live><span class="{tone}">{summary}</span></p>
<table data-live>{facts}</table>
<table><thead>{head}</thead><tbody data-live>{workers}</tbody></table>
<script>
// In place, and only what changed: a page that is loaded anew is read from its beginning by a screen reader.
setInterval(async () => {{
  const answer = await fetch(location.href, {{ headers: {{ Accept: "text/html" }} }}).catch(() => null);
  if (!answer?.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html").querySelectorAll("[data-live]");
  if (!fresh.length) return location.reload(); // the login's end
  document.querySelectorAll("[data-live]").forEach((node, i) => {{
    if (node.innerHTML !== fresh[i].innerHTML) node.innerHTML = fresh[i].innerHTML;
  }});
}}, 5000);
</script>
</body></html>
"""
