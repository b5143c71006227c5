"""MoveParticipant: a participant goes from a room here to another, wherever that one lives.

The destination is asked first, so that a refusal changes nothing. When both homes are this node,
the session itself changes rooms (core/moving.py); otherwise its client joins the destination anew.
"""

from __future__ import annotations

import secrets
from typing import Protocol

import structlog
from google.protobuf.message import DecodeError
from livekit.protocol import models as lk
from livekit.protocol import room as api

from chassis import ids
from chassis.errors import FailedPrecondition, InvalidArgument, Malformed, Unavailable
from contracts.node.v1 import node_pb2
from contracts.placement.v1 import placement_pb2
from sfu.core.member import Member
from sfu.core.moving import Way
from sfu.core.room_events import FROZEN
from sfu.runner import Carried, Lease, RoomRunner, Surroundings

log = structlog.get_logger(__name__)


class Rooms(Protocol):
    """What a move needs of the node: `sfu.node.Node`."""

    @property
    def is_frozen(self) -> bool: ...
    def home_of(self, lease: Lease, *, is_new: bool) -> RoomRunner: ...
    def carry(self, sid: str, source: RoomRunner, destination: RoomRunner) -> Carried | None: ...


class Moves:
    """The moves of one node's participants."""

    def __init__(self, surroundings: Surroundings, rooms: Rooms) -> None:
        self._around = surroundings
        self._rooms = rooms

    async def move(self, source: RoomRunner, call: node_pb2.CallApiRequest) -> bytes:
        """Do the call; ServiceError when it is refused, by either room."""
        request = _read(call.request)
        info = await self._participant(source, request, call.role_identity)
        way = source.way_out(info.sid)
        if way is Way.AWAY:
            raise Unavailable(
                "the participant is reconnecting and cannot be told; try again when it is back"
            )
        assigned = await self._around.homes.assign(request.destination_room, self._around.node_id)
        lease = Lease(assigned.lease.room_name, assigned.lease.room_sid, assigned.lease.epoch)
        joining = source.joining(info.sid) if way is Way.CARRIED else None
        if assigned.lease.node_id == self._around.node_id and joining is not None:
            destination = self._rooms.home_of(lease, is_new=assigned.created)
            sid = ids.new_sid(ids.PARTICIPANT, secrets.choice)
            joining.joined_at_ms = self._around.clock.wall_ms()

            def fetch() -> Carried | None:
                return self._rooms.carry(info.sid, source, destination)

            await destination.expect(sid, joining, fetch)
            log.info("participant moved", participant=info.sid, becomes=sid, room=lease.room_name)
            return api.MoveParticipantResponse().SerializeToString()
        await self._check_capacity(assigned, info)
        log.info("participant is sent to another room", participant=info.sid, room=lease.room_name)
        return await source.call("MoveParticipant", call.request, call.role_identity)

    async def _participant(
        self, source: RoomRunner, request: api.MoveParticipantRequest, role_identity: str
    ) -> lk.ParticipantInfo:
        asked = api.RoomParticipantIdentity(room=request.room, identity=request.identity)
        info = await source.call("GetParticipant", asked.SerializeToString(), role_identity)
        if self._rooms.is_frozen:
            raise Unavailable(FROZEN)
        participant = lk.ParticipantInfo.FromString(info)
        if lk.ParticipantInfo.FORWARDED in participant.kind_details:
            raise FailedPrecondition(
                "the participant is forwarded from another room: move it there"
            )
        return participant

    async def _check_capacity(
        self, assigned: placement_pb2.AssignRoomResponse, info: lk.ParticipantInfo
    ) -> None:
        """Make the destination be there, and see that it has room: its client is not back if it has none."""
        lease = assigned.lease
        create = api.CreateRoomRequest(name=lease.room_name).SerializeToString()
        call = node_pb2.CallApiRequest(
            service="livekit.RoomService",
            method="CreateRoom",
            request=create,
            room_name=lease.room_name,
            epoch=lease.epoch,
            room_created=assigned.created,
            room_sid=lease.room_sid,
            node_id=lease.node_id,
        )
        if lease.node_id == self._around.node_id:
            here = Lease(lease.room_name, lease.room_sid, lease.epoch)
            destination = self._rooms.home_of(here, is_new=assigned.created)
            answer = await destination.call("CreateRoom", create)
        else:
            answer = await self._around.homes.call(lease.node_address, call)
        room = lk.Room.FromString(answer)
        is_counted = not Member(node_id="", info=info, protocol_version=0).is_dependent
        if is_counted and 0 < room.max_participants <= room.num_participants:
            raise Unavailable(f"room is full: max_participants is {room.max_participants}")


def _read(serialized: bytes) -> api.MoveParticipantRequest:
    try:
        request = api.MoveParticipantRequest.FromString(serialized)
    except DecodeError:
        raise Malformed("the protobuf request could not be decoded") from None
    if not request.identity:
        raise InvalidArgument("identity is required")
    if not request.destination_room:
        raise InvalidArgument("destination_room is required")
    if request.destination_room == request.room:
        raise InvalidArgument("destination_room is the room the participant is in")
    return request
