"""Every API method and the grant it needs."""

from dataclasses import replace

import pytest
from google.protobuf.message import Message
from livekit.protocol import room

from chassis.errors import InvalidArgument, NotAllowed
from chassis.roles import BUILT_IN, ROLE_ATTRIBUTE
from chassis.tokens import Grants, VideoGrant
from signaling.core.grants import METHODS, ROOM_SERVICE, Owner, check

ROWS = METHODS[ROOM_SERVICE]
ADMIN = VideoGrant(room_admin=True, room="hall")


def by(**video: object) -> Grants:
    return Grants(identity="a", video=VideoGrant(**video))  # type: ignore[arg-type]


def made(name: str) -> Message:
    request = ROWS[name].request()
    if "room" in request.DESCRIPTOR.fields_by_name:
        request.room = "hall"  # type: ignore[attr-defined]
    if "name" in request.DESCRIPTOR.fields_by_name and name == "CreateRoom":
        request.name = "hall"  # type: ignore[attr-defined]
    return request


def test_every_method_of_the_public_service_is_listed() -> None:
    public = {method.name for method in room.DESCRIPTOR.services_by_name["RoomService"].methods}
    assert set(ROWS) == public


@pytest.mark.parametrize("name", sorted(ROWS))
def test_nothing_is_allowed_without_a_token_or_with_a_participants_token(name: str) -> None:
    for grants in (None, Grants(identity="a", video=VideoGrant(room_join=True, room="hall"))):
        with pytest.raises(NotAllowed):
            check(ROWS[name], grants, made(name), BUILT_IN)


@pytest.mark.parametrize(
    ("name", "video"),
    [
        ("CreateRoom", VideoGrant(room_create=True)),
        ("DeleteRoom", VideoGrant(room_create=True)),
        ("ListRooms", VideoGrant(room_list=True)),
        *[
            (name, ADMIN)
            for name, row in ROWS.items()
            if row.owner is Owner.ROOM and name != "DeleteRoom"
        ],
    ],
)
def test_the_right_grant_is_enough(name: str, video: VideoGrant) -> None:
    check(ROWS[name], Grants(identity="a", video=video), made(name), BUILT_IN)


def test_an_administrator_of_another_room_is_refused() -> None:
    elsewhere = Grants(identity="a", video=VideoGrant(room_admin=True, room="cellar"))
    with pytest.raises(NotAllowed):
        check(ROWS["GetParticipant"], elsewhere, made("GetParticipant"), BUILT_IN)


def test_a_moderators_token_is_enough_for_its_own_room_and_its_room_is_to_say_whether_still() -> (
    None
):
    video = VideoGrant(room_join=True, room="hall")
    moderator = Grants(identity="m", attributes={ROLE_ATTRIBUTE: "moderator"}, video=video)
    mute = room.MuteRoomTrackRequest(room="hall")
    assert check(ROWS["MutePublishedTrack"], moderator, mute, BUILT_IN) == "m"
    admin = replace(moderator, video=ADMIN)
    assert check(ROWS["MutePublishedTrack"], admin, mute, BUILT_IN) == ""
    for row, request in (
        ("MutePublishedTrack", room.MuteRoomTrackRequest(room="cellar")),
        ("DeleteRoom", room.DeleteRoomRequest(room="hall")),
        ("ListRooms", room.ListRoomsRequest()),
    ):
        with pytest.raises(NotAllowed):
            check(ROWS[row], moderator, request, BUILT_IN)


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_room_needs_a_name_of_sane_length(name: str) -> None:
    grants = Grants(identity="a", video=VideoGrant(room_create=True))
    with pytest.raises(InvalidArgument):
        check(ROWS["CreateRoom"], grants, room.CreateRoomRequest(name=name), BUILT_IN)


SIP_ADMIN = Grants(identity="a", sip_admin=True)
SIP_CALL = Grants(identity="a", sip_call=True)


@pytest.mark.parametrize(
    ("service", "name", "right", "wrong"),
    [
        ("Egress", "StopEgress", by(room_record=True), by(room_admin=True, room="hall")),
        ("Ingress", "ListIngress", by(ingress_admin=True), by(room_record=True)),
        ("SIP", "ListSIPInboundTrunk", SIP_ADMIN, SIP_CALL),
        ("SIP", "CreateSIPParticipant", SIP_CALL, SIP_ADMIN),
        ("SIP", "TransferSIPParticipant", replace(SIP_CALL, video=ADMIN), SIP_CALL),
        ("AgentDispatchService", "ListDispatch", by(room_admin=True, room="hall"), SIP_ADMIN),
    ],
)
def test_a_service_that_is_elsewhere_wants_its_grant_all_the_same(
    service: str, name: str, right: Grants, wrong: Grants
) -> None:
    method = METHODS[f"livekit.{service}"][name]
    request = method.request()
    for field_name in ("room", "room_name"):
        if field_name in request.DESCRIPTOR.fields_by_name:
            setattr(request, field_name, "hall")
    check(method, right, request, BUILT_IN)
    for refused in (wrong, None):
        with pytest.raises(NotAllowed):
            check(method, refused, request, BUILT_IN)
