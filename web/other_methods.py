"""405 with `Allow` where a path exists, but not for the method that is asked; else the routes behind it answer 404."""

from collections import defaultdict
from collections.abc import Callable

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute

from jobs.errors import JobError

EVERY_METHOD = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"})


def refuse_other_methods(router: APIRouter) -> None:
    """Have every path of a router answer the methods that none of its routes takes.

    Args:
        router: has its routes, which raise JobError; modified.
    """
    taken: dict[str, set[str]] = defaultdict(set)
    for route in router.routes:
        if isinstance(route, APIRoute):
            taken[route.path] |= route.methods or set()
    for path, methods in taken.items():
        others = sorted(EVERY_METHOD - methods)
        router.add_api_route(path, _refusal(", ".join(sorted(methods))), methods=others, include_in_schema=False)


def allow_header(error: JobError) -> dict[str, str]:
    """Return the header that tells which methods are taken; none for another error."""
    return {"Allow": str(error.params["allow"])} if error.code == "method_not_allowed" else {}


def _refusal(allowed: str) -> Callable[[Request], None]:
    def refuse(request: Request) -> None:
        text = f"{request.method} is not allowed here; allowed: {allowed}."
        raise JobError("method_not_allowed", text, {"allow": allowed})

    return refuse
