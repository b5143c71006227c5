//! RTP header extensions (RFC 8285): the values one packet carries under the identifiers a session negotiated.
//!
//! Values are small and copied inline, so that a header can be kept and rewritten without a heap allocation. The
//! dependency descriptor, which may be long, stays in the packet and is named by its place there.

use std::ops::Range;

use super::ParseError;
pub use crate::command::ExtensionIds;

/// Up to 16 bytes of text, held inline: a mid or a rid (RFC 8843, RFC 8852).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortText {
    length: u8,
    bytes: [u8; Self::CAPACITY],
}

/// Loudness of one audio packet (RFC 6464).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevel {
    /// The sender believes the packet holds speech.
    pub voice: bool,
    /// Loudness as -dBov: 0 is the loudest, 127 is silence.
    pub level: u8,
}

/// Up to 16 raw bytes, held inline: an extension that is passed on without being understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawValue {
    length: u8,
    bytes: [u8; 16],
}

/// Bounds on the receiver's playout delay, in units of 10 ms (playout-delay extension of WebRTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlayoutDelay {
    /// Lower bound, 12 bits, 10 ms each.
    pub min: u16,
    /// Upper bound, 12 bits, 10 ms each.
    pub max: u16,
}

/// Where a long extension value lies in the packet it was parsed from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValuePlace {
    /// First byte, counted from the start of the packet.
    pub start: u16,
    /// Length in bytes.
    pub length: u8,
}

/// The known extensions of one packet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtensionValues {
    /// Which m-line the packet belongs to (RFC 8843 section 15).
    pub mid: Option<ShortText>,
    /// Which encoding the packet belongs to (RFC 8852).
    pub rid: Option<ShortText>,
    /// Which encoding a retransmission repairs (RFC 8852).
    pub repaired_rid: Option<ShortText>,
    /// Loudness (RFC 6464).
    pub audio_level: Option<AudioLevel>,
    /// Transport-wide sequence number (transport-wide congestion control draft).
    pub transport_cc: Option<u16>,
    /// 24-bit send time, 6.18 fixed-point seconds.
    pub abs_send_time: Option<u32>,
    /// Capture time, 8 or 16 raw bytes.
    pub abs_capture_time: Option<RawValue>,
    /// Place of the AV1 dependency descriptor in the parsed packet; not written by [`Self::write`].
    pub dependency_descriptor: Option<ValuePlace>,
    /// Playout delay bounds.
    pub playout_delay: Option<PlayoutDelay>,
    /// Coordination of video orientation, raw byte (3GPP TS 26.114).
    pub video_orientation: Option<u8>,
}

impl ShortText {
    /// Longest text held: what the one-byte form of RFC 8285 can carry.
    pub const CAPACITY: usize = 16;

    /// The text, or none if it is empty, too long or not UTF-8.
    pub fn new(text: &[u8]) -> Option<Self> {
        if text.is_empty() || text.len() > Self::CAPACITY || std::str::from_utf8(text).is_err() {
            return None;
        }
        let mut bytes = [0; Self::CAPACITY];
        bytes[..text.len()].copy_from_slice(text);
        Some(Self {
            length: text.len() as u8,
            bytes,
        })
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // `new` admitted UTF-8 only, so the fallback is never taken.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Debug for ShortText {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(formatter)
    }
}

impl RawValue {
    /// The value, or none if it is empty or longer than 16 bytes.
    pub fn new(value: &[u8]) -> Option<Self> {
        if value.is_empty() || value.len() > 16 {
            return None;
        }
        let mut bytes = [0; 16];
        bytes[..value.len()].copy_from_slice(value);
        Some(Self {
            length: value.len() as u8,
            bytes,
        })
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl ValuePlace {
    /// The value within the packet it was parsed from; empty if the packet is another, shorter one.
    pub fn slice<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        let start = usize::from(self.start);
        packet
            .get(start..start + usize::from(self.length))
            .unwrap_or_default()
    }
}

impl ExtensionValues {
    /// Reads the extension block `block` (the bytes after the profile and length words) of form `profile`, which
    /// starts at byte `offset` of its packet. A value of a wrong size is ignored; a block whose elements do not add
    /// up is an error. Forms other than those of RFC 8285 are skipped.
    pub(super) fn parse(
        profile: u16,
        block: &[u8],
        offset: usize,
        ids: &ExtensionIds,
    ) -> Result<Self, ParseError> {
        let mut values = Self::default();
        walk(profile, block, |id, range| {
            values.set(ids, id, &block[range.clone()], offset + range.start)
        })?;
        Ok(values)
    }

