//! Properties of a forwarder under random loss, reordering, switches, pauses and layer wishes.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use mediacore_core::TrackKind;
use mediacore_core::codec::vp8::parse_vp8;
use mediacore_core::forward::{Body, EncodingView, Forwarder, Rewrite, Wish};
use mediacore_core::published::{CodecKind, PublishedPacket};

struct Encoding {
    sequence: u64,
    timestamp: u32,
    picture_id: u16,
    tl0: u8,
    frames: u32,
}

fn packet(
    encoding: u8,
    state: &mut Encoding,
    index: u8,
    keyframe: bool,
    temporal: u8,
    arrival: Instant,
) -> PublishedPacket {
    let [high, low] = state.picture_id.to_be_bytes();
    let payload = vec![
        0x80 | u8::from(index == 0) << 4,
        0xe0,
        0x80 | high,
        low,
        state.tl0,
        temporal << 6 | u8::from(temporal > 0) << 5,
        u8::from(!keyframe),
        1,
        2,
    ];
    let vp8 = parse_vp8(&payload).unwrap();
    state.sequence += 1;
    PublishedPacket {
        encoding,
        kind: CodecKind::Vp8,
        sequence: state.sequence,
        timestamp: state.timestamp,
        marker: index == 2,
        keyframe: vp8.keyframe,
        frame_start: vp8.start_of_frame,
        temporal,
        vp8: Some(vp8),
        payload,
        ..PublishedPacket::empty(arrival)
    }
}

/// What went out: number → rewrite and when; lost numbers are those the network took before the forwarder.
fn run(seed: u64, loss: f64, late: f64) -> (BTreeMap<u64, Rewrite>, u64, usize) {
    let mut random = fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let mut encodings: Vec<Encoding> = (0..3)
        .map(|_| Encoding {
            sequence: 70_000 + random.u64(..60_000),
            timestamp: random.u32(..),
            picture_id: random.u16(..0x8000),
            tl0: random.u8(..),
            frames: 0,
        })
        .collect();
    let views: Vec<EncodingView> = (0..3)
        .map(|spatial| EncodingView {
            spatial,
            active: true,
            clock: None,
        })
        .collect();
    let mut wish = Wish {
        spatial: 2,
        temporal: 3,
        paused: false,
    };
    let first = random.u16(..);
    let mut forwarder = Forwarder::new(TrackKind::Video, 90_000, wish, false, first);
    let mut sent: BTreeMap<u64, Rewrite> = BTreeMap::new();
    let mut withheld_by_network = 0;
    let mut delayed: Vec<(u64, PublishedPacket)> = Vec::new();
    for step in 0..600_u64 {
        let now = start + Duration::from_micros(33_333 * step);
        let wall_ns = 1_700_000_000_000_000_000 + 33_333_000 * step;
        if random.u8(..) < 10 {
            wish = Wish {
                spatial: random.u8(..3),
                temporal: random.u8(..3),
                paused: random.u8(..) < 60,
            };
            forwarder.set_wish(wish);
        }
        forwarder.retarget(&views, random.u8(..) == 0, now);
        let wanted = forwarder.awaits_keyframe();
        let mut arriving = Vec::new();
        for (index, state) in encodings.iter_mut().enumerate() {
            state.timestamp = state.timestamp.wrapping_add(3000);
            state.picture_id = (state.picture_id + 1) & 0x7fff;
            let keyframe = wanted == Some(index) || state.frames == 0;
            let temporal = if keyframe {
                0
            } else {
                [0, 2, 1, 2][state.frames as usize % 4]
            };
            state.frames = if keyframe { 1 } else { state.frames + 1 };
            if temporal == 0 {
                state.tl0 = state.tl0.wrapping_add(1);
            }
            for part in 0..3 {
                let packet = packet(index as u8, state, part, keyframe, temporal, now);
                if random.f64() < loss {
                    withheld_by_network += 1;
                } else if random.f64() < late {
                    delayed.push((step + random.u64(1..4), packet));
                } else {
                    arriving.push(packet);
                }
            }
        }
        delayed.retain(|(due, packet)| {
            let is_due = *due <= step;
            if is_due {
                arriving.push(packet.clone());
            }
            !is_due
        });
        for packet in arriving {
            if let Ok(rewrite) = forwarder.forward(&packet, &views, wall_ns) {
                let before = sent.insert(rewrite.sequence, rewrite);
                assert!(
                    before.is_none(),
                    "seed {seed}: number {} used twice",
                    rewrite.sequence
                );
            }
        }
    }
    (sent, withheld_by_network, delayed.len())
}

#[test]
fn without_loss_numbers_have_no_hole_and_time_never_goes_back() {
    for seed in 0..60 {
        let (sent, _, _) = run(seed, 0.0, 0.0);
        assert!(sent.len() > 50, "seed {seed}");
        let numbers: Vec<_> = sent.iter().collect();
        for pair in numbers.windows(2) {
            let [(a, before), (b, after)] = pair else {
                unreachable!()
            };
            assert_eq!(**b, **a + 1, "seed {seed}");
            assert!(
                after.timestamp.wrapping_sub(before.timestamp) as i32 >= 0,
                "seed {seed}"
            );
            let (
                Body::Vp8 {
                    picture_id: from, ..
                },
                Body::Vp8 { picture_id: to, .. },
            ) = (before.body, after.body)
            else {
                panic!("seed {seed}: not rewritten");
            };
            let step = to.wrapping_sub(from) & 0x7fff;
            assert_eq!(
                step,
                u16::from(after.timestamp != before.timestamp),
                "seed {seed}"
            );
        }
    }
}

#[test]
fn late_packets_take_the_numbers_kept_for_them() {
    for seed in 0..60 {
        let (sent, _, _) = run(seed, 0.0, 0.05);
        let (first, last) = (*sent.keys().next().unwrap(), *sent.keys().last().unwrap());
        let holes = last - first + 1 - sent.len() as u64;
        // What arrives only after a switch away is lost to the subscriber.
        assert!(
            holes * 50 < sent.len() as u64,
            "seed {seed}: {holes} holes in {}",
            sent.len()
        );
    }
}

#[test]
fn under_loss_no_number_is_used_twice_and_frames_keep_their_ids() {
    for seed in 0..60 {
        let (sent, lost, _) = run(seed, 0.1, 0.05);
        let (first, last) = (*sent.keys().next().unwrap(), *sent.keys().last().unwrap());
        let holes = last - first + 1 - sent.len() as u64;
        assert!(
            holes <= lost + sent.len() as u64 / 20,
            "seed {seed}: {holes} holes, {lost} lost"
        );
        let mut by_time: BTreeMap<u32, HashSet<u16>> = BTreeMap::new();
        for rewrite in sent.values() {
            if let Body::Vp8 { picture_id, .. } = rewrite.body {
                by_time
                    .entry(rewrite.timestamp)
                    .or_default()
                    .insert(picture_id);
            }
        }
        assert!(
            by_time.values().all(|ids| ids.len() == 1),
            "seed {seed}: a frame with two picture ids"
        );
    }
}
