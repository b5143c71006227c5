//! What the server makes itself: silence, blank frames, RED, playout delays; and the trailers it cuts.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::{Duration, Instant};

use harness::*;
use mediacore_core::codec::blank::{H264_KEYFRAME, OPUS_SILENCE, VP8_KEYFRAME};
use mediacore_core::codec::red;
use mediacore_core::codec::vp8::parse_vp8;
use mediacore_core::packet::extensions::{AudioLevel, PlayoutDelay};
use mediacore_core::packet::rtcp::{self, ReportBlock};
use mediacore_core::packet::rtp::RtpHeader;
use mediacore_core::{Codec, Command, Event, ExtensionIds, PcId, SenderConfig, TrackKind};

const SSRC: u32 = 2000;

fn h264() -> Codec {
    Codec {
        mime: "video/H264".to_owned(),
        ..vp8()
    }
}

fn red_codec() -> Codec {
    Codec {
        mime: "audio/red".to_owned(),
        payload_type: 63,
        ..opus()
    }
}

/// A bare publisher and a bare subscriber on one server. Returns (world, server, publisher, subscriber).
fn stage(
    kind: TrackKind,
    published: Vec<Codec>,
    accepted: Vec<Codec>,
    configure: impl FnOnce(&mut SenderConfig),
) -> (World, usize, usize, usize) {
    let mut world = World::new();
    let server = world.add_shard();
    let publisher = world.add_bare(server, 1);
    let subscriber = world.add_bare(server, 2);
    world.run_ms(1000);
    let mut config = receiver(kind, "0", published[0].clone());
    config.codecs = published;
    config.probe = false;
    world.command(
        server,
        Command::AddReceiver {
            pc: PcId(1),
            track: track(1),
            config,
        },
    );
    add_sender(&mut world, server, accepted, configure);
    (world, server, publisher, subscriber)
}

fn add_sender(
    world: &mut World,
    server: usize,
    accepted: Vec<Codec>,
    configure: impl FnOnce(&mut SenderConfig),
) {
    let mut config = sender(track(1), "0", SSRC, accepted[0].clone());
    config.codecs = accepted;
    configure(&mut config);
    world.command(
        server,
        Command::AddSender {
            pc: PcId(2),
            sender: sid(1),
            config,
        },
    );
}

/// A microphone: one packet every 20 ms.
struct Microphone {
    sequence: u16,
    timestamp: u32,
    payload_type: u8,
}

impl Microphone {
    fn new(payload_type: u8) -> Self {
        Self {
            sequence: 5000,
            timestamp: 77_000,
            payload_type,
        }
    }

    fn next(&mut self) -> RtpHeader {
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(960);
        RtpHeader {
            payload_type: self.payload_type,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: 500,
            ..RtpHeader::default()
        }
    }

    fn speak(&mut self, world: &mut World, publisher: usize, packets: usize) {
        for _ in 0..packets {
            let header = self.next();
            let payload = [0x78, header.sequence as u8, 3];
            world.send_rtp(publisher, &header, &payload);
            world.run_ms(20);
        }
    }
}

fn film(world: &mut World, publisher: usize, camera: &mut Camera, frames: usize) {
    for index in 0..frames {
        for (header, payload) in camera.frame(index == 0, 3) {
            world.send_rtp(publisher, &header, &payload);
        }
        world.run_ms(33);
    }
}

fn mute(world: &mut World, server: usize, muted: bool) {
    world.command(
        server,
        Command::SetTrackMuted {
            track: track(1),
            muted,
        },
    );
}

type Received = Vec<(RtpHeader, Vec<u8>, Instant)>;

fn media(world: &mut World, subscriber: usize) -> Received {
    let all = world.bare(subscriber).received.clone();
    all.into_iter()
        .filter(|(header, ..)| header.ssrc == SSRC)
        .collect()
}

/// Numbers without holes, time that never goes back and moves with every frame.
fn assert_continuous(packets: &Received) {
    for pair in packets.windows(2) {
        let (before, after) = (&pair[0].0, &pair[1].0);
        assert_eq!(after.sequence, before.sequence.wrapping_add(1));
        let step = after.timestamp.wrapping_sub(before.timestamp) as i32;
        assert!(step >= 0, "time goes back by {step}");
    }
}

fn no_rejections(world: &mut World, server: usize) {
    for event in world.events(server) {
        assert!(!matches!(event, Event::Rejected { .. }), "{event:?}");
    }
}

