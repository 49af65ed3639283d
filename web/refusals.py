"""The body of a refusal that is made before a route is reached, so whose client asks is not known."""

from typing import Any


def refusal_body(code: str, message: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a refusal in our own shape, with the sentence again where IOPaint's clients look for it.

    Args:
        code: for programs.
        message: a sentence for people.
        params: what the sentence mentions.

    Returns:
        A body to be sent as JSON.
    """
    return {"error": code, "message": message, "params": params or {}, "detail": message, "errors": message}
