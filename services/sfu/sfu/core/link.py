"""One end of a room link: numbers, acknowledges and replays the messages of a Room and a Stage.

Both ends run this machine, whichever way frames travel (a call within a node, a gRPC stream between
nodes). A frame is a `contracts.node.v1.RoomLinkFrame`. It is not a transport: it opens nothing and
reconnects nothing; the runner tells it when a connection stands and when it is gone. It does not
read the messages either.

Delivery is exactly once and in order for as long as both ends keep their memory and the replay
buffer suffices. When it does not, both ends say `Resynchronize` once, and go on from the first
number that can still be had.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import assert_never

from contracts.node.v1 import node_pb2


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection stands. Frames of older connections are dropped from now on."""

    connection: int


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone; what was not acknowledged may or may not have arrived."""

    connection: int


@dataclass(frozen=True, slots=True)
class FrameArrived:
    """The other end sent a frame on this connection."""

    connection: int
    frame: node_pb2.RoomLinkFrame


@dataclass(frozen=True, slots=True)
class Submitted:
    """Something to bring to the other end: a serialized Fact or Order."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed: due at `next_timeout` at the latest."""


Event = Connected | Disconnected | FrameArrived | Submitted | Ticked


@dataclass(frozen=True, slots=True)
class SendFrame:
    """A frame for the other end."""

    connection: int
    frame: node_pb2.RoomLinkFrame


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next message of the other end, once."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Resynchronize:
    """Messages are lost for good: what both ends think of each other no longer agrees."""

    reason: str


@dataclass(frozen=True, slots=True)
class CloseConnection:
    """The connection is of no use: let a new one be made, unless `refused`."""

    connection: int
    reason: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Superseded:
    """The other end speaks of a newer lease: this room's life here is over."""

    epoch: int


Effect = SendFrame | Deliver | Resynchronize | CloseConnection | Superseded

ACKNOWLEDGE_AFTER_MESSAGES = 32
ACKNOWLEDGE_AFTER_S = 0.05
BUFFER_MESSAGES = 16_384
BUFFER_BYTES = 32 * 1024 * 1024


