"""Joins are checked in the order clients rely on, with the statuses and texts they know."""

import base64
import gzip
import json
from dataclasses import replace

import pytest
from livekit.protocol import models, rtc

from chassis.roles import BUILT_IN, ROLE_ATTRIBUTE
from chassis.tokens import Grants, VideoGrant
from signaling.core.join import (
    MAX_JOIN_REQUEST_BYTES,
    Join,
    JoinRefused,
    decode_join_request,
    parse_join,
)


def grants(**video: object) -> Grants:
    allowed = {"room_join": True, "room": "hall", **video}
    return Grants(identity="alice", video=VideoGrant(**allowed))  # type: ignore[arg-type]


def wrapped(request: rtc.JoinRequest, *, gzipped: bool = False, padded: bool = True) -> str:
    inner = request.SerializeToString()
    outer = rtc.WrappedJoinRequest(
        compression=rtc.WrappedJoinRequest.GZIP if gzipped else rtc.WrappedJoinRequest.NONE,
        join_request=gzip.compress(inner) if gzipped else inner,
    )
    text = base64.urlsafe_b64encode(outer.SerializeToString()).decode()
    return text if padded else text.rstrip("=")


def join(
    query: dict[str, str], given: Grants | None = None, *, v1: bool = False, agent: str = ""
) -> Join:
    return parse_join(
        query, grants() if given is None else given, roles=BUILT_IN, v1=v1, user_agent=agent
    )


def refusal(query: dict[str, str], given: Grants | None, *, v1: bool = False) -> tuple[int, str]:
    with pytest.raises(JoinRefused) as refused:
        parse_join(query, given, roles=BUILT_IN, v1=v1, user_agent="")
    return refused.value.status, refused.value.text


def test_query_parameters_become_a_join_request() -> None:
    found = join(
        {
            "sdk": "reactnative",
            "protocol": "17",
            "client_protocol": "2",
            "version": "2.9",
            "auto_subscribe": "0",
            "adaptive_stream": "1",
            "capabilities": "CAP_PACKET_TRAILER,CAP_OF_TOMORROW",
            "reconnect": "1",
            "reconnect_reason": "2",
            "sid": "PA_x",
            "subscriber_allow_pause": "true",
        }
    )
    info, settings = found.request.client_info, found.request.connection_settings
    assert info.sdk == models.ClientInfo.REACT_NATIVE
    assert (info.protocol, info.client_protocol, info.version) == (17, 2, "2.9")
    assert list(info.capabilities) == [models.ClientInfo.CAP_PACKET_TRAILER]
    assert (settings.auto_subscribe, settings.adaptive_stream) == (False, True)
    assert settings.subscriber_allow_pause
    assert (found.request.reconnect, found.request.participant_sid) == (True, "PA_x")
    assert found.request.reconnect_reason == 2
    assert not found.single_peer_connection


def test_absent_parameters_have_their_defaults() -> None:
    settings = join({}).request.connection_settings
    assert settings.auto_subscribe
    assert not settings.HasField("subscriber_allow_pause")


