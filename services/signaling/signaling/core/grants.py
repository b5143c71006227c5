"""Which API call needs which grant, who answers it, and whose room it is about: one table.

The call itself is performed by the room's node; here it is only allowed or refused.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from livekit.protocol import agent_dispatch, egress, ingress, models, room, sip

from chassis.errors import InvalidArgument, NotAllowed
from chassis.projects import SEPARATOR
from chassis.roles import Roles, as_admin
from chassis.tokens import Grants

ROOM_SERVICE = "livekit.RoomService"
RPC_TIMEOUT_MS = 10_000
MAX_RPC_TIMEOUT_MS = 60_000


class Owner(Enum):
    """Who answers a call."""

    ROOM = "room"  # the room's home node; NOT_FOUND when the room has none
    CREATES_ROOM = "creates_room"  # the room's home node, assigned now when missing
    ALL_ROOMS = "all_rooms"  # every node with a room asked for; answers are joined
    ELSEWHERE = "elsewhere"  # a service that this server has not: authorized, then refused


Allowed = Callable[[Grants, Any], bool]
"""Do these grants allow a request?"""
_NO_EXCEPTIONS: Mapping[str, Allowed] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Method:
    """One row: message types, the check, the owner, and how the request names its room."""

    request: type[Message]
    response: type[Message]
    allowed: Allowed
    owner: Owner
    room_of: Callable[[Any], str]
    patience_ms: Callable[[Any], int] = lambda _request: 0
    """How long a participant may take to answer the call, when one is asked."""


def _create(grants: Grants, _request: Message) -> bool:
    return grants.video.room_create


def _list(grants: Grants, _request: Message) -> bool:
    return grants.video.room_list


def _admin(grants: Grants, request: Any) -> bool:
    return grants.video.admits(request.room)


def _destination(grants: Grants, request: Any) -> bool:
    return _admin(grants, request) and grants.video.destination_room == request.destination_room


def _room(request: Any) -> str:
    return str(request.room)


def _name(request: Any) -> str:
    return str(request.name)


def _none(_request: Any) -> str:
    return ""


def _response_timeout_ms(request: Any) -> int:
    return min(int(request.response_timeout_ms) or RPC_TIMEOUT_MS, MAX_RPC_TIMEOUT_MS)


def _recorder(grants: Grants, _request: Message) -> bool:
    return grants.video.room_record


def _ingress(grants: Grants, _request: Message) -> bool:
    return grants.video.ingress_admin


def _sip_admin(grants: Grants, _request: Message) -> bool:
    return grants.sip_admin


def _sip_call(grants: Grants, _request: Message) -> bool:
    return grants.sip_call


def _sip_transfer(grants: Grants, request: Any) -> bool:
    return grants.sip_call and grants.video.admits(request.room_name)


def _elsewhere(
    service: ServiceDescriptor, allowed: Allowed, exceptions: Mapping[str, Allowed] = _NO_EXCEPTIONS
) -> dict[str, Method]:
    """Every method of a service, by its published description."""
    return {
        method.name: Method(
            GetMessageClass(method.input_type),
            GetMessageClass(method.output_type),
            exceptions.get(method.name, allowed),
            Owner.ELSEWHERE,
            _none,
        )
        for method in service.methods
    }


def _room_names(method: Method, request: Any) -> tuple[str, ...]:
    return method.room_of(request), getattr(request, "destination_room", "")


METHODS: dict[str, dict[str, Method]] = {
    ROOM_SERVICE: {
        "CreateRoom": Method(
            room.CreateRoomRequest, models.Room, _create, Owner.CREATES_ROOM, _name
        ),
        "ListRooms": Method(
            room.ListRoomsRequest, room.ListRoomsResponse, _list, Owner.ALL_ROOMS, _none
        ),
        "DeleteRoom": Method(
            room.DeleteRoomRequest, room.DeleteRoomResponse, _create, Owner.ROOM, _room
        ),
        "ListParticipants": Method(
            room.ListParticipantsRequest, room.ListParticipantsResponse, _admin, Owner.ROOM, _room
        ),
        "GetParticipant": Method(
            room.RoomParticipantIdentity, models.ParticipantInfo, _admin, Owner.ROOM, _room
        ),
        "RemoveParticipant": Method(
            room.RoomParticipantIdentity, room.RemoveParticipantResponse, _admin, Owner.ROOM, _room
        ),
        "MutePublishedTrack": Method(
            room.MuteRoomTrackRequest, room.MuteRoomTrackResponse, _admin, Owner.ROOM, _room
        ),
        "UpdateParticipant": Method(
            room.UpdateParticipantRequest, models.ParticipantInfo, _admin, Owner.ROOM, _room
        ),
        "UpdateSubscriptions": Method(
            room.UpdateSubscriptionsRequest,
            room.UpdateSubscriptionsResponse,
            _admin,
            Owner.ROOM,
            _room,
        ),
        "SendData": Method(room.SendDataRequest, room.SendDataResponse, _admin, Owner.ROOM, _room),
        "UpdateRoomMetadata": Method(
            room.UpdateRoomMetadataRequest, models.Room, _admin, Owner.ROOM, _room
        ),
        "ForwardParticipant": Method(
            room.ForwardParticipantRequest,
            room.ForwardParticipantResponse,
            _destination,
            Owner.ROOM,
            _room,
        ),
        "MoveParticipant": Method(
            room.MoveParticipantRequest,
            room.MoveParticipantResponse,
            _destination,
            Owner.ROOM,
            _room,
        ),
        "PerformRpc": Method(
            room.PerformRpcRequest,
            room.PerformRpcResponse,
            _admin,
            Owner.ROOM,
            _room,
            _response_timeout_ms,
        ),
    },
    "livekit.AgentDispatchService": _elsewhere(
        agent_dispatch.DESCRIPTOR.services_by_name["AgentDispatchService"], _admin
    ),
    "livekit.Egress": _elsewhere(egress.DESCRIPTOR.services_by_name["Egress"], _recorder),
    "livekit.Ingress": _elsewhere(ingress.DESCRIPTOR.services_by_name["Ingress"], _ingress),
    "livekit.SIP": _elsewhere(
        sip.DESCRIPTOR.services_by_name["SIP"],
        _sip_admin,
        {"CreateSIPParticipant": _sip_call, "TransferSIPParticipant": _sip_transfer},
    ),
}


def check(method: Method, grants: Grants | None, request: Message, roles: Roles) -> str:
    """Refuse what the token does not allow, as server SDKs expect it: 401 `permissions denied`, never 403.

    Gives the identity whose role alone allows the call, which its room knows better; "" when the token does.
    """
    if grants is None:
        raise NotAllowed
    by_role = ""
    if not method.allowed(grants, request):
        admin = as_admin(grants, roles)
        if admin is None or not method.allowed(admin, request):
            raise NotAllowed
        by_role = grants.identity
    if method.owner is Owner.CREATES_ROOM and not method.room_of(request):
        raise InvalidArgument("room name is required")
    if any(SEPARATOR in name for name in _room_names(method, request)):
        raise InvalidArgument("room name holds a control character")
    if len(method.room_of(request).encode()) > 256:
        raise InvalidArgument("room name exceeds 256 bytes")
    return by_role
