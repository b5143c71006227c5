"""Offers of real clients and what they are answered."""

from dataclasses import replace

import pytest

from sfu.core.answering import PublisherNegotiation
from sfu.core.codecs import ClientTraits
from sfu.core.extensions import PLAYOUT_DELAY
from sfu.core.media_commands import Encoding
from sfu.core.negotiation import BadDescription
from sfu.core.plans import (
    AnnouncedCodec,
    AnnouncedTrack,
    DownTrack,
    SectionsRequirement,
)
from tests.support.descriptions import (
    CAMERA_CID,
    FRESH,
    LOCAL,
    MIC_CID,
    SINGLE_CAMERA_CID,
    SINGLE_MIC_CID,
    answer,
    camera,
    config,
    down_audio,
    down_video,
    mic,
    numbers,
    read,
    sample,
    section,
)


def test_a_data_only_offer_is_answered_with_the_application_section() -> None:
    result = answer(PublisherNegotiation(config(), LOCAL), sample("dual_publisher_data_offer"))
    description = read(result.sdp)
    (data,) = description.sections
    assert (data.kind, data.sctp_port, data.max_message_size) == ("application", 5000, 65535)
    assert (data.setup, data.ice_ufrag, data.candidates) == ("active", LOCAL.ice_ufrag, [])
    assert description.ice_lite
    assert description.fingerprint == LOCAL.fingerprint
    assert result.has_application
    assert result.remote.ice_ufrag == "LUEf"
    assert not result.receivers


def test_the_answer_to_a_simulcast_offer_has_the_essence_of_the_recorded_one() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    answer(machine, sample("dual_publisher_data_offer"))
    answer(machine, sample("dual_publisher_audio_offer"), [mic()])
    result = answer(machine, sample("dual_publisher_simulcast_offer"), [mic(), camera()])
    recorded = read(sample("dual_publisher_simulcast_answer"))
    ours = read(result.sdp)
    assert ours.bundle == recorded.bundle
    for mine, theirs in zip(ours.sections[1:], recorded.sections[1:], strict=True):
        assert (mine.kind, mine.mid, mine.direction) == (theirs.kind, theirs.mid, theirs.direction)
        assert mine.codecs == theirs.codecs
        assert sorted(mine.extensions) == sorted(theirs.extensions)
        assert mine.simulcast_recv == theirs.simulcast_recv
        assert [rid.id for rid in mine.rids] == [rid.id for rid in theirs.rids]
        assert mine.setup == theirs.setup == "active"
    assert [plan.track_sid for plan in result.receivers] == ["TR_mic", "TR_cam"]
    assert [plan.track_sid for plan in result.receivers_added] == ["TR_cam"]
    video = result.receivers[1]
    assert video.encodings == (Encoding(0, rid="q"), Encoding(1, rid="h"))
    assert video.by_rid
    assert (video.extensions.rid, video.extensions.repaired_rid, video.extensions.mid) == (
        10,
        11,
        4,
    )
    audio = result.receivers[0]
    assert audio.encodings == (Encoding(0, ssrc=4035184305),)
    assert not audio.by_rid
    assert audio.extensions.audio_level == 1


def test_an_unpublished_section_ends_its_receiver_and_stays_in_place() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    answer(machine, sample("dual_publisher_simulcast_offer"), [mic(), camera()])
    result = answer(machine, sample("dual_publisher_unpublish_offer"), [mic(), camera()])
    assert [plan.track_sid for plan in result.receivers_ended] == ["TR_mic"]
    assert [plan.track_sid for plan in result.receivers] == ["TR_cam"]
    assert section(result.sdp, "1").direction == "inactive"
    assert section(result.sdp, "1").codecs[0].fmtp == "minptime=10;useinbandfec=1"


def test_an_offer_before_its_announcement_is_held_until_it_comes() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    result = answer(machine, sample("dual_publisher_audio_offer"))
    assert [(held.mid, held.sdp_cid) for held in result.unmatched] == [("1", MIC_CID)]
    assert section(result.sdp, "1").direction == "recvonly"
    (plan,) = machine.match_pending([mic()])
    assert (plan.track_sid, plan.mid, plan.sdp_cid) == ("TR_mic", "1", MIC_CID)
    assert machine.match_pending([mic()]) == ()
    again = answer(machine, sample("dual_publisher_audio_offer"), [mic()])
    assert not again.receivers_added
    assert again.receivers[0].track_sid == "TR_mic"


