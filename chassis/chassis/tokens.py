"""Access tokens: JSON Web Tokens, HS256 alone, as LiveKit's client and server SDKs make them.

`verify` turns a token into `Grants`; `sign` makes one. What it is not: a decision about what a
grant allows, which is the caller's. Neither a token nor a secret is ever part of an error or repr.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import jwt
from jwt.algorithms import HMACAlgorithm
from pydantic import SecretStr

from chassis.errors import TokenError

LEEWAY_S: Final = 60.0
"""How far the clocks of the signer and of this process may differ."""
MAX_TOKEN_BYTES: Final = 64 * 1024

KINDS: Final = frozenset({"standard", "ingress", "egress", "sip", "agent", "connector", "bridge"})

ORIGIN_CLAIM: Final = "origin"
"""A claim of our own, in tokens the server makes to go on with a session."""

BAD_HEADER: Final = "invalid authorization header. Must start with Bearer "
NOT_A_TOKEN: Final = "invalid authorization token"


class Secrets(Protocol):
    """Where the secret of an API key is looked up; a mapping will do."""

    def get(self, name: str, /) -> SecretStr | None:
        """None: there is no such key."""
        ...


def digest_of(token: str) -> str:
    """What names a token without being one."""
    return hashlib.sha256(token.encode()).hexdigest()[:40]


@dataclass(frozen=True, slots=True)
class VideoGrant:
    """The `video` claim. `None`: the token does not say; the `may_*` properties decide."""

    room_create: bool = False
    room_list: bool = False
    room_record: bool = False
    room_admin: bool = False
    room_join: bool = False
    room: str = ""
    destination_room: str = ""
    can_publish: bool | None = None
    can_subscribe: bool | None = None
    can_publish_data: bool | None = None
    can_publish_sources: tuple[str, ...] = ()
    can_update_own_metadata: bool | None = None
    can_subscribe_metrics: bool | None = None
    can_manage_agent_session: bool | None = None
    ingress_admin: bool = False
    hidden: bool = False
    recorder: bool = False
    agent: bool = False

    @property
    def may_publish(self) -> bool:
        """May publish tracks (of `can_publish_sources`, when that is not empty)."""
        return self.can_publish is not False

    @property
    def may_subscribe(self) -> bool:
        """May receive tracks."""
        return self.can_subscribe is not False

    @property
    def may_publish_data(self) -> bool:
        """May send data; follows `can_publish` when the token does not say."""
        return self.may_publish if self.can_publish_data is None else self.can_publish_data

    @property
    def may_update_own_metadata(self) -> bool:
        """May change its own name, metadata and attributes."""
        return self.can_update_own_metadata is True

    @property
    def may_subscribe_metrics(self) -> bool:
        """May receive metrics of others."""
        return self.can_subscribe_metrics is True

    @property
    def may_manage_agent_session(self) -> bool:
        """May steer agent sessions."""
        return self.can_manage_agent_session is True

    def admits(self, room: str) -> bool:
        """Is this an administrator of `room`?"""
        return self.room_admin and self.room == room

    def to_claim(self) -> dict[str, Any]:
        """The claim as JSON values; what is false, empty or unsaid is left out."""
        claim: dict[str, Any] = {}
        for name, wire_name in _VIDEO_NAMES.items():
            value = getattr(self, name)
            if name in _TRISTATE:
                if value is not None:
                    claim[wire_name] = value
            elif value:
                claim[wire_name] = list(value) if isinstance(value, tuple) else value
        return claim

    @staticmethod
    def from_claim(claim: Mapping[str, Any]) -> VideoGrant:
        """Read the claim; unknown members are ignored, wrong types are a `TokenError`."""
        values: dict[str, Any] = {}
        for name, wire_name in _VIDEO_NAMES.items():
            value = claim.get(wire_name)
            if value is None:
                continue
            label = f"video.{wire_name}"
            if name == "can_publish_sources":
                values[name] = tuple(source.lower() for source in _strings(value, label))
            elif name in ("room", "destination_room"):
                values[name] = _typed(value, str, label)
            else:
                values[name] = _typed(value, bool, label)
        return VideoGrant(**values)


@dataclass(frozen=True, slots=True)
class Grants:
    """What a verified token says. What it is not: the token itself."""

    identity: str
    api_key: str = ""
    name: str = ""
    kind: str = "standard"
    kind_details: tuple[str, ...] = ()
    metadata: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)
    video: VideoGrant = field(default_factory=VideoGrant)
    sip_admin: bool = False
    sip_call: bool = False
    room_config_json: str = ""
    """The `roomConfig` claim as JSON text; empty when absent."""
    room_preset: str = ""
    sha256: str = ""
    """Digest of a body, in tokens that sign webhooks."""
    expires_at: int = 0
    """Unix seconds."""
    issued_at: float = 0.0
    """Unix seconds, by `iat`, else `nbf`; 0: the token does not say."""
    digest: str = ""
    """Names the token this was read from; see `chassis.revocations`."""
    origin: str = ""
    """The digest of the token this one comes from, when the server made it to go on with a session."""
    project: str = ""
    """The namespace of the key; whoever knows the keys says it."""

    def to_claims(self) -> dict[str, Any]:
        """The JSON claims of a token with this content; `iss`, `exp` and `nbf` are `sign`'s."""
        claims: dict[str, Any] = {"sub": self.identity}
        optional: dict[str, Any] = {
            "name": self.name,
            "kind": "" if self.kind == "standard" else self.kind,
            "kindDetails": list(self.kind_details),
            "metadata": self.metadata,
            "attributes": dict(self.attributes),
            "video": self.video.to_claim(),
            "sip": {
                name: True
                for name, given in (("admin", self.sip_admin), ("call", self.sip_call))
                if given
            },
            "roomConfig": json.loads(self.room_config_json) if self.room_config_json else {},
            "roomPreset": self.room_preset,
            "sha256": self.sha256,
        }
        return claims | {name: value for name, value in optional.items() if value}


