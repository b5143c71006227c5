"""What may be subscribed to in the room, and what one participant is subscribed to.

A Subscription is wanted x known x allowed x shown; only when all four hold is it given to the
negotiation, and only when the client accepted its section does it have a sender. Not bandwidth:
the engine pauses senders by itself.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterator, Set
from dataclasses import dataclass, field, replace

from livekit.protocol import models

from contracts.room.v1 import room_pb2
from sfu.core.codecs import sendable
from sfu.core.data_tracks import DataTracks
from sfu.core.limits import MAX_WISHES, is_possible_sid
from sfu.core.plans import DownTrack, Kind, SenderPlan
from sfu.core.quality import HIGH, LOW, TrackSetting


@dataclass(slots=True)
class DirectoryTrack:
    """One row of the room's track directory, as the Room last said it."""

    info: models.TrackInfo
    publisher_sid: str
    publisher_identity: str
    media_node_id: str
    is_restricted: bool
    allowed_identities: frozenset[str]
    is_publisher_hidden: bool

    @classmethod
    def of(cls, order: room_pb2.ListTrack) -> DirectoryTrack:
        """Raises DecodeError when the Room sent something that is not a TrackInfo."""
        return cls(
            info=models.TrackInfo.FromString(order.track),
            publisher_sid=order.publisher_sid,
            publisher_identity=order.publisher_identity,
            media_node_id=order.media_node_id,
            is_restricted=order.restricted,
            allowed_identities=frozenset(order.allowed_identities),
            is_publisher_hidden=order.publisher_hidden,
        )

    def allows(self, identity: str) -> bool:
        """Whether the publisher lets this identity subscribe."""
        return not self.is_restricted or identity in self.allowed_identities


@dataclass(slots=True)
class LocalTrack:
    """A track published on this node: one engine track for each codec that arrives, by mime.

    `suspended` has the codecs that gave way to a backup codec (codec regression).
    """

    publisher_sid: str
    engine_ids: dict[str, int] = field(default_factory=dict)
    suspended: frozenset[str] = frozenset()


@dataclass(slots=True)
class Directory:
    """This node's replica of the room's tracks.

    `local` has the tracks published on this node. `shown` has the tracks that clients were told of
    in a participant update: media of unknown participants is dropped by clients.
    """

    tracks: dict[str, DirectoryTrack] = field(default_factory=dict)
    local: dict[str, LocalTrack] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    data: DataTracks = field(default_factory=DataTracks)

    def forget(self, track_sid: str) -> None:
        """The track is gone."""
        self.tracks.pop(track_sid, None)
        self.local.pop(track_sid, None)
        self.shown.discard(track_sid)

    def engine_id(self, track_sid: str, mime: str) -> int | None:
        """The engine track of one codec of a track, when it arrives on this node."""
        local = self.local.get(track_sid)
        return None if local is None else local.engine_ids.get(mime)

    def choose_codec(self, track: models.TrackInfo, accepted: Collection[str]) -> str:
        """The first upstream codec a client accepts, published or announced; empty: none.

        Suspended codecs come last: somebody who takes nothing else gets them all the same.
        """
        local = self.local.get(track.sid)
        suspended = frozenset() if local is None else local.suspended
        mimes = sorted(upstream_mimes(track), key=lambda mime: mime in suspended)
        is_encrypted = track.encryption != models.Encryption.Type.NONE
        return next(
            (mime for mime in mimes if sendable((mime,), accepted, encrypted=is_encrypted)), ""
        )


def upstream_mimes(track: models.TrackInfo) -> tuple[str, ...]:
    """The codecs a track comes in, or may come in when somebody needs them: primary first."""
    mimes = tuple(codec.mime_type.lower() for codec in track.codecs if codec.mime_type)
    return mimes or (track.mime_type.lower(),)


class Standing(enum.Enum):
    """Why a subscription is, or is not, given to the negotiation."""

    UNKNOWN = enum.auto()
    DENIED = enum.auto()
    NOT_SHOWN = enum.auto()
    UNWANTED = enum.auto()
    READY = enum.auto()


@dataclass(slots=True)
class Subscription:
    """One participant's subscription to one track, from the wish to the sender.

    `plan` is what the client accepted. `codec` is the upstream codec chosen for it, which the
    publisher may not send yet; `engine_track` is what the sender forwards. `refused` are the
    upstream codecs of which the client took none.
    """

    track_sid: str
    is_wanted: bool
    wanted_at: float
    publisher_sid: str = ""
    told_allowed: bool | None = None
    down_track: DownTrack | None = None
    offered_at: float = 0.0
    plan: SenderPlan | None = None
    codec: str = ""
    sender: int | None = None
    engine_track: int | None = None
    is_flowing: bool = False
    is_paused: bool = False
    is_lateness_told: bool = False
    refused: frozenset[str] = frozenset()