def test_a_track_whose_id_the_browser_changed_is_found_by_its_kind() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    result = answer(machine, sample("dual_publisher_audio_offer"), [camera(), mic("other")])
    (plan,) = result.receivers
    assert (plan.track_sid, plan.sdp_cid) == ("TR_mic", MIC_CID)


def test_a_guess_never_takes_a_track_that_another_section_names() -> None:
    offer = sample("single_simulcast_offer").replace(SINGLE_MIC_CID, "unknown")
    machine = PublisherNegotiation(config(single=True), LOCAL)
    result = answer(machine, offer, [camera(SINGLE_CAMERA_CID)])
    assert [plan.track_sid for plan in result.receivers] == ["TR_cam"]
    assert [held.sdp_cid for held in result.unmatched] == ["unknown"]


def test_a_section_of_an_ended_track_is_not_given_to_another_by_guess() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    answer(machine, sample("dual_publisher_audio_offer"), [mic()])
    other = AnnouncedTrack("TR_new", "audio", "new", (AnnouncedCodec("", "new"),))
    result = answer(machine, sample("dual_publisher_audio_offer"), [other])
    assert [plan.track_sid for plan in result.receivers_ended] == ["TR_mic"]
    assert not result.receivers
    assert machine.match_pending([other]) == ()


def test_a_track_published_again_on_another_section_is_another_track() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    offer = sample("dual_publisher_audio_offer")
    (first,) = answer(machine, offer, [mic()]).receivers
    head, _, audio = offer.rpartition("m=audio")
    again = audio.replace(f"a=mid:{first.mid}\r\n", "a=mid:9\r\n")
    stopped = audio.replace("a=sendonly", "a=inactive").replace("a=msid:", "a=x-msid:")
    bundle = f"BUNDLE 0 {first.mid}"
    both = f"{head.replace(bundle, bundle + ' 9')}m=audio{stopped}m=audio{again}"
    result = answer(machine, both, [mic()])
    assert [plan.mid for plan in result.receivers_ended] == [first.mid]
    (plan,) = machine.match_pending([replace(mic(), track_sid="TR_again")])
    assert (plan.track_sid, plan.mid) == ("TR_again", "9")


def test_a_section_with_a_new_known_id_changes_its_track() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    offer = sample("dual_publisher_audio_offer")
    answer(machine, offer, [mic()])
    other = AnnouncedTrack("TR_new", "audio", "new", (AnnouncedCodec("", "new"),))
    result = answer(machine, offer.replace(MIC_CID, "new"), [mic(), other])
    assert [plan.track_sid for plan in result.receivers_ended] == ["TR_mic"]
    assert [plan.track_sid for plan in result.receivers_added] == ["TR_new"]


def test_a_backup_codec_is_found_by_its_mime() -> None:
    track = AnnouncedTrack(
        "TR_cam",
        "video",
        "primary",
        (AnnouncedCodec("video/vp9", "primary"), AnnouncedCodec("video/vp8", "backup-not-in-sdp")),
    )
    offer = sample("dual_publisher_simulcast_offer")
    primary = offer[offer.index("m=video") :].replace("VP8", "VP9").replace(CAMERA_CID, "primary")
    both = offer + primary.replace("a=mid:2", "a=mid:3")
    result = answer(PublisherNegotiation(config(), LOCAL), both, [mic(), track])
    found = [(plan.mid, plan.track_sid, plan.codec_index) for plan in result.receivers]
    assert found == [("1", "TR_mic", 0), ("2", "TR_cam", 1), ("3", "TR_cam", 0)]


@pytest.mark.parametrize(
    ("track", "first", "fmtp"),
    [
        (mic(SINGLE_MIC_CID), 63, "minptime=10;useinbandfec=1;usedtx=1"),
        (mic(SINGLE_MIC_CID, red=False), 111, "minptime=10;useinbandfec=1;usedtx=1"),
        (mic(SINGLE_MIC_CID, dtx=False), 63, "minptime=10;useinbandfec=1"),
        (
            mic(SINGLE_MIC_CID, stereo=True, red=False, dtx=False),
            111,
            "minptime=10;useinbandfec=1;stereo=1;maxaveragebitrate=510000",
        ),
    ],
)
def test_red_dtx_and_stereo_follow_the_announcement(
    track: AnnouncedTrack, first: int, fmtp: str
) -> None:
    offer = sample("single_simulcast_offer")
    assert "stereo=1" in offer
    result = answer(PublisherNegotiation(config(single=True), LOCAL), offer, [track])
    found = section(result.sdp, "7")
    assert numbers(found)[0] == first
    assert next(codec.fmtp for codec in found.codecs if codec.name == "opus") == fmtp


