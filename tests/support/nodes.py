"""sfu nodes in the test's process, behind real gRPC on loopback, with fakes for what is beyond."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from livekit.protocol import rtc

from chassis import rpc
from chassis.clock import SystemClock
from chassis.kv import Kv, MemoryKv
from chassis.subjects import CHECKPOINTS
from chassis.telemetry import Metrics
from contracts.events.v1 import events_pb2
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2
from sfu.api import NodeService, SignalStreams
from sfu.checkpoints import Checkpoints
from sfu.clients import NodeDialer, PlacedHomes
from sfu.core import room_events
from sfu.core.media_commands import Command
from sfu.core.renewal import Renewal
from sfu.ids import StageIds
from sfu.metrics import SfuMetrics
from sfu.node import Node
from sfu.runner import Homes, NodeLimits, StageMachine, Surroundings
from tests.support.stages import FakeStage

AUTH = rpc.RpcAuth(None)


@dataclass
class Witness:
    """Events, released leases and engine commands of a node, as they came."""

    events: list[events_pb2.RoomEvent] = field(default_factory=list)
    released: list[tuple[str, int]] = field(default_factory=list)
    doubts: int = 0
    commands: list[Command] = field(default_factory=list)

    def publish(self, event: events_pb2.RoomEvent) -> None:
        self.events.append(event)

    def release(self, room_name: str, epoch: int) -> None:
        self.released.append((room_name, epoch))

    def reclaim_soon(self) -> None:
        self.doubts += 1

    def perform(self, command: Command) -> None:
        self.commands.append(command)


@dataclass
class TestNode:
    """A node, its address, and what it did."""

    __test__ = False

    node: Node
    address: str
    witness: Witness
    stages: list[FakeStage]
    metrics: SfuMetrics
    writing: asyncio.Task[None]

    async def crash(self) -> None:
        """Stop working at once, without a word to anybody."""
        self.writing.cancel()
        tasks = list(self.node._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def running_node(
    node_id: str,
    *,
    link_grace_s: float = 20.0,
    settings: room_events.RoomSettings | None = None,
    lapses: bool = False,
    limits: NodeLimits | None = None,
    tracks: Callable[[], int] = lambda: 0,
    bucket: Kv | None = None,
    homes: Homes | None = None,
) -> AsyncIterator[TestNode]:
    """A node that serves until the block ends; its leases last unless told that they may lapse."""
    witness, stages = Witness(), list[FakeStage]()
    metrics = SfuMetrics(Metrics())

    def make_stage(room_name: str, ids: StageIds) -> StageMachine:
        stages.append(FakeStage(room_name, ids))
        return stages[-1]

    streams = SignalStreams(metrics)
    clock = SystemClock()
    kept = MemoryKv(CHECKPOINTS) if bucket is None else bucket

    async def open_bucket() -> Kv:
        return kept

    checkpoints = Checkpoints(open_bucket, clock, metrics)
    renewal = Renewal(clock.now() + (0.0 if lapses else 1e9))
    node = Node(
        Surroundings(
            node_id=node_id,
            clock=clock,
            sockets=streams,
            media=witness,
            events=witness,
            leases=witness,
            renewal=renewal,
            checkpoints=checkpoints,
            homes=homes or PlacedHomes("", AUTH),
            dialer=NodeDialer(node_id, AUTH),
            make_stage=make_stage,
            room_settings=settings or room_events.RoomSettings(),
            metrics=metrics,
            link_grace_s=link_grace_s,
            limits=limits or NodeLimits(),
            tracks=tracks,
        )
    )
    writing = asyncio.create_task(checkpoints.run())
    record = placement_pb2.NodeRecord(node_id=node_id)
    service = NodeService(node, streams, lambda: record, clock)
    register = partial(node_pb2_grpc.add_NodeServiceServicer_to_server, service)
    server = rpc.make_server("127.0.0.1:0", register, auth=AUTH)
    await server.start()
    try:
        yield TestNode(node, server.address, witness, stages, metrics, writing)
    finally:
        await node.close()
        if not writing.cancelled():
            await checkpoints.flush(1.0)
            writing.cancel()
        await streams.finish(1.0)
        await server.stop()


class Signaling:
    """One signaling replica's stream to one node."""

    def __init__(self, call: object, requests: asyncio.Queue[node_pb2.SignalRequestFrame]) -> None:
        self._call = call
        self._requests = requests
        self._session_ids = itertools.count(1)
        self.frames: dict[int, asyncio.Queue[node_pb2.SignalResponseFrame]] = {}
        self.opened: dict[int, str] = {}
        """Participant sids by session, as the node told them."""

    def open(self, identity: str, **fields: object) -> int:
        """Open a session; returns its id."""
        session_id = next(self._session_ids)
        self.frames[session_id] = asyncio.Queue()
        claims = node_pb2.Claims(identity=identity).SerializeToString()
        defaults: dict[str, object] = {"room_name": "r", "room_sid": "RM_1", "epoch": 5}
        opened = node_pb2.OpenSession(**(defaults | fields | {"claims": claims}))  # type: ignore[arg-type]
        request = node_pb2.SignalRequestFrame(session_id=session_id, open=opened)
        self._requests.put_nowait(request)
        return session_id

    def say(self, session_id: int, words: str) -> None:
        """A signal request of the fake stage's language."""
        request = node_pb2.SignalRequestFrame(session_id=session_id, signal_request=words.encode())
        self._requests.put_nowait(request)

    async def frame(self, session_id: int) -> node_pb2.SignalResponseFrame:
        """The next frame for this session."""
        return await asyncio.wait_for(self.frames[session_id].get(), 5.0)

    async def response(self, session_id: int) -> rtc.SignalResponse:
        """The next frame, as the client decodes it."""
        frame = await self.frame(session_id)
        assert frame.WhichOneof("message") == "signal_response", frame
        return rtc.SignalResponse.FromString(frame.signal_response)

    async def read(self) -> None:
        async for response in self._call:  # type: ignore[attr-defined]
            for frame in response.frames:
                if frame.WhichOneof("message") == "opened":
                    self.opened[frame.session_ids[0]] = frame.opened.participant_sid
                    continue
                for session_id in frame.session_ids:
                    self.frames[session_id].put_nowait(frame)


@asynccontextmanager
async def signaling(address: str) -> AsyncIterator[Signaling]:
    """A signaling replica connected to the node at `address`."""
    requests: asyncio.Queue[node_pb2.SignalRequestFrame] = asyncio.Queue()

    async def outgoing() -> AsyncIterator[node_pb2.SignalStreamRequest]:
        while True:
            yield node_pb2.SignalStreamRequest(frames=[await requests.get()])

    async with rpc.channel(address, auth=AUTH) as channel:
        call = node_pb2_grpc.NodeServiceStub(channel).SignalStream(outgoing())
        replica = Signaling(call, requests)
        reading = asyncio.create_task(replica.read())
        try:
            yield replica
        finally:
            reading.cancel()
            call.cancel()
            with suppress(asyncio.CancelledError):
                await reading


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait for `condition`, as briefly as possible."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - anything may make it true
            await asyncio.sleep(0.005)
