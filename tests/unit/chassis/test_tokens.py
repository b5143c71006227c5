"""Access tokens: what is accepted, what is refused and with which words."""

import base64
import json
from typing import Any

import pytest
from pydantic import SecretStr

from chassis.errors import TokenError
from chassis.tokens import Grants, VideoGrant, authenticate, sign, sign_claims, verify

NOW = 1_800_000_000.0
SECRET = SecretStr("a secret of at least thirty-two characters")
KEYS = {"key": SECRET}


def claims(**changes: Any) -> dict[str, Any]:
    made = {"iss": "key", "sub": "ann", "exp": NOW + 60, "video": {"roomJoin": True, "room": "r"}}
    return {name: value for name, value in (made | changes).items() if value is not None}


def check(**changes: Any) -> Grants:
    return verify(sign_claims(claims(**changes), SECRET), KEYS, NOW)


def refusal(token: str) -> str:
    with pytest.raises(TokenError) as caught:
        verify(token, KEYS, NOW)
    text = str(caught.value)
    assert token not in text or not token
    assert SECRET.get_secret_value() not in text
    return text


def test_grants_survive_sign_and_verify() -> None:
    grants = Grants(
        identity="ann",
        name="Ann",
        kind="agent",
        kind_details=("cloud_agent",),
        metadata="m",
        attributes={"a": "1"},
        video=VideoGrant(
            room_join=True, room="r", can_publish=False, can_publish_sources=("camera",)
        ),
        sip_admin=True,
        room_config_json='{"emptyTimeout":5}',
        room_preset="p",
        sha256="s",
    )
    read = verify(sign(grants, "key", SECRET, 60, NOW), KEYS, NOW)
    assert (read.api_key, read.expires_at) == ("key", int(NOW) + 60)
    assert read.to_claims() == grants.to_claims()
    assert read.video == grants.video


def test_defaults_of_publish_and_subscribe_are_yes_and_data_follows_publish() -> None:
    video = check().video
    assert video.may_publish
    assert video.may_subscribe
    assert video.may_publish_data
    assert not video.may_update_own_metadata
    assert not check(video={"canPublish": False}).video.may_publish_data
    assert check(video={"canPublish": False, "canPublishData": True}).video.may_publish_data


def test_identity_falls_back_to_jti() -> None:
    assert check(sub=None, jti="bob").identity == "bob"


def test_unknown_kind_is_standard_and_case_does_not_matter() -> None:
    assert check(kind="robot").kind == "standard"
    assert check(kind="SIP").kind == "sip"


def test_unknown_claims_and_members_are_ignored() -> None:
    assert check(inference={"perform": True}, video={"room": "r", "new": 1}).video.room == "r"


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "eyJ.eyJ.x", "é.é.é", "." * 9, "x" * 70_000])
def test_unreadable_token_is_named_as_such(token: str) -> None:
    assert refusal(token) == "invalid authorization token"


@pytest.mark.parametrize("payload", [b"[1]", b"null", b"[" * 20_000, b"\xff", b'{"iss":'])
def test_payload_that_is_no_object_is_refused(payload: bytes) -> None:
    part = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
    assert refusal(f"{header('HS256')}.{part}.AAAA") == "invalid authorization token"


@pytest.mark.parametrize("alg", ["none", "HS384", "RS256", "hs256"])
def test_other_algorithms_are_refused(alg: str) -> None:
    body = sign_claims(claims(), SECRET).split(".")[1]
    assert refusal(f"{header(alg)}.{body}.") == "invalid authorization token"


def test_unknown_key_is_named_without_control_characters() -> None:
    assert refusal(sign_claims(claims(iss="zz"), SECRET)) == "invalid API key: zz"
    assert refusal(sign_claims(claims(iss="a\nb"), SECRET)) == "invalid API key: a?b"
    assert refusal(sign_claims(claims(iss=None), SECRET)) == "invalid API key: "
    assert refusal(sign_claims(claims(iss=["key"]), SECRET)) == "invalid API key: "


def test_wrong_secret_is_refused() -> None:
    token = sign_claims(claims(), SecretStr("x" * 40))
    assert refusal(token) == "invalid token, error: signature does not match"


def test_changed_payload_is_refused() -> None:
    head, _, signature = sign_claims(claims(), SECRET).split(".")
    other = sign_claims(claims(sub="eve"), SECRET).split(".")[1]
    assert "signature" in refusal(f"{head}.{other}.{signature}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"exp": None}, "no expiry"),
        ({"exp": NOW - 61}, "expired"),
        ({"exp": "soon"}, "claim exp is not a number"),
        ({"exp": True}, "claim exp is not a number"),
        ({"exp": float("inf")}, "claim exp is out of range"),
        ({"exp": 10**400}, "claim exp is out of range"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"iat": NOW + 61}, "in the future"),
        ({"sub": 5}, "claim sub is not a string"),
        ({"video": []}, "claim video is not an object"),
        ({"video": {"canPublish": "yes"}}, "claim video.canPublish is not true or false"),
        ({"video": {"canPublishSources": "camera"}}, "is not a list"),
        ({"attributes": {"a": 1}}, "claim attributes.a is not a string"),
        ({"name": "\ud800"}, "claim name is not valid text"),
    ],
)
def test_bad_claim_is_named(changes: dict[str, Any], words: str) -> None:
    text = refusal(sign_claims(claims(**changes), SECRET))
    assert text.startswith("invalid token, error: ")
    assert words in text


def test_times_have_a_leeway_of_a_minute() -> None:
    assert check(exp=NOW - 59, nbf=NOW + 59, iat=NOW + 59).identity == "ann"


def test_header_comes_before_parameter() -> None:
    good = sign_claims(claims(), SECRET)
    bad = "x"
    grants = authenticate(f"Bearer {good}", bad, KEYS, NOW)
    assert grants is not None
    with pytest.raises(TokenError, match="invalid authorization token"):
        authenticate(f"Bearer {bad}", good, KEYS, NOW)


def test_header_without_bearer_is_refused_with_the_known_text() -> None:
    with pytest.raises(
        TokenError, match=r"^invalid authorization header. Must start with Bearer $"
    ):
        authenticate("Basic abc", None, KEYS, NOW)


def test_no_token_is_no_error_here() -> None:
    assert authenticate(None, None, KEYS, NOW) is None
    assert authenticate(None, "", KEYS, NOW) is None


def header(alg: str) -> str:
    raw = json.dumps({"alg": alg, "typ": "JWT"}).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
