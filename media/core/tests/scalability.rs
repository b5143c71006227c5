//! What a subscriber gets of a scalable stream, by a model of what each frame is decoded from: whatever is wished for,
//! lost or late, nothing goes out that refers to a frame held back, and the wish is reached.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use mediacore_core::TrackKind;
use mediacore_core::codec::dependency::DescriptorMemory;
use mediacore_core::codec::vp9::parse_vp9;
use mediacore_core::forward::{Body, EncodingView, Forwarder, Wish, Withheld};
use mediacore_core::published::{CodecKind, PublishedPacket};

/// Bits, the highest first.
#[derive(Default)]
struct Bits(Vec<bool>);

impl Bits {
    fn put(&mut self, value: u32, width: u32) {
        for bit in (0..width).rev() {
            self.0.push(value >> bit & 1 != 0);
        }
    }

    /// ns(n) of AV1, section 4.10.7.
    fn put_below(&mut self, value: u32, limit: u32) {
        let width = u32::BITS - limit.leading_zeros();
        let short = (1 << width) - limit;
        if value < short {
            self.put(value, width - 1);
        } else {
            self.put(value + short, width);
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let pack = |bits: &[bool]| {
            bits.iter()
                .enumerate()
                .fold(0, |byte, (at, &bit)| byte | u8::from(bit) << (7 - at))
        };
        self.0.chunks(8).map(pack).collect()
    }
}

/// How layers are told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    /// By the dependency descriptor.
    Descriptor,
    /// By VP9's payload descriptor with its references.
    Flexible,
    /// By VP9's payload descriptor with switching points.
    Switching,
}

#[derive(Clone, Copy, Debug)]
struct Mode {
    spatial: u8,
    temporal: u8,
    /// Layers refer to each other in keyframes only.
    key_only: bool,
    told: Told,
}

#[derive(Clone, Debug)]
struct Frame {
    number: u16,
    spatial: u8,
    temporal: u8,
    key: bool,
    references: Vec<u16>,
    unit: u32,
}

struct Encoder {
    mode: Mode,
    number: u16,
    sequence: u64,
    unit: u32,
    since_key: u32,
    timestamp: u32,
    picture_id: u16,
    /// By (spatial, temporal): newest frame.
    newest: HashMap<(u8, u8), u16>,
    /// By chain: its newest frame.
    chains: Vec<Option<u16>>,
    memory: DescriptorMemory,
}

impl Encoder {
    fn new(mode: Mode, random: &mut fastrand::Rng) -> Self {
        Self {
            mode,
            number: random.u16(..),
            sequence: 70_000 + random.u64(..60_000),
            unit: 0,
            since_key: 0,
            timestamp: random.u32(..),
            picture_id: random.u16(..0x8000),
            newest: HashMap::new(),
            chains: vec![None; usize::from(mode.spatial)],
            memory: DescriptorMemory::default(),
        }
    }

    fn targets(&self) -> impl Iterator<Item = (u8, u8)> + use<> {
        let mode = self.mode;
        (0..mode.spatial).flat_map(move |s| (0..mode.temporal).map(move |t| (s, t)))
    }

    /// 0 not present, 1 discardable, 2 switch, 3 required.
    fn indication(&self, spatial: u8, temporal: u8, key: bool, target: (u8, u8)) -> u32 {
        let (s, t) = target;
        if s < spatial || t < temporal {
            return 0;
        }
        if key {
            return 2;
        }
        if s > spatial {
            return if self.mode.key_only { 0 } else { 3 };
        }
        if temporal == 0 || t > temporal { 2 } else { 1 }
    }

    fn structure(&self, bits: &mut Bits) {
        let layers: Vec<(u8, u8)> = self.targets().collect();
        bits.put(0, 6);
        bits.put(layers.len() as u32 - 1, 5);
        for pair in layers.windows(2) {
            bits.put(if pair[0].0 == pair[1].0 { 1 } else { 2 }, 2);
        }
        bits.put(3, 2);
        for &(s, t) in &layers {
            for target in self.targets() {
                bits.put(self.indication(s, t, false, target), 2);
            }
        }
        for _ in &layers {
            bits.put(1, 1);
            bits.put(0, 4);
            bits.put(0, 1);
        }
        let chains = u32::from(self.mode.spatial);
        bits.put_below(chains, layers.len() as u32 + 1);
        for &(s, _) in &layers {
            bits.put_below(u32::from(s), chains);
        }
        for _ in 0..layers.len() as u32 * chains {
            bits.put(1, 4);
        }
        bits.put(0, 1);
    }

