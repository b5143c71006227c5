"""The subscribing half of a session: from wishes to senders of the engine.

It brings every Subscription to where it should be, gives it numbers and a section, binds a sender
when the client accepted, and gives up what cannot be had. Other sessions' tracks are seen only
through the directory. Not bandwidth: the engine pauses senders by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from livekit.protocol import models, rtc

from sfu.core.connections import Connections
from sfu.core.effects import Bound, LayersWanted, Step, Unbound
from sfu.core.media_commands import (
    AddSender,
    RemoveSender,
    RequestKeyframe,
    SenderConfig,
    SetSenderLayers,
)
from sfu.core.plans import Answered, Applied, DownTrack, SenderPlan
from sfu.core.quality import TrackSetting, WantedLayers, wanted_layers
from sfu.core.session import Opening, SignalSession
from sfu.core.subscription import (
    Directory,
    DirectoryTrack,
    Standing,
    Subscription,
    Subscriptions,
    standing,
)


class Subscribing:
    """What one session gets. Every method takes the step it may add effects and notices to."""

    def __init__(
        self,
        session: SignalSession,
        connections: Connections,
        directory: Directory,
        opening: Opening,
    ) -> None:
        wishes = opening.request.connection_settings
        self.subscriptions = Subscriptions(has_adaptive_stream=wishes.adaptive_stream)
        self._is_automatic = wishes.auto_subscribe
        self._session = session
        self._connections = connections
        self._directory = directory

    # ------------------------------------------------------------------------------- wishes

    def subscribe(self, track_sid: str, *, is_wanted: bool, step: Step) -> None:
        """The client or an admin wishes a track, or no longer."""
        self.subscriptions.want(track_sid, is_wanted=is_wanted, now=step.now)
        self.reconcile(track_sid, step)

    def set_track(self, track_sid: str, setting: TrackSetting, step: Step) -> None:
        """UpdateTrackSettings for one track, subscribed or not yet."""
        if not self.subscriptions.set_setting(track_sid, setting):
            return
        subscription = self.subscriptions.get(track_sid)
        track = self._directory.tracks.get(track_sid)
        if subscription is None or subscription.sender is None or track is None:
            return
        wanted = wanted_layers(track.info, setting)
        step.emit(
            SetSenderLayers(
                subscription.sender,
                wanted.spatial_layer,
                wanted.temporal_layer,
                wanted.is_paused,
            )
        )
        step.notices.append(LayersWanted(self._session.sid, track_sid))

    def wanted_layers(self, track_sid: str) -> WantedLayers | None:
        """What this session wants of a track it gets; None when it gets none."""
        subscription = self.subscriptions.get(track_sid)
        track = self._directory.tracks.get(track_sid)
        if subscription is None or subscription.sender is None or track is None:
            return None
        return wanted_layers(track.info, self.subscriptions.setting(track_sid))

    # ---------------------------------------------------------------------------- directory

    def track_listed(self, track_sid: str, step: Step) -> None:
        """The directory has a new or changed row."""
        track = self._directory.tracks.get(track_sid)
        if track is None or track.publisher_sid == self._session.sid:
            return
        is_automatic = self._is_automatic and not track.is_publisher_hidden
        if is_automatic and self.subscriptions.get(track_sid) is None:
            self.subscriptions.want(track_sid, is_wanted=True, now=step.now)
        self.reconcile(track_sid, step)

    def track_delisted(self, track_sid: str, step: Step) -> None:
        """The track is gone: the section goes, and so does the wish."""
        subscription = self.subscriptions.get(track_sid)
        if subscription is not None:
            self._deactivate(subscription, step)
            self.subscriptions.drop(track_sid)

    def reconcile_all(self, step: Step) -> None:
        """Look at every track of the room and every wish."""
        for track_sid in list(self._directory.tracks):
            self.track_listed(track_sid, step)
        for subscription in self.subscriptions:
            self.reconcile(subscription.track_sid, step)

    def reconcile(self, track_sid: str, step: Step) -> None:
        """Bring one subscription to where it should be."""
        session = self._session
        subscription = self.subscriptions.get(track_sid)
        if subscription is None or not session.is_told:
            return
        state = standing(
            subscription,
            self._directory,
            identity=session.identity,
            can_subscribe=session.grants.permission.can_subscribe,
            is_recorder=session.grants.is_recorder,
        )
        track = self._directory.tracks.get(track_sid)
        if track is not None and track.publisher_sid == session.sid:
            return
        if track is not None and state in (Standing.DENIED, Standing.READY):
            self._tell_allowed(subscription, track, is_allowed=state is Standing.READY, step=step)
        if state is Standing.READY and track is not None:
            if subscription.down_track is None:
                self._activate(subscription, track, step)
        else:
            self._deactivate(subscription, step)
        session.touch(step)

    # ---------------------------------------------------------------- negotiation and engine

    def remove_senders(self, plans: Iterable[SenderPlan], step: Step) -> None:
        """Sections no longer carry these."""
        for plan in plans:
            self._unbind_by_track(plan.track_sid, step)

    def take_senders(self, outcome: Answered | Applied, step: Step) -> None:
        """The client accepted sections, changed or refused them."""
        for plan in outcome.senders_added:
            self._bind(plan, step)
        for plan in outcome.senders_changed:
            self._unbind_by_track(plan.track_sid, step)
            self._bind(plan, step)
        for track_sid in outcome.codec_unsupported:
            self._give_up(track_sid, models.SubscriptionError.SE_CODEC_UNSUPPORTED, step)

    def sender_flows(self, sender: int, spatial_layer: int, step: Step) -> None:
        """The engine forwards something: say so once for video."""
        subscription = self.subscriptions.by_sender(sender)
        if subscription is None or subscription.is_flowing or spatial_layer < 0:
            return
        subscription.is_flowing = True
        track = self._directory.tracks.get(subscription.track_sid)
        if track is None or track.info.type != models.TrackType.VIDEO:
            return
        self._session.respond(
            step,
            stream_state_update=rtc.StreamStateUpdate(
                stream_states=[
                    rtc.StreamStateInfo(
                        participant_sid=subscription.publisher_sid,
                        track_sid=subscription.track_sid,
                        state=rtc.StreamState.ACTIVE,
                    )
                ]
            ),
        )

    def request_keyframes(self, step: Step) -> None:
        """The client lost time: every video needs a frame to start from."""
        for subscription in self.subscriptions:
            down = subscription.down_track
            engine_track = self._directory.engine_ids.get(subscription.track_sid)
            if subscription.sender is None or down is None or engine_track is None:
                continue
            if down.kind == "video":
                step.emit(RequestKeyframe(engine_track))

    def close(self, step: Step) -> None:
        """The session is over: nothing is sent any more."""
        for subscription in self.subscriptions:
            self._unbind(subscription, step)

    # --------------------------------------------------------------------------------- time

    def tick(self, step: Step) -> None:
        """Give up tracks that never came to be known."""
        for subscription in self.subscriptions:
            if self._is_unknown(subscription) and step.now >= self._unknown_until(subscription):
                self._give_up(
                    subscription.track_sid, models.SubscriptionError.SE_TRACK_NOTFOUND, step
                )
                self.subscriptions.drop(subscription.track_sid)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        return min(
            (
                self._unknown_until(subscription)
                for subscription in self.subscriptions
                if self._is_unknown(subscription)
            ),
            default=None,
        )

    # ------------------------------------------------------------------------------ private

    def _activate(self, subscription: Subscription, track: DirectoryTrack, step: Step) -> None:
        ids = self._session.ids
        is_video = track.info.type == models.TrackType.VIDEO
        mimes = [codec.mime_type.lower() for codec in track.info.codecs if codec.mid]
        subscription.publisher_sid = track.publisher_sid
        subscription.down_track = DownTrack(
            track_sid=track.info.sid,
            kind="video" if is_video else "audio",
            stream=f"{track.publisher_sid}|{track.info.sid}",
            mimes=tuple(mimes[:1]) or (track.info.mime_type.lower(),),
            ssrc=ids.number(1, 2**32 - 1),
            rtx_ssrc=ids.number(1, 2**32 - 1) if is_video else None,
            stereo=track.info.stereo,
            encrypted=track.info.encryption != models.Encryption.Type.NONE,
        )
        self._connections.place(subscription.down_track)
        self._connections.want_negotiation(step)

    def _deactivate(self, subscription: Subscription, step: Step) -> None:
        if subscription.down_track is None:
            return
        self._unbind(subscription, step)
        subscription.down_track = None
        self._connections.displace(subscription.track_sid)
        self._connections.want_negotiation(step)

    def _bind(self, plan: SenderPlan, step: Step) -> None:
        subscription = self.subscriptions.get(plan.track_sid)
        engine_track = self._directory.engine_ids.get(plan.track_sid)
        track = self._directory.tracks.get(plan.track_sid)
        if (
            subscription is None
            or subscription.down_track is None
            or subscription.sender is not None
            or engine_track is None
            or track is None
        ):
            return
        self.subscriptions.enable_at_bind(plan.track_sid)
        sender = self._session.own()
        self.subscriptions.bind(subscription, sender)
        wanted = wanted_layers(track.info, self.subscriptions.setting(plan.track_sid))
        step.emit(
            AddSender(
                self._connections.sending.id,
                sender,
                SenderConfig(
                    track=engine_track,
                    mid=plan.mid,
                    ssrc=plan.ssrc,
                    rtx_ssrc=plan.rtx_ssrc,
                    cname=plan.cname,
                    codecs=plan.codecs,
                    extensions=plan.extensions,
                    max_spatial_layer=wanted.spatial_layer,
                    max_temporal_layer=wanted.temporal_layer,
                    paused=wanted.is_paused,
                ),
            )
        )
        if plan.kind == "video":
            step.emit(RequestKeyframe(engine_track))
        step.notices.append(Bound(self._session.sid, plan.track_sid))

    def _unbind_by_track(self, track_sid: str, step: Step) -> None:
        subscription = self.subscriptions.get(track_sid)
        if subscription is not None:
            self._unbind(subscription, step)

    def _unbind(self, subscription: Subscription, step: Step) -> None:
        sender = self.subscriptions.unbind(subscription)
        if sender is None:
            return
        self._session.disown(sender)
        step.emit(RemoveSender(sender))
        step.notices.append(Unbound(self._session.sid, subscription.track_sid))

    def _tell_allowed(
        self, subscription: Subscription, track: DirectoryTrack, *, is_allowed: bool, step: Step
    ) -> None:
        if subscription.told_allowed is is_allowed:
            return
        subscription.told_allowed = is_allowed
        self._session.respond(
            step,
            subscription_permission_update=rtc.SubscriptionPermissionUpdate(
                participant_sid=track.publisher_sid,
                track_sid=track.info.sid,
                allowed=is_allowed,
            ),
        )

    def _give_up(self, track_sid: str, error: models.SubscriptionError, step: Step) -> None:
        subscription = self.subscriptions.get(track_sid)
        if subscription is None:
            return
        self._unbind(subscription, step)
        if subscription.down_track is not None:
            self._connections.displace(track_sid)
        subscription.down_track = None
        # The wish stays as "no": auto-subscribe must not try the same track again.
        subscription.is_wanted = False
        self._session.respond(
            step,
            subscription_response=rtc.SubscriptionResponse(track_sid=track_sid, err=error),
        )

    def _is_unknown(self, subscription: Subscription) -> bool:
        return subscription.is_wanted and subscription.track_sid not in self._directory.tracks

    def _unknown_until(self, subscription: Subscription) -> float:
        return subscription.wanted_at + self._session.settings.unknown_track_timeout