def test_an_explicitly_chosen_audio_codec_goes_before_red() -> None:
    track = AnnouncedTrack("TR_mic", "audio", MIC_CID, (AnnouncedCodec("audio/opus", MIC_CID),))
    result = answer(
        PublisherNegotiation(config(), LOCAL), sample("dual_publisher_audio_offer"), [track]
    )
    assert numbers(section(result.sdp, "1")) == [111, 63, 0, 8]


def test_opus_retransmission_is_answered_where_it_is_offered() -> None:
    result = answer(PublisherNegotiation(config(), LOCAL), sample("safari_like_offer"))
    opus = next(codec for codec in section(result.sdp, "1").codecs if codec.name == "opus")
    assert opus.feedback == ["nack"]


def test_the_chosen_video_codec_goes_first_and_alone_where_order_is_ignored() -> None:
    cid = "{5d4c3b2a-1f0e-4d9c-8b7a-6f5e4d3c2b1a}"
    offer = sample("firefox_like_offer")
    track = camera(cid, "video/vp9")
    ordered = answer(PublisherNegotiation(config(), LOCAL), offer, [track])
    assert numbers(section(ordered.sdp, "1")) == [121, 125, 120, 124, 126, 127, 97, 98]
    firefox = ClientTraits(keeps_only_chosen_codec=True, takes_red=False)
    alone = answer(PublisherNegotiation(config(firefox), LOCAL), offer, [track])
    assert numbers(section(alone.sdp, "1")) == [121, 125]
    (plan,) = alone.receivers
    assert [encoding.rid for encoding in plan.encodings] == ["q", "h", "f"]
    assert alone.receivers[0].codecs[0].rtx_payload_type == 125


def test_braces_around_a_track_id_do_not_hide_it() -> None:
    track = mic("0e9f8d7c-6b5a-4c3d-9e1f-2a3b4c5d6e7f")
    decoy = AnnouncedTrack("TR_decoy", "audio", "decoy", (AnnouncedCodec("", "decoy"),))
    result = answer(
        PublisherNegotiation(config(), LOCAL), sample("firefox_like_offer"), [decoy, track]
    )
    assert [plan.track_sid for plan in result.receivers] == ["TR_mic"]


def test_legacy_simulcast_groups_give_encodings_low_to_high() -> None:
    track = camera("0a1b2c3d-4e5f-4607-8192-a3b4c5d6e7f8", "")
    result = answer(PublisherNegotiation(config(), LOCAL), sample("safari_like_offer"), [track])
    (plan,) = result.receivers
    assert plan.encodings == (
        Encoding(0, ssrc=1001, rtx_ssrc=2001),
        Encoding(1, ssrc=1002, rtx_ssrc=2002),
        Encoding(2, ssrc=1003, rtx_ssrc=2003),
    )


@pytest.mark.parametrize(
    ("rids", "layers"),
    [
        (["h", "q"], {"q": 0, "h": 1}),
        (["f", "h", "q"], {"q": 0, "h": 1, "f": 2}),
        (["2", "1", "0"], {"2": 0, "1": 1, "0": 2}),
        (["q", "~h", "~f"], {"q": 0, "h": 1, "f": 2}),
        (["low", "high"], {"low": 0, "high": 1}),
    ],
)
def test_the_name_of_a_rid_tells_its_layer_and_pausing_is_not_answered(
    rids: list[str], layers: dict[str, int]
) -> None:
    lines = "".join(f"a=rid:{rid.lstrip('~')} send\r\n" for rid in rids)
    offer = sample("dual_publisher_simulcast_offer").replace(
        "a=rid:h send\r\na=rid:q send\r\na=simulcast:send h;q\r\n",
        f"{lines}a=simulcast:send {';'.join(rids)}\r\n",
    )
    result = answer(PublisherNegotiation(config(), LOCAL), offer, [camera()])
    (plan,) = result.receivers
    assert {encoding.rid: encoding.spatial_layer for encoding in plan.encodings} == layers
    names = ";".join(rid.lstrip("~") for rid in rids)
    assert f"a=simulcast:recv {names}\r\n" in result.sdp


