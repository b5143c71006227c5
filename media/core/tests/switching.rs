//! What a subscriber sees of simulcast, mutes and moves: one stream without seams.
#![allow(clippy::unwrap_used)]

mod harness;

use std::time::Duration;

use harness::*;
use mediacore_core::codec::blank::VP8_KEYFRAME;
use mediacore_core::codec::vp8::parse_vp8;
use mediacore_core::packet::rtcp::{self, SenderInfo};
use mediacore_core::packet::rtp::RtpHeader;
use mediacore_core::{
    Codec, Command, Encoding, Event, PcId, ReceiverConfig, RemoteTransport, TrackKind,
};

const OUT: u32 = 5000;

/// A bare publisher with three encodings on pc 1, a bare subscriber on pc 2.
struct Stage {
    world: World,
    server: usize,
    publisher: usize,
    subscriber: usize,
    cameras: Vec<Camera>,
    seen_requests: usize,
}

fn three_encodings() -> ReceiverConfig {
    let encoding = |layer: u8| Encoding {
        spatial_layer: layer,
        rid: None,
        ssrc: Some(100 + u32::from(layer)),
        rtx_ssrc: None,
    };
    ReceiverConfig {
        encodings: (0..3).map(encoding).collect(),
        ..receiver(TrackKind::Video, "0", vp8())
    }
}

impl Stage {
    fn new() -> Self {
        let mut world = World::new();
        let server = world.add_shard();
        let publisher = world.add_bare(server, 1);
        let subscriber = world.add_bare(server, 2);
        world.command(
            server,
            Command::AddReceiver {
                pc: PcId(1),
                track: track(1),
                config: three_encodings(),
            },
        );
        let mut config = sender(track(1), "0", OUT, vp8());
        config.max_spatial_layer = 0;
        world.command(
            server,
            Command::AddSender {
                pc: PcId(2),
                sender: sid(1),
                config,
            },
        );
        world.run_ms(1000);
        assert_eq!(
            (
                world.bare(publisher).connected,
                world.bare(subscriber).connected
            ),
            (1, 1)
        );
        let cameras = vec![
            Camera::new(100, 65_500),
            Camera::new(101, 2000),
            Camera::new(102, 30_000),
        ];
        Self {
            world,
            server,
            publisher,
            subscriber,
            cameras,
            seen_requests: 0,
        }
    }

    /// Sends frames of the encodings named by `active`; keyframes when asked for, like a client.
    fn play(&mut self, frames: usize, active: &[usize]) {
        for _ in 0..frames {
            let asked =
                self.world.bare(self.publisher).keyframe_requests[self.seen_requests..].to_vec();
            self.seen_requests += asked.len();
            for (layer, camera) in self.cameras.iter_mut().enumerate() {
                let keyframe =
                    camera.frames == 0 || asked.iter().any(|(_, ssrc)| *ssrc == camera.ssrc);
                let packets = camera.frame(keyframe, 2);
                if active.contains(&layer) {
                    for (header, payload) in packets {
                        self.world.send_rtp(self.publisher, &header, &payload);
                    }
                }
            }
            self.world.run(Duration::from_nanos(33_333_333));
        }
    }

    fn wish(&mut self, spatial: u8, temporal: u8, paused: bool) {
        self.world.command(
            self.server,
            Command::SetSenderLayers {
                sender: sid(1),
                max_spatial_layer: spatial,
                max_temporal_layer: temporal,
                paused,
                priority: None,
            },
        );
    }

    /// Payload lengths tell the encodings apart; blank frames count to the lowest.
    fn layer_of(payload: &[u8]) -> usize {
        payload.len().saturating_sub(300 + 100 % 7)
    }