    fn descriptor(&self, frame: &Frame, starts: bool, ends: bool) -> Vec<u8> {
        let mut bits = Bits::default();
        bits.put(u32::from(starts), 1);
        bits.put(u32::from(ends), 1);
        let template = frame.spatial * self.mode.temporal + frame.temporal;
        bits.put(u32::from(template), 6);
        bits.put(u32::from(frame.number), 16);
        let has_structure = frame.key && frame.spatial == 0 && starts;
        bits.put(u32::from(has_structure), 1);
        bits.put(0b0111, 4);
        if has_structure {
            self.structure(&mut bits);
        }
        for target in self.targets() {
            bits.put(
                self.indication(frame.spatial, frame.temporal, frame.key, target),
                2,
            );
        }
        for reference in &frame.references {
            bits.put(2, 2);
            bits.put(u32::from(frame.number.wrapping_sub(*reference)) - 1, 8);
        }
        bits.put(0, 2);
        for before in &self.chains {
            let starts_anew = frame.key && frame.spatial == 0;
            let link = before
                .filter(|_| !starts_anew)
                .map_or(0, |before| frame.number.wrapping_sub(before));
            bits.put(u32::from(link), 8);
        }
        bits.bytes()
    }

    fn payload(&self, frame: &Frame, starts: bool, ends: bool, pictures: &[u16]) -> Vec<u8> {
        let flexible = self.mode.told == Told::Flexible;
        let inter_layer = frame.spatial > 0 && (frame.key || !self.mode.key_only);
        let [high, low] = self.picture_id.to_be_bytes();
        let mut payload = vec![
            0xa0 | u8::from(!frame.key) << 6
                | u8::from(flexible) << 4
                | u8::from(starts) << 3
                | u8::from(ends) << 2,
            0x80 | high,
            low,
            frame.temporal << 5
                | u8::from(self.mode.told == Told::Switching) << 4
                | frame.spatial << 1
                | u8::from(inter_layer),
        ];
        if flexible && !frame.key {
            payload.push((self.picture_id.wrapping_sub(pictures[0]) as u8 & 0x7f) << 1);
        } else if !flexible {
            payload.push(0);
        }
        payload.push(9);
        payload
    }

    /// The packets of the next temporal unit, two for each frame.
    fn unit(&mut self, key: bool, now: Instant) -> Vec<(Frame, PublishedPacket)> {
        let pattern: &[u8] = match self.mode.temporal {
            1 => &[0],
            2 => &[0, 1],
            _ => &[0, 2, 1, 2],
        };
        if key {
            self.since_key = 0;
            self.newest.clear();
        }
        let temporal = pattern[self.since_key as usize % pattern.len()];
        self.since_key += 1;
        self.unit += 1;
        self.timestamp = self.timestamp.wrapping_add(3000);
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        let mut packets = Vec::new();
        let mut below = None;
        for spatial in 0..self.mode.spatial {
            self.number = self.number.wrapping_add(1);
            let before = (0..=temporal.saturating_sub(u8::from(temporal > 0)))
                .filter_map(|t| self.newest.get(&(spatial, t)))
                .copied()
                .min_by_key(|&number| self.number.wrapping_sub(number))
                .filter(|_| !key);
            let mut references = Vec::new();
            references.extend(before);
            references.extend(below.filter(|_| key || !self.mode.key_only));
            let frame = Frame {
                number: self.number,
                spatial,
                temporal,
                key,
                references,
                unit: self.unit,
            };
            // Picture ids grow with the units: as many back as the reference's unit is.
            let pictures_back = before.map_or(0, |number| {
                self.number.wrapping_sub(number) / u16::from(self.mode.spatial)
            });
            let referred = [self.picture_id.wrapping_sub(pictures_back)];
            for part in [0, 1] {
                let (starts, ends) = (part == 0, part == 1);
                self.sequence += 1;
                let mut packet = PublishedPacket {
                    sequence: self.sequence,
                    timestamp: self.timestamp,
                    marker: ends && spatial + 1 == self.mode.spatial,
                    ..PublishedPacket::empty(now)
                };
                if self.mode.told == Told::Descriptor {
                    packet.kind = CodecKind::Av1;
                    packet.payload = vec![1, 2, 3];
                    packet.descriptor = self.descriptor(&frame, starts, ends);
                    let read = self.memory.read(&packet.descriptor, self.sequence).unwrap();
                    assert_eq!((read.starts, read.ends), (starts, ends));
                    packet.frame_start = starts;
                    packet.keyframe = read.has_structure;
                    packet.temporal = temporal;
                    packet.frame = Some(read);
                } else {
                    packet.kind = CodecKind::Vp9;
                    packet.payload = self.payload(&frame, starts, ends, &referred);
                    let vp9 = parse_vp9(&packet.payload).unwrap();
                    packet.frame_start = starts;
                    packet.keyframe = vp9.is_keyframe();
                    packet.temporal = temporal;
                    packet.vp9 = Some(vp9);
                }
                packets.push((frame.clone(), packet));
            }
            below = Some(self.number);
            self.newest.insert((spatial, temporal), self.number);
            if temporal == 0 {
                for (chain, newest) in self.chains.iter_mut().enumerate() {
                    let chain = chain as u8;
                    if chain == spatial || (chain > spatial && (key || !self.mode.key_only)) {
                        *newest = Some(self.number);
                    }
                }
            }
        }
        packets
    }
}

