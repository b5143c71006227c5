"""Drives the machines of a room on this node: one task per room, events in, effects performed.

`RoomRunner` holds what of one room lives here: the Room (when this node is its home), the Stage of
the sessions here, and the ends of the room links between Rooms and Stages. A link within the node
passes frames by a call, a link between nodes over gRPC; the machines cannot tell. It decides
nothing about rooms and sessions: that is `sfu.core`. Which room is meant is `sfu.node`'s.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, assert_never

import structlog
from livekit.protocol import models as lk
from livekit.protocol import rtc

from chassis import ids as sids
from chassis import telemetry
from chassis.clock import Clock
from chassis.errors import NotFound, ServiceError, Unavailable
from contracts.events.v1 import events_pb2
from contracts.node.v1 import node_pb2
from contracts.placement.v1 import placement_pb2
from contracts.room.v1 import room_pb2
from sfu import ids
from sfu.checkpoints import Checkpoints, Saved
from sfu.core import forwarding, link, moving, room, room_events, stage
from sfu.core.configuration import RoomWish
from sfu.core.media_commands import Command
from sfu.core.media_events import AudioLevels
from sfu.core.renewal import Renewal
from sfu.joins import Joins
from sfu.metrics import SfuMetrics

log = structlog.get_logger(__name__)

# ---------------------------------------------------------------- what the runner needs of others


class Sockets(Protocol):
    """The client sockets behind signaling's streams. Calls return at once and keep their order."""

    def send(self, sockets: tuple[stage.SocketRef, ...], response: bytes) -> None: ...
    def refuse(
        self,
        socket: stage.SocketRef,
        http_status: int,
        message: str,
        *,
        lease_refused: bool = False,
    ) -> None: ...
    def opened(self, socket: stage.SocketRef, participant_sid: str) -> None: ...
    def close(self, socket: stage.SocketRef, reason: str, code: int = stage.NORMAL) -> None: ...


class Media(Protocol):
    """The media engine: a command is performed in order, later; failures come back as events."""

    def perform(self, command: Command) -> None: ...


class EventSink(Protocol):
    """Takes facts for the EVENTS stream, in order; never waits."""

    def publish(self, event: events_pb2.RoomEvent) -> None: ...


class Leases(Protocol):
    """Gives a room's lease back, and asks for what is still this node's, in the background."""

    def release(self, room_name: str, epoch: int) -> None: ...
    def reclaim_soon(self) -> None: ...


class LinkDialer(Protocol):
    """Keeps one connection to a room's home while it runs; reports to `runner.link_*`."""

    async def keep_linked(self, address: str, runner: RoomRunner) -> None: ...


class Wire(Protocol):
    """One connection of a room link, as the runner writes to it. Calls return at once."""

    def send(self, frame: node_pb2.RoomLinkFrame) -> None: ...
    def close(self, reason: str, *, refused: bool) -> None: ...


class StageMachine(Protocol):
    """What the runner uses of `sfu.core.stage.Stage`."""

    def handle(self, event: stage.Event, now: float, wall_ms: int) -> list[stage.Effect]: ...
    def next_timeout(self) -> float | None: ...
    @property
    def is_empty(self) -> bool: ...

    def way_out(self, participant_sid: str) -> moving.Way: ...
    def joining(self, participant_sid: str, wall_ms: int) -> room_pb2.JoinRequested | None: ...
    def media_of(self, track_sids: Sequence[str]) -> dict[str, forwarding.EngineTracks]: ...


class Homes(Protocol):
    """Where rooms live, as placement says, and their nodes."""

    async def assign(self, room_name: str, node_id: str) -> placement_pb2.AssignRoomResponse: ...
    async def call(self, address: str, request: node_pb2.CallApiRequest) -> bytes: ...


MakeStage = Callable[[str, ids.StageIds], StageMachine]


@dataclass(frozen=True, slots=True)
class NodeLimits:
    """What one node takes at most; `tracks` counts in and out together, 0 is no limit."""

    participants: int = 2000
    tracks: int = 0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every room of a node shares."""

    node_id: str
    clock: Clock
    sockets: Sockets
    media: Media
    events: EventSink
    leases: Leases
    renewal: Renewal
    checkpoints: Checkpoints
    homes: Homes
    dialer: LinkDialer
    make_stage: MakeStage
    room_settings: room_events.RoomSettings
    metrics: SfuMetrics
    link_grace_s: float = 20.0
    limits: NodeLimits = NodeLimits()
    tracks: Callable[[], int] = lambda: 0
    """Of all rooms here, in and out, perhaps of some seconds ago."""


@dataclass(frozen=True, slots=True)
class Lease:
    """Which life of which room: every message of the room carries the epoch."""

    room_name: str
    room_sid: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Home:
    """Another node, on which the Room lives."""

    node_id: str
    address: str


# ------------------------------------------------------------------------------ the runner's inbox


@dataclass(frozen=True, slots=True)
class ForRoom:
    """Something for the Room."""

    event: room_events.Event


@dataclass(frozen=True, slots=True)
class ForStage:
    """Something for the sessions here."""

    event: stage.Event

    def is_about(self, socket: stage.SocketRef) -> bool:
        """Does the client behind this socket say it?"""
        match self.event:
            case stage.SignalArrived(of) | stage.SocketGone(of):
                return of == socket
            case _:
                return False


End = Literal["room", "stage"]
"""Which end of a link is here."""


@dataclass(frozen=True, slots=True)
class ForLink:
    """Something for one link end here; `node_id` is the media node's."""

    end: End
    node_id: str
    event: link.Event


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A connection to the other node stands."""

    end: End
    node_id: str
    connection: int
    wire: Wire


@dataclass(frozen=True, slots=True)
class HomeRefused:
    """The home will not have this stage: its lease is over."""

    reason: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the room here, telling everybody the reason (livekit.DisconnectReason).

    With `lives_on` it goes on elsewhere: see `room_events.Closing`.
    """

    reason: int
    lives_on: bool = False


