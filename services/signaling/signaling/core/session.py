"""One signaling socket as a machine: where its room is, what may be written, when it is too slow, when to give up.

Events and time in, effects out. It holds no room state: a resume is a new socket and a new machine.

Before acceptance it looks for a node that takes the session: placement is asked, the session is opened there, and a
node that cannot be reached or does not have the room is doubted in the next question. After acceptance a lost node
leaves the socket open for a while: whoever looks for the node tells whether it is back or the room has moved.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import assert_never

from signaling.core.frames import Response

FIRST_RESPONSE_TIMEOUT_S = 12.0
HOME_PATIENCE_S = 10.0
ASK_INTERVAL_S = 0.5
LOST_NODE_PATIENCE_S = 10.0
MAX_QUEUED_BYTES = 4 << 20
FLUSH_TIMEOUT_S = 2.0

NORMAL = 1000
# No normal closures, so that every SDK answers them with a resume.
TOO_SLOW = 1008
NODE_LOST = 1011
SERVICE_RESTART = 1012


# events
@dataclass(frozen=True, slots=True)
class Started:
    """The upgrade request passed every check of a front door."""


@dataclass(frozen=True, slots=True)
class HomeFound:
    """Placement named a home; the session is being opened there."""

    epoch: int


@dataclass(frozen=True, slots=True)
class HomeNotFound:
    """Placement named none; `is_over` when there is no such room (any more)."""

    http_status: int
    message: str
    is_over: bool = False


@dataclass(frozen=True, slots=True)
class ResponseArrived:
    """The node sent a SignalResponse for this socket."""

    response: Response


@dataclass(frozen=True, slots=True)
class RefusalArrived:
    """The node refused the join before any response; `lease_refused` when the room is not its own."""

    http_status: int
    message: str
    lease_refused: bool = False


@dataclass(frozen=True, slots=True)
class CloseArrived:
    """The node wants the socket closed once what it sent is written."""

    code: int


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The stream to the node broke, or could not be opened."""


@dataclass(frozen=True, slots=True)
class NodeBack:
    """The lost node answers again, with the session still in it: the client must resume."""


@dataclass(frozen=True, slots=True)
class RoomMoved:
    """The room lives elsewhere now, or nowhere: the client must join anew."""


@dataclass(frozen=True, slots=True)
class Draining:
    """This replica goes away: the client must resume through another one."""


@dataclass(frozen=True, slots=True)
class Written:
    """The socket took the oldest queued frame."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed."""


Event = (
    Started
    | HomeFound
    | HomeNotFound
    | ResponseArrived
    | RefusalArrived
    | CloseArrived
    | NodeLost
    | NodeBack
    | RoomMoved
    | Draining
    | Written
    | Ticked
)


# effects
@dataclass(frozen=True, slots=True)
class FindHome:
    """Ask placement for the room's home, doubting the lease of this epoch (0: none), and open the session there."""

    doubted_epoch: int


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
    """Write one response; tell `Written` when the socket can take more."""

    response: Response


@dataclass(frozen=True, slots=True)
class Close:
    """Close the socket; nothing follows."""

    code: int


Effect = FindHome | Accept | Deny | Write | Close


