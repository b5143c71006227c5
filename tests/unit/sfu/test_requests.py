"""Every SignalRequest case: what a good one does, and that a bad one changes nothing."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core import requests
from sfu.core.media_commands import AddRemoteCandidate
from sfu.core.stage import SignalArrived
from tests.support.scripted_room import (
    WALL_MS,
    Client,
    FakePublisherNegotiation,
    FakeSubscriberNegotiation,
    World,
)

Reason = rtc.RequestResponse.Reason
AUDIO, VIDEO = models.TrackType.AUDIO, models.TrackType.VIDEO


def refusal(client: Client) -> rtc.RequestResponse:
    response = client.last("request_response")
    assert isinstance(response, rtc.RequestResponse)
    return response


def test_every_request_case_of_the_protocol_is_known_or_ignored_on_purpose() -> None:
    cases = {field.name for field in rtc.SignalRequest.DESCRIPTOR.fields}
    assert cases - set(requests.CASES) == {"update_layers"}


def test_pings_are_answered_with_our_clock(world: World) -> None:
    a = world.join("a")
    a.send(ping=5)
    a.send(ping_req=rtc.Ping(timestamp=9, rtt=1))
    assert a.last("pong") == WALL_MS
    pong = a.last("pong_resp")
    assert isinstance(pong, rtc.Pong)
    assert (pong.last_ping_timestamp, pong.timestamp) == (9, WALL_MS)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"mute": rtc.MuteTrackRequest(sid="TR_none", muted=True)}, Reason.NOT_FOUND),
        (
            {"update_audio_track": rtc.UpdateLocalAudioTrack(track_sid="TR_none")},
            Reason.NOT_FOUND,
        ),
        (
            {"update_video_track": rtc.UpdateLocalVideoTrack(track_sid="TR_none")},
            Reason.NOT_FOUND,
        ),
        ({"add_track": rtc.AddTrackRequest(cid="x", type=models.TrackType.DATA)}, 5),
        ({"add_track": rtc.AddTrackRequest(cid="x", sid="TR_none")}, Reason.NOT_FOUND),
        ({"trickle": rtc.TrickleRequest(candidateInit="{not json")}, Reason.UNCLASSIFIED_ERROR),
        ({"trickle": rtc.TrickleRequest(candidateInit="[1]")}, Reason.UNCLASSIFIED_ERROR),
        (
            {"trickle": rtc.TrickleRequest(candidateInit='{"candidate": 7}')},
            Reason.UNCLASSIFIED_ERROR,
        ),
        (
            {"publish_data_track_request": rtc.PublishDataTrackRequest(pub_handle=1)},
            Reason.INVALID_NAME,
        ),
        (
            {"unpublish_data_track_request": rtc.UnpublishDataTrackRequest(pub_handle=1)},
            Reason.NOT_FOUND,
        ),
        ({"get_data_blob_request": rtc.GetDataBlobRequest(request_id=4)}, Reason.NOT_ALLOWED),
        (
            {"update_metadata": rtc.UpdateParticipantMetadata(request_id=3, name="n" * 257)},
            Reason.LIMIT_EXCEEDED,
        ),
    ],
)
def test_bad_request_is_refused_and_changes_nothing(
    world: World, fields: dict[str, object], reason: int
) -> None:
    a = world.join("a", connect=True)
    world.advance(1)
    facts, commands, others = len(world.facts), len(world.commands), a.cases()
    a.send(**fields)
    response = refusal(a)
    assert response.reason == reason
    assert (len(world.facts), len(world.commands)) == (facts, commands)
    assert a.cases() == [*others, "request_response"]
    assert a.closed is None


def test_refusal_of_add_track_carries_the_request(world: World) -> None:
    a = world.join("a", grant={"canPublish": False})
    a.send(add_track=rtc.AddTrackRequest(cid="mine", type=AUDIO))
    assert refusal(a).reason == Reason.NOT_ALLOWED
    assert refusal(a).add_track.cid == "mine"


def test_source_that_is_not_granted_is_refused(world: World) -> None:
    a = world.join("a", grant={"canPublishSources": ["microphone"]})
    a.send(add_track=rtc.AddTrackRequest(cid="c", type=VIDEO, source=models.TrackSource.CAMERA))
    assert refusal(a).reason == Reason.NOT_ALLOWED
    a.send(add_track=rtc.AddTrackRequest(cid="m", type=AUDIO, source=models.TrackSource.MICROPHONE))
    assert "track_published" in a.cases()


def test_pending_tracks_are_limited(world: World) -> None:
    a = world.join("a")
    for number in range(21):
        a.send(add_track=rtc.AddTrackRequest(cid=str(number), type=AUDIO))
    assert a.cases().count("track_published") == 20
    assert refusal(a).reason == Reason.LIMIT_EXCEEDED


def test_tracks_queued_for_one_cid_are_limited(world: World) -> None:
    a = world.join("a")
    for _ in range(5):
        a.send(add_track=rtc.AddTrackRequest(cid="same", type=AUDIO))
    reasons = [r.reason for r in a.all("request_response") if isinstance(r, rtc.RequestResponse)]
    assert reasons == [Reason.QUEUED] * 3 + [Reason.LIMIT_EXCEEDED]


@pytest.mark.parametrize(("sdk", "protocol"), [("RUST", 9)])
def test_old_native_clients_get_no_request_response(world: World, sdk: str, protocol: int) -> None:
    a = world.join("a", sdk=sdk, protocol=protocol)
    a.send(mute=rtc.MuteTrackRequest(sid="TR_none"))
    assert "request_response" not in a.cases()


def test_trickled_candidate_waits_for_the_description(world: World) -> None:
    a = world.join("a", single=True)
    candidate = '{"candidate":"candidate:1 1 udp 1 10.0.0.1 5 typ host","sdpMid":"0"}'
    for _ in range(2):
        a.send(trickle=rtc.TrickleRequest(candidateInit=candidate))
    assert world.told(AddRemoteCandidate) == []
    a.offer()
    assert [command.candidate for command in world.told(AddRemoteCandidate)] == [
        "candidate:1 1 udp 1 10.0.0.1 5 typ host"
    ]
    a.send(trickle=rtc.TrickleRequest(candidateInit='{"candidate":""}'))
    a.send(trickle=rtc.TrickleRequest(candidateInit='{"candidate":"1 1 udp 1 x.local 5 typ host"}'))
    assert len(world.told(AddRemoteCandidate)) == 1


def test_bad_offer_has_the_client_start_anew(world: World) -> None:
    a = world.join("a", connect=True)
    a.send(offer=rtc.SessionDescription(type="offer", sdp="nonsense", id=1))
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.Action.RECONNECT
    assert leave.reason == models.DisconnectReason.STATE_MISMATCH
    assert world.stage.is_empty


def test_metadata_change_is_shown_then_token_then_ok(world: World) -> None:
    a = world.join("a", connect=True)
    world.advance(1)
    a.clear()
    a.send(update_metadata=rtc.UpdateParticipantMetadata(request_id=8, attributes={"k": "v"}))
    assert a.cases() == ["update", "refresh_token", "request_response"]
    assert refusal(a).request_id == 8
    assert refusal(a).reason == Reason.OK
    assert world.tokens[-1]["attributes"] == {"k": "v"}


def test_metadata_change_without_the_grant_is_refused(world: World) -> None:
    a = world.join("a", grant={"canUpdateOwnMetadata": False})
    a.send(update_metadata=rtc.UpdateParticipantMetadata(request_id=8, name="new"))
    assert refusal(a).reason == Reason.NOT_ALLOWED
    assert refusal(a).message == "does not have permission to update own metadata"


def test_subscription_permission_that_names_nobody_is_void(world: World) -> None:
    a = world.join("a")
    before = len(world.facts)
    permission = rtc.SubscriptionPermission(track_permissions=[rtc.TrackPermission()])
    a.send(subscription_permission=permission)
    assert len(world.facts) == before


def test_audio_features_are_copied_into_the_track(world: World) -> None:
    a = world.join("a")
    a.send(add_track=rtc.AddTrackRequest(cid="m", type=AUDIO))
    published = a.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    a.send(
        update_audio_track=rtc.UpdateLocalAudioTrack(
            track_sid=published.track.sid,
            features=[models.AudioTrackFeature.TF_STEREO, models.AudioTrackFeature.TF_NO_DTX],
        )
    )
    track = world.session(a).publishing.publications.get(published.track.sid)
    assert track is not None
    assert (track.info.stereo, track.info.disable_dtx) == (True, True)
    announced = world.session(a).publishing.publications.announced()[0]
    assert (announced.stereo, announced.dtx) == (True, False)


def test_admin_mute_tells_the_publisher_first(world: World) -> None:
    a = world.join("a", connect=True)
    a.send(add_track=rtc.AddTrackRequest(cid="mic", type=AUDIO))
    a.offer({"mid": "1", "kind": "audio", "cid": "mic"})
    published = a.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    a.clear()
    mute = room_pb2.MuteTrack(track_sid=published.track.sid, muted=True)
    world.order(room_pb2.Order(participant_sid=a.sid, mute_track=mute))
    assert a.cases() == ["mute", "update"]


def test_simulated_faults_need_permission(world: World) -> None:
    a = world.join("a")
    a.send(simulate=rtc.SimulateScenario(leave_request_full_reconnect=True))
    leave = a.last("leave")
    assert isinstance(leave, rtc.LeaveRequest)
    assert leave.action == rtc.LeaveRequest.Action.RECONNECT


def offer_text(cid: str, mid: str) -> str:
    sections = [
        {"mid": mid, "kind": "audio", "cid": cid},
        {"mid": "9", "kind": "audio", "recv": True},
    ]
    return json.dumps({"ufrag": "c", "sections": sections})


REQUESTS = st.one_of(
    st.builds(
        lambda sid, muted: {"mute": rtc.MuteTrackRequest(sid=sid, muted=muted)},
        st.text(max_size=5),
        st.booleans(),
    ),
    st.builds(
        lambda cid, kind, source: {
            "add_track": rtc.AddTrackRequest(cid=cid, type=kind, source=source)
        },
        st.sampled_from(["a", "b", ""]),
        st.sampled_from([0, 1, 2]),
        st.sampled_from([0, 1, 2, 3]),
    ),
    st.builds(
        lambda cid, mid: {"offer": rtc.SessionDescription(sdp=offer_text(cid, mid))},
        st.sampled_from(["a", "b", ""]),
        st.sampled_from(["1", "2"]),
    ),
    st.just({"answer": rtc.SessionDescription(sdp='{"ufrag": "s"}')}),
    st.builds(
        lambda sid, yes: {"subscription": rtc.UpdateSubscription(track_sids=[sid], subscribe=yes)},
        st.text(max_size=4),
        st.booleans(),
    ),
    st.just({"ping": 1}),
    st.just({"sync_state": rtc.SyncState()}),
    st.just({"subscription_permission": rtc.SubscriptionPermission()}),
    st.just({"subscription_permission": rtc.SubscriptionPermission(all_participants=True)}),
)
ACTIONS = st.tuples(
    st.sampled_from(["send", "send", "send", "join", "drop", "resume", "connect", "wait", "junk"]),
    st.integers(0, 3),
    REQUESTS,
    st.binary(max_size=12),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions=st.lists(ACTIONS, max_size=30))
def test_any_order_of_requests_and_failures_keeps_the_stage_consistent(
    actions: list[tuple[str, int, dict[str, object], bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfu.core.connections.PublisherNegotiation", FakePublisherNegotiation)
    monkeypatch.setattr("sfu.core.connections.SubscriberNegotiation", FakeSubscriberNegotiation)
    world = World()
    clients = [world.join(f"p{index}", single=index % 2 == 0) for index in range(2)]
    for action, index, fields, junk in actions:
        act(world, clients, action, index, fields, junk)
        assert_consistent(world)
    for client in clients:
        if client.closed is None:
            client.send(leave=rtc.LeaveRequest())
            world.drop(client)
    world.advance(90)
    for identity in {client.identity for client in clients}:
        assert not [
            session
            for session in world.stage._sessions
            if session.identity == identity and session.socket is not None
        ]


def act(
    world: World,
    clients: list[Client],
    action: str,
    index: int,
    fields: dict[str, object],
    junk: bytes,
) -> None:
    """One random action; on a closed socket nothing can arrive any more."""
    client = clients[index % len(clients)]
    match action:
        case "join":
            clients.append(world.join(f"p{index}", single=index % 2 == 0, connect=index > 1))
        case "resume":
            clients.append(world.resume(client))
        case "wait":
            world.advance(index * 3)
        case _ if client.closed is not None:
            pass
        case "send":
            client.send(**fields)
        case "junk":
            world.feed(SignalArrived(client.socket, junk))
        case "drop":
            world.drop(client)
        case "connect" if client.is_present:
            client.connect()


def assert_consistent(world: World) -> None:
    """Engine ids, sockets and the directory agree with the sessions that are there."""
    sessions = world.stage._sessions
    assert all(sessions.get(sid) is not None for sid in sessions.owners.values())
    assert all(session in sessions for session in sessions._by_socket.values())
    for track in world.stage._directory.tracks.values():
        assert sessions.get(track.publisher_sid) is not None
    for session in sessions:
        for subscription in session.subscribing.subscriptions:
            if subscription.sender is not None:
                assert subscription.track_sid in world.stage._directory.tracks


def test_changed_size_of_an_own_video_is_shown_to_all_at_once(world: World) -> None:
    a, b = world.join("a", connect=True), world.join("b", connect=True)
    request = rtc.AddTrackRequest(
        cid="cam", type=models.TrackType.VIDEO, width=1280, height=720, layers=[]
    )
    a.send(add_track=request)
    a.offer({"mid": "1", "kind": "video", "cid": "cam"})
    published = a.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    sid = published.track.sid
    b.clear()
    a.clear()
    change = rtc.UpdateLocalVideoTrack(track_sid=sid, width=640, height=360)
    a.send(update_video_track=change)
    for client in (a, b):
        update = client.last("update")
        assert isinstance(update, rtc.ParticipantUpdate)
        [shown] = [track for info in update.participants for track in info.tracks]
        assert (shown.sid, shown.width, shown.height) == (sid, 640, 360)
    assert "request_response" not in a.cases()
    [member] = [m for m in world.room.members.values() if m.identity == "a"]
    assert (member.tracks[sid].width, member.tracks[sid].height) == (640, 360)
