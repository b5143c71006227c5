"""Subscriptions from wish to sender: limits, lateness, permissions, states, what the engine is told."""

from dataclasses import replace

import pytest
from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.media_commands import AddSender, RemoveSender, SetSenderLayers
from sfu.core.media_events import LayerChanged, SenderPaused
from tests.support.scripted_room import Client, World
from tests.unit.sfu.test_stage_publish_subscribe import (
    CAM,
    MIC,
    add_camera,
    add_microphone,
    pair,
    subscribe,
)


def publish_microphones(a: Client, count: int) -> list[str]:
    sids = [add_microphone(a, f"mic{number}") for number in range(count)]
    a.offer(
        *(
            {"mid": str(10 + number), "kind": "audio", "cid": f"mic{number}"}
            for number in range(count)
        )
    )
    return sids


def errors(client: Client) -> list[tuple[str, int]]:
    found = client.all("subscription_response")
    return [
        (error.track_sid, int(error.err))
        for error in found
        if isinstance(error, rtc.SubscriptionResponse)
    ]


def states(client: Client) -> list[int]:
    return [
        int(state.state)
        for update in client.all("stream_state_update")
        if isinstance(update, rtc.StreamStateUpdate)
        for state in update.stream_states
    ]


def test_subscriptions_above_the_limit_begin_when_one_is_freed(world: World) -> None:
    world.stage._settings = replace(world.settings, subscription_limit_audio=2)
    a, b = pair(world, single=False)
    sids = publish_microphones(a, 3)
    camera = add_camera(a)
    a.offer(*[{"mid": str(10 + n), "kind": "audio", "cid": f"mic{n}"} for n in range(3)], CAM)
    world.start_encodings((0, "q"))
    subscribe(world, b)
    down = [track.track_sid for track in world.session(b).subscribing.subscriptions.down_tracks()]
    assert down == [*sids[:2], camera]
    b.send(subscription=rtc.UpdateSubscription(track_sids=[sids[0]], subscribe=False))
    subscribe(world, b)
    down = [track.track_sid for track in world.session(b).subscribing.subscriptions.down_tracks()]
    assert down == [sids[1], sids[2], camera]
    assert errors(b) == []


def test_track_that_is_not_bound_in_time_is_complained_of_once(world: World) -> None:
    a, b = pair(world, single=True)
    sid = add_microphone(a)
    a.offer(MIC)
    world.advance(14.9)
    assert errors(b) == []
    world.advance(30)
    assert errors(b) == [(sid, int(models.SubscriptionError.SE_UNKNOWN))]
    subscribe(world, b)
    assert len(world.told(AddSender)) == 1, "it may still come"


def test_nothing_is_late_before_the_client_is_active(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b")
    add_microphone(a)
    a.offer(MIC)
    world.advance(30)
    assert errors(b) == []


def test_lost_permission_removes_all_and_regained_one_brings_them_back(world: World) -> None:
    a, b = pair(world, single=False)
    sids = publish_microphones(a, 2)
    subscribe(world, b)
    assert len(world.told(AddSender)) == 2
    session = world.session(b)
    denied = models.ParticipantPermission()
    denied.CopyFrom(session.grants.permission)
    denied.can_subscribe = False
    allowed = models.ParticipantPermission()
    allowed.CopyFrom(session.grants.permission)

    def permit(permission: models.ParticipantPermission) -> list[str]:
        setting = room_pb2.SetPermission(permission=permission.SerializeToString())
        world.order(room_pb2.Order(participant_sid=b.sid, set_permission=setting))
        return [track.track_sid for track in session.subscribing.subscriptions.down_tracks()]

    assert permit(denied) == []
    assert len(world.told(RemoveSender)) == 2
    assert permit(allowed) == sids


def test_recorder_is_exempt_from_track_permissions(world: World) -> None:
    a = world.join("a", connect=True)
    a.send(subscription_permission=rtc.SubscriptionPermission(all_participants=False))
    recorder = world.join("recorder", grant={"recorder": True, "hidden": True}, connect=True)
    other = world.join("other", connect=True)
    add_microphone(a)
    a.offer(MIC)
    world.advance(0.2)
    assert world.session(recorder).subscribing.subscriptions.down_tracks() != ()
    assert world.session(other).subscribing.subscriptions.down_tracks() == ()


def test_enabling_is_immediate_and_priority_reaches_the_engine(world: World) -> None:
    a, b = pair(world, single=False)
    sid = add_camera(a)
    early = rtc.UpdateTrackSettings(track_sids=[sid], disabled=True, priority=200)
    b.send(track_setting=early)
    a.offer(CAM)
    world.start_encodings((0, "q"), (1, "h"))
    subscribe(world, b)
    config = world.told(AddSender)[-1].config
    assert (config.paused, config.priority) == (True, 200)
    b.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], priority=200))
    b.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], priority=7))
    world.advance(0.2)
    told = [(command.paused, command.priority) for command in world.told(SetSenderLayers)]
    assert told == [(False, 200), (False, 7)]


