"""A track in several codecs: who gets which, when a backup is asked for, and when it takes over."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.media_commands import AddReceiver, AddSender, RemoveSender, RemoveTrack
from tests.support.scripted_room import Client, World

MAIN: dict[str, object] = {"mid": "8", "kind": "video", "cid": "cam", "rids": []}
BACKUP: dict[str, object] = {"mid": "9", "kind": "video", "cid": "bak", "rids": ["q", "h"]}
Policy = models.BackupCodecPolicy
ON, OFF = [True, True, True], [False, False, False]


def add_camera(client: Client, policy: models.BackupCodecPolicy = Policy.PREFER_REGRESSION) -> str:
    layers = [
        models.VideoLayer(quality=quality, width=320 << place, height=180 << place)
        for place, quality in enumerate(
            (models.VideoQuality.LOW, models.VideoQuality.MEDIUM, models.VideoQuality.HIGH)
        )
    ]
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="cam",
            type=models.TrackType.VIDEO,
            source=models.TrackSource.CAMERA,
            layers=layers,
            backup_codec_policy=policy,
            simulcast_codecs=[
                rtc.SimulcastCodec(codec="av1", cid="cam"),
                rtc.SimulcastCodec(codec="vp8"),
            ],
        )
    )
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def add_backup(client: Client, sid: str) -> None:
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="bak",
            sid=sid,
            type=models.TrackType.VIDEO,
            source=models.TrackSource.CAMERA,
            simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid="bak")],
        )
    )


def asked(client: Client) -> dict[str, list[bool]]:
    """What the publisher was told last, by codec."""
    update = client.last("subscribed_quality_update")
    assert isinstance(update, rtc.SubscribedQualityUpdate)
    return {
        codec.codec: [quality.enabled for quality in codec.qualities]
        for codec in update.subscribed_codecs
    }


def subscribe(world: World, client: Client, *accepts: str) -> None:
    world.advance(0.2)
    client.answer(accepts=accepts)
    world.advance(0.2)


def publish(
    world: World, *others: str, policy: models.BackupCodecPolicy = Policy.PREFER_REGRESSION
) -> tuple[Client, str, list[Client]]:
    """A publishes AV1 with VP8 as backup; the others are there, and have not answered yet."""
    a = world.join("a", connect=True)
    a.answer()
    clients = []
    for identity in others:
        clients.append(world.join(identity, connect=True))
        clients[-1].answer()
    sid = add_camera(a, policy)
    a.offer(MAIN)
    return a, sid, clients


def publish_backup(world: World, a: Client, sid: str) -> None:
    add_backup(a, sid)
    a.offer(MAIN, BACKUP, offer_id=2)
    world.start_encodings((0, "q"), (1, "h"))


def test_subscriber_that_takes_the_primary_gets_it_and_no_backup_is_asked_for(
    world: World,
) -> None:
    a, _, (b,) = publish(world, "b")
    subscribe(world, b, "video/vp8", "video/av1")
    sender = world.told(AddSender)[-1]
    assert sender.config.track == world.told(AddReceiver)[-1].track
    assert asked(a) == {"av1": ON, "vp8": OFF}


def test_backup_is_asked_for_when_somebody_takes_nothing_else(world: World) -> None:
    a, sid, (b,) = publish(world, "b")
    subscribe(world, b, "video/vp8")
    assert world.told(AddSender) == []
    assert asked(a) == {"av1": OFF, "vp8": ON}
    assert b.all("subscription_response") == []
    a.clear()
    add_backup(a, sid)
    published = a.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    assert (published.cid, published.track.sid) == ("bak", sid)
    a.offer(MAIN, BACKUP, offer_id=2)
    assert world.told(AddSender)[-1].config.track == world.told(AddReceiver)[-1].track
    world.start_encodings((0, "q"), (1, "h"))
    shown = world.room.members[a.sid].tracks[sid]
    assert [codec.mime_type for codec in shown.codecs] == ["video/AV1", "video/VP8"]
    assert [layer.rid for layer in shown.codecs[1].layers] == ["q", "h", ""]


@pytest.mark.parametrize(
    ("policy", "others", "moves"),
    [
        (Policy.PREFER_REGRESSION, 2, True),
        (Policy.PREFER_REGRESSION, 5, False),
        (Policy.REGRESSION, 5, True),
        (Policy.SIMULCAST, 2, False),
    ],
)
def test_subscribers_move_to_the_backup_as_the_policy_says(
    world: World, policy: models.BackupCodecPolicy, others: int, moves: bool
) -> None:
    a, sid, clients = publish(world, *(f"s{number}" for number in range(others)), policy=policy)
    first, *rest = clients
    for client in rest:
        subscribe(world, client, "video/av1", "video/vp8")
    old = world.told(AddSender)[-1]
    primary = world.told(AddReceiver)[-1].track
    subscribe(world, first, "video/vp8")
    assert asked(a) == {"av1": ON, "vp8": ON}
    publish_backup(world, a, sid)
    backup = world.told(AddReceiver)[-1].track
    if moves:
        assert RemoveSender(old.sender) in world.commands
        new = world.told(AddSender)[-1]
        assert (new.config.track, new.config.ssrc) == (backup, old.config.ssrc)
        assert asked(a) == {"av1": OFF, "vp8": ON}
    else:
        world.advance(10)
        assert world.told(RemoveSender) == []
        assert asked(a) == {"av1": ON, "vp8": ON}
    assert {sender.config.track for sender in world.told(AddSender)} == {primary, backup}


def test_primary_comes_back_when_its_backup_ends(world: World) -> None:
    a, sid, (b, c) = publish(world, "b", "c")
    subscribe(world, b, "video/av1", "video/vp8")
    primary = world.told(AddReceiver)[-1].track
    subscribe(world, c, "video/vp8")
    publish_backup(world, a, sid)
    backup = world.told(AddReceiver)[-1].track
    assert world.told(AddSender)[-1].config.track == backup
    a.offer(MAIN, {"mid": "9", "kind": "video"}, offer_id=3)
    assert RemoveTrack(backup) in world.commands
    assert world.told(AddSender)[-1].config.track == primary
    assert asked(a) == {"av1": ON, "vp8": ON}, "c still waits for its codec"
    add_backup(a, sid)
    a.offer(MAIN, {"mid": "9", "kind": "video"}, BACKUP | {"mid": "10"}, offer_id=4)
    assert world.told(AddReceiver)[-1].config.mid == "10"


def test_backup_for_an_unknown_track_is_not_found(world: World) -> None:
    a, _, _ = publish(world)
    add_backup(a, "TR_none")
    response = a.last("request_response")
    assert isinstance(response, rtc.RequestResponse)
    assert response.reason == rtc.RequestResponse.Reason.NOT_FOUND
    assert response.add_track.cid == "bak"


def test_unsupported_codec_is_not_tried_again_until_there_is_another(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b", connect=True)
    b.answer()
    a.send(
        add_track=rtc.AddTrackRequest(
            cid="cam",
            type=models.TrackType.VIDEO,
            simulcast_codecs=[rtc.SimulcastCodec(codec="av1", cid="cam")],
        )
    )
    a.offer(MAIN)
    subscribe(world, b, "video/vp8")
    refusal = b.last("subscription_response")
    assert isinstance(refusal, rtc.SubscriptionResponse)
    assert refusal.err == models.SubscriptionError.SE_CODEC_UNSUPPORTED
    b.answer(accepts=["video/vp8"])
    b.clear()
    a.send(mute=rtc.MuteTrackRequest(sid=refusal.track_sid, muted=True))
    world.advance(30)
    assert "offer" not in b.cases()
    world.start_encodings((0, None), mime="video/VP8")  # the publisher sends another codec
    world.advance(1)
    assert "offer" in b.cases()


def test_audio_publisher_learns_which_of_its_codecs_are_heard(world: World) -> None:
    a = world.join("a", connect=True)
    b = world.join("b", connect=True)
    b.answer()
    a.send(
        add_track=rtc.AddTrackRequest(
            cid="mic",
            type=models.TrackType.AUDIO,
            simulcast_codecs=[
                rtc.SimulcastCodec(codec="opus", cid="mic"),
                rtc.SimulcastCodec(codec="pcmu", cid="mic2"),
            ],
        )
    )
    a.offer(
        {"mid": "1", "kind": "audio", "cid": "mic"}, {"mid": "2", "kind": "audio", "cid": "mic2"}
    )
    subscribe(world, b, "audio/pcmu")
    update = a.last("subscribed_audio_codec_update")
    assert isinstance(update, rtc.SubscribedAudioCodecUpdate)
    enabled = {codec.codec: codec.enabled for codec in update.subscribed_audio_codecs}
    assert enabled == {"opus": False, "pcmu": True}
    assert world.told(AddSender)[-1].config.track == world.told(AddReceiver)[-1].track
