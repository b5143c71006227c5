"""A session goes from one scripted room to another, with its transports and tracks."""

from __future__ import annotations

import pytest
from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.media_commands import ClosePeerConnection, RemoveSender, RemoveTrack
from sfu.core.media_events import OWNER_SHIFT, AudioLevels, Connected, TrackLoss, split_by_owner
from sfu.core.moving import (
    ArrivalAdmitted,
    ArrivalAnnounced,
    ArrivalRefused,
    ArrivalWithdrawn,
    Arrived,
    HandedOver,
    HandOverWanted,
    Way,
    departures,
)
from tests.support.scripted_room import Client, World

SID = "PA_arrival"
pytestmark = pytest.mark.usefixtures("world")  # which makes negotiation fake


def publish(client: Client) -> str:
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="mic", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
        )
    )
    client.offer({"mid": "0", "kind": "audio", "cid": "mic"})
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def move(source: World, client: Client, destination: World) -> HandedOver:
    """What runner and node do between two rooms."""
    sid = client.sid
    joining = source.stage.joining(sid, source.wall_ms)
    assert joining is not None
    destination.feed(ArrivalAnnounced(SID, joining))
    admitted = destination.moves.pop()
    assert isinstance(admitted, ArrivalAdmitted)
    others = [source.room.info_now(member) for member in source.room.members.values()]
    source.feed(HandOverWanted(sid))
    handed_over = source.moves.pop()
    assert isinstance(handed_over, HandedOver)
    client.world = destination
    destination.clients[client.socket] = source.clients.pop(client.socket)
    destination.feed(Arrived(SID, handed_over, admitted.admit, departures(others, sid)))
    return handed_over


def two_rooms(max_participants: int = 0) -> tuple[World, World]:
    there = World(max_participants=max_participants)
    for _ in range(1000):
        there.ids.sid("X")  # ids of their own
    return World(), there


def test_moved_session_is_told_where_it_is_and_keeps_transports_and_tracks() -> None:
    here, there = two_rooms()
    there.join("met", connect=True)
    left = here.join("left", connect=True)
    alice = here.join("alice", connect=True)
    track_sid = publish(alice)
    here.commands.clear()
    alice.clear()
    pcs = set(alice.pcs.values())
    handed_over = move(here, alice, there)

    assert pcs <= set(handed_over.engine_ids)
    assert not here.told(ClosePeerConnection)
    assert not here.told(RemoveTrack)
    assert alice.cases()[:2] == ["update", "room_moved"]
    gone = alice.all("update")[0]
    assert isinstance(gone, rtc.ParticipantUpdate)
    assert [(p.identity, p.state) for p in gone.participants] == [
        ("left", models.ParticipantInfo.DISCONNECTED)
    ]
    moved = alice.last("room_moved")
    assert isinstance(moved, rtc.RoomMovedResponse)
    assert moved.participant.sid == SID
    assert [it.identity for it in moved.other_participants] == ["met"]
    assert [it.sid for it in moved.participant.tracks] == [track_sid]
    assert moved.token == f"token-{len(here.tokens)}"  # a session keeps its node's settings
    member = there.room.members[SID]
    assert member.info.state == models.ParticipantInfo.ACTIVE
    assert list(member.tracks) == [track_sid]
    assert [m.identity for m in here.room.members.values()] == ["left"]
    last = left.last("update")
    assert isinstance(last, rtc.ParticipantUpdate)
    assert last.participants[0].disconnect_reason == models.MIGRATION


def test_subscriptions_of_the_old_room_end_and_those_of_the_new_begin() -> None:
    here, there = two_rooms()
    met = there.join("met", connect=True)
    met_track = publish(met)
    left = here.join("left", connect=True)
    left_track = publish(left)
    alice = here.join("alice", connect=True)
    alice_track = publish(alice)
    here.advance(1)
    alice.answer()
    left.answer()
    assert [s.track_sid for s in here.session(alice).subscribing.subscriptions] == [left_track]
    here.commands.clear()
    move(here, alice, there)
    assert len(here.told(RemoveSender)) == 2  # alice's of left's track, and left's of hers
    session = there.session(alice)
    assert [s.track_sid for s in session.subscribing.subscriptions] == [met_track]
    subscribed = there.session(met).subscribing.subscriptions
    assert [s.track_sid for s in subscribed] == [alice_track]
    alice.send(mute=rtc.MuteTrackRequest(sid=alice_track, muted=True))
    assert there.room.members[SID].tracks[alice_track].muted


