"""The subscribing half of a session: from wishes to senders of the engine.

It brings every Subscription to where it should be, gives it numbers and a section, binds a sender
when the client accepted, and gives up what cannot be had. Other sessions' tracks are seen only
through the directory. Not bandwidth: the engine pauses senders by itself.
"""

from __future__ import annotations

from collections.abc import Iterable

from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.connections import Connections
from sfu.core.effects import Bound, LayersWanted, Step, Unbound
from sfu.core.media_commands import (
    AddSender,
    RemoveSender,
    RequestKeyframe,
    SenderConfig,
    SetSenderLayers,
)
from sfu.core.plans import Answered, Applied, DownTrack, Kind, SenderPlan
from sfu.core.quality import TrackSetting, WantedLayers, wanted_layers
from sfu.core.session import Opening, SignalSession
from sfu.core.subscription import (
    Directory,
    DirectoryTrack,
    Standing,
    Subscription,
    Subscriptions,
    standing,
    upstream_mimes,
)

KEEPS_TRAILERS = models.ClientInfo.Capability.CAP_PACKET_TRAILER


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
        self._keeps_trailers = KEEPS_TRAILERS in opening.client.capabilities
        self._sif_trailer = b""
        self._playout_delay: tuple[int, int] | None = None
        self._active_at: float | None = None
        self._settings_due: dict[str, float] = {}

    def take_room(self, order: room_pb2.Admit) -> None:
        """What the room says of everything sent in it."""
        self._sif_trailer = order.sif_trailer
        self._take_playout_delay(order)

    def _take_playout_delay(self, order: room_pb2.Admit) -> None:
        delay = (order.min_playout_delay_ms, order.max_playout_delay_ms)
        self._playout_delay = delay if order.max_playout_delay_ms else None

    # ------------------------------------------------------------------------------- wishes

    def subscribe(self, track_sid: str, *, is_wanted: bool, step: Step) -> None:
        """The client or an admin wishes a track, or no longer."""
        if not self.subscriptions.has_room_for(track_sid):
            return
        subscription = self.subscriptions.want(track_sid, is_wanted=is_wanted, now=step.now)
        if is_wanted:
            subscription.refused = frozenset()
        self.reconcile(track_sid, step)

    def set_track(self, track_sid: str, setting: TrackSetting, step: Step) -> None:
        """UpdateTrackSettings for one track, subscribed or not yet.

        What was disabled is enabled at once; other changes are gathered for a moment.
        """
        before = self.subscriptions.setting(track_sid)
        if not self.subscriptions.set_setting(track_sid, setting):
            return
        subscription = self.subscriptions.get(track_sid)
        if subscription is None or subscription.plan is None or setting == before:
            return
        if before.is_disabled and not setting.is_disabled:
            self._follow_setting(track_sid, step)
        else:
            due = step.now + self._session.settings.setting_delay
            self._settings_due.setdefault(track_sid, due)
            self._session.touch(step)

    def wanted(self, track_sid: str) -> tuple[str, WantedLayers] | None:
        """The codec and layers this session wants of a track it accepted, sent yet or not."""
        subscription = self.subscriptions.get(track_sid)
        track = self._directory.tracks.get(track_sid)
        if subscription is None or not subscription.codec or track is None:
            return None
        return subscription.codec, self._wanted_layers(subscription, track)

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
            self.subscriptions.drop(track_sid)
            self._settings_due.pop(track_sid, None)
            self._deactivate(subscription, step)

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
            if subscription.down_track is not None:
                self.choose_codec(track_sid, step)
            elif self._may_activate(subscription, track):
                self._activate(subscription, track, step)
        else:
            self._deactivate(subscription, step)
        session.touch(step)

    def choose_codec(self, track_sid: str, step: Step) -> None:
        """Forward the first upstream codec the client accepts, or wait for it.

        A change keeps section, SSRC and numbering: the client sees another payload type.
        """
        subscription = self.subscriptions.get(track_sid)
        track = self._directory.tracks.get(track_sid)
        if subscription is None or subscription.plan is None or track is None:
            return
        accepted = {codec.mime.lower() for codec in subscription.plan.codecs}
        codec = self._directory.choose_codec(track.info, accepted)
        engine_track = self._directory.engine_id(track_sid, codec)
        if engine_track != subscription.engine_track:
            self._replace_sender(subscription, track, codec, engine_track, step)
        elif codec != subscription.codec:
            subscription.codec = codec
            step.notices.append(LayersWanted(self._session.sid, track_sid))

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
            self._give_up(track_sid, step)

    def sender_flows(self, sender: int, spatial_layer: int, step: Step) -> None:
        """The engine forwards something: say so once for video."""
        subscription = self.subscriptions.by_sender(sender)
        if subscription is None or subscription.is_flowing or spatial_layer < 0:
            return
        subscription.is_flowing = True
        if not subscription.is_paused:
            self._tell_stream_state(subscription, step)

    def sender_paused(self, sender: int, *, is_paused: bool, step: Step) -> None:
        """Congestion paused a sender, or lets it go on."""
        subscription = self.subscriptions.by_sender(sender)
        if subscription is None or subscription.is_paused is is_paused:
            return
        subscription.is_paused = is_paused
        if is_paused or subscription.is_flowing:
            self._tell_stream_state(subscription, step)

    def activated(self, step: Step) -> None:
        """The client's media is up: from now on what it accepts should come."""
        self._active_at = step.now

    def request_keyframes(self, step: Step) -> None:
        """The client lost time: every video needs a frame to start from."""
        for subscription in self.subscriptions:
            down, engine_track = subscription.down_track, subscription.engine_track
            if down is not None and engine_track is not None and down.kind == "video":
                step.emit(RequestKeyframe(engine_track))

    def leave_stage(self, step: Step) -> None:
        """Another room's tracks are wanted from now on: these end, and so do all wishes."""
        for subscription in self.subscriptions:
            self._deactivate(subscription, step)
            self.subscriptions.drop(subscription.track_sid)
        self.subscriptions.forget_settings()
        self._settings_due.clear()

    def enter_stage(self, directory: Directory, admit: room_pb2.Admit, step: Step) -> None:
        """Subscribe in another room as the client wished when it joined.

        The marker of injected frames stays that of the first room: the client was told no other.
        """
        self._take_playout_delay(admit)
        self._directory = directory
        self.reconcile_all(step)

    def close(self, step: Step) -> None:
        """The session is over: nothing is sent any more."""
        for subscription in self.subscriptions:
            self._unbind(subscription, step)

    # --------------------------------------------------------------------------------- time

    def tick(self, step: Step) -> None:
        """Follow gathered settings, give up unknown tracks, and say which ones never came."""
        for track_sid, due in list(self._settings_due.items()):
            if step.now >= due:
                self._follow_setting(track_sid, step)
        for subscription in self.subscriptions:
            due_at = self._due(subscription)
            if due_at is None or step.now < due_at:
                continue
            if subscription.down_track is None:
                self.subscriptions.drop(subscription.track_sid)
                self._tell_error(subscription, models.SubscriptionError.SE_TRACK_NOTFOUND, step)
            else:
                subscription.is_lateness_told = True
                self._tell_error(subscription, models.SubscriptionError.SE_UNKNOWN, step)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        times = [*self._settings_due.values(), *map(self._due, self.subscriptions)]
        return min((time for time in times if time is not None), default=None)

    # ------------------------------------------------------------------------------ private

    def _may_activate(self, subscription: Subscription, track: DirectoryTrack) -> bool:
        """Whether the client may take one of the codecs, and has room for one more of the kind."""
        if subscription.refused and subscription.refused.issuperset(upstream_mimes(track.info)):
            return False
        limit = self._limit(track)
        return not limit or self.subscriptions.count(_kind_of(track)) < limit

    def _limit(self, track: DirectoryTrack) -> int:
        settings = self._session.settings
        is_video = track.info.type == models.TrackType.VIDEO
        return settings.subscription_limit_video if is_video else settings.subscription_limit_audio

    def _activate(self, subscription: Subscription, track: DirectoryTrack, step: Step) -> None:
        ids = self._session.ids
        is_video = track.info.type == models.TrackType.VIDEO
        is_synced = self._connections.has_synced_streams
        stream = track.info.stream if is_synced and track.info.stream else track.info.sid
        subscription.publisher_sid = track.publisher_sid
        subscription.offered_at = step.now
        subscription.down_track = DownTrack(
            track_sid=track.info.sid,
            kind=_kind_of(track),
            stream=f"{track.publisher_sid}|{stream}",
            mimes=upstream_mimes(track.info),
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
        kind = subscription.down_track.kind
        subscription.down_track = None
        subscription.is_lateness_told = False
        self._connections.displace(subscription.track_sid)
        self._connections.want_negotiation(step)
        self._start_waiting(kind, step)

    def _start_waiting(self, kind: Kind, step: Step) -> None:
        """One subscription of the kind was freed: those beyond the limit may begin."""
        for subscription in self.subscriptions:
            track = self._directory.tracks.get(subscription.track_sid)
            is_waiting = subscription.is_wanted and subscription.down_track is None
            if track is not None and is_waiting and _kind_of(track) == kind and self._limit(track):
                self.reconcile(subscription.track_sid, step)

    def _bind(self, plan: SenderPlan, step: Step) -> None:
        subscription = self.subscriptions.get(plan.track_sid)
        if subscription is None or subscription.down_track is None or subscription.plan is not None:
            return
        self.subscriptions.enable_at_bind(plan.track_sid)
        subscription.plan = plan
        self.choose_codec(plan.track_sid, step)

    def _replace_sender(
        self,
        subscription: Subscription,
        track: DirectoryTrack,
        codec: str,
        engine_track: int | None,
        step: Step,
    ) -> None:
        self._remove_sender(subscription, step)
        subscription.codec = codec
        if engine_track is None or subscription.plan is None:
            # The publisher is told by dynacast that somebody needs this codec.
            step.notices.append(LayersWanted(self._session.sid, subscription.track_sid))
            return
        sender = self._session.own()
        subscription.engine_track = engine_track
        self.subscriptions.bind(subscription, sender)
        config = self._sender_config(subscription, subscription.plan, track, engine_track)
        step.emit(AddSender(self._connections.sending.id, sender, config))
        if subscription.plan.kind == "video":
            step.emit(RequestKeyframe(engine_track))
        step.notices.append(Bound(self._session.sid, subscription.track_sid))

    def _sender_config(
        self,
        subscription: Subscription,
        plan: SenderPlan,
        track: DirectoryTrack,
        engine_track: int,
    ) -> SenderConfig:
        info = track.info
        wanted = self._wanted_layers(subscription, track)
        is_encrypted = info.encryption != models.Encryption.Type.NONE
        takes_red = any(codec.mime.lower() == "audio/red" for codec in plan.codecs)
        is_red_made = (
            self._session.settings.active_red_encoding
            and subscription.codec == "audio/opus"
            and takes_red
            and not is_encrypted
        )
        return SenderConfig(
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
            strip_trailer=bool(info.packet_trailer_features) and not self._keeps_trailers,
            # Frames the engine makes are marked, so that nobody tries to decrypt them.
            sif_trailer=self._sif_trailer if is_encrypted else b"",
            playout_delay=self._playout_delay if plan.extensions.playout_delay else None,
            encode_red=is_red_made,
            priority=self.subscriptions.setting(subscription.track_sid).priority,
        )

    def _wanted_layers(self, subscription: Subscription, track: DirectoryTrack) -> WantedLayers:
        setting = self.subscriptions.setting(subscription.track_sid)
        return wanted_layers(track.info, setting, subscription.codec)

    def _follow_setting(self, track_sid: str, step: Step) -> None:
        self._settings_due.pop(track_sid, None)
        subscription = self.subscriptions.get(track_sid)
        track = self._directory.tracks.get(track_sid)
        if subscription is None or subscription.plan is None or track is None:
            return
        if subscription.sender is not None:
            wanted = self._wanted_layers(subscription, track)
            step.emit(
                SetSenderLayers(
                    subscription.sender,
                    wanted.spatial_layer,
                    wanted.temporal_layer,
                    wanted.is_paused,
                    self.subscriptions.setting(track_sid).priority,
                )
            )
        step.notices.append(LayersWanted(self._session.sid, track_sid))

    def _remove_sender(self, subscription: Subscription, step: Step) -> None:
        sender = self.subscriptions.unbind(subscription)
        subscription.engine_track = None
        if subscription.is_paused:
            # The next sender begins unpaused, and says so when it flows.
            subscription.is_paused = subscription.is_flowing = False
        if sender is not None:
            self._session.disown(sender)
            step.emit(RemoveSender(sender))

    def _unbind_by_track(self, track_sid: str, step: Step) -> None:
        subscription = self.subscriptions.get(track_sid)
        if subscription is not None:
            self._unbind(subscription, step)

    def _unbind(self, subscription: Subscription, step: Step) -> None:
        if subscription.plan is None:
            return
        self._remove_sender(subscription, step)
        subscription.plan = None
        subscription.codec = ""
        subscription.is_flowing = False
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

    def _tell_stream_state(self, subscription: Subscription, step: Step) -> None:
        down = subscription.down_track
        if down is None or down.kind != "video":
            return
        state = rtc.StreamState.PAUSED if subscription.is_paused else rtc.StreamState.ACTIVE
        self._session.respond(
            step,
            stream_state_update=rtc.StreamStateUpdate(
                stream_states=[
                    rtc.StreamStateInfo(
                        participant_sid=subscription.publisher_sid,
                        track_sid=subscription.track_sid,
                        state=state,
                    )
                ]
            ),
        )

    def _give_up(self, track_sid: str, step: Step) -> None:
        """The client takes none of a track's codecs: the wish waits for others."""
        subscription = self.subscriptions.get(track_sid)
        if subscription is None or subscription.down_track is None:
            return
        subscription.refused = frozenset(subscription.down_track.mimes)
        self._deactivate(subscription, step)
        self._tell_error(subscription, models.SubscriptionError.SE_CODEC_UNSUPPORTED, step)

    def _tell_error(
        self, subscription: Subscription, error: models.SubscriptionError, step: Step
    ) -> None:
        self._session.respond(
            step,
            subscription_response=rtc.SubscriptionResponse(
                track_sid=subscription.track_sid, err=error
            ),
        )

    def _due(self, subscription: Subscription) -> float | None:
        """When a subscription that does not come is given up or complained of."""
        if not subscription.is_wanted or subscription.plan is not None:
            return None
        settings = self._session.settings
        if subscription.down_track is None:
            is_unknown = subscription.track_sid not in self._directory.tracks
            return subscription.wanted_at + settings.unknown_track_timeout if is_unknown else None
        if self._active_at is None or subscription.is_lateness_told:
            return None
        return max(self._active_at, subscription.offered_at) + settings.bind_timeout


def _kind_of(track: DirectoryTrack) -> Kind:
    return "video" if track.info.type == models.TrackType.VIDEO else "audio"
