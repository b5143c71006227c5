"""Roles: bundles of grants in configuration, and what they make of a token."""

import json

import pytest

from chassis.errors import SettingsError
from chassis.roles import BUILT_IN, ROLE_ATTRIBUTE, as_admin, parse_roles, unknown
from chassis.tokens import Grants, VideoGrant


def test_the_built_in_roles_are_there_beside_configured_ones() -> None:
    roles = parse_roles('{"guest": {"canPublishSources": ["microphone"]}}')
    assert sorted(roles) == ["guest", "moderator", "speaker", "viewer"]
    given = roles["guest"].given_to(VideoGrant(can_publish=False, room="r", hidden=True))
    assert given.may_publish
    assert given.can_publish_sources == ("microphone",)
    assert given.hidden  # the role does not speak of it
    assert given.room == "r"


def test_a_configured_role_takes_the_place_of_a_built_in_one() -> None:
    roles = parse_roles(json.dumps({"viewer": {"canSubscribe": False, "hidden": False}}))
    given = roles["viewer"].given_to(VideoGrant(hidden=True))
    assert not given.may_subscribe
    assert not given.hidden


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[", "not a JSON object"),
        ("[]", "not an object of bundles"),
        ('{"a": 1}', "role 'a': needs a name and an object of grants"),
        ('{"a": {"roomCreate": true}}', "role 'a': cannot say 'roomCreate'"),
        ('{"a": {"canPublish": 1}}', "role 'a': video.canPublish is not true or false"),
    ],
)
def test_what_cannot_be_a_role_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse_roles(text)
    assert reason in str(refused.value)


def test_a_moderator_is_administrator_of_the_tokens_own_room_alone() -> None:
    def token(role: str, room: str = "hall") -> Grants:
        video = VideoGrant(room_join=True, room=room)
        return Grants(identity="m", attributes={ROLE_ATTRIBUTE: role}, video=video)

    admin = as_admin(token("moderator"), BUILT_IN)
    assert admin is not None
    assert admin.video.admits("hall")
    assert not admin.video.admits("cellar")
    assert as_admin(token("speaker"), BUILT_IN) is None
    assert as_admin(token("nobody"), BUILT_IN) is None
    assert as_admin(token("moderator", room=""), BUILT_IN) is None


def test_who_names_an_unknown_role_is_told_which_there_are() -> None:
    assert unknown("boss", BUILT_IN) == (
        "there is no role 'boss': the roles are moderator, speaker, viewer"
    )