struct Outcome {
    /// By sequence number: frame, whether the packet ends a picture.
    sent: BTreeMap<u64, (Frame, bool)>,
    /// What was said to flow in the end.
    reported: (i8, i8),
    wish: Wish,
    keyframes: u32,
    last_unit: u32,
}

fn run(mode: Mode, seed: u64, loss: f64, late: f64) -> Outcome {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut encoder = Encoder::new(mode, &mut random);
    let start = Instant::now();
    let views = [EncodingView {
        spatial: 0,
        active: true,
        clock: None,
    }];
    let mut wish = Wish {
        spatial: 2,
        temporal: 3,
        paused: false,
    };
    let mut forwarder = Forwarder::new(TrackKind::Video, 90_000, wish, false, random.u16(..));
    let mut outcome = Outcome {
        sent: BTreeMap::new(),
        reported: (-1, -1),
        wish,
        keyframes: 0,
        last_unit: 0,
    };
    // Frames by what became of them; a run is shorter than a cycle of their numbers.
    let (mut went, mut held_back) = (HashSet::new(), HashSet::new());
    let mut delayed: Vec<(u64, Frame, PublishedPacket)> = Vec::new();
    let mut key_due = Some(0);
    let (steps, calm) = (500, 150);
    for step in 0..steps {
        let now = start + Duration::from_micros(33_333 * step);
        let wall_ns = 1_700_000_000_000_000_000 + 33_333_000 * step;
        let is_calm = step >= steps - calm;
        if !is_calm && random.u8(..) < 12 {
            wish = Wish {
                spatial: random.u8(..3),
                temporal: random.u8(..3),
                paused: random.u8(..) < 20,
            };
            forwarder.set_wish(wish);
        }
        if step == steps - calm {
            wish.paused = false;
            forwarder.set_wish(wish);
        }
        forwarder.retarget(&views, false, now);
        if forwarder.awaits_keyframe().is_some() && key_due.is_none() {
            key_due = Some(step + random.u64(2..10));
        }
        let key = key_due.is_some_and(|due| due <= step);
        if key {
            key_due = None;
            outcome.keyframes += 1;
        }
        let mut arriving = Vec::new();
        for (frame, packet) in encoder.unit(key, now) {
            if !is_calm && random.f64() < loss {
                continue;
            }
            if !is_calm && random.f64() < late {
                delayed.push((step + random.u64(1..4), frame, packet));
            } else {
                arriving.push((frame, packet));
            }
        }
        delayed.retain(|(due, frame, packet)| {
            if *due <= step {
                arriving.push((frame.clone(), packet.clone()));
            }
            *due > step
        });
        for (frame, packet) in arriving {
            let result = forwarder.forward(&packet, &views, wall_ns);
            if let Some(layers) = forwarder.take_layer_change(&views) {
                outcome.reported = layers;
            }
            let is_waiting = result == Err(Withheld::Waiting);
            let Some(rewrite) = result.ok().filter(|rewrite| rewrite.body != Body::Padding) else {
                // A keyframe that comes late begins the stream with what came before it missing, until it is given up.
                if !is_waiting && !went.contains(&frame.number) {
                    held_back.insert(frame.number);
                }
                continue;
            };
            // VP9's own descriptor names pictures, not frames, and only in one of its two modes.
            if went.insert(frame.number) && mode.told == Told::Descriptor {
                assert!(
                    !frame.references.iter().any(|it| held_back.contains(it)),
                    "{mode:?} {seed}: {frame:?} refers to what was held back"
                );
            }
            assert_eq!(rewrite.frame_offset, 0);
            let known = outcome
                .sent
                .insert(rewrite.sequence, (frame, rewrite.marker));
            assert!(known.is_none(), "{mode:?} {seed}: a number used twice");
        }
    }
    outcome.wish = wish;
    outcome.last_unit = encoder.unit;
    outcome
}

