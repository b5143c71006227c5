"""The swarm's half of a negotiation against the server's half."""

from loadtest.client_sdp import (
    RTX_OFFSET,
    ClientTransport,
    SourceTrack,
    answer_subscriber,
    publisher_offer,
    read_answer,
    received_tracks,
)
from sfu.core.answering import PublisherNegotiation
from sfu.core.codecs import DEFAULT_ENABLED, ClientTraits, CodecPolicy
from sfu.core.media_commands import Encoding
from sfu.core.negotiation import NegotiationConfig
from sfu.core.offering import SubscriberNegotiation
from sfu.core.plans import AnnouncedCodec, AnnouncedTrack, DownTrack, LocalTransport, Offer

OURS = ClientTransport("client-ufrag", "c" * 24, "sha-256 " + ":".join(["CD"] * 32))
SERVER = LocalTransport("server-ufrag", "s" * 24, "sha-256 " + ":".join(["AB"] * 32))
TRACKS = [
    SourceTrack("mic", "audio", (11,)),
    SourceTrack("camera", "video", (21, 22, 23)),
]
ANNOUNCED = [
    AnnouncedTrack("TR_mic", "audio", "mic", (AnnouncedCodec("", "mic"),), red=False),
    AnnouncedTrack("TR_cam", "video", "camera", (AnnouncedCodec("", "camera", 3),)),
]
DOWN = [
    DownTrack("TR_a", "audio", "PA_x|TR_a", ("audio/opus",), 31),
    DownTrack("TR_v", "video", "PA_x|TR_v", ("video/vp8",), 41, 42),
]


def config(*, single: bool = False) -> NegotiationConfig:
    return NegotiationConfig(1, CodecPolicy.of(DEFAULT_ENABLED), ClientTraits(), single)


def test_the_server_takes_every_layer_of_a_published_track() -> None:
    machine = PublisherNegotiation(config(), SERVER)
    result = machine.answer(publisher_offer(OURS, TRACKS), ANNOUNCED, fresh_credentials=("", ""))
    assert [plan.track_sid for plan in result.receivers] == ["TR_mic", "TR_cam"]
    assert result.receivers[1].encodings == tuple(
        Encoding(layer, ssrc=ssrc, rtx_ssrc=ssrc + RTX_OFFSET)
        for layer, ssrc in enumerate((21, 22, 23))
    )
    server, layers = read_answer(result.sdp, TRACKS)
    assert (server.ice_ufrag, server.fingerprint) == (SERVER.ice_ufrag, SERVER.fingerprint)
    assert [(layer.cid, layer.mid, layer.ssrc) for layer in layers] == [
        ("mic", "1", 11),
        ("camera", "2", 21),
        ("camera", "2", 22),
        ("camera", "2", 23),
    ]
    layers[1].sender(7)


def test_everything_the_server_offers_is_taken() -> None:
    machine = SubscriberNegotiation(config(), SERVER, first_offer_id=1)
    for track in DOWN:
        machine.add(track)
    machine.request(0.0)
    offer = machine.poll(0.0)
    assert isinstance(offer, Offer)
    answer = answer_subscriber(OURS, offer.sdp, probe=lambda _: True)
    assert [(track.track_sid, track.publisher, track.mid) for track in answer.tracks] == [
        ("TR_a", "PA_x", "1"),
        ("TR_v", "PA_x", "2"),
    ]
    applied = machine.apply_answer(answer.sdp, 0.1)
    assert applied is not None
    assert applied.remote.ice_ufrag == OURS.ice_ufrag
    assert [plan.track_sid for plan in applied.senders_added] == ["TR_a", "TR_v"]


def test_one_connection_carries_both_directions() -> None:
    machine = PublisherNegotiation(config(single=True), SERVER)
    offer = publisher_offer(OURS, TRACKS, receiving=(2, 1))
    result = machine.answer(offer, ANNOUNCED, DOWN, fresh_credentials=("", ""))
    assert dict(result.mid_to_track_id) == {"1": "TR_a", "3": "TR_v"}
    _, layers = read_answer(result.sdp, TRACKS)
    assert [layer.mid for layer in layers] == ["4", "5", "5", "5"]
    _, tracks = received_tracks(result.sdp)
    assert [track.track_sid for track in tracks] == ["TR_a", "TR_v"]
