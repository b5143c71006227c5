"""The TCP proxy of all tests: a connection to a server that a test can pull, plug in again, cut or silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

ACCEPTING_S = 0.02
ACCEPTING_TURNS = 10
"""Turns of the loop from a socket that is accepted to the task that serves it, and some more."""


class Cable:
    """What lies between clients and a server, each a TCP endpoint; it knows nothing of what it carries.

    Of several targets each connection gets the first that answers.
    """

    def __init__(self, *targets: str) -> None:
        places = [target.removeprefix("nats://").rpartition(":") for target in targets]
        self._targets = [(host, int(port)) for host, _, port in places]
        self._server: asyncio.Server | None = None
        self._port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_whole = asyncio.Event()
        self._is_silent = False
        self.connections = 0
        """How many were ever let through."""

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
        self.mend()
        await self.plug()
        try:
            yield self
        finally:
            self.pull()
            self.mend()
            # A socket that is still open when the loop ends fails some later test; what was accepted
            # a moment ago has no task yet.
            await asyncio.sleep(ACCEPTING_S)
            for _ in range(ACCEPTING_TURNS):
                await asyncio.sleep(0)
            while self._tasks:
                await asyncio.gather(*self._tasks, return_exceptions=True)

    def pull(self) -> None:
        """End every connection and refuse new ones."""
        assert self._server is not None
        self._server.close()
        self._abort()

    async def plug(self) -> None:
        """Let connections through (again), on the same port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """End every connection; what is opened until `mend` hangs, as in a tunnel."""
        self._is_whole.clear()
        self._abort()

    def mend(self) -> None:
        """Let connections through again, those too that hang."""
        self._is_whole.set()

    def silence(self) -> None:
        """From now on nothing arrives any more, and nobody is told."""
        self._is_silent = True

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            await self._is_whole.wait()
            for target in self._targets:
                with suppress(OSError):
                    server_reader, server_writer = await asyncio.open_connection(*target)
                    break
            else:
                return
            writers.append(server_writer)
            if self._server is None or not self._server.is_serving():
                return  # pulled meanwhile
            self.connections += 1
            self._writers.update(writers)
            await asyncio.gather(
                self._copy(reader, server_writer),
                self._copy(server_reader, writer),
                return_exceptions=True,
            )
        finally:
            self._writers.difference_update(writers)
            for each in writers:
                each.transport.abort()
            for each in writers:
                with suppress(OSError):
                    await each.wait_closed()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self._is_silent:
                    writer.write(data)
                    await writer.drain()
        if not self._is_silent:
            writer.transport.abort()
