"""A swarm in a process of its own, told by lines on a socket what to do; its loop is asyncio's, no Locust near it.

Ends when told to, and when the other end of its socket is gone. Every participant is tried again until it is told to
leave: a failed join after a growing pause, an ended session at once.
"""

import argparse
import asyncio
import contextlib
import resource
import signal
import socket
import sys
import time
from typing import Final, assert_never

from websockets.exceptions import InvalidStatus

from loadtest.access import Target
from loadtest.figures import MediaFigures
from loadtest.latency import since
from loadtest.meter import Meter, TrackCount
from loadtest.participant import Participant
from loadtest.swarm import Fanout, Swarm
from loadtest.swarm_messages import (
    Close,
    Join,
    Joined,
    JoinFailed,
    Leave,
    Measured,
    NotBack,
    Open,
    Ready,
    Reconnected,
    Report,
    decode_command,
    encode,
)

REPORT_INTERVAL_S: Final = 1.0
RETRY_PAUSES_S: Final = (0.25, 0.5, 1.0, 2.0, 5.0)
BACK_WITHIN_S: Final = 30.0
MAX_REASON: Final = 300


class SwarmProcess:
    """One swarm and its orders."""

    def __init__(self, orders: Open, writer: asyncio.StreamWriter) -> None:
        self._swarm = Swarm(
            Target(orders.url, orders.key, orders.secret), sockets=max(orders.sockets, 2)
        )
        self._writer = writer
        self._meter = Meter(orders.rates)
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._here: set[int] = set()
        self._drops = 0
        self._latency_before: list[int] = []
        self._rejected_before = 0

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Obey until `Close` or the end of the lines."""
        self._tell(Ready())
        reporting = asyncio.create_task(self._report_figures())
        try:
            while line := await reader.readline():
                match command := decode_command(line):
                    case Join():
                        self._lives[command.participant] = asyncio.create_task(self._live(command))
                    case Leave(participant=number):
                        self._end(number)
                    case Close():
                        break
                    case Open():
                        raise ValueError("open comes once, and first")
                    case _:
                        assert_never(command)
        finally:
            reporting.cancel()
            for number in list(self._lives):
                self._end(number)
            if self._ending:
                await asyncio.wait(self._ending)
            await self._swarm.close()
            for what, times in self._swarm.rejected.items():
                print(f"the engine refused {times} times: {what}", file=sys.stderr)

    def _end(self, number: int) -> None:
        if (life := self._lives.pop(number, None)) is not None:
            self._ending.add(life)
            life.add_done_callback(self._ending.discard)
            life.cancel()

    async def _live(self, join: Join) -> None:
        """One participant, from its first attempt until this task is canceled."""
        number, failures = join.participant, 0
        dropped_at: float | None = None
        while True:
            try:
                participant = await self._join(join)
            except Exception as failure:  # noqa: BLE001 - whatever it was, this attempt failed and is told
                if dropped_at is None:
                    self._tell(JoinFailed(number, _reason(failure, join.identity)))
                elif time.monotonic() - dropped_at > BACK_WITHIN_S:
                    self._tell(NotBack(number, _reason(failure, join.identity)))
                    dropped_at = None
                await asyncio.sleep(RETRY_PAUSES_S[min(failures, len(RETRY_PAUSES_S) - 1)])
                failures += 1
                continue
            failures = 0
            if dropped_at is None:
                self._tell(Joined(number, participant.join_seconds))
            else:
                self._tell(Reconnected(number, time.monotonic() - dropped_at))
            self._here.add(number)
            try:
                end = await participant.until_over()
                dropped_at = time.monotonic()
                self._drops += 1
                print(f"{join.identity} dropped: {_reason(end, join.identity)}", file=sys.stderr)
            finally:
                self._here.discard(number)
                await self._swarm.leave(participant)

    async def _join(self, join: Join) -> Participant:
        participant = await self._swarm.join(join.room, join.identity)
        try:
            for track in join.publishes:
                await participant.publish(Fanout(**track.model_dump()))
        except BaseException:
            await self._swarm.leave(participant)
            raise
        return participant

    async def _report_figures(self) -> None:
        while True:
            await asyncio.sleep(REPORT_INTERVAL_S)
            self._tell(Measured(self._figures()))

    def _figures(self) -> MediaFigures:
        stats = self._swarm.engine.stats()
        counts = (
            TrackCount(track.track, kind, track.packets, track.lost)
            for track, kind in self._swarm.received_tracks(stats)
        )
        figures = self._meter.read(counts, time.monotonic())
        latency = since(stats.probe_latency_us, self._latency_before)
        self._latency_before = list(stats.probe_latency_us)
        drops, self._drops = self._drops, 0
        rejected = self._swarm.rejected.total()
        refused, self._rejected_before = rejected - self._rejected_before, rejected
        here = MediaFigures(len(self._here), latency=tuple(latency), drops=drops, rejected=refused)
        return figures + here

    def _tell(self, report: Report) -> None:
        if not self._writer.is_closing():
            self._writer.write(encode(report))


def _reason(failure: Exception, identity: str) -> str:
    """For a table that counts equal failures: without whose it was."""
    if isinstance(failure, InvalidStatus):
        body = (failure.response.body or b"").decode(errors="replace").strip()
        return f"HTTP {failure.response.status_code} {body}".strip()[:MAX_REASON]
    text = str(failure).removeprefix(f"{identity}: ")
    return (text or type(failure).__name__)[:MAX_REASON]


async def serve(end: socket.socket) -> None:
    """Be the swarm at one end of a socket."""
    reader, writer = await asyncio.open_connection(sock=end)
    first = await reader.readline()
    if not first:
        return
    orders = decode_command(first)
    if not isinstance(orders, Open):
        raise TypeError("open comes first")
    try:
        await SwarmProcess(orders, writer).run(reader)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def main() -> None:
    """`python -m loadtest.swarm_process --socket N`: started by `loadtest.swarm_client`, not by people."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--socket", type=int, required=True, help="descriptor of a stream socket")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started us
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    asyncio.run(serve(socket.socket(fileno=options.socket)))


if __name__ == "__main__":
    main()
