"""Whatever bytes come in: a refusal with a status clients know, never another exception."""

import base64

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import rtc

from chassis.errors import ServiceError
from chassis.roles import BUILT_IN
from chassis.tokens import Grants, VideoGrant
from signaling.core.grants import METHODS, ROOM_SERVICE, check
from signaling.core.join import Join, JoinRefused, decode_join_request, parse_join

GRANTS = Grants(identity="eve", video=VideoGrant(room_join=True, room="hall"))
PARAMETERS = (
    "join_request",
    "attributes",
    "protocol",
    "client_protocol",
    "reconnect_reason",
    "sdk",
    "capabilities",
    "publish",
    "reconnect",
    "sid",
)
BOOLEANS = ("room_create", "room_list", "room_admin", "room_join")


@given(st.dictionaries(st.sampled_from(PARAMETERS), st.text()), st.booleans(), st.text())
def test_any_query_is_a_join_or_a_refusal(query: dict[str, str], v1: bool, agent: str) -> None:
    try:
        found: Join | None = parse_join(query, GRANTS, roles=BUILT_IN, v1=v1, user_agent=agent)
        refusal = 0
    except JoinRefused as refused:
        found, refusal = None, refused.status
    assert isinstance(found, Join) or refusal in (400, 401)


@given(st.binary(), st.integers(0, 3), st.booleans())
def test_any_wrapped_bytes_are_a_join_request_or_a_refusal(
    inner: bytes, compression: int, is_wrapped: bool
) -> None:
    raw = inner
    if is_wrapped:
        wrapped = rtc.WrappedJoinRequest(join_request=inner)
        # Any number: proto3 enums are open, and a client may write one that nobody knows.
        raw = wrapped.SerializeToString() + bytes([8, compression])
    try:
        decode_join_request(base64.urlsafe_b64encode(raw).decode())
        refusal = 0
    except JoinRefused as refused:
        refusal = refused.status
    assert refusal in (0, 400)


@given(
    st.sampled_from(sorted(METHODS[ROOM_SERVICE])),
    st.binary(),
    st.none() | st.fixed_dictionaries({name: st.booleans() for name in BOOLEANS}),
    st.text(max_size=3),
)
def test_any_body_under_any_grants_is_allowed_or_refused(
    name: str, body: bytes, video: dict[str, bool] | None, room: str
) -> None:
    method = METHODS[ROOM_SERVICE][name]
    try:
        request = method.request.FromString(body)
    except DecodeError:
        return
    grants = None if video is None else Grants(identity="", video=VideoGrant(room=room, **video))
    try:
        check(method, grants, request, BUILT_IN)
        refusal = 0
    except ServiceError as refused:
        refusal = refused.http_status
    assert refusal in (0, 400, 401)
    if video is None or not any(video[name] for name in BOOLEANS[:3]):
        assert refusal == 401
