"""The data tracks one session gets: wishes, permissions, and the handles the client knows them by.

A client is told the complete map of its handles at every change. Wishes outlive the tracks'
absence, and are given up when a track never came to be known. The wished frame rate
(`target_fps`) is not acted on, as in LiveKit. Not the packets (stage.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from livekit.protocol import models, rtc

from sfu.core.data_tracks import DataTrackRow, DataTracks
from sfu.core.effects import Step
from sfu.core.limits import MAX_WISHES, is_possible_sid
from sfu.core.session import Opening, SignalSession


@dataclass(slots=True)
class DataWish:
    """What the client said of one data track, and what it was told."""

    is_wanted: bool
    wanted_at: float
    told_allowed: bool | None = None


class DataSubscribing:
    """What one session gets by handle. Every method takes the step it may add effects to."""

    def __init__(self, session: SignalSession, tracks: DataTracks, opening: Opening) -> None:
        self._session = session
        self._tracks = tracks
        self._is_automatic = opening.request.connection_settings.auto_subscribe_data_track
        self._wishes: dict[str, DataWish] = {}
        self._handled: dict[str, int] = {}  # track sid -> handle, as the client knows it
        self._is_changed = False
        self._was_told = False

    def update(self, request: rtc.UpdateDataSubscription, step: Step) -> None:
        """The client wants data tracks, or no longer."""
        for update in request.updates[:MAX_WISHES]:
            self._want(update.track_sid, is_wanted=update.subscribe, now=step.now)
            self._reconcile(update.track_sid, step)
        self._tell(step)

    def track_listed(self, track_sid: str, step: Step) -> None:
        """There is a new or changed data track."""
        self._consider(track_sid, step)
        self._tell(step)

    def track_delisted(self, track_sid: str, step: Step) -> None:
        """A data track is gone, and so is the wish for it."""
        self._wishes.pop(track_sid, None)
        self._deactivate(track_sid)
        self._tell(step)

    def reconcile_all(self, step: Step) -> None:
        """Look at every data track of the room and every wish."""
        for row in self._tracks:
            self._consider(row.info.sid, step)
        self._tell(step)

    def repeat(self, step: Step) -> None:
        """After a resume: what was said without a socket is said again."""
        self._is_changed = self._was_told
        self._tell(step)

    def close(self) -> None:
        """The session is over: nothing is sent any more."""
        for track_sid in list(self._handled):
            self._deactivate(track_sid)

    def leave_stage(self) -> None:
        """Another room's data tracks are wanted from now on."""
        self.close()
        self._wishes.clear()

    def enter_stage(self, tracks: DataTracks, step: Step) -> None:
        """Subscribe in another room as the client wished when it joined."""
        self._tracks = tracks
        self.reconcile_all(step)

    # --------------------------------------------------------------------------------- time

    def tick(self, step: Step) -> None:
        """Give up data tracks that never came to be known."""
        for track_sid, wish in list(self._wishes.items()):
            if self._is_unknown(track_sid, wish) and step.now >= self._unknown_until(wish):
                del self._wishes[track_sid]
                response = rtc.SubscriptionResponse(
                    track_sid=track_sid, err=models.SubscriptionError.SE_TRACK_NOTFOUND
                )
                self._session.respond(step, subscription_response=response)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        return min(
            (
                self._unknown_until(wish)
                for track_sid, wish in self._wishes.items()
                if self._is_unknown(track_sid, wish)
            ),
            default=None,
        )

    # ------------------------------------------------------------------------------ private

    def _want(self, track_sid: str, *, is_wanted: bool, now: float) -> None:
        wish = self._wishes.get(track_sid)
        if wish is None:
            if len(self._wishes) < MAX_WISHES and is_possible_sid(track_sid):
                self._wishes[track_sid] = DataWish(is_wanted, now)
        elif wish.is_wanted != is_wanted:
            wish.is_wanted, wish.wanted_at = is_wanted, now

    def _consider(self, track_sid: str, step: Step) -> None:
        row = self._tracks.get(track_sid)
        if row is None:
            return
        if self._is_automatic and not row.is_publisher_hidden and track_sid not in self._wishes:
            self._want(track_sid, is_wanted=True, now=step.now)
        self._reconcile(track_sid, step)

    def _reconcile(self, track_sid: str, step: Step) -> None:
        session = self._session
        wish, row = self._wishes.get(track_sid), self._tracks.get(track_sid)
        session.touch(step)
        if wish is None or not session.is_told:
            return
        if row is None or not wish.is_wanted or row.publisher_sid == session.sid:
            self._deactivate(track_sid)
            return
        is_allowed = session.grants.permission.can_subscribe and (
            session.grants.is_recorder or row.allows(session.identity)
        )
        if wish.told_allowed is not is_allowed:
            wish.told_allowed = is_allowed
            self._tell_allowed(row, is_allowed=is_allowed, step=step)
        if not is_allowed:
            self._deactivate(track_sid)
        elif track_sid not in self._handled:
            self._handled[track_sid] = row.handle
            row.subscribers[session.sid] = None
            self._is_changed = True

    def _deactivate(self, track_sid: str) -> None:
        if self._handled.pop(track_sid, None) is None:
            return
        self._is_changed = True
        row = self._tracks.get(track_sid)
        if row is not None:
            row.subscribers.pop(self._session.sid, None)

    def _tell(self, step: Step) -> None:
        if not self._is_changed:
            return
        self._is_changed, self._was_told = False, True
        known = rtc.DataTrackSubscriberHandles.PublishedDataTrack
        handles = {
            handle: known(
                publisher_identity=row.publisher_identity,
                publisher_sid=row.publisher_sid,
                track_sid=track_sid,
            )
            for track_sid, handle in self._handled.items()
            if (row := self._tracks.get(track_sid)) is not None
        }
        self._session.respond(
            step,
            data_track_subscriber_handles=rtc.DataTrackSubscriberHandles(sub_handles=handles),
        )

    def _tell_allowed(self, row: DataTrackRow, *, is_allowed: bool, step: Step) -> None:
        self._session.respond(
            step,
            subscription_permission_update=rtc.SubscriptionPermissionUpdate(
                participant_sid=row.publisher_sid, track_sid=row.info.sid, allowed=is_allowed
            ),
        )

    def _is_unknown(self, track_sid: str, wish: DataWish) -> bool:
        return wish.is_wanted and self._tracks.get(track_sid) is None

    def _unknown_until(self, wish: DataWish) -> float:
        return wish.wanted_at + self._session.settings.unknown_track_timeout
