"""One signaling socket as a machine: what was asked of the node, what may be written, when it is too slow.

Events and time in, effects out. It holds no room state: a resume is a new socket and a new machine.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

FIRST_RESPONSE_TIMEOUT_S = 12.0
MAX_QUEUED_BYTES = 4 << 20
FLUSH_TIMEOUT_S = 2.0


# events
@dataclass(frozen=True, slots=True)
class ResponseArrived:
    """The node sent a SignalResponse for this socket."""

    response: bytes


@dataclass(frozen=True, slots=True)
class RefusalArrived:
    """The node refused the join before any response."""

    http_status: int
    message: str


@dataclass(frozen=True, slots=True)
class CloseArrived:
    """The node wants the socket closed once what it sent is written."""

    code: int


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The stream to the node broke: the client must resume."""


@dataclass(frozen=True, slots=True)
class Written:
    """The socket took the oldest queued frame."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed."""


Event = ResponseArrived | RefusalArrived | CloseArrived | NodeLost | Written | Ticked


# effects
@dataclass(frozen=True, slots=True)
class Accept:
    """Upgrade the connection: the first response is ready."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Answer the upgrade with an HTTP status and text."""

    http_status: int
    message: str


@dataclass(frozen=True, slots=True)
class Write:
    """Write one frame; tell `Written` when it is out."""

    response: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket; nothing follows."""

    code: int
    too_slow: bool = False


Effect = Accept | Deny | Write | Close


@dataclass(slots=True)
class SignalSocket:
    """From the upgrade request to the close of one WebSocket."""

    opened_at: float
    accepted: bool = False
    over: bool = False
    _queue: deque[bytes] = field(default_factory=deque)
    _queued_bytes: int = 0
    _close_code: int | None = None
    _close_by: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Advance; after `over` every event is ignored."""
        if self.over:
            return []
        match event:
            case ResponseArrived(response):
                return self._enqueue(response)
            case RefusalArrived(http_status, message):
                if self.accepted:
                    return self._end(Close(1000))
                return self._end(Deny(http_status, message))
            case CloseArrived(code):
                if not self.accepted:
                    return self._end(Deny(500, "connection closed by media"))
                self._close_code = code
                self._close_by = now + FLUSH_TIMEOUT_S
                return self._close_if_flushed()
            case NodeLost():
                return self._node_lost()
            case Written():
                self._queued_bytes -= len(self._queue.popleft())
                following: list[Effect] = [Write(self._queue[0])] if self._queue else []
                return following or self._close_if_flushed()
            case Ticked():
                return self._check_deadlines(now)
            case _:
                assert_never(event)

    def next_timeout(self) -> float | None:
        """When `Ticked` matters next."""
        if self.over:
            return None
        if not self.accepted:
            return self.opened_at + FIRST_RESPONSE_TIMEOUT_S
        return self._close_by

    def _enqueue(self, response: bytes) -> list[Effect]:
        if self._close_code is not None:
            return []
        self._queue.append(response)
        self._queued_bytes += len(response)
        if not self.accepted:
            self.accepted = True
            return [Accept(), Write(response)]
        if self._queued_bytes > MAX_QUEUED_BYTES:
            # 1008 makes the client resume, which sends it the present state instead of the backlog.
            return self._end(Close(1008, too_slow=True))
        return [Write(response)] if len(self._queue) == 1 else []

    def _node_lost(self) -> list[Effect]:
        if self._close_code is not None:
            return []  # it said all it had to say; what is queued goes out before the close
        if not self.accepted:
            return self._end(Deny(503, "node went away, try again"))
        # 1011 is no normal close, so every SDK answers it with a resume.
        return self._end(Close(1011))

    def _close_if_flushed(self) -> list[Effect]:
        if self._close_code is None or self._queue:
            return []
        return self._end(Close(self._close_code))

    def _check_deadlines(self, now: float) -> list[Effect]:
        if not self.accepted and now >= self.opened_at + FIRST_RESPONSE_TIMEOUT_S:
            return self._end(Deny(503, "no answer from the room in time, try again"))
        if self._close_by is not None and now >= self._close_by:
            return self._end(Close(self._close_code or 1000))
        return []

    def _end(self, effect: Effect) -> list[Effect]:
        self.over = True
        return [effect]
