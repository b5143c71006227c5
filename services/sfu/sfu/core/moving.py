"""A participant goes from one room of a node to another: what its two stages are told and say.

With its peer connections and tracks, when both rooms have their home on the node and the client
knows `room_moved` (LiveKit signal protocol 16); otherwise the client joins the other room anew with
a token it is given. The destination's Room admits it first, as anybody who joins; only then does
the source let go, so that a refusal changes nothing. It is not forwarding (core/forwarding.py).
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from livekit.protocol import models as lk
from livekit.protocol import rtc

from contracts.room.v1 import room_pb2

if TYPE_CHECKING:
    from sfu.core.participant import Participant

MOVED_PROTOCOL = 16


class Way(enum.Enum):
    """How a participant can get into another room."""

    CARRIED = enum.auto()  # as it is
    REJOINS = enum.auto()  # its client joins anew
    AWAY = enum.auto()  # its client cannot be told: it has no socket now


# ---------------------------------------------------------------------------------- stage events


@dataclass(frozen=True, slots=True)
class ArrivalAnnounced:
    """A session of another room is to come here as `participant_sid`, if the Room admits it."""

    participant_sid: str
    joining: room_pb2.JoinRequested


@dataclass(frozen=True, slots=True)
class ArrivalWithdrawn:
    """It was admitted, but does not come."""

    participant_sid: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """It comes. `departed` are those it saw in the room it left (livekit.ParticipantInfo)."""

    participant_sid: str
    handed_over: HandedOver
    admit: room_pb2.Admit
    departed: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HandOverWanted:
    """Let go of this session as it is; said back with `HandedOver`, if it can be moved now."""

    participant_sid: str


MovingEvent = ArrivalAnnounced | ArrivalWithdrawn | Arrived | HandOverWanted

# --------------------------------------------------------------------------------- stage effects


@dataclass(frozen=True, slots=True)
class ArrivalAdmitted:
    """The Room takes the announced one in."""

    participant_sid: str
    admit: room_pb2.Admit


@dataclass(frozen=True, slots=True)
class ArrivalRefused:
    """The Room does not; `code` is a Twirp code."""

    participant_sid: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The session is no longer this stage's; the engine's objects with these ids go with it."""

    participant: Participant
    engine_ids: tuple[int, ...]


MovingEffect = ArrivalAdmitted | ArrivalRefused | HandedOver


def restriction_abroad(permission: rtc.SubscriptionPermission) -> rtc.SubscriptionPermission:
    """What a publisher's restriction says in another room: who was allowed by sid is not there."""
    rows = permission.track_permissions
    return rtc.SubscriptionPermission(
        all_participants=permission.all_participants,
        track_permissions=[
            rtc.TrackPermission(
                participant_identity=row.participant_identity,
                all_tracks=row.all_tracks,
                track_sids=row.track_sids,
            )
            for row in rows
            if row.participant_identity
        ],
    )


def departures(infos: Iterable[lk.ParticipantInfo], own_sid: str) -> tuple[bytes, ...]:
    """Everybody else of the room left behind, as if they had gone: not all clients forget them by themselves."""
    gone = []
    for info in infos:
        if info.sid == own_sid or info.permission.hidden:
            continue
        info.state = lk.ParticipantInfo.DISCONNECTED
        info.disconnect_reason = lk.MIGRATION
        info.version += 1
        del info.tracks[:]
        gone.append(info.SerializeToString())
    return tuple(gone)


def room_moved(
    admit: room_pb2.Admit, token: str, tracks: Iterable[lk.TrackInfo]
) -> rtc.RoomMovedResponse:
    """What the client is told: where it is now, as whom, with whom, and its next token."""
    moved = rtc.RoomMovedResponse(
        room=lk.Room.FromString(admit.room),
        token=token,
        participant=lk.ParticipantInfo.FromString(admit.participant),
        other_participants=[lk.ParticipantInfo.FromString(other) for other in admit.others],
    )
    moved.participant.state = lk.ParticipantInfo.ACTIVE
    moved.participant.tracks.extend(tracks)
    return moved
