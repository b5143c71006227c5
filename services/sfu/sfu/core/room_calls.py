"""RoomService on one room: one function for each method, all of the same signature.

Each reads the request, checks it, and calls the Room; a bad request raises `ApiError` and changes
nothing. Who may call what is not asked here: signaling did (`signaling.core.grants`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError, Message
from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from chassis.roles import ROLE_ATTRIBUTE, unknown
from contracts.room.v1 import room_pb2
from sfu.core import configuration
from sfu.core.grants import permission_in_role
from sfu.core.room_events import FROZEN, AnswerApi, ApiCalled, ApiError
from sfu.core.rpc_calls import MAX_PAYLOAD_BYTES

if TYPE_CHECKING:
    from sfu.core.room import Room

READS = ("ListRooms", "ListParticipants", "GetParticipant")
NONCE_BYTES = 16


def answer(room: Room, call: ApiCalled) -> list[AnswerApi]:
    """Do the call. Its answer comes after all that it caused, DeleteRoom's after `Closed`.

    Empty: a participant is to answer it (`Room.perform_rpc`).
    """
    try:
        _check_role(room, call.role_identity)
        if call.method == "PerformRpc":
            perform_rpc(room, call)
            return []
        response = _dispatch(room, call.method, call.request)
    except ApiError as error:
        return [AnswerApi(call.call_id, b"", error.code, error.message)]
    except DecodeError:
        message = f"the protobuf request of {call.method} could not be decoded"
        return [AnswerApi(call.call_id, b"", "malformed", message)]
    return [AnswerApi(call.call_id, response.SerializeToString())]


def _check_role(room: Room, identity: str) -> None:
    """A token goes on saying what its bearer was: who lost the role in the room has lost its rights."""
    member = room.find(identity) if identity else None
    if member is None:
        return
    role = room.settings.roles.get(member.info.attributes.get(ROLE_ATTRIBUTE, ""))
    if role is None or not role.is_admin:
        raise ApiError("unauthenticated", "permissions denied")


def _dispatch(room: Room, method: str, request: bytes) -> Message:
    if room.is_frozen and method not in READS:
        raise ApiError("unavailable", FROZEN)
    function = METHODS.get(method)
    if function is None:
        raise ApiError("unimplemented", f"{method} is not implemented")
    if not room.is_started and method != "CreateRoom":
        room.start(configuration.RoomWish())
    return function(room, request)


def create_room(room: Room, serialized: bytes) -> lk.Room:
    """Make the room as asked for; of one that is there already, change what is given."""
    request = api.CreateRoomRequest.FromString(serialized)
    wish = configuration.wish_of(request)
    if room.is_started:
        room.change(wish)
        return room.room_now()
    try:
        room.check_profile(name=request.name)
        room.start(wish)
    except ApiError:
        room.close(lk.ROOM_CLOSED)  # never started: nobody hears of it
        raise
    return room.room_now()


def list_rooms(room: Room, _: bytes) -> api.ListRoomsResponse:
    """This room alone; the node puts the answers together."""
    return api.ListRoomsResponse(rooms=[room.room_now()])


def delete_room(room: Room, _: bytes) -> api.DeleteRoomResponse:
    """Everybody is told ROOM_DELETED."""
    room.close(lk.ROOM_DELETED)
    return api.DeleteRoomResponse()


def update_room_metadata(room: Room, serialized: bytes) -> lk.Room:
    """An empty text takes the metadata away."""
    request = api.UpdateRoomMetadataRequest.FromString(serialized)
    room.check_profile(metadata=request.metadata)
    room.info.metadata = request.metadata
    room.touch()
    room.show_room()
    return room.room_now()


def list_participants(room: Room, _: bytes) -> api.ListParticipantsResponse:
    """All of them, hidden ones and agents too."""
    infos = [room.info_now(member) for member in room.members.values()]
    return api.ListParticipantsResponse(participants=infos)


def get_participant(room: Room, serialized: bytes) -> lk.ParticipantInfo:
    """One of them."""
    identity = api.RoomParticipantIdentity.FromString(serialized).identity
    return room.info_now(room.member(identity))


def remove_participant(room: Room, serialized: bytes) -> api.RemoveParticipantResponse:
    """The participant is told PARTICIPANT_REMOVED; its token stays good."""
    member = room.member(api.RoomParticipantIdentity.FromString(serialized).identity)
    room.end(member, lk.PARTICIPANT_REMOVED)
    room.depart(member, lk.PARTICIPANT_REMOVED)
    return api.RemoveParticipantResponse()


def move_participant(room: Room, serialized: bytes) -> api.MoveParticipantResponse:
    """The participant is sent to join the other room, which was asked before whether it may."""
    request = api.MoveParticipantRequest.FromString(serialized)
    member = room.member_here(request.identity)
    hand_over = room_pb2.HandOver(destination_room=request.destination_room)
    room.order([member.node_id], room_pb2.Order(participant_sid=member.sid, hand_over=hand_over))
    room.depart(member, lk.MIGRATION)
    return api.MoveParticipantResponse()


def update_participant(room: Room, serialized: bytes) -> lk.ParticipantInfo:
    """`permission` replaces all permissions, and a role; what else is empty stays as it is."""
    request = api.UpdateParticipantRequest.FromString(serialized)
    member = room.member_here(request.identity)
    attributes = dict(request.attributes)
    permission = request.permission if request.HasField("permission") else None
    name = attributes.get(ROLE_ATTRIBUTE)
    if name:
        role = room.settings.roles.get(name)
        if role is None:
            raise ApiError("invalid_argument", unknown(name, room.settings.roles))
        if permission is not None:
            raise ApiError("invalid_argument", "a role or a permission can be given, not both")
        permission = permission_in_role(role, member.info.permission)
    elif permission is not None and ROLE_ATTRIBUTE in member.info.attributes:
        attributes[ROLE_ATTRIBUTE] = ""
    room.change_profile(member, request.name, request.metadata, attributes)
    room.change_permission(member, permission)
    return room.info_now(member)


def mute_published_track(room: Room, serialized: bytes) -> api.MuteRoomTrackResponse:
    """The session mutes first and tells its publisher; its TrackChanged then shows it to all."""
    request = api.MuteRoomTrackRequest.FromString(serialized)
    member = room.member_here(request.identity)
    if not request.muted and not room.settings.is_remote_unmute_enabled:
        raise ApiError("failed_precondition", "remote unmute not enabled")
    track = member.tracks.get(request.track_sid)
    if track is None:
        return api.MuteRoomTrackResponse()
    mute = room_pb2.MuteTrack(track_sid=track.sid, muted=request.muted)
    room.order([member.node_id], room_pb2.Order(participant_sid=member.sid, mute_track=mute))
    response = api.MuteRoomTrackResponse(track=track)
    response.track.muted = request.muted
    return response


def update_subscriptions(room: Room, serialized: bytes) -> api.UpdateSubscriptionsResponse:
    """As if the participant had asked for it."""
    request = api.UpdateSubscriptionsRequest.FromString(serialized)
    member = room.member_here(request.identity)
    update = rtc.UpdateSubscription(
        track_sids=request.track_sids,
        subscribe=request.subscribe,
        participant_tracks=request.participant_tracks,
    )
    change = room_pb2.ChangeSubscriptions(update=update.SerializeToString())
    order = room_pb2.Order(participant_sid=member.sid, change_subscriptions=change)
    room.order([member.node_id], order)
    return api.UpdateSubscriptionsResponse()


def send_data(room: Room, serialized: bytes) -> api.SendDataResponse:
    """From nobody, to all or to the named; a nonce seen before is answered and not sent again."""
    request = api.SendDataRequest.FromString(serialized)
    if len(request.nonce) not in (0, NONCE_BYTES):
        message = f"nonce must be empty or {NONCE_BYTES} bytes, not {len(request.nonce)}"
        raise ApiError("invalid_argument", message)
    if request.nonce:
        if request.nonce in room.nonces:
            return api.SendDataResponse()
        room.nonces.append(request.nonce)
    named = [m.identity for s in request.destination_sids if (m := room.members.get(s))]
    destinations = list(dict.fromkeys([*request.destination_identities, *named]))
    has_destinations = bool(request.destination_identities or request.destination_sids)
    user = lk.UserPacket(
        payload=request.data, destination_identities=destinations, nonce=request.nonce
    )
    if request.HasField("topic"):
        user.topic = request.topic
    packet = lk.DataPacket(kind=request.kind, destination_identities=destinations, user=user)
    data = room_pb2.DeliverData(
        packet=packet.SerializeToString(),
        reliable=request.kind == lk.DataPacket.RELIABLE,
        destination_identities=destinations,
    )
    if destinations or not has_destinations:
        room.order(room.node_ids, room_pb2.Order(deliver_data=data))
    return api.SendDataResponse()


def perform_rpc(room: Room, call: ApiCalled) -> None:
    """Ask a participant to run a method of its; the answer is the participant's, or that none came."""
    request = api.PerformRpcRequest.FromString(call.request)
    if not request.destination_identity:
        raise ApiError("invalid_argument", "destination_identity must not be empty")
    if len(request.payload.encode()) > MAX_PAYLOAD_BYTES:
        message = (
            f"the payload has {len(request.payload.encode())} bytes: {MAX_PAYLOAD_BYTES} at most"
        )
        raise ApiError("malformed", message)
    room.perform_rpc(call.call_id, room.member_here(request.destination_identity), request)


METHODS: dict[str, Callable[[Room, bytes], Message]] = {
    "CreateRoom": create_room,
    "ListRooms": list_rooms,
    "DeleteRoom": delete_room,
    "UpdateRoomMetadata": update_room_metadata,
    "ListParticipants": list_participants,
    "GetParticipant": get_participant,
    "RemoveParticipant": remove_participant,
    "MoveParticipant": move_participant,
    "UpdateParticipant": update_participant,
    "MutePublishedTrack": mute_published_track,
    "UpdateSubscriptions": update_subscriptions,
    "SendData": send_data,
}