#[test]
fn muted_microphone_becomes_a_second_of_silence_and_then_nothing() {
    let (mut world, server, publisher, subscriber) =
        stage(TrackKind::Audio, vec![opus()], vec![opus()], |_| {});
    let mut microphone = Microphone::new(111);
    microphone.speak(&mut world, publisher, 20);
    mute(&mut world, server, true);
    microphone.speak(&mut world, publisher, 150);
    let heard = media(&mut world, subscriber);
    let silence: Received = heard
        .iter()
        .filter(|(_, payload, _)| *payload == OPUS_SILENCE)
        .cloned()
        .collect();
    assert_eq!(silence.len(), 50);
    assert_eq!(heard.len(), 70, "the publisher's own packets are withheld");
    for pair in silence.windows(2) {
        assert_eq!(pair[1].0.timestamp.wrapping_sub(pair[0].0.timestamp), 960);
        let apart = pair[1].2 - pair[0].2;
        assert!((18..=22).contains(&apart.as_millis()), "{apart:?}");
    }
    for (header, ..) in &silence {
        assert_eq!(header.payload_type, 111);
        let level = header.extensions.audio_level.unwrap();
        assert_eq!(
            level,
            AudioLevel {
                voice: false,
                level: 127
            }
        );
    }
    assert_continuous(&heard);
    assert_eq!(world.counter(server, "injected"), 50);

    mute(&mut world, server, false);
    microphone.speak(&mut world, publisher, 10);
    let heard = media(&mut world, subscriber);
    assert_eq!(heard.len(), 80);
    assert_continuous(&heard);
    let gap = heard[70].0.timestamp.wrapping_sub(heard[69].0.timestamp);
    assert!(
        (90_000..102_000).contains(&gap),
        "the pause takes its time: {gap}"
    );
    no_rejections(&mut world, server);
}

#[test]
fn unmute_ends_the_silence_and_time_goes_on() {
    let (mut world, server, publisher, subscriber) =
        stage(TrackKind::Audio, vec![opus()], vec![opus()], |_| {});
    let mut microphone = Microphone::new(111);
    for round in 1..=5 {
        microphone.speak(&mut world, publisher, 10);
        mute(&mut world, server, true);
        world.run_ms(90 + round);
        mute(&mut world, server, false);
        // The publisher's clock stood still meanwhile.
    }
    microphone.speak(&mut world, publisher, 10);
    let heard = media(&mut world, subscriber);
    assert!(heard.len() > 80, "{}", heard.len());
    assert_continuous(&heard);
    for pair in heard.windows(2) {
        assert_ne!(pair[0].0.timestamp, pair[1].0.timestamp);
    }
}

#[test]
fn muted_camera_shows_blank_keyframes_with_continuous_numbers() {
    let (mut world, server, publisher, subscriber) =
        stage(TrackKind::Video, vec![vp8()], vec![vp8()], |_| {});
    let mut camera = Camera::new(700, 900);
    film(&mut world, publisher, &mut camera, 10);
    mute(&mut world, server, true);
    world.run_ms(2000);
    mute(&mut world, server, false);
    film(&mut world, publisher, &mut camera, 10);
    let seen = media(&mut world, subscriber);
    assert_continuous(&seen);
    let mut ids = Vec::new();
    let mut blanks = 0;
    for (header, payload, _) in &seen {
        let vp8 = parse_vp8(payload).unwrap();
        let frame = &payload[vp8.header_len..];
        if frame == VP8_KEYFRAME {
            blanks += 1;
            assert!(vp8.keyframe && header.marker);
        }
        if vp8.start_of_frame {
            let numbers = (vp8.picture_id.unwrap().value, vp8.tl0_pic_idx.unwrap());
            ids.push(numbers);
        }
    }
    assert_eq!(blanks, 30);
    assert_eq!(ids.len(), 50);
    for pair in ids.windows(2) {
        assert_eq!(pair[1].0, (pair[0].0 + 1) & 0x7fff);
        assert!(pair[1].1.wrapping_sub(pair[0].1) <= 1);
    }
    assert!(
        !world.bare(publisher).keyframe_requests.is_empty(),
        "unmute asks for a keyframe"
    );
}

