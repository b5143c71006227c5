//! Real and made-up descriptions: read, written, read again; and what must be refused, with the line.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::sync::Arc;

use mediacore_sdp::{
    Cache, Codec, Description, Direction, Kind, Msid, RidDirection, SdpError, Section,
    SectionFields, Setup,
};

fn data(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(format!("{name}.sdp"));
    std::fs::read_to_string(path).unwrap()
}

fn parse(text: &str) -> Result<Description, SdpError> {
    Cache::new().parse(text)
}

fn assert_same(a: &Description, b: &Description, name: &str) {
    assert_eq!(a.sections.len(), b.sections.len(), "{name}");
    for (place, (a, b)) in a.sections.iter().zip(&b.sections).enumerate() {
        assert_eq!(a, b, "{name}, section {place}");
    }
    assert_eq!(
        (a.session_id, a.session_version),
        (b.session_id, b.session_version)
    );
    assert_eq!(
        (a.ice_lite, a.extmap_allow_mixed, &a.bundle),
        (b.ice_lite, b.extmap_allow_mixed, &b.bundle)
    );
    assert_eq!(
        (&a.ice_ufrag, &a.fingerprint, a.setup),
        (&b.ice_ufrag, &b.fingerprint, b.setup)
    );
}

#[test]
fn every_sample_reads_the_same_after_it_was_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let first = parse(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert!(!first.sections.is_empty());
        let text = first.render();
        let second = parse(&text).unwrap();
        assert_same(&first, &second, &name);
        assert_eq!(second.render(), text, "{name}: writing is stable");
        count += 1;
    }
    assert!(count >= 18);
}

#[test]
fn a_simulcast_offer_of_libwebrtc_is_understood() {
    let offer = parse(&data("dual_publisher_simulcast_offer")).unwrap();
    assert_eq!(offer.bundle, ["0", "1", "2"]);
    assert!(offer.extmap_allow_mixed);
    assert_eq!(offer.first_ice_ufrag(), Some("LUEf"));
    assert_eq!(offer.first_setup(), Some(Setup::ActPass));
    let [data, audio, video] = &offer.sections[..] else {
        panic!("three sections")
    };
    assert_eq!(
        (data.kind, data.sctp_port, data.max_message_size),
        (Kind::Application, Some(5000), Some(262_144))
    );
    assert_eq!(data.candidates.len(), 12);
    assert_eq!(
        (audio.kind, audio.direction),
        (Kind::Audio, Direction::SendOnly)
    );
    let opus = &audio.codecs[0];
    assert_eq!(
        (
            opus.payload_type,
            opus.name.as_str(),
            opus.clock_rate,
            opus.channels
        ),
        (111, "opus", 48_000, Some(2))
    );
    assert_eq!(opus.fmtp, "minptime=10;useinbandfec=1");
    assert_eq!(opus.feedback, ["transport-cc"]);
    assert_eq!(
        audio.msid.as_ref().unwrap().track,
        "1fe5668c-3101-443a-9fcd-0080e8a2198c"
    );
    assert_eq!(
        (audio.ssrcs[0].ssrc, audio.ssrcs[0].cname.as_str()),
        (4_035_184_305, "j6wVGmLHexLrhnYG")
    );
    assert_eq!(video.simulcast_send, ["h", "q"]);
    assert!(
        video
            .rids
            .iter()
            .all(|rid| rid.direction == RidDirection::Send && !rid.paused)
    );
    assert!(video.extensions.contains(&(
        10,
        "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id".to_owned()
    )));
}

#[test]
fn session_level_values_are_found_when_sections_have_none() {
    let offer = parse(&data("firefox_like_offer")).unwrap();
    assert!(offer.sections[0].fingerprint.is_none());
    assert!(
        offer
            .first_fingerprint()
            .unwrap()
            .starts_with("sha-256 0B:30:")
    );
    assert_eq!(offer.sections[1].simulcast_send, ["q", "h", "f"]);
}

