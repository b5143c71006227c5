"""Roles in a running room: given and changed by calls alone."""

from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from chassis.roles import ROLE_ATTRIBUTE
from contracts.room.v1 import room_pb2
from sfu.core.room_events import AnswerApi, ApiCalled
from tests.support.room_scene import Scene


def give(scene: Scene, role: str, identity: str = "a", **fields: object) -> AnswerApi:
    request = api.UpdateParticipantRequest(
        room="r",
        identity=identity,
        attributes={ROLE_ATTRIBUTE: role},
        **fields,  # type: ignore[arg-type]
    )
    return scene.call("UpdateParticipant", request)


def test_a_role_given_live_replaces_the_permission_and_is_shown_to_all() -> None:
    scene = Scene()
    scene.join("a", recorder=True)
    answer = give(scene, "viewer")
    info = lk.ParticipantInfo.FromString(answer.response)
    assert info.attributes[ROLE_ATTRIBUTE] == "viewer"
    assert not info.permission.can_publish
    assert not info.permission.can_publish_data
    assert not info.permission.can_update_metadata
    assert info.permission.can_subscribe
    assert info.permission.recorder  # of which the role does not speak
    (order,) = scene.orders("set_permission")
    told = lk.ParticipantPermission.FromString(order.set_permission.permission)
    assert not told.can_publish
    assert scene.shown()[-1].attributes[ROLE_ATTRIBUTE] == "viewer"
    back = lk.ParticipantInfo.FromString(give(scene, "speaker").response)
    assert back.permission.can_publish
    assert back.version > info.version


def test_an_unknown_role_changes_nothing_and_names_those_there_are() -> None:
    scene = Scene()
    scene.join("a")
    before = scene.info("a")
    answer = give(scene, "boss")
    assert answer.error_code == "invalid_argument"
    assert "moderator, speaker, viewer" in answer.error_message
    assert scene.info("a") == before


def test_a_role_and_a_permission_in_one_call_are_refused() -> None:
    scene = Scene()
    scene.join("a")
    answer = give(scene, "viewer", permission=lk.ParticipantPermission(can_publish=True))
    assert answer.error_code == "invalid_argument"
    assert ROLE_ATTRIBUTE not in scene.info("a").attributes


def test_a_permission_by_hand_ends_the_role() -> None:
    scene = Scene()
    scene.join("a")
    give(scene, "viewer")
    permission = lk.ParticipantPermission(can_subscribe=True)
    scene.call(
        "UpdateParticipant",
        api.UpdateParticipantRequest(room="r", identity="a", permission=permission),
    )
    assert ROLE_ATTRIBUTE not in scene.info("a").attributes


def test_nobody_gives_itself_a_role() -> None:
    scene = Scene()
    scene.join("a")
    give(scene, "moderator")
    for value, reason in (
        ("speaker", rtc.RequestResponse.NOT_ALLOWED),
        ("", rtc.RequestResponse.NOT_ALLOWED),
        ("moderator", rtc.RequestResponse.OK),
    ):
        change = room_pb2.ProfileChangeRequested(attributes={ROLE_ATTRIBUTE: value, "k": "v"})
        scene.fact("PA_a", profile_change_requested=change)
        (answer,) = scene.orders("answer_profile_change")
        assert answer.answer_profile_change.reason == reason
        assert scene.info("a").attributes[ROLE_ATTRIBUTE] == "moderator"


def test_who_lost_the_role_in_the_room_has_lost_its_api_rights() -> None:
    scene = Scene()
    scene.join("a")
    scene.join("m")
    give(scene, "moderator", "m")
    request = api.RoomParticipantIdentity(room="r", identity="a").SerializeToString()

    def call() -> AnswerApi:
        scene.do(ApiCalled(1, "GetParticipant", request, role_identity="m"))
        (answer,) = [e for e in scene.effects if isinstance(e, AnswerApi)]
        return answer

    assert call().error_code == ""
    give(scene, "speaker", "m")
    assert call().error_code == "unauthenticated"
