"""Assignments: from the cache while a room's holder lives, else decided by the core and written by compare-and-set.

Several placement replicas may do this for one room at the same time: only the store decides. Within
one replica the rooms of one name take turns, so that a crowd that joins costs one write.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeVar, assert_never
from weakref import WeakValueDictionary

import structlog

from chassis import ids
from chassis.clock import Clock
from chassis.errors import Aborted, FailedPrecondition, NotFound, ServiceError, Unavailable
from chassis.ids import NodeId, RoomName, RoomSid
from placement.core.choose import Draw, Policy, choose, why_full
from placement.core.leases import (
    Held,
    Keep,
    Lease,
    LeaseCache,
    NoRoom,
    Take,
    decide,
    first_lease,
    outranks,
    over,
    takeover,
)
from placement.core.nodes import Node, NodeRegistry, Standing
from placement.metrics import PlacementMetrics

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 10
WATCH_PATIENCE_S: Final = 1.5
"""How long the watch may take to tell of what the store already shows."""
WATCH_CHECK_S: Final = 0.01
AT_ONCE: Final = 16
"""Rooms of one request that are looked up in the store at the same time."""

T = TypeVar("T")
R = TypeVar("R")


class LeaseStore(Protocol):
    """Where leases are; fulfilled by `placement.clients.KvLeaseStore`. Raises `Unavailable`."""

    async def read(self, name: RoomName) -> Held | None: ...
    async def write(self, lease: Lease, nonce: bytes, replaces: Held | None) -> Held | None: ...
    async def remove(self, held: Held) -> bool: ...


Tell = Callable[[Lease], Awaitable[None]]
"""Lets signaling know of a lease that replaced a lost holder's."""


async def tell_nobody(_lease: Lease) -> None:
    """For a placement that nobody listens to."""


class Openings(Protocol):
    """Makes a room's new home begin with it; fulfilled by `placement.clients.RoomOpenings`."""

    async def open(self, lease: Lease) -> bool:
        """Does the room go on there, for members who come back or to its proper end?

        False: nothing was left of it. `FailedPrecondition` when the node refuses the lease,
        `Unavailable` when it is to be tried again.
        """
        ...


