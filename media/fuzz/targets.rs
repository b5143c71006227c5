//! What each fuzz target does with its bytes, shared by the fuzzer (`fuzz_targets/`) and by a plain test that
//! replays the corpora (`core/tests/fuzz_corpus.rs`).
//!
//! To add one for the core: write a function here, name it in [`TARGETS`], add `fuzz_targets/<name>.rs` and a `[[bin]]`
//! to `Cargo.toml` like the others, and seeds under `corpus/<name>/`. The test fails while one of them is missing.
//! Another crate keeps a file like this of its own, with its own replaying test.
#![allow(dead_code, reason = "a fuzz target uses one function of all")]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use mediacore_core::codec::dependency::{self, DescriptorMemory};
use mediacore_core::codec::{VideoCodec, av1, h264, h265, is_keyframe, red, vp8, vp9};
use mediacore_core::congestion::twcc::{TwccFeedback, TwccHistory};
use mediacore_core::packet::extensions::ExtensionIds;
use mediacore_core::packet::rtcp::{self, Rtcp, RtcpPackets};
use mediacore_core::packet::rtp::{self, RtpHeader};
use mediacore_core::packet::stun;
use mediacore_core::srtp::{SrtpProfile, keys_from_exporter};
use mediacore_core::transport::{
    DcepMessage, DtlsIdentity, LocalAddress, PeerTransport, Protocol, TransportConfig,
    TransportOutput, candidate_lines,
};

/// A target: takes any bytes, and panics where they bring a parser to break its word.
pub(crate) type Target = fn(&[u8]);

/// Every target by name.
pub(crate) const TARGETS: &[(&str, Target)] = &[
    ("rtp", rtp),
    ("extensions", extensions),
    ("rtcp", rtcp),
    ("twcc", twcc),
    ("stun", stun),
    ("srtp", srtp),
    ("vp8", vp8),
    ("vp9", vp9),
    ("h264", h264),
    ("h265", h265),
    ("av1", av1),
    ("dependency", dependency),
    ("red", red),
    ("dcep", dcep),
    ("transport_stun", transport_stun),
    ("transport_dtls", transport_dtls),
];

const IDS: ExtensionIds = ExtensionIds {
    mid: 1,
    rid: 2,
    repaired_rid: 3,
    audio_level: 4,
    transport_cc: 5,
    abs_send_time: 6,
    abs_capture_time: 7,
    dependency_descriptor: 8,
    playout_delay: 9,
    video_orientation: 10,
};

/// A header that parses can be written, and reads the same again.
pub(crate) fn rtp(bytes: &[u8]) {
    rtp::is_rtcp(bytes);
    rtp::peek_ssrc(bytes);
    rtp::peek_sequence(bytes);
    for id in 0..16 {
        if let Some(place) = rtp::extension_place(bytes, id) {
            assert!(place.end <= bytes.len());
        }
    }
    let Ok(mut header) = RtpHeader::parse(bytes, &IDS) else {
        return;
    };
    assert!(header.header_len <= bytes.len());
    if let Ok(length) = header.read_padding(bytes) {
        assert_eq!(header.header_len + length + header.padding_len, bytes.len());
    }
    let descriptor = header
        .extensions
        .dependency_descriptor
        .map_or(&[][..], |place| place.slice(bytes));
    let mut out = Vec::new();
    let written = header.write_with_descriptor(&mut out, &IDS, descriptor);
    let read = RtpHeader::parse(&out, &IDS).expect("own header parses");
    assert_eq!(written, out.len());
    let place = read.extensions.dependency_descriptor;
    assert_eq!(place.map_or(&[][..], |place| place.slice(&out)), descriptor);
    let mut extensions = header.extensions;
    extensions.dependency_descriptor = place;
    assert_eq!(read.extensions, extensions);
    assert_eq!(
        (read.sequence, read.timestamp, read.ssrc),
        (header.sequence, header.timestamp, header.ssrc)
    );
}

