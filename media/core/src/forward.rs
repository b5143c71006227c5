//! One track to one subscriber: which packets go, and under which numbers (RFC 7667 section 3.7; LiveKit: DownTrack).
//!
//! The subscriber sees one stream: sequence numbers without holes other than real losses, timestamps on one line,
//! whatever encoding is behind it. Not here: sealing, pacing, repairs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::codec::dependency::frame_number;
use crate::codec::vp8::Vp8Descriptor;
use crate::codec::vp9::{Vp9Descriptor, Vp9Layer};
use crate::codec::{PictureId, red};
use crate::command::TrackKind;
use crate::layers::{Fate, Fates, Flowing, LayerSelector};
use crate::published::{CodecKind, PublishedPacket};

/// What a subscriber wishes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Highest spatial layer.
    pub spatial: u8,
    /// Highest temporal layer.
    pub temporal: u8,
    /// Nothing at all.
    pub paused: bool,
}

/// What a forwarder must know of an encoding to choose it and to keep time with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodingView {
    /// Its spatial layer.
    pub spatial: u8,
    /// Packets arrive.
    pub active: bool,
    /// A point on its clock.
    pub clock: Option<ClockPoint>,
}

/// An instant of capture on the shard's wall clock and on an encoding's RTP clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockPoint {
    /// Nanoseconds since 1970.
    pub wall_ns: u64,
    /// RTP timestamp.
    pub rtp: u32,
    /// From a sender report; else from an arrival.
    pub reported: bool,
}

impl ClockPoint {
    /// The RTP timestamp at a wall-clock time.
    pub fn rtp_at(&self, wall_ns: u64, clock_rate: u32) -> u32 {
        let elapsed_ns = wall_ns as i64 - self.wall_ns as i64;
        let ticks = i128::from(elapsed_ns) * i128::from(clock_rate) / 1_000_000_000;
        self.rtp.wrapping_add(ticks as u32)
    }
}

/// How a packet's body becomes the subscriber's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// As it is.
    Whole,
    /// The primary block of RED, a range of the payload.
    Primary {
        /// First byte.
        start: u16,
        /// Behind the last byte.
        end: u16,
    },
    /// VP8 with other numbers in its descriptor.
    Vp8 {
        /// Picture id, in the width it came in.
        picture_id: u16,
        /// TL0PICIDX.
        tl0: u8,
        /// KEYIDX.
        key_index: u8,
    },
    /// Nothing but padding: fills the number of a late packet that is not wanted any more.
    Padding,
}

/// A packet's numbers for one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Extended sequence number; its low 16 bits go out.
    pub sequence: u64,
    /// RTP timestamp.
    pub timestamp: u32,
    /// Marker bit.
    pub marker: bool,
    /// Sent as opus although it came as RED.
    pub unwrapped: bool,
    /// Added to the frame number of the dependency descriptor; 0 until the encoding changes.
    pub frame_offset: u16,
    /// What happens to the body.
    pub body: Body,
}

/// Why a packet was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Of an encoding not chosen, of a layer not wished for, or paused.
    Unwanted,
    /// Waits for a keyframe.
    Waiting,
    /// Padding only.
    Padding,
    /// From before the stream began, or already numbered away.
    Late,
}

/// Where a sender stands: what another shard needs to go on (session state).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwarderState {
    /// Next sequence number.
    pub next_sequence: u16,
    /// Timestamp of the newest packet and when it was sent, in nanoseconds since 1970; None: nothing sent yet.
    pub newest: Option<(u32, u64)>,
    /// Newest picture id, TL0PICIDX and KEYIDX.
    pub vp8: Option<(u16, u8, u8)>,
    /// Newest frame number of the dependency descriptor. Not told to another shard, where numbers begin as they come.
    #[serde(skip)]
    pub frame: Option<u16>,
}

