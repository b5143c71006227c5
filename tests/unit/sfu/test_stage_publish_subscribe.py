"""From AddTrack to a sender for the other, in both modes, and back."""

import pytest
from livekit.protocol import models, rtc

from contracts.room.v1 import room_pb2
from sfu.core.connection_quality import Condition
from sfu.core.effects import SendSignal, Step
from sfu.core.media_commands import (
    AddReceiver,
    AddSender,
    RemoveSender,
    RemoveTrack,
    RequestKeyframe,
    SetSenderLayers,
    SetTrackMuted,
)
from sfu.core.media_events import AudioLevels, LayerChanged, TrackLoss
from tests.support.scripted_room import Client, World

MIC: dict[str, object] = {"mid": "7", "kind": "audio", "cid": "mic"}
CAM: dict[str, object] = {"mid": "8", "kind": "video", "cid": "cam", "rids": ["q", "h"]}
RECEIVING: tuple[dict[str, object], ...] = (
    {"mid": "0", "kind": "audio", "recv": True},
    {"mid": "3", "kind": "video", "recv": True},
)


def add_microphone(client: Client, cid: str = "mic") -> str:
    client.send(
        add_track=rtc.AddTrackRequest(
            cid=cid,
            name="mic",
            type=models.TrackType.AUDIO,
            source=models.TrackSource.MICROPHONE,
        )
    )
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def add_camera(client: Client) -> str:
    layers = [
        models.VideoLayer(quality=models.VideoQuality.MEDIUM, width=640, height=360),
        models.VideoLayer(quality=models.VideoQuality.LOW, width=320, height=180),
    ]
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="cam",
            type=models.TrackType.VIDEO,
            source=models.TrackSource.CAMERA,
            width=640,
            height=360,
            layers=layers,
            simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid="cam", layers=layers)],
        )
    )
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def tracks_shown(client: Client, publisher: str) -> list[models.TrackInfo]:
    """The tracks in the latest update about a publisher."""
    for update in reversed(client.all("update")):
        assert isinstance(update, rtc.ParticipantUpdate)
        for participant in update.participants:
            if participant.identity == publisher:
                return list(participant.tracks)
    return []


def pair(world: World, *, single: bool) -> tuple[Client, Client]:
    """A and B, both active, B ready to receive."""
    a = world.join("a", single=single, connect=True)
    b = world.join("b", single=single, connect=True)
    if single:
        b.offer(*RECEIVING)
        a.offer()
    else:
        b.answer()
        a.answer()
    world.advance(1)
    return a, b


def subscribe(world: World, b: Client) -> None:
    """B's client does its part of the negotiation."""
    world.advance(0.2)
    if b.is_single:
        b.offer(*RECEIVING, offer_id=2)
    else:
        b.answer()
    world.advance(0.2)


def test_published_track_says_what_the_client_announced(world: World) -> None:
    a = world.join("a", connect=True)
    sid = add_camera(a)
    published = a.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    assert published.cid == "cam"
    assert sid.startswith("TR_VC")
    track = published.track
    assert track.simulcast
    assert track.stream == "camera"
    assert [int(layer.quality) for layer in track.layers] == [0, 1]
    assert track.codecs[0].mime_type == "video/vp8"
    assert tracks_shown(a, "a") == []


@pytest.mark.parametrize("single", [False, True])
def test_audio_is_published_on_its_section_and_sent_to_the_other(
    world: World, single: bool
) -> None:
    a, b = pair(world, single=single)
    sid = add_microphone(a)
    b.clear()
    a.offer(MIC, *(RECEIVING if single else ()))
    shown = tracks_shown(b, "a")
    assert [track.sid for track in shown] == [sid]
    assert (shown[0].mime_type, shown[0].mid) == ("audio/red", "7")
    world.advance(0.2)
    wanted = "media_sections_requirement" if single else "offer"
    assert b.cases().index("update") < b.cases().index(wanted)
    assert "subscription_permission_update" in b.cases()
    subscribe(world, b)
    sender = world.told(AddSender)[-1]
    receiver = world.told(AddReceiver)[-1]
    assert sender.config.track == receiver.track
    assert receiver.config.measure_level
    assert sender.pc == b.primary
    assert sender.config.cname == f"{a.sid}|{sid}"
    assert a.cases().count("track_subscribed") == 1


@pytest.mark.parametrize("single", [False, True])
def test_simulcast_video_is_published_with_its_first_packet(world: World, single: bool) -> None:
    a, b = pair(world, single=single)
    sid = add_camera(a)
    a.offer(CAM)
    assert tracks_shown(b, "a") == []
    world.start_encodings((0, "q"))
    shown = tracks_shown(b, "a")
    assert [track.sid for track in shown] == [sid]
    assert (shown[0].layers[0].rid, shown[0].layers[0].ssrc) == ("q", 5000)
    world.start_encodings((1, "h"))
    assert tracks_shown(b, "a")[0].layers[1].rid == "h"
    subscribe(world, b)
    assert world.told(AddSender)[-1].config.max_spatial_layer == 1
    assert world.told(RequestKeyframe)[-1].track == world.told(AddReceiver)[-1].track
    update = a.last("subscribed_quality_update")
    assert isinstance(update, rtc.SubscribedQualityUpdate)
    assert [q.enabled for q in update.subscribed_qualities] == [True, True, False]
    assert update.subscribed_codecs[0].codec == "vp8"
    world.media(LayerChanged(world.told(AddSender)[-1].sender, 1, 2))
    assert b.cases().count("stream_state_update") == 1


