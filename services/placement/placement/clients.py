"""Outbound: leases and node records in NATS key-value buckets."""

from __future__ import annotations

import asyncio

import structlog
from google.protobuf.message import DecodeError

from chassis.bus import Bus
from chassis.clock import Clock
from chassis.errors import (
    DataLoss,
    KeyExists,
    KvUnavailable,
    OutcomeUnknown,
    Unavailable,
    WrongRevision,
)
from chassis.ids import NodeId, RoomName, RoomSid
from chassis.kv import CaughtUp, Deleted, Entry, Kv
from contracts.placement.v1 import placement_pb2
from placement.core.leases import Held, Lease
from placement.core.nodes import Node, NodeRegistry
from placement.metrics import PlacementMetrics

log = structlog.get_logger(__name__)

SCHEMA = 1
BLIND_CHECK_S = 0.5


class KvLeaseStore:
    """Leases in the `rooms` bucket; a failure of the store is `Unavailable` to the caller."""

    def __init__(self, rooms: Kv) -> None:
        self._rooms = rooms

    async def read(self, name: RoomName) -> Held | None:
        """The lease now, from the bucket's leader."""
        try:
            entry = await self._rooms.get(name)
        except KvUnavailable as error:
            raise _unavailable(error) from error
        return None if entry is None else _held(name, entry)

    async def write(self, lease: Lease, nonce: bytes, replaces: Held | None) -> bool:
        """Store the lease in place of `replaces`; False when the caller must read and decide again.

        A write without an acknowledgement is such a case: its nonce tells whether it happened.
        """
        record = placement_pb2.RoomRecord(schema=SCHEMA, lease=to_message(lease), nonce=nonce)
        data = record.SerializeToString()
        try:
            if replaces is None:
                await self._rooms.create(lease.room_name, data)
            else:
                await self._rooms.update(lease.room_name, data, replaces.revision)
        except (KeyExists, WrongRevision, OutcomeUnknown):
            return False
        except KvUnavailable as error:
            raise _unavailable(error) from error
        return True

    async def remove(self, held: Held) -> bool:
        """Delete exactly this lease; False when the caller must read and decide again."""
        try:
            await self._rooms.delete(held.lease.room_name, held.revision)
        except (WrongRevision, OutcomeUnknown):
            return False
        except KvUnavailable as error:
            raise _unavailable(error) from error
        return True

    async def names(self) -> list[RoomName]:
        """Every room that has a lease."""
        try:
            return [RoomName(key) for key in await self._rooms.keys()]
        except KvUnavailable as error:
            raise _unavailable(error) from error

    async def last_revision(self) -> int:
        """The bucket's last revision."""
        try:
            return await self._rooms.last_revision()
        except KvUnavailable as error:
            raise _unavailable(error) from error


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
                case Deleted(key):
                    self._registry.forget(NodeId(key))
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
        node = Node(
            node_id=NodeId(record.node_id),
            address=record.address,
            region=record.region,
            draining=record.draining,
            rooms=record.rooms,
            participants=record.participants,
            participant_limit=record.participant_limit,
            cpu_load=record.cpu_load,
            pod_name=record.pod_name,
        )
        self._registry.heard(node, entry.revision, self._clock.now())


def to_message(lease: Lease) -> placement_pb2.Lease:
    """A lease for the wire."""
    return placement_pb2.Lease(
        room_name=lease.room_name,
        room_sid=lease.room_sid,
        node_id=lease.node_id,
        node_address=lease.node_address,
        epoch=lease.epoch,
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
    return Held(lease, entry.revision, record.nonce)


def _unavailable(error: KvUnavailable) -> Unavailable:
    return Unavailable(f"rooms cannot be looked up now: {error}")