#[test]
fn muted_h264_camera_sends_parameter_sets_and_a_keyframe() {
    let (mut world, server, publisher, subscriber) =
        stage(TrackKind::Video, vec![h264()], vec![h264()], |_| {});
    let mut header = Microphone::new(96);
    for _ in 0..5 {
        let mut header = header.next();
        header.marker = true;
        world.send_rtp(publisher, &header, &[0x65, 1, 2, 3]);
        world.run_ms(20);
    }
    mute(&mut world, server, true);
    world.run_ms(1500);
    let seen = media(&mut world, subscriber);
    assert_continuous(&seen);
    assert_eq!(seen.len(), 5 + 30 * 3);
    for frame in seen[5..].chunks(3) {
        for (unit, expected) in frame.iter().zip(H264_KEYFRAME) {
            assert_eq!(unit.1, expected);
            assert_eq!(unit.0.timestamp, frame[0].0.timestamp);
        }
        let markers: Vec<bool> = frame.iter().map(|unit| unit.0.marker).collect();
        assert_eq!(markers, [false, false, true]);
    }
}

#[test]
fn frames_made_for_encrypted_tracks_end_with_the_rooms_bytes() {
    let trailer = b"0123456789".to_vec();
    let cases = [
        (TrackKind::Audio, opus(), &OPUS_SILENCE[..]),
        (TrackKind::Video, vp8(), &VP8_KEYFRAME[..]),
    ];
    for (kind, codec, frame) in cases {
        let (mut world, server, publisher, subscriber) =
            stage(kind, vec![codec.clone()], vec![codec], |config| {
                config.sif_trailer = trailer.clone();
            });
        match kind {
            TrackKind::Audio => Microphone::new(111).speak(&mut world, publisher, 10),
            TrackKind::Video => film(&mut world, publisher, &mut Camera::new(700, 9), 10),
        }
        let before = media(&mut world, subscriber).len();
        mute(&mut world, server, true);
        world.run_ms(1200);
        let made = media(&mut world, subscriber).split_off(before);
        assert!(made.len() >= 30);
        for (_, payload, _) in made {
            assert!(payload.ends_with(&[frame, &trailer].concat()), "{kind:?}");
        }
    }
}

#[test]
fn removed_sender_ends_with_a_blank_moment_and_frees_its_id_at_once() {
    let (mut world, server, publisher, subscriber) =
        stage(TrackKind::Audio, vec![opus()], vec![opus()], |_| {});
    let mut microphone = Microphone::new(111);
    microphone.speak(&mut world, publisher, 10);
    let remove = Command::RemoveSender { sender: sid(1) };
    world.command(server, remove.clone());
    assert!(world.stats(server).senders.is_empty());
    microphone.speak(&mut world, publisher, 50);
    let heard = media(&mut world, subscriber);
    assert_eq!(heard.len(), 20);
    assert!(heard[10..].iter().all(|(_, p, _)| *p == OPUS_SILENCE));
    assert_continuous(&heard);

    // The same id and SSRC, at rest and in the middle of the last frames.
    add_sender(&mut world, server, vec![opus()], |_| {});
    microphone.speak(&mut world, publisher, 10);
    world.command(server, remove);
    world.run_ms(50);
    add_sender(&mut world, server, vec![opus()], |_| {});
    microphone.speak(&mut world, publisher, 10);
    no_rejections(&mut world, server);
    let heard = media(&mut world, subscriber);
    assert_eq!(heard[heard.len() - 1].1[0], 0x78);
    for pair in heard.windows(2) {
        assert_eq!(pair[1].0.sequence, pair[0].0.sequence.wrapping_add(1));
    }
}

#[test]
fn ended_track_leaves_a_blank_moment_to_its_senders() {
    let (mut world, server, publisher, subscriber) =
        stage(TrackKind::Video, vec![vp8()], vec![vp8()], |_| {});
    film(&mut world, publisher, &mut Camera::new(700, 9), 10);
    world.command(server, Command::RemoveTrack { track: track(1) });
    world.command(server, Command::RemoveSender { sender: sid(1) });
    world.run_ms(1000);
    let seen = media(&mut world, subscriber);
    assert_eq!(seen.len(), 30 + 6);
    assert_continuous(&seen);
    no_rejections(&mut world, server);
    // Nothing is left behind.
    add_sender_fails(&mut world, server);
    world.command(server, Command::ClosePeerConnection { pc: PcId(2) });
    world.run_ms(500);
    no_rejections(&mut world, server);
}

