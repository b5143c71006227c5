"""Outbound: room links to other homes, heartbeats, leases given back, facts for the EVENTS stream.

Nothing here makes a caller wait. NATS or placement away is logged once and outlived: rooms go on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Literal, Protocol

import grpc.aio
import structlog

from chassis import rpc, subjects, telemetry
from chassis.bus import Bus
from chassis.clock import Clock
from chassis.errors import BusError, FailedPrecondition, KvError, NotFound, ServiceError
from chassis.kv import Kv
from contracts.events.v1 import events_pb2
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2, placement_pb2_grpc
from sfu.metrics import SfuMetrics
from sfu.outbox import LINK_QUEUE_BYTES, Outbox

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 2.0
HEARTBEAT_S = 1.0
RELEASE_ATTEMPTS = 30
RECLAIM_S = 30.0
NODE_SCHEMA = 1
SPOOL_EVENTS = 100_000


class LinkedRoom(Protocol):
    """The room here that a connection is for: `sfu.runner.RoomRunner`."""

    def link_up(self, end: Literal["stage"], node_id: str, wire: _LinkWire) -> int: ...
    def link_frame(
        self,
        end: Literal["stage"],
        node_id: str,
        connection: int,
        frame: node_pb2.RoomLinkFrame,
    ) -> None: ...
    def link_down(self, end: Literal["stage"], node_id: str, connection: int) -> None: ...
    def home_refused(self, reason: str) -> None: ...


class _LinkWire:
    """The dialing end of a room link's connection."""

    def __init__(self) -> None:
        self.outbox: Outbox[node_pb2.RoomLinkRequest] = Outbox(LINK_QUEUE_BYTES)
        self.refusal: str | None = None

    def send(self, frame: node_pb2.RoomLinkFrame) -> None:
        self.outbox.put(node_pb2.RoomLinkRequest(frame=frame))

    def close(self, reason: str, *, refused: bool) -> None:
        self.refusal = reason if refused else None
        self.outbox.close()


class NodeDialer:
    """Connects stages here with rooms whose home is another node."""

    def __init__(self, node_id: str, auth: rpc.RpcAuth) -> None:
        self._node_id = node_id
        self._auth = auth

    async def keep_linked(self, address: str, runner: LinkedRoom) -> None:
        """Connect, and again after every break, until canceled or refused by the home."""
        delay = RETRY_FIRST_S
        async with rpc.channel(address, auth=self._auth) as channel:
            stub = node_pb2_grpc.NodeServiceStub(channel)
            while True:
                try:
                    if await self._link(stub, runner):
                        delay = RETRY_FIRST_S
                except FailedPrecondition as refusal:
                    runner.home_refused(refusal.message)
                    return
                except ServiceError as error:
                    log.info("room link broke", home=address, error=error.message)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_LAST_S)

    async def _link(self, stub: node_pb2_grpc.NodeServiceStub, runner: LinkedRoom) -> bool:
        """One connection from beginning to end; whether the home ever answered."""
        wire = _LinkWire()
        connection = runner.link_up("stage", self._node_id, wire)
        did_answer = False
        try:
            with rpc.service_errors():
                call = stub.RoomLink(aiter(wire.outbox))  # type: ignore[arg-type]
                async for response in call:  # type: ignore[attr-defined]
                    did_answer = True
                    runner.link_frame("stage", self._node_id, connection, response.frame)
        finally:
            wire.outbox.close()
            runner.link_down("stage", self._node_id, connection)
        if wire.refusal is not None:
            raise FailedPrecondition(wire.refusal)
        return did_answer


class Heartbeat:
    """Writes this node's record to the `nodes` bucket every second."""

    def __init__(
        self,
        open_bucket: Callable[[], Awaitable[Kv]],
        record: Callable[[], placement_pb2.NodeRecord],
        metrics: SfuMetrics,
        clock: Clock,
        renewed: Callable[[float], None],
    ) -> None:
        """`renewed` gets the time at which an acknowledged heartbeat was sent."""
        self._open_bucket = open_bucket
        self._record = record
        self._metrics = metrics
        self._clock = clock
        self._renewed = renewed
        self._is_retired = False
        self._wanted = asyncio.Event()

    def beat(self) -> None:
        """Write the record now: something changed that placement is to know at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Until retired or canceled, whether NATS is there or not."""
        bucket: Kv | None = None
        is_known_away = False
        while not self._is_retired:
            self._wanted.clear()
            record, sent_at = self._record(), self._clock.now()
            try:
                bucket = bucket or await self._open_bucket()
                await bucket.put(record.node_id, record.SerializeToString())
                self._renewed(sent_at)
                is_known_away = False
            except (KvError, BusError) as error:
                self._metrics.heartbeats_failed.add()
                if not is_known_away:
                    log.warning("heartbeats do not arrive; rooms go on", error=str(error))
                is_known_away = True
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._wanted.wait()

    async def retire(self, grace_s: float) -> None:
        """Take the record away: this node is gone on purpose."""
        self._is_retired = True
        try:
            async with asyncio.timeout(grace_s):
                await (await self._open_bucket()).delete(self._record().node_id)
        except (TimeoutError, KvError, BusError) as error:
            log.info("node record not taken away; it grows stale", error=str(error))


