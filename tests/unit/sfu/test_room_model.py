"""Any interleaving of what people do in a room, against a model of what each of them should see when it is quiet.

Clients are scripted as SDKs behave: they apply what they are told, answer offers, offer again when asked, and keep
their session over a lost socket. The model knows only who is there, what they publish and who may have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from livekit.protocol import models, rtc
from livekit.protocol import room as room_api

from sfu.core.media_commands import AddSender, RemoveSender, SendData
from sfu.core.room_events import ApiCalled
from tests.support.scripted_room import (
    Client,
    FakePublisherNegotiation,
    FakeSubscriberNegotiation,
    World,
)

State = models.ParticipantInfo.State
NAMES = ("ann", "ben", "cem", "dee")
HOST = "host"
"""Never leaves: an empty room would end."""
RECEIVING = tuple(
    {"mid": f"{kind}{number}", "kind": kind, "recv": True}
    for kind in ("audio", "video")
    for number in range(12)
)
AT_REST_S = 7.0
"""Longer than any gathering of updates, counters or layers; shorter than what ends a session."""

peers = st.sampled_from((HOST, *NAMES))


@dataclass
class Track:
    """One published track, in the model."""

    sid: str
    mid: str
    kind: str
    cid: str
    is_muted: bool = False


@dataclass
class Peer:
    """One person: the model of what it did, and the view its client has of the room."""

    client: Client
    auto_subscribe: bool
    can_publish: bool = True
    can_publish_data: bool = True
    can_subscribe: bool = True
    is_hidden: bool = False
    is_connected: bool = False
    has_socket: bool = True
    metadata: str = ""
    tracks: dict[str, Track] = field(default_factory=dict)
    wishes: dict[str, bool] = field(default_factory=dict)
    allowed: frozenset[str] | None = None
    """Identities that may have its tracks; None: everybody."""
    sequence: int = 0
    expected_data: list[tuple[str, int]] = field(default_factory=list)
    # what its client believes
    read: int = 0
    own: models.ParticipantInfo = field(default_factory=models.ParticipantInfo)
    others: dict[str, models.ParticipantInfo] = field(default_factory=dict)
    received: frozenset[str] = frozenset()
    is_told_to_leave: bool = False
    offers: int = 0
    published: int = 0

    def offer(self) -> None:
        """Offer everything this client sends, and in single mode places to receive."""
        self.offers += 1
        sections: list[dict[str, object]] = [
            {"mid": track.mid, "kind": track.kind, "cid": track.cid}
            for track in self.tracks.values()
        ]
        if self.client.is_single:
            sections += RECEIVING
        self.client.offer(*sections, offer_id=self.offers)

    def take(self, response: rtc.SignalResponse) -> None:
        """Apply a response as an SDK does."""
        match response.WhichOneof("message"):
            case "join":
                self.own = response.join.participant
                self.others = {other.identity: other for other in response.join.other_participants}
            case "update":
                for info in response.update.participants:
                    self._take_info(info)
            case "offer":
                self.received = frozenset(response.offer.mid_to_track_id.values())
                self.client.answer()
            case "answer" if self.client.is_single:
                self.received = frozenset(response.answer.mid_to_track_id.values())
            case "media_sections_requirement":
                self.offer()
            case "leave":
                self.is_told_to_leave = True
            case _:
                pass

    def _take_info(self, info: models.ParticipantInfo) -> None:
        if info.identity == self.client.identity:
            assert info.sid == self.own.sid
            assert info.version >= self.own.version
            self.own = info
            return
        known = self.others.get(info.identity)
        if known is not None and known.sid == info.sid:
            assert info.version >= known.version
            assert info.state >= known.state
        if info.state != State.DISCONNECTED:
            self.others[info.identity] = info
        elif known is not None and known.sid == info.sid:
            del self.others[info.identity]


class RoomModel(RuleBasedStateMachine):
    """One room and its people."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for kind, fake in (
            ("PublisherNegotiation", FakePublisherNegotiation),
            ("SubscriberNegotiation", FakeSubscriberNegotiation),
        ):
            self.patch.setattr(f"sfu.core.connections.{kind}", fake)
        self.world = World(tombstone_lifetime=600.0)
        self.peers: dict[str, Peer] = {}
        self.mids = 0
        self.calls = 0

    def teardown(self) -> None:
        self.patch.undo()

    # ------------------------------------------------------------------------------ rules

    @initialize(single=st.booleans())
    def open(self, single: bool) -> None:
        self._join(HOST, single=single, auto_subscribe=True, is_hidden=False)

    @rule(
        identity=st.sampled_from(NAMES),
        single=st.booleans(),
        auto_subscribe=st.booleans(),
        is_hidden=st.sampled_from((False, False, False, True)),
    )
    def join(self, identity: str, single: bool, auto_subscribe: bool, is_hidden: bool) -> None:
        """A new session; an older one of the same identity is replaced."""
        self._join(identity, single=single, auto_subscribe=auto_subscribe, is_hidden=is_hidden)

    @rule(identity=st.sampled_from(NAMES))
    def leave(self, identity: str) -> None:
        peer = self._with_socket(identity)
        if peer is not None:
            peer.client.send(leave=rtc.LeaveRequest())
            del self.peers[identity]

    @rule(identity=st.sampled_from(NAMES))
    def lose_socket(self, identity: str) -> None:
        peer = self._with_socket(identity)
        if peer is not None:
            peer.has_socket = False
            self.world.drop(peer.client)

    @rule(identity=st.sampled_from(NAMES), names_sid=st.booleans())
    def resume(self, identity: str, names_sid: bool) -> None:
        peer = self.peers.get(identity)
        if peer is None:
            return
        sid = peer.own.sid if names_sid else ""
        peer.client = self.world.resume(peer.client, participant_sid=sid)
        peer.has_socket, peer.read = True, 0
        assert peer.client.cases()[0] == "reconnect"
        state = rtc.SyncState(
            publish_tracks=[
                rtc.TrackPublishedResponse(cid=track.cid, track=models.TrackInfo(sid=track.sid))
                for track in peer.tracks.values()
            ]
        )
        peer.client.send(sync_state=state)

    @rule(identity=peers, kind=st.sampled_from(("audio", "video")))
    def publish(self, identity: str, kind: str) -> None:
        peer = self._with_socket(identity)
        if peer is None or len(peer.tracks) >= 2:
            return
        self._act(peer)
        self.mids += 1
        peer.published += 1
        cid = f"cid{self.mids}"
        is_audio = kind == "audio"
        before = len(peer.client.all("track_published"))
        peer.client.send(
            add_track=rtc.AddTrackRequest(
                cid=cid,
                type=models.TrackType.AUDIO if is_audio else models.TrackType.VIDEO,
                source=models.TrackSource.MICROPHONE if is_audio else models.TrackSource.CAMERA,
            )
        )
        answers = peer.client.all("track_published")[before:]
        if not peer.can_publish:
            assert answers == []
            refusal = peer.client.last("request_response")
            assert isinstance(refusal, rtc.RequestResponse)
            assert refusal.reason == rtc.RequestResponse.Reason.NOT_ALLOWED
            return
        (answer,) = answers
        assert isinstance(answer, rtc.TrackPublishedResponse)
        peer.tracks[answer.track.sid] = Track(answer.track.sid, f"m{self.mids}", kind, cid)
        peer.offer()

    @rule(identity=peers, data=st.data())
    def unpublish(self, identity: str, data: st.DataObject) -> None:
        peer = self._with_socket(identity)
        if peer is None or not peer.tracks:
            return
        self._act(peer)
        sid = data.draw(st.sampled_from(sorted(peer.tracks)))
        del peer.tracks[sid]
        peer.offer()
        self._forget_wishes(sid)

    @rule(identity=peers, muted=st.booleans(), data=st.data())
    def mute(self, identity: str, muted: bool, data: st.DataObject) -> None:
        peer = self._with_socket(identity)
        if peer is None or not peer.tracks:
            return
        track = peer.tracks[data.draw(st.sampled_from(sorted(peer.tracks)))]
        track.is_muted = muted
        peer.client.send(mute=rtc.MuteTrackRequest(sid=track.sid, muted=muted))

    @rule(identity=peers, wanted=st.booleans(), data=st.data())
    def subscribe(self, identity: str, wanted: bool, data: st.DataObject) -> None:
        peer = self._with_socket(identity)
        sids = sorted(
            sid for other, p in self.peers.items() if other != identity for sid in p.tracks
        )
        if peer is None or not sids:
            return
        sid = data.draw(st.sampled_from(sids))
        peer.wishes[sid] = wanted
        peer.client.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=wanted))

    @rule(
        identity=peers,
        allowed=st.one_of(st.none(), st.frozensets(st.sampled_from(NAMES), max_size=3)),
    )
    def restrict(self, identity: str, allowed: frozenset[str] | None) -> None:
        peer = self._with_socket(identity)
        if peer is None:
            return
        peer.allowed = allowed
        permission = rtc.SubscriptionPermission(
            all_participants=allowed is None,
            track_permissions=[
                rtc.TrackPermission(participant_identity=name, all_tracks=True)
                for name in sorted(allowed or ())
            ],
        )
        peer.client.send(subscription_permission=permission)

    @rule(identity=peers, can_publish=st.booleans(), can_subscribe=st.booleans())
    def permit(self, identity: str, can_publish: bool, can_subscribe: bool) -> None:
        """The server API changes what somebody may do; what is not allowed any more ends at once."""
        peer = self.peers.get(identity)
        if peer is None:
            return
        permission = models.ParticipantPermission(
            can_publish=can_publish,
            can_subscribe=can_subscribe,
            can_publish_data=True,
            can_update_metadata=True,
            hidden=peer.is_hidden,
        )
        self._call(
            "UpdateParticipant",
            room_api.UpdateParticipantRequest(
                room="room1", identity=identity, permission=permission
            ),
        )
        peer.can_publish, peer.can_subscribe = can_publish, can_subscribe
        peer.can_publish_data = True
        if not can_publish:
            for sid in peer.tracks:
                self._forget_wishes(sid)
            peer.tracks.clear()
            if peer.has_socket:
                peer.offer()

    @rule(identity=peers, metadata=st.sampled_from(("one", "two", "three")))
    def describe(self, identity: str, metadata: str) -> None:
        peer = self._with_socket(identity)
        if peer is not None:
            peer.metadata = metadata
            peer.client.send(update_metadata=rtc.UpdateParticipantMetadata(metadata=metadata))

    @rule(identity=st.sampled_from(NAMES))
    def remove(self, identity: str) -> None:
        if identity in self.peers:
            request = room_api.RoomParticipantIdentity(room="room1", identity=identity)
            self._call("RemoveParticipant", request)
            del self.peers[identity]

    @rule(identity=peers, is_repeated=st.booleans())
    def send_data(self, identity: str, is_repeated: bool) -> None:
        """A reliable packet; what a resumed client sends again comes to nobody twice."""
        peer = self.peers.get(identity)
        if peer is None or not peer.can_publish_data:
            return
        is_new = not is_repeated or peer.sequence == 0
        peer.sequence += is_new
        packet = models.DataPacket(sequence=peer.sequence, user=models.UserPacket(payload=b"x"))
        peer.client.data(packet)
        if is_new:
            for other, receiver in self.peers.items():
                if other != identity:
                    sender = "" if peer.is_hidden else peer.own.sid
                    receiver.expected_data.append((sender, peer.sequence))

    @rule(seconds=st.sampled_from((0.01, 0.3, 2.0)))
    def wait(self, seconds: float) -> None:
        self.world.advance(seconds)

    # ------------------------------------------------------------------------- what holds

    @precondition(lambda self: bool(self.peers))
    @invariant()
    def nobody_is_thrown_out(self) -> None:
        for peer in self.peers.values():
            self._act(peer)
            if peer.has_socket:
                assert not peer.is_told_to_leave
                assert peer.client.closed is None

    @rule()
    def everybody_sees_the_room_as_it_is(self) -> None:
        for _ in range(4):
            self.world.advance(AT_REST_S / 4)
            for peer in self.peers.values():
                self._act(peer)
        for identity, peer in self.peers.items():
            if peer.has_socket:
                self._check_people(identity, peer)
            self._check_media(identity, peer)
            assert self._data_of(peer) == peer.expected_data
        assert {m.identity for m in self.world.room.members.values()} == set(self.peers)

    # ------------------------------------------------------------------------------- help

    def _check_people(self, identity: str, peer: Peer) -> None:
        visible = {
            other: p for other, p in self.peers.items() if other != identity and not p.is_hidden
        }
        assert set(peer.others) == set(visible)
        for other, p in [*visible.items(), (identity, peer)]:
            info = peer.own if other == identity else peer.others[other]
            assert info.sid == p.own.sid
            assert info.state == State.ACTIVE
            assert info.metadata == p.metadata
            assert info.permission.can_publish == p.can_publish
            assert info.permission.can_subscribe == p.can_subscribe
            shown = {track.sid: track.muted for track in info.tracks}
            assert shown == {track.sid: track.is_muted for track in p.tracks.values()}

    def _check_media(self, identity: str, peer: Peer) -> None:
        expected = {
            sid
            for other, p in self.peers.items()
            if other != identity and (p.allowed is None or identity in p.allowed)
            for sid in p.tracks
            # Nobody gets the tracks of somebody hidden unasked.
            if peer.wishes.get(sid, peer.auto_subscribe and not p.is_hidden)
        }
        if not peer.can_subscribe:
            expected = set()
        pcs = set(peer.client.pcs.values())
        sent: dict[int, int] = {}
        for command in self.world.commands:
            if isinstance(command, AddSender) and command.pc in pcs:
                sent[command.sender] = command.config.track
            elif isinstance(command, RemoveSender):
                sent.pop(command.sender, None)
        by_engine = {self._engine_track(sid): sid for sid in expected}
        if peer.has_socket:
            assert peer.received == expected
            assert {by_engine.get(track) for track in sent.values()} == expected
            assert len(sent) == len(expected)
        else:
            # Nothing new without a socket, and nothing that is not allowed.
            assert {by_engine.get(track) for track in sent.values()} <= expected

    def _engine_track(self, sid: str) -> int:
        (track,) = self.world.stage._directory.local[sid].engine_ids.values()
        return track

    def _data_of(self, peer: Peer) -> list[tuple[str, int]]:
        pcs = set(peer.client.pcs.values())
        packets = [
            models.DataPacket.FromString(command.payload)
            for command in self.world.commands
            if isinstance(command, SendData) and pcs & set(command.pcs)
        ]
        return [(packet.participant_sid, packet.sequence) for packet in packets]

    def _join(self, identity: str, *, single: bool, auto_subscribe: bool, is_hidden: bool) -> None:
        before = self.peers.pop(identity, None)
        if before is not None:
            for sid in before.tracks:
                self._forget_wishes(sid)
        can_publish = not is_hidden
        client = self.world.join(
            identity,
            single=single,
            auto_subscribe=auto_subscribe,
            grant={"hidden": is_hidden, "canPublish": can_publish, "canPublishData": can_publish},
        )
        if before is not None and before.has_socket:
            assert before.client.cases()[-1] == "leave"
            assert before.client.closed is not None
        peer = Peer(client, auto_subscribe, can_publish, can_publish, is_hidden=is_hidden)
        self.peers[identity] = peer
        self._act(peer)
        client.connect()
        peer.offer()
        self._act(peer)

    def _act(self, peer: Peer) -> None:
        """Let the client read everything it was sent, and react."""
        while peer.has_socket and peer.read < len(peer.client.inbox):
            response = peer.client.inbox[peer.read]
            peer.read += 1
            peer.take(response)

    def _with_socket(self, identity: str) -> Peer | None:
        peer = self.peers.get(identity)
        if peer is None or not peer.has_socket:
            return None
        self._act(peer)
        return peer

    def _forget_wishes(self, sid: str) -> None:
        for peer in self.peers.values():
            peer.wishes.pop(sid, None)

    def _call(self, method: str, request: object) -> None:
        self.calls += 1
        called = ApiCalled(self.calls, method, request.SerializeToString())  # type: ignore[attr-defined]
        world = self.world
        world._perform_room(world.room.handle(called, world.now, world.wall_ms))


RoomModel.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestRoomModel = pytest.mark.timeout(300)(RoomModel.TestCase)