@dataclass(slots=True)
class SignalSocket:
    """From the upgrade request to the close of one WebSocket."""

    opened_at: float
    join_anew: Response
    """What tells this client to join anew."""
    reconnect: bool = False
    """The client wants to resume: a room that is over is answered, not denied."""
    accepted: bool = False
    over: bool = False
    _queue: deque[Response] = field(default_factory=deque)
    _queued_bytes: int = 0
    _close_code: int | None = None
    _close_by: float | None = None
    _lost_at: float | None = None
    _epoch: int = 0  # of the lease last tried
    _asked_at: float | None = None  # with a doubt
    _ask_at: float | None = None

    def handle(self, event: Event, now: float) -> list[Effect]:  # noqa: C901  # one row per event
        """Advance; after `over` every event is ignored."""
        if self.over:
            return []
        match event:
            case ResponseArrived(response):
                return self._enqueue(response)
            case Written():
                self._queued_bytes -= len(self._queue.popleft().frame)
                following: list[Effect] = [Write(self._queue[0])] if self._queue else []
                return following or self._close_if_flushed()
            case Ticked():
                return self._check_deadlines(now)
            case Started():
                return self._find_home(now)
            case HomeFound(epoch):
                self._epoch = epoch
                return []
            case HomeNotFound():
                return self._home_not_found(event, now)
            case RefusalArrived(http_status, message, lease_refused):
                if self.accepted:
                    return self._end(Close(NORMAL))
                if lease_refused:
                    return self._ask_again(now, http_status, message)
                return self._end(Deny(http_status, message))
            case CloseArrived(code):
                if not self.accepted:
                    return self._end(Deny(500, "connection closed by media"))
                return self._close_when_flushed(code, now)
            case NodeLost():
                return self._node_lost(now)
            case NodeBack():
                return self._end(Close(NODE_LOST)) if self._lost_at is not None else []
            case RoomMoved():
                return self._room_moved(now)
            case Draining():
                return self._close_when_flushed(SERVICE_RESTART, now) if self.accepted else []
            case _:
                assert_never(event)

    @property
    def is_flowing(self) -> bool:
        """Would a response be written at once, and leave this machine as it is?

        Then whoever runs it may write without asking: a broadcast costs no event for each socket.
        """
        return self.accepted and not self._queue and self._close_code is None and not self.over

    def next_timeout(self) -> float | None:
        """When `Ticked` matters next."""
        if self.over:
            return None
        if not self.accepted:
            given_up = self.opened_at + FIRST_RESPONSE_TIMEOUT_S
            return given_up if self._ask_at is None else min(given_up, self._ask_at)
        if self._close_by is None and self._lost_at is not None:
            return self._lost_at + LOST_NODE_PATIENCE_S
        return self._close_by

    def _find_home(self, now: float) -> list[Effect]:
        if self._epoch:
            self._asked_at = now
        self._ask_at = None
        return [FindHome(doubted_epoch=self._epoch)]

    def _ask_again(self, now: float, http_status: int, message: str) -> list[Effect]:
        if now >= self.opened_at + HOME_PATIENCE_S:
            return self._end(Deny(http_status, message))
        # The first doubt is told at once: mostly the room has moved a moment ago.
        at = now if self._asked_at is None else self._asked_at + ASK_INTERVAL_S
        if now >= at:
            return self._find_home(now)
        self._ask_at = at
        return []

    def _home_not_found(self, answer: HomeNotFound, now: float) -> list[Effect]:
        if self.accepted:
            return []
        if answer.is_over and self.reconnect:
            # Never a 404 here: clients take that for a server that knows no resume.
            return [*self._enqueue(self.join_anew), *self._close_when_flushed(NORMAL, now)]
        if answer.is_over or self._epoch == 0:
            return self._end(Deny(answer.http_status, answer.message))
        return self._ask_again(now, answer.http_status, answer.message)

    def _enqueue(self, response: Response) -> list[Effect]:
        if self._close_code is not None:
            return []
        self._queue.append(response)
        self._queued_bytes += len(response.frame)
        if not self.accepted:
            self.accepted, self._ask_at = True, None
            return [Accept(), Write(response)]
        if self._queued_bytes > MAX_QUEUED_BYTES:
            # The resume sends the client the present state instead of the backlog.
            self._queue.clear()
            return self._end(Close(TOO_SLOW))
        return [Write(response)] if len(self._queue) == 1 else []

    def _node_lost(self, now: float) -> list[Effect]:
        if self._close_code is not None:
            return []  # it said all it had to say; what is queued goes out before the close
        if not self.accepted:
            return self._ask_again(now, 503, "the room's node cannot be reached, try again")
        self._lost_at = now
        return []

    def _room_moved(self, now: float) -> list[Effect]:
        if not self.accepted or self._close_code is not None:
            return []
        return [*self._enqueue(self.join_anew), *self._close_when_flushed(NORMAL, now)]

    def _close_when_flushed(self, code: int, now: float) -> list[Effect]:
        if self.over or self._close_code is not None:
            return []
        self._close_code = code
        self._close_by = now + FLUSH_TIMEOUT_S
        return self._close_if_flushed()

    def _close_if_flushed(self) -> list[Effect]:
        if self._close_code is None or self._queue:
            return []
        return self._end(Close(self._close_code))

    def _check_deadlines(self, now: float) -> list[Effect]:
        if not self.accepted:
            if now >= self.opened_at + FIRST_RESPONSE_TIMEOUT_S:
                return self._end(Deny(503, "no answer from the room in time, try again"))
            if self._ask_at is not None and now >= self._ask_at:
                return self._find_home(now)
            return []
        if self._close_by is not None:
            return self._end(Close(self._close_code or NORMAL)) if now >= self._close_by else []
        if self._lost_at is not None and now >= self._lost_at + LOST_NODE_PATIENCE_S:
            return self._end(Close(NODE_LOST))
        return []

    def _end(self, effect: Effect) -> list[Effect]:
        self.over = True
        return [effect]
