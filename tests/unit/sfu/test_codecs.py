"""Codec tables and the choices made from them."""

from collections.abc import Sequence

from livekit.protocol.models import ClientConfiguration, ClientInfo, Codec, DisabledCodecs

from mediacore import SdpCodec
from sfu.core import codecs
from sfu.core.codecs import DEFAULT_ENABLED, ClientTraits, CodecPolicy

OPUS = SdpCodec(111, "opus", 48000, 2, "minptime=10;useinbandfec=1", ["transport-cc", "nack"])
RED = SdpCodec(63, "red", 48000, 2, "111/111")
VP8 = SdpCodec(96, "VP8", 90000, None, "", ["nack", "nack pli", "goog-remb", "transport-cc"])
VP8_RTX = SdpCodec(97, "rtx", 90000, None, "apt=96")
VP9 = SdpCodec(98, "VP9", 90000, None, "profile-id=0")
VP9_RTX = SdpCodec(99, "rtx", 90000, None, "apt=98")
VP9_PROFILE_2 = SdpCodec(100, "VP9", 90000, None, "profile-id=2")
ALL = frozenset(mime.lower() for mime in DEFAULT_ENABLED)


def numbers(kept: Sequence[SdpCodec]) -> list[int]:
    return [codec.payload_type for codec in kept]


def test_codecs_disabled_for_publishing_are_still_received() -> None:
    disabled = DisabledCodecs(codecs=[Codec(mime="video/AV1")], publish=[Codec(mime="video/VP9")])
    policy = CodecPolicy.of(DEFAULT_ENABLED, ClientConfiguration(disabled_codecs=disabled))
    assert "video/av1" not in policy.publish | policy.subscribe
    assert "video/vp9" in policy.subscribe - policy.publish


def test_red_needs_opus() -> None:
    policy = CodecPolicy.of(["audio/red", "audio/PCMU"])
    assert policy.subscribe == {"audio/pcmu"}


def test_publish_codecs_are_listed_video_first() -> None:
    listed = codecs.enabled_publish_codecs(CodecPolicy.of(DEFAULT_ENABLED))
    assert [codec.mime for codec in listed] == [
        "video/VP8",
        "video/H264",
        "video/VP9",
        "video/AV1",
        "video/H265",
        "audio/PCMU",
        "audio/PCMA",
        "audio/opus",
        "audio/red",
    ]


def test_browsers_differ_in_the_known_ways() -> None:
    chrome = ClientTraits.of(ClientInfo(protocol=17, browser="Chrome", os="linux"))
    assert chrome == ClientTraits()
    firefox = ClientTraits.of(ClientInfo(protocol=17, browser="Firefox", os="Linux"))
    assert firefox.keeps_only_chosen_codec
    assert not firefox.takes_red
    assert not firefox.ice_lite
    assert not ClientTraits.of(
        ClientInfo(protocol=17, browser="Firefox", os="macOS")
    ).keeps_only_chosen_codec
    safari = ClientTraits.of(ClientInfo(protocol=17, browser="Safari", os="macOS"))
    assert not safari.takes_red
    assert not safari.reuses_sections
    assert not ClientTraits.of(ClientInfo(protocol=3)).reuses_sections


def test_unknown_codecs_and_profiles_are_left_out_with_their_retransmission() -> None:
    offered = [VP9_PROFILE_2, SdpCodec(101, "rtx", 90000, fmtp="apt=100"), VP8, VP8_RTX]
    offered += [SdpCodec(121, "ulpfec", 90000), SdpCodec(119, "red", 90000)]
    kept = codecs.negotiate("video", offered, ALL, codecs.VIDEO_FEEDBACK_IN)
    assert numbers(kept) == [96, 97]
    assert kept[0].feedback == ["transport-cc", "nack", "nack pli"]


def test_h264_profiles_we_know_are_taken() -> None:
    def h264(number: int, profile: str) -> SdpCodec:
        return SdpCodec(number, "H264", 90000, fmtp=f"profile-level-id={profile}")

    profiles = ["42e01f", "42001F", "640c1f", "4d001f", "f4001f"]
    offered = [h264(100 + place, profile) for place, profile in enumerate(profiles)]
    assert numbers(codecs.negotiate("video", offered, ALL, ())) == [100, 101, 102]
    received = codecs.negotiate("video", offered, ALL, (), is_received=True)
    assert numbers(received) == [100, 101, 102, 103]


def test_red_is_left_out_when_the_opus_it_repeats_is() -> None:
    assert numbers(codecs.negotiate("audio", [RED], ALL, ())) == []
    assert numbers(codecs.negotiate("audio", [OPUS, RED], ALL, ())) == [111, 63]


def test_the_preferred_codec_goes_first_with_its_retransmission() -> None:
    offered = [VP8, VP8_RTX, VP9, VP9_RTX]
    assert numbers(codecs.prefer("video", offered, "video/vp9")) == [98, 99, 96, 97]
    assert numbers(codecs.prefer("video", offered, "video/vp9", only=True)) == [98, 99]
    assert numbers(codecs.prefer("video", offered, "video/av1", only=True)) == [96, 97, 98, 99]


def test_opus_parameters_follow_the_track() -> None:
    stereo_offer = SdpCodec(111, "opus", 48000, 2, "minptime=10;stereo=1;useinbandfec=1;usedtx=1")

    def fmtp(*, stereo: bool, dtx: bool) -> str:
        return codecs.with_opus_parameters([stereo_offer], stereo=stereo, dtx=dtx)[0].fmtp

    assert fmtp(stereo=False, dtx=True) == "minptime=10;useinbandfec=1;usedtx=1"
    assert fmtp(stereo=False, dtx=False) == "minptime=10;useinbandfec=1"
    assert (
        fmtp(stereo=True, dtx=False)
        == "minptime=10;useinbandfec=1;stereo=1;maxaveragebitrate=510000"
    )


def test_engine_codecs_join_retransmission_and_put_packetization_mode_one_first() -> None:
    offered = codecs.offered_codecs("video", frozenset({"video/vp8", "video/h264"}))
    engine = codecs.engine_codecs("video", offered)
    assert [(codec.mime, codec.payload_type, codec.rtx_payload_type) for codec in engine] == [
        ("video/vp8", 96, 97),
        ("video/h264", 108, 109),
        ("video/h264", 125, 126),
    ]
    assert engine[0].nack
    assert engine[0].pli
    assert not engine[0].transport_cc


def test_red_and_opus_stand_for_each_other_unless_encrypted() -> None:
    assert codecs.sendable(["audio/red"], ["audio/opus"])
    assert not codecs.sendable(["audio/red"], ["audio/opus"], encrypted=True)
    assert not codecs.sendable(["video/av1"], ["video/vp8"])


def test_our_offer_lists_the_payload_types_clients_expect() -> None:
    assert numbers(codecs.offered_codecs("audio", ALL)) == [111, 63, 0, 8]
    video = numbers(codecs.offered_codecs("video", ALL))
    assert video == [96, 97, 98, 99, 100, 101, 125, 126, 108, 109, 35, 36, 116, 117]
    opus = codecs.offered_codecs("audio", ALL, opus_nack=False, stereo=True)[0]
    assert opus.feedback == []
    assert opus.fmtp.endswith(";sprop-stereo=1")
