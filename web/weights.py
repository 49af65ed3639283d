"""GET /api/v1/weights, and POST and DELETE /api/v1/weights/NAME/fetch: the page's offer to fetch published weights."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from config import Settings
from jobs.errors import JobError
from jobs.weights_fetch import WeightsFetch
from web.auth import is_operator

NOT_KEPT = {"Cache-Control": "no-store"}


def add_weights_routes(router: APIRouter, fetches: WeightsFetch, settings: Settings) -> None:
    """Add the routes to a router that answers JobError.

    Args:
        router: modified.
        fetches: the downloads of this server.
        settings: `operators` is read; where it names people, nobody else may fetch.
    """

    def check_allowed() -> None:
        """Raise JobError for a person who may not fetch."""
        if not is_operator(settings):
            raise JobError("forbidden", "Only the people of the setting operators may fetch weights.")

    @router.get("/api/v1/weights")
    def get_weights() -> JSONResponse:
        view = fetches.view() if is_operator(settings) else {"offered": False, "weights": []}
        return JSONResponse(view, headers=NOT_KEPT)

    @router.post("/api/v1/weights/{name}/fetch", status_code=202)
    def begin_fetch(name: str) -> JSONResponse:
        check_allowed()
        fetches.begin(name)
        return JSONResponse(fetches.view(), status_code=202, headers=NOT_KEPT)

    @router.delete("/api/v1/weights/{name}/fetch", status_code=202)
    def cancel_fetch(name: str) -> JSONResponse:
        check_allowed()
        fetches.cancel(name)
        return JSONResponse(fetches.view(), status_code=202, headers=NOT_KEPT)
