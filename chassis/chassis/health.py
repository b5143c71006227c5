"""/healthz, /readyz, /metrics and /debug/... on one port, and the embedded web server they run on.

/healthz answers as long as the event loop turns. /readyz is 200 from the end of start to the end of
the process, drain included when the service says so; it depends on no neighbour, so that an outage
of one service never empties the others. `/readyz?verbose` tells what else there is to know.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from chassis.errors import SettingsError
from chassis.telemetry import Metrics


class Health:
    """What the health port tells of one process."""

    def __init__(self) -> None:
        self.is_ready = False
        self._told: dict[str, Callable[[], str]] = {}
        self._pages: dict[str, Callable[[], object]] = {}

    def tell(self, name: str, read: Callable[[], str]) -> None:
        """Add a line to `/readyz?verbose`; it never decides about readiness."""
        self._told[name] = read

    def show(self, name: str, read: Callable[[], object]) -> None:
        """Serve what `read` gives at /debug/<name>, as JSON."""
        self._pages[name] = read

    def app(self, metrics: Metrics) -> Starlette:
        """The web application of the health port."""

        async def healthz(_request: Request) -> Response:
            return PlainTextResponse("ok\n")

        async def readyz(request: Request) -> Response:
            lines = ["ready" if self.is_ready else "not ready"]
            if "verbose" in request.query_params:
                lines += [f"{name}: {read()}" for name, read in self._told.items()]
            return PlainTextResponse("\n".join(lines) + "\n", 200 if self.is_ready else 503)

        async def show_metrics(_request: Request) -> Response:
            return Response(metrics.render(), media_type="text/plain; version=0.0.4")

        async def debug(request: Request) -> Response:
            read = self._pages.get(request.path_params["name"])
            return Response(status_code=404) if read is None else JSONResponse(read())

        return Starlette(
            routes=[
                Route("/healthz", healthz),
                Route("/readyz", readyz),
                Route("/metrics", show_metrics),
                Route("/debug/{name}", debug),
            ]
        )


class WebServer:
    """An ASGI application served inside a running event loop, on addresses bound beforehand."""

    def __init__(self, app: ASGIApp, addresses: Sequence[str], **options: Any) -> None:
        """Bind `host:port` addresses (port 0: any). Raises `SettingsError` when one is in use.

        `options` are uvicorn's, for a server that takes more than small GETs.
        """
        self._sockets = [bind(address) for address in addresses]
        self.addresses = [_text(sock) for sock in self._sockets]
        """host:port as bound."""
        config = uvicorn.Config(
            app, access_log=False, log_config=None, lifespan="off", server_header=False, **options
        )
        self._server = _Embedded(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve in the background; returns when connections are taken."""
        self._serving = asyncio.create_task(self._server.serve(self._sockets), name="web server")
        # uvicorn has no event for it.
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        if self._serving.done():
            await self._serving

    async def stop(self) -> None:
        """Take no more connections, and end those there are."""
        self._server.should_exit = self._server.force_exit = True
        if self._serving is not None:
            await self._serving
        for sock in self._sockets:
            sock.close()


def bind(address: str) -> socket.socket:
    """A listening TCP socket on `host:port` or `[host]:port`; `SettingsError` when it cannot be."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((host, int(port)))
        sock.listen(2048)
        sock.setblocking(False)
    except (OSError, ValueError) as error:
        sock.close()
        raise SettingsError(f"cannot listen on {address}: {error}") from None
    return sock


class _Embedded(uvicorn.Server):
    """uvicorn without its signal handlers: signals are the process's, not one server's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _text(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
