"""One participant's session on this node: joining, joined, active, disconnected.

The course of a session and what it does at each step: its socket, resumes, permissions, profile,
data. Its media is in two halves, publishing.py and subscribing.py, over connections.py; what it says
first is in greetings.py, how it outlives failures in reconnecting.py. It does not decide who is in
the room nor what others see of it (the Room does), and it knows no other session: what concerns
others it leaves as notices in the step.
"""

from __future__ import annotations

from typing import cast

from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core import responses
from sfu.core.claims import Claims
from sfu.core.codecs import CodecPolicy
from sfu.core.connections import Connections
from sfu.core.data import DATA_TRACK_LABEL, RELIABLE_LABEL, Addressed, HeldPackets, Sender
from sfu.core.data_publishing import DataPublishing
from sfu.core.data_subscribing import DataSubscribing
from sfu.core.effects import (
    ABNORMAL,
    NORMAL,
    Departed,
    Ids,
    MediaConnected,
    QualityRepeatWanted,
    RefuseSocket,
    Resumed,
    SocketRef,
    StageSettings,
    Step,
)
from sfu.core.exchange import Exchange
from sfu.core.fallback import Fallbacks, Preference
from sfu.core.greetings import Greetings
from sfu.core.media_commands import SendData, SetBandwidthCap
from sfu.core.moving import (
    MOVED_PROTOCOL,
    Arrived,
    HandedOver,
    Way,
    restriction_abroad,
    room_moved,
)
from sfu.core.plans import NegotiationFailed
from sfu.core.publishing import Publishing
from sfu.core.reconnecting import Reconnecting
from sfu.core.scenarios import Scenarios
from sfu.core.session import Opening, Reason, SignalSession, State
from sfu.core.subscribing import Subscribing
from sfu.core.subscription import Directory

Action = rtc.LeaveRequest.Action
DisconnectReason = models.DisconnectReason

TOMBSTONE_PROTOCOL = 9
FAST_START_PROTOCOL = 8
LEAVE_REASONS = frozenset(
    {
        DisconnectReason.CLIENT_INITIATED,
        DisconnectReason.USER_UNAVAILABLE,
        DisconnectReason.USER_REJECTED,
        DisconnectReason.AGENT_ERROR,
    }
)
HTTP_STATUS = {"permission_denied": 403, "not_found": 404, "invalid_argument": 400, "internal": 500}


