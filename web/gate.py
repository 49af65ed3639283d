"""What every request passes before it reaches a route, the page, or Gradio's own routes; from the outside inwards."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from config import Settings
from web.auth import AuthGate
from web.client_limits import ClientLimits
from web.one_shot import NOTES_HEADER
from web.origin_check import OriginCheck, origins_of
from web.proxy import PeerAddress
from web.security_headers import SecurityHeaders


def protect(app: FastAPI, settings: Settings) -> None:
    """Put the gate around an application, and around what is mounted in it later.

    Args:
        app: not started yet; modified.
        settings: who may come in, from which sites, and how much they may ask.
    """
    # The one that is added last is the outermost.
    app.add_middleware(ClientLimits, settings=settings)
    app.add_middleware(AuthGate, settings=settings)
    app.add_middleware(
        OriginCheck,
        host=settings.host,
        allowed_hosts=settings.allowed_hosts,
        allowed_origins=settings.allowed_origins,
    )
    # Also where no other site may call: Gradio, which looks for it, then adds no headers of its own, which let any
    # origin in with cookies.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=sorted(origins_of(settings.allowed_origins)),
        allow_methods=["*"],
        allow_headers=["*"],
        # Without cookies: who is logged in on this site must not act for another one.
        allow_credentials=False,
        expose_headers=["X-Seed", "Content-Disposition", "Location", "Retry-After", NOTES_HEADER],
    )
    app.add_middleware(SecurityHeaders, allowed_origins=settings.allowed_origins)
    app.add_middleware(PeerAddress)