#[test]
fn legacy_simulcast_groups_are_kept_in_order() {
    let offer = parse(&data("safari_like_offer")).unwrap();
    let video = &offer.sections[2];
    assert_eq!(
        (
            video.ssrc_groups[0].semantics.as_str(),
            &video.ssrc_groups[0].ssrcs[..]
        ),
        ("SIM", &[1001, 1002, 1003][..])
    );
    assert_eq!(video.ssrc_groups[2].ssrcs, [1002, 2002]);
    assert_eq!(video.ssrcs.len(), 6);
}

const HEAD: &str = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n";
const AUDIO: &str = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=rtpmap:111 opus/48000/2\r\n";

fn with_line(line: &str) -> String {
    format!("{HEAD}{AUDIO}{line}\r\n")
}

#[test]
fn malformed_lines_are_refused_with_their_number() {
    // The added line is the ninth of the text.
    let table = [
        "nonsense",
        "A=b",
        "a=setup:maybe",
        "a=ice-ufrag:abc",
        "a=ice-ufrag:ab cd",
        "a=ice-pwd:short",
        "a=fingerprint:sha-256",
        "a=fingerprint:sha-256 GG:00",
        "a=fingerprint:sha-256 AA:BB",
        "a=extmap:0 urn:x",
        "a=extmap:300 urn:x",
        "a=extmap:1",
        "a=ssrc:x cname:y",
        "a=ssrc:4294967296 cname:y",
        "a=ssrc-group:FID 1 x",
        "a=rid:",
        "a=rid:h",
        "a=rid:h both",
        "a=simulcast:send",
        "a=simulcast:both h",
        "a=rtpmap:111",
        "a=rtpmap:111 opus",
        "a=rtpmap:111 opus/fast",
        "a=rtpmap:111 opus/48000/many",
        "a=rtcp-fb:111",
        "a=msid:",
        "a=mid:1",
        "m=text 9 UDP/TLS/RTP/SAVPF 111",
        "m=audio nine UDP/TLS/RTP/SAVPF 111",
        "m=audio 65536 UDP/TLS/RTP/SAVPF 111",
        "m=audio 9 TCP 111",
        "m=audio 9 UDP/TLS/RTP/SAVPF 128",
        "m=audio 9 UDP/TLS/RTP/SAVPF 96 96",
        "m=audio 9 UDP/TLS/RTP/SAVPF 96",
        "m=application 9 UDP/TLS/RTP/SAVPF webrtc-datachannel",
        "m=",
    ];
    for line in table {
        let error = parse(&with_line(line)).expect_err(line);
        assert_eq!(error.line, 9, "{line}: {error}");
        assert!(error.to_string().starts_with("line 9: "), "{error}");
    }
    assert!(parse(&with_line("a=unknown:thing")).is_ok());
    for line in ["a=sctp-port:70000", "a=sctpmap:x", "a=max-message-size:-1"] {
        let data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:9\r\n";
        let error = parse(&with_line(&format!("{data}{line}"))).expect_err(line);
        assert_eq!(error.line, 11, "{line}: {error}");
    }
}

#[test]
fn a_description_needs_its_version_and_origin() {
    for (text, line) in [
        ("", 1),
        ("v=1\r\n", 1),
        ("o=- 1 2 IN IP4 0.0.0.0\r\n", 1),
        ("v=0\r\ns=-\r\n", 2),
        ("v=0\r\no=- one two IN IP4 0.0.0.0\r\n", 2),
        ("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", 1),
    ] {
        assert_eq!(parse(text).expect_err(text).line, line, "{text:?}");
    }
    assert!(
        parse(&HEAD.replace("\r\n", "\n"))
            .unwrap()
            .sections
            .is_empty()
    );
}

#[test]
fn two_sections_with_one_mid_are_refused() {
    let error = parse(&format!("{HEAD}{AUDIO}{AUDIO}")).unwrap_err();
    assert_eq!(error.line, 9);
}