    /// Checks what the subscriber saw so far; returns the layer of each packet.
    fn seamless(&mut self) -> Vec<usize> {
        let received = self.world.bare(self.subscriber).received.clone();
        assert!(!received.is_empty());
        let vp8 = |payload: &[u8]| parse_vp8(payload).unwrap();
        for pair in received.windows(2) {
            let [(a, a_payload, a_at), (b, b_payload, b_at)] = pair else {
                unreachable!()
            };
            assert_eq!((b.ssrc, b.payload_type), (OUT, 96));
            assert_eq!(
                b.sequence,
                a.sequence.wrapping_add(1),
                "a hole in the sequence numbers"
            );
            let (from, to) = (vp8(a_payload), vp8(b_payload));
            let (from_id, to_id) = (from.picture_id.unwrap().value, to.picture_id.unwrap().value);
            if to.start_of_frame {
                assert_eq!(to_id, (from_id + 1) & 0x7fff, "a hole in the picture ids");
                let step = b.timestamp.wrapping_sub(a.timestamp) as i32;
                assert!(step > 0, "time went back");
                let real = i64::try_from((*b_at - *a_at).as_micros()).unwrap() * 9 / 100;
                assert!(
                    (i64::from(step) - real).abs() < 3000,
                    "time jumped by {step}, really {real}"
                );
                let tl0_step = to
                    .tl0_pic_idx
                    .unwrap()
                    .wrapping_sub(from.tl0_pic_idx.unwrap());
                assert_eq!(tl0_step, u8::from(to.tid == Some(0)));
                assert!(a.marker);
            } else {
                assert_eq!((to_id, b.timestamp), (from_id, a.timestamp));
            }
            if Self::layer_of(a_payload) != Self::layer_of(b_payload) {
                assert!(to.keyframe, "switched without a keyframe");
            }
        }
        received
            .iter()
            .map(|(_, payload, _)| Self::layer_of(payload))
            .collect()
    }

    fn last_layers(layers: &[usize]) -> Vec<usize> {
        let mut order = layers.to_vec();
        order.dedup();
        order
    }
}

#[test]
fn switching_between_encodings_is_seamless() {
    let mut stage = Stage::new();
    stage.play(30, &[0, 1, 2]);
    stage.wish(2, 3, false);
    stage.play(60, &[0, 1, 2]);
    stage.wish(1, 3, false);
    stage.play(60, &[0, 1, 2]);
    let layers = stage.seamless();
    assert_eq!(Stage::last_layers(&layers), [0, 2, 1]);
    let mut changes: Vec<i8> = stage
        .world
        .events(stage.server)
        .into_iter()
        .filter_map(|event| match event {
            Event::LayerChanged { spatial_layer, .. } => Some(spatial_layer),
            Event::Rejected { message, .. } => panic!("{message}"),
            _ => None,
        })
        .collect();
    // Temporal layers are told as they show.
    changes.dedup();
    assert_eq!(changes, [0, 2, 1]);
}

#[test]
fn clocks_of_encodings_are_aligned_by_their_sender_reports() {
    let mut stage = Stage::new();
    stage.play(10, &[0, 1, 2]);
    // Encoding 2 was captured 200 ms before what its arrival says.
    let elapsed = stage.world.now - stage.world.start;
    let seconds = 2_208_988_800 + 1_700_000_000 + elapsed.as_secs();
    let ntp = (seconds << 32) | ((u64::from(elapsed.subsec_nanos()) << 32) / 1_000_000_000);
    for (index, behind) in [(0, 0), (2, 200 * 90)] {
        let camera = &stage.cameras[index];
        let info = SenderInfo {
            ssrc: camera.ssrc,
            ntp_time: ntp,
            rtp_timestamp: camera.timestamp + behind,
            packet_count: 1,
            octet_count: 1,
        };
        let mut report = Vec::new();
        rtcp::write_sender_report(&mut report, &info, &[]);
        stage.world.send_rtcp(stage.publisher, &report);
    }
    stage.play(10, &[0, 1, 2]);
    let before = stage.world.bare(stage.subscriber).received.len();
    stage.wish(2, 3, false);
    stage.play(40, &[0, 1, 2]);
    let received = &stage.world.bare(stage.subscriber).received[before - 1..];
    let at = received
        .windows(2)
        .position(|pair| Stage::layer_of(&pair[0].1) != Stage::layer_of(&pair[1].1))
        .unwrap();
    let step = received[at + 1]
        .0
        .timestamp
        .wrapping_sub(received[at].0.timestamp) as i32;
    // The frame is older than the last one sent: time must not go back, and stands nearly still.
    assert!(step > 0 && step < 1000, "{step}");
    for pair in received.windows(2) {
        assert_eq!(pair[1].0.sequence, pair[0].0.sequence.wrapping_add(1));
    }
}

