"""Descriptions of real clients, and the tracks they announce and are sent."""

from pathlib import Path

from mediacore import MediaSection, SdpCache, SessionDescription
from sfu.core.answering import PublisherNegotiation
from sfu.core.codecs import DEFAULT_ENABLED, ClientTraits, CodecPolicy
from sfu.core.negotiation import NegotiationConfig
from sfu.core.plans import (
    AnnouncedCodec,
    AnnouncedTrack,
    Answered,
    DownTrack,
    LocalTransport,
)

DATA = Path(__file__).parents[2] / "media/sdp/tests/data"
LOCAL = LocalTransport("localufrag", "p" * 24, "sha-256 " + ":".join(["AB"] * 32))
FRESH = ("freshufrag", "q" * 24)
MIC_CID = "1fe5668c-3101-443a-9fcd-0080e8a2198c"
CAMERA_CID = "51594906-9ff1-414f-84c6-8ceda2359e53"
SINGLE_MIC_CID = "64bb8db8-488b-4c83-97df-67d29a55d87e"
SINGLE_CAMERA_CID = "989907b1-62c4-4ae2-997b-a566e00d113f"


def sample(name: str) -> str:
    return (DATA / f"{name}.sdp").read_bytes().decode()


def config(
    client: ClientTraits | None = None, *, single: bool = False, has_playout_delay: bool = False
) -> NegotiationConfig:
    policy = CodecPolicy.of(DEFAULT_ENABLED)
    return NegotiationConfig(77, policy, client or ClientTraits(), single, has_playout_delay)


def mic(cid: str = MIC_CID, **options: bool) -> AnnouncedTrack:
    return AnnouncedTrack("TR_mic", "audio", cid, (AnnouncedCodec("", cid),), **options)


def camera(cid: str = CAMERA_CID, mime: str = "video/vp8") -> AnnouncedTrack:
    return AnnouncedTrack("TR_cam", "video", cid, (AnnouncedCodec(mime, cid, layers=2),))


def down_audio(sid: str = "TR_a", ssrc: int = 11) -> DownTrack:
    return DownTrack(sid, "audio", f"PA_x|{sid}", ("audio/red", "audio/opus"), ssrc)


def down_video(sid: str = "TR_v", ssrc: int = 21) -> DownTrack:
    return DownTrack(sid, "video", f"PA_x|{sid}", ("video/vp8",), ssrc, ssrc + 1)


def answer(
    machine: PublisherNegotiation,
    offer: str,
    tracks: list[AnnouncedTrack] | None = None,
    down: list[DownTrack] | None = None,
) -> Answered:
    return machine.answer(offer, tracks or [], down or [], fresh_credentials=FRESH)


def read(text: str) -> SessionDescription:
    return SdpCache().parse(text)


def section(text: str, mid: str) -> MediaSection:
    return next(section for section in read(text).sections if section.mid == mid)


def numbers(found: MediaSection) -> list[int]:
    return [codec.payload_type for codec in found.codecs]
