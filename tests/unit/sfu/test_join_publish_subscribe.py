"""The main job in one process, without an engine: Room, Stage and negotiation, with offers and
answers recorded from a published client.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from livekit.protocol import models, rtc

from mediacore import SdpCache
from sfu.core.media_commands import (
    AddReceiver,
    AddSender,
    ClosePeerConnection,
    CreatePeerConnection,
    RemoveSender,
    RemoveTrack,
    SetRemote,
)
from tests.support.scripted_room import FINGERPRINT, Client, World

DATA = Path(__file__).parents[3] / "media/sdp/tests/data"
CIDS = {
    "single": ("64bb8db8-488b-4c83-97df-67d29a55d87e", "989907b1-62c4-4ae2-997b-a566e00d113f"),
    "dual": ("1fe5668c-3101-443a-9fcd-0080e8a2198c", "51594906-9ff1-414f-84c6-8ceda2359e53"),
}
OFFERS = {
    "single": ("single_audio_offer", "single_simulcast_offer"),
    "dual": ("dual_publisher_audio_offer", "dual_publisher_simulcast_offer"),
}


def recorded(name: str) -> str:
    if name == "dual_subscriber_data_answer":
        return recorded("dual_publisher_data_offer").replace("a=setup:actpass", "a=setup:active")
    return (DATA / f"{name}.sdp").read_bytes().decode()


def offer(client: Client, name: str, offer_id: int = 0) -> rtc.SessionDescription:
    """Send a recorded offer; the answer."""
    before = len(client.all("answer"))
    client.send(offer=rtc.SessionDescription(type="offer", sdp=recorded(name), id=offer_id))
    answers = client.all("answer")
    assert len(answers) == before + 1
    answer = answers[-1]
    assert isinstance(answer, rtc.SessionDescription)
    assert answer.id == offer_id
    return answer


def answer(client: Client, name: str) -> None:
    """Answer the latest server offer with a recorded answer.

    Recorded answers were to `actpass` and say `active`; ours are to `active`.
    """
    text = recorded(name).replace("a=setup:active", "a=setup:passive")
    client.send(answer=rtc.SessionDescription(type="answer", sdp=text))
    assert client.closed is None, client.closed


def join(world: World, identity: str, mode: str) -> Client:
    """Join, connect, and do what the client does by itself at first."""
    if mode == "single":
        embedded = rtc.SessionDescription(type="offer", sdp=recorded("single_join_offer"))
        request = rtc.JoinRequest(publisher_offer=embedded)
        client = world.join(identity, single=True, request=request)
        assert client.cases()[:3] == ["join", "refresh_token", "answer"]
    else:
        client = world.join(identity)
        assert client.cases()[:3] == ["join", "refresh_token", "offer"]
        offer(client, "dual_publisher_data_offer")
        answer(client, "dual_subscriber_data_answer")
    client.connect()
    world.advance(1)
    client.clear()
    return client


def announce(client: Client, mode: str) -> tuple[str, str]:
    """Announce microphone and camera; their sids."""
    microphone, camera = CIDS[mode]
    client.send(
        add_track=rtc.AddTrackRequest(
            cid=microphone, name="mic", source=models.TrackSource.MICROPHONE
        )
    )
    layers = [
        models.VideoLayer(quality=models.VideoQuality.MEDIUM, width=640, height=360),
        models.VideoLayer(quality=models.VideoQuality.LOW, width=320, height=180),
    ]
    client.send(
        add_track=rtc.AddTrackRequest(
            cid=camera,
            type=models.TrackType.VIDEO,
            source=models.TrackSource.CAMERA,
            layers=layers,
            simulcast_codecs=[rtc.SimulcastCodec(codec="vp8", cid=camera, layers=layers)],
        )
    )
    sids = [
        published.track.sid
        for published in client.all("track_published")
        if isinstance(published, rtc.TrackPublishedResponse)
    ]
    return sids[0], sids[1]


def receive(world: World, client: Client, mode: str, dual_answer: str) -> dict[str, str]:
    """The receiver's part of a negotiation; the map it was told."""
    world.advance(0.5)
    if mode == "single":
        assert client.last("media_sections_requirement") is not None
        return dict(offer(client, "single_subscribe_offer").mid_to_track_id)
    latest = client.last("offer")
    assert isinstance(latest, rtc.SessionDescription)
    answer(client, dual_answer)
    return dict(latest.mid_to_track_id)