class PlacementLeases:
    """What the node tells placement of its leases; without an address it does nothing."""

    def __init__(self, address: str, node_id: str, auth: rpc.RpcAuth) -> None:
        self._node_id = node_id
        self._channel = rpc.channel(address, auth=auth) if address else None
        self._tasks: set[asyncio.Task[None]] = set()

    def release(self, room_name: str, epoch: int) -> None:
        """The room is over: let placement know, in the background."""
        if self._channel is None:
            return
        task = asyncio.create_task(self._release(self._channel, room_name, epoch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def keep_reclaimed(
        self,
        bus: Bus,
        leases: Callable[[], Sequence[placement_pb2.Lease]],
        superseded: Callable[[placement_pb2.Lease], None],
    ) -> None:
        """Tell placement which rooms are here, regularly and when NATS is back; until canceled.

        A store that lost them gets them back; `superseded` is told of those that are another's.
        """
        if self._channel is None:
            return
        stub = placement_pb2_grpc.PlacementServiceStub(self._channel)
        connection = bus.connections
        delay = RECLAIM_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    connection = await bus.wait_for_reconnection(connection)
            delay = RECLAIM_S
            held = leases()
            if not held:
                continue
            request = placement_pb2.ReclaimRoomsRequest(
                node_id=self._node_id, node_address=held[0].node_address, leases=held
            )
            try:
                answer = await stub.ReclaimRooms(request)
            except ServiceError as error:
                log.info("rooms not reclaimed yet", rooms=len(held), error=error.message)
                delay = RETRY_LAST_S
                continue
            for lease in answer.superseded:
                superseded(lease)

    async def close(self, grace_s: float = 1.0) -> None:
        """Let releases under way end, for a moment."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()
        if self._channel is not None:
            await self._channel.close()

    async def _release(self, channel: grpc.aio.Channel, room_name: str, epoch: int) -> None:
        stub = placement_pb2_grpc.PlacementServiceStub(channel)
        request = placement_pb2.ReleaseRoomRequest(
            room_name=room_name, node_id=self._node_id, epoch=epoch
        )
        delay = RETRY_FIRST_S
        for _ in range(RELEASE_ATTEMPTS):
            try:
                await stub.ReleaseRoom(request)
            except (FailedPrecondition, NotFound):
                return  # somebody else's lease by now
            except ServiceError as error:
                last = error.message
            else:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_LAST_S)
        log.warning("lease not given back", room=room_name, epoch=epoch, error=last)


class EventPublisher:
    """Brings facts to the EVENTS stream in order, each until it is acknowledged.

    While NATS is away they wait in memory; when more than `limit` wait, the oldest are lost,
    counted and logged.
    """

    def __init__(self, bus: Bus, metrics: SfuMetrics, limit: int = SPOOL_EVENTS) -> None:
        self._bus = bus
        self._metrics = metrics
        self._limit = limit
        self._spool: deque[events_pb2.RoomEvent] = deque()
        self._arrived = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def publish(self, event: events_pb2.RoomEvent) -> None:
        """Take a fact; never waits."""
        if len(self._spool) >= self._limit:
            lost = self._spool.popleft()
            self._metrics.events_lost.add()
            log.error("event lost, the spool is full", room=lost.room_name, id=lost.id)
        self._spool.append(event)
        self._arrived.set()
        self._emptied.clear()

    async def run(self) -> None:
        """Until canceled."""
        delay = RETRY_FIRST_S
        is_open = False
        while True:
            self._metrics.events_spooled.set(len(self._spool))
            if not self._spool:
                self._emptied.set()
                self._arrived.clear()
                await self._arrived.wait()
            event = self._spool[0]
            subject = subjects.event_subject(event.room_name, event.name)
            try:
                if not is_open:
                    await self._bus.open_stream(subjects.EVENTS)
                    is_open = True
                with telemetry.continued(event.traceparent):
                    await self._bus.publish_durable(
                        subject, event.SerializeToString(), message_id=event.id
                    )
            except BusError as error:
                log.info("event waits", error=str(error), waiting=len(self._spool))
                is_open = False
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_LAST_S)
                continue
            delay = RETRY_FIRST_S
            if self._spool and self._spool[0] is event:
                self._spool.popleft()

    async def flush(self, grace_s: float) -> None:
        """Wait until nothing waits, but no longer than `grace_s`."""
        try:
            async with asyncio.timeout(grace_s):
                await self._emptied.wait()
        except TimeoutError:
            log.warning("events not published", waiting=len(self._spool))