fn add_sender_fails(world: &mut World, server: usize) {
    add_sender(world, server, vec![vp8()], |_| {});
    let rejected = world.events(server);
    assert!(rejected.iter().any(|e| matches!(
        e,
        Event::Rejected {
            command: "add_sender",
            ..
        }
    )));
}

#[test]
fn closed_peer_connection_takes_senders_on_their_way_out_with_it() {
    let (mut world, server, publisher, _) =
        stage(TrackKind::Audio, vec![opus()], vec![opus()], |_| {});
    let mut microphone = Microphone::new(111);
    microphone.speak(&mut world, publisher, 10);
    world.command(server, Command::RemoveSender { sender: sid(1) });
    world.run_ms(40);
    world.command(server, Command::ClosePeerConnection { pc: PcId(2) });
    microphone.speak(&mut world, publisher, 30);
    no_rejections(&mut world, server);
}

#[test]
fn codec_without_a_blank_frame_just_stops() {
    let vp9 = Codec {
        mime: "video/VP9".to_owned(),
        ..vp8()
    };
    let (mut world, server, publisher, subscriber) =
        stage(TrackKind::Video, vec![vp9.clone()], vec![vp9], |_| {});
    let mut header = Microphone::new(96);
    for _ in 0..5 {
        world.send_rtp(publisher, &header.next(), &[0x08, 1, 2, 3]);
        world.run_ms(20);
    }
    let before = media(&mut world, subscriber).len();
    assert!(before > 0);
    mute(&mut world, server, true);
    world.run_ms(1500);
    assert_eq!(media(&mut world, subscriber).len(), before);
}

#[test]
fn packet_trailers_are_cut_for_senders_that_ask() {
    let trailer = [!2, !4, !0, !0, !0, !7, !11, b'L', b'K', b'T', b'S'];
    for strip_trailer in [true, false] {
        let (mut world, _server, publisher, subscriber) =
            stage(TrackKind::Video, vec![vp8()], vec![vp8()], |config| {
                config.strip_trailer = strip_trailer;
            });
        let mut camera = Camera::new(700, 9);
        for index in 0..10 {
            for (header, mut payload) in camera.frame(index == 0, 3) {
                if header.marker {
                    payload.extend_from_slice(&trailer);
                }
                world.send_rtp(publisher, &header, &payload);
            }
            world.run_ms(33);
        }
        let seen = media(&mut world, subscriber);
        assert_eq!(seen.len(), 30);
        for (header, payload, _) in seen {
            let is_trailed = payload.ends_with(&trailer);
            assert_eq!(is_trailed, header.marker && !strip_trailer);
            assert_eq!(payload.len() - if is_trailed { 11 } else { 0 }, 300);
        }
    }
}

#[test]
fn opus_goes_out_as_red_with_the_packet_before() {
    let accepted = vec![red_codec(), opus()];
    let (mut world, _server, publisher, subscriber) =
        stage(TrackKind::Audio, vec![opus()], accepted, |config| {
            config.encode_red = true;
        });
    let mut microphone = Microphone::new(111);
    microphone.speak(&mut world, publisher, 10);
    // DTX: the next packet is too late to bring the one before.
    microphone.timestamp += 19_200;
    world.run_ms(400);
    microphone.speak(&mut world, publisher, 2);
    let heard = media(&mut world, subscriber);
    assert_eq!(heard.len(), 12);
    assert_continuous(&heard);
    let mut sizes = Vec::new();
    let mut before: Option<Vec<u8>> = None;
    for (header, payload, _) in &heard {
        assert_eq!(header.payload_type, 63);
        let mut blocks = Vec::new();
        red::for_each_block(payload, |block| {
            blocks.push((
                block.payload_type,
                block.timestamp_offset,
                block.data.to_vec(),
            ));
        })
        .unwrap();
        sizes.push(blocks.len());
        if blocks.len() == 2 {
            assert_eq!(Some(&blocks[0].2), before.as_ref());
            assert_eq!((blocks[0].0, blocks[0].1), (111, 960));
        }
        before = blocks.pop().map(|block| block.2);
    }
    assert_eq!(sizes, [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 2]);
}