/// One track to one subscriber.
#[derive(Debug)]
pub struct Forwarder {
    kind: TrackKind,
    clock_rate: u32,
    wish: Wish,
    takes_red: bool,
    /// Index of the encoding to go for.
    target: Option<usize>,
    target_since: Option<Instant>,
    /// Index and generation of the encoding that flows.
    current: Option<(usize, u32)>,
    /// Encoding and generation the timestamp offset belongs to, kept over pauses.
    clock_of: Option<(usize, u32)>,
    /// Highest temporal layer that may go, where the payload tells layers.
    temporal: u8,
    /// Highest spatial layer that may go, where the payload tells layers.
    spatial: u8,
    /// Where the dependency descriptor tells layers.
    selector: Option<Box<LayerSelector>>,
    /// VP9 pictures by their id, where each lists what it refers to.
    pictures: Option<Box<Fates>>,
    flowing: Flowing,
    /// What the encoding has to offer, where the payload tells layers.
    offered: Flowing,
    sequences: Renumbering,
    timestamp_offset: u32,
    newest: Option<(u32, u64)>,
    frame_offset: u16,
    newest_frame: Option<u16>,
    vp8: Vp8Munger,
    reported: (i8, i8),
}

impl Forwarder {
    /// A forwarder that has sent nothing; its first packet gets `first_sequence`.
    pub fn new(
        kind: TrackKind,
        clock_rate: u32,
        wish: Wish,
        takes_red: bool,
        first_sequence: u16,
    ) -> Self {
        Self {
            kind,
            clock_rate,
            wish,
            takes_red,
            target: None,
            target_since: None,
            current: None,
            clock_of: None,
            temporal: 0,
            spatial: 0,
            selector: None,
            pictures: None,
            flowing: Flowing::default(),
            offered: Flowing::default(),
            sequences: Renumbering::new(u64::from(first_sequence)),
            timestamp_offset: 0,
            newest: None,
            frame_offset: 0,
            newest_frame: None,
            vp8: Vp8Munger::default(),
            reported: (-1, -1),
        }
    }

    /// Goes on where another forwarder stopped.
    pub fn resume(
        kind: TrackKind,
        clock_rate: u32,
        wish: Wish,
        takes_red: bool,
        state: &ForwarderState,
    ) -> Self {
        let mut forwarder = Self::new(kind, clock_rate, wish, takes_red, state.next_sequence);
        forwarder.go_on_from(state);
        forwarder
    }

    /// Takes on the timestamps, picture ids and frame numbers that another forwarder left; not its sequence numbers.
    pub fn go_on_from(&mut self, state: &ForwarderState) {
        self.newest = state.newest;
        self.vp8.newest = state.vp8.map(|(id, tl0, key)| (u64::from(id), tl0, key));
        self.newest_frame = state.frame;
    }

    /// Where it stands.
    pub fn state(&self) -> ForwarderState {
        ForwarderState {
            next_sequence: self.sequences.next_out as u16,
            newest: self.newest,
            vp8: self
                .vp8
                .newest
                .map(|(id, tl0, key)| (id as u16 & 0x7fff, tl0, key)),
            frame: self.newest_frame,
        }
    }

    /// Next extended sequence number.
    pub fn next_sequence(&self) -> u64 {
        self.sequences.next_out
    }

    /// Goes on after numbers another forwarder used under the same SSRC and keys.
    pub fn start_at(&mut self, next_sequence: u64) {
        self.sequences.next_out = next_sequence;
    }

    /// Counts the sequence number's cycles from 0 again: new SRTP keys begin with rollover counter 0.
    pub fn reset_rollover(&mut self) {
        self.current = None;
        self.sequences.next_out &= 0xffff;
    }

    /// Takes on the clock of the track it forwards.
    pub fn bind(&mut self, kind: TrackKind, clock_rate: u32, takes_red: bool) {
        self.kind = kind;
        self.clock_rate = clock_rate;
        self.takes_red = takes_red;
    }

    /// The track is gone: silent until it is back, perhaps as another stream.
    pub fn unbind(&mut self) {
        self.target = None;
        self.target_since = None;
        self.current = None;
        self.clock_of = None;
    }

    /// The wish.
    pub fn wish(&self) -> Wish {
        self.wish
    }

    /// Replaces the wish; call [`Self::retarget`] next.
    pub fn set_wish(&mut self, wish: Wish) {
        self.wish = wish;
    }

    /// Whether an encoding flows.
    pub fn is_flowing(&self) -> bool {
        self.current.is_some()
    }

    /// The descriptor that the flowing VP8 stream began with.
    pub fn vp8_shape(&self) -> Option<Vp8Descriptor> {
        self.vp8.shape
    }

