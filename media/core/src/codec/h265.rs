//! H.265 payloads (RFC 7798): which NAL units begin in a packet.

const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;

/// Whether a picture that random access may start at (types 16 to 23), or a video or sequence parameter set (32, 33)
/// begins in the packet: alone, aggregated, or as the first fragment. Without DONL fields, which WebRTC does not use.
pub fn is_keyframe(payload: &[u8]) -> bool {
    let starts = |kind: u8| matches!(kind, 16..=23 | 32 | 33);
    let [first, _, rest @ ..] = payload else {
        return false;
    };
    match first >> 1 & 0x3f {
        AGGREGATION => Aggregated(rest).any(starts),
        FRAGMENTATION => rest
            .first()
            .is_some_and(|header| header & 0x80 != 0 && starts(header & 0x3f)),
        kind => starts(kind),
    }
}

/// The types of the units of an aggregation packet, up to where it is malformed.
struct Aggregated<'a>(&'a [u8]);

impl Iterator for Aggregated<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (unit, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        self.0 = rest;
        unit.first().map(|first| first >> 1 & 0x3f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyframes_are_found_in_every_packet_form() {
        let keyframes: &[&[u8]] = &[
            &[19 << 1, 1, 9],
            &[33 << 1, 1],
            &[48 << 1, 1, 0, 2, 35 << 1, 1, 0, 2, 32 << 1, 1],
            &[49 << 1, 1, 0x80 | 20, 9],
        ];
        for payload in keyframes {
            assert!(is_keyframe(payload), "{payload:02x?}");
        }
        let others: &[&[u8]] = &[
            &[],
            &[19 << 1],
            &[1 << 1, 1],
            &[48 << 1, 1, 0, 9, 19 << 1],
            &[49 << 1, 1],
            &[49 << 1, 1, 20],
        ];
        for payload in others {
            assert!(!is_keyframe(payload), "{payload:02x?}");
        }
    }
}
