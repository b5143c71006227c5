"""The HTTP front of one replica: routes, cross-origin rules, and what its server is told."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from signaling.wire import Wire

SERVER_OPTIONS: Final[Mapping[str, Any]] = {
    "ws": Wire,
    "ws_max_size": 2 << 20,
    "ws_ping_interval": 10.0,
    # Liveness is the media path's business: a quiet socket is not a dead one.
    "ws_ping_timeout": None,
    # Compression costs 127 kB a connection and saves little on messages this small.
    "ws_per_message_deflate": False,
    # Whose word about a client's address counts is ours to say (`core/addresses.py`).
    "proxy_headers": False,
}


def make_app(routers: Sequence[APIRouter], web_directory: Path | None) -> ASGIApp:
    """The ASGI application: the given routes, the page under /app/ when there is one, 404 for the rest."""
    app = FastAPI(title="Roomwright signaling", openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(
        CORSMiddleware,
        allow_origin_regex=".*",
        allow_methods=["OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE"],
        allow_headers=["*"],
        expose_headers=["*"],
        max_age=86400,
    )
    for router in routers:
        app.include_router(router)
    if web_directory is not None:
        app.mount("/app", StaticFiles(directory=web_directory, html=True))
    return _OneLeadingSlash(app)


class _OneLeadingSlash:
    """`ws://host//rtc` is what a URL with a trailing slash becomes in some clients."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"].startswith("//"):
            scope = {**scope, "path": scope["path"][1:]}
        await self._app(scope, receive, send)
