"""What a verified token allows its participant, and the claims of the next token.

Not the check of a signature: signaling did that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf import json_format
from livekit.protocol import models
from livekit.protocol import room as room_api

from contracts.node.v1 import node_pb2

MIN_TOKEN_SECONDS = 600

_SOURCES = {
    "camera": models.TrackSource.CAMERA,
    "microphone": models.TrackSource.MICROPHONE,
    "screen_share": models.TrackSource.SCREEN_SHARE,
    "screen_share_audio": models.TrackSource.SCREEN_SHARE_AUDIO,
}
_KINDS = {
    "standard": models.ParticipantInfo.Kind.STANDARD,
    "ingress": models.ParticipantInfo.Kind.INGRESS,
    "egress": models.ParticipantInfo.Kind.EGRESS,
    "sip": models.ParticipantInfo.Kind.SIP,
    "agent": models.ParticipantInfo.Kind.AGENT,
    "connector": models.ParticipantInfo.Kind.CONNECTOR,
    "bridge": models.ParticipantInfo.Kind.BRIDGE,
}
_KIND_DETAILS: dict[str, int] = dict(models.ParticipantInfo.KindDetail.items())


class BadClaims(ValueError):
    """The token is genuine but its content cannot be used; the text is for the client."""


@dataclass(frozen=True, slots=True)
class Grants:
    """A token's content, as the session keeps it for its whole life."""

    permission: models.ParticipantPermission
    kind: models.ParticipantInfo.Kind
    kind_details: tuple[int, ...]
    room_configuration: bytes
    video: Mapping[str, Any]
    room_config_json: str
    room_preset: str
    expires_at: int

    @classmethod
    def of(cls, claims: node_pb2.Claims) -> Grants:
        """Raises BadClaims."""
        video = _json_object(claims.video_grant_json, "video grant")
        configuration = room_api.RoomConfiguration()
        if claims.room_config_json:
            try:
                json_format.Parse(
                    claims.room_config_json, configuration, ignore_unknown_fields=True
                )
            except json_format.ParseError as error:
                raise BadClaims("room configuration cannot be read") from error
        return cls(
            permission=_permission(video),
            kind=_KINDS.get(claims.kind.lower(), models.ParticipantInfo.Kind.STANDARD),
            kind_details=tuple(
                _KIND_DETAILS[name.upper()]
                for name in claims.kind_details
                if name.upper() in _KIND_DETAILS
            ),
            room_configuration=configuration.SerializeToString(),
            video=video,
            room_config_json=claims.room_config_json,
            room_preset=claims.room_preset,
            expires_at=claims.expires_at,
        )

    def permitting(self, permission: models.ParticipantPermission) -> Grants:
        """With permissions the Room changed; the next token says them."""
        names = {value: name for name, value in _SOURCES.items()}
        video = dict(self.video) | {
            "canPublish": permission.can_publish,
            "canSubscribe": permission.can_subscribe,
            "canPublishData": permission.can_publish_data,
            "canUpdateOwnMetadata": permission.can_update_metadata,
            "canSubscribeMetrics": permission.can_subscribe_metrics,
            "hidden": permission.hidden,
        }
        video["canPublishSources"] = [
            names[source] for source in permission.can_publish_sources if source in names
        ]
        return replace(self, permission=permission, video=video)

    @property
    def is_agent(self) -> bool:
        """An agent speaks for others and does not count as a member."""
        return self.permission.agent or self.kind == models.ParticipantInfo.Kind.AGENT

    @property
    def is_recorder(self) -> bool:
        """A recorder may subscribe to restricted tracks."""
        return self.permission.recorder or self.kind == models.ParticipantInfo.Kind.EGRESS

    def refresh_claims(
        self,
        identity: str,
        name: str,
        metadata: str,
        attributes: Mapping[str, str],
        wall_ms: int,
    ) -> dict[str, object]:
        """Claims of a token for later reconnects; lives 10 minutes at least."""
        now = wall_ms // 1000
        claims: dict[str, object] = {
            "sub": identity,
            "identity": identity,
            "kind": models.ParticipantInfo.Kind.Name(self.kind).lower(),
            "nbf": now,
            "iat": now,
            "exp": max(now + MIN_TOKEN_SECONDS, self.expires_at),
            "video": dict(self.video),
        }
        optional: dict[str, object] = {
            "name": name,
            "metadata": metadata,
            "attributes": dict(attributes),
            "roomConfig": json.loads(self.room_config_json) if self.room_config_json else {},
            "roomPreset": self.room_preset,
        }
        return claims | {key: value for key, value in optional.items() if value}


def _permission(video: Mapping[str, Any]) -> models.ParticipantPermission:
    sources = video.get("canPublishSources") or []
    can_publish = video.get("canPublish") is not False
    can_publish_data = video.get("canPublishData")
    return models.ParticipantPermission(
        can_subscribe=video.get("canSubscribe") is not False,
        can_publish=can_publish,
        can_publish_data=can_publish if can_publish_data is None else bool(can_publish_data),
        can_publish_sources=[
            _SOURCES[name] for name in sources if isinstance(name, str) and name in _SOURCES
        ],
        hidden=bool(video.get("hidden")),
        recorder=bool(video.get("recorder")),
        can_update_metadata=bool(video.get("canUpdateOwnMetadata")),
        agent=bool(video.get("agent")),
        can_subscribe_metrics=bool(video.get("canSubscribeMetrics")),
        can_manage_agent_session=bool(video.get("canManageAgentSession")),
    )


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise BadClaims(f"{what} cannot be read") from error
    if not isinstance(value, dict):
        raise BadClaims(f"{what} is not an object")
    return value
