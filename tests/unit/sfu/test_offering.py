"""Our offers and what answers make of them."""

from dataclasses import replace

import pytest

from mediacore import MediaSection, SessionDescription
from sfu.core.codecs import ClientTraits
from sfu.core.extensions import PLAYOUT_DELAY
from sfu.core.negotiation import BadDescription
from sfu.core.offering import ANSWER_TIMEOUT_S, SubscriberNegotiation
from sfu.core.plans import (
    DownTrack,
    NegotiationFailed,
    Offer,
)
from tests.support.descriptions import (
    FRESH,
    LOCAL,
    config,
    down_audio,
    down_video,
    numbers,
    read,
    sample,
    section,
)


def client_answer(offer: str, **changes: str) -> str:
    """What a client makes of our offer: it takes everything, and waits for our ClientHello."""
    theirs = []
    for ours in read(offer).sections:
        if ours.kind == "application":
            theirs.append(
                MediaSection("application", ours.mid, "sendrecv", sctp_port=5000, setup="passive")
            )
            continue
        theirs.append(
            MediaSection(
                ours.kind,
                ours.mid,
                "recvonly" if ours.direction == "sendonly" else "inactive",
                codecs=ours.codecs,
                extensions=ours.extensions,
                ice_ufrag=changes.get("ice_ufrag", "theirs"),
                ice_pwd="r" * 24,
                setup="passive",
            )
        )
    text = SessionDescription(5, 5, theirs, fingerprint=LOCAL.fingerprint).render()
    return text.replace("m=", f"a=ice-ufrag:theirs\r\na=ice-pwd:{'r' * 24}\r\nm=", 1)


def subscriber(
    client: ClientTraits | None = None, *, data_channels: bool = True
) -> SubscriberNegotiation:
    return SubscriberNegotiation(
        config(client), LOCAL, first_offer_id=144, data_channels=data_channels
    )


def offered(machine: SubscriberNegotiation, now: float) -> Offer:
    machine.request(now, force=True)
    result = machine.poll(now)
    assert isinstance(result, Offer)
    return result


def test_the_first_offer_is_due_at_once_and_has_the_application_section() -> None:
    machine = subscriber()
    machine.request(1.0)
    assert machine.next_timeout() == 1.0
    offer = machine.poll(1.0)
    assert isinstance(offer, Offer)
    assert offer.offer_id == 144
    (data,) = read(offer.sdp).sections
    assert (data.kind, data.mid, data.setup) == ("application", "0", "active")
    assert machine.next_timeout() == 1.0 + ANSWER_TIMEOUT_S
    assert dict(offer.mid_to_track_id) == {}


def test_down_tracks_are_offered_as_the_protocol_says() -> None:
    machine = subscriber()
    assert machine.add(down_audio()) == "1"
    assert machine.add(down_video()) == "2"
    offer = offered(machine, 0.0)
    assert dict(offer.mid_to_track_id) == {"1": "TR_a", "2": "TR_v"}
    recorded = read(sample("dual_subscriber_offer"))
    ours = read(offer.sdp)
    for mine, theirs in zip(ours.sections[1:], recorded.sections[1:], strict=True):
        assert set(numbers(mine)) <= set(numbers(theirs))
        assert mine.extensions == theirs.extensions
        assert len(mine.ssrcs) == len(theirs.ssrcs)
        assert mine.setup == "active"
    audio, video = ours.sections[1:]
    assert audio.codecs[0] == recorded.sections[1].codecs[0]
    assert video.msid == ("PA_x|TR_v", "TR_v")
    assert video.ssrc_groups[0].ssrcs == [21, 22]
    assert video.direction == "sendonly"


def test_an_answer_gives_senders_with_the_clients_codecs() -> None:
    machine = subscriber()
    machine.add(down_audio())
    machine.add(down_video())
    offered(machine, 0.0)
    text = sample("dual_subscriber_answer").replace("setup:active", "setup:passive")
    applied = machine.apply_answer(text, 0.1)
    assert applied is not None
    assert applied.remote.ice_ufrag == "8VlC"
    audio, video = applied.senders_added
    assert [codec.mime for codec in audio.codecs][:2] == ["audio/opus", "audio/red"]
    assert "video/h265" not in {codec.mime for codec in video.codecs}
    assert (video.ssrc, video.rtx_ssrc, video.codecs[0].rtx_payload_type) == (21, 22, 97)
    assert (video.extensions.abs_send_time, video.extensions.dependency_descriptor) == (3, 1)
    assert machine.next_timeout() is None


