//! The load test's publisher: frames at a steady rate, every packet stamped with the time it was made.
//!
//! Payloads look like VP8 or opus as far as forwarding can tell, and decode to nothing.

use std::time::{Duration, Instant};

use crate::command::{SourceConfig, TrackKind};
use crate::published::{CodecKind, PublishedPacket};
use crate::receive;

/// The last 16 bytes of a payload: this, then nanoseconds since the process's epoch, big-endian.
const MAGIC: [u8; 8] = *b"rwprobe1";
/// Bytes of magic and time.
const STAMP_LEN: usize = 16;
/// A keyframe at least this often.
const KEYFRAME_INTERVAL: Duration = Duration::from_secs(10);

/// Makes the packets of one track.
pub(crate) struct Source {
    config: SourceConfig,
    kind: CodecKind,
    pub(crate) next_frame: Instant,
    interval: Duration,
    sequence: u64,
    timestamp: u32,
    timestamp_fraction: f64,
    picture_id: u16,
    tl0: u8,
    last_keyframe: Option<Instant>,
    pub(crate) is_keyframe_wanted: bool,
}

impl Source {
    /// A source whose first frame is due at once.
    ///
    /// # Errors
    /// What is out of range.
    pub(crate) fn new(config: SourceConfig, now: Instant) -> Result<Self, &'static str> {
        if !(config.frames_per_second > 0.0 && config.frames_per_second <= 1000.0) {
            return Err("frames_per_second must be above 0 and at most 1000");
        }
        if config.packets_per_frame == 0 {
            return Err("packets_per_frame must be at least 1");
        }
        if !(32..=1200).contains(&config.payload_bytes) {
            return Err("payload_bytes must be 32 to 1200");
        }
        if config.clock_rate == 0 {
            return Err("clock_rate must be above 0");
        }
        Ok(Self {
            kind: CodecKind::from_mime(&config.mime),
            next_frame: now,
            interval: Duration::from_secs_f64(1.0 / config.frames_per_second),
            sequence: 1 << 16,
            timestamp: 0,
            timestamp_fraction: 0.0,
            picture_id: 0,
            tl0: 0,
            last_keyframe: None,
            is_keyframe_wanted: true,
            config,
        })
    }

    pub(crate) fn packets_per_frame(&self) -> u16 {
        self.config.packets_per_frame
    }

    /// Begins the next frame; true when it is a keyframe. A source that fell behind leaves frames out.
    pub(crate) fn begin_frame(&mut self, now: Instant) -> bool {
        let is_due = self
            .last_keyframe
            .is_none_or(|at| now.saturating_duration_since(at) >= KEYFRAME_INTERVAL);
        let is_keyframe =
            self.config.kind == TrackKind::Video && (self.is_keyframe_wanted || is_due);
        if is_keyframe {
            self.last_keyframe = Some(now);
            self.is_keyframe_wanted = false;
        }
        let ticks = f64::from(self.config.clock_rate) / self.config.frames_per_second
            + self.timestamp_fraction;
        self.timestamp_fraction = ticks.fract();
        self.timestamp = self.timestamp.wrapping_add(ticks as u32);
        self.picture_id = (self.picture_id + 1) & 0x7fff;
        self.tl0 = self.tl0.wrapping_add(1);
        self.next_frame += self.interval;
        if self.next_frame <= now {
            self.next_frame = now + self.interval;
        }
        is_keyframe
    }

    pub(crate) fn timestamp(&self) -> u32 {
        self.timestamp
    }

    /// Fills one packet of the frame begun last.
    pub(crate) fn fill(
        &mut self,
        packet: &mut PublishedPacket,
        index: u16,
        is_keyframe: bool,
        now: Instant,
        epoch: Instant,
    ) {
        packet.encoding = 0;
        packet.generation = 0;
        packet.codec = 0;
        packet.kind = self.kind;
        packet.sequence = self.sequence;
        packet.timestamp = self.timestamp;
        packet.marker =
            self.config.kind == TrackKind::Video && index + 1 == self.config.packets_per_frame;
        packet.arrival = now;
        packet.extensions = Default::default();
        packet.descriptor.clear();
        packet.frame = None;
        packet.payload.clear();
        if self.kind == CodecKind::Vp8 {
            let is_first = index == 0;
            let [high, low] = self.picture_id.to_be_bytes();
            // RFC 7741 section 4.2: X, S on the first; I, L and T (L asks for T); 15-bit picture id; TL0PICIDX; TID 0.
            // Then section 4.3: P = 0 on a keyframe.
            packet.payload.extend_from_slice(&[
                0x80 | u8::from(is_first) << 4,
                0xe0,
                0x80 | high,
                low,
                self.tl0,
                0,
                u8::from(!is_keyframe),
            ]);
        }
        packet
            .payload
            .resize(usize::from(self.config.payload_bytes) - STAMP_LEN, 0x55);
        packet.payload.extend_from_slice(&MAGIC);
        let stamp = now.saturating_duration_since(epoch).as_nanos() as u64;
        packet.payload.extend_from_slice(&stamp.to_be_bytes());
        receive::describe(packet);
        if self.kind != CodecKind::Vp8 {
            packet.frame_start = index == 0;
            packet.keyframe = is_keyframe || self.config.kind == TrackKind::Audio;
        }
        self.sequence += 1;
    }
}

/// The time a probed payload was made, after the epoch.
pub(crate) fn read_stamp(payload: &[u8]) -> Option<Duration> {
    let stamp = payload.get(payload.len().checked_sub(STAMP_LEN)?..)?;
    let (magic, time) = stamp.split_at(MAGIC.len());
    if magic != MAGIC {
        return None;
    }
    Some(Duration::from_nanos(u64::from_be_bytes(
        time.try_into().ok()?,
    )))
}
