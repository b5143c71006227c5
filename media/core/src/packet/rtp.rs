//! The RTP header (RFC 3550 section 5.1) with its extensions (RFC 8285), read and written.
//!
//! Not here: SRTP, sequence unwrapping, payload formats.

use super::extensions::{self, ExtensionIds, ExtensionValues};
use super::{ParseError, read_u16, read_u32};

/// Bytes before the contributing sources.
pub const FIXED_HEADER_LEN: usize = 12;

/// An RTP header. Contributing sources are skipped when reading and never written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RtpHeader {
    /// The marker bit: last packet of a picture, or first of a talk spurt.
    pub marker: bool,
    /// Payload type, 7 bits.
    pub payload_type: u8,
    /// Sequence number as sent, 16 bits.
    pub sequence: u16,
    /// Media clock of the payload.
    pub timestamp: u32,
    /// Synchronization source.
    pub ssrc: u32,
    /// Length of the header in the parsed packet, with contributing sources and extensions, in bytes.
    pub header_len: usize,
    /// The padding bit. While the packet is encrypted only this is known; see [`Self::read_padding`].
    pub padded: bool,
    /// Bytes of padding at the packet's end with the count byte, 0 until [`Self::read_padding`]. When writing,
    /// more than 0 sets the padding bit and the caller appends the padding.
    pub padding_len: usize,
    /// The extensions known to the session.
    pub extensions: ExtensionValues,
}

impl RtpHeader {
    /// Reads the header of `packet`, which may still be encrypted: the payload and padding are not looked at.
    ///
    /// # Errors
    /// If the version is not 2 or the header does not fit the packet.
    pub fn parse(packet: &[u8], ids: &ExtensionIds) -> Result<Self, ParseError> {
        let fixed: &[u8; FIXED_HEADER_LEN] = packet.first_chunk().ok_or(ParseError::Truncated)?;
        if fixed[0] >> 6 != 2 {
            return Err(ParseError::Version);
        }
        let mut header = Self {
            marker: fixed[1] & 0x80 != 0,
            payload_type: fixed[1] & 0x7f,
            sequence: u16::from_be_bytes([fixed[2], fixed[3]]),
            timestamp: u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            ssrc: u32::from_be_bytes([fixed[8], fixed[9], fixed[10], fixed[11]]),
            header_len: FIXED_HEADER_LEN + 4 * usize::from(fixed[0] & 0x0f),
            padded: fixed[0] & 0x20 != 0,
            padding_len: 0,
            extensions: ExtensionValues::default(),
        };
        if fixed[0] & 0x10 != 0 {
            let profile = read_u16(packet, header.header_len).ok_or(ParseError::Truncated)?;
            let words = read_u16(packet, header.header_len + 2).ok_or(ParseError::Truncated)?;
            let start = header.header_len + 4;
            let block = packet
                .get(start..start + 4 * usize::from(words))
                .ok_or(ParseError::Extension)?;
            header.extensions = ExtensionValues::parse(profile, block, start, ids)?;
            header.header_len = start + block.len();
        }
        if packet.len() < header.header_len {
            return Err(ParseError::Truncated);
        }
        Ok(header)
    }

    /// Reads how much padding the decrypted `packet` ends with, and returns the length of its payload without it.
    ///
    /// # Errors
    /// If the count is 0 or longer than what follows the header.
    pub fn read_padding(&mut self, packet: &[u8]) -> Result<usize, ParseError> {
        let body = packet.get(self.header_len..).ok_or(ParseError::Truncated)?;
        self.padding_len = 0;
        if self.padded {
            let count = usize::from(*body.last().ok_or(ParseError::Padding)?);
            if count == 0 || count > body.len() {
                return Err(ParseError::Padding);
            }
            self.padding_len = count;
        }
        Ok(body.len() - self.padding_len)
    }

    /// Appends the header to `out` and returns its length. No dependency descriptor is written; see
    /// [`Self::write_with_descriptor`].
    pub fn write(&self, out: &mut Vec<u8>, ids: &ExtensionIds) -> usize {
        self.write_with_descriptor(out, ids, &[])
    }