class Subscriptions:
    """What one participant wants, keyed by track sid; wishes outlive the tracks' coming and going.

    A setting may come before the subscription it is for.
    """

    def __init__(self, *, has_adaptive_stream: bool) -> None:
        self._subscriptions: dict[str, Subscription] = {}
        self._settings: dict[str, TrackSetting] = {}
        self._by_sender: dict[int, Subscription] = {}
        self._publishers: Counter[str] = Counter()  # sid -> senders
        self._has_adaptive_stream = has_adaptive_stream

    def __iter__(self) -> Iterator[Subscription]:
        return iter(list(self._subscriptions.values()))

    def get(self, track_sid: str) -> Subscription | None:
        """The wish for a track, if ever expressed."""
        return self._subscriptions.get(track_sid)

    def has_room_for(self, track_sid: str) -> bool:
        """Whether a client may wish this track: it has not wished more than any room has."""
        return track_sid in self._subscriptions or (
            len(self._subscriptions) < MAX_WISHES and is_possible_sid(track_sid)
        )

    def want(self, track_sid: str, *, is_wanted: bool, now: float) -> Subscription:
        """Express a wish; the time of an unchanged wish stays."""
        subscription = self._subscriptions.get(track_sid)
        if subscription is None:
            subscription = Subscription(track_sid, is_wanted, now)
            self._subscriptions[track_sid] = subscription
        elif subscription.is_wanted != is_wanted:
            subscription.is_wanted = is_wanted
            subscription.wanted_at = now
        return subscription

    def drop(self, track_sid: str) -> None:
        """Forget wish and setting."""
        self._subscriptions.pop(track_sid, None)
        self._settings.pop(track_sid, None)

    def forget_settings(self) -> None:
        """All of them, also those for tracks that were never wanted."""
        self._settings.clear()

    def setting(self, track_sid: str) -> TrackSetting:
        """What was asked for a track, or what its first layer choice is without being asked."""
        quality = LOW if self._has_adaptive_stream else HIGH
        return self._settings.get(track_sid) or TrackSetting(quality=quality)

    def set_setting(self, track_sid: str, setting: TrackSetting) -> bool:
        """False when a client set more tracks than any room has."""
        if track_sid not in self._settings and (
            len(self._settings) >= MAX_WISHES or not is_possible_sid(track_sid)
        ):
            return False
        self._settings[track_sid] = setting
        return True

    def enable_at_bind(self, track_sid: str) -> None:
        """An adaptive-stream client says "disabled" of elements not attached yet: start enabled."""
        setting = self.setting(track_sid)
        if self._has_adaptive_stream and setting.is_disabled:
            self._settings[track_sid] = replace(setting, is_disabled=False)

    def bind(self, subscription: Subscription, sender: int) -> None:
        """The subscription has an engine sender now."""
        subscription.sender = sender
        self._by_sender[sender] = subscription
        self._publishers[subscription.publisher_sid] += 1

    def unbind(self, subscription: Subscription) -> int | None:
        """The sender it had."""
        sender, subscription.sender = subscription.sender, None
        if sender is not None:
            del self._by_sender[sender]
            self._publishers[subscription.publisher_sid] -= 1
            if self._publishers[subscription.publisher_sid] == 0:
                del self._publishers[subscription.publisher_sid]
        return sender

    def by_sender(self, sender: int) -> Subscription | None:
        """The subscription an engine sender is for."""
        return self._by_sender.get(sender)

    def count(self, kind: Kind) -> int:
        """How many of a kind were given to the negotiation."""
        return sum(track.kind == kind for track in self.down_tracks())

    def publishers(self) -> Set[str]:
        """Sids of the participants at least one of whose tracks is being sent."""
        return self._publishers.keys()

    def senders_from(self, publisher_sid: str) -> int:
        """How many tracks of a participant are being sent."""
        return self._publishers[publisher_sid]

    def down_tracks(self) -> tuple[DownTrack, ...]:
        """Everything given to the negotiation, in order of subscription."""
        return tuple(
            subscription.down_track
            for subscription in self._subscriptions.values()
            if subscription.down_track is not None
        )


def standing(
    subscription: Subscription,
    directory: Directory,
    *,
    identity: str,
    can_subscribe: bool,
    is_recorder: bool,
) -> Standing:
    """Where a subscription stands now."""
    if not subscription.is_wanted:
        return Standing.UNWANTED
    track = directory.tracks.get(subscription.track_sid)
    if track is None:
        return Standing.UNKNOWN
    if not can_subscribe or not (is_recorder or track.allows(identity)):
        return Standing.DENIED
    if subscription.track_sid not in directory.shown and not track.is_publisher_hidden:
        return Standing.NOT_SHOWN
    return Standing.READY