class LinkEnd:
    """One end of the link of one (room, epoch, media node).

    `incarnation` is a positive integer that names this end's memory.
    """

    def __init__(
        self,
        room_name: str,
        room_sid: str,
        epoch: int,
        node_id: str,
        incarnation: int,
        *,
        buffer_messages: int = BUFFER_MESSAGES,
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if incarnation <= 0:
            raise ValueError("an incarnation is a positive integer")
        self.room_name = room_name
        self.room_sid = room_sid
        self.epoch = epoch
        self.node_id = node_id
        self.incarnation = incarnation
        self._buffer_messages = buffer_messages
        self._buffer_bytes = buffer_bytes
        # outbound: `_unacknowledged` holds numbers `_first` up to `_first + len - 1`
        self._unacknowledged: deque[bytes] = deque()
        self._unacknowledged_bytes = 0
        self._first = 1
        # inbound
        self._last_seen = 0
        self._last_acknowledged = 0
        self._acknowledge_at: float | None = None
        self._peer_incarnation = 0
        # the connection
        self._connection: int | None = None
        self._is_greeted = False

    @property
    def is_connected(self) -> bool:
        """Frames flow both ways: the other end's Hello was seen on this connection."""
        return self._connection is not None and self._is_greeted

    @property
    def waiting(self) -> int:
        """Messages not acknowledged yet."""
        return len(self._unacknowledged)

    def next_timeout(self) -> float | None:
        """When `Ticked` is due, on the clock of `now`."""
        return self._acknowledge_at

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take one event; the effects are to be performed in order."""
        match event:
            case Connected(connection):
                self._connection = connection
                self._is_greeted = False
                self._acknowledge_at = None
                return [self._hello(connection)]
            case Disconnected(connection):
                if connection == self._connection:
                    self._drop_connection()
                return []
            case FrameArrived(connection, frame):
                if connection != self._connection:
                    return []
                return self._on_frame(connection, frame, now)
            case Submitted(message):
                return self._submit(message)
            case Ticked():
                if self._acknowledge_at is None or now < self._acknowledge_at:
                    return []
                return self._acknowledge()
            case _:
                assert_never(event)

    def _on_frame(self, connection: int, frame: node_pb2.RoomLinkFrame, now: float) -> list[Effect]:
        if frame.room_name != self.room_name or frame.node_id != self.node_id:
            return self._give_up("a frame of another link")
        if frame.epoch < self.epoch:
            self._drop_connection()
            reason = f"stale epoch {frame.epoch}, the room is at {self.epoch}"
            return [CloseConnection(connection, reason, refused=True)]
        if frame.epoch > self.epoch:
            self._drop_connection()
            reason = f"this end is stale: epoch {self.epoch}, the other is at {frame.epoch}"
            return [CloseConnection(connection, reason, refused=True), Superseded(frame.epoch)]
        match frame.WhichOneof("message"):
            case "hello":
                return self._on_hello(connection, frame.hello)
            case "numbered" if self._is_greeted:
                return self._on_numbered(frame.numbered, now)
            case "acknowledged" if self._is_greeted:
                return self._on_acknowledged(frame.acknowledged)
            case None:
                return self._give_up("a frame without a message")
            case _:
                return self._give_up("a frame before Hello")

    def _on_hello(self, connection: int, hello: node_pb2.Hello) -> list[Effect]:
        if self._is_greeted or hello.incarnation == 0 or hello.first == 0:
            return self._give_up("a Hello that cannot be")
        lost: str | None = None
        if self._peer_incarnation not in (0, hello.incarnation):
            lost = "the other end lost its memory"
            self._last_seen = hello.first - 1
        elif self._peer_incarnation == 0 or hello.first > self._last_seen + 1:
            if self._peer_incarnation != 0:
                lost = "the other end can no longer replay"
            self._last_seen = hello.first - 1
        self._last_acknowledged = self._last_seen
        self._peer_incarnation = hello.incarnation

        if hello.peer_incarnation == self.incarnation:
            if hello.last_seen >= self._next:
                return self._give_up("the other end saw what was never sent")
            if hello.last_seen + 1 < self._first:
                lost = lost or "this end can no longer replay"
            else:
                self._forget_up_to(hello.last_seen)
        self._is_greeted = True
        effects: list[Effect] = [] if lost is None else [Resynchronize(lost)]
        for offset, message in enumerate(self._unacknowledged):
            effects.append(self._numbered(connection, self._first + offset, message))
        return effects

    def _on_numbered(self, numbered: node_pb2.Numbered, now: float) -> list[Effect]:
        if numbered.sequence <= self._last_seen:
            return []
        if numbered.sequence != self._last_seen + 1:
            return self._give_up(f"a gap before number {numbered.sequence}")
        self._last_seen = numbered.sequence
        effects: list[Effect] = [Deliver(numbered.message)]
        if self._last_seen - self._last_acknowledged >= ACKNOWLEDGE_AFTER_MESSAGES:
            effects += self._acknowledge()
        elif self._acknowledge_at is None:
            self._acknowledge_at = now + ACKNOWLEDGE_AFTER_S
        return effects

    def _on_acknowledged(self, number: int) -> list[Effect]:
        if number >= self._next:
            return self._give_up("an acknowledgement of what was never sent")
        self._forget_up_to(number)
        return []

    def _submit(self, message: bytes) -> list[Effect]:
        self._unacknowledged.append(message)
        self._unacknowledged_bytes += len(message)
        effects: list[Effect] = []
        if self._connection is not None and self._is_greeted:
            effects.append(self._numbered(self._connection, self._next - 1, message))
        if self._is_over_limit():
            # Dropping silently under a live connection would break what its Hello promised.
            if self._connection is not None:
                effects += self._give_up("the other end acknowledges too slowly")
            while self._is_over_limit():
                self._forget_up_to(self._first)
        return effects

    def _acknowledge(self) -> list[Effect]:
        self._acknowledge_at = None
        if self._connection is None or self._last_seen == self._last_acknowledged:
            return []
        self._last_acknowledged = self._last_seen
        frame = self._frame()
        frame.acknowledged = self._last_seen
        return [SendFrame(self._connection, frame)]

    def _give_up(self, reason: str) -> list[Effect]:
        connection = self._connection
        self._drop_connection()
        return [] if connection is None else [CloseConnection(connection, reason)]

    def _drop_connection(self) -> None:
        self._connection = None
        self._is_greeted = False
        self._acknowledge_at = None

    def _forget_up_to(self, number: int) -> None:
        while self._first <= number and self._unacknowledged:
            self._unacknowledged_bytes -= len(self._unacknowledged.popleft())
            self._first += 1

    def _is_over_limit(self) -> bool:
        return (
            len(self._unacknowledged) > self._buffer_messages
            or self._unacknowledged_bytes > self._buffer_bytes
        )

    @property
    def _next(self) -> int:
        return self._first + len(self._unacknowledged)

    def _frame(self) -> node_pb2.RoomLinkFrame:
        return node_pb2.RoomLinkFrame(
            room_name=self.room_name, epoch=self.epoch, node_id=self.node_id
        )

    def _hello(self, connection: int) -> SendFrame:
        frame = self._frame()
        frame.hello.last_seen = self._last_seen
        frame.hello.incarnation = self.incarnation
        frame.hello.peer_incarnation = self._peer_incarnation
        frame.hello.first = self._first
        frame.hello.room_sid = self.room_sid
        return SendFrame(connection, frame)

    def _numbered(self, connection: int, sequence: int, message: bytes) -> SendFrame:
        frame = self._frame()
        frame.numbered.sequence = sequence
        frame.numbered.message = message
        return SendFrame(connection, frame)