class Participant(SignalSession):
    """One session. Every method takes the step it may add effects and notices to."""

    def __init__(
        self,
        opening: Opening,
        *,
        node_id: str,
        ids: Ids,
        settings: StageSettings,
        directory: Directory,
        owners: dict[int, str],
        fallbacks: Fallbacks,
        step: Step,
    ) -> None:
        super().__init__(
            opening, ids=ids, settings=settings, owners=owners, joining_ms=step.wall_ms
        )
        self.connections = Connections(self, opening, fallbacks.of(self.identity, step.now))
        self.publishing = Publishing(self, self.connections, directory)
        self.subscribing = Subscribing(self, self.connections, directory, opening)
        self.data_publishing = DataPublishing(self)
        self.data_subscribing = DataSubscribing(self, directory.data, opening)
        self.last_sequence = 0
        self.scenarios = Scenarios(self)

        self._exchange = Exchange(self, self.connections, self.publishing, self.subscribing)
        self._claims = Claims(self)
        self._greetings = Greetings(self, self.connections, node_id)
        self._reconnecting = Reconnecting(self, self.connections, fallbacks)
        self._fallbacks = fallbacks
        self._request = opening.request
        self._is_resumed_early = False
        self._missed_since = step.now
        self._held = HeldPackets()
        self._rpc_until: dict[str, float] = {}  # request id -> when nobody waits any more
        self._restriction: rtc.SubscriptionPermission | None = None
        self._join_by: float | None = step.now + settings.join_timeout

    # ------------------------------------------------------------------ joining and leaving

    def ask_to_join(self, step: Step, region: str) -> None:
        """Tell the Room; it answers with Admit or Refuse."""
        joining = self.joining(region, step.wall_ms)
        joining.room_configuration = self.grants.room_configuration
        joining.room_preset = self.grants.room_preset
        self.tell_room(step, join_requested=joining)
        self.touch(step)

    def joining(self, region: str, wall_ms: int) -> room_pb2.JoinRequested:
        """Who asks to join, as it is now."""
        grants = self.grants
        return room_pb2.JoinRequested(
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
            joined_at_ms=wall_ms,
        )

    def admit(self, order: room_pb2.Admit, step: Step) -> None:
        """The Room took us in: say join, then start what may be started."""
        if self.state is not State.JOINING:
            return
        room = models.Room.FromString(order.room)
        if room.enabled_codecs:
            self.publishing.enabled_codecs = tuple(codec.mime for codec in room.enabled_codecs)
        codecs = CodecPolicy.of(self.publishing.enabled_codecs, self._greetings.configuration)
        self.connections.begin(
            codecs,
            sync_streams=order.sync_streams,
            has_playout_delay=order.max_playout_delay_ms > 0,
        )
        self.subscribing.take_room(order)
        self.state = State.JOINED
        if self._is_resumed_early:
            self._say_reconnect(0, step)
        else:
            self.send(self._greetings.join(room, order, codecs, step), step)
        self._claims.push(step)
        self.connections.start_subscriber(step)
        for request in self._request.add_track_requests:
            self.publishing.add_track(request, step)
        if self._request.HasField("publisher_offer"):
            self.take_offer(self._request.publisher_offer, step)
        if self.client.protocol >= FAST_START_PROTOCOL:
            self.subscribing.reconcile_all(step)
        self.data_subscribing.reconcile_all(step)
        self.connections.want_first_offer(step)
        self._fails(self._exchange.poll(step), step)

    def refuse(self, code: str, message: str, step: Step) -> None:
        """The Room did not take us in."""
        if self.state is not State.JOINING:
            return
        self.state = State.DISCONNECTED
        if self.socket is not None:
            step.emit(RefuseSocket(self.socket, HTTP_STATUS.get(code, 503), message))
            self.socket = None
        self.connections.disown()
        step.notices.append(Departed(self.sid))

    def resume(self, socket: SocketRef, reason: int, step: Step) -> None:
        """The client is back on a new socket; media never stopped (LiveKit: resume)."""
        self.close_socket(step, "resumed on another socket")
        self.socket = socket
        if self.state is State.JOINING:
            self._is_resumed_early = True  # `reconnect` takes the place of `join`
            return
        self._say_reconnect(reason, step)

    def _say_reconnect(self, reason: int, step: Step) -> None:
        self._reconnecting.resumed(reason, step)
        self.respond(step, reconnect=self._greetings.reconnect(self.last_sequence, step))
        since = self.last_signal_ms
        self._missed_since = step.now - max(0, step.wall_ms - since) / 1000
        self.tell_room(step, resume_requested=room_pb2.ResumeRequested(tombstones_since_ms=since))
        self.touch(step)

    def complete_resume(self, order: room_pb2.Resumed, step: Step) -> None:
        """The Room told what there is now and who left meanwhile."""
        if not self._reconnecting.is_latest():
            return  # the client has come back once more: that answer is for it
        if self.client.protocol >= TOMBSTONE_PROTOCOL:
            self.send_all(responses.participant_updates(order.departed), step)
        self.send_all(responses.participant_updates(order.participants), step)
        self.respond(step, room_update=rtc.RoomUpdate(room=models.Room.FromString(order.room)))
        self._claims.push(step)
        self._fails(self._exchange.restart_subscriber(step), step)
        self.subscribing.request_keyframes(step)
        self.data_subscribing.repeat(step)
        step.notices.append(QualityRepeatWanted(self.sid))
        step.notices.append(Resumed(self.sid, self._missed_since))
        if self.scenarios.drops_resumed(step.now):
            self.drop_socket(step, "simulated")

    def lose_socket(self, step: Step) -> None:
        """The socket is gone without a leave. Media decides how long the session stays."""
        self.socket = None
        self._reconnecting.socket_lost()
        # Without media: a one-shot session has until the join timeout, it said all it had to say.
        if not self.connections.was_connected and not self.is_one_shot:
            self.depart(DisconnectReason.SIGNAL_CLOSE, step)

    def drop_socket(self, step: Step, why: str) -> None:
        """Close the socket ourselves, without a leave; the session stays as for a lost one."""
        self.close_socket(step, why, ABNORMAL)
        self.lose_socket(step)

    def leave(self, reason: int, step: Step) -> None:
        """The client leaves: say so back, close, be gone."""
        known = reason if reason in LEAVE_REASONS else DisconnectReason.CLIENT_INITIATED
        self.end(known, Action.DISCONNECT, step)
        self.tell_left(known, step)

    def end(self, reason: int, action: int, step: Step, why: str = "left") -> None:
        """Leave message, close, clean up; the Room is not told. `why` is for logs."""
        self.send(responses.leave(reason, action, self.client.protocol), step)
        self.close_socket(step, why)
        self._clean_up(step)

    def depart(self, reason: int, step: Step, *, code: int = NORMAL) -> None:
        """Gone without a word to the client but the close code."""
        if self.state is State.DISCONNECTED:
            return
        self.close_socket(step, "session ended", code)
        self._clean_up(step)
        self.tell_left(reason, step)

    def fail(self, step: Step, why: str) -> None:
        """Client and server disagree beyond repair: have the client start anew."""
        self.end(DisconnectReason.STATE_MISMATCH, Action.RECONNECT, step, why)
        self.tell_left(DisconnectReason.STATE_MISMATCH, step)

    # ----------------------------------------------------------------- to another room

    @property
    def way_out(self) -> Way:
        """How this participant can get into another room."""
        if self.socket is None:
            return Way.AWAY
        knows_moved = self.client.protocol >= MOVED_PROTOCOL
        is_whole = self.state is State.ACTIVE and self.connections.primary.is_connected
        return Way.CARRIED if knows_moved and is_whole else Way.REJOINS

    def rejoin(self, room_name: str, step: Step) -> None:
        """Have the client join another room anew, by a token for it."""
        self.grants = self.grants.naming(room_name)
        self._claims.push(step)
        self.end(DisconnectReason.MIGRATION, Action.RECONNECT, step, "to another room")

    def restrict(self, permission: rtc.SubscriptionPermission, step: Step) -> None:
        """The client says who may subscribe to its tracks: the Room obeys, and that of a later move."""
        self._restriction = permission
        changed = room_pb2.SubscriptionPermissionChanged(permission=permission.SerializeToString())
        self.tell_room(step, subscription_permission_changed=changed)

    def leave_stage(self, step: Step) -> HandedOver:
        """End here what is of this room, and tell it; transports and published tracks live on."""
        self.subscribing.leave_stage(step)
        self.publishing.leave_stage(step)
        self.data_subscribing.leave_stage()
        self.tell_left(DisconnectReason.MIGRATION, step)
        step.notices.append(Departed(self.sid))
        return HandedOver(self, self.give_up_ids())

    def enter_stage(self, directory: Directory, arrived: Arrived, room: str, step: Step) -> None:
        """Go on in another room, whose Room admitted this participant; its ids were taken up."""
        self.grants = self.grants.naming(room)
        self.send_all(responses.participant_updates(arrived.departed), step)
        tracks = [track.info for track in self.publishing.publications if track.is_published]
        moved = room_moved(arrived.admit, self._claims.signed(step), tracks)
        if moved.room.enabled_codecs:
            self.publishing.enabled_codecs = tuple(c.mime for c in moved.room.enabled_codecs)
        self.respond(step, room_moved=moved)
        if self._restriction is not None:
            self.restrict(restriction_abroad(self._restriction), step)
        self.tell_room(step, activated=room_pb2.Activated())
        self.publishing.enter_stage(directory, step)
        self.subscribing.enter_stage(directory, arrived.admit, step)
        self.data_publishing.enter_stage(step)
        self.data_subscribing.enter_stage(directory.data, step)
        self._fails(self._exchange.poll(step), step)
        step.notices.append(MediaConnected(self.sid))
        self.touch(step)

    def tell_left(self, reason: int, step: Step) -> None:
        """Tell the Room that the session is over."""
        self.tell_room(step, left=room_pb2.Left(reason=reason))

    # ------------------------------------------------------------------------------- time

    def tick(self, step: Step) -> None:
        """Do what is due by time alone."""
        now = step.now
        if self._reconnecting.is_over(step):
            self.depart(DisconnectReason.CONNECTION_TIMEOUT, step)
            return
        if self._join_by is not None and now >= self._join_by:
            self._join_by = None
            self.end(DisconnectReason.JOIN_FAILURE, Action.DISCONNECT, step)
            self.tell_left(DisconnectReason.JOIN_FAILURE, step)
            return
        self._claims.tick(step)
        self.scenarios.tick(step)
        self.subscribing.tick(step)
        self.data_subscribing.tick(step)
        self._fails(self._exchange.poll(step), step)

    def next_timeout(self) -> float | None:
        """When `tick` is due."""
        if self.state is State.DISCONNECTED:
            return None
        times = [
            self._reconnecting.next_timeout(),
            self._join_by,
            self._claims.next_timeout(),
            self.scenarios.next_timeout(),
            self.subscribing.next_timeout(),
            self.data_subscribing.next_timeout(),
            self.connections.next_timeout(),
        ]
        return min((time for time in times if time is not None), default=None)

    # -------------------------------------------------------------------------- transport

    def media_connected(self, pc_id: int, step: Step) -> None:
        """ICE and DTLS of one peer connection are up."""
        pc = self.connections.by_id(pc_id)
        if pc is None or self.state < State.JOINED:
            return
        pc.connected(step.now)
        self._reconnecting.media_connected(step)
        if pc is self.connections.primary and self.state is State.JOINED:
            self.state = State.ACTIVE
            self._join_by = None
            self.subscribing.activated(step)
            self.tell_room(step, activated=room_pb2.Activated())
            if self.client.protocol < FAST_START_PROTOCOL:
                self.subscribing.reconcile_all(step)
        self.subscribing.request_keyframes(step)
        self._release_held(step)
        step.notices.append(MediaConnected(self.sid))
        self.touch(step)

    def media_disconnected(self, pc_id: int, step: Step) -> None:
        """No traffic for a while; nothing to do yet."""
        pc = self.connections.by_id(pc_id)
        if pc is not None:
            pc.is_connected = False
        self.touch(step)

    def media_failed(self, pc_id: int, step: Step) -> None:
        """One transport is beyond repair without an ICE restart."""
        pc = self.connections.by_id(pc_id)
        if pc is None or self.state < State.JOINED or pc.remote is None:
            return
        pc.is_connected = False
        pc.is_failed = True
        if self.is_one_shot:  # nobody can be asked to come back
            self.depart(DisconnectReason.CONNECTION_TIMEOUT, step)
            return
        self._reconnecting.media_failed(pc, step)
        self.touch(step)

    def channel_opened(self, pc_id: int, label: str, step: Step) -> None:
        """A data channel is open, ours or the client's."""
        pc = self.connections.by_id(pc_id)
        if pc is not None:
            pc.channels.add(label)
            self._release_held(step)

    def channel_closed(self, pc_id: int, label: str) -> None:
        """A data channel is gone."""
        pc = self.connections.by_id(pc_id)
        if pc is not None:
            pc.channels.discard(label)

    def trickle(self, request: rtc.TrickleRequest, step: Step) -> None:
        """A candidate of the client. Raises BadCandidate."""
        subscriber = (
            self.connections.subscriber if request.target == rtc.SignalTarget.SUBSCRIBER else None
        )
        pc = subscriber or self.connections.publisher
        pc.add_candidate(request.candidateInit, step)

    # ------------------------------------------------------------------------ negotiation

    def take_offer(self, offer: rtc.SessionDescription, step: Step) -> None:
        """The client offers."""
        if not self.is_told:
            return
        if self._fails(self._exchange.take_offer(offer, step), step):
            return
        self._release_held(step)
        self.touch(step)

    def take_answer(self, answer: rtc.SessionDescription, step: Step) -> None:
        """The client answers our offer (dual mode)."""
        self._fails(self._exchange.take_answer(answer, step), step)

    def _fails(self, failed: NegotiationFailed | None, step: Step) -> bool:
        if failed is None:
            return False
        self.fail(step, f"negotiation failed: {failed.reason}")
        return True

    def switch_candidates(self, wanted: Preference, step: Step) -> None:
        """Have both connections use other candidates, ours at once, the client's with its offer."""
        self.connections.prefer(self._fallbacks.prefer(self.identity, wanted, step.now))
        self._fails(self._exchange.restart_subscriber(step), step)

    def cap_bandwidth(self, bps: int, step: Step) -> None:
        """At most so many bits a second are sent; 0: no cap."""
        allow_pause = self._request.connection_settings.subscriber_allow_pause
        step.emit(SetBandwidthCap(self.connections.sending.id, bps or None, allow_pause))

    # ------------------------------------------------------------- permissions and profile

    def take_permission(self, order: room_pb2.SetPermission, step: Step) -> None:
        """The Room changed what this participant may do, its profile, or both."""
        permission = models.ParticipantPermission.FromString(order.permission)
        info = models.ParticipantInfo.FromString(order.participant) if order.participant else None
        self._claims.take(step, info, permission)
        self.publishing.unpublish_forbidden(permission, step)
        self.data_publishing.unpublish_forbidden(permission, step)
        self.subscribing.reconcile_all(step)
        self.data_subscribing.reconcile_all(step)

    def take_profile(self, order: room_pb2.AnswerProfileChange, step: Step) -> None:
        """The Room's answer to update_metadata."""
        reason = cast("rtc.RequestResponse.Reason", order.reason)
        if reason == Reason.OK and order.participant:
            self._claims.take(step, models.ParticipantInfo.FromString(order.participant))
        self.respond_to(step, reason, order.message, request_id=order.request_id)

    # ------------------------------------------------------------------------------- data

    def as_sender(self) -> Sender:
        """This participant as the origin of data."""
        return Sender(self.sid, self.identity, self.grants.permission.hidden, self.grants.is_agent)

    @property
    def may_send_data(self) -> bool:
        """Whether data of this participant is forwarded at all."""
        return self.is_told and self.grants.permission.can_publish_data

    def data_target(self, packet: Addressed, now: float) -> int | None:
        """The peer connection to send a packet on now; None when it is held or dropped."""
        if not packet.is_reliable:
            return self.connections.primary.id if self.state is State.ACTIVE else None
        if not self.is_told:
            return None
        if self.connections.is_established:
            return self.connections.primary.id
        self._held.hold(packet, now)
        return None

    @property
    def data_track_target(self) -> int | None:
        """The peer connection for packets of data tracks; None while they would go nowhere."""
        pc = self.connections.primary
        is_open = self.state is State.ACTIVE and DATA_TRACK_LABEL in pc.channels
        return pc.id if is_open else None

    def call_rpc(self, order: room_pb2.CallRpc, step: Step) -> None:
        """Ask the client to run a method for the server API, if it can be asked now."""
        if not self.connections.is_established or self.connections.has_no_channels:
            answered = room_pb2.RpcAnswered(request_id=order.request_id)
            self.tell_room(step, rpc_answered=answered)
            return
        self._rpc_until = {key: at for key, at in self._rpc_until.items() if at > step.now}
        self._rpc_until[order.request_id] = step.now + order.lifetime_ms / 1000
        step.emit(SendData((self.connections.primary.id,), RELIABLE_LABEL, order.packet))

    def takes_rpc_answer(self, packet: Addressed, step: Step) -> bool:
        """Whether a packet of the client answers the server API: then only the Room hears of it."""
        request_id = packet.answered_request
        if request_id not in self._rpc_until:
            return False
        answered = room_pb2.RpcAnswered(request_id=request_id, packet=packet.payload)
        self.tell_room(step, rpc_answered=answered)
        return True

    # ----------------------------------------------------------------------------- limits

    @property
    def is_simulation_allowed(self) -> bool:
        """Whether this node plays faults for tests."""
        return self.settings.simulate_allowed

    # ----------------------------------------------------------------------------- private

    def _clean_up(self, step: Step) -> None:
        """Free everything in the engine; what others get of this session ends too."""
        if self.state is State.DISCONNECTED:
            return
        self.state = State.DISCONNECTED
        self.subscribing.close(step)
        self.data_subscribing.close()
        self.publishing.close(step)
        self.connections.close(step)
        step.notices.append(Departed(self.sid))

    def _release_held(self, step: Step) -> None:
        if not self.connections.is_established:
            return
        for payload in self._held.release(step.now):
            step.emit(SendData((self.connections.primary.id,), RELIABLE_LABEL, payload))
