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
from google.protobuf.message import DecodeError

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
from sfu.spool import Spool

log = structlog.get_logger(__name__)

RETRY_FIRST_S = 0.1
RETRY_LAST_S = 2.0
HEARTBEAT_S = 1.0
CALL_S = 10.0
RELEASE_ATTEMPTS = 30
RECLAIM_S = 30.0
NODE_SCHEMA = 1
FILL_S = 30.0  # between looks at how full the stream is
SPOOL_BATCH = 100
FIRST_ATTEMPT_S = 0.5  # after which a fact goes to the spool, and is sent again from there
MAX_EVENT_BYTES = 1000 * 1000  # NATS takes messages of up to 1 MB


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


class PlacedHomes:
    """Asks placement where a room lives, and calls rooms on other nodes."""

    def __init__(self, address: str, auth: rpc.RpcAuth) -> None:
        self._auth = auth
        self._channel = rpc.channel(address, auth=auth) if address else None

    async def assign(self, room_name: str, node_id: str) -> placement_pb2.AssignRoomResponse:
        """The room's home, made now if there is none: on `node_id`, if that node can take it."""
        if self._channel is None:
            raise FailedPrecondition(
                "this node knows no placement, and so no other room: set placement_address"
            )
        request = placement_pb2.AssignRoomRequest(
            room_name=room_name, create=True, preferred_node_id=node_id
        )
        stub = placement_pb2_grpc.PlacementServiceStub(self._channel)
        return await stub.AssignRoom(request, timeout=CALL_S)

    async def call(self, address: str, request: node_pb2.CallApiRequest) -> bytes:
        """A RoomService call on another node; ServiceError as it was refused there."""
        async with rpc.channel(address, auth=self._auth) as channel:
            stub = node_pb2_grpc.NodeServiceStub(channel)
            answer = await stub.CallApi(request, timeout=CALL_S)
        if answer.error_code:
            raise ServiceError.of(answer.error_code, answer.error_message)
        return answer.response

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()


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
        self._writing = asyncio.Lock()

    def beat(self) -> None:
        """Write the record now: something changed that placement is to know at once."""
        self._wanted.set()

    async def run(self) -> None:
        """Until retired or canceled, whether NATS is there or not."""
        bucket: Kv | None = None
        is_known_away = False
        while not self._is_retired:
            self._wanted.clear()
            try:
                async with self._writing:
                    bucket = bucket or await self._open_bucket()
                    if self._is_retired:
                        return
                    record, sent_at = self._record(), self._clock.now()
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
            async with asyncio.timeout(grace_s), self._writing:
                await (await self._open_bucket()).delete(self._record().node_id)
        except (TimeoutError, KvError, BusError) as error:
            log.info("node record not taken away; it grows stale", error=str(error))


