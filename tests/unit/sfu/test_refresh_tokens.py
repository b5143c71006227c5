"""Tokens pushed to clients for later reconnects: when, with which claims, and good for what."""

from collections.abc import Mapping

import pytest
from livekit.protocol import models, rtc
from pydantic import SecretStr

from chassis.roles import BUILT_IN, ROLE_ATTRIBUTE
from chassis.tokens import sign_claims, verify
from contracts.node.v1 import node_pb2
from contracts.room.v1 import room_pb2
from sfu.core import stage
from sfu.core.effects import Step
from sfu.core.grants import Grants, permission_in_role
from tests.support.scripted_room import WALL_MS, World, claims_of

SECRET = SecretStr("a-secret-of-thirty-two-characters")


def signed(claims: Mapping[str, object]) -> str:
    return sign_claims({**claims, "iss": "key"}, SECRET)


def change(world: World, sid: str, permission: models.ParticipantPermission, name: str) -> None:
    """As the Room does for UpdateParticipant."""
    info = models.ParticipantInfo(sid=sid, name=name, permission=permission)
    order = room_pb2.SetPermission(
        permission=permission.SerializeToString(), participant=info.SerializeToString()
    )
    world.order(room_pb2.Order(participant_sid=sid, set_permission=order))


def test_start_resume_and_every_five_minutes_push_one_each(world: World) -> None:
    a = world.join("a", connect=True)
    assert len(world.tokens) == 1
    again = world.resume(a)
    assert len(world.tokens) == 2
    again.send(ping=1)
    world.advance(299)
    assert len(world.tokens) == 2
    world.advance(302)
    assert len(world.tokens) == 4


def test_change_of_name_metadata_and_attributes_pushes_one(world: World) -> None:
    a = world.join("a", connect=True)
    world.tokens.clear()
    a.send(
        update_metadata=rtc.UpdateParticipantMetadata(
            name="new", metadata="more", attributes={"key": "value"}
        )
    )
    assert [(t["name"], t["metadata"], t["attributes"]) for t in world.tokens] == [
        ("new", "more", {"key": "value"})
    ]


def test_changed_permission_and_profile_push_one_and_the_same_again_none(world: World) -> None:
    a = world.join("a", connect=True)
    world.tokens.clear()
    permission = models.ParticipantPermission(can_subscribe=True)
    change(world, a.sid, permission, "new")
    assert len(world.tokens) == 1
    video = world.tokens[0]["video"]
    assert isinstance(video, dict)
    assert (video["canPublish"], video["canSubscribe"]) == (False, True)
    change(world, a.sid, permission, "new")
    assert len(world.tokens) == 1
    change(world, a.sid, permission, "newer")
    assert world.tokens[-1]["name"] == "newer"


@pytest.mark.parametrize(("remaining", "lifetime"), [(3600, 3600), (60, 600), (-10, 600)])
def test_lives_ten_minutes_or_what_the_first_token_had_left(remaining: int, lifetime: int) -> None:
    claims = claims_of("a", None, "")
    claims.expires_at = WALL_MS // 1000 + remaining
    refreshed = Grants.of(claims).refresh_claims("a", "", "", {}, WALL_MS)
    assert refreshed["exp"] == WALL_MS // 1000 + lifetime


def test_pushed_token_opens_the_same_room_with_the_present_grants(world: World) -> None:
    a = world.join("a", kind="agent", grant={"canPublishSources": ["microphone"]}, connect=True)
    a.send(update_metadata=rtc.UpdateParticipantMetadata(name="new", attributes={"k": "v"}))
    grants = verify(signed(world.tokens[-1]), {"key": SECRET}, WALL_MS / 1000)
    assert (grants.identity, grants.name, dict(grants.attributes)) == ("a", "new", {"k": "v"})
    assert grants.kind == "agent"
    assert (grants.video.room, grants.video.room_join) == ("room1", True)
    assert grants.video.can_publish_sources == ("microphone",)


def test_session_is_resumed_with_the_pushed_token(world: World) -> None:
    a = world.join("a", connect=True)
    pushed = world.tokens[-1]
    video = pushed["video"]
    assert isinstance(video, dict)
    claims = claims_of(str(pushed["sub"]), video, str(pushed["kind"]))
    client = world._client("a", False)
    opened = node_pb2.OpenSession(room_name="room1", reconnect=True, participant_sid=a.sid)
    world.feed(stage.SocketOpened(client.socket, opened, claims))
    assert client.cases()[0] == "reconnect"


def test_role_given_live_is_in_the_pushed_token_with_what_it_allows(world: World) -> None:
    a = world.join("a", connect=True)
    world.tokens.clear()
    permission = permission_in_role(BUILT_IN["viewer"], world.session(a).grants.permission)
    info = models.ParticipantInfo(sid=a.sid, attributes={ROLE_ATTRIBUTE: "viewer"})
    order = room_pb2.SetPermission(
        permission=permission.SerializeToString(), participant=info.SerializeToString()
    )
    world.session(a).take_permission(order, Step(world.now, world.wall_ms))
    (token,) = world.tokens
    assert token["attributes"] == {ROLE_ATTRIBUTE: "viewer"}
    video = token["video"]
    assert isinstance(video, dict)
    assert (video["canPublish"], video["canSubscribe"]) == (False, True)
