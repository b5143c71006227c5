"""Data tracks: published by handle, subscribed to by sid, forwarded under another handle."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.data_tracks import HEADER_BYTES, DataTracks, parse_header, with_handle
from sfu.core.media_commands import OpenDataChannel, SendData
from sfu.core.media_events import DataChannelClosed, DataReceived
from tests.support.scripted_room import Client, World

Reason = rtc.RequestResponse.Reason
NOT_FOUND = models.SubscriptionError.SE_TRACK_NOTFOUND


def packet(handle: int, body: bytes = b"body", flags: int = 0x18) -> bytes:
    return struct.pack("!BBHHHI", flags, 0, handle, 7, 8, 90_000) + body


def publish(client: Client, handle: int = 5, name: str = "pose") -> models.DataTrackInfo:
    request = rtc.PublishDataTrackRequest(pub_handle=handle, name=name)
    client.send(publish_data_track_request=request)
    response = client.last("publish_data_track_response")
    assert isinstance(response, rtc.PublishDataTrackResponse)
    return response.info


def subscribe(client: Client, *sids: str, wanted: bool = True) -> None:
    update = rtc.UpdateDataSubscription.Update
    updates = [update(track_sid=sid, subscribe=wanted) for sid in sids]
    client.send(update_data_subscription=rtc.UpdateDataSubscription(updates=updates))


def handles(client: Client) -> dict[int, str]:
    last = client.last("data_track_subscriber_handles")
    assert isinstance(last, rtc.DataTrackSubscriberHandles)
    return {handle: track.track_sid for handle, track in last.sub_handles.items()}


def push(world: World, client: Client, payload: bytes) -> None:
    world.media(DataReceived(client.pcs["publisher"], "_data_track", payload, True))


# ----------------------------------------------------------------------------------- the header


def test_header_is_read() -> None:
    header = parse_header(packet(0xABCD))
    assert header is not None
    assert (header.handle, header.sequence, header.frame_number) == (0xABCD, 7, 8)
    assert (header.timestamp, header.payload_at) == (90_000, HEADER_BYTES)
    assert header.is_start
    assert header.is_final


def test_payload_begins_after_the_extensions() -> None:
    extensions = b"\x00\x01" + b"\x02\x04abcd"  # two words in all
    header = parse_header(packet(1, extensions + b"body", 0x04))
    assert header is not None
    assert header.payload_at == HEADER_BYTES + 8


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        packet(1, b"")[:11],
        packet(0),
        packet(1, flags=0x20),
        packet(1, b"", 0x04),
        packet(1, b"\x00", 0x04),
        packet(1, b"\x00\x01abcd", 0x04),
        packet(1, b"\xff\xff" + bytes(100), 0x04),
    ],
)
def test_what_is_no_packet_has_no_header(bad: bytes) -> None:
    assert parse_header(bad) is None


@given(st.binary(max_size=64))
def test_any_bytes_have_a_header_within_them_or_none(junk: bytes) -> None:
    header = parse_header(junk)
    if header is not None:
        assert HEADER_BYTES <= header.payload_at <= len(junk)
        assert 1 <= header.handle <= 0xFFFF


@given(
    st.binary(max_size=40),
    st.integers(1, 0xFFFF),
    st.integers(1, 0xFFFF),
    st.sampled_from([0, 0x08, 0x10, 0x18]),
)
def test_only_the_handle_changes(body: bytes, before: int, after: int, flags: int) -> None:
    rewritten = with_handle(packet(before, body, flags), after)
    assert rewritten == packet(after, body, flags)


def test_a_handle_is_not_soon_used_again_and_never_twice() -> None:
    tracks = DataTracks(last_handle=0xFFFE)

    def row(number: int) -> room_pb2.ListDataTrack:
        info = models.DataTrackInfo(sid=f"DTR_{number}", pub_handle=number)
        return room_pb2.ListDataTrack(publisher_sid="PA_a", track=info.SerializeToString())

    for number in (1, 2, 3):
        tracks.take(row(number))
    tracks.drop("DTR_2")
    tracks.take(row(4))
    assert [track.handle for track in tracks] == [0xFFFF, 2, 3]


# ------------------------------------------------------------------------------------ publishing


def test_published_track_is_in_the_publishers_info(world: World) -> None:
    a, b = (world.join(name, connect=True) for name in "ab")
    world.advance(6)
    version = world.room.member("a").info.version
    info = publish(a)
    assert info.sid.startswith("DTR_")
    update = b.last("update")
    assert isinstance(update, rtc.ParticipantUpdate)
    (shown,) = update.participants
    assert [track.name for track in shown.data_tracks] == ["pose"]
    assert shown.is_publisher
    assert shown.version == version + 1
    c = world.join("c")
    join = c.inbox[0].join
    assert [len(other.data_tracks) for other in join.other_participants] == [1, 0]

    a.send(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=5))
    ended = a.last("unpublish_data_track_response")
    assert isinstance(ended, rtc.UnpublishDataTrackResponse)
    assert ended.info == info
    update = b.last("update")
    assert isinstance(update, rtc.ParticipantUpdate)
    assert not update.participants[-1].data_tracks


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pub_handle": 0}, Reason.INVALID_HANDLE),
        ({"pub_handle": 70_000, "name": ""}, Reason.INVALID_HANDLE),
        ({"pub_handle": 5, "name": ""}, Reason.INVALID_NAME),
        ({"pub_handle": 5, "name": "n" * 257}, Reason.INVALID_NAME),
        (
            {"pub_handle": 5, "frame_encoding": models.DataTrackFrameEncoding(custom="")},
            Reason.INVALID_REQUEST,
        ),
        (
            {"pub_handle": 5, "frame_encoding": models.DataTrackFrameEncoding(custom="c" * 33)},
            Reason.INVALID_REQUEST,
        ),
        ({"pub_handle": 5}, Reason.DUPLICATE_HANDLE),
        ({"pub_handle": 6}, Reason.DUPLICATE_NAME),
    ],
)
def test_bad_publication_is_refused_with_a_copy(
    world: World, fields: dict[str, object], reason: int
) -> None:
    a = world.join("a", connect=True)
    publish(a)
    facts = len(world.facts)
    request = rtc.PublishDataTrackRequest(**{"name": "pose", **fields})  # type: ignore[arg-type]
    a.send(publish_data_track_request=request)
    refusal = a.last("request_response")
    assert isinstance(refusal, rtc.RequestResponse)
    assert refusal.reason == reason
    assert refusal.publish_data_track == request
    assert len(world.facts) == facts


def test_who_may_not_publish_data_may_not_publish_data_tracks(world: World) -> None:
    a = world.join("a", connect=True, grant={"canPublishData": False})
    a.send(publish_data_track_request=rtc.PublishDataTrackRequest(pub_handle=0))
    refusal = a.last("request_response")
    assert isinstance(refusal, rtc.RequestResponse)
    assert refusal.reason == Reason.NOT_ALLOWED


def test_lost_permission_and_leaving_end_data_tracks(world: World) -> None:
    a, b, c = (world.join(name, connect=True) for name in "abc")
    first, second = publish(a), publish(b)
    subscribe(c, first.sid, second.sid)
    assert len(handles(c)) == 2
    permission = models.ParticipantPermission(can_subscribe=True)
    world.order(
        room_pb2.Order(
            participant_sid=a.sid,
            set_permission=room_pb2.SetPermission(permission=permission.SerializeToString()),
        )
    )
    assert a.cases().count("unpublish_data_track_response") == 1
    assert set(handles(c).values()) == {second.sid}
    b.send(leave=rtc.LeaveRequest())
    assert handles(c) == {}


# ----------------------------------------------------------------------- subscribing, forwarding


def test_packets_reach_subscribers_under_their_handle(world: World) -> None:
    a, b, c = (world.join(name, connect=True) for name in "abc")
    info = publish(a, handle=500)
    subscribe(b, info.sid)
    ((handle, sid),) = handles(b).items()
    assert sid == info.sid
    push(world, a, packet(500))
    (sent,) = world.told(SendData)
    assert (sent.pcs, sent.label) == ((b.primary,), "_data_track")
    assert sent.payload == packet(handle)

    subscribe(c, info.sid)
    push(world, a, packet(500))
    assert set(world.told(SendData)[-1].pcs) == {b.primary, c.primary}
    subscribe(b, info.sid, wanted=False)
    assert handles(b) == {}
    push(world, a, packet(500))
    assert world.told(SendData)[-1].pcs == (c.primary,)


def test_packets_of_no_track_are_dropped(world: World) -> None:
    a, b = (world.join(name, connect=True) for name in "ab")
    subscribe(b, publish(a).sid)
    push(world, a, packet(6))
    push(world, b, packet(5))
    push(world, a, b"short")
    assert world.told(SendData) == []
    assert world.dropped == ["unknown_data_track", "unknown_data_track", "malformed"]


def test_a_subscriber_without_the_channel_gets_nothing(world: World) -> None:
    a, b = (world.join(name, connect=True) for name in "ab")
    subscribe(b, publish(a).sid)
    world.media(DataChannelClosed(b.primary, "_data_track"))
    push(world, a, packet(5))
    assert world.told(SendData) == []


def test_subscription_is_automatic_only_where_asked_for(world: World) -> None:
    a = world.join("a", connect=True)
    request = rtc.JoinRequest()
    request.connection_settings.auto_subscribe_data_track = True
    b = world.join("b", connect=True, request=request)
    c = world.join("c", connect=True)
    info = publish(a)
    assert set(handles(b).values()) == {info.sid}
    assert "data_track_subscriber_handles" not in c.cases()
    late = rtc.JoinRequest()
    late.connection_settings.auto_subscribe_data_track = True
    d = world.join("d", request=late)
    assert set(handles(d).values()) == {info.sid}
    subscribe(b, info.sid, wanted=False)
    publish(a, 6, "other")
    assert info.sid not in handles(b).values()


def test_a_client_has_its_complete_map_at_every_change_and_after_a_resume(world: World) -> None:
    a, b = (world.join(name, connect=True) for name in "ab")
    first, second = publish(a), publish(a, 6, "other")
    subscribe(b, first.sid)
    subscribe(b, second.sid)
    assert set(handles(b).values()) == {first.sid, second.sid}
    world.drop(b)
    a.send(unpublish_data_track_request=rtc.UnpublishDataTrackRequest(pub_handle=5))
    again = world.resume(b)
    assert set(handles(again).values()) == {second.sid}


def test_unknown_track_is_given_up_after_a_minute(world: World) -> None:
    b = world.join("b", connect=True)
    subscribe(b, "DTR_none")
    world.advance(59)
    assert "subscription_response" not in b.cases()
    world.advance(2)
    response = b.last("subscription_response")
    assert isinstance(response, rtc.SubscriptionResponse)
    assert (response.track_sid, response.err) == ("DTR_none", NOT_FOUND)


def test_a_track_that_comes_later_is_subscribed_to_then(world: World) -> None:
    a, b = (world.join(name, connect=True) for name in "ab")
    expected = f"DTR_{next(world.ids._next) + 1:012d}"
    subscribe(b, expected)
    assert publish(a).sid == expected
    assert set(handles(b).values()) == {expected}
    world.advance(61)
    assert "subscription_response" not in b.cases()


def test_publisher_says_who_may_subscribe(world: World) -> None:
    a, b, c = (world.join(name, connect=True) for name in "abc")
    info = publish(a)
    subscribe(b, info.sid)
    only_c = rtc.SubscriptionPermission(
        track_permissions=[rtc.TrackPermission(participant_identity="c", track_sids=[info.sid])]
    )
    a.send(subscription_permission=only_c)
    assert handles(b) == {}
    told = b.last("subscription_permission_update")
    assert isinstance(told, rtc.SubscriptionPermissionUpdate)
    assert (told.track_sid, told.allowed) == (info.sid, False)
    subscribe(c, info.sid)
    assert len(handles(c)) == 1
    a.send(subscription_permission=rtc.SubscriptionPermission(all_participants=True))
    assert len(handles(b)) == 1


def test_sync_state_is_held_against_the_data_tracks_there_are(world: World) -> None:
    a, b = (world.join(name, connect=True) for name in "ab")
    info = publish(a)
    again = world.resume(a)
    known = rtc.PublishDataTrackResponse(info=info)
    again.send(sync_state=rtc.SyncState(publish_data_tracks=[known]))
    assert "leave" not in again.cases()
    unknown = rtc.PublishDataTrackResponse(info=models.DataTrackInfo(sid="DTR_none"))
    again.send(sync_state=rtc.SyncState(publish_data_tracks=[known, unknown]))
    leave = again.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.RECONNECT

    wanted = rtc.UpdateDataSubscription.Update(track_sid="DTR_later", subscribe=True)
    state = rtc.SyncState(data_subscription=rtc.UpdateDataSubscription(updates=[wanted]))
    b.send(sync_state=state)
    world.advance(61)
    assert "subscription_response" in b.cases()


def test_dual_clients_are_opened_the_channel_of_data_tracks(world: World) -> None:
    world.join("a")
    opened = {command.label: command for command in world.told(OpenDataChannel)}
    assert opened["_data_track"].max_retransmits == 0
    assert not opened["_data_track"].ordered