#[test]
fn a_lower_encoding_replaces_one_that_stops() {
    let mut stage = Stage::new();
    stage.wish(2, 3, false);
    stage.play(30, &[0, 1, 2]);
    stage.play(90, &[0, 1]);
    let received = stage.world.bare(stage.subscriber).received.clone();
    assert_eq!(Stage::layer_of(&received.last().unwrap().1), 1);
    for pair in received.windows(2) {
        assert_eq!(pair[1].0.sequence, pair[0].0.sequence.wrapping_add(1));
    }
    let stopped = stage.world.events(stage.server).into_iter().any(|event| {
        matches!(
            event,
            Event::EncodingStopped {
                spatial_layer: 2,
                ..
            }
        )
    });
    assert!(stopped);
}

#[test]
fn mute_and_pause_leave_no_seam() {
    let mut stage = Stage::new();
    stage.play(30, &[0]);
    stage.world.command(
        stage.server,
        Command::SetTrackMuted {
            track: track(1),
            muted: true,
        },
    );
    let before = stage.world.bare(stage.subscriber).received.len();
    stage.play(30, &[0]);
    let received = &stage.world.bare(stage.subscriber).received;
    let is_own = |payload: &[u8]| !payload.ends_with(&VP8_KEYFRAME);
    let during = received.iter().filter(|packet| is_own(&packet.1)).count();
    assert!(during <= before + 4, "{before} {during}");
    stage.world.command(
        stage.server,
        Command::SetTrackMuted {
            track: track(1),
            muted: false,
        },
    );
    stage.play(30, &[0]);
    stage.wish(0, 3, true);
    stage.play(30, &[0]);
    stage.wish(0, 3, false);
    stage.play(60, &[0]);
    stage.seamless();
    assert!(stage.world.bare(stage.subscriber).received.len() > during + 60);
}

#[test]
fn dropped_temporal_layers_leave_no_hole() {
    let mut stage = Stage::new();
    stage.play(20, &[0]);
    stage.wish(0, 0, false);
    let before = stage.world.bare(stage.subscriber).received.len();
    stage.play(60, &[0]);
    let base_only = stage.world.bare(stage.subscriber).received.len() - before;
    assert!((50..=75).contains(&base_only), "{base_only}");
    stage.wish(0, 3, false);
    stage.play(40, &[0]);
    stage.seamless();
    assert!(stage.world.bare(stage.subscriber).received.len() - before - base_only > 70);
}

#[test]
fn keyframe_requests_are_throttled() {
    let mut stage = Stage::new();
    stage.play(30, &[0]);
    let before = stage.world.bare(stage.publisher).keyframe_requests.len();
    for _ in 0..50 {
        stage.world.send_pli(stage.subscriber, OUT);
        stage.play(1, &[0]);
    }
    let asked = stage.world.bare(stage.publisher).keyframe_requests.len() - before;
    assert!((2..=5).contains(&asked), "{asked} requests in 1.7 s");
    assert!(
        stage
            .world
            .counter(stage.server, "keyframe_requests_throttled")
            > 20
    );
}

#[test]
fn padding_is_dropped_and_its_numbers_closed_up() {
    let mut stage = Stage::new();
    stage.play(5, &[0]);
    for _ in 0..5 {
        let camera = &mut stage.cameras[0];
        camera.sequence = camera.sequence.wrapping_add(1);
        let header = RtpHeader {
            payload_type: 96,
            sequence: camera.sequence,
            timestamp: camera.timestamp,
            ssrc: camera.ssrc,
            padding_len: 20,
            ..RtpHeader::default()
        };
        let mut padding = vec![0; 20];
        padding[19] = 20;
        stage.world.send_rtp(stage.publisher, &header, &padding);
        stage.play(3, &[0]);
    }
    stage.seamless();
    assert_eq!(stage.world.counter(stage.server, "padding_dropped"), 5);
}