def test_rids_that_changed_change_the_receiver() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    offer = sample("dual_publisher_simulcast_offer")
    (before,) = answer(machine, offer, [camera()]).receivers
    changed = offer.replace(
        "a=rid:h send\r\na=rid:q send\r\na=simulcast:send h;q\r\n",
        "a=rid:f send\r\na=rid:h send\r\na=rid:q send\r\na=simulcast:send f;h;q\r\n",
    )
    result = answer(machine, changed, [camera()])
    (plan,) = result.receivers_changed
    assert [encoding.rid for encoding in before.encodings] == ["q", "h"]
    assert [encoding.rid for encoding in plan.encodings] == ["q", "h", "f"]
    assert result.receivers_added == result.receivers_ended == ()


def test_an_ice_restart_is_answered_with_fresh_credentials() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    offer = sample("dual_publisher_audio_offer")
    assert not answer(machine, offer, [mic()]).ice_restarted
    result = answer(machine, offer.replace("ice-ufrag:LUEf", "ice-ufrag:NEWU"), [mic()])
    assert result.ice_restarted
    assert (result.local.ice_ufrag, result.local.ice_pwd) == FRESH
    assert {found.ice_ufrag for found in read(result.sdp).sections} == {FRESH[0]}
    later = answer(machine, offer.replace("ice-ufrag:LUEf", "ice-ufrag:NEWU"), [mic()])
    assert not later.ice_restarted
    assert later.local.ice_ufrag == FRESH[0]


def test_candidates_are_written_into_the_first_section_when_asked_for() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    line = "candidate:1 1 udp 2130706431 127.0.0.1 7882 typ host"
    result = machine.answer(
        sample("dual_publisher_audio_offer"), [], fresh_credentials=FRESH, candidates=[line]
    )
    first, second = read(result.sdp).sections
    assert first.candidates == [line]
    assert first.end_of_candidates
    assert second.candidates == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("a=setup:actpass", "a=setup:active"), "setup:active"),
        (lambda text: "".join(cut(text, "a=ice-ufrag")), "ice-ufrag"),
        (lambda text: "".join(cut(text, "a=fingerprint")), "fingerprint"),
        (lambda text: text[: text.index("m=")], "no section"),
        (lambda text: text[: text.index("m=audio")], "1 sections, the one before 2"),
        (lambda text: text.replace("a=mid:1", "a=mid:9"), "section 1 was audio '1'"),
        (lambda text: text.replace("rtpmap:111 opus/48000/2", "rtpmap:111 opus"), "^line [0-9]+:"),
        (lambda text: "v=1", "^line 1:"),
    ],
)
def test_a_bad_offer_is_refused_and_changes_nothing(change: object, message: str) -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    offer = sample("dual_publisher_audio_offer")
    before = answer(machine, offer, [mic()])
    with pytest.raises(BadDescription, match=message):
        answer(machine, change(offer))  # type: ignore[operator]
    after = answer(machine, offer, [mic()])
    assert after.receivers == before.receivers
    assert not after.receivers_added
    assert (read(before.sdp).session_version, read(after.sdp).session_version) == (1, 2)


def cut(text: str, prefix: str) -> list[str]:
    return [line for line in text.splitlines(keepends=True) if not line.startswith(prefix)]


def test_a_rejected_section_is_answered_rejected_and_its_place_may_be_taken_again() -> None:
    machine = PublisherNegotiation(config(), LOCAL)
    offer = sample("dual_publisher_audio_offer")
    answer(machine, offer, [mic()])
    gone = offer.replace("m=audio 9", "m=audio 0").replace("BUNDLE 0 1", "BUNDLE 0")
    result = answer(machine, gone, [mic()])
    assert section(result.sdp, "1").rejected
    assert read(result.sdp).bundle == ["0"]
    assert [plan.track_sid for plan in result.receivers_ended] == ["TR_mic"]
    again = answer(
        machine, offer.replace("a=mid:1", "a=mid:5").replace("BUNDLE 0 1", "BUNDLE 0 5"), [mic()]
    )
    assert [plan.mid for plan in again.receivers_added] == ["5"]


def test_a_section_without_a_codec_we_know_is_rejected() -> None:
    offer = sample("dual_publisher_simulcast_offer").replace("VP8/90000", "H261/90000")
    result = answer(PublisherNegotiation(config(), LOCAL), offer, [mic(), camera()])
    assert section(result.sdp, "2").rejected
    assert [plan.track_sid for plan in result.receivers] == ["TR_mic"]


# ---------------------------------------------------------------------------- single connection


