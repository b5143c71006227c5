"""The guests of one stage: participants of other rooms of the node, followed by their images.

What a guest's room says becomes facts for the Room here, as if it had a session, and rows of
`Directory.local`, so that sessions here get senders on the engine tracks of the other room.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from livekit.protocol import models

from contracts.room.v1 import room_pb2
from sfu.core.effects import CodecsChanged, Step, TellRoom
from sfu.core.forwarding import (
    GuestAdmitted,
    GuestEnded,
    GuestRefused,
    Image,
    WishArrived,
    WishTold,
)
from sfu.core.subscription import Directory, LocalTrack


@dataclass(slots=True)
class _Guest:
    image: Image | None = None
    profile: room_pb2.ProfileFollowed = field(default_factory=room_pb2.ProfileFollowed)
    tracks: dict[str, models.TrackInfo] = field(default_factory=dict)


class Guests:
    """Who is shown here and is not here."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._by_sid: dict[str, _Guest] = {}

    def __len__(self) -> int:
        return len(self._by_sid)

    def __contains__(self, participant_sid: str) -> bool:
        return participant_sid in self._by_sid

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._by_sid))

    def announce(self, sid: str, joining: room_pb2.JoinRequested, step: Step) -> None:
        """Ask the Room to show somebody."""
        profile = room_pb2.ProfileFollowed(
            name=joining.name, metadata=joining.metadata, attributes=dict(joining.attributes)
        )
        self._by_sid[sid] = _Guest(profile=profile)
        _tell(step, sid, join_requested=joining)

    def change(self, sid: str, image: Image, step: Step) -> None:
        """Bring what is shown here to what the image says; nothing for one who ended meanwhile."""
        guest = self._by_sid.get(sid)
        if guest is None:
            return
        before, guest.image = guest.image, image
        info = models.ParticipantInfo.FromString(image.info)
        profile = room_pb2.ProfileFollowed(
            name=info.name, metadata=info.metadata, attributes=dict(info.attributes)
        )
        if profile != guest.profile:
            guest.profile = profile
            _tell(step, sid, profile_followed=profile)
        if image.restriction is not None and (
            before is None or before.restriction != image.restriction
        ):
            changed = room_pb2.SubscriptionPermissionChanged(permission=image.restriction)
            _tell(step, sid, subscription_permission_changed=changed)
        self._follow_tracks(sid, guest, image, info, step)

    def _follow_tracks(
        self, sid: str, guest: _Guest, image: Image, info: models.ParticipantInfo, step: Step
    ) -> None:
        tracks = {track.sid: track for track in info.tracks}
        for track_sid in guest.tracks.keys() - tracks.keys():
            _tell(step, sid, track_ended=room_pb2.TrackEnded(track_sid=track_sid))
        for track_sid, track in tracks.items():
            media = image.media.get(track_sid)
            local = LocalTrack(sid)
            if media is not None:
                local = LocalTrack(sid, dict(media.ids), media.suspended)
            if self._directory.local.get(track_sid) != local:
                self._directory.local[track_sid] = local
                step.notices.append(CodecsChanged(track_sid))
            if guest.tracks.get(track_sid) != track:
                changed = room_pb2.TrackChanged(track=track.SerializeToString())
                _tell(step, sid, track_changed=changed)
        guest.tracks = tracks

    def end(self, sid: str, reason: int, step: Step) -> None:
        """It is over: the Room delists what is left of it."""
        if self._by_sid.pop(sid, None) is not None:
            _tell(step, sid, left=room_pb2.Left(reason=reason))
            step.emit(GuestEnded(sid))

    def take_order(self, sid: str, order: room_pb2.Order, step: Step) -> None:
        """Most orders are for sessions, and void here."""
        match order.WhichOneof("order"):
            case "admit":
                _tell(step, sid, activated=room_pb2.Activated())
                step.emit(GuestAdmitted(sid))
            case "refuse":
                del self._by_sid[sid]
                step.emit(GuestRefused(sid, order.refuse.code, order.refuse.message))
            case "end":
                self.end(sid, order.end.reason, step)
            case _:
                pass

    def speaker(self, engine_track: int) -> str | None:
        """Whose track this is, if a guest's."""
        for sid, guest in self._by_sid.items():
            if guest.image is not None and guest.image.has_media(engine_track):
                return sid
        return None

    def tell_wish(
        self, subscriber_sid: str, track_sid: str, wanted: tuple[str, int], step: Step
    ) -> None:
        """Somebody here wants this codec and quality of a track, or with codec "" nothing more."""
        local = self._directory.local.get(track_sid)
        if local is not None and local.publisher_sid in self._by_sid:
            codec, quality = wanted
            wish = WishArrived(local.publisher_sid, track_sid, subscriber_sid, codec, quality)
            step.emit(WishTold(wish))


def _tell(step: Step, sid: str, **fact: object) -> None:
    step.emit(TellRoom(room_pb2.Fact(participant_sid=sid, **fact)))  # type: ignore[arg-type]