    /// Numbers a packet made here, after everything sent so far: nothing may flow. `step`: it begins a frame, a whole
    /// number of so many timestamp units after the one before. None when nothing was sent before.
    pub fn inject(
        &mut self,
        packet: &PublishedPacket,
        step: Option<u32>,
        wall_ns: u64,
        marker: bool,
    ) -> Option<Rewrite> {
        debug_assert!(self.current.is_none(), "injected into a flowing stream");
        self.current = None;
        let (newest, at) = self.newest?;
        let mut timestamp = newest;
        if let Some(step) = step {
            let by_clock = ClockPoint {
                wall_ns: at,
                rtp: newest,
                reported: false,
            }
            .rtp_at(wall_ns, self.clock_rate);
            let elapsed = (by_clock.wrapping_sub(newest) as i32).max(0) as u32;
            let steps = ((elapsed + step / 2) / step.max(1)).max(1);
            timestamp = newest.wrapping_add(steps.wrapping_mul(step));
            self.newest = Some((timestamp, wall_ns));
        }
        let sequence = self.sequences.next_out;
        self.sequences.next_out = sequence.wrapping_add(1);
        Some(Rewrite {
            sequence,
            timestamp,
            marker,
            unwrapped: packet.kind == CodecKind::Red,
            body: match &packet.vp8 {
                Some(vp8) => self.vp8.next(vp8),
                None => Body::Whole,
            },
            frame_offset: 0,
        })
    }

    /// Chooses what to go for among what arrives. `muted`: the track is silent for everybody.
    pub fn retarget(&mut self, encodings: &[EncodingView], muted: bool, now: Instant) {
        let target = if self.wish.paused || muted {
            None
        } else {
            choose(encodings, self.wish.spatial)
        };
        if target.is_none() {
            self.current = None;
        }
        if self
            .current
            .is_some_and(|(index, _)| encodings.get(index).is_none())
        {
            self.current = None;
        }
        if target != self.target {
            self.target = target;
            self.target_since = target.map(|_| now);
        }
    }

    /// The encoding a keyframe must come from before anything can go on.
    pub fn awaits_keyframe(&self) -> Option<usize> {
        if self.kind == TrackKind::Audio {
            return None;
        }
        self.target.filter(|&target| {
            self.current.is_none_or(|(index, _)| index != target) || self.lacks_layer()
        })
    }

    /// A spatial layer that is wished for and sent, or the base, waits for a keyframe.
    fn lacks_layer(&self) -> bool {
        match &self.selector {
            Some(selector) => selector.needs_keyframe(&self.wish),
            None => self.offered.layers().0.min(self.wish.spatial) > self.spatial,
        }
    }

    /// The encoding that flows, else the one to go for: where a subscriber's keyframe request goes.
    pub fn flowing_or_target(&self) -> Option<usize> {
        self.current.map(|(index, _)| index).or(self.target)
    }

    /// What flows now if that changed since the last call: (spatial, temporal), -1 for nothing.
    pub fn take_layer_change(&mut self, encodings: &[EncodingView]) -> Option<(i8, i8)> {
        let layers = match self.current {
            None => (-1, -1),
            Some((index, _)) => {
                let (spatial, temporal) = self.flowing.layers();
                let encoding = encodings.get(index).map_or(0, |encoding| encoding.spatial);
                (encoding.max(spatial) as i8, temporal as i8)
            }
        };
        (layers != self.reported).then(|| {
            self.reported = layers;
            layers
        })
    }

    /// The RTP timestamp that belongs to a wall-clock time, for sender reports; None before the first packet.
    pub fn timestamp_at(&self, encodings: &[EncodingView], wall_ns: u64) -> Option<u32> {
        let (newest, at) = self.newest?;
        if let Some((index, _)) = self
            .current
            .filter(|current| self.clock_of == Some(*current))
            && let Some(clock) = encodings.get(index).and_then(|encoding| encoding.clock)
        {
            return Some(
                clock
                    .rtp_at(wall_ns, self.clock_rate)
                    .wrapping_add(self.timestamp_offset),
            );
        }
        Some(
            ClockPoint {
                wall_ns: at,
                rtp: newest,
                reported: false,
            }
            .rtp_at(wall_ns, self.clock_rate),
        )
    }