def test_unused_sections_of_a_joining_client_are_inactive() -> None:
    result = answer(PublisherNegotiation(config(single=True), LOCAL), sample("single_join_offer"))
    media = [found for found in read(result.sdp).sections if found.kind != "application"]
    assert [found.direction for found in media] == ["inactive"] * 6
    assert all(found.msid is None and not found.ssrcs for found in media)
    # libwebrtc cannot publish simulcast later when these are left out here.
    video = {uri.rsplit(":", 1)[-1] for _, uri in media[3].extensions}
    assert {"mid", "rtp-stream-id", "repaired-rtp-stream-id"} <= video
    assert dict(result.mid_to_track_id) == {}


@pytest.mark.parametrize("has_delay", [False, True])
def test_playout_delay_is_taken_for_video_where_the_room_has_one(has_delay: bool) -> None:
    machine = PublisherNegotiation(config(single=True, has_playout_delay=has_delay), LOCAL)
    offer = sample("single_join_offer")
    line = next(line for line in offer.splitlines() if line.endswith(PLAYOUT_DELAY))
    answered = section(answer(machine, offer).sdp, "3")
    assert (PLAYOUT_DELAY in dict(answered.extensions).values()) is has_delay
    # libwebrtc offers again what was taken once.
    offer = sample("single_subscribe_offer").replace("a=mid:3\r\n", f"a=mid:3\r\n{line}\r\n")
    result = answer(machine, offer, down=[down_audio(), down_video()])
    assert (PLAYOUT_DELAY in dict(section(result.sdp, "3").extensions).values()) is has_delay
    plan = next(plan for plan in result.senders if plan.kind == "video")
    assert bool(plan.extensions.playout_delay) is has_delay


def test_subscriptions_are_put_on_free_sections_as_recorded() -> None:
    machine = PublisherNegotiation(config(single=True), LOCAL)
    answer(machine, sample("single_join_offer"))
    offer = sample("single_subscribe_offer")
    audio, video = down_audio(), down_video()
    first = answer(machine, offer, down=[audio])
    assert dict(first.mid_to_track_id) == {"0": "TR_a"}
    result = answer(machine, offer, down=[audio, video])
    assert dict(result.mid_to_track_id) == {"0": "TR_a", "3": "TR_v"}
    assert [plan.track_sid for plan in result.senders_added] == ["TR_v"]
    recorded = read(sample("single_subscribed_answer"))
    for mid in ("0", "3"):
        mine = section(result.sdp, mid)
        theirs = next(found for found in recorded.sections if found.mid == mid)
        assert mine.direction == theirs.direction == "sendonly"
        assert sorted(numbers(mine)) == sorted(numbers(theirs))
        assert {codec.payload_type: set(codec.feedback) for codec in mine.codecs} == {
            codec.payload_type: set(codec.feedback) for codec in theirs.codecs
        }
        assert [group.semantics for group in mine.ssrc_groups] == [
            group.semantics for group in theirs.ssrc_groups
        ]
    assert section(result.sdp, "3").msid == ("PA_x|TR_v", "TR_v")
    assert section(result.sdp, "3").ssrcs == [(21, "PA_x|TR_v"), (22, "PA_x|TR_v")]
    plan = next(plan for plan in result.senders if plan.kind == "video")
    assert (plan.mid, plan.ssrc, plan.rtx_ssrc, plan.cname) == ("3", 21, 22, "PA_x|TR_v")
    assert plan.codecs[0].mime == "video/vp8"
    assert plan.codecs[0].rtx_payload_type == 97
    gone = answer(machine, offer, down=[video])
    assert dict(gone.mid_to_track_id) == {"3": "TR_v"}
    assert [plan.track_sid for plan in gone.senders_removed] == ["TR_a"]
    assert section(gone.sdp, "0").direction == "inactive"
    assert section(gone.sdp, "0").msid is None


def test_a_section_is_reused_only_after_the_client_saw_it_inactive() -> None:
    machine = PublisherNegotiation(config(single=True), LOCAL)
    offer = sample("single_subscribe_offer")
    answer(machine, offer, down=[down_audio("TR_1")])
    swapped = answer(machine, offer, down=[down_audio("TR_2", 12)])
    assert dict(swapped.mid_to_track_id) == {"1": "TR_2"}
    later = answer(machine, offer, down=[down_audio("TR_2", 12), down_audio("TR_3", 13)])
    assert dict(later.mid_to_track_id) == {"0": "TR_3", "1": "TR_2"}


