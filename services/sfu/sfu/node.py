"""The rooms of this process: finds the one each socket, call, link and engine report is for.

It checks leases (a stale epoch is refused, a newer one ends the older room) and nothing else about
rooms; what happens in one is `sfu.runner` and `sfu.core`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from contextlib import suppress

import structlog
from google.protobuf.message import DecodeError
from livekit.protocol import models as lk
from livekit.protocol import room as room_api

from chassis.errors import FailedPrecondition, NotFound, ServiceError, Unavailable
from contracts.node.v1 import node_pb2
from sfu import ids
from sfu.core import room_events, stage
from sfu.core.configuration import RoomWish
from sfu.core.grants import BadClaims, Grants
from sfu.core.media_events import MediaEvent, split_by_owner
from sfu.forwards import Forwards
from sfu.moves import Moves
from sfu.runner import (
    LINGER_S,
    Carried,
    ForRoom,
    ForStage,
    Home,
    Lease,
    RoomRunner,
    Stop,
    Surroundings,
    left_of,
)

log = structlog.get_logger(__name__)
ENDED_ROOMS_REMEMBERED = 10_000


class LeaseRefused(FailedPrecondition):
    """Not this node's room, or not at this epoch: placement is to be asked again."""


class Node:
    """The rooms of this process, and the way to the right one."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._around = surroundings
        self._runners: dict[str, RoomRunner] = {}
        self._tasks: dict[RoomRunner, asyncio.Task[None]] = {}
        self._sockets: dict[stage.SocketRef, RoomRunner] = {}
        self._owners: dict[int, RoomRunner] = {}
        self._new_owners = itertools.count(1)
        self._moved_ids: dict[int, int] = {}  # engine id -> number of the stage that has it now
        self._moves = Moves(surroundings, self)
        self._forwards = Forwards(surroundings, self)
        self._lease_changed = asyncio.Event()
        self._ended: OrderedDict[str, int] = OrderedDict()  # room name -> highest epoch that ended
        self._doubted = asyncio.Event()
        self.is_draining = False
        self.is_leaving = False
        """It no longer answers for its rooms: they are for other nodes."""

    @property
    def node_id(self) -> str:
        return self._around.node_id

    @property
    def rooms(self) -> int:
        """Rooms with a home here."""
        return sum(runner.home is None for runner in self._runners.values())

    @property
    def participants(self) -> int:
        """Participants this node works for."""
        return sum(runner.participants for runner in self._runners.values())

    def described(self) -> list[dict[str, object]]:
        """The rooms here, for people who look for a fault."""
        return [runner.described() for runner in self._runners.values()]

    def limit_reached(self) -> str:
        """Why nobody more can join on this node; "" while there is room."""
        around = self._around
        if self.participants >= around.limits.participants:
            return f"node limit: {self.node_id} takes {around.limits.participants} participants at most"
        if around.limits.tracks and around.tracks() >= around.limits.tracks:
            return f"node limit: {self.node_id} takes {around.limits.tracks} tracks at most"
        return ""

    # ------------------------------------------------------------------------------------- sessions

    def open_session(self, socket: stage.SocketRef, opened: node_pb2.OpenSession) -> None:
        """A join or resume, validated by signaling. Refusals go to the socket."""
        try:
            claims = node_pb2.Claims.FromString(opened.claims)
            self._require_own(opened.node_id)
            full = "" if opened.reconnect else self.limit_reached()
            if full:
                self._refuse(socket, Unavailable(full).join_status, full, "node_limit")
                return
            runner = self._runner_for_session(opened, claims)
        except DecodeError:
            self._refuse(socket, 400, "claims cannot be decoded", "malformed")
            return
        except FailedPrecondition as error:
            status = Unavailable(error.message).join_status
            self._around.metrics.refused.add(1, "lease")
            self._around.sockets.refuse(socket, status, error.message, lease_refused=True)
            return
        except ServiceError as error:
            self._refuse(socket, error.join_status, error.message, error.code.value)
            return
        event = stage.SocketOpened(socket, opened, claims)
        if runner is None:
            self._answer_lost_resume(event)
            return
        self._sockets[socket] = runner
        runner.sockets.add(socket)
        runner.post(ForStage(event))

    def signal(self, socket: stage.SocketRef, request: bytes) -> None:
        """A livekit.SignalRequest; nothing happens when the socket is not (or no longer) known."""
        runner = self._sockets.get(socket)
        if runner is None or runner.signal(socket, request):
            return
        self._around.metrics.flooding_sockets.add()
        log.warning("socket floods", room=runner.lease.room_name, session=socket.session)
        self._around.sockets.close(socket, "too many requests")
        self.socket_gone(socket, node_pb2.SocketClosed.CAUSE_SERVER_CLOSED)

    def socket_gone(self, socket: stage.SocketRef, cause: int) -> None:
        """The client's socket is closed."""
        runner = self._sockets.pop(socket, None)
        if runner is not None:
            runner.post(ForStage(stage.SocketGone(socket, cause)))

    def stream_gone(self, stream: int) -> None:
        """A signaling replica is gone, and every socket behind it."""
        for socket in [s for s in self._sockets if s.stream == stream]:
            self.socket_gone(socket, node_pb2.SocketClosed.CAUSE_PEER_CLOSED)

    def media_arrived(self, event: MediaEvent) -> None:
        """The engine reports: to the stage that made the id."""
        for owner, part in split_by_owner(event, self._moved_ids):
            runner = self._owners.get(owner)
            if runner is not None:
                runner.post(ForStage(stage.MediaArrived(part)))

    def _refuse(self, socket: stage.SocketRef, status: int, message: str, reason: str) -> None:
        self._around.metrics.refused.add(1, reason)
        self._around.sockets.refuse(socket, status, message)

    def _runner_for_session(
        self, opened: node_pb2.OpenSession, claims: node_pb2.Claims
    ) -> RoomRunner | None:
        lease = Lease(opened.room_name, opened.room_sid, opened.epoch)
        runner = self._current(lease)
        if runner is not None:
            return runner
        if opened.reconnect:
            return None
        home = None
        if opened.home_node_id and opened.home_node_id != self.node_id:
            home = Home(opened.home_node_id, opened.home_address)
        wish = _wish_of(claims) if opened.room_created else None
        return self._open(lease, home, wish, is_new=opened.room_created)

    def _answer_lost_resume(self, event: stage.SocketOpened) -> None:
        """The room is not here any more: a stage without sessions knows what to say."""
        around = self._around
        lost = around.make_stage(event.open.room_name, ids.StageIds(next(self._new_owners)))
        for effect in lost.handle(event, around.clock.now(), around.clock.wall_ms()):
            match effect:
                case stage.SendSignal(sockets, response):
                    around.sockets.send(sockets, response)
                case stage.RefuseSocket(socket, http_status, message):
                    around.sockets.refuse(socket, http_status, message)
                case stage.CloseSocket(socket, reason, code):
                    around.sockets.close(socket, reason, code)
                case _:
                    pass  # there is no room to tell, and no media yet

    # ------------------------------------------------------------------------------ calls and links

    async def call(self, request: node_pb2.CallApiRequest) -> bytes:
        """A RoomService call; ServiceError when it is refused, `LeaseRefused` when not here."""
        if request.service != "livekit.RoomService":
            raise NotFound(f"no service {request.service} here")
        self._require_own(request.node_id)
        if request.method == "ListRooms" and not request.room_name:
            return self._rooms_named(request.request)
        lease = Lease(request.room_name, request.room_sid, request.epoch)
        runner = self._current(lease)
        if runner is None and request.method == "CreateRoom":
            runner = self._open(lease, None, None, is_new=request.room_created)
        if runner is None and await self._was_left(lease):
            runner = self._current(lease) or self._open(lease, None, None)
        if runner is None:
            if request.method in ("ListParticipants", "ListRooms"):
                return b""  # the empty list
            raise NotFound(room_events.NO_ROOM)
        if request.method == "MoveParticipant":
            return await self._moves.move(runner, request)
        if request.method == "ForwardParticipant":
            return await self._forwards.forward(runner, request)
        return await runner.call(
            request.method, request.request, request.role_identity, request.patience_ms / 1000
        )

    def _rooms_named(self, request: bytes) -> bytes:
        """Those of the rooms (scoped names) whose home is here; the others are absent."""
        names = room_api.ListRoomsRequest.FromString(request).names
        runners = (self._runners.get(name) for name in names)
        rooms = (None if runner is None else runner.room_now() for runner in runners)
        found = [room for room in rooms if room is not None]
        return room_api.ListRoomsResponse(rooms=found).SerializeToString()

    def home_of(self, lease: Lease, *, is_new: bool) -> RoomRunner:
        """The room whose home this node is by this lease, opened now if it is not yet."""
        return self._current(lease) or self._open(lease, None, None, is_new=is_new)

    def carry(self, sid: str, source: RoomRunner, destination: RoomRunner) -> Carried | None:
        """Take a session out of one room for another: what comes for it goes there from now on."""
        carried = source.hand_over(sid, destination)
        if carried is None:
            return None
        for engine_id in carried.handed_over.engine_ids:
            self._moved_ids[engine_id] = destination.stage_number
        socket = carried.handed_over.participant.socket
        if socket is not None:
            self._sockets[socket] = destination
        return carried

    def accept_link(self, frame: node_pb2.RoomLinkFrame) -> RoomRunner:
        """The home's runner for another node's Stage; its first frame is a Hello."""
        if frame.WhichOneof("message") != "hello" or not frame.node_id:
            raise FailedPrecondition("a room link begins with Hello")
        lease = Lease(frame.room_name, frame.hello.room_sid, frame.epoch)
        runner = self._current(lease) or self._open(lease, None, None)
        if runner.home is not None:
            raise FailedPrecondition(f"{self.node_id} is not the home of this room")
        return runner

    def _current(self, lease: Lease) -> RoomRunner | None:
        """The runner of this very lease. An older lease is refused; a newer one ends the older."""
        runner = self._runners.get(lease.room_name)
        known = self._ended.get(lease.room_name, 0)
        if runner is not None and not runner.is_ending:
            if lease.epoch == runner.lease.epoch:
                return runner
            if lease.epoch < runner.lease.epoch:
                raise LeaseRefused(
                    f"stale epoch {lease.epoch}: the room is at {runner.lease.epoch}"
                )
            runner.superseded(lease.epoch)
        elif runner is not None:
            known = max(known, runner.lease.epoch)
        if lease.epoch <= known:
            raise LeaseRefused(f"epoch {lease.epoch} of the room is over: assign it anew")
        return None

    async def _was_left(self, lease: Lease) -> bool:
        """Did an earlier home leave this room, so that it goes on here although nobody joined yet?"""
        saved = await self._around.checkpoints.read(lease.room_name)
        return saved is not None and left_of(saved, lease)

    def _open(
        self,
        lease: Lease,
        home: Home | None,
        wish: RoomWish | None,
        *,
        is_new: bool = False,
    ) -> RoomRunner:
        if self.is_draining:
            # Placed here before placement knew: with the lease given back, it is placed elsewhere.
            self._around.leases.release(lease.room_name, lease.epoch)
            raise LeaseRefused(f"{self.node_id} is draining and takes no new rooms")
        if self.is_frozen:
            raise Unavailable(room_events.FROZEN)
        if not lease.room_name or not lease.room_sid or lease.epoch == 0:
            raise FailedPrecondition("a room needs a name, a sid and an epoch to be opened")
        runner = RoomRunner(
            self._around,
            lease,
            home=home,
            new_owner=self._own,
            wish=wish,
            is_new=is_new,
        )
        self._runners[lease.room_name] = runner
        self._tasks[runner] = asyncio.create_task(self._run(runner))
        return runner

    def _require_own(self, node_id: str) -> None:
        if node_id not in ("", self.node_id):  # older releases name none
            raise LeaseRefused(f"this is {self.node_id}, not {node_id}")

    def _own(self, runner: RoomRunner) -> int:
        owner = next(self._new_owners)
        self._owners[owner] = runner
        return owner

    async def _run(self, runner: RoomRunner) -> None:
        try:
            await runner.run()
        finally:
            name = runner.lease.room_name
            if self._runners.get(name) is runner:
                del self._runners[name]
            if runner.home is None:
                self._ended[name] = max(self._ended.pop(name, 0), runner.lease.epoch)
            while len(self._ended) > ENDED_ROOMS_REMEMBERED:
                self._ended.popitem(last=False)
            self._owners = {k: v for k, v in self._owners.items() if v is not runner}
            self._moved_ids = {k: v for k, v in self._moved_ids.items() if v in self._owners}
            self._sockets = {k: v for k, v in self._sockets.items() if v is not runner}
            del self._tasks[runner]

    # --------------------------------------------------------------------------------------- leases

    @property
    def is_frozen(self) -> bool:
        """The leases were not renewed in time: rooms go on, nothing is decided in them."""
        return self._around.renewal.is_lapsed(self._around.clock.now())

    def renewed(self, at: float) -> None:
        """Something said at `at` (monotonic seconds) renewed every lease that is still this node's.

        When they had lapsed, it is asked which those are before anything is decided in a room.
        """
        renewal = self._around.renewal
        renewal.renew(at, self._around.clock.now())
        if renewal.is_doubtful:
            self._doubted.set()
            self._around.leases.reclaim_soon()
        self._lease_changed.set()

    def confirmed(self, asked_at: float) -> None:
        """What was asked at `asked_at` is answered: rooms that are another's were superseded."""
        self._around.renewal.confirm(asked_at)
        self._lease_changed.set()

    def supersede(self, room_name: str, epoch: int) -> None:
        """The room has a newer lease with this epoch: the one here is over."""
        runner = self._runners.get(room_name)
        if runner is not None and not runner.is_ending and runner.lease.epoch < epoch:
            runner.superseded(epoch)

    def leases(self) -> list[Lease]:
        """The rooms whose home this is."""
        runners = self._runners.values()
        return [r.lease for r in runners if r.home is None and not r.is_ending]

    async def watch_leases(self) -> None:
        """Freeze and thaw the rooms in time, until canceled."""
        clock, renewal = self._around.clock, self._around.renewal
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, renewal.lapses_at - clock.now())):
                    await self._doubted.wait()
            # Doubts that are gone already may have frozen a room: it is told too.
            if not self.is_frozen and not self._doubted.is_set():
                continue
            self._doubted.clear()
            log.warning("leases not renewed: rooms are frozen", rooms=self.rooms)
            self._tell_rooms(room_events.Frozen())
            while self.is_frozen:
                self._lease_changed.clear()
                await self._lease_changed.wait()
            log.info("leases renewed: rooms go on", rooms=self.rooms)
            self._tell_rooms(room_events.Thawed())

    def _tell_rooms(self, event: room_events.Event) -> None:
        for runner in self._runners.values():
            runner.post(ForRoom(event))

    # --------------------------------------------------------------------------------------- ending

    async def drain(self, poll_s: float = 0.1) -> None:
        """Take no new rooms, and return when nobody is in those that are here."""
        self.is_draining = True
        while self.participants:  # noqa: ASYNC110 - the count changes deep inside the machines
            await asyncio.sleep(poll_s)

    async def close(self) -> None:
        """End every room; those in them are told that the server shuts down."""
        await self._end_rooms(lives_on=False)

    async def leave(self) -> None:
        """Stop working on every room, which another node is to go on with; clients are sent there."""
        self.is_leaving = True
        await self._end_rooms(lives_on=True)

    async def _end_rooms(self, *, lives_on: bool) -> None:
        self.is_draining = True
        tasks = list(self._tasks.values())
        for runner in list(self._tasks):
            runner.post(Stop(lk.SERVER_SHUTDOWN, lives_on))
        if tasks:
            await asyncio.wait(tasks, timeout=LINGER_S + 1.0)
        for task in tasks:
            task.cancel()


def _wish_of(claims: node_pb2.Claims) -> RoomWish | None:
    """The token's roomConfig and roomPreset; what cannot be read is refused with the session."""
    try:
        grants = Grants.of(claims)
    except BadClaims:
        return None
    configuration = room_api.RoomConfiguration.FromString(grants.room_configuration)
    return RoomWish(configuration, grants.room_preset, is_from_token=True)