    /// Decides on a packet and numbers it.
    ///
    /// # Errors
    /// Why it is not forwarded.
    pub fn forward(
        &mut self,
        packet: &PublishedPacket,
        encodings: &[EncodingView],
        wall_ns: u64,
    ) -> Result<Rewrite, Withheld> {
        let index = usize::from(packet.encoding);
        let origin = (index, packet.generation);
        if self.current != Some(origin) {
            if packet.payload.is_empty() {
                return Err(Withheld::Padding);
            }
            self.try_switch(packet, index, encodings, wall_ns)?;
        }
        if packet.sequence < self.sequences.first_in {
            return Err(Withheld::Late);
        }
        if packet.payload.is_empty() {
            return self.skip(packet, Withheld::Padding);
        }
        if !self.takes(packet) {
            return self.skip(packet, Withheld::Unwanted);
        }
        let sequence = self
            .sequences
            .renumber(packet.sequence)
            .ok_or(Withheld::Late)?;
        let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
        if self
            .newest
            .is_none_or(|(newest, _)| (timestamp.wrapping_sub(newest) as i32) >= 0)
        {
            self.newest = Some((timestamp, wall_ns));
        }
        if let Some(number) = frame_number(&packet.descriptor) {
            let number = number.wrapping_add(self.frame_offset);
            if self
                .newest_frame
                .is_none_or(|newest| number.wrapping_sub(newest) < 0x8000)
            {
                self.newest_frame = Some(number);
            }
        }
        let (body, unwrapped) = self.body(packet);
        Ok(Rewrite {
            sequence,
            timestamp,
            marker: self.marker(packet),
            unwrapped,
            frame_offset: self.frame_offset,
            body,
        })
    }

    /// Begins with another encoding, or with the same one after a restart or a pause, if this packet allows it.
    fn try_switch(
        &mut self,
        packet: &PublishedPacket,
        index: usize,
        encodings: &[EncodingView],
        wall_ns: u64,
    ) -> Result<(), Withheld> {
        let Some(target) = self.target else {
            return Err(Withheld::Unwanted);
        };
        let is_restart = self.current.is_some_and(|(current, _)| current == index);
        if index != target && !is_restart {
            let patience_is_over = self
                .target_since
                .is_some_and(|since| packet.arrival.saturating_duration_since(since) >= PATIENCE);
            let is_in_wish = encodings
                .get(index)
                .is_some_and(|encoding| encoding.spatial <= self.wish.spatial);
            // Something lower at once is better than nothing; what flows already is not exchanged for it.
            if self.current.is_some() || !patience_is_over || !is_in_wish {
                return Err(Withheld::Unwanted);
            }
        }
        if self.kind == TrackKind::Video && !(packet.keyframe && packet.frame_start) {
            return Err(Withheld::Waiting);
        }
        let origin = (index, packet.generation);
        // What was made here in a pause may be ahead of the encoding's own clock.
        let is_behind = self.newest.is_some_and(|(newest, _)| {
            let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
            timestamp.wrapping_sub(newest) as i32 <= 0
        });
        if self.clock_of != Some(origin) || is_behind {
            self.timestamp_offset = self.align(packet, index, encodings, wall_ns);
            self.clock_of = Some(origin);
            // Receivers take a keyframe with an older frame number for a late one.
            self.frame_offset = match (self.newest_frame, frame_number(&packet.descriptor)) {
                (Some(newest), Some(number)) => newest.wrapping_add(1).wrapping_sub(number),
                _ => 0,
            };
        }
        self.current = Some(origin);
        self.sequences.begin(packet.sequence);
        if let Some(vp8) = &packet.vp8 {
            self.vp8.begin(vp8);
        }
        self.flowing = Flowing::default();
        self.offered = Flowing::default();
        self.selector = None;
        self.begin_pictures(packet);
        Ok(())
    }

    /// Begins to follow VP9 pictures, if they list what they refer to under ids long enough.
    fn begin_pictures(&mut self, packet: &PublishedPacket) {
        self.pictures = None;
        if let Some(vp9) = &packet.vp9
            && vp9.flexible
            && let Some(id) = vp9.picture_id.filter(|id| id.long)
        {
            let mut pictures = Box::<Fates>::default();
            pictures.begin(id.value);
            self.pictures = Some(pictures);
        }
    }