def test_no_section_is_asked_for_over_fifty_subscriptions() -> None:
    machine = PublisherNegotiation(config(single=True), LOCAL)
    offer = sample("single_subscribe_offer")
    answer(machine, offer)
    for turn in range(50):
        tracks = [down_audio(f"TR_a{turn}", 100 + turn), down_video(f"TR_v{turn}", 1000 + 2 * turn)]
        assert machine.require(tracks).is_empty
        result = answer(machine, offer, down=tracks)
        assert sorted(result.mid_to_track_id.values()) == [f"TR_a{turn}", f"TR_v{turn}"]
        answer(machine, offer)


def test_a_track_waits_for_the_next_offer_when_this_answer_frees_its_section() -> None:
    machine = PublisherNegotiation(config(single=True), LOCAL)
    offer = sample("single_subscribe_offer")
    old = [down_audio(f"TR_{n}", n) for n in range(3)]
    answer(machine, offer, down=old)
    result = answer(machine, offer, down=[*old[1:], down_audio("TR_new", 9)])
    assert result.unplaced == ("TR_new",)
    assert result.required.is_empty
    later = answer(machine, offer, down=[*old[1:], down_audio("TR_new", 9)])
    assert dict(later.mid_to_track_id) == {"0": "TR_new", "1": "TR_1", "2": "TR_2"}


def test_safari_never_gets_another_track_on_a_used_section() -> None:
    machine = PublisherNegotiation(config(ClientTraits(reuses_sections=False), single=True), LOCAL)
    offer = sample("single_subscribe_offer")
    answer(machine, offer, down=[down_audio("TR_1")])
    answer(machine, offer)
    later = answer(machine, offer, down=[down_audio("TR_2", 12)])
    assert dict(later.mid_to_track_id) == {"1": "TR_2"}


def test_missing_sections_are_counted_once() -> None:
    machine = PublisherNegotiation(config(single=True), LOCAL)
    offer = sample("single_join_offer")
    answer(machine, offer)
    wanted = [down_audio(f"TR_{n}", n) for n in range(5)]
    assert machine.require(wanted[:3]).is_empty
    assert machine.require(wanted) == SectionsRequirement(num_audios=2)
    assert machine.require(wanted).is_empty
    result = answer(machine, offer, down=wanted)
    assert result.unplaced == ("TR_3", "TR_4")
    assert result.required == SectionsRequirement(num_audios=2)
    assert machine.require(wanted).is_empty


def test_a_track_no_section_can_carry_is_named() -> None:
    machine = PublisherNegotiation(config(single=True), LOCAL)
    track = DownTrack("TR_h", "video", "PA_x|TR_h", ("video/h265",), 1, 2)
    result = answer(machine, sample("single_subscribe_offer"), down=[track])
    assert result.codec_unsupported == ("TR_h",)
    assert result.unplaced == ()
    assert dict(result.mid_to_track_id) == {}


def test_a_stereo_track_is_marked_and_opus_is_repeated_where_red_is_not_sent() -> None:
    offer = sample("single_subscribe_offer").replace(
        "a=rtcp-fb:111 transport-cc", "a=rtcp-fb:111 nack"
    )
    plain = DownTrack("TR_s", "audio", "PA_x|TR_s", ("audio/opus",), 1, stereo=True)
    machine = PublisherNegotiation(config(single=True), LOCAL)
    result = answer(machine, offer, down=[down_audio(), plain])
    red, stereo = (section(result.sdp, mid).codecs[0] for mid in ("0", "1"))
    assert red.feedback == []
    assert stereo.feedback == ["nack"]
    assert stereo.fmtp.endswith(";sprop-stereo=1")


def test_publishing_and_subscribing_on_one_connection_keep_their_own_sections() -> None:
    machine = PublisherNegotiation(config(single=True), LOCAL)
    tracks = [mic(SINGLE_MIC_CID), camera(SINGLE_CAMERA_CID)]
    result = answer(machine, sample("single_simulcast_offer"), tracks, [down_audio()])
    assert [plan.mid for plan in result.receivers] == ["7", "8"]
    assert dict(result.mid_to_track_id) == {"0": "TR_a"}
    recorded = read(sample("single_simulcast_answer"))
    for mid in ("7", "8"):
        theirs = next(found for found in recorded.sections if found.mid == mid)
        mine = section(result.sdp, mid)
        assert mine.direction == theirs.direction
        assert numbers(mine) == numbers(theirs)
        assert mine.simulcast_recv == theirs.simulcast_recv
