"""What a client of each signal protocol version gets, as it sees it (LiveKit: protocol versions)."""

import pytest
from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.media_commands import AddReceiver, CreatePeerConnection, SendData
from sfu.core.media_events import AudioLevels, Connected, Disconnected, Failed
from tests.support.scripted_room import Client, World

ALL = range(1, 18)
Action = rtc.LeaveRequest.Action
Reason = rtc.RequestResponse.Reason
State = models.ParticipantInfo.State
MICROPHONE = models.TrackInfo(
    sid="TR_AM0000000001",
    type=models.TrackType.AUDIO,
    source=models.TrackSource.MICROPHONE,
    stream="camera",
    codecs=[models.SimulcastCodecInfo(mime_type="audio/opus", cid="mic")],
    mime_type="audio/opus",
)

every_protocol = pytest.mark.parametrize("protocol", ALL)


def connect(world: World, client: Client) -> None:
    """The primary connection comes up, whichever that is."""
    world.media(Connected(world.session(client).connections.primary.id))


def publish_microphone(client: Client) -> str:
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="mic", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
        )
    )
    client.offer({"mid": "1", "kind": "audio", "cid": "mic"}, ufrag="publishing")
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def hears(world: World, client: Client, track_sid: str) -> None:
    """The client accepts the offered track."""
    world.advance(0.2)
    client.answer()
    world.advance(0.2)
    if world.session(client).subscribing.subscriptions.get(track_sid) is not None:
        client.answer()


def leave_of(client: Client) -> rtc.LeaveRequest:
    leave = client.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    return leave


@every_protocol
def test_subscriber_is_primary_from_3(world: World, protocol: int) -> None:
    join = world.join("a", protocol=protocol).last("join")
    assert isinstance(join, rtc.JoinResponse)
    assert join.subscriber_primary is (protocol >= 3)


@every_protocol
def test_server_offers_at_once_where_subscriber_is_primary(world: World, protocol: int) -> None:
    assert ("offer" in world.join("a", protocol=protocol).cases()) is (protocol >= 3)


@every_protocol
def test_first_offer_has_the_tracks_from_8_else_they_follow_when_active(
    world: World, protocol: int
) -> None:
    track_sid = publish_microphone(world.join("a", connect=True))
    b = world.join("b", protocol=protocol)
    offers = [o.mid_to_track_id for o in b.all("offer") if isinstance(o, rtc.SessionDescription)]
    assert (track_sid in [sid for offer in offers for sid in offer.values()]) is (protocol >= 8)
    if offers:
        b.answer()
    connect(world, b)
    world.advance(0.2)
    offer = b.last("offer")
    assert isinstance(offer, rtc.SessionDescription)
    assert track_sid in offer.mid_to_track_id.values()


@pytest.mark.parametrize("protocol", range(8, 18))
def test_stream_ids_say_participant_and_track(protocol: int) -> None:
    room = World()
    info = models.ParticipantInfo(
        sid="PA_publisher001", identity="p", tracks=[MICROPHONE], version=1
    )
    shown = room_pb2.ShowParticipants(participants=[info.SerializeToString()])
    listed = room_pb2.ListTrack(
        publisher_sid=info.sid, publisher_identity="p", track=MICROPHONE.SerializeToString()
    )
    room.order(room_pb2.Order(show_participants=shown))
    room.order(room_pb2.Order(list_track=listed))
    offer = room.join("a", protocol=protocol).last("offer")
    assert isinstance(offer, rtc.SessionDescription)
    assert f"a=msid:PA_publisher001|{MICROPHONE.sid} {MICROPHONE.sid}" in offer.sdp


@every_protocol
def test_speakers_are_a_data_packet_in_2_and_a_message_from_3(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol)
    connect(world, a)
    publish_microphone(a)
    a.clear()
    track = world.told(AddReceiver)[-1].track
    world.media(AudioLevels(((track, 0, 1.0),)))
    assert ("speakers_changed" in a.cases()) is (protocol >= 3)
    packets = [models.DataPacket.FromString(sent.payload) for sent in world.told(SendData)]
    speaking = [[s.sid for s in packet.speaker.speakers] for packet in packets]
    assert speaking == ([[a.sid]] if protocol == 2 else [])


@every_protocol
def test_connection_quality_is_told_from_5(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol)
    connect(world, a)
    world.advance(6)
    assert ("connection_quality" in a.cases()) is (protocol >= 5)


@pytest.mark.parametrize("protocol", range(5, 18))
def test_lost_connection_is_poor_before_11(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol)
    connect(world, a)
    world.media(Disconnected(world.session(a).connections.primary.id))
    world.advance(6)
    update = a.last("connection_quality")
    assert isinstance(update, rtc.ConnectionQualityUpdate)
    expected = models.ConnectionQuality.LOST if protocol >= 11 else models.ConnectionQuality.POOR
    assert [entry.quality for entry in update.updates] == [expected]


