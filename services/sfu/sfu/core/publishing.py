"""The publishing half of a session: its own tracks, from announcement to end.

It answers requests about own tracks, commands the engine's receivers and tells the Room what there
is. Which section carries which track is the negotiation's choice; who gets the track is the
subscribing half's of other sessions.
"""

from __future__ import annotations

from collections.abc import Iterable

from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.connections import Connections
from sfu.core.effects import CodecsChanged, QualityRepeatWanted, Step, TrackGone
from sfu.core.media_commands import (
    AddReceiver,
    ReceiverConfig,
    RemoveTrack,
    RequestKeyframe,
    SetTrackMuted,
    UpdateReceiver,
)
from sfu.core.plans import ReceiverPlan
from sfu.core.publication import (
    Accepted,
    Publications,
    PublishedTrack,
    Refused,
    may_publish,
    receiver_config,
)
from sfu.core.quality import QualityAggregate
from sfu.core.session import SignalSession
from sfu.core.subscription import Directory, LocalTrack

UNPUBLISHED_PROTOCOL = 7  # older clients are told of an ended track by its mute


class Publishing:
    """What one session publishes. Every method takes the step it may add effects and notices to."""

    def __init__(
        self, session: SignalSession, connections: Connections, directory: Directory
    ) -> None:
        self.publications = Publications()
        self.enabled_codecs = session.settings.enabled_codecs
        self._session = session
        self._connections = connections
        self._directory = directory

    # ----------------------------------------------------------------------------- requests

    def add_track(self, request: rtc.AddTrackRequest, step: Step) -> None:
        """An AddTrackRequest: `track_published`, or a `request_response`."""
        outcome = self.publications.announce(
            request, self._session.grants.permission, self.enabled_codecs, self._session.ids
        )
        match outcome:
            case Accepted():
                self._announce(outcome, step)
            case Refused(reason, message):
                self._session.respond_to(step, reason, message, add_track=request)

    def mute(self, track_sid: str, *, is_muted: bool, step: Step) -> bool:
        """Mute or unmute an own track; False when there is no such track."""
        track = self.publications.get(track_sid)
        if track is None:
            return False
        if track.info.muted == is_muted:
            return True
        track.info.muted = is_muted
        for engine_id in track.engine_ids.values():
            step.emit(SetTrackMuted(engine_id, is_muted))
            if track.kind == "video" and not is_muted:
                step.emit(RequestKeyframe(engine_id))
        self.tell_track(track, step)
        if not is_muted:
            step.notices.append(QualityRepeatWanted(self._session.sid))
        return True

    def mute_by_order(self, track_sid: str, *, is_muted: bool, step: Step) -> None:
        """An admin mutes or unmutes: the client is told first, then as by itself."""
        if self.publications.get(track_sid) is None:
            return
        self._session.respond(step, mute=rtc.MuteTrackRequest(sid=track_sid, muted=is_muted))
        self.mute(track_sid, is_muted=is_muted, step=step)

    def unpublish(self, track_sid: str, step: Step) -> None:
        """End an own track from the server's side; the client is told."""
        if not self._end_track(track_sid, step):
            return
        if self._session.client.protocol >= UNPUBLISHED_PROTOCOL:
            self._session.respond(
                step, track_unpublished=rtc.TrackUnpublishedResponse(track_sid=track_sid)
            )
        else:
            self._session.respond(step, mute=rtc.MuteTrackRequest(sid=track_sid, muted=True))

    def unpublish_forbidden(self, permission: models.ParticipantPermission, step: Step) -> None:
        """End the tracks that a changed permission no longer allows."""
        for track in self.publications:
            if not may_publish(permission, track.info.source):
                self.unpublish(track.sid, step)

    # ------------------------------------------------------------------ what others are told

    def tell_track(self, track: PublishedTrack, step: Step) -> None:
        """Tell the Room a published track's TrackInfo as it is now."""
        if not track.is_published:
            return
        track.touch(step.wall_ms)
        changed = room_pb2.TrackChanged(track=track.info.SerializeToString())
        self._session.tell_room(step, track_changed=changed)

    def tell_subscribed(self, track: PublishedTrack, step: Step) -> None:
        """Tell the client that somebody gets its track: `track_subscribed`, once a track."""
        if track.is_subscribed_told or self._session.is_old_native:
            return
        track.is_subscribed_told = True
        self._session.respond(step, track_subscribed=rtc.TrackSubscribed(track_sid=track.sid))

    # ---------------------------------------------------------------- negotiation and engine

    def end_receivers(self, plans: Iterable[ReceiverPlan], step: Step) -> None:
        """The client stopped sending on sections."""
        for plan in plans:
            self._end_receiver(plan, step)

    def take_receivers(
        self, added: Iterable[ReceiverPlan], changed: Iterable[ReceiverPlan], step: Step
    ) -> None:
        """The client sends on sections, or in another way than before."""
        for plan in added:
            self._add_receiver(plan, step)
        for plan in changed:
            self._change_receiver(plan, step)

    def publish_matched(self, step: Step) -> None:
        """Publish what needs no packet to be published."""
        for track in self.publications:
            is_certain = not track.is_by_rid or track.info.muted
            if not track.is_published and track.engine_id is not None and is_certain:
                self._publish(track, step)

    def encoding_started(
        self, engine_id: int, spatial_layer: int, rid: str | None, ssrc: int, mime: str, step: Step
    ) -> None:
        """The first packet of an encoding: publishes a track told apart by rid.

        That of a backup codec lets the primary codec give way to it.
        """
        found = self.publications.by_engine_id(engine_id)
        if found is None:
            return
        track, codec_index = found
        before = track.info.SerializeToString(deterministic=True)
        track.place(codec_index, spatial_layer, ssrc, rid or "")
        if track.correct_mime(codec_index, mime):
            self._list_engine_tracks(track)
            step.notices.append(CodecsChanged(track.sid))
        if codec_index and codec_index not in track.flowing_backups:
            track.flowing_backups.add(codec_index)
            step.notices.append(CodecsChanged(track.sid))
        if not track.is_published:
            self._publish(track, step)
        elif track.info.SerializeToString(deterministic=True) != before:
            self.tell_track(track, step)

    def leave_stage(self, step: Step) -> None:
        """The tracks go on in another room: here nobody gets them any more."""
        for track in self.publications:
            step.notices.append(TrackGone(track.sid))

    def enter_stage(self, directory: Directory, step: Step) -> None:
        """The tracks are in another room now, which is told of them; nobody there has one yet."""
        self._directory = directory
        for track in self.publications:
            track.is_subscribed_told = False
            if track.engine_ids:
                self._list_engine_tracks(track)
            if track.is_published:
                self._publish(track, step)

    def close(self, step: Step) -> None:
        """The session is over: nothing is received any more."""
        for track in self.publications:
            self._free_track(track, step)

    # ------------------------------------------------------------------------------ private

    def _announce(self, accepted: Accepted, step: Step) -> None:
        self._session.respond(
            step,
            track_published=rtc.TrackPublishedResponse(cid=accepted.cid, track=accepted.track.info),
        )
        if accepted.track.is_published:
            self.tell_track(accepted.track, step)
        self._match_pending(step)

    def _match_pending(self, step: Step) -> None:
        answers = self._connections.answers
        if answers is None or not self._connections.has_answered:
            return
        for plan in answers.match_pending(self.publications.announced()):
            self._add_receiver(plan, step)
        self.publish_matched(step)

    def _add_receiver(self, plan: ReceiverPlan, step: Step) -> None:
        track = self.publications.get(plan.track_sid)
        if track is None:
            return
        engine_id = self._session.own()
        track.accept(plan, engine_id)
        pc_id = self._connections.publisher.id
        step.emit(AddReceiver(pc_id, engine_id, _config(track, plan)))
        if track.info.muted:
            step.emit(SetTrackMuted(engine_id, muted=True))
        self._list_engine_tracks(track)
        if track.is_published:
            self.tell_track(track, step)
            step.notices.append(CodecsChanged(track.sid))

    def _change_receiver(self, plan: ReceiverPlan, step: Step) -> None:
        track = self.publications.get(plan.track_sid)
        engine_id = track.engine_ids.get(plan.codec_index) if track else None
        if track is None or engine_id is None:
            return
        before = track.info.SerializeToString(deterministic=True)
        # Packets said what the codec really is; an answer says only what we asked for.
        mime = track.info.codecs[plan.codec_index].mime_type
        track.accept(plan, engine_id)
        track.correct_mime(plan.codec_index, mime)
        step.emit(UpdateReceiver(engine_id, _config(track, plan)))
        if track.info.SerializeToString(deterministic=True) != before:
            self.tell_track(track, step)

    def _list_engine_tracks(self, track: PublishedTrack) -> None:
        local = self._directory.local.setdefault(track.sid, LocalTrack(self._session.sid))
        local.engine_ids = {
            track.mime_of(codec_index): engine_id
            for codec_index, engine_id in track.engine_ids.items()
        }

    def _publish(self, track: PublishedTrack, step: Step) -> None:
        track.is_published = True
        if track.kind == "video" or len(track.info.codecs) > 1:
            track.quality = QualityAggregate(step.now, self._session.settings.downgrade_delay)
        self.tell_track(track, step)

    def _end_receiver(self, plan: ReceiverPlan, step: Step) -> None:
        track = self.publications.get(plan.track_sid)
        if track is None:
            return
        if plan.codec_index == 0:
            self._end_track(plan.track_sid, step)
            return
        engine_id = track.abandon(plan.codec_index)
        if engine_id is not None:
            self._session.disown(engine_id)
            step.emit(RemoveTrack(engine_id))
            self._list_engine_tracks(track)
            self.tell_track(track, step)
            step.notices.append(CodecsChanged(track.sid))

    def _end_track(self, track_sid: str, step: Step) -> bool:
        track, next_up = self.publications.end(track_sid, self.enabled_codecs, self._session.ids)
        if track is None:
            return False
        self._free_track(track, step)
        if track.is_published:
            ended = room_pb2.TrackEnded(track_sid=track_sid)
            self._session.tell_room(step, track_ended=ended)
        if next_up is not None:
            self._announce(next_up, step)
        return True

    def _free_track(self, track: PublishedTrack, step: Step) -> None:
        for engine_id in track.engine_ids.values():
            self._session.disown(engine_id)
            step.emit(RemoveTrack(engine_id))
        track.engine_ids.clear()
        self._directory.local.pop(track.sid, None)
        step.notices.append(TrackGone(track.sid))


def _config(track: PublishedTrack, plan: ReceiverPlan) -> ReceiverConfig:
    is_microphone = track.info.source == models.TrackSource.MICROPHONE
    return receiver_config(plan, measure_level=plan.kind == "audio" and is_microphone)
