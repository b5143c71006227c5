"""The Room: who is in it, what others see of them, what may be subscribed to, how long it lives.

One Room lives on its home node under a lease; events and time in, effects out. It owns membership,
permissions, ParticipantInfo with its version, the track directory and the RoomService calls of one
room. It is not asked per packet or per negotiation: sessions, subscriptions and media belong to
`sfu.core.stage` on each media node, which tells facts and takes orders (`contracts.room.v1`).
Behavior and limits: LiveKit signal protocol and RoomService API.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never, cast

from livekit.protocol import models as lk
from livekit.protocol import room as api
from livekit.protocol import rtc

from chassis.projects import split
from chassis.roles import ROLE_ATTRIBUTE
from contracts.events.v1 import events_pb2
from contracts.room.v1 import checkpoint_pb2, room_pb2
from sfu.core import room_calls
from sfu.core.configuration import RoomWish, is_persistent, max_duration_s, settle
from sfu.core.data_blobs import MAX_TOTAL_BYTES, DataBlobs
from sfu.core.member import Member, Tombstone
from sfu.core.room_events import (
    FROZEN,
    NO_ROOM,
    AnswerApi,
    ApiCalled,
    ApiError,
    Checkpoint,
    Closed,
    Closing,
    Effect,
    Event,
    FactArrived,
    Frozen,
    GiveOrder,
    Inherited,
    NodeLost,
    Publish,
    RoomSettings,
    Thawed,
    Ticked,
)
from sfu.core.rpc_calls import DEFAULT_RESPONSE_MS, MAX_CALLS, MAX_RESPONSE_MS, RpcCalls

WINDOW_PER_RECEIVER = 0.0002  # seconds that updates are gathered, for each who gets them ...
WINDOW_MIN = 0.02
WINDOW_MAX = 0.5  # ... within these bounds
COUNTER_INTERVAL = 5.0  # seconds between updates of the room's counters
NONCES_REMEMBERED = 100
EVENT_SCHEMA = 1
CHECKPOINT_SCHEMA = 1
DUPLICATE_AWARE_PROTOCOL = 12  # from here on, clients see a replaced session by its new sid


class Room:
    """One room, on its home node, under one lease (`epoch`)."""

    def __init__(
        self,
        name: str,
        sid: str,
        epoch: int,
        settings: RoomSettings,
        new_event_id: Callable[[], str],
        now: float,
        wall_ms: int,
        *,
        wish: RoomWish | None = None,
        sif_trailer: bytes = b"",
        turn_password: str = "",
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.settings = settings
        self._new_event_id = new_event_id
        self._wish = wish
        self._configuration = api.RoomConfiguration()
        self._sif_trailer = sif_trailer
        self.project, bare_name = split(name)
        self.info = lk.Room(
            sid=sid,
            name=bare_name,
            empty_timeout=settings.empty_timeout,
            departure_timeout=settings.departure_timeout,
            max_participants=settings.max_participants,
            creation_time=wall_ms // 1000,
            creation_time_ms=wall_ms,
            turn_password=turn_password,
            enabled_codecs=[lk.Codec(mime=mime) for mime in settings.enabled_codecs],
        )
        self.is_started = False
        self._is_closed = False
        self._is_frozen = False
        self._is_superseded = False
        self._lives_on = False
        self.members: dict[str, Member] = {}  # by sid
        self._sids: dict[str, str] = {}  # identity -> sid
        self._participants = self._recorders = 0  # of the members
        self._visible = self._publishers = 0  # ... as far as others see them
        self.node_ids: dict[str, None] = {}  # nodes with a copy of the track directory, in order
        self._sequence = 0
        self._tombstones: deque[Tombstone] = deque()
        self.nonces: deque[bytes] = deque(maxlen=NONCES_REMEMBERED)
        self._rpc_calls = RpcCalls()
        # updates not shown yet
        self._departed: list[bytes] = []
        self._changed: dict[str, None] = {}
        self._update_at: float | None = None
        self._shown_room = b""
        self._is_recording_shown = False
        self._room_at: float | None = None
        # life
        self._empty_since: float | None = now
        self._had_participant = False
        self._now = now
        self._wall_ms = wall_ms
        self._effects: list[Effect] = []
        self._touched: dict[str, None] = {}  # records to be written; "": the room's

    @property
    def sid(self) -> str:
        return self.info.sid

    def touch(self) -> None:
        """What the record of the room says has changed."""
        self._touched[""] = None

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def is_frozen(self) -> bool:
        """Joins, calls that change something and the room's end wait for `Thawed`."""
        return self._is_frozen

    @property
    def participant_count(self) -> int:
        """Members of every kind, for the node's load."""
        return len(self.members)

    def described(self) -> dict[str, object]:
        """What an operator may see of the room: no metadata, no attributes."""
        return {
            "is_started": self.is_started,
            "is_frozen": self._is_frozen,
            "participants": [
                {
                    "sid": member.sid,
                    "identity": member.identity,
                    "state": lk.ParticipantInfo.State.Name(member.info.state),
                    "node": member.node_id,
                    "version": member.info.version,
                    "protocol": member.protocol_version,
                    "is_hidden": member.is_hidden,
                    "tracks": [
                        {
                            "sid": track.sid,
                            "source": lk.TrackSource.Name(track.source),
                            "codec": track.mime_type,
                            "is_muted": track.muted,
                        }
                        for track in member.tracks.values()
                    ],
                }
                for member in self.members.values()
            ],
        }

    def next_timeout(self) -> float | None:
        """When `Ticked` is due, on the clock of `now`."""
        if self._is_closed:
            return None
        times = (
            self._update_at,
            self._room_at,
            self._expires_at(),
            self._ends_at(),
            self._rpc_calls.next_timeout(),
        )
        return min((time for time in times if time is not None), default=None)

    def handle(self, event: Event, now: float, wall_ms: int) -> list[Effect]:
        """Take one event; `now` is monotonic seconds, `wall_ms` Unix milliseconds.

        Raises DecodeError for a fact that cannot be read: a bug of the node that told it.
        """
        self._now = now
        self._wall_ms = wall_ms
        self._effects = []
        if self._is_closed:
            self._answer_when_closed(event)
            return self._effects
        match event:
            case Inherited():
                self._inherit(event)
            case FactArrived(node_id, fact):
                self._on_fact(node_id, fact)
            case NodeLost(node_id):
                self._on_node_lost(node_id)
            case ApiCalled():
                self._effects += room_calls.answer(self, event)
            case Frozen():
                self._is_frozen = True
            case Thawed():
                self._is_frozen = False
            case Ticked():
                self._on_tick()
            case Closing(reason, lives_on):
                self.close(reason, lives_on=lives_on)
            case _:
                assert_never(event)
        self._say_touched()
        return self._effects

    def checkpoint(self, participant_sid: str) -> bytes | None:
        """The record of a participant as it is now or, with "", of the room; None: there is none."""
        if self._is_closed and not self._lives_on:
            return None
        if not participant_sid:
            record = checkpoint_pb2.RoomCheckpoint(
                schema=CHECKPOINT_SCHEMA,
                epoch=self.epoch,
                room=self._room_bytes(),
                configuration=self._configuration.SerializeToString(),
                sif_trailer=self._sif_trailer,
                is_started=self.is_started,
                had_participant=self._had_participant,
            )
            return record.SerializeToString()
        member = self.members.get(participant_sid)
        if member is None:
            return None
        return checkpoint_pb2.ParticipantCheckpoint(
            schema=CHECKPOINT_SCHEMA,
            epoch=self.epoch,
            node_id=member.node_id,
            participant=member.bytes(),
        ).SerializeToString()

    def _say_touched(self) -> None:
        if self._touched:
            self._effects.append(Checkpoint(tuple(self._touched)))
            self._touched = {}

    def _inherit(self, left: Inherited) -> None:
        self.info = lk.Room.FromString(left.room.room)
        self._configuration = api.RoomConfiguration.FromString(left.room.configuration)
        self._sif_trailer = left.room.sif_trailer or self._sif_trailer
        self.is_started = left.room.is_started
        self._had_participant = left.room.had_participant
        self._empty_since = self._now  # time for its members to come back
        self.touch()
        for record in left.participants:
            info = lk.ParticipantInfo.FromString(record.participant)
            gone = Member(node_id=record.node_id, info=info, protocol_version=0)
            for track in info.tracks:
                self._publish_track("track_unpublished", gone, track)
            gone.tracks = {}
            was_active = info.state == lk.ParticipantInfo.ACTIVE
            _mark_departed(gone, lk.STATE_MISMATCH)
            self._publish_departure(gone, was_active=was_active)
            self._touched[gone.sid] = None

    # --------------------------------------------------------------------------------------- facts

    def _on_fact(self, node_id: str, fact: room_pb2.Fact) -> None:
        sid = fact.participant_sid
        if fact.WhichOneof("fact") == "join_requested":
            self._join(node_id, sid, fact.join_requested)
            return
        member = self.members.get(sid)
        if member is None or member.node_id != node_id:
            return  # departed meanwhile: the session has its End, or is about to get it
        match fact.WhichOneof("fact"):
            case "activated":
                self._activate(member)
            case "track_changed":
                self._change_track(member, lk.TrackInfo.FromString(fact.track_changed.track))
            case "track_ended":
                self._end_track(member, fact.track_ended.track_sid)
            case "profile_change_requested":
                self._answer_profile_change(member, fact.profile_change_requested)
            case "subscription_permission_changed":
                permission = fact.subscription_permission_changed.permission
                self._restrict(member, rtc.SubscriptionPermission.FromString(permission))
            case "left":
                self.depart(member, fact.left.reason)
            case "resume_requested":
                self._resume(member, fact.resume_requested.tombstones_since_ms)
            case _:
                self._on_data_fact(member, fact)

    def _on_data_fact(self, member: Member, fact: room_pb2.Fact) -> None:
        match fact.WhichOneof("fact"):
            case "data_track_published":
                track = lk.DataTrackInfo.FromString(fact.data_track_published.track)
                self._add_data_track(member, track)
            case "data_track_ended":
                self._end_data_track(member, fact.data_track_ended.track_sid)
            case "rpc_answered":
                answered = fact.rpc_answered
                answer = self._rpc_calls.take(answered.request_id, member.sid, answered.packet)
                if answer is not None:
                    self._effects.append(answer)
            case "blob_stored":
                self._store_blob(
                    member, rtc.StoreDataBlobRequest.FromString(fact.blob_stored.request)
                )
            case "blob_wanted":
                self._give_blob(member, rtc.GetDataBlobRequest.FromString(fact.blob_wanted.request))
            case "profile_followed":
                self._follow_profile(member, fact.profile_followed)
            case _:
                pass  # a newer node's fact, which this Room does not know

    def _join(self, node_id: str, sid: str, request: room_pb2.JoinRequested) -> None:
        if sid in self.members:
            return
        # A member whose client begins anew adds nobody: it would be locked out of its own call.
        if self._is_frozen and request.identity not in self._sids:
            refuse = room_pb2.Refuse(code="unavailable", message=FROZEN)
            self.order([node_id], room_pb2.Order(participant_sid=sid, refuse=refuse))
            return
        member = Member.of(node_id, sid, request)
        if not self.is_started and not self._start_by_join(node_id, sid, request):
            return
        replaced = self.members.get(self._sids.get(request.identity, ""))
        refusal = self._refusal(member, replaced)
        if refusal is not None:
            self.order(
                [node_id], room_pb2.Order(participant_sid=sid, refuse=room_pb2.Refuse(**refusal))
            )
            return
        if replaced is not None:
            self.end(replaced, lk.DUPLICATE_IDENTITY)
            # Clients know a replaced session by the new one's sid, if they are shown the new one.
            self.depart(replaced, lk.DUPLICATE_IDENTITY, is_replaced=not member.is_hidden)
        if self._departed:
            self._show_changes()  # an older session of this identity may be among them

        self.members[sid] = member
        self._sids[member.identity] = sid
        self._tally(member, 1)
        self._touched[sid] = None
        if not member.is_dependent:
            self._note_participant()
            self._empty_since = None
        self._show_directory(node_id)
        others = [m for m in self.members.values() if m is not member and not m.is_hidden]
        for other in others:
            other.is_announced = True
        admit = room_pb2.Admit(
            room=self._room_bytes(),
            participant=member.bytes(),
            others=[m.bytes() for m in others],
            sif_trailer=self._sif_trailer,
            sync_streams=self._configuration.sync_streams,
            min_playout_delay_ms=self._configuration.min_playout_delay,
            max_playout_delay_ms=self._configuration.max_playout_delay,
        )
        self.order([node_id], room_pb2.Order(participant_sid=sid, admit=admit))
        member.info.state = lk.ParticipantInfo.JOINED
        self._show(member, at_once=replaced is not None)
        self._count()

    def _start_by_join(self, node_id: str, sid: str, request: room_pb2.JoinRequested) -> bool:
        configuration = api.RoomConfiguration.FromString(request.room_configuration)
        try:
            self.start(RoomWish(configuration, request.room_preset, is_from_token=True))
        except ApiError as error:
            refuse = room_pb2.Refuse(code=error.code, message=error.message)
            self.order([node_id], room_pb2.Order(participant_sid=sid, refuse=refuse))
            self.close(lk.ROOM_CLOSED)  # never started: nobody hears of it
            return False
        return True

    def _show_directory(self, node_id: str) -> None:
        """A node's first session brings it the track directory; then it gets the changes."""
        if node_id in self.node_ids:
            return
        self.node_ids[node_id] = None
        for publisher in self.members.values():
            for track in publisher.tracks.values():
                self.order([node_id], self._listing(publisher, track))
            for data_track in publisher.data_tracks.values():
                self.order([node_id], self._data_listing(publisher, data_track))

    def _refusal(self, member: Member, replaced: Member | None) -> dict[str, str] | None:
        if not member.identity:
            return {"code": "invalid_argument", "message": "identity must not be empty"}
        if member.forwarded_from and replaced is not None:
            message = f"the destination room has a participant {member.identity} already"
            return {"code": "already_exists", "message": message}
        limit = self.info.max_participants
        counted = self._participants
        if replaced is not None and not replaced.is_dependent:
            counted -= 1
        if limit and not member.is_dependent and counted >= limit:
            return {
                "code": "unavailable",
                "message": f"room is full: max_participants is {limit}",
            }
        return None

    def _activate(self, member: Member) -> None:
        if member.info.state >= lk.ParticipantInfo.ACTIVE:
            return
        member.info.state = lk.ParticipantInfo.ACTIVE
        self._show(member, at_once=member.info.is_publisher)
        self._publish("participant_joined", participant=member.bytes())

    def _change_track(self, member: Member, track: lk.TrackInfo) -> None:
        is_new = track.sid not in member.tracks
        if not is_new and member.tracks[track.sid] == track:
            return
        member.tracks[track.sid] = track
        if not member.info.is_publisher:
            member.info.is_publisher = True
            self._publishers += not member.is_hidden
        self._show(member, at_once=True)
        self.order(self.node_ids, self._listing(member, track))
        if is_new:
            self._publish_track("track_published", member, track)
            self._count()

    def _end_track(self, member: Member, track_sid: str) -> None:
        track = member.tracks.pop(track_sid, None)
        if track is None:
            return
        self._show(member, at_once=True)
        self._delist(member, track)

    def _delist(self, member: Member, track: lk.TrackInfo) -> None:
        delist = room_pb2.DelistTrack(publisher_sid=member.sid, track_sid=track.sid)
        self.order(self.node_ids, room_pb2.Order(delist_track=delist))
        self._publish_track("track_unpublished", member, track)

    # -------------------------------------------------------------------------------------- data

    def _add_data_track(self, member: Member, track: lk.DataTrackInfo) -> None:
        member.data_tracks[track.sid] = track
        if not member.info.is_publisher:
            member.info.is_publisher = True
            self._publishers += not member.is_hidden
        self._show(member, at_once=True)
        self.order(self.node_ids, self._data_listing(member, track))
        self._count()

    def _end_data_track(self, member: Member, track_sid: str) -> None:
        track = member.data_tracks.pop(track_sid, None)
        if track is None:
            return
        self._show(member, at_once=True)
        self._delist_data_track(member, track)

    def _delist_data_track(self, member: Member, track: lk.DataTrackInfo) -> None:
        delist = room_pb2.DelistDataTrack(publisher_sid=member.sid, track_sid=track.sid)
        self.order(self.node_ids, room_pb2.Order(delist_data_track=delist))

    def _data_listing(self, publisher: Member, track: lk.DataTrackInfo) -> room_pb2.Order:
        listing = room_pb2.ListDataTrack(**_row(publisher, track))
        return room_pb2.Order(list_data_track=listing)

    def _store_blob(self, member: Member, request: rtc.StoreDataBlobRequest) -> None:
        if member.blobs is None:
            member.blobs = DataBlobs()
        if member.blobs.store(request.blob):
            stored = rtc.StoreDataBlobResponse(request_id=request.request_id, key=request.blob.key)
            self._respond(member, rtc.SignalResponse(store_data_blob_response=stored))
            return
        message = f"the blobs of a participant have at most {MAX_TOTAL_BYTES} bytes together"
        self._refuse_blob(member, request.request_id, rtc.RequestResponse.LIMIT_EXCEEDED, message)

    def _give_blob(self, member: Member, request: rtc.GetDataBlobRequest) -> None:
        owner = self.members.get(self._sids.get(request.participant_identity, ""))
        blobs = None if owner is None else owner.blobs
        blob = None if blobs is None else blobs.get(request.key)
        if blob is None:
            message = "the participant stored no blob of this key, or is not here"
            self._refuse_blob(member, request.request_id, rtc.RequestResponse.NOT_FOUND, message)
            return
        given = rtc.GetDataBlobResponse(request_id=request.request_id, blob=blob)
        self._respond(member, rtc.SignalResponse(get_data_blob_response=given))

    def _refuse_blob(
        self,
        member: Member,
        request_id: int,
        reason: rtc.RequestResponse.Reason,
        message: str,
    ) -> None:
        refusal = rtc.RequestResponse(request_id=request_id, reason=reason, message=message)
        self._respond(member, rtc.SignalResponse(request_response=refusal))

    def _respond(self, member: Member, response: rtc.SignalResponse) -> None:
        deliver = room_pb2.DeliverResponse(response=response.SerializeToString())
        order = room_pb2.Order(participant_sid=member.sid, deliver_response=deliver)
        self.order([member.node_id], order)

    def perform_rpc(self, call_id: int, member: Member, request: api.PerformRpcRequest) -> None:
        """Have a participant run a method; `AnswerApi` follows. Raises ApiError when too many wait."""
        if self._rpc_calls.is_full:
            raise ApiError("resource_exhausted", f"{MAX_CALLS} calls wait in this room already")
        request_id = self._new_event_id()
        response_ms = min(request.response_timeout_ms or DEFAULT_RESPONSE_MS, MAX_RESPONSE_MS)
        packet = lk.DataPacket(
            kind=lk.DataPacket.RELIABLE,
            participant_identity=f"server-{request_id}",
            destination_identities=[member.identity],
            rpc_request=lk.RpcRequest(
                id=request_id,
                method=request.method,
                payload=request.payload,
                response_timeout_ms=response_ms,
                version=1,
            ),
        )
        call = room_pb2.CallRpc(
            request_id=request_id, packet=packet.SerializeToString(), lifetime_ms=response_ms
        )
        self._rpc_calls.begin(request_id, call_id, member.sid, self._now, response_ms)
        self.order([member.node_id], room_pb2.Order(participant_sid=member.sid, call_rpc=call))

    def _answer_profile_change(
        self, member: Member, request: room_pb2.ProfileChangeRequested
    ) -> None:
        answer = room_pb2.AnswerProfileChange(request_id=request.request_id)
        if not member.info.permission.can_update_metadata:
            answer.reason = rtc.RequestResponse.NOT_ALLOWED
            answer.message = "does not have permission to update own metadata"
        elif self._is_role_changed(member, request.attributes):
            answer.reason = rtc.RequestResponse.NOT_ALLOWED
            answer.message = f"{ROLE_ATTRIBUTE} is given by a token or the server API alone"
        else:
            try:
                self.change_profile(member, request.name, request.metadata, request.attributes)
            except ApiError as error:
                answer.reason = rtc.RequestResponse.LIMIT_EXCEEDED
                answer.message = error.message
            else:
                answer.reason = rtc.RequestResponse.OK
                self._show(member, at_once=True)
        answer.participant = member.bytes()
        order = room_pb2.Order(participant_sid=member.sid, answer_profile_change=answer)
        self.order([member.node_id], order)

    def _follow_profile(self, member: Member, profile: room_pb2.ProfileFollowed) -> None:
        """Its own room took it, within the same limits."""
        member.info.name, member.info.metadata = profile.name, profile.metadata
        member.info.attributes.clear()
        member.info.attributes.update(profile.attributes)
        self._show(member, at_once=True)

    def _is_role_changed(self, member: Member, attributes: Mapping[str, str]) -> bool:
        role = attributes.get(ROLE_ATTRIBUTE)
        return role is not None and role != member.info.attributes.get(ROLE_ATTRIBUTE, "")

    def _restrict(self, member: Member, permission: rtc.SubscriptionPermission) -> None:
        for row in permission.track_permissions:
            if not row.participant_identity:
                publisher = self.members.get(row.participant_sid)
                if publisher is None:
                    return  # names nobody: the whole message is void
                row.participant_identity = publisher.identity
        if permission == member.subscription_permission:
            return
        member.subscription_permission = permission
        for track in member.tracks.values():
            self.order(self.node_ids, self._listing(member, track))
        for data_track in member.data_tracks.values():
            self.order(self.node_ids, self._data_listing(member, data_track))

    def _resume(self, member: Member, since_ms: int) -> None:
        self._forget_tombstones()
        shown = [m for m in self.members.values() if not m.is_hidden or m is member]
        for other in shown:
            other.is_announced = True
        resumed = room_pb2.Resumed(
            room=self._room_bytes(),
            participants=[m.bytes() for m in shown],
            departed=[
                tombstone.info
                for tombstone in self._tombstones
                # Its own earlier session is nobody to be told of.
                if tombstone.wall_ms >= since_ms and tombstone.identity != member.identity
            ],
        )
        self.order([member.node_id], room_pb2.Order(participant_sid=member.sid, resumed=resumed))

    def depart(self, member: Member, reason: int, *, is_replaced: bool = False) -> None:
        for track_sid in list(member.tracks):
            self._delist(member, member.tracks.pop(track_sid))
        for track_sid in list(member.data_tracks):
            self._delist_data_track(member, member.data_tracks.pop(track_sid))
        self._effects += self._rpc_calls.abandon(member.sid)
        del self.members[member.sid]
        self._tally(member, -1)
        self._sids.pop(member.identity, None)
        self._changed.pop(member.sid, None)
        self._touched[member.sid] = None
        was_active = member.info.state == lk.ParticipantInfo.ACTIVE
        _mark_departed(member, reason)
        if not member.is_hidden and member.is_announced:
            self._show_departure(member, is_replaced=is_replaced)
        if self._participants == 0 and self._empty_since is None:
            self._empty_since = self._now
        self.show_room()
        self._publish_departure(member, was_active=was_active)

    def _show_departure(self, member: Member, *, is_replaced: bool) -> None:
        self._forget_tombstones()
        self._tombstones.append(
            Tombstone(self._now, self._wall_ms, member.identity, member.bytes())
        )
        if is_replaced:
            older: dict[str, list[str]] = {}
            for other in self.members.values():
                if other.protocol_version < DUPLICATE_AWARE_PROTOCOL:
                    older.setdefault(other.node_id, []).append(other.sid)
            for node_id, sids in older.items():
                show = room_pb2.ShowParticipants(participants=[member.bytes()], to=sids)
                self.order([node_id], room_pb2.Order(show_participants=show))
            return
        self._departed.append(member.bytes())
        if member.info.is_publisher:
            self._show_changes()
        else:
            self._show_later()

    def _on_node_lost(self, node_id: str) -> None:
        self.node_ids.pop(node_id, None)
        for member in [m for m in self.members.values() if m.node_id == node_id]:
            self.depart(member, lk.STATE_MISMATCH)

    # ----------------------------------------------------------------------------- what others see

    def _show(self, member: Member, *, at_once: bool) -> None:
        """The member's ParticipantInfo changed: give it a new version and tell everybody."""
        member.info.version += 1
        member.serialized = None
        self._touched[member.sid] = None
        if not at_once:
            self._changed[member.sid] = None
            self._show_later()
            return
        self._changed.pop(member.sid, None)
        self._show_members([member])

    def _show_later(self) -> None:
        if self._update_at is None:
            window = min(max(len(self.members) * WINDOW_PER_RECEIVER, WINDOW_MIN), WINDOW_MAX)
            self._update_at = self._now + window

    def _show_changes(self) -> None:
        """What was gathered, in one update. Departures first: no old session follows a newer."""
        self._update_at = None
        departed, self._departed = self._departed, []
        changed = [self.members[sid] for sid in self._changed]
        self._changed = {}
        self._show_members(changed, departed)

    def _show_members(self, members: Iterable[Member], departed: Iterable[bytes] = ()) -> None:
        shown = list(departed)
        for member in members:
            if member.is_hidden:
                own = room_pb2.ShowParticipants(participants=[member.bytes()], to=[member.sid])
                self.order([member.node_id], room_pb2.Order(show_participants=own))
            else:
                member.is_announced = True
                shown.append(member.bytes())
        if shown:
            show = room_pb2.ShowParticipants(participants=shown)
            self.order(self.node_ids, room_pb2.Order(show_participants=show))

    def _listing(self, publisher: Member, track: lk.TrackInfo) -> room_pb2.Order:
        listing = room_pb2.ListTrack(**_row(publisher, track))
        return room_pb2.Order(list_track=listing)

    def _count(self) -> None:
        """Counters may have changed: recording is shown at once, others within an interval."""
        if (self._recorders > 0) != self._is_recording_shown:
            self.show_room()
        elif self._room_at is None:
            self._room_at = self._now + COUNTER_INTERVAL

    def show_room(self) -> None:
        self._room_at = None
        self._is_recording_shown = self._recorders > 0
        room = self._room_bytes()
        if room != self._shown_room:
            self._shown_room = room
            self.order(self.node_ids, room_pb2.Order(show_room=room_pb2.ShowRoom(room=room)))

    def _room_bytes(self) -> bytes:
        self.info.num_participants = self._visible
        self.info.num_publishers = self._publishers
        self.info.active_recording = self._recorders > 0
        return self.info.SerializeToString()

    def _tally(self, member: Member, step: int) -> None:
        self._participants += step * (not member.is_dependent)
        self._recorders += step * member.is_recorder
        self._visible += step * (not member.is_dependent and not member.is_hidden)
        self._publishers += step * (member.info.is_publisher and not member.is_hidden)

    def _forget_tombstones(self) -> None:
        limit = self._now - self.settings.tombstone_lifetime
        while self._tombstones and self._tombstones[0].at < limit:
            self._tombstones.popleft()

    # ------------------------------------------------------------------------------- life and time

    def start(self, wish: RoomWish) -> None:
        """The room begins, as the first wish has it. Raises ApiError for what cannot be had."""
        wish = wish if self._wish is None else self._wish
        settled = settle(wish, self.settings.presets, self.settings.profile_limits)
        self.is_started = True
        self._apply(settled)
        self._publish("room_started")

    def change(self, wish: RoomWish) -> None:
        """What the wish says about the running room; raises ApiError, and then nothing changed."""
        settle(wish, self.settings.presets, self.settings.profile_limits)
        if wish.configuration != api.RoomConfiguration():
            self._apply(wish.configuration)
            self.show_room()

    def _apply(self, given: api.RoomConfiguration) -> None:
        if given.agents:
            del self._configuration.agents[:]
        self._configuration.MergeFrom(given)
        self.info.empty_timeout = given.empty_timeout or self.info.empty_timeout
        self.info.departure_timeout = given.departure_timeout or self.info.departure_timeout
        self.info.max_participants = given.max_participants or self.info.max_participants
        self.info.metadata = given.metadata or self.info.metadata
        self.touch()

    def _expires_at(self) -> float | None:
        if self._empty_since is None or self._is_frozen or self._is_persistent:
            return None
        if self._had_participant:
            return self._empty_since + self.info.departure_timeout
        return self._empty_since + self.info.empty_timeout

    @property
    def _is_persistent(self) -> bool:
        return is_persistent(self._configuration.tags)

    def _ends_at(self) -> float | None:
        """When its time is over, counted from its creation by the clock on the wall: homes come and go."""
        longest = max_duration_s(self._configuration.tags) or self.settings.max_duration
        if not longest or not self.is_started or self._is_frozen or self._is_persistent:
            return None
        lasted_ms = self._wall_ms - self.info.creation_time_ms
        return self._now + longest - lasted_ms / 1000

    def _on_tick(self) -> None:
        self._effects += self._rpc_calls.expire(self._now)
        if self._update_at is not None and self._now >= self._update_at:
            self._show_changes()
        if self._room_at is not None and self._now >= self._room_at:
            self.show_room()
        expires_at = self._expires_at()
        if expires_at is not None and self._now >= expires_at:
            self.close(lk.ROOM_CLOSED)
            return
        ends_at = self._ends_at()
        if ends_at is not None and self._now >= ends_at:
            self.close(lk.ROOM_CLOSED, end_reason=lk.ROOM_END_UNKNOWN)

    def _leave(self, reason: int) -> None:
        """The next home goes on with the records as they are: members stay in them, and nothing is told."""
        for member in self.members.values():
            self.end(member, reason, rejoin=True)
            self._effects += self._rpc_calls.abandon(member.sid)
        self._is_closed = self._lives_on = True
        self._effects.append(Closed(keeps_lease=True))

    def close(
        self,
        reason: int,
        *,
        lives_on: bool = False,
        end_reason: lk.RoomEndReason | None = None,
    ) -> None:
        # A persistent room is over when it is deleted, and by nothing else.
        if lives_on or (self._is_persistent and reason == lk.SERVER_SHUTDOWN):
            self._leave(reason)
            return
        if reason == lk.STATE_MISMATCH:
            self._is_superseded = True
        for member in list(self.members.values()):
            self.end(member, reason)
        # Nobody is left to be told of the others' departure.
        self._departed, self._changed, self.node_ids = [], {}, {}
        for member in list(self.members.values()):
            self.depart(member, reason)
        self._is_closed = True
        if self.is_started:
            if end_reason is None:
                end_reason = _END_REASONS.get(reason, lk.ROOM_END_UNKNOWN)
            self._publish("room_finished", end_reason=end_reason)
        self.touch()
        self._say_touched()
        self._effects.append(Closed(keeps_lease=self._is_superseded))

    def _answer_when_closed(self, event: Event) -> None:
        """Late facts are void; who asks is told that the room is over."""
        match event:
            case ApiCalled(call_id):
                self._effects.append(AnswerApi(call_id, b"", "not_found", NO_ROOM))
            case FactArrived(node_id, fact) if fact.WhichOneof("fact") == "join_requested":
                refuse = room_pb2.Refuse(code="unavailable", message="the room is closing")
                order = room_pb2.Order(participant_sid=fact.participant_sid, refuse=refuse)
                self.order([node_id], order)
            case _:
                pass

    def end(self, member: Member, reason: int, *, rejoin: bool = False) -> None:
        action = rtc.LeaveRequest.DISCONNECT
        if rejoin or reason == lk.STATE_MISMATCH:  # the room lives on elsewhere: join it anew
            action = rtc.LeaveRequest.RECONNECT
        end = room_pb2.End(reason=reason, action=action)
        self.order([member.node_id], room_pb2.Order(participant_sid=member.sid, end=end))

    def order(self, node_ids: Iterable[str], order: room_pb2.Order) -> None:
        targets = tuple(node_ids)
        if targets:
            self._effects.append(GiveOrder(targets, order))

    # --------------------------------------------------------------------------- the EVENTS stream

    def _publish(
        self,
        name: str,
        *,
        participant: bytes = b"",
        track: bytes = b"",
        room: bytes | None = None,
        end_reason: int = lk.ROOM_END_UNKNOWN,
    ) -> None:
        if self._is_superseded:
            return  # the room lives on elsewhere, and its facts are told there
        self._sequence += 1
        event = events_pb2.RoomEvent(
            schema=EVENT_SCHEMA,
            id=self._new_event_id(),
            name=name,
            room_name=self.name,
            project=self.project,
            room_sid=self.sid,
            epoch=self.epoch,
            sequence=self._sequence,
            created_at=self._wall_ms // 1000,
            room=self._room_bytes() if room is None else room,
            participant=participant,
            track=track,
            room_end_reason=end_reason,
        )
        self._effects.append(Publish(event))

    def _publish_departure(self, member: Member, *, was_active: bool) -> None:
        name = "participant_left" if was_active else "participant_connection_aborted"
        self._publish(name, participant=member.bytes())

    def _publish_track(self, name: str, member: Member, track: lk.TrackInfo) -> None:
        room = lk.Room(sid=self.sid, name=self.info.name).SerializeToString()
        self._publish(
            name,
            room=None if self.settings.is_full_room_in_track_events else room,
            participant=lk.ParticipantInfo(
                sid=member.sid, identity=member.identity
            ).SerializeToString(),
            track=track.SerializeToString(),
        )

    # --------------------------------------------------------------- what a call or a client changes

    def change_permission(
        self, member: Member, permission: lk.ParticipantPermission | None
    ) -> None:
        """Take over a new permission, None: the one it has, and tell everybody of the member as it is now."""
        was_hidden = member.is_hidden
        if permission is not None:
            self._tally(member, -1)
            member.info.permission.CopyFrom(permission)
            member.read_permission()
            self._tally(member, 1)
        member.info.version += 1
        member.serialized = None
        self._touched[member.sid] = None
        set_permission = room_pb2.SetPermission(
            permission=member.info.permission.SerializeToString(), participant=member.bytes()
        )
        order = room_pb2.Order(participant_sid=member.sid, set_permission=set_permission)
        self.order([member.node_id], order)
        if was_hidden != member.is_hidden:
            self._change_visibility(member)
        self._changed.pop(member.sid, None)
        self._show_members([member])
        self._life_after_permission(member)
        self._count()

    def _change_visibility(self, member: Member) -> None:
        if member.is_hidden and member.is_announced:
            gone = lk.ParticipantInfo()
            gone.CopyFrom(member.info)
            del gone.tracks[:], gone.data_tracks[:]
            gone.state = lk.ParticipantInfo.DISCONNECTED
            for node_id in self.node_ids:
                show = room_pb2.ShowParticipants(participants=[gone.SerializeToString()])
                if node_id == member.node_id:
                    show.ClearField("to")
                    getattr(show, "except").append(member.sid)
                self.order([node_id], room_pb2.Order(show_participants=show))
            member.is_announced = False
        for track in member.tracks.values():
            self.order(self.node_ids, self._listing(member, track))
        for data_track in member.data_tracks.values():
            self.order(self.node_ids, self._data_listing(member, data_track))

    def _note_participant(self) -> None:
        if not self._had_participant:
            self._had_participant = True
            self.touch()

    def _life_after_permission(self, member: Member) -> None:
        """A change of `recorder` or `agent` may empty the room, or fill it."""
        if self._participants > 0:
            self._note_participant()
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = self._now

    def find(self, identity: str) -> Member | None:
        """The member of this identity, if there is one."""
        return self.members.get(self._sids.get(identity, ""))

    def member(self, identity: str) -> Member:
        member = self.find(identity)
        if member is None:
            raise ApiError("not_found", "participant does not exist")
        return member

    def member_here(self, identity: str) -> Member:
        """One that is in this room itself, so that its session can be told something."""
        member = self.member(identity)
        if member.forwarded_from:
            message = f"the participant is forwarded from room {split(member.forwarded_from)[1]}: do it there"
            raise ApiError("failed_precondition", message)
        return member

    def departure_reason(self, identity: str) -> int:
        """Why the participant left, as far as others were told (livekit.DisconnectReason)."""
        for tombstone in reversed(self._tombstones):
            if tombstone.identity == identity:
                return lk.ParticipantInfo.FromString(tombstone.info).disconnect_reason
        return lk.UNKNOWN_REASON

    def change_profile(
        self, member: Member, name: str, metadata: str, attributes: Mapping[str, str]
    ) -> None:
        """An empty name or metadata changes nothing; an empty attribute value deletes its key."""
        merged = {**member.info.attributes, **attributes}
        merged = {key: value for key, value in merged.items() if value}
        self.check_profile(name=name, metadata=metadata, attributes=merged)
        if name:
            member.info.name = name
        if metadata:
            member.info.metadata = metadata
        if attributes:
            member.info.attributes.clear()
            member.info.attributes.update(merged)

    def check_profile(
        self, *, name: str = "", metadata: str = "", attributes: Mapping[str, str] | None = None
    ) -> None:
        limits = self.settings.profile_limits
        excess = limits.excess(name=name, metadata=metadata, attributes=attributes)
        if excess is not None:
            raise ApiError("invalid_argument", excess)

    def room_now(self) -> lk.Room:
        return lk.Room.FromString(self._room_bytes())

    def info_now(self, member: Member) -> lk.ParticipantInfo:
        return lk.ParticipantInfo.FromString(member.bytes())


_END_REASONS: Mapping[int, lk.RoomEndReason] = {
    lk.ROOM_DELETED: lk.ROOM_END_API_DELETE,
    lk.ROOM_CLOSED: lk.ROOM_END_IDLE_TIMEOUT,
    lk.SERVER_SHUTDOWN: lk.ROOM_END_SERVER_SHUTDOWN,
}
"""Why a room ended for the world, by why its last members had to leave."""


def _row(publisher: Member, track: lk.TrackInfo | lk.DataTrackInfo) -> dict[str, Any]:
    """What both directories say of a track: the fields of ListTrack and of ListDataTrack."""
    allowed = publisher.allowed_identities(track.sid)
    return {
        "publisher_sid": publisher.sid,
        "publisher_identity": publisher.identity,
        "track": track.SerializeToString(),
        "media_node_id": publisher.node_id,
        "restricted": allowed is not None,
        "allowed_identities": allowed or (),
        "publisher_hidden": publisher.is_hidden,
    }


def _mark_departed(member: Member, reason: int) -> None:
    member.info.state = lk.ParticipantInfo.DISCONNECTED
    member.info.disconnect_reason = cast("lk.DisconnectReason", reason)
    member.info.version += 1
    member.serialized = None