class Questions(Protocol):
    """Asks a node how it is; the answer is in the registry afterwards."""

    async def ask(self, node_id: NodeId, address: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """A room's home, and whether this very call made the room."""

    lease: Lease
    created: bool


@dataclass(frozen=True, slots=True)
class Near:
    """Where a new home is wanted; empty texts are no wish, and a full place is no reason to refuse."""

    region: str = ""
    node_id: str = ""


class Rooms:
    """What placement does about rooms."""

    def __init__(
        self,
        store: LeaseStore,
        cache: LeaseCache,
        nodes: NodeRegistry,
        questions: Questions,
        clock: Clock,
        metrics: PlacementMetrics,
        policy: Policy | None = None,
        draw: Draw = secrets.randbelow,
        tell_takeover: Tell = tell_nobody,
        openings: Openings | None = None,
        takeover_after_s: float = 10.0,
    ) -> None:
        self._openings = openings
        self._takeover_after_s = takeover_after_s
        self._to_open: dict[RoomName, Lease] = {}  # taken over, and not known to run
        self._tell_takeover = tell_takeover
        self._store = store
        self._cache = cache
        self._nodes = nodes
        self._questions = questions
        self._clock = clock
        self._metrics = metrics
        self._policy = policy or Policy()
        self._draw = draw
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # ----------------------------------------------------------------------------------- assignments

    async def assign(
        self,
        name: RoomName,
        *,
        create: bool,
        region: str = "",
        doubted_epoch: int = 0,
        preferred_node_id: str = "",
    ) -> Assignment:
        """The room's home; a new one when it has none and `create`, or when its holder is lost.

        `doubted_epoch`: the caller was told this epoch and found nobody there; its holder is asked.
        `preferred_node_id`: where a new home is to be, when that node can take it.
        """
        known = self._known_good(name, doubted_epoch)
        if known is None:
            async with self._turn(name):
                known = self._known_good(name, doubted_epoch)
                if known is None:
                    return await self._decide(
                        name,
                        create=create,
                        near=Near(region, preferred_node_id),
                        doubted_epoch=doubted_epoch,
                    )
        return self._kept(known, joins=create)

    async def find(self, name: RoomName) -> Lease:
        """The room's home; `NotFound` when it has none."""
        known = self._known_good(name)
        if known is not None:
            return known
        async with self._turn(name):
            held = await self._look(name)
        if held is None:
            raise NotFound("requested room does not exist")
        return held.lease

    async def list_rooms(self, names: Sequence[RoomName]) -> list[Lease]:
        """The leases of these rooms, or of all, without those of lost nodes.

        Rooms that are named and not known are looked up; those that cannot be are left out.
        """
        if not names:
            return [held.lease for held in self._cache if self._is_live(held.lease)]

        async def one(name: RoomName) -> Lease | None:
            try:
                lease = await self.find(name)
            except (NotFound, Unavailable):
                return None
            return lease if self._is_live(lease) else None

        found = await _few_at_once(one, dict.fromkeys(names))
        return [lease for lease in found if lease is not None]

    # -------------------------------------------------------------------------------- the nodes' side

    async def release(self, name: RoomName, node_id: NodeId, epoch: int) -> None:
        """The holder gives its lease back; `FailedPrecondition` when it is not the holder (now)."""
        async with self._turn(name):
            held = self._cache.get(name)
            if held is None or (held.lease.node_id, held.lease.epoch) != (node_id, epoch):
                held = await self._look(name)
            for _ in range(ATTEMPTS):
                if held is None:
                    return
                if (held.lease.node_id, held.lease.epoch) != (node_id, epoch):
                    raise FailedPrecondition(
                        f"the lease is at epoch {held.lease.epoch}, not at {epoch} of this node"
                    )
                if await self._remove(held):
                    log.info("room released", room=name, node=node_id, epoch=epoch)
                    return
                held = await self._store.read(name)
                if held is None:
                    self._cache.ended(Lease(name, RoomSid(""), node_id, "", epoch))
        raise Aborted("the room's lease kept changing; try again")

    async def reclaim(self, leases: list[Lease]) -> list[Lease]:
        """A node's rooms: what the store forgot is written again, what is not the node's is returned.

        A lease that ended without a successor is returned without a holder.
        """

        async def one(lease: Lease) -> Lease | None:
            if self._cache.confirms(lease):
                return None
            async with self._turn(lease.room_name):
                held = await self._reclaim(lease)
            if held is None:
                return over(lease)
            is_same = (held.lease.node_id, held.lease.epoch) == (lease.node_id, lease.epoch)
            return None if is_same else held.lease

        superseded = await _few_at_once(one, leases)
        return [lease for lease in superseded if lease is not None]

    # ------------------------------------------------------------------------------------- by itself

    async def restore(self) -> int:
        """Write again the leases that the store lost and whose holders live. Returns how many."""

        async def one(held: Held) -> int:
            async with self._turn(held.lease.room_name):
                if not self._cache.has_vanished(held.lease.room_name):
                    return 0
                return int(await self._reclaim(held.lease) is not None)

        vanished = [held for held in self._cache.vanished_leases() if self._is_live(held.lease)]
        return sum(await _few_at_once(one, vanished))

    async def sweep(self) -> int:
        """Give the rooms of lost nodes to others, whether anybody comes back or not.

        Only a home can tell the facts that are due, end the room and clear away what it stored.
        While there is no node for them they wait. Returns how many were given.
        """
        now = self._clock.now()
        silence = {
            node_id: self._nodes.silence(node_id, now)
            for node_id in {held.lease.node_id for held in self._cache}
        }
        lost = [
            held for held in self._cache if silence[held.lease.node_id] > self._takeover_after_s
        ]
        given = sum(await _few_at_once(self._give_away, lost))
        await _few_at_once(self._open, list(self._to_open.values()))
        self._nodes.prune(self._clock.now())
        return given

    async def _give_away(self, held: Held) -> int:
        lease = held.lease
        async with self._turn(lease.room_name):
            if self._cache.get(lease.room_name) != held:
                return 0
            if not await self._is_lost(lease, doubted=True):
                return 0
            if self._cache.has_vanished(lease.room_name):
                if self._nodes.is_gone(lease.node_id, self._clock.now()):
                    self._cache.ended(lease)
                return 0
            if self._pick(Near()) is None:
                return 0
            try:
                assignment = await self._decide(
                    lease.room_name, create=False, near=Near(), doubted_epoch=lease.epoch
                )
            except ServiceError as error:
                log.info("room not taken over yet", room=lease.room_name, error=error.message)
                return 0
        # Also when another replica took it: that one may be gone before it opened the room.
        self._to_open[lease.room_name] = assignment.lease
        return 1

    async def _open(self, lease: Lease) -> None:
        """Make the home of a room that was taken over begin with it; again later if it cannot now."""
        name = lease.room_name
        held = self._cache.get(name)
        if self._openings is None or held is None or held.lease != lease:
            self._opened(lease)
            return
        try:
            goes_on = await self._openings.open(lease)
        except FailedPrecondition as error:
            log.info("room not opened", room=name, node=lease.node_id, error=error.message)
            self._opened(lease)
            return
        except ServiceError as error:
            log.info("room not opened yet", room=name, node=lease.node_id, error=error.message)
            if not self._is_live(lease):
                self._opened(lease)  # the next sweep gives it to another node
            return
        self._opened(lease)
        if goes_on:
            return
        async with self._turn(name):
            if self._cache.get(name) == held:
                await self._remove(held)
                log.info("room swept: nothing was left of it", room=name, node=lease.node_id)

    def _opened(self, lease: Lease) -> None:
        if self._to_open.get(lease.room_name) == lease:
            del self._to_open[lease.room_name]

    # ---------------------------------------------------------------------------------------- within

    def _known_good(self, name: RoomName, doubted_epoch: int = 0) -> Lease | None:
        """The room's lease when nothing speaks against it."""
        held = self._cache.get(name)
        if held is None or held.lease.epoch == doubted_epoch or self._cache.has_vanished(name):
            return None
        return held.lease if self._is_live(held.lease) else None

    def _is_live(self, lease: Lease) -> bool:
        return self._standing(lease) is Standing.LIVE

    def _standing(self, lease: Lease) -> Standing:
        return self._nodes.standing(lease.node_id, lease.node_address, self._clock.now())

    async def _is_lost(self, lease: Lease, *, doubted: bool) -> bool:
        """Is the holder gone for certain, or silent for too long and not answering either?"""
        standing = self._standing(lease)
        if standing is Standing.LIVE and not doubted:
            return False
        asked = self._nodes.was_asked_in_vain(lease.node_id, self._clock.now())
        if standing is not Standing.REPLACED and not asked:
            await self._questions.ask(lease.node_id, lease.node_address)
            standing = self._standing(lease)
        return standing is not Standing.LIVE

    async def _decide(  # noqa: C901 - one loop of one decision; in parts it would be longer
        self, name: RoomName, *, create: bool, near: Near, doubted_epoch: int
    ) -> Assignment:
        """An assignment that the cache cannot answer."""
        # One nonce and one sid for all attempts: a write whose acknowledgement was lost may land
        # after it was read back as absent, and must still be known as this call's.
        nonce, sid = secrets.token_bytes(16), ids.new_room_sid(secrets.choice)
        held = self._cache.get(name)
        # Else the room is made at once: the store refuses when another replica made it.
        if held is not None or not create or self._pick(near) is None:
            try:
                held = await self._look(name)
            except Unavailable:
                if held is None or await self._is_lost(held.lease, doubted=True):
                    raise
                return self._kept(held.lease, joins=create)
        floor = self._cache.highest_epoch
        for _ in range(ATTEMPTS):
            if held is not None and held.nonce == nonce:
                if held.lease.epoch > floor:
                    return await self._assigned(held, created=held.lease.room_sid == sid)
                # The store's revisions are below epochs that were given: it lost its data.
                self._cache.store_began_anew()
                lease = replace(held.lease, epoch=floor + 1)
            else:
                lost = held is not None and await self._is_lost(
                    held.lease, doubted=held.lease.epoch == doubted_epoch
                )
                match decide(held, create=create, holder_lost=lost):
                    case NoRoom():
                        raise NotFound("requested room does not exist")
                    case Keep(kept):
                        return self._kept(kept, joins=create)
                    case Take(replaced):
                        floor = max(floor, replaced.lease.epoch if replaced else 0)
                        lease = self._next_lease(name, sid, near, replaced, floor)
                    case decision:
                        assert_never(decision)
            held = await self._store.write(lease, nonce, held) or await self._store.read(name)
            if held is not None and held.nonce != nonce:
                self._cache.stored(held)
        raise Aborted("the room's home kept changing; try again")

    def _next_lease(
        self, name: RoomName, sid: RoomSid, near: Near, replaced: Held | None, floor: int
    ) -> Lease:
        """What to write, for the node chosen now."""
        node, epoch = self._choose(near), self._cache.epoch_to_write(floor)
        if replaced is None:
            return first_lease(name, sid, node, epoch)
        self._metrics.takeovers.add(1, self._standing(replaced.lease).value)
        return takeover(replaced.lease, node, epoch)

    def _kept(self, lease: Lease, *, joins: bool) -> Assignment:
        self._nodes.assigned(lease.node_id, rooms=0, participants=int(joins))
        self._metrics.assignments.add(1, "kept")
        return Assignment(lease, created=False)

    async def _assigned(self, held: Held, *, created: bool) -> Assignment:
        lease = held.lease
        self._cache.stored(held)
        self._nodes.assigned(lease.node_id, rooms=1, participants=1)
        self._metrics.assignments.add(1, "created" if created else "taken_over")
        if not created:
            log.warning(
                "room taken over", room=lease.room_name, node=lease.node_id, epoch=lease.epoch
            )
            await self._tell_takeover(lease)
            self._to_open[lease.room_name] = lease  # whoever asked may never come to its home
        return Assignment(lease, created)

    def _choose(self, near: Near) -> Node:
        node = self._pick(near)
        if node is None:
            now = self._clock.now()
            candidates = self._nodes.candidates(now)
            why = why_full(candidates, self._policy) if candidates else self._nodes.why_none(now)
            self._metrics.assignments.add(1, "refused")
            raise Unavailable(f"the room has no place: {why}")
        return node

    def _pick(self, near: Near) -> Node | None:
        candidates = self._nodes.candidates(self._clock.now())
        return choose(candidates, near.region, self._policy, self._draw, near.node_id)

    async def _look(self, name: RoomName) -> Held | None:
        """The lease as the store has it; one that the store lost is written again."""
        known = self._cache.get(name)
        if known is not None and not self._cache.has_vanished(name):
            held = await self._store.read(name)
            if held is not None:
                self._cache.stored(held)
                return held
            known = await self._once_told(known)
        if known is not None and self._cache.has_vanished(name):
            return await self._reclaim(known.lease)
        held = await self._store.read(name)
        if held is not None:
            self._cache.stored(held)
        return held

    async def _once_told(self, known: Held) -> Held | None:
        """What the cache has once the watch told why this lease is absent: removed, or lost by the store."""
        name = known.lease.room_name
        for _ in range(round(WATCH_PATIENCE_S / WATCH_CHECK_S)):
            if self._cache.get(name) != known or self._cache.has_vanished(name):
                return self._cache.get(name)
            await asyncio.sleep(WATCH_CHECK_S)
        if self._cache.confirms(known.lease):
            raise Unavailable("the room's home is not clear yet; try again")
        # Removed before the watch ever told of it: it never will.
        self._cache.ended(known.lease)
        return None

    async def _reclaim(self, lease: Lease) -> Held | None:
        """The room's lease after this one was claimed; None when it ended."""
        nonce = secrets.token_bytes(16)
        for _ in range(ATTEMPTS):
            held = await self._store.read(lease.room_name)
            if not outranks(lease, None if held is None else held.lease):
                assert held is not None
                self._cache.stored(held)
                return held
            if held is None and self._cache.has_ended(lease):
                return None
            written = await self._store.write(lease, nonce, held)
            if written is not None:
                self._cache.stored(written)
                self._metrics.reclaimed.add(1)
                log.warning(
                    "lease written again",
                    room=lease.room_name,
                    node=lease.node_id,
                    epoch=lease.epoch,
                )
                if held is not None and held.lease.node_id != lease.node_id:
                    await self._tell_takeover(lease)
                return written
        raise Aborted("the room's lease kept changing; try again")

    async def _remove(self, held: Held) -> bool:
        if not await self._store.remove(held):
            return False
        self._cache.ended(held.lease)
        return True

    def _turn(self, name: RoomName) -> asyncio.Lock:
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Lock()
        return turn


async def _few_at_once(
    do: Callable[[T], Awaitable[R]], things: Iterable[T], limit: int = AT_ONCE
) -> list[R]:
    places = asyncio.Semaphore(limit)

    async def one(thing: T) -> R:
        async with places:
            return await do(thing)

    return await asyncio.gather(*(one(thing) for thing in things))
