"""A participant of one room is shown in another of the same node, too: what the two stages are told and say.

It stays where it is; in the destination it is a guest: a member without a session, whose tracks are
the engine's tracks of its own room. The guest follows an `Image` of the participant, which its room
gives anew whenever it differs. Its data is not forwarded. It is not moving (core/moving.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from contracts.room.v1 import room_pb2


@dataclass(frozen=True, slots=True)
class EngineTracks:
    """The engine tracks of one track, by mime, and the codecs that gave way: see `LocalTrack`."""

    ids: Mapping[str, int]
    suspended: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Image:
    """The participant as its own room knows it now.

    `info` is a livekit.ParticipantInfo, `restriction` the livekit.SubscriptionPermission it set, if
    any; `media` is by track sid.
    """

    info: bytes
    restriction: bytes | None = None
    media: Mapping[str, EngineTracks] = field(default_factory=dict)

    def has_media(self, engine_track: int) -> bool:
        """Does this engine track belong to it?"""
        return any(engine_track in tracks.ids.values() for tracks in self.media.values())


# ---------------------------------------------------------------------------------- stage events


@dataclass(frozen=True, slots=True)
class GuestAnnounced:
    """A participant of another room is to be shown here as `participant_sid`, if the Room takes it."""

    participant_sid: str
    joining: room_pb2.JoinRequested


@dataclass(frozen=True, slots=True)
class GuestChanged:
    """It looks like this now."""

    participant_sid: str
    image: Image


@dataclass(frozen=True, slots=True)
class GuestLeft:
    """It is no longer in its room, or no longer forwarded; `reason` is livekit.DisconnectReason."""

    participant_sid: str
    reason: int


@dataclass(frozen=True, slots=True)
class WishArrived:
    """In the guest's own room: somebody elsewhere wants a codec of a track, or with "" nothing more."""

    guest_sid: str
    track_sid: str
    subscriber_sid: str
    codec: str
    quality: int


@dataclass(frozen=True, slots=True)
class WishesEnded:
    """In the guest's own room: nobody there wants anything more of it."""

    guest_sid: str
    identity: str


ForwardingEvent = GuestAnnounced | GuestChanged | GuestLeft | WishArrived | WishesEnded

# --------------------------------------------------------------------------------- stage effects


@dataclass(frozen=True, slots=True)
class GuestAdmitted:
    """The Room shows the announced one."""

    participant_sid: str


@dataclass(frozen=True, slots=True)
class GuestRefused:
    """The Room does not; `code` is a Twirp code."""

    participant_sid: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class GuestEnded:
    """The Room no longer shows it."""

    participant_sid: str


@dataclass(frozen=True, slots=True)
class WishTold:
    """For the guest's own room: see `WishArrived`."""

    wish: WishArrived


ForwardingEffect = GuestAdmitted | GuestRefused | GuestEnded | WishTold