def test_moved_publisher_goes_on_restricting_who_may_subscribe() -> None:
    here, there = two_rooms()
    friend, met = (there.join(name, connect=True) for name in ("friend", "met"))
    left = here.join("left", connect=True)
    alice = here.join("alice", connect=True)
    track_sid = publish(alice)
    rows = [
        rtc.TrackPermission(participant_identity="friend", all_tracks=True),
        rtc.TrackPermission(participant_sid=left.sid, all_tracks=True),
    ]
    alice.send(subscription_permission=rtc.SubscriptionPermission(track_permissions=rows))
    here.advance(1)
    move(here, alice, there)
    there.advance(1)
    down = [
        [track.track_sid for track in there.session(who).subscribing.subscriptions.down_tracks()]
        for who in (friend, met)
    ]
    assert down == [[track_sid], []]


def test_engine_reports_of_a_moved_session_find_it() -> None:
    here, there = two_rooms()
    alice = here.join("alice", connect=True)
    publish(alice)
    handed_over = move(here, alice, there)
    for engine_id in handed_over.engine_ids:
        assert there.stage._sessions.owner(engine_id) is there.session(alice)
        assert here.stage._sessions.owner(engine_id) is None
    assert here.stage.is_empty


def test_refused_arrival_leaves_both_rooms_as_they_were() -> None:
    here, there = two_rooms(max_participants=1)
    there.join("met", connect=True)
    alice = here.join("alice", connect=True)
    joining = here.stage.joining(alice.sid, here.wall_ms)
    assert joining is not None
    there.feed(ArrivalAnnounced(SID, joining))
    refused = there.moves.pop()
    assert isinstance(refused, ArrivalRefused)
    assert refused.code == "unavailable"
    assert SID not in there.room.members
    assert [m.identity for m in here.room.members.values()] == ["alice"]


def test_admitted_arrival_that_does_not_come_departs() -> None:
    here, there = two_rooms()
    alice = here.join("alice", connect=True)
    joining = here.stage.joining(alice.sid, here.wall_ms)
    assert joining is not None
    there.feed(ArrivalAnnounced(SID, joining))
    assert SID in there.room.members
    assert not there.stage.is_empty
    there.feed(ArrivalWithdrawn(SID))
    assert SID not in there.room.members
    assert there.stage.is_empty


def test_only_connected_clients_that_know_room_moved_are_carried() -> None:
    world = World()
    assert world.stage.way_out(world.join("new", connect=True).sid) is Way.CARRIED
    assert world.stage.way_out(world.join("old", connect=True, protocol=15).sid) is Way.REJOINS
    assert world.stage.way_out(world.join("early").sid) is Way.REJOINS
    away = world.join("away", connect=True)
    sid = away.sid
    world.drop(away)
    assert world.stage.way_out(sid) is Way.AWAY


def test_client_that_cannot_be_carried_gets_a_token_for_the_room_and_is_sent_there() -> None:
    world = World()
    alice = world.join("alice", connect=True, protocol=15)
    alice.clear()
    hand_over = room_pb2.HandOver(destination_room="there")
    world.order(room_pb2.Order(participant_sid=alice.sid, hand_over=hand_over))
    assert alice.cases() == ["refresh_token", "leave"]
    video = world.tokens[-1]["video"]
    assert isinstance(video, dict)
    assert (video["room"], video["roomJoin"]) == ("there", True)
    leave = alice.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.RECONNECT
    assert alice.closed is not None


def test_reports_about_moved_objects_go_to_the_stage_that_has_them() -> None:
    kept, gone = (3 << OWNER_SHIFT) + 1, (3 << OWNER_SHIFT) + 2
    moved = {gone: 9}
    assert split_by_owner(Connected(gone), moved) == [(9, Connected(gone))]
    assert split_by_owner(TrackLoss(kept, 0.5), moved) == [(3, TrackLoss(kept, 0.5))]
    both = AudioLevels(((kept, 1, 1.0), (gone, 2, 1.0)))
    assert dict(split_by_owner(both, moved)) == {
        3: AudioLevels(((kept, 1, 1.0),)),
        9: AudioLevels(((gone, 2, 1.0),)),
    }