fn modes() -> Vec<Mode> {
    let mut modes = Vec::new();
    for told in [Told::Descriptor, Told::Flexible, Told::Switching] {
        for (spatial, temporal) in (1..=3).flat_map(|s| (1..=3).map(move |t| (s, t))) {
            for key_only in [false, true] {
                if !key_only || spatial > 1 {
                    modes.push(Mode {
                        spatial,
                        temporal,
                        key_only,
                        told,
                    });
                }
            }
        }
    }
    modes
}

/// The last second of a run has what is wished for and what is told.
fn assert_wish_is_reached(mode: Mode, seed: u64, outcome: &Outcome) {
    let frames = || {
        outcome
            .sent
            .values()
            .filter(|(frame, _)| frame.unit + 30 > outcome.last_unit)
    };
    let highest = (
        frames().map(|(frame, _)| frame.spatial).max(),
        frames().map(|(frame, _)| frame.temporal).max(),
    );
    let wished = (
        outcome.wish.spatial.min(mode.spatial - 1),
        outcome.wish.temporal.min(mode.temporal - 1),
    );
    assert_eq!(
        highest,
        (Some(wished.0), Some(wished.1)),
        "{mode:?} {seed}: wish {:?}",
        outcome.wish
    );
    assert_eq!(
        outcome.reported,
        (wished.0 as i8, wished.1 as i8),
        "{mode:?} {seed}: what is told"
    );
}

#[test]
fn without_loss_every_frame_that_goes_can_be_decoded_and_ends_its_picture() {
    for mode in modes() {
        for seed in 0..12 {
            let outcome = run(mode, seed, 0.0, 0.0);
            let numbers: Vec<u64> = outcome.sent.keys().copied().collect();
            assert!(
                numbers.windows(2).all(|pair| pair[1] == pair[0] + 1),
                "{mode:?} {seed}: a hole"
            );
            let mut decoded = HashSet::new();
            for (frame, _) in outcome.sent.values() {
                assert!(
                    frame.references.iter().all(|it| decoded.contains(it)),
                    "{mode:?} {seed}: {frame:?} refers to what did not go"
                );
                decoded.insert(frame.number);
            }
            let packets: Vec<_> = outcome.sent.values().collect();
            for pair in packets.windows(2) {
                assert_eq!(
                    pair[0].1,
                    pair[0].0.unit != pair[1].0.unit,
                    "{mode:?} {seed}: marker of {:?} before {:?}",
                    pair[0].0,
                    pair[1].0
                );
            }
            assert_wish_is_reached(mode, seed, &outcome);
        }
    }
}

#[test]
fn a_downgrade_needs_no_keyframe_where_all_layers_go() {
    for told in [Told::Descriptor, Told::Flexible, Told::Switching] {
        let mode = Mode {
            spatial: 3,
            temporal: 3,
            key_only: false,
            told,
        };
        let mut random = fastrand::Rng::with_seed(1);
        let mut encoder = Encoder::new(mode, &mut random);
        let views = [EncodingView {
            spatial: 0,
            active: true,
            clock: None,
        }];
        let mut wish = Wish {
            spatial: 2,
            temporal: 2,
            paused: false,
        };
        let mut forwarder = Forwarder::new(TrackKind::Video, 90_000, wish, false, 1);
        let now = Instant::now();
        forwarder.retarget(&views, false, now);
        for unit in 0..20 {
            for (_, packet) in encoder.unit(unit == 0, now) {
                assert!(forwarder.forward(&packet, &views, 0).is_ok(), "{told:?}");
            }
        }
        (wish.spatial, wish.temporal) = (0, 0);
        forwarder.set_wish(wish);
        forwarder.retarget(&views, false, now);
        assert_eq!(forwarder.awaits_keyframe(), None, "{told:?}");
        for _ in 20..28 {
            for (frame, packet) in encoder.unit(false, now) {
                let goes = forwarder.forward(&packet, &views, 0).is_ok();
                assert_eq!(goes, (frame.spatial, frame.temporal) == (0, 0), "{told:?}");
            }
        }
        // Time comes back without a keyframe, space does not.
        (wish.spatial, wish.temporal) = (0, 2);
        forwarder.set_wish(wish);
        let mut temporal = HashSet::new();
        for _ in 28..36 {
            for (frame, packet) in encoder.unit(false, now) {
                if forwarder.forward(&packet, &views, 0).is_ok() {
                    temporal.insert(frame.temporal);
                }
            }
        }
        assert_eq!(temporal.len(), 3, "{told:?}");
        wish.spatial = 2;
        forwarder.set_wish(wish);
        assert_eq!(forwarder.awaits_keyframe(), Some(0), "{told:?}");
    }
}