#[test]
fn limits_are_kept() {
    let long = format!("{HEAD}{}", "a=x\r\n".repeat(300_000));
    assert!(parse(&long).unwrap_err().reason.contains("1 MiB"));
    let many: String = (0..1025)
        .map(|mid| format!("m=audio 0 RTP/SAVPF 0\r\na=mid:{mid}\r\n"))
        .collect();
    assert!(
        parse(&format!("{HEAD}{many}"))
            .unwrap_err()
            .reason
            .contains("1024")
    );
    for line in [
        "a=ssrc:N cname:a",
        "a=candidate:N 1 udp 1 ::1 9 typ host",
        "a=rid:rN send",
        "a=ssrc-group:FID N",
    ] {
        let lines: String = (0..257)
            .map(|n| line.replace('N', &n.to_string()) + "\r\n")
            .collect();
        let error = parse(&format!("{HEAD}{AUDIO}{lines}")).expect_err(line);
        assert!(error.reason.contains("more than 256"), "{error}");
    }
}

#[test]
fn the_limit_on_codecs_holds_for_made_sections_too() {
    let codec = |payload_type| Codec {
        payload_type,
        name: "x".into(),
        clock_rate: 1,
        channels: None,
        fmtp: String::new(),
        feedback: vec![],
    };
    let section = |codecs| {
        Section::new(SectionFields {
            codecs,
            ..SectionFields::new(Kind::Audio, "0")
        })
    };
    assert!(section(vec![codec(0); 257]).is_err());
    assert!(section(vec![codec(5), codec(5)]).is_err());
    assert!(section(vec![codec(128)]).is_err());
    assert!(section(vec![codec(5), codec(6)]).is_ok());
}

#[test]
fn made_values_cannot_break_lines() {
    let base = SectionFields::new(Kind::Video, "0");
    let msid = |stream: &str| {
        Some(Msid {
            stream: stream.into(),
            track: "t".into(),
        })
    };
    for fields in [
        SectionFields {
            mid: "0\r\na=inactive".into(),
            ..base.clone()
        },
        SectionFields {
            mid: String::new(),
            ..base.clone()
        },
        SectionFields {
            msid: msid("a\nb"),
            ..base.clone()
        },
        SectionFields {
            msid: msid("a b"),
            ..base.clone()
        },
        SectionFields {
            candidates: vec!["candidate:1\r\na=x".into()],
            ..base.clone()
        },
        SectionFields {
            ice_ufrag: Some("a\r\nb".into()),
            ..base.clone()
        },
        SectionFields {
            extensions: vec![(1, "u\n".into())],
            ..base.clone()
        },
        SectionFields {
            extensions: vec![(0, "u".into())],
            ..base.clone()
        },
    ] {
        assert_eq!(Section::new(fields).unwrap_err().line, 0);
    }
    assert!(Section::new(base).is_ok());
}

#[test]
fn paused_rids_lose_their_tilde_and_keep_the_fact() {
    let text = with_line("a=rid:q send\r\na=rid:h send\r\na=simulcast:send q;~h,~x;gone");
    let offer = parse(&text).unwrap();
    let section = &offer.sections[0];
    assert_eq!(section.simulcast_send, ["q", "h"]);
    assert_eq!(
        section
            .rids
            .iter()
            .map(|rid| rid.paused)
            .collect::<Vec<_>>(),
        [false, true]
    );
    assert!(section.text().contains("a=simulcast:send q;~h\r\n"));
}

#[test]
fn a_wildcard_feedback_line_counts_for_every_codec() {
    let offer = parse(&with_line("a=rtcp-fb:* nack\r\na=rtcp-fb:111 nack")).unwrap();
    assert_eq!(offer.sections[0].codecs[0].feedback, ["nack"]);
}

#[test]
fn formats_without_a_map_are_left_out_unless_their_number_says_it() {
    let offer = parse(&format!(
        "{HEAD}m=audio 9 UDP/TLS/RTP/SAVPF 0 8 96\r\na=mid:0\r\n"
    ))
    .unwrap();
    let names: Vec<_> = offer.sections[0]
        .codecs
        .iter()
        .map(|codec| codec.name.as_str())
        .collect();
    assert_eq!(names, ["PCMU", "PCMA"]);
}