def test_muted_track_is_published_without_any_packet(world: World) -> None:
    a, b = pair(world, single=False)
    sid = add_camera(a)
    a.send(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
    a.offer(CAM)
    assert [track.muted for track in tracks_shown(b, "a")] == [True]


def test_offer_may_come_before_its_track_is_announced(world: World) -> None:
    a, b = pair(world, single=False)
    a.offer(MIC)
    assert tracks_shown(b, "a") == []
    sid = add_microphone(a)
    assert [track.sid for track in tracks_shown(b, "a")] == [sid]


def test_mute_reaches_engine_and_everybody(world: World) -> None:
    a, b = pair(world, single=False)
    sid = add_microphone(a)
    a.offer(MIC)
    a.send(mute=rtc.MuteTrackRequest(sid=sid, muted=True))
    assert world.told(SetTrackMuted)[-1].muted
    assert [tracks_shown(client, "a")[0].muted for client in (a, b)] == [True, True]


@pytest.mark.parametrize("single", [False, True])
def test_unpublish_by_renegotiation_ends_the_subscription(world: World, single: bool) -> None:
    a, b = pair(world, single=single)
    sid = add_microphone(a)
    a.offer(MIC)
    subscribe(world, b)
    b.clear()
    a.offer({"mid": "7", "kind": "audio"}, offer_id=3)
    assert world.told(RemoveTrack)[-1].track == world.told(AddReceiver)[-1].track
    assert world.told(RemoveSender)[-1].sender == world.told(AddSender)[-1].sender
    assert tracks_shown(a, "a") == []
    assert "track_unpublished" not in a.cases()
    world.advance(0.2)
    assert ("media_sections_requirement" if single else "offer") in b.cases()
    assert world.facts[-1].track_ended.track_sid == sid


def test_queued_track_of_the_same_cid_starts_when_the_first_ends(world: World) -> None:
    a, _ = pair(world, single=False)
    first = add_microphone(a)
    add_microphone(a)
    queued = a.last("request_response")
    assert isinstance(queued, rtc.RequestResponse)
    assert queued.reason == rtc.RequestResponse.Reason.QUEUED
    assert queued.add_track.cid == "mic"
    a.offer(MIC)
    a.offer({"mid": "7", "kind": "audio"})
    published = a.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    assert published.track.sid != first


def test_without_auto_subscribe_nothing_is_sent_until_asked(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b", auto_subscribe=False, connect=True)
    b.answer()
    sid = add_microphone(a)
    a.offer(MIC)
    world.advance(1)
    assert world.told(AddSender) == []
    b.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    subscribe(world, b)
    assert len(world.told(AddSender)) == 1
    b.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=False))
    assert len(world.told(RemoveSender)) == 1


def test_late_joiner_gets_tracks_in_join_and_first_offer(world: World) -> None:
    a = world.join("a", connect=True)
    sid = add_microphone(a)
    a.offer(MIC)
    b = world.join("b")
    join, offer = b.last("join"), b.last("offer")
    assert isinstance(join, rtc.JoinResponse)
    assert isinstance(offer, rtc.SessionDescription)
    assert [t.sid for t in join.other_participants[0].tracks] == [sid]
    assert list(offer.mid_to_track_id.values()) == [sid]


def test_unknown_track_is_given_up_after_a_minute(world: World) -> None:
    a = world.join("a", connect=True)
    a.send(subscription=rtc.UpdateSubscription(track_sids=["TR_never"], subscribe=True))
    world.advance(59)
    assert "subscription_response" not in a.cases()
    world.advance(2)
    response = a.last("subscription_response")
    assert isinstance(response, rtc.SubscriptionResponse)
    assert response.err == models.SubscriptionError.SE_TRACK_NOTFOUND