    /// Appends the header to `out` with `descriptor` as its dependency descriptor (empty for none; at most 255
    /// bytes, else left out) and returns its length.
    pub fn write_with_descriptor(
        &self,
        out: &mut Vec<u8>,
        ids: &ExtensionIds,
        descriptor: &[u8],
    ) -> usize {
        let start = out.len();
        let mut fixed = [0; FIXED_HEADER_LEN];
        fixed[0] = 0x80 | u8::from(self.padding_len > 0) << 5;
        fixed[1] = u8::from(self.marker) << 7 | self.payload_type & 0x7f;
        fixed[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        fixed[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        fixed[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        out.extend_from_slice(&fixed);
        if self.extensions.write(out, ids, descriptor) > 0 {
            out[start] |= 0x10;
        }
        out.len() - start
    }
}

/// The synchronization source of an RTP packet, without parsing the rest; none if it is too short.
pub fn peek_ssrc(packet: &[u8]) -> Option<u32> {
    read_u32(packet, 8)
}

/// The sequence number of an RTP packet, without parsing the rest; none if it is too short.
pub fn peek_sequence(packet: &[u8]) -> Option<u16> {
    read_u16(packet, 2)
}

/// Whether a packet of version 2 is RTCP rather than RTP, by its second byte (RFC 5761 section 4).
pub fn is_rtcp(packet: &[u8]) -> bool {
    matches!(packet, [first, 192..=223, ..] if first >> 6 == 2)
}

/// The place in `packet` of the value of extension `id`, for overwriting it; none if absent or malformed.
pub fn extension_place(packet: &[u8], id: u8) -> Option<std::ops::Range<usize>> {
    let first = *packet.first()?;
    if first & 0x10 == 0 || id == 0 {
        return None;
    }
    let at = FIXED_HEADER_LEN + 4 * usize::from(first & 0x0f);
    let (profile, words) = (read_u16(packet, at)?, read_u16(packet, at + 2)?);
    let start = at + 4;
    let block = packet.get(start..start + 4 * usize::from(words))?;
    let mut place = None;
    extensions::walk(profile, block, |found, range| {
        if found == id && place.is_none() {
            place = Some(start + range.start..start + range.end);
        }
    })
    .ok()?;
    place
}

#[cfg(test)]
mod tests {
    use super::super::extensions::{AudioLevel, PlayoutDelay, RawValue, ShortText};
    use super::*;

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

    fn full() -> RtpHeader {
        RtpHeader {
            marker: true,
            payload_type: 96,
            sequence: 0xfffe,
            timestamp: 0x0102_0304,
            ssrc: 0xdead_beef,
            extensions: ExtensionValues {
                mid: ShortText::new(b"0"),
                rid: ShortText::new(b"f"),
                repaired_rid: ShortText::new(b"h"),
                audio_level: Some(AudioLevel {
                    voice: true,
                    level: 127,
                }),
                transport_cc: Some(0xabcd),
                abs_send_time: Some(0x00ff_0102),
                abs_capture_time: RawValue::new(&[7; 8]),
                dependency_descriptor: None,
                playout_delay: Some(PlayoutDelay {
                    min: 0xabc,
                    max: 0xdef,
                }),
                video_orientation: Some(3),
            },
            ..RtpHeader::default()
        }
    }

    fn reparsed(header: &RtpHeader, descriptor: &[u8], ids: &ExtensionIds) -> (Vec<u8>, RtpHeader) {
        let mut out = vec![9, 9];
        let length = header.write_with_descriptor(&mut out, ids, descriptor);
        let packet = out.split_off(2);
        assert_eq!(packet.len(), length);
        let parsed = RtpHeader::parse(&packet, ids).expect("own header parses");
        assert_eq!(parsed.header_len, length);
        (packet, parsed)
    }

    #[test]
    fn header_without_extensions_is_twelve_bytes() {
        let header = RtpHeader {
            extensions: ExtensionValues::default(),
            ..full()
        };
        let (packet, parsed) = reparsed(&header, &[], &IDS);
        assert_eq!(packet.len(), 12);
        assert_eq!(
            parsed,
            RtpHeader {
                header_len: 12,
                ..header
            }
        );
    }

    #[test]
    fn one_byte_form_round_trips_every_extension() {
        let (packet, parsed) = reparsed(&full(), &[], &IDS);
        assert_eq!(packet[12..14], [0xbe, 0xde]);
        assert_eq!(
            parsed,
            RtpHeader {
                header_len: packet.len(),
                ..full()
            }
        );
    }

    #[test]
    fn long_descriptor_switches_to_the_two_byte_form() {
        let descriptor: Vec<u8> = (0..40).collect();
        let (packet, parsed) = reparsed(&full(), &descriptor, &IDS);
        assert_eq!(packet[12..14], [0x10, 0x00]);
        let place = parsed
            .extensions
            .dependency_descriptor
            .expect("descriptor present");
        assert_eq!(place.slice(&packet), &descriptor[..]);
        assert_eq!(parsed.extensions.mid, full().extensions.mid);
        assert_eq!(parsed.extensions.transport_cc, Some(0xabcd));
    }

    #[test]
    fn identifier_over_fourteen_switches_to_the_two_byte_form() {
        let ids = ExtensionIds {
            transport_cc: 200,
            ..IDS
        };
        let (packet, parsed) = reparsed(&full(), &[], &ids);
        assert_eq!(packet[12..14], [0x10, 0x00]);
        assert_eq!(parsed.extensions, full().extensions);
    }

    #[test]
    fn values_without_identifier_are_not_written() {
        let (packet, parsed) = reparsed(&full(), &[1], &ExtensionIds::default());
        assert_eq!(packet.len(), 12);
        assert_eq!(parsed.extensions, ExtensionValues::default());
    }

    #[test]
    fn contributing_sources_are_skipped() {
        let mut packet = vec![0x82, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3];
        packet.extend_from_slice(&[0xee; 8]);
        packet.push(42);
        let header = RtpHeader::parse(&packet, &IDS).expect("parses");
        assert_eq!(header.header_len, 20);
        assert_eq!(packet[header.header_len..], [42]);
    }

    #[test]
    fn padding_is_read_after_decryption() {
        let mut packet = vec![0xa0, 96, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 1, 2, 0, 0, 3];
        let mut header = RtpHeader::parse(&packet, &IDS).expect("parses");
        assert_eq!(header.read_padding(&packet), Ok(2));
        assert_eq!(header.padding_len, 3);
        for count in [0, 6] {
            *packet.last_mut().expect("not empty") = count;
            assert_eq!(header.read_padding(&packet), Err(ParseError::Padding));
        }
        assert_eq!(header.read_padding(&packet[..12]), Err(ParseError::Padding));
    }

    #[test]
    fn malformed_headers_are_refused() {
        let cases: &[(&[u8], ParseError)] = &[
            (&[], ParseError::Truncated),
            (&[0x80; 11], ParseError::Truncated),
            (&[0x40; 12], ParseError::Version),
            (
                &[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                ParseError::Truncated,
            ),
            (
                &[0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0],
                ParseError::Truncated,
            ),
            (
                &[0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0, 1],
                ParseError::Extension,
            ),
            (
                &[
                    0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0, 1, 0x13, 0, 0, 0,
                ],
                ParseError::Extension,
            ),
            (
                &[
                    0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 0, 0, 0, 1,
                ],
                ParseError::Extension,
            ),
            (
                &[
                    0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 1, 1, 3, 0, 0,
                ],
                ParseError::Extension,
            ),
        ];
        for (packet, error) in cases {
            assert_eq!(RtpHeader::parse(packet, &IDS), Err(*error), "{packet:02x?}");
        }
    }

    #[test]
    fn unknown_profile_and_reserved_identifier_are_skipped() {
        let unknown = [
            0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 1, 0x51, 1, 2, 0,
        ];
        let header = RtpHeader::parse(&unknown, &IDS).expect("parses");
        assert_eq!(
            (header.extensions, header.header_len),
            (ExtensionValues::default(), 20)
        );
        let reserved = [
            0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xbe, 0xde, 0, 2, 0x51, 1, 2, 0xf0, 0xaf, 0, 0,
            0,
        ];
        let header = RtpHeader::parse(&reserved, &IDS).expect("parses");
        assert_eq!(
            (header.extensions.transport_cc, header.header_len),
            (Some(0x0102), 24)
        );
    }

    #[test]
    fn extension_place_allows_overwriting() {
        let (mut packet, _) = reparsed(&full(), &[], &IDS);
        let place = extension_place(&packet, IDS.transport_cc).expect("present");
        packet[place].copy_from_slice(&[0x11, 0x22]);
        let parsed = RtpHeader::parse(&packet, &IDS).expect("parses");
        assert_eq!(parsed.extensions.transport_cc, Some(0x1122));
        assert_eq!(extension_place(&packet, 13), None);
    }

    #[test]
    fn rtcp_is_told_from_rtp_by_the_second_byte() {
        assert!(is_rtcp(&[0x80, 200, 0, 0]));
        assert!(is_rtcp(&[0x81, 206, 0, 0]));
        assert!(!is_rtcp(&[0x80, 96]));
        assert!(!is_rtcp(&[0x80, 0x80 | 111]));
        assert!(!is_rtcp(&[0x00, 200]));
        assert!(!is_rtcp(&[0x80]));
    }
}