#[test]
fn sender_reports_map_the_wall_clock_to_the_stream() {
    let mut stage = Stage::new();
    stage.play(200, &[0]);
    let reports = stage.world.bare(stage.subscriber).sender_reports.clone();
    assert!(reports.len() >= 2, "{}", reports.len());
    for pair in reports.windows(2) {
        let wall = (pair[1].ntp_time - pair[0].ntp_time) as f64 / 2_f64.powi(32);
        let media = f64::from(pair[1].rtp_timestamp.wrapping_sub(pair[0].rtp_timestamp)) / 90_000.0;
        assert!((wall - media).abs() < 0.05, "{wall} {media}");
    }
    let received = &stage.world.bare(stage.subscriber).received;
    let newest = received.last().unwrap().0.timestamp;
    let ahead = newest.wrapping_sub(reports.last().unwrap().rtp_timestamp) as i32;
    assert!((-9000..=280_000).contains(&ahead), "{ahead}");
}

#[test]
fn a_sender_added_again_under_its_ssrc_goes_on_numbering() {
    let mut stage = Stage::new();
    stage.play(30, &[0]);
    let before = stage
        .world
        .bare(stage.subscriber)
        .received
        .last()
        .unwrap()
        .0
        .sequence;
    stage
        .world
        .command(stage.server, Command::RemoveSender { sender: sid(1) });
    let mut config = sender(track(1), "0", OUT, vp8());
    config.max_spatial_layer = 0;
    stage.world.command(
        stage.server,
        Command::AddSender {
            pc: PcId(2),
            sender: sid(2),
            config,
        },
    );
    let count = stage.world.bare(stage.subscriber).received.len();
    stage.play(60, &[0]);
    let received = &stage.world.bare(stage.subscriber).received;
    assert!(received.len() > count + 60);
    // One number may be spent by what was on its way.
    for pair in received.windows(2) {
        assert!(
            pair[1].0.sequence.wrapping_sub(pair[0].0.sequence) <= 4,
            "after {before}"
        );
    }
}

#[test]
fn a_codec_change_under_one_ssrc_goes_on_numbering_and_begins_with_a_keyframe() {
    let mut stage = Stage::new();
    let h264 = Codec {
        mime: "video/H264".to_owned(),
        payload_type: 102,
        rtx_payload_type: None,
        ..vp8()
    };
    let mut config = receiver(TrackKind::Video, "1", h264.clone());
    config.encodings = vec![Encoding {
        spatial_layer: 0,
        rid: None,
        ssrc: Some(200),
        rtx_ssrc: None,
    }];
    stage.world.command(
        stage.server,
        Command::AddReceiver {
            pc: PcId(1),
            track: track(2),
            config,
        },
    );
    stage.play(30, &[0]);
    stage
        .world
        .command(stage.server, Command::RemoveSender { sender: sid(1) });
    stage.world.command(
        stage.server,
        Command::AddSender {
            pc: PcId(2),
            sender: sid(2),
            config: sender(track(2), "0", OUT, h264),
        },
    );
    // Another clock, another numbering, and keyframes only when asked for.
    let mut asked_before = 0;
    for number in 0..60_u16 {
        let asked = stage.world.bare(stage.publisher).keyframe_requests.len();
        let is_key = number > 5 && asked > asked_before;
        asked_before = asked;
        let header = RtpHeader {
            payload_type: 102,
            sequence: 9000 + number,
            timestamp: 7_000_000 + 3000 * u32::from(number),
            marker: true,
            ssrc: 200,
            ..RtpHeader::default()
        };
        let kind = if is_key { 0x65 } else { 0x61 };
        stage
            .world
            .send_rtp(stage.publisher, &header, &[kind, 1, 2, 3]);
        stage.world.run(Duration::from_nanos(33_333_333));
    }
    let received = stage.world.bare(stage.subscriber).received.clone();
    let at = received
        .iter()
        .position(|(header, ..)| header.payload_type == 102)
        .unwrap();
    assert!(
        at > 0 && received.len() - at > 20,
        "{at} of {}",
        received.len()
    );
    assert_eq!(received[at].1[0], 0x65, "not a keyframe");
    for pair in received.windows(2) {
        let [(a, _, a_at), (b, _, b_at)] = pair else {
            unreachable!()
        };
        assert_eq!(b.ssrc, OUT);
        assert_eq!(b.sequence, a.sequence.wrapping_add(1));
        let step = b.timestamp.wrapping_sub(a.timestamp) as i32;
        let real = i32::try_from((*b_at - *a_at).as_micros()).unwrap() * 9 / 100;
        assert!(
            step >= 0 && (step - real).abs() < 4000,
            "{step}, really {real}"
        );
    }
}