def authenticate(
    authorization: str | None,
    access_token: str | None,
    keys: Secrets,
    now_s: float | None = None,
) -> Grants | None:
    """Grants of a request by its Authorization header, else its `access_token` parameter.

    None when there is no token at all: whether that is an error is for the route to say.
    """
    if authorization is not None:
        if not authorization.startswith("Bearer "):
            raise TokenError(BAD_HEADER)
        return verify(authorization.removeprefix("Bearer "), keys, now_s)
    if access_token:
        return verify(access_token, keys, now_s)
    return None


def verify(token: str, keys: Secrets, now_s: float | None = None) -> Grants:
    """Check a token's form, key, signature and times (60 s leeway), then read its claims.

    `now_s` is Unix time, by default the machine's. Raises `TokenError`.
    """
    now = time.time() if now_s is None else now_s
    claims = _unverified_claims(token)
    api_key = claims.get("iss")
    secret = keys.get(api_key) if isinstance(api_key, str) else None
    if secret is None or not isinstance(api_key, str):
        raise TokenError(f"invalid API key: {_printable(api_key)}")
    try:
        _JWS.decode_complete(token, secret.get_secret_value().encode(), algorithms=["HS256"])
    except jwt.PyJWTError:
        raise TokenError("invalid token, error: signature does not match") from None
    expires_at = _check_times(claims, now)
    issued_at = _time(claims, "iat") or _time(claims, "nbf") or 0.0
    return replace(
        _read_claims(claims),
        api_key=api_key,
        expires_at=expires_at,
        issued_at=issued_at,
        digest=digest_of(token),
    )


def sign(
    grants: Grants,
    api_key: str,
    secret: SecretStr,
    valid_for_s: float,
    now_s: float | None = None,
) -> str:
    """A token with these grants, from now until `valid_for_s` later."""
    now = time.time() if now_s is None else now_s
    claims = grants.to_claims() | {
        "iss": api_key,
        "nbf": int(now),
        "exp": int(now + valid_for_s),
    }
    return sign_claims(claims, secret)


def sign_claims(claims: Mapping[str, Any], secret: SecretStr) -> str:
    """A token of claims given as they are."""
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return _JWS.encode(payload, secret.get_secret_value().encode(), algorithm="HS256")


def _unverified_claims(token: str) -> dict[str, Any]:
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenError(NOT_A_TOKEN)
    try:
        parts = _JWS.decode_complete(token, options={"verify_signature": False})
        claims = json.loads(parts["payload"])
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise TokenError(NOT_A_TOKEN) from None
    if parts["header"].get("alg") != "HS256" or not isinstance(claims, dict):
        raise TokenError(NOT_A_TOKEN)
    return claims


