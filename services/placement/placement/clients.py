"""Outbound: leases and node records in NATS key-value buckets, and questions to nodes over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import structlog
from google.protobuf.message import DecodeError

from chassis import rpc, subjects
from chassis.bus import Bus
from chassis.clock import Clock
from chassis.errors import (
    BusError,
    DataLoss,
    FailedPrecondition,
    KeyExists,
    KvUnavailable,
    OutcomeUnknown,
    ServiceError,
    Unavailable,
    WrongRevision,
)
from chassis.ids import NodeId, RoomName, RoomSid
from chassis.kv import DELETE_MARKER_TTL_S, CaughtUp, Deleted, Entry, Kv
from contracts.node.v1 import node_pb2, node_pb2_grpc
from contracts.placement.v1 import placement_pb2
from placement.core.leases import BY_REVISION, Held, Lease, LeaseCache
from placement.core.nodes import Node, NodeRegistry
from placement.metrics import PlacementMetrics

log = structlog.get_logger(__name__)

SCHEMA: Final = 1
BLIND_CHECK_S: Final = 0.5
SETTLE_S: Final = 10.0
STORE_PATIENCE_S: Final = 1.5
"""How long one question to the store may take: a caller's own patience is a few of these."""
PROOF_LASTS_S: Final = 0.5
PROBE_PATIENCE_S: Final = 0.5
PROBE_KEY: Final = "-"
"""Read to see whether the store answers; whether there is such a room does not matter."""
ASK_INTERVAL_S: Final = 1.0
ASK_DEADLINE_S: Final = 1.0
OPEN_DEADLINE_S: Final = 5.0
"""A node reads what was left of a room first."""
MAX_QUESTIONS: Final = 32
"""Nodes that are asked at the same time."""


class TakeoverNews:
    """Tells signaling that a room has another home: the old one may still talk to its clients."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def tell(self, lease: Lease) -> None:
        """Once, to whoever listens; who misses it learns of it when the old home ends the room."""
        try:
            await self._bus.publish(subjects.ROOM_TAKEN_OVER, to_message(lease).SerializeToString())
        except BusError as error:
            log.warning("takeover not told", room=lease.room_name, error=str(error))


class KvLeaseStore:
    """Leases in the `rooms` bucket; a failure of the store is `Unavailable` to the caller."""

    def __init__(self, rooms: Kv, patience_s: float = STORE_PATIENCE_S) -> None:
        self._rooms = rooms
        self._patience_s = patience_s

    async def read(self, name: RoomName) -> Held | None:
        """The lease now, from the bucket's leader."""
        try:
            async with asyncio.timeout(self._patience_s):
                entry = await self._rooms.get(name)
        except (KvUnavailable, TimeoutError) as error:
            raise _lookups_unavailable(error) from error
        return None if entry is None else _held(name, entry)

    async def write(self, lease: Lease, nonce: bytes, replaces: Held | None) -> Held | None:
        """Store the lease in place of `replaces`; None when the caller must read and decide again.

        A write without an acknowledgement is such a case: its nonce tells whether it happened.
        """
        record = placement_pb2.RoomRecord(schema=SCHEMA, lease=to_message(lease), nonce=nonce)
        data = record.SerializeToString()
        try:
            async with asyncio.timeout(self._patience_s):
                if replaces is None:
                    revision = await self._rooms.create(lease.room_name, data)
                else:
                    revision = await self._rooms.update(lease.room_name, data, replaces.revision)
        except (KeyExists, WrongRevision, OutcomeUnknown, TimeoutError):
            return None
        except KvUnavailable as error:
            if replaces is None:
                raise Unavailable(
                    "no new rooms while the message bus cannot be reached; running rooms go on"
                ) from error
            raise _lookups_unavailable(error) from error
        return _held_at(revision, lease, nonce)

    async def remove(self, held: Held) -> bool:
        """Delete exactly this lease; False when the caller must read and decide again."""
        try:
            async with asyncio.timeout(self._patience_s):
                await self._rooms.delete(held.lease.room_name, held.revision)
        except (WrongRevision, OutcomeUnknown, TimeoutError):
            return False
        except KvUnavailable as error:
            raise _lookups_unavailable(error) from error
        return True