    /// Whether a packet of what flows is in the layers that go, which follow the wish where a frame allows it.
    fn takes(&mut self, packet: &PublishedPacket) -> bool {
        let is_newest = packet.sequence > self.sequences.newest_in;
        if self.kind == TrackKind::Audio {
            return true;
        }
        if let Some(vp8) = &packet.vp8 {
            let starts = packet.frame_start && is_newest;
            if starts {
                self.choose_temporal(packet, vp8.layer_sync);
            }
            let is_wanted = packet.temporal <= self.temporal && !self.vp8.was_dropped(vp8);
            if !is_wanted {
                self.vp8.skip(vp8);
            } else if starts {
                self.flowing.note(0, packet.temporal);
            }
            return is_wanted;
        }
        if packet.frame.is_some() {
            return self.takes_frame(packet, is_newest);
        }
        // Where descriptors are, a packet without one has no place.
        if self.selector.is_some() {
            return false;
        }
        match &packet.vp9 {
            Some(vp9) => self.takes_layer(packet, vp9, is_newest),
            None => true,
        }
    }

    /// By the dependency descriptor.
    fn takes_frame(&mut self, packet: &PublishedPacket, is_newest: bool) -> bool {
        let Some(frame) = &packet.frame else {
            return false;
        };
        if self.selector.is_none() {
            let Some(layers) = frame.layers.as_ref().filter(|_| frame.has_structure) else {
                return false;
            };
            // Once per start of an encoding.
            let mut fresh = Box::new(LayerSelector::new(&layers.structure));
            fresh.begin(frame.number);
            self.selector = Some(fresh);
        }
        let Some(selector) = &mut self.selector else {
            return false;
        };
        let is_wanted = selector.admit(
            frame,
            packet.timestamp,
            &self.wish,
            is_newest,
            packet.arrival,
        );
        if packet.frame_start && is_newest {
            match selector.target() {
                Some(target) => {
                    self.flowing.cap(target.spatial, target.temporal);
                    if is_wanted && let Some(layers) = &frame.layers {
                        self.flowing.note(layers.spatial, layers.temporal);
                    }
                }
                None => self.flowing = Flowing::default(),
            }
        }
        is_wanted
    }

    /// By VP9's payload descriptor (RFC 9628 section 4.2).
    fn takes_layer(
        &mut self,
        packet: &PublishedPacket,
        vp9: &Vp9Descriptor,
        is_newest: bool,
    ) -> bool {
        let layer = vp9.layer.unwrap_or(Vp9Layer {
            temporal: 0,
            switching_up: false,
            spatial: 0,
            inter_layer: false,
        });
        let starts = packet.frame_start && is_newest;
        if starts {
            self.offered.note(layer.spatial, layer.temporal);
            if layer.spatial == 0 {
                self.choose_picture_layers(packet, &layer);
            } else if layer.spatial == self.spatial + 1
                && layer.spatial <= self.wish.spatial
                && layer.inter_layer
                && !vp9.inter_picture
                && layer.temporal <= self.temporal
            {
                // Made from the layer below alone.
                self.spatial = layer.spatial;
            }
        }
        let is_wanted = self.takes_picture(vp9, layer.temporal) && layer.spatial <= self.spatial;
        if is_wanted && starts {
            self.flowing.cap(self.spatial, self.temporal);
            self.flowing.note(layer.spatial, layer.temporal);
        }
        is_wanted
    }

    fn choose_picture_layers(&mut self, packet: &PublishedPacket, layer: &Vp9Layer) {
        if packet.keyframe {
            (self.spatial, self.temporal) = (self.wish.spatial, self.wish.temporal);
            self.begin_pictures(packet);
            return;
        }
        self.spatial = self.spatial.min(self.wish.spatial);
        // From here no picture of a higher layer refers to one before (bit U).
        let may_rise = layer.switching_up && layer.temporal <= self.temporal;
        if self.wish.temporal < self.temporal || may_rise {
            self.temporal = self.wish.temporal;
        }
    }