def _check_times(claims: Mapping[str, Any], now: float) -> int:
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenError("invalid token, error: token has no expiry (exp)")
    if now > expires_at + LEEWAY_S:
        raise TokenError("invalid token, error: token is expired (exp)")
    not_before = _time(claims, "nbf")
    if not_before is not None and now < not_before - LEEWAY_S:
        raise TokenError("invalid token, error: token is not valid yet (nbf)")
    issued_at = _time(claims, "iat")
    if issued_at is not None and now < issued_at - LEEWAY_S:
        raise TokenError("invalid token, error: token was issued in the future (iat)")
    return int(expires_at)


def _read_claims(claims: Mapping[str, Any]) -> Grants:
    sip = _object(claims, "sip")
    kind = _text(claims, "kind").lower()
    room_config = _object(claims, "roomConfig")
    attributes = _object(claims, "attributes")
    for name, value in attributes.items():
        _typed(value, str, f"attributes.{_printable(name)}")
    return Grants(
        identity=_text(claims, "sub") or _text(claims, "jti"),
        name=_text(claims, "name"),
        kind=kind if kind in KINDS else "standard",
        kind_details=_strings(claims.get("kindDetails") or [], "kindDetails"),
        metadata=_text(claims, "metadata"),
        attributes=dict(attributes),
        video=VideoGrant.from_claim(_object(claims, "video")),
        sip_admin=sip.get("admin") is True,
        sip_call=sip.get("call") is True,
        room_config_json=json.dumps(room_config, separators=(",", ":")) if room_config else "",
        room_preset=_text(claims, "roomPreset"),
        sha256=_text(claims, "sha256"),
        origin=_text(claims, ORIGIN_CLAIM),
    )


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    return "" if value is None else str(_typed(value, str, name))


def _object(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = claims.get(name)
    found: Mapping[str, Any] = {} if value is None else _typed(value, dict, name)
    return found


def _strings(value: Any, label: str) -> tuple[str, ...]:
    return tuple(_typed(item, str, label) for item in _typed(value, list, label))


def _typed(value: Any, kind: type, label: str) -> Any:
    if not isinstance(value, kind):
        raise TokenError(f"invalid token, error: claim {label} is not {_KIND_WORDS[kind]}")
    if isinstance(value, str) and not _is_utf8(value):
        raise TokenError(f"invalid token, error: claim {label} is not valid text")
    return value


def _is_utf8(text: str) -> bool:
    # JSON escapes can smuggle half of a surrogate pair, which no protobuf string accepts.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenError(f"invalid token, error: claim {name} is not a number")
    if not -_LATEST_S <= value <= _LATEST_S:
        raise TokenError(f"invalid token, error: claim {name} is out of range")
    return float(value)


def _printable(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(char if char.isprintable() else "?" for char in text[:64])


class _AnyLengthHs256(HMACAlgorithm):
    """HS256 without the warning about short keys: settings judge a secret's length, once."""

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)

    def check_key_length(self, key: bytes) -> str | None:
        return None


def _hs256_only() -> jwt.PyJWS:
    jws = jwt.PyJWS(algorithms=[])
    jws.register_algorithm("HS256", _AnyLengthHs256())
    return jws


_LATEST_S: Final = 1e12
_JWS: Final = _hs256_only()
_KIND_WORDS: Final[Mapping[type, str]] = {
    str: "a string",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}
_VIDEO_NAMES: Final[Mapping[str, str]] = {
    "room_create": "roomCreate",
    "room_list": "roomList",
    "room_record": "roomRecord",
    "room_admin": "roomAdmin",
    "room_join": "roomJoin",
    "room": "room",
    "destination_room": "destinationRoom",
    "can_publish": "canPublish",
    "can_subscribe": "canSubscribe",
    "can_publish_data": "canPublishData",
    "can_publish_sources": "canPublishSources",
    "can_update_own_metadata": "canUpdateOwnMetadata",
    "can_subscribe_metrics": "canSubscribeMetrics",
    "can_manage_agent_session": "canManageAgentSession",
    "ingress_admin": "ingressAdmin",
    "hidden": "hidden",
    "recorder": "recorder",
    "agent": "agent",
}
VIDEO_GRANT_NAMES: Final = frozenset(_VIDEO_NAMES.values())
"""Every member of the `video` claim, as a token spells it."""
_TRISTATE: Final = frozenset(
    {
        "can_publish",
        "can_subscribe",
        "can_publish_data",
        "can_update_own_metadata",
        "can_subscribe_metrics",
        "can_manage_agent_session",
    }
)