class LeaseFeed:
    """Follows the `rooms` bucket into the cache."""

    def __init__(
        self, rooms: Kv, cache: LeaseCache, bus: Bus, clock: Clock, metrics: PlacementMetrics
    ) -> None:
        self._rooms = rooms
        self._cache = cache
        self._bus = bus
        self._clock = clock
        self._metrics = metrics
        self._last_connected_at = clock.now()
        self._blind_for_s = 0.0
        self.caught_up = asyncio.Event()
        """Set once every lease there was at the start is known."""

    async def follow(self) -> None:
        """Until canceled: changes in, cache up to date."""
        async for change in self._rooms.watch():
            match change:
                case Entry(key):
                    try:
                        self._cache.watched(_held(RoomName(key), change))
                    except DataLoss as error:
                        self._metrics.bad_records.add(1)
                        log.warning("room record skipped", error=error.message)
                case Deleted(key, revision):
                    self._removed(RoomName(key), revision)
                case CaughtUp():
                    self.caught_up.set()

    async def notice_blindness(self) -> None:
        """Until canceled: remembers how long the bus was away."""
        while True:
            now = self._clock.now()
            if not self._bus.connected:
                self._blind_for_s = now - self._last_connected_at
            elif self._blind_for_s:
                # The watch gets a while to tell what it missed.
                await asyncio.sleep(SETTLE_S)
                self._blind_for_s, self._last_connected_at = 0.0, self._clock.now()
            else:
                self._last_connected_at = now
            await asyncio.sleep(BLIND_CHECK_S)

    def _removed(self, name: RoomName, revision: int) -> None:
        known = self._cache.get(name)
        if known is not None and self._blind_for_s >= DELETE_MARKER_TTL_S:
            # Traces of removals have expired meanwhile: that a lease is absent says nothing more.
            self._cache.ended(known.lease)
        else:
            self._cache.removed(name, revision)


class NodeFeed:
    """Follows the `nodes` bucket into the registry."""

    def __init__(
        self, nodes: Kv, registry: NodeRegistry, bus: Bus, clock: Clock, metrics: PlacementMetrics
    ) -> None:
        self._nodes = nodes
        self._registry = registry
        self._bus = bus
        self._clock = clock
        self._metrics = metrics
        self.caught_up = asyncio.Event()
        """Set once every record there was at the start is known."""

    async def follow(self) -> None:
        """Until canceled: records in, registry up to date."""
        self._registry.restart_counts(self._clock.now())
        async for change in self._nodes.watch():
            match change:
                case Entry():
                    self._heard(change)
                case Deleted(key, revision):
                    self._registry.left(NodeId(key), revision)
                case CaughtUp():
                    self.caught_up.set()

    async def notice_blindness(self) -> None:
        """Until canceled: while the bus is away nobody's silence counts."""
        while True:
            if not self._bus.connected:
                self._registry.restart_counts(self._clock.now())
            await asyncio.sleep(BLIND_CHECK_S)

    def _heard(self, entry: Entry) -> None:
        try:
            record = placement_pb2.NodeRecord.FromString(entry.value)
        except DecodeError:
            self._metrics.bad_records.add(1)
            log.warning("node record cannot be read", node=entry.key)
            return
        if record.node_id != entry.key or not record.address:
            self._metrics.bad_records.add(1)
            log.warning("node record is incomplete", node=entry.key)
            return
        self._registry.heard(_node(record), entry.revision, self._clock.now())


class StoreReach:
    """Does this replica reach the store now? A connection that is open proves nothing: its other end may hang."""

    def __init__(self, rooms: Kv, bus: Bus, clock: Clock) -> None:
        self._rooms = rooms
        self._bus = bus
        self._clock = clock
        self._proven_at: float | None = None
        self._probing = asyncio.Lock()

    async def is_proven(self) -> bool:
        """Did the store answer within the last moment, or does it now?"""
        async with self._probing:
            now = self._clock.now()
            if not self._bus.connected:
                return False
            if self._proven_at is not None and now - self._proven_at < PROOF_LASTS_S:
                return True
            try:
                async with asyncio.timeout(PROBE_PATIENCE_S):
                    await self._rooms.get(PROBE_KEY)
            except (KvUnavailable, TimeoutError):
                return False
            self._proven_at = now
            return True