#[test]
fn red_goes_whole_to_who_takes_it_and_as_opus_to_who_does_not() {
    for takes_red in [true, false] {
        let mut world = World::new();
        let server = world.add_shard();
        let (publisher, subscriber) = (world.add_bare(server, 1), world.add_bare(server, 2));
        let red = Codec {
            mime: "audio/red".to_owned(),
            payload_type: 63,
            ..opus()
        };
        let mut config = receiver(TrackKind::Audio, "0", red.clone());
        config.codecs.push(opus());
        config.encodings = vec![Encoding {
            spatial_layer: 0,
            rid: None,
            ssrc: Some(7),
            rtx_ssrc: None,
        }];
        world.command(
            server,
            Command::AddReceiver {
                pc: PcId(1),
                track: track(1),
                config,
            },
        );
        let mut config = sender(track(1), "0", OUT, opus());
        if takes_red {
            config.codecs.push(red);
        }
        world.command(
            server,
            Command::AddSender {
                pc: PcId(2),
                sender: sid(1),
                config,
            },
        );
        world.run_ms(1000);
        for number in 0..10_u8 {
            // One redundant block of two bytes, then the primary one; every third packet is plain opus.
            let redundant = vec![0x80 | 111, 15, 0, 2, 111, 1, 2, number, 9, 9];
            let (payload_type, payload) = if number % 3 == 2 {
                (111, vec![number, 9, 9])
            } else {
                (63, redundant)
            };
            let header = RtpHeader {
                payload_type,
                sequence: 500 + u16::from(number),
                timestamp: 960 * u32::from(number),
                ssrc: 7,
                ..RtpHeader::default()
            };
            world.send_rtp(publisher, &header, &payload);
            world.run_ms(20);
        }
        world.run_ms(100);
        let received = &world.bare(subscriber).received;
        assert_eq!(received.len(), 10);
        for (number, (header, payload, _)) in received.iter().enumerate() {
            let is_whole = takes_red && number % 3 != 2;
            assert_eq!(header.payload_type, if is_whole { 63 } else { 111 });
            let primary = &payload[if is_whole { 7 } else { 0 }..];
            assert_eq!(primary, [number as u8, 9, 9]);
            assert_eq!(header.sequence, received[0].0.sequence + number as u16);
        }
    }
}

#[test]
fn data_goes_both_ways() {
    let mut stage = Stage::new();
    let (server, subscriber) = (stage.server, stage.subscriber);
    for label in ["_reliable", "_lossy"] {
        let (ordered, max_retransmits) = if label == "_lossy" {
            (false, Some(0))
        } else {
            (true, None)
        };
        stage.world.command(
            server,
            Command::OpenDataChannel {
                pc: PcId(2),
                label: label.to_owned(),
                ordered,
                max_retransmits,
            },
        );
    }
    stage.world.run_ms(1000);
    assert_eq!(stage.world.bare(subscriber).opened.len(), 2);
    stage.world.command(
        server,
        Command::SendData {
            pcs: vec![PcId(2), PcId(77)],
            label: "_reliable".to_owned(),
            payload: b"down".to_vec(),
            binary: true,
        },
    );
    stage.world.send_data(subscriber, "_lossy", b"up");
    stage.world.run_ms(200);
    assert_eq!(
        stage.world.bare(subscriber).data,
        [("_reliable".to_owned(), b"down".to_vec())]
    );
    let events = stage.world.events(server);
    assert!(events.contains(&Event::DataReceived {
        pc: PcId(2),
        label: "_lossy".to_owned(),
        payload: b"up".to_vec(),
        binary: true,
    }));
    assert!(events.iter().any(|event| matches!(
        event,
        Event::Rejected {
            command: "send_data",
            id: 77,
            ..
        }
    )));
}

