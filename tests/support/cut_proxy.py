"""A TCP proxy before a server whose connections can be cut: a network that loses signaling and keeps media."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from tests.support.dev_server import DevServer


@dataclass(slots=True)
class CutProxy:
    """A server as seen through the proxy."""

    server: DevServer
    port: int = 0
    connections: int = 0
    """How many were ever let through."""
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _is_open: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        """What SDKs connect to."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def page_url(self) -> str:
        """Where the page is served; not through the proxy."""
        return self.server.page_url

    def token(self, room: str, identity: str, **grants: object) -> str:
        """As the server's own."""
        return self.server.token(room, identity, **grants)

    def cut(self) -> None:
        """Abort what is open; what is opened until `mend` hangs, as in a tunnel.

        Not refused: the native SDKs answer a refused resume with a new session.
        """
        self._is_open.clear()
        for writer in list(self._writers):
            writer.transport.abort()

    def mend(self) -> None:
        """Let connections through again."""
        self._is_open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._is_open.wait()
        self.connections += 1
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        own = {writer, far_writer}
        self._writers |= own
        try:
            await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        finally:
            self._writers -= own
            for one in own:
                one.transport.abort()


@asynccontextmanager
async def cut_proxy(server: DevServer) -> AsyncIterator[CutProxy]:
    """A proxy on a free port."""
    proxy = CutProxy(server)
    listening = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    proxy.mend()
    proxy.port = listening.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listening.close()
        proxy.cut()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()
