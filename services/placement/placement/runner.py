"""Assignments: reads the lease, lets the core decide, and writes by compare-and-set until one holds.

Several placement replicas may do this for one room at the same time: only the store decides.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, assert_never

import structlog

from chassis import ids
from chassis.clock import Clock
from chassis.errors import Aborted, FailedPrecondition, NotFound, Unavailable
from chassis.ids import NodeId, RoomName
from placement.core.choose import Draw, choose
from placement.core.leases import Held, Keep, Lease, NoRoom, Take, decide, first_lease, takeover
from placement.core.nodes import Node, NodeRegistry
from placement.metrics import PlacementMetrics

log = structlog.get_logger(__name__)

ATTEMPTS = 10

Answers = Callable[[Lease], Awaitable[bool]]
"""Asks a silent holder directly whether it still has the room."""


class LeaseStore(Protocol):
    """Where leases are; fulfilled by `placement.clients.KvLeaseStore`. Raises `Unavailable`."""

    async def read(self, name: RoomName) -> Held | None: ...
    async def write(self, lease: Lease, nonce: bytes, replaces: Held | None) -> bool: ...
    async def remove(self, held: Held) -> bool: ...
    async def names(self) -> list[RoomName]: ...
    async def last_revision(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """A room's home, and whether this very call made the room."""

    lease: Lease
    created: bool


async def nobody_answers(_lease: Lease) -> bool:
    """A silent holder counts as lost. Asking it over gRPC first comes with rooms that move."""
    return False


class Rooms:
    """What placement does about rooms."""

    def __init__(
        self,
        store: LeaseStore,
        nodes: NodeRegistry,
        clock: Clock,
        metrics: PlacementMetrics,
        draw: Draw = secrets.randbelow,
        answers: Answers = nobody_answers,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._clock = clock
        self._metrics = metrics
        self._draw = draw
        self._answers = answers

    async def assign(self, name: RoomName, *, create: bool, region: str = "") -> Assignment:
        """The room's home; a new one when it has none and `create`, or when its holder is lost."""
        # One nonce and one sid for all attempts: a write whose acknowledgement was lost may land
        # after it was read back as absent, and must still be known as this call's.
        nonce, sid = secrets.token_bytes(16), ids.new_room_sid(secrets.choice)
        for _ in range(ATTEMPTS):
            held = await self._store.read(name)
            if held is not None and held.nonce == nonce:
                return self._assigned(held.lease, created=held.lease.room_sid == sid)
            lost = held is not None and await self._is_lost(held.lease)
            match decide(held, create=create, holder_lost=lost):
                case NoRoom():
                    raise NotFound("requested room does not exist")
                case Keep(lease):
                    self._metrics.assignments.add(1, "kept")
                    return Assignment(lease, created=False)
                case Take(replaced):
                    node = self._choose(region)
                    if replaced is None:
                        lease = first_lease(name, sid, node, await self._store.last_revision())
                    else:
                        lease = takeover(replaced.lease, node)
                case decision:
                    assert_never(decision)
            if await self._store.write(lease, nonce, held):
                return self._assigned(lease, created=held is None)
        raise Aborted("the room's home kept changing; try again")

    async def find(self, name: RoomName) -> Lease:
        """The room's home; `NotFound` when it has none."""
        held = await self._store.read(name)
        if held is None:
            raise NotFound("requested room does not exist")
        return held.lease

    async def list(self, names: list[RoomName]) -> list[Lease]:
        """The leases of these rooms, or of all, without those of lost nodes."""
        wanted = names or await self._store.names()
        found = [await self._store.read(name) for name in dict.fromkeys(wanted)]
        now = self._clock.now()
        return [
            held.lease
            for held in found
            if held and not self._nodes.is_stale(held.lease.node_id, now)
        ]

    async def release(self, name: RoomName, node_id: NodeId, epoch: int) -> None:
        """The holder gives its lease back; `FailedPrecondition` when it is not the holder (now)."""
        for _ in range(ATTEMPTS):
            held = await self._store.read(name)
            if held is None:
                return
            if (held.lease.node_id, held.lease.epoch) != (node_id, epoch):
                raise FailedPrecondition(
                    f"the lease is at epoch {held.lease.epoch}, not at {epoch} of this node"
                )
            if await self._store.remove(held):
                log.info("room released", room=name, node=node_id, epoch=epoch)
                return
        raise Aborted("the room's lease kept changing; try again")

    async def sweep(self) -> int:
        """Remove the leases of nodes that are gone: their rooms are over. Returns how many."""
        swept = 0
        for name in await self._store.names():
            held = await self._store.read(name)
            if held is None or not self._nodes.is_gone(held.lease.node_id, self._clock.now()):
                continue
            if await self._answers(held.lease):
                continue
            if await self._store.remove(held):
                swept += 1
                log.info("room swept", room=name, node=held.lease.node_id)
        self._nodes.prune(self._clock.now())
        return swept

    def _assigned(self, lease: Lease, *, created: bool) -> Assignment:
        self._nodes.assigned(lease.node_id)
        self._metrics.assignments.add(1, "created" if created else "taken_over")
        log.info("room assigned", room=lease.room_name, node=lease.node_id, epoch=lease.epoch)
        return Assignment(lease, created)

    async def _is_lost(self, lease: Lease) -> bool:
        return self._nodes.is_stale(lease.node_id, self._clock.now()) and not await self._answers(
            lease
        )

    def _choose(self, region: str) -> Node:
        now = self._clock.now()
        node = choose(self._nodes.candidates(now), region, self._draw)
        if node is None:
            self._metrics.assignments.add(1, "refused")
            raise Unavailable(f"the room has no place: {self._nodes.why_none(now)}")
        return node