@every_protocol
def test_ice_lite_is_spoken_from_6(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol)
    a.offer()
    created = world.told(CreatePeerConnection)
    assert {command.ice_lite for command in created} == {protocol >= 6}


@every_protocol
def test_revoked_track_is_unpublished_from_7_and_muted_before(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol, connect=True)
    track_sid = publish_microphone(a)
    a.clear()
    permission = models.ParticipantPermission(can_subscribe=True)
    order = room_pb2.SetPermission(permission=permission.SerializeToString())
    world.order(room_pb2.Order(participant_sid=a.sid, set_permission=order))
    told = [case for case in a.cases() if case in {"track_unpublished", "mute"}]
    assert told == (["track_unpublished"] if protocol >= 7 else ["mute"])
    if protocol < 7:
        mute = a.last("mute")
        assert isinstance(mute, rtc.MuteTrackRequest)
        assert (mute.sid, mute.muted) == (track_sid, True)


@every_protocol
def test_resumed_client_is_told_who_left_from_9(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol)
    b = world.join("b", connect=True)
    connect(world, a)
    world.drop(a)
    world.advance(1)
    b.send(leave=rtc.LeaveRequest())
    world.advance(1)
    again = world.resume(a, protocol=protocol)
    states = [
        (entry.identity, entry.state)
        for update in again.all("update")
        if isinstance(update, rtc.ParticipantUpdate)
        for entry in update.participants
    ]
    assert (("b", State.DISCONNECTED) in states) is (protocol >= 9)


@every_protocol
@pytest.mark.parametrize("sdk", ["RUST", "JS"])
def test_failed_requests_are_answered_but_not_to_native_clients_before_10(
    world: World, protocol: int, sdk: str
) -> None:
    a = world.join("a", protocol=protocol, sdk=sdk, connect=True)
    a.send(mute=rtc.MuteTrackRequest(sid="TR_unknown", muted=True))
    assert ("request_response" in a.cases()) is (sdk == "JS" or protocol >= 10)


@every_protocol
@pytest.mark.parametrize("sdk", ["RUST", "JS"])
def test_first_subscriber_is_told_but_not_to_native_clients_before_10(
    world: World, protocol: int, sdk: str
) -> None:
    a = world.join("a", protocol=protocol, sdk=sdk)
    connect(world, a)
    track_sid = publish_microphone(a)
    b = world.join("b", connect=True)
    hears(world, b, track_sid)
    assert ("track_subscribed" in a.cases()) is (sdk == "JS" or protocol >= 10)


@every_protocol
def test_replaced_session_is_told_as_departed_before_12(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol)
    old = world.join("b", connect=True).sid
    world.advance(1)
    a.clear()
    world.join("b", connect=True)
    world.advance(1)
    updates = [
        entry
        for update in a.all("update")
        if isinstance(update, rtc.ParticipantUpdate)
        for entry in update.participants
    ]
    departed = [entry.sid for entry in updates if entry.state == State.DISCONNECTED]
    assert departed == ([] if protocol >= 12 else [old])
    assert updates[-1].sid != old


@every_protocol
def test_leave_has_an_action_from_13_and_a_flag_before(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol, connect=True)
    a.send(simulate=rtc.SimulateScenario(leave_request_full_reconnect=True))
    leave = leave_of(a)
    if protocol >= 13:
        assert (leave.action, leave.can_reconnect) == (Action.RECONNECT, False)
    else:
        assert (leave.action, leave.can_reconnect) == (Action.DISCONNECT, True)


@every_protocol
def test_refused_resume_has_the_client_start_anew(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol)
    a.send(leave=rtc.LeaveRequest())
    refused = world.resume(a, protocol=protocol)
    assert refused.cases() == ["leave"]
    leave = leave_of(refused)
    assert leave.reason == models.DisconnectReason.STATE_MISMATCH
    assert leave.can_reconnect is (protocol < 13)
    assert (leave.action == Action.RECONNECT) is (protocol >= 13)


@every_protocol
def test_failed_media_asks_for_a_resume_from_13_and_only_closes_before(
    world: World, protocol: int
) -> None:
    a = world.join("a", protocol=protocol)
    a.offer()
    if a.all("offer"):
        a.answer()
    connect(world, a)
    world.media(Failed(world.session(a).connections.primary.id, "test"))
    world.advance(2)
    assert a.closed is not None
    if protocol >= 13:
        assert leave_of(a).action == Action.RESUME
    else:
        assert "leave" not in a.cases()


@every_protocol
def test_success_is_answered_from_15(world: World, protocol: int) -> None:
    a = world.join("a", protocol=protocol, connect=True)
    a.send(update_metadata=rtc.UpdateParticipantMetadata(request_id=7, name="new"))
    answers = a.all("request_response")
    assert len(answers) == (1 if protocol >= 15 else 0)
    if answers:
        assert isinstance(answers[0], rtc.RequestResponse)
        assert (answers[0].request_id, answers[0].reason) == (7, Reason.OK)