class NodeQuestions:
    """Asks nodes over gRPC how they are; what they answer is in the registry afterwards.

    Each question has a connection of its own: there are few, and none waits for the back-off of an
    earlier one.
    """

    def __init__(
        self,
        registry: NodeRegistry,
        auth: rpc.RpcAuth,
        renews: Callable[[], Awaitable[bool]],
        clock: Clock,
        metrics: PlacementMetrics,
    ) -> None:
        self._registry = registry
        self._auth = auth
        self._renews = renews
        self._clock = clock
        self._metrics = metrics
        self._asking: dict[tuple[NodeId, str], asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(MAX_QUESTIONS)

    async def ask(self, node_id: NodeId, address: str) -> None:
        """Ask, or wait for the answer to the question under way; never raises for a silent node."""
        await asyncio.shield(self._question(node_id, address))

    async def follow(self) -> None:
        """Until canceled: every second a question to each node that is silent."""
        while True:
            for node in self._registry.to_ask(self._clock.now()):
                self._question(node.node_id, node.address)
            await asyncio.sleep(ASK_INTERVAL_S)

    async def close(self) -> None:
        """Give up what was asked."""
        asking = list(self._asking.values())
        for question in asking:
            question.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _question(self, node_id: NodeId, address: str) -> asyncio.Task[None]:
        key = (node_id, address)
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(node_id, address))
            asking.add_done_callback(lambda _done: self._asking.pop(key, None))
        return asking

    async def _ask(self, node_id: NodeId, address: str) -> None:
        async with self._places:
            asked_at = self._clock.now()
            try:
                record = await self._report(address)
            except ServiceError as error:
                self._registry.unanswered(node_id, asked_at)
                self._metrics.asks.add(1, "silent")
                log.info("node does not answer", node=node_id, address=address, error=error.message)
                return
            if not record.node_id:
                self._registry.unanswered(node_id, asked_at)
                self._metrics.asks.add(1, "silent")
                log.warning("node answers without its id", node=node_id, address=address)
                return
            self._registry.answered(node_id, address, _node(record), self._clock.now())
            self._metrics.asks.add(1, "answered" if record.node_id == node_id else "replaced")

    async def _report(self, address: str) -> placement_pb2.NodeRecord:
        request = node_pb2.ReportNodeRequest(renews=await self._renews())
        async with rpc.channel(address, auth=self._auth, deadline_s=ASK_DEADLINE_S) as channel:
            return (await node_pb2_grpc.NodeServiceStub(channel).ReportNode(request)).record


class RoomOpenings:
    """Calls a room's new home, which begins with the room by that."""

    def __init__(self, auth: rpc.RpcAuth) -> None:
        self._auth = auth

    async def open(self, lease: Lease) -> bool:
        """See `placement.runner.Openings`."""
        request = node_pb2.CallApiRequest(
            service="livekit.RoomService",
            # Of a room that runs it is never empty, unlike a list of participants.
            method="ListRooms",
            room_name=lease.room_name,
            room_sid=lease.room_sid,
            epoch=lease.epoch,
            node_id=lease.node_id,
        )
        async with rpc.channel(
            lease.node_address, auth=self._auth, deadline_s=OPEN_DEADLINE_S
        ) as channel:
            answer = await node_pb2_grpc.NodeServiceStub(channel).CallApi(request)
        if answer.lease_refused:
            raise FailedPrecondition(answer.error_message)
        if answer.error_code:
            raise ServiceError.of(answer.error_code, answer.error_message)
        return bool(answer.response)


def to_message(lease: Lease) -> placement_pb2.Lease:
    """A lease for the wire."""
    return placement_pb2.Lease(
        room_name=lease.room_name,
        room_sid=lease.room_sid,
        node_id=lease.node_id,
        node_address=lease.node_address,
        epoch=lease.epoch,
    )


def _node(record: placement_pb2.NodeRecord) -> Node:
    return Node(
        node_id=NodeId(record.node_id),
        address=record.address,
        region=record.region,
        draining=record.draining,
        rooms=record.rooms,
        participants=record.participants,
        participant_limit=record.participant_limit,
        tracks=record.tracks_in + record.tracks_out,
        track_limit=record.track_limit,
        bytes_per_s=record.bytes_in_per_s + record.bytes_out_per_s,
        bytes_per_s_limit=record.bytes_per_s_limit,
        cpu_load=record.cpu_load,
        cpu_load_limit=record.cpu_load_limit,
        system_load=record.system_load,
        pod_name=record.pod_name,
    )


def _held(name: RoomName, entry: Entry) -> Held:
    try:
        record = placement_pb2.RoomRecord.FromString(entry.value)
    except DecodeError as error:
        raise DataLoss(f"the record of room {name!r} cannot be read") from error
    lease = Lease(
        room_name=name,
        room_sid=RoomSid(record.lease.room_sid),
        node_id=NodeId(record.lease.node_id),
        node_address=record.lease.node_address,
        epoch=record.lease.epoch,
    )
    return _held_at(entry.revision, lease, record.nonce)


def _held_at(revision: int, lease: Lease, nonce: bytes) -> Held:
    if lease.epoch == BY_REVISION:
        lease = replace(lease, epoch=revision)
    return Held(lease, revision, nonce)


def _lookups_unavailable(error: Exception) -> Unavailable:
    reason = str(error) or "the message bus does not answer"
    return Unavailable(f"rooms cannot be looked up now: {reason}")
