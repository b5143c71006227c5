"""The sessions of one room on this node: the media side of a room, as one machine without IO.

A Stage takes sockets, signal requests, orders of the Room and reports of the media engine, and
gives signal responses, facts for the Room and engine commands. It is not the Room: who may be in
the room and what participants look like to others is decided there, and comes here as orders.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from google.protobuf.message import DecodeError
from livekit.protocol import models, rtc

from chassis.ids import PARTICIPANT
from contracts.node.v1 import node_pb2
from contracts.room.v1 import room_pb2
from sfu.core import requests, responses
from sfu.core.data import (
    DATA_TRACK_LABEL,
    LOSSY_LABEL,
    RELIABLE_LABEL,
    Addressed,
    DataGate,
    Dropped,
    address,
)
from sfu.core.data_tracks import parse_header, with_handle
from sfu.core.dynacast import Dynacast
from sfu.core.effects import (
    ABNORMAL,
    NORMAL,
    Bound,
    CloseSocket,
    CodecsChanged,
    CountDropped,
    Departed,
    Effect,
    Ids,
    LayersWanted,
    MediaConnected,
    Notice,
    QualityRepeatWanted,
    RateConnections,
    RefuseSocket,
    Resumed,
    SendSignal,
    SocketRef,
    StageSettings,
    Step,
    TellRoom,
    TrackGone,
    Unbound,
)
from sfu.core.fallback import Choices, Fallbacks
from sfu.core.forwarding import (
    EngineTracks,
    ForwardingEvent,
    GuestAnnounced,
    GuestChanged,
    GuestLeft,
    WishArrived,
    WishesEnded,
)
from sfu.core.grants import BadClaims, Grants
from sfu.core.guests import Guests
from sfu.core.media_commands import SendData
from sfu.core.media_events import AudioLevels, DataReceived, MediaEvent
from sfu.core.media_reports import tell_session
from sfu.core.moving import (
    ArrivalAdmitted,
    ArrivalAnnounced,
    ArrivalRefused,
    ArrivalWithdrawn,
    Arrived,
    HandOverWanted,
    MovingEvent,
    Way,
)
from sfu.core.participant import Participant
from sfu.core.peer_connection import is_udp
from sfu.core.reports import Reports
from sfu.core.session import Opening
from sfu.core.sessions import Sessions
from sfu.core.subscription import Directory, DirectoryTrack

__all__ = [
    "ABNORMAL",
    "NORMAL",
    "CloseSocket",
    "CountDropped",
    "Effect",
    "Event",
    "Ids",
    "MediaArrived",
    "OrderArrived",
    "RateConnections",
    "RefuseSocket",
    "SendSignal",
    "SignalArrived",
    "SocketGone",
    "SocketOpened",
    "SocketRef",
    "Stage",
    "StageSettings",
    "TellRoom",
    "Ticked",
]

BAD_REQUEST = 400
NOTED_AT_MOST = 4096


@dataclass(frozen=True, slots=True)
class SocketOpened:
    """Signaling opened a session (join or resume) with a verified token."""

    socket: SocketRef
    open: node_pb2.OpenSession
    claims: node_pb2.Claims


@dataclass(frozen=True, slots=True)
class SignalArrived:
    """A livekit.SignalRequest, undecoded."""

    socket: SocketRef
    request: bytes


@dataclass(frozen=True, slots=True)
class SocketGone:
    """The socket is closed; `cause` is node_pb2.SocketClosed.Cause."""

    socket: SocketRef
    cause: int


@dataclass(frozen=True, slots=True)
class OrderArrived:
    """The Room decided something for a session, or for all of this node."""

    order: room_pb2.Order


@dataclass(frozen=True, slots=True)
class MediaArrived:
    """The engine reported something about a pc, track or sender of this stage."""

    event: MediaEvent


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed: due at `next_timeout` at the latest."""