    /// Whether a VP9 picture of this temporal layer goes, by what became of those it refers to if it lists them.
    fn takes_picture(&mut self, vp9: &Vp9Descriptor, temporal: u8) -> bool {
        let (Some(pictures), Some(id)) = (&mut self.pictures, vp9.picture_id) else {
            return temporal <= self.temporal;
        };
        // 15 bits are sent; the count goes on in 16.
        let ahead = id.value.wrapping_sub(pictures.newest()) & 0x7fff;
        let number = if ahead < 0x4000 {
            pictures.newest().wrapping_add(ahead)
        } else {
            pictures.newest().wrapping_add(ahead | 0x8000)
        };
        match pictures.get(number) {
            Fate::Forwarded => return true,
            Fate::Dropped => return false,
            Fate::Unknown => {}
        }
        let mut worst = Fate::Forwarded;
        for &reference in vp9.references.iter().filter(|&&reference| reference != 0) {
            match pictures.get(number.wrapping_sub(u16::from(reference))) {
                Fate::Dropped => worst = Fate::Dropped,
                Fate::Unknown if worst == Fate::Forwarded => worst = Fate::Unknown,
                _ => {}
            }
        }
        let may_rise = worst == Fate::Forwarded && temporal <= self.wish.temporal;
        if temporal > self.temporal && may_rise && pictures.is_newer(number) {
            self.temporal = temporal;
        }
        let is_wanted = temporal <= self.temporal && worst != Fate::Dropped;
        pictures.set(number, is_wanted);
        is_wanted
    }

    /// Offset that lets a new encoding's timestamps continue those sent so far.
    fn align(
        &self,
        packet: &PublishedPacket,
        index: usize,
        encodings: &[EncodingView],
        wall_ns: u64,
    ) -> u32 {
        let Some((newest, at)) = self.newest else {
            return 0;
        };
        let by_arrival = ClockPoint {
            wall_ns: at,
            rtp: newest,
            reported: false,
        }
        .rtp_at(wall_ns, self.clock_rate);
        let by_report = self
            .clock_of
            .filter(|(old, _)| *old != index)
            .and_then(|(old, _)| {
                let old = encodings.get(old)?.clock.filter(|clock| clock.reported)?;
                let new = encodings.get(index)?.clock.filter(|clock| clock.reported)?;
                let behind = i128::from(packet.timestamp.wrapping_sub(new.rtp) as i32);
                let wall = i128::from(new.wall_ns)
                    + behind * 1_000_000_000 / i128::from(self.clock_rate.max(1));
                Some(
                    old.rtp_at(wall as u64, self.clock_rate)
                        .wrapping_add(self.timestamp_offset),
                )
            });
        let limit = self.clock_rate.saturating_mul(2);
        let wanted = by_report
            .filter(|report| (report.wrapping_sub(by_arrival) as i32).unsigned_abs() <= limit)
            .unwrap_or(by_arrival);
        // A frame never goes out at or before the time of the one before it.
        let step = (self.clock_rate / 1000).max(1);
        let first = newest.wrapping_add(step);
        let first = if (wanted.wrapping_sub(first) as i32) < 0 {
            first
        } else {
            wanted
        };
        first.wrapping_sub(packet.timestamp)
    }

    /// Follows the wish for temporal layers of VP8 where a frame allows it.
    fn choose_temporal(&mut self, packet: &PublishedPacket, is_sync: bool) {
        if self.wish.temporal < self.temporal || packet.keyframe {
            self.temporal = self.wish.temporal;
            self.flowing.cap(0, self.temporal);
        } else if packet.temporal > self.temporal
            && packet.temporal <= self.wish.temporal
            && is_sync
        {
            self.temporal = packet.temporal;
        }
    }

    fn skip(&mut self, packet: &PublishedPacket, why: Withheld) -> Result<Rewrite, Withheld> {
        if self.sequences.skip(packet.sequence) {
            return Err(why);
        }
        let sequence = self
            .sequences
            .renumber(packet.sequence)
            .ok_or(Withheld::Late)?;
        let timestamp = packet.timestamp.wrapping_add(self.timestamp_offset);
        Ok(Rewrite {
            sequence,
            timestamp,
            marker: false,
            unwrapped: false,
            frame_offset: 0,
            body: Body::Padding,
        })
    }

