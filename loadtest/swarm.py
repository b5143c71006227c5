"""Participants made of the media core in the client role: one engine for all, so that thousands fit one machine.

Speaks to any LiveKit-compatible server. Not an SDK: it takes whatever it is offered, plays nothing, never reconnects,
and a participant whose transport fails fails whoever waits for it.
"""

import asyncio
import contextlib
import itertools
import secrets
import socket
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtest.access import Target
from loadtest.client_sdp import Kind
from loadtest.latency import percentile_ms, since
from loadtest.participant import Participant
from mediacore import (
    Binding,
    Connected,
    EncodingStarted,
    Engine,
    EngineConfig,
    Failed,
    Rejected,
    SourceConfig,
    Stats,
    TrackStats,
)

PING_INTERVAL_S = 5.0
JOINS_AT_ONCE = 4
LEAVES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Fanout:
    """What a publisher sends: frames in bursts of equal packets."""

    kind: Kind
    frames_per_second: float
    packets_per_frame: int
    payload_bytes: int

    def source(self) -> SourceConfig:
        """The engine's generator of it."""
        mime, clock_rate = {"audio": ("audio/opus", 48_000), "video": ("video/VP8", 90_000)}[
            self.kind
        ]
        return SourceConfig(
            self.kind,
            mime,
            clock_rate,
            self.frames_per_second,
            self.packets_per_frame,
            self.payload_bytes,
        )