def test_pauses_by_congestion_are_told_after_the_first_flow(world: World) -> None:
    a, b = pair(world, single=False)
    add_camera(a)
    a.offer(CAM)
    world.start_encodings((0, "q"))
    subscribe(world, b)
    sender = world.told(AddSender)[-1].sender
    world.media(LayerChanged(sender, 0, 0))
    world.media(LayerChanged(sender, 1, 0))
    world.media(SenderPaused(sender, True))
    world.media(SenderPaused(sender, True))
    world.media(SenderPaused(sender, False))
    active, paused = int(rtc.StreamState.ACTIVE), int(rtc.StreamState.PAUSED)
    assert states(b) == [active, paused, active]


@pytest.mark.parametrize(
    ("protocol", "browser", "stream"),
    [(17, "chrome", "camera"), (9, "chrome", None), (17, "firefox", None)],
)
def test_tracks_of_one_stream_share_it_where_the_room_wants_it(
    world: World, protocol: int, browser: str, stream: str | None
) -> None:
    world.room._configuration.sync_streams = True
    a = world.join("a", connect=True)
    b = world.join("b", protocol=protocol, device=models.ClientInfo(browser=browser), connect=True)
    sid = add_microphone(a)
    a.offer(MIC)
    world.advance(0.2)
    (down,) = world.session(b).subscribing.subscriptions.down_tracks()
    assert down.stream == f"{a.sid}|{stream or sid}"
    reuses = world.session(b).connections._traits.reuses_sections
    assert reuses is (stream is None)


@pytest.mark.parametrize("is_encrypted", [True, False])
def test_injected_frames_are_marked_and_trailers_cut_as_needed(
    world: World, is_encrypted: bool
) -> None:
    a, b = pair(world, single=False)
    encryption = models.Encryption.Type.GCM if is_encrypted else models.Encryption.Type.NONE
    a.send(
        add_track=rtc.AddTrackRequest(
            cid="mic",
            type=models.TrackType.AUDIO,
            encryption=encryption,
            disable_red=is_encrypted,
            packet_trailer_features=[models.PacketTrailerFeature.PTF_USER_TIMESTAMP],
        )
    )
    a.offer(MIC)
    subscribe(world, b)
    config = world.told(AddSender)[-1].config
    assert config.sif_trailer == (b"trailer" if is_encrypted else b"")
    assert config.strip_trailer
    (track,) = [row.info for row in world.stage._directory.tracks.values()]
    assert track.encryption == encryption


@pytest.mark.parametrize(("protocol", "case"), [(7, "track_unpublished"), (6, "mute")])
def test_end_by_the_server_is_told_as_the_protocol_knows_it(
    world: World, protocol: int, case: str
) -> None:
    a = world.join("a", protocol=protocol, connect=True)
    sid = add_microphone(a)
    a.offer(MIC)
    a.clear()
    world.order(
        room_pb2.Order(
            participant_sid=a.sid, unpublish_track=room_pb2.UnpublishTrack(track_sid=sid)
        )
    )
    assert case in a.cases()
    assert ("mute" in a.cases()) is (case == "mute")


def quality(client: Client) -> list[bool]:
    update = client.last("subscribed_quality_update")
    assert isinstance(update, rtc.SubscribedQualityUpdate)
    return [known.enabled for known in update.subscribed_qualities]


def test_quality_is_said_again_after_an_unmute_and_never_while_muted(world: World) -> None:
    a, b = pair(world, single=False)
    sid = add_camera(a)
    a.offer(CAM)
    world.start_encodings((0, "q"), (1, "h"))
    subscribe(world, b)
    assert quality(a) == [True, True, False]
    a.send(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
    a.clear()
    b.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
    world.advance(20)
    assert "subscribed_quality_update" not in a.cases()
    a.send(mute=rtc.MuteTrackRequest(sid=sid, muted=False))
    assert quality(a) == [True, True, False]
    world.advance(5)
    assert quality(a) == [False, False, False]


def test_second_subscriber_that_leaves_a_track_lowers_its_qualities_late(world: World) -> None:
    a, b = pair(world, single=False)
    c = world.join("c", connect=True)
    c.answer()
    sid = add_camera(a)
    a.offer(CAM)
    world.start_encodings((0, "q"), (1, "h"))
    b.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], quality=models.VideoQuality.LOW))
    subscribe(world, b)
    subscribe(world, c)
    assert quality(a) == [True, True, False]
    c.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
    world.advance(4.9)
    assert quality(a) == [True, True, False]
    world.advance(0.2)
    assert quality(a) == [True, False, False]
