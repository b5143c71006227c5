"""What the engine is told of a sender beyond codecs: trailers, encryption, RED."""

import pytest
from livekit.protocol import models, rtc

from sfu.core.media_commands import AddSender, SenderConfig
from tests.support.scripted_room import (
    FakePublisherNegotiation,
    FakeSubscriberNegotiation,
    World,
)

Capability = models.ClientInfo.Capability
SIF_TRAILER = b"trailer"


def config_of(
    world: World, request: rtc.AddTrackRequest, capabilities: tuple[Capability, ...] = ()
) -> SenderConfig:
    """A publishes, B with these capabilities gets it."""
    a = world.join("a", connect=True)
    b = world.join("b", connect=True, device=models.ClientInfo(capabilities=capabilities))
    b.answer()
    a.answer()
    world.advance(1)
    a.send(add_track=request)
    accepts = ["audio/opus", "audio/red"] if request.type == models.TrackType.AUDIO else []
    kind = "audio" if request.type == models.TrackType.AUDIO else "video"
    a.offer({"mid": "7", "kind": kind, "cid": request.cid})
    world.start_encodings((0, None))
    world.advance(0.2)
    b.answer(accepts=accepts)
    world.advance(0.2)
    return world.told(AddSender)[-1].config


def camera(**fields: object) -> rtc.AddTrackRequest:
    return rtc.AddTrackRequest(
        cid="cam",
        type=models.TrackType.VIDEO,
        source=models.TrackSource.CAMERA,
        **fields,  # type: ignore[arg-type]
    )


def microphone(**fields: object) -> rtc.AddTrackRequest:
    return rtc.AddTrackRequest(
        cid="mic",
        type=models.TrackType.AUDIO,
        source=models.TrackSource.MICROPHONE,
        simulcast_codecs=[rtc.SimulcastCodec(codec="opus", cid="mic")],
        **fields,  # type: ignore[arg-type]
    )


def with_red(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("sfu.core.connections.PublisherNegotiation", FakePublisherNegotiation)
    monkeypatch.setattr("sfu.core.connections.SubscriberNegotiation", FakeSubscriberNegotiation)
    return World(stage_settings={"active_red_encoding": True})


def test_packet_trailers_are_cut_for_clients_that_do_not_know_them(world: World) -> None:
    features = [models.PacketTrailerFeature.PTF_USER_TIMESTAMP]
    assert config_of(world, camera(packet_trailer_features=features)).strip_trailer


def test_packet_trailers_pass_to_clients_that_know_them(world: World) -> None:
    features = [models.PacketTrailerFeature.PTF_USER_TIMESTAMP]
    request = camera(packet_trailer_features=features)
    assert not config_of(world, request, (Capability.CAP_PACKET_TRAILER,)).strip_trailer


def test_tracks_without_packet_trailers_are_not_looked_into(world: World) -> None:
    assert not config_of(world, camera()).strip_trailer


def test_frames_made_for_encrypted_tracks_are_marked(world: World) -> None:
    request = camera(encryption=models.Encryption.Type.GCM)
    assert config_of(world, request).sif_trailer == SIF_TRAILER


def test_frames_made_for_other_tracks_are_not_marked(world: World) -> None:
    assert config_of(world, camera()).sif_trailer == b""


def test_red_is_made_of_opus_where_the_operator_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_of(with_red(monkeypatch), microphone()).encode_red


def test_red_is_not_made_by_default(world: World) -> None:
    assert not config_of(world, microphone()).encode_red


@pytest.mark.parametrize(
    "request_",
    [
        microphone(encryption=models.Encryption.Type.GCM),
        camera(),
    ],
)
def test_red_is_never_made_of_what_must_stay_as_it_is(
    monkeypatch: pytest.MonkeyPatch, request_: rtc.AddTrackRequest
) -> None:
    assert not config_of(with_red(monkeypatch), request_).encode_red