Item = ForRoom | ForStage | ForLink | LinkUp | HomeRefused | Stop


@dataclass(frozen=True, slots=True)
class Carried:
    """A session on its way from one room's stage to another's."""

    handed_over: moving.HandedOver
    departed: tuple[bytes, ...]


@dataclass(slots=True)
class _Forward:
    """A participant of this room that is shown in another, and how it was last shown there."""

    identity: str
    guest_sid: str
    destination: RoomRunner
    image: forwarding.Image | None = None


@dataclass(frozen=True, slots=True)
class _ExpectedGuest:
    done: asyncio.Future[None]
    identity: str


Fetch = Callable[[], Carried | None]


@dataclass(frozen=True, slots=True)
class _Expected:
    done: asyncio.Future[None]
    fetch: Fetch


SIGNALS_WAITING_PER_SOCKET = 4000
TURN_S = 0.005
"""How long a room works before others, heartbeats among them, get their turn; one event may take longer."""
TIMER_STEP_S = 0.001
"""What the loop's timers count in: without it more, one would ring before its time, and again."""
LINGER_S = 5.0
STAGE_LINGER_S = 2.0
API_DEADLINE_S = 10.0


class RoomRunner:
    """What of one room lives on this node, and the task that drives it."""

    def __init__(
        self,
        surroundings: Surroundings,
        lease: Lease,
        *,
        home: Home | None,
        new_owner: Callable[[RoomRunner], int],
        wish: RoomWish | None = None,
        is_new: bool = False,
    ) -> None:
        """`is_new`: this lease made the room, so that no earlier home can have left anything."""
        self.lease = lease
        self._may_inherit = home is None and not is_new
        self._is_superseded = False
        self.home = home
        self._around = surroundings
        self._new_owner = new_owner
        self._log = log.bind(room=lease.room_name, epoch=lease.epoch)
        self._joins = Joins(surroundings.metrics, self._log, surroundings.sockets.opened)
        self._inbox: deque[tuple[Item, telemetry.Context | None]] = deque()
        self._work: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._waiting_signals: Counter[stage.SocketRef] = Counter()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._call_ids = itertools.count(1)
        self._expected: dict[str, _Expected] = {}  # by sid
        self._forwards: dict[str, _Forward] = {}  # of participants here, by guest sid
        self._guests_of: dict[str, RoomRunner] = {}  # by guest sid: the rooms of those shown here
        self._expected_guests: dict[str, _ExpectedGuest] = {}
        self._handed_over: moving.HandedOver | None = None
        self.stage_number = 0
        """Of the stage here, among the stages of this node; 0 before there is one."""
        self._connections = itertools.count(1)
        self._room_ends: dict[str, link.LinkEnd] = {}
        self._stage_end: link.LinkEnd | None = None
        self._wires: dict[tuple[End, str], tuple[int, Wire]] = {}
        self._lost_at: dict[str, float] = {}  # media nodes whose connection is gone
        self._stage: StageMachine | None = None
        self._empty_at: float | None = None
        self._ends_at: float | None = None
        self._dialing: asyncio.Task[None] | None = None
        self.sockets: set[stage.SocketRef] = set()
        self._room: room.Room | None = None
        if home is None:
            self._room = room.Room(
                lease.room_name,
                lease.room_sid,
                lease.epoch,
                surroundings.room_settings,
                lambda: sids.new_event_id(secrets.choice),
                surroundings.clock.now(),
                surroundings.clock.wall_ms(),
                wish=wish,
                sif_trailer=secrets.token_bytes(16),
                turn_password=ids.text(24),
            )

    @property
    def is_ending(self) -> bool:
        """Nothing new may begin here."""
        return self._ends_at is not None

    @property
    def participants(self) -> int:
        """Load of this room on this node."""
        return len(self.sockets) if self._room is None else self._room.participant_count

    def room_now(self) -> lk.Room | None:
        """The room as its home shows it; None: it has not begun, or its home is elsewhere."""
        if self._room is None or not self._room.is_started or self._room.is_closed:
            return None
        return self._room.room_now()

    def described(self) -> dict[str, object]:
        """This room for people: who is in it with which tracks, as the home knows it."""
        shown: dict[str, object] = {
            "name": self.lease.room_name,
            "sid": self.lease.room_sid,
            "epoch": self.lease.epoch,
            "is_home": self.home is None,
            "sockets": len(self.sockets),
        }
        if self._room is not None:
            shown |= self._room.described()
        return shown

    # -------------------------------------------------------------- for the writer of checkpoints

    @property
    def room_name(self) -> str:
        return self.lease.room_name

    @property
    def epoch(self) -> int:
        return self.lease.epoch

    @property
    def is_superseded(self) -> bool:
        """Another home has the room by now: nothing is written for this one."""
        return self._is_superseded

    def checkpoint(self, participant_sid: str) -> bytes | None:
        """See `Room.checkpoint`."""
        return None if self._room is None else self._room.checkpoint(participant_sid)

    def superseded(self, epoch: int) -> None:
        """A newer lease of the room exists: it is over here."""
        if not self._is_superseded:
            self._log.warning("a newer lease exists", newer=epoch)
            self._is_superseded = True
            self.post(Stop(lk.STATE_MISMATCH))

    # -------------------------------------------------------------------------------- from outside

    def post(self, item: Item) -> None:
        """Leave something for the task; in order, without waiting. It keeps the caller's trace."""
        self._inbox.append((item, telemetry.current()))
        self._arrived.set()

    def signal(self, socket: stage.SocketRef, request: bytes) -> bool:
        """A client's request; False when it floods: so many of its requests wait already."""
        if self._waiting_signals[socket] >= SIGNALS_WAITING_PER_SOCKET:
            return False
        self._waiting_signals[socket] += 1
        self.post(ForStage(stage.SignalArrived(socket, request)))
        return True

    async def call(
        self, method: str, request: bytes, role_identity: str = "", patience_s: float = 0.0
    ) -> bytes:
        """A RoomService call; ServiceError as the Room refused it, or as a participant answered it."""
        call_id = next(self._call_ids)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = answer
        self.post(ForRoom(room_events.ApiCalled(call_id, method, request, role_identity)))
        try:
            async with asyncio.timeout(API_DEADLINE_S + patience_s):
                return await answer
        except TimeoutError:
            raise Unavailable(f"the room did not answer {method} in time") from None
        finally:
            self._calls.pop(call_id, None)

    # ------------------------------------------------------- participants from and to other rooms

    def way_out(self, participant_sid: str) -> moving.Way:
        """How a participant can get into another room."""
        return moving.Way.REJOINS if self._stage is None else self._stage.way_out(participant_sid)

    def joining(self, participant_sid: str) -> room_pb2.JoinRequested | None:
        """A session here as it would ask to join another room; None when it cannot be carried."""
        if self._stage is None:
            return None
        return self._stage.joining(participant_sid, self._around.clock.wall_ms())

    async def expect(
        self, participant_sid: str, joining: room_pb2.JoinRequested, fetch: Fetch
    ) -> None:
        """Take somebody in: once the Room admits, `fetch` gives the session, or None when it is gone.

        ServiceError as the Room refused it; then nothing was fetched.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected[participant_sid] = _Expected(done, fetch)
        self.post(ForStage(moving.ArrivalAnnounced(participant_sid, joining)))
        try:
            async with asyncio.timeout(API_DEADLINE_S):
                await done
        except TimeoutError:
            raise Unavailable("the destination room did not answer in time") from None
        finally:
            self._expected.pop(participant_sid, None)

    def hand_over(self, participant_sid: str, to: RoomRunner) -> Carried | None:
        """Let go of a session, at once; what waits here for it will be the other room's."""
        if self._room is None or self.is_ending:
            return None
        others = [self._room.info_now(member) for member in self._room.members.values()]
        self._handed_over = None
        self._take(ForStage(moving.HandOverWanted(participant_sid)))
        handed_over, self._handed_over = self._handed_over, None
        if handed_over is None:
            return None
        socket = handed_over.participant.socket
        if socket is not None:
            self.sockets.discard(socket)
            to.sockets.add(socket)
            waiting = self._waiting_signals.pop(socket, 0)
            if waiting:
                to._waiting_signals[socket] += waiting
            kept = deque[tuple[Item, telemetry.Context | None]]()
            for item, context in self._inbox:
                is_of_it = isinstance(item, ForStage) and item.is_about(socket)
                (to._inbox if is_of_it else kept).append((item, context))
            self._inbox = kept
        return Carried(handed_over, moving.departures(others, participant_sid))

    # --------------------------------------------------------- participants shown in other rooms

    def guest_joining(self, identity: str) -> room_pb2.JoinRequested | None:
        """A participant as it would ask to be shown in another room; None: it is not on this node."""
        member = None if self._room is None else self._room.find(identity)
        if member is None or member.node_id != self._around.node_id:
            return None
        info = member.info
        return room_pb2.JoinRequested(
            identity=identity,
            name=info.name,
            metadata=info.metadata,
            attributes=dict(info.attributes),
            kind=info.kind,
            kind_details={*info.kind_details, lk.ParticipantInfo.FORWARDED},
            permission=info.permission.SerializeToString(),
            region=info.region,
            joined_at_ms=self._around.clock.wall_ms(),
            forwarded_from=self.lease.room_name,
        )

    def forwards_to(self, identity: str, destination: RoomRunner) -> bool:
        """Is the participant shown there already?"""
        return any(
            forward.identity == identity and forward.destination is destination
            for forward in self._forwards.values()
        )

    async def show_guest(
        self, guest_sid: str, joining: room_pb2.JoinRequested, source: RoomRunner
    ) -> None:
        """Show somebody of another room here; ServiceError as the Room refused it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._expected_guests[guest_sid] = _ExpectedGuest(done, joining.identity)
        self._guests_of[guest_sid] = source
        self.post(ForStage(forwarding.GuestAnnounced(guest_sid, joining)))
        try:
            async with asyncio.timeout(API_DEADLINE_S):
                await done
        except TimeoutError:
            self.post(ForStage(forwarding.GuestLeft(guest_sid, lk.JOIN_FAILURE)))
            raise Unavailable("the destination room did not answer in time") from None
        finally:
            self._expected_guests.pop(guest_sid, None)

    def _forward(self, forward: _Forward) -> None:
        self._forwards[forward.guest_sid] = forward
        self._arrived.set()

    def _perform_forwarding(self, effect: forwarding.ForwardingEffect) -> None:
        match effect:
            case forwarding.GuestAdmitted(sid):
                expected, source = self._expected_guests.get(sid), self._guests_of.get(sid)
                if expected is not None and source is not None and not expected.done.done():
                    source._forward(_Forward(expected.identity, sid, self))
                    expected.done.set_result(None)
            case forwarding.GuestRefused(sid, code, message):
                self._guests_of.pop(sid, None)
                expected = self._expected_guests.get(sid)
                if expected is not None and not expected.done.done():
                    expected.done.set_exception(ServiceError.of(code, message))
            case forwarding.GuestEnded(sid):
                source = self._guests_of.pop(sid, None)
                if source is not None:
                    source._end_forward(sid)
            case forwarding.WishTold(wish):
                source = self._guests_of.get(wish.guest_sid)
                if source is not None:
                    source.post(ForStage(wish))
            case _:
                assert_never(effect)

    def _end_forward(self, guest_sid: str) -> None:
        forward = self._forwards.pop(guest_sid, None)
        if forward is not None:
            self.post(ForStage(forwarding.WishesEnded(guest_sid, forward.identity)))

    def _follow_forwards(self) -> None:
        """Show those who are forwarded as they are now; who is gone is gone there, too."""
        for forward in list(self._forwards.values()):
            image = None if self.is_ending else self._image(forward.identity)
            if image is None:
                self._withdraw(forward)
            elif image != forward.image:
                forward.image = image
                changed = forwarding.GuestChanged(forward.guest_sid, image)
                forward.destination.post(ForStage(changed))

    def _withdraw(self, forward: _Forward) -> None:
        room = self._room
        reason = 0 if room is None else room.departure_reason(forward.identity)
        self._end_forward(forward.guest_sid)
        forward.destination.post(ForStage(forwarding.GuestLeft(forward.guest_sid, reason)))

    def _image(self, identity: str) -> forwarding.Image | None:
        member = None if self._room is None else self._room.find(identity)
        if member is None or self._stage is None or member.forwarded_from:
            return None
        restriction = member.subscription_permission
        return forwarding.Image(
            info=member.bytes(),
            restriction=None if restriction is None else restriction.SerializeToString(),
            media=self._stage.media_of(list(member.tracks)),
        )

    def _share_levels(self, levels: tuple[tuple[int, int, float], ...]) -> None:
        for forward in self._forwards.values():
            image = forward.image
            rows = tuple(row for row in levels if image is not None and image.has_media(row[0]))
            if rows:
                shared = stage.MediaArrived(AudioLevels(rows))
                forward.destination.post(ForStage(shared))

    def _perform_move(self, effect: moving.MovingEffect) -> None:
        match effect:
            case moving.ArrivalAdmitted(sid, admit):
                self._admitted(sid, admit)
            case moving.ArrivalRefused(sid, code, message):
                self._not_admitted(sid, code, message)
            case moving.HandedOver():
                self._handed_over = effect
            case _:
                assert_never(effect)

    def _admitted(self, sid: str, admit: room_pb2.Admit) -> None:
        expected = self._expected.pop(sid, None)
        carried = None if expected is None or expected.done.done() else expected.fetch()
        if expected is None or carried is None:
            self._work.appendleft(ForStage(moving.ArrivalWithdrawn(sid)))
            if expected is not None and not expected.done.done():
                expected.done.set_exception(NotFound("participant does not exist"))
            return
        # Before the other orders that came with it: they find the session in its place.
        arrived = moving.Arrived(sid, carried.handed_over, admit, carried.departed)
        self._work.appendleft(ForStage(arrived))
        expected.done.set_result(None)

    def _not_admitted(self, sid: str, code: str, message: str) -> None:
        expected = self._expected.pop(sid, None)
        if expected is not None and not expected.done.done():
            expected.done.set_exception(ServiceError.of(code, message))

    def link_up(self, end: End, node_id: str, wire: Wire) -> int:
        """A connection to another node stands; its number is for `link_frame` and `link_down`."""
        connection = next(self._connections)
        self.post(LinkUp(end, node_id, connection, wire))
        return connection

    def link_frame(
        self, end: End, node_id: str, connection: int, frame: node_pb2.RoomLinkFrame
    ) -> None:
        """The other node sent a frame."""
        self.post(ForLink(end, node_id, link.FrameArrived(connection, frame)))

    def link_down(self, end: End, node_id: str, connection: int) -> None:
        """The connection is gone."""
        self.post(ForLink(end, node_id, link.Disconnected(connection)))

    def home_refused(self, reason: str) -> None:
        """The home will not have this stage."""
        self.post(HomeRefused(reason))

    # ------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Until the room is over here. A fault of one event is logged, counted and survived."""
        telemetry.leave_trace()  # of the join that made the room
        try:
            if self._may_inherit:
                await self._inherit()
            while not self._is_over():
                await self._wait()
                self._work_for(TURN_S)
                self._tick()
                if self._forwards:
                    self._follow_forwards()
                if self._inbox:
                    await asyncio.sleep(0)
        finally:
            self._joins.close()
            if self._dialing is not None:
                self._dialing.cancel()
            for _, wire in self._wires.values():
                wire.close("the room is over here", refused=False)
            for forward in list(self._forwards.values()):
                self._withdraw(forward)
            for guest_sid, source in self._guests_of.items():
                source._end_forward(guest_sid)
            self._disappoint()
            for socket in self.sockets:
                self._around.sockets.close(socket, "room is over")

    def _disappoint(self) -> None:
        """Whoever waits for an answer is told that there is no room to give one."""
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(NotFound(room_events.NO_ROOM))
        for expected in self._expected.values():
            if not expected.done.done():
                expected.done.set_exception(Unavailable("the destination room is closing"))
        for guest in self._expected_guests.values():
            if not guest.done.done():
                guest.done.set_exception(Unavailable("the destination room is closing"))

    def _work_for(self, seconds: float) -> None:
        clock = self._around.clock
        ends_at = clock.now() + seconds
        while self._inbox:
            self._take_within(*self._inbox.popleft())
            if clock.now() >= ends_at:
                return

    async def _inherit(self) -> None:
        """Begin with what an earlier home of this room left; joins and calls wait meanwhile."""
        checkpoints, lease = self._around.checkpoints, self.lease
        try:
            saved = await checkpoints.read(lease.room_name)
        except Unavailable as error:
            self._log.warning("the room begins anew", error=error.message)
            return
        if saved is None:
            return
        if saved.room.epoch > lease.epoch:
            self.superseded(saved.room.epoch)
            return
        if left_of(saved, lease):
            self._log.info("room goes on", earlier_epoch=saved.room.epoch)
            self._take(ForRoom(room_events.Inherited(saved.room, saved.participants)))
        checkpoints.adopt(self, saved)

    async def _wait(self) -> None:
        if self._inbox:
            return
        self._arrived.clear()
        due = self._next_timeout()
        if due is None:
            await self._arrived.wait()
            return
        # A timer of the loop, and no timeout that cancels: this is most of what an idle room costs.
        loop = asyncio.get_running_loop()
        # The loop counts from when this turn of it began.
        delay = max(0.0, due - loop.time()) + TIMER_STEP_S
        timer = loop.call_later(delay, self._arrived.set)
        try:
            await self._arrived.wait()
        finally:
            timer.cancel()

    def _is_over(self) -> bool:
        if self._ends_at is None or self._inbox:
            return False
        is_empty = self._stage is None or self._stage.is_empty
        return is_empty or self._around.clock.now() >= self._ends_at

    def _next_timeout(self) -> float | None:
        due = [self._ends_at]
        if self._room is not None:
            due.append(self._room.next_timeout())
        if self._stage is not None:
            due.append(self._stage.next_timeout())
        if self._stage_end is not None:
            due.append(self._stage_end.next_timeout())
        due += [end.next_timeout() for end in self._room_ends.values()]
        due += [at + self._around.link_grace_s for at in self._lost_at.values()]
        if self._empty_at is not None:
            due.append(self._empty_at + STAGE_LINGER_S)
        return min((t for t in due if t is not None), default=None)

    def _take_within(self, item: Item, context: telemetry.Context | None) -> None:
        """Take an item within the trace of who left it, if any; most have none."""
        if context is not None:
            telemetry.enter_trace(context)
        self._take(item)
        if telemetry.current() is not None:
            telemetry.leave_trace()

    def _take(self, item: Item) -> None:
        """One event and everything it causes within this node."""
        if isinstance(item, ForStage) and isinstance(item.event, stage.SignalArrived):
            self._waiting_signals[item.event.socket] -= 1
        self._work.append(item)
        while self._work:
            current = self._work.popleft()
            try:
                self._perform(current)
            except Exception:  # noqa: BLE001
                # One room's bug, often met through one client's input: the others must not notice.
                self._around.metrics.faults.add(1, type(current).__name__)
                self._log.exception("a machine failed", item=type(current).__name__)

    def _perform(self, item: Item) -> None:
        match item:
            case ForRoom(event):
                self._feed_room(event)
            case ForStage(event):
                self._feed_stage(event)
            case ForLink(end, node_id, event):
                self._feed_link(end, node_id, event)
            case LinkUp():
                self._connect(item)
            case HomeRefused(reason):
                self._leave_home(reason)
            case Stop(reason, lives_on):
                self._stop(reason, lives_on=lives_on)
            case _:
                assert_never(item)

    def _tick(self) -> None:
        now = self._around.clock.now()
        if self._room is not None and _is_due(self._room.next_timeout(), now):
            self._take(ForRoom(room_events.Ticked()))
        if self._stage is not None and _is_due(self._stage.next_timeout(), now):
            self._take(ForStage(stage.Ticked()))
        node_id = self._around.node_id
        if self._stage_end is not None and _is_due(self._stage_end.next_timeout(), now):
            self._take(ForLink("stage", node_id, link.Ticked()))
        for media_node_id, end in list(self._room_ends.items()):
            if _is_due(end.next_timeout(), now):
                self._take(ForLink("room", media_node_id, link.Ticked()))
        for lost, at in list(self._lost_at.items()):
            if now >= at + self._around.link_grace_s:
                self._give_up_node(lost)
        self._tick_emptiness(now)

    def _tick_emptiness(self, now: float) -> None:
        """A stage away from home goes when nobody is on it; at home the Room decides."""
        if self.home is None or self._stage is None or self._ends_at is not None:
            return
        if not self._stage.is_empty or self.sockets:
            self._empty_at = None
        elif self._empty_at is None:
            self._empty_at = now
        elif now >= self._empty_at + STAGE_LINGER_S:
            self._ends_at = now

    # -------------------------------------------------------------------------------- the machines

    def _feed_room(self, event: room_events.Event) -> None:
        if self._room is None:
            return
        clock = self._around.clock
        self._follow_renewal(self._room)
        for effect in self._room.handle(event, clock.now(), clock.wall_ms()):
            self._perform_for_room(effect)

    def _follow_renewal(self, machine: room.Room) -> None:
        # Asked at each event rather than told in time: a process that stood still must not decide
        # anything with a lease that lapsed meanwhile.
        clock = self._around.clock
        is_lapsed = self._around.renewal.is_lapsed(clock.now())
        if is_lapsed != machine.is_frozen:
            change = room_events.Frozen() if is_lapsed else room_events.Thawed()
            machine.handle(change, clock.now(), clock.wall_ms())

    def _perform_for_room(self, effect: room_events.Effect) -> None:
        match effect:
            case room_events.GiveOrder(node_ids, order):
                message = order.SerializeToString()
                for node_id in node_ids:
                    self._work.append(ForLink("room", node_id, link.Submitted(message)))
            case room_events.Publish(published):
                published.traceparent = telemetry.traceparent()
                self._log.info("room event", **_described(published))
                self._measure(published)
                self._around.events.publish(published)
            case room_events.AnswerApi(call_id, response, code, message, meta):
                self._answer(
                    call_id, response, ServiceError.of(code, message, dict(meta)) if code else None
                )
            case room_events.Checkpoint(participant_sids):
                for sid in participant_sids:
                    self._around.checkpoints.touch(self, sid)
            case room_events.Closed(keeps_lease):
                self._ends_at = self._around.clock.now() + LINGER_S
                if not keeps_lease:
                    self._around.leases.release(self.lease.room_name, self.lease.epoch)
            case _:
                assert_never(effect)

    def _measure(self, published: events_pb2.RoomEvent) -> None:
        match published.name:
            case "room_finished":
                began = lk.Room.FromString(published.room).creation_time
                self._around.metrics.room_duration.observe(max(0, published.created_at - began))
            case "track_published":
                kind = lk.TrackType.Name(lk.TrackInfo.FromString(published.track).type)
                self._around.metrics.track_publishes.add(1, kind, "success")
            case _:
                pass

    def _answer(self, call_id: int, response: bytes, error: ServiceError | None) -> None:
        answer = self._calls.get(call_id)
        if answer is None or answer.done():
            return  # its caller no longer waits
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(response)

    def _feed_stage(self, event: stage.Event) -> None:  # noqa: C901 - one match of all effects
        if self._stage is None:
            opens = stage.SocketOpened | moving.ArrivalAnnounced | forwarding.GuestAnnounced
            if not isinstance(event, opens):
                return
            self._stage = self._open_stage()
        if isinstance(event, stage.SocketGone):
            self.sockets.discard(event.socket)
            self._waiting_signals.pop(event.socket, None)
        match event:
            case stage.MediaArrived(AudioLevels(levels)) if self._forwards:
                self._share_levels(levels)
            case _:
                pass
        clock = self._around.clock
        now = clock.now()
        self._joins.taken(event, now)
        for effect in self._stage.handle(event, now, clock.wall_ms()):
            self._observe(effect, event, now)
            match effect:
                case stage.SendSignal(sockets, response):
                    self._around.sockets.send(sockets, response)
                case stage.RefuseSocket(socket, http_status, message):
                    self.sockets.discard(socket)
                    self._around.metrics.refused.add(1, "room")
                    self._around.sockets.refuse(socket, http_status, message)
                case stage.CloseSocket(socket, reason, code):
                    self.sockets.discard(socket)
                    self._around.sockets.close(socket, reason, code)
                case stage.CountDropped() | stage.RateConnections():
                    pass  # only observed
                case moving.ArrivalAdmitted() | moving.ArrivalRefused() | moving.HandedOver():
                    self._perform_move(effect)
                case (
                    forwarding.GuestAdmitted()
                    | forwarding.GuestRefused()
                    | forwarding.GuestEnded()
                    | forwarding.WishTold()
                ):
                    self._perform_forwarding(effect)
                case stage.TellRoom(fact):
                    submitted = link.Submitted(fact.SerializeToString())
                    self._work.append(ForLink("stage", self._around.node_id, submitted))
                case _:
                    self._around.media.perform(effect)

    def _observe(self, effect: stage.Effect, cause: stage.Event, now: float) -> None:
        metrics = self._around.metrics
        match effect:
            case stage.SendSignal(sockets):
                self._joins.sent(sockets, now)
            case stage.RefuseSocket(socket, http_status, message):
                self._joins.refused(socket, http_status, message)
            case stage.TellRoom(fact):
                self._joins.told(fact, cause, now)
            case stage.CountDropped(why):
                metrics.data_dropped.add(1, why)
            case stage.RateConnections(scores):
                for score in scores:
                    metrics.quality_rating.observe(score.quality)
                    metrics.quality_score.observe(score.score)
            case _:
                pass

    def _open_stage(self) -> StageMachine:
        self.stage_number = self._new_owner(self)
        made = self._around.make_stage(self.lease.room_name, ids.StageIds(self.stage_number))
        if self._stage_end is None:
            self._stage_end = self._new_end(self._around.node_id)
            if self.home is None:
                self._connect_within()
            else:
                linking = self._around.dialer.keep_linked(self.home.address, self)
                self._dialing = asyncio.create_task(linking)
        return made

    def _new_end(self, node_id: str) -> link.LinkEnd:
        incarnation = secrets.randbits(63) + 1
        lease = self.lease
        return link.LinkEnd(lease.room_name, lease.room_sid, lease.epoch, node_id, incarnation)

    # ----------------------------------------------------------------------------------- the links

    def _feed_link(self, which: End, node_id: str, event: link.Event) -> None:
        end = self._end(which, node_id)
        if end is None:
            return
        if isinstance(event, link.Disconnected):
            self._forget_wire(which, node_id, event.connection)
        for effect in end.handle(event, self._around.clock.now()):
            match effect:
                case link.SendFrame(connection, frame):
                    current = self._wires.get((which, node_id))
                    if current is not None and current[0] == connection:
                        current[1].send(frame)
                case link.Deliver(message):
                    self._deliver(which, node_id, message)
                case link.Resynchronize(reason):
                    self._resynchronize(which, node_id, reason)
                case link.CloseConnection(connection, reason, refused):
                    self._close_wire(which, node_id, connection, reason, refused=refused)
                case link.Superseded(epoch):
                    self._log.warning("a newer lease exists", newer=epoch)
                    self._work.append(Stop(lk.STATE_MISMATCH))
                case _:
                    assert_never(effect)

    def _end(self, which: End, node_id: str) -> link.LinkEnd | None:
        if which == "stage":
            return self._stage_end
        if self._room is None:
            return None
        if node_id not in self._room_ends:
            self._room_ends[node_id] = self._new_end(node_id)
        return self._room_ends[node_id]

    def _deliver(self, which: End, node_id: str, message: bytes) -> None:
        if which == "room":
            fact = room_pb2.Fact.FromString(message)
            self._work.append(ForRoom(room_events.FactArrived(node_id, fact)))
        else:
            order = room_pb2.Order.FromString(message)
            self._work.append(ForStage(stage.OrderArrived(order)))

    def _resynchronize(self, which: End, node_id: str, reason: str) -> None:
        """Sessions whose Room and Stage may disagree are started anew, from both sides."""
        self._around.metrics.resyncs.add()
        self._log.warning("room link lost messages", node=node_id, end=which, reason=reason)
        if which == "room":
            self._work.append(ForRoom(room_events.NodeLost(node_id)))
            return
        self._end_sessions()
        if self._stage is not None and self._stage.is_empty:
            self._stage = self._open_stage()  # with an empty track directory

    def _end_sessions(self) -> None:
        end = room_pb2.End(reason=lk.STATE_MISMATCH, action=rtc.LeaveRequest.RECONNECT)
        self._feed_stage(stage.OrderArrived(room_pb2.Order(end=end)))

    def _connect(self, up: LinkUp) -> None:
        self._wires[up.end, up.node_id] = (up.connection, up.wire)
        if up.end == "room":
            self._lost_at.pop(up.node_id, None)
        self._feed_link(up.end, up.node_id, link.Connected(up.connection))

    def _connect_within(self) -> None:
        """A link whose two ends are both here."""
        connection, node_id = next(self._connections), self._around.node_id
        for end, other in (("room", "stage"), ("stage", "room")):
            self._wires[_end(end), node_id] = (connection, _Within(self, _end(other), connection))
        for end in ("room", "stage"):
            self._work.append(ForLink(_end(end), node_id, link.Connected(connection)))

    def _close_wire(
        self, which: End, node_id: str, connection: int, reason: str, *, refused: bool
    ) -> None:
        current = self._wires.get((which, node_id))
        if current is None or current[0] != connection:
            return
        self._log.info("room link closed", node=node_id, end=which, reason=reason)
        self._forget_wire(which, node_id, connection)
        current[1].close(reason, refused=refused)

    def _forget_wire(self, which: End, node_id: str, connection: int) -> None:
        current = self._wires.get((which, node_id))
        if current is None or current[0] != connection:
            return
        del self._wires[which, node_id]
        if which == "room" and node_id != self._around.node_id:
            self._lost_at[node_id] = self._around.clock.now()

    def _give_up_node(self, node_id: str) -> None:
        """Its stage may still run: a fresh end here makes it start its sessions anew."""
        del self._lost_at[node_id]
        del self._room_ends[node_id]
        self._take(ForRoom(room_events.NodeLost(node_id)))
        self._room_ends.pop(node_id, None)

    def _leave_home(self, reason: str) -> None:
        self._log.warning("the room's home refuses this node", reason=reason)
        self._end_sessions()
        if self._ends_at is None:
            self._ends_at = self._around.clock.now() + LINGER_S

    def _stop(self, reason: int, *, lives_on: bool) -> None:
        self._is_superseded = self._is_superseded or reason == lk.STATE_MISMATCH
        if self._room is not None:
            self._feed_room(room_events.Closing(reason, lives_on))
        else:
            action = rtc.LeaveRequest.DISCONNECT
            if lives_on or reason == lk.STATE_MISMATCH:
                action = rtc.LeaveRequest.RECONNECT
            end = room_pb2.End(reason=reason, action=action)
            self._feed_stage(stage.OrderArrived(room_pb2.Order(end=end)))
        if self._ends_at is None:
            self._ends_at = self._around.clock.now() + LINGER_S