def test_unknown_track_is_subscribed_when_it_appears(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b", auto_subscribe=False, connect=True)
    b.answer()
    sid = add_microphone(a)
    b.send(subscription=rtc.UpdateSubscription(track_sids=[sid], subscribe=True))
    assert "subscription_permission_update" not in b.cases()
    a.offer(MIC)
    subscribe(world, b)
    assert len(world.told(AddSender)) == 1


def test_publisher_may_restrict_who_subscribes_and_lift_it(world: World) -> None:
    a, b = pair(world, single=False)
    add_microphone(a)
    a.offer(MIC)
    subscribe(world, b)
    a.send(subscription_permission=rtc.SubscriptionPermission(all_participants=False))
    denied = b.last("subscription_permission_update")
    assert isinstance(denied, rtc.SubscriptionPermissionUpdate)
    assert not denied.allowed
    assert len(world.told(RemoveSender)) == 1
    subscribe(world, b)
    a.send(subscription_permission=rtc.SubscriptionPermission(all_participants=True))
    subscribe(world, b)
    assert len(world.told(AddSender)) == 2


def test_track_settings_move_layers_and_pause(world: World) -> None:
    a, b = pair(world, single=False)
    sid = add_camera(a)
    a.offer(CAM)
    world.start_encodings((0, "q"), (1, "h"))
    subscribe(world, b)
    sender = world.told(AddSender)[-1].sender
    b.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], width=300, height=170))
    world.advance(0.05)
    b.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], width=310, height=175))
    assert world.told(SetSenderLayers) == []
    world.advance(0.06)
    assert world.told(SetSenderLayers) == [SetSenderLayers(sender, 0, 3, False, 0)]
    b.send(track_setting=rtc.UpdateTrackSettings(track_sids=[sid], disabled=True))
    world.advance(0.1)
    assert world.told(SetSenderLayers)[-1].paused
    before = a.cases().count("subscribed_quality_update")
    world.advance(4)
    assert a.cases().count("subscribed_quality_update") == before
    world.advance(2)
    update = a.last("subscribed_quality_update")
    assert isinstance(update, rtc.SubscribedQualityUpdate)
    assert not any(quality.enabled for quality in update.subscribed_qualities)


def test_adaptive_stream_starts_at_the_lowest_layer(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b", adaptive_stream=True, connect=True)
    b.answer()
    add_camera(a)
    a.offer(CAM)
    world.start_encodings((0, "q"))
    subscribe(world, b)
    assert world.told(AddSender)[-1].config.max_spatial_layer == 0


def test_permission_loss_unpublishes_and_says_so(world: World) -> None:
    a, _ = pair(world, single=False)
    sid = add_microphone(a)
    a.offer(MIC)
    session = world.session(a)
    step = Step(world.now, world.wall_ms)
    permission = models.ParticipantPermission(can_subscribe=True).SerializeToString()
    session.take_permission(room_pb2.SetPermission(permission=permission), step)
    receiver = world.told(AddReceiver)[-1]
    assert RemoveTrack(receiver.track) in step.effects
    responses = [
        rtc.SignalResponse.FromString(effect.response)
        for effect in step.effects
        if isinstance(effect, SendSignal)
    ]
    assert sid in [response.track_unpublished.track_sid for response in responses]


def test_speakers_are_told_to_subscribers_and_themselves_only(world: World) -> None:
    a, b = pair(world, single=False)
    c = world.join("c", auto_subscribe=False, connect=True)
    add_microphone(a)
    a.offer(MIC)
    subscribe(world, b)
    track = world.told(AddReceiver)[-1].track
    world.media(AudioLevels(((track, 10, 1.0),)))
    for client in (a, b):
        changed = client.last("speakers_changed")
        assert isinstance(changed, rtc.SpeakersChanged)
        assert changed.speakers[0].active
        assert changed.speakers[0].level * 8 == round(changed.speakers[0].level * 8)
    assert "speakers_changed" not in c.cases()
    count = len(b.all("speakers_changed"))
    world.advance(1)
    assert len(b.all("speakers_changed")) == count + 1
    silent = b.last("speakers_changed")
    assert isinstance(silent, rtc.SpeakersChanged)
    assert not silent.speakers[0].active


def test_connection_quality_is_told_when_new(world: World) -> None:
    a, b = pair(world, single=False)
    add_microphone(a)
    a.offer(MIC)
    subscribe(world, b)
    world.advance(11)
    update = b.all("connection_quality")[-1]
    assert isinstance(update, rtc.ConnectionQualityUpdate)
    assert update.updates[0].score == 4.5
    count = len(b.all("connection_quality"))
    world.advance(11)
    assert len(b.all("connection_quality")) == count


def test_loss_of_an_ended_track_no_longer_counts(world: World) -> None:
    a, _ = pair(world, single=False)
    add_microphone(a)
    a.offer(MIC)
    (track,) = world.session(a).publishing.publications
    assert track.engine_id is not None
    world.media(TrackLoss(track.engine_id, 0.3))
    assert world.session(a).conditions == {track.engine_id: Condition(0.3)}
    a.offer({"mid": "7", "kind": "audio"}, offer_id=3)
    assert world.session(a).conditions == {}


@pytest.mark.parametrize("single", [False, True])
def test_leaving_publisher_leaves_no_sender_behind(world: World, single: bool) -> None:
    a, b = pair(world, single=single)
    add_microphone(a)
    a.offer(MIC)
    subscribe(world, b)
    a.send(leave=rtc.LeaveRequest())
    b.send(leave=rtc.LeaveRequest())
    assert {command.sender for command in world.told(AddSender)} == {
        command.sender for command in world.told(RemoveSender)
    }
    assert {command.track for command in world.told(AddReceiver)} == {
        command.track for command in world.told(RemoveTrack)
    }
    assert world.stage.is_empty
    assert world.stage._sessions.owners == {}
    assert world.stage._directory.tracks == {}