    fn body(&mut self, packet: &PublishedPacket) -> (Body, bool) {
        if let Some(vp8) = &packet.vp8 {
            return (self.vp8.rewrite(vp8), false);
        }
        if packet.kind == CodecKind::Red && !self.takes_red {
            // The primary block is the last one.
            let end = packet.payload.len();
            return match red::primary(&packet.payload).map(|block| block.data.len()) {
                Some(length) if length > 0 => (
                    Body::Primary {
                        start: (end - length) as u16,
                        end: end as u16,
                    },
                    true,
                ),
                _ => (Body::Padding, true),
            };
        }
        (Body::Whole, false)
    }

    fn marker(&self, packet: &PublishedPacket) -> bool {
        if let (Some(selector), Some(frame)) = (&self.selector, &packet.frame) {
            let ends_unit = frame.ends
                && frame.layers.as_ref().is_some_and(|layers| {
                    selector
                        .target()
                        .is_some_and(|target| target.spatial == layers.spatial)
                });
            return packet.marker || ends_unit;
        }
        let ends_picture = packet.vp9.as_ref().is_some_and(|vp9| {
            vp9.end_of_frame && vp9.layer.is_some_and(|layer| layer.spatial == self.spatial)
        });
        packet.marker || ends_picture
    }
}

/// The highest encoding that arrives and is wished for; the lowest that arrives if all are above the wish.
fn choose(encodings: &[EncodingView], wish: u8) -> Option<usize> {
    let active = || {
        encodings
            .iter()
            .enumerate()
            .filter(|(_, encoding)| encoding.active)
    };
    let wished = active()
        .filter(|(_, encoding)| encoding.spatial <= wish)
        .max_by_key(|(_, e)| e.spatial);
    wished
        .or_else(|| active().min_by_key(|(_, e)| e.spatial))
        .map(|(index, _)| index)
}

/// How long a first frame waits for the best encoding's keyframe before any other's will do.
const PATIENCE: Duration = Duration::from_millis(300);

/// Sequence numbers with the skipped ones closed up. Late packets get the number kept for them.
#[derive(Debug)]
struct Renumbering {
    first_in: u64,
    newest_in: u64,
    /// What the newest number in became.
    newest_out: u64,
    next_out: u64,
    /// Skipped numbers, ascending.
    skipped: VecDeque<u64>,
    /// Numbers below this cannot be placed any more.
    forgotten: u64,
}

impl Renumbering {
    /// Skipped numbers remembered.
    const MEMORY: usize = 512;

    fn new(next_out: u64) -> Self {
        Self {
            first_in: u64::MAX,
            newest_in: 0,
            newest_out: 0,
            next_out,
            skipped: VecDeque::new(),
            forgotten: 0,
        }
    }

    /// The number `first_in` follows whatever went out before.
    fn begin(&mut self, first_in: u64) {
        self.first_in = first_in;
        self.newest_in = first_in.wrapping_sub(1);
        self.newest_out = self.next_out.wrapping_sub(1);
        self.skipped.clear();
        self.forgotten = first_in;
    }

    /// False when the number has a place already (it is late): something must go out under it.
    fn skip(&mut self, sequence: u64) -> bool {
        if sequence <= self.newest_in {
            return self.skipped.binary_search(&sequence).is_ok();
        }
        self.newest_out = self.newest_out.wrapping_add(sequence - self.newest_in - 1);
        self.next_out = self.newest_out.wrapping_add(1);
        self.newest_in = sequence;
        if self.skipped.len() >= Self::MEMORY
            && let Some(oldest) = self.skipped.pop_front()
        {
            self.forgotten = oldest + 1;
        }
        self.skipped.push_back(sequence);
        true
    }

    /// None when it was skipped or is too old.
    fn renumber(&mut self, sequence: u64) -> Option<u64> {
        if sequence > self.newest_in {
            self.newest_out = self.newest_out.wrapping_add(sequence - self.newest_in);
            self.next_out = self.newest_out.wrapping_add(1);
            self.newest_in = sequence;
            return Some(self.newest_out);
        }
        if sequence < self.forgotten {
            return None;
        }
        let Err(place) = self.skipped.binary_search(&sequence) else {
            return None;
        };
        let skipped_since = (self.skipped.len() - place) as u64;
        // `newest_in` itself may be a skipped one: `newest_out` is then the number before it.
        Some(
            self.newest_out
                .wrapping_sub(self.newest_in - sequence - skipped_since),
        )
    }
}

