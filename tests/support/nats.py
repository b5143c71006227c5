"""A real nats-server for tests, and a proxy in front of it that can be cut."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
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


class Cable:
    """A TCP proxy: the connection to the server, which a test can pull and plug in again.

    Of several targets each connection gets the first that answers.
    """

    def __init__(self, *targets: str) -> None:
        places = [target.removeprefix("nats://").rpartition(":") for target in targets]
        self._targets = [(host, int(port)) for host, _, port in places]
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """What a client of NATS connects to."""
        return f"nats://{self.place}"

    @property
    def place(self) -> str:
        """host:port of this end."""
        return f"127.0.0.1:{self._port}"

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[Cable]:
        """Plugged in, on a free port, for the time of the context."""
        await self.plug()
        try:
            yield self
        finally:
            self.pull()
            # A socket that is still open when the loop ends fails some later test.
            await asyncio.gather(*self._connections)

    def pull(self) -> None:
        """End every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def plug(self) -> None:
        """Let connections through (again), on the same port."""
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            for target in self._targets:
                with suppress(OSError):
                    server_reader, server_writer = await asyncio.open_connection(*target)
                    break
            else:
                return
            writers.append(server_writer)
            if self._server is None or not self._server.is_serving():
                return  # pulled meanwhile
            self._writers.update(writers)
            await asyncio.gather(
                _copy(reader, server_writer), _copy(server_reader, writer), return_exceptions=True
            )
        finally:
            self._writers.difference_update(writers)
            for each in writers:
                each.transport.abort()
                with suppress(OSError):
                    await each.wait_closed()
            self._connections.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.abort()


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
