"""What one broadcast costs: a participant update to a thousand sockets, CPU of the whole server.

`python -m loadtest.broadcast`. The clients are bare sockets without media, so what is measured is the signaling path:
the room's update serialized once, one frame on the node's stream, a copy to each socket. What the server does anyway
(pings, heartbeats) is measured before and taken off. The node sends clients without media away after 60 s: joins and
measurement have to be over by then.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from loadtest.access import Target, admin_token, join_token, wrapped_join
from loadtest.own_server import OwnServerError, own_server
from loadtest.process import machine_load, usage

JOINS_AT_A_TIME = 20
IDLE_S = 2.0
QUIET_S = 1.0
ROUND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Per broadcast."""

    cpu_ms: float
    seconds_to_last_p50: float
    seconds_to_last_max: float


class Audience:
    """Sockets in one room, and who has heard the present mark."""

    def __init__(self, target: Target, http: aiohttp.ClientSession, room: str) -> None:
        self._target, self._http, self._room = target, http, room
        self._readers: list[asyncio.Task[None]] = []
        self._sockets: list[aiohttp.ClientWebSocketResponse] = []
        self._mark = b""
        self._waiting = self._closed = 0
        self._heard = asyncio.Event()

    async def join(self, count: int) -> None:
        """Open `count` sockets."""
        gate = asyncio.Semaphore(JOINS_AT_A_TIME)

        async def one(number: int) -> None:
            async with gate:
                token = join_token(self._target, self._room, f"p{number}")
                url = f"{self._target.url}/rtc/v1?{wrapped_join()}&access_token={token}"
                socket = await self._http.ws_connect(url)
                await socket.receive_bytes()
            self._sockets.append(socket)
            self._readers.append(asyncio.create_task(self._read(socket)))

        await asyncio.gather(*(one(len(self._sockets) + number) for number in range(count)))

    async def broadcast(self, mark: str) -> float:
        """Change one participant's metadata and wait until everybody was told; seconds from call to last socket."""
        self._mark, self._waiting = mark.encode(), len(self._sockets)
        self._heard.clear()
        loop = asyncio.get_running_loop()
        started = loop.time()
        token = admin_token(self._target, self._room)
        async with self._http.post(
            f"{self._target.http_url}/twirp/livekit.RoomService/UpdateParticipant",
            json={"room": self._room, "identity": "p0", "metadata": mark},
            headers={"Authorization": f"Bearer {token}"},
        ) as answer:
            if answer.status != 200:
                sys.exit(f"the call failed ({answer.status}); {self._closed} sockets are closed")
        try:
            async with asyncio.timeout(ROUND_TIMEOUT_S):
                await self._heard.wait()
        except TimeoutError:
            sys.exit(f"{self._waiting} sockets were not told; {self._closed} are closed")
        return loop.time() - started

    async def leave(self) -> None:
        """Close every socket."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(ROUND_TIMEOUT_S):
                await asyncio.gather(*(socket.close() for socket in self._sockets))

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            if self._mark and isinstance(message.data, bytes) and self._mark in message.data:
                self._waiting -= 1
                if self._waiting == 0:
                    self._heard.set()
        self._closed += 1


async def measure(target: Target, pid: int, sockets: int, rounds: int) -> Cost:
    """Join, be quiet, measure nothing, then `rounds` broadcasts."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as http:
        audience = Audience(target, http, "broadcast")
        started = time.monotonic()
        await audience.join(sockets)
        print(f"... {sockets} joined in {time.monotonic() - started:.0f} s", file=sys.stderr)
        await asyncio.sleep(QUIET_S)
        await audience.broadcast("warm-up-mark")
        before = usage(pid)
        await asyncio.sleep(IDLE_S)
        idle = usage(pid)
        idle_rate = (idle.cpu_ns - before.cpu_ns) / (idle.taken_at - before.taken_at)
        times = [await audience.broadcast(mark) for mark in _marks(rounds)]
        after = usage(pid)
        await audience.leave()
    spent_ns = after.cpu_ns - idle.cpu_ns - idle_rate * (after.taken_at - idle.taken_at)
    times.sort()
    return Cost(spent_ns / 1e6 / rounds, times[len(times) // 2], times[-1])


def _marks(rounds: int) -> Iterator[str]:
    return (f"mark-{number:06d}-end" for number in range(rounds))


async def main_async(options: argparse.Namespace) -> None:
    """Measure a server of our own."""
    load = machine_load()
    with tempfile.TemporaryDirectory() as directory:
        async with own_server(Path(directory)) as server:
            cost = await measure(server.target, server.pid, options.sockets, options.rounds)
    print(
        f"broadcast to {options.sockets} sockets   {cost.cpu_ms:.1f} ms CPU"
        f"   last socket after p50 {cost.seconds_to_last_p50 * 1000:.0f} ms,"
        f" max {cost.seconds_to_last_max * 1000:.0f} ms"
    )
    print(f"machine: {os.cpu_count()} cores, {load} before, {machine_load()} after")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="loadtest.broadcast", description=__doc__)
    parser.add_argument("--sockets", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=20)
    try:
        asyncio.run(main_async(parser.parse_args()))
    except OwnServerError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