/// The bytes as the extension block of an RTP packet, in the form their first byte picks.
pub(crate) fn extensions(bytes: &[u8]) {
    let Some((form, block)) = bytes.split_first() else {
        return;
    };
    let profile: u16 = if form & 1 == 0 {
        0xbede
    } else {
        0x1000 | u16::from(form >> 4)
    };
    let words = block.len().div_ceil(4).min(usize::from(u16::MAX));
    let mut packet = vec![0x90, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
    packet.extend_from_slice(&profile.to_be_bytes());
    packet.extend_from_slice(&(words as u16).to_be_bytes());
    packet.extend_from_slice(&block[..block.len().min(4 * words)]);
    packet.resize(16 + 4 * words, 0);
    rtp(&packet);
}

/// Every list is walked to its end; what has a builder is built again.
pub(crate) fn rtcp(bytes: &[u8]) {
    let mut out = Vec::new();
    for packet in RtcpPackets::new(bytes).flatten() {
        out.clear();
        match packet {
            Rtcp::SenderReport { info, reports } => {
                let reports: Vec<_> = reports.collect();
                rtcp::write_sender_report(&mut out, &info, &reports);
            }
            Rtcp::ReceiverReport {
                sender_ssrc,
                reports,
            } => {
                let reports: Vec<_> = reports.collect();
                rtcp::write_receiver_report(&mut out, sender_ssrc, &reports);
            }
            Rtcp::Sdes(names) => {
                for (ssrc, name) in names {
                    rtcp::write_sdes_cname(&mut out, ssrc, name);
                }
            }
            Rtcp::Goodbye(ssrcs) => rtcp::write_goodbye(&mut out, &ssrcs.collect::<Vec<_>>()),
            Rtcp::Nack {
                sender_ssrc,
                media_ssrc,
                lost,
            } => {
                rtcp::write_nack(&mut out, sender_ssrc, media_ssrc, &lost.collect::<Vec<_>>());
            }
            Rtcp::Pli {
                sender_ssrc,
                media_ssrc,
            } => rtcp::write_pli(&mut out, sender_ssrc, media_ssrc),
            Rtcp::Fir {
                sender_ssrc,
                requests,
            } => {
                for request in requests {
                    rtcp::write_fir(&mut out, sender_ssrc, request);
                }
            }
            Rtcp::Remb {
                sender_ssrc,
                bitrate_bps,
                ssrcs,
            } => {
                rtcp::write_remb(
                    &mut out,
                    sender_ssrc,
                    bitrate_bps,
                    &ssrcs.collect::<Vec<_>>(),
                );
            }
            Rtcp::Twcc(feedback) => {
                assert_eq!(
                    feedback.statuses().count(),
                    usize::from(feedback.status_count)
                );
            }
            Rtcp::Other { .. } => {}
        }
        assert!(RtcpPackets::new(&out).all(|packet| packet.is_ok()));
    }
}

/// A feedback that parses tells as many statuses as it counts, and any history survives it.
pub(crate) fn twcc(bytes: &[u8]) {
    let Ok(feedback) = TwccFeedback::parse(bytes) else {
        return;
    };
    assert_eq!(
        feedback.statuses().count(),
        usize::from(feedback.status_count)
    );
    let now = Instant::now();
    let mut history = TwccHistory::new(64);
    for packet in 0..100 {
        history.sent(packet, now);
    }
    let mut told = 0;
    let summary = history.on_feedback(&feedback, now + Duration::from_millis(50), |_| told += 1);
    assert_eq!(summary.received + summary.lost, told);
}

/// A ufrag is part of the datagram and has no colon.
pub(crate) fn stun(bytes: &[u8]) {
    if let Some(ufrag) = stun::local_ufrag(bytes) {
        assert!(stun::is_stun(bytes) && !ufrag.is_empty() && !ufrag.contains(':'));
    }
}

/// Nothing opens under keys the sender cannot know; what we seal opens.
pub(crate) fn srtp(bytes: &[u8]) {
    for profile in [
        SrtpProfile::AeadAes128Gcm,
        SrtpProfile::AeadAes256Gcm,
        SrtpProfile::AesCm128HmacSha1_80,
    ] {
        let material = vec![7; profile.keying_material_len()];
        let (mut sender, _) =
            keys_from_exporter(profile, &material, true).expect("length is right");
        let (_, mut receiver) =
            keys_from_exporter(profile, &material, false).expect("length is right");
        let mut copy = bytes.to_vec();
        assert!(receiver.open_rtcp(&mut copy).is_err());
        copy.copy_from_slice(bytes);
        let Ok(header) = RtpHeader::parse(bytes, &IDS) else {
            continue;
        };
        assert!(
            receiver
                .open_rtp(&mut copy, header.header_len, header.ssrc, header.sequence)
                .is_err()
        );
        let (head, payload) = bytes.split_at(header.header_len);
        let mut sealed = Vec::new();
        sender.seal_rtp(u64::from(header.sequence), head, payload, &mut sealed);
        let opened =
            receiver.open_rtp(&mut sealed, header.header_len, header.ssrc, header.sequence);
        assert_eq!(opened, Ok((bytes.len(), u64::from(header.sequence))));
        assert_eq!(&sealed[..bytes.len()], bytes);
    }
}

/// A rewritten descriptor reads the same but for the numbers.
pub(crate) fn vp8(bytes: &[u8]) {
    is_keyframe(VideoCodec::Vp8, bytes);
    let Some(descriptor) = vp8::parse_vp8(bytes) else {
        return;
    };
    assert!(
        descriptor.header_len <= vp8::Vp8Descriptor::MAX_LEN && descriptor.header_len < bytes.len()
    );
    let mut copy = bytes.to_vec();
    descriptor.rewrite(&mut copy[..descriptor.header_len], 0x1234, 0x56, 0x1f);
    let read = vp8::parse_vp8(&copy).expect("rewritten descriptor parses");
    assert_eq!(copy[read.header_len..], bytes[descriptor.header_len..]);
    assert_eq!(
        (read.tid, read.layer_sync, read.keyframe),
        (descriptor.tid, descriptor.layer_sync, descriptor.keyframe)
    );
}

/// The descriptor lies within the payload.
pub(crate) fn vp9(bytes: &[u8]) {
    is_keyframe(VideoCodec::Vp9, bytes);
    if let Some(descriptor) = vp9::parse_vp9(bytes) {
        assert!(descriptor.header_len <= bytes.len());
    }
}

/// No crash.
pub(crate) fn h264(bytes: &[u8]) {
    h264::is_keyframe(bytes);
}

/// No crash.
pub(crate) fn h265(bytes: &[u8]) {
    h265::is_keyframe(bytes);
}

/// Continuations are no keyframes.
pub(crate) fn av1(bytes: &[u8]) {
    if av1::is_keyframe(bytes) {
        assert!(av1::parse_av1(bytes).is_some_and(|header| !header.continues));
    }
}

/// The bytes as descriptors of packets in a row, each behind its length: what is told is within the structure.
pub(crate) fn dependency(bytes: &[u8]) {
    let mut memory = DescriptorMemory::default();
    let mut rest = bytes;
    let mut sequence = 0;
    while let Some((&length, after)) = rest.split_first() {
        let (descriptor, after) = after.split_at(usize::from(length).min(after.len()));
        rest = after;
        sequence += 1;
        let Some(frame) = memory.read(descriptor, sequence) else {
            continue;
        };
        assert_eq!(dependency::frame_number(descriptor), Some(frame.number));
        let mut shifted = descriptor.to_vec();
        dependency::shift_frame_number(&mut shifted, 7);
        assert_eq!(
            dependency::frame_number(&shifted),
            Some(frame.number.wrapping_add(7))
        );
        let Some(layers) = frame.layers else { continue };
        let targets = layers.structure.targets();
        let all = u32::MAX >> (32 - targets.len());
        assert_eq!(layers.active & !all, 0);
        assert_eq!(layers.indications.present & !all, 0);
        assert_eq!(layers.indications.switch & !layers.indications.present, 0);
        for target in 0..targets.len() {
            if let Some(chain) = layers.structure.chain_of(target) {
                assert!(chain < layers.chain_links().len());
            }
        }
    }
}

/// The blocks add up to what follows the headers.
pub(crate) fn red(bytes: &[u8]) {
    let (mut blocks, mut total) = (0, 0);
    let whole = red::for_each_block(bytes, |block| {
        blocks += 1;
        total += block.data.len();
    });
    assert_eq!(red::primary(bytes).is_some(), whole.is_some());
    if whole.is_some() {
        assert_eq!(4 * (blocks - 1) + 1 + total, bytes.len());
    }
}

/// What parses reads the same again after writing.
pub(crate) fn dcep(bytes: &[u8]) {
    if let Some(message) = DcepMessage::parse(bytes) {
        assert_eq!(DcepMessage::parse(&message.write()), Some(message));
    }
}

static IDENTITY: LazyLock<Arc<DtlsIdentity>> =
    LazyLock::new(|| Arc::new(DtlsIdentity::new().unwrap()));
const PWD: &str = "a-password-of-22-chars-or-more";
const SERVER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    1,
);
const CLIENT: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2)),
    2,
);