#[test]
fn a_session_moves_to_another_shard_without_a_seam() {
    let mut stage = Stage::new();
    let (old, subscriber, publisher) = (stage.server, stage.subscriber, stage.publisher);
    stage.world.command(
        old,
        Command::OpenDataChannel {
            pc: PcId(2),
            label: "_reliable".to_owned(),
            ordered: true,
            max_retransmits: None,
        },
    );
    stage.play(60, &[0]);
    let new = stage.world.add_shard();
    for (pc, client) in [(1, publisher), (2, subscriber)] {
        let state = stage
            .world
            .shard(old)
            .export_peer_connection(PcId(pc))
            .unwrap();
        stage
            .world
            .command(old, Command::ClosePeerConnection { pc: PcId(pc) });
        let config = pc_config(&format!("moved{pc}"), true);
        stage.world.command(
            new,
            Command::ImportPeerConnection {
                pc: PcId(pc),
                state,
                config: config.clone(),
            },
        );
        stage.world.restart_bare(client);
        stage.world.introduce_bare(client, new, pc, &config);
    }
    stage.world.run_ms(1500);
    assert_eq!(stage.world.bare(publisher).connected, 2);
    assert_eq!(stage.world.bare(subscriber).connected, 2);
    // The publisher's clock went on.
    stage.cameras[0].timestamp = stage.cameras[0].timestamp.wrapping_add(90 * 1500);
    let before = stage.world.bare(subscriber).received.len();
    stage.play(60, &[0]);
    assert!(stage.world.bare(subscriber).received.len() > before + 100);
    stage.seamless();
    stage.world.command(
        new,
        Command::SendData {
            pcs: vec![PcId(2)],
            label: "_reliable".to_owned(),
            payload: b"after".to_vec(),
            binary: true,
        },
    );
    stage.world.run_ms(200);
    assert_eq!(
        stage.world.bare(subscriber).data.last().unwrap().1,
        b"after"
    );
    let events = stage.world.events(new);
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::Rejected { .. })),
        "{events:?}"
    );
}

#[test]
fn impossible_commands_are_rejected_and_change_nothing() {
    let mut world = World::new();
    let server = world.add_shard();
    let remote = RemoteTransport {
        ice_ufrag: "x".into(),
        ice_pwd: "y".into(),
        fingerprint: "z".into(),
    };
    let config = pc_config("a", true);
    let commands = vec![
        Command::SetRemote {
            pc: PcId(9),
            remote,
        },
        Command::ClosePeerConnection { pc: PcId(9) },
        Command::RestartIce {
            pc: PcId(9),
            ice_ufrag: "abcd".into(),
            ice_pwd: "x".repeat(22),
        },
        Command::AddRemoteCandidate {
            pc: PcId(9),
            candidate: "candidate:".into(),
        },
        Command::AddReceiver {
            pc: PcId(9),
            track: track(1),
            config: three_encodings(),
        },
        Command::UpdateReceiver {
            track: track(9),
            config: three_encodings(),
        },
        Command::AddSource {
            track: track(1),
            config: video_source(0, 100),
        },
        Command::SetTrackMuted {
            track: track(9),
            muted: true,
        },
        Command::RequestKeyframe { track: track(9) },
        Command::RemoveTrack { track: track(9) },
        Command::AddSender {
            pc: PcId(9),
            sender: sid(1),
            config: sender(track(9), "0", 1, vp8()),
        },
        Command::SetSenderLayers {
            sender: sid(9),
            max_spatial_layer: 0,
            max_temporal_layer: 0,
            paused: false,
            priority: None,
        },
        Command::RemoveSender { sender: sid(9) },
        Command::ImportPeerConnection {
            pc: PcId(9),
            state: vec![1, 0xff, 0xff],
            config: config.clone(),
        },
        Command::ImportPeerConnection {
            pc: PcId(9),
            state: vec![99],
            config,
        },
    ];
    for command in commands {
        let text = format!("{command:?}");
        world.command(server, command);
        let events = world.events(server);
        assert!(
            matches!(events[..], [Event::Rejected { .. }]),
            "{text}: {events:?}"
        );
    }
    let stats = world.stats(server);
    assert_eq!(
        (
            stats.tracks.len(),
            stats.senders.len(),
            stats.peer_connections.len()
        ),
        (0, 0, 0)
    );
}