class Swarm:
    """Every participant of a load test, on one engine. Made and used inside one running event loop."""

    def __init__(self, target: Target, sockets: int = 512) -> None:
        """`sockets`: at least as many as there are peer connections at a time, for a server is one address to all."""
        self.target = target
        address = _local_address(target.url)
        self.engine = Engine(EngineConfig([Binding(address) for _ in range(sockets)]))
        self.fingerprint = self.engine.fingerprint
        self.rejected: Counter[str] = Counter()
        """Commands the engine refused: each is a defect of the swarm or of the server's descriptions."""
        self._numbers = itertools.count(1)
        self._participants: dict[str, Participant] = {}
        self._by_connection: dict[int, Participant] = {}
        self._by_track: dict[int, Participant] = {}
        self._kinds: dict[int, Kind] = {}
        """Of received tracks."""
        self._sids: set[str] = set()
        self._latency_before: list[int] = []
        self._lost_before = 0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.engine.event_fd(), self._drain)
        self._pinger = self._loop.create_task(self._ping())

    # ------------------------------------------------------------------------------------------ joining

    def new_room(self) -> str:
        """A room name nobody used."""
        return f"swarm-{secrets.token_hex(6)}"

    async def join(self, room: str, identity: str | None = None) -> Participant:
        """Join, and wait until every peer connection of the participant is up; leave again when that fails."""
        participant = Participant(self, room, identity or f"member-{next(self._numbers)}")
        self._participants[participant.identity] = participant
        try:
            await participant.connect()
        except BaseException:
            await self.leave(participant)
            raise
        return participant

    async def join_many(self, room: str, count: int) -> list[Participant]:
        """Join `count` times, a few at a time."""
        gate = asyncio.Semaphore(JOINS_AT_ONCE)

        async def one() -> Participant:
            async with gate:
                return await self.join(room)

        async with asyncio.TaskGroup() as tasks:
            joins = [tasks.create_task(one()) for _ in range(count)]
        return [join.result() for join in joins]

    async def timed_joins(self, room: str, count: int) -> list[float]:
        """Join `count` times, a few at a time; seconds each took from dialing to connected."""
        joined = await self.join_many(room, count)
        return [participant.join_seconds for participant in joined]

    async def leave_all(self) -> None:
        """Every participant says that it leaves, and is forgotten."""
        gate = asyncio.Semaphore(LEAVES_AT_ONCE)

        async def one(participant: Participant) -> None:
            async with gate:
                await self.leave(participant)

        async with asyncio.TaskGroup() as tasks:
            for participant in list(self._participants.values()):
                tasks.create_task(one(participant))

    async def close(self) -> None:
        """Leave, and close the engine."""
        try:
            await self.leave_all()
        finally:
            self._pinger.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pinger
            self._loop.remove_reader(self.engine.event_fd())
            self.engine.close()

    async def leave(self, participant: Participant) -> None:
        """One participant says that it leaves, and is forgotten."""
        await participant.leave()
        if self._participants.get(participant.identity) is participant:
            del self._participants[participant.identity]

    # ---------------------------------------------------------------------------------------- measuring

    def received(self) -> int:
        """Media packets received so far by everybody who is here."""
        return sum(track.packets for track in self._received(self.engine.stats()))

    def lost(self) -> int:
        """Packets missing for everybody who is here, since `reset_latency`."""
        return self._lost(self.engine.stats()) - self._lost_before

    def latency_ms(self) -> tuple[float, float]:
        """Half and 99 % of the packets since `reset_latency` took at most this long from their source, in ms."""
        counts = since(self.engine.stats().probe_latency_us, self._latency_before)
        return percentile_ms(counts, 0.5), percentile_ms(counts, 0.99)

    def reset_latency(self) -> None:
        """Count latency and loss from now on."""
        stats = self.engine.stats()
        self._latency_before = list(stats.probe_latency_us)
        self._lost_before = self._lost(stats)

    def received_tracks(self, stats: Stats) -> Iterator[tuple[TrackStats, Kind]]:
        """Those of `stats` that arrive from the server, not made here."""
        for track in stats.tracks:
            if kind := self._kinds.get(track.track):
                yield track, kind

    def _received(self, stats: Stats) -> Iterable[TrackStats]:
        return (track for track in stats.tracks if track.track in self._by_track)

    def _lost(self, stats: Stats) -> int:
        return sum(track.lost for track in self._received(stats))

    # ----------------------------------------------------------------- what participants need of the swarm

    def new_connection(self, participant: Participant) -> int:
        """A peer connection's number; its events go to `participant`."""
        number = next(self._numbers)
        self._by_connection[number] = participant
        return number

    def new_track(self) -> int:
        """The number of a track that is made here."""
        return next(self._numbers)

    def new_received_track(self, participant: Participant, kind: Kind) -> int:
        """The number of a track that arrives; its events go to `participant`, and it counts as received."""
        number = next(self._numbers)
        self._by_track[number] = participant
        self._kinds[number] = kind
        return number

    def add_sid(self, sid: str) -> None:
        """The server's name for one of ours."""
        self._sids.add(sid)

    def forget_sid(self, sid: str) -> None:
        """One of ours left."""
        self._sids.discard(sid)

    def is_of_this_process(self, sid: str) -> bool:
        """Whether a publisher's time stamps can be read: each process counts time from an instant of its own."""
        return sid in self._sids

    def forget(self, connections: Iterable[int], tracks: Iterable[int]) -> None:
        """Numbers not used any more."""
        for connection in connections:
            self._by_connection.pop(connection, None)
        for track in tracks:
            self._by_track.pop(track, None)
            self._kinds.pop(track, None)

    # ------------------------------------------------------------------------------------------- running

    def _drain(self) -> None:
        for event in self.engine.drain():
            match event:
                case Connected(pc=pc):
                    if participant := self._by_connection.get(pc):
                        participant.on_connected(pc)
                case Failed(pc=pc, reason=reason):
                    if participant := self._by_connection.get(pc):
                        participant.fail(ConnectionError(f"transport failed: {reason}"))
                case EncodingStarted(track=track):
                    if participant := self._by_track.get(track):
                        participant.on_media(track)
                case Rejected(command=command, message=message):
                    self.rejected[f"{command}: {message}"] += 1
                case _:
                    pass

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            for participant in list(self._participants.values()):
                await participant.ping()


def _local_address(url: str) -> str:
    """The address of this machine that reaches the server, with any free port."""
    parts = urlsplit(url)
    if parts.hostname is None:
        raise ValueError(f"no host in {url!r}")
    port = parts.port or {"ws": 80, "wss": 443}.get(parts.scheme, 80)
    family, _, _, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)  # sends nothing; chooses a route
        host = str(probe.getsockname()[0])
    return f"[{host}]:0" if family == socket.AF_INET6 else f"{host}:0"
