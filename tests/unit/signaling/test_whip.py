"""WHIP offers as requests to join."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit.protocol import models, rtc

from chassis.tokens import Grants, VideoGrant
from signaling.core.join import Join, JoinRefused
from signaling.core.whip import MAX_OFFER_BYTES, joining_with, parse_offer, returning

HEAD = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"


def section(kind: str = "audio", *attributes: str) -> str:
    lines = [f"m={kind} 9 UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", *attributes]
    return "".join(f"{line}\r\n" for line in lines)


def join(**video: object) -> Join:
    grant = VideoGrant(room_join=True, room="r", **video)  # type: ignore[arg-type]
    client = models.ClientInfo(browser="chrome", protocol=3)
    request = rtc.JoinRequest(client_info=client, reconnect=True, participant_sid="PA_other")
    return Join("r", "ann", request, Grants(api_key="k", identity="ann", video=grant), False)


def test_sections_that_send_become_tracks() -> None:
    offer = parse_offer(
        (
            HEAD
            + section("audio", "a=msid:stream mic", "a=sendonly")
            + section("video", "a=msid:stream cam", "a=sendonly")
            + section("application", "a=sendrecv")
            + section("video", "a=recvonly")
        ).encode()
    )
    audio, video = offer.tracks
    assert (audio.cid, audio.name, audio.type) == ("mic", "synthesized-microphone", 0)
    assert (audio.source, audio.disable_dtx) == (models.TrackSource.MICROPHONE, True)
    assert (video.cid, video.name, video.type) == ("cam", "synthesized-camera", 1)
    assert (video.source, video.stream) == (models.TrackSource.CAMERA, "camera")
    assert [layer.quality for layer in video.layers] == [models.VideoQuality.HIGH]


@pytest.mark.parametrize(
    ("attributes", "cids"),
    [
        (("a=msid:stream",), ["whip-0", "whip-1"]),
        ((), ["whip-0", "whip-1"]),
        (("a=msid:s same",), ["same", "whip-1"]),
        (("a=msid:s whip-1",), ["whip-1", "whip-1-1"]),
    ],
)
def test_tracks_without_an_id_of_their_own_get_one_that_the_offer_says(
    attributes: tuple[str, ...], cids: list[str]
) -> None:
    offer = parse_offer((HEAD + 2 * section("video", *attributes)).encode())
    assert [track.cid for track in offer.tracks] == cids
    assert [
        line.split()[-1] for line in offer.sdp.splitlines() if line.startswith("a=msid:")
    ] == cids
    assert offer.sdp.count("a=msid:") == 2


def test_simulcast_announces_its_layers() -> None:
    lines = ("a=rid:h send", "a=rid:m send", "a=rid:l send", "a=simulcast:send h;m;~l")
    (track,) = parse_offer((HEAD + section("video", *lines)).encode()).tracks
    assert [layer.quality for layer in track.layers] == [0, 1, 2]


def test_direction_of_the_session_counts_where_a_section_has_none() -> None:
    with pytest.raises(JoinRefused) as refused:
        parse_offer((HEAD + "a=recvonly\r\n" + section()).encode())
    assert (refused.value.status, refused.value.text) == (
        400,
        "the offer sends neither audio nor video",
    )
    assert parse_offer((HEAD + "a=recvonly\r\n" + section("audio", "a=sendonly")).encode()).tracks


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"hello", 400),
        (b"v=0\r\n", 400),
        (b"\xff\xfe", 400),
        (HEAD.encode() + 17 * section().encode(), 400),
        (HEAD.encode() + b"x" * MAX_OFFER_BYTES, 413),
    ],
)
def test_what_is_no_offer_is_refused(body: bytes, status: int) -> None:
    with pytest.raises(JoinRefused) as refused:
        parse_offer(body)
    assert refused.value.status == status


@given(
    st.binary(max_size=200) | st.text(alphabet="v=0\r\nma:sidcue ;", max_size=80).map(str.encode)
)
def test_any_body_is_an_offer_or_refused(tail: bytes) -> None:
    try:
        offer = parse_offer(HEAD.encode() + b"m=audio " + tail)
    except JoinRefused:
        return
    assert parse_offer(offer.sdp.encode()) == offer


def test_client_joins_with_its_offer_and_subscribes_to_nothing() -> None:
    offer = parse_offer((HEAD + section()).encode())
    joined = joining_with(join(), offer)
    assert joined.single_peer_connection
    assert not joined.request.reconnect
    assert joined.request.participant_sid == ""
    assert joined.request.publisher_offer.sdp == offer.sdp
    assert list(joined.request.add_track_requests) == list(offer.tracks)
    assert not joined.request.connection_settings.auto_subscribe
    assert joined.request.client_info.browser == "chrome"
    back = returning(join(), "PA_1")
    assert (back.request.reconnect, back.request.participant_sid) == (True, "PA_1")


def test_who_may_not_publish_is_refused() -> None:
    offer = parse_offer((HEAD + section()).encode())
    with pytest.raises(JoinRefused) as refused:
        joining_with(replace(join(can_publish=False)), offer)
    assert refused.value.status == 401