@pytest.mark.parametrize("gzipped", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_a_wrapped_join_request_means_a_single_peer_connection(gzipped: bool, padded: bool) -> None:
    request = rtc.JoinRequest(publisher_offer=rtc.SessionDescription(type="offer", sdp="v=0"))
    found = join({"join_request": wrapped(request, gzipped=gzipped, padded=padded)}, v1=True)
    assert found.single_peer_connection
    assert found.request.publisher_offer.sdp == "v=0"
    assert not found.request.connection_settings.auto_subscribe


@pytest.mark.parametrize(
    ("query", "given", "v1", "status", "text"),
    [
        ({}, None, False, 401, "no permissions to access the room"),
        ({}, Grants(identity="a"), False, 401, "no permissions to access the room"),
        ({}, Grants(identity="a", video=VideoGrant(room="r")), False, 401, "permissions denied"),
        ({}, grants(), True, 400, "join_request is required"),
        (
            {},
            Grants(identity="", video=VideoGrant(room_join=True, room="r")),
            False,
            400,
            "identity cannot be empty",
        ),
        ({}, grants(room=""), False, 400, "no room name"),
        ({}, grants(room="é" * 129), False, 400, "room name exceeds 256 bytes"),
        ({"publish": "x"}, grants(can_publish=False), False, 401, "permissions denied"),
        ({"publish": "x" * 300}, grants(), False, 400, "identity exceeds 256 bytes"),
        ({"attributes": "!"}, grants(), False, 400, "cannot decode attributes"),
        (
            {"attributes": base64.urlsafe_b64encode(b'{"a": 1}').decode()},
            grants(),
            False,
            400,
            "attributes must be a map of text to text",
        ),
    ],
)
def test_refusals(
    query: dict[str, str], given: Grants | None, v1: bool, status: int, text: str
) -> None:
    assert refusal(query, given, v1=v1) == (status, text)


def test_a_second_connection_publishes_alone_under_its_own_identity() -> None:
    joined = join({"publish": "x"})
    assert joined.identity == "alice#x"
    assert joined.grants.video.may_publish
    assert not joined.grants.video.may_subscribe


def test_a_role_in_the_token_says_what_its_bearer_may() -> None:
    given = replace(grants(can_publish=True), attributes={ROLE_ATTRIBUTE: "viewer"})
    assert not join({}, given).grants.video.may_publish
    unknown = replace(given, attributes={ROLE_ATTRIBUTE: "boss"})
    text = "there is no role 'boss': the roles are moderator, speaker, viewer"
    assert refusal({}, unknown) == (400, text)


def test_a_role_in_the_request_is_no_role() -> None:
    attributes = json.dumps({ROLE_ATTRIBUTE: "moderator", "a": "b"}).encode()
    query = {"attributes": base64.urlsafe_b64encode(attributes).decode()}
    joined = join(query, grants(can_update_own_metadata=True))
    assert dict(joined.request.participant_attributes) == {"a": "b"}
    assert not dict(joined.grants.attributes)


def test_attributes_in_the_request_need_a_permission() -> None:
    query = {
        "attributes": base64.urlsafe_b64encode(json.dumps({"a": "b", "gone": ""}).encode()).decode()
    }
    assert refusal(query, grants())[0] == 401
    allowed = join(query, grants(can_update_own_metadata=True))
    assert dict(allowed.request.participant_attributes) == {"a": "b"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("*", "cannot base64 decode wrapped join request"),
        ("_w==", "cannot unmarshal wrapped join request"),
        (
            base64.urlsafe_b64encode(
                rtc.WrappedJoinRequest(join_request=b"\xff").SerializeToString()
            ).decode(),
            "cannot unmarshal join request",
        ),
        (
            base64.urlsafe_b64encode(
                rtc.WrappedJoinRequest(
                    compression=rtc.WrappedJoinRequest.GZIP, join_request=b"no"
                ).SerializeToString()
            ).decode(),
            "cannot read decompressed join request",
        ),
        ("A" * (2 * MAX_JOIN_REQUEST_BYTES + 1), "join request too large"),
    ],
)
def test_a_join_request_that_cannot_be_read(text: str, reason: str) -> None:
    with pytest.raises(JoinRefused) as refused:
        decode_join_request(text)
    assert (refused.value.status, refused.value.text) == (400, reason)


def test_a_gzip_bomb_is_refused_before_it_is_inflated() -> None:
    bomb = gzip.compress(b"\0" * (MAX_JOIN_REQUEST_BYTES * 64))
    outer = rtc.WrappedJoinRequest(compression=rtc.WrappedJoinRequest.GZIP, join_request=bomb)
    with pytest.raises(JoinRefused, match="too large"):
        decode_join_request(base64.urlsafe_b64encode(outer.SerializeToString()).decode())


@pytest.mark.parametrize(
    ("agent", "browser", "version"),
    [
        ("Mozilla/5.0 (X11; Linux) Gecko/20100101 Firefox/153.0", "firefox", "153.0"),
        ("Mozilla/5.0 AppleWebKit/605 (KHTML) Version/18.3 Safari/605.1", "safari", "18.3"),
        ("Mozilla/5.0 AppleWebKit/537 Chrome/156.0.0.0 Safari/537.36", "chrome", "156.0.0.0"),
        ("curl/8", "", ""),
    ],
)
def test_browsers_are_known_by_their_user_agent(agent: str, browser: str, version: str) -> None:
    info = join({}, agent=agent).request.client_info
    assert (info.browser, info.browser_version) == (browser, version)
