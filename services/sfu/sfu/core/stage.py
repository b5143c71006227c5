"""The sessions of one room on this node: the media side of a room, as one machine without IO.

A Stage takes sockets, signal requests, orders of the Room and reports of the media engine, and
gives signal responses, facts for the Room and engine commands. It is not the Room: who may be in
the room and what participants look like to others is decided there, and comes here as orders.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.node.v1 import node_pb2
from contracts.room.v1 import room_pb2

from sfu.core.effects import (
    CloseSocket,
    Effect,
    Ids,
    RefuseSocket,
    SendSignal,
    SocketRef,
    StageSettings,
    TellRoom,
)
from sfu.core.media_events import MediaEvent

__all__ = [
    "CloseSocket",
    "Effect",
    "Event",
    "Ids",
    "MediaArrived",
    "OrderArrived",
    "RefuseSocket",
    "SendSignal",
    "SignalArrived",
    "SocketGone",
    "SocketOpened",
    "SocketRef",
    "Stage",
    "StageSettings",
    "TellRoom",
    "Ticked",
]


@dataclass(frozen=True, slots=True)
class SocketOpened:
    """Signaling opened a session (join or resume) with a verified token."""

    socket: SocketRef
    open: node_pb2.OpenSession
    claims: node_pb2.Claims


@dataclass(frozen=True, slots=True)
class SignalArrived:
    """A livekit.SignalRequest, undecoded."""

    socket: SocketRef
    request: bytes


@dataclass(frozen=True, slots=True)
class SocketGone:
    """The socket is closed; `cause` is node_pb2.SocketClosed.Cause."""

    socket: SocketRef
    cause: int


@dataclass(frozen=True, slots=True)
class OrderArrived:
    """The Room decided something for a session, or for all of this node."""

    order: room_pb2.Order


@dataclass(frozen=True, slots=True)
class MediaArrived:
    """The engine reported something about a pc, track or sender of this stage."""

    event: MediaEvent


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed: due at `next_timeout` at the latest."""


Event = SocketOpened | SignalArrived | SocketGone | OrderArrived | MediaArrived | Ticked


class Stage:
    """One room's sessions on one node."""

    def __init__(self, room_name: str, node_id: str, ids: Ids, settings: StageSettings) -> None:
        self.room_name = room_name
        self.node_id = node_id
        self._ids = ids
        self._settings = settings

    def handle(self, event: Event, now: float, wall_ms: int) -> list[Effect]:
        """Take one event; `now` is monotonic seconds, `wall_ms` Unix milliseconds."""
        raise NotImplementedError

    def next_timeout(self) -> float | None:
        """When `Ticked` is due, on the clock of `now`; None when nothing waits."""
        return None

    @property
    def is_empty(self) -> bool:
        """No session, and none being closed: the node may forget this stage."""
        return True