@pytest.mark.parametrize("has_delay", [False, True])
def test_playout_delay_is_offered_for_video_where_the_room_has_one(has_delay: bool) -> None:
    machine = SubscriberNegotiation(
        config(has_playout_delay=has_delay), LOCAL, first_offer_id=144, data_channels=True
    )
    machine.add(down_audio())
    machine.add(down_video())
    offer = offered(machine, 0.0)
    audio, video = read(offer.sdp).sections[1:]
    assert PLAYOUT_DELAY not in dict(audio.extensions).values()
    assert (PLAYOUT_DELAY in dict(video.extensions).values()) is has_delay
    applied = machine.apply_answer(client_answer(offer.sdp), 0.1, answer_id=144)
    assert applied is not None
    ids = {plan.kind: plan.extensions.playout_delay for plan in applied.senders_added}
    assert ids == {"audio": 0, "video": 4 if has_delay else 0}


def test_changes_during_an_offer_make_another_one_after_the_answer() -> None:
    machine = subscriber()
    first = offered(machine, 0.0)
    machine.add(down_audio())
    machine.request(0.05)
    assert machine.poll(0.2) is None
    applied = machine.apply_answer(client_answer(first.sdp), 0.1, answer_id=144)
    assert applied is not None
    assert applied.senders_added == ()
    assert machine.next_timeout() == pytest.approx(0.25)
    second = machine.poll(0.25)
    assert isinstance(second, Offer)
    assert second.offer_id == 145
    applied = machine.apply_answer(client_answer(second.sdp), 0.3)
    assert applied is not None
    assert [plan.track_sid for plan in applied.senders_added] == ["TR_a"]
    assert machine.next_timeout() is None


def test_an_answer_to_another_offer_is_ignored() -> None:
    machine = subscriber()
    assert machine.apply_answer("nonsense", 0.0) is None
    offer = offered(machine, 0.0)
    assert machine.apply_answer(client_answer(offer.sdp), 0.0, answer_id=7) is None
    assert machine.next_timeout() == ANSWER_TIMEOUT_S
    assert machine.apply_answer(client_answer(offer.sdp), 0.0) is not None


def test_an_offer_nobody_answers_fails_once() -> None:
    machine = subscriber()
    offered(machine, 0.0)
    assert machine.next_timeout() == ANSWER_TIMEOUT_S
    assert machine.poll(14.9) is None
    assert isinstance(machine.poll(15.0), NegotiationFailed)
    assert machine.poll(16.0) is None
    assert machine.next_timeout() is None


def test_a_deactivated_section_is_reused_after_the_client_agreed() -> None:
    machine = subscriber()
    assert machine.add(down_audio("TR_1")) == "1"
    machine.apply_answer(client_answer(offered(machine, 0.0).sdp), 0.0)
    machine.remove("TR_1")
    assert machine.add(down_audio("TR_2", 12)) == "2"
    offer = offered(machine, 1.0)
    assert section(offer.sdp, "1").direction == "inactive"
    assert section(offer.sdp, "1").msid is None
    assert dict(offer.mid_to_track_id) == {"2": "TR_2"}
    machine.apply_answer(client_answer(offer.sdp), 1.0)
    assert machine.add(down_video()) == "3"
    assert machine.add(down_audio("TR_3", 13)) == "1"
    applied = machine.apply_answer(client_answer(offered(machine, 2.0).sdp), 2.0)
    assert applied is not None
    assert {plan.mid: plan.track_sid for plan in applied.senders_added} == {
        "1": "TR_3",
        "3": "TR_v",
    }


def test_safari_gets_a_new_section_every_time() -> None:
    machine = subscriber(ClientTraits(reuses_sections=False))
    machine.add(down_audio("TR_1"))
    machine.apply_answer(client_answer(offered(machine, 0.0).sdp), 0.0)
    machine.remove("TR_1")
    machine.apply_answer(client_answer(offered(machine, 1.0).sdp), 1.0)
    assert machine.add(down_audio("TR_2", 12)) == "2"


def test_a_track_removed_while_its_offer_was_out_is_not_sent() -> None:
    machine = subscriber()
    machine.add(down_audio())
    offer = offered(machine, 0.0)
    machine.remove("TR_a")
    machine.request(0.0)
    applied = machine.apply_answer(client_answer(offer.sdp), 0.0)
    assert applied is not None
    assert applied.senders_added == ()
    assert applied.codec_unsupported == ()
    assert machine.next_timeout() is not None


@pytest.mark.parametrize("how", ["rejected", "inactive", "codecs"])
def test_a_refused_track_is_named_and_its_section_deactivated(how: str) -> None:
    machine = subscriber()
    machine.add(down_audio())
    machine.add(DownTrack("TR_5", "video", "PA_x|TR_5", ("video/h265",), 5, 6))
    offer = offered(machine, 0.0)
    text = client_answer(offer.sdp)
    head, video = text.split("m=video", 1)
    if how == "rejected":
        video = video.replace(" 9 ", " 0 ", 1)
    elif how == "inactive":
        video = video.replace("a=recvonly", "a=inactive")
    else:
        video = video.replace("H265", "H269")
    applied = machine.apply_answer(f"{head}m=video{video}", 0.0)
    assert applied is not None
    assert applied.codec_unsupported == ("TR_5",)
    assert [plan.track_sid for plan in applied.senders_added] == ["TR_a"]
    due = machine.next_timeout()
    assert due is not None
    again = machine.poll(due)
    assert isinstance(again, Offer)
    assert section(again.sdp, "2").rejected is (how == "rejected")
    assert section(again.sdp, "2").direction == "inactive"
    assert dict(again.mid_to_track_id) == {"1": "TR_a"}


