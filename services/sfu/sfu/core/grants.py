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

from chassis.errors import TokenError
from chassis.projects import split
from chassis.roles import Role
from chassis.tokens import ORIGIN_CLAIM, VideoGrant
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
    video: VideoGrant
    room_config_json: str
    room_preset: str
    expires_at: int
    project: str = ""
    """The namespace of the room; who signs for it signs this session's tokens."""
    origin: str = ""
    """Names the token the session began with."""

    @classmethod
    def of(cls, claims: node_pb2.Claims) -> Grants:
        """Raises BadClaims."""
        try:
            video = VideoGrant.from_claim(_json_object(claims.video_grant_json))
        except TokenError as error:
            raise BadClaims(str(error)) from error
        configuration = room_api.RoomConfiguration()
        if claims.room_config_json:
            try:
                json_format.Parse(
                    claims.room_config_json, configuration, ignore_unknown_fields=True
                )
            except json_format.ParseError as error:
                raise BadClaims("room configuration cannot be read") from error
        return cls(
            permission=permission_of(video),
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
            project=claims.project,
            origin=claims.origin,
        )

    def permitting(self, permission: models.ParticipantPermission) -> Grants:
        """With permissions the Room changed; the next token says them."""
        names = {value: name for name, value in _SOURCES.items()}
        video = replace(
            self.video,
            can_publish=permission.can_publish,
            can_subscribe=permission.can_subscribe,
            can_publish_data=permission.can_publish_data,
            can_publish_sources=tuple(
                names[source] for source in permission.can_publish_sources if source in names
            ),
            can_update_own_metadata=permission.can_update_metadata,
            can_subscribe_metrics=permission.can_subscribe_metrics,
            hidden=permission.hidden,
        )
        return replace(self, permission=permission, video=video)

    def naming(self, room: str) -> Grants:
        """As a token for another room (scoped); what was said for making a room is for the room left."""
        video = replace(self.video, room=split(room)[1], room_join=True)
        return replace(self, video=video, room_config_json="", room_preset="")

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
            "video": self.video.to_claim(),
        }
        optional: dict[str, object] = {
            "name": name,
            "metadata": metadata,
            "attributes": dict(attributes),
            "kindDetails": [
                models.ParticipantInfo.KindDetail.Name(detail).lower()
                for detail in self.kind_details
            ],
            "roomConfig": json.loads(self.room_config_json) if self.room_config_json else {},
            "roomPreset": self.room_preset,
            ORIGIN_CLAIM: self.origin,
        }
        return claims | {key: value for key, value in optional.items() if value}


def permission_of(video: VideoGrant) -> models.ParticipantPermission:
    return models.ParticipantPermission(
        can_subscribe=video.may_subscribe,
        can_publish=video.may_publish,
        can_publish_data=video.may_publish_data,
        can_publish_sources=[
            _SOURCES[name] for name in video.can_publish_sources if name in _SOURCES
        ],
        hidden=video.hidden,
        recorder=video.recorder,
        can_update_metadata=video.may_update_own_metadata,
        agent=video.agent,
        can_subscribe_metrics=video.may_subscribe_metrics,
        can_manage_agent_session=video.may_manage_agent_session,
    )


def permission_in_role(
    role: Role, permission: models.ParticipantPermission
) -> models.ParticipantPermission:
    """A participant's permission once it has the role; what a role does not speak of stays."""
    video = VideoGrant(
        hidden=permission.hidden,
        recorder=permission.recorder,
        agent=permission.agent,
        can_manage_agent_session=permission.can_manage_agent_session,
    )
    return permission_of(role.given_to(video))


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text) if text else {}
    except ValueError as error:
        raise BadClaims("video grant cannot be read") from error
    if not isinstance(value, dict):
        raise BadClaims("video grant is not an object")
    return value