#[test]
fn encrypted_opus_is_never_made_red() {
    let accepted = vec![red_codec(), opus()];
    let (mut world, _server, publisher, subscriber) =
        stage(TrackKind::Audio, vec![opus()], accepted, |config| {
            config.encode_red = true;
            config.sif_trailer = vec![1, 2, 3];
        });
    Microphone::new(111).speak(&mut world, publisher, 5);
    let heard = media(&mut world, subscriber);
    assert_eq!(heard.len(), 5);
    assert!(heard.iter().all(|(header, ..)| header.payload_type == 111));
}

#[test]
fn lost_red_is_recovered_for_those_who_take_opus_only() {
    for accepted in [vec![opus()], vec![red_codec(), opus()]] {
        let takes_red = accepted.len() == 2;
        let (mut world, server, publisher, subscriber) = stage(
            TrackKind::Audio,
            vec![red_codec(), opus()],
            accepted,
            |_| {},
        );
        let mut microphone = Microphone::new(63);
        let mut before: Option<[u8; 3]> = None;
        let mut late = None;
        for index in 0..20 {
            let header = microphone.next();
            let primary = [0x78, header.sequence as u8, 3];
            let mut payload = Vec::new();
            let redundant = before.as_ref().map(|data| (960, &data[..]));
            red::write(111, &primary, redundant, 1200, &mut payload);
            before = Some(primary);
            match index {
                5 => {}
                // Comes after the one that brings it again.
                10 => late = Some((header, payload)),
                _ => world.send_rtp(publisher, &header, &payload),
            }
            if index == 11 {
                let (header, payload) = late.take().unwrap();
                world.send_rtp(publisher, &header, &payload);
            }
            world.run_ms(20);
        }
        let heard = media(&mut world, subscriber);
        assert_eq!(heard.len(), 20);
        assert_continuous(&heard);
        assert_eq!(world.counter(server, "recovered"), 2);
        for (index, (header, payload, _)) in heard.iter().enumerate() {
            let expected = [0x78, (5001 + index) as u8, 3];
            let primary = if takes_red {
                red::primary(payload).unwrap().data
            } else {
                payload
            };
            assert_eq!(primary, expected);
            assert_eq!(header.timestamp, heard[0].0.timestamp + 960 * index as u32);
        }
    }
}

#[test]
fn opus_with_dtx_keeps_its_gaps() {
    let (mut world, _server, publisher, subscriber) =
        stage(TrackKind::Audio, vec![opus()], vec![opus()], |_| {});
    let mut microphone = Microphone::new(111);
    microphone.speak(&mut world, publisher, 5);
    for _ in 0..4 {
        microphone.timestamp += 19 * 960;
        world.run_ms(380);
        microphone.speak(&mut world, publisher, 1);
    }
    let heard = media(&mut world, subscriber);
    assert_eq!(heard.len(), 9);
    assert_continuous(&heard);
    for pair in heard[4..].windows(2) {
        assert_eq!(
            pair[1].0.timestamp.wrapping_sub(pair[0].0.timestamp),
            20 * 960
        );
    }
}

#[test]
fn playout_delay_is_told_until_the_far_side_has_it() {
    let (mut world, _server, publisher, subscriber) =
        stage(TrackKind::Video, vec![vp8()], vec![vp8()], |config| {
            config.playout_delay = Some((100, 2000));
            config.extensions = ExtensionIds {
                playout_delay: PLAYOUT_ID,
                ..IDS
            };
        });
    let mut camera = Camera::new(700, 9);
    film(&mut world, publisher, &mut camera, 10);
    let told = media(&mut world, subscriber);
    assert_eq!(told.len(), 30);
    let expected = Some(PlayoutDelay { min: 10, max: 200 });
    assert!(
        told.iter()
            .all(|(header, ..)| header.extensions.playout_delay == expected)
    );

    let mut report = Vec::new();
    let newest = told[29].0.sequence;
    let block = ReportBlock {
        ssrc: SSRC,
        fraction_lost: 0,
        cumulative_lost: 0,
        highest_sequence: u32::from(newest),
        jitter: 0,
        last_sr: 0,
        delay_since_last_sr: 0,
    };
    rtcp::write_receiver_report(&mut report, 99, &[block]);
    world.send_rtcp(subscriber, &report);
    world.run(Duration::from_millis(50));
    film(&mut world, publisher, &mut camera, 5);
    let known = media(&mut world, subscriber).split_off(30);
    assert_eq!(known.len(), 15);
    assert!(
        known
            .iter()
            .all(|(header, ..)| header.extensions.playout_delay.is_none())
    );
}
