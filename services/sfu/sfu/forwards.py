"""ForwardParticipant: a participant of a room here is shown in another room of this node, too.

It goes on until the participant leaves its room, is removed from the destination, or either room
closes. Rooms of other nodes are refused: media does not go between nodes yet.
"""

from __future__ import annotations

import secrets

import structlog
from google.protobuf.message import DecodeError
from livekit.protocol import models as lk
from livekit.protocol import room as api

from chassis import ids
from chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    Malformed,
    Unavailable,
)
from contracts.node.v1 import node_pb2
from sfu.core.room_events import FROZEN
from sfu.moves import Rooms
from sfu.runner import Lease, RoomRunner, Surroundings

log = structlog.get_logger(__name__)


class Forwards:
    """The forwarding of one node's participants."""

    def __init__(self, surroundings: Surroundings, rooms: Rooms) -> None:
        self._around = surroundings
        self._rooms = rooms

    async def forward(self, source: RoomRunner, call: node_pb2.CallApiRequest) -> bytes:
        """Do the call, again if it was done before; ServiceError when either room refuses."""
        request = _read(call.request)
        asked = api.RoomParticipantIdentity(room=request.room, identity=request.identity)
        found = await source.call("GetParticipant", asked.SerializeToString(), call.role_identity)
        if lk.ParticipantInfo.FORWARDED in lk.ParticipantInfo.FromString(found).kind_details:
            raise FailedPrecondition(
                "the participant is forwarded from another room itself: forward it from there"
            )
        if self._rooms.is_frozen:
            raise Unavailable(FROZEN)
        node_id = self._around.node_id
        joining = source.guest_joining(request.identity)
        if joining is None:
            raise FailedPrecondition("the participant is on another node than its room's home")
        assigned = await self._around.homes.assign(request.destination_room, node_id)
        if assigned.lease.node_id != node_id:
            raise FailedPrecondition(
                "the destination room is on another node, which media cannot reach yet: create it "
                f"with node_id {node_id}, or move the participant there"
            )
        lease = Lease(assigned.lease.room_name, assigned.lease.room_sid, assigned.lease.epoch)
        destination = self._rooms.home_of(lease, is_new=assigned.created)
        done = api.ForwardParticipantResponse().SerializeToString()
        if source.forwards_to(request.identity, destination):
            return done
        sid = ids.new_sid(ids.PARTICIPANT, secrets.choice)
        try:
            await destination.show_guest(sid, joining, source)
        except AlreadyExists:
            if source.forwards_to(request.identity, destination):
                return done  # by another call, at the same time
            raise
        log.info("participant is forwarded", shown_as=sid, room=lease.room_name)
        return done


def _read(serialized: bytes) -> api.ForwardParticipantRequest:
    try:
        request = api.ForwardParticipantRequest.FromString(serialized)
    except DecodeError:
        raise Malformed("the protobuf request could not be decoded") from None
    if not request.identity:
        raise InvalidArgument("identity is required")
    if not request.destination_room:
        raise InvalidArgument("destination_room is required")
    if request.destination_room == request.room:
        raise InvalidArgument("destination_room is the room the participant is in")
    return request
