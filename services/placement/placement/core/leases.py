"""One node's hold on one room: what to do about it, and what this observer knows of all of them.

Every decision becomes a compare-and-set by the caller. A lease's epoch is the revision of the write
that made it, so no earlier epoch of any room reaches it, over takeovers and over incarnations, and
nobody has to be asked for it. A store that lost its data begins anew with low revisions: then, and
for leases written again, the record itself names an epoch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from chassis.ids import NodeId, RoomName, RoomSid
from placement.core.nodes import Node

ENDED_REMEMBERED: Final = 10_000
BY_REVISION: Final = 0
"""The epoch of a lease that is yet to be written: its write's revision."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A room's home. Every message of the room carries the epoch."""

    room_name: RoomName
    room_sid: RoomSid
    node_id: NodeId
    node_address: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Held:
    """A lease as stored."""

    lease: Lease
    revision: int
    nonce: bytes
    """Who wrote it: settles a compare-and-set whose acknowledgement was lost."""


@dataclass(frozen=True, slots=True)
class Keep:
    """The room has a home."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Take:
    """A node must be chosen: for a new room, or in place of the holder of `held`."""

    held: Held | None


@dataclass(frozen=True, slots=True)
class NoRoom:
    """There is no such room, and none is wanted."""


Decision = Keep | Take | NoRoom


def decide(held: Held | None, *, create: bool, holder_lost: bool) -> Decision:
    """What an assignment does. `holder_lost`: the holder is silent and does not answer either."""
    if held is None:
        return Take(None) if create else NoRoom()
    return Take(held) if holder_lost else Keep(held.lease)


def first_lease(name: RoomName, sid: RoomSid, node: Node, epoch: int = BY_REVISION) -> Lease:
    """The lease of a room that had none."""
    return Lease(name, sid, node.node_id, node.address, epoch)


def takeover(lease: Lease, node: Node, epoch: int = BY_REVISION) -> Lease:
    """A later epoch, with another home; the room keeps its sid."""
    return replace(lease, node_id=node.node_id, node_address=node.address, epoch=epoch)


def outranks(claimed: Lease, stored: Lease | None) -> bool:
    """Does a lease that a node claims belong in the store, in place of what is there?

    The higher epoch holds. That the store has the lower one happens only after it lost data.
    """
    return stored is None or claimed.epoch > stored.epoch


def over(lease: Lease) -> Lease:
    """How a lease that ended, and has no successor, is told of: without a holder, and as superseded."""
    return Lease(lease.room_name, RoomSid(""), NodeId(""), "", lease.epoch + 1)


@dataclass(slots=True)
class LeaseCache:
    """Every lease as this observer last saw it: fed by a watch, by reads and by its own writes.

    Those may tell of one lease in any order; a lower epoch is old news, and so is an epoch that ended.
    What it is not: the truth. A lease whose holder lives is as good as true, because nobody replaces
    it without asking that holder; that a lease is absent is settled by the store alone.
    """

    highest_epoch: int = 0
    _latest_revision: int = 0
    _held: dict[RoomName, Held] = field(default_factory=dict)
    _unconfirmed: set[RoomName] = field(default_factory=set)
    """Read or written here, and not seen in the watch yet."""
    _vanished: set[RoomName] = field(default_factory=set)
    """Gone from the store although nobody removed them: it lost data."""
    _ended: OrderedDict[RoomName, int] = field(default_factory=OrderedDict)

    # ------------------------------------------------------------------------------------------ news

    def watched(self, held: Held) -> None:
        """The watch tells of a lease."""
        self.stored(held)
        if self._held.get(held.lease.room_name) == held:
            self._unconfirmed.discard(held.lease.room_name)

    def stored(self, held: Held) -> None:
        """A read or a write of ours showed the lease in the store."""
        name, epoch = held.lease.room_name, held.lease.epoch
        self._latest_revision = max(self._latest_revision, held.revision)
        self.highest_epoch = max(self.highest_epoch, epoch)
        known = self._held.get(name)
        if epoch <= self._ended.get(name, 0) or (known is not None and known.lease.epoch > epoch):
            return
        self._held[name] = held
        self._vanished.discard(name)
        if known != held:
            self._unconfirmed.add(name)

    def removed(self, name: RoomName, revision: int) -> None:
        """The watch tells that the key is gone, since `revision`."""
        known = self._held.get(name)
        if known is None or revision < known.revision:
            return
        if revision == known.revision:
            self.vanished(known)
        else:
            self._latest_revision = max(self._latest_revision, revision)
            self.ended(known.lease)

    def ended(self, lease: Lease) -> None:
        """The room is over."""
        name = lease.room_name
        known = self._held.get(name)
        if known is not None and known.lease.epoch <= lease.epoch:
            del self._held[name]
            self._unconfirmed.discard(name)
            self._vanished.discard(name)
        self._ended[name] = max(lease.epoch, self._ended.pop(name, 0))
        if len(self._ended) > ENDED_REMEMBERED:
            self._ended.popitem(last=False)

    def vanished(self, held: Held) -> None:
        """The lease is not in the store, and nobody removed it."""
        if self._held.get(held.lease.room_name) == held:
            self._vanished.add(held.lease.room_name)
            self.store_began_anew()

    def store_began_anew(self) -> None:
        """Revisions are low again; epochs are named until they have caught up."""
        self._latest_revision = 0

    # ------------------------------------------------------------------------------------- questions

    def get(self, name: RoomName) -> Held | None:
        """The room's lease, also one the store lost."""
        return self._held.get(name)

    def has_vanished(self, name: RoomName) -> bool:
        """Did the store lose this lease?"""
        return name in self._vanished

    def vanished_leases(self) -> list[Held]:
        """Every lease that the store lost."""
        return [self._held[name] for name in self._vanished]

    def confirms(self, lease: Lease) -> bool:
        """Has the watch shown that this very lease is in the store?"""
        name = lease.room_name
        held = self._held.get(name)
        return (
            held is not None
            and held.lease == lease
            and name not in self._vanished
            and name not in self._unconfirmed
        )

    def has_ended(self, lease: Lease) -> bool:
        """Is it known that this lease was given back?"""
        return lease.epoch <= self._ended.get(lease.room_name, 0)

    def epoch_to_write(self, above: int) -> int:
        """The epoch to put into a record that must come after epoch `above`."""
        return BY_REVISION if self._latest_revision >= above else above + 1

    def __iter__(self) -> Iterator[Held]:
        return iter(list(self._held.values()))

    def __len__(self) -> int:
        return len(self._held)
