"""One participant as its Room knows it: the ParticipantInfo, the tracks, and what was told of it.

Values and what follows from them alone. What a member's change means for others is the Room's; its
session is on a Stage (session.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from livekit.protocol import models as lk
from livekit.protocol import rtc

from contracts.room.v1 import room_pb2
from sfu.core.data_blobs import DataBlobs


@dataclass(slots=True)
class Member:
    """One participant of the room, from its admission to its departure."""

    node_id: str
    info: lk.ParticipantInfo
    protocol_version: int
    tracks: dict[str, lk.TrackInfo] = field(default_factory=dict)
    data_tracks: dict[str, lk.DataTrackInfo] = field(default_factory=dict)
    blobs: DataBlobs | None = None
    subscription_permission: rtc.SubscriptionPermission | None = None
    forwarded_from: str = ""  # the room it is in; nobody here answers for it
    is_announced: bool = False  # somebody else was told of it
    serialized: bytes | None = None  # `info` as of its version
    # Copies of what `info` says, because a room of thousands reads them thousands of times.
    sid: str = field(init=False)
    identity: str = field(init=False)
    is_hidden: bool = field(init=False)
    is_recorder: bool = field(init=False)
    is_dependent: bool = field(
        init=False
    )  # recorder, agent, forwarded: not counted, keeps no room open

    @classmethod
    def of(cls, node_id: str, sid: str, request: room_pb2.JoinRequested) -> Member:
        """A member that is about to join, in its first version."""
        info = lk.ParticipantInfo(
            sid=sid,
            identity=request.identity,
            name=request.name,
            metadata=request.metadata,
            attributes=dict(request.attributes),
            state=lk.ParticipantInfo.JOINING,
            joined_at=request.joined_at_ms // 1000,
            joined_at_ms=request.joined_at_ms,
            version=1,
            permission=lk.ParticipantPermission.FromString(request.permission),
            region=request.region,
            kind=cast("lk.ParticipantInfo.Kind", request.kind),
            kind_details=cast("list[lk.ParticipantInfo.KindDetail]", request.kind_details),
            client_protocol=request.client_protocol,
            capabilities=cast("list[lk.ClientInfo.Capability]", request.capabilities),
        )
        return cls(
            node_id=node_id,
            info=info,
            protocol_version=request.protocol_version,
            forwarded_from=request.forwarded_from,
        )

    def __post_init__(self) -> None:
        self.sid = self.info.sid
        self.identity = self.info.identity
        self.read_permission()

    def read_permission(self) -> None:
        """Take over what `info.permission` says now."""
        permission, kind = self.info.permission, self.info.kind
        self.is_hidden = permission.hidden
        is_recorder = permission.recorder or kind == lk.ParticipantInfo.EGRESS
        self.is_recorder = is_recorder and not self.forwarded_from
        is_agent = permission.agent or kind == lk.ParticipantInfo.AGENT
        self.is_dependent = self.is_recorder or is_agent or bool(self.forwarded_from)

    def bytes(self) -> bytes:
        """The ParticipantInfo, serialized once per version."""
        if self.serialized is None:
            del self.info.tracks[:]
            self.info.tracks.extend(self.tracks.values())
            del self.info.data_tracks[:]
            self.info.data_tracks.extend(self.data_tracks.values())
            self.serialized = self.info.SerializeToString()
        return self.serialized

    def allowed_identities(self, track_sid: str) -> list[str] | None:
        """Who may subscribe to a track of this member; None: everybody."""
        permission = self.subscription_permission
        if permission is None or permission.all_participants:
            return None
        return [
            row.participant_identity
            for row in permission.track_permissions
            if row.all_tracks or track_sid in row.track_sids
        ]


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A departed participant, kept for sessions that resume and missed the departure."""

    at: float
    wall_ms: int
    identity: str
    info: bytes
