"""A request to join, parsed and checked before any socket is accepted.

Takes what the client sent (query parameters and verified grants) and gives the `JoinRequest` to hand to a node, or the
HTTP status and text that the client SDKs expect. It knows no room state: whether the room exists or is full is told by
placement and the room itself.
"""

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from chassis.projects import SEPARATOR, scoped
from chassis.roles import ROLE_ATTRIBUTE, Roles, unknown
from chassis.tokens import Grants, VideoGrant

MAX_JOIN_REQUEST_BYTES = 1 << 20
MAX_IDENTITY_BYTES = 256
MAX_ROOM_NAME_BYTES = 256

_TRUE = frozenset({"1", "true"})
_SDK_NAMES = {"reactnative": "REACT_NATIVE", "unityweb": "UNITY_WEB"}
_BROWSERS = (
    ("Firefox/", "firefox"),
    ("Edg/", "edge"),
    ("Chrome/", "chrome"),
    ("Safari/", "safari"),
)


class JoinRefused(Exception):
    """The join may not go on; `status` and the text are for the client. The text never holds what was sent."""

    def __init__(self, status: int, text: str, retry_after: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.retry_after = retry_after
        """Seconds, when the same request may go on later."""


@dataclass(frozen=True, slots=True)
class Join:
    """A join or resume that passed every check a front door can make."""

    room_name: str
    identity: str
    request: rtc.JoinRequest
    grants: Grants
    """As the role in them has it."""
    single_peer_connection: bool


def parse_join(
    query: Mapping[str, str], grants: Grants | None, *, roles: Roles, v1: bool, user_agent: str
) -> Join:
    """Check a join in the order clients rely on; raise `JoinRefused` with the status and text they know."""
    if grants is None or grants.video == VideoGrant():
        raise JoinRefused(401, "no permissions to access the room")
    if not grants.video.room_join:
        raise JoinRefused(401, "permissions denied")
    grants = _with_role(grants, roles)
    wrapped = query.get("join_request", "")
    if v1 and not wrapped:
        raise JoinRefused(400, "join_request is required")
    request = decode_join_request(wrapped) if wrapped else _request_from_query(query)
    request.participant_attributes.pop(ROLE_ATTRIBUTE, None)  # nobody gives itself a role
    identity = _identity(grants, query)
    if query.get("publish"):  # a second connection, which only publishes
        grants = replace(grants, video=replace(grants.video, can_subscribe=False))
    room_name = grants.video.room
    if not room_name:
        raise JoinRefused(400, "no room name")
    if SEPARATOR in room_name:
        raise JoinRefused(400, "room name holds a control character")
    if len(room_name.encode()) > MAX_ROOM_NAME_BYTES:
        raise JoinRefused(400, f"room name exceeds {MAX_ROOM_NAME_BYTES} bytes")
    wants_profile = bool(request.metadata or request.participant_attributes)
    if wants_profile and not grants.video.may_update_own_metadata:
        raise JoinRefused(401, "not allowed to set own metadata or attributes")
    _complete_client_info(request.client_info, user_agent)
    return Join(
        room_name=scoped(grants.project, room_name),
        identity=identity,
        request=request,
        grants=grants,
        single_peer_connection=bool(wrapped),
    )


def decode_join_request(wrapped: str) -> rtc.JoinRequest:
    """The `join_request` parameter: base64url of a WrappedJoinRequest around a JoinRequest, perhaps gzipped."""
    if len(wrapped) > 2 * MAX_JOIN_REQUEST_BYTES:
        raise JoinRefused(400, "join request too large")
    try:
        raw = base64.b64decode(_padded(wrapped), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise JoinRefused(400, "cannot base64 decode wrapped join request") from None
    try:
        outer = rtc.WrappedJoinRequest.FromString(raw)
    except DecodeError:
        raise JoinRefused(400, "cannot unmarshal wrapped join request") from None
    inner = outer.join_request
    if outer.compression == rtc.WrappedJoinRequest.Compression.GZIP:
        inner = _gunzip(inner)
    if len(inner) > MAX_JOIN_REQUEST_BYTES:
        raise JoinRefused(400, "join request too large")
    try:
        return rtc.JoinRequest.FromString(inner)
    except DecodeError:
        raise JoinRefused(400, "cannot unmarshal join request") from None


def is_true(value: str | None) -> bool:
    """Booleans of the query string: `1` and `true` are true, everything else is false."""
    return value in _TRUE


def _with_role(grants: Grants, roles: Roles) -> Grants:
    name = grants.attributes.get(ROLE_ATTRIBUTE)
    if not name:
        return grants
    if name not in roles:
        raise JoinRefused(400, unknown(name, roles))
    return replace(grants, video=roles[name].given_to(grants.video))


def _identity(grants: Grants, query: Mapping[str, str]) -> str:
    identity = grants.identity
    if not identity:
        raise JoinRefused(400, "identity cannot be empty")
    if query.get("publish"):
        if not grants.video.may_publish:
            raise JoinRefused(401, "permissions denied")
        identity = f"{identity}#{query['publish']}"
    if len(identity.encode()) > MAX_IDENTITY_BYTES:
        raise JoinRefused(400, f"identity exceeds {MAX_IDENTITY_BYTES} bytes")
    return identity


def _request_from_query(query: Mapping[str, str]) -> rtc.JoinRequest:
    request = rtc.JoinRequest(
        client_info=_client_info(query),
        connection_settings=rtc.ConnectionSettings(
            auto_subscribe="auto_subscribe" not in query or is_true(query["auto_subscribe"]),
            adaptive_stream=is_true(query.get("adaptive_stream")),
            disable_ice_lite=is_true(query.get("disable_ice_lite")),
            auto_subscribe_data_track=is_true(query.get("auto_subscribe_data_track")),
        ),
        reconnect=is_true(query.get("reconnect")),
        participant_sid=query.get("sid", ""),
    )
    if "subscriber_allow_pause" in query:
        request.connection_settings.subscriber_allow_pause = is_true(
            query["subscriber_allow_pause"]
        )
    reason = _integer(query.get("reconnect_reason"))
    if reason in models.ReconnectReason.values():
        request.reconnect_reason = cast("models.ReconnectReason", reason)
    if query.get("attributes"):
        request.participant_attributes.update(_attributes(query["attributes"]))
    return request


def _client_info(query: Mapping[str, str]) -> models.ClientInfo:
    info = models.ClientInfo(
        version=query.get("version", ""),
        protocol=_integer(query.get("protocol")),
        os=query.get("os", ""),
        os_version=query.get("os_version", ""),
        device_model=query.get("device_model", ""),
        browser=query.get("browser", ""),
        browser_version=query.get("browser_version", ""),
        network=query.get("network", ""),
        client_protocol=_integer(query.get("client_protocol")),
    )
    sdk = query.get("sdk", "")
    sdk = _SDK_NAMES.get(sdk, sdk.upper())
    known_sdks = dict(models.ClientInfo.SDK.items())
    info.sdk = cast("models.ClientInfo.SDK", known_sdks.get(sdk, 0))
    names = query.get("capabilities", "").split(",")
    known = dict(models.ClientInfo.Capability.items())
    capabilities = [known[name] for name in names if name in known]
    info.capabilities.extend(cast("list[models.ClientInfo.Capability]", capabilities))
    return info


def _attributes(encoded: str) -> dict[str, str]:
    try:
        value = json.loads(base64.b64decode(_padded(encoded), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        raise JoinRefused(400, "cannot decode attributes") from None
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise JoinRefused(400, "attributes must be a map of text to text")
    return {key: item for key, item in value.items() if item}


def _complete_client_info(info: models.ClientInfo, user_agent: str) -> None:
    """Browsers tell who they are in the User-Agent only; Firefox and Safari need to be known for SDP's sake."""
    if info.browser or not user_agent:
        return
    for needle, browser in _BROWSERS:
        if needle in user_agent:
            info.browser = browser
            marker = "Version/" if browser == "safari" else needle
            info.browser_version = user_agent.partition(marker)[2].split(" ", 1)[0][:32]
            return


def _gunzip(data: bytes) -> bytes:
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        inflated = decompressor.decompress(data, MAX_JOIN_REQUEST_BYTES + 1)
    except zlib.error:
        raise JoinRefused(400, "cannot read decompressed join request") from None
    if len(inflated) > MAX_JOIN_REQUEST_BYTES:
        raise JoinRefused(400, "join request too large")
    if not decompressor.eof:
        raise JoinRefused(400, "cannot read decompressed join request")
    return inflated


def _padded(text: str) -> str:
    bare = text.rstrip("=")
    return bare + "=" * (-len(bare) % 4)


def _integer(text: str | None) -> int:
    if not text or not text.isascii() or not text.isdigit() or len(text) > 9:
        return 0
    return int(text)