def left_of(saved: Saved, lease: Lease) -> bool:
    """Is it of this very room, and not of an older one of its name?"""
    return lk.Room.FromString(saved.room.room).sid == lease.room_sid


class _Within:
    """The wire of a link within this node: frames are work for the same task."""

    def __init__(self, runner: RoomRunner, to: End, connection: int) -> None:
        self._runner = runner
        self._to = to
        self._connection = connection

    def send(self, frame: node_pb2.RoomLinkFrame) -> None:
        event = link.FrameArrived(self._connection, frame)
        self._runner._work.append(ForLink(self._to, frame.node_id, event))

    def close(self, reason: str, *, refused: bool) -> None:
        if not refused:
            self._runner._connect_within()


def _described(event: events_pb2.RoomEvent) -> dict[str, str | int]:
    """What a log line says of a fact: which, about whom and what; no personal values."""
    fields: dict[str, str | int] = {"name": event.name, "sequence": event.sequence}
    if event.participant:
        fields["participant"] = lk.ParticipantInfo.FromString(event.participant).sid
    if event.track:
        fields["track"] = lk.TrackInfo.FromString(event.track).sid
    return fields


def _is_due(at: float | None, now: float) -> bool:
    return at is not None and now >= at


def _end(name: str) -> End:
    return "room" if name == "room" else "stage"
