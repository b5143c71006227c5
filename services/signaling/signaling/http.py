"""The HTTP front: routes, cross-origin rules, and the listening sockets of one replica."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
from chassis.errors import SettingsError
from fastapi import APIRouter, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_FRAME_BYTES = 2 << 20
PING_INTERVAL_S = 10.0
BACKLOG = 2048


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


class HttpServer:
    """Serves an application on every address it was given, in the running loop."""

    def __init__(self, app: ASGIApp, addresses: Sequence[str]) -> None:
        self._sockets = [_listen(address) for address in addresses]
        config = uvicorn.Config(
            app,
            ws="websockets-sansio",
            ws_max_size=MAX_FRAME_BYTES,
            ws_ping_interval=PING_INTERVAL_S,
            # Liveness is the media path's business: a quiet socket is not a dead one.
            ws_ping_timeout=None,
            # Compression costs 127 kB a connection and saves little on messages this small.
            ws_per_message_deflate=False,
            access_log=False,
            log_config=None,
            lifespan="off",
            server_header=False,
        )
        self._server = _EmbeddedServer(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def addresses(self) -> list[str]:
        """host:port of every listening socket, as bound."""
        return [_text(listening) for listening in self._sockets]

    async def start(self) -> None:
        """Begin to accept; returns when requests are answered."""
        self._task = asyncio.create_task(self._server.serve(sockets=self._sockets))
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Stop accepting, close what is open, and return when all is closed."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        for listening in self._sockets:
            listening.close()


class _EmbeddedServer(uvicorn.Server):
    """Signals belong to the process, which may run more than this server."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _OneLeadingSlash:
    """`ws://host//rtc` is what a URL with a trailing slash becomes in some clients."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"].startswith("//"):
            scope = {**scope, "path": scope["path"][1:]}
        await self._app(scope, receive, send)


def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind((host, int(port)))
        listening.listen(BACKLOG)
    except (OSError, ValueError) as error:
        listening.close()
        raise SettingsError(f"cannot listen for HTTP on {address}: {error}") from None
    listening.setblocking(False)
    return listening


def _text(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if listening.family == socket.AF_INET6 else f"{host}:{port}"
