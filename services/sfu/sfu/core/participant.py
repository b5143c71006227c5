"""One participant's session on this node: joining, joined, active, disconnected.

It owns the client's sockets (one at a time), its peer connections and their negotiation, its
pending and published tracks, its subscriptions and their retries. It does not decide who is in the
room nor what others see of it (the Room does), and it knows no other session: what concerns others
it leaves as notices in the step.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from contracts.node.v1 import node_pb2
from contracts.room.v1 import room_pb2
from livekit.protocol import models, rtc

from sfu.core import responses
from sfu.core.codecs import ClientTraits, CodecPolicy
from sfu.core.data import (
    DATA_TRACK_LABEL,
    LOSSY_LABEL,
    RELIABLE_LABEL,
    Addressed,
    HeldPackets,
    Sender,
)
from sfu.core.effects import (
    Bound,
    CloseSocket,
    Departed,
    Ids,
    LayersWanted,
    MediaConnected,
    QualityRepeatWanted,
    RefuseSocket,
    SendSignal,
    SocketRef,
    StageSettings,
    Step,
    TellRoom,
    TrackGone,
    Unbound,
)
from sfu.core.grants import Grants
from sfu.core.media_commands import (
    AddReceiver,
    AddSender,
    ReceiverConfig,
    RemoveSender,
    RemoveTrack,
    RequestKeyframe,
    SendData,
    SenderConfig,
    SetSenderLayers,
    SetTrackMuted,
    UpdateReceiver,
)
from sfu.core.negotiation import (
    BadDescription,
    Debounce,
    NegotiationConfig,
    PublisherNegotiation,
    SubscriberNegotiation,
)
from sfu.core.peer_connection import PeerConnection
from sfu.core.plans import (
    Answered,
    Applied,
    DownTrack,
    LocalTransport,
    NegotiationFailed,
    ReceiverPlan,
    SenderPlan,
)
from sfu.core.publication import (
    Accepted,
    Publications,
    PublishedTrack,
    Refused,
    may_publish,
    receiver_config,
)
from sfu.core.quality import QualityAggregate, TrackSetting, WantedLayers, wanted_layers
from sfu.core.responses import PUBLISHER, SUBSCRIBER
from sfu.core.subscription import (
    Directory,
    DirectoryTrack,
    Standing,
    Subscription,
    Subscriptions,
    standing,
)

Action = rtc.LeaveRequest.Action
DisconnectReason = models.DisconnectReason
Reason = rtc.RequestResponse.Reason

SERVER_CHANNELS = ((RELIABLE_LABEL, True), (LOSSY_LABEL, False), (DATA_TRACK_LABEL, False))
SUBSCRIBER_PRIMARY_PROTOCOL = 3
TOMBSTONE_PROTOCOL = 9
NATIVE_RESPONSE_PROTOCOL = 10  # native SDKs decode request_response from here on
OK_RESPONSE_PROTOCOL = 15
RESUME_PROTOCOL = 13
QUALITY_PROTOCOL = 5
NATIVE_SDKS = frozenset({models.ClientInfo.SDK.RUST})
LEAVE_REASONS = frozenset(
    {
        DisconnectReason.CLIENT_INITIATED,
        DisconnectReason.USER_UNAVAILABLE,
        DisconnectReason.USER_REJECTED,
        DisconnectReason.AGENT_ERROR,
    }
)
HTTP_STATUS = {"permission_denied": 403, "not_found": 404, "invalid_argument": 400, "internal": 500}


class State(enum.IntEnum):
    """As in livekit.ParticipantInfo; only goes up."""

    JOINING = 0
    JOINED = 1
    ACTIVE = 2
    DISCONNECTED = 3


@dataclass(frozen=True, slots=True)
class Opening:
    """Everything a new session is made of, already decoded."""

    sid: str
    socket: SocketRef
    claims: node_pb2.Claims
    grants: Grants
    client: models.ClientInfo
    request: rtc.JoinRequest
    is_single: bool


class Participant:
    """One session. Every method takes the step it may add effects and notices to."""

    def __init__(
        self,
        opening: Opening,
        *,
        node_id: str,
        ids: Ids,
        settings: StageSettings,
        directory: Directory,
        owners: dict[int, Participant],
        step: Step,
    ) -> None:
        self.sid = opening.sid
        self.identity = opening.claims.identity
        self.name = opening.claims.name
        self.metadata = opening.claims.metadata
        self.attributes = dict(opening.claims.attributes)
        self.grants = opening.grants
        self.client = opening.client
        self.state = State.JOINING
        self.socket: SocketRef | None = opening.socket
        self.publications = Publications()
        self.auto_subscribe = opening.request.connection_settings.auto_subscribe
        self.subscriptions = Subscriptions(
            has_adaptive_stream=opening.request.connection_settings.adaptive_stream
        )
        self.last_sequence = 0
        self.losses: dict[int, float] = {}
        self.is_signal_dropped_on_resume = False

        self._request = opening.request
        self._is_single = opening.is_single
        self._node_id = node_id
        self._ids = ids
        self._settings = settings
        self._directory = directory
        self._owners = owners
        self._enabled_codecs = settings.enabled_codecs
        self._held = HeldPackets()
        self._has_no_channels = False
        self._last_signal_ms = step.wall_ms
        self._join_by: float | None = step.now + settings.join_timeout
        self._token_at: float | None = None
        self._gone_at: float | None = None

        traits = ClientTraits.of(opening.client)
        self._configuration = responses.client_configuration(opening.client)
        self._traits = traits
        self._ice_lite = (
            settings.ice_lite
            and traits.ice_lite
            and not opening.request.connection_settings.disable_ice_lite
        )
        self.is_subscriber_primary = (
            not opening.is_single
            and opening.client.protocol >= SUBSCRIBER_PRIMARY_PROTOCOL
            and opening.grants.permission.can_subscribe
        )
        self.publisher = self._peer_connection(PUBLISHER)
        self.subscriber: PeerConnection | None = (
            None if opening.is_single else self._peer_connection(SUBSCRIBER)
        )
        self._answers: PublisherNegotiation | None = None
        self._offers: SubscriberNegotiation | None = None
        self._sections_wanted = Debounce()
        self._has_answered = False

    # ------------------------------------------------------------------ joining and leaving

    def ask_to_join(self, step: Step, region: str) -> None:
        """Tell the Room; it answers with Admit or Refuse."""
        grants = self.grants
        step.emit(
            TellRoom(
                room_pb2.Fact(
                    participant_sid=self.sid,
                    join_requested=room_pb2.JoinRequested(
                        identity=self.identity,
                        name=self.name,
                        metadata=self.metadata,
                        attributes=self.attributes,
                        kind=int(grants.kind),
                        kind_details=grants.kind_details,
                        permission=grants.permission.SerializeToString(),
                        client_protocol=self.client.client_protocol,
                        capabilities=[int(value) for value in self.client.capabilities],
                        protocol_version=self.client.protocol,
                        region=region,
                        room_configuration=grants.room_configuration,
                        joined_at_ms=step.wall_ms,
                    ),
                )
            )
        )
        self._touch(step)

    def admit(self, order: room_pb2.Admit, step: Step) -> None:
        """The Room took us in: say join, then start what may be started."""
        if self.state is not State.JOINING:
            return
        room = models.Room.FromString(order.room)
        if room.enabled_codecs:
            self._enabled_codecs = tuple(codec.mime for codec in room.enabled_codecs)
        self._make_negotiations()
        self.state = State.JOINED
        self._respond(step, join=self._join_response(room, order))
        self.refresh_token(step)
        if self.subscriber is not None and self.is_subscriber_primary:
            self.subscriber.create(step)
            self.subscriber.open_channels(step, SERVER_CHANNELS)
        for request in self._request.add_track_requests:
            self.add_track(request, step)
        if self._request.HasField("publisher_offer"):
            self.take_offer(self._request.publisher_offer, step)
        self.reconcile_all(step)
        if self._offers is not None and self.is_subscriber_primary:
            self._offers.request(step.now, force=True)
        self._negotiate(step)

    def refuse(self, code: str, message: str, step: Step) -> None:
        """The Room did not take us in."""
        if self.state is not State.JOINING:
            return
        self.state = State.DISCONNECTED
        if self.socket is not None:
            step.emit(RefuseSocket(self.socket, HTTP_STATUS.get(code, 503), message))
            self.socket = None
        self.forget_ids()
        step.notices.append(Departed(self.sid))

    def forget_ids(self) -> None:
        """The session never began: give its engine ids back."""
        for pc in (self.publisher, self.subscriber):
            if pc is not None:
                self._owners.pop(pc.id, None)

    def resume(self, socket: SocketRef, step: Step) -> None:
        """The client is back on a new socket; media never stopped (LiveKit: resume)."""
        self._close_socket(step, "resumed on another socket")
        self.socket = socket
        primary = self._primary()
        is_broken = primary.was_connected and not primary.is_connected
        # The engine says Failed once: without an ICE restart nothing would end this session.
        self._gone_at = step.now + self._settings.reconnect_window if is_broken else None
        reconnect = rtc.ReconnectResponse(
            client_configuration=self._configuration,
            server_info=responses.server_info(self._node_id, self._settings.region),
            last_message_seq=self.last_sequence,
        )
        for server in self._settings.ice_servers:
            reconnect.ice_servers.add().MergeFromString(server)
        self._respond(step, reconnect=reconnect)
        step.emit(
            TellRoom(
                room_pb2.Fact(
                    participant_sid=self.sid,
                    resume_requested=room_pb2.ResumeRequested(
                        tombstones_since_ms=self._last_signal_ms
                    ),
                )
            )
        )
        self._touch(step)

    def complete_resume(self, order: room_pb2.Resumed, step: Step) -> None:
        """The Room told what there is now and who left meanwhile."""
        if self.client.protocol >= TOMBSTONE_PROTOCOL:
            self.send_all(responses.participant_updates(order.departed), step)
        self.send_all(responses.participant_updates(order.participants), step)
        self._respond(step, room_update=rtc.RoomUpdate(room=models.Room.FromString(order.room)))
        self.refresh_token(step)
        if self._offers is not None and self.subscriber is not None and self.subscriber.is_created:
            self._offers.restart_ice(step.now, *self._ids.ice_credentials())
            self._negotiate(step)
        self._request_keyframes(step)
        step.notices.append(QualityRepeatWanted(self.sid))
        if self.is_signal_dropped_on_resume:
            self.is_signal_dropped_on_resume = False
            self.drop_socket(step, "simulated")

    def lose_socket(self, step: Step) -> None:
        """The socket is gone without a leave. Media decides how long the session stays."""
        self.socket = None
        if not self._was_connected():
            self.depart(DisconnectReason.SIGNAL_CLOSE, step)

    def drop_socket(self, step: Step, why: str) -> None:
        """Close the socket ourselves, without a leave; the session stays as for a lost one."""
        self._close_socket(step, why)
        self.lose_socket(step)

    def leave(self, reason: int, step: Step) -> None:
        """The client leaves: say so back, close, be gone."""
        known = reason if reason in LEAVE_REASONS else DisconnectReason.CLIENT_INITIATED
        self.end(known, Action.DISCONNECT, step)
        self.tell_left(known, step)

    def end(self, reason: int, action: int, step: Step, why: str = "left") -> None:
        """Leave message, close, clean up; the Room is not told. `why` is for logs."""
        self.send(responses.leave(reason, action, self.client.protocol), step)
        self._close_socket(step, why)
        self._clean_up(step)

    def depart(self, reason: int, step: Step) -> None:
        """Gone without a word to the client."""
        if self.state is State.DISCONNECTED:
            return
        self._close_socket(step, "session ended")
        self._clean_up(step)
        self.tell_left(reason, step)

    def fail(self, step: Step, why: str) -> None:
        """Client and server disagree beyond repair: have the client start anew."""
        self.end(DisconnectReason.STATE_MISMATCH, Action.RECONNECT, step, why)
        self.tell_left(DisconnectReason.STATE_MISMATCH, step)

    def tell_left(self, reason: int, step: Step) -> None:
        """Tell the Room that the session is over."""
        step.emit(
            TellRoom(room_pb2.Fact(participant_sid=self.sid, left=room_pb2.Left(reason=reason)))
        )

    # ------------------------------------------------------------------------------- time

    def tick(self, step: Step) -> None:
        """Do what is due by time alone."""
        now = step.now
        if self._gone_at is not None and now >= self._gone_at:
            self.depart(DisconnectReason.CONNECTION_TIMEOUT, step)
            return
        if self._join_by is not None and now >= self._join_by:
            self._join_by = None
            self.end(DisconnectReason.JOIN_FAILURE, Action.DISCONNECT, step)
            self.tell_left(DisconnectReason.JOIN_FAILURE, step)
            return
        if self._token_at is not None and now >= self._token_at:
            self.refresh_token(step)
        self._expire_unknown(step)
        self._negotiate(step)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        if self.state is State.DISCONNECTED:
            return None
        times = [self._gone_at, self._join_by, self._token_at, self._unknown_due()]
        if self._offers is not None:
            times.append(self._offers.next_timeout())
        times.append(self._sections_wanted.next_timeout())
        return min((time for time in times if time is not None), default=None)

    # -------------------------------------------------------------------------- transport

    def media_connected(self, pc_id: int, step: Step) -> None:
        """ICE and DTLS of one peer connection are up."""
        pc = self._by_id(pc_id)
        if pc is None or self.state < State.JOINED:
            return
        pc.is_connected = True
        pc.was_connected = True
        if pc is self._primary():
            self._gone_at = None
        if pc is self._primary() and self.state is State.JOINED:
            self.state = State.ACTIVE
            self._join_by = None
            step.emit(
                TellRoom(room_pb2.Fact(participant_sid=self.sid, activated=room_pb2.Activated()))
            )
        self._request_keyframes(step)
        self._release_held(step)
        step.notices.append(MediaConnected(self.sid))
        self._touch(step)

    def media_disconnected(self, pc_id: int, step: Step) -> None:
        """No traffic for a while; nothing to do yet."""
        pc = self._by_id(pc_id)
        if pc is not None:
            pc.is_connected = False
        self._touch(step)

    def media_failed(self, pc_id: int, step: Step) -> None:
        """One transport is beyond repair: have the client resume, and wait a little for it."""
        pc = self._by_id(pc_id)
        if pc is None or self.state < State.JOINED or pc.remote is None:
            return
        pc.is_connected = False
        if self.client.protocol >= RESUME_PROTOCOL:
            self.send(
                responses.leave(
                    DisconnectReason.CONNECTION_TIMEOUT, Action.RESUME, self.client.protocol
                ),
                step,
            )
        self._close_socket(step, "media failed")
        self._gone_at = step.now + self._settings.resume_grace
        self._touch(step)

    def channel_opened(self, pc_id: int, label: str, step: Step) -> None:
        """A data channel is open, ours or the client's."""
        pc = self._by_id(pc_id)
        if pc is not None:
            pc.channels.add(label)
            self._release_held(step)

    def channel_closed(self, pc_id: int, label: str) -> None:
        """A data channel is gone."""
        pc = self._by_id(pc_id)
        if pc is not None:
            pc.channels.discard(label)

    def trickle(self, request: rtc.TrickleRequest, step: Step) -> None:
        """A candidate of the client. Raises BadCandidate."""
        is_subscriber = request.target == SUBSCRIBER and self.subscriber is not None
        pc = self.subscriber if is_subscriber and self.subscriber else self.publisher
        pc.add_candidate(request.candidateInit, step)

    # ------------------------------------------------------------------------ negotiation

    def take_offer(self, offer: rtc.SessionDescription, step: Step) -> None:
        """The client offers: answer it, and command the engine accordingly."""
        if self._answers is None or self.state not in (State.JOINED, State.ACTIVE):
            return
        try:
            answered = self._answers.answer(
                offer.sdp,
                self.publications.announced(),
                self.subscriptions.down_tracks() if self._is_single else (),
                fresh_credentials=self._ids.ice_credentials(),
            )
        except BadDescription as error:
            self.fail(step, f"negotiation failed: {error}")
            return
        pc = self.publisher
        pc.create(step)
        if answered.ice_restarted:
            pc.restart(answered.local, step)
        if not self._has_answered:
            self._has_answered = True
            self._has_no_channels = not answered.has_application
        self._change_receivers(answered, step)
        self._respond(
            step,
            answer=rtc.SessionDescription(
                type="answer",
                sdp=answered.sdp,
                id=offer.id,
                mid_to_track_id=dict(answered.mid_to_track_id),
            ),
        )
        pc.set_remote(answered.remote, step)
        self._trickle_ours(pc, step)
        self._add_senders(answered, pc, step)
        if not answered.required.is_empty:
            self._require_sections(answered.required.num_audios, answered.required.num_videos, step)
        elif answered.unplaced:
            # Their sections were freed by this very answer: the next offer can use them.
            self._want_negotiation(step)
        self._publish_matched(step)
        self._release_held(step)
        self._touch(step)

    def take_answer(self, answer: rtc.SessionDescription, step: Step) -> None:
        """The client answers our offer (dual mode)."""
        if self._offers is None or self.subscriber is None:
            return
        try:
            applied = self._offers.apply_answer(answer.sdp, step.now, answer.id)
        except BadDescription as error:
            self.fail(step, f"negotiation failed: {error}")
            return
        if applied is None:
            return
        self.subscriber.set_remote(applied.remote, step)
        self._add_senders(applied, self.subscriber, step)
        self._negotiate(step)

    # ------------------------------------------------------------------------- publishing

    def add_track(self, request: rtc.AddTrackRequest, step: Step) -> None:
        """An AddTrackRequest: `track_published`, or a `request_response`."""
        outcome = self.publications.announce(
            request, self.grants.permission, self._enabled_codecs, self._ids
        )
        match outcome:
            case Accepted():
                self._announce(outcome, step)
            case Refused(reason, message):
                self.respond_to(step, reason, message, add_track=request)

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
            step.notices.append(QualityRepeatWanted(self.sid))
        return True

    def mute_by_order(self, track_sid: str, *, is_muted: bool, step: Step) -> None:
        """An admin mutes or unmutes: the client is told first, then as by itself."""
        if self.publications.get(track_sid) is None:
            return
        self._respond(step, mute=rtc.MuteTrackRequest(sid=track_sid, muted=is_muted))
        self.mute(track_sid, is_muted=is_muted, step=step)

    def unpublish(self, track_sid: str, step: Step) -> None:
        """End an own track from the server's side; the client is told."""
        if self._end_track(track_sid, step):
            self._respond(step, track_unpublished=rtc.TrackUnpublishedResponse(track_sid=track_sid))

    def tell_track(self, track: PublishedTrack, step: Step) -> None:
        """Tell the Room a published track's TrackInfo as it is now."""
        if not track.is_published:
            return
        track.touch(step.wall_ms)
        step.emit(
            TellRoom(
                room_pb2.Fact(
                    participant_sid=self.sid,
                    track_changed=room_pb2.TrackChanged(track=track.info.SerializeToString()),
                )
            )
        )

    def encoding_started(
        self, engine_id: int, spatial_layer: int, rid: str | None, ssrc: int, step: Step
    ) -> None:
        """The first packet of an encoding: publishes a track told apart by rid."""
        found = self.publications.by_engine_id(engine_id)
        if found is None:
            return
        track, codec_index = found
        before = track.info.SerializeToString(deterministic=True)
        track.place(codec_index, spatial_layer, ssrc, rid or "")
        if not track.is_published:
            self._publish(track, step)
        elif track.info.SerializeToString(deterministic=True) != before:
            self.tell_track(track, step)

    # ------------------------------------------------------------------------ subscribing

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
        step.notices.append(LayersWanted(self.sid, track_sid))

    def wanted_layers(self, track_sid: str) -> WantedLayers | None:
        """What this session wants of a track it gets; None when it gets none."""
        subscription = self.subscriptions.get(track_sid)
        track = self._directory.tracks.get(track_sid)
        if subscription is None or subscription.sender is None or track is None:
            return None
        return wanted_layers(track.info, self.subscriptions.setting(track_sid))

    def track_listed(self, track_sid: str, step: Step) -> None:
        """The directory has a new or changed row."""
        track = self._directory.tracks.get(track_sid)
        if track is None or track.publisher_sid == self.sid:
            return
        is_automatic = self.auto_subscribe and not track.is_publisher_hidden
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
        subscription = self.subscriptions.get(track_sid)
        if subscription is None or self.state not in (State.JOINED, State.ACTIVE):
            return
        state = standing(
            subscription,
            self._directory,
            identity=self.identity,
            can_subscribe=self.grants.permission.can_subscribe,
            is_recorder=self.grants.is_recorder,
        )
        track = self._directory.tracks.get(track_sid)
        if track is not None and track.publisher_sid == self.sid:
            return
        if track is not None and state in (Standing.DENIED, Standing.READY):
            self._tell_allowed(subscription, track, is_allowed=state is Standing.READY, step=step)
        if state is Standing.READY and track is not None:
            if subscription.down_track is None:
                self._activate(subscription, track, step)
        else:
            self._deactivate(subscription, step)
        self._touch(step)

    def sender_flows(self, sender: int, spatial_layer: int, step: Step) -> None:
        """The engine forwards something: say so once for video."""
        subscription = self.subscriptions.by_sender(sender)
        if subscription is None or subscription.is_flowing or spatial_layer < 0:
            return
        subscription.is_flowing = True
        track = self._directory.tracks.get(subscription.track_sid)
        if track is None or track.info.type != models.TrackType.VIDEO:
            return
        self._respond(
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

    # ------------------------------------------------------------- permissions and profile

    def set_permission(self, permission: models.ParticipantPermission, step: Step) -> None:
        """Follow changed permissions: tracks that are no longer allowed end."""
        if permission != self.grants.permission:
            self.grants = self.grants.permitting(permission)
        for track in self.publications:
            if not may_publish(permission, track.info.source):
                self.unpublish(track.sid, step)
        self.reconcile_all(step)
        self.refresh_token(step)

    def take_permission(self, order: room_pb2.SetPermission, step: Step) -> None:
        """The Room changed what this participant may do, its profile, or both."""
        if order.participant:
            info = models.ParticipantInfo.FromString(order.participant)
            self.name, self.metadata = info.name, info.metadata
            self.attributes = dict(info.attributes)
        self.set_permission(models.ParticipantPermission.FromString(order.permission), step)

    def take_profile(self, order: room_pb2.AnswerProfileChange, step: Step) -> None:
        """The Room's answer to update_metadata."""
        reason = cast("rtc.RequestResponse.Reason", order.reason)
        if reason == Reason.OK and order.participant:
            self.take_own_info(models.ParticipantInfo.FromString(order.participant), step)
        self.respond_to(step, reason, order.message, request_id=order.request_id)

    def take_own_info(self, info: models.ParticipantInfo, step: Step) -> None:
        """Name, metadata or attributes as the Room has them now go into the next token."""
        before = (self.name, self.metadata, self.attributes)
        after = (info.name, info.metadata, dict(info.attributes))
        if before != after:
            self.name, self.metadata, self.attributes = after
            self.refresh_token(step)

    def refresh_token(self, step: Step) -> None:
        """Push a token for later reconnects, now and again every five minutes."""
        if self.state < State.JOINED:
            return
        self._token_at = step.now + self._settings.token_interval
        claims = self.grants.refresh_claims(
            self.identity, self.name, self.metadata, self.attributes, step.wall_ms
        )
        self._respond(step, refresh_token=self._settings.sign_token(claims))
        self._touch(step)

    # ------------------------------------------------------------------------------- data

    def as_sender(self) -> Sender:
        """This participant as the origin of data."""
        return Sender(self.sid, self.identity, self.grants.permission.hidden, self.grants.is_agent)

    @property
    def may_send_data(self) -> bool:
        """Whether data of this participant is forwarded at all."""
        return self.is_told and self.grants.permission.can_publish_data

    @property
    def is_receiving(self) -> bool:
        """The connection that subscriptions go out on is up."""
        pc = self.publisher if self.subscriber is None else self.subscriber
        return pc.is_connected or self._primary().is_connected

    def data_target(self, packet: Addressed, now: float) -> int | None:
        """The peer connection to send a packet on now; None when it is held or dropped."""
        if not packet.is_reliable:
            return self._primary().id if self.state is State.ACTIVE else None
        if self.state not in (State.JOINED, State.ACTIVE):
            return None
        if self._is_established():
            return self._primary().id
        self._held.hold(packet, now)
        return None

    # ----------------------------------------------------------------------------- sending

    def send(self, response: bytes, step: Step) -> None:
        """One serialized response, if there is a socket and join was said."""
        if self.socket is not None and self.is_told:
            step.emit(SendSignal((self.socket,), response))

    def send_all(self, messages: Sequence[bytes], step: Step) -> None:
        """Several responses, in order."""
        for message in messages:
            self.send(message, step)

    def respond_to(
        self,
        step: Step,
        reason: rtc.RequestResponse.Reason,
        message: str = "",
        *,
        request_id: int = 0,
        add_track: rtc.AddTrackRequest | None = None,
        mute: rtc.MuteTrackRequest | None = None,
        trickle: rtc.TrickleRequest | None = None,
        update_metadata: rtc.UpdateParticipantMetadata | None = None,
        update_audio_track: rtc.UpdateLocalAudioTrack | None = None,
        update_video_track: rtc.UpdateLocalVideoTrack | None = None,
        publish_data_track: rtc.PublishDataTrackRequest | None = None,
        unpublish_data_track: rtc.UnpublishDataTrackRequest | None = None,
    ) -> None:
        """`request_response` with a copy of the request, to clients that can read it."""
        is_old_native = (
            self.client.sdk in NATIVE_SDKS and self.client.protocol < NATIVE_RESPONSE_PROTOCOL
        )
        is_unknown_ok = reason == Reason.OK and self.client.protocol < OK_RESPONSE_PROTOCOL
        if is_old_native or is_unknown_ok:
            return
        self._respond(
            step,
            request_response=rtc.RequestResponse(
                request_id=request_id,
                reason=reason,
                message=message,
                add_track=add_track,
                mute=mute,
                trickle=trickle,
                update_metadata=update_metadata,
                update_audio_track=update_audio_track,
                update_video_track=update_video_track,
                publish_data_track=publish_data_track,
                unpublish_data_track=unpublish_data_track,
            ),
        )

    def tell_subscribed(self, track: PublishedTrack, step: Step) -> None:
        """`track_subscribed`, once a track."""
        is_old_native = (
            self.client.sdk in NATIVE_SDKS and self.client.protocol < NATIVE_RESPONSE_PROTOCOL
        )
        if track.is_subscribed_told or is_old_native:
            return
        track.is_subscribed_told = True
        self._respond(step, track_subscribed=rtc.TrackSubscribed(track_sid=track.sid))

    @property
    def is_told(self) -> bool:
        """Join was said: other responses may follow."""
        return self.state in (State.JOINED, State.ACTIVE)

    @property
    def is_simulation_allowed(self) -> bool:
        """Whether this node plays faults for tests."""
        return self._settings.simulate_allowed

    def profile_excess(self, name: str, metadata: str, attributes: Mapping[str, str]) -> str | None:
        """Which limit a wished profile exceeds, None when it fits."""
        return profile_excess(name, metadata, attributes, self._settings)

    def note_signal(self, wall_ms: int) -> None:
        """A request came."""
        self._last_signal_ms = wall_ms

    # ----------------------------------------------------------------------------- private

    def _touch(self, step: Step) -> None:
        step.touched.add(self.sid)

    def _respond(self, step: Step, **fields: object) -> None:
        self.send(rtc.SignalResponse(**fields).SerializeToString(), step)  # type: ignore[arg-type]

    def _peer_connection(self, target: rtc.SignalTarget) -> PeerConnection:
        ufrag, pwd = self._ids.ice_credentials()
        pc = PeerConnection(
            self._ids.engine_id(),
            target,
            LocalTransport(ufrag, pwd, self._settings.fingerprint, self._ice_lite),
            # The side that offers first controls, when both are full agents (RFC 8445 6.1.1).
            is_controlling=target == SUBSCRIBER and not self._ice_lite,
        )
        self._owners[pc.id] = self
        return pc

    def _by_id(self, pc_id: int) -> PeerConnection | None:
        if self.publisher.id == pc_id:
            return self.publisher
        if self.subscriber is not None and self.subscriber.id == pc_id:
            return self.subscriber
        return None

    def _primary(self) -> PeerConnection:
        if self.is_subscriber_primary and self.subscriber is not None:
            return self.subscriber
        return self.publisher

    def _was_connected(self) -> bool:
        pcs = [self.publisher, *([self.subscriber] if self.subscriber else [])]
        return any(pc.was_connected for pc in pcs)

    def _make_negotiations(self) -> None:
        codecs = CodecPolicy.of(self._enabled_codecs, self._configuration)

        def config() -> NegotiationConfig:
            return NegotiationConfig(
                session_id=self._ids.number(1, 2**63 - 1),
                codecs=codecs,
                client=self._traits,
                single=self._is_single,
            )

        self._answers = PublisherNegotiation(config(), self.publisher.local)
        if self.subscriber is not None:
            self._offers = SubscriberNegotiation(
                config(),
                self.subscriber.local,
                first_offer_id=self._ids.number(1, 256),
                data_channels=self.is_subscriber_primary,
            )

    def _join_response(self, room: models.Room, order: room_pb2.Admit) -> rtc.JoinResponse:
        info = responses.server_info(self._node_id, self._settings.region)
        join = rtc.JoinResponse(
            room=room,
            participant=models.ParticipantInfo.FromString(order.participant),
            server_version=info.version,
            server_region=info.region,
            subscriber_primary=self.is_subscriber_primary,
            client_configuration=self._configuration,
            ping_interval=self._settings.ping_interval,
            ping_timeout=self._settings.ping_timeout,
            server_info=info,
            sif_trailer=order.sif_trailer,
            enabled_publish_codecs=responses.publish_codecs(
                self._enabled_codecs, self._configuration
            ),
            fast_publish=self.grants.permission.can_publish,
        )
        for other in order.others:
            join.other_participants.add().MergeFromString(other)
        for server in self._settings.ice_servers:
            join.ice_servers.add().MergeFromString(server)
        return join

    def _close_socket(self, step: Step, why: str) -> None:
        if self.socket is not None:
            step.emit(CloseSocket(self.socket, why))
            self.socket = None

    def _clean_up(self, step: Step) -> None:
        """Free everything in the engine; what others get of this session ends too."""
        if self.state is State.DISCONNECTED:
            return
        self.state = State.DISCONNECTED
        for subscription in self.subscriptions:
            self._unbind(subscription, step)
        for track in self.publications:
            self._free_track(track, step)
        for pc in (self.publisher, self.subscriber):
            if pc is not None:
                pc.close(step)
        self.forget_ids()
        step.notices.append(Departed(self.sid))

    def _trickle_ours(self, pc: PeerConnection, step: Step) -> None:
        if pc.needs_trickle():
            candidates = self._settings.candidates(pc.local.ice_ufrag)
            self.send_all(responses.trickles(candidates, pc.target), step)

    def _negotiate(self, step: Step) -> None:
        """Send the offer or the wish for one that is due."""
        self._touch(step)
        if self._is_single:
            if self._has_answered and self._answers and self._sections_wanted.take(step.now):
                required = self._answers.require(self.subscriptions.down_tracks())
                self._require_sections(required.num_audios, required.num_videos, step)
            return
        if self._offers is None or self.subscriber is None or self.state < State.JOINED:
            return
        offer = self._offers.poll(step.now)
        if offer is None:
            return
        if isinstance(offer, NegotiationFailed):
            self.fail(step, f"negotiation failed: {offer.reason}")
            return
        self.subscriber.create(step)
        if offer.ice_restart:
            self.subscriber.restart(offer.local, step)
        self._respond(
            step,
            offer=rtc.SessionDescription(
                type="offer",
                sdp=offer.sdp,
                id=offer.offer_id,
                mid_to_track_id=dict(offer.mid_to_track_id),
            ),
        )
        self._trickle_ours(self.subscriber, step)

    def _want_negotiation(self, step: Step) -> None:
        if self._is_single:
            if self._has_answered:
                self._sections_wanted.request(step.now)
        elif self._offers is not None:
            self._offers.request(step.now)
        self._touch(step)

    def _require_sections(self, num_audios: int, num_videos: int, step: Step) -> None:
        self._respond(
            step,
            media_sections_requirement=rtc.MediaSectionsRequirement(
                num_audios=num_audios, num_videos=num_videos
            ),
        )

    def _change_receivers(self, answered: Answered, step: Step) -> None:
        for ended in answered.receivers_ended:
            self._end_receiver(ended, step)
        for removed in answered.senders_removed:
            self._unbind_by_track(removed.track_sid, step)
        for plan in answered.receivers_added:
            self._add_receiver(plan, step)
        for plan in answered.receivers_changed:
            self._change_receiver(plan, step)

    def _add_senders(self, outcome: Answered | Applied, pc: PeerConnection, step: Step) -> None:
        for plan in outcome.senders_added:
            self._bind(plan, pc, step)
        for plan in outcome.senders_changed:
            self._rebind(plan, pc, step)
        for track_sid in outcome.codec_unsupported:
            self._give_up(track_sid, models.SubscriptionError.SE_CODEC_UNSUPPORTED, step)

    # publishing

    def _announce(self, accepted: Accepted, step: Step) -> None:
        self._respond(
            step,
            track_published=rtc.TrackPublishedResponse(cid=accepted.cid, track=accepted.track.info),
        )
        if accepted.track.is_published:
            self.tell_track(accepted.track, step)
        self._match_pending(step)

    def _match_pending(self, step: Step) -> None:
        if self._answers is None or not self._has_answered:
            return
        for plan in self._answers.match_pending(self.publications.announced()):
            self._add_receiver(plan, step)
        self._publish_matched(step)

    def _add_receiver(self, plan: ReceiverPlan, step: Step) -> None:
        track = self.publications.get(plan.track_sid)
        if track is None:
            return
        engine_id = self._ids.engine_id()
        self._owners[engine_id] = self
        track.accept(plan, engine_id)
        step.emit(AddReceiver(self.publisher.id, engine_id, self._receiver_config(track, plan)))
        if track.info.muted:
            step.emit(SetTrackMuted(engine_id, muted=True))
        if plan.codec_index == 0:
            self._directory.engine_ids[track.sid] = engine_id
        if track.is_published:
            self.tell_track(track, step)

    def _change_receiver(self, plan: ReceiverPlan, step: Step) -> None:
        track = self.publications.get(plan.track_sid)
        engine_id = track.engine_ids.get(plan.codec_index) if track else None
        if track is None or engine_id is None:
            return
        step.emit(UpdateReceiver(engine_id, self._receiver_config(track, plan)))

    def _receiver_config(self, track: PublishedTrack, plan: ReceiverPlan) -> ReceiverConfig:
        is_microphone = track.info.source == models.TrackSource.MICROPHONE
        return receiver_config(plan, measure_level=plan.kind == "audio" and is_microphone)

    def _publish_matched(self, step: Step) -> None:
        """Publish what needs no packet to be published."""
        for track in self.publications:
            is_certain = not track.is_by_rid or track.info.muted
            if not track.is_published and track.engine_id is not None and is_certain:
                self._publish(track, step)

    def _publish(self, track: PublishedTrack, step: Step) -> None:
        track.is_published = True
        if track.kind == "video":
            track.quality = QualityAggregate(step.now, self._settings.downgrade_delay)
        self.tell_track(track, step)

    def _end_receiver(self, plan: ReceiverPlan, step: Step) -> None:
        track = self.publications.get(plan.track_sid)
        if track is None:
            return
        if plan.codec_index == 0:
            self._end_track(plan.track_sid, step)
            return
        engine_id = track.engine_ids.pop(plan.codec_index, None)
        if engine_id is not None:
            self._owners.pop(engine_id, None)
            step.emit(RemoveTrack(engine_id))

    def _end_track(self, track_sid: str, step: Step) -> bool:
        track, next_up = self.publications.end(track_sid, self._enabled_codecs, self._ids)
        if track is None:
            return False
        self._free_track(track, step)
        if track.is_published:
            step.emit(
                TellRoom(
                    room_pb2.Fact(
                        participant_sid=self.sid,
                        track_ended=room_pb2.TrackEnded(track_sid=track_sid),
                    )
                )
            )
        if next_up is not None:
            self._announce(next_up, step)
        return True

    def _free_track(self, track: PublishedTrack, step: Step) -> None:
        for engine_id in track.engine_ids.values():
            self._owners.pop(engine_id, None)
            step.emit(RemoveTrack(engine_id))
        track.engine_ids.clear()
        self._directory.engine_ids.pop(track.sid, None)
        step.notices.append(TrackGone(track.sid))

    # subscribing

    def _activate(self, subscription: Subscription, track: DirectoryTrack, step: Step) -> None:
        is_video = track.info.type == models.TrackType.VIDEO
        mimes = [codec.mime_type.lower() for codec in track.info.codecs if codec.mid]
        subscription.publisher_sid = track.publisher_sid
        subscription.down_track = DownTrack(
            track_sid=track.info.sid,
            kind="video" if is_video else "audio",
            stream=f"{track.publisher_sid}|{track.info.sid}",
            mimes=tuple(mimes[:1]) or (track.info.mime_type.lower(),),
            ssrc=self._ids.number(1, 2**32 - 1),
            rtx_ssrc=self._ids.number(1, 2**32 - 1) if is_video else None,
            stereo=track.info.stereo,
            encrypted=track.info.encryption != models.Encryption.Type.NONE,
        )
        if self._offers is not None and self.subscriber is not None:
            self._offers.add(subscription.down_track)
        self._want_negotiation(step)

    def _deactivate(self, subscription: Subscription, step: Step) -> None:
        if subscription.down_track is None:
            return
        self._unbind(subscription, step)
        subscription.down_track = None
        if self._offers is not None:
            self._offers.remove(subscription.track_sid)
        self._want_negotiation(step)

    def _bind(self, plan: SenderPlan, pc: PeerConnection, step: Step) -> None:
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
        sender = self._ids.engine_id()
        self._owners[sender] = self
        self.subscriptions.bind(subscription, sender)
        wanted = wanted_layers(track.info, self.subscriptions.setting(plan.track_sid))
        step.emit(
            AddSender(
                pc.id,
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
        step.notices.append(Bound(self.sid, plan.track_sid))

    def _rebind(self, plan: SenderPlan, pc: PeerConnection, step: Step) -> None:
        self._unbind_by_track(plan.track_sid, step)
        self._bind(plan, pc, step)

    def _unbind_by_track(self, track_sid: str, step: Step) -> None:
        subscription = self.subscriptions.get(track_sid)
        if subscription is not None:
            self._unbind(subscription, step)

    def _unbind(self, subscription: Subscription, step: Step) -> None:
        sender = self.subscriptions.unbind(subscription)
        if sender is None:
            return
        self._owners.pop(sender, None)
        step.emit(RemoveSender(sender))
        self.losses.pop(sender, None)
        step.notices.append(Unbound(self.sid, subscription.track_sid))

    def _tell_allowed(
        self, subscription: Subscription, track: DirectoryTrack, *, is_allowed: bool, step: Step
    ) -> None:
        if subscription.told_allowed is is_allowed:
            return
        subscription.told_allowed = is_allowed
        self._respond(
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
        if subscription.down_track is not None and self._offers is not None:
            self._offers.remove(track_sid)
        subscription.down_track = None
        # The wish stays as "no": auto-subscribe must not try the same track again.
        subscription.is_wanted = False
        self._respond(
            step,
            subscription_response=rtc.SubscriptionResponse(track_sid=track_sid, err=error),
        )

    def _expire_unknown(self, step: Step) -> None:
        for subscription in self.subscriptions:
            if self._is_unknown(subscription) and step.now >= self._unknown_until(subscription):
                self._give_up(
                    subscription.track_sid, models.SubscriptionError.SE_TRACK_NOTFOUND, step
                )
                self.subscriptions.drop(subscription.track_sid)

    def _unknown_due(self) -> float | None:
        return min(
            (
                self._unknown_until(subscription)
                for subscription in self.subscriptions
                if self._is_unknown(subscription)
            ),
            default=None,
        )

    def _is_unknown(self, subscription: Subscription) -> bool:
        return subscription.is_wanted and subscription.track_sid not in self._directory.tracks

    def _unknown_until(self, subscription: Subscription) -> float:
        return subscription.wanted_at + self._settings.unknown_track_timeout

    def _request_keyframes(self, step: Step) -> None:
        for subscription in self.subscriptions:
            down = subscription.down_track
            engine_track = self._directory.engine_ids.get(subscription.track_sid)
            if subscription.sender is None or down is None or engine_track is None:
                continue
            if down.kind == "video":
                step.emit(RequestKeyframe(engine_track))

    # data

    def _is_established(self) -> bool:
        pc = self._primary()
        has_channels = {RELIABLE_LABEL, LOSSY_LABEL} <= pc.channels
        return pc.was_connected and (has_channels or self._has_no_channels)

    def _release_held(self, step: Step) -> None:
        if not self._is_established():
            return
        for payload in self._held.release(step.now):
            step.emit(SendData((self._primary().id,), RELIABLE_LABEL, payload))


def profile_excess(
    name: str, metadata: str, attributes: Mapping[str, str], settings: StageSettings
) -> str | None:
    """Which limit a profile exceeds, None when it fits."""
    if len(name.encode()) > settings.max_name_bytes:
        return "name size exceeds limits"
    if len(metadata.encode()) > settings.max_metadata_bytes:
        return "metadata size exceeds limits"
    size = sum(len(key.encode()) + len(value.encode()) for key, value in attributes.items())
    if size > settings.max_attributes_bytes:
        return "attribute size exceeds limits"
    return None