def test_an_ice_restart_gives_up_the_outstanding_offer() -> None:
    machine = subscriber()
    machine.add(down_audio())
    first = offered(machine, 0.0)
    machine.restart_ice(0.01, *FRESH)
    second = machine.poll(0.01)
    assert isinstance(second, Offer)
    assert second.ice_restart
    assert second.local.ice_ufrag == FRESH[0]
    assert {found.ice_ufrag for found in read(second.sdp).sections} == {FRESH[0]}
    assert machine.apply_answer(client_answer(first.sdp), 0.02, answer_id=first.offer_id) is None
    applied = machine.apply_answer(client_answer(second.sdp), 0.02, answer_id=second.offer_id)
    assert applied is not None
    assert [plan.track_sid for plan in applied.senders_added] == ["TR_a"]
    third = offered(machine, 1.0)
    assert not third.ice_restart


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: text.index("m=audio")], "1 sections, the offer 2"),
        (lambda text: text.replace("a=mid:1", "a=mid:4"), "section 1 was offered as audio '1'"),
        (lambda text: text.replace("setup:passive", "setup:active"), "ClientHello"),
        (lambda text: text.replace("a=mid:1", "a=mid:"), "^line"),
    ],
)
def test_a_bad_answer_is_refused_and_the_offer_stays(change: object, message: str) -> None:
    machine = subscriber()
    machine.add(down_audio())
    text = client_answer(offered(machine, 0.0).sdp)
    with pytest.raises(BadDescription, match=message):
        machine.apply_answer(change(text), 0.0)  # type: ignore[operator]
    assert machine.next_timeout() == ANSWER_TIMEOUT_S
    assert machine.apply_answer(text, 0.0) is not None


def test_without_data_channels_the_first_track_is_section_zero() -> None:
    machine = subscriber(data_channels=False)
    assert machine.add(down_audio()) == "0"
    applied = machine.apply_answer(client_answer(offered(machine, 0.0).sdp), 0.0)
    assert applied is not None
    assert applied.senders_added[0].mid == "0"


def test_sections_keep_their_places_over_a_hundred_offers() -> None:
    machine = subscriber()
    texts = []
    for n in range(100):
        machine.add(down_video(f"TR_{n}", 10 * n + 1) if n % 2 else down_audio(f"TR_{n}", 10 * n))
        offer = offered(machine, float(n))
        assert machine.apply_answer(client_answer(offer.sdp), float(n)) is not None
        texts.append(offer.sdp)
    mids = [found.mid for found in read(texts[-1]).sections]
    assert mids == [str(n) for n in range(101)]
    assert [found.mid for found in read(texts[50]).sections] == mids[:52]


@pytest.mark.parametrize(("reuses", "sections"), [(True, 3), (False, 101)])
def test_description_grows_over_fifty_subscriptions_only_where_sections_are_not_reused(
    reuses: bool, sections: int
) -> None:
    machine = subscriber(ClientTraits(reuses_sections=reuses))
    now = 0.0
    for turn in range(50):
        machine.add(down_audio(f"TR_a{turn}", 100 + turn))
        machine.add(down_video(f"TR_v{turn}", 1000 + 2 * turn))
        offer = offered(machine, now)
        applied = machine.apply_answer(client_answer(offer.sdp), now)
        assert applied is not None
        assert len(applied.senders_added) == 2
        machine.remove(f"TR_a{turn}")
        machine.remove(f"TR_v{turn}")
        offer = offered(machine, now + 1)
        assert machine.apply_answer(client_answer(offer.sdp), now + 1) is not None
        now += 2
    assert len(read(offer.sdp).sections) == sections


def test_playout_delay_is_offered_where_the_room_wants_it() -> None:
    for is_wanted in (True, False):
        settings = replace(config(), has_playout_delay=is_wanted)
        machine = SubscriberNegotiation(settings, LOCAL, first_offer_id=1)
        machine.add(down_video())
        offer = offered(machine, 1.0)
        assert ("playout-delay" in offer.sdp) is is_wanted
        applied = machine.apply_answer(client_answer(offer.sdp), 1.0)
        assert applied is not None
        assert bool(applied.senders_added[0].extensions.playout_delay) is is_wanted