    fn set(&mut self, ids: &ExtensionIds, id: u8, value: &[u8], start: usize) {
        if id == 0 {
            return;
        }
        // Ordered by how often they come: transport-cc on all, level on audio, the mid only at first.
        if id == ids.transport_cc {
            if let Ok(bytes) = value.try_into() {
                self.transport_cc = Some(u16::from_be_bytes(bytes));
            }
        } else if id == ids.abs_send_time {
            if let [a, b, c] = *value {
                self.abs_send_time = Some(u32::from_be_bytes([0, a, b, c]));
            }
        } else if id == ids.audio_level {
            // One byte by the RFC; a two-byte form element may be padded, so only the first counts.
            if let Some(&byte) = value.first() {
                self.audio_level = Some(AudioLevel {
                    voice: byte & 0x80 != 0,
                    level: byte & 0x7f,
                });
            }
        } else if id == ids.dependency_descriptor {
            if let (Ok(start), Ok(length)) = (u16::try_from(start), u8::try_from(value.len())) {
                self.dependency_descriptor = Some(ValuePlace { start, length });
            }
        } else if id == ids.mid {
            self.mid = ShortText::new(value);
        } else if id == ids.rid {
            self.rid = ShortText::new(value);
        } else if id == ids.repaired_rid {
            self.repaired_rid = ShortText::new(value);
        } else if id == ids.video_orientation {
            if let [byte] = *value {
                self.video_orientation = Some(byte);
            }
        } else if id == ids.playout_delay {
            if let [a, b, c] = *value {
                self.playout_delay = Some(PlayoutDelay {
                    min: u16::from(a) << 4 | u16::from(b) >> 4,
                    max: u16::from(b & 0x0f) << 8 | u16::from(c),
                });
            }
        } else if id == ids.abs_capture_time && (value.len() == 8 || value.len() == 16) {
            self.abs_capture_time = RawValue::new(value);
        }
    }

    /// Appends the whole extension block (profile and length words included) to `out`, or nothing if no value has
    /// an identifier. `descriptor` is the dependency descriptor to send, empty for none. The one-byte form is used
    /// unless an identifier or a value does not fit it. Returns the number of bytes appended.
    pub fn write(&self, out: &mut Vec<u8>, ids: &ExtensionIds, descriptor: &[u8]) -> usize {
        let start = out.len();
        let mut two_byte = false;
        let mut any = false;
        self.for_each(ids, descriptor, |id, value| {
            any = true;
            two_byte |= id > 14 || value.is_empty() || value.len() > 16;
        });
        if !any {
            return 0;
        }
        let profile = if two_byte {
            TWO_BYTE_PROFILE
        } else {
            ONE_BYTE_PROFILE
        };
        out.extend_from_slice(&profile.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        self.for_each(ids, descriptor, |id, value| {
            if two_byte {
                out.extend_from_slice(&[id, value.len() as u8]);
            } else {
                out.push(id << 4 | (value.len() - 1) as u8);
            }
            out.extend_from_slice(value);
        });
        while !(out.len() - start).is_multiple_of(4) {
            out.push(0);
        }
        let words = ((out.len() - start) / 4 - 1) as u16;
        out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
        out.len() - start
    }

    fn for_each(&self, ids: &ExtensionIds, descriptor: &[u8], mut element: impl FnMut(u8, &[u8])) {
        let mut emit = |id: u8, value: &[u8]| {
            if id != 0 && value.len() <= 255 {
                element(id, value);
            }
        };
        if let Some(sequence) = self.transport_cc {
            emit(ids.transport_cc, &sequence.to_be_bytes());
        }
        if let Some(time) = self.abs_send_time {
            emit(ids.abs_send_time, &time.to_be_bytes()[1..]);
        }
        if let Some(AudioLevel { voice, level }) = self.audio_level {
            emit(ids.audio_level, &[u8::from(voice) << 7 | level & 0x7f]);
        }
        if let Some(mid) = &self.mid {
            emit(ids.mid, mid.as_bytes());
        }
        if let Some(rid) = &self.rid {
            emit(ids.rid, rid.as_bytes());
        }
        if let Some(rid) = &self.repaired_rid {
            emit(ids.repaired_rid, rid.as_bytes());
        }
        if let Some(orientation) = self.video_orientation {
            emit(ids.video_orientation, &[orientation]);
        }
        if let Some(PlayoutDelay { min, max }) = self.playout_delay {
            let (min, max) = (min.min(0xfff), max.min(0xfff));
            emit(
                ids.playout_delay,
                &[
                    (min >> 4) as u8,
                    (min << 4) as u8 | (max >> 8) as u8,
                    max as u8,
                ],
            );
        }
        if let Some(time) = &self.abs_capture_time {
            emit(ids.abs_capture_time, time.as_bytes());
        }
        if !descriptor.is_empty() {
            emit(ids.dependency_descriptor, descriptor);
        }
    }
}

/// Profile word of the one-byte form (RFC 8285 section 4.2).
const ONE_BYTE_PROFILE: u16 = 0xbede;
/// Profile word of the two-byte form (RFC 8285 section 4.3); its low four bits are the application's.
const TWO_BYTE_PROFILE: u16 = 0x1000;

/// Calls `element` with the identifier and place in `block` of each element.
pub(super) fn walk(
    profile: u16,
    block: &[u8],
    mut element: impl FnMut(u8, Range<usize>),
) -> Result<(), ParseError> {
    let one_byte = profile == ONE_BYTE_PROFILE;
    if !one_byte && profile & 0xfff0 != TWO_BYTE_PROFILE {
        return Ok(());
    }
    let mut at = 0;
    while let Some(&first) = block.get(at) {
        at += 1;
        if first == 0 {
            continue;
        }
        let (id, length) = if one_byte {
            if first >> 4 == 15 {
                // Reserved: everything after it is to be ignored (RFC 8285 section 4.2).
                return Ok(());
            }
            (first >> 4, usize::from(first & 0x0f) + 1)
        } else {
            let length = *block.get(at).ok_or(ParseError::Extension)?;
            at += 1;
            (first, usize::from(length))
        };
        if block.len() - at < length {
            return Err(ParseError::Extension);
        }
        element(id, at..at + length);
        at += length;
    }
    Ok(())
}