@pytest.mark.parametrize("b_mode", ["single", "dual"])
@pytest.mark.parametrize("a_mode", ["single", "dual"])
def test_a_publishes_and_b_gets_it(a_mode: str, b_mode: str) -> None:
    world = World()
    a = join(world, "a", a_mode)
    b = join(world, "b", b_mode)
    a_sid = a.sid
    microphone, camera = announce(a, a_mode)

    answered = offer(a, OFFERS[a_mode][0])
    assert FINGERPRINT.split()[1] in answered.sdp
    assert "a=setup:active" in answered.sdp
    assert b.cases()[0] == "update"
    first_map = receive(world, b, b_mode, "dual_subscriber_audio_answer")
    assert list(first_map.values()) == [microphone]
    wanted = "media_sections_requirement" if b_mode == "single" else "offer"
    assert b.cases().index("update") < b.cases().index(wanted)
    audio = world.told(AddSender)[-1]
    assert audio.pc == b.primary
    assert audio.config.cname == f"{a_sid}|{microphone}"
    assert audio.config.track == world.told(AddReceiver)[0].track

    offer(a, OFFERS[a_mode][1])
    received = world.told(AddReceiver)[-1]
    layers = {encoding.rid: encoding.spatial_layer for encoding in received.config.encodings}
    assert layers == {"q": 0, "h": 1}
    world.start_encodings((0, "q"), (1, "h"))
    second_map = receive(world, b, b_mode, "dual_subscriber_answer")
    assert set(second_map.values()) == {microphone, camera}
    video = world.told(AddSender)[-1]
    assert video.config.track == received.track
    assert video.config.rtx_ssrc is not None
    assert any(codec.mime.lower() == "video/vp8" for codec in video.config.codecs)
    assert a.cases().count("track_subscribed") == 2
    assert "subscribed_quality_update" in a.cases()

    for client in (a, b):
        client.send(leave=rtc.LeaveRequest())
        assert client.closed is not None
    assert world.stage.is_empty
    assert len(world.told(RemoveSender)) == len(world.told(AddSender)) == 2
    assert len(world.told(RemoveTrack)) == len(world.told(AddReceiver)) == 2
    assert {command.pc for command in world.told(ClosePeerConnection)} == {
        command.pc for command in world.told(CreatePeerConnection)
    }


def test_sections_not_used_yet_keep_the_extensions_later_offers_need() -> None:
    world = World()
    request = rtc.JoinRequest(
        publisher_offer=rtc.SessionDescription(type="offer", sdp=recorded("single_join_offer"))
    )
    answered = world.join("a", single=True, request=request).last("answer")
    assert isinstance(answered, rtc.SessionDescription)
    for section in SdpCache().parse(answered.sdp).sections:
        uris = {uri.rpartition(":")[2] for _, uri in section.extensions}
        if section.kind == "audio":
            assert {"mid", "ssrc-audio-level"} <= uris
        elif section.kind == "video":
            assert {"mid", "rtp-stream-id", "repaired-rtp-stream-id"} <= uris


def test_unpublish_by_the_client_deactivates_the_receivers_section() -> None:
    world = World()
    a, b = join(world, "a", "dual"), join(world, "b", "dual")
    microphone, camera = announce(a, "dual")
    offer(a, "dual_publisher_simulcast_offer")
    world.start_encodings((0, "q"))
    assert set(receive(world, b, "dual", "dual_subscriber_answer").values()) == {
        microphone,
        camera,
    }
    offer(a, "dual_publisher_unpublish_offer")
    world.advance(0.5)
    latest = b.last("offer")
    assert isinstance(latest, rtc.SessionDescription)
    assert list(latest.mid_to_track_id.values()) == [camera]
    assert world.facts[-1].track_ended.track_sid == microphone


def test_resume_offers_new_credentials_on_the_same_peer_connection() -> None:
    world = World()
    a = join(world, "a", "dual")
    world.drop(a)
    again = world.resume(a)
    assert again.cases()[:4] == ["reconnect", "update", "room_update", "refresh_token"]
    restarted = again.last("offer")
    assert isinstance(restarted, rtc.SessionDescription)
    created = {command.ice_ufrag for command in world.told(CreatePeerConnection)}
    assert SdpCache().parse(restarted.sdp).ice_ufrag not in created
    remotes = len(world.told(SetRemote))
    text = recorded("dual_publisher_data_offer")
    for old, new in (("ice-ufrag:LUEf", "ice-ufrag:NEWu"), ("setup:actpass", "setup:passive")):
        text = text.replace(old, new)
    again.send(answer=rtc.SessionDescription(type="answer", sdp=text))
    assert len(world.told(SetRemote)) == remotes + 1
    assert again.closed is None