/// VP8's own numbers (RFC 7741 section 4.2), made continuous.
#[derive(Debug, Default)]
struct Vp8Munger {
    /// Newest picture id (extended), TL0PICIDX and KEYIDX sent.
    newest: Option<(u64, u8, u8)>,
    newest_in: u64,
    offset: u64,
    tl0_offset: u8,
    key_offset: u8,
    /// Skipped picture ids as received, extended, ascending.
    skipped: VecDeque<u64>,
    /// What the encoding began with.
    shape: Option<Vp8Descriptor>,
}

impl Vp8Munger {
    const MEMORY: usize = 128;
    /// Room below the first picture id for late ones.
    const START: u64 = 1 << 20;

    fn begin(&mut self, vp8: &Vp8Descriptor) {
        let first = Self::START + u64::from(vp8.picture_id.map_or(0, |id| id.value));
        self.newest_in = first.wrapping_sub(1);
        self.skipped.clear();
        self.shape = Some(*vp8);
        let Some((id, tl0, key)) = self.newest else {
            return;
        };
        self.offset = (id + 1).wrapping_sub(first);
        self.tl0_offset = tl0
            .wrapping_add(1)
            .wrapping_sub(vp8.tl0_pic_idx.unwrap_or(0));
        self.key_offset = key.wrapping_add(1).wrapping_sub(vp8.key_idx.unwrap_or(0));
    }

    fn extend(&self, id: PictureId) -> u64 {
        let modulus: u64 = if id.long { 1 << 15 } else { 1 << 7 };
        let ahead = u64::from(id.value).wrapping_sub(self.newest_in) & (modulus - 1);
        if ahead < modulus / 2 {
            self.newest_in + ahead
        } else {
            self.newest_in.wrapping_add(ahead).wrapping_sub(modulus)
        }
    }

    fn was_dropped(&self, vp8: &Vp8Descriptor) -> bool {
        let Some(id) = vp8.picture_id else {
            return false;
        };
        !self.skipped.is_empty() && self.skipped.binary_search(&self.extend(id)).is_ok()
    }

    fn skip(&mut self, vp8: &Vp8Descriptor) {
        let Some(id) = vp8.picture_id else { return };
        let id = self.extend(id);
        if id <= self.newest_in {
            return;
        }
        self.newest_in = id;
        self.offset = self.offset.wrapping_sub(1);
        if self.skipped.len() >= Self::MEMORY {
            self.skipped.pop_front();
        }
        self.skipped.push_back(id);
    }

    /// Numbers of a keyframe that follows everything sent.
    fn next(&mut self, vp8: &Vp8Descriptor) -> Body {
        let (Some(width), Some((id, tl0, key))) = (vp8.picture_id, self.newest) else {
            return Body::Whole;
        };
        let (id, tl0, key_index) = (
            id.wrapping_add(1),
            tl0.wrapping_add(1),
            key.wrapping_add(1) & 0x1f,
        );
        self.newest = Some((id, tl0, key_index));
        let mask = if width.long { 0x7fff } else { 0x7f };
        Body::Vp8 {
            picture_id: (id & mask) as u16,
            tl0,
            key_index,
        }
    }

    fn rewrite(&mut self, vp8: &Vp8Descriptor) -> Body {
        let Some(id) = vp8.picture_id else {
            return Body::Whole;
        };
        let mask = if id.long { 0x7fff } else { 0x7f };
        let id = self.extend(id);
        let later_skips =
            self.skipped.len() - self.skipped.partition_point(|&skipped| skipped < id);
        let out = id
            .wrapping_add(self.offset)
            .wrapping_add(later_skips as u64);
        let tl0 = vp8.tl0_pic_idx.unwrap_or(0).wrapping_add(self.tl0_offset);
        let key_index = vp8.key_idx.unwrap_or(0).wrapping_add(self.key_offset) & 0x1f;
        if id > self.newest_in || self.newest.is_none() {
            self.newest_in = id;
            self.newest = Some((out, tl0, key_index));
        }
        Body::Vp8 {
            picture_id: (out & mask) as u16,
            tl0,
            key_index,
        }
    }
}
