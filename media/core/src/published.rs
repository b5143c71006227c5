//! A packet as it was published: decrypted and understood once, then shared by reference with every subscriber.
//!
//! Not yet anybody's: sequence number and timestamp are the publisher's. Immutable once shared, so that it may be
//! handed to another thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::codec::VideoCodec;
use crate::codec::dependency::FrameDescription;
use crate::codec::vp8::Vp8Descriptor;
use crate::codec::vp9::Vp9Descriptor;
use crate::packet::extensions::ExtensionValues;

/// What a payload is, as far as forwarding differs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodecKind {
    /// `audio/opus`
    Opus,
    /// `audio/red` (RFC 2198)
    Red,
    /// `video/VP8` (RFC 7741)
    Vp8,
    /// `video/VP9` (RFC 9628)
    Vp9,
    /// `video/H264` (RFC 6184)
    H264,
    /// `video/H265` (RFC 7798)
    H265,
    /// `video/AV1`
    Av1,
    /// Anything else: passed on as it is, every packet a start.
    #[default]
    Other,
}

impl CodecKind {
    /// By mime type, without regard to case.
    pub fn from_mime(mime: &str) -> Self {
        const NAMES: [(&str, CodecKind); 7] = [
            ("audio/opus", CodecKind::Opus),
            ("audio/red", CodecKind::Red),
            ("video/vp8", CodecKind::Vp8),
            ("video/vp9", CodecKind::Vp9),
            ("video/h264", CodecKind::H264),
            ("video/h265", CodecKind::H265),
            ("video/av1", CodecKind::Av1),
        ];
        NAMES
            .iter()
            .find(|(name, _)| mime.eq_ignore_ascii_case(name))
            .map_or(Self::Other, |(_, kind)| *kind)
    }

    /// The video format, if it is one.
    pub fn video(self) -> Option<VideoCodec> {
        match self {
            Self::Vp8 => Some(VideoCodec::Vp8),
            Self::Vp9 => Some(VideoCodec::Vp9),
            Self::H264 => Some(VideoCodec::H264),
            Self::H265 => Some(VideoCodec::H265),
            Self::Av1 => Some(VideoCodec::Av1),
            Self::Opus | Self::Red | Self::Other => None,
        }
    }
}

/// One packet of a track.
#[derive(Clone, Debug)]
pub struct PublishedPacket {
    /// Index of the encoding within its track.
    pub encoding: u8,
    /// Grows whenever the encoding begins anew with another SSRC.
    pub generation: u32,
    /// Index of the codec within the track's configuration.
    pub codec: u8,
    /// What the payload is.
    pub kind: CodecKind,
    /// The publisher's sequence number, extended.
    pub sequence: u64,
    /// The publisher's timestamp.
    pub timestamp: u32,
    /// The publisher's marker bit.
    pub marker: bool,
    /// When it came in.
    pub arrival: Instant,
    /// Part of a frame that can be decoded without others.
    pub keyframe: bool,
    /// First packet of a frame (a frame of one spatial layer, for VP9).
    pub frame_start: bool,
    /// Temporal layer, 0 when unknown.
    pub temporal: u8,
    /// VP8 payload descriptor.
    pub vp8: Option<Vp8Descriptor>,
    /// VP9 payload descriptor.
    pub vp9: Option<Vp9Descriptor>,
    /// Header extensions as received.
    pub extensions: ExtensionValues,
    /// What the dependency descriptor says; None for VP8, which says enough of itself.
    pub frame: Option<FrameDescription>,
    /// Dependency descriptor as received, empty when absent.
    pub descriptor: Vec<u8>,
    /// Payload without padding.
    pub payload: Vec<u8>,
}

impl PublishedPacket {
    /// In place of a codec's index: RED made here of an Opus packet.
    pub const MADE_RED: u8 = u8::MAX;

    /// An empty packet, to be filled.
    pub fn empty(now: Instant) -> Self {
        Self {
            encoding: 0,
            generation: 0,
            codec: 0,
            kind: CodecKind::Other,
            sequence: 0,
            timestamp: 0,
            marker: false,
            arrival: now,
            keyframe: false,
            frame_start: false,
            temporal: 0,
            vp8: None,
            vp9: None,
            frame: None,
            extensions: ExtensionValues::default(),
            descriptor: Vec::new(),
            payload: Vec::new(),
        }
    }
}

impl PublishedPacket {
    /// Its spatial and temporal layer; `encoding_layer` where the packet itself names no spatial one (simulcast).
    pub fn layers(&self, encoding_layer: u8) -> (u8, u8) {
        let of_frame = self.frame.as_ref().and_then(|frame| frame.layers.as_ref());
        let spatial = of_frame
            .map(|layers| layers.spatial)
            .or_else(|| self.vp9.as_ref()?.layer.map(|layer| layer.spatial))
            .filter(|spatial| *spatial > 0);
        (spatial.unwrap_or(encoding_layer), self.temporal)
    }
}

/// Buffers of packets nobody holds any more, so that the steady state allocates nothing.
#[derive(Debug, Default)]
pub struct PacketPool {
    packets: VecDeque<Arc<PublishedPacket>>,
}

impl PacketPool {
    /// Most packets remembered; beyond, they are left to their holders.
    const CAPACITY: usize = 16_384;
    /// How many of the oldest are tried before a new one is made.
    const TRIES: usize = 4;

    /// A packet filled by `fill`. Its buffers hold what was in them before: `fill` sets every field.
    pub fn make(
        &mut self,
        now: Instant,
        fill: impl FnOnce(&mut PublishedPacket),
    ) -> Arc<PublishedPacket> {
        let mut shared = self.take(now);
        if let Some(packet) = Arc::get_mut(&mut shared) {
            fill(packet);
        }
        if self.packets.len() >= Self::CAPACITY {
            self.packets.pop_front();
        }
        self.packets.push_back(Arc::clone(&shared));
        shared
    }

    fn take(&mut self, now: Instant) -> Arc<PublishedPacket> {
        for _ in 0..Self::TRIES.min(self.packets.len()) {
            let Some(mut oldest) = self.packets.pop_front() else {
                break;
            };
            if Arc::get_mut(&mut oldest).is_some() {
                return oldest;
            }
            self.packets.push_back(oldest);
        }
        Arc::new(PublishedPacket::empty(now))
    }
}
