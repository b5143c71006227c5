"""One node's hold on one room, and what to do about it: keep, take, or say that there is no room.

Every decision becomes a compare-and-set by the caller. Epochs of one room name only grow, over
takeovers and over incarnations: a takeover adds one, and a first lease starts above the bucket's last
revision, which no earlier epoch of any room can exceed because each came with a write of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from chassis.ids import NodeId, RoomName, RoomSid
from placement.core.nodes import Node


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


def first_lease(name: RoomName, sid: RoomSid, node: Node, last_revision: int) -> Lease:
    """The lease of a room that had none; `last_revision` is the bucket's, read after that."""
    return Lease(name, sid, node.node_id, node.address, last_revision + 1)


def takeover(lease: Lease, node: Node) -> Lease:
    """The next epoch, with another home; the room keeps its sid."""
    return replace(lease, node_id=node.node_id, node_address=node.address, epoch=lease.epoch + 1)
