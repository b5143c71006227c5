"""Who is told of speakers and of connection quality, and when."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.media_commands import AddReceiver
from sfu.core.media_events import AudioLevels, Connected, Disconnected, TrackLoss
from tests.support.scripted_room import Client, World

Quality = models.ConnectionQuality


def publish_microphone(client: Client) -> str:
    client.send(
        add_track=rtc.AddTrackRequest(
            cid="mic", type=models.TrackType.AUDIO, source=models.TrackSource.MICROPHONE
        )
    )
    client.offer({"mid": "1", "kind": "audio", "cid": "mic"})
    published = client.last("track_published")
    assert isinstance(published, rtc.TrackPublishedResponse)
    return published.track.sid


def speaks(world: World, level: int = 0) -> None:
    world.media(AudioLevels(((world.told(AddReceiver)[-1].track, level, 1.0),)))


def heard(client: Client) -> list[tuple[str, bool]]:
    return [
        (speaker.sid, speaker.active)
        for changed in client.all("speakers_changed")
        if isinstance(changed, rtc.SpeakersChanged)
        for speaker in changed.speakers
    ]


def qualities(client: Client) -> list[dict[str, int]]:
    return [
        {entry.participant_sid: entry.quality for entry in update.updates}
        for update in client.all("connection_quality")
        if isinstance(update, rtc.ConnectionQualityUpdate)
    ]


def subscribe(world: World, client: Client) -> None:
    world.advance(0.2)
    client.answer()


def test_speaker_is_told_to_subscribers_and_itself_and_nobody_else(world: World) -> None:
    a, b = world.join("a", connect=True), world.join("b", connect=True)
    other = world.join("other", connect=True, auto_subscribe=False)
    b.answer()
    publish_microphone(a)
    subscribe(world, b)
    speaks(world)
    assert heard(a) == heard(b) == [(a.sid, True)]
    assert heard(other) == []


def test_first_subscription_tells_who_speaks_and_the_last_says_silence(world: World) -> None:
    a, b = world.join("a", connect=True), world.join("b", connect=True, auto_subscribe=False)
    b.answer()
    track_sid = publish_microphone(a)
    speaks(world)
    b.send(subscription=rtc.UpdateSubscription(track_sids=[track_sid], subscribe=True))
    subscribe(world, b)
    assert heard(b) == [(a.sid, True)]
    b.send(subscription=rtc.UpdateSubscription(track_sids=[track_sid], subscribe=False))
    assert heard(b) == [(a.sid, True), (a.sid, False)]


def test_speaker_is_silent_800_ms_after_the_last_window(world: World) -> None:
    a = world.join("a", connect=True)
    publish_microphone(a)
    speaks(world)
    world.advance(0.75)
    assert heard(a) == [(a.sid, True)]
    world.advance(0.1)
    assert heard(a) == [(a.sid, True), (a.sid, False)]


def test_first_subscription_tells_the_publishers_quality(world: World) -> None:
    a, b = world.join("a", connect=True), world.join("b", connect=True, auto_subscribe=False)
    b.answer()
    world.media(Connected(a.pcs["publisher"]))
    track_sid = publish_microphone(a)
    world.advance(6)
    assert all(a.sid not in told for told in qualities(b))
    b.send(subscription=rtc.UpdateSubscription(track_sids=[track_sid], subscribe=True))
    subscribe(world, b)
    assert qualities(b)[-1] == {a.sid: Quality.EXCELLENT}


def test_loss_of_a_publisher_is_told_to_it_and_its_subscribers_every_five_seconds(
    world: World,
) -> None:
    a, b = world.join("a", connect=True), world.join("b", connect=True)
    b.answer()
    publish_microphone(a)
    subscribe(world, b)
    world.advance(6)
    a.clear()
    b.clear()
    world.media(TrackLoss(world.told(AddReceiver)[-1].track, 0.3))
    world.advance(5)
    assert qualities(a) == [{a.sid: Quality.POOR}]
    assert qualities(b) == [{a.sid: Quality.POOR, b.sid: Quality.EXCELLENT}]
    world.advance(10)
    assert len(qualities(a)) == 1  # nothing changed


@pytest.mark.parametrize("role", ["publisher", "subscriber"])
def test_connection_without_any_packet_is_lost_until_it_is_back(world: World, role: str) -> None:
    a = world.join("a", connect=True)
    world.media(Connected(a.pcs["publisher"]))
    world.advance(6)
    world.media(Disconnected(a.pcs[role]))
    world.advance(6)
    assert qualities(a)[-1] == {a.sid: Quality.LOST}
    world.media(Connected(a.pcs[role]))
    world.advance(6)
    assert qualities(a)[-1] == {a.sid: Quality.EXCELLENT}