impl Stage {
    fn cap(&mut self, bps: Option<u64>, allow_pause: bool) {
        self.world.command(
            self.server,
            Command::SetBandwidthCap {
                pc: PcId(2),
                bps,
                allow_pause,
            },
        );
    }

    fn pauses(&mut self) -> Vec<bool> {
        let events = self.world.events(self.server).into_iter();
        let pauses = events.filter_map(|event| match event {
            Event::SenderPaused { sender, paused } => {
                assert_eq!(sender, sid(1));
                Some(paused)
            }
            Event::Rejected { message, .. } => panic!("{message}"),
            _ => None,
        });
        pauses.collect()
    }

    fn received(&mut self) -> usize {
        self.world.bare(self.subscriber).received.len()
    }
}

#[test]
fn what_does_not_fit_is_paused_and_comes_back_with_the_room_for_it() {
    let mut stage = Stage::new();
    stage.wish(0, 3, false);
    stage.play(60, &[0]);
    assert_eq!(stage.pauses(), []);
    stage.cap(Some(5_000), true);
    stage.play(10, &[0]);
    assert_eq!(stage.pauses(), [true]);
    let before = stage.received();
    stage.play(60, &[0]);
    assert_eq!(stage.received(), before);
    stage.cap(None, true);
    stage.play(60, &[0]);
    assert_eq!(stage.pauses(), [false]);
    assert!(stage.received() > before + 60);
    stage.seamless();
}

#[test]
fn without_leave_to_pause_the_smallest_layer_goes_on_over_any_bound() {
    let mut stage = Stage::new();
    stage.wish(2, 3, false);
    stage.play(60, &[0, 1, 2]);
    stage.cap(Some(5_000), false);
    stage.play(60, &[0, 1, 2]);
    let before = stage.received();
    stage.play(60, &[0, 1, 2]);
    assert_eq!(stage.pauses(), []);
    assert!(stage.received() > before);
    let layers = stage.seamless();
    assert_eq!(layers.last(), Some(&0));
}

#[test]
fn frame_rate_is_given_up_before_a_picture() {
    let mut stage = Stage::new();
    stage.wish(0, 3, false);
    stage.play(90, &[0]);
    let before = stage.received();
    stage.play(60, &[0]);
    let full = stage.received() - before;
    stage.cap(Some(110_000), true);
    stage.play(60, &[0]);
    let before = stage.received();
    stage.play(60, &[0]);
    let capped = stage.received() - before;
    assert!(capped * 4 <= full * 3 && capped > 0, "{capped} of {full}");
    assert_eq!(stage.pauses(), []);
    stage.seamless();
}

#[test]
fn a_priority_that_changes_decides_anew_who_is_paused() {
    let mut stage = Stage::new();
    stage.world.command(
        stage.server,
        Command::AddSender {
            pc: PcId(2),
            sender: sid(2),
            config: sender(track(1), "1", OUT + 1, vp8()),
        },
    );
    let want = |stage: &mut Stage, which, priority| {
        stage.world.command(
            stage.server,
            Command::SetSenderLayers {
                sender: which,
                max_spatial_layer: 0,
                max_temporal_layer: 0,
                paused: false,
                priority,
            },
        );
        stage.play(60, &[0]);
        let events = stage.world.events(stage.server).into_iter();
        let pauses = events.filter_map(|event| match event {
            Event::SenderPaused { sender, paused } => Some((sender, paused)),
            Event::Rejected { message, .. } => panic!("{message}"),
            _ => None,
        });
        pauses.collect::<Vec<_>>()
    };
    want(&mut stage, sid(1), Some(5));
    stage.cap(Some(110_000), true);
    assert_eq!(want(&mut stage, sid(2), None), [(sid(2), true)]);
    let mut changed = want(&mut stage, sid(2), Some(6));
    changed.sort_by_key(|(which, _)| which.0);
    assert_eq!(changed, [(sid(1), true), (sid(2), false)]);
    assert_eq!(want(&mut stage, sid(2), None), []);
}