class PlacementLeases:
    """What the node tells placement of its leases; without an address it does nothing."""

    def __init__(self, address: str, node_id: str, auth: rpc.RpcAuth) -> None:
        self._node_id = node_id
        self._channel = rpc.channel(address, auth=auth) if address else None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_doubtful = asyncio.Event()

    def release(self, room_name: str, epoch: int) -> None:
        """The room is over: let placement know, in the background."""
        if self._channel is None:
            return
        task = asyncio.create_task(self._release(self._channel, room_name, epoch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def reclaim_soon(self) -> None:
        """Somebody may have taken rooms that are here: ask now."""
        self._is_doubtful.set()

    async def keep_reclaimed(
        self,
        bus: Bus,
        clock: Clock,
        leases: Callable[[], Sequence[placement_pb2.Lease]],
        superseded: Callable[[placement_pb2.Lease], None],
        confirmed: Callable[[float], None],
    ) -> None:
        """Tell placement which rooms are here: regularly, when NATS is back and when in doubt; until canceled.

        A store that lost them gets them back; `superseded` is told of those that are another's, then
        `confirmed` of the time as of which this is known. Without placement all of them are the node's.
        """
        connection, delay, retry = bus.connections, RECLAIM_S, RETRY_FIRST_S
        while True:
            connection = await self._until_due(bus, connection, delay)
            self._is_doubtful.clear()
            held, asked_at = leases(), clock.now()
            try:
                taken = await self._reclaim(held) if held else ()
            except ServiceError as error:
                log.info("rooms not reclaimed yet", rooms=len(held), error=error.message)
                delay, retry = retry, min(retry * 2, RETRY_LAST_S)
                continue
            for lease in taken:
                superseded(lease)
            confirmed(asked_at)
            delay, retry = RECLAIM_S, RETRY_FIRST_S

    async def _until_due(self, bus: Bus, connection: int, delay: float) -> int:
        """Until it is time, the bus has another connection than this one, or somebody doubts; the connection then."""
        waiting: set[asyncio.Future[object]] = {
            asyncio.ensure_future(bus.wait_for_reconnection(connection)),
            asyncio.ensure_future(self._is_doubtful.wait()),
        }
        try:
            await asyncio.wait(waiting, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waiting:
                one.cancel()
        return bus.connections

    async def _reclaim(self, held: Sequence[placement_pb2.Lease]) -> Sequence[placement_pb2.Lease]:
        if self._channel is None:
            return ()
        request = placement_pb2.ReclaimRoomsRequest(
            node_id=self._node_id, node_address=held[0].node_address, leases=held
        )
        stub = placement_pb2_grpc.PlacementServiceStub(self._channel)
        return (await stub.ReclaimRooms(request)).superseded

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

    Facts that cannot be published in a moment go to the spool and from there to the stream, with
    their ids. When spool and memory are full the newest facts are lost, counted and logged: the
    order of the others is kept. Nobody waits for it: not for NATS, not for a disk.
    """

    def __init__(self, bus: Bus, metrics: SfuMetrics, spool: Spool, limit_bytes: int) -> None:
        self._bus = bus
        self._metrics = metrics
        self._spool = spool
        self._limit = limit_bytes
        self._fresh: deque[bytes] = deque()  # newer than all that is in the spool
        self._fresh_bytes = 0
        self._is_open = False
        self._delay = RETRY_FIRST_S
        self._arrived = asyncio.Event()
        self._emptied = asyncio.Event()
        metrics.events_spooled.read_by(lambda: float(self.waiting))

    @property
    def waiting(self) -> int:
        """Facts not acknowledged by the stream."""
        return self._spool.waiting + len(self._fresh)

    def publish(self, event: events_pb2.RoomEvent) -> None:
        """Take a fact; never waits."""
        payload = event.SerializeToString()
        if len(payload) > MAX_EVENT_BYTES or self._fresh_bytes + len(payload) > self._limit:
            self._lose(payload)
            return
        self._fresh.append(payload)
        self._fresh_bytes += len(payload)
        self._arrived.set()
        self._emptied.clear()

    async def run(self) -> None:
        """Until canceled."""
        while True:
            if not self.waiting:
                self._emptied.set()
                self._arrived.clear()
                await self._arrived.wait()
            if self._spool.waiting:
                await self._publish_spooled()
            elif await self._is_published(self._fresh[0], FIRST_ATTEMPT_S):
                self._drop_fresh()
            else:
                await self._save()
                await self._back_off()

    async def watch_fill(self) -> None:
        """Keep the metric of how full the stream is, until canceled."""
        while True:
            # What is not known stays as it was: that the bus is away has a metric of its own.
            with suppress(BusError):
                self._metrics.events_fill.set(await self._bus.stream_fill(subjects.EVENTS))
            await asyncio.sleep(FILL_S)

    async def flush(self, grace_s: float) -> None:
        """Wait until nothing waits, but no longer than `grace_s`."""
        if not self.waiting:
            return
        try:
            async with asyncio.timeout(grace_s):
                await self._emptied.wait()
        except TimeoutError:
            log.warning("events not published", waiting=self.waiting)

    def save(self) -> None:
        """Leave what waits in the spool: `run` was canceled, the process ends."""
        taken = self._spool.append(self._fresh)
        for _ in range(taken):
            self._drop_fresh()
        while self._fresh:
            self._lose(self._drop_fresh())

    async def _publish_spooled(self) -> None:
        for payload in await asyncio.to_thread(self._spool.read, SPOOL_BATCH):
            while not await self._is_published(payload):
                await self._save()
                await self._back_off()
            self._spool.remove()
        # What came meanwhile is newer than the rest of the spool.
        if self._spool.waiting:
            await self._save()

    async def _is_published(self, payload: bytes, limit_s: float | None = None) -> bool:
        """One attempt; True also when the fact is unreadable, so that others are not held up."""
        try:
            event = events_pb2.RoomEvent.FromString(payload)
        except DecodeError:
            self._lose(payload)
            return True
        try:
            async with asyncio.timeout(limit_s):
                if not self._is_open:
                    await self._bus.open_stream(subjects.EVENTS)
                    self._is_open = True
                subject = subjects.event_subject(event.room_name, event.name)
                with telemetry.continued(event.traceparent):
                    await self._bus.publish_durable(subject, payload, message_id=event.id)
        except (BusError, TimeoutError) as error:
            reason = str(error) or "no acknowledgement yet"
            log.info("event waits", error=reason, waiting=self.waiting)
            self._is_open = False
            return False
        self._delay = RETRY_FIRST_S
        return True

    async def _back_off(self) -> None:
        await asyncio.sleep(self._delay)
        self._delay = min(self._delay * 2, RETRY_LAST_S)
        await self._save()

    async def _save(self) -> None:
        """Into the spool with what is in memory, as far as there is room."""
        if not self._fresh:
            return
        payloads = list(self._fresh)
        try:
            taken = await asyncio.to_thread(self._spool.append, payloads)
        except OSError as error:
            log.warning("events stay in memory: the spool cannot be written", error=str(error))
            return
        for _ in range(taken):
            self._drop_fresh()
        for payload in payloads[taken:]:
            self._drop_fresh()
            self._lose(payload)

    def _drop_fresh(self) -> bytes:
        payload = self._fresh.popleft()
        self._fresh_bytes -= len(payload)
        return payload

    def _lose(self, payload: bytes) -> None:
        self._metrics.events_lost.add()
        log.error("event lost: there is no room for it", bytes=len(payload), waiting=self.waiting)