#[test]
fn a_section_without_codecs_does_not_come_back_with_one() {
    for rejected in [true, false] {
        let fields = SectionFields {
            rejected,
            ..SectionFields::new(Kind::Audio, "0")
        };
        let made = Description::new(1, 1, vec![Arc::new(Section::new(fields).unwrap())]);
        assert!(parse(&made.render()).unwrap().sections[0].codecs.is_empty());
    }
}

#[test]
fn a_bundle_only_section_is_not_rejected() {
    let text = format!(
        "{HEAD}{}a=bundle-only\r\n",
        AUDIO.replace("audio 9", "audio 0")
    );
    assert!(!parse(&text).unwrap().sections[0].rejected);
    assert!(
        parse(&format!("{HEAD}{}", AUDIO.replace("audio 9", "audio 0")))
            .unwrap()
            .sections[0]
            .rejected
    );
}

#[test]
fn sections_inherit_the_direction_of_the_session() {
    let text = format!("{HEAD}a=recvonly\r\n{AUDIO}");
    assert_eq!(
        parse(&text).unwrap().sections[0].direction,
        Direction::RecvOnly
    );
    let mut cache = Cache::new();
    cache.parse(&text).unwrap();
    let changed = cache.parse(&text.replace("recvonly", "sendonly")).unwrap();
    assert_eq!(changed.sections[0].direction, Direction::SendOnly);
}

#[test]
fn attributes_of_media_say_nothing_of_data_channels_and_the_reverse() {
    let text = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=sendonly\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0\r\na=recvonly\r\n\
        a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid\r\na=msid:- t\r\na=ssrc:1 cname:c\r\n\
        a=ssrc-group:FID 1 2\r\na=rid:q send\r\na=simulcast:send q\r\na=rtpmap:x\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:1\r\na=sctp-port:5000\r\na=sctpmap:x\r\n\
        a=max-message-size:9\r\n";
    let read = parse(text).unwrap();
    let data = Section::new(SectionFields {
        direction: Direction::SendRecv,
        ..SectionFields::new(Kind::Application, "0")
    })
    .unwrap();
    assert_eq!(*read.sections[0], data);
    assert_eq!(read.sections[1].direction, Direction::SendOnly);
    assert_eq!(read.sections[1].sctp_port, None);
    assert_eq!(read.sections[1].max_message_size, None);
    assert_same(&read, &parse(&read.render()).unwrap(), "written and read");
}

#[test]
fn an_unchanged_section_is_the_same_object() {
    let mut cache = Cache::new();
    let first = cache
        .parse(&data("dual_publisher_simulcast_offer"))
        .unwrap();
    let again = cache
        .parse(&data("dual_publisher_unpublish_offer"))
        .unwrap();
    assert!(Arc::ptr_eq(&first.sections[0], &again.sections[0]));
    assert!(!Arc::ptr_eq(&first.sections[1], &again.sections[1]));
    assert_eq!(again.sections[1].direction, Direction::Inactive);
    assert!(cache.parse("nonsense").is_err());
    let third = cache
        .parse(&data("dual_publisher_unpublish_offer"))
        .unwrap();
    assert!(
        Arc::ptr_eq(&again.sections[1], &third.sections[1]),
        "a bad text leaves the cache as it was"
    );
}

#[test]
fn every_cut_of_a_description_is_read_or_refused_quietly() {
    for name in [
        "single_simulcast_offer",
        "safari_like_offer",
        "firefox_like_offer",
    ] {
        let text = data(name);
        let mut cache = Cache::new();
        for end in (0..text.len()).step_by(97) {
            let _ = cache.parse(&text[..end]);
        }
    }
}

#[test]
fn bytes_turned_over_never_panic() {
    let text = data("dual_publisher_simulcast_offer");
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..400 {
        let mut bytes = text.clone().into_bytes();
        for _ in 0..20 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let place = usize::try_from(state >> 33).unwrap() % bytes.len();
            bytes[place] = (state >> 16) as u8;
        }
        if let Ok(read) = parse(&String::from_utf8_lossy(&bytes)) {
            assert_same(&read, &parse(&read.render()).unwrap(), "mutated");
        }
    }
}