#[test]
fn under_loss_nothing_goes_that_refers_to_what_was_held_back() {
    for mode in modes() {
        for seed in 0..12 {
            let outcome = run(mode, seed, 0.04, 0.04);
            assert_wish_is_reached(mode, seed, &outcome);
        }
    }
}

#[test]
fn a_chain_that_stays_broken_brings_lower_layers_and_a_keyframe_request() {
    let mode = Mode {
        spatial: 2,
        temporal: 1,
        key_only: false,
        told: Told::Descriptor,
    };
    let mut encoder = Encoder::new(mode, &mut fastrand::Rng::with_seed(3));
    let views = [EncodingView {
        spatial: 0,
        active: true,
        clock: None,
    }];
    let wish = Wish {
        spatial: 1,
        temporal: 0,
        paused: false,
    };
    let mut forwarder = Forwarder::new(TrackKind::Video, 90_000, wish, false, 1);
    let start = Instant::now();
    forwarder.retarget(&views, false, start);
    let mut last = Vec::new();
    for unit in 0..40_u32 {
        let now = start + Duration::from_millis(u64::from(unit) * 33);
        last.clear();
        for (frame, packet) in encoder.unit(unit == 0, now) {
            // One frame of the upper layer never comes.
            if unit == 10 && frame.spatial == 1 {
                continue;
            }
            if forwarder.forward(&packet, &views, 0).is_ok() {
                last.push(frame.spatial);
            }
        }
        if unit == 12 {
            assert_eq!(last, [0, 0, 1, 1], "a repair may still come");
            assert_eq!(forwarder.awaits_keyframe(), None);
        }
    }
    assert_eq!(last, [0, 0]);
    assert_eq!(forwarder.awaits_keyframe(), Some(0));
}

#[test]
fn frame_numbers_continue_over_a_change_of_encoding() {
    let mode = Mode {
        spatial: 1,
        temporal: 2,
        key_only: false,
        told: Told::Descriptor,
    };
    let mut random = fastrand::Rng::with_seed(5);
    let mut encoders = [
        Encoder::new(mode, &mut random),
        Encoder::new(mode, &mut random),
    ];
    encoders[0].number = 40_000;
    encoders[1].number = 100;
    let views = [0, 1].map(|spatial| EncodingView {
        spatial,
        active: true,
        clock: None,
    });
    let mut wish = Wish {
        spatial: 0,
        temporal: 2,
        paused: false,
    };
    let mut forwarder = Forwarder::new(TrackKind::Video, 90_000, wish, false, 1);
    let start = Instant::now();
    let mut numbers: Vec<u16> = Vec::new();
    for unit in 0..60_u64 {
        let now = start + Duration::from_millis(unit * 33);
        wish.spatial = u8::from(unit >= 30);
        forwarder.set_wish(wish);
        forwarder.retarget(&views, false, now);
        for (index, encoder) in encoders.iter_mut().enumerate() {
            for (frame, mut packet) in encoder.unit(unit % 30 == 0, now) {
                packet.encoding = index as u8;
                if let Ok(rewrite) = forwarder.forward(&packet, &views, unit * 33_000_000) {
                    numbers.push(frame.number.wrapping_add(rewrite.frame_offset));
                }
            }
        }
    }
    numbers.dedup();
    assert_eq!(numbers[0], 40_001, "numbers stay as they are");
    assert!(numbers.len() >= 58);
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
}
