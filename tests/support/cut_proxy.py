"""A server behind a cable that can be cut: a network that loses signaling and keeps media."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.support.cable import Cable
from tests.support.dev_server import DevServer


@dataclass(frozen=True, slots=True)
class CutProxy:
    """A server as seen through the cable.

    It is cut, not pulled: the native SDKs answer a refused resume with a new session.
    """

    server: DevServer
    cable: Cable

    @property
    def url(self) -> str:
        """What SDKs connect to."""
        return f"ws://{self.cable.place}"

    @property
    def page_url(self) -> str:
        """Where the page is served; not through the cable."""
        return self.server.page_url

    def token(self, room: str, identity: str, **grants: object) -> str:
        """As the server's own."""
        return self.server.token(room, identity, **grants)


@asynccontextmanager
async def cut_proxy(server: DevServer) -> AsyncIterator[CutProxy]:
    """A proxy on a free port."""
    async with Cable(f"127.0.0.1:{server.port}").laid() as cable:
        yield CutProxy(server, cable)
