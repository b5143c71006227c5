"""A real nats-server for tests."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from chassis.bus import NatsBus
from roomwright import nats_server
from roomwright.nats_server import NatsServer


@asynccontextmanager
async def running_nats() -> AsyncIterator[NatsServer]:
    """A nats-server on a free loopback port with JetStream in a temporary directory."""
    with tempfile.TemporaryDirectory() as directory:
        server = await nats_server.start(Path(directory))
        try:
            yield server
        finally:
            await server.stop()


@asynccontextmanager
async def connected_bus(server: NatsServer, url: str | None = None) -> AsyncIterator[NatsBus]:
    """A bus connected to the server, directly or by way of `url`."""
    bus = NatsBus(url or server.url, user=server.user, password=server.password, name="test")
    await bus.start()
    assert bus.connected
    try:
        yield bus
    finally:
        await bus.close()


async def disconnected(bus: NatsBus) -> None:
    """Until the bus has noticed that its connection is gone."""
    while bus.connected:  # noqa: ASYNC110 - the client library has no event for it
        await asyncio.sleep(0)


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