Event = (
    SocketOpened
    | SignalArrived
    | SocketGone
    | OrderArrived
    | MediaArrived
    | Ticked
    | MovingEvent
    | ForwardingEvent
)


class Stage:
    """One room's sessions on one node."""

    def __init__(self, room_name: str, node_id: str, ids: Ids, settings: StageSettings) -> None:
        self.room_name = room_name
        self.node_id = node_id
        self._ids = ids
        self._settings = settings
        self._directory = Directory()
        self._sessions = Sessions(self._directory)
        self._dynacast = Dynacast(self._sessions, self._directory)
        self._guests = Guests(self._directory)
        self._reports = Reports(self._sessions, self._guests, settings.quality_interval)
        self._fallbacks = Fallbacks(_choices(settings))
        self._gate = DataGate()
        self._arrivals: set[str] = set()  # sids of those announced from another room
        self._noted: set[bytes] = set()  # infos whose tracks are among the shown ones

    def handle(self, event: Event, now: float, wall_ms: int) -> list[Effect]:
        """Take one event; `now` is monotonic seconds, `wall_ms` Unix milliseconds."""
        step = Step(now, wall_ms)
        match event:
            case SocketOpened():
                self._open(event, step)
            case SignalArrived(socket, request):
                self._take_signal(socket, request, step)
            case SocketGone(socket):
                participant = self._sessions.detach(socket)
                if participant is not None and participant.socket == socket:
                    participant.lose_socket(step)
            case OrderArrived(order):
                self._take_order(order, step)
            case MediaArrived(media):
                self._take_media(media, step)
            case Ticked():
                self._tick(step)
            case ArrivalAnnounced() | ArrivalWithdrawn() | Arrived() | HandOverWanted():
                self._take_moving(event, step)
            case _:
                self._take_forwarding(event, step)
        self._settle(step)
        # Requests and time alone change no score: a room without media is not woken for it.
        if not isinstance(event, SignalArrived | Ticked):
            self._reports.want_scores(step.now)
        return step.effects

    def next_timeout(self) -> float | None:
        """When `Ticked` is due, on the clock of `now`; None when nothing waits."""
        times = [
            self._sessions.next_timeout(),
            self._reports.next_timeout(),
            self._dynacast.next_timeout(),
        ]
        return min((time for time in times if time is not None), default=None)

    @property
    def is_empty(self) -> bool:
        """No session, and none being closed: the node may forget this stage."""
        return not self._sessions and not self._arrivals and not self._guests

    # ----------------------------------------------------------------------------- sessions

    def _open(self, event: SocketOpened, step: Step) -> None:
        if event.open.reconnect:
            self._resume(event, step)
            return
        try:
            opening = self._opening(event)
        except (BadClaims, DecodeError) as error:
            message = str(error) if isinstance(error, BadClaims) else "join request is malformed"
            step.emit(RefuseSocket(event.socket, BAD_REQUEST, message))
            return
        participant = Participant(
            opening,
            node_id=self.node_id,
            ids=self._ids,
            settings=self._settings,
            directory=self._directory,
            owners=self._sessions.owners,
            fallbacks=self._fallbacks,
            step=step,
        )
        excess = self._settings.profile_limits.excess(
            name=participant.name,
            metadata=participant.metadata,
            attributes=participant.attributes,
        )
        if excess is not None:
            participant.connections.disown()
            step.emit(RefuseSocket(event.socket, BAD_REQUEST, excess))
            return
        self._sessions.add(participant, event.socket)
        participant.ask_to_join(step, self._settings.region)

    def _opening(self, event: SocketOpened) -> Opening:
        grants = Grants.of(event.claims)
        request = rtc.JoinRequest.FromString(event.open.join_request)
        claims = node_pb2.Claims()
        claims.CopyFrom(event.claims)
        if grants.permission.can_update_metadata:
            claims.metadata = request.metadata or claims.metadata
            for key, value in request.participant_attributes.items():
                if value:
                    claims.attributes[key] = value
        return Opening(
            sid=self._ids.sid(PARTICIPANT),
            socket=event.socket,
            claims=claims,
            grants=grants,
            client=models.ClientInfo.FromString(event.open.client_info),
            request=request,
            is_single=event.open.single_peer_connection,
            is_one_shot=event.open.one_shot,
        )

    def _resume(self, event: SocketOpened, step: Step) -> None:
        participant = self._sessions.by_identity(event.claims.identity)
        asked = event.open.participant_sid
        if participant is None or (asked and asked != participant.sid):
            self._refuse_resume(event, step)
            return
        if participant.scenarios.closes_silently(step.now):
            step.emit(CloseSocket(event.socket, "simulated", ABNORMAL))
            return
        self._sessions.attach(participant, event.socket)
        participant.resume(event.socket, event.open.reconnect_reason, step)

    def _refuse_resume(self, event: SocketOpened, step: Step) -> None:
        """A leave as the first message makes clients start a new session at once."""
        try:
            protocol = models.ClientInfo.FromString(event.open.client_info).protocol
        except DecodeError:
            protocol = 0
        message = responses.leave(
            models.DisconnectReason.STATE_MISMATCH, rtc.LeaveRequest.Action.RECONNECT, protocol
        )
        step.emit(SendSignal((event.socket,), message))
        step.emit(CloseSocket(event.socket, "no session to resume"))

    def _take_signal(self, socket: SocketRef, request: bytes, step: Step) -> None:
        participant = self._sessions.by_socket(socket)
        if participant is None or participant.socket not in (socket, None):
            return
        try:
            decoded = rtc.SignalRequest.FromString(request)
        except DecodeError:
            participant.drop_socket(step, "undecodable request")
            return
        if participant.socket is None and decoded.WhichOneof("message") != "leave":
            # We gave this socket up; a goodbye that was on its way is heard all the same.
            return
        if participant.is_told:
            requests.dispatch(participant, decoded, step)

    # ----------------------------------------------------------------- between two rooms

    def way_out(self, participant_sid: str) -> Way:
        """How a participant can get into another room; one that is not here, by joining it."""
        participant = self._sessions.get(participant_sid)
        return Way.REJOINS if participant is None else participant.way_out

    def joining(self, participant_sid: str, wall_ms: int) -> room_pb2.JoinRequested | None:
        """The session as it would ask to join another room of this node."""
        participant = self._sessions.get(participant_sid)
        if participant is None or participant.way_out is not Way.CARRIED:
            return None
        return participant.joining(self._settings.region, wall_ms)

    def _take_moving(self, event: MovingEvent, step: Step) -> None:
        match event:
            case ArrivalAnnounced(sid, joining):
                self._arrivals.add(sid)
                step.emit(TellRoom(room_pb2.Fact(participant_sid=sid, join_requested=joining)))
            case ArrivalWithdrawn(sid):
                self._arrivals.discard(sid)
                left = room_pb2.Left(reason=models.DisconnectReason.JOIN_FAILURE)
                step.emit(TellRoom(room_pb2.Fact(participant_sid=sid, left=left)))
            case HandOverWanted(sid):
                leaving = self._sessions.get(sid)
                if leaving is not None and leaving.way_out is Way.CARRIED:
                    step.emit(leaving.leave_stage(step))
            case Arrived():
                self._take_arrival(event, step)
            case _:
                assert_never(event)

    def _take_arrival(self, event: Arrived, step: Step) -> None:
        self._arrivals.discard(event.participant_sid)
        participant, socket = event.handed_over.participant, event.handed_over.participant.socket
        if socket is None:
            return
        participant.take_up_ids(
            event.handed_over.engine_ids, self._ids, self._sessions.owners, event.participant_sid
        )
        self._sessions.add(participant, socket)
        participant.enter_stage(self._directory, event, self.room_name, step)

    def _take_arrivals_order(self, order: room_pb2.Order, step: Step) -> None:
        match order.WhichOneof("order"):
            case "admit":
                self._note_shown(order.admit.others)
                step.emit(ArrivalAdmitted(order.participant_sid, order.admit))
            case "refuse":
                self._arrivals.discard(order.participant_sid)
                refuse = order.refuse
                step.emit(ArrivalRefused(order.participant_sid, refuse.code, refuse.message))
            case _:
                pass  # a member without a session yet

    def media_of(self, track_sids: Sequence[str]) -> dict[str, EngineTracks]:
        """The engine tracks of tracks published here."""
        found = {sid: self._directory.local.get(sid) for sid in track_sids}
        return {
            sid: EngineTracks(dict(local.engine_ids), local.suspended)
            for sid, local in found.items()
            if local is not None
        }

    def _take_forwarding(self, event: ForwardingEvent, step: Step) -> None:
        match event:
            case GuestAnnounced(sid, joining):
                self._guests.announce(sid, joining, step)
            case GuestChanged(sid, image):
                self._guests.change(sid, image, step)
            case GuestLeft(sid, reason):
                self._end_guest(sid, reason, step)
            case WishArrived():
                self._take_wish(event, step)
            case WishesEnded(guest_sid, identity):
                publisher = self._sessions.by_identity(identity)
                for track in () if publisher is None else publisher.publishing.publications:
                    if track.quality is not None:
                        track.quality.forget_all(f"{guest_sid}/")
            case _:
                assert_never(event)

    def _end_guest(self, participant_sid: str, reason: int, step: Step) -> None:
        self._guests.end(participant_sid, reason, step)
        self._reports.forget(participant_sid)

    def _take_wish(self, wish: WishArrived, step: Step) -> None:
        published = self._sessions.published(wish.track_sid)
        if published is None:
            return
        publisher, track = published
        wisher = f"{wish.guest_sid}/{wish.subscriber_sid}"
        if wish.codec:
            publisher.publishing.tell_subscribed(track, step)
        if track.quality is None:
            return
        if wish.codec:
            track.quality.want(wisher, wish.codec, wish.quality)
        else:
            track.quality.forget(wisher)

    # ------------------------------------------------------------------------------- orders

    def _take_order(self, order: room_pb2.Order, step: Step) -> None:
        match order.WhichOneof("order"):
            case "list_track":
                self._list_track(order.list_track, step)
            case "delist_track":
                self._delist(order.delist_track.track_sid, step)
            case "show_participants":
                self._show_participants(order.show_participants, step)
            case "show_room":
                room = models.Room.FromString(order.show_room.room)
                message = rtc.SignalResponse(room_update=rtc.RoomUpdate(room=room))
                self._sessions.tell(self._sessions, message.SerializeToString(), step)
            case "deliver_data":
                self._deliver(order.deliver_data, step)
            case "list_data_track":
                self._list_data_track(order.list_data_track, step)
            case "delist_data_track":
                self._delist_data_track(order.delist_data_track.track_sid, step)
            case _ if order.participant_sid in self._arrivals:
                self._take_arrivals_order(order, step)
            case _ if order.participant_sid in self._guests:
                self._take_guests_order(order, step)
            case _:
                self._take_sessions_order(order, step)

    def _take_guests_order(self, order: room_pb2.Order, step: Step) -> None:
        self._guests.take_order(order.participant_sid, order, step)
        if order.participant_sid not in self._guests:
            self._reports.forget(order.participant_sid)

    def _take_sessions_order(self, order: room_pb2.Order, step: Step) -> None:
        if not order.participant_sid and order.WhichOneof("order") == "end":
            for sid in self._guests:
                self._end_guest(sid, order.end.reason, step)
        for participant in self._addressed(order.participant_sid):
            self._take_own_order(participant, order, step)

    def _addressed(self, participant_sid: str) -> list[Participant]:
        if not participant_sid:
            return list(self._sessions)
        participant = self._sessions.get(participant_sid)
        return [] if participant is None else [participant]

    def _take_own_order(  # noqa: C901 - a table of orders
        self, participant: Participant, order: room_pb2.Order, step: Step
    ) -> None:
        match order.WhichOneof("order"):
            case "admit":
                self._note_shown(order.admit.others)
                participant.admit(order.admit, step)
            case "refuse":
                participant.refuse(order.refuse.code, order.refuse.message, step)
            case "end":
                participant.end(order.end.reason, order.end.action, step)
            case "mute_track":
                muting = order.mute_track
                participant.publishing.mute_by_order(
                    muting.track_sid, is_muted=muting.muted, step=step
                )
            case "unpublish_track":
                participant.publishing.unpublish(order.unpublish_track.track_sid, step)
            case "set_permission":
                participant.take_permission(order.set_permission, step)
            case "answer_profile_change":
                participant.take_profile(order.answer_profile_change, step)
            case "change_subscriptions":
                update = rtc.UpdateSubscription.FromString(order.change_subscriptions.update)
                requests.subscription(participant, update, step)
            case "resumed":
                participant.complete_resume(order.resumed, step)
            case "hand_over":
                participant.rejoin(order.hand_over.destination_room, step)
            case _:
                self._take_data_order(participant, order, step)

    def _take_data_order(self, participant: Participant, order: room_pb2.Order, step: Step) -> None:
        match order.WhichOneof("order"):
            case "call_rpc":
                participant.call_rpc(order.call_rpc, step)
            case "deliver_response":
                participant.send(order.deliver_response.response, step)
            case _:
                pass  # an order of a newer Room

    def _list_track(self, order: room_pb2.ListTrack, step: Step) -> None:
        track = DirectoryTrack.of(order)
        self._directory.tracks[track.info.sid] = track
        for participant in list(self._sessions):
            participant.subscribing.track_listed(track.info.sid, step)

    def _delist(self, track_sid: str, step: Step) -> None:
        for participant in list(self._sessions):
            participant.subscribing.track_delisted(track_sid, step)
        self._directory.forget(track_sid)
        self._noted.clear()

    def _list_data_track(self, order: room_pb2.ListDataTrack, step: Step) -> None:
        track_sid = self._directory.data.take(order)
        if track_sid is None:
            return
        for participant in self._sessions:
            participant.data_subscribing.track_listed(track_sid, step)

    def _delist_data_track(self, track_sid: str, step: Step) -> None:
        self._directory.data.drop(track_sid)
        for participant in self._sessions:
            participant.data_subscribing.track_delisted(track_sid, step)

    def _show_participants(self, order: room_pb2.ShowParticipants, step: Step) -> None:
        excluded = set(getattr(order, "except"))
        named = set(order.to)
        receivers = [
            participant
            for participant in self._sessions
            if participant.sid not in excluded and (not named or participant.sid in named)
        ]
        for message in responses.participant_updates(order.participants):
            self._sessions.tell(receivers, message, step)
        if named:
            return
        for track_sid in self._note_shown(order.participants):
            for participant in list(self._sessions):
                participant.subscribing.reconcile(track_sid, step)

    def _note_shown(self, infos: Sequence[bytes]) -> list[str]:
        """Remember the tracks clients were told of; the new ones."""
        fresh = set(infos).difference(self._noted)
        new = [
            track.sid
            for info in (infos if fresh else ())
            if info in fresh
            for track in models.ParticipantInfo.FromString(info).tracks
            if track.sid not in self._directory.shown
        ]
        self._directory.shown.update(new)
        # Each who joins is told of all others, mostly as the one before was.
        if len(self._noted) > NOTED_AT_MOST:
            self._noted.clear()
        self._noted.update(infos)
        return new

    # -------------------------------------------------------------------------------- media

    def _take_media(self, event: MediaEvent, step: Step) -> None:
        match event:
            case AudioLevels(levels):
                self._reports.take_levels(levels, step)
            case DataReceived():
                self._route(event, step)
            case _:
                tell_session(self._sessions, event, step)

    # --------------------------------------------------------------------------------- data

    def _route(self, event: DataReceived, step: Step) -> None:
        participant = self._sessions.owner(event.pc)
        if participant is None:
            return
        if not participant.may_send_data:
            step.emit(CountDropped("not_allowed"))
            return
        if event.label == DATA_TRACK_LABEL:
            self._forward(event.payload, participant, step)
            return
        is_reliable = event.label != LOSSY_LABEL
        payload = event.payload
        if event.label not in (RELIABLE_LABEL, LOSSY_LABEL):
            user = models.UserPacket(payload=payload)
            payload = models.DataPacket(user=user).SerializeToString()
        packet = self._gate.admit(
            payload,
            participant.as_sender(),
            is_reliable=is_reliable,
            last_sequence=participant.last_sequence,
            wall_ms=step.wall_ms,
        )
        if isinstance(packet, Dropped):
            step.emit(CountDropped(packet.reason))
            return
        if is_reliable:
            participant.last_sequence = max(participant.last_sequence, packet.sequence)
        if packet.is_metrics:
            self._send_metrics(packet, participant, step)
        elif not participant.takes_rpc_answer(packet, step):
            self._send_data(packet, participant, step)

    def _send_metrics(self, packet: Addressed, sender: Participant, step: Step) -> None:
        """To those who may see metrics and get something of the sender, itself included."""
        pcs = [
            target
            for participant in self._sessions
            if participant.grants.permission.can_subscribe_metrics
            and (
                participant is sender
                or sender.sid in participant.subscribing.subscriptions.publishers()
            )
            and (target := participant.data_target(packet, step.now)) is not None
        ]
        if pcs:
            label = RELIABLE_LABEL if packet.is_reliable else LOSSY_LABEL
            step.emit(SendData(tuple(pcs), label, packet.payload))

    def _forward(self, packet: bytes, publisher: Participant, step: Step) -> None:
        """A data track's packet goes to its subscribers under their handle."""
        header = parse_header(packet)
        if header is None:
            step.emit(CountDropped("malformed"))
            return
        row = self._directory.data.published(publisher.sid, header.handle)
        if row is None:
            step.emit(CountDropped("unknown_data_track"))
            return
        subscribers = [self._sessions.get(sid) for sid in row.subscribers]
        targets = [None if who is None else who.data_track_target for who in subscribers]
        pcs = tuple([pc for pc in targets if pc is not None])
        if pcs:
            step.emit(SendData(pcs, DATA_TRACK_LABEL, with_handle(packet, row.handle)))

    def _deliver(self, order: room_pb2.DeliverData, step: Step) -> None:
        packet = models.DataPacket.FromString(order.packet)
        packet.destination_identities[:] = order.destination_identities
        self._send_data(address(packet, is_reliable=order.reliable), None, step)

    def _send_data(self, packet: Addressed, sender: Participant | None, step: Step) -> None:
        targets = [
            participant.data_target(packet, step.now)
            for participant in self._sessions
            if participant is not sender and packet.is_for(participant.identity, participant.sid)
        ]
        pcs = tuple(pc for pc in targets if pc is not None)
        if pcs:
            label = RELIABLE_LABEL if packet.is_reliable else LOSSY_LABEL
            step.emit(SendData(pcs, label, packet.payload))

    # ---------------------------------------------------------------------------- after all

    def _settle(self, step: Step) -> None:
        """Carry what sessions noticed to those it concerns, then to the clock."""
        while step.notices:
            notices, step.notices = step.notices, []
            for notice in notices:
                self._take_notice(notice, step)
        self._dynacast.poll(step)
        self._sessions.schedule(step.touched)

    def _take_notice(self, notice: Notice, step: Step) -> None:  # noqa: C901 - a table
        match notice:
            case Bound(subscriber_sid, track_sid):
                self._bound(subscriber_sid, track_sid, step)
            case Unbound(subscriber_sid, track_sid):
                self._unbound(subscriber_sid, track_sid, step)
            case LayersWanted(subscriber_sid, track_sid):
                self._count_wish(subscriber_sid, track_sid, step)
            case MediaConnected(participant_sid):
                self._tell_subscribed(participant_sid, step)
            case QualityRepeatWanted(publisher_sid):
                self._dynacast.repeat(publisher_sid, step)
            case Resumed(participant_sid, since):
                self._reports.resumed(participant_sid, since, step)
            case TrackGone(track_sid):
                self._delist(track_sid, step)
            case CodecsChanged(track_sid):
                self._dynacast.regress(track_sid, len(self._sessions))
                for participant in self._sessions:
                    participant.subscribing.choose_codec(track_sid, step)
            case Departed(participant_sid):
                self._forget(participant_sid)
            case _:
                assert_never(notice)

    def _bound(self, subscriber_sid: str, track_sid: str, step: Step) -> None:
        subscriber = self._sessions.get(subscriber_sid)
        track = self._directory.tracks.get(track_sid)
        if subscriber is None or track is None:
            return
        self._count_wish(subscriber_sid, track_sid, step)
        self._tell_subscribed(subscriber_sid, step)
        if subscriber.subscribing.subscriptions.senders_from(track.publisher_sid) == 1:
            self._reports.subscribed(subscriber, track.publisher_sid, step)

    def _count_wish(self, subscriber_sid: str, track_sid: str, step: Step) -> None:
        self._dynacast.count(subscriber_sid, track_sid)
        subscriber = self._sessions.get(subscriber_sid)
        wanted = None if subscriber is None else subscriber.subscribing.wanted(track_sid)
        if wanted is not None:
            codec, layers = wanted
            self._guests.tell_wish(subscriber_sid, track_sid, (codec, layers.quality), step)

    def _unbound(self, subscriber_sid: str, track_sid: str, step: Step) -> None:
        self._dynacast.forget(subscriber_sid, track_sid)
        self._guests.tell_wish(subscriber_sid, track_sid, ("", 0), step)
        subscriber = self._sessions.get(subscriber_sid)
        track = self._directory.tracks.get(track_sid)
        if subscriber is None or track is None:
            return
        publisher_sid = track.publisher_sid
        if not subscriber.subscribing.subscriptions.senders_from(publisher_sid):
            self._reports.unsubscribed(subscriber, publisher_sid, step)

    def _tell_subscribed(self, subscriber_sid: str, step: Step) -> None:
        """Tell publishers of their first connected, visible subscriber, once a track."""
        subscriber = self._sessions.get(subscriber_sid)
        if subscriber is None or not subscriber.connections.is_receiving:
            return
        if subscriber.grants.permission.hidden:
            return
        for subscription in subscriber.subscribing.subscriptions:
            if subscription.sender is None:
                continue
            published = self._sessions.published(subscription.track_sid)
            if published is not None:
                published[0].publishing.tell_subscribed(published[1], step)

    def _forget(self, participant_sid: str) -> None:
        self._sessions.forget(participant_sid)
        self._reports.forget(participant_sid)

    # --------------------------------------------------------------------------------- time

    def _tick(self, step: Step) -> None:
        for participant in self._sessions.take_due(step.now):
            participant.tick(step)
            participant.touch(step)
        self._reports.tick(step)


def _choices(settings: StageSettings) -> Choices:
    has_tcp = any(not is_udp(line) for line in settings.candidates)
    return Choices(has_tcp=has_tcp, has_relay=settings.ice_servers.has_tls)