fn transport(now: Instant, server: bool) -> PeerTransport {
    let (ours, theirs) = if server {
        ("srv1", "cli1")
    } else {
        ("cli1", "srv1")
    };
    let config = TransportConfig {
        ufrag: ours.to_owned(),
        pwd: PWD.to_owned(),
        ice_lite: server,
        controlling: !server,
        dtls_active: server,
    };
    let address = |address| LocalAddress {
        socket: 0,
        bound: address,
        advertised: address,
        protocol: Protocol::Udp,
    };
    let (own, other) = if server {
        (SERVER, CLIENT)
    } else {
        (CLIENT, SERVER)
    };
    let mut transport =
        PeerTransport::new(config, Arc::clone(&IDENTITY), &[address(own)], now).unwrap();
    transport
        .set_remote(now, theirs, PWD, IDENTITY.fingerprint())
        .unwrap();
    let line = &candidate_lines(&[address(other)])[0];
    transport.add_remote_candidate(now, line).unwrap();
    transport
}

/// Nothing unauthenticated gets anywhere, whichever attributes it has.
pub(crate) fn transport_stun(bytes: &[u8]) {
    let now = Instant::now();
    let mut framed = bytes.to_vec();
    framed.resize(bytes.len().next_multiple_of(4).max(20), 0);
    let length = u16::try_from(framed.len() - 20).unwrap_or(u16::MAX - 3);
    framed[2..4].copy_from_slice(&length.to_be_bytes());
    framed[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
    for (server, source) in [(true, CLIENT), (false, SERVER)] {
        let mut transport = transport(now, server);
        for packet in [bytes, &framed] {
            transport.handle_stun(now, 0, source, packet);
        }
        assert_eq!(transport.path(), None);
        assert_eq!(transport.counters().panics, 0);
        transport.handle_timeout(now + Duration::from_secs(1));
    }
}

/// No keys and no connection come of a handshake nobody led.
pub(crate) fn transport_dtls(bytes: &[u8]) {
    let now = Instant::now();
    let (mut server, mut client) = (transport(now, true), transport(now, false));
    while let Some(output) = client.poll_output() {
        if let TransportOutput::Transmit { data, .. } = output {
            server.handle_stun(now, 0, CLIENT, &data);
        }
    }
    assert!(server.path().is_some());
    for transport in [&mut server, &mut client] {
        for _ in 0..2 {
            transport.handle_dtls(now, bytes);
        }
        transport.handle_timeout(now + Duration::from_secs(1));
        assert_eq!(transport.counters().panics, 0);
        while let Some(output) = transport.poll_output() {
            assert!(!matches!(
                output,
                TransportOutput::SrtpKeys { .. } | TransportOutput::Connected
            ));
        }
    }
}
