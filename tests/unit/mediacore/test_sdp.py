"""SDP from Python: the values, what the cache keeps, and what is refused."""

from pathlib import Path

import pytest

from mediacore import (
    MediaSection,
    SdpCache,
    SdpCodec,
    SdpError,
    SdpRid,
    SdpSsrcGroup,
    SessionDescription,
)

DATA = Path(__file__).parents[3] / "media/sdp/tests/data"
SAMPLES = sorted(path.stem for path in DATA.glob("*.sdp"))
FINGERPRINT = "sha-256 " + ":".join(["AB"] * 32)


def sample(name: str) -> str:
    return (DATA / f"{name}.sdp").read_bytes().decode()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_reads_the_same_after_it_was_written(name: str) -> None:
    first = SdpCache().parse(sample(name))
    second = SdpCache().parse(first.render())
    assert second.sections == first.sections
    assert second.bundle == first.bundle
    assert second.render() == first.render()


def test_fields_of_a_simulcast_offer_are_there() -> None:
    offer = SdpCache().parse(sample("dual_publisher_simulcast_offer"))
    data, audio, video = offer.sections
    assert (data.kind, data.sctp_port, data.max_message_size) == ("application", 5000, 262144)
    assert (offer.ice_ufrag, offer.setup, offer.ice_lite) == ("LUEf", "actpass", False)
    assert (audio.kind, audio.mid, audio.direction, audio.rejected) == (
        "audio",
        "1",
        "sendonly",
        False,
    )
    opus = audio.codecs[0]
    assert opus == SdpCodec(111, "opus", 48000, 2, "minptime=10;useinbandfec=1", ["transport-cc"])
    assert audio.msid == ("-", "1fe5668c-3101-443a-9fcd-0080e8a2198c")
    assert audio.ssrcs == [(4035184305, "j6wVGmLHexLrhnYG")]
    assert video.simulcast_send == ["h", "q"]
    assert [(rid.id, rid.direction, rid.paused) for rid in video.rids] == [
        ("h", "send", False),
        ("q", "send", False),
    ]
    assert (4, "urn:ietf:params:rtp-hdrext:sdes:mid") in video.extensions


def test_an_unchanged_section_is_the_same_object() -> None:
    cache = SdpCache()
    first = cache.parse(sample("dual_publisher_simulcast_offer"))
    with pytest.raises(SdpError):
        cache.parse("nonsense")
    second = cache.parse(sample("dual_publisher_unpublish_offer"))
    assert second.sections[0] is first.sections[0]
    assert second.sections[1] is not first.sections[1]
    assert second.sections[1] != first.sections[1]


def test_a_bad_text_is_refused_with_its_line() -> None:
    text = sample("dual_publisher_simulcast_offer").replace("a=setup:actpass", "a=setup:nobody", 1)
    line = text.split("\r\n").index("a=setup:nobody") + 1
    with pytest.raises(SdpError, match=rf"^line {line}: setup .nobody."):
        SdpCache().parse(text)
    assert issubclass(SdpError, ValueError)


def test_a_made_section_is_written_as_it_was_meant() -> None:
    section = MediaSection(
        "video",
        "3",
        "sendonly",
        codecs=[
            SdpCodec(96, "VP8", 90000, feedback=["nack", "nack pli"]),
            SdpCodec(97, "rtx", 90000, fmtp="apt=96"),
        ],
        extensions=[(4, "urn:x")],
        msid=("PA_a|TR_b", "TR_b"),
        ssrcs=[(1, "PA_a|TR_b"), (2, "PA_a|TR_b")],
        ssrc_groups=[SdpSsrcGroup("FID", [1, 2])],
        rids=[SdpRid("h", "recv"), SdpRid("q", "recv", paused=True)],
        simulcast_recv=["q", "h"],
        ice_ufrag="abcd",
        ice_pwd="p" * 24,
        setup="active",
    )
    text = SessionDescription(7, 8, [section], ice_lite=True, fingerprint=FINGERPRINT).render()
    for line in (
        "o=- 7 8 IN IP4 0.0.0.0",
        "a=ice-lite",
        "a=group:BUNDLE 3",
        f"a=fingerprint:{FINGERPRINT}",
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97",
        "a=mid:3",
        "a=sendonly",
        "a=msid:PA_a|TR_b TR_b",
        "a=rtcp-fb:96 nack pli",
        "a=fmtp:97 apt=96",
        "a=ssrc-group:FID 1 2",
        "a=ssrc:2 cname:PA_a|TR_b",
        "a=ssrc:2 label:TR_b",
        "a=rid:q recv",
        "a=simulcast:recv ~q;h",
        "a=setup:active",
    ):
        assert f"\r\n{line}\r\n" in text
    assert SdpCache().parse(text).sections == [section]


def test_a_rejected_section_has_port_zero_and_is_not_bundled() -> None:
    sections = [MediaSection("audio", "0"), MediaSection("video", "1", rejected=True)]
    description = SessionDescription(1, 1, sections)
    assert description.bundle == ["0"]
    assert "m=video 0 " in description.render()


@pytest.mark.parametrize(
    "make",
    [
        lambda: MediaSection("text", "0"),  # type: ignore[arg-type]
        lambda: MediaSection("audio", "0", "both"),  # type: ignore[arg-type]
        lambda: MediaSection("audio", "0\r\na=inactive"),
        lambda: MediaSection("audio", "0", msid=("a b", "c")),
        lambda: MediaSection("audio", "0", candidates=["candidate:1\nx"]),
        lambda: MediaSection("audio", "0", codecs=[SdpCodec(200, "opus", 48000)]),
        lambda: SdpRid("h", "both"),  # type: ignore[arg-type]
        lambda: SessionDescription(1, 1, [], fingerprint="a\r\nb"),
    ],
)
def test_values_that_would_break_a_line_are_refused(make: object) -> None:
    with pytest.raises(SdpError):
        make()  # type: ignore[operator]
